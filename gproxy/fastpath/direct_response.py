"""Replaces werkzeug's sending of a response, which copies and checks the headers; the server checks them again.

Measured: 2.5 µs of CPU per response with 16 headers instead of 22 µs.
"""

from collections.abc import Callable, Iterable

from flask import Response
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wsgi import ClosingIterator

from gproxy.fastpath import switches


class _DirectResponse(Response):
    """Only the WSGI call of a response; none of its attributes is set."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: Iterable[bytes], end: Callable[[], None]):
        self._parts = status, headers, body, end

    def __call__(self, environ, start_response) -> ClosingIterator:
        status, headers, body, end = self._parts
        start_response(f"{status} {HTTP_STATUS_CODES.get(status, 'Unknown')}", headers)
        return ClosingIterator(body, end)


class _LibraryResponse(Response):
    """A response of werkzeug that adds no headers of its own."""

    default_mimetype = None
    automatically_set_content_length = False


def respond(status: int, headers: list[tuple[str, str]], body: Iterable[bytes], end: Callable[[], None]) -> Response:
    """Returns a response with exactly these headers. `end` is called once, however the response ends."""
    if switches.is_on("direct_response"):
        return _DirectResponse(status, headers, body, end)
    response = _LibraryResponse(body, status, headers)
    response.call_on_close(end)
    return response
