"""What would become of a call, told without making it: the same plan as a real one, and nothing is taken or sent."""

from dataclasses import dataclass

from gproxy.credentials import selection
from gproxy.credentials.pool import CredentialState, Pool
from gproxy.errors import GatewayError
from gproxy.quota import budgets, limits, reservations
from gproxy.relay import headers
from gproxy.relay.pipeline import Relay
from gproxy.relay.planner import Call, Plan
from gproxy.snapshot import Caller, Credential, Snapshot
from gproxy.state.interface import TOKENS, Taken
from gproxy.units import NS

HIDDEN = "(the credential)"


@dataclass(frozen=True, slots=True)
class Candidate:
    """`turn`: its place among those that would be tried, None of one that would not be. `why` says so."""

    credential: Credential
    turn: int | None
    why: str
    state: CredentialState


@dataclass(frozen=True, slots=True)
class Stop:
    """A target that the call may come to. `fault`: why it cannot be told to that one."""

    provider: str
    model: str
    tier: int
    plan: Plan | None
    fault: GatewayError | None
    candidates: tuple[Candidate, ...] = ()

    @property
    def url(self) -> str | None:
        """Without a query parameter that is the client's alone, and with the project of the first candidate."""
        plan = self.plan
        if plan is None or plan.lane is None or plan.kind.answers is not None:
            return None
        settings = plan.provider.settings
        path = plan.path
        if self.candidates:
            path = headers.placed(path, self.candidates[0].credential, settings.location)
        return f"{settings.base_url or plan.kind.host(settings.location)}{path}"

    def sent_headers(self, call: Call) -> dict[str, str]:
        plan = self.plan
        auth = plan.lane.auth(HIDDEN)
        return headers.to_upstream(plan.upstream_protocol, plan.provider.settings.forward_headers, call.header, auth)


@dataclass(frozen=True, slots=True)
class Explanation:
    """`fault`: what the caller would be told before anything is sent; `standings`: its accounts and limits."""

    fault: GatewayError | None
    name: str | None  # by which permissions and limits go
    stops: tuple[Stop, ...]
    statuses: Taken | None


def explain(relay: Relay, call: Call, caller: Caller, snapshot: Snapshot) -> Explanation:
    try:
        plan = relay.plan(call, caller, snapshot)
    except GatewayError as fault:
        return Explanation(fault, _name(relay, call, snapshot), (), None)
    accounts, rows = reservations.applying(caller, plan.name)
    taken = relay.reserver.look(accounts, rows) if accounts or rows else None
    stops = [Stop(one.provider.name, one.model, one.tier, None, fault) for one, fault in plan.passed_over]
    stops.append(_stop(relay.pool, plan))
    for other in plan.others:
        target = other.args[0]
        try:
            stops.append(_stop(relay.pool, other()))
        except GatewayError as fault:
            stops.append(Stop(target.provider.name, target.model, target.tier, None, fault))
    return Explanation(_refusal(plan, taken), plan.name, tuple(stops), taken)


def _name(relay: Relay, call: Call, snapshot: Snapshot) -> str | None:
    """The name that a call is about whose plan failed, where that much can be told."""
    try:
        sent = call.model or relay.protocols[call.protocol].read_head(call.body).model
    except GatewayError:
        return None
    prefix, _, rest = (sent or "").partition("/")
    return rest if rest and prefix in snapshot.providers else sent


def _stop(pool: Pool, plan: Plan) -> Stop:
    candidates = () if plan.lane is None or plan.kind.answers is not None else _candidates(pool, plan)
    return Stop(plan.provider.name, plan.model, plan.tier, plan, None, candidates)


def _candidates(pool: Pool, plan: Plan) -> tuple[Candidate, ...]:
    """In the order of the strategy; with `round_robin` whose turn it is changes from call to call."""
    found, turn = [], 0
    for credential in pool.order(plan.provider, plan.affinity, plan.kept_by):
        why = pool.why_not(credential, plan.model)
        turn += why is None
        found.append(Candidate(credential, turn if why is None else None, why or _reason(plan), pool.state(credential)))
    return tuple(found)


def _reason(plan: Plan) -> str:
    strategy = plan.provider.settings.rotation_strategy
    if plan.kept_by is not None:
        return "the vendor keeps the response that this call goes on from under its own key"
    return {
        selection.CACHE_AFFINITY: "the conversation's own key comes first",
        selection.STICKY: "the first that can be used",
    }.get(strategy, "in turn, as often as its weight says")


def _refusal(plan: Plan, taken: Taken | None) -> GatewayError | None:
    """What a take would be refused with as things stand; quotas are told before limits."""
    if taken is None or plan.upper_bound is None:
        return None
    now_s, upper_bound = taken.at / NS, plan.upper_bound
    for one in sorted(taken.statuses, key=lambda status: status.counter is not None):
        if one.counter is None and upper_bound.money > one.remaining:
            return budgets.refusal(one, upper_bound.money, now_s)
        if one.counter is not None and one.remaining < (upper_bound.tokens if one.counter == TOKENS else 1):
            return limits.refusal(one._replace(wait_s=one.reset_s), taken.statuses, upper_bound.tokens, now_s)
    return None
