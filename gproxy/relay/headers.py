"""Which headers and query parameters pass, either way. Allow-lists: what is not named does not pass."""

import time
from collections.abc import Callable
from types import ModuleType
from urllib.parse import quote, urlencode

from gproxy.errors import BadRequest, GatewayError
from gproxy.quota import limits
from gproxy.snapshot import Credential, Provider
from gproxy.state.interface import LimitStatus
from gproxy.units import NANO

ALWAYS = ("idempotency-key", "accept-language", "traceparent", "tracestate")
# A vendor's beta switches go to its own protocol only.
BY_PROTOCOL = {
    "openai_chat": ("openai-beta", *ALWAYS),
    "openai_responses": ("openai-beta", *ALWAYS),
    "anthropic": ("anthropic-beta", *ALWAYS),
    "gemini": ALWAYS,
}
OURS_ALONE = ("key", "alt")
BACK = frozenset(("retry-after", "retry-after-ms", "x-should-retry", "openai-processing-ms", "server-timing"))
BACK_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-")
UPSTREAM_REQUEST_IDS = ("x-request-id", "request-id")
# nginx neither buffers nor compresses such an answer; a proxy must not change it.
_UNBUFFERED = [("Cache-Control", "no-cache, no-transform"), ("X-Accel-Buffering", "no")]
STREAMED = [("Content-Type", "text/event-stream; charset=utf-8"), *_UNBUFFERED]
STREAMED_ARRAY = [("Content-Type", "application/json; charset=utf-8"), *_UNBUFFERED]


def to_upstream(
    protocol: str, forwarded: tuple[str, ...], header: Callable[[str], str | None], auth: dict[str, str]
) -> dict[str, str]:
    """What we mean to send, a few of the client's, and the credential last so that nothing replaces it."""
    sent = {"Content-Type": "application/json"}
    for name in (*BY_PROTOCOL[protocol], *forwarded):
        if (value := header(name)) is not None:
            sent[name] = value
    for name in auth:
        sent.pop(name.lower(), None)
    return sent | auth


def path(template: str, model: str, query: tuple[tuple[str, str], ...]) -> str:
    """The path below the base URL. A model's own slashes stay: vendors have ids such as `models/x`.

    Raises BadRequest on a model that would lead to another path of the upstream.
    """
    filled = template
    if "{model}" in template:
        bare = model.removeprefix("models/")
        if any(segment.strip(".") == "" for segment in bare.split("/")):
            raise BadRequest("model: holds an empty or dotted path segment")
        filled = template.replace("{model}", quote(bare, safe="/:@"))
    passed = [(name, value) for name, value in query if name not in OURS_ALONE]
    if not passed:
        return filled
    return filled + ("&" if "?" in filled else "?") + urlencode(passed)


def placed(path: str, credential: Credential, location: str) -> str:
    """The path with what is known of it when the credential is: its project, where it belongs to one."""
    if credential.account is None:
        return path
    return path.replace("{project}", quote(credential.account.project_id, safe=":")).replace("{location}", location)


def to_client(provider: Provider, exchange, *, is_limited: bool = False) -> list[tuple[str, str]]:
    """The upstream's headers that pass. What it says of limits does not, where limits of ours apply to the caller."""
    told = [("x-gproxy-provider", provider.name)]
    for name, value in exchange.headers.items():
        if name in BACK or (name.startswith(BACK_PREFIXES) and not is_limited):
            told.append((name, value))
        elif name in UPSTREAM_REQUEST_IDS:
            told.append(("x-upstream-request-id", value))
    return told


def overhead(started: float, waited_s: float) -> tuple[str, str]:
    """The time in gproxy until the headers are sent, without the wait for the upstream."""
    return ("x-gproxy-overhead-ms", f"{max(0.0, time.perf_counter() - started - waited_s) * 1000:.2f}")


def left(statuses: tuple[LimitStatus, ...], protocol: ModuleType, now_s: float) -> list[tuple[str, str]]:
    """What is left of the caller's limits: the tightest counter, and all under the vendor's own names."""
    requests, tokens, running = limits.tightest(statuses)
    shown = requests or tokens or running
    return [] if shown is None else limits.to_headers(shown, now_s) + protocol.limit_headers(requests, tokens, now_s)


def vendors_left(statuses: tuple[LimitStatus, ...], protocol: ModuleType, now_s: float) -> list[tuple[str, str]]:
    """The same under the names that the client's own vendor gives them only."""
    requests, tokens, _ = limits.tightest(statuses)
    return protocol.limit_headers(requests, tokens, now_s)


# A count that we made by bytes.
ESTIMATED = ("x-gproxy-estimated", "true")


def lossy(losses: tuple[str, ...]) -> list[tuple[str, str]]:
    """What a translation could not carry, in a fixed order."""
    return [("x-gproxy-lossy", ", ".join(sorted(set(losses))))] if losses else []


def cost(nano: int) -> tuple[str, str]:
    return ("x-gproxy-cost-usd", f"{nano // NANO}.{nano % NANO:09d}")


class Naming:
    """A context: an error from within names the provider, for the caller is permitted to know it."""

    __slots__ = ("_name",)

    def __init__(self, provider: Provider):
        self._name = provider.name

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind, fault: BaseException | None, trace) -> None:
        if isinstance(fault, GatewayError):
            fault.headers.setdefault("x-gproxy-provider", self._name)
