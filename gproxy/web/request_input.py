"""Reads a request's key, client address, id, query and body from the WSGI environ."""

import logging
import random
import re
from contextlib import AbstractContextManager
from functools import lru_cache
from ipaddress import ip_address, ip_network
from urllib.parse import parse_qsl

import gevent
from gunicorn.http.errors import ParseException

from gproxy.admission.capacity import Permit
from gproxy.errors import BadRequest, RequestTimeout, TooLarge

log = logging.getLogger(__name__)

PIECE_BYTES = 1024 * 1024
# Keys that gproxy adds to the environ for its logs. TRACE is the id of the request's own row in the request log.
REQUEST_ID, SUMMARY, CALLER = "gproxy.request_id", "gproxy.summary", "gproxy.caller"
TRACE, ATTEMPT_LOG = "gproxy.trace", "gproxy.attempt_log"
_SANE_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_BEARER = ("Bearer ", "bearer ")


def key(environ: dict, allows_query: bool) -> str | None:
    """Returns the first key or session token that is not blank, or None.

    Read are Authorization, x-api-key, x-goog-api-key and, with `allows_query`, `?key=`.
    """
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    if authorization.startswith(_BEARER) and (found := authorization[7:].strip()):
        return found
    for name in ("HTTP_X_API_KEY", "HTTP_X_GOOG_API_KEY"):
        if found := environ.get(name, "").strip():
            return found
    if allows_query and "key=" in (text := environ.get("QUERY_STRING", "")):
        return next((value.strip() for name, value in parse_qsl(text) if name == "key" and value.strip()), None)
    return None


def client_address(environ: dict, trusted: tuple[str, ...]) -> str | None:
    """Returns the peer's address or, behind trusted proxies, the last of `X-Forwarded-For` that is not theirs.

    `trusted` lists the proxies' addresses and networks. Returns None on a Unix socket without a forwarded address.
    """
    address = environ.get("REMOTE_ADDR") or None
    hops = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
    while hops and (address is None or _is_trusted(address, trusted)):
        try:
            address = str(ip_address(hops.pop().strip().strip("[]")))
        except ValueError:  # not an address: nothing before it can be trusted
            break
    return address


@lru_cache(maxsize=1024)
def _is_trusted(text: str, trusted: tuple[str, ...]) -> bool:
    try:
        return any(ip_address(text) in ip_network(one, strict=False) for one in trusted)
    except ValueError:
        return False


def request_id(environ: dict) -> str:
    """Returns the client's `x-request-id` if it is well-formed, otherwise a new id."""
    given = environ.get("HTTP_X_REQUEST_ID", "")
    # The id is no secret: 96 random bits make it unique, and `random` needs no system call.
    return given if given and _SANE_ID.fullmatch(given) else f"req_{random.getrandbits(96):024x}"


def query(environ: dict) -> tuple[tuple[str, str], ...]:
    """Returns the names and values of the query string."""
    text = environ.get("QUERY_STRING", "")
    return tuple(parse_qsl(text, keep_blank_values=True)) if text else ()


def body(environ: dict, maximum: int, timeout_s: float, permit: Permit, watch: AbstractContextManager) -> bytes:
    """Returns the whole body, of at most `maximum` bytes, which are reserved in `permit`.

    Raises TooLarge, Overloaded, RequestTimeout, BadRequest if the body was cut off or cannot be read, and what `watch`
    raises when the client disconnects.
    """
    if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() not in ("", "identity"):
        raise BadRequest("content-encoding: compressed bodies are not supported; send it as it is")
    length = environ.get("CONTENT_LENGTH")
    declared = int(length) if length else None
    if declared is not None:
        if declared > maximum:
            raise TooLarge(_too_large(maximum))
        permit.reserve_bytes(declared)
    late = RequestTimeout(f"the body did not arrive within {timeout_s:g} s")
    with gevent.Timeout(timeout_s, late), watch:
        try:
            if declared is not None:
                data = environ["wsgi.input"].read(declared)
            elif "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
                data = _chunked(environ["wsgi.input"], maximum, permit)
            else:
                data = b""
        except OSError as fault:
            raise BadRequest("the body was cut off") from fault
        except ParseException as fault:
            raise BadRequest("the body's chunks are broken") from fault
    if declared is not None and len(data) < declared:
        raise BadRequest(f"the body was cut off: {len(data)} of {declared} bytes arrived")
    return data


def discard(environ: dict, maximum: int, timeout_s: float) -> None:
    """Reads at most `maximum` further bytes of a refused request if its connection closes after the response.

    Closing a connection with unread bytes resets it, and the client would see the reset instead of the response. On a
    keep-alive connection the server reads them before the next request.
    """
    if "close" not in environ.get("HTTP_CONNECTION", "").lower():
        return
    with gevent.Timeout(timeout_s, False):
        try:
            while maximum > 0 and (piece := environ["wsgi.input"].read(PIECE_BYTES)):
                maximum -= len(piece)
        except (OSError, ParseException) as fault:
            log.debug("a refused client disconnected: %s", type(fault).__name__)


def _chunked(stream, maximum: int, permit: Permit) -> bytes:
    pieces, size = [], 0
    while piece := stream.read(PIECE_BYTES):
        size += len(piece)
        if size > maximum:
            raise TooLarge(_too_large(maximum))
        permit.reserve_bytes(len(piece))
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(maximum: int) -> str:
    return f"the body is larger than {maximum} bytes; an operator can raise GPROXY_MAX_BODY"
