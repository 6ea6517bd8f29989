"""What a key may do and has used, told to whoever has it."""

from datetime import UTC, datetime

from flask import Blueprint, request

from gproxy.admission import limits, quota
from gproxy.state.counters import Standing
from gproxy.state.windows import DAY, window
from gproxy.store import usages
from gproxy.store.snapshot import Caller
from gproxy.units import NS, usd
from gproxy.web import inbound
from gproxy.web.faults import runtime

blueprint = Blueprint("me", __name__)


@blueprint.get("/me")
def me() -> dict:
    running = runtime()
    caller, _ = running.relay.admit(inbound.key(request.environ, False))
    rows = (*caller.limits, *caller.key_limits)
    counted = tuple(map(limits.counted, rows))
    taken = running.relay.holder.look(quota.accounts(caller), counted)
    now_s = taken.at / NS
    accounts = {one.key[0]: _account(one, now_s) for one in taken.standings if one.counter is None}
    if quota.USER in accounts:
        accounts[quota.USER]["period"] = caller.quota.period
    return {
        "user_id": caller.user_id,
        "user_name": caller.user_name,
        "user_key_id": caller.key_id,
        "is_admin": caller.is_admin,
        "expires_at": None if caller.expires_at is None else moment(caller.expires_at),
        "quota": accounts.get(quota.USER),
        "budget": accounts.get(quota.KEY),
        "limits": [_limit(row, row in caller.key_limits, taken.standings, now_s) for row in rows],
        "usage": _today(caller, now_s),
    }


def _account(standing: Standing, now_s: float) -> dict:
    return {
        "quota": usd(standing.limit),
        "cost_used": usd(standing.used),
        "held": usd(standing.held),
        "remaining": usd(standing.remaining),
        "resets_at": None if standing.reset_s is None else moment(now_s + standing.reset_s),
    }


def _limit(row, is_keys: bool, standings: tuple[Standing, ...], now_s: float) -> dict:
    counters = [one for one in standings if one.counter is not None and one.key == limits.counted(row).key]
    return {
        "model_pattern": row.pattern,
        "scope": "key" if is_keys else "user",
        "counters": [
            {
                "counter": one.counter,
                "limit": one.limit,
                "remaining": one.remaining,
                "resets_at": None if one.reset_s is None else moment(now_s + one.reset_s),
            }
            for one in counters
        ],
    }


def _today(caller: Caller, now_s: float) -> dict:
    """The user's rows since midnight UTC, over all of its keys."""
    start, _ = window(DAY, now_s)
    sums = runtime().ask(usages.summary, {"user_id": [caller.user_id], "from_unix_ms": start * 1000})
    return {"since": moment(start), "count": sums.count, **sums.tokens, "total_cost": usd(sums.cost)}


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
