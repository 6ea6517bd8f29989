"""What a request brings: its key, its id and its body."""

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
# What we put into a request's environ for logs: VISITOR is whoever calls, TRACE the id of the request's own log row.
REQUEST_ID, SUMMARY, CALLER = "gproxy.request_id", "gproxy.record", "gproxy.visitor"
TRACE, ATTEMPT_LOG = "gproxy.trace", "gproxy.trail"
_SANE_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
_BEARER = ("Bearer ", "bearer ")


def key(environ: dict, allows_query: bool) -> str | None:
    """The first key that is not blank: Authorization, x-api-key, x-goog-api-key, and on LLM routes `?key=`."""
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    if authorization.startswith(_BEARER) and (found := authorization[7:].strip()):
        return found
    for name in ("HTTP_X_API_KEY", "HTTP_X_GOOG_API_KEY"):
        if found := environ.get(name, "").strip():
            return found
    if allows_query and "key=" in (text := environ.get("QUERY_STRING", "")):
        return next((value.strip() for name, value in parse_qsl(text) if name == "key" and value.strip()), None)
    return None


def address(environ: dict, trusted: tuple[str, ...]) -> str | None:
    """The client's own: of those that proxies tell, the last that is no proxy we trust. None on a Unix socket."""
    found = environ.get("REMOTE_ADDR") or None
    hops = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
    while hops and (found is None or _is_trusted(found, trusted)):
        try:
            found = str(ip_address(hops.pop().strip().strip("[]")))
        except ValueError:  # what a proxy that we trust does not vouch for
            break
    return found


@lru_cache(maxsize=1024)
def _is_trusted(text: str, trusted: tuple[str, ...]) -> bool:
    try:
        return any(ip_address(text) in ip_network(one, strict=False) for one in trusted)
    except ValueError:
        return False


def request_id(environ: dict) -> str:
    """The client's, if it sent a sane one, else a new one."""
    given = environ.get("HTTP_X_REQUEST_ID", "")
    # No secret: it is unique by its length, and needs no system call.
    return given if given and _SANE_ID.fullmatch(given) else f"req_{random.getrandbits(96):024x}"


def query(environ: dict) -> tuple[tuple[str, str], ...]:
    text = environ.get("QUERY_STRING", "")
    return tuple(parse_qsl(text, keep_blank_values=True)) if text else ()


def body(environ: dict, maximum: int, timeout_s: float, permit: Permit, watch: AbstractContextManager) -> bytes:
    """The whole body. Raises TooLarge, Overloaded, RequestTimeout, what `presence` throws in, or BadRequest when it was
    cut off or cannot be read."""
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
    """Reads what a refused client still sends, within bounds, when its connection closes after the answer.

    Closing on unread bytes resets the connection, and the client would see that instead of the answer. On a
    connection that is kept the server does this before the next request.
    """
    if "close" not in environ.get("HTTP_CONNECTION", "").lower():
        return
    with gevent.Timeout(timeout_s, False):
        try:
            while maximum > 0 and (piece := environ["wsgi.input"].read(PIECE_BYTES)):
                maximum -= len(piece)
        except (OSError, ParseException) as fault:
            log.debug("a refused client left: %s", type(fault).__name__)


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
