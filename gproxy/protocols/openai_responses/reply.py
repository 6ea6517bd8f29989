"""Responses replies, whole and streamed, to and from the hub.

https://platform.openai.com/docs/api-reference/responses-streaming
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import orjson

from gproxy.protocols import signatures, sse
from gproxy.protocols.custom_tools import free_text, is_custom
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
    Logprob,
    Logprobs,
    Media,
    Open,
    Refusal,
    Reply,
    Signature,
    Signed,
    Start,
    StreamFailed,
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
from gproxy.protocols.openai_responses.request import qualified

REASONS = {"max_output_tokens": "length", "max_messages": "length", "content_filter": "filtered"}
REASONS_BACK = {"length": "max_output_tokens", "filtered": "content_filter"}
# What a response repeats of its request, and what it says where the request said nothing.
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


def read_reply(body: dict, context: Context, losses: Losses) -> Reply:
    if body.get("status") == "failed":
        raise StreamFailed(Failed(*_failure(body)))
    blocks: list[Block] = []
    logprobs: list[Logprob] = []
    for item in as_list(body.get("output")):
        blocks += _read_item(as_object(item), context, losses, logprobs)
    usage = as_object(body.get("usage"))
    used = read_usage(usage) if usage else None
    answer = Answer(tuple(blocks), _stop(body, blocks), None, tuple(logprobs))
    tier = read_tier(body)
    return Reply(str(body.get("id") or ""), str(body.get("model") or ""), (answer,), used, tier)


def _failure(response: dict) -> tuple[int, str, str]:
    return read_error(0, response) or (500, "server_error", "the upstream failed")


def _stop(response: dict, blocks: Iterable[Block]) -> str:
    reason = as_object(response.get("incomplete_details")).get("reason")
    if response.get("status") == "incomplete":
        return REASONS.get(str(reason), "length")
    return "tools" if any(isinstance(block, ToolCall) for block in blocks) else "stop"


def _read_item(item: dict, context: Context, losses: Losses, logprobs: list[Logprob]) -> Iterator[Block]:
    match item.get("type"):
        case "message":
            for piece in map(as_object, as_list(item.get("content"))):
                logprobs += read_logprobs(piece.get("logprobs"))
                yield from _read_piece(piece, losses)
        case "reasoning":
            texts = [
                as_object(piece).get("text") for piece in as_list(item.get("summary")) or as_list(item.get("content"))
            ]
            text = "\n".join(text for text in texts if isinstance(text, str))
            signature = _sealed(item, context)
            if text or signature:
                yield Thinking(text, signature)
        case "function_call" | "custom_tool_call":
            yield _read_call(item, context)
        case "image_generation_call":
            yield from _read_image(item)
        case kind:
            losses.report(f"output.{kind}")


def _read_piece(piece: dict, losses: Losses) -> Iterator[Block]:
    if piece.get("type") == "refusal":
        yield Refusal(str(piece.get("refusal") or ""))
    elif isinstance(piece.get("text"), str) and piece["text"]:
        annotations = as_list(piece.get("annotations"))
        citations = tuple(found for annotation in annotations if (found := read_citation(annotation)))
        if len(citations) < len(annotations):
            losses.report("output.content.annotations")
        yield Text(piece["text"], citations)


def _read_call(item: dict, context: Context) -> ToolCall:
    call_id, name = str(item.get("call_id") or item.get("id") or ""), str(item.get("name") or "")
    if item.get("type") == "custom_tool_call":
        return ToolCall(call_id, name, str(item.get("input") or ""), is_custom=True)
    arguments = str(item.get("arguments") or "")
    if is_custom(name, context):
        return ToolCall(call_id, name, free_text(arguments), is_custom=True)
    return ToolCall(call_id, name, arguments or "{}")


def _read_image(item: dict) -> Iterator[Block]:
    """Some finished images still say that they are being generated."""
    if isinstance(item.get("result"), str):
        yield Media("image", f"image/{item.get('output_format') or 'png'}", item["result"])


def _sealed(item: dict, context: Context) -> Signature | None:
    sealed = item.get("encrypted_content")
    if not isinstance(sealed, str) or not sealed:
        return None
    return Signature(context.provider, f"{item.get('id') or ''}:{sealed}")


def _number(event: dict, name: str) -> int | None:
    return event[name] if isinstance(event.get(name), int) else None


class _Line:
    """Blocks one after another: what comes of a later one waits until those before it are closed."""

    def __init__(self):
        self._waiting: dict[object, list[Event]] = {}  # by block, in order; the first one never waits
        self._open: set[object] = set()

    def put(self, key: object, event: Event) -> Iterator[Event]:
        self._waiting.setdefault(key, [])
        if isinstance(event, Open):
            self._open.add(key)
        if next(iter(self._waiting)) != key:
            self._waiting[key].append(event)
            if isinstance(event, Close):
                self._open.discard(key)
            return
        yield event
        if not isinstance(event, Close):
            return
        self._open.discard(key)
        del self._waiting[key]
        while self._waiting:
            first = next(iter(self._waiting))
            yield from self._waiting[first]
            if first in self._open:
                self._waiting[first] = []
                return
            del self._waiting[first]

    def has(self, key: object) -> bool:
        return key in self._open


@dataclass(slots=True)
class _Item:
    """One output item on its way."""

    blocks: dict[object, int] = field(default_factory=dict)  # part -> the hub's index
    told: set = field(default_factory=set)  # parts of which a delta came
    summaries: set = field(default_factory=set)
    call: ToolCall | None = None
    pieces: TextBuffer = field(default_factory=TextBuffer)  # of a custom tool's input
    is_done: bool = False


class _Reader:
    def __init__(self, context: Context, losses: Losses):
        self._context, self._losses = context, losses
        self._items: dict[object, _Item] = {}
        self._line = _Line()
        self._count = 0
        self._calls = 0

    def item(self, event: dict) -> tuple[object, _Item]:
        at = event.get("output_index")
        at = at if isinstance(at, int) else 0
        return at, self._items.setdefault(at, _Item())

    def open(self, at: object, item: _Item, piece: object, block: Block) -> Iterator[Event]:
        if piece not in item.blocks:
            item.blocks[piece] = self._count
            self._count += 1
            yield from self._line.put((at, piece), Open(item.blocks[piece], block))

    def write(self, at: object, item: _Item, piece: object, block: Block, text: str) -> Iterator[Event]:
        yield from self.open(at, item, piece, block)
        if text and self._line.has((at, piece)):
            yield from self._line.put((at, piece), Delta(item.blocks[piece], text))

    def close(self, at: object, item: _Item, piece: object) -> Iterator[Event]:
        if self._line.has((at, piece)):
            yield from self._line.put((at, piece), Close(item.blocks[piece]))

    def note(self, at: object, item: _Item, piece: object, make) -> Iterator[Event]:
        yield from self.open(at, item, piece, Text(""))
        if self._line.has((at, piece)):
            yield from self._line.put((at, piece), make(item.blocks[piece]))

    def added(self, event: dict) -> Iterator[Event]:
        at, item = self.item(event)
        raw = as_object(event.get("item"))
        if raw.get("type") in ("function_call", "custom_tool_call"):
            call = _read_call({**raw, "arguments": "", "input": ""}, self._context)
            item.call = replace(call, arguments="")
            self._calls += 1
            yield from self.open(at, item, "call", item.call)

    def called(self, event: dict, text: object, is_whole: bool) -> Iterator[Event]:
        """Arguments of a call: deltas, or all of them where none came."""
        at, item = self.item(event)
        if item.call is None or not isinstance(text, str) or (is_whole and "call" in item.told):
            return
        item.told.add("call")
        if item.call.is_custom and not str(event.get("type")).startswith("response.custom"):
            item.pieces.add(text)
        else:
            yield from self.write(at, item, "call", item.call, text)

    def said(self, event: dict, block: Block, text: object, is_whole: bool) -> Iterator[Event]:
        at, item = self.item(event)
        piece = _number(event, "content_index")
        if isinstance(text, str) and not (is_whole and piece in item.told) and text:
            item.told.add(piece)
            yield from self.write(at, item, piece, block, text)
        if isinstance(block, Text) and (found := read_logprobs(event.get("logprobs"))) and not is_whole:
            yield from self.note(at, item, piece, lambda index: Logprobs(index, found))

    def thought(self, event: dict, text: object, is_whole: bool) -> Iterator[Event]:
        at, item = self.item(event)
        number = (_number(event, "summary_index"), _number(event, "content_index"))
        if not isinstance(text, str) or (is_whole and number in item.told) or not text:
            return
        if item.summaries and number not in item.summaries:
            yield from self.write(at, item, "thinking", Thinking(""), "\n")
        item.summaries.add(number)
        item.told.add(number)
        yield from self.write(at, item, "thinking", Thinking(""), text)

    def cited(self, event: dict) -> Iterator[Event]:
        at, item = self.item(event)
        if (citation := read_citation(event.get("annotation"))) is None:
            self._losses.report("output.content.annotations")
            return
        yield from self.note(at, item, _number(event, "content_index"), lambda index: Cited(index, citation))

    def done(self, event: dict) -> Iterator[Event]:
        """The end of an item, with all that was not told before."""
        at, item = self.item(event)
        raw = as_object(event.get("item"))
        if item.is_done:
            return
        item.is_done = True
        match raw.get("type"):
            case "message":
                for number, piece in enumerate(map(as_object, as_list(raw.get("content")))):
                    yield from self._finish_piece(at, item, number, piece)
            case "reasoning":
                yield from self._finish_thinking(at, item, raw)
            case "function_call" | "custom_tool_call":
                yield from self._finish_call(at, item, raw)
            case "image_generation_call":
                for media in _read_image(raw):
                    yield from self.open(at, item, "image", media)
            case kind:
                self._losses.report(f"output.{kind}")
        for piece in list(item.blocks):
            yield from self.close(at, item, piece)

    def _finish_piece(self, at: object, item: _Item, number: int, piece: dict) -> Iterator[Event]:
        if number in item.told:
            return
        for block in _read_piece(piece, self._losses):
            yield from self.write(at, item, number, replace(block, text=""), block.text)

    def _finish_thinking(self, at: object, item: _Item, raw: dict) -> Iterator[Event]:
        for thinking in _read_item(raw, self._context, self._losses, []):
            text = "" if item.summaries else thinking.text
            yield from self.write(at, item, "thinking", Thinking(""), text)
            if thinking.signature and self._line.has((at, "thinking")):
                signed = Signed(item.blocks["thinking"], thinking.signature)
                yield from self._line.put((at, "thinking"), signed)

    def _finish_call(self, at: object, item: _Item, raw: dict) -> Iterator[Event]:
        call = _read_call(raw, self._context)
        if item.call is None:
            item.call = replace(call, arguments="")
            self._calls += 1
        if item.pieces.length:
            yield from self.write(at, item, "call", item.call, free_text(str(item.pieces)))
        elif "call" not in item.told:
            yield from self.write(at, item, "call", item.call, call.arguments)

    def finished(self, response: dict) -> Iterator[Event]:
        for at, raw in enumerate(as_list(response.get("output"))):
            yield from self.done({"output_index": at, "item": raw})
        for at, item in self._items.items():
            for piece in list(item.blocks):
                yield from self.close(at, item, piece)
        stop = _stop(response, ())
        yield Finish("tools" if stop == "stop" and self._calls else stop)
        usage = as_object(response.get("usage"))
        if usage:
            yield Used(read_usage(usage), read_tier(response))
        yield End()


def read_stream(payloads: Iterable[dict | Failed | None], context: Context, losses: Losses) -> Iterator[Event | None]:
    """Events of a stream's documents. None, in and out, says that nothing more has arrived yet."""
    reader = _Reader(context, losses)
    is_started = False
    for payload in payloads:
        if payload is None:
            yield None
            continue
        if isinstance(payload, Failed):
            yield payload
            return
        if not is_started and str(payload.get("type")).startswith("response."):
            is_started = True
            response = as_object(payload.get("response"))
            yield Start(str(response.get("id") or ""), str(response.get("model") or ""))
        match payload.get("type"):
            case "response.output_text.delta":
                yield from reader.said(payload, Text(""), payload.get("delta"), False)
            case "response.output_text.done":
                yield from reader.said(payload, Text(""), payload.get("text"), True)
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                yield from reader.called(payload, payload.get("delta"), False)
            case "response.function_call_arguments.done":
                yield from reader.called(payload, payload.get("arguments"), True)
            case "response.custom_tool_call_input.done":
                yield from reader.called(payload, payload.get("input"), True)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                yield from reader.thought(payload, payload.get("delta"), False)
            case "response.reasoning_summary_text.done" | "response.reasoning_text.done":
                yield from reader.thought(payload, payload.get("text"), True)
            case "response.refusal.delta":
                yield from reader.said(payload, Refusal(""), payload.get("delta"), False)
            case "response.refusal.done":
                yield from reader.said(payload, Refusal(""), payload.get("refusal"), True)
            case "response.output_text.annotation.added":
                yield from reader.cited(payload)
            case "response.output_item.added":
                yield from reader.added(payload)
            case "response.output_item.done":
                yield from reader.done(payload)
            case "response.completed" | "response.incomplete":
                yield from reader.finished(as_object(payload.get("response")))
                return
            case "response.failed":
                response = as_object(payload.get("response"))
                yield Failed(*_failure(response))
                return
            case "error":
                yield Failed(*_failure(payload))
                return


# -- writing -------------------------------------------------------------------------------------------------------


def write_reply(reply: Reply, context: Context, losses: Losses) -> dict:
    answer = reply.answers[0] if reply.answers else Answer((), "stop")
    if len(reply.answers) > 1:
        losses.lose("n")
    writer = _Writer(reply.id, context, losses)
    logprobs = answer.logprobs
    for block in answer.blocks:
        writer.add(block, logprobs if isinstance(block, Text) else ())
        logprobs = () if isinstance(block, Text) else logprobs
    return writer.response(answer.stop, reply.usage, reply.tier)


def write_usage(usage: Usage) -> dict:
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


def _spaces(tools: object) -> Iterator[tuple[str, dict]]:
    """The client's own name and namespace of each tool that we know by one name."""
    for space in map(as_object, as_list(tools)):
        if space.get("type") == "namespace":
            for tool in map(as_object, as_list(space.get("tools"))):
                name = str(tool.get("name"))
                yield qualified(space.get("name"), name), {"name": name, "namespace": space.get("name")}


class _Writer:
    """The response so far: `items` are finished, or will be before it is told as a whole."""

    def __init__(self, reply_id: str, context: Context, losses: Losses):
        base = reply_id or context.request_id
        self.id = base if base.startswith("resp_") else f"resp_{base}"
        self._base, self._context, self._losses = base, context, losses
        self._spaces = dict(_spaces(context.body.get("tools")))
        self.items: list[dict] = []

    def name(self, kind: str) -> str:
        return f"{kind}_{self._base}_{len(self.items)}"

    def add(self, block: Block, logprobs: tuple[Logprob, ...] = ()) -> None:
        match block:
            case Text() | Refusal():
                if not self.items or self.items[-1]["type"] != "message":
                    self.items.append(self.message())
                self.items[-1]["content"].append(self.content(block, logprobs))
            case Thinking(text, signature):
                self.items.append(self.reasoning(text, signature))
            case ToolCall():
                if block.signature:
                    self.items.append(self.reasoning("", block.signature))
                self.items.append(self.call(block, "completed"))
            case Media():
                if (item := self.image(block)) is not None:
                    self.items.append(item)

    def message(self, status: str = "completed") -> dict:
        return {"type": "message", "id": self.name("msg"), "role": "assistant", "status": status, "content": []}

    def content(self, block: Block, logprobs: tuple[Logprob, ...] = ()) -> dict:
        if isinstance(block, Refusal):
            return {"type": "refusal", "refusal": block.text}
        told = [self.citation(citation, len(block.text)) for citation in block.citations]
        annotations = [written for written in told if written]
        return {
            "type": "output_text",
            "text": block.text,
            "annotations": annotations,
            "logprobs": write_logprobs(logprobs),
        }

    def citation(self, citation: Citation, length: int) -> dict | None:
        whole = replace(citation, end=length if citation.end is None else citation.end)
        if (written := write_citation(whole)) is None:
            self._losses.lose("citations")
            return None
        return {"type": "url_citation", **written}

    def reasoning(self, text: str, signature: Signature | None) -> dict:
        summary = [{"type": "summary_text", "text": text}] if text else []
        item = {"type": "reasoning", "id": self.name("rs"), "summary": summary}
        sealed = signatures.wrap(signature) if signature else signatures.wrap_empty(self._context.provider)
        return {**item, "encrypted_content": sealed}

    def call(self, block: ToolCall, status: str) -> dict:
        named = self._spaces.get(block.name) or {"name": block.name}
        if block.is_custom:
            item = {"type": "custom_tool_call", "id": self.name("ctc"), "call_id": block.id}
            return {**item, **named, "input": block.arguments, "status": status}
        arguments = block.arguments or ("{}" if status == "completed" else "")
        item = {"type": "function_call", "id": self.name("fc"), "call_id": block.id}
        return {**item, **named, "arguments": arguments, "status": status}

    def image(self, block: Media) -> dict | None:
        if block.kind != "image" or not block.data:
            self._losses.lose(block.kind)
            return None
        form = (block.media_type or "image/png").partition("/")[2]
        item = {"type": "image_generation_call", "id": self.name("ig"), "status": "completed"}
        return {**item, "result": block.data, "output_format": form}

    def response(self, stop: str | None, usage: Usage | None = None, tier: str | None = None) -> dict:
        """`stop` is None while it still runs."""
        reason = REASONS_BACK.get(stop)
        status = "in_progress" if stop is None else "incomplete" if reason else "completed"
        asked = self._context.body
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._context.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": self._context.name,
            "output": self.items if stop else [],
            **{name: default if asked.get(name) is None else asked[name] for name, default in ECHOES.items()},
            "service_tier": tier or "default",
            "usage": write_usage(usage or Usage()) if stop else None,
        }


class _Events:
    """One item after another as events, each with its number."""

    def __init__(self, reply_id: str, context: Context, losses: Losses):
        self._context = context
        self.writer = _Writer(reply_id, context, losses)
        self.number = 0
        self.block: Block | None = None  # what is open, with the text so far in `pieces`
        self.pieces = TextBuffer()
        self.item: dict | None = None
        self.signature: Signature | None = None
        self.annotations: list[dict] = []
        self.logprobs: list[Logprob] = []

    def event(self, kind: str, **fields) -> bytes:
        data = {"type": kind, "sequence_number": self.number, **fields}
        self.number += 1
        return sse.event(orjson.dumps(data), kind)

    @property
    def at(self) -> dict:
        return {"item_id": self.item["id"], "output_index": len(self.writer.items)}

    @property
    def content_at(self) -> dict:
        return {**self.at, "content_index": len(self.item["content"])}

    def begun(self) -> bytes:
        response = self.writer.response(None)
        return self.event("response.created", response=response) + self.event("response.in_progress", response=response)

    def _add(self, item: dict) -> bytes:
        self.item = item
        return self.event("response.output_item.added", output_index=len(self.writer.items), item=item)

    def end_item(self, item: dict | None = None) -> bytes:
        """Ends the open item; `item` is how it looks when it is done."""
        if self.item is None:
            return b""
        done = item or {**self.item, "status": "completed"}
        told = self.event("response.output_item.done", output_index=len(self.writer.items), item=done)
        self.writer.items.append(done)
        self.item = None
        return told

    def alone(self, signature: Signature) -> bytes:
        """A reasoning item that only carries something for the next turn."""
        item = self.writer.reasoning("", signature)
        return self._add(item) + self.end_item(item)

    def open(self, block: Block) -> bytes:
        self.block, self.pieces, self.signature, self.annotations, self.logprobs = block, TextBuffer(), None, [], []
        if isinstance(block, Text | Refusal):
            told = b""
            if self.item is None:
                told = self._add(self.writer.message("in_progress"))
                self.item = {**self.item, "content": []}
            return told + self.event("response.content_part.added", **self.content_at, part=self.writer.content(block))
        told = self.end_item()
        match block:
            case Thinking():
                return told + self._add(self.writer.reasoning("", None))
            case ToolCall():
                if block.signature:
                    told += self.alone(block.signature)
                return told + self._add(self.writer.call(replace(block, arguments=""), "in_progress"))
            case Media():
                return told + self._image(block)
        return told

    def _image(self, block: Media) -> bytes:
        if (item := self.writer.image(block)) is None:
            return b""
        begun = {"type": item["type"], "id": item["id"], "status": "in_progress"}
        told = self._add(begun) + self.event("response.image_generation_call.completed", **self.at)
        return told + self.end_item(item)

    def delta(self, text: str) -> bytes:
        told = b""
        match self.block:
            case Text():
                told = self.event("response.output_text.delta", **self.content_at, delta=text, logprobs=[])
            case Refusal():
                told = self.event("response.refusal.delta", **self.content_at, delta=text)
            case Thinking():
                if not self.pieces.length:
                    blank = {"type": "summary_text", "text": ""}
                    told = self.event("response.reasoning_summary_part.added", **self.at, summary_index=0, part=blank)
                told += self.event("response.reasoning_summary_text.delta", **self.at, summary_index=0, delta=text)
            case ToolCall(is_custom=True):
                told = self.event("response.custom_tool_call_input.delta", **self.at, delta=text)
            case ToolCall():
                told = self.event("response.function_call_arguments.delta", **self.at, delta=text)
        self.pieces.add(text)
        return told

    def cite(self, citation: Citation) -> bytes:
        if (written := self.writer.citation(citation, self.pieces.length)) is None:
            return b""
        self.annotations.append(written)
        number = len(self.annotations) - 1
        fields = {"annotation_index": number, "annotation": written}
        return self.event("response.output_text.annotation.added", **self.content_at, **fields)

    def likely(self, logprobs: tuple[Logprob, ...]) -> bytes:
        self.logprobs += logprobs
        written = write_logprobs(logprobs)
        return self.event("response.output_text.delta", **self.content_at, delta="", logprobs=written)

    def close(self) -> bytes:
        text, block = str(self.pieces), self.block
        self.block = None
        match block:
            case Text() | Refusal():
                return self._close_content(replace(block, text=text))
            case Thinking():
                return self._close_thinking(text)
            case ToolCall():
                return self._close_call(block, text)
        return b""

    def _close_content(self, block: Text | Refusal) -> bytes:
        piece = self.writer.content(block, tuple(self.logprobs))
        if isinstance(block, Refusal):
            told = self.event("response.refusal.done", **self.content_at, refusal=block.text)
        else:
            piece["annotations"] = self.annotations
            written = piece["logprobs"]
            told = self.event("response.output_text.done", **self.content_at, text=block.text, logprobs=written)
        told += self.event("response.content_part.done", **self.content_at, part=piece)
        self.item["content"].append(piece)
        return told

    def _close_thinking(self, text: str) -> bytes:
        told = b""
        if text:
            done = {"type": "summary_text", "text": text}
            told = self.event("response.reasoning_summary_text.done", **self.at, summary_index=0, text=text)
            told += self.event("response.reasoning_summary_part.done", **self.at, summary_index=0, part=done)
        return told + self.end_item(self.writer.reasoning(text, self.signature))

    def _close_call(self, block: ToolCall, text: str) -> bytes:
        told = b""
        if not text and not block.is_custom:
            text = "{}"
            told = self.event("response.function_call_arguments.delta", **self.at, delta=text)
        kind = "custom_tool_call_input" if block.is_custom else "function_call_arguments"
        whole = {"input": text} if block.is_custom else {"arguments": text, "name": self.item["name"]}
        told += self.event(f"response.{kind}.done", **self.at, **whole)
        return told + self.end_item(self.writer.call(replace(block, arguments=text), "completed"))

    def ended(self, stop: str, usage: Usage, tier: str | None) -> bytes:
        told = self.end_item()
        response = self.writer.response(stop, usage, tier)
        return told + self.event(f"response.{response['status']}", response=response)

    def failed(self, status: int, code: str, message: str, is_started: bool) -> bytes:
        """A failed response and then an error: agents know the first, the SDKs raise on the second."""
        told = b""
        if is_started:
            error = {"code": code, "message": message}
            response = self.writer.response(None) | {"status": "failed", "error": error, "output": self.writer.items}
            told = self.event("response.failed", response=response)
        return told + error_event(status, code, message, self._context.request_id, self.number)


def write_stream(events: Iterable[Event | None], context: Context, losses: Losses) -> Iterator[bytes]:
    """The stream's events as bytes; empty ones where nothing more has arrived yet."""
    out, is_started = _Events("", context, losses), False
    shown: set[int] = set()  # blocks of the first choice
    finish, used = Finish("stop"), Used(Usage())
    for event in events:
        match event:
            case Delta(index, text) if index in shown:
                yield out.delta(text)
            case None:
                yield b""
            case Start(reply_id):
                out, is_started = _Events(reply_id, context, losses), True
                yield out.begun()
            case Open(choice=choice) | Finish(choice=choice) if choice:
                losses.lose("n")
            case Open(index, block):
                shown.add(index)
                yield out.open(block)
            case Signed(index, signature) if index in shown:
                out.signature = signature
            case Cited(index, citation) if index in shown:
                yield out.cite(citation)
            case Logprobs(index, logprobs) if index in shown and isinstance(out.block, Text):
                yield out.likely(logprobs)
            case Close(index) if index in shown:
                yield out.close()
            case Finish(choice=0):
                finish = event
            case Used():
                used = event
            case End():
                yield out.ended(finish.stop, used.usage, used.tier)
            case Failed(status, code, message):
                yield out.failed(status, code, message, is_started)
