"""Translates Responses replies, whole and streamed, to and from the hub.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import orjson

from gproxy.protocols import hub, signatures, sse
from gproxy.protocols.codec import write_events
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
from gproxy.protocols.openai_responses.passthrough import error_event
from gproxy.protocols.openai_responses.request import qualified_name

REASONS = {"max_output_tokens": "length", "max_messages": "length", "content_filter": "filtered"}
REASONS_BACK = {"length": "max_output_tokens", "filtered": "content_filter"}
# Request fields that a response repeats, with their defaults.
ECHOES = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": False,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


# -- reading -------------------------------------------------------------------------------------------------------


def read_reply(body: dict, context: hub.Context, losses: Losses) -> hub.Reply:
    """Returns the reply in the hub's types. Raises StreamFailed where the response failed."""
    if body.get("status") == "failed":
        raise hub.StreamFailed(hub.Failed(*_failure(body)))
    blocks: list[hub.Block] = []
    logprobs: list[hub.Logprob] = []
    for item in hub.as_list(body.get("output")):
        blocks += _read_item(hub.as_object(item), context, losses, logprobs)
    usage = hub.as_object(body.get("usage"))
    used = read_usage(usage) if usage else None
    answer = hub.Answer(tuple(blocks), _stop(body, blocks), None, tuple(logprobs))
    tier = read_tier(body)
    return hub.Reply(str(body.get("id") or ""), str(body.get("model") or ""), (answer,), used, tier)


def _failure(response: dict) -> tuple[int, str, str]:
    return read_error(0, response) or (500, "server_error", "the upstream failed")


def _stop(response: dict, blocks: Iterable[hub.Block]) -> str:
    reason = hub.as_object(response.get("incomplete_details")).get("reason")
    if response.get("status") == "incomplete":
        return REASONS.get(str(reason), "length")
    return "tools" if any(isinstance(block, hub.ToolCall) for block in blocks) else "stop"


def _read_item(item: dict, context: hub.Context, losses: Losses, logprobs: list[hub.Logprob]) -> Iterator[hub.Block]:
    match item.get("type"):
        case "message":
            for part in map(hub.as_object, hub.as_list(item.get("content"))):
                logprobs += read_logprobs(part.get("logprobs"))
                yield from _read_part(part, losses)
        case "reasoning":
            texts = [
                hub.as_object(part).get("text")
                for part in hub.as_list(item.get("summary")) or hub.as_list(item.get("content"))
            ]
            text = "\n".join(text for text in texts if isinstance(text, str))
            signature = _signature(item, context)
            if text or signature:
                yield hub.Thinking(text, signature)
        case "function_call" | "custom_tool_call":
            yield _read_call(item, context)
        case "image_generation_call":
            yield from _read_image(item)
        case kind:
            losses.report(f"output.{kind}")


def _read_part(part: dict, losses: Losses) -> Iterator[hub.Block]:
    if part.get("type") == "refusal":
        yield hub.Refusal(str(part.get("refusal") or ""))
    elif isinstance(part.get("text"), str) and part["text"]:
        annotations = hub.as_list(part.get("annotations"))
        citations = tuple(found for annotation in annotations if (found := read_citation(annotation)))
        if len(citations) < len(annotations):
            losses.report("output.content.annotations")
        yield hub.Text(part["text"], citations)


def _read_call(item: dict, context: hub.Context) -> hub.ToolCall:
    call_id, name = str(item.get("call_id") or item.get("id") or ""), str(item.get("name") or "")
    if item.get("type") == "custom_tool_call":
        return hub.ToolCall(call_id, name, str(item.get("input") or ""), is_custom=True)
    arguments = str(item.get("arguments") or "")
    if is_custom(name, context):
        return hub.ToolCall(call_id, name, free_text(arguments), is_custom=True)
    return hub.ToolCall(call_id, name, arguments or "{}")


def _read_image(item: dict) -> Iterator[hub.Block]:
    """Yields a generated image; `status` is not read, since some finished images still have `generating`."""
    if isinstance(item.get("result"), str):
        yield hub.Media("image", f"image/{item.get('output_format') or 'png'}", item["result"])


def _signature(item: dict, context: hub.Context) -> hub.Signature | None:
    encrypted = item.get("encrypted_content")
    if not isinstance(encrypted, str) or not encrypted:
        return None
    return hub.Signature(context.provider, f"{item.get('id') or ''}:{encrypted}")


def _int_or_none(event: dict, name: str) -> int | None:
    return event[name] if isinstance(event.get(name), int) else None


class _BlockQueue:
    """Puts blocks one after another: events of a later block wait until all earlier blocks are closed."""

    def __init__(self):
        self._pending: dict[object, list[hub.Event]] = {}  # by block, in order; events of the first never wait
        self._open: set[object] = set()

    def put(self, key: object, event: hub.Event) -> Iterator[hub.Event]:
        self._pending.setdefault(key, [])
        if isinstance(event, hub.Open):
            self._open.add(key)
        if next(iter(self._pending)) != key:
            self._pending[key].append(event)
            if isinstance(event, hub.Close):
                self._open.discard(key)
            return
        yield event
        if not isinstance(event, hub.Close):
            return
        self._open.discard(key)
        del self._pending[key]
        while self._pending:
            first = next(iter(self._pending))
            yield from self._pending[first]
            if first in self._open:
                self._pending[first] = []
                return
            del self._pending[first]

    def is_open(self, key: object) -> bool:
        return key in self._open


@dataclass(slots=True)
class _Item:
    """What was read of one output item.

    Its blocks have keys: a content index, "thinking", "call" or "image".
    """

    blocks: dict[object, int] = field(default_factory=dict)  # key -> the hub's index
    received: set = field(default_factory=set)  # keys and summary numbers with a delta
    summaries: set = field(default_factory=set)
    call: hub.ToolCall | None = None
    buffer: hub.TextBuffer = field(
        default_factory=hub.TextBuffer
    )  # input of a custom tool that gproxy declared as a function
    is_done: bool = False


class _Reader:
    """Reads the events of a stream, one method for each kind. `position` is the output index of an item."""

    def __init__(self, context: hub.Context, losses: Losses):
        self._context, self._losses = context, losses
        self._items: dict[object, _Item] = {}
        self._queue = _BlockQueue()
        self._block_count = 0
        self._call_count = 0

    def _item(self, event: dict) -> tuple[object, _Item]:
        position = event.get("output_index")
        position = position if isinstance(position, int) else 0
        return position, self._items.setdefault(position, _Item())

    def _open(self, position: object, item: _Item, key: object, block: hub.Block) -> Iterator[hub.Event]:
        if key not in item.blocks:
            item.blocks[key] = self._block_count
            self._block_count += 1
            yield from self._queue.put((position, key), hub.Open(item.blocks[key], block))

    def _add_delta(
        self, position: object, item: _Item, key: object, block: hub.Block, text: str
    ) -> Iterator[hub.Event]:
        yield from self._open(position, item, key, block)
        if text and self._queue.is_open((position, key)):
            yield from self._queue.put((position, key), hub.Delta(item.blocks[key], text))

    def _close(self, position: object, item: _Item, key: object) -> Iterator[hub.Event]:
        if self._queue.is_open((position, key)):
            yield from self._queue.put((position, key), hub.Close(item.blocks[key]))

    def _annotate(self, position: object, item: _Item, key: object, make: Callable) -> Iterator[hub.Event]:
        yield from self._open(position, item, key, hub.Text(""))
        if self._queue.is_open((position, key)):
            yield from self._queue.put((position, key), make(item.blocks[key]))

    def read_item_added(self, event: dict) -> Iterator[hub.Event]:
        position, item = self._item(event)
        raw = hub.as_object(event.get("item"))
        if raw.get("type") in ("function_call", "custom_tool_call"):
            call = _read_call({**raw, "arguments": "", "input": ""}, self._context)
            item.call = replace(call, arguments="")
            self._call_count += 1
            yield from self._open(position, item, "call", item.call)

    def read_arguments(self, event: dict, text: object, is_whole: bool) -> Iterator[hub.Event]:
        """Adds arguments of a call: deltas, or the whole text if no delta came."""
        position, item = self._item(event)
        if item.call is None or not isinstance(text, str) or (is_whole and "call" in item.received):
            return
        item.received.add("call")
        if item.call.is_custom and not str(event.get("type")).startswith("response.custom"):
            item.buffer.add(text)
        else:
            yield from self._add_delta(position, item, "call", item.call, text)

    def read_text(self, event: dict, block: hub.Block, text: object, is_whole: bool) -> Iterator[hub.Event]:
        """Adds text or refusal: deltas, or the whole text if no delta came."""
        position, item = self._item(event)
        key = _int_or_none(event, "content_index")
        if isinstance(text, str) and not (is_whole and key in item.received) and text:
            item.received.add(key)
            yield from self._add_delta(position, item, key, block, text)
        if isinstance(block, hub.Text) and (logprobs := read_logprobs(event.get("logprobs"))) and not is_whole:
            yield from self._annotate(position, item, key, lambda index: hub.Logprobs(index, logprobs))

    def read_thinking(self, event: dict, text: object, is_whole: bool) -> Iterator[hub.Event]:
        """Adds thinking: deltas, or the whole text if no delta came. Summaries are separated by a line break."""
        position, item = self._item(event)
        number = (_int_or_none(event, "summary_index"), _int_or_none(event, "content_index"))
        if not isinstance(text, str) or (is_whole and number in item.received) or not text:
            return
        if item.summaries and number not in item.summaries:
            yield from self._add_delta(position, item, "thinking", hub.Thinking(""), "\n")
        item.summaries.add(number)
        item.received.add(number)
        yield from self._add_delta(position, item, "thinking", hub.Thinking(""), text)

    def read_annotation(self, event: dict) -> Iterator[hub.Event]:
        position, item = self._item(event)
        if (citation := read_citation(event.get("annotation"))) is None:
            self._losses.report("output.content.annotations")
            return
        key = _int_or_none(event, "content_index")
        yield from self._annotate(position, item, key, lambda index: hub.Cited(index, citation))

    def read_item_done(self, event: dict) -> Iterator[hub.Event]:
        """Ends an item after adding what no earlier event contained."""
        position, item = self._item(event)
        raw = hub.as_object(event.get("item"))
        if item.is_done:
            return
        item.is_done = True
        match raw.get("type"):
            case "message":
                for number, part in enumerate(map(hub.as_object, hub.as_list(raw.get("content")))):
                    yield from self._finish_part(position, item, number, part)
            case "reasoning":
                yield from self._finish_thinking(position, item, raw)
            case "function_call" | "custom_tool_call":
                yield from self._finish_call(position, item, raw)
            case "image_generation_call":
                for media in _read_image(raw):
                    yield from self._open(position, item, "image", media)
            case kind:
                self._losses.report(f"output.{kind}")
        for key in list(item.blocks):
            yield from self._close(position, item, key)

    def _finish_part(self, position: object, item: _Item, number: int, part: dict) -> Iterator[hub.Event]:
        if number in item.received:
            return
        for block in _read_part(part, self._losses):
            yield from self._add_delta(position, item, number, replace(block, text=""), block.text)

    def _finish_thinking(self, position: object, item: _Item, raw: dict) -> Iterator[hub.Event]:
        for thinking in _read_item(raw, self._context, self._losses, []):
            text = "" if item.summaries else thinking.text
            yield from self._add_delta(position, item, "thinking", hub.Thinking(""), text)
            if thinking.signature and self._queue.is_open((position, "thinking")):
                signed = hub.Signed(item.blocks["thinking"], thinking.signature)
                yield from self._queue.put((position, "thinking"), signed)

    def _finish_call(self, position: object, item: _Item, raw: dict) -> Iterator[hub.Event]:
        call = _read_call(raw, self._context)
        if item.call is None:
            item.call = replace(call, arguments="")
            self._call_count += 1
        if item.buffer.length:
            yield from self._add_delta(position, item, "call", item.call, free_text(str(item.buffer)))
        elif "call" not in item.received:
            yield from self._add_delta(position, item, "call", item.call, call.arguments)

    def read_response_done(self, response: dict) -> Iterator[hub.Event]:
        for position, raw in enumerate(hub.as_list(response.get("output"))):
            yield from self.read_item_done({"output_index": position, "item": raw})
        for position, item in self._items.items():
            for key in list(item.blocks):
                yield from self._close(position, item, key)
        stop = _stop(response, ())
        yield hub.Finish("tools" if stop == "stop" and self._call_count else stop)
        usage = hub.as_object(response.get("usage"))
        if usage:
            yield hub.Used(read_usage(usage), read_tier(response))
        yield hub.End()


def read_stream(
    payloads: Iterable[dict | hub.Failed | None], context: hub.Context, losses: Losses
) -> Iterator[hub.Event | None]:
    """Yields the hub's events of a stream. None, in and out, means that no data is available yet."""
    reader = _Reader(context, losses)
    is_started = False
    for payload in payloads:
        if payload is None:
            yield None
            continue
        if isinstance(payload, hub.Failed):
            yield payload
            return
        if not is_started and str(payload.get("type")).startswith("response."):
            is_started = True
            response = hub.as_object(payload.get("response"))
            yield hub.Start(str(response.get("id") or ""), str(response.get("model") or ""))
        match payload.get("type"):
            case "response.output_text.delta":
                yield from reader.read_text(payload, hub.Text(""), payload.get("delta"), False)
            case "response.output_text.done":
                yield from reader.read_text(payload, hub.Text(""), payload.get("text"), True)
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                yield from reader.read_arguments(payload, payload.get("delta"), False)
            case "response.function_call_arguments.done":
                yield from reader.read_arguments(payload, payload.get("arguments"), True)
            case "response.custom_tool_call_input.done":
                yield from reader.read_arguments(payload, payload.get("input"), True)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                yield from reader.read_thinking(payload, payload.get("delta"), False)
            case "response.reasoning_summary_text.done" | "response.reasoning_text.done":
                yield from reader.read_thinking(payload, payload.get("text"), True)
            case "response.refusal.delta":
                yield from reader.read_text(payload, hub.Refusal(""), payload.get("delta"), False)
            case "response.refusal.done":
                yield from reader.read_text(payload, hub.Refusal(""), payload.get("refusal"), True)
            case "response.output_text.annotation.added":
                yield from reader.read_annotation(payload)
            case "response.output_item.added":
                yield from reader.read_item_added(payload)
            case "response.output_item.done":
                yield from reader.read_item_done(payload)
            case "response.completed" | "response.incomplete":
                yield from reader.read_response_done(hub.as_object(payload.get("response")))
                return
            case "response.failed":
                response = hub.as_object(payload.get("response"))
                yield hub.Failed(*_failure(response))
                return
            case "error":
                yield hub.Failed(*_failure(payload))
                return


# -- writing -------------------------------------------------------------------------------------------------------


def write_reply(reply: hub.Reply, context: hub.Context, losses: Losses) -> dict:
    answer = reply.answers[0] if reply.answers else hub.Answer((), "stop")
    if len(reply.answers) > 1:
        losses.lose("n")
    writer = _Writer(reply.id, context, losses)
    logprobs = answer.logprobs
    for block in answer.blocks:
        writer.add(block, logprobs if isinstance(block, hub.Text) else ())
        logprobs = () if isinstance(block, hub.Text) else logprobs
    return writer.response(answer.stop, reply.usage, reply.tier)


def write_usage(usage: hub.Usage) -> dict:
    prompt = usage.prompt_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_creation_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": prompt + usage.output_tokens,
    }


def _namespaced_tools(tools: object) -> Iterator[tuple[str, dict]]:
    """Yields the qualified name of each tool in a namespace with the client's own name and namespace of it."""
    for namespace in map(hub.as_object, hub.as_list(tools)):
        if namespace.get("type") == "namespace":
            for tool in map(hub.as_object, hub.as_list(namespace.get("tools"))):
                name = str(tool.get("name"))
                yield qualified_name(namespace.get("name"), name), {"name": name, "namespace": namespace.get("name")}


class _Writer:
    """Builds a response and its output items. `items` are the items so far."""

    def __init__(self, reply_id: str, context: hub.Context, losses: Losses):
        base = reply_id or context.request_id
        self.id = base if base.startswith("resp_") else f"resp_{base}"
        self._base, self._context, self._losses = base, context, losses
        self._namespaced_tools = dict(_namespaced_tools(context.body.get("tools")))
        self.items: list[dict] = []

    def item_id(self, kind: str) -> str:
        return f"{kind}_{self._base}_{len(self.items)}"

    def add(self, block: hub.Block, logprobs: tuple[hub.Logprob, ...] = ()) -> None:
        match block:
            case hub.Text() | hub.Refusal():
                if not self.items or self.items[-1]["type"] != "message":
                    self.items.append(self.message())
                self.items[-1]["content"].append(self.content(block, logprobs))
            case hub.Thinking(text, signature):
                self.items.append(self.reasoning(text, signature))
            case hub.ToolCall():
                if block.signature:
                    self.items.append(self.reasoning("", block.signature))
                self.items.append(self.call(block, "completed"))
            case hub.Media():
                if (item := self.image(block)) is not None:
                    self.items.append(item)

    def message(self, status: str = "completed") -> dict:
        return {"type": "message", "id": self.item_id("msg"), "role": "assistant", "status": status, "content": []}

    def content(self, block: hub.Block, logprobs: tuple[hub.Logprob, ...] = ()) -> dict:
        if isinstance(block, hub.Refusal):
            return {"type": "refusal", "refusal": block.text}
        written = [self.citation(citation, len(block.text)) for citation in block.citations]
        annotations = [annotation for annotation in written if annotation]
        return {
            "type": "output_text",
            "text": block.text,
            "annotations": annotations,
            "logprobs": write_logprobs(logprobs),
        }

    def citation(self, citation: hub.Citation, length: int) -> dict | None:
        """Returns an annotation, None without a URL; a citation without an end covers `length` characters."""
        with_end = replace(citation, end=length if citation.end is None else citation.end)
        if (written := write_citation(with_end)) is None:
            self._losses.lose("citations")
            return None
        return {"type": "url_citation", **written}

    def reasoning(self, text: str, signature: hub.Signature | None) -> dict:
        summary = [{"type": "summary_text", "text": text}] if text else []
        item = {"type": "reasoning", "id": self.item_id("rs"), "summary": summary}
        wrapped = signatures.wrap(signature) if signature else signatures.wrap_empty(self._context.provider)
        return {**item, "encrypted_content": wrapped}

    def call(self, block: hub.ToolCall, status: str) -> dict:
        names = self._namespaced_tools.get(block.name) or {"name": block.name}
        if block.is_custom:
            item = {"type": "custom_tool_call", "id": self.item_id("ctc"), "call_id": block.id}
            return {**item, **names, "input": block.arguments, "status": status}
        arguments = block.arguments or ("{}" if status == "completed" else "")
        item = {"type": "function_call", "id": self.item_id("fc"), "call_id": block.id}
        return {**item, **names, "arguments": arguments, "status": status}

    def image(self, block: hub.Media) -> dict | None:
        if block.kind != "image" or not block.data:
            self._losses.lose(block.kind)
            return None
        output_format = (block.media_type or "image/png").partition("/")[2]
        item = {"type": "image_generation_call", "id": self.item_id("ig"), "status": "completed"}
        return {**item, "result": block.data, "output_format": output_format}

    def response(self, stop: str | None, usage: hub.Usage | None = None, tier: str | None = None) -> dict:
        """Returns the response object. `stop` is None while the response is in progress."""
        reason = REASONS_BACK.get(stop)
        status = "in_progress" if stop is None else "incomplete" if reason else "completed"
        request = self._context.body
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._context.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": self._context.name,
            "output": self.items if stop else [],
            **{name: default if request.get(name) is None else request[name] for name, default in ECHOES.items()},
            "service_tier": tier or "default",
            "usage": write_usage(usage or hub.Usage()) if stop else None,
        }


class _StreamWriter:
    """Writes a stream as numbered events, one output item after another; choices after the first are a loss."""

    def __init__(self, context: hub.Context, losses: Losses):
        self._context, self._losses = context, losses
        self._writer = _Writer("", context, losses)
        self._is_started = False
        self._sequence_number = 0
        self._indexes: set[int] = set()  # the hub's indexes of the first choice's blocks
        self._item: dict | None = None  # the open item
        # The open block, its place in the open item, and what was received of it.
        self._block: hub.Block | None = None
        self._position: dict = {}
        self._text = hub.TextBuffer()
        self._signature: hub.Signature | None = None
        self._annotations: list[dict] = []
        self._logprobs: list[hub.Logprob] = []
        self._finish, self._used = hub.Finish("stop"), hub.Used(hub.Usage())

    def delta(self, event: hub.Delta) -> bytes:
        if event.index not in self._indexes:
            return b""
        text, position = event.text, self._position
        data = b""
        match self._block:
            case hub.Text():
                data = self._event("response.output_text.delta", **position, delta=text, logprobs=[])
            case hub.Refusal():
                data = self._event("response.refusal.delta", **position, delta=text)
            case hub.Thinking():
                data = self._thinking_delta(text)
            case hub.ToolCall(is_custom=True):
                data = self._event("response.custom_tool_call_input.delta", **position, delta=text)
            case hub.ToolCall():
                data = self._event("response.function_call_arguments.delta", **position, delta=text)
        self._text.add(text)
        return data

    def _thinking_delta(self, text: str) -> bytes:
        position, data = self._position, b""
        if not self._text.length:
            blank = {"type": "summary_text", "text": ""}
            data = self._event("response.reasoning_summary_part.added", **position, summary_index=0, part=blank)
        return data + self._event("response.reasoning_summary_text.delta", **position, summary_index=0, delta=text)

    def start(self, event: hub.Start) -> bytes:
        self._writer, self._is_started = _Writer(event.id, self._context, self._losses), True
        response = self._writer.response(None)
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def open(self, event: hub.Open) -> bytes:
        if event.choice:
            self._losses.lose("n")
            return b""
        self._indexes.add(event.index)
        self._block, self._text, self._signature = event.block, hub.TextBuffer(), None
        self._annotations, self._logprobs = [], []
        match event.block:
            case hub.Text() | hub.Refusal() as block:
                return self._open_content(block)
            case hub.Thinking():
                return self._end_item() + self._start_item(self._writer.reasoning("", None))
            case hub.ToolCall() as call:
                return self._end_item() + self._open_call(call)
            case hub.Media() as media:
                return self._end_item() + self._image(media)

    def _open_content(self, block: hub.Text | hub.Refusal) -> bytes:
        data = b""
        if self._item is None:
            data = self._start_item(self._writer.message("in_progress"))
            self._item = {**self._item, "content": []}
        self._position = {**self._item_position, "content_index": len(self._item["content"])}
        return data + self._event("response.content_part.added", **self._position, part=self._writer.content(block))

    def _open_call(self, call: hub.ToolCall) -> bytes:
        data = self._signature_item(call.signature) if call.signature else b""
        return data + self._start_item(self._writer.call(replace(call, arguments=""), "in_progress"))

    def _signature_item(self, signature: hub.Signature) -> bytes:
        """Writes a reasoning item that only carries a signature for the next turn."""
        item = self._writer.reasoning("", signature)
        return self._start_item(item) + self._end_item(item)

    def _image(self, media: hub.Media) -> bytes:
        if (item := self._writer.image(media)) is None:
            return b""
        data = self._start_item({"type": item["type"], "id": item["id"], "status": "in_progress"})
        data += self._event("response.image_generation_call.completed", **self._item_position)
        return data + self._end_item(item)

    def signed(self, event: hub.Signed) -> bytes:
        if event.index in self._indexes:
            self._signature = event.signature
        return b""

    def cited(self, event: hub.Cited) -> bytes:
        if event.index not in self._indexes:
            return b""
        if (annotation := self._writer.citation(event.citation, self._text.length)) is None:
            return b""
        self._annotations.append(annotation)
        fields = {"annotation_index": len(self._annotations) - 1, "annotation": annotation}
        return self._event("response.output_text.annotation.added", **self._position, **fields)

    def logprobs(self, event: hub.Logprobs) -> bytes:
        if event.index not in self._indexes or not isinstance(self._block, hub.Text):
            return b""
        self._logprobs += event.logprobs
        written = write_logprobs(event.logprobs)
        return self._event("response.output_text.delta", **self._position, delta="", logprobs=written)

    def close(self, event: hub.Close) -> bytes:
        if event.index not in self._indexes:
            return b""
        text, block = str(self._text), self._block
        self._block = None
        match block:
            case hub.Text() | hub.Refusal():
                return self._close_content(replace(block, text=text))
            case hub.Thinking():
                return self._close_thinking(text)
            case hub.ToolCall():
                return self._close_call(block, text)
        return b""

    def _close_content(self, block: hub.Text | hub.Refusal) -> bytes:
        part, position = self._writer.content(block, tuple(self._logprobs)), self._position
        if isinstance(block, hub.Refusal):
            data = self._event("response.refusal.done", **position, refusal=block.text)
        else:
            part["annotations"] = self._annotations
            logprobs = part["logprobs"]
            data = self._event("response.output_text.done", **position, text=block.text, logprobs=logprobs)
        data += self._event("response.content_part.done", **position, part=part)
        self._item["content"].append(part)
        return data

    def _close_thinking(self, text: str) -> bytes:
        data, position = b"", self._position
        if text:
            done = {"type": "summary_text", "text": text}
            data = self._event("response.reasoning_summary_text.done", **position, summary_index=0, text=text)
            data += self._event("response.reasoning_summary_part.done", **position, summary_index=0, part=done)
        return data + self._end_item(self._writer.reasoning(text, self._signature))

    def _close_call(self, call: hub.ToolCall, text: str) -> bytes:
        data, position = b"", self._position
        if not text and not call.is_custom:
            text = "{}"
            data = self._event("response.function_call_arguments.delta", **position, delta=text)
        kind = "custom_tool_call_input" if call.is_custom else "function_call_arguments"
        whole = {"input": text} if call.is_custom else {"arguments": text, "name": self._item["name"]}
        data += self._event(f"response.{kind}.done", **position, **whole)
        return data + self._end_item(self._writer.call(replace(call, arguments=text), "completed"))

    def finish(self, event: hub.Finish) -> bytes:
        if event.choice:
            self._losses.lose("n")
        else:
            self._finish = event
        return b""

    def used(self, event: hub.Used) -> bytes:
        self._used = event
        return b""

    def end(self, event: hub.End) -> bytes:
        data = self._end_item()
        response = self._writer.response(self._finish.stop, self._used.usage, self._used.tier)
        return data + self._event(f"response.{response['status']}", response=response)

    def failed(self, event: hub.Failed) -> bytes:
        """Writes a failed response, which agents wait for, and an error, on which the SDKs raise."""
        data = b""
        if self._is_started:
            error = {"code": event.code, "message": event.message}
            changed = {"status": "failed", "error": error, "output": self._writer.items}
            data = self._event("response.failed", response=self._writer.response(None) | changed)
        request_id = self._context.request_id
        return data + error_event(event.status, event.code, event.message, request_id, self._sequence_number)

    def _event(self, kind: str, **fields) -> bytes:
        data = {"type": kind, "sequence_number": self._sequence_number, **fields}
        self._sequence_number += 1
        return sse.event(orjson.dumps(data), kind)

    @property
    def _item_position(self) -> dict:
        return {"item_id": self._item["id"], "output_index": len(self._writer.items)}

    def _start_item(self, item: dict) -> bytes:
        self._item = item
        self._position = self._item_position
        return self._event("response.output_item.added", output_index=len(self._writer.items), item=item)

    def _end_item(self, item: dict | None = None) -> bytes:
        """Ends the open item if there is one. `item` is its final form where that is not the open item itself."""
        if self._item is None:
            return b""
        done = item or {**self._item, "status": "completed"}
        data = self._event("response.output_item.done", output_index=len(self._writer.items), item=done)
        self._writer.items.append(done)
        self._item = None
        return data


def write_stream(events: Iterable[hub.Event | None], context: hub.Context, losses: Losses) -> Iterator[bytes]:
    """Returns the stream's events as bytes, b"" where no data is available yet."""
    return write_events(events, _StreamWriter(context, losses))
