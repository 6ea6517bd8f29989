"""Streams of the translated lane: an upstream's stream or whole reply, written as a stream of the client's protocol."""

from collections.abc import Iterator

import orjson

from gproxy.errors import BadRequest, ClientDisconnected, GatewayError, UpstreamError, UpstreamTimeout
from gproxy.protocols import raw_json, sse
from gproxy.protocols.hub import Context, End, Failed, RequestHead, unfold
from gproxy.protocols.losses import Losses
from gproxy.protocols.verdict import Verdict
from gproxy.relay.disconnect import read_chunks
from gproxy.relay.stream import (
    LAST_EVENT_S,
    NO_END,
    TAIL_S,
    TOO_LARGE,
    ArrayFraming,
    SseFraming,
    Stream,
    StreamedCall,
    is_complete_event,
)
from gproxy.translation import reasoning_state
from gproxy.translation.translate import (
    Translation,
    as_upstream_errors,
    read_reply,
    restore_tool_names,
    untranslatable_error,
)

# A larger piece is sent at once: joining it with others would block the worker for long.
LARGE_BYTES = 256 * 1024


class TranslatedStream(Stream):
    """One stream. `context`: what the reply needs of the request."""

    def __init__(self, call: StreamedCall, translation: Translation, head: RequestHead, context: Context):
        super().__init__(call, translation.upstream.Stream(None, head), translation.client.HEARTBEAT)
        self._client, self._upstream, self._context = translation.client, translation.upstream, context
        self._put_state, self._tool_names = translation.put_state, translation.tool_names
        self._is_quiet = False
        self.losses = Losses(translation.upstream.NAMES)

    def frames(self) -> Iterator[bytes]:
        """Yields one piece for all events that arrived together."""
        out: list[bytes] = []
        try:
            for piece in self._client.write_stream(self.events(), self._context, self.losses):
                if piece:
                    out.append(self._framing.own_event(piece))
                elif self._is_quiet:
                    out.append(self._heartbeat)
                    self._is_quiet = False
                if out and (not piece or len(piece) > LARGE_BYTES):
                    yield b"".join(out)
                    out = []
            out.append(self._framing.end(b""))
            yield b"".join(out)
        except ClientDisconnected:
            self.close()  # counted there; no error event, because there is no client
        except Exception as error:  # noqa: BLE001 - events that were read and cannot be written
            failed = self._end_with_error(untranslatable_error(error))
            event = self._client.error_event(failed.status, failed.code, failed.message, self._request_id)
            yield b"".join(out) + self._framing.own_event(event) + self._framing.end(b"")

    def events(self) -> Iterator:
        """Yields the stream's events, settled before the last one. Unreadable data ends it with a Failed event."""
        events = self._upstream.read_stream(self.payloads(), self._context, self.losses)
        if self._tool_names:
            events = restore_tool_names(events, self._tool_names)
        if self._put_state is not None:
            events = reasoning_state.store_stream(events, self._put_state)
        try:
            for event in events:
                if isinstance(event, End | Failed) and not self._settlement.is_settled:
                    self._settle_end(isinstance(event, Failed))
                yield event
        except Exception as error:  # noqa: BLE001 - whatever the upstream sends, the client gets an end
            yield self._end_with_error(untranslatable_error(error))

    def payloads(self) -> Iterator[dict | Failed | None]:
        """Yields the data of the events as they arrive, None before each wait, and Failed if the stream breaks off."""
        splitter = self._splitter
        try:
            for chunk in read_chunks(self._exchange, self._watch):
                self._is_quiet = chunk is None
                for event in splitter.feed(chunk or b""):
                    verdict, payload = self._read_event(event)
                    is_beyond = self._reader.text_bytes > self._settlement.covered_bytes
                    if is_beyond and verdict is Verdict.CONTINUES and self._exceeds_quota():
                        raise self._settlement.reservation.exhausted()
                    if payload is not None:
                        yield payload
                    if verdict is Verdict.ENDS:
                        return
                    if verdict is Verdict.BROKEN:
                        raise UpstreamError(NO_END)
                yield None
            if is_complete_event(tail := splitter.remainder().strip() + b"\n\n"):
                _, payload = self._read_event(tail)
                if payload is not None:
                    yield payload
            if not self._reader.is_terminal and not self._reader.has_failed:
                raise UpstreamError(NO_END)
        except sse.TooLong:
            yield self._end_with_error(UpstreamError(TOO_LARGE))
        except GatewayError as error:
            # A timeout after the terminal event is no failure: the upstream only did not close the body.
            if not (isinstance(error, UpstreamTimeout) and self._reader.is_terminal):
                yield self._end_with_error(error)

    def _read_event(self, event: bytes) -> tuple[Verdict, dict | None]:
        """Reads the usage of an event. Returns the verdict and the event's data."""
        data = sse.data_of(self._exchange.masked(event))
        if data is None:
            return Verdict.CONTINUES, None
        _, verdict = self._reader.observe(data)
        self._settlement.record_first_byte(self._reader.text_bytes)
        if verdict is Verdict.ENDS or self._reader.has_failed:
            self._exchange.limit_idle(TAIL_S)
        elif verdict is Verdict.MAY_END:
            self._exchange.limit_idle(LAST_EVENT_S)
        return verdict, _document(data)

    def _list_losses(self) -> list[str]:
        return list(self.losses.names())

    def _end_with_error(self, error: GatewayError) -> Failed:
        """Settles, and returns the event that reports the error."""
        self._settle_broken(error)
        return Failed(error.status, error.code, error.message)


def _document(data: bytes) -> dict | None:
    """Returns an event's JSON object; None for `[DONE]`, keep-alives and unreadable data."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        if data.startswith(b"[DONE]"):
            return None
        try:
            found = raw_json.read_object(data)  # accepts half an emoji, which orjson rejects
        except BadRequest:
            return None
    return found if isinstance(found, dict) else None


class WholeReplyStream:
    """A whole reply as the stream that the client requested, for an upstream that does not stream."""

    def __init__(self, translation: Translation, body: bytes, context: Context, as_array: bool):
        """Raises UpstreamError."""
        losses = Losses(translation.upstream.NAMES)
        framing = ArrayFraming() if as_array else SseFraming()
        with as_upstream_errors():
            reply = read_reply(translation, body, context, losses)
            written = translation.client.write_stream(unfold(reply), context, losses)
            self._pieces = [*(framing.own_event(piece) for piece in written), framing.end(b"")]
            self.losses = losses.names()

    def frames(self) -> Iterator[bytes]:
        """Returns the bytes for the client."""
        return iter(self._pieces)

    def close(self) -> None:
        """Does nothing: the upstream's response was read to its end."""
