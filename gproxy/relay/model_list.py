"""Model lists: the models that operators registered, merged with the models that each upstream lists.

Upstreams are called concurrently, each in its own protocol. Each worker caches their lists for a minute, before
permissions are applied. If an upstream fails, the list contains the other providers' models.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import ModuleType

import gevent
import orjson
from gevent.event import AsyncResult

from gproxy.accounting import prices
from gproxy.admission.permissions import Rights
from gproxy.channels.kind import GET_MODEL, LIST_MODELS, Kind
from gproxy.credentials.access_tokens import AccessTokens
from gproxy.credentials.pool import Pool
from gproxy.errors import GatewayError, NotFound, Unsupported, UpstreamError
from gproxy.protocols.hub import ModelCard
from gproxy.relay import endpoints, headers
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.routing import resolve
from gproxy.snapshot import Caller, Provider, Snapshot
from gproxy.upstream.client import Client
from gproxy.upstream.endpoint import Endpoint

log = logging.getLogger(__name__)

FETCH_S = 5.0
CACHED_S = 60.0
# After a failure the upstream is called again sooner.
CACHED_AFTER_FAILURE_S = 10.0
MAX_PAGES = 20


@dataclass(frozen=True, slots=True)
class _CachedOffers:
    cards: tuple[ModelCard, ...]
    until: float
    provider: Provider  # the entry is invalid once the provider has changed


@dataclass(slots=True)
class ModelList:
    """The model lists of one worker. `clock` is in seconds."""

    protocols: Mapping[str, ModuleType]
    kinds: Mapping[str, Kind]
    pool: Pool
    tokens: AccessTokens
    upstream: Client
    clock: Callable[[], float] = time.monotonic
    _cached: dict[int, _CachedOffers] = field(default_factory=dict)
    _pending: dict[int, tuple[Provider, AsyncResult]] = field(default_factory=dict)

    def aggregated(self, caller: Caller, snapshot: Snapshot, wire_name: str) -> list[tuple[ModelCard, str]]:
        """Returns all models that the caller may use, sorted, with their names on aggregated paths.

        `wire_name`: the client's protocol. A provider's routing document may refuse lists in a protocol.
        """
        rights = Rights(caller)
        providers = [
            p for p in snapshot.providers.values() if rights.may_access_provider(p.id) and _lists(p, wire_name)
        ]
        offers = self._offers(providers, wire_name)
        found = {
            f"{provider.name}/{card.id}": card
            for provider in providers
            for card in self._models(snapshot, provider, offers[provider.id], rights)
        }
        found |= {card.id: card for card in self._aliases(snapshot, rights, None)}
        return [(found[name], name) for name in sorted(found)]

    def scoped(
        self, caller: Caller, snapshot: Snapshot, provider_name: str, wire_name: str
    ) -> list[tuple[ModelCard, str]]:
        """Returns the same for one provider, without prefix. Raises NotFound, Forbidden or Unsupported."""
        rights = Rights(caller)
        provider = self._find_provider(snapshot, provider_name, rights)
        if not _lists(provider, wire_name):
            raise Unsupported(f"provider {provider.name!r} lists no models for clients that use {wire_name}")
        offers = self._offers([provider], wire_name)
        found = {card.id: card for card in self._models(snapshot, provider, offers[provider.id], rights)}
        found |= {card.id: card for card in self._aliases(snapshot, rights, provider)}
        return [(found[name], name) for name in sorted(found)]

    def find(
        self, caller: Caller, snapshot: Snapshot, provider_name: str | None, sent: str, wire_name: str
    ) -> ModelCard:
        """Returns a model by any name that a list contains or a call accepts. Raises GatewayError."""
        rights = Rights(caller)
        if provider_name is None:
            resolved = resolve.aggregated(snapshot, sent, rights)
        else:
            resolved = resolve.scoped(snapshot, provider_name, sent, rights)
        if resolved.alias is not None:
            return ModelCard(sent, owned_by=resolved.targets[0].provider.name)
        provider, model = resolved.targets[0].provider, resolved.targets[0].model
        known = self._models(snapshot, provider, self._offers([provider], wire_name)[provider.id], rights)
        if card := next((card for card in known if card.id == model), None):
            return card
        if not _lists(provider, wire_name, GET_MODEL):
            raise Unsupported(f"provider {provider.name!r} returns no models to clients that use {wire_name}")
        if _is_local(provider, wire_name, GET_MODEL):
            raise NotFound(f"there is no model {model!r} at provider {provider.name!r}")
        return self._fetch_model(provider, model)

    def _find_provider(self, snapshot: Snapshot, provider_name: str, rights: Rights) -> Provider:
        provider = snapshot.providers.get(provider_name)
        if provider is not None and rights.may_access_provider(provider.id):
            return provider
        if provider is None and any(grant.provider_id is None for grant in rights.caller.grants):
            raise NotFound(f"there is no provider {provider_name!r}")
        raise resolve.forbidden("*")

    def _models(
        self, snapshot: Snapshot, provider: Provider, offered: tuple[ModelCard, ...], rights: Rights
    ) -> Iterator[ModelCard]:
        """Returns the provider's models that the caller may use. A registered row overrides the upstream's entry."""
        cards = {card.id: card for card in offered}
        for (provider_id, model_id), row in snapshot.models.items():
            if provider_id != provider.id or model_id == prices.DEFAULT:
                continue
            if not row.enabled:
                cards.pop(model_id, None)
            elif row.display_name or model_id not in cards:
                cards[model_id] = ModelCard(model_id, row.display_name, owned_by=provider.name)
        return (card for card in cards.values() if rights.may_use(provider.id, card.id))

    def _aliases(self, snapshot: Snapshot, rights: Rights, provider: Provider | None) -> Iterator[ModelCard]:
        """Yields the aliases with an enabled target that the caller may use, at that provider if one is given."""
        for alias in snapshot.aliases.values():
            for target in alias.targets:
                served_by = snapshot.provider_by_id.get(target.provider_id)
                row = snapshot.models.get((target.provider_id, target.model_id))
                if (
                    served_by is None
                    or (row is not None and not row.enabled)
                    or (provider and served_by.id != provider.id)
                ):
                    continue
                if rights.may_use(served_by.id, alias.name):
                    yield ModelCard(alias.name, owned_by=served_by.name)
                    break

    def _offers(self, providers: list[Provider], wire_name: str) -> dict[int, tuple[ModelCard, ...]]:
        """Returns each upstream's models by provider id, () for a provider with local dispatch."""
        remote = (provider for provider in providers if not _is_local(provider, wire_name))
        waiting = {provider.id: gevent.spawn(self._offer, provider) for provider in remote}
        offers = {provider_id: greenlet.get() for provider_id, greenlet in waiting.items()}
        return {provider.id: offers.get(provider.id, ()) for provider in providers}

    def _offer(self, provider: Provider) -> tuple[ModelCard, ...]:
        cached = self._cached.get(provider.id)
        if cached is not None and cached.provider == provider and cached.until > self.clock():
            return cached.cards
        pending = self._pending.get(provider.id)
        if pending is not None and pending[0] == provider:
            return pending[1].get()
        pending = self._pending[provider.id] = provider, AsyncResult()
        cards, seconds = (), CACHED_AFTER_FAILURE_S
        try:
            with gevent.Timeout(FETCH_S, UpstreamError("the model list took too long")):
                cards, seconds = tuple(self._fetch(provider)), CACHED_S
        except GatewayError as error:
            log.warning("models of provider %s cannot be listed: %s", provider.name, error.message)
        finally:
            if self._pending.get(provider.id) is pending:  # else the provider was changed during this fetch
                self._cached[provider.id] = _CachedOffers(cards, self.clock() + seconds, provider)
                del self._pending[provider.id]
            pending[1].set(cards)
        return cards

    def fetch_offers(self, provider: Provider) -> list[ModelCard]:
        """Returns the models that the upstream lists now. Raises GatewayError."""
        if not self.kinds[provider.channel].responder:
            self.pool.first_usable(provider)
        try:
            with gevent.Timeout(FETCH_S, UpstreamError("the model list took too long")):
                return list(self._fetch(provider))
        except GatewayError as error:
            headers.name_provider(error, provider)
            raise

    def _fetch(self, provider: Provider) -> Iterator[ModelCard]:
        kind = self.kinds[provider.channel]
        upstream_protocol = kind.native_protocol(LIST_MODELS, provider.settings.protocol)
        if upstream_protocol is None:
            return
        protocol = self.protocols[upstream_protocol]
        if kind.responder:
            yield from protocol.read_models({"data": kind.responder.models()})
            return
        if not provider.credentials:
            return
        query: dict[str, str] | None = protocol.LIST_QUERY
        for _ in range(MAX_PAGES):
            body = self._get(provider, LIST_MODELS, upstream_protocol, "", tuple(query.items()))
            yield from protocol.read_models(body)
            if (query := protocol.next_page(body)) is None:
                return

    def _fetch_model(self, provider: Provider, model: str) -> ModelCard:
        """Returns a model that no list contains, from the upstream. Raises GatewayError, NotFound if there is none."""
        kind = self.kinds[provider.channel]
        upstream_protocol = kind.native_protocol(GET_MODEL, provider.settings.protocol)
        if upstream_protocol is None or kind.responder:
            raise NotFound(f"there is no model {model!r} at provider {provider.name!r}")
        try:
            body = self._get(provider, GET_MODEL, upstream_protocol, model)
            if isinstance(body.get("data"), dict):  # some compatible hosts wrap it
                body = body["data"]
            cards = self.protocols[upstream_protocol].read_models({"data": [body], "models": [body]})
            if not cards:
                raise UpstreamError("the upstream's answer is not a model")
        except GatewayError as error:
            headers.name_provider(error, provider)
            raise
        return cards[0]

    def _get(self, provider: Provider, operation: str, upstream_protocol: str, model: str, query: tuple = ()) -> dict:
        """Sends one GET and returns the JSON object. Raises GatewayError, NotFound on the upstream's status 404."""
        credential = self.pool.first_usable(provider)
        kind = self.kinds[provider.channel]
        lane = kind.lane(operation, upstream_protocol, provider.settings.protocol)
        endpoint = endpoints.build(provider, kind, lane, endpoints.path(lane.path, model, query), {})
        endpoint = _with_short_timeouts(endpoints.with_project(endpoint, credential))
        no_watch = DisconnectWatch(None)
        secret = self.tokens.secret(credential, endpoint.transport, no_watch)
        exchange = self.upstream.send(endpoint.request(secret, None, "GET"), no_watch)
        body = exchange.read(no_watch)
        if exchange.status == 404:
            raise NotFound(f"there is no model {model!r} at provider {provider.name!r}")
        if exchange.status != 200:
            raise UpstreamError(f"the upstream answered {exchange.status}")
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError:
            parsed = None
        if not isinstance(parsed, dict):
            raise UpstreamError("the upstream's answer is not a JSON object")
        return parsed


def _dispatch_of(provider: Provider, wire_name: str, operation: str) -> str:
    """Returns the dispatch of a list or a get by the routing document; passthrough without a document."""
    if provider.routing is None:
        return "passthrough"
    decision = provider.routing.get((operation, wire_name))
    return decision.how if decision else "unsupported"


def _lists(provider: Provider, wire_name: str, operation: str = LIST_MODELS) -> bool:
    return _dispatch_of(provider, wire_name, operation) != "unsupported"


def _is_local(provider: Provider, wire_name: str, operation: str = LIST_MODELS) -> bool:
    return _dispatch_of(provider, wire_name, operation) == "local"


def _with_short_timeouts(endpoint: Endpoint) -> Endpoint:
    """Returns the endpoint with timeouts of at most FETCH_S."""
    limits = endpoint.limits
    short = limits._replace(
        connect_s=min(limits.connect_s, FETCH_S), first_byte_s=FETCH_S, idle_s=FETCH_S, total_s=FETCH_S, wait_s=FETCH_S
    )
    return replace(endpoint, limits=short)
