"""Classifies an upstream's error response, by status and code: what it means for the credential that was used. Pure.

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
    INVALID_KEY = "dead"  # the key is invalid: disabled until an operator enables it
    NO_CREDIT = "broke"  # the account of the key has no credit left
    FORBIDDEN = "forbidden"  # the key may not use this model
    RATE_LIMITED = "limited"  # the key reached a rate limit
    UPSTREAM_FAILED = "failed"  # the upstream failed; the key is not the cause


class Fault(NamedTuple):
    """`wait_s`: after how many seconds the upstream accepts the next request, None if it does not say."""

    verdict: Verdict
    wait_s: float | None = None


# Codes that are more specific than the status. Vendors put them into `error.code`, `error.type`, `error.status` or
# `error.details[].reason`.
BY_CODE = {
    (429, "insufficient_quota"): Verdict.NO_CREDIT,
    (429, "billing_hard_limit_reached"): Verdict.NO_CREDIT,
    (400, "billing_error"): Verdict.NO_CREDIT,
    (403, "billing_error"): Verdict.NO_CREDIT,
    (400, "API_KEY_INVALID"): Verdict.INVALID_KEY,
    (403, "CONSUMER_SUSPENDED"): Verdict.INVALID_KEY,
}
BY_STATUS = {
    401: Verdict.INVALID_KEY,
    402: Verdict.NO_CREDIT,
    403: Verdict.FORBIDDEN,
    408: Verdict.UPSTREAM_FAILED,
    429: Verdict.RATE_LIMITED,
}
MIN_WAIT_S, MAX_WAIT_S = 1.0, 3600.0
MAX_ERROR_BYTES = 256 * 1024  # no vendor's error is larger
_DURATION = re.compile(r"(?:\d++(?:\.\d++)?(?:ms|h|m|s))+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")  # slow in any text that is not a duration
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


def may_be_fault(status: int) -> bool:
    """Returns whether a response of this status can be a fault, so that its body must be read."""
    return status in BY_STATUS or status >= 500 or status == 400


def classify(status: int, headers: Mapping[str, str], body: bytes, now_s: float) -> Fault | None:
    """Returns the fault, or None if the error is about the request, so that any credential would get it.

    `headers` have lower-case names; `now_s` is in seconds since the epoch.
    """
    error = _error(body)
    verdict = next((BY_CODE[status, code] for code in _codes(error) if (status, code) in BY_CODE), None)
    verdict = verdict or BY_STATUS.get(status) or (Verdict.UPSTREAM_FAILED if status >= 500 else None)
    if verdict is None:
        return None
    wait_s = (
        _requested_wait(headers, error, now_s) if verdict in (Verdict.RATE_LIMITED, Verdict.UPSTREAM_FAILED) else None
    )
    return Fault(verdict, None if wait_s is None else min(MAX_WAIT_S, max(MIN_WAIT_S, wait_s)))


# The codes and types in an error event, which has no status, of all vendors. Any other code counts as UPSTREAM_FAILED.
BY_EVENT_CODE = {
    "insufficient_quota": Verdict.NO_CREDIT,
    "billing_error": Verdict.NO_CREDIT,
    "rate_limit_error": Verdict.RATE_LIMITED,
    "rate_limit_exceeded": Verdict.RATE_LIMITED,
    "RESOURCE_EXHAUSTED": Verdict.RATE_LIMITED,
    "authentication_error": Verdict.INVALID_KEY,
    "invalid_api_key": Verdict.INVALID_KEY,
    "UNAUTHENTICATED": Verdict.INVALID_KEY,
    "permission_error": Verdict.FORBIDDEN,
    "PERMISSION_DENIED": Verdict.FORBIDDEN,
}
REQUEST_ERRORS = frozenset(
    (
        *("invalid_request_error", "not_found_error", "request_too_large", "invalid_prompt", "content_filter"),
        *("context_length_exceeded", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"),
    )
)


def classify_event(data: bytes, headers: Mapping[str, str], now_s: float) -> Fault | None:
    """Returns the same for an error event within a stream."""
    error = _error(data)
    words = list(_codes(error))
    verdict = next((BY_EVENT_CODE[word] for word in words if word in BY_EVENT_CODE), None)
    if verdict is None and any(word in REQUEST_ERRORS for word in words):
        return None
    status = error.get("code")
    if verdict is None and isinstance(status, int) and 400 <= status < 500:
        verdict = BY_STATUS.get(status)
        if verdict is None:
            return None
    verdict = verdict or Verdict.UPSTREAM_FAILED
    wait_s = _requested_wait(headers, error, now_s) if verdict is Verdict.RATE_LIMITED else None
    return Fault(verdict, None if wait_s is None else min(MAX_WAIT_S, max(MIN_WAIT_S, wait_s)))


def _error(body: bytes) -> dict:
    """Returns the error object of any vendor's body, {} if there is no such object.

    Gemini wraps it into a list if a stream was requested.
    """
    try:
        found = orjson.loads(body) if len(body) <= MAX_ERROR_BYTES else None
    except orjson.JSONDecodeError:
        return {}
    if isinstance(found, list):
        found = found[0] if found else None
    if not isinstance(found, dict):
        return {}
    if isinstance(found.get("response"), dict):  # a failed response of the Responses protocol
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


def _requested_wait(headers: Mapping[str, str], error: Mapping, now_s: float) -> float | None:
    """Returns the wait in seconds from Retry-After, else from the vendors' own fields and headers; None without any."""
    if (ms := _number(headers.get("retry-after-ms"))) is not None:
        return ms / 1000
    if (after := headers.get("retry-after")) is not None:
        seconds = _number(after)
        return seconds if seconds is not None else _seconds_until(_http_date(after), now_s)
    for detail in _details(error):
        if isinstance(detail.get("retryDelay"), str):
            return _duration(detail["retryDelay"])
    waits = [wait for wait in _resets(headers, now_s) if wait is not None]
    return max(waits, default=None)


def _resets(headers: Mapping[str, str], now_s: float) -> Iterator[float | None]:
    """Yields in how many seconds each used-up counter resets, None for a time that cannot be read."""
    for counter in ("requests", "tokens", "input-tokens", "output-tokens"):
        if _number(headers.get(f"x-ratelimit-remaining-{counter}")) == 0:
            yield _duration(headers.get(f"x-ratelimit-reset-{counter}", ""))
        if _number(headers.get(f"anthropic-ratelimit-{counter}-remaining")) == 0:
            yield _seconds_until(_iso_time(headers.get(f"anthropic-ratelimit-{counter}-reset", "")), now_s)


def _number(text: str | None) -> float | None:
    try:
        found = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return found if math.isfinite(found) and found >= 0 else None


def _duration(text: str) -> float | None:
    """Returns the seconds of a duration such as `6m0s`, `20ms`, `1.5s` or a plain number; None if it is not one."""
    if (seconds := _number(text)) is not None:
        return seconds
    if not _DURATION.fullmatch(text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def _seconds_until(moment: datetime | None, now_s: float) -> float | None:
    return None if moment is None else moment.timestamp() - now_s


def _http_date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # the second one for a number of many digits
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _iso_time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
