"""Maps the exceptions of requests, urllib3 and http.client to UpstreamError.

Their texts are never passed on: they quote URLs, and a rejected header quotes its value, which is the key.
"""

import http.client
from collections.abc import Iterator

import requests
import urllib3

from gproxy.errors import UpstreamError, UpstreamTimeout
from gproxy.fastpath.connection import Sending

# Raised when a request is sent over a connection that the upstream had already closed.
CLOSED_BY_PEER = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
# Library exception, our exception, text. The first row that matches applies.
MAPPING: tuple[tuple[type[BaseException], type[UpstreamError], str], ...] = (
    (requests.exceptions.InvalidHeader, UpstreamError, "the credential contains a character that no header can carry"),
    (requests.exceptions.ConnectTimeout, UpstreamTimeout, "no connection in time"),
    (requests.exceptions.Timeout, UpstreamTimeout, "no answer in time"),
    (urllib3.exceptions.TimeoutError, UpstreamTimeout, "no answer in time"),
    (TimeoutError, UpstreamTimeout, "no answer in time"),
    (requests.exceptions.SSLError, UpstreamError, "TLS failed"),
    (urllib3.exceptions.SSLError, UpstreamError, "TLS failed"),
    (requests.exceptions.ProxyError, UpstreamError, "the outbound proxy failed"),
    (urllib3.exceptions.ProxyError, UpstreamError, "the outbound proxy failed"),
    (requests.exceptions.ConnectionError, UpstreamError, "the connection failed"),
    (urllib3.exceptions.DecodeError, UpstreamError, "the body cannot be decompressed"),
    (requests.exceptions.RequestException, UpstreamError, "the request failed"),
    (urllib3.exceptions.HTTPError, UpstreamError, "the connection broke"),
    (http.client.IncompleteRead, UpstreamError, "the connection broke"),
    (http.client.HTTPException, UpstreamError, "the answer is not HTTP"),
    # http.client rejects a header value with a line break, or one that is not Latin-1, with a plain ValueError.
    (ValueError, UpstreamError, "the credential or a header contains a character that no header can carry"),
    (OSError, UpstreamError, "the connection broke"),
)


def to_upstream_error(fault: BaseException, sending: Sending | None = None) -> UpstreamError:
    """Returns the UpstreamError for a library's exception, without its text.

    With `sending`, sets `was_sent` and `is_stale` from the progress of the request.
    """
    error = next((kind(text) for library_kind, kind, text in MAPPING if isinstance(fault, library_kind)), None)
    error = error or UpstreamError("the upstream call failed")
    if sending is not None:
        error.was_sent = sending.is_sent
        error.is_stale = sending.is_sent and sending.was_open and _is_closed_by_peer(fault)
    return error


def _is_closed_by_peer(fault: BaseException) -> bool:
    return any(isinstance(cause, CLOSED_BY_PEER) for cause in _causes(fault))


def _causes(fault: BaseException) -> Iterator[BaseException]:
    """Yields the exception and all exceptions that it wraps: as cause, context, `reason` or argument."""
    pending, seen = [fault], set()
    while pending:
        cause = pending.pop()
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            pending += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


LIBRARY_ERRORS = tuple(library_kind for library_kind, _, _ in MAPPING)
