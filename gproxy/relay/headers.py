"""The headers and query parameters that gproxy forwards in both directions. Allow-lists: no others are forwarded."""

import time
from collections.abc import Callable
from types import ModuleType
from urllib.parse import quote, urlencode

from gproxy.errors import BadRequest, GatewayError
from gproxy.quota import limits
from gproxy.snapshot import Credential, Provider
from gproxy.state.interface import LimitStatus
from gproxy.units import NANO

FORWARDED = ("idempotency-key", "accept-language", "traceparent", "tracestate")
# A vendor's beta headers are forwarded only if the upstream uses that vendor's protocol.
FORWARDED_BY_PROTOCOL = {
    "openai_chat": ("openai-beta", *FORWARDED),
    "openai_responses": ("openai-beta", *FORWARDED),
    "anthropic": ("anthropic-beta", *FORWARDED),
    "gemini": FORWARDED,
}
NOT_FORWARDED_PARAMETERS = ("key", "alt")
RETURNED = frozenset(("retry-after", "retry-after-ms", "x-should-retry", "openai-processing-ms", "server-timing"))
RETURNED_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")
UPSTREAM_REQUEST_IDS = ("x-request-id", "request-id")
# Keep nginx from buffering or compressing the response, and proxies from changing it.
_UNBUFFERED = [("Cache-Control", "no-cache, no-transform"), ("X-Accel-Buffering", "no")]
STREAMED = [("Content-Type", "text/event-stream; charset=utf-8"), *_UNBUFFERED]
STREAMED_ARRAY = [("Content-Type", "application/json; charset=utf-8"), *_UNBUFFERED]


def to_upstream(
    protocol: str, forwarded: tuple[str, ...], header: Callable[[str], str | None], auth: dict[str, str]
) -> dict[str, str]:
    """Returns the headers of an upstream request; the credential last, so that no forwarded header replaces it."""
    sent = {"Content-Type": "application/json"}
    for name in (*FORWARDED_BY_PROTOCOL[protocol], *forwarded):
        if (value := header(name)) is not None:
            sent[name] = value
    for name in auth:
        sent.pop(name.lower(), None)
    return sent | auth


def path(template: str, model: str, query: tuple[tuple[str, str], ...]) -> str:
    """Returns the path below the base URL. Slashes in the model are kept: vendors have ids such as `models/x`.

    Raises BadRequest on a model that would change the path.
    """
    filled = template
    if "{model}" in template:
        bare = model.removeprefix("models/")
        if any(segment.strip(".") == "" for segment in bare.split("/")):
            raise BadRequest("model: contains an empty or dotted path segment")
        filled = template.replace("{model}", quote(bare, safe="/:@"))
    parameters = [(name, value) for name, value in query if name not in NOT_FORWARDED_PARAMETERS]
    if not parameters:
        return filled
    return filled + ("&" if "?" in filled else "?") + urlencode(parameters)


def with_project(path: str, credential: Credential, location: str) -> str:
    """Returns the path with the credential's project and the location, if the credential is a service account."""
    if credential.account is None:
        return path
    return path.replace("{project}", quote(credential.account.project_id, safe=":")).replace("{location}", location)


def to_client(provider: Provider, exchange, *, is_limited: bool = False) -> list[tuple[str, str]]:
    """Returns the upstream's headers that the client gets; without its rate limits if `is_limited` by gproxy's own."""
    returned = [("x-gproxy-provider", provider.name)]
    for name, value in exchange.headers.items():
        if name in RETURNED or (name.startswith(RETURNED_PREFIXES) and not is_limited):
            returned.append((name, value))
        elif name in UPSTREAM_REQUEST_IDS:
            returned.append(("x-upstream-request-id", value))
    return returned


def overhead(started: float, waited_s: float) -> tuple[str, str]:
    """Returns the header with the time in gproxy until the headers are sent, excluding the wait for the upstream."""
    return ("x-gproxy-overhead-ms", f"{max(0.0, time.perf_counter() - started - waited_s) * 1000:.2f}")


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


# For a token count that gproxy estimated from the bytes of the body.
ESTIMATED = ("x-gproxy-estimated", "true")


def lossy(losses: tuple[str, ...]) -> list[tuple[str, str]]:
    """Returns the header that lists the losses of a translation, sorted."""
    return [("x-gproxy-lossy", ", ".join(sorted(set(losses))))] if losses else []


def cost(nano: int) -> tuple[str, str]:
    """Returns the header with the cost in USD; `nano` is in nano-USD."""
    return ("x-gproxy-cost-usd", f"{nano // NANO}.{nano % NANO:09d}")


class ProviderHeader:
    """Context manager: adds the provider's name to the headers of an error, for callers that may use the provider."""

    __slots__ = ("_name",)

    def __init__(self, provider: Provider):
        self._name = provider.name

    def __enter__(self) -> None:
        """Does nothing."""

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        if isinstance(error, GatewayError):
            error.headers.setdefault("x-gproxy-provider", self._name)
