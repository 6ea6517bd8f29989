"""Explains a call without making it: plans it like a real call, and reserves and sends nothing."""

from dataclasses import dataclass

from gproxy.credentials import selection
from gproxy.credentials.pool import CredentialState, Pool
from gproxy.errors import GatewayError
from gproxy.quota import budgets, limits, reservations
from gproxy.relay import endpoints
from gproxy.relay.pipeline import Relay
from gproxy.relay.planner import Call, Plan
from gproxy.snapshot import Caller, Credential, Snapshot
from gproxy.state.interface import BUSY_WAIT_S, TOKENS, LimitStatus, Taken
from gproxy.units import NS

HIDDEN = "(the credential)"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A credential. `position` counts from 1 in the order of the attempts, None if it would be skipped.

    `reason`: why it has this position or would be skipped.
    """

    credential: Credential
    position: int | None
    reason: str
    state: CredentialState


@dataclass(frozen=True, slots=True)
class PlannedTarget:
    """A target of the call. `error`: why it cannot serve the call; `plan` is None then."""

    provider: str
    model: str
    tier: int
    plan: Plan | None
    error: GatewayError | None
    candidates: tuple[Candidate, ...] = ()

    @property
    def url(self) -> str | None:
        """The URL of the request, with the project of the first candidate; None if the gateway answers locally."""
        plan = self.plan
        if plan is None or plan.endpoint is None or plan.kind.responder is not None:
            return None
        if not self.candidates:
            return plan.endpoint.url
        return endpoints.with_project(plan.endpoint, self.candidates[0].credential).url

    @property
    def request_headers(self) -> dict[str, str]:
        """The headers of the request, with HIDDEN in place of the credential."""
        return self.plan.endpoint.request(HIDDEN, None).headers


@dataclass(frozen=True, slots=True)
class Explanation:
    """The result. `error`: what the caller would get before anything is sent; `limits`: its quotas and limits now."""

    error: GatewayError | None
    name: str | None  # the name that permissions and limits match
    targets: tuple[PlannedTarget, ...]
    limits: Taken | None


def explain(relay: Relay, call: Call, caller: Caller, snapshot: Snapshot) -> Explanation:
    """Returns what would happen to the call: its error, or its targets with their credentials."""
    try:
        plan = relay.plan(call, caller, snapshot)
    except GatewayError as error:
        return Explanation(error, _name(relay, call, snapshot), (), None)
    accounts, rows = reservations.applying(caller, plan.name)
    taken = relay.opener.reserver.inspect(accounts, rows) if accounts or rows else None
    targets = [PlannedTarget(one.provider.name, one.model, one.tier, None, error) for one, error in plan.skipped]
    targets.append(_planned_target(relay.pool, plan))
    for fallback in plan.fallbacks:
        target = fallback.target
        try:
            targets.append(_planned_target(relay.pool, fallback.plan()))
        except GatewayError as error:
            targets.append(PlannedTarget(target.provider.name, target.model, target.tier, None, error))
    return Explanation(_refusal(plan, taken), plan.name, tuple(targets), taken)


def _name(relay: Relay, call: Call, snapshot: Snapshot) -> str | None:
    """Returns the model name of a call that cannot be planned, or None if it cannot be read."""
    try:
        sent = call.model or relay.planner.protocols[call.protocol].read_head(call.body).model
    except GatewayError:
        return None
    prefix, _, tail = (sent or "").partition("/")
    return tail if tail and prefix in snapshot.providers else sent


def _planned_target(pool: Pool, plan: Plan) -> PlannedTarget:
    candidates = () if plan.endpoint is None or plan.kind.responder is not None else _candidates(pool, plan)
    return PlannedTarget(plan.provider.name, plan.model, plan.tier, plan, None, candidates)


def _candidates(pool: Pool, plan: Plan) -> tuple[Candidate, ...]:
    """Returns the credentials in the order of the provider's strategy. With `round_robin` it changes with each call."""
    found, position = [], 0
    for credential in pool.order(plan.provider, plan.affinity, plan.pinned_credential):
        obstacle = pool.skip_reason(credential, plan.model)
        position += obstacle is None
        reason, state = obstacle or _reason(plan), pool.state(credential)
        found.append(Candidate(credential, position if obstacle is None else None, reason, state))
    return tuple(found)


def _reason(plan: Plan) -> str:
    strategy = plan.provider.settings.rotation_strategy
    if plan.pinned_credential is not None:
        return "the vendor stored the previous response of this call under this credential"
    return {
        selection.CACHE_AFFINITY: "the credential of this conversation comes first",
        selection.STICKY: "the first usable credential",
    }.get(strategy, "round robin, in proportion to the weights")


def _refusal(plan: Plan, taken: Taken | None) -> GatewayError | None:
    """Returns the error that a reservation would get now, None if it would succeed. Quotas come before limits."""
    if taken is None or plan.upper_bound is None:
        return None
    now_s, upper_bound = taken.at / NS, plan.upper_bound
    for one in sorted(taken.statuses, key=lambda status: status.counter is not None):
        if one.counter is None and upper_bound.money > one.remaining:
            return budgets.refusal(one, upper_bound.money, now_s)
        if one.counter is not None and one.remaining < (upper_bound.tokens if one.counter == TOKENS else 1):
            refused = one._replace(wait_s=_longest_wait(one, upper_bound.tokens))
            return limits.refusal(refused, taken.statuses, upper_bound.tokens, now_s)
    return None


def _longest_wait(refused: LimitStatus, tokens: int) -> float | None:
    """Returns the seconds until the counter has room for the call at the latest; None if it never has."""
    if refused.limit == 0 or (refused.counter == TOKENS and tokens > refused.limit):
        return None
    return BUSY_WAIT_S if refused.reset_s is None else refused.reset_s  # only concurrency has no reset
