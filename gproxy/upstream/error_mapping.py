"""What the libraries below can raise, and what a caller is told instead.

Their texts are never passed on: they quote URLs, and a refused header quotes its value, which is the key.
"""

import http.client
from collections.abc import Iterator

import requests
import urllib3

from gproxy.errors import UpstreamError, UpstreamTimeout
from gproxy.fastpath.connection import Sending

# How a connection ends that the other side had closed before.
DIED = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
# Ordered: the first row whose class fits decides.
FAULTS: tuple[tuple[type[BaseException], type[UpstreamError], str], ...] = (
    (requests.exceptions.InvalidHeader, UpstreamError, "the credential holds a character that no header can carry"),
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
    # http.client refuses a header value with a line break, or one that is not Latin-1, with a plain ValueError.
    (ValueError, UpstreamError, "the credential or a header holds a character that no header can carry"),
    (OSError, UpstreamError, "the connection broke"),
)


def told(fault: BaseException, sending: Sending | None = None) -> UpstreamError:
    """Our error for a library's, and how far the request came. The fault's own text stays inside."""
    found = next((ours(text) for foreign, ours, text in FAULTS if isinstance(fault, foreign)), None)
    found = found or UpstreamError("the upstream call failed")
    if sending is not None:
        found.was_sent = sending.is_sent
        found.is_stale = sending.is_sent and sending.was_open and any(isinstance(one, DIED) for one in _causes(fault))
    return found


def _causes(fault: BaseException) -> Iterator[BaseException]:
    """The fault and what the libraries wrapped it around, each in its own way."""
    left, seen = [fault], set()
    while left:
        one = left.pop()
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


FOREIGN = tuple(foreign for foreign, _, _ in FAULTS)
