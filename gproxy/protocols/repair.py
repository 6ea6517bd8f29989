"""Repairs what vendors require and clients omit: pairs of calls and results, a first user turn, valid ids."""

import hashlib
import re
from collections import deque
from dataclasses import replace

from gproxy.errors import BadRequest
from gproxy.protocols import hub
from gproxy.protocols.losses import Losses

PLACEHOLDER_TOOL = "tool_use_placeholder"
NO_RESULT = "The result of this call is not available."
FIRST_USER_TEXT, LAST_USER_TEXT = ".", "Go on."


def merge_turns(turns: list[hub.Turn]) -> tuple[hub.Turn, ...]:
    """Returns the turns with adjacent turns of one role merged, without blank texts and empty turns."""
    out: list[tuple[hub.Role, list[hub.Block]]] = []
    for turn in turns:
        blocks = [block for block in turn.blocks if not (isinstance(block, hub.Text) and not block.text.strip())]
        if not blocks:
            continue
        if out and out[-1][0] == turn.role:
            out[-1][1].extend(blocks)
        else:
            out.append((turn.role, blocks))
    return tuple(hub.Turn(role, tuple(blocks)) for role, blocks in out)


def pair_results(turns: tuple[hub.Turn, ...], losses: Losses) -> tuple[hub.Turn, ...]:
    """Returns turns in which each call has one result, directly after the call's turn and before any text.

    A result without a call gets a placeholder call, a call without a result gets NO_RESULT.
    """
    turns = _with_unique_ids(_without_misplaced(turns, losses))
    out: list[hub.Turn] = []
    delayed: list[hub.Turn] = []  # system turns between calls and their results
    waiting: dict[str, hub.ToolCall] = {}
    for turn in turns:
        if turn.role == "assistant":
            if waiting:
                out.append(hub.Turn("user", _results(waiting, (), losses)))
            out += (*delayed, turn)
            delayed = []
            waiting = {block.id: block for block in turn.blocks if isinstance(block, hub.ToolCall)}
        elif turn.role == "user":
            results = [block for block in turn.blocks if isinstance(block, hub.ToolResult)]
            if results or waiting:
                _add_placeholders(out, [result for result in results if result.call_id not in waiting], losses)
                out.append(hub.Turn("user", _results(waiting, results, losses)))
                turn = hub.Turn("user", tuple(block for block in turn.blocks if not isinstance(block, hub.ToolResult)))
            out += (*delayed, turn)
            delayed, waiting = [], {}
        elif waiting:
            delayed.append(turn)
        else:
            out.append(turn)
    if waiting:
        out.append(hub.Turn("user", _results(waiting, (), losses)))
    return merge_turns([*out, *delayed])


# Blocks that only the model writes, and those that it never writes.
_OF_MODEL = frozenset((hub.Refusal, hub.Thinking, hub.ToolCall))
_NOT_OF_MODEL = frozenset((hub.ToolResult,))


def _without_misplaced(turns: tuple[hub.Turn, ...], losses: Losses) -> tuple[hub.Turn, ...]:
    """Returns turns without blocks that no vendor accepts in a turn of this role. A refusal becomes text."""
    out = []
    for turn in turns:
        misplaced = _NOT_OF_MODEL if turn.role == "assistant" else _OF_MODEL
        if not misplaced.isdisjoint(map(type, turn.blocks)):
            kept = (_replaced(block, losses) if type(block) in misplaced else block for block in turn.blocks)
            turn = hub.Turn(turn.role, tuple(block for block in kept if block is not None))
        out.append(turn)
    return tuple(out)


def _replaced(block: hub.Block, losses: Losses) -> hub.Text | None:
    """Returns the text of a misplaced block, None for a block without a place."""
    match block:
        case hub.Refusal(text):
            losses.lose("refusal")
            return hub.Text(text)
        case hub.Thinking():
            losses.lose("thinking")
        case hub.ToolResult():
            losses.lose("tool_result")
        case _:
            losses.lose("turns")
    return None


def _with_unique_ids(turns: tuple[hub.Turn, ...]) -> tuple[hub.Turn, ...]:
    """Returns turns in which each call, with its result, has its own id: some models repeat ids in every turn.

    A late result, whose call already has a result, gets an id of its own, and later a placeholder call.
    """
    seen: set[str] = set()
    numbers: dict[str, int] = {}  # the last suffix of a repeated id
    out = []
    newest: dict[str, deque[str]] = {}  # id -> the new ids of its latest calls

    def fresh(call_id: str) -> str:
        unique = call_id
        while unique in seen:
            numbers[call_id] = numbers.get(call_id, 1) + 1
            unique = f"{call_id}_{numbers[call_id]}"
        seen.add(unique)
        newest.setdefault(call_id, deque()).append(unique)
        return unique

    for turn in turns:
        blocks = []
        if turn.role == "assistant":
            newest.clear()
        for block in turn.blocks:
            if isinstance(block, hub.ToolCall):
                block = replace(block, id=fresh(block.id))
            elif isinstance(block, hub.ToolResult):
                if block.call_id not in newest:
                    fresh(block.call_id)
                queue = newest[block.call_id]
                block = replace(block, call_id=queue.popleft() if len(queue) > 1 else queue[0])
            blocks.append(block)
        if turn.role == "user":
            newest.clear()
        out.append(hub.Turn(turn.role, tuple(blocks)))
    return tuple(out)


def _add_placeholders(out: list[hub.Turn], orphans: list[hub.ToolResult], losses: Losses) -> None:
    """Adds a call for each result without one to the preceding assistant turn."""
    call_ids = dict.fromkeys(result.call_id for result in orphans)
    if not call_ids:
        return
    losses.lose("tool_result")
    calls: tuple[hub.Block, ...] = tuple(hub.ToolCall(call_id, PLACEHOLDER_TOOL, "{}") for call_id in call_ids)
    if out and out[-1].role == "assistant":
        out[-1] = hub.Turn("assistant", out[-1].blocks + calls)
    else:
        out.append(hub.Turn("assistant", calls))


def _results(waiting: dict[str, hub.ToolCall], results, losses: Losses) -> tuple[hub.Block, ...]:
    """Returns one result per call, in the order of the results."""
    by_call = {result.call_id: _with_kind(result, waiting) for result in results}
    if len(by_call) < len(results):
        losses.lose("tool_result")
    missing = [call for call in waiting.values() if call.id not in by_call]
    if missing:
        losses.lose("tool_result")
    placeholders = tuple(
        hub.ToolResult(call.id, (hub.Text(NO_RESULT),), is_error=True, is_custom=call.is_custom, name=call.name)
        for call in missing
    )
    return (*by_call.values(), *placeholders)


def _with_kind(result: hub.ToolResult, waiting: dict[str, hub.ToolCall]) -> hub.ToolResult:
    """Returns the result with the kind and name of its call."""
    call = waiting.get(result.call_id)
    return replace(result, is_custom=call.is_custom, name=result.name or call.name) if call else result


def start_with_user(turns: tuple[hub.Turn, ...], has_system: bool, losses: Losses) -> tuple[hub.Turn, ...]:
    """Returns turns that begin with a user turn. Raises BadRequest when there are neither turns nor a system prompt."""
    if not turns and not has_system:
        raise BadRequest(f"{losses.wire_name('turns')}: at least one message is needed")
    if turns and turns[0].role == "user":
        return turns
    losses.lose("turns")
    return (hub.Turn("user", (hub.Text(FIRST_USER_TEXT),)), *turns)


def end_with_user(turns: tuple[hub.Turn, ...], losses: Losses) -> tuple[hub.Turn, ...]:
    """Returns turns that end with a user turn."""
    if turns[-1].role == "user":
        return turns
    losses.lose("turns")
    return (*turns, hub.Turn("user", (hub.Text(LAST_USER_TEXT),)))


def without_system(turns: tuple[hub.Turn, ...], losses: Losses) -> tuple[hub.Turn, ...]:
    """Returns the turns with system turns changed to user turns, for vendors without them."""
    if not any(turn.role == "system" for turn in turns):
        return turns
    losses.lose("system_turn")
    return merge_turns([replace(turn, role="user") if turn.role == "system" else turn for turn in turns])


def legal_names(request: hub.Request, legal: re.Pattern, maximum: int) -> tuple[hub.Request, dict[str, str]]:
    """Returns the request with tool names that the vendor accepts, and the original name of each changed one."""
    called = {b.name for turn in request.turns for b in turn.blocks if isinstance(b, hub.ToolCall)}
    originals = {tool.name for tool in request.functions} | called
    renamed = {name: new for name in originals if (new := legal_id(name, legal, maximum)) != name}
    if not renamed:
        return request, {}

    def with_new_name(block: hub.Block) -> hub.Block:
        if isinstance(block, hub.ToolCall | hub.ToolResult) and block.name is not None and block.name in renamed:
            return replace(block, name=renamed[block.name])
        return block

    turns = tuple(replace(turn, blocks=tuple(map(with_new_name, turn.blocks))) for turn in request.turns)
    tools = tuple(
        replace(tool, name=renamed.get(tool.name, tool.name)) if isinstance(tool, hub.Tool) else tool
        for tool in request.tools
    )
    choice = request.choice
    if choice is not None and choice.names:
        choice = replace(choice, names=tuple(renamed.get(name, name) for name in choice.names))
    changed = replace(request, turns=turns, tools=tools, choice=choice)
    return changed, {new: name for name, new in renamed.items()}


def legal_id(original: str, legal: re.Pattern, maximum: int) -> str:
    """Returns an id that the vendor accepts, always the same for one original id, so that later turns match."""
    if len(original) <= maximum and legal.fullmatch(original):
        return original
    prefix = re.sub(r"[^A-Za-z0-9]+", "_", original).strip("_")[: maximum - 14] or "call"
    return f"{prefix}_{hashlib.blake2b(original.encode(), digest_size=6).hexdigest()}"
