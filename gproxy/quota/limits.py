"""The limit rows that apply to a call, and the errors and headers of their counters."""

import math
from collections.abc import Iterable

from gproxy.errors import RateLimited
from gproxy.snapshot import Caller, RateLimit
from gproxy.state.interface import CONCURRENCY, RPD, RPM, TOKENS, Limit, LimitStatus

TITLES = {
    RPM: "requests per minute",
    RPD: "requests per day",
    TOKENS: "tokens per day",
    CONCURRENCY: "requests at once",
}
NO_WAIT_RETRY_S = 3600  # Retry-After if no wait would help
MAX_SDK_WAIT_S = 60.0  # the SDKs do not wait longer, and would only retry too early


def applying(caller: Caller, name: str) -> tuple[Limit, ...]:
    """Returns the most specific limit of the user, and that of the key, which match the name that the client sent."""
    limits = []
    for rows in (caller.limits, caller.key_limits):
        for row in rows:
            if row.matches(name):
                limits.append(limit_of(row))
                break
    return tuple(limits)


def limit_of(row: RateLimit) -> Limit:
    """Returns the row as a limit of the shared state."""
    return Limit(str(row.id), row.rpm, row.rpd, row.total_tokens, row.concurrency)


def refusal(refused: LimitStatus, statuses: tuple[LimitStatus, ...], tokens: int, now_s: float) -> RateLimited:
    """Returns the error of a call that a counter has no room for; `tokens` is the call's upper bound."""
    title, wait_s = TITLES[refused.counter or ""], refused.wait_s
    if refused.limit == 0:
        detail = f"{refused.counter}: this model is blocked by a limit of 0 {title}"
    elif wait_s is None:
        detail = f"{refused.counter}: this request may use {tokens} tokens, and {refused.limit} {title} are allowed"
    else:
        detail = f"{refused.counter}: {refused.limit} {title} are used up; try again in {_whole_seconds(wait_s)} s"
    return RateLimited(detail, wait_s, statuses, headers=dict(to_headers(refused, now_s)) | _retry_headers(wait_s))


def to_headers(status: LimitStatus, now_s: float) -> list[tuple[str, str]]:
    """Returns the headers of one counter; its reset is in seconds since the epoch."""
    return [
        ("X-RateLimit-Limit", str(status.limit)),
        ("X-RateLimit-Remaining", str(status.remaining)),
        ("X-RateLimit-Reset", str(math.ceil(now_s + (status.reset_s or 0.0)))),
        ("X-RateLimit-Counter", status.counter or ""),
    ]


def tightest(statuses: Iterable[LimitStatus]) -> tuple[LimitStatus | None, LimitStatus | None, LimitStatus | None]:
    """Returns the counters of requests, of tokens and of concurrency of which the least remains."""
    requests = tokens = running = None
    for status in statuses:
        counter = status.counter
        if counter == TOKENS:
            if tokens is None or status.remaining < tokens.remaining:
                tokens = status
        elif counter == CONCURRENCY:
            if running is None or status.remaining < running.remaining:
                running = status
        elif counter is not None and (requests is None or status.remaining < requests.remaining):
            requests = status
    return requests, tokens, running


def _retry_headers(wait_s: float | None) -> dict[str, str]:
    headers = {"Retry-After": str(NO_WAIT_RETRY_S if wait_s is None else _whole_seconds(wait_s))}
    if wait_s is not None and wait_s <= MAX_SDK_WAIT_S:
        return {**headers, "retry-after-ms": str(math.ceil(wait_s * 1000))}
    return {**headers, "x-should-retry": "false"}


def _whole_seconds(wait_s: float) -> int:
    return max(1, math.ceil(wait_s))
