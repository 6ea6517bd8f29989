"""Stores reasoning state (thought signatures, encrypted items) that a vendor requires with a tool call's result.

A client of another protocol sends the state back, wrapped, if its protocol has a field for it. Otherwise the state is
stored by the user and the id of the turn's first call, and restored into the next request. Some models reuse their
call ids in every conversation, so a digest of that call is stored too and must match.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import orjson

from gproxy.protocols import hub

Put = Callable[[str, bytes], object]
Find = Callable[[str], bytes | None]


def find_response_credential(find: Find, provider: int, response_id: str) -> int | None:
    """Returns the id of the credential under which the vendor stored a response, or None if it is not known."""
    found = find(f"response:{provider}:{response_id}")
    return None if found is None else int(found)


def store_response_credential(put: Put, provider: int, response_id: str, credential: int) -> None:
    """Stores the id of the credential under which the vendor stored a response."""
    put(f"response:{provider}:{response_id}", b"%d" % credential)


def store_reply(reply: hub.Reply, put: Put) -> None:
    """Stores the reasoning state of a whole reply."""
    for answer in reply.answers:
        _store_blocks(answer.blocks, put)


def _store_blocks(blocks: Iterable[hub.Block], put: Put) -> None:
    blocks = tuple(blocks)
    calls = [block for block in blocks if isinstance(block, hub.ToolCall)]
    # Each with its position among the blocks, because a vendor requires its thinking at the same position.
    thinking = [
        [at, block.text, block.signature.value]
        for at, block in enumerate(blocks)
        if isinstance(block, hub.Thinking) and block.signature
    ]
    signatures = {call.id: call.signature.value for call in calls if call.signature}
    if not calls or not (thinking or signatures):
        return
    origin = next(block.signature.origin for block in blocks if getattr(block, "signature", None))
    state = {"o": origin, "d": _digest(calls[0]), "t": thinking, "c": signatures}
    put(calls[0].id, orjson.dumps(state))


def _digest(call: hub.ToolCall) -> str:
    """Returns a digest of a call's name and arguments that does not depend on how their JSON is written."""
    try:
        arguments = orjson.dumps(orjson.loads(call.arguments), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        arguments = call.arguments.encode("utf-8", "replace")
    return hashlib.blake2b(call.name.encode("utf-8", "replace") + b"\0" + arguments, digest_size=8).hexdigest()


def store_stream(events: Iterable[hub.Event | None], put: Put) -> Iterator[hub.Event | None]:
    """Yields the same events, and stores the reasoning state of a choice before its Finish event is yielded."""
    choices: dict[int, int] = {}
    blocks: dict[int, hub.Block] = {}
    texts: dict[int, hub.TextBuffer] = {}
    for event in events:
        match event:
            case hub.Delta(index, text) if index in texts:
                texts[index].add(text)
            case hub.Open(index, block, choice):
                choices[index], blocks[index] = choice, block
                if isinstance(block, hub.Thinking | hub.ToolCall):
                    texts[index] = hub.TextBuffer()
            case hub.Signed(index, signature):
                blocks[index] = replace(blocks[index], signature=signature)
            case hub.Close(index) if index in texts:
                text = str(texts.pop(index))
                field = "text" if isinstance(blocks[index], hub.Thinking) else "arguments"
                blocks[index] = replace(blocks[index], **{field: text})
            case hub.Finish(choice=choice):
                _store_blocks((block for index, block in sorted(blocks.items()) if choices[index] == choice), put)
        yield event


def restore(request: hub.Request, provider: str, find: Find) -> hub.Request:
    """Returns the request with the stored reasoning state of this provider that its client did not send back."""
    turns = tuple(_restore_turn(turn, provider, find) for turn in request.turns)
    return request if turns == request.turns else replace(request, turns=turns)


def _restore_turn(turn: hub.Turn, provider: str, find: Find) -> hub.Turn:
    calls = [block for block in turn.blocks if isinstance(block, hub.ToolCall)]
    if turn.role != "assistant" or not calls or any(_has_own_signature(block, provider) for block in turn.blocks):
        return turn
    found = find(calls[0].id)
    state = orjson.loads(found) if found is not None else {}
    if state.get("o") != provider or state.get("d") != _digest(calls[0]):
        return turn
    blocks = [
        _with_signature(block, provider, state["c"])
        for block in turn.blocks
        if not (state["t"] and isinstance(block, hub.Thinking))
    ]
    for at, text, value in state["t"]:
        blocks.insert(at, hub.Thinking(text, hub.Signature(provider, value)))
    return hub.Turn("assistant", tuple(blocks))


def _with_signature(block: hub.Block, provider: str, signatures: dict[str, str]) -> hub.Block:
    if isinstance(block, hub.ToolCall) and block.id in signatures:
        return replace(block, signature=hub.Signature(provider, signatures[block.id]))
    return block


def _has_own_signature(block: hub.Block, provider: str) -> bool:
    signature = getattr(block, "signature", None)
    return signature is not None and signature.origin == provider
