"""An exchange with a channel that answers inside gproxy, with the interface of `upstream.client.Exchange`."""

from collections.abc import Iterator
from contextlib import AbstractContextManager

from gproxy.channels.kind import LocalResponder


class Exchange:
    status = 200
    waited_s = 0.0

    def __init__(self, responder: LocalResponder, is_stream: bool, protocol: str, model: str, body: bytes):
        self.is_stream = is_stream
        self.headers = {"content-type": "text/event-stream" if is_stream else "application/json"}
        if is_stream:
            self._pieces = responder.stream(protocol, model, body)
        else:
            self._pieces = [responder.whole(protocol, model, body)]

    def read(self, watch: AbstractContextManager) -> bytes:
        return b"".join(self._pieces)

    def chunks(self, watch: AbstractContextManager) -> Iterator[bytes]:
        for piece in self._pieces:
            with watch:
                pass  # raises if the client disconnected or the worker is stopping
            yield piece

    def masked(self, data: bytes) -> bytes:
        return data

    def limit_idle(self, idle_s: float | None) -> None:
        """Does nothing: there is no wait."""

    def close(self) -> None:
        """Does nothing: there is no connection."""
