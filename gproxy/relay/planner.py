"""What a call comes to before anything happens: admitted, resolved, translated, bounded. No effects.

The first target that the call can go to is planned whole, the others when they are needed.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType

from gproxy.accounting import prices
from gproxy.admission.permissions import Rights
from gproxy.channels.kind import COUNT, GENERATE, STREAM, Kind, Lane
from gproxy.channels.model_capabilities import facts
from gproxy.credentials import affinity, selection
from gproxy.errors import BadRequest, Forbidden, GatewayError
from gproxy.metrics.call_summary import CallSummary
from gproxy.protocols import raw_json
from gproxy.protocols.hub import RequestHead
from gproxy.protocols.signatures import WRAPPED_PREFIX
from gproxy.quota import reservations
from gproxy.quota.reservations import UpperBound
from gproxy.relay import dispatch, headers
from gproxy.relay.settlement import input_estimate
from gproxy.request_log.recorder import AttemptLog
from gproxy.routing import resolve
from gproxy.routing.resolve import Target
from gproxy.routing.targets import by_tier
from gproxy.snapshot import Caller, Dispatch, Provider, Snapshot
from gproxy.state.ttl_store import TtlStore
from gproxy.translation import reasoning_state, translate
from gproxy.translation.translate import Translation

# A name is matched against patterns and stands in rows and journal lines, so its length is bounded.
MAX_MODEL = 512
_MARK = WRAPPED_PREFIX.encode()
_PREVIOUS = b'"previous_response_id"'
# In every part of a request, of any protocol, that holds or names sound or a picture.
_MEDIA = (b"audio", b"image", b"inlineData", b"inline_data", b"fileData", b"file_data")


@dataclass(frozen=True, slots=True)
class Call:
    """A request as web hands it over. `header` looks one up by its lower-case name."""

    protocol: str
    body: bytes
    header: Callable[[str], str | None]
    query: tuple[tuple[str, str], ...]
    request_id: str
    started: float  # performance counter
    provider: str | None = None  # on a scoped path
    model: str | None = None  # where the path names it
    operation: str = GENERATE  # a stream too, where the body tells
    as_array: bool = False  # a Gemini stream as one JSON array
    trace: int | None = None  # the id of the request's own log row
    attempt_log: AttemptLog | None = None  # where its attempts are kept
    summary: CallSummary = field(default_factory=lambda: CallSummary(""))


@dataclass(slots=True)
class Plan:
    """Everything that is decided before anything happens. It is filled step by step, and then only read."""

    caller: Caller
    asked: RequestHead
    sent_model: str
    name: str  # without provider prefix
    provider: Provider
    kind: Kind
    lane: Lane | None  # None: answered here
    path: str  # below the upstream's base URL
    model: str  # the upstream's
    operation: str  # the client's
    upstream_protocol: str  # the protocol of the upstream
    body: bytes
    price: prices.Found | None
    mode: str  # by which of its modes the price counts
    input_tokens: int  # estimated
    affinity: bytes = b""  # names the conversation, where the provider's strategy goes by it
    kept_by: int | None = None  # the credential under which the vendor keeps what the call goes on from
    upper_bound: UpperBound | None = None  # None: nothing to hold
    others: tuple[
        Callable[[], "Plan"], ...
    ] = ()  # the same call to the alias's other targets, planned when it is needed
    passed_over: tuple[tuple[Target, GatewayError], ...] = ()  # targets before it, and what keeps the call from them
    tier: int = 0  # of an alias's target
    losses: tuple[str, ...] = ()
    translation: Translation | None = None  # None: the same dialect

    def translate(self, made: Translation) -> None:
        self.body, self.losses, self.translation = made.body, made.losses, made

    @property
    def keeps_responses(self) -> bool:
        """Whether the vendor keeps the reply under the credential that asks for it, of several."""
        return (
            self.upstream_protocol == "openai_responses"
            and self.translation is None
            and len(self.provider.credentials) > 1
        )


@dataclass(slots=True)
class Planner:
    protocols: Mapping[str, ModuleType]
    kinds: Mapping[str, Kind]
    ttl_store: TtlStore  # what vendors want back and clients cannot carry
    dice: Callable[[], float] = random.random

    def plan(self, call: Call, caller: Caller, snapshot: Snapshot) -> Plan:
        """Where the call goes and what is sent. Raises GatewayError; no effects."""
        protocol = self.protocols[call.protocol]
        asked = protocol.read_head(call.body)
        sent = call.model or asked.model
        if not sent:
            raise BadRequest("model: missing; name a model")
        if len(sent) > MAX_MODEL:
            raise BadRequest(f"model: longer than {MAX_MODEL} characters")
        operation = STREAM if call.operation == GENERATE and asked.is_stream else call.operation
        resolved = self._resolve(snapshot, call.provider, sent, Rights(caller))
        targets = by_tier(resolved.targets, self.dice)
        if not targets[0].model:
            raise BadRequest("model: names a provider and no model")

        def plan_for(target: Target) -> Plan:
            return self._plan_for(call, caller, snapshot, asked, sent, operation, resolved, target)

        plan, rest, passed_over = self._first_plan(targets, plan_for)
        plan.passed_over = passed_over
        if plan.lane is not None and operation != COUNT:  # which costs nothing and is not limited
            plan.upper_bound = self._upper_bound(plan, snapshot, resolved, rest)
        plan.others = tuple(partial(plan_for, target) for target in rest)
        return plan

    def _first_plan(
        self, targets: list[Target], plan_for: Callable[[Target], Plan]
    ) -> tuple[Plan, list[Target], tuple[tuple[Target, GatewayError], ...]]:
        """The first target that the call can go to, those after it, and those before it with what keeps it from them.

        Raises what keeps it from the very first where there is none.
        """
        passed_over: tuple[tuple[Target, GatewayError], ...] = ()
        for n, target in enumerate(targets):
            try:
                return plan_for(target), targets[n + 1 :], passed_over
            except GatewayError as fault:
                passed_over += ((target, fault),)
        raise passed_over[0][1]

    def _plan_for(
        self,
        call: Call,
        caller: Caller,
        snapshot: Snapshot,
        asked: RequestHead,
        sent: str,
        operation: str,
        resolved,
        target,
    ) -> Plan:
        provider, kind = target.provider, self.kinds[target.provider.channel]
        with headers.Naming(provider):
            transport = dispatch.choose(kind, provider, operation, call.protocol, call.as_array, self.protocols)
            plan = Plan(
                caller=caller,
                asked=asked,
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
                mode=asked.mode,
                input_tokens=input_estimate(call.body),
                tier=target.tier,
            )
            if plan.price is None and provider.settings.unpriced == "deny" and operation != COUNT:
                raise Forbidden(f"model {target.model!r} has no price, and its provider refuses what is not priced")
            if transport.how != "local":
                self._address(plan, call, transport)
            if plan.keeps_responses and _PREVIOUS in call.body:
                plan.kept_by = self._kept_by(plan)
            if provider.settings.rotation_strategy == selection.CACHE_AFFINITY:
                plan.affinity = affinity.key(asked, target.model)
            return plan

    def _kept_by(self, plan: Plan) -> int | None:
        previous = raw_json.text(plan.asked.body, "previous_response_id")
        find = partial(self.ttl_store.find, plan.caller.user_id)
        return previous and reasoning_state.whose_response(find, plan.provider.id, previous)

    def _upper_bound(
        self, plan: Plan, snapshot: Snapshot, resolved: resolve.Resolved, others: Sequence[Target]
    ) -> UpperBound | None:
        """What is held covers the dearest of the targets that the call may come to."""
        accounts, rows = reservations.applying(plan.caller, plan.name)
        if not accounts and not rows:
            return None
        writes = plan.operation in (GENERATE, STREAM)
        may_cache = b'"cache_control"' in plan.body
        has_media = any(mark in plan.body for mark in _MEDIA)

        def upper_bound(
            provider: Provider, upstream_protocol: str, model: str, price: prices.Found | None
        ) -> UpperBound:
            maximum = facts(upstream_protocol, model).max_output if writes else 0
            assumed = provider.settings.assumed_output_tokens
            return reservations.upper_bound(
                accounts, rows, plan.asked, price, plan.mode, plan.input_tokens, maximum, assumed, may_cache, has_media
            )

        found = upper_bound(plan.provider, plan.upstream_protocol, plan.model, plan.price)
        for target in others:
            provider, upstream_protocol = (
                target.provider,
                self.kinds[target.provider.channel].prefers or plan.upstream_protocol,
            )
            price = prices.find(snapshot, provider.id, provider.channel, target.model, resolved.alias)
            found = reservations.dearer(found, upper_bound(provider, upstream_protocol, target.model, price))
        return found

    def _address(self, plan: Plan, call: Call, transport: Dispatch) -> None:
        """Fills in the lane and what is sent there. Raises BadRequest."""
        plan.lane = plan.kind.lane(transport.operation, transport.protocol, plan.provider.settings.protocol)
        if transport.protocol == call.protocol and transport.operation == plan.operation:
            plan.body, plan.losses = self.passed(plan, call)
            plan.path = headers.path(plan.lane.path, plan.model, call.query)
            return
        made = translate.plan(
            self.protocols[call.protocol],
            self.protocols[transport.protocol],
            plan.operation,
            transport,
            plan.kind,
            plan.provider,
            plan.model,
            call.body,
            self.ttl_store,
            plan.caller.user_id,
        )
        # Query parameters are the client's protocol's.
        plan.path = headers.path(plan.lane.path, plan.model, ())
        plan.upstream_protocol = transport.protocol
        if made.body:
            plan.mode = made.upstream.read_head(made.body).mode
        plan.translate(made)

    def passed(self, plan: Plan, call: Call) -> tuple[bytes, tuple[str, ...]]:
        """The client's own body under the upstream's model name, without what another provider sealed."""
        protocol = self.protocols[call.protocol]
        asked, body, losses = plan.asked, call.body, ()
        if _MARK in body and (found := raw_json.read_object(body)) != (
            unsealed := protocol.without_wrapped_signatures(found)
        ):
            body = raw_json.dumps(unsealed)
            asked, losses = protocol.read_head(body), (protocol.NAMES["signature"],)
        return protocol.outgoing(asked, body, plan.model), losses

    def _resolve(self, snapshot: Snapshot, provider: str | None, sent: str, rights: Rights) -> resolve.Resolved:
        if provider is None:
            return resolve.aggregated(snapshot, sent, rights)
        return resolve.scoped(snapshot, provider, sent, rights)
