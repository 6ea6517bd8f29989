"""An upstream's response that arrives step by step in memory: it may be silent, or break off, between two pieces."""

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager

import gevent
from gevent.event import Event


class Arriving:
    """Has the interface of `upstream.client.Exchange`.

    Each step is a piece of the body, an error of the upstream's connection, or an Event: silence until it is set.
    """

    waited_s = 0.0

    def __init__(self, *steps: bytes | Exception | Event, status: int = 200, content_type: str = "text/event-stream"):
        self.status, self.headers = status, {"content-type": content_type}
        self._steps, self._peeked = deque(steps), deque()
        self.idle_limits: list[float | None] = []
        self.times_closed = 0

    @property
    def is_stream(self) -> bool:
        return self.headers["content-type"].startswith("text/event-stream")

    def read(self, watch: AbstractContextManager) -> bytes:
        try:
            return b"".join(self.chunks(watch))
        finally:
            self.close()

    def peek(self, watch: AbstractContextManager, wait_s: float) -> bytes | None:
        with gevent.Timeout(max(0.0, wait_s), False):
            piece = next(self._receive(watch), b"")
            if piece:
                self._peeked.append(piece)
            return piece
        return None

    def chunks(self, watch: AbstractContextManager) -> Iterator[bytes]:
        while self._peeked:
            yield self._peeked.popleft()
        yield from self._receive(watch)

    def _receive(self, watch: AbstractContextManager) -> Iterator[bytes]:
        while self._steps:
            step = self._steps[0]
            with watch:
                if isinstance(step, Event):
                    step.wait()
            self._steps.popleft()
            if isinstance(step, Exception):
                raise step
            if isinstance(step, bytes):
                yield step

    def masked(self, data: bytes) -> bytes:
        return data

    def limit_idle(self, idle_s: float | None) -> None:
        self.idle_limits.append(idle_s)

    def close(self) -> None:
        self.times_closed += 1
