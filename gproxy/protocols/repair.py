"""What vendors insist on and clients leave out: pairs of calls and results, a user's first turn, legal ids."""

import hashlib
import re
from collections import deque
from dataclasses import replace

from gproxy.errors import BadRequest
from gproxy.protocols.hub import Block, Request, Text, Tool, ToolCall, ToolResult, Turn
from gproxy.protocols.losses import Losses

PLACEHOLDER_TOOL = "tool_use_placeholder"
NO_RESULT = "The result of this call is not available."
FIRST_USER_TEXT, LAST_USER_TEXT = ".", "Go on."


def merge_turns(turns: list[Turn]) -> tuple[Turn, ...]:
    """Neighbouring turns of one role as one, without empty texts and empty turns."""
    out: list[tuple[str, list[Block]]] = []
    for turn in turns:
        blocks = [block for block in turn.blocks if not (isinstance(block, Text) and not block.text.strip())]
        if not blocks:
            continue
        if out and out[-1][0] == turn.role:
            out[-1][1].extend(blocks)
        else:
            out.append((turn.role, blocks))
    return tuple(Turn(role, tuple(blocks)) for role, blocks in out)


def pair_results(turns: tuple[Turn, ...], losses: Losses) -> tuple[Turn, ...]:
    """Every result directly behind its call and before any text, every call with one result.

    A result without its call gets a placeholder for it, a call without its result a text that says so.
    """
    turns = _unique(turns)
    out: list[Turn] = []
    held: list[Turn] = []  # system turns that stand between calls and their results
    waiting: dict[str, ToolCall] = {}
    for turn in turns:
        if turn.role == "assistant":
            if waiting:
                out.append(Turn("user", _answers(waiting, (), losses)))
            out += (*held, turn)
            held = []
            waiting = {block.id: block for block in turn.blocks if isinstance(block, ToolCall)}
        elif turn.role == "user":
            results = [block for block in turn.blocks if isinstance(block, ToolResult)]
            if results or waiting:
                _with_calls(out, [result for result in results if result.call_id not in waiting], losses)
                out.append(Turn("user", _answers(waiting, results, losses)))
                turn = Turn("user", tuple(block for block in turn.blocks if not isinstance(block, ToolResult)))
            out += (*held, turn)
            held, waiting = [], {}
        elif waiting:
            held.append(turn)
        else:
            out.append(turn)
    if waiting:
        out.append(Turn("user", _answers(waiting, (), losses)))
    return merge_turns([*out, *held])


def _unique(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Ids that some models use again in every turn, told apart; results follow their calls.

    A result that comes late, when its call has had its answer, has an id of its own: it will get another call.
    """
    seen: set[str] = set()
    numbers: dict[str, int] = {}  # of an id that is used again, the last one given
    out = []
    newest: dict[str, deque[str]] = {}  # id -> what its latest calls are named now

    def fresh(given: str) -> str:
        found = given
        while found in seen:
            numbers[given] = numbers.get(given, 1) + 1
            found = f"{given}_{numbers[given]}"
        seen.add(found)
        newest.setdefault(given, deque()).append(found)
        return found

    for turn in turns:
        blocks = []
        if turn.role == "assistant":
            newest.clear()
        for block in turn.blocks:
            if isinstance(block, ToolCall):
                block = replace(block, id=fresh(block.id))
            elif isinstance(block, ToolResult):
                if block.call_id not in newest:
                    fresh(block.call_id)
                queue = newest[block.call_id]
                block = replace(block, call_id=queue.popleft() if len(queue) > 1 else queue[0])
            blocks.append(block)
        if turn.role == "user":
            newest.clear()
        out.append(Turn(turn.role, tuple(blocks)))
    return tuple(out)


def _with_calls(out: list[Turn], orphans: list[ToolResult], losses: Losses) -> None:
    """Adds a call for each result that has none to the assistant's turn before it."""
    known = dict.fromkeys(result.call_id for result in orphans)
    if not known:
        return
    losses.lose("tool_result")
    calls: tuple[Block, ...] = tuple(ToolCall(call_id, PLACEHOLDER_TOOL, "{}") for call_id in known)
    if out and out[-1].role == "assistant":
        out[-1] = Turn("assistant", out[-1].blocks + calls)
    else:
        out.append(Turn("assistant", calls))


def _answers(waiting: dict[str, ToolCall], results, losses: Losses) -> tuple[Block, ...]:
    """One result a call, in the order in which the results came."""
    found = {result.call_id: _of(result, waiting) for result in results}
    if len(found) < len(results):
        losses.lose("tool_result")
    missing = [call for call in waiting.values() if call.id not in found]
    if missing:
        losses.lose("tool_result")
    unknown = tuple(
        ToolResult(call.id, (Text(NO_RESULT),), is_error=True, is_custom=call.is_custom, name=call.name)
        for call in missing
    )
    return (*found.values(), *unknown)


def _of(result: ToolResult, waiting: dict[str, ToolCall]) -> ToolResult:
    """A result says what kind of call it answers."""
    call = waiting.get(result.call_id)
    return replace(result, is_custom=call.is_custom, name=result.name or call.name) if call else result


def start_with_user(turns: tuple[Turn, ...], has_system: bool, losses: Losses) -> tuple[Turn, ...]:
    """A conversation that the user begins. Raises BadRequest when nothing at all is said."""
    if not turns and not has_system:
        raise BadRequest(f"{losses.wire_name('turns')}: at least one message is needed")
    if turns and turns[0].role == "user":
        return turns
    losses.lose("turns")
    return (Turn("user", (Text(FIRST_USER_TEXT),)), *turns)


def end_with_user(turns: tuple[Turn, ...], losses: Losses) -> tuple[Turn, ...]:
    """A conversation in which the user speaks last."""
    if turns[-1].role == "user":
        return turns
    losses.lose("turns")
    return (*turns, Turn("user", (Text(LAST_USER_TEXT),)))


def without_system(turns: tuple[Turn, ...], losses: Losses) -> tuple[Turn, ...]:
    """Later system turns as the user's, for vendors that know none."""
    if not any(turn.role == "system" for turn in turns):
        return turns
    losses.lose("system_turn")
    return merge_turns([replace(turn, role="user") if turn.role == "system" else turn for turn in turns])


def legal_names(request: Request, legal: re.Pattern, maximum: int) -> tuple[Request, dict[str, str]]:
    """The request with tools' names that the vendor takes, and the given name of each that was changed."""
    calls = {b.name for turn in request.turns for b in turn.blocks if isinstance(b, ToolCall)}
    given = {tool.name for tool in request.functions} | calls
    named = {name: found for name in given if (found := legal_id(name, legal, maximum)) != name}
    if not named:
        return request, {}

    def block_named(block: Block) -> Block:
        is_named = isinstance(block, ToolCall | ToolResult) and block.name in named
        return replace(block, name=named[block.name]) if is_named else block

    turns = tuple(replace(turn, blocks=tuple(map(block_named, turn.blocks))) for turn in request.turns)
    tools = tuple(
        replace(tool, name=named.get(tool.name, tool.name)) if isinstance(tool, Tool) else tool
        for tool in request.tools
    )
    choice = request.choice
    if choice is not None and choice.names:
        choice = replace(choice, names=tuple(named.get(name, name) for name in choice.names))
    changed = replace(request, turns=turns, tools=tools, choice=choice)
    return changed, {found: name for name, found in named.items()}


def legal_id(given: str, legal: re.Pattern, maximum: int) -> str:
    """An id that the vendor takes; the same one for the same id, so that later turns agree."""
    if len(given) <= maximum and legal.fullmatch(given):
        return given
    kept = re.sub(r"[^A-Za-z0-9]+", "_", given).strip("_")[: maximum - 14] or "call"
    return f"{kept}_{hashlib.blake2b(given.encode(), digest_size=6).hexdigest()}"
