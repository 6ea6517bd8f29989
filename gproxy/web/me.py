"""What a key may do and has used, told to whoever has it."""

from flask import Blueprint, request

from gproxy.config.filters import MyUsage
from gproxy.quota import budgets, limits
from gproxy.snapshot import Caller
from gproxy.state.periods import DAY, window
from gproxy.store import usage_queries
from gproxy.units import NS, moment, usd
from gproxy.web import limit_views, request_input
from gproxy.web.admin import loaded
from gproxy.web.admin.usages import broken_down
from gproxy.web.error_responses import runtime

blueprint = Blueprint("me", __name__)
USAGE = MyUsage()


@blueprint.get("/me")
def me() -> dict:
    running = runtime()
    caller, _ = running.relay.admit(request_input.key(request.environ, False))
    request.environ[request_input.CALLER] = caller
    rows = (*caller.limits, *caller.key_limits)
    counted = tuple(map(limits.limit_of, rows))
    taken = running.relay.reserver.inspect(budgets.accounts(caller), counted)
    now_s = taken.at / NS
    accounts = {one.key[0]: limit_views.account(one, now_s) for one in taken.statuses if one.counter is None}
    if budgets.USER in accounts:
        accounts[budgets.USER]["period"] = caller.quota.period
    return {
        "user_id": caller.user_id,
        "user_name": caller.user_name,
        "user_key_id": caller.key_id,
        "is_admin": caller.is_admin,
        "expires_at": None if caller.expires_at is None else moment(caller.expires_at),
        "quota": accounts.get(budgets.USER),
        "budget": accounts.get(budgets.KEY),
        "limits": [
            limit_views.limit(row, "key" if row in caller.key_limits else "user", taken.statuses, now_s) for row in rows
        ],
        "usage": _today(caller, now_s),
    }


@blueprint.get("/me/usage")
def usage() -> dict:
    """The user's own, over all of its keys: by day, model, tag or key."""
    caller, _ = runtime().relay.admit(request_input.key(request.environ, False))
    asked = loaded(USAGE, request.args.to_dict())
    return {"rows": broken_down({**asked, "user_id": [caller.user_id]})}


def _today(caller: Caller, now_s: float) -> dict:
    """The user's rows since midnight UTC, over all of its keys."""
    start, _ = window(DAY, now_s)
    sums = runtime().ask(usage_queries.summary, {"user_id": [caller.user_id], "from_unix_ms": start * 1000})
    return {"since": moment(start), "count": sums.count, **sums.tokens, "total_cost": usd(sums.cost)}
