"""What is kept of requests where an operator wants it: each attempt at an upstream, and what secrets there are.

Everything is redacted and cut here, before it is written anywhere.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gproxy.accounting.spool import Spool
from gproxy.relay.redaction import Redactor
from gproxy.store.snapshot import Logging, Snapshot

# Kinds of records, in the order of their columns.
DOWNSTREAM, UPSTREAM = "downstream", "upstream"


@dataclass(slots=True)
class Recorder:
    """Of one process. `most_body`: bytes of a body that are kept. `secrets` are the process's own."""

    spool: Spool
    snapshot: Callable[[], Snapshot]
    new_id: Callable[[int], int]
    secrets: frozenset[str]
    most_body: int
    _seen: Snapshot | None = None
    _redactor: Redactor = field(default_factory=lambda: Redactor(()))

    def wanted(self) -> Logging:
        """What an operator wants of a request that starts now. Raises Unavailable."""
        return self.snapshot().logging

    def redactor(self) -> Redactor:
        """For the secrets that are alive now."""
        current = self.snapshot()
        if current is not self._seen:
            live = {one.secret for provider in current.providers.values() for one in provider.credentials}
            self._redactor, self._seen = Redactor(live | self.secrets), current
        return self._redactor

    def put(self, record: tuple) -> None:
        self.spool.put(record)

    def next_id(self) -> tuple[int, int]:
        """An id and its moment, in nanoseconds."""
        now = time.time_ns()
        return self.new_id(now), now


class Capture:
    """The beginning of a body that goes by in pieces."""

    __slots__ = ("_left", "_pieces")

    def __init__(self, most: int):
        self._left, self._pieces = most, []

    def add(self, piece: bytes) -> None:
        if self._left > 0:
            self._pieces.append(bytes(piece[: self._left]))
            self._left -= len(piece)

    def joined(self) -> bytes:
        return b"".join(self._pieces)


class Trail:
    """The attempts of one request. `own`: the key that its client showed."""

    __slots__ = ("_downstream", "_has_body", "_own", "_recorder")

    def __init__(self, recorder: Recorder, downstream_id: int | None, has_body: bool, own: Iterable[bytes]):
        self._recorder, self._downstream = recorder, downstream_id
        self._has_body, self._own = has_body, tuple(own)

    def send(
        self, provider_id: int, credential_id: int, url: str, headers: dict, body: bytes, shown: str, send: Callable
    ):
        """What `send` answers or raises; a row of it is kept when the answer is over."""
        recorder = self._recorder
        number, at = recorder.next_id()
        redactor, own = recorder.redactor(), (*self._own, shown.encode())
        most = recorder.most_body + redactor.longest if self._has_body else 0
        asked = redactor.body(bytes(body[:most]), own)[: recorder.most_body] if self._has_body else None
        row = (
            *(UPSTREAM, number, self._downstream, at, provider_id, credential_id, "POST"),
            *(redactor.headers(headers.items(), own), redactor.text(url, own), asked),
        )
        attempt = _Attempt(recorder, row, Capture(most) if self._has_body else None, own)
        try:
            exchange = send()
        except BaseException:
            attempt.end()
            raise
        attempt.answered(exchange.status, exchange.headers)
        exchange.watch(attempt.came, attempt.end)
        return exchange


class _Attempt:
    """One that runs. It holds nothing of the request but what is kept of it."""

    __slots__ = ("_answer", "_capture", "_own", "_recorder", "_row", "_started")

    def __init__(self, recorder: Recorder, row: tuple, capture: Capture | None, own: tuple[bytes, ...]):
        self._recorder, self._row, self._capture, self._own = recorder, row, capture, own
        self._started = time.perf_counter()
        self._answer: tuple[int | None, str, int | None] = (None, "[]", None)

    def answered(self, status: int, headers: dict[str, str]) -> None:
        told = self._recorder.redactor().headers(headers.items(), self._own)
        self._answer = status, told, self._ms()

    def came(self, piece: bytes) -> None:
        if self._capture is not None:
            self._capture.add(piece)

    def end(self) -> None:
        status, headers, first_ms = self._answer
        body = None
        if self._capture is not None and status is not None:
            recorder = self._recorder
            body = recorder.redactor().body(self._capture.joined(), self._own)[: recorder.most_body]
        self._recorder.put((*self._row, status, headers, body, first_ms, self._ms()))

    def _ms(self) -> int:
        return round((time.perf_counter() - self._started) * 1000)
