"""What OpenAI's protocols share: errors, usage blocks and model lists.

https://platform.openai.com/docs/api-reference
"""

import orjson

from gproxy.protocols.hub import ModelCard, Usage, count, items, part

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


def write_error(status: int, code: str, message: str, request_id: str) -> bytes:
    return orjson.dumps({"error": error(status, code, message, request_id)})


def read_usage(usage: dict) -> Usage:
    """Prompt counts include cached tokens here. Both spellings, since images and embeddings use the newer one."""
    prompt = count(usage.get("prompt_tokens", usage.get("input_tokens")))
    output = count(usage.get("completion_tokens", usage.get("output_tokens")))
    inside = part(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
    outside = part(usage.get("completion_tokens_details") or usage.get("output_tokens_details"))
    beside = usage.get("prompt_cache_hit_tokens", usage.get("cached_tokens"))  # where imitators put it
    read = min(prompt, count(inside.get("cached_tokens", beside)))
    written = min(prompt - read, count(inside.get("cache_write_tokens")))
    return Usage(
        input_tokens=prompt - read - written,
        output_tokens=output,
        reasoning_tokens=min(output, count(outside.get("reasoning_tokens"))),
        cache_read_tokens=read,
        cache_write_tokens=written,
    )


def read_models(body: dict) -> list[ModelCard]:
    """A list as OpenAI and its imitators send it; some leave out everything but `id`."""
    cards = []
    for item in items(body.get("data")):
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            name = item.get("name")
            cards.append(
                ModelCard(
                    id=item["id"],
                    display_name=name if isinstance(name, str) else None,
                    created=count(item.get("created")) or None,
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
