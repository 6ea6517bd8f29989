"""Translates generateContent replies, whole and streamed, to and from the hub.

https://ai.google.dev/api/generate-content
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import orjson

from gproxy.protocols import hub, signatures, sse, validate
from gproxy.protocols.codec import bad_request_as_failed, write_events
from gproxy.protocols.custom_tools import as_arguments, free_text, is_custom
from gproxy.protocols.gemini_generate.passthrough import STATUSES, error_event, read_usage
from gproxy.protocols.losses import Losses

STOPS = {"STOP": "stop", "MAX_TOKENS": "length", "FINISH_REASON_UNSPECIFIED": "stop", "CONTINUATION": "length"}
FILTERED = frozenset(
    (
        "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "IMAGE_SAFETY", "MODEL_ARMOR",
        "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_OTHER", "NO_IMAGE", "ESCALATION", "OTHER",
    )
)  # fmt: skip
STOPS_BACK = {"stop": "STOP", "length": "MAX_TOKENS", "tools": "STOP", "filtered": "SAFETY"}
# Finish reasons of an unusable answer.
FAILED = frozenset(
    (
        "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE",
        "MALFORMED_RESPONSE",
    )
)  # fmt: skip
HTTP_STATUSES = {name: status for status, name in reversed(STATUSES.items())} | {"INTERNAL": 500, "ABORTED": 500}


def read_error(status: int, body: dict) -> tuple[int, str, str] | None:
    """Returns status, code and message of an error body or event, None when `body` has another shape."""
    inner = hub.as_object(body.get("error"))
    message, name, code = inner.get("message"), inner.get("status"), inner.get("code")
    if not isinstance(message, str):
        return None
    name = name if isinstance(name, str) and name else "INTERNAL"
    if status < 400:
        status = code if isinstance(code, int) and 400 <= code < 600 else HTTP_STATUSES.get(name, 500)
    return status, name, message


# -- reading -------------------------------------------------------------------------------------------------------


def read_reply(body: dict, context: hub.Context, losses: Losses) -> hub.Reply:
    """Returns the reply in the hub's types. Raises StreamFailed where the reply has an error or no usable answer."""
    return hub.fold(read_stream([body], context, losses))


class _CandidateReader:
    """Reads one candidate into events. A text arrives as several parts, a call as one."""

    def __init__(self, number: int, context: hub.Context, reply_id: str):
        self._number, self._context, self._reply_id = number, context, reply_id
        self._kind: type | None = None
        self._index = -1
        self._calls = 0
        self.stop: str | None = None
        self.message = ""  # the finish message
        self.grounding: dict = {}
        self.citations: list[hub.Citation] = []
        self._text = hub.TextBuffer()  # of all blocks: offsets of sources count over all of them
        self._start = 0  # of the open block, in characters

    def close(self) -> Iterator[hub.Event]:
        if self._kind is not None:
            yield hub.Close(self._index)
            self._kind = None

    def add_text(self, block: hub.Block, text: str, indexes: Iterator[int]) -> Iterator[hub.Event]:
        if type(block) is not self._kind:
            yield from self.close()
            self._kind, self._index, self._start = type(block), next(indexes), self._text.length
            yield hub.Open(self._index, block, self._number)
        if isinstance(block, hub.Text):
            self._text.add(text)
        if text:
            yield hub.Delta(self._index, text)

    def add_block(self, block: hub.Block, text: str, indexes: Iterator[int]) -> Iterator[hub.Event]:
        """Adds a block that arrives whole."""
        yield from self.close()
        index = next(indexes)
        yield hub.Open(index, block, self._number)
        if text:
            yield hub.Delta(index, text)
        yield hub.Close(index)

    def read(self, item: dict, indexes: Iterator[int], losses: Losses) -> Iterator[hub.Event]:
        signature = self._signature(item)
        match item:
            case {"functionCall": dict(call)}:
                yield from self._call(call, signature, indexes)
                return
            case {"text": str(text), "thought": True}:
                yield from self.add_text(hub.Thinking(""), text, indexes)
                if signature:
                    yield hub.Signed(self._index, signature)
                    yield from self.close()
                return
            case {"text": str(text)}:
                if text:
                    yield from self.add_text(hub.Text(""), text, indexes)
            case {"inlineData": dict(blob)}:
                media_type = blob.get("mimeType")
                media_type = media_type if isinstance(media_type, str) else None
                media = hub.Media(validate.media_kind(media_type, "file"), media_type, str(blob.get("data") or ""))
                yield from self.add_block(media, "", indexes)
            case {"executableCode": dict(code)}:
                losses.report("candidates.content.parts.executableCode")
                language = str(code.get("language") or "").lower()
                yield from self.add_text(
                    hub.Text(""), validate.CODE_BLOCK.format(language, code.get("code") or ""), indexes
                )
            case {"codeExecutionResult": dict(result)}:
                losses.report("candidates.content.parts.codeExecutionResult")
                yield from self.add_text(
                    hub.Text(""), validate.CODE_BLOCK.format("", result.get("output") or ""), indexes
                )
            case _:
                for name in item:
                    if name not in ("thoughtSignature", "thought", "text"):
                        losses.report(f"candidates.content.parts.{name}")
        if signature:
            yield from self.close()
            index = next(indexes)
            yield hub.Open(index, hub.Thinking(""), self._number)
            yield hub.Signed(index, signature)
            yield hub.Close(index)

    def _signature(self, item: dict) -> hub.Signature | None:
        value = item.get("thoughtSignature")
        return hub.Signature(self._context.provider, value) if isinstance(value, str) and value else None

    def _call(self, call: dict, signature: hub.Signature | None, indexes: Iterator[int]) -> Iterator[hub.Event]:
        name, call_id = str(call.get("name") or ""), call.get("id")
        if not isinstance(call_id, str) or not call_id:
            # Unique in a conversation: ids that repeat in later turns would pair results with the wrong calls.
            call_id = f"call_{self._reply_id}_{self._number}_{self._calls}"
        self._calls += 1
        arguments = validate.dumps(hub.as_object(call.get("args")))
        is_custom_tool = is_custom(name, self._context)
        text = free_text(arguments) if is_custom_tool else arguments
        yield from self.add_block(hub.ToolCall(call_id, name, "", is_custom_tool, signature), text, indexes)

    def finish(self) -> Iterator[hub.Event]:
        yield from self.close()
        stop = "filtered" if self.stop in FILTERED else STOPS.get(self.stop, "stop")
        yield hub.Finish("tools" if self._calls and stop == "stop" else stop, self._number)

    def add_logprobs(self, logprobs: tuple[hub.Logprob, ...], losses: Losses) -> Iterator[hub.Event]:
        if self._kind is hub.Text:
            yield hub.Logprobs(self._index, logprobs)
        else:
            losses.report("candidates.logprobsResult")  # no text is open

    def add_sources(self, losses: Losses) -> Iterator[hub.Event]:
        """Yields the sources when the text is complete: they come last, with byte offsets in all of the text."""
        encoded = str(self._text).encode()

        def in_block(offset: int) -> int:
            return len(encoded[:offset].decode("utf-8", "ignore")) - self._start

        for citation in (*self.citations, *_grounded(self.grounding)):
            end = None if citation.end is None else in_block(citation.end)
            if self._kind is not hub.Text or (end is not None and end <= 0):
                losses.report("candidates.groundingMetadata")  # its block is closed
                continue
            yield hub.Cited(self._index, replace(citation, start=max(0, in_block(citation.start or 0)), end=end))
        self.grounding, self.citations = {}, []


@bad_request_as_failed
def read_stream(
    payloads: Iterable[dict | hub.Failed | None], context: hub.Context, losses: Losses
) -> Iterator[hub.Event | None]:
    """Yields the hub's events of a stream. None, in and out, means that no data is available yet.

    Finish is yielded once per candidate, at the end: some models send STOP in every event.
    """
    candidates: dict[int, _CandidateReader] = {}
    indexes = iter(range(2**31))
    usage: dict = {}  # each event has the usage so far: the last one counts
    reply_id, blocked = "", ""
    is_started = False
    for payload in payloads:
        if payload is None:
            yield None
            continue
        if isinstance(payload, hub.Failed):
            yield payload
            return
        if payload.get("error"):
            yield hub.Failed(*(read_error(0, payload) or (500, "INTERNAL", "the upstream failed")))
            return
        if not is_started:
            is_started = True
            reply_id = str(payload.get("responseId") or context.request_id)
            yield hub.Start(reply_id, str(payload.get("modelVersion") or ""))
        for candidate in map(hub.as_object, hub.as_list(payload.get("candidates"))):
            number = candidate.get("index") if isinstance(candidate.get("index"), int) else 0
            if number not in candidates:
                candidates[number] = _CandidateReader(number, context, reply_id)
            yield from _read_candidate(candidate, candidates[number], indexes, losses)
        reason = hub.as_object(payload.get("promptFeedback")).get("blockReason")
        blocked = blocked or (reason if isinstance(reason, str) else "")
        usage = hub.as_object(payload.get("usageMetadata")) or usage
    for candidate in candidates.values():
        if candidate.stop in FAILED:
            yield from candidate.close()
            yield hub.Failed(
                502, candidate.stop, candidate.message or f"the model's answer is unusable: {candidate.stop}"
            )
            return
        yield from candidate.finish()
    if blocked and not candidates:
        yield hub.Open(0, hub.Refusal(""))
        yield hub.Delta(0, f"blocked_by_{blocked.lower()}")
        yield hub.Close(0)
        yield hub.Finish("filtered")
    elif not candidates:
        yield hub.Failed(502, "upstream_error", "the upstream sent no answer")
        return
    if usage:
        yield hub.Used(read_usage(usage))
    yield hub.End()


def _read_candidate(
    candidate: dict, reader: _CandidateReader, indexes: Iterator[int], losses: Losses
) -> Iterator[hub.Event]:
    before, after = _parts(candidate)
    for item in before:
        yield from reader.read(item, indexes, losses)
    yield from _read_annotations(candidate, reader, losses)
    for item in after:
        yield from reader.read(item, indexes, losses)


def _parts(candidate: dict) -> tuple[list[dict], list[dict]]:
    """Returns the parts up to the last text, to which the annotations of this event belong, and the parts after it."""
    parts: list[dict] = []
    for item in map(hub.as_object, hub.as_list(hub.as_object(candidate.get("content")).get("parts"))):
        if item.get("text") and item.get("thought") is not True and item.get("thoughtSignature"):
            parts += [{"text": item["text"]}, {"text": "", "thoughtSignature": item["thoughtSignature"]}]
        else:
            parts.append(item)
    texts = [i for i, item in enumerate(parts) if item.get("text") and item.get("thought") is not True]
    end = texts[-1] + 1 if texts else len(parts)
    return parts[:end], parts[end:]


def _read_annotations(candidate: dict, reader: _CandidateReader, losses: Losses) -> Iterator[hub.Event]:
    """Yields log-probabilities and sources of the text while it is open."""
    if "logprobsResult" in candidate and (logprobs := _logprobs(hub.as_object(candidate["logprobsResult"]))):
        yield from reader.add_logprobs(logprobs, losses)
    reader.grounding |= hub.as_object(candidate.get("groundingMetadata"))
    reader.citations += _citations(candidate)
    if isinstance(candidate.get("finishReason"), str):
        reader.stop, reader.message = candidate["finishReason"], _text(candidate.get("finishMessage")) or ""
        yield from reader.add_sources(losses)


def _citations(candidate: dict) -> Iterator[hub.Citation]:
    metadata = hub.as_object(candidate.get("citationMetadata"))
    for source in map(hub.as_object, hub.as_list(metadata.get("citationSources") or metadata.get("citations"))):
        if isinstance(source.get("uri"), str):
            start, end = source.get("startIndex"), source.get("endIndex")
            yield hub.Citation(source["uri"], _text(source.get("title")), None, _int(start) or 0, _int(end))


def _grounded(metadata: dict) -> Iterator[hub.Citation]:
    chunks = [hub.as_object(hub.as_object(chunk).get("web")) for chunk in hub.as_list(metadata.get("groundingChunks"))]
    for support in map(hub.as_object, hub.as_list(metadata.get("groundingSupports"))):
        segment = hub.as_object(support.get("segment"))
        for i in hub.as_list(support.get("groundingChunkIndices")):
            if isinstance(i, int) and 0 <= i < len(chunks) and isinstance(chunks[i].get("uri"), str):
                start, end = _int(segment.get("startIndex")) or 0, _int(segment.get("endIndex"))
                title, quote = _text(chunks[i].get("title")), _text(segment.get("text"))
                yield hub.Citation(chunks[i]["uri"], title, quote, start, end)


def _text(value) -> str | None:
    return value if isinstance(value, str) else None


def _int(value) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _logprobs(result: dict) -> tuple[hub.Logprob, ...]:
    tops = [hub.as_list(hub.as_object(top).get("candidates")) for top in hub.as_list(result.get("topCandidates"))]
    chosen = hub.as_list(result.get("chosenCandidates"))
    return tuple(
        hub.Logprob(one["token"], one["logProbability"], _alternatives(tops[i] if i < len(tops) else []))
        for i, one in enumerate(map(hub.as_object, chosen))
        if _is_logprob(one)
    )


def _is_logprob(one: dict) -> bool:
    return isinstance(one.get("token"), str) and isinstance(one.get("logProbability"), int | float)


def _alternatives(candidates: list) -> tuple[hub.Logprob, ...]:
    return tuple(
        hub.Logprob(one["token"], one["logProbability"]) for one in map(hub.as_object, candidates) if _is_logprob(one)
    )


# -- writing -------------------------------------------------------------------------------------------------------


def write_reply(reply: hub.Reply, context: hub.Context, losses: Losses) -> dict:
    candidates = []
    for number, answer in enumerate(reply.answers):
        parts: list[dict] = []
        sources: list[dict] = []
        length = 0
        for block in answer.blocks:
            parts += _write_block(block, context, losses)
            if isinstance(block, hub.Text):
                sources += [_source(citation, length, block.text, losses) for citation in block.citations]
                length += len(block.text.encode())
        sources = [source for source in sources if source]
        candidates.append(_candidate(number, parts, answer.stop, sources, answer.logprobs))
    blocked = _blocked(reply.answers)
    return {
        **({} if blocked else {"candidates": candidates}),
        **({"promptFeedback": {"blockReason": "OTHER"}} if blocked else {}),
        **_head(reply.id, context),
        "usageMetadata": write_usage(reply.usage or hub.Usage()),
    }


def _blocked(answers: tuple[hub.Answer, ...]) -> bool:
    """True for a filtered answer without any block, which this protocol reports as a blocked prompt."""
    return len(answers) == 1 and answers[0].stop == "filtered" and not answers[0].blocks


def _head(reply_id: str, context: hub.Context) -> dict:
    return {"modelVersion": context.name, "responseId": reply_id or context.request_id}


def write_usage(usage: hub.Usage) -> dict:
    prompt = usage.prompt_tokens
    written = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": usage.output_tokens - usage.reasoning_tokens,
        "totalTokenCount": prompt + usage.output_tokens,
    }
    if usage.cache_read_tokens:
        written["cachedContentTokenCount"] = usage.cache_read_tokens
    if usage.reasoning_tokens:
        written["thoughtsTokenCount"] = usage.reasoning_tokens
    return written


def _candidate(
    number: int, parts: list[dict], stop: str | None, sources: list[dict] = (), logprobs: tuple[hub.Logprob, ...] = ()
) -> dict:
    # Google's SDK treats a chat turn without parts as failed, and drops it.
    candidate: dict = {"content": {"role": "model", "parts": parts or [{"text": ""}]}, "index": number}
    if stop is not None:
        candidate["finishReason"] = STOPS_BACK[stop]
    if sources:
        candidate["citationMetadata"] = {"citationSources": list(sources)}
    if logprobs:
        candidate["logprobsResult"] = {
            "chosenCandidates": [_logprob(one) for one in logprobs],
            "topCandidates": [{"candidates": [_logprob(other) for other in one.top]} for one in logprobs],
        }
    return candidate


def _logprob(one: hub.Logprob) -> dict:
    return {"token": one.token, "logProbability": one.logprob}


def _source(citation: hub.Citation, start: int, text: str, losses: Losses) -> dict | None:
    """Returns a source with byte offsets in the whole candidate; a citation without offsets covers its block."""
    if citation.url is None:
        losses.lose("citations")
        return None
    first, last = (len(text[:offset].encode()) for offset in (citation.start or 0, citation.end))
    source = {"startIndex": start + first, "endIndex": start + last, "uri": citation.url}
    return {**source, "title": citation.title} if citation.title else source


def _write_block(block: hub.Block, context: hub.Context, losses: Losses) -> Iterator[dict]:
    match block:
        case hub.Text(text) | hub.Refusal(text):
            if text:
                yield {"text": text}
        case hub.Thinking(text, signature):
            wrapped = {"thoughtSignature": signatures.wrap(signature)} if signature else {}
            if text or wrapped:
                yield {"text": text, "thought": True, **wrapped}
        case hub.ToolCall():
            yield _write_call(block, context, losses)
        case hub.Media() if block.data:
            yield {"inlineData": {"mimeType": block.media_type or "application/octet-stream", "data": block.data}}
        case hub.Media(kind):
            losses.lose(kind)


def _write_call(block: hub.ToolCall, context: hub.Context, losses: Losses) -> dict:
    """Returns a part with the call and its signature, or an empty wrapping, which gproxy recognises in later turns."""
    text = as_arguments(block.arguments) if block.is_custom else block.arguments or "{}"
    arguments = validate.arguments_object(text, losses)
    wrapped = signatures.wrap(block.signature) if block.signature else signatures.wrap_empty(context.provider)
    call = {"id": block.id, "name": block.name, "args": arguments}
    return {"functionCall": call, "thoughtSignature": wrapped}


@dataclass(slots=True)
class _OpenBlock:
    """An open block of a choice; `text` is that of a text or a call so far."""

    block: hub.Block
    choice: int
    start: int  # in the text of its choice, in bytes
    text: hub.TextBuffer = field(default_factory=hub.TextBuffer)


class _StreamWriter:
    """Writes a stream as events, each with one candidate. A call is written when it is whole.

    The protocol has no end event: the last event has finish reasons and usage.
    """

    def __init__(self, context: hub.Context, losses: Losses):
        self._context, self._losses = context, losses
        self._head = _head("", context)
        self._blocks: dict[int, _OpenBlock] = {}
        self._lengths: dict[int, int] = {}  # of each choice's text, in bytes
        self._sources: dict[int, list[dict]] = {}  # by choice
        self._finished: dict[int, hub.Finish] = {}
        self._used = hub.Used(hub.Usage())
        self._has_content = False

    def delta(self, event: hub.Delta) -> bytes:
        opened, text = self._blocks[event.index], event.text
        block, choice = opened.block, opened.choice
        if isinstance(block, hub.ToolCall):
            opened.text.add(text)
            return b""
        self._has_content = True
        if isinstance(block, hub.Thinking):
            return self._chunk(choice, [{"text": text, "thought": True}])
        if isinstance(block, hub.Text):
            opened.text.add(text)
        self._lengths[choice] = self._lengths.get(choice, 0) + len(text.encode())
        return self._chunk(choice, [{"text": text}])

    def start(self, event: hub.Start) -> bytes:
        self._head = _head(event.id, self._context)
        return b""

    def open(self, event: hub.Open) -> bytes:
        block, choice = event.block, event.choice
        self._blocks[event.index] = _OpenBlock(block, choice, self._lengths.get(choice, 0))
        if not isinstance(block, hub.Media) or not (parts := list(_write_block(block, self._context, self._losses))):
            return b""
        self._has_content = True
        return self._chunk(choice, parts)

    def signed(self, event: hub.Signed) -> bytes:
        opened = self._blocks[event.index]
        if isinstance(opened.block, hub.ToolCall):
            opened.block = replace(opened.block, signature=event.signature)
            return b""
        part = {"text": "", "thought": True, "thoughtSignature": signatures.wrap(event.signature)}
        return self._chunk(opened.choice, [part])

    def cited(self, event: hub.Cited) -> bytes:
        opened = self._blocks[event.index]
        if source := _source(event.citation, opened.start, str(opened.text), self._losses):
            self._sources.setdefault(opened.choice, []).append(source)
        return b""

    def logprobs(self, event: hub.Logprobs) -> bytes:
        return self._chunk(self._blocks[event.index].choice, [], logprobs=event.logprobs)

    def close(self, event: hub.Close) -> bytes:
        opened = self._blocks.pop(event.index)
        if not isinstance(opened.block, hub.ToolCall):
            return b""
        self._has_content = True
        call = replace(opened.block, arguments=str(opened.text))
        return self._chunk(opened.choice, [_write_call(call, self._context, self._losses)])

    def finish(self, event: hub.Finish) -> bytes:
        self._finished[event.choice] = event
        return b""

    def used(self, event: hub.Used) -> bytes:
        self._used = event
        return b""

    def end(self, event: hub.End) -> bytes:
        finished = self._finished
        is_blocked = not self._has_content and len(finished) == 1 and finished[min(finished)].stop == "filtered"
        body: dict = {"promptFeedback": {"blockReason": "OTHER"}} if is_blocked else {}
        if not is_blocked:
            choices = sorted(finished)
            body["candidates"] = [_candidate(n, [], finished[n].stop, self._sources.get(n, ())) for n in choices]
        return sse.event(orjson.dumps({**body, **self._head, "usageMetadata": write_usage(self._used.usage)}))

    def failed(self, event: hub.Failed) -> bytes:
        return error_event(event.status, event.code, event.message, self._context.request_id)

    def _chunk(self, choice: int, parts: list[dict], logprobs: tuple[hub.Logprob, ...] = ()) -> bytes:
        candidate = _candidate(choice, parts, None, logprobs=logprobs)
        return sse.event(orjson.dumps({"candidates": [candidate], **self._head}))


def write_stream(events: Iterable[hub.Event | None], context: hub.Context, losses: Losses) -> Iterator[bytes]:
    """Returns the stream's events as bytes, b"" where no data is available yet."""
    return write_events(events, _StreamWriter(context, losses))
