"""The headers that a client gets. The upstream's are an allow-list: no others are returned."""

import time
from types import ModuleType

from gproxy.errors import GatewayError
from gproxy.quota import limits
from gproxy.snapshot import Provider
from gproxy.state.interface import LimitStatus
from gproxy.units import NANO

RETURNED = frozenset(("retry-after", "retry-after-ms", "x-should-retry", "openai-processing-ms", "server-timing"))
RETURNED_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")
UPSTREAM_REQUEST_IDS = ("x-request-id", "request-id")
# Keep nginx from buffering or compressing the response, and proxies from changing it.
_UNBUFFERED = [("Cache-Control", "no-cache, no-transform"), ("X-Accel-Buffering", "no")]
STREAMED = [("Content-Type", "text/event-stream; charset=utf-8"), *_UNBUFFERED]
STREAMED_ARRAY = [("Content-Type", "application/json; charset=utf-8"), *_UNBUFFERED]
# For a token count that gproxy estimated from the bytes of the body.
ESTIMATED = ("x-gproxy-estimated", "true")


def to_client(provider: Provider, exchange, *, is_limited: bool = False) -> list[tuple[str, str]]:
    """Returns the upstream's headers that the client gets; without its rate limits if `is_limited` by gproxy's own."""
    returned = [("x-gproxy-provider", provider.name)]
    for name, value in exchange.headers.items():
        if name in RETURNED or (name.startswith(RETURNED_PREFIXES) and not is_limited):
            returned.append((name, value))
        elif name in UPSTREAM_REQUEST_IDS:
            returned.append(("x-upstream-request-id", value))
    return returned


def of_call(started: float, waited_s: float, losses: tuple[str, ...], cost: int | None) -> list[tuple[str, str]]:
    """Returns the headers about the call itself: the losses of its translation, its cost, and gproxy's overhead.

    `cost` is in nano-USD, or None. The overhead is the time in gproxy until the headers are sent, excluding the wait
    for the upstream. `started` is on the performance counter.
    """
    overhead_ms = max(0.0, time.perf_counter() - started - waited_s) * 1000
    found = [("x-gproxy-lossy", ", ".join(sorted(set(losses))))] if losses else []
    if cost is not None:
        found.append(("x-gproxy-cost-usd", f"{cost // NANO}.{cost % NANO:09d}"))
    found.append(("x-gproxy-overhead-ms", f"{overhead_ms:.2f}"))
    return found


def rate_limits(statuses: tuple[LimitStatus, ...], protocol: ModuleType, now_s: float) -> list[tuple[str, str]]:
    """Returns the rate-limit headers: gproxy's own, of the tightest counter, and those of the client's protocol."""
    requests, tokens, running = limits.tightest(statuses)
    tightest = requests or tokens or running
    if tightest is None:
        return []
    return limits.to_headers(tightest, now_s) + protocol.limit_headers(requests, tokens, now_s)


def vendor_rate_limits(statuses: tuple[LimitStatus, ...], protocol: ModuleType, now_s: float) -> list[tuple[str, str]]:
    """Returns only the rate-limit headers of the client's protocol."""
    requests, tokens, _ = limits.tightest(statuses)
    return protocol.limit_headers(requests, tokens, now_s)


def name_provider(error: GatewayError, provider: Provider) -> None:
    """Adds the provider's name to the headers of an error, for callers that may use the provider."""
    error.headers.setdefault("x-gproxy-provider", provider.name)
