"""Logins by address and name. The counters are shared by the machine's workers."""

import time
from ipaddress import IPv6Address, ip_address
from pathlib import Path

from flask import Flask, request
from flask_limiter import Limiter, RequestLimit
from limits import parse

from gproxy.errors import RateLimited
from gproxy.state.mmap import limits_storage  # noqa: F401 - the storage makes itself known by its scheme
from gproxy.web import request_input
from gproxy.web.error_responses import runtime

ATTEMPTS = "120 per minute"  # of one address, right or wrong
FAILURES = parse("10 per minute")  # of one address at one name


def address() -> str:
    return request_input.address(request.environ, runtime().settings.trusted_proxies) or "unknown"


def whence() -> str:
    """The address as it is counted: of IPv6 the network, of which one client has every address."""
    told = address()
    try:
        found = ip_address(told)
    except ValueError:
        return told
    if not isinstance(found, IPv6Address):
        return told
    return str(found.ipv4_mapped or IPv6Address(int(found) >> 64 << 64))


def _refuse(breach: RequestLimit) -> None:
    raise _refusal(breach.reset_at)


def _refusal(until: float) -> RateLimited:
    seconds = max(1, int(until - time.time()) + 1)
    return RateLimited(f"too many logins; try again in {seconds} s", seconds, headers={"Retry-After": str(seconds)})


LIMITER = Limiter(whence, strategy="moving-window", on_breach=_refuse)


def start(app: Flask, folder: Path) -> None:
    app.config["RATELIMIT_STORAGE_URI"] = f"gproxy-table://{folder}"
    # As if it had been here: its hooks would cost every request, and a limited view checks by itself.
    app.extensions["limiter"] = {LIMITER}
    LIMITER.init_app(app)


def refuse_guessing(name: str) -> None:
    """Raises RateLimited after too many failures."""
    if not LIMITER.limiter.test(FAILURES, whence(), name):
        raise _refusal(LIMITER.limiter.get_window_stats(FAILURES, whence(), name).reset_time)


def note_failure(name: str) -> None:
    LIMITER.limiter.hit(FAILURES, whence(), name)
