"""Translates a call between two protocols: the request to the upstream, whole replies and errors back to the client.

Usage is read from the upstream's own bytes, as in the same-protocol lane, and not from the translated reply.
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
from typing import NamedTuple, Protocol

import orjson

from gproxy.channels.kind import STREAM, Kind
from gproxy.channels.model_capabilities import capabilities
from gproxy.errors import BadRequest, GatewayError, TooDeep, UpstreamError
from gproxy.protocols import hub, raw_json, repair, validate
from gproxy.protocols.codec import AnyCodec
from gproxy.protocols.interface import WireProtocol
from gproxy.protocols.losses import Losses
from gproxy.snapshot import Provider
from gproxy.state.ttl_store import TtlStore
from gproxy.translation import reasoning_state

log = logging.getLogger(__name__)

# The part of an error body without JSON that the error message repeats.
MAX_ERROR_CHARS = 500
# Of all files that are fetched for one request: their number, total size and total time.
MAX_URLS, MAX_FETCHED_BYTES, MAX_FETCH_S = 20, 50 * 1024 * 1024, 30
_TAGS = re.compile(r"<(script|style).*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)


class FetchedFile(Protocol):
    """A file that was fetched from a URL."""

    media_type: str
    data: bytes


class Fetcher(Protocol):
    """Fetches a file that a client named by URL. Raises BadRequest, Overloaded, UpstreamError."""

    def fetch(self, url: str, watch: AbstractContextManager) -> FetchedFile: ...


@dataclass(frozen=True, slots=True)
class Translation:
    """A translated request. `body` is empty until all `urls` are fetched; `request` is its value in the hub."""

    client: WireProtocol
    upstream: WireProtocol
    client_codec: AnyCodec
    upstream_codec: AnyCodec
    target: hub.Target
    request: object
    document: Mapping  # the client's body
    losses: tuple[str, ...]
    body: bytes
    tool_names: Mapping[str, str] = field(default_factory=dict)  # tool name as sent -> as the client named it
    urls: tuple[str, ...] = ()
    put_state: Callable[[str, bytes], object] | None = None  # stores the reasoning state of a call id

    @property
    def label(self) -> str:
        """The value of the header `x-gproxy-translated`."""
        return f"{self.client.NAME}->{self.upstream.NAME}"

    def context(self, name: str, request_id: str, wants_usage: bool) -> hub.Context:
        """Returns only what the reply needs of the request, because a stream may stay open for long."""
        now, request = int(time.time()), self.request
        if isinstance(request, hub.Request):
            request = hub.Request(tools=tuple(tool for tool in request.functions if tool.is_custom))
        echoed = {field: self.document[field] for field in self.client.ECHOED if field in self.document}
        return hub.Context(name, self.target.provider, request_id, now, request, wants_usage, echoed)


class ClientRequest(NamedTuple):
    """A request as its client sent it."""

    protocol: WireProtocol
    operation: str
    body: bytes
    user_id: int  # the owner of the stored reasoning state


class UpstreamTarget(NamedTuple):
    """Where a translated request is sent."""

    protocol: WireProtocol
    operation: str
    kind: Kind
    provider: Provider
    model: str

    def describe(self) -> hub.Target:
        """Returns the target as the hub's writers need it."""
        name = self.protocol.NAME
        known = capabilities(name, self.model)
        return hub.Target(
            provider=f"{self.provider.name}/{name}",
            model=self.model,
            is_stream=self.operation == STREAM,
            max_output=known.max_output,
            traits=known.traits | self.kind.traits,
            refused=known.refused | self.kind.refused,
            budgets=known.budgets,
            budget_range=known.budget_range,
            efforts=known.efforts,
        )


def prepare(sent: ClientRequest, upstream: UpstreamTarget, ttl_store: TtlStore) -> Translation:
    """Reads the client's body, and writes the upstream's unless files must be fetched first. Raises BadRequest."""
    client = sent.protocol
    document = raw_json.read_object(sent.body)
    losses = Losses(client.NAMES)
    client_codec, upstream_codec = client.CODECS[sent.operation], upstream.protocol.CODECS[upstream.operation]
    with _naming_deep_field(document):
        request = client_codec.read_request(document, losses)
    target = upstream.describe()
    put_state, tool_names, media = None, {}, []
    if isinstance(request, hub.Request):
        request = reasoning_state.restore(request, target.provider, partial(ttl_store.find, sent.user_id))
        put_state = partial(_put, ttl_store, sent.user_id, client)
        request, tool_names = repair.legal_names(request, *upstream.protocol.TOOL_NAME)
        media = _media_to_fetch(request, upstream.protocol)
    _check_media(media, client, upstream.provider)
    translation = Translation(
        client=client,
        upstream=upstream.protocol,
        client_codec=client_codec,
        upstream_codec=upstream_codec,
        target=target,
        request=request,
        document=document,
        losses=losses.names(),
        body=b"",
        tool_names=tool_names,
        urls=tuple(dict.fromkeys(one.url for one in media)),
        put_state=put_state,
    )
    return translation if media else write_body(translation, upstream.provider.settings.strict_translation)


def _check_media(media: list[hub.Media], client: WireProtocol, provider: Provider) -> None:
    """Raises BadRequest if there are too many files to fetch, or any where the provider accepts none."""
    if len(media) > MAX_URLS:
        raise BadRequest(f"{client.NAMES.get('image', 'image')}: more than {MAX_URLS} URLs; send the data")
    if media and not provider.settings.fetch_images:
        field = client.NAMES.get(media[0].kind, media[0].kind)
        raise BadRequest(
            f"{field}: provider {provider.name!r} accepts no file URLs; send the data, or ask the "
            "operator to set fetch_images"
        )


@contextmanager
def _naming_deep_field(document: Mapping) -> Iterator[None]:
    """Context manager: turns TooDeep into a BadRequest that names the client's field that is nested too deeply."""
    try:
        yield
    except TooDeep:
        raise BadRequest(f"{raw_json.first_too_deep(document) or 'the body'}: {raw_json.TOO_DEEP}") from None


def _put(ttl_store: TtlStore, user_id: int, client: WireProtocol, call_id: str, value: bytes) -> None:
    """Stores reasoning state under the call id as this client sees it, because the next request uses that id."""
    ttl_store.put(user_id, client.client_call_id(call_id), value)


def write_body(translation: Translation, is_strict: bool) -> Translation:
    """Returns the translation with its body. Raises BadRequest, with `is_strict` also on any loss."""
    losses = Losses(translation.client.NAMES)
    for name in translation.losses:
        losses.report(name)
    with _naming_deep_field(translation.document):
        body = validate.dumps(
            translation.upstream_codec.write_request(translation.request, translation.target, losses)
        ).encode()
    lost = losses.names()
    if is_strict and lost:
        raise BadRequest(
            f"{', '.join(lost)}: cannot be translated to {translation.upstream.NAME} without loss, and this provider "
            "is set to strict_translation"
        )
    return replace(translation, losses=lost, body=body)


def _media_to_fetch(request: hub.Request, upstream: WireProtocol) -> list[hub.Media]:
    """Returns the media with a URL that the upstream cannot open itself."""
    return [
        media
        for turn in request.turns
        for block in turn.blocks
        for media in (block.blocks if isinstance(block, hub.ToolResult) else (block,))
        if isinstance(media, hub.Media) and media.url and not _can_open(upstream, media)
    ]


def _can_open(upstream: WireProtocol, media: hub.Media) -> bool:
    own = upstream.OWN_URLS
    return media.kind in upstream.URL_KINDS or (own is not None and own.match(media.url) is not None)


def _with_files(translation: Translation, fetched: Mapping[str, hub.Media]) -> Translation:
    """Returns the translation with the data of the files, which `fetched` has by URL, in place of their URLs."""

    def with_file(block):
        if isinstance(block, hub.ToolResult):
            return replace(block, blocks=tuple(map(with_file, block.blocks)))
        if isinstance(block, hub.Media) and block.url in fetched:
            found = fetched[block.url]
            return replace(block, kind=found.kind, media_type=found.media_type, data=found.data, url=None)
        return block

    turns = tuple(replace(turn, blocks=tuple(map(with_file, turn.blocks))) for turn in translation.request.turns)
    return replace(translation, request=replace(translation.request, turns=turns), urls=())


# -- replies -------------------------------------------------------------------------------------------------------


def error_body(translation: Translation, status: int, body: bytes, request_id: str) -> bytes:
    """Returns the upstream's error body in the client's shape; the text of one without JSON becomes the message."""
    error = read_error(translation.upstream, status, body)
    code, message = error[1:] if error else ("upstream_error", readable_error(status, body))
    return translation.client.write_error(status, code, message, request_id)


def read_error(upstream: WireProtocol, status: int, body: bytes) -> tuple[int, str, str] | None:
    """Returns status, code and message of an upstream's error body, or None if it is not one of its protocol."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(parsed, list) and parsed:  # Gemini's, if a stream was requested as an array
        parsed = parsed[0]
    return upstream.read_error(status, parsed) if isinstance(parsed, dict) else None


def readable_error(status: int, body: bytes) -> str:
    """Returns a message with the status and the beginning of the body's text, without HTML tags."""
    text = html.unescape(_TAGS.sub(" ", body[: 16 * MAX_ERROR_CHARS].decode("utf-8", "replace")))
    text = " ".join(text.split())[:MAX_ERROR_CHARS]
    return f"the upstream answered {status}: {text}" if text else f"the upstream answered {status}"


def translate_reply(translation: Translation, body: bytes, context: hub.Context) -> tuple[bytes, tuple[str, ...]]:
    """Returns the client's reply for the upstream's reply body, and the losses. Raises UpstreamError."""
    losses = Losses(translation.upstream.NAMES)
    with as_upstream_errors():
        return _write_reply(translation, read_reply(translation, body, context, losses), context, losses)


def fold_stream(
    translation: Translation, events: Iterable, context: hub.Context, losses: Losses
) -> tuple[bytes, tuple[str, ...]]:
    """Returns the same for a reply that the upstream sent as a stream of `events`. Raises UpstreamError."""
    with as_upstream_errors():
        return _write_reply(translation, hub.fold(events), context, losses)


@contextmanager
def as_upstream_errors() -> Iterator[None]:
    """Context manager: turns any exception into an UpstreamError, since the upstream's data caused it."""
    try:
        yield
    except hub.StreamFailed as fault:
        raise UpstreamFailure(fault.failed) from None
    except Exception as fault:
        raise untranslatable_error(fault) from fault


class UpstreamFailure(UpstreamError):
    """A failure that the upstream reported inside a response of status 200, before anything was forwarded."""

    def __init__(self, failed: hub.Failed):
        super().__init__()
        self.status, self.code, self.message = failed.status, failed.code, failed.message


def untranslatable_error(fault: Exception) -> UpstreamError:
    """Returns the error for a reply that could not be translated, and logs an unexpected exception."""
    if isinstance(fault, GatewayError):
        return UpstreamError(f"the upstream's reply cannot be translated: {fault.message}")
    # The place and not the exception's text, because that may contain a part of the reply.
    place = traceback.extract_tb(fault.__traceback__)[-1]
    log.error("a reply cannot be translated: %s at %s:%d", type(fault).__name__, place.filename, place.lineno)
    return UpstreamError(f"the upstream's reply cannot be translated: {type(fault).__name__}")


def read_reply(translation: Translation, body: bytes, context: hub.Context, losses: Losses):
    """Returns a whole reply as its value in the hub, and stores its reasoning state."""
    reply = translation.upstream_codec.read_reply(raw_json.read_object(body), context, losses)
    if isinstance(reply, hub.Reply) and translation.tool_names:
        reply = hub.fold(restore_tool_names(hub.unfold(reply), translation.tool_names))
    if isinstance(reply, hub.Reply) and translation.put_state is not None:
        reasoning_state.store_reply(reply, translation.put_state)
    return reply


def restore_tool_names(events: Iterable, tool_names: Mapping[str, str]) -> Iterator:
    """Yields the events with the tool names that the client gave."""
    for event in events:
        if isinstance(event, hub.Open) and isinstance(event.block, hub.ToolCall) and event.block.name in tool_names:
            event = replace(event, block=replace(event.block, name=tool_names[event.block.name]))
        yield event


def _write_reply(
    translation: Translation, reply, context: hub.Context, losses: Losses
) -> tuple[bytes, tuple[str, ...]]:
    return orjson.dumps(translation.client_codec.write_reply(reply, context, losses)), losses.names()


def fetch_files(translation: Translation, fetcher: Fetcher, watch: AbstractContextManager) -> Translation:
    """Returns the translation with all its files. Raises BadRequest, naming the field, if one cannot be fetched."""
    found, size, deadline = {}, 0, time.monotonic() + MAX_FETCH_S
    for url in translation.urls:
        if time.monotonic() > deadline:
            raise BadRequest(
                f"{translation.client.NAMES.get('image', 'image')}: the files took longer than {MAX_FETCH_S} s"
            )
        try:
            file = fetcher.fetch(url, watch)
        except BadRequest as fault:
            why = fault.message.removeprefix(f"{fault.label}: ").removeprefix("image_url: ")
            raise BadRequest(f"{translation.client.NAMES.get('image', 'image')}: {why}") from None
        size += len(file.data)
        if size > MAX_FETCHED_BYTES:
            raise BadRequest(
                f"{translation.client.NAMES.get('image', 'image')}: more than {MAX_FETCHED_BYTES} bytes in all"
            )
        found[url] = validate.media_of_bytes(file.media_type, file.data)
    return _with_files(translation, found)
