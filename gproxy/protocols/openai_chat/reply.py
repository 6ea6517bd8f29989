"""Translates Chat Completions replies, whole and streamed, to and from the hub.

https://platform.openai.com/docs/api-reference/chat/streaming
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import orjson

from gproxy.protocols import hub, signatures, sse, validate
from gproxy.protocols.codec import bad_request_as_failed, write_events
from gproxy.protocols.custom_tools import free_text, is_custom
from gproxy.protocols.losses import Losses
from gproxy.protocols.openai import (
    read_citation,
    read_error,
    read_logprobs,
    read_tier,
    read_usage,
    write_citation,
    write_logprobs,
)
from gproxy.protocols.openai_chat.passthrough import error_event

STOPS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tools",
    "function_call": "tools",
    "content_filter": "filtered",
    "insufficient_system_resource": "length",  # DeepSeek
}
STOPS_BACK = {"stop": "stop", "length": "length", "tools": "tool_calls", "filtered": "content_filter"}
# Fields in which hosts send thinking; the first one that has text is read.
THINKING_FIELDS = ("reasoning_content", "reasoning")


# -- reading -------------------------------------------------------------------------------------------------------


def read_reply(body: dict, context: hub.Context, losses: Losses) -> hub.Reply:
    """Returns the reply in the hub's types. Raises StreamFailed where a choice reports an error."""
    answers = tuple(_read_choice(hub.as_object(choice), context, losses) for choice in hub.as_list(body.get("choices")))
    usage = hub.as_object(body.get("usage"))
    used = read_usage(usage) if usage else None
    tier = read_tier(body)
    return hub.Reply(str(body.get("id") or ""), str(body.get("model") or ""), answers, used, tier)


def _read_choice(choice: dict, context: hub.Context, losses: Losses) -> hub.Answer:
    message = hub.as_object(choice.get("message"))
    blocks: list[hub.Block] = list(_read_thinking(message, context))
    content = _read_text(message.get("content"))
    citations = tuple(found for a in hub.as_list(message.get("annotations")) if (found := read_citation(a)))
    if len(citations) < len(hub.as_list(message.get("annotations"))):
        losses.report("message.annotations")
    if content:
        blocks.append(hub.Text(content, citations))
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        blocks.append(hub.Refusal(message["refusal"]))
    for image in hub.as_list(message.get("images")):
        blocks += _read_image(hub.as_object(image))
    if message.get("audio") is not None:
        losses.report("message.audio")
    calls = hub.as_list(message.get("tool_calls")) or _legacy_calls(message)
    blocks += [_read_call(hub.as_object(call), n, context) for n, call in enumerate(calls)]
    reason = choice.get("finish_reason")
    if reason == "error":
        raise hub.StreamFailed(hub.Failed(*_failure(choice)))
    stop = STOPS.get(reason, "stop") if isinstance(reason, str) else "stop"
    stop = "tools" if calls and stop == "stop" else stop
    return hub.Answer(tuple(blocks), stop, None, read_logprobs(hub.as_object(choice.get("logprobs")).get("content")))


def _read_text(content) -> str:
    """Returns the text of a string or of a list of parts, as some hosts send it."""
    if isinstance(content, list):
        texts = (hub.as_object(item).get("text") for item in content)
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _legacy_calls(message: dict) -> list[dict]:
    call = message.get("function_call")
    return [{"function": call}] if isinstance(call, dict) else []


def _read_thinking(message: dict, context: hub.Context) -> Iterator[hub.Block]:
    text = next((found for name in THINKING_FIELDS if (found := _read_text(message.get(name)))), "")
    details = hub.as_list(message.get("reasoning_details"))
    signature = _details(details, context)
    if text or signature:
        yield hub.Thinking(text, signature)


def _details(details: list, context: hub.Context) -> hub.Signature | None:
    """Returns the details that a compatible host wants back, as it sent them, if any of them is opaque."""
    is_opaque = any(hub.as_object(detail).get("data") or hub.as_object(detail).get("signature") for detail in details)
    return hub.Signature(context.provider, validate.dumps(details)) if is_opaque else None


def _read_image(image: dict) -> list[hub.Block]:
    url = hub.as_object(image.get("image_url")).get("url")
    return [validate.media_of_url(url, "image", "images")] if isinstance(url, str) else []


def _read_call(call: dict, number: int, context: hub.Context) -> hub.ToolCall:
    call_id = call.get("id") if isinstance(call.get("id"), str) and call.get("id") else None
    call_id = call_id or f"call_{context.request_id}_{number}"
    if custom := hub.as_object(call.get("custom")):
        return hub.ToolCall(call_id, str(custom.get("name") or ""), _read_text(custom.get("input")), is_custom=True)
    function = hub.as_object(call.get("function"))
    name, arguments = str(function.get("name") or ""), function.get("arguments")
    written = arguments if isinstance(arguments, str) else validate.dumps(hub.as_object(arguments))
    signature = _call_signature(call, context)
    if is_custom(name, context):
        return hub.ToolCall(call_id, name, free_text(written), True, signature)
    return hub.ToolCall(call_id, name, written or "{}", False, signature)


def _call_signature(call: dict, context: hub.Context) -> hub.Signature | None:
    value = hub.as_object(hub.as_object(call.get("extra_content")).get("google")).get("thought_signature")
    return hub.Signature(context.provider, value) if isinstance(value, str) and value else None


@dataclass(slots=True)
class _QueuedCall:
    """A call that began while another one was open, with its arguments so far."""

    call: hub.ToolCall
    arguments: list[str] = field(default_factory=list)


class _ChoiceReader:
    """Reads one choice of a stream into events. At most one block is open at a time."""

    def __init__(self, number: int, context: hub.Context):
        self._number, self._context = number, context
        self._kind: type | None = None
        self._index = -1
        self._ids: dict[int, str] = {}  # index in the stream -> id of its newest call
        self._arguments: list[str] = []  # of the open call
        self._queued: dict[str, _QueuedCall] = {}  # by id, in order
        self._open_id: str | None = None
        self._call_ids: set[str] = set()
        self._details: list = []
        self._deferred: list[tuple[hub.Block, str]] = []  # blocks that arrived inside an incomplete call
        self._is_buffered = False  # the open call's input is written when it is whole

    def close(self) -> Iterator[hub.Event]:
        if self._kind is None:
            return
        if self._kind is hub.ToolCall and self._is_buffered:
            yield hub.Delta(self._index, free_text("".join(self._arguments)))
        if self._kind is hub.Thinking and (signature := _details(self._details, self._context)):
            yield hub.Signed(self._index, signature)
            self._details = []
        yield hub.Close(self._index)
        self._kind, self._open_id, self._arguments = None, None, []

    def add_text(self, block: hub.Block, text: str, indexes: Iterator[int]) -> Iterator[hub.Event]:
        """Adds text, thinking or refusal to the open block, or opens a new one if the open block is of another kind.

        Inside an incomplete call it is deferred until the call is whole, since it would split the call.
        """
        if self._kind is hub.ToolCall and (self._queued or not self._is_complete()):
            self._deferred.append((block, text))
            return
        if type(block) is not self._kind:
            yield from self.flush(indexes)
            self._kind, self._index = type(block), next(indexes)
            yield hub.Open(self._index, block, self._number)
        if text:
            yield hub.Delta(self._index, text)

    def annotate(self, kinds: tuple[type, ...], make: Callable, name: str, losses: Losses) -> Iterator[hub.Event]:
        """Yields an event about the open block if it is one of `kinds`, else reports it as a loss by `name`."""
        if self._kind in kinds:
            yield make(self._index)
        else:
            losses.report(name)

    def add_details(self, details: list, indexes: Iterator[int]) -> Iterator[hub.Event]:
        yield from self.add_text(hub.Thinking(""), "", indexes)
        self._details += details

    def add_media(self, media: hub.Block, indexes: Iterator[int]) -> Iterator[hub.Event]:
        yield from self.flush(indexes)
        index = next(indexes)
        yield hub.Open(index, media, self._number)
        yield hub.Close(index)

    def add_call(self, delta: dict, indexes: Iterator[int]) -> Iterator[hub.Event]:
        """Adds a delta of a tool call. Hosts interleave calls, repeat ids, or send the same index with every call."""
        wire_index = delta.get("index") if isinstance(delta.get("index"), int) else 0
        sent_id = delta.get("id") if isinstance(delta.get("id"), str) and delta.get("id") else None
        body = hub.as_object(delta.get("custom")) or hub.as_object(delta.get("function"))
        if wire_index not in self._ids or (
            sent_id and sent_id != self._ids[wire_index] and sent_id not in self._call_ids
        ):
            self._ids[wire_index] = sent_id or f"call_{self._context.request_id}_{self._number}_{len(self._call_ids)}"
            self._call_ids.add(self._ids[wire_index])
            call = hub.ToolCall(self._ids[wire_index], str(body.get("name") or ""), "", "custom" in delta)
            call = replace(call, signature=_call_signature(delta, self._context))
            if self._kind is hub.ToolCall and not self._is_complete():
                self._queued[call.id] = _QueuedCall(call)
            else:
                yield from self._open_call(call, indexes)
        text = body.get("input") if "custom" in delta else body.get("arguments")
        text = text if isinstance(text, str) else validate.dumps(text) if isinstance(text, dict) else ""
        if not text:
            return
        call_id = self._ids[wire_index]
        if call_id == self._open_id:
            yield from self._add_arguments(text)
            if self._queued and self._is_complete():
                yield from self._open_next(indexes)
        elif call_id in self._queued:
            self._queued[call_id].arguments.append(text)

    def _open_call(self, call: hub.ToolCall, indexes: Iterator[int]) -> Iterator[hub.Event]:
        yield from self.close()
        self._kind, self._index, self._open_id = hub.ToolCall, next(indexes), call.id
        self._is_native = call.is_custom
        self._is_buffered = not call.is_custom and is_custom(call.name, self._context)
        yield hub.Open(self._index, replace(call, is_custom=call.is_custom or self._is_buffered), self._number)

    def _add_arguments(self, text: str) -> Iterator[hub.Event]:
        self._arguments.append(text)
        if not self._is_buffered:
            yield hub.Delta(self._index, text)

    def _is_complete(self) -> bool:
        """True if another block may follow the open call: its arguments are whole JSON, or text of a custom tool."""
        if self._arguments and not self._is_native and not self._arguments[-1].rstrip().endswith("}"):
            return False  # cheaper than parsing all of it with every delta
        try:
            orjson.loads("".join(self._arguments))
        except orjson.JSONDecodeError:
            return self._is_native
        return True

    def _open_next(self, indexes: Iterator[int]) -> Iterator[hub.Event]:
        """Opens the first queued call with the arguments it has, and the next one while they are complete."""
        while self._queued:
            call_id = next(iter(self._queued))
            queued = self._queued.pop(call_id)
            yield from self._open_call(queued.call, indexes)
            for text in queued.arguments:
                yield from self._add_arguments(text)
            if not self._is_complete():
                return

    def flush(self, indexes: Iterator[int]) -> Iterator[hub.Event]:
        """Writes the queued calls, closes the open block and adds the deferred blocks."""
        while self._queued:
            yield from self._open_next(indexes)
        yield from self.close()
        deferred, self._deferred = self._deferred, []
        for block, text in deferred:
            yield from self.add_text(block, text, indexes)

    @property
    def has_calls(self) -> bool:
        return bool(self._call_ids)


@bad_request_as_failed
def read_stream(
    payloads: Iterable[dict | hub.Failed | None], context: hub.Context, losses: Losses
) -> Iterator[hub.Event | None]:
    """Yields the hub's events of a stream. None, in and out, means that no data is available yet.

    Finish is yielded once per choice, at the end: some hosts repeat the finish reason, or send text after it.
    """
    choices: dict[int, _ChoiceReader] = {}
    indexes = iter(range(2**31))
    stops: dict[int, str] = {}
    used: hub.Used | None = None  # some hosts send usage in every chunk: the last one is used
    is_started = False
    for payload in payloads:
        if payload is None:
            yield None
            continue
        if isinstance(payload, hub.Failed):
            yield payload
            return
        if payload.get("error"):
            yield hub.Failed(*(read_error(0, payload) or (500, "api_error", "the upstream failed")))
            return
        if not is_started and (payload.get("id") or payload.get("choices")):  # Azure's first chunk has neither
            is_started = True
            yield hub.Start(str(payload.get("id") or ""), str(payload.get("model") or ""))
        for choice in hub.as_list(payload.get("choices")):
            choice = hub.as_object(choice)
            number = choice.get("index") if isinstance(choice.get("index"), int) else 0
            if number not in choices:
                choices[number] = _ChoiceReader(number, context)
            yield from _read_delta(choice, choices[number], indexes, losses)
            if isinstance(reason := choice.get("finish_reason"), str) and reason:
                yield from choices[number].flush(indexes)
                yield from choices[number].close()
                if reason == "error":
                    yield hub.Failed(*_failure(choice))
                    return
                stops.setdefault(number, STOPS.get(reason, "stop"))
        if usage := hub.as_object(payload.get("usage")):
            used = hub.Used(read_usage(usage), read_tier(payload))
    for number, stop in stops.items():
        yield from choices[number].flush(indexes)
        yield from choices[number].close()
        yield hub.Finish("tools" if choices[number].has_calls and stop == "stop" else stop, number)
    if used is not None:
        yield used
    yield hub.End()


def _failure(choice: dict) -> tuple[int, str, str]:
    """Returns status, code and message of a choice that a compatible host reports as failed."""
    return read_error(0, choice) or (502, "upstream_error", "the upstream reported a failure without a reason")


def _read_delta(choice: dict, reader: _ChoiceReader, indexes: Iterator[int], losses: Losses) -> Iterator[hub.Event]:
    delta = hub.as_object(choice.get("delta"))
    for name in THINKING_FIELDS:
        if text := _read_text(delta.get(name)):
            yield from reader.add_text(hub.Thinking(""), text, indexes)
            break
    if details := hub.as_list(delta.get("reasoning_details")):
        yield from reader.add_details(details, indexes)
    if text := _read_text(delta.get("content")):
        yield from reader.add_text(hub.Text(""), text, indexes)
    if text := _read_text(delta.get("refusal")):
        yield from reader.add_text(hub.Refusal(""), text, indexes)
    if logprobs := read_logprobs(hub.as_object(choice.get("logprobs")).get("content")):
        yield from reader.annotate(
            (hub.Text, hub.Refusal), lambda index: hub.Logprobs(index, logprobs), "logprobs", losses
        )
    for citation in filter(None, map(read_citation, hub.as_list(delta.get("annotations")))):
        yield from reader.annotate(
            (hub.Text,), lambda index, c=citation: hub.Cited(index, c), "delta.annotations", losses
        )
    for image in hub.as_list(delta.get("images")):
        for media in _read_image(hub.as_object(image)):
            yield from reader.add_media(media, indexes)
    if delta.get("audio") is not None:
        losses.report("delta.audio")
    for call in hub.as_list(delta.get("tool_calls")) or _legacy_calls(delta):
        yield from reader.add_call(hub.as_object(call), indexes)


# -- writing -------------------------------------------------------------------------------------------------------


def write_reply(reply: hub.Reply, context: hub.Context, losses: Losses) -> dict:
    body = {
        "id": reply.id or context.request_id,
        "object": "chat.completion",
        "created": context.created,
        "model": context.name,
        "choices": [_write_choice(answer, i, losses) for i, answer in enumerate(reply.answers)],
        "usage": write_usage(reply.usage or hub.Usage()),
    }
    return {**body, "service_tier": reply.tier} if reply.tier else body


def write_usage(usage: hub.Usage) -> dict:
    prompt = usage.prompt_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output_tokens,
        "total_tokens": prompt + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_creation_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _write_choice(answer: hub.Answer, index: int, losses: Losses) -> dict:
    text, refusal, thoughts = "", "", ""
    calls: list[dict] = []
    details: list[dict] = []
    annotations: list[dict] = []
    images: list[dict] = []
    for block in answer.blocks:
        match block:
            case hub.Text():
                annotations += _write_citations(block.citations, len(text), len(text) + len(block.text), losses)
                text += block.text
            case hub.Refusal():
                refusal += block.text
            case hub.Thinking():
                thoughts += block.text
                if block.signature:
                    details.append(_detail(block.text, block.signature, len(details)))
            case hub.ToolCall():
                calls.append(_write_call(block))
            case hub.Media():
                images += _write_image(block, len(images), losses)
    message = {"role": "assistant", "content": text or None, "refusal": refusal or None}
    extra = {
        "tool_calls": calls,
        "reasoning_content": thoughts,
        "reasoning_details": details,
        "annotations": annotations,
        "images": images,
    }
    message |= {name: value for name, value in extra.items() if value}
    if message["content"] is None and not refusal and not calls:
        message["content"] = ""
    logprobs = {"content": write_logprobs(answer.logprobs), "refusal": None} if answer.logprobs else None
    reason = STOPS_BACK[answer.stop]
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _write_citations(citations: tuple[hub.Citation, ...], start: int, end: int, losses: Losses) -> list[dict]:
    """Returns annotations with offsets in the whole message; a citation without offsets covers its block."""
    annotations = []
    for citation in citations:
        last = end if citation.end is None else start + citation.end
        moved = replace(citation, start=start + (citation.start or 0), end=last)
        if (written := write_citation(moved)) is None:
            losses.lose("citations")
        else:
            annotations.append({"type": "url_citation", "url_citation": written})
    return annotations


def _detail(text: str, signature: hub.Signature, index: int) -> dict:
    """Returns an entry of `reasoning_details`, where compatible hosts carry signatures."""
    wrapped = signatures.wrap(signature)
    if text:
        return {"type": "reasoning.text", "text": text, "signature": wrapped, "index": index}
    return {"type": "reasoning.encrypted", "data": wrapped, "index": index}


def _write_call(block: hub.ToolCall) -> dict:
    signed = _signature_extra(block.signature)
    if block.is_custom:
        custom = {"name": block.name, "input": block.arguments}
        return {"id": block.id, "type": "custom", "custom": custom, **signed}
    function = {"name": block.name, "arguments": block.arguments or "{}"}
    return {"id": block.id, "type": "function", "function": function, **signed}


def _signature_extra(signature: hub.Signature | None) -> dict:
    """Returns a call's signature in the field of Google's OpenAI-compatible endpoint."""
    if signature is None:
        return {}
    return {"extra_content": {"google": {"thought_signature": signatures.wrap(signature)}}}


def _write_image(block: hub.Media, index: int, losses: Losses) -> list[dict]:
    if block.kind != "image" or not (block.url or block.data):
        losses.lose(block.kind)
        return []
    url = block.url or validate.data_url(block.media_type, block.data)
    return [{"type": "image_url", "image_url": {"url": url}, "index": index}]


@dataclass(slots=True)
class _Written:
    """Counts of what was written of one choice; `length` is its text in characters."""

    length: int = 0
    calls: int = 0
    details: int = 0
    images: int = 0
    annotations: int = 0


@dataclass(slots=True)
class _OpenBlock:
    """An open block, and what was written of its choice."""

    block: hub.Block
    choice: int
    written: _Written
    start: int  # in the text of its choice, in characters
    call_number: int = 0  # of a call in its choice
    has_arguments: bool = False
    thoughts: hub.TextBuffer = field(default_factory=hub.TextBuffer)


class _StreamWriter:
    """Writes a stream as chunks, each with one choice. Each choice starts with its role."""

    def __init__(self, context: hub.Context, losses: Losses):
        self._context, self._losses = context, losses
        self._head: dict = {}
        self._written: dict[int, _Written] = {}  # by choice
        self._blocks: dict[int, _OpenBlock] = {}
        self._used = hub.Used(hub.Usage())

    def delta(self, event: hub.Delta) -> bytes:
        text = event.text
        if not text:
            return b""
        opened = self._blocks[event.index]
        block = opened.block
        if isinstance(block, hub.Text):
            opened.written.length += len(text)
            return self._chunk(opened.choice, {"content": text})
        if isinstance(block, hub.ToolCall):
            opened.has_arguments = True
            fields = {"custom": {"input": text}} if block.is_custom else {"function": {"arguments": text}}
            return self._call_chunk(opened, fields)
        if isinstance(block, hub.Thinking):
            opened.thoughts.add(text)
            return self._chunk(opened.choice, {"reasoning_content": text})
        return self._chunk(opened.choice, {"refusal": text})

    def start(self, event: hub.Start) -> bytes:
        context = self._context
        self._head = {"id": event.id or context.request_id, "object": "chat.completion.chunk"}
        self._head |= {"created": context.created, "model": context.name}
        return self._start_choice(0)

    def open(self, event: hub.Open) -> bytes:
        choice = event.choice
        role = b"" if choice in self._written else self._start_choice(choice)
        written = self._written[choice]
        opened = self._blocks[event.index] = _OpenBlock(event.block, choice, written, written.length)
        match event.block:
            case hub.ToolCall() as call:
                return role + self._open_call(opened, call)
            case hub.Media() as media:
                return role + self._image(opened, media)
        return role

    def _open_call(self, opened: _OpenBlock, call: hub.ToolCall) -> bytes:
        opened.call_number = opened.written.calls
        opened.written.calls += 1
        kind, blank = ("custom", "input") if call.is_custom else ("function", "arguments")
        fields = {"id": call.id, "type": kind, kind: {"name": call.name, blank: ""}}
        return self._call_chunk(opened, {**fields, **_signature_extra(call.signature)})

    def _image(self, opened: _OpenBlock, media: hub.Media) -> bytes:
        images = _write_image(media, opened.written.images, self._losses)
        opened.written.images += len(images)
        return self._chunk(opened.choice, {"images": images}) if images else b""

    def signed(self, event: hub.Signed) -> bytes:
        opened = self._blocks[event.index]
        match opened.block:
            case hub.ToolCall(is_custom=is_custom):
                # OpenAI's SDK requires the function in every delta of a call.
                fields = {"custom": {"input": ""}} if is_custom else {"function": {"arguments": ""}}
                return self._call_chunk(opened, {**fields, **_signature_extra(event.signature)})
            case hub.Thinking():
                detail = _detail(str(opened.thoughts), event.signature, opened.written.details)
                opened.written.details += 1
                return self._chunk(opened.choice, {"reasoning_details": [detail]})
        return b""

    def cited(self, event: hub.Cited) -> bytes:
        opened, chunks = self._blocks[event.index], b""
        written = opened.written
        for annotation in _write_citations((event.citation,), opened.start, written.length, self._losses):
            # OpenAI's SDK merges annotations of several deltas by this index.
            numbered = {**annotation, "index": written.annotations}
            chunks += self._chunk(opened.choice, {"annotations": [numbered]})
            written.annotations += 1
        return chunks

    def logprobs(self, event: hub.Logprobs) -> bytes:
        content = {"content": write_logprobs(event.logprobs), "refusal": None}
        return self._chunk(self._blocks[event.index].choice, {}, None, content)

    def close(self, event: hub.Close) -> bytes:
        opened = self._blocks.pop(event.index)
        block = opened.block
        if isinstance(block, hub.ToolCall) and not block.is_custom and not opened.has_arguments:
            return self._call_chunk(opened, {"function": {"arguments": "{}"}})
        return b""

    def finish(self, event: hub.Finish) -> bytes:
        role = b"" if event.choice in self._written else self._start_choice(event.choice)
        return role + self._chunk(event.choice, {}, STOPS_BACK[event.stop])

    def used(self, event: hub.Used) -> bytes:
        self._used = event
        return b""

    def end(self, event: hub.End) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self._context.wants_usage:
            return done
        tier = {"service_tier": self._used.tier} if self._used.tier else {}
        last = {**self._head, "choices": [], **tier, "usage": write_usage(self._used.usage)}
        return sse.event(orjson.dumps(last)) + done

    def failed(self, event: hub.Failed) -> bytes:
        return error_event(event.status, event.code, event.message, self._context.request_id)

    def _start_choice(self, choice: int) -> bytes:
        self._written[choice] = _Written()
        return self._chunk(choice, {"role": "assistant", "content": ""})

    def _chunk(self, choice: int, delta: dict, finish: str | None = None, logprobs: dict | None = None) -> bytes:
        entry = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return sse.event(orjson.dumps({**self._head, "choices": [entry]}))

    def _call_chunk(self, opened: _OpenBlock, fields: dict) -> bytes:
        return self._chunk(opened.choice, {"tool_calls": [{"index": opened.call_number, **fields}]})


def write_stream(events: Iterable[hub.Event | None], context: hub.Context, losses: Losses) -> Iterator[bytes]:
    """Returns the stream's events as bytes, b"" where no data is available yet."""
    return write_events(events, _StreamWriter(context, losses))
