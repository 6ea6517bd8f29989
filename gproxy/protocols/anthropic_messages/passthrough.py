"""Anthropic Messages for the same-protocol lane: request heads, usage, streams, errors, model lists; no translation.

https://docs.anthropic.com/en/api/messages
"""

from datetime import UTC, datetime

import msgspec
import orjson
from msgspec import Raw

from gproxy.errors import NoThread
from gproxy.protocols import hub, raw_json, sse
from gproxy.protocols.raw_json import ABSENT, outgoing  # noqa: F401 - the interface of this protocol
from gproxy.protocols.signatures import is_wrapped
from gproxy.protocols.verdict import Verdict

NAME: str = "anthropic"
WIRE_NAME: str = "claude"
REQUEST_ID_HEADERS: tuple[str, ...] = ("x-request-id", "request-id")
MODEL_FIELD: str = "model"
LIST_QUERY: dict[str, str] = {"limit": "1000"}

# https://docs.anthropic.com/en/api/errors
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
UNKNOWN_DATE = "1970-01-01T00:00:00Z"


def read_head(body: bytes) -> hub.RequestHead:
    """Returns the fields of a request body that routing and accounting need. Raises BadRequest."""
    fields = raw_json.split(body)
    end_user = None
    if "metadata" in fields:
        user_id = hub.as_object(raw_json.value(fields, "metadata")).get("user_id")
        end_user = user_id if isinstance(user_id, str) else None
    return hub.RequestHead(
        raw_json.model(fields),
        raw_json.is_stream(fields),
        True,
        end_user,
        fields,
        mode="priority" if "speed" in fields and raw_json.value(fields, "speed") == "fast" else "",
        max_output=raw_json.positive_int(fields, "max_tokens"),
    )


def without_wrapped_signatures(body: dict) -> dict:
    """Returns the body without blocks whose signature gproxy wrapped: another provider made them."""
    if not isinstance(body.get("messages"), list):
        return body
    messages = []
    for message in body["messages"]:
        content = hub.as_object(message).get("content")
        if isinstance(content, list) and any(_is_wrapped_block(hub.as_object(block)) for block in content):
            message = {
                **message,
                "content": [block for block in content if not _is_wrapped_block(hub.as_object(block))],
            }
            if not message["content"]:
                continue
        messages.append(message)
    return {**body, "messages": messages}


def _is_wrapped_block(block: dict) -> bool:
    return is_wrapped(block.get("signature")) or is_wrapped(block.get("data"))


def read_whole(body: bytes) -> tuple[hub.Usage | None, raw_json.Fields | None]:
    """Returns the usage and the fields of a whole reply; the fields are None when it is not JSON."""
    fields = raw_json.find(body)
    usage = raw_json.inner_object(fields.get("usage", ABSENT)) if fields else None
    return (read_usage(usage) if usage else None), fields


def read_usage(usage: dict, before: hub.Usage | None = None) -> hub.Usage:
    """Returns the token counts of a usage block; counts that it lacks are taken from `before`, the earlier block.

    `input_tokens` excludes cached tokens in this protocol. The 5m/1h split of cache writes is under `cache_creation`,
    in `message_delta` under `iterations[0]`.
    """
    before = before or hub.Usage()
    iterations = usage.get("iterations")
    first = hub.as_object(iterations[0]) if isinstance(iterations, list) and iterations else {}
    split = hub.as_object(usage.get("cache_creation") or first.get("cache_creation"))
    written_5m = hub.as_count(split.get("ephemeral_5m_input_tokens")) or before.cache_write_5m_tokens
    written_1h = hub.as_count(split.get("ephemeral_1h_input_tokens")) or before.cache_write_1h_tokens
    written = usage.get("cache_creation_input_tokens")
    total = before.cache_creation_tokens if written is None else hub.as_count(written)
    output = hub.as_count(usage.get("output_tokens")) or before.output_tokens
    details = hub.as_object(usage.get("output_tokens_details"))
    thinking = (
        hub.as_count(details.get("thinking_tokens") or details.get("reasoning_tokens")) or before.reasoning_tokens
    )
    return hub.Usage(
        input_tokens=_count_or(usage, "input_tokens", before.input_tokens),
        output_tokens=output,
        reasoning_tokens=min(output, thinking),
        cache_read_tokens=_count_or(usage, "cache_read_input_tokens", before.cache_read_tokens),
        cache_write_tokens=max(0, total - written_5m - written_1h),
        cache_write_5m_tokens=written_5m,
        cache_write_1h_tokens=written_1h,
        tool_calls=_calls(hub.as_object(usage.get("server_tool_use"))) or before.tool_calls,
        tier=_tier(usage) or before.tier,
    )


# https://docs.anthropic.com/en/api/service-tiers, https://platform.claude.com/docs/en/build-with-claude/fast-mode
# The Priority Tier is paid for by a commitment of the account: its calls are charged at the standard price.
TIERS = {"standard": "default", "priority": "default", "batch": "batch"}
SPEEDS = {"standard": "default", "fast": "priority"}
REQUESTS = "_requests"


def _tier(usage: dict) -> str:
    """Returns the tier for pricing. `speed` takes precedence: a fast reply still reports the standard service tier."""
    return SPEEDS.get(str(usage.get("speed"))) or TIERS.get(str(usage.get("service_tier")), "")


def _calls(server_tool_use: dict) -> tuple[tuple[str, int], ...]:
    """Returns (tool, number of calls) of each `<tool>_requests`, sorted, without zeros."""
    counts = {
        name: hub.as_count(number, hub.MAX_CALLS) for name, number in server_tool_use.items() if name.endswith(REQUESTS)
    }
    return tuple(sorted((name.removesuffix(REQUESTS), number) for name, number in counts.items() if number))


def _count_or(usage: dict, name: str, before: int) -> int:
    return before if usage.get(name) is None else hub.as_count(usage[name])


def _error(status: int, code: str, message: str, request_id: str) -> bytes:
    kind = ERROR_TYPES.get(status, "api_error")
    inner = {"type": kind, "message": message, "code": code}
    if code == NoThread.code:
        inner["details"] = {"error_code": code, "unsupported": []}
    return orjson.dumps({"type": "error", "error": inner, "request_id": request_id})


def write_error(status: int, code: str, message: str, request_id: str, retry_s: float | None = None) -> bytes:
    return _error(status, code, message, request_id)


def error_event(status: int, code: str, message: str, request_id: str) -> bytes:
    return sse.event(_error(status, code, message, request_id), "error")


class _Event(msgspec.Struct):
    type: str = ""
    message: Raw = ABSENT
    delta: Raw = ABSENT
    usage: Raw = ABSENT


class _Delta(msgspec.Struct):
    text: Raw = ABSENT
    thinking: Raw = ABSENT
    partial_json: Raw = ABSENT


_decode = msgspec.json.Decoder(_Event).decode
_decode_delta = msgspec.json.Decoder(_Delta).decode


class Stream:
    """Reads the events of one Messages stream on their way to the client and replaces the model name.

    `name` is the model name for the client, as JSON; None keeps the upstream's.
    """

    response_id: str | None = None  # the vendor stores no responses

    def __init__(self, name: bytes | None, head: hub.RequestHead):
        self._name = name
        self.usage: hub.Usage | None = None
        self.text_bytes = 0
        self.is_terminal = self.has_failed = False

    def observe(self, data: bytes) -> tuple[bytes | None, Verdict]:
        """Returns the data for the client, None to drop the event, and the verdict on the stream."""
        event = raw_json.try_decode(_decode, data)
        if event is None:
            return data, Verdict.CONTINUES
        if event.type == "content_block_delta":
            if (delta := raw_json.try_decode(_decode_delta, bytes(event.delta))) is not None:
                self.text_bytes += sum(max(0, len(t) - 2) for t in (delta.text, delta.thinking, delta.partial_json))
            return data, Verdict.CONTINUES
        if event.type == "message_start":
            return self._read_start(data, event), Verdict.CONTINUES
        if event.type == "message_delta" and (usage := raw_json.inner_object(event.usage)):
            self.usage = read_usage(usage, self.usage)
        elif event.type == "error":
            self.has_failed = True
        elif event.type == "message_stop":
            self.is_terminal = True
            return data, Verdict.ENDS
        return data, Verdict.CONTINUES

    def _read_start(self, data: bytes, event: _Event) -> bytes:
        self.usage, inner = read_whole(bytes(event.message))
        if self._name is None or not inner or "model" not in inner or bytes(inner["model"]) == self._name:
            return data
        if (outer := raw_json.find(data)) is None:
            return data
        inner["model"] = Raw(self._name)
        outer["message"] = Raw(raw_json.join(inner))
        return raw_json.join(outer)

    def failure_events(self, status: int, code: str, message: str, request_id: str) -> list[bytes]:
        """Returns the events that report to the client that the stream broke off."""
        return [error_event(status, code, message, request_id)]

    def tail(self) -> bytes:
        """Returns what completes a clean end: nothing in this protocol."""
        return b""


def read_models(body: dict) -> list[hub.ModelCard]:
    cards = []
    for item in hub.as_list(body.get("data")):
        if isinstance(item, dict) and isinstance(item.get("id"), str):
            title = item.get("display_name")
            cards.append(
                hub.ModelCard(
                    id=item["id"],
                    display_name=title if isinstance(title, str) else None,
                    created=_seconds(item.get("created_at")),
                    owned_by="anthropic",
                    raw=item,
                    protocol=NAME,
                )
            )
    return cards


def _seconds(text: object) -> int | None:
    try:
        return max(0, int(datetime.fromisoformat(str(text)).timestamp())) or None
    except ValueError:
        return None


def next_page(body: dict) -> dict[str, str] | None:
    """Returns the query of the next page, None after the last page."""
    if body.get("has_more") is True and isinstance(body.get("last_id"), str):
        return {**LIST_QUERY, "after_id": body["last_id"]}
    return None


def write_model(card: hub.ModelCard, name: str) -> dict:
    raw = card.raw if card.protocol == NAME and card.raw else {}
    title = card.display_name or name
    return {"display_name": title, "created_at": _date(card.created), **raw, "type": "model", "id": name}


def _date(seconds: int | None) -> str:
    """Returns RFC 3339; UNKNOWN_DATE where the year is out of range, as some compatible hosts send milliseconds."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else UNKNOWN_DATE
    except (ValueError, OverflowError, OSError):
        return UNKNOWN_DATE


def write_models(cards: list[tuple[hub.ModelCard, str]]) -> dict:
    """Returns a list of one page."""
    data = [write_model(card, name) for card, name in cards]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "first_id": first, "last_id": last, "has_more": False}
