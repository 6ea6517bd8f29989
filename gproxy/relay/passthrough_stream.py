"""A stream of the same-protocol lane: each event is forwarded as it arrives, and only its usage is read."""

import logging
from collections.abc import Callable, Iterator
from types import ModuleType

import gevent
import orjson

from gproxy.errors import ClientDisconnected, GatewayError, UpstreamError
from gproxy.protocols import raw_json, sse
from gproxy.protocols.hub import RequestHead, text_bytes
from gproxy.protocols.verdict import Verdict
from gproxy.relay.disconnect import DisconnectWatch, read_chunks
from gproxy.relay.settlement import Settlement

log = logging.getLogger(__name__)

NO_END = "the upstream's stream broke off before its end"
# The maximum silence after the terminal event, so that the upstream can end the body and its connection is reused; and
# after an event that may be the last one.
TAIL_S, LAST_EVENT_S = 0.25, 5.0
ARRAY_HEARTBEAT = b"\n"  # whitespace between the elements


def text_size(body: bytes) -> int:
    """Returns the bytes of text in a whole reply, for an estimate of its tokens."""
    try:
        return text_bytes(orjson.loads(body))
    except (orjson.JSONDecodeError, RecursionError):  # valid as raw fields, and not in every value
        return len(body)


def has_value(fields: raw_json.Fields, name: str) -> bool:
    """Returns whether a reply has this field with a value other than null."""
    return name in fields and bytes(fields[name]) != b"null"


def is_complete_event(event: bytes) -> bool:
    """Returns whether an event without its final blank line is complete, and not the beginning of a cut event."""
    data = sse.data_of(event)
    return data is not None and (data == b"[DONE]" or raw_json.find(data) is not None)


class PassthroughStream:
    """One stream. `frames()` yields the bytes for the client; `close()` settles any end that `frames()` did not see."""

    def __init__(
        self,
        protocol: ModuleType,
        name: bytes,
        head: RequestHead,
        exchange,
        settlement: Settlement,
        watch: DisconnectWatch,
        call,
        on_disconnect: Callable[[], None],
        drain_s: float = 0.0,
    ):
        self._exchange, self._settlement, self._watch = exchange, settlement, watch
        self._request_id, self._on_disconnect = call.request_id, on_disconnect
        self._status = exchange.status
        self._reader = protocol.Stream(name, head)
        self._framing = ArrayFraming() if call.as_array else SseFraming()
        self._heartbeat = ARRAY_HEARTBEAT if call.as_array else protocol.HEARTBEAT
        self._splitter, self._drain_s = sse.Splitter(), drain_s
        self._pending = b""
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
            yield self._end_with_error(UpstreamError("the upstream sent an event larger than the maximum"))
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
            if is_beyond and settlement.exceeds_quota(reader.usage, reader.text_bytes):
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
        if reader.has_failed:
            self._settlement.settle_failed(self._status, reader.usage, reader.text_bytes)
        else:
            self._settlement.settle_complete(self._status, reader.usage, reader.text_bytes)
            if self.on_end is not None:
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
        reader = self._reader
        if self._settlement.is_settled or reader.is_terminal:
            return self._finish()
        self._settlement.settle_failed(error.status, reader.usage, reader.text_bytes)
        log.warning("request %s: the stream was cut: %s", self._request_id, error.message)
        events = reader.failure_events(error.status, error.code, error.message, self._request_id)
        body = b"".join(
            self._framing.event_bytes(event, data, data) for event in events if (data := sse.data_of(event))
        )
        return body + self._framing.end(b"")

    def close(self) -> None:
        """Closes the upstream's response and settles: a call without an end counts as disconnected. Idempotent."""
        self._watch.close()
        settlement, reader, is_complete = self._settlement, self._reader, False
        try:
            if self._drain_s and not settlement.is_settled:
                is_complete = drain(self._exchange, self._watch, reader, self._splitter, self._drain_s)
            self._exchange.close()
        finally:
            if not settlement.is_settled:
                settlement.settle_disconnected(reader.usage, reader.text_bytes, is_complete)
                self._on_disconnect()


def drain(exchange, watch: DisconnectWatch, reader, splitter: sse.Splitter, max_s: float) -> bool:
    """Reads the remainder of a stream after its client disconnected, for the usage. Returns whether it is complete.

    `max_s`: the maximum time in seconds.
    """
    with gevent.Timeout(max_s, False):
        try:
            for chunk in read_chunks(exchange, watch):
                for event in splitter.feed(chunk or b""):
                    if (data := sse.data_of(event)) is not None:
                        _, verdict = reader.observe(data)
                        if verdict is Verdict.ENDS:
                            return not reader.has_failed
            return reader.is_terminal and not reader.has_failed
        except (GatewayError, sse.TooLong) as error:
            log.info("the stream of a disconnected client was not read to its end: %s", error)
    return False


class SseFraming:
    """Frames a stream as server-sent events, unchanged."""

    def comment(self, event: bytes) -> bytes:
        return event

    def event_bytes(self, event: bytes, data: bytes, forwarded: bytes | None) -> bytes:
        """Returns the event with the forwarded data; nothing if there is none."""
        if forwarded is data:
            return event
        return b"" if forwarded is None else sse.with_data(event, forwarded)

    def own_event(self, event: bytes) -> bytes:
        """Returns the bytes of an event that gproxy wrote."""
        return event

    def end(self, tail: bytes) -> bytes:
        return tail


class ArrayFraming:
    """Frames each event's data as an element of one JSON array, as Gemini does without `alt=sse`."""

    def __init__(self):
        self._is_first, self._is_closed = True, False

    def comment(self, event: bytes) -> bytes:
        return b""

    def event_bytes(self, event: bytes, data: bytes, forwarded: bytes | None) -> bytes:
        if forwarded is None:
            return b""
        before = b"[" if self._is_first else b",\r\n"
        self._is_first = False
        return before + forwarded

    def own_event(self, event: bytes) -> bytes:
        data = sse.data_of(event)
        return b"" if data is None else self.event_bytes(event, data, data)

    def end(self, tail: bytes) -> bytes:
        if self._is_closed:
            return b""
        self._is_closed = True
        return b"[]" if self._is_first else b"\n]"
