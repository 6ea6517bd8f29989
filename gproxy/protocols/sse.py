"""Server-sent events as bytes: split a stream into events, read an event's data, replace it.

https://html.spec.whatwg.org/multipage/server-sent-events.html: lines end with LF, CRLF or CR, a blank line ends
an event.
"""

import re

_LINE_END = rb"(?>\r\n|\n|\r)"
_BOUNDARY = re.compile(_LINE_END + rb"(?:\r\n|\n|\r)")
_LINES = re.compile(_LINE_END)
# A boundary is at most four bytes long, so three of them may lie before the newest bytes.
_OVERLAP = 3


class TooLong(Exception):
    """An event grew beyond the maximum size without ending."""


class Splitter:
    """Splits a stream of bytes into complete events, each with the blank line that ends it.

    `maximum` is the size of an unfinished event in bytes.
    """

    def __init__(self, maximum: int = 64 * 1024 * 1024):
        self._tail = bytearray()
        self._maximum = maximum

    def feed(self, chunk: bytes) -> list[bytes]:
        """Returns the events that this chunk completes. Raises TooLong."""
        if not self._tail and chunk.endswith(b"\n\n") and chunk.find(b"\n\n") == len(chunk) - 2 and b"\r" not in chunk:
            return [chunk]
        start = max(0, len(self._tail) - _OVERLAP)
        self._tail += chunk
        events, done = [], 0
        if b"\n" in chunk or b"\r" in chunk:  # nothing else completes an event
            for boundary in _BOUNDARY.finditer(self._tail, start):
                events.append(bytes(self._tail[done : boundary.end()]))
                done = boundary.end()
        if done:
            del self._tail[:done]
        if len(self._tail) > self._maximum:
            raise TooLong
        return events

    def remainder(self) -> bytes:
        """Returns the bytes after the last complete event; an upstream may omit the final blank line."""
        return bytes(self._tail)


def data_of(event: bytes) -> bytes | None:
    """Returns the event's data, None for a comment or an event without data."""
    start = 0 if event.startswith(b"data:") else event.find(b"\ndata:") + 1
    if (start or event.startswith(b"data:")) and b"\r" not in event:
        end = event.find(b"\n", start)
        if end >= 0 and event.find(b"\ndata:", end) < 0:
            return event[start + 5 : end].strip()
    lines = [line[5:].removeprefix(b" ") for line in _LINES.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines).strip() if lines else None


def with_data(event: bytes, data: bytes) -> bytes:
    """Returns the event with other data; every other line stays."""
    if b"\n" in data:  # each line of the data needs its own field
        data = data.replace(b"\n", b"\ndata: ")
    if event.startswith(b"data:") and event.find(b"\n") == len(event) - 2:
        return b"data: " + data + b"\n\n"
    kept = [line for line in _LINES.split(event) if line and not line.startswith(b"data:")]
    return b"\n".join((*kept, b"data: " + data, b"", b""))


def event(data: bytes, name: str | None = None) -> bytes:
    """Returns an event with the given data, which has no line break."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + data + b"\n\n"
