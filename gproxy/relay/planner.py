"""Plans a call: permission, targets, dispatch, translation, upper bound. No effects.

The first target that can serve the call is planned at once, its fallbacks only when failover needs them.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType

from gproxy.accounting import prices
from gproxy.accounting.cost import Features
from gproxy.admission.permissions import Rights
from gproxy.channels.kind import COUNT, GENERATE, STREAM, Kind, Lane
from gproxy.channels.model_capabilities import capabilities
from gproxy.credentials import affinity, selection
from gproxy.errors import BadRequest, Forbidden, GatewayError
from gproxy.metrics.call_summary import CallSummary
from gproxy.protocols import raw_json
from gproxy.protocols.hub import RequestHead
from gproxy.protocols.signatures import WRAPPED_PREFIX
from gproxy.quota import reservations
from gproxy.quota.reservations import Scope, TokenBounds, UpperBound
from gproxy.relay import dispatch, headers
from gproxy.relay.settlement import input_estimate
from gproxy.request_log.recorder import AttemptLog
from gproxy.routing import resolve
from gproxy.routing.resolve import Target
from gproxy.routing.targets import order_by_tier
from gproxy.snapshot import Caller, Dispatch, Provider, Snapshot
from gproxy.state.ttl_store import TtlStore
from gproxy.translation import reasoning_state, translate
from gproxy.translation.translate import Translation

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


@dataclass(slots=True)
class Plan:
    """What will be done for a call at one target. The planner fills it step by step; afterwards it is only read."""

    caller: Caller
    head: RequestHead
    sent_model: str
    name: str  # without provider prefix
    provider: Provider
    kind: Kind
    lane: Lane | None  # None: answered locally
    path: str  # below the upstream's base URL
    model: str  # the upstream's name of the model
    operation: str  # the client's
    upstream_protocol: str
    body: bytes
    price: prices.FoundPrice | None
    mode: str  # the pricing mode, such as flex or priority; "" is the default
    input_tokens: int  # estimated
    affinity: bytes = b""  # a key of the conversation, if the provider's strategy is cache_affinity
    pinned_credential: int | None = None  # id of the credential under which the vendor stored the previous response
    upper_bound: UpperBound | None = None  # over all targets of the call; None: no quota and no limit applies
    target_bound: UpperBound | None = None  # the upper bound of the call at this target alone
    # The alias's later targets; each function returns the plan of the same call there, or raises GatewayError.
    fallbacks: tuple[Callable[[], "Plan"], ...] = ()
    skipped: tuple[tuple[Target, GatewayError], ...] = ()  # earlier targets that cannot serve the call, and why
    tier: int = 0  # of the alias's target
    losses: tuple[str, ...] = ()
    translation: Translation | None = None  # None: the client and the upstream use the same protocol

    def set_translation(self, translation: Translation) -> None:
        self.body, self.losses, self.translation = translation.body, translation.losses, translation

    @property
    def pins_responses(self) -> bool:
        """Whether a later call must use this call's credential, because the vendor stores the response under it."""
        return (
            self.upstream_protocol == "openai_responses"
            and self.translation is None
            and len(self.provider.credentials) > 1
        )


@dataclass(slots=True)
class Planner:
    protocols: Mapping[str, ModuleType]
    kinds: Mapping[str, Kind]
    ttl_store: TtlStore  # reasoning state, and the credentials of stored responses
    dice: Callable[[], float] = random.random

    def plan(self, call: Call, caller: Caller, snapshot: Snapshot) -> Plan:
        """Returns the plan of the first target that can serve the call. Raises GatewayError. No effects."""
        protocol = self.protocols[call.protocol]
        head = protocol.read_head(call.body)
        sent = call.model or head.model
        if not sent:
            raise BadRequest("model: missing; name a model")
        if len(sent) > MAX_MODEL_CHARS:
            raise BadRequest(f"model: longer than {MAX_MODEL_CHARS} characters")
        operation = STREAM if call.operation == GENERATE and head.is_stream else call.operation
        resolved = self._resolve(snapshot, call.provider, sent, Rights(caller))
        targets = order_by_tier(resolved.targets, self.dice)
        if not targets[0].model:
            raise BadRequest("model: names a provider and no model")

        def plan_target(target: Target) -> Plan:
            return self._plan_target(call, caller, snapshot, head, sent, operation, resolved, target)

        plan, fallbacks, skipped = self._first_plan(targets, plan_target)
        plan.skipped = skipped
        if plan.lane is None or operation == COUNT:  # a count costs nothing and is not limited
            plan.fallbacks = tuple(partial(plan_target, target) for target in fallbacks)
            return plan
        scope = reservations.applying(plan.caller, plan.name)
        if any(scope):
            plan.target_bound = self._target_bound(plan, scope)
            plan.upper_bound = self._upper_bound(plan, call, snapshot, resolved, fallbacks)

        def plan_fallback(target: Target) -> Plan:
            planned = plan_target(target)
            if any(scope):
                planned.target_bound = self._target_bound(planned, scope)
            return planned

        plan.fallbacks = tuple(partial(plan_fallback, target) for target in fallbacks)
        return plan

    def _first_plan(
        self, targets: list[Target], plan_target: Callable[[Target], Plan]
    ) -> tuple[Plan, list[Target], tuple[tuple[Target, GatewayError], ...]]:
        """Returns the plan of the first target that can serve the call, the later targets, and the earlier ones with
        their errors.

        Raises the first target's error if no target can serve the call.
        """
        skipped: tuple[tuple[Target, GatewayError], ...] = ()
        for n, target in enumerate(targets):
            try:
                return plan_target(target), targets[n + 1 :], skipped
            except GatewayError as error:
                skipped += ((target, error),)
        raise skipped[0][1]

    def _plan_target(
        self,
        call: Call,
        caller: Caller,
        snapshot: Snapshot,
        head: RequestHead,
        sent: str,
        operation: str,
        resolved: resolve.Resolution,
        target: Target,
    ) -> Plan:
        provider, kind = target.provider, self.kinds[target.provider.channel]
        with headers.ProviderHeader(provider):
            decision = dispatch.choose(kind, provider, operation, call.protocol, call.as_array, self.protocols)
            plan = Plan(
                caller=caller,
                head=head,
                sent_model=sent,
                name=resolved.name,
                provider=provider,
                kind=kind,
                lane=None,
                path="",
                model=target.model,
                operation=operation,
                upstream_protocol=call.protocol,
                body=call.body,
                price=prices.find(snapshot, provider.id, provider.channel, target.model, resolved.alias),
                mode=head.mode,
                input_tokens=input_estimate(call.body),
                tier=target.tier,
            )
            if plan.price is None and provider.settings.unpriced == "deny" and operation != COUNT:
                raise Forbidden(f"model {target.model!r} has no price, and its provider refuses models without a price")
            if decision.how != "local":
                self._set_lane(plan, call, decision)
            if plan.pins_responses and _PREVIOUS_RESPONSE in call.body:
                plan.pinned_credential = self._find_pinned_credential(plan)
            if provider.settings.rotation_strategy == selection.CACHE_AFFINITY:
                plan.affinity = affinity.key(head, target.model)
            return plan

    def _find_pinned_credential(self, plan: Plan) -> int | None:
        previous = raw_json.text(plan.head.body, "previous_response_id")
        find = partial(self.ttl_store.find, plan.caller.user_id)
        return previous and reasoning_state.find_response_credential(find, plan.provider.id, previous)

    def _target_bound(self, plan: Plan, scope: Scope) -> UpperBound:
        """Returns the upper bound of the call at the plan's own target."""
        may_cache = _CACHE_FIELD in plan.body
        has_media = any(field in plan.body for field in _MEDIA_FIELDS)
        return self._bound_at(
            plan, scope, plan.provider, plan.upstream_protocol, plan.model, plan.price, plan.mode, may_cache, has_media
        )

    def _upper_bound(
        self, plan: Plan, call: Call, snapshot: Snapshot, resolved: resolve.Resolution, fallbacks: Sequence[Target]
    ) -> UpperBound:
        """Returns the upper bound over all targets of the call.

        The later targets are not planned yet. Each may get the client's own body or a translation of it, so the most
        expensive assumption counts.
        """
        found = plan.target_bound
        if not fallbacks:
            return found
        scope = found.accounts, found.limits
        may_cache = _CACHE_FIELD in plan.body or _CACHE_FIELD in call.body
        has_media = any(field in plan.body or field in call.body for field in _MEDIA_FIELDS)
        modes = {"", plan.mode, plan.head.mode}
        for target in fallbacks:
            provider, kind = target.provider, self.kinds[target.provider.channel]
            protocol = kind.preferred_protocol or plan.upstream_protocol
            price = prices.find(snapshot, provider.id, provider.channel, target.model, resolved.alias)
            for mode in modes:
                found = reservations.covering(
                    found,
                    self._bound_at(plan, scope, provider, protocol, target.model, price, mode, may_cache, has_media),
                )
        return found

    def _bound_at(
        self,
        plan: Plan,
        scope: Scope,
        provider: Provider,
        upstream_protocol: str,
        model: str,
        price: prices.FoundPrice | None,
        mode: str,
        may_cache: bool,
        has_media: bool,
    ) -> UpperBound:
        writes = plan.operation in (GENERATE, STREAM)
        maximum = capabilities(upstream_protocol, model).max_output if writes else 0
        assumed = provider.settings.assumed_output_tokens
        tokens = TokenBounds(plan.input_tokens, maximum, assumed)
        return reservations.upper_bound(scope, plan.head, price, Features(mode, may_cache, has_media), tokens)

    def _set_lane(self, plan: Plan, call: Call, decision: Dispatch) -> None:
        """Sets the lane, the path and the body of the plan. Raises BadRequest."""
        plan.lane = plan.kind.lane(decision.operation, decision.protocol, plan.provider.settings.protocol)
        if decision.protocol == call.protocol and decision.operation == plan.operation:
            plan.body, plan.losses = self.passthrough_body(plan, call)
            plan.path = headers.path(plan.lane.path, plan.model, call.query)
            return
        translation = translate.prepare(
            self.protocols[call.protocol],
            self.protocols[decision.protocol],
            plan.operation,
            decision,
            plan.kind,
            plan.provider,
            plan.model,
            call.body,
            self.ttl_store,
            plan.caller.user_id,
        )
        # The client's query parameters belong to its own protocol and are not forwarded.
        plan.path = headers.path(plan.lane.path, plan.model, ())
        plan.upstream_protocol = decision.protocol
        if translation.body:
            plan.mode = translation.upstream.read_head(translation.body).mode
        plan.set_translation(translation)

    def passthrough_body(self, plan: Plan, call: Call) -> tuple[bytes, tuple[str, ...]]:
        """Returns the body with the upstream's model name and without other providers' signatures, and the losses."""
        protocol = self.protocols[call.protocol]
        head, body, losses = plan.head, call.body, ()
        if _WRAPPED_PREFIX in body:
            document = raw_json.read_object(body)
            unwrapped = protocol.without_wrapped_signatures(document)
            if unwrapped != document:
                body = raw_json.dumps(unwrapped)
                head, losses = protocol.read_head(body), (protocol.NAMES["signature"],)
        return protocol.outgoing(head, body, plan.model), losses

    def _resolve(self, snapshot: Snapshot, provider: str | None, sent: str, rights: Rights) -> resolve.Resolution:
        if provider is None:
            return resolve.aggregated(snapshot, sent, rights)
        return resolve.scoped(snapshot, provider, sent, rights)
