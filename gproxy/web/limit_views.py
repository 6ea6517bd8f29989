"""Quotas, budgets and rate limits with their remaining amounts, as JSON."""

from gproxy.quota import limits
from gproxy.state.interface import LimitStatus
from gproxy.store.accounts import Account
from gproxy.units import moment, usd


def account(status: LimitStatus, now_s: float) -> dict:
    """Returns a quota or budget with its use in USD, from the shared state."""
    return {
        "quota": usd(status.limit),
        "cost_used": usd(status.used),
        "held": usd(status.reserved),
        "remaining": usd(status.remaining),
        "resets_at": _at(status.reset_s, now_s),
    }


def limit(row, scope: str, statuses: tuple[LimitStatus, ...], now_s: float) -> dict:
    """Returns a rate limit with those of the statuses that belong to it. `scope` is "user" or "key"."""
    counters = [one for one in statuses if one.counter is not None and one.key == limits.limit_of(row).key]
    return {
        "model_pattern": row.pattern,
        "scope": scope,
        "counters": [
            {
                "counter": one.counter,
                "limit": one.limit,
                "remaining": one.remaining,
                "resets_at": _at(one.reset_s, now_s),
            }
            for one in counters
        ],
    }


def _at(reset_s: float | None, now_s: float) -> str | None:
    return None if reset_s is None else moment(now_s + reset_s)


def quota(user_id: int, stored: Account) -> dict:
    """Returns a user's quota from the database. Without a cap `quota` and `remaining` are null."""
    remaining = None if stored.cap is None else max(stored.cap - stored.cost_used, 0)
    return {
        "user_id": user_id,
        "quota": None if stored.cap is None else usd(stored.cap),
        "cost_used": usd(stored.cost_used),
        "remaining": None if remaining is None else usd(remaining),
        "period": stored.period,
    }
