"""The routes `/me` and `/me/usage`: limits, quota, budget and usage of the API key that calls them."""

from flask import Blueprint, g, request

from gproxy.config.filters import MyUsage
from gproxy.quota import budgets, limits
from gproxy.snapshot import Caller
from gproxy.state.periods import DAY, window
from gproxy.store import usage_queries
from gproxy.units import NS, moment, usd
from gproxy.web import limit_views
from gproxy.web.admin import loaded
from gproxy.web.admin.usages import usage_breakdown
from gproxy.web.auth import guard_key
from gproxy.web.error_responses import runtime

blueprint = Blueprint("me", __name__)
blueprint.before_request(guard_key)
USAGE = MyUsage()


@blueprint.get("/me")
def me() -> dict:
    """Returns the caller with its quota, budget, rate limits and today's usage."""
    running, caller = runtime(), g.caller
    rows = (*caller.limits, *caller.key_limits)
    counted = tuple(map(limits.limit_of, rows))
    taken = running.reserver.inspect(budgets.accounts(caller), counted)
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
    """Returns the user's usage totals over all of its keys, by day, model, tag or key."""
    filters = loaded(USAGE, request.args.to_dict())
    return {"rows": usage_breakdown({**filters, "user_id": [g.caller.user_id]})}


def _today(caller: Caller, now_s: float) -> dict:
    """Returns the user's usage totals since midnight UTC, over all of its keys."""
    start, _ = window(DAY, now_s)
    totals = runtime().admin.ask(usage_queries.totals, {"user_id": [caller.user_id], "from_unix_ms": start * 1000})
    return {"since": moment(start), "count": totals.count, **totals.tokens, "total_cost": usd(totals.cost)}
