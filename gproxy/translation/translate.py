"""A call between two protocols: its body through the hub, its reply back, whole or streamed.

Usage is read in passing from the upstream's own bytes, as in the same-dialect lane.
"""

import html
import logging
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import ModuleType

import orjson

from gproxy.channels.kind import STREAM, Kind
from gproxy.channels.model_capabilities import facts
from gproxy.errors import BadRequest, ClientGone, GatewayError, TooDeep, UpstreamError, UpstreamTimeout
from gproxy.protocols import raw_json, repair, sse, validate
from gproxy.protocols.codec import Codec
from gproxy.protocols.hub import (
    Ask,
    Context,
    End,
    Failed,
    Media,
    Open,
    Reply,
    Request,
    StreamFailed,
    Target,
    ToolCall,
    ToolResult,
    fold,
    unfold,
)
from gproxy.protocols.losses import Losses
from gproxy.protocols.verdict import Verdict
from gproxy.relay.disconnect import Presence, arriving
from gproxy.relay.passthrough_stream import ARRAY_HEARTBEAT, HELD_S, NO_END, TAIL_S, Array, Events, drained, is_whole
from gproxy.relay.settlement import Tally
from gproxy.snapshot import Provider, Way
from gproxy.state.ttl_store import Keepsakes
from gproxy.translation import reasoning_state
from gproxy.upstream.images import Images

log = logging.getLogger(__name__)

# Of a body that is no JSON, so much is told.
MOST_TEXT = 500
# Of files that are fetched for one request: how many, how large and how long all of them together.
MOST_URLS, MOST_FETCHED_BYTES, MOST_FETCH_S = 20, 50 * 1024 * 1024, 30
# An event that leaves at once: joined with others it would keep the worker busy for long.
LARGE = 256 * 1024
_TAGS = re.compile(r"<(script|style).*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Translation:
    """How a call crosses. `request` is its value in the hub; `urls` have to be fetched before it can be written."""

    client: ModuleType
    upstream: ModuleType
    codec: Codec  # the client's
    far: Codec  # the upstream's
    target: Target
    request: object
    asked: Mapping
    losses: tuple[str, ...]
    body: bytes
    names: Mapping[str, str] = field(default_factory=dict)  # tools' names as sent -> as the client gave them
    urls: tuple[str, ...] = ()
    puts: Callable[[str, bytes], object] | None = None

    @property
    def label(self) -> str:
        return f"{self.client.NAME}->{self.upstream.NAME}"

    def context(self, name: str, request_id: str, wants_usage: bool) -> Context:
        """What the reply needs of all this, and no more: a stream may stay open for long."""
        now, request = int(time.time()), self.request
        if isinstance(request, Request):
            request = Request(tools=tuple(tool for tool in request.functions if tool.is_custom))
        echoed = {field: self.asked[field] for field in self.client.ECHOED if field in self.asked}
        return Context(name, self.target.provider, request_id, now, request, wants_usage, echoed)


def plan(
    client: ModuleType,
    upstream: ModuleType,
    operation: str,
    way: Way,
    kind: Kind,
    provider: Provider,
    model: str,
    body: bytes,
    keepsakes: Keepsakes,
    user_id: int,
) -> Translation:
    """The call's body for the upstream, and what it lost. Raises BadRequest."""
    asked = raw_json.whole(body)
    losses = Losses(client.NAMES)
    codec, far = client.CODECS[operation], upstream.CODECS[way.operation]
    with _naming_depth(asked):
        request = codec.read_request(asked, losses)
    target = _target(way, kind, provider, model)
    puts, names = None, {}
    if isinstance(request, Request):
        request = reasoning_state.recalled(request, target.provider, partial(keepsakes.find, user_id))
        puts = partial(_put, keepsakes, user_id, client)
        request, names = repair.legal_names(request, *upstream.TOOL_NAME)
    made = Translation(client, upstream, codec, far, target, request, asked, losses.told(), b"", names, puts=puts)
    urls = _urls(request, upstream) if isinstance(request, Request) else ()
    if len(urls) > MOST_URLS:
        raise BadRequest(f"{client.NAMES.get('image', 'image')}: more than {MOST_URLS} addresses; send the data")
    if urls:
        if not provider.settings.fetch_images:
            field = client.NAMES.get(urls[0].kind, urls[0].kind)
            raise BadRequest(
                f"{field}: provider {provider.name!r} takes no addresses of files; send the data, or let the "
                "operator set fetch_images"
            )
        return replace(made, urls=tuple(dict.fromkeys(media.url for media in urls)))
    return written(made, provider.settings.strict_translation)


@contextmanager
def _naming_depth(asked: Mapping) -> Iterator[None]:
    """Names the client's field that holds what is nested too deeply."""
    try:
        yield
    except TooDeep:
        raise BadRequest(f"{raw_json.deep(asked) or 'the body'}: {raw_json.TOO_DEEP}") from None


def _put(keepsakes: Keepsakes, user_id: int, client: ModuleType, call_id: str, value: bytes) -> None:
    """Under the id as this client sees it, by which it will be asked for."""
    keepsakes.put(user_id, client.shown_id(call_id), value)


def _target(way: Way, kind: Kind, provider: Provider, model: str) -> Target:
    known = facts(way.protocol, model)
    return Target(
        provider=f"{provider.name}/{way.protocol}",
        model=model,
        is_stream=way.operation == STREAM,
        max_output=known.max_output,
        traits=known.traits | kind.traits,
        refused=known.refused | kind.refused,
        budgets=known.budgets,
        budget_range=known.budget_range,
        efforts=known.efforts,
    )


def written(made: Translation, is_strict: bool) -> Translation:
    """The translation with its body. Raises BadRequest, with `is_strict` also on any loss."""
    losses = Losses(made.client.NAMES)
    for name in made.losses:
        losses.tell(name)
    with _naming_depth(made.asked):
        body = validate.dumps(made.far.write_request(made.request, made.target, losses)).encode()
    told = losses.told()
    if is_strict and told:
        raise BadRequest(
            f"{', '.join(told)}: cannot be said to {made.upstream.NAME} as it was meant, and this provider is set to "
            "strict_translation"
        )
    return replace(made, losses=told, body=body)


def _urls(request: Request, upstream: ModuleType) -> list[Media]:
    """What stands behind an address that the upstream would not open."""
    return [
        media
        for turn in request.turns
        for block in turn.blocks
        for media in (block.blocks if isinstance(block, ToolResult) else (block,))
        if isinstance(media, Media) and media.url and not _opens(upstream, media)
    ]


def _opens(upstream: ModuleType, media: Media) -> bool:
    own = upstream.OWN_URLS
    return media.kind in upstream.URL_KINDS or (own is not None and own.match(media.url) is not None)


def _with_data(made: Translation, fetched: Mapping[str, Media]) -> Translation:
    """The translation with the files that were fetched, by their addresses."""

    def filled(block):
        if isinstance(block, ToolResult):
            return replace(block, blocks=tuple(map(filled, block.blocks)))
        if isinstance(block, Media) and block.url in fetched:
            found = fetched[block.url]
            return replace(block, kind=found.kind, media_type=found.media_type, data=found.data, url=None)
        return block

    turns = tuple(replace(turn, blocks=tuple(map(filled, turn.blocks))) for turn in made.request.turns)
    return replace(made, request=replace(made.request, turns=turns), urls=())


# -- replies -------------------------------------------------------------------------------------------------------


def error_body(made: Translation, status: int, body: bytes, request_id: str) -> bytes:
    """The upstream's error in the client's shape; one that cannot be parsed stays readable."""
    told = read_error(made.upstream, status, body)
    code, message = told[1:] if told else ("upstream_error", readable(status, body))
    return made.client.write_error(status, code, message, request_id)


def read_error(upstream: ModuleType, status: int, body: bytes) -> tuple[int, str, str] | None:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(parsed, list) and parsed:  # Gemini's, where a stream was asked for as an array
        parsed = parsed[0]
    return upstream.read_error(status, parsed) if isinstance(parsed, dict) else None


def readable(status: int, body: bytes) -> str:
    text = html.unescape(_TAGS.sub(" ", body[: 16 * MOST_TEXT].decode("utf-8", "replace")))
    text = " ".join(text.split())[:MOST_TEXT]
    return f"the upstream answered {status}: {text}" if text else f"the upstream answered {status}"


def whole(made: Translation, body: bytes, context: Context) -> tuple[bytes, tuple[str, ...]]:
    """The client's reply for the upstream's, and what it lost. Raises UpstreamError."""
    losses = Losses(made.upstream.NAMES)
    with _translatable():
        return _written(made, _read(made, body, context, losses), context, losses)


def folded(made: Translation, events: Iterable, context: Context, losses: Losses) -> tuple[bytes, tuple[str, ...]]:
    """The same for an upstream that streams its whole replies. Raises UpstreamError."""
    with _translatable():
        return _written(made, fold(events), context, losses)


@contextmanager
def _translatable() -> Iterator[None]:
    """Whatever an upstream sends, its client is told an upstream's error and not one of ours."""
    try:
        yield
    except StreamFailed as fault:
        raise Failure(fault.told) from None
    except Exception as fault:
        raise _untranslatable(fault) from fault


class Failure(UpstreamError):
    """The upstream's own failure, told in an answer that began well, where nothing was passed on yet."""

    def __init__(self, told: Failed):
        super().__init__()
        self.status, self.code, self.message = told.status, told.code, told.message


def _untranslatable(fault: Exception) -> UpstreamError:
    if isinstance(fault, GatewayError):
        return UpstreamError(f"the upstream's reply cannot be translated: {fault.message}")
    # The place and not the text, in which a piece of the reply may stand.
    place = traceback.extract_tb(fault.__traceback__)[-1]
    log.error("a reply cannot be translated: %s at %s:%d", type(fault).__name__, place.filename, place.lineno)
    return UpstreamError(f"the upstream's reply cannot be translated: {type(fault).__name__}")


def _read(made: Translation, body: bytes, context: Context, losses: Losses):
    """A whole reply's value; what belongs to its calls is kept."""
    reply = made.far.read_reply(raw_json.whole(body), context, losses)
    if isinstance(reply, Reply) and made.names:
        reply = fold(_renamed(unfold(reply), made.names))
    if isinstance(reply, Reply) and made.puts is not None:
        reasoning_state.keep(reply, made.puts)
    return reply


def _renamed(events: Iterable, names: Mapping[str, str]) -> Iterator:
    """Calls by the names that the client gave to its tools."""
    for event in events:
        if isinstance(event, Open) and isinstance(event.block, ToolCall) and event.block.name in names:
            event = replace(event, block=replace(event.block, name=names[event.block.name]))
        yield event


def _written(made: Translation, reply, context: Context, losses: Losses) -> tuple[bytes, tuple[str, ...]]:
    return orjson.dumps(made.codec.write_reply(reply, context, losses)), losses.told()


class Translated:
    """One stream. `frames()` are the bytes for the client; `close()` is the net for every end that it did not see."""

    def __init__(
        self,
        made: Translation,
        asked: Ask,
        context: Context,
        exchange,
        tally: Tally,
        presence: Presence,
        as_array: bool,
        gone: Callable[[], None],
        drain_s: float = 0.0,
    ):
        self._client, self._upstream, self._puts, self._names = made.client, made.upstream, made.puts, made.names
        self._context, self._exchange, self._tally = context, exchange, tally
        self._presence, self._gone, self._status = presence, gone, exchange.status
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
        except ClientGone:
            self.close()  # no error: counted, and nobody is left to be told
        except Exception as fault:  # noqa: BLE001 - what was read and cannot be written
            told = self._broken(_untranslatable(fault))
            event = self._client.error_event(told.status, told.code, told.message, self._context.request_id)
            yield b"".join(out) + self._frame.made(event) + self._frame.end(b"")

    def events(self) -> Iterator:
        """The stream's events, settled before the last one. What cannot be read ends it like any other fault."""
        events = self._upstream.read_stream(self.payloads(), self._context, self.losses)
        if self._names:
            events = _renamed(events, self._names)
        try:
            for event in reasoning_state.keeping(events, self._puts) if self._puts is not None else events:
                if isinstance(event, End | Failed):
                    self._settle(isinstance(event, Failed))
                yield event
        except Exception as fault:  # noqa: BLE001 - whatever an upstream sends, its client is told an end
            yield self._broken(_untranslatable(fault))

    def payloads(self) -> Iterator[dict | Failed | None]:
        """The stream's documents as they arrive; None before each wait; a fault in the place of an end."""
        splitter = self._splitter
        try:
            for chunk in arriving(self._exchange, self._presence):
                self._is_quiet = chunk is None
                for event in splitter.feed(chunk or b""):
                    verdict, payload = self._look(event)
                    if verdict is Verdict.GOES_ON and self._reader.text_bytes > self._tally.covered_bytes:
                        self._stop_at_quota()
                    if payload is not None:
                        yield payload
                    if verdict is Verdict.ENDS:
                        return
                    if verdict is Verdict.CUT:
                        raise UpstreamError(NO_END)
                yield None
            if is_whole(rest := splitter.rest().strip() + b"\n\n"):
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
            return Verdict.GOES_ON, None
        _, verdict = self._reader.see(data)
        self._tally.saw_first_byte(self._reader.text_bytes)
        if verdict is Verdict.ENDS or self._reader.has_failed:
            self._exchange.hurry(TAIL_S)
        elif verdict is Verdict.MAY_END:
            self._exchange.hurry(HELD_S)
        return verdict, _document(data)

    def _stop_at_quota(self) -> None:
        """Raises OverQuota where the stream costs more by now than its caller has left."""
        if self._tally.overruns(self._reader.usage, self._reader.text_bytes):
            raise self._tally.hold.ended()

    def _settle(self, has_failed: bool) -> None:
        if self._tally.is_settled:
            return
        reader = self._reader
        self._tally.losses = list(self.losses.told())
        if has_failed:
            self._tally.broke(self._status, reader.usage, reader.text_bytes)
        else:
            self._tally.complete(self._status, reader.usage, reader.text_bytes)

    def _broken(self, fault: GatewayError) -> Failed:
        reader = self._reader
        self._tally.losses = list(self.losses.told())
        self._tally.broke(fault.status, reader.usage, reader.text_bytes)
        log.warning("request %s: the stream was cut: %s", self._context.request_id, fault.message)
        return Failed(fault.status, fault.code, fault.message)

    def close(self) -> None:
        """Lets go of the upstream and settles. Before the end that means that the client left."""
        self._presence.close()
        tally, reader, is_whole = self._tally, self._reader, False
        try:
            if self._drain_s and not tally.is_settled:
                is_whole = drained(self._exchange, self._presence, reader, self._splitter, self._drain_s)
            self._exchange.close()
        finally:
            if not tally.is_settled:
                tally.losses = list(self.losses.told())
                tally.client_left(reader.usage, reader.text_bytes, is_whole)
                self._gone()


def _document(data: bytes) -> dict | None:
    """An event's document; `[DONE]`, keep-alives and what cannot be read are none."""
    try:
        found = orjson.loads(data)
    except orjson.JSONDecodeError:
        if data.startswith(b"[DONE]"):
            return None
        try:
            found = raw_json.whole(data)  # with half an emoji in it
        except BadRequest:
            return None
    return found if isinstance(found, dict) else None


class Whole:
    """A whole reply, already settled, as the stream that the client asked for: its upstream does not stream."""

    def __init__(self, made: Translation, body: bytes, context: Context, as_array: bool):
        """Raises UpstreamError."""
        losses = Losses(made.upstream.NAMES)
        frame = Array() if as_array else Events()
        with _translatable():
            reply = _read(made, body, context, losses)
            written = made.client.write_stream(unfold(reply), context, losses)
            self._pieces = [*(frame.made(piece) for piece in written), frame.end(b"")]
            self.losses = losses.told()

    def frames(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def close(self) -> None:
        """Nothing is open."""


def fetch(made: Translation, images: Images, presence: AbstractContextManager) -> Translation:
    """The translation with its files. Raises BadRequest naming the field of one that cannot be had."""
    found, size, until = {}, 0, time.monotonic() + MOST_FETCH_S
    for url in made.urls:
        if time.monotonic() > until:
            raise BadRequest(f"{made.client.NAMES.get('image', 'image')}: the files took longer than {MOST_FETCH_S} s")
        try:
            got = images.fetch(url, presence)
        except BadRequest as fault:
            why = fault.message.removeprefix(f"{fault.label}: ").removeprefix("image_url: ")
            raise BadRequest(f"{made.client.NAMES.get('image', 'image')}: {why}") from None
        size += len(got.data)
        if size > MOST_FETCHED_BYTES:
            raise BadRequest(f"{made.client.NAMES.get('image', 'image')}: more than {MOST_FETCHED_BYTES} bytes in all")
        found[url] = validate.found(got.media_type, got.data)
    return _with_data(made, found)
