"""A stream on its way through the same-dialect lane: each event leaves as it arrives, usage is read in passing."""

import logging
from collections.abc import Callable, Iterator
from types import ModuleType

import gevent
import orjson

from gproxy.errors import ClientDisconnected, GatewayError, UpstreamError
from gproxy.protocols import raw_json, sse
from gproxy.protocols.hub import RequestHead, text_bytes
from gproxy.protocols.verdict import Verdict
from gproxy.relay.disconnect import DisconnectWatch, arriving
from gproxy.relay.settlement import Settlement

log = logging.getLogger(__name__)

NO_END = "the upstream ended the stream before its end"
# How long what still belongs to a stream may take after its end was told, so that its connection can be used again;
# and how long an event is held that may have been the last.
TAIL_S, HELD_S = 0.25, 5.0
ARRAY_HEARTBEAT = b"\n"  # space between the elements


def text_in(body: bytes) -> int:
    """Bytes of text in a whole reply, for an estimate."""
    try:
        return text_bytes(orjson.loads(body))
    except (orjson.JSONDecodeError, RecursionError):  # readable as a whole and not in every value
        return len(body)


def has_value(found: raw_json.Fields, name: str) -> bool:
    """Whether a reply's field is there and not null."""
    return name in found and bytes(found[name]) != b"null"


def is_whole(event: bytes) -> bool:
    """Whether an event without its blank line is one, and not the beginning of one that was cut."""
    data = sse.data_of(event)
    return data is not None and (data == b"[DONE]" or raw_json.find(data) is not None)


class PassthroughStream:
    """One stream. `frames()` are the bytes for the client; `close()` is the net for every end that it did not see."""

    def __init__(
        self,
        protocol: ModuleType,
        name: bytes,
        asked: RequestHead,
        exchange,
        settlement: Settlement,
        watch: DisconnectWatch,
        call,
        gone: Callable[[], None],
        drain_s: float = 0.0,
    ):
        self._exchange, self._settlement, self._watch = exchange, settlement, watch
        self._request_id, self._gone = call.request_id, gone
        self._status = exchange.status
        self._reader = protocol.Stream(name, asked)
        self._frame = Array() if call.as_array else Events()
        self._heartbeat = ARRAY_HEARTBEAT if call.as_array else protocol.HEARTBEAT
        self._splitter, self._drain_s = sse.Splitter(), drain_s
        self._held = b""
        self._fault: GatewayError | None = None
        self.mend: Callable[[bytes], bytes] | None = None  # gives an event's data the protocol's own names
        self.on_end: Callable[[str | None], None] | None = None  # is told the response's id

    def frames(self) -> Iterator[bytes]:
        splitter = self._splitter
        try:
            for chunk in arriving(self._exchange, self._watch):
                if chunk is None:
                    yield self._heartbeat
                elif frames := self._pass(splitter.feed(chunk)):
                    yield frames
                if self._fault is not None:
                    raise self._fault
            if is_whole(rest := splitter.remainder().strip() + b"\n\n"):
                yield self._pass([rest])
            yield from self._end()
        except sse.TooLong:
            yield self._broken(UpstreamError("the upstream sent an event without end"))
        except GatewayError as fault:
            yield self._broken(fault)
        except ClientDisconnected:
            self.close()  # no error: counted, and nobody is left to be told

    def _pass(self, events: list[bytes]) -> bytes:
        """What these events are for the client. Settles before the last one is passed on."""
        out, reader, settlement = [], self._reader, self._settlement
        for event in events:
            event = self._exchange.masked(event)
            data = sse.data_of(event)
            if data is None:
                out.append(self._frame.comment(event))
                continue
            if self.mend is not None and (mended := self.mend(data)) is not data:
                event, data = sse.with_data(event, mended), mended
            passed, verdict = reader.observe(data)
            if self._held:
                out.append(self._held)
                self._held = b""
                self._exchange.hurry(None)
            if verdict is Verdict.BROKEN:
                self._fault = UpstreamError(NO_END)
                break
            is_beyond = verdict is Verdict.CONTINUES and reader.text_bytes > settlement.covered_bytes
            if is_beyond and settlement.overruns(reader.usage, reader.text_bytes):
                self._fault = settlement.reservation.ended()
                break
            frame = self._frame.written(event, data, passed)
            if verdict is Verdict.MAY_END:
                self._held = frame
                self._exchange.hurry(HELD_S)
                continue
            if verdict is Verdict.ENDS or reader.has_failed:
                self._settle()
                self._exchange.hurry(TAIL_S)
            out.append(frame)
        settlement.saw_first_byte(reader.text_bytes)
        return b"".join(out)

    def _settle(self) -> None:
        reader = self._reader
        self._settlement.saw_first_byte(reader.text_bytes)
        if reader.has_failed:
            self._settlement.broke(self._status, reader.usage, reader.text_bytes)
        else:
            self._settlement.complete(self._status, reader.usage, reader.text_bytes)
            if self.on_end is not None:
                self.on_end(reader.response_id)

    def _end(self) -> Iterator[bytes]:
        """The body is over: an end as the protocol ends, or an error in its place."""
        if not self._reader.is_terminal and not self._reader.has_failed:
            yield self._broken(UpstreamError(NO_END))
            return
        if last := self._last():
            yield last

    def _last(self) -> bytes:
        """Settles, and gives what the client still has to get."""
        self._settle()
        held, self._held = self._held, b""
        return held + self._frame.end(b"" if self._reader.has_failed else self._reader.tail())

    def _broken(self, fault: GatewayError) -> bytes:
        """After the first byte: the protocol's own error event, unless the end was already told."""
        reader = self._reader
        if self._settlement.is_settled or reader.is_terminal:
            return self._last()
        self._settlement.broke(fault.status, reader.usage, reader.text_bytes)
        log.warning("request %s: the stream was cut: %s", self._request_id, fault.message)
        events = reader.failure_events(fault.status, fault.code, fault.message, self._request_id)
        told = b"".join(self._frame.written(event, data, data) for event in events if (data := sse.data_of(event)))
        return told + self._frame.end(b"")

    def close(self) -> None:
        """Lets go of the upstream and settles. Before the end that means that the client left."""
        self._watch.close()
        settlement, reader, is_whole = self._settlement, self._reader, False
        try:
            if self._drain_s and not settlement.is_settled:
                is_whole = drained(self._exchange, self._watch, reader, self._splitter, self._drain_s)
            self._exchange.close()
        finally:
            if not settlement.is_settled:
                settlement.client_disconnected(reader.usage, reader.text_bytes, is_whole)
                self._gone()


def drained(exchange, watch: DisconnectWatch, reader, splitter: sse.Splitter, max_s: float) -> bool:
    """Reads the rest of a stream whose client left, for its usage. Whether it came to its end."""
    with gevent.Timeout(max_s, False):
        try:
            for chunk in arriving(exchange, watch):
                for event in splitter.feed(chunk or b""):
                    if (data := sse.data_of(event)) is not None:
                        _, verdict = reader.observe(data)
                        if verdict is Verdict.ENDS:
                            return not reader.has_failed
            return reader.is_terminal and not reader.has_failed
        except (GatewayError, sse.TooLong) as fault:
            log.info("a stream whose client left was not read to its end: %s", fault)
    return False


class Events:
    """Server-sent events, as they came."""

    def comment(self, event: bytes) -> bytes:
        return event

    def written(self, event: bytes, data: bytes, passed: bytes | None) -> bytes:
        """The event with the data that is passed on; nothing when none is."""
        if passed is data:
            return event
        return b"" if passed is None else sse.with_data(event, passed)

    def made(self, event: bytes) -> bytes:
        """An event that we wrote."""
        return event

    def end(self, tail: bytes) -> bytes:
        return tail


class Array:
    """Each event an element of one JSON array: what Gemini sends without `alt=sse`."""

    def __init__(self):
        self._is_first, self._is_closed = True, False

    def comment(self, event: bytes) -> bytes:
        return b""

    def written(self, event: bytes, data: bytes, passed: bytes | None) -> bytes:
        if passed is None:
            return b""
        before = b"[" if self._is_first else b",\r\n"
        self._is_first = False
        return before + passed

    def made(self, event: bytes) -> bytes:
        data = sse.data_of(event)
        return b"" if data is None else self.written(event, data, data)

    def end(self, tail: bytes) -> bytes:
        if self._is_closed:
            return b""
        self._is_closed = True
        return b"[]" if self._is_first else b"\n]"
