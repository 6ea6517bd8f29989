"""Model lists: what operators registered, merged with what each upstream says it offers.

Upstreams are asked concurrently, each in its own protocol, and what they said is kept for a minute in each worker;
permissions are applied afterwards. An upstream that fails takes nothing away from the rest of the list.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import gevent
import orjson
from gevent.event import AsyncResult

from gproxy.accounting import prices
from gproxy.admission.permissions import Rights
from gproxy.channels.kind import GET_MODEL, LIST_MODELS
from gproxy.errors import GatewayError, NotFound, Unsupported, UpstreamError
from gproxy.protocols.hub import ModelCard
from gproxy.relay import headers
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.relay.pipeline import Relay, limits, transport_of
from gproxy.routing import resolve
from gproxy.snapshot import Caller, Provider, Snapshot
from gproxy.upstream.client import Exchange, Limits

log = logging.getLogger(__name__)

FETCH_S = 5.0
KEPT_S = 60.0
# After a failure the upstream is asked again sooner.
KEPT_AFTER_FAILURE_S = 10.0
MAX_PAGES = 20


@dataclass(frozen=True, slots=True)
class _Kept:
    cards: tuple[ModelCard, ...]
    until: float
    provider: Provider  # a changed provider is asked anew


@dataclass(slots=True)
class ModelList:
    relay: Relay
    clock: Callable[[], float] = time.monotonic
    _kept: dict[int, _Kept] = field(default_factory=dict)
    _asking: dict[int, AsyncResult] = field(default_factory=dict)

    def aggregated(self, caller: Caller, snapshot: Snapshot, spoken: str) -> list[tuple[ModelCard, str]]:
        """Everything the caller may use, under the names by which the aggregated paths know it, sorted.

        `spoken` is the caller's protocol, which a provider's routing document may keep from its list.
        """
        rights = Rights(caller)
        providers = [p for p in snapshot.providers.values() if rights.may_access_provider(p.id) and _lists(p, spoken)]
        offers = self._offers(providers, spoken)
        found = {
            f"{provider.name}/{card.id}": card
            for provider in providers
            for card in self._models(snapshot, provider, offers[provider.id], rights)
        }
        found |= {card.id: card for card in self._aliases(snapshot, rights, None)}
        return [(found[name], name) for name in sorted(found)]

    def scoped(
        self, caller: Caller, snapshot: Snapshot, provider_name: str, spoken: str
    ) -> list[tuple[ModelCard, str]]:
        """The same of one provider, under bare names. Raises NotFound, Forbidden or Unsupported."""
        rights = Rights(caller)
        provider = self._enter(snapshot, provider_name, rights)
        if not _lists(provider, spoken):
            raise Unsupported(f"provider {provider.name!r} lists no models for clients that speak {spoken}")
        offers = self._offers([provider], spoken)
        found = {card.id: card for card in self._models(snapshot, provider, offers[provider.id], rights)}
        found |= {card.id: card for card in self._aliases(snapshot, rights, provider)}
        return [(found[name], name) for name in sorted(found)]

    def find(self, caller: Caller, snapshot: Snapshot, provider_name: str | None, sent: str, spoken: str) -> ModelCard:
        """One model by any name that a list shows or a call accepts. Raises GatewayError."""
        rights = Rights(caller)
        if provider_name is None:
            resolved = resolve.aggregated(snapshot, sent, rights)
        else:
            resolved = resolve.scoped(snapshot, provider_name, sent, rights)
        if resolved.alias is not None:
            return ModelCard(sent, owned_by=resolved.targets[0].provider.name)
        provider, model = resolved.targets[0].provider, resolved.targets[0].model
        known = self._models(snapshot, provider, self._offers([provider], spoken)[provider.id], rights)
        if card := next((card for card in known if card.id == model), None):
            return card
        if not _lists(provider, spoken, GET_MODEL):
            raise Unsupported(f"provider {provider.name!r} shows no models to clients that speak {spoken}")
        if _is_local(provider, spoken, GET_MODEL):
            raise NotFound(f"there is no model {model!r} at provider {provider.name!r}")
        return self._ask_one(provider, model)

    def _enter(self, snapshot: Snapshot, provider_name: str, rights: Rights) -> Provider:
        provider = snapshot.providers.get(provider_name)
        if provider is not None and rights.may_access_provider(provider.id):
            return provider
        if provider is None and any(grant.provider_id is None for grant in rights.caller.grants):
            raise NotFound(f"there is no provider {provider_name!r}")
        raise resolve.forbidden("*")

    def _models(
        self, snapshot: Snapshot, provider: Provider, offered: tuple[ModelCard, ...], rights: Rights
    ) -> Iterator[ModelCard]:
        """The provider's models that the caller may use; a registered row beats what the upstream says."""
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
        """Aliases that lead somewhere the caller may go; with a provider, to that one."""
        for alias in snapshot.aliases.values():
            for target in alias.targets:
                home = snapshot.provider_by_id.get(target.provider_id)
                row = snapshot.models.get((target.provider_id, target.model_id))
                if home is None or (row is not None and not row.enabled) or (provider and home.id != provider.id):
                    continue
                if rights.may_use(home.id, alias.name):
                    yield ModelCard(alias.name, owned_by=home.name)
                    break

    def _offers(self, providers: list[Provider], spoken: str) -> dict[int, tuple[ModelCard, ...]]:
        """What each upstream offers, all of them asked at once; nothing where only the operator's rows count."""
        asked = (provider for provider in providers if not _is_local(provider, spoken))
        waiting = {provider.id: gevent.spawn(self._offer, provider) for provider in asked}
        offers = {provider_id: greenlet.get() for provider_id, greenlet in waiting.items()}
        return {provider.id: offers.get(provider.id, ()) for provider in providers}

    def _offer(self, provider: Provider) -> tuple[ModelCard, ...]:
        kept = self._kept.get(provider.id)
        if kept is not None and kept.provider == provider and kept.until > self.clock():
            return kept.cards
        if (asking := self._asking.get(provider.id)) is not None:
            return asking.get()
        asking = self._asking[provider.id] = AsyncResult()
        cards, seconds = (), KEPT_AFTER_FAILURE_S
        try:
            with gevent.Timeout(FETCH_S, UpstreamError("the model list took too long")):
                cards, seconds = tuple(self._fetch(provider)), KEPT_S
        except GatewayError as fault:
            log.warning("models of provider %s cannot be listed: %s", provider.name, fault.message)
        finally:
            self._kept[provider.id] = _Kept(cards, self.clock() + seconds, provider)
            del self._asking[provider.id]
            asking.set(cards)
        return cards

    def offered(self, provider: Provider) -> list[ModelCard]:
        """What the upstream says now. Raises GatewayError."""
        if not self.relay.kinds[provider.channel].responder:
            self.relay.pool.any(provider)
        with headers.Naming(provider), gevent.Timeout(FETCH_S, UpstreamError("the model list took too long")):
            return list(self._fetch(provider))

    def _fetch(self, provider: Provider) -> Iterator[ModelCard]:
        kind = self.relay.kinds[provider.channel]
        upstream_protocol = kind.native_protocol(LIST_MODELS, provider.settings.protocol)
        if upstream_protocol is None:
            return
        protocol = self.relay.protocols[upstream_protocol]
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

    def _ask_one(self, provider: Provider, model: str) -> ModelCard:
        """A model that no list shows: the upstream knows whether it exists."""
        kind = self.relay.kinds[provider.channel]
        upstream_protocol = kind.native_protocol(GET_MODEL, provider.settings.protocol)
        if upstream_protocol is None or kind.responder:
            raise NotFound(f"there is no model {model!r} at provider {provider.name!r}")
        with headers.Naming(provider):
            body = self._get(provider, GET_MODEL, upstream_protocol, model, ())
        protocol = self.relay.protocols[upstream_protocol]
        if isinstance(body.get("data"), dict):  # some imitators wrap it
            body = body["data"]
        cards = protocol.read_models({"data": [body], "models": [body]})
        if not cards:
            raise UpstreamError("the upstream's answer is no model")
        return cards[0]

    def _get(self, provider: Provider, operation: str, upstream_protocol: str, model: str, query: tuple) -> dict:
        """One GET. Raises GatewayError, NotFound on the upstream's 404."""
        credential = self.relay.pool.any(provider)
        kind, settings = self.relay.kinds[provider.channel], provider.settings
        lane = kind.lane(operation, upstream_protocol, settings.protocol)
        nobody, transport = DisconnectWatch(None), transport_of(settings)
        shown = self.relay.tokens.shown(credential, transport, nobody)
        exchange: Exchange = self.relay.upstream.send(
            "GET",
            settings.base_url or kind.base_url_at(settings.location),
            headers.placed(headers.path(lane.path, model, query), credential, settings.location),
            lane.auth(shown),
            None,
            _hurried(limits(settings)),
            nobody,
            shown,
            transport,
        )
        body = exchange.read(nobody)
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


def _way(provider: Provider, spoken: str, operation: str) -> str:
    """What a routing document makes of a list or a get; without one the upstream is asked."""
    if provider.routing is None:
        return "passthrough"
    transport = provider.routing.get((operation, spoken))
    return transport.how if transport else "unsupported"


def _lists(provider: Provider, spoken: str, operation: str = LIST_MODELS) -> bool:
    return _way(provider, spoken, operation) != "unsupported"


def _is_local(provider: Provider, spoken: str, operation: str = LIST_MODELS) -> bool:
    return _way(provider, spoken, operation) == "local"


def _hurried(given: Limits) -> Limits:
    return Limits(min(given.connect_s, FETCH_S), FETCH_S, FETCH_S, FETCH_S, given.connections, FETCH_S)
