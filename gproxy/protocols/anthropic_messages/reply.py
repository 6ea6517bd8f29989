"""Translates Messages replies, whole and streamed, to and from the hub.

https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import orjson

from gproxy.protocols import hub, signatures, sse, validate
from gproxy.protocols.anthropic_messages.passthrough import ERROR_TYPES, error_event, read_usage
from gproxy.protocols.anthropic_messages.request import legal_call_id, read_citation
from gproxy.protocols.codec import bad_request_as_failed, write_events
from gproxy.protocols.custom_tools import as_arguments, free_text, is_custom
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
# Events that start a message; some hosts omit `message_start`.
START_EVENTS = ("message_start", "content_block_start", "message_delta", "message_stop")
STATUSES = {kind: status for status, kind in reversed(ERROR_TYPES.items())} | {"overloaded_error": 529}


def read_error(status: int, body: dict) -> tuple[int, str, str] | None:
    """Returns status, code and message of an error body or event, None when `body` has another shape."""
    inner = hub.as_object(body.get("error"))
    kind, message = inner.get("type"), inner.get("message")
    if not isinstance(message, str):
        return None
    kind = kind if isinstance(kind, str) else "api_error"
    return (status if status >= 400 else STATUSES.get(kind, 500)), kind, message


# -- reading -------------------------------------------------------------------------------------------------------


def read_reply(body: dict, context: hub.Context, losses: Losses) -> hub.Reply:
    """Returns the reply in the hub's types; an unknown block is a loss."""
    blocks: list[hub.Block] = []
    for item in hub.as_list(body.get("content")):
        blocks += _read_block(hub.as_object(item), context, losses)
    usage = hub.as_object(body.get("usage"))
    answer = hub.Answer(tuple(blocks), _stop(body.get("stop_reason")), _text(body.get("stop_sequence")))
    used = read_usage(usage) if usage else None
    return hub.Reply(str(body.get("id") or ""), str(body.get("model") or ""), (answer,), used, _tier(usage))


def _text(value) -> str | None:
    return value if isinstance(value, str) else None


def _stop(reason) -> str:
    return STOPS.get(reason, "stop") if isinstance(reason, str) else "stop"


def _tier(usage: dict) -> str | None:
    return "priority" if usage.get("speed") == "fast" else TIERS.get(str(usage.get("service_tier")))


def _read_block(block: dict, context: hub.Context, losses: Losses) -> Iterator[hub.Block]:
    match block:
        case {"type": "text", "text": str(text)}:
            yield hub.Text(text, tuple(map(read_citation, hub.as_list(block.get("citations")))))
        case {"type": "thinking", "thinking": str(text)}:
            signature = _text(block.get("signature"))
            yield hub.Thinking(text, _signed(context, "thinking", signature) if signature else None)
        case {"type": "redacted_thinking", "data": str(data)}:
            yield hub.Thinking("", _signed(context, "redacted", data))
        case {"type": "tool_use", "id": str(call_id), "name": str(name)}:
            yield _call(call_id, name, validate.dumps(hub.as_object(block.get("input"))), context)
        case _:
            losses.report(f"content.{block.get('type')}")


def _signed(context: hub.Context, kind: str, value: str) -> hub.Signature:
    return hub.Signature(context.provider, f"{kind}:{value}")


def _call(call_id: str, name: str, arguments: str, context: hub.Context) -> hub.ToolCall:
    """Returns a tool call; the input of a custom tool is unpacked from the one field that gproxy declared for it."""
    if not is_custom(name, context):
        return hub.ToolCall(call_id, name, arguments)
    return hub.ToolCall(call_id, name, free_text(arguments), is_custom=True)


@dataclass(slots=True)
class _ReadBlock:
    """An open block of a stream that is read. `index` is the hub's."""

    index: int
    kind: type
    input: hub.TextBuffer | None = None  # of a call of a custom tool, which is yielded when it is whole


class _Reader:
    """Reads the events of a stream, one method for each kind.

    A block that a host left open is closed before the next one starts. Finish is yielded once, at the end.
    """

    def __init__(self, context: hub.Context, losses: Losses):
        self._context, self._losses = context, losses
        self._blocks: dict[int, _ReadBlock] = {}  # open blocks, by the stream's index
        self._block_count = 0
        self._is_started = False
        self._usage, self._tier = hub.Usage(), None
        self._finish: hub.Finish | None = None

    def start(self, payload: dict) -> Iterator[hub.Event]:
        """Starts the message with the first event that belongs to one."""
        if not self._is_started and payload.get("type") in START_EVENTS:
            self._is_started = True
            message = hub.as_object(payload.get("message"))
            counts = hub.as_object(message.get("usage"))
            self._usage, self._tier = read_usage(counts), _tier(counts)
            yield hub.Start(str(message.get("id") or ""), str(message.get("model") or ""), self._usage)

    def read_block_start(self, payload: dict) -> Iterator[hub.Event]:
        wire_index, raw = payload.get("index"), payload.get("content_block")
        if not isinstance(wire_index, int) or not isinstance(raw, dict):
            return
        without_input = raw | ({"input": {}} if "input" in raw else {})
        for block in list(_read_block(without_input, self._context, self._losses)):
            yield from self._close_all()
            opened = self._blocks[wire_index] = _ReadBlock(self._block_count, type(block))
            self._block_count += 1
            yield from _open(opened.index, block, raw)
            if isinstance(block, hub.ToolCall) and block.is_custom:
                opened.input = hub.TextBuffer()
                opened.input.add(validate.dumps(raw["input"]) if hub.as_object(raw.get("input")) else "")

    def read_block_delta(self, payload: dict) -> hub.Event | None:
        wire_index, delta = payload.get("index"), payload.get("delta")
        if not isinstance(wire_index, int) or not isinstance(delta, dict):
            return None
        if (block := self._blocks.get(wire_index)) is None:
            return None
        if block.input is None:
            return _read_delta(block.index, block.kind, delta, self._context)
        block.input.add(_text(delta.get("partial_json")) or "")
        return None

    def read_block_stop(self, payload: dict) -> Iterator[hub.Event]:
        wire_index = payload.get("index")
        if isinstance(wire_index, int) and wire_index in self._blocks:
            yield from self._close(wire_index)

    def read_message_delta(self, payload: dict) -> Iterator[hub.Event]:
        delta = payload.get("delta")
        if not isinstance(delta, dict):
            return
        counts = hub.as_object(payload.get("usage"))
        self._usage = read_usage(counts, self._usage)
        if isinstance(reason := delta.get("stop_reason"), str):
            self._finish = self._finish or hub.Finish(_stop(reason), 0, _text(delta.get("stop_sequence")))
        yield hub.Used(self._usage, _tier(counts) or self._tier)

    def read_message_stop(self) -> Iterator[hub.Event]:
        yield from self._close_all()
        yield self._finish or hub.Finish("stop")
        yield hub.End()

    def _close(self, wire_index: int) -> Iterator[hub.Event]:
        block = self._blocks.pop(wire_index)
        if block.input is not None:
            yield hub.Delta(block.index, free_text(str(block.input)))
        yield hub.Close(block.index)

    def _close_all(self) -> Iterator[hub.Event]:
        for wire_index in list(self._blocks):
            yield from self._close(wire_index)


@bad_request_as_failed
def read_stream(
    payloads: Iterable[dict | hub.Failed | None], context: hub.Context, losses: Losses
) -> Iterator[hub.Event | None]:
    """Yields the hub's events of a stream. None, in and out, means that no data is available yet."""
    reader = _Reader(context, losses)
    for payload in payloads:
        if payload is None:
            yield None
            continue
        if isinstance(payload, hub.Failed):
            yield payload
            return
        yield from reader.start(payload)
        match payload.get("type"):
            case "content_block_delta":
                if event := reader.read_block_delta(payload):
                    yield event
            case "content_block_start":
                yield from reader.read_block_start(payload)
            case "content_block_stop":
                yield from reader.read_block_stop(payload)
            case "message_delta":
                yield from reader.read_message_delta(payload)
            case "message_stop":
                yield from reader.read_message_stop()
                return
            case "error":
                yield hub.Failed(*(read_error(0, payload) or (500, "api_error", "the upstream failed")))
                return


def _open(index: int, block: hub.Block, raw: dict) -> Iterator[hub.Event]:
    """Yields the start of a block, with the input or text that some hosts send along with it."""
    match block:
        case hub.ToolCall():
            yield hub.Open(index, hub.ToolCall(block.id, block.name, "", block.is_custom))
            if hub.as_object(raw.get("input")) and not block.is_custom:
                yield hub.Delta(index, validate.dumps(raw["input"]))
        case hub.Text(text):
            yield hub.Open(index, hub.Text(""))
            if text:
                yield hub.Delta(index, text)
        case hub.Thinking(text, signature):
            yield hub.Open(index, hub.Thinking(""))
            if text:
                yield hub.Delta(index, text)
            if signature:
                yield hub.Signed(index, signature)


def _read_delta(index: int, kind: type, delta: dict, context: hub.Context) -> hub.Event | None:
    match delta:
        case (
            {"type": "text_delta", "text": str(text)}
            | {"type": "thinking_delta", "thinking": str(text)}
            | {"type": "input_json_delta", "partial_json": str(text)}
        ):
            return hub.Delta(index, text) if text else None
        case {"type": "signature_delta", "signature": str(signature)} if signature and kind is hub.Thinking:
            return hub.Signed(index, _signed(context, "thinking", signature))
        case {"type": "citations_delta", "citation": dict(citation)} if kind is hub.Text:
            return hub.Cited(index, read_citation(citation))
    return None


# -- writing -------------------------------------------------------------------------------------------------------


def write_reply(reply: hub.Reply, context: hub.Context, losses: Losses) -> dict:
    answer = reply.answers[0] if reply.answers else hub.Answer((), "stop")
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
        "usage": write_usage(reply.usage or hub.Usage(), reply.tier),
    }


def _lose_answers(count: int, losses: Losses) -> None:
    if count > 1:
        losses.lose("n")


def _message(message_id: str, context: hub.Context) -> dict:
    return {"id": message_id, "type": "message", "role": "assistant", "model": context.name}


def _reason(stop: str, sequence: str | None) -> str:
    return "stop_sequence" if stop == "stop" and sequence is not None else STOPS_BACK[stop]


def write_usage(usage: hub.Usage, tier: str | None = None) -> dict:
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


def _write_block(block: hub.Block, context: hub.Context, losses: Losses) -> Iterator[dict]:
    match block:
        case hub.Text(text, citations):
            written = [found for citation in citations if (found := _write_citation(citation, losses))]
            yield {"type": "text", "text": text, **({"citations": written} if written else {})}
        case hub.Refusal(text):
            yield {"type": "text", "text": text}
        case hub.Thinking("", hub.Signature()):
            yield {"type": "redacted_thinking", "data": signatures.wrap(block.signature)}
        case hub.Thinking(text, signature):
            wrapped = signatures.wrap(signature) if signature else signatures.wrap_empty(context.provider)
            yield {"type": "thinking", "thinking": text, "signature": wrapped}
        case hub.ToolCall():
            if block.signature:
                yield {"type": "redacted_thinking", "data": signatures.wrap(block.signature)}
            written = as_arguments(block.arguments) if block.is_custom else block.arguments
            arguments = validate.arguments_object(written, losses)
            yield {"type": "tool_use", "id": legal_call_id(block.id), "name": block.name, "input": arguments}
        case hub.Media(kind):
            losses.lose(kind)


def _write_citation(citation: hub.Citation, losses: Losses) -> dict | None:
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


class _StreamWriter:
    """Writes a stream as messages events. Thinking without text is started when its text or signature comes."""

    def __init__(self, context: hub.Context, losses: Losses):
        self._context, self._losses = context, losses
        self._wire_index = -1  # the index of the newest block
        self._kinds: dict[int, type] = {}  # open blocks, by the hub's index
        self._empty: set[int] = set()  # open thinking blocks without text, not yet started on the wire
        self._unsigned: set[int] = set()  # open thinking blocks with text, without a signature so far
        self._inputs: dict[
            int, hub.TextBuffer
        ] = {}  # of open calls of custom tools, which are written when they are whole
        self._finish, self._used = hub.Finish("stop"), hub.Used(hub.Usage())

    def delta(self, event: hub.Delta) -> bytes:
        index, text = event.index, event.text
        if index in self._inputs:
            self._inputs[index].add(text)
            return b""
        if index not in self._kinds:
            return b""
        delta = _delta(self._kinds[index], text)
        if index in self._empty:
            self._empty.discard(index)
            self._unsigned.add(index)
            return self._start_block({"type": "thinking", "thinking": "", "signature": ""}) + self._block_delta(delta)
        return self._block_delta(delta)

    def start(self, event: hub.Start) -> bytes:
        message = _message(event.id or self._context.request_id, self._context)
        blank = {"content": [], "stop_reason": None, "stop_sequence": None}
        return _event("message_start", message={**message, **blank, "usage": write_usage(event.usage or hub.Usage())})

    def open(self, event: hub.Open) -> bytes:
        index, block = event.index, event.block
        if event.choice:
            _lose_answers(event.choice + 1, self._losses)
            return b""
        match block:
            case hub.Media(kind):
                self._losses.lose(kind)
                return b""
            case hub.Thinking():
                self._kinds[index] = hub.Thinking
                self._empty.add(index)
                return b""
            case hub.ToolCall():
                return self._open_call(index, block)
        self._kinds[index] = hub.Text
        return self._start_block({"type": "text", "text": ""})

    def _open_call(self, index: int, call: hub.ToolCall) -> bytes:
        signature = self._redacted(call.signature) if call.signature else b""
        self._kinds[index] = hub.ToolCall
        if call.is_custom:
            self._inputs[index] = hub.TextBuffer()
        block = {"type": "tool_use", "id": legal_call_id(call.id), "name": call.name, "input": {}}
        return signature + self._start_block(block)

    def signed(self, event: hub.Signed) -> bytes:
        if event.index in self._empty:
            self._empty.discard(event.index)
            del self._kinds[event.index]
            return self._redacted(event.signature)
        if self._kinds.get(event.index) is not hub.Thinking:
            return b""
        self._unsigned.discard(event.index)
        return self._block_delta({"type": "signature_delta", "signature": signatures.wrap(event.signature)})

    def cited(self, event: hub.Cited) -> bytes:
        if event.index not in self._kinds or (written := _write_citation(event.citation, self._losses)) is None:
            return b""
        return self._block_delta({"type": "citations_delta", "citation": written})

    def logprobs(self, event: hub.Logprobs) -> bytes:
        if event.index in self._kinds:
            self._losses.lose("logprobs")
        return b""

    def close(self, event: hub.Close) -> bytes:
        index = event.index
        if self._kinds.pop(index, None) is None:
            return b""
        if index in self._empty:
            self._empty.discard(index)
            return b""
        rest = b""
        if index in self._inputs:
            rest = self._block_delta(_delta(hub.ToolCall, as_arguments(str(self._inputs.pop(index)))))
        elif index in self._unsigned:
            self._unsigned.discard(index)
            signature = signatures.wrap_empty(self._context.provider)
            rest = self._block_delta({"type": "signature_delta", "signature": signature})
        return rest + self._stop_block()

    def finish(self, event: hub.Finish) -> bytes:
        if event.choice:
            _lose_answers(event.choice + 1, self._losses)
        else:
            self._finish = event
        return b""

    def used(self, event: hub.Used) -> bytes:
        self._used = event
        return b""

    def end(self, event: hub.End) -> bytes:
        finish, used = self._finish, self._used
        delta = {"stop_reason": _reason(finish.stop, finish.sequence), "stop_sequence": finish.sequence}
        usage = write_usage(used.usage, used.tier)
        return _event("message_delta", delta=delta, usage=usage) + _event("message_stop")

    def failed(self, event: hub.Failed) -> bytes:
        return error_event(event.status, event.code, event.message, self._context.request_id)

    def _start_block(self, block: dict) -> bytes:
        """Starts the next block on the wire."""
        self._wire_index += 1
        return _event("content_block_start", index=self._wire_index, content_block=block)

    def _block_delta(self, delta: dict) -> bytes:
        return _event("content_block_delta", index=self._wire_index, delta=delta)

    def _stop_block(self) -> bytes:
        return _event("content_block_stop", index=self._wire_index)

    def _redacted(self, signature: hub.Signature) -> bytes:
        """Returns a whole block that carries a signature without a text."""
        block = {"type": "redacted_thinking", "data": signatures.wrap(signature)}
        return self._start_block(block) + self._stop_block()


def write_stream(events: Iterable[hub.Event | None], context: hub.Context, losses: Losses) -> Iterator[bytes]:
    """Returns the stream's events as bytes, b"" where no data is available yet."""
    return write_events(events, _StreamWriter(context, losses))


def _delta(kind: type, text: str) -> dict:
    if kind is hub.Text:
        return {"type": "text_delta", "text": text}
    if kind is hub.ToolCall:
        return {"type": "input_json_delta", "partial_json": text}
    return {"type": "thinking_delta", "thinking": text}
