"""What OpenAI's protocols share: errors, usage blocks and model lists.

https://platform.openai.com/docs/api-reference
"""

import hashlib

import orjson

from gproxy.protocols import prompts, raw_json, schemas, validate
from gproxy.protocols.hub import (
    Citation,
    Format,
    Logprob,
    ModelCard,
    Request,
    Target,
    Tool,
    Usage,
    as_count,
    as_list,
    as_object,
)
from gproxy.protocols.losses import Losses

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}


def error(status: int, code: str, message: str, request_id: str) -> dict:
    kind = ERROR_TYPES.get(status, "api_error")
    return {"message": message, "type": kind, "param": None, "code": code, "request_id": request_id}


def write_error(status: int, code: str, message: str, request_id: str, retry_s: float | None = None) -> bytes:
    return orjson.dumps({"error": error(status, code, message, request_id)})


# Where a usage block tells of what its counts consist: chat, Responses and images, transcriptions.
INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details", "output_token_details")


def read_usage(usage: dict, tier: str = "", calls: tuple[tuple[str, int], ...] = ()) -> Usage:
    """Prompt counts include cached tokens here. Both spellings, since images and embeddings use the newer one.

    Tier and calls of the vendor's tools stand beside the block, not in it.
    """
    prompt = as_count(usage.get("prompt_tokens", usage.get("input_tokens")))
    output = as_count(usage.get("completion_tokens", usage.get("output_tokens")))
    inside, outside = _details(usage, INPUT_DETAILS), _details(usage, OUTPUT_DETAILS)
    beside = usage.get("prompt_cache_hit_tokens", usage.get("cached_tokens"))  # where imitators put it
    read = min(prompt, as_count(inside.get("cached_tokens", beside)))
    written = min(prompt - read, as_count(inside.get("cache_write_tokens")))
    fresh = prompt - read - written
    heard = as_count(inside.get("audio_tokens"))  # cached ones included
    cached = min(heard, read, as_count(as_object(inside.get("cached_tokens_details")).get("audio_tokens")))
    audio, spoken = min(fresh, heard - cached), min(output, as_count(outside.get("audio_tokens")))
    return Usage(
        input_tokens=fresh,
        output_tokens=output,
        reasoning_tokens=min(output, as_count(outside.get("reasoning_tokens"))),
        cache_read_tokens=read,
        cache_write_tokens=written,
        audio_input_tokens=audio,
        image_input_tokens=min(fresh - audio, as_count(inside.get("image_tokens"))),
        audio_output_tokens=spoken,
        image_output_tokens=min(output - spoken, as_count(outside.get("image_tokens"))),
        audio_cache_read_tokens=cached,
        tool_calls=calls,
        tier=tier,
    )


def _details(usage: dict, names: tuple[str, ...]) -> dict:
    return next((as_object(usage[name]) for name in names if usage.get(name)), {})


def read_models(body: dict) -> list[ModelCard]:
    """A list as OpenAI and its imitators send it; some leave out everything but `id`."""
    cards = []
    for item in as_list(body.get("data")):
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            name = item.get("name")
            cards.append(
                ModelCard(
                    id=item["id"],
                    display_name=name if isinstance(name, str) else None,
                    created=as_count(item.get("created")) or None,
                    owned_by=item.get("owned_by") if isinstance(item.get("owned_by"), str) else None,
                    raw=item,
                    protocol="openai",
                )
            )
    return cards


def next_page(body: dict) -> dict[str, str] | None:
    return None


def write_model(card: ModelCard, name: str) -> dict:
    raw = card.raw if card.protocol == "openai" and card.raw else {}
    owned_by = card.owned_by or "gproxy"
    return {"created": card.created or 0, "owned_by": owned_by, **raw, "id": name, "object": "model"}


def write_models(cards: list[tuple[ModelCard, str]]) -> dict:
    return {"object": "list", "data": [write_model(card, name) for card, name in cards]}


# -- what both protocols say of a request ---------------------------------------------------------------------------

TIERS = {
    "auto": "auto",
    "default": "default",
    "flex": "flex",
    "scale": "scale",
    "priority": "priority",
    "fast": "priority",
    "ultrafast": "priority",
}
AUDIO = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/wave": "wav", "audio/mp3": "mp3", "audio/mpeg": "mp3"}


def read_tier(reply: dict) -> str | None:
    """The tier that served a reply."""
    tier = reply.get("service_tier")
    return TIERS.get(tier) if isinstance(tier, str) else None


# The tiers that are charged at prices of their own.
MODES = frozenset(("flex", "scale", "priority"))
# A tier that a reply tells, as the bytes of its value.
TIER_OF_JSON = {f'"{name}"'.encode(): tier for name, tier in TIERS.items() if tier != "auto"} | {b'"batch"': "batch"}


def read_mode(asked: raw_json.Fields) -> str:
    """The mode that a request's body asks for. Raises BadRequest."""
    tier = TIERS.get(raw_json.text(asked, "service_tier")) if "service_tier" in asked else None
    return tier if tier in MODES else ""


TIERS_BACK = {tier: tier for tier in ("auto", "default", "flex", "scale", "priority")}
ERROR_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "insufficient_quota": 429,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "timeout_error": 504,
}


def read_format(asked: dict, inner: dict, place: str, inner_place: str) -> Format | None:
    """A structured output's format; `inner` is where its schema stands."""
    if not asked:
        return None
    kind = validate.text(asked.get("type"), f"{place}.type")
    validate.lookup(kind, dict.fromkeys(("text", "json_object", "json_schema")), f"{place}.type")
    if kind == "text":
        return None
    if kind == "json_object":
        return Format()
    schema = validate.obj(inner.get("schema"), f"{inner_place}.schema")
    name, description = (validate.optional_text(inner, field, inner_place) for field in ("name", "description"))
    return Format(schema, name, description, validate.optional_flag(inner, "strict", inner_place))


def write_format(request: Request, losses: Losses) -> tuple[dict | None, tuple[str, ...]]:
    """A format in the flat form of Responses, and what is asked for in words: beside it, or in its place."""
    asked = request.format
    if asked is None:
        return None, ()
    if asked.schema is None and prompts.mentions_json(request.turns, request.system):
        return {"type": "json_object"}, ()
    if asked.schema is None:  # the vendor refuses it where the word stands nowhere
        losses.lose("format")
        return {"type": "json_object"}, (prompts.JSON_ONLY,)
    if not schemas.is_object(asked.schema):  # the only one that may stand at the top
        losses.lose("format")
        return None, (prompts.format_prompt(asked),)
    schema, lost = schemas.for_openai(asked.schema, losses.wire_name("format_schema"))
    for keyword in lost:
        losses.report(f"{losses.wire_name('format_schema')}.{keyword}")
    written = {"type": "json_schema", "name": asked.name or "output", "schema": schema}
    if asked.description:
        written["description"] = asked.description
    if asked.strict is None:
        return written, ()
    return {**written, "strict": _is_strict(schema, asked.strict, "format_strict", losses)}, ()


def write_parameters(tool: Tool, number: int, losses: Losses) -> tuple[dict, bool]:
    """A function's schema, and whether it is strict."""
    schema, lost = schemas.for_openai(tool.schema, f"tools[{number}]: parameters")
    for keyword in lost:
        losses.report(f"{losses.wire_name('schema')}.{keyword}")
    return schema, _is_strict(schema, tool.strict, "strict", losses)


def _is_strict(schema: dict, is_asked: bool | None, name: str, losses: Losses) -> bool:
    """What is asked to be strict and cannot be, the vendor refuses."""
    is_strict = bool(is_asked) and schemas.is_openai_strict(schema)
    if is_asked and not is_strict:
        losses.lose(name)
    return is_strict


# What a field that is left out means: to leave it out loses nothing.
DEFAULTS = {"temperature": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "n": 1, "parallel": True}
# Longer ones the vendor answers with an error; a digest still tells users apart.
MAX_USER = 64


def write_max_tokens(max_tokens: int | None, target: Target, losses: Losses) -> int | None:
    """No more than the model can write: beyond it the vendor answers with an error."""
    if max_tokens is None or target.max_output is None or max_tokens <= target.max_output:
        return max_tokens
    losses.lose("max_tokens")
    return target.max_output


def write_user(end_user: str | None, losses: Losses) -> str | None:
    if end_user is None or len(end_user) <= MAX_USER:
        return end_user or None
    losses.lose("end_user")
    return f"user_{hashlib.blake2b(end_user.encode(), digest_size=16).hexdigest()}"


def drop_refused(body: dict, table: dict[str, tuple[str, ...]], target: Target, losses: Losses) -> None:
    """Takes what this model would answer with an error out of a body that we wrote."""
    for name, places in table.items():
        if name not in target.refused:
            continue
        if any(body.get(place) not in (None, DEFAULTS.get(name)) for place in places):
            losses.lose(name)
        body |= dict.fromkeys(places)


def read_error(status: int, body: dict) -> tuple[int, str, str] | None:
    """Status, code and message of an error body or event, None when it is none."""
    inner = body.get("error")
    if isinstance(inner, str):
        return (status if status >= 400 else 500), "api_error", inner
    inner = as_object(inner) or (body if body.get("type") == "error" else {})
    message = inner.get("message")
    if not isinstance(message, str):
        return None
    code, kind = inner.get("code"), inner.get("type")
    code = code if isinstance(code, str) and code else kind if isinstance(kind, str) else "api_error"
    if status < 400:
        told = inner.get("code")
        numeric = told if isinstance(told, int) and 400 <= told < 600 else None
        status = numeric or ERROR_STATUSES.get(code) or ERROR_STATUSES.get(str(kind), 500)
    return status, code, message


def write_logprobs(logprobs: tuple[Logprob, ...]) -> list[dict]:
    return [{**_logprob(one), "top_logprobs": [_logprob(other) for other in one.top]} for one in logprobs]


def _logprob(one: Logprob) -> dict:
    return {"token": one.token, "logprob": one.logprob, "bytes": list(one.token.encode())}


def read_logprobs(value: object) -> tuple[Logprob, ...]:
    return tuple(
        Logprob(item["token"], item["logprob"], read_logprobs(item.get("top_logprobs")))
        for item in map(as_object, as_list(value))
        if isinstance(item.get("token"), str) and isinstance(item.get("logprob"), int | float)
    )


def write_citation(citation: Citation) -> dict | None:
    """A `url_citation`, None of what has no URL."""
    if citation.url is None:
        return None
    start, end = citation.start or 0, citation.end or 0
    return {"url": citation.url, "title": citation.title or citation.url, "start_index": start, "end_index": end}


def read_citation(annotation: object) -> Citation | None:
    """Of a `url_citation`, flat as in Responses or nested as in chat; others name files of the vendor's."""
    found = as_object(annotation)
    if found.get("type") != "url_citation":
        return None
    found = as_object(found.get("url_citation")) or found
    texts = (found.get(name) if isinstance(found.get(name), str) else None for name in ("url", "title"))
    return Citation(*texts, None, *(_offset(found.get(name)) for name in ("start_index", "end_index")))


def _offset(value: object) -> int | None:
    """A place in a text; offsets are added up, and no sum may be too large to be written."""
    return value if isinstance(value, int) and 0 <= value < 2**53 else None
