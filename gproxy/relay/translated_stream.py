"""A stream, or a whole reply, translated back for the client: the upstream speaks another protocol."""

import logging
from collections.abc import Callable, Iterator

import orjson

from gproxy.errors import BadRequest, ClientDisconnected, GatewayError, UpstreamError, UpstreamTimeout
from gproxy.protocols import raw_json, sse
from gproxy.protocols.hub import (
    Context,
    End,
    Failed,
    RequestHead,
    unfold,
)
from gproxy.protocols.losses import Losses
from gproxy.protocols.verdict import Verdict
from gproxy.relay.disconnect import DisconnectWatch, arriving
from gproxy.relay.passthrough_stream import ARRAY_HEARTBEAT, HELD_S, NO_END, TAIL_S, Array, Events, drained, is_whole
from gproxy.relay.settlement import Settlement
from gproxy.translation import reasoning_state
from gproxy.translation.translate import Translation, read_reply, renamed, translatable, untranslatable

log = logging.getLogger(__name__)


# An event that leaves at once: joined with others it would keep the worker busy for long.
LARGE = 256 * 1024


class TranslatedStream:
    """One stream. `frames()` are the bytes for the client; `close()` is the net for every end that it did not see."""

    def __init__(
        self,
        made: Translation,
        asked: RequestHead,
        context: Context,
        exchange,
        settlement: Settlement,
        watch: DisconnectWatch,
        as_array: bool,
        gone: Callable[[], None],
        drain_s: float = 0.0,
    ):
        self._client, self._upstream, self._puts, self._names = made.client, made.upstream, made.puts, made.names
        self._context, self._exchange, self._settlement = context, exchange, settlement
        self._watch, self._gone, self._status = watch, gone, exchange.status
        self._reader = made.upstream.Stream(None, asked)
        self._frame = Array() if as_array else Events()
        self._heartbeat = ARRAY_HEARTBEAT if as_array else made.client.HEARTBEAT
        self._is_quiet = False
        self._splitter, self._drain_s = sse.Splitter(), drain_s
        self.losses = Losses(made.upstream.NAMES)

    def frames(self) -> Iterator[bytes]:
        """Each piece is all that came of what had arrived."""
        out: list[bytes] = []
        try:
            for piece in self._client.write_stream(self.events(), self._context, self.losses):
                if piece:
                    out.append(self._frame.made(piece))
                elif self._is_quiet:
                    out.append(self._heartbeat)
                    self._is_quiet = False
                if out and (not piece or len(piece) > LARGE):
                    yield b"".join(out)
                    out = []
            out.append(self._frame.end(b""))
            yield b"".join(out)
        except ClientDisconnected:
            self.close()  # no error: counted, and nobody is left to be told
        except Exception as fault:  # noqa: BLE001 - what was read and cannot be written
            told = self._broken(untranslatable(fault))
            event = self._client.error_event(told.status, told.code, told.message, self._context.request_id)
            yield b"".join(out) + self._frame.made(event) + self._frame.end(b"")

    def events(self) -> Iterator:
        """The stream's events, settled before the last one. What cannot be read ends it like any other fault."""
        events = self._upstream.read_stream(self.payloads(), self._context, self.losses)
        if self._names:
            events = renamed(events, self._names)
        try:
            for event in reasoning_state.keeping(events, self._puts) if self._puts is not None else events:
                if isinstance(event, End | Failed):
                    self._settle(isinstance(event, Failed))
                yield event
        except Exception as fault:  # noqa: BLE001 - whatever an upstream sends, its client is told an end
            yield self._broken(untranslatable(fault))

    def payloads(self) -> Iterator[dict | Failed | None]:
        """The stream's documents as they arrive; None before each wait; a fault in the place of an end."""
        splitter = self._splitter
        try:
            for chunk in arriving(self._exchange, self._watch):
                self._is_quiet = chunk is None
                for event in splitter.feed(chunk or b""):
                    verdict, payload = self._look(event)
                    if verdict is Verdict.CONTINUES and self._reader.text_bytes > self._settlement.covered_bytes:
                        self._stop_at_quota()
                    if payload is not None:
                        yield payload
                    if verdict is Verdict.ENDS:
                        return
                    if verdict is Verdict.BROKEN:
                        raise UpstreamError(NO_END)
                yield None
            if is_whole(rest := splitter.remainder().strip() + b"\n\n"):
                _, payload = self._look(rest)
                if payload is not None:
                    yield payload
            if not self._reader.is_terminal and not self._reader.has_failed:
                raise UpstreamError(NO_END)
        except sse.TooLong:
            yield self._broken(UpstreamError("the upstream sent an event without end"))
        except GatewayError as fault:
            # With its end told, the upstream only forgot to close.
            if not (isinstance(fault, UpstreamTimeout) and self._reader.is_terminal):
                yield self._broken(fault)

    def _look(self, event: bytes) -> tuple[Verdict, dict | None]:
        """Reads the usage in passing."""
        data = sse.data_of(self._exchange.masked(event))
        if data is None:
            return Verdict.CONTINUES, None
        _, verdict = self._reader.observe(data)
        self._settlement.saw_first_byte(self._reader.text_bytes)
        if verdict is Verdict.ENDS or self._reader.has_failed:
            self._exchange.hurry(TAIL_S)
        elif verdict is Verdict.MAY_END:
            self._exchange.hurry(HELD_S)
        return verdict, _document(data)

    def _stop_at_quota(self) -> None:
        """Raises OverQuota where the stream costs more by now than its caller has left."""
        if self._settlement.overruns(self._reader.usage, self._reader.text_bytes):
            raise self._settlement.reservation.ended()

    def _settle(self, has_failed: bool) -> None:
        if self._settlement.is_settled:
            return
        reader = self._reader
        self._settlement.losses = list(self.losses.names())
        if has_failed:
            self._settlement.broke(self._status, reader.usage, reader.text_bytes)
        else:
            self._settlement.complete(self._status, reader.usage, reader.text_bytes)

    def _broken(self, fault: GatewayError) -> Failed:
        reader = self._reader
        self._settlement.losses = list(self.losses.names())
        self._settlement.broke(fault.status, reader.usage, reader.text_bytes)
        log.warning("request %s: the stream was cut: %s", self._context.request_id, fault.message)
        return Failed(fault.status, fault.code, fault.message)

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
                settlement.losses = list(self.losses.names())
                settlement.client_disconnected(reader.usage, reader.text_bytes, is_whole)
                self._gone()


def _document(data: bytes) -> dict | None:
    """An event's document; `[DONE]`, keep-alives and what cannot be read are none."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        if data.startswith(b"[DONE]"):
            return None
        try:
            found = raw_json.read_object(data)  # with half an emoji in it
        except BadRequest:
            return None
    return found if isinstance(found, dict) else None


class Whole:
    """A whole reply, already settled, as the stream that the client asked for: its upstream does not stream."""

    def __init__(self, made: Translation, body: bytes, context: Context, as_array: bool):
        """Raises UpstreamError."""
        losses = Losses(made.upstream.NAMES)
        frame = Array() if as_array else Events()
        with translatable():
            reply = read_reply(made, body, context, losses)
            written = made.client.write_stream(unfold(reply), context, losses)
            self._pieces = [*(frame.made(piece) for piece in written), frame.end(b"")]
            self.losses = losses.names()

    def frames(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def close(self) -> None:
        """Nothing is open."""
