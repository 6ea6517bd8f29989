"""Records attempts at upstreams for the request log, if an operator enabled it.

Everything is redacted and truncated here, before it is written anywhere.
"""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from gproxy.request_log.redaction import Redactor
from gproxy.request_log.spool import Spool
from gproxy.snapshot import Logging, Snapshot

log = logging.getLogger(__name__)

# The first value of a row: requests of clients, and attempts at upstreams.
DOWNSTREAM, UPSTREAM = "downstream", "upstream"


@dataclass(slots=True)
class Recorder:
    """The recorder of one process. `max_body` is the number of bytes of a body that are logged.

    `secrets` are those of the process settings; the secrets of the configuration are taken from the snapshot.
    """

    spool: Spool
    snapshot: Callable[[], Snapshot]
    current: Callable[[], Snapshot | None]  # the snapshot in use, without checking for a newer one
    new_id: Callable[[int], int]
    secrets: frozenset[str]
    max_body: int
    _redactor_snapshot: Snapshot | None = None
    _redactor: Redactor = field(default_factory=lambda: Redactor(()))

    def log_settings(self) -> Logging:
        """The log settings for a request that starts now. May wait for a reload. Raises Unavailable."""
        return self.snapshot().logging

    def log_settings_now(self) -> Logging:
        """The log settings in use, without waiting for a reload. Raises Unavailable."""
        return (self.current() or self.snapshot()).logging

    def redactor(self) -> Redactor:
        """A redactor for all secrets in use. Does not wait for a reload. Raises Unavailable."""
        current = self.current() or self.snapshot()
        if current is not self._redactor_snapshot:
            self._redactor, self._redactor_snapshot = Redactor(current.secrets | self.secrets), current
        return self._redactor

    def put(self, row: tuple) -> None:
        self.spool.put(row)

    def quietly(self, function: Callable, *args):
        """Calls the function. An exception is logged, and None returned: it costs a log row and no request."""
        try:
            return function(*args)
        except Exception as fault:
            log.error("a request log row is lost: %s", type(fault).__name__, exc_info=fault)
            return None

    def next_id(self) -> tuple[int, int]:
        """A new id and its time, in nanoseconds since the epoch."""
        now = time.time_ns()
        return self.new_id(now), now


class Capture:
    """Collects the first `maximum` bytes of a body that arrives in pieces; `is_cut` if the body is longer."""

    __slots__ = ("_pieces", "_remaining", "is_cut")

    def __init__(self, maximum: int):
        self._remaining, self._pieces, self.is_cut = maximum, [], False

    def add(self, piece: bytes) -> None:
        if self._remaining > 0:
            self._pieces.append(bytes(piece[: self._remaining]))
        self._remaining -= len(piece)
        self.is_cut = self._remaining < 0

    def joined(self) -> bytes:
        return b"".join(self._pieces)


class SentRequest(NamedTuple):
    """The request of one attempt. `secret` is its API key or access token."""

    provider_id: int
    credential_id: int
    url: str
    headers: dict[str, str]
    body: bytes
    secret: str


class AttemptLog:
    """Logs the attempts of one request. `secrets` contains the client's key.

    The redactor is that of the request's start: a newer one could wait for the database.
    """

    __slots__ = ("_downstream", "_has_body", "_recorder", "_redactor", "_secrets")

    def __init__(self, recorder: Recorder, downstream_id: int | None, has_body: bool, secrets: Iterable[bytes]):
        self._recorder, self._downstream, self._redactor = recorder, downstream_id, recorder.redactor()
        self._has_body, self._secrets = has_body, tuple(secrets)

    def send(self, request: SentRequest, send: Callable):
        """Returns what `send` returns, or raises what it raises; a row is written when the response ends."""
        attempt = self._recorder.quietly(self._start, request)
        if attempt is None:
            return send()
        try:
            exchange = send()
        except BaseException:
            attempt.end()
            raise
        attempt.answered(exchange.status, exchange.headers)
        exchange.observe(attempt.received, attempt.end)
        return exchange

    def _start(self, request: SentRequest) -> "_Attempt":
        recorder, body = self._recorder, request.body
        number, at = recorder.next_id()
        redactor, secrets = self._redactor, (*self._secrets, request.secret.encode())
        maximum, request_body = recorder.max_body + redactor.margin(secrets), None
        if self._has_body:
            request_body = redactor.beginning(bytes(body[:maximum]), recorder.max_body, secrets, len(body) > maximum)
        row = (
            *(UPSTREAM, number, self._downstream, at, request.provider_id, request.credential_id, "POST"),
            *(redactor.headers(request.headers.items(), secrets), redactor.url(request.url, secrets), request_body),
        )
        return _Attempt(recorder, redactor, row, Capture(maximum) if self._has_body else None, secrets)


class _Attempt:
    """A running attempt. It keeps no more of the request than its log row needs."""

    __slots__ = ("_capture", "_recorder", "_redactor", "_response", "_row", "_secrets", "_started")

    def __init__(
        self, recorder: Recorder, redactor: Redactor, row: tuple, capture: Capture | None, secrets: tuple[bytes, ...]
    ):
        self._recorder, self._redactor, self._row, self._capture = recorder, redactor, row, capture
        self._secrets, self._started = secrets, time.perf_counter()
        self._response: tuple[int | None, str, int | None] = (None, "[]", None)

    def answered(self, status: int, headers: dict[str, str]) -> None:
        self._recorder.quietly(self._record_response, status, headers)

    def _record_response(self, status: int, headers: dict[str, str]) -> None:
        self._response = status, self._redactor.headers(headers.items(), self._secrets), self._ms()

    def received(self, piece: bytes) -> None:
        if self._capture is not None:
            self._capture.add(piece)

    def end(self) -> None:
        self._recorder.quietly(self._end)

    def _end(self) -> None:
        status, headers, first_ms = self._response
        body = None
        if self._capture is not None and status is not None:
            maximum, is_cut = self._recorder.max_body, self._capture.is_cut
            body = self._redactor.beginning(self._capture.joined(), maximum, self._secrets, is_cut)
        self._recorder.put((*self._row, status, headers, body, first_ms, self._ms()))

    def _ms(self) -> int:
        return round((time.perf_counter() - self._started) * 1000)
