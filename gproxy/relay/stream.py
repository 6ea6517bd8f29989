"""What the streams of both lanes share: heartbeat, framing, the check of the quota, settlement, and the end."""

import logging
from collections.abc import Callable
from typing import NamedTuple

import gevent

from gproxy.errors import GatewayError
from gproxy.protocols import raw_json, sse
from gproxy.protocols.verdict import Verdict
from gproxy.relay.disconnect import DisconnectWatch, read_chunks
from gproxy.relay.settlement import NoSettlement, Settlement

log = logging.getLogger(__name__)

NO_END = "the upstream's stream broke off before its end"
TOO_LARGE = "the upstream sent an event larger than the maximum"
# The maximum silence after the terminal event, so that the upstream can end the body and its connection is reused; and
# after an event that may be the last one.
TAIL_S, LAST_EVENT_S = 0.25, 5.0
ARRAY_HEARTBEAT = b"\n"  # whitespace between the elements


class StreamedCall(NamedTuple):
    """What a stream needs of its call. It has no reference to the request's body, so that the body can be freed."""

    exchange: object  # the upstream's response
    settlement: Settlement | NoSettlement
    watch: DisconnectWatch
    request_id: str
    as_array: bool  # the client gets one JSON array
    drain_s: float  # after a disconnect the upstream is read for this time
    on_disconnect: Callable[[], None]


class Stream:
    """The base of one stream. A lane adds `frames()`, which yields the bytes for the client.

    `close()` settles any end that `frames()` did not see.
    """

    def __init__(self, call: StreamedCall, reader, heartbeat: bytes):
        """`reader` reads the usage and the end of the upstream's stream; `heartbeat` is the client's protocol's."""
        self._exchange, self._settlement, self._watch = call.exchange, call.settlement, call.watch
        self._request_id, self._drain_s, self._on_disconnect = call.request_id, call.drain_s, call.on_disconnect
        self._status, self._reader, self._splitter = call.exchange.status, reader, sse.Splitter()
        self._framing = ArrayFraming() if call.as_array else SseFraming()
        self._heartbeat = ARRAY_HEARTBEAT if call.as_array else heartbeat

    def _list_losses(self) -> list[str]:
        """Returns the losses of the reply so far."""
        return []

    def _exceeds_quota(self) -> bool:
        """Returns whether the stream costs more than the caller's quotas allow."""
        return self._settlement.exceeds_quota(self._reader.usage, self._reader.text_bytes)

    def _settle_end(self, has_failed: bool) -> None:
        """Settles a stream that ended as its protocol requires, or that reported a failure."""
        settlement, reader = self._settlement, self._reader
        settlement.losses = self._list_losses()
        if has_failed:
            settlement.settle_failed(self._status, reader.usage, reader.text_bytes)
        else:
            settlement.settle_complete(self._status, reader.usage, reader.text_bytes)

    def _settle_broken(self, error: GatewayError) -> None:
        """Settles a stream that cannot be continued."""
        self._settlement.losses = self._list_losses()
        self._settlement.settle_failed(error.status, self._reader.usage, self._reader.text_bytes)
        log.warning("request %s: the stream was cut: %s", self._request_id, error.message)

    def close(self) -> None:
        """Closes the upstream's response and settles: a call without an end counts as disconnected. Idempotent."""
        self._watch.close()
        settlement, is_complete = self._settlement, False
        try:
            if self._drain_s and not settlement.is_settled:
                is_complete = self._drain()
            self._exchange.close()
        finally:
            if not settlement.is_settled:
                settlement.losses = self._list_losses()
                settlement.settle_disconnected(self._reader.usage, self._reader.text_bytes, is_complete)
                self._on_disconnect()

    def _drain(self) -> bool:
        """Reads the remainder of the stream after its client disconnected, for the usage. Returns whether it is
        complete."""
        reader = self._reader
        with gevent.Timeout(self._drain_s, False):
            try:
                for chunk in read_chunks(self._exchange, self._watch):
                    for event in self._splitter.feed(chunk or b""):
                        if (data := sse.data_of(event)) is not None:
                            _, verdict = reader.observe(data)
                            if verdict is Verdict.ENDS:
                                return not reader.has_failed
                return reader.is_terminal and not reader.has_failed
            except (GatewayError, sse.TooLong) as error:
                log.info("the stream of a disconnected client was not read to its end: %s", error)
        return False


def is_complete_event(event: bytes) -> bool:
    """Returns whether an event without its final blank line is complete, and not the beginning of a cut event."""
    data = sse.data_of(event)
    return data is not None and (data == b"[DONE]" or raw_json.find(data) is not None)


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
