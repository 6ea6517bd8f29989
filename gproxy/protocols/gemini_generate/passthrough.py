"""Gemini generateContent. https://ai.google.dev/api/generate-content"""

import msgspec
import orjson
from msgspec import Raw

from gproxy.protocols import raw_json, sse
from gproxy.protocols.hub import ModelCard, RequestHead, Usage, as_count, as_list, as_object
from gproxy.protocols.raw_json import ABSENT, NULLS
from gproxy.protocols.signatures import SKIP_VALIDATOR, is_wrapped
from gproxy.protocols.verdict import Verdict

NAME = "gemini"
WIRE_NAME = "gemini"
REQUEST_ID_HEADERS = ("x-request-id",)
MODEL_FIELD = "modelVersion"
LIST_QUERY = {"pageSize": "1000"}

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


def read_head(body: bytes) -> RequestHead:
    """What the body asks for; model and stream are told by the path. Raises BadRequest."""
    found = raw_json.split(body)
    config = _config(found)
    return RequestHead(
        None,
        False,
        True,
        None,
        found,
        mode=_read_mode(found),
        max_output=raw_json.positive_int(config, "maxOutputTokens", "max_output_tokens"),
        choices=raw_json.choice_count(config, "candidateCount", "candidate_count"),
    )


def _config(found: raw_json.Fields) -> raw_json.Fields:
    named = next((found[name] for name in ("generationConfig", "generation_config") if name in found), None)
    return (raw_json.find(bytes(named)) or {}) if named is not None else {}


# https://ai.google.dev/gemini-api/docs/priority-inference
TIERS = {"standard": "default", "flex": "flex", "priority": "priority", "batch": "batch"}


def _tier(told: object) -> str:
    """In any case, with or without the name of its kind in front."""
    return TIERS.get(told.lower().removeprefix("service_tier_"), "") if isinstance(told, str) else ""


def _read_mode(found: raw_json.Fields) -> str:
    for name in ("serviceTier", "service_tier"):
        if (tier := _tier(raw_json.value(found, name) if name in found else None)) not in ("", "default"):
            return tier
    return ""


# Where bodies of counts and embeddings repeat the model of their path.
NAMED = ("generateContentRequest", "generate_content_request")


def outgoing(asked: RequestHead, body: bytes, model: str) -> bytes:
    """The bytes as they are: the model goes into the URL. Where the body repeats it, it must be the same one."""
    if not asked.body.keys() & {"model", "requests", *NAMED}:
        return body
    name = Raw(raw_json.quoted(f"models/{model.removeprefix('models/')}"))
    found = dict(asked.body)
    for field in NAMED:
        if inner := raw_json.find(bytes(found.get(field, ABSENT))):
            found[field] = Raw(raw_json.join({**inner, "model": name}))
    if (requests := raw_json.find_list(bytes(found.get("requests", ABSENT)))) is not None:
        named = [Raw(raw_json.join({**(raw_json.find(bytes(one)) or {}), "model": name})) for one in requests]
        found["requests"] = Raw(raw_json.join(named))
    if "model" in found:
        found["model"] = name
    return raw_json.join(found)


def without_wrapped_signatures(body: dict) -> dict:
    """The body without envelopes of ours: what another provider sealed is nothing to this one.

    A content's first call gets the word that there is no signature, since newer models insist on something.
    """
    for name in NAMED:
        if isinstance(body.get(name), dict):
            body = {**body, name: without_wrapped_signatures(body[name])}
    if not isinstance(body.get("contents"), list):
        return body
    contents = []
    for content in body["contents"]:
        parts = as_object(content).get("parts")
        if isinstance(parts, list) and (kept := [_unsealed_part(one) for one in parts]) != parts:
            content = {**content, "parts": _excused([one for one in kept if one])}
            if not content["parts"]:
                continue
        contents.append(content)
    return {**body, "contents": contents}


SIGNATURES, CALLS = ("thoughtSignature", "thought_signature"), ("functionCall", "function_call")


def _unsealed_part(one: object) -> object:
    for name in SIGNATURES:
        if is_wrapped(as_object(one).get(name)):
            rest = {key: value for key, value in one.items() if key != name}
            return rest if rest.get("text") or rest.keys() - {"text", "thought"} else {}
    return one


def _excused(parts: list) -> list:
    """The parts with a word for the signature that their first call lacks."""
    first = next((i for i, one in enumerate(parts) if any(as_object(one).get(name) for name in CALLS)), None)
    if first is None or any(parts[first].get(name) for name in SIGNATURES):
        return parts
    return [*parts[:first], {**parts[first], SIGNATURES[0]: SKIP_VALIDATOR}, *parts[first + 1 :]]


def read_whole(body: bytes) -> tuple[Usage | None, raw_json.Fields | None]:
    """The usage of a whole reply, and its fields; no fields when it is not JSON."""
    found = raw_json.find(body)
    usage = raw_json.inner_object(found.get("usageMetadata", ABSENT)) if found else None
    return (read_usage(usage, _calls(found.get("candidates", ABSENT))) if usage else None), found


# Where the tokens are told by modality: the prompt's with the cached ones.
PROMPT = ("promptTokensDetails", "toolUsePromptTokensDetails")
CACHED = ("cacheTokensDetails",)
REPLY = ("candidatesTokensDetails",)


def _of_kind(modality: str, usage: dict, places: tuple[str, ...]) -> int:
    told = [as_object(one) for place in places for one in as_list(usage.get(place))]
    return sum(as_count(one.get("tokenCount")) for one in told if one.get("modality") == modality)


def read_usage(usage: dict, calls: tuple[tuple[str, int], ...] = ()) -> Usage:
    """Prompt counts include cached tokens; thoughts and tool-use prompts are counted beside and billed as well.

    Calls of the vendor's tools stand beside the block, not in it.
    """
    prompt = as_count(usage.get("promptTokenCount")) + as_count(usage.get("toolUsePromptTokenCount"))
    read = min(prompt, as_count(usage.get("cachedContentTokenCount")))
    thoughts = as_count(usage.get("thoughtsTokenCount"))
    fresh, output = prompt - read, as_count(usage.get("candidatesTokenCount")) + thoughts
    cached = min(read, _of_kind("AUDIO", usage, CACHED))
    audio = min(fresh, max(0, _of_kind("AUDIO", usage, PROMPT) - cached))
    images = max(0, _of_kind("IMAGE", usage, PROMPT) - _of_kind("IMAGE", usage, CACHED))
    spoken = min(output, _of_kind("AUDIO", usage, REPLY))
    return Usage(
        input_tokens=fresh,
        output_tokens=output,
        reasoning_tokens=thoughts,
        cache_read_tokens=read,
        audio_input_tokens=audio,
        image_input_tokens=min(fresh - audio, images),
        audio_output_tokens=spoken,
        image_output_tokens=min(output - spoken, _of_kind("IMAGE", usage, REPLY)),
        audio_cache_read_tokens=cached,
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
    """`retry_s`: how long to wait, for which this protocol has a place in the body and no header."""
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
# However often a reply was searched for, it is one call: https://ai.google.dev/gemini-api/docs/google-search
SEARCHED = (("google_search", 1),)
_QUERIES = b'"webSearchQueries"'


def _calls(candidates: Raw) -> tuple[tuple[str, int], ...]:
    """The calls of the vendor's own tools that a whole reply tells of."""
    if _QUERIES not in (written := bytes(candidates)):
        return ()
    return SEARCHED if any(map(_is_searched, raw_json.try_decode(_decode_candidates, written) or ())) else ()


def _is_searched(candidate: _Candidate) -> bool:
    told = candidate.groundingMetadata
    return _QUERIES in bytes(told) and bool(as_list(raw_json.inner_object(told).get("webSearchQueries")))


class Stream:
    """Reads one Gemini stream as it passes.

    `name` is the model name that the client shall see, as JSON; None leaves it.
    """

    def __init__(self, name: bytes | None, asked: RequestHead):
        self._name = name
        self._told = ABSENT  # the newest usage: every event tells it, and only the last one is read
        self.text_bytes = 0
        self.has_failed = False
        self._is_blocked = self._is_searched = False
        self._open: dict[int, bool] = {}

    @property
    def usage(self) -> Usage | None:
        told = raw_json.inner_object(self._told)
        return read_usage(told, SEARCHED if self._is_searched else ()) if told else None

    @property
    def is_terminal(self) -> bool:
        """Every candidate that was seen has its finishReason, or the prompt was blocked."""
        return self._is_blocked or (bool(self._open) and not any(self._open.values()))

    def observe(self, data: bytes) -> tuple[bytes | None, Verdict]:
        chunk = raw_json.try_decode(_decode, data)
        if chunk is None:
            return data, Verdict.CONTINUES
        if bytes(chunk.error) not in NULLS:
            self.has_failed = True
            return data, Verdict.CONTINUES
        for candidate in chunk.candidates or ():
            self._look(candidate)
        if chunk.promptFeedback:
            self._is_blocked |= bool(raw_json.inner_object(chunk.promptFeedback).get("blockReason"))
        has_usage = bytes(chunk.usageMetadata) not in (*NULLS, b"{}")
        if has_usage:
            self._told = Raw(bytes(chunk.usageMetadata))  # a copy: the original holds the whole event
        passed = data
        if self._name is not None and chunk.modelVersion and bytes(chunk.modelVersion) != self._name:
            passed = raw_json.with_model_name(data, "modelVersion", self._name)
        return passed, Verdict.MAY_END if has_usage and self.is_terminal else Verdict.CONTINUES

    def _look(self, candidate: _Candidate) -> None:
        if bytes(candidate.finishReason) not in UNFINISHED:
            self._open[candidate.index] = False
        elif candidate.index not in self._open:
            self._open[candidate.index] = True
        self._is_searched |= _is_searched(candidate)
        for piece in (candidate.content and candidate.content.parts) or ():
            self.text_bytes += max(0, len(piece.text) - 2) + len(piece.functionCall)

    def failure_events(self, status: int, code: str, message: str, request_id: str) -> list[bytes]:
        """The events that tell a client that this stream ends without its end."""
        return [error_event(status, code, message, request_id)]

    def tail(self) -> bytes:
        return b""


def read_models(body: dict) -> list[ModelCard]:
    cards = []
    # Vertex AI lists those of a publisher: cloud.google.com/vertex-ai/docs/reference/rest/v1beta1/publishers.models
    for item in as_list(body.get("models")) or as_list(body.get("publisherModels")):
        if isinstance(item, dict) and isinstance(item.get("name"), str):
            title = item.get("displayName")
            cards.append(
                ModelCard(
                    id=item["name"].removeprefix("publishers/google/").removeprefix("models/"),
                    display_name=title if isinstance(title, str) else None,
                    owned_by="google",
                    raw=item,
                    protocol=NAME,
                )
            )
    return cards


def next_page(body: dict) -> dict[str, str] | None:
    """The query of the next page, None on the last."""
    token = body.get("nextPageToken")
    return {**LIST_QUERY, "pageToken": token} if isinstance(token, str) and token else None


def write_model(card: ModelCard, name: str) -> dict:
    raw = card.raw if card.protocol == NAME and card.raw else {}
    known = {"displayName": card.display_name or name, "supportedGenerationMethods": ["generateContent"]}
    return {**known, **raw, "name": f"models/{name}", "baseModelId": name}


def write_models(cards: list[tuple[ModelCard, str]]) -> dict:
    return {"models": [write_model(card, name) for card, name in cards]}
