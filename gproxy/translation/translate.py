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
from typing import Protocol

import orjson

from gproxy.channels.kind import STREAM, Kind
from gproxy.channels.model_capabilities import facts
from gproxy.errors import BadRequest, GatewayError, TooDeep, UpstreamError
from gproxy.protocols import raw_json, repair, validate
from gproxy.protocols.codec import Codec
from gproxy.protocols.hub import (
    Context,
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
from gproxy.snapshot import Dispatch, Provider
from gproxy.state.ttl_store import TtlStore
from gproxy.translation import reasoning_state

log = logging.getLogger(__name__)

# Of a body that is no JSON, so much is told.
MAX_TEXT = 500
# Of files that are fetched for one request: how many, how large and how long all of them together.
MAX_URLS, MAX_FETCHED_BYTES, MAX_FETCH_S = 20, 50 * 1024 * 1024, 30
_TAGS = re.compile(r"<(script|style).*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)


class Fetched(Protocol):
    """A file that was fetched."""

    media_type: str
    data: bytes


class Fetcher(Protocol):
    """Fetches what a client names by address. Raises BadRequest, Overloaded, UpstreamError."""

    def fetch(self, url: str, watch: AbstractContextManager) -> Fetched: ...


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
    way: Dispatch,
    kind: Kind,
    provider: Provider,
    model: str,
    body: bytes,
    ttl_store: TtlStore,
    user_id: int,
) -> Translation:
    """The call's body for the upstream, and what it lost. Raises BadRequest."""
    asked = raw_json.read_object(body)
    losses = Losses(client.NAMES)
    codec, far = client.CODECS[operation], upstream.CODECS[way.operation]
    with _naming_depth(asked):
        request = codec.read_request(asked, losses)
    target = _target(way, kind, provider, model)
    puts, names = None, {}
    if isinstance(request, Request):
        request = reasoning_state.recalled(request, target.provider, partial(ttl_store.find, user_id))
        puts = partial(_put, ttl_store, user_id, client)
        request, names = repair.legal_names(request, *upstream.TOOL_NAME)
    made = Translation(client, upstream, codec, far, target, request, asked, losses.names(), b"", names, puts=puts)
    urls = _urls(request, upstream) if isinstance(request, Request) else ()
    if len(urls) > MAX_URLS:
        raise BadRequest(f"{client.NAMES.get('image', 'image')}: more than {MAX_URLS} addresses; send the data")
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
        raise BadRequest(f"{raw_json.first_too_deep(asked) or 'the body'}: {raw_json.TOO_DEEP}") from None


def _put(ttl_store: TtlStore, user_id: int, client: ModuleType, call_id: str, value: bytes) -> None:
    """Under the id as this client sees it, by which it will be asked for."""
    ttl_store.put(user_id, client.client_call_id(call_id), value)


def _target(way: Dispatch, kind: Kind, provider: Provider, model: str) -> Target:
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
        losses.report(name)
    with _naming_depth(made.asked):
        body = validate.dumps(made.far.write_request(made.request, made.target, losses)).encode()
    told = losses.names()
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
    text = html.unescape(_TAGS.sub(" ", body[: 16 * MAX_TEXT].decode("utf-8", "replace")))
    text = " ".join(text.split())[:MAX_TEXT]
    return f"the upstream answered {status}: {text}" if text else f"the upstream answered {status}"


def whole(made: Translation, body: bytes, context: Context) -> tuple[bytes, tuple[str, ...]]:
    """The client's reply for the upstream's, and what it lost. Raises UpstreamError."""
    losses = Losses(made.upstream.NAMES)
    with translatable():
        return _written(made, read_reply(made, body, context, losses), context, losses)


def folded(made: Translation, events: Iterable, context: Context, losses: Losses) -> tuple[bytes, tuple[str, ...]]:
    """The same for an upstream that streams its whole replies. Raises UpstreamError."""
    with translatable():
        return _written(made, fold(events), context, losses)


@contextmanager
def translatable() -> Iterator[None]:
    """Whatever an upstream sends, its client is told an upstream's error and not one of ours."""
    try:
        yield
    except StreamFailed as fault:
        raise Failure(fault.failed) from None
    except Exception as fault:
        raise untranslatable(fault) from fault


class Failure(UpstreamError):
    """The upstream's own failure, told in an answer that began well, where nothing was passed on yet."""

    def __init__(self, told: Failed):
        super().__init__()
        self.status, self.code, self.message = told.status, told.code, told.message


def untranslatable(fault: Exception) -> UpstreamError:
    if isinstance(fault, GatewayError):
        return UpstreamError(f"the upstream's reply cannot be translated: {fault.message}")
    # The place and not the text, in which a piece of the reply may stand.
    place = traceback.extract_tb(fault.__traceback__)[-1]
    log.error("a reply cannot be translated: %s at %s:%d", type(fault).__name__, place.filename, place.lineno)
    return UpstreamError(f"the upstream's reply cannot be translated: {type(fault).__name__}")


def read_reply(made: Translation, body: bytes, context: Context, losses: Losses):
    """A whole reply's value; what belongs to its calls is kept."""
    reply = made.far.read_reply(raw_json.read_object(body), context, losses)
    if isinstance(reply, Reply) and made.names:
        reply = fold(renamed(unfold(reply), made.names))
    if isinstance(reply, Reply) and made.puts is not None:
        reasoning_state.keep(reply, made.puts)
    return reply


def renamed(events: Iterable, names: Mapping[str, str]) -> Iterator:
    """Calls by the names that the client gave to its tools."""
    for event in events:
        if isinstance(event, Open) and isinstance(event.block, ToolCall) and event.block.name in names:
            event = replace(event, block=replace(event.block, name=names[event.block.name]))
        yield event


def _written(made: Translation, reply, context: Context, losses: Losses) -> tuple[bytes, tuple[str, ...]]:
    return orjson.dumps(made.codec.write_reply(reply, context, losses)), losses.names()


def fetch(made: Translation, images: Fetcher, watch: AbstractContextManager) -> Translation:
    """The translation with its files. Raises BadRequest naming the field of one that cannot be had."""
    found, size, until = {}, 0, time.monotonic() + MAX_FETCH_S
    for url in made.urls:
        if time.monotonic() > until:
            raise BadRequest(f"{made.client.NAMES.get('image', 'image')}: the files took longer than {MAX_FETCH_S} s")
        try:
            got = images.fetch(url, watch)
        except BadRequest as fault:
            why = fault.message.removeprefix(f"{fault.label}: ").removeprefix("image_url: ")
            raise BadRequest(f"{made.client.NAMES.get('image', 'image')}: {why}") from None
        size += len(got.data)
        if size > MAX_FETCHED_BYTES:
            raise BadRequest(f"{made.client.NAMES.get('image', 'image')}: more than {MAX_FETCHED_BYTES} bytes in all")
        found[url] = validate.media_of_bytes(got.media_type, got.data)
    return _with_data(made, found)
