"""Replaces werkzeug's sending of a response, which copies and checks the headers; the server checks them again.

Measured: 2.5 µs of CPU per response with 16 headers instead of 22 µs.
"""

from collections.abc import Callable, Iterable

from flask import Response
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wsgi import ClosingIterator

from gproxy.fastpath import switches


class _LibraryResponse(Response):
    """A response of werkzeug that adds no headers of its own."""

    default_mimetype = None
    automatically_set_content_length = False


class _DirectResponse(_LibraryResponse):
    """Sends its parts directly. If an attribute is read or set, as by a hook of Flask, werkzeug sends the response."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: Iterable[bytes], end: Callable[[], None]):
        self._parts = status, headers, body, end

    def __getattr__(self, name: str):
        """Called for an attribute that is not set. Raises AttributeError if werkzeug does not set it either."""
        if "_on_close" in self.__dict__ or "_parts" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._set_attributes()
        return getattr(self, name)

    def _set_attributes(self) -> None:
        """Sets every attribute that werkzeug sets. Those that a hook has set already keep their values."""
        changed = dict(self.__dict__)
        status, headers, body, end = self._parts
        super().__init__(body, status, headers)
        self.call_on_close(end)
        self.__dict__.update(changed)

    def __call__(self, environ, start_response) -> Iterable[bytes]:
        if len(self.__dict__) > 1:
            if "_on_close" not in self.__dict__:
                self._set_attributes()
            return super().__call__(environ, start_response)
        status, headers, body, end = self._parts
        start_response(f"{status} {HTTP_STATUS_CODES.get(status, 'Unknown')}", headers)
        return ClosingIterator(body, end)


def respond(status: int, headers: list[tuple[str, str]], body: Iterable[bytes], end: Callable[[], None]) -> Response:
    """Returns a response with exactly these headers. `end` is called once, however the response ends."""
    if switches.is_on("direct_response"):
        return _DirectResponse(status, headers, body, end)
    response = _LibraryResponse(body, status, headers)
    response.call_on_close(end)
    return response
