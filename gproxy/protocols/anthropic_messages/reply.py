"""Messages replies, whole and streamed, to and from the hub.

https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from collections.abc import Iterable, Iterator

import orjson

from gproxy.protocols import signatures, sse, validate
from gproxy.protocols.anthropic_messages.passthrough import ERROR_TYPES, error_event, read_usage
from gproxy.protocols.anthropic_messages.request import legal, read_citation
from gproxy.protocols.codec import bad_request_as_failed
from gproxy.protocols.custom_tools import as_arguments, free_text, is_custom
from gproxy.protocols.hub import (
    Answer,
    Block,
    Citation,
    Cited,
    Close,
    Context,
    Delta,
    End,
    Event,
    Failed,
    Finish,
    Logprobs,
    Media,
    Open,
    Refusal,
    Reply,
    Signature,
    Signed,
    Start,
    Text,
    TextBuffer,
    Thinking,
    ToolCall,
    Usage,
    Used,
    as_list,
    as_object,
)
from gproxy.protocols.losses import Losses

STOPS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tools",
    "refusal": "filtered",
}
STOPS_BACK = {"stop": "end_turn", "length": "max_tokens", "tools": "tool_use", "filtered": "refusal"}
TIERS = {"standard": "default", "priority": "priority", "batch": "flex"}
TIERS_BACK = {"default": "standard", "priority": "priority", "flex": "standard", "scale": "standard"}
# Events that belong to a message, whether or not a host told of its start.
BEGUN = ("message_start", "content_block_start", "message_delta", "message_stop")
STATUSES = {kind: status for status, kind in reversed(ERROR_TYPES.items())} | {"overloaded_error": 529}


def read_error(status: int, error: dict) -> tuple[int, str, str] | None:
    """Status, code and message of an error body or event, None when it is none."""
    inner = as_object(error.get("error"))
    kind, message = inner.get("type"), inner.get("message")
    if not isinstance(message, str):
        return None
    kind = kind if isinstance(kind, str) else "api_error"
    return (status if status >= 400 else STATUSES.get(kind, 500)), kind, message


# -- reading -------------------------------------------------------------------------------------------------------


def read_reply(body: dict, context: Context, losses: Losses) -> Reply:
    blocks: list[Block] = []
    for item in as_list(body.get("content")):
        blocks += _read_block(as_object(item), context, losses)
    usage = as_object(body.get("usage"))
    answer = Answer(tuple(blocks), _stop(body.get("stop_reason")), _text(body.get("stop_sequence")))
    used = read_usage(usage) if usage else None
    return Reply(str(body.get("id") or ""), str(body.get("model") or ""), (answer,), used, _tier(usage))


def _text(value) -> str | None:
    return value if isinstance(value, str) else None


def _stop(reason) -> str:
    return STOPS.get(reason, "stop") if isinstance(reason, str) else "stop"


def _tier(usage: dict) -> str | None:
    return "priority" if usage.get("speed") == "fast" else TIERS.get(str(usage.get("service_tier")))


def _read_block(block: dict, context: Context, losses: Losses) -> Iterator[Block]:
    match block:
        case {"type": "text", "text": str(text)}:
            yield Text(text, tuple(map(read_citation, as_list(block.get("citations")))))
        case {"type": "thinking", "thinking": str(text)}:
            signature = _text(block.get("signature"))
            yield Thinking(text, _signed(context, "thinking", signature) if signature else None)
        case {"type": "redacted_thinking", "data": str(data)}:
            yield Thinking("", _signed(context, "redacted", data))
        case {"type": "tool_use", "id": str(call_id), "name": str(name)}:
            yield _call(call_id, name, validate.dumps(as_object(block.get("input"))), context)
        case _:
            losses.report(f"content.{block.get('type')}")


def _signed(context: Context, kind: str, value: str) -> Signature:
    return Signature(context.provider, f"{kind}:{value}")


def _call(call_id: str, name: str, arguments: str, context: Context) -> ToolCall:
    """A call of a custom tool has its free text in one field, as we declared it."""
    if not is_custom(name, context):
        return ToolCall(call_id, name, arguments)
    return ToolCall(call_id, name, free_text(arguments), is_custom=True)


@bad_request_as_failed
def read_stream(payloads: Iterable[dict | Failed | None], context: Context, losses: Losses) -> Iterator[Event | None]:
    """Events of a stream's documents. None, in and out, says that nothing more has arrived yet.

    Blocks come one after another: what a host forgot to stop is closed before the next one. It is told once, at the
    end, that the answer is over.
    """
    places: dict[int, int] = {}  # their index -> ours
    kinds: dict[int, type] = {}
    held: dict[int, TextBuffer] = {}  # input of custom tools, which has no partial form
    count, usage, tier = 0, Usage(), None
    is_started, finish = False, None

    def close(at: int) -> Iterator[Event]:
        if at in held:
            yield Delta(places[at], free_text(str(held.pop(at))))
        yield Close(places.pop(at))

    for payload in payloads:
        if isinstance(payload, dict) and not is_started and payload.get("type") in BEGUN:
            is_started = True
            message = as_object(payload.get("message"))
            told = as_object(message.get("usage"))
            usage, tier = read_usage(told), _tier(told)
            yield Start(str(message.get("id") or ""), str(message.get("model") or ""), usage)
        match payload:
            case {"type": "content_block_delta", "index": int(at), "delta": dict(delta)}:
                if at in held:
                    held[at].add(_text(delta.get("partial_json")) or "")
                elif at in places and (event := _read_delta(places[at], kinds[at], delta, context)):
                    yield event
            case None | Failed():
                yield payload
                if payload is not None:
                    return
            case {"type": "content_block_start", "index": int(at), "content_block": dict(block)}:
                found = list(_read_block(block | ({"input": {}} if "input" in block else {}), context, losses))
                for opened in found:
                    for before in list(places):
                        yield from close(before)
                    places[at], kinds[at] = count, type(opened)
                    yield from _open(count, opened, block)
                    if isinstance(opened, ToolCall) and opened.is_custom:
                        held[at] = TextBuffer()
                        held[at].add(validate.dumps(block["input"]) if as_object(block.get("input")) else "")
                    count += 1
            case {"type": "content_block_stop", "index": int(at)}:
                if at in places:
                    yield from close(at)
            case {"type": "message_delta", "delta": dict(delta)}:
                told = as_object(payload.get("usage"))
                usage = read_usage(told, usage)
                if isinstance(reason := delta.get("stop_reason"), str):
                    finish = finish or Finish(_stop(reason), 0, _text(delta.get("stop_sequence")))
                yield Used(usage, _tier(told) or tier)
            case {"type": "message_stop"}:
                for before in list(places):
                    yield from close(before)
                yield finish or Finish("stop")
                yield End()
                return
            case {"type": "error"}:
                status, code, message = read_error(0, payload) or (500, "api_error", "the upstream failed")
                yield Failed(status, code, message)
                return


def _open(index: int, block: Block, raw: dict) -> Iterator[Event]:
    """A block as it begins. Some hosts send the whole input, or the first text, with the start."""
    match block:
        case ToolCall():
            yield Open(index, ToolCall(block.id, block.name, "", block.is_custom))
            if as_object(raw.get("input")) and not block.is_custom:
                yield Delta(index, validate.dumps(raw["input"]))
        case Text(text):
            yield Open(index, Text(""))
            if text:
                yield Delta(index, text)
        case Thinking(text, signature):
            yield Open(index, Thinking(""))
            if text:
                yield Delta(index, text)
            if signature:
                yield Signed(index, signature)


def _read_delta(index: int, kind: type, delta: dict, context: Context) -> Event | None:
    match delta:
        case (
            {"type": "text_delta", "text": str(text)}
            | {"type": "thinking_delta", "thinking": str(text)}
            | {"type": "input_json_delta", "partial_json": str(text)}
        ):
            return Delta(index, text) if text else None
        case {"type": "signature_delta", "signature": str(signature)} if signature and kind is Thinking:
            return Signed(index, _signed(context, "thinking", signature))
        case {"type": "citations_delta", "citation": dict(citation)} if kind is Text:
            return Cited(index, read_citation(citation))
    return None


# -- writing -------------------------------------------------------------------------------------------------------


def write_reply(reply: Reply, context: Context, losses: Losses) -> dict:
    answer = reply.answers[0] if reply.answers else Answer((), "stop")
    _lose_answers(len(reply.answers), losses)
    if answer.logprobs:
        losses.lose("logprobs")
    content: list[dict] = []
    for block in answer.blocks:
        content += _write_block(block, context, losses)
    reason = _reason(answer.stop, answer.sequence)
    return {
        **_message(reply.id or context.request_id, context),
        "content": content,
        "stop_reason": reason,
        "stop_sequence": answer.sequence,
        "usage": write_usage(reply.usage or Usage(), reply.tier),
    }


def _lose_answers(count: int, losses: Losses) -> None:
    if count > 1:
        losses.lose("n")


def _message(message_id: str, context: Context) -> dict:
    return {"id": message_id, "type": "message", "role": "assistant", "model": context.name}


def _reason(stop: str, sequence: str | None) -> str:
    return "stop_sequence" if stop == "stop" and sequence is not None else STOPS_BACK[stop]


def write_usage(usage: Usage, tier: str | None = None) -> dict:
    written = {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens:
        written["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if tier in TIERS_BACK:
        written["service_tier"] = TIERS_BACK[tier]
    return written


def _write_block(block: Block, context: Context, losses: Losses) -> Iterator[dict]:
    match block:
        case Text(text, citations):
            told = [written for citation in citations if (written := _write_citation(citation, losses))]
            yield {"type": "text", "text": text, **({"citations": told} if told else {})}
        case Refusal(text):
            yield {"type": "text", "text": text}
        case Thinking("", Signature()):
            yield {"type": "redacted_thinking", "data": signatures.wrap(block.signature)}
        case Thinking(text, signature):
            sealed = signatures.wrap(signature) if signature else signatures.wrap_empty(context.provider)
            yield {"type": "thinking", "thinking": text, "signature": sealed}
        case ToolCall():
            if block.signature:
                yield {"type": "redacted_thinking", "data": signatures.wrap(block.signature)}
            written = as_arguments(block.arguments) if block.is_custom else block.arguments
            arguments = validate.arguments_object(written, losses)
            yield {"type": "tool_use", "id": legal(block.id), "name": block.name, "input": arguments}
        case Media(kind):
            losses.lose(kind)


def _write_citation(citation: Citation, losses: Losses) -> dict | None:
    if citation.url is None:
        losses.lose("citations")
        return None
    return {
        "type": "web_search_result_location",
        "cited_text": citation.quote or "",
        "encrypted_index": "",
        "title": citation.title,
        "url": citation.url,
    }


def _event(kind: str, **fields) -> bytes:
    return sse.event(orjson.dumps({"type": kind, **fields}), kind)


def write_stream(events: Iterable[Event | None], context: Context, losses: Losses) -> Iterator[bytes]:
    """The stream's events as bytes; empty ones where nothing more has arrived yet."""
    at = -1  # the index of the newest block
    kinds: dict[int, type] = {}  # open blocks, by the hub's index
    late: set[int] = set()  # thinking blocks without anything in them so far
    unsigned: set[int] = set()  # others of them
    held: dict[int, TextBuffer] = {}
    finish, used = Finish("stop"), Used(Usage())

    def start(block: dict) -> bytes:
        return _event("content_block_start", index=at, content_block=block)

    def alone(block: dict) -> bytes:
        return start(block) + _event("content_block_stop", index=at)

    for event in events:
        match event:
            case Delta(index, text):
                if index in held:
                    held[index].add(text)
                elif index in kinds:
                    if index in late:
                        late.discard(index)
                        unsigned.add(index)
                        at += 1
                        yield start({"type": "thinking", "thinking": "", "signature": ""})
                    yield _event("content_block_delta", index=at, delta=_delta(kinds[index], text))
            case None:
                yield b""
            case Start(message_id, _, usage):
                message = _message(message_id or context.request_id, context)
                blank = {"content": [], "stop_reason": None, "stop_sequence": None}
                yield _event("message_start", message={**message, **blank, "usage": write_usage(usage or Usage())})
            case Open(choice=choice) | Finish(choice=choice) if choice:
                _lose_answers(choice + 1, losses)
            case Open(_, Media(kind)):
                losses.lose(kind)
            case Open(index, Thinking()):
                kinds[index] = Thinking
                late.add(index)
            case Open(index, ToolCall() as call):
                if call.signature:
                    at += 1
                    yield alone({"type": "redacted_thinking", "data": signatures.wrap(call.signature)})
                at += 1
                kinds[index] = ToolCall
                if call.is_custom:
                    held[index] = TextBuffer()
                yield start({"type": "tool_use", "id": legal(call.id), "name": call.name, "input": {}})
            case Open(index, _):
                at += 1
                kinds[index] = Text
                yield start({"type": "text", "text": ""})
            case Signed(index, signature) if index in late:
                late.discard(index)
                del kinds[index]
                at += 1
                yield alone({"type": "redacted_thinking", "data": signatures.wrap(signature)})
            case Signed(index, signature) if kinds.get(index) is Thinking:
                unsigned.discard(index)
                delta = {"type": "signature_delta", "signature": signatures.wrap(signature)}
                yield _event("content_block_delta", index=at, delta=delta)
            case Cited(index, citation) if index in kinds:
                if written := _write_citation(citation, losses):
                    delta = {"type": "citations_delta", "citation": written}
                    yield _event("content_block_delta", index=at, delta=delta)
            case Logprobs(index) if index in kinds:
                losses.lose("logprobs")
            case Close(index) if index in kinds:
                if index in held:
                    whole = as_arguments(str(held.pop(index)))
                    yield _event("content_block_delta", index=at, delta=_delta(ToolCall, whole))
                if index in unsigned:
                    unsigned.discard(index)
                    delta = {"type": "signature_delta", "signature": signatures.wrap_empty(context.provider)}
                    yield _event("content_block_delta", index=at, delta=delta)
                del kinds[index]
                if index in late:
                    late.discard(index)
                else:
                    yield _event("content_block_stop", index=at)
            case Finish(choice=0):
                finish = event
            case Used():
                used = event
            case End():
                delta = {"stop_reason": _reason(finish.stop, finish.sequence), "stop_sequence": finish.sequence}
                yield _event("message_delta", delta=delta, usage=write_usage(used.usage, used.tier))
                yield _event("message_stop")
            case Failed(status, code, message):
                yield error_event(status, code, message, context.request_id)


def _delta(kind: type, text: str) -> dict:
    if kind is Text:
        return {"type": "text_delta", "text": text}
    if kind is ToolCall:
        return {"type": "input_json_delta", "partial_json": text}
    return {"type": "thinking_delta", "thinking": text}
