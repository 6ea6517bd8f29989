"""What an upstream's answer says of the credential that was used, by its status and code. Pure.

Statuses, codes and headers: platform.openai.com/docs/guides/error-codes and …/rate-limits,
docs.anthropic.com/en/api/errors and …/rate-limits, ai.google.dev/gemini-api/docs/troubleshooting,
cloud.google.com/apis/design/errors, openrouter.ai/docs/api-reference/errors.
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import NamedTuple

import orjson


class Verdict(StrEnum):
    DEAD = "dead"  # the key is none: nobody can use it until an operator says so
    BROKE = "broke"  # its account has no money
    FORBIDDEN = "forbidden"  # this model is not for it
    LIMITED = "limited"  # too much in too short a time
    FAILED = "failed"  # the upstream itself, for a moment


class Fault(NamedTuple):
    """`wait_s`: in how many seconds the upstream wants to be asked again, where it tells."""

    verdict: Verdict
    wait_s: float | None = None


# Codes that say more than their status, each where a vendor puts it: `error.code`, `error.type`, `error.status`, or a
# reason in `error.details`.
BY_CODE = {
    (429, "insufficient_quota"): Verdict.BROKE,
    (429, "billing_hard_limit_reached"): Verdict.BROKE,
    (400, "billing_error"): Verdict.BROKE,
    (403, "billing_error"): Verdict.BROKE,
    (400, "API_KEY_INVALID"): Verdict.DEAD,
    (403, "CONSUMER_SUSPENDED"): Verdict.DEAD,
}
BY_STATUS = {
    401: Verdict.DEAD,
    402: Verdict.BROKE,
    403: Verdict.FORBIDDEN,
    408: Verdict.FAILED,
    429: Verdict.LIMITED,
}
MIN_WAIT_S, MAX_WAIT_S = 1.0, 3600.0
MAX_CODED_BYTES = 256 * 1024  # no vendor's error is larger
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def may_be_fault(status: int) -> bool:
    """Whether an answer of this status can be one, so that its body has to be looked at."""
    return status in BY_STATUS or status >= 500 or status == 400


def classify(status: int, headers: Mapping[str, str], body: bytes, now_s: float) -> Fault | None:
    """None: the answer is about the request, and any credential would get it. `headers` by lower-case names."""
    error = _error(body)
    verdict = next((BY_CODE[status, code] for code in _codes(error) if (status, code) in BY_CODE), None)
    verdict = verdict or BY_STATUS.get(status) or (Verdict.FAILED if status >= 500 else None)
    if verdict is None:
        return None
    told = _told(headers, error, now_s) if verdict in (Verdict.LIMITED, Verdict.FAILED) else None
    return Fault(verdict, None if told is None else min(MAX_WAIT_S, max(MIN_WAIT_S, told)))


# What an error event says in place of a status, by the words of any vendor; all others are the upstream's own failure.
BY_WORD = {
    "insufficient_quota": Verdict.BROKE,
    "billing_error": Verdict.BROKE,
    "rate_limit_error": Verdict.LIMITED,
    "rate_limit_exceeded": Verdict.LIMITED,
    "RESOURCE_EXHAUSTED": Verdict.LIMITED,
    "authentication_error": Verdict.DEAD,
    "invalid_api_key": Verdict.DEAD,
    "UNAUTHENTICATED": Verdict.DEAD,
    "permission_error": Verdict.FORBIDDEN,
    "PERMISSION_DENIED": Verdict.FORBIDDEN,
}
OF_REQUEST = frozenset(
    (
        *("invalid_request_error", "not_found_error", "request_too_large", "invalid_prompt", "content_filter"),
        *("context_length_exceeded", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"),
    )
)


def classify_event(data: bytes, headers: Mapping[str, str], now_s: float) -> Fault | None:
    """The same of an event that tells an error within a stream."""
    error = _error(data)
    words = list(_codes(error))
    verdict = next((BY_WORD[word] for word in words if word in BY_WORD), None)
    if verdict is None and any(word in OF_REQUEST for word in words):
        return None
    status = error.get("code")
    if verdict is None and isinstance(status, int) and 400 <= status < 500:
        verdict = BY_STATUS.get(status)
        if verdict is None:
            return None
    verdict = verdict or Verdict.FAILED
    told = _told(headers, error, now_s) if verdict is Verdict.LIMITED else None
    return Fault(verdict, None if told is None else min(MAX_WAIT_S, max(MIN_WAIT_S, told)))


def _error(body: bytes) -> dict:
    """The error object of any vendor; Gemini wraps its own into a list where a stream was asked for."""
    try:
        found = orjson.loads(body) if len(body) <= MAX_CODED_BYTES else None
    except orjson.JSONDecodeError:
        return {}
    if isinstance(found, list):
        found = found[0] if found else None
    if not isinstance(found, dict):
        return {}
    if isinstance(found.get("response"), dict):  # of Responses: a response that failed
        found = found["response"]
    error = found.get("error")
    if isinstance(error, dict):
        return error
    return found if found.get("type") == "error" else {}


def _codes(error: Mapping) -> Iterator[str]:
    for detail in _details(error):
        if isinstance(detail.get("reason"), str):
            yield detail["reason"]
    for name in ("code", "type", "status"):
        if isinstance(error.get(name), str):
            yield error[name]


def _details(error: Mapping) -> list[Mapping]:
    details = error.get("details")
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def _told(headers: Mapping[str, str], error: Mapping, now_s: float) -> float | None:
    """Retry-After first, then what the vendors tell in places of their own."""
    if (ms := _number(headers.get("retry-after-ms"))) is not None:
        return ms / 1000
    if (after := headers.get("retry-after")) is not None:
        seconds = _number(after)
        return seconds if seconds is not None else _until(_http_date(after), now_s)
    for detail in _details(error):
        if isinstance(detail.get("retryDelay"), str):
            return _duration(detail["retryDelay"])
    waits = [wait for wait in _resets(headers, now_s) if wait is not None]
    return max(waits, default=None)


def _resets(headers: Mapping[str, str], now_s: float) -> Iterator[float | None]:
    """When the counters that are used up begin anew."""
    for what in ("requests", "tokens", "input-tokens", "output-tokens"):
        if _number(headers.get(f"x-ratelimit-remaining-{what}")) == 0:
            yield _duration(headers.get(f"x-ratelimit-reset-{what}", ""))
        if _number(headers.get(f"anthropic-ratelimit-{what}-remaining")) == 0:
            yield _until(_moment(headers.get(f"anthropic-ratelimit-{what}-reset", "")), now_s)


def _number(text: str | None) -> float | None:
    try:
        found = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) and found >= 0 else None


def _duration(text: str) -> float | None:
    """`6m0s`, `20ms`, `38s`, `1.5s`; also a bare number of seconds."""
    if (seconds := _number(text)) is not None:
        return seconds
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _until(moment: datetime | None, now_s: float) -> float | None:
    return None if moment is None else moment.timestamp() - now_s


def _http_date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
