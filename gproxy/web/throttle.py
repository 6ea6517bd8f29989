"""Limits on login attempts, by address and by name. The machine's workers share the counters."""

import time
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from flask import Flask, request
from flask_limiter import Limiter, RequestLimit
from limits import parse

from gproxy.errors import RateLimited
from gproxy.state.mmap import limits_storage  # noqa: F401 - the import registers the storage's URI scheme
from gproxy.web import request_input
from gproxy.web.error_responses import runtime

ATTEMPTS = "120 per minute"  # per address, whether the login succeeds or fails
FAILURES = parse("10 per minute")  # per address and name


def client_address() -> str:
    """Returns the client's address, or "unknown" on a Unix socket."""
    return request_input.client_address(request.environ, runtime().settings.trusted_proxies) or "unknown"


def counted_address() -> str:
    """Returns the address that attempts are counted by: of IPv6 the /64 network, all of which one client can use."""
    text = client_address()
    try:
        found = ip_address(text)
    except ValueError:
        return text
    if not isinstance(found, IPv6Address):
        return text
    return str(found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64))


def _refuse(breach: RequestLimit) -> None:
    raise _rate_limited(breach.reset_at)


def _rate_limited(reset_at: float) -> RateLimited:
    """`reset_at`: seconds since the epoch."""
    seconds = max(1, int(reset_at - time.time()) + 1)
    return RateLimited(f"too many logins; try again in {seconds} s", seconds, headers={"Retry-After": str(seconds)})


LIMITER = Limiter(counted_address, strategy="moving-window", on_breach=_refuse)


def start(app: Flask, folder: Path) -> None:
    """Initialises the limiter with the shared state in this folder."""
    app.config["RATELIMIT_STORAGE_URI"] = f"gproxy-table://{folder}"
    # Registered beforehand, so that init_app adds no hooks: they would slow every request, and the view checks itself.
    app.extensions["limiter"] = {LIMITER}
    LIMITER.init_app(app)


def refuse_guessing(name: str) -> None:
    """Raises RateLimited if too many logins with this name failed from the client's address."""
    if not LIMITER.limiter.test(FAILURES, counted_address(), name):
        raise _rate_limited(LIMITER.limiter.get_window_stats(FAILURES, counted_address(), name).reset_time)


def count_failure(name: str) -> None:
    """Counts a failed login of the client's address with this name."""
    LIMITER.limiter.hit(FAILURES, counted_address(), name)
