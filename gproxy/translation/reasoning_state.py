"""What a vendor wants back with a tool call's result and its client could not carry, kept between two turns.

A client of another protocol echoes an envelope where its own protocol has a field for one. Where it does not, the
values are found again by the user and the id of the turn's first call. Some models repeat their ids in every
conversation, so a digest of that call is kept beside them and must fit.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import orjson

from gproxy.protocols.hub import (
    Block,
    Close,
    Delta,
    Event,
    Finish,
    Open,
    Reply,
    Request,
    Signature,
    Signed,
    TextBuffer,
    Thinking,
    ToolCall,
    Turn,
)

Keep = Callable[[str, bytes], object]
Find = Callable[[str], bytes | None]


def whose_response(find: Find, provider: int, response_id: str) -> int | None:
    """The credential under which the vendor keeps a response, where this machine has seen it made."""
    found = find(f"response:{provider}:{response_id}")
    return None if found is None else int(found)


def keep_response(put: Keep, provider: int, response_id: str, credential: int) -> None:
    put(f"response:{provider}:{response_id}", b"%d" % credential)


def keep(reply: Reply, put: Keep) -> None:
    """Keeps what belongs to a whole reply's calls."""
    for answer in reply.answers:
        _keep(answer.blocks, put)


def _keep(blocks: Iterable[Block], put: Keep) -> None:
    blocks = tuple(blocks)
    calls = [block for block in blocks if isinstance(block, ToolCall)]
    # Each with its place among the blocks: a vendor wants its thinking back where it stood.
    thoughts = [
        [at, block.text, block.signature.value]
        for at, block in enumerate(blocks)
        if isinstance(block, Thinking) and block.signature
    ]
    signed = {call.id: call.signature.value for call in calls if call.signature}
    if not calls or not (thoughts or signed):
        return
    origin = next(block.signature.origin for block in blocks if getattr(block, "signature", None))
    kept = {"o": origin, "d": _digest(calls[0]), "t": thoughts, "c": signed}
    put(calls[0].id, orjson.dumps(kept))


def _digest(call: ToolCall) -> str:
    """Of what was called, however its JSON is written by now."""
    try:
        arguments = orjson.dumps(orjson.loads(call.arguments), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        arguments = call.arguments.encode("utf-8", "replace")
    return hashlib.blake2b(call.name.encode("utf-8", "replace") + b"\0" + arguments, digest_size=8).hexdigest()


def keeping(events: Iterable[Event | None], put: Keep) -> Iterator[Event | None]:
    """The same events; what belongs to their calls is kept before the choice that makes them is told as over."""
    choices: dict[int, int] = {}
    blocks: dict[int, Block] = {}
    texts: dict[int, TextBuffer] = {}
    for event in events:
        match event:
            case Delta(index, text) if index in texts:
                texts[index].add(text)
            case Open(index, block, choice):
                choices[index], blocks[index] = choice, block
                if isinstance(block, Thinking | ToolCall):
                    texts[index] = TextBuffer()
            case Signed(index, signature):
                blocks[index] = replace(blocks[index], signature=signature)
            case Close(index) if index in texts:
                text = str(texts.pop(index))
                field = "text" if isinstance(blocks[index], Thinking) else "arguments"
                blocks[index] = replace(blocks[index], **{field: text})
            case Finish(choice=choice):
                _keep((block for index, block in sorted(blocks.items()) if choices[index] == choice), put)
        yield event


def recalled(request: Request, provider: str, find: Find) -> Request:
    """The request with what its client did not bring back for this provider."""
    turns = tuple(_recalled(turn, provider, find) for turn in request.turns)
    return request if turns == request.turns else replace(request, turns=turns)


def _recalled(turn: Turn, provider: str, find: Find) -> Turn:
    calls = [block for block in turn.blocks if isinstance(block, ToolCall)]
    if turn.role != "assistant" or not calls or any(_is_own(block, provider) for block in turn.blocks):
        return turn
    found = find(calls[0].id)
    kept = orjson.loads(found) if found is not None else {}
    if kept.get("o") != provider or kept.get("d") != _digest(calls[0]):
        return turn
    blocks = [
        _signed(block, provider, kept["c"]) for block in turn.blocks if not (kept["t"] and isinstance(block, Thinking))
    ]
    for at, text, value in kept["t"]:
        blocks.insert(at, Thinking(text, Signature(provider, value)))
    return Turn("assistant", tuple(blocks))


def _signed(block: Block, provider: str, kept: dict[str, str]) -> Block:
    if isinstance(block, ToolCall) and block.id in kept:
        return replace(block, signature=Signature(provider, kept[block.id]))
    return block


def _is_own(block: Block, provider: str) -> bool:
    signature = getattr(block, "signature", None)
    return signature is not None and signature.origin == provider
