"""Gemini generateContent for the same-protocol lane: request heads, usage, streams, errors and model lists.

https://ai.google.dev/api/generate-content
"""

import msgspec
import orjson
from msgspec import Raw

from gproxy.protocols import hub, raw_json, sse
from gproxy.protocols.raw_json import ABSENT, NULLS
from gproxy.protocols.signatures import SKIP_VALIDATOR, is_wrapped
from gproxy.protocols.verdict import Verdict

NAME: str = "gemini"
WIRE_NAME: str = "gemini"
REQUEST_ID_HEADERS: tuple[str, ...] = ("x-request-id",)
MODEL_FIELD: str = "modelVersion"
LIST_QUERY: dict[str, str] = {"pageSize": "1000"}

UNFINISHED = (b"", b"null", b'"FINISH_REASON_UNSPECIFIED"', b'""')
# https://cloud.google.com/apis/design/errors
STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "RESOURCE_EXHAUSTED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "INVALID_ARGUMENT",
    408: "DEADLINE_EXCEEDED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def read_head(body: bytes) -> hub.RequestHead:
    """Returns the fields of a request body that routing and accounting need; the path has model and stream.

    Raises BadRequest.
    """
    fields = raw_json.split(body)
    config = _config(fields)
    return hub.RequestHead(
        None,
        False,
        True,
        None,
        fields,
        mode=_read_mode(fields),
        max_output=raw_json.positive_int(config, "maxOutputTokens", "max_output_tokens"),
        choices=raw_json.choice_count(config, "candidateCount", "candidate_count"),
    )


def _config(fields: raw_json.Fields) -> raw_json.Fields:
    config = next((fields[name] for name in ("generationConfig", "generation_config") if name in fields), None)
    return (raw_json.find(bytes(config)) or {}) if config is not None else {}


# https://ai.google.dev/gemini-api/docs/priority-inference
TIERS = {"standard": "default", "flex": "flex", "priority": "priority", "batch": "batch"}


def _tier(value: object) -> str:
    """Returns the tier of a value in any case, with or without the prefix of its enum; "" for any other value."""
    return TIERS.get(value.lower().removeprefix("service_tier_"), "") if isinstance(value, str) else ""


def _read_mode(fields: raw_json.Fields) -> str:
    for name in ("serviceTier", "service_tier"):
        if (tier := _tier(raw_json.value(fields, name) if name in fields else None)) not in ("", "default"):
            return tier
    return ""


# Fields in which bodies of token counts repeat the model of their path.
INNER_REQUESTS = ("generateContentRequest", "generate_content_request")


def outgoing(head: hub.RequestHead, body: bytes, model: str) -> bytes:
    """Returns the body unchanged, since the URL has the model; a model that the body repeats is replaced."""
    if not head.body.keys() & {"model", "requests", *INNER_REQUESTS}:
        return body
    name = Raw(raw_json.quoted(f"models/{model.removeprefix('models/')}"))
    fields = dict(head.body)
    for field in INNER_REQUESTS:
        if inner := raw_json.find(bytes(fields.get(field, ABSENT))):
            fields[field] = Raw(raw_json.join({**inner, "model": name}))
    if (requests := raw_json.find_list(bytes(fields.get("requests", ABSENT)))) is not None:
        renamed = [Raw(raw_json.join({**(raw_json.find(bytes(one)) or {}), "model": name})) for one in requests]
        fields["requests"] = Raw(raw_json.join(renamed))
    if "model" in fields:
        fields["model"] = name
    return raw_json.join(fields)


def without_wrapped_signatures(body: dict) -> dict:
    """Returns the body without signatures that gproxy wrapped: another provider made them.

    The first call of such a content gets SKIP_VALIDATOR instead, since newer models require a signature there.
    """
    for name in INNER_REQUESTS:
        if isinstance(body.get(name), dict):
            body = {**body, name: without_wrapped_signatures(body[name])}
    if not isinstance(body.get("contents"), list):
        return body
    contents = []
    for content in body["contents"]:
        parts = hub.as_object(content).get("parts")
        if isinstance(parts, list) and (stripped := [_without_wrapped_signature(part) for part in parts]) != parts:
            content = {**content, "parts": _skip_validator([part for part in stripped if part])}
            if not content["parts"]:
                continue
        contents.append(content)
    return {**body, "contents": contents}


SIGNATURES, CALLS = ("thoughtSignature", "thought_signature"), ("functionCall", "function_call")


def _without_wrapped_signature(part: object) -> object:
    """Returns the part without a wrapped signature, {} if nothing else is in it."""
    for name in SIGNATURES:
        if is_wrapped(hub.as_object(part).get(name)):
            remaining = {key: value for key, value in part.items() if key != name}
            return remaining if remaining.get("text") or remaining.keys() - {"text", "thought"} else {}
    return part


def _skip_validator(parts: list) -> list:
    """Returns the parts with SKIP_VALIDATOR in the first call if that has no signature."""
    first = next((i for i, part in enumerate(parts) if any(hub.as_object(part).get(name) for name in CALLS)), None)
    if first is None or any(parts[first].get(name) for name in SIGNATURES):
        return parts
    return [*parts[:first], {**parts[first], SIGNATURES[0]: SKIP_VALIDATOR}, *parts[first + 1 :]]


def read_whole(body: bytes) -> tuple[hub.Usage | None, raw_json.Fields | None]:
    """Returns the usage and the fields of a whole reply; the fields are None when it is not JSON."""
    fields = raw_json.find(body)
    usage = raw_json.inner_object(fields.get("usageMetadata", ABSENT)) if fields else None
    return (read_usage(usage, _calls(fields.get("candidates", ABSENT))) if usage else None), fields


# Lists of token counts by modality; those of the prompt include cached tokens.
PROMPT_DETAILS = ("promptTokensDetails", "toolUsePromptTokensDetails")
CACHED_DETAILS = ("cacheTokensDetails",)
REPLY_DETAILS = ("candidatesTokensDetails",)


def _tokens_of(modality: str, usage: dict, names: tuple[str, ...]) -> int:
    details = [hub.as_object(detail) for name in names for detail in hub.as_list(usage.get(name))]
    return sum(hub.as_count(detail.get("tokenCount")) for detail in details if detail.get("modality") == modality)


def read_usage(usage: dict, calls: tuple[tuple[str, int], ...] = ()) -> hub.Usage:
    """Returns the token counts of a usage block; `calls` of the vendor's tools are not in the block.

    Prompt counts include cached tokens; tokens of thoughts and of tool-use prompts are counted apart, and billed.
    """
    prompt = hub.as_count(usage.get("promptTokenCount")) + hub.as_count(usage.get("toolUsePromptTokenCount"))
    read = min(prompt, hub.as_count(usage.get("cachedContentTokenCount")))
    thoughts = hub.as_count(usage.get("thoughtsTokenCount"))
    fresh, output = prompt - read, hub.as_count(usage.get("candidatesTokenCount")) + thoughts
    cached_audio = min(read, _tokens_of("AUDIO", usage, CACHED_DETAILS))
    audio = min(fresh, max(0, _tokens_of("AUDIO", usage, PROMPT_DETAILS) - cached_audio))
    images = max(0, _tokens_of("IMAGE", usage, PROMPT_DETAILS) - _tokens_of("IMAGE", usage, CACHED_DETAILS))
    audio_output = min(output, _tokens_of("AUDIO", usage, REPLY_DETAILS))
    return hub.Usage(
        input_tokens=fresh,
        output_tokens=output,
        reasoning_tokens=thoughts,
        cache_read_tokens=read,
        audio_input_tokens=audio,
        image_input_tokens=min(fresh - audio, images),
        audio_output_tokens=audio_output,
        image_output_tokens=min(output - audio_output, _tokens_of("IMAGE", usage, REPLY_DETAILS)),
        audio_cache_read_tokens=cached_audio,
        tool_calls=calls,
        tier=_tier(usage.get("serviceTier")),
    )


def _error(status: int, code: str, message: str, request_id: str, retry_s: float | None = None) -> bytes:
    details = [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code, "domain": "gproxy"},
        {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": request_id},
    ]
    if retry_s is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_s:.3f}s"})
    name = STATUSES.get(status, "INTERNAL")
    return orjson.dumps({"error": {"code": status, "message": message, "status": name, "details": details}})


def write_error(status: int, code: str, message: str, request_id: str, retry_s: float | None = None) -> bytes:
    """Returns an error body. `retry_s` is the delay before a retry, which this protocol reports in the body."""
    return _error(status, code, message, request_id, retry_s)


def error_event(status: int, code: str, message: str, request_id: str) -> bytes:
    return sse.event(_error(status, code, message, request_id))


class _Part(msgspec.Struct):
    text: Raw = ABSENT
    functionCall: Raw = ABSENT


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct):
    index: int = 0
    content: _Content | None = None
    finishReason: Raw = ABSENT
    groundingMetadata: Raw = ABSENT


class _Chunk(msgspec.Struct):
    candidates: list[_Candidate] | None = None
    promptFeedback: Raw = ABSENT
    usageMetadata: Raw = ABSENT
    modelVersion: Raw = ABSENT
    error: Raw = ABSENT


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_candidates = msgspec.json.Decoder(list[_Candidate]).decode
# A reply counts as one search, whatever its number of queries: https://ai.google.dev/gemini-api/docs/google-search
SEARCHED = (("google_search", 1),)
_QUERIES = b'"webSearchQueries"'


def _calls(candidates: Raw) -> tuple[tuple[str, int], ...]:
    """Returns (tool, number of calls) of the vendor's own tools in a whole reply."""
    if _QUERIES not in (data := bytes(candidates)):
        return ()
    return SEARCHED if any(map(_is_searched, raw_json.try_decode(_decode_candidates, data) or ())) else ()


def _is_searched(candidate: _Candidate) -> bool:
    grounding = candidate.groundingMetadata
    return _QUERIES in bytes(grounding) and bool(hub.as_list(raw_json.inner_object(grounding).get("webSearchQueries")))


class Stream:
    """Reads the events of one Gemini stream on their way to the client and replaces the model name.

    `name` is the model name for the client, as JSON; None keeps the upstream's.
    """

    response_id: str | None = None  # the vendor stores no responses

    def __init__(self, name: bytes | None, head: hub.RequestHead):
        self._name = name
        self._usage = ABSENT  # of the newest event that has it; every event has it, so only the last one is decoded
        self.text_bytes = 0
        self.has_failed = False
        self._is_blocked = self._is_searched = False
        self._open: dict[int, bool] = {}  # candidate -> True until its finishReason came

    @property
    def usage(self) -> hub.Usage | None:
        usage = raw_json.inner_object(self._usage)
        return read_usage(usage, SEARCHED if self._is_searched else ()) if usage else None

    @property
    def is_terminal(self) -> bool:
        """True when every candidate has its finishReason, or the prompt was blocked."""
        return self._is_blocked or (bool(self._open) and not any(self._open.values()))

    def observe(self, data: bytes) -> tuple[bytes | None, Verdict]:
        """Returns the data for the client, None to drop the event, and the verdict on the stream."""
        chunk = raw_json.try_decode(_decode, data)
        if chunk is None:
            return data, Verdict.CONTINUES
        if bytes(chunk.error) not in NULLS:
            self.has_failed = True
            return data, Verdict.CONTINUES
        for candidate in chunk.candidates or ():
            self._read_candidate(candidate)
        if chunk.promptFeedback:
            self._is_blocked |= bool(raw_json.inner_object(chunk.promptFeedback).get("blockReason"))
        has_usage = bytes(chunk.usageMetadata) not in (*NULLS, b"{}")
        if has_usage:
            self._usage = Raw(bytes(chunk.usageMetadata))  # a copy: a slice would keep the whole event in memory
        if self._name is not None and chunk.modelVersion and bytes(chunk.modelVersion) != self._name:
            data = raw_json.with_model_name(data, "modelVersion", self._name)
        return data, Verdict.MAY_END if has_usage and self.is_terminal else Verdict.CONTINUES

    def _read_candidate(self, candidate: _Candidate) -> None:
        if bytes(candidate.finishReason) not in UNFINISHED:
            self._open[candidate.index] = False
        elif candidate.index not in self._open:
            self._open[candidate.index] = True
        self._is_searched |= _is_searched(candidate)
        for part in (candidate.content and candidate.content.parts) or ():
            self.text_bytes += max(0, len(part.text) - 2) + len(part.functionCall)

    def failure_events(self, status: int, code: str, message: str, request_id: str) -> list[bytes]:
        """Returns the events that report to the client that the stream broke off."""
        return [error_event(status, code, message, request_id)]

    def tail(self) -> bytes:
        """Returns what completes a clean end: nothing in this protocol."""
        return b""


def read_models(body: dict) -> list[hub.ModelCard]:
    cards = []
    # Vertex AI lists models of a publisher: cloud.google.com/vertex-ai/docs/reference/rest/v1beta1/publishers.models
    for item in hub.as_list(body.get("models")) or hub.as_list(body.get("publisherModels")):
        if isinstance(item, dict) and isinstance(item.get("name"), str):
            title = item.get("displayName")
            cards.append(
                hub.ModelCard(
                    id=item["name"].removeprefix("publishers/google/").removeprefix("models/"),
                    display_name=title if isinstance(title, str) else None,
                    owned_by="google",
                    raw=item,
                    protocol=NAME,
                )
            )
    return cards


def next_page(body: dict) -> dict[str, str] | None:
    """Returns the query of the next page, None after the last page."""
    token = body.get("nextPageToken")
    return {**LIST_QUERY, "pageToken": token} if isinstance(token, str) and token else None


def write_model(card: hub.ModelCard, name: str) -> dict:
    raw = card.raw if card.protocol == NAME and card.raw else {}
    defaults = {"displayName": card.display_name or name, "supportedGenerationMethods": ["generateContent"]}
    return {**defaults, **raw, "name": f"models/{name}", "baseModelId": name}


def write_models(cards: list[tuple[hub.ModelCard, str]]) -> dict:
    return {"models": [write_model(card, name) for card, name in cards]}
