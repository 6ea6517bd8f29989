"""A stream of the same-protocol lane: each event is forwarded as it arrives, and only its usage is read."""

from collections.abc import Callable, Iterator
from types import ModuleType

from gproxy.errors import ClientDisconnected, GatewayError, UpstreamError
from gproxy.protocols import sse
from gproxy.protocols.hub import RequestHead
from gproxy.protocols.verdict import Verdict
from gproxy.relay.disconnect import read_chunks
from gproxy.relay.stream import LAST_EVENT_S, NO_END, TAIL_S, TOO_LARGE, Stream, StreamedCall, is_complete_event


class PassthroughStream(Stream):
    """One stream. `name` is the model name as the client sent it, in quotes."""

    def __init__(self, call: StreamedCall, protocol: ModuleType, name: bytes, head: RequestHead):
        super().__init__(call, protocol.Stream(name, head), protocol.HEARTBEAT)
        self._pending = b""  # an event that may be the last one: it is forwarded once the next one has arrived
        self._error: GatewayError | None = None
        self.normalize: Callable[[bytes], bytes] | None = None  # returns an event's data with standard field names
        self.on_end: Callable[[str | None], None] | None = None  # gets the id of the complete response

    def frames(self) -> Iterator[bytes]:
        """Yields the bytes for the client, as they arrive."""
        splitter = self._splitter
        try:
            for chunk in read_chunks(self._exchange, self._watch):
                if chunk is None:
                    yield self._heartbeat
                elif frames := self._forward(splitter.feed(chunk)):
                    yield frames
                if self._error is not None:
                    raise self._error
            if is_complete_event(tail := splitter.remainder().strip() + b"\n\n"):
                yield self._forward([tail])
            yield from self._end()
        except sse.TooLong:
            yield self._end_with_error(UpstreamError(TOO_LARGE))
        except GatewayError as error:
            yield self._end_with_error(error)
        except ClientDisconnected:
            self.close()  # counted there; no error event, because there is no client

    def _forward(self, events: list[bytes]) -> bytes:
        """Returns the client's bytes for these events. Settles before it returns the terminal event."""
        out, reader, settlement = [], self._reader, self._settlement
        for event in events:
            event = self._exchange.masked(event)
            data = sse.data_of(event)
            if data is None:
                out.append(self._framing.comment(event))
                continue
            if self.normalize is not None and (normalized := self.normalize(data)) is not data:
                event, data = sse.with_data(event, normalized), normalized
            forwarded, verdict = reader.observe(data)
            if self._pending:
                out.append(self._pending)
                self._pending = b""
                self._exchange.limit_idle(None)
            if verdict is Verdict.BROKEN:
                self._error = UpstreamError(NO_END)
                break
            is_beyond = verdict is Verdict.CONTINUES and reader.text_bytes > settlement.covered_bytes
            if is_beyond and self._exceeds_quota():
                self._error = settlement.reservation.exhausted()
                break
            frame = self._framing.event_bytes(event, data, forwarded)
            if verdict is Verdict.MAY_END:
                self._pending = frame
                self._exchange.limit_idle(LAST_EVENT_S)
                continue
            if verdict is Verdict.ENDS or reader.has_failed:
                self._settle()
                self._exchange.limit_idle(TAIL_S)
            out.append(frame)
        settlement.record_first_byte(reader.text_bytes)
        return b"".join(out)

    def _settle(self) -> None:
        reader = self._reader
        self._settlement.record_first_byte(reader.text_bytes)
        self._settle_end(reader.has_failed)
        if self.on_end is not None and not reader.has_failed:
            self.on_end(reader.response_id)

    def _end(self) -> Iterator[bytes]:
        """Yields what follows the upstream's last event: the end of the protocol, or an error event in its place."""
        if not self._reader.is_terminal and not self._reader.has_failed:
            yield self._end_with_error(UpstreamError(NO_END))
            return
        if last := self._finish():
            yield last

    def _finish(self) -> bytes:
        """Settles, and returns the bytes that the client has not received yet."""
        self._settle()
        pending, self._pending = self._pending, b""
        return pending + self._framing.end(b"" if self._reader.has_failed else self._reader.tail())

    def _end_with_error(self, error: GatewayError) -> bytes:
        """Settles, and returns the protocol's error event, unless the terminal event was already sent."""
        if self._settlement.is_settled or self._reader.is_terminal:
            return self._finish()
        self._settle_broken(error)
        events = self._reader.failure_events(error.status, error.code, error.message, self._request_id)
        body = b"".join(
            self._framing.event_bytes(event, data, data) for event in events if (data := sse.data_of(event))
        )
        return body + self._framing.end(b"")
