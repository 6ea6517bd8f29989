"""Plans a call: permission, targets, dispatch, translation, endpoint, upper bound. No effects.

The first target that can serve the call is planned at once, its fallbacks only when failover needs them.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import ModuleType
from typing import NamedTuple

from gproxy.accounting import prices
from gproxy.accounting.cost import Features
from gproxy.admission.permissions import Rights
from gproxy.channels.kind import COUNT, GENERATE, STREAM, Kind
from gproxy.channels.model_capabilities import capabilities
from gproxy.credentials import affinity, selection
from gproxy.errors import BadRequest, Forbidden, GatewayError
from gproxy.metrics.call_summary import CallSummary
from gproxy.protocols import raw_json
from gproxy.protocols.hub import RequestHead
from gproxy.protocols.signatures import WRAPPED_PREFIX
from gproxy.quota import reservations
from gproxy.quota.reservations import Scope, TokenBounds, UpperBound
from gproxy.relay import dispatch, endpoints, headers
from gproxy.relay.settlement import input_estimate
from gproxy.request_log.recorder import AttemptLog
from gproxy.routing import resolve
from gproxy.routing.resolve import Target
from gproxy.routing.targets import order_by_tier
from gproxy.snapshot import Caller, Dispatch, Provider, Snapshot
from gproxy.state.ttl_store import TtlStore
from gproxy.translation import reasoning_state, translate
from gproxy.translation.translate import ClientRequest, Translation, UpstreamTarget
from gproxy.upstream.endpoint import Endpoint

# A model name is matched against patterns and written to usage rows and journal entries, so its length is limited.
MAX_MODEL_CHARS = 512
_WRAPPED_PREFIX = WRAPPED_PREFIX.encode()
_PREVIOUS_RESPONSE = b'"previous_response_id"'
_CACHE_FIELD = b'"cache_control"'
# One of these is in every audio or image part of a request, in any protocol.
_MEDIA_FIELDS = (b"audio", b"image", b"inlineData", b"inline_data", b"fileData", b"file_data")


@dataclass(frozen=True, slots=True)
class Call:
    """A client's request, as web reads it. `header` returns a header by its lower-case name."""

    protocol: str
    body: bytes
    header: Callable[[str], str | None]
    query: tuple[tuple[str, str], ...]
    request_id: str
    started: float  # on the performance counter, in seconds
    provider: str | None = None  # on a scoped path
    model: str | None = None  # if the path names it
    operation: str = GENERATE  # a stream too, if the body requests one
    as_array: bool = False  # a Gemini stream is requested as one JSON array
    request_log_id: int | None = None  # the id of the client request's log row
    attempt_log: AttemptLog | None = None  # logs the attempts, if the operator enabled it
    summary: CallSummary = field(default_factory=lambda: CallSummary(""))


@dataclass(frozen=True, slots=True)
class Fallback:
    """A later target of an alias. `plan` returns the plan of the same call there, or raises GatewayError."""

    target: Target
    plan: Callable[[], "Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done for a call at one target."""

    caller: Caller
    head: RequestHead
    sent_model: str
    name: str  # without provider prefix
    provider: Provider
    kind: Kind
    model: str  # the upstream's name of the model
    operation: str  # the client's
    endpoint: Endpoint | None  # None: gproxy counts the tokens itself
    upstream_protocol: str
    body: bytes
    price: prices.FoundPrice | None
    mode: str  # the pricing mode, such as flex or priority; "" is the default
    input_tokens: int  # estimated
    tier: int = 0  # of the alias's target
    losses: tuple[str, ...] = ()
    translation: Translation | None = None  # None: the client and the upstream use the same protocol
    # Whether a later call must use this call's credential, because the vendor stores the response under it.
    pins_responses: bool = False
    affinity: bytes = b""  # a key of the conversation, if the provider's strategy is cache_affinity
    pinned_credential: int | None = None  # id of the credential under which the vendor stored the previous response
    upper_bound: UpperBound | None = None  # over all targets of the call; None: no quota and no limit applies
    target_bound: UpperBound | None = None  # the upper bound of the call at this target alone
    fallbacks: tuple[Fallback, ...] = ()
    skipped: tuple[tuple[Target, GatewayError], ...] = ()  # earlier targets that cannot serve the call, and why

    def with_translation(self, translation: Translation) -> "Plan":
        """Returns the plan with the translation that was written after its files were fetched."""
        return replace(self, body=translation.body, losses=translation.losses, translation=translation)


class _Request(NamedTuple):
    """What is the same for all targets of a call. `scope`: the accounts and limits in which it counts."""

    call: Call
    caller: Caller
    snapshot: Snapshot
    head: RequestHead
    sent_model: str
    operation: str
    resolved: resolve.Resolution
    scope: Scope
    input_tokens: int  # estimated


class _Sent(NamedTuple):
    """What one target gets of a call."""

    endpoint: Endpoint | None
    protocol: str
    body: bytes
    mode: str
    losses: tuple[str, ...] = ()
    translation: Translation | None = None


class _Conversation(NamedTuple):
    """What ties a call to the credential of earlier calls; see Plan."""

    pins_responses: bool
    pinned_credential: int | None
    affinity: bytes


@dataclass(slots=True)
class Planner:
    protocols: Mapping[str, ModuleType]
    kinds: Mapping[str, Kind]
    ttl_store: TtlStore  # reasoning state, and the credentials of stored responses
    dice: Callable[[], float] = random.random

    def plan(self, call: Call, caller: Caller, snapshot: Snapshot) -> Plan:
        """Returns the plan of the first target that can serve the call. No effects.

        Raises GatewayError: the first target's error if no target can serve the call.
        """
        request = self._read(call, caller, snapshot)
        targets = order_by_tier(request.resolved.targets, self.dice)
        if not targets[0].model:
            raise BadRequest("model: names a provider and no model")
        skipped: tuple[tuple[Target, GatewayError], ...] = ()
        for n, target in enumerate(targets):
            try:
                return self._plan_target(request, target, targets[n + 1 :], skipped)
            except GatewayError as error:
                skipped += ((target, error),)
        raise skipped[0][1]

    def _read(self, call: Call, caller: Caller, snapshot: Snapshot) -> _Request:
        head = self.protocols[call.protocol].read_head(call.body)
        sent = call.model or head.model
        if not sent:
            raise BadRequest("model: missing; name a model")
        if len(sent) > MAX_MODEL_CHARS:
            raise BadRequest(f"model: longer than {MAX_MODEL_CHARS} characters")
        operation = STREAM if call.operation == GENERATE and head.is_stream else call.operation
        rights = Rights(caller)
        if call.provider is None:
            resolved = resolve.aggregated(snapshot, sent, rights)
        else:
            resolved = resolve.scoped(snapshot, call.provider, sent, rights)
        # A token count costs nothing and is not limited.
        scope = ((), ()) if operation == COUNT else reservations.applying(caller, resolved.name)
        return _Request(
            call, caller, snapshot, head, sent, operation, resolved, scope, input_tokens=input_estimate(call.body)
        )

    def _plan_target(
        self,
        request: _Request,
        target: Target,
        later: Sequence[Target] = (),
        skipped: tuple[tuple[Target, GatewayError], ...] = (),
        upper_bound: UpperBound | None = None,
    ) -> Plan:
        """Returns the plan at a target. `upper_bound`: of the whole call, computed here for its first target."""
        call, provider, kind = request.call, target.provider, self.kinds[target.provider.channel]
        try:
            decision = dispatch.choose(kind, provider, request.operation, call.protocol, call.as_array, self.protocols)
            price = self._price(request, target)
            if price is None and provider.settings.unpriced == "deny" and request.operation != COUNT:
                raise Forbidden(f"model {target.model!r} has no price, and its provider refuses models without a price")
            sent = self._sent(request, target, decision)
            conversation = self._conversation(request, target, sent)
        except GatewayError as error:
            headers.name_provider(error, provider)
            raise
        target_bound = None
        if any(request.scope):
            features = Features(sent.mode, *_cost_features(sent.body))
            target_bound = _bound(request, target, sent.protocol, price, features)
            upper_bound = upper_bound or self._upper_bound(request, target_bound, sent, later)
        return Plan(
            caller=request.caller,
            head=request.head,
            sent_model=request.sent_model,
            name=request.resolved.name,
            provider=provider,
            kind=kind,
            model=target.model,
            operation=request.operation,
            endpoint=sent.endpoint,
            upstream_protocol=sent.protocol,
            body=sent.body,
            price=price,
            mode=sent.mode,
            input_tokens=request.input_tokens,
            tier=target.tier,
            losses=sent.losses,
            translation=sent.translation,
            pins_responses=conversation.pins_responses,
            affinity=conversation.affinity,
            pinned_credential=conversation.pinned_credential,
            upper_bound=upper_bound,
            target_bound=target_bound,
            fallbacks=tuple(
                Fallback(one, partial(self._plan_target, request, one, upper_bound=upper_bound)) for one in later
            ),
            skipped=skipped,
        )

    def _price(self, request: _Request, target: Target) -> prices.FoundPrice | None:
        provider = target.provider
        return prices.find(request.snapshot, provider.id, provider.channel, target.model, request.resolved.alias)

    def _conversation(self, request: _Request, target: Target, sent: _Sent) -> _Conversation:
        provider = target.provider
        pins = sent.protocol == "openai_responses" and sent.translation is None and len(provider.credentials) > 1
        is_affine = provider.settings.rotation_strategy == selection.CACHE_AFFINITY
        return _Conversation(
            pins,
            self._find_pinned_credential(request, provider) if pins else None,
            affinity.key(request.head, target.model) if is_affine else b"",
        )

    def _find_pinned_credential(self, request: _Request, provider: Provider) -> int | None:
        if _PREVIOUS_RESPONSE not in request.call.body:
            return None
        previous = raw_json.text(request.head.body, "previous_response_id")
        find = partial(self.ttl_store.find, request.caller.user_id)
        return previous and reasoning_state.find_response_credential(find, provider.id, previous)

    # -- what the target gets ------------------------------------------------------------------------------------------

    def _sent(self, request: _Request, target: Target, decision: Dispatch) -> _Sent:
        """Returns what the target gets. Raises BadRequest."""
        call, head, provider, kind = request.call, request.head, target.provider, self.kinds[target.provider.channel]
        if decision.how == "local":
            return _Sent(None, call.protocol, call.body, head.mode)
        lane = kind.lane(decision.operation, decision.protocol, provider.settings.protocol)
        is_passthrough = decision.protocol == call.protocol and decision.operation == request.operation
        # The client's query parameters belong to its own protocol.
        path = endpoints.path(lane.path, target.model, call.query if is_passthrough else ())
        forwarded = endpoints.forwarded(decision.protocol, provider.settings.forward_headers, call.header)
        endpoint = endpoints.build(provider, kind, lane, path, forwarded)
        if is_passthrough:
            body, losses = passthrough_body(self.protocols[call.protocol], head, call.body, target.model)
            return _Sent(endpoint, call.protocol, body, head.mode, losses)
        translation = translate.prepare(
            ClientRequest(self.protocols[call.protocol], request.operation, call.body, request.caller.user_id),
            UpstreamTarget(self.protocols[decision.protocol], decision.operation, kind, provider, target.model),
            self.ttl_store,
        )
        mode = translation.upstream.read_head(translation.body).mode if translation.body else head.mode
        return _Sent(endpoint, decision.protocol, translation.body, mode, translation.losses, translation)

    # -- upper bounds --------------------------------------------------------------------------------------------------

    def _upper_bound(self, request: _Request, first: UpperBound, sent: _Sent, later: Sequence[Target]) -> UpperBound:
        """Returns the upper bound over all targets of the call. `first` is that of the first target.

        The later targets are not planned yet. Each may get the client's own body or a translation of it, so the most
        expensive assumption counts.
        """
        if not later:
            return first
        own, found = _cost_features(request.call.body), first
        may_cache, has_media = (one or other for one, other in zip(own, _cost_features(sent.body), strict=True))
        for target in later:
            price = self._price(request, target)
            protocol = self.kinds[target.provider.channel].preferred_protocol or sent.protocol
            for mode in {"", sent.mode, request.head.mode}:
                features = Features(mode, may_cache, has_media)
                found = reservations.covering(found, _bound(request, target, protocol, price, features))
        return found


def passthrough_body(protocol: ModuleType, head: RequestHead, body: bytes, model: str) -> tuple[bytes, tuple[str, ...]]:
    """Returns the body with the upstream's model name and without other providers' signatures, and the losses."""
    losses: tuple[str, ...] = ()
    if _WRAPPED_PREFIX in body:
        document = raw_json.read_object(body)
        unwrapped = protocol.without_wrapped_signatures(document)
        if unwrapped != document:
            body = raw_json.dumps(unwrapped)
            head, losses = protocol.read_head(body), (protocol.NAMES["signature"],)
    return protocol.outgoing(head, body, model), losses


def _cost_features(body: bytes) -> tuple[bool, bool]:
    """Returns whether a request may write to a cache, and whether it may contain audio or images."""
    return _CACHE_FIELD in body, any(field in body for field in _MEDIA_FIELDS)


def _bound(
    request: _Request, target: Target, protocol: str, price: prices.FoundPrice | None, features: Features
) -> UpperBound:
    """Returns the upper bound of a call at one target, which answers in this protocol."""
    maximum = capabilities(protocol, target.model).max_output if request.operation in (GENERATE, STREAM) else 0
    tokens = TokenBounds(request.input_tokens, maximum, target.provider.settings.assumed_output_tokens)
    return reservations.upper_bound(request.scope, request.head, price, features, tokens)
