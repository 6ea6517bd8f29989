"""What is kept of requests where an operator wants it: each attempt at an upstream, and what secrets there are.

Everything is redacted and cut here, before it is written anywhere.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gproxy.request_log.redaction import Redactor
from gproxy.request_log.spool import Spool
from gproxy.snapshot import Logging, Snapshot

log = logging.getLogger(__name__)

# Kinds of records, in the order of their columns.
DOWNSTREAM, UPSTREAM = "downstream", "upstream"


@dataclass(slots=True)
class Recorder:
    """Of one process. `most_body`: bytes of a body that are kept. `secrets` are the process's own."""

    spool: Spool
    snapshot: Callable[[], Snapshot]
    current: Callable[[], Snapshot | None]  # what serves now, without looking for a newer one
    new_id: Callable[[int], int]
    secrets: frozenset[str]
    max_body: int
    _seen: Snapshot | None = None
    _redactor: Redactor = field(default_factory=lambda: Redactor(()))

    def wanted(self) -> Logging:
        """What an operator wants of a request that starts now. Raises Unavailable."""
        return self.snapshot().logging

    def wanted_now(self) -> Logging:
        """The same for what may wait for no change. Raises Unavailable."""
        return (self.current() or self.snapshot()).logging

    def redactor(self) -> Redactor:
        """For the secrets that are known to be alive. It waits for no change."""
        current = self.current() or self.snapshot()
        if current is not self._seen:
            providers = current.providers.values()
            live = {one.secret for provider in providers for one in provider.credentials}
            live |= {urlsplit(one.settings.proxy).password for one in providers if one.settings.proxy} - {None}
            self._redactor, self._seen = Redactor(live | self.secrets), current
        return self._redactor

    def put(self, record: tuple) -> None:
        self.spool.put(record)

    def quietly(self, function: Callable, *args):
        """What the deed gives; a fault of ours costs a log row and no request, and the log has it. None then."""
        try:
            return function(*args)
        except Exception as fault:
            log.error("a log of a request is lost: %s", type(fault).__name__, exc_info=fault)
            return None

    def next_id(self) -> tuple[int, int]:
        """An id and its moment, in nanoseconds."""
        now = time.time_ns()
        return self.new_id(now), now


class Capture:
    """The beginning of a body that goes by in pieces."""

    __slots__ = ("_left", "_pieces", "is_cut")

    def __init__(self, maximum: int):
        self._left, self._pieces, self.is_cut = maximum, [], False

    def add(self, piece: bytes) -> None:
        if self._left > 0:
            self._pieces.append(bytes(piece[: self._left]))
        self._left -= len(piece)
        self.is_cut = self._left < 0

    def joined(self) -> bytes:
        return b"".join(self._pieces)


class AttemptLog:
    """The attempts of one request. `own`: the key that its client showed.

    Its secrets are those of its beginning: to ask for newer ones could wait for the database.
    """

    __slots__ = ("_downstream", "_has_body", "_own", "_recorder", "_redactor")

    def __init__(self, recorder: Recorder, downstream_id: int | None, has_body: bool, own: Iterable[bytes]):
        self._recorder, self._downstream, self._redactor = recorder, downstream_id, recorder.redactor()
        self._has_body, self._own = has_body, tuple(own)

    def send(
        self, provider_id: int, credential_id: int, url: str, headers: dict, body: bytes, shown: str, send: Callable
    ):
        """What `send` answers or raises; a row of it is kept when the answer is over."""
        attempt = self._recorder.quietly(self._begun, provider_id, credential_id, url, headers, body, shown)
        if attempt is None:
            return send()
        try:
            exchange = send()
        except BaseException:
            attempt.end()
            raise
        attempt.answered(exchange.status, exchange.headers)
        exchange.watch(attempt.came, attempt.end)
        return exchange

    def _begun(
        self, provider_id: int, credential_id: int, url: str, headers: dict, body: bytes, shown: str
    ) -> "_Attempt":
        recorder = self._recorder
        number, at = recorder.next_id()
        redactor, own = self._redactor, (*self._own, shown.encode())
        maximum, asked = recorder.max_body + redactor.room(own), None
        if self._has_body:
            asked = redactor.beginning(bytes(body[:maximum]), recorder.max_body, own, len(body) > maximum)
        row = (
            *(UPSTREAM, number, self._downstream, at, provider_id, credential_id, "POST"),
            *(redactor.headers(headers.items(), own), redactor.url(url, own), asked),
        )
        return _Attempt(recorder, redactor, row, Capture(maximum) if self._has_body else None, own)


class _Attempt:
    """One that runs. It holds nothing of the request but what is kept of it."""

    __slots__ = ("_answer", "_capture", "_own", "_recorder", "_redactor", "_row", "_started")

    def __init__(
        self, recorder: Recorder, redactor: Redactor, row: tuple, capture: Capture | None, own: tuple[bytes, ...]
    ):
        self._recorder, self._redactor, self._row, self._capture, self._own = recorder, redactor, row, capture, own
        self._started = time.perf_counter()
        self._answer: tuple[int | None, str, int | None] = (None, "[]", None)

    def answered(self, status: int, headers: dict[str, str]) -> None:
        self._recorder.quietly(self._answered, status, headers)

    def _answered(self, status: int, headers: dict[str, str]) -> None:
        told = self._redactor.headers(headers.items(), self._own)
        self._answer = status, told, self._ms()

    def came(self, piece: bytes) -> None:
        if self._capture is not None:
            self._capture.add(piece)

    def end(self) -> None:
        self._recorder.quietly(self._end)

    def _end(self) -> None:
        status, headers, first_ms = self._answer
        body = None
        if self._capture is not None and status is not None:
            maximum, is_cut = self._recorder.max_body, self._capture.is_cut
            body = self._redactor.beginning(self._capture.joined(), maximum, self._own, is_cut)
        self._recorder.put((*self._row, status, headers, body, first_ms, self._ms()))

    def _ms(self) -> int:
        return round((time.perf_counter() - self._started) * 1000)
