"""Parts that both OpenAI protocols share: errors, usage blocks, model lists, formats, citations, log-probabilities.

https://platform.openai.com/docs/api-reference
"""

import hashlib
from typing import cast

import orjson

from gproxy.protocols import hub, prompts, raw_json, schemas, validate
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


# Fields of a usage block with the parts of its counts: of chat, of Responses and images, of transcriptions.
INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
OUTPUT_DETAILS = ("completion_tokens_details", "output_tokens_details", "output_token_details")


def read_usage(usage: dict, tier: str = "", calls: tuple[tuple[str, int], ...] = ()) -> hub.Usage:
    """Reads a usage block of either spelling. Its prompt count includes cached tokens.

    `tier` and `calls`, the calls of the vendor's tools, come from elsewhere in the reply.
    """
    prompt = hub.as_count(usage.get("prompt_tokens", usage.get("input_tokens")))
    output = hub.as_count(usage.get("completion_tokens", usage.get("output_tokens")))
    input_parts, output_parts = _details(usage, INPUT_DETAILS), _details(usage, OUTPUT_DETAILS)
    cache_hits = usage.get("prompt_cache_hit_tokens", usage.get("cached_tokens"))  # of compatible vendors
    read = min(prompt, hub.as_count(input_parts.get("cached_tokens", cache_hits)))
    written = min(prompt - read, hub.as_count(input_parts.get("cache_write_tokens")))
    fresh = prompt - read - written
    audio_input = hub.as_count(input_parts.get("audio_tokens"))  # cached ones included
    cached = min(
        audio_input, read, hub.as_count(hub.as_object(input_parts.get("cached_tokens_details")).get("audio_tokens"))
    )
    audio, audio_output = min(fresh, audio_input - cached), min(output, hub.as_count(output_parts.get("audio_tokens")))
    return hub.Usage(
        input_tokens=fresh,
        output_tokens=output,
        reasoning_tokens=min(output, hub.as_count(output_parts.get("reasoning_tokens"))),
        cache_read_tokens=read,
        cache_write_tokens=written,
        audio_input_tokens=audio,
        image_input_tokens=min(fresh - audio, hub.as_count(input_parts.get("image_tokens"))),
        audio_output_tokens=audio_output,
        image_output_tokens=min(output - audio_output, hub.as_count(output_parts.get("image_tokens"))),
        audio_cache_read_tokens=cached,
        tool_calls=calls,
        tier=tier,
    )


def _details(usage: dict, names: tuple[str, ...]) -> dict:
    return next((hub.as_object(usage[name]) for name in names if usage.get(name)), {})


def read_models(body: dict) -> list[hub.ModelCard]:
    """Reads a model list of OpenAI or a compatible vendor; some send only `id`."""
    cards = []
    for item in hub.as_list(body.get("data")):
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            name = item.get("name")
            cards.append(
                hub.ModelCard(
                    id=item["id"],
                    display_name=name if isinstance(name, str) else None,
                    created=hub.as_count(item.get("created")) or None,
                    owned_by=item.get("owned_by") if isinstance(item.get("owned_by"), str) else None,
                    raw=item,
                    protocol="openai",
                )
            )
    return cards


def next_page(body: dict) -> dict[str, str] | None:
    return None


def write_model(card: hub.ModelCard, name: str) -> dict:
    raw = card.raw if card.protocol == "openai" and card.raw else {}
    owned_by = card.owned_by or "gproxy"
    return {"created": card.created or 0, "owned_by": owned_by, **raw, "id": name, "object": "model"}


def write_models(cards: list[tuple[hub.ModelCard, str]]) -> dict:
    return {"object": "list", "data": [write_model(card, name) for card, name in cards]}


# -- fields of requests and replies in both protocols ----------------------------------------------------------------

TIERS: dict[str, hub.Tier] = {
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
    """Returns the tier that served a reply, None when it is unknown."""
    tier = reply.get("service_tier")
    return TIERS.get(tier) if isinstance(tier, str) else None


# The tiers that have prices of their own.
MODES = frozenset(("flex", "scale", "priority"))
# The tier in a reply, by the JSON bytes of its value.
TIER_OF_JSON = {f'"{name}"'.encode(): tier for name, tier in TIERS.items() if tier != "auto"} | {b'"batch"': "batch"}


def read_mode(fields: raw_json.Fields) -> str:
    """Returns the priced mode that a request asks for, or "". Raises BadRequest."""
    tier = TIERS.get(raw_json.text(fields, "service_tier") or "") if "service_tier" in fields else None
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


def read_format(output_format: dict, inner: dict, place: str, inner_place: str) -> hub.Format | None:
    """Reads the format of structured output; `inner` is the object with the schema. Raises BadRequest."""
    if not output_format:
        return None
    kind = validate.text(output_format.get("type"), f"{place}.type")
    validate.lookup(kind, dict.fromkeys(("text", "json_object", "json_schema")), f"{place}.type")
    if kind == "text":
        return None
    if kind == "json_object":
        return hub.Format()
    schema = validate.obj(inner.get("schema"), f"{inner_place}.schema")
    name, description = (validate.optional_text(inner, field, inner_place) for field in ("name", "description"))
    return hub.Format(schema, name, description, validate.optional_flag(inner, "strict", inner_place))


def write_format(request: hub.Request, losses: Losses) -> tuple[dict | None, tuple[str, ...]]:
    """Returns the format in the flat form of Responses, and instructions in words that support or replace it."""
    output_format = request.format
    if output_format is None:
        return None, ()
    if output_format.schema is None and prompts.mentions_json(request.turns, request.system):
        return {"type": "json_object"}, ()
    if output_format.schema is None:  # the vendor rejects it unless a text contains the word JSON
        losses.lose("format")
        return {"type": "json_object"}, (prompts.JSON_ONLY,)
    if not schemas.is_object(output_format.schema):  # the vendor accepts only an object at the top
        losses.lose("format")
        return None, (prompts.format_prompt(output_format),)
    schema, lost = schemas.for_openai(output_format.schema, losses.wire_name("format_schema"))
    for keyword in lost:
        losses.report(f"{losses.wire_name('format_schema')}.{keyword}")
    written = {"type": "json_schema", "name": output_format.name or "output", "schema": schema}
    if output_format.description:
        written["description"] = output_format.description
    if output_format.strict is None:
        return written, ()
    return {**written, "strict": _is_strict(schema, output_format.strict, "format_strict", losses)}, ()


def write_parameters(tool: hub.Tool, number: int, losses: Losses) -> tuple[dict, bool]:
    """Returns a function's schema and whether it is strict."""
    declared = cast(dict, tool.schema)  # None only for a custom tool, which has no parameters
    schema, lost = schemas.for_openai(declared, f"tools[{number}]: parameters")
    for keyword in lost:
        losses.report(f"{losses.wire_name('schema')}.{keyword}")
    return schema, _is_strict(schema, tool.strict, "strict", losses)


def _is_strict(schema: dict, is_requested: bool | None, name: str, losses: Losses) -> bool:
    """Returns whether the schema is sent as strict. The vendor rejects a strict schema of another form."""
    is_strict = bool(is_requested) and schemas.is_openai_strict(schema)
    if is_requested and not is_strict:
        losses.lose(name)
    return is_strict


# The vendor's defaults: omitting a field with this value loses nothing.
DEFAULTS = {"temperature": 1, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "n": 1, "parallel": True}
# The vendor rejects longer values; a digest keeps users distinct.
MAX_USER = 64


def write_max_tokens(max_tokens: int | None, target: hub.Target, losses: Losses) -> int | None:
    """Returns the limit, reduced to the model's maximum: the vendor rejects larger ones."""
    if max_tokens is None or target.max_output is None or max_tokens <= target.max_output:
        return max_tokens
    losses.lose("max_tokens")
    return target.max_output


def write_user(end_user: str | None, losses: Losses) -> str | None:
    """Returns the end user's id, or a digest of it when it is longer than MAX_USER."""
    if end_user is None or len(end_user) <= MAX_USER:
        return end_user or None
    losses.lose("end_user")
    return f"user_{hashlib.blake2b(end_user.encode(), digest_size=16).hexdigest()}"


def drop_refused(body: dict, table: dict[str, tuple[str, ...]], target: hub.Target, losses: Losses) -> None:
    """Sets the fields that the model rejects to None in a body that gproxy wrote. `table`: hub field -> wire fields."""
    for name, places in table.items():
        if name not in target.refused:
            continue
        if any(body.get(place) not in (None, DEFAULTS.get(name)) for place in places):
            losses.lose(name)
        body |= dict.fromkeys(places)


def read_error(status: int, body: dict) -> tuple[int, str, str] | None:
    """Returns the status, code and message of an error body or event, None when it is not an error."""
    inner = body.get("error")
    if isinstance(inner, str):
        return (status if status >= 400 else 500), "api_error", inner
    inner = hub.as_object(inner) or (body if body.get("type") == "error" else {})
    message = inner.get("message")
    if not isinstance(message, str):
        return None
    code, kind = inner.get("code"), inner.get("type")
    code = code if isinstance(code, str) and code else kind if isinstance(kind, str) else "api_error"
    if status < 400:
        number = inner.get("code")
        numeric = number if isinstance(number, int) and 400 <= number < 600 else None
        status = numeric or ERROR_STATUSES.get(code) or ERROR_STATUSES.get(str(kind), 500)
    return status, code, message


def write_logprobs(logprobs: tuple[hub.Logprob, ...]) -> list[dict]:
    return [{**_logprob(token), "top_logprobs": [_logprob(other) for other in token.top]} for token in logprobs]


def _logprob(token: hub.Logprob) -> dict:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.token.encode())}


def read_logprobs(value: object) -> tuple[hub.Logprob, ...]:
    return tuple(
        hub.Logprob(item["token"], item["logprob"], read_logprobs(item.get("top_logprobs")))
        for item in map(hub.as_object, hub.as_list(value))
        if isinstance(item.get("token"), str) and isinstance(item.get("logprob"), int | float)
    )


def write_citation(citation: hub.Citation) -> dict | None:
    """Returns a `url_citation`, None for a citation without a URL."""
    if citation.url is None:
        return None
    start, end = citation.start or 0, citation.end or 0
    return {"url": citation.url, "title": citation.title or citation.url, "start_index": start, "end_index": end}


def read_citation(annotation: object) -> hub.Citation | None:
    """Reads a `url_citation`, flat as in Responses or nested as in chat; None for other annotations.

    The others refer to files at the vendor.
    """
    outer = hub.as_object(annotation)
    if outer.get("type") != "url_citation":
        return None
    source = hub.as_object(outer.get("url_citation")) or outer
    url, title = (source.get(name) if isinstance(source.get(name), str) else None for name in ("url", "title"))
    start, end = (_offset(source.get(name)) for name in ("start_index", "end_index"))
    return hub.Citation(url, title, None, start, end)


def _offset(value: object) -> int | None:
    """Returns an offset in a text, None when it is invalid. Offsets are added: no sum may be too large for JSON."""
    return value if isinstance(value, int) and 0 <= value < 2**53 else None
