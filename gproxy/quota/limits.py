"""Which limit rows apply to a call, and what is said of their counters."""

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
# Counted one by one; the others are tokens.
OF_REQUESTS = (RPM, RPD, CONCURRENCY)
NEVER_S = 3600  # told where no time would help


def applying(caller: Caller, name: str) -> tuple[Limit, ...]:
    """At most one row of the user and one of the key: the most specific that matches the name that the client sent."""
    found = []
    for rows in (caller.limits, caller.key_limits):
        for row in rows:
            if row.matches(name):
                found.append(counted(row))
                break
    return tuple(found)


def counted(row: RateLimit) -> Limit:
    """The row as the shared state knows it."""
    return Limit(str(row.id), row.rpm, row.rpd, row.total_tokens, row.concurrency)


def refusal(refused: LimitStatus, statuses: tuple[LimitStatus, ...], tokens: int, now_s: float) -> RateLimited:
    """The answer to a call that a counter has no room for; `tokens` is its upper bound."""
    title, wait_s = TITLES[refused.counter], refused.wait_s
    if refused.limit == 0:
        detail = f"{refused.counter}: this model is blocked by a limit of 0 {title}"
    elif wait_s is None:
        detail = f"{refused.counter}: this request may use {tokens} tokens, and {refused.limit} {title} are allowed"
    else:
        detail = f"{refused.counter}: {refused.limit} {title} are used up; try again in {_rounded(wait_s)} s"
    return RateLimited(detail, wait_s, statuses, headers=dict(told(refused, now_s)) | _retry(wait_s))


def told(status: LimitStatus, now_s: float) -> list[tuple[str, str]]:
    """The headers of one counter; its reset is in seconds since the epoch."""
    return [
        ("X-RateLimit-Limit", str(status.limit)),
        ("X-RateLimit-Remaining", str(status.remaining)),
        ("X-RateLimit-Reset", str(math.ceil(now_s + (status.reset_s or 0.0)))),
        ("X-RateLimit-Counter", status.counter),
    ]


def tightest(statuses: Iterable[LimitStatus]) -> tuple[LimitStatus | None, LimitStatus | None, LimitStatus | None]:
    """The counter with the least left of those of requests, the one of tokens, and the one of requests at once."""
    requests = tokens = running = None
    for one in statuses:
        counter = one.counter
        if counter == TOKENS:
            if tokens is None or one.remaining < tokens.remaining:
                tokens = one
        elif counter == CONCURRENCY:
            if running is None or one.remaining < running.remaining:
                running = one
        elif counter is not None and (requests is None or one.remaining < requests.remaining):
            requests = one
    return requests, tokens, running


def _retry(wait_s: float | None) -> dict[str, str]:
    headers = {"Retry-After": str(NEVER_S if wait_s is None else _rounded(wait_s))}
    if wait_s is not None and wait_s <= LONG_S:
        return {**headers, "retry-after-ms": str(math.ceil(wait_s * 1000))}
    return {**headers, "x-should-retry": "false"}


# The SDKs do not wait longer than this, and would only ask again too early.
LONG_S = 60.0


def _rounded(wait_s: float) -> int:
    return max(1, math.ceil(wait_s))
