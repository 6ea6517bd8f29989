"""The money caps that apply to a call, and the errors raised when they have no room."""

import math
from datetime import UTC, datetime

from gproxy.errors import OverQuota
from gproxy.snapshot import Caller
from gproxy.state.interface import Account, LimitStatus
from gproxy.units import usd_text

USER, KEY = "u", "k"  # first letter of an account's name
TITLES = {USER: "quota", KEY: "budget of this key"}


def accounts(caller: Caller) -> tuple[Account, ...]:
    """Returns the accounts of the user's quota and the key's budget, if they are set."""
    found = []
    if caller.quota is not None:
        found.append(Account(f"{USER}{caller.user_id}", caller.quota.cap, caller.quota.period))
    if caller.budget is not None:
        found.append(Account(f"{KEY}{caller.key_id}", caller.budget))
    return tuple(found)


def refusal(refused: LimitStatus, money: int, now_s: float) -> OverQuota:
    """Returns the error of a call whose upper bound of `money` (nano-USD) has no room in an account."""
    title, cap, remaining = TITLES[refused.key[0]], usd_text(refused.limit), usd_text(refused.remaining)
    available = f"only {remaining} USD of the {title} of {cap} USD are left"
    detail = f"this request may cost up to {usd_text(money)} USD, but {available}"
    if refused.reserved:
        detail += f" ({usd_text(refused.reserved)} USD are reserved by running requests)"
    return OverQuota(f"{detail}; {resets(refused, now_s)}", headers=_retry_headers(refused))


def exhausted(status: LimitStatus | None, now_s: float) -> OverQuota:
    """Returns the error that ends a stream whose cost passed what remained."""
    if status is None:
        return OverQuota("the quota is spent, so this stream ends here")
    return OverQuota(f"the {TITLES[status.key[0]]} is spent, so this stream ends here; {resets(status, now_s)}")


def resets(status: LimitStatus, now_s: float) -> str:
    """Returns a phrase that says when the account resets."""
    if status.reset_s is None:
        return "it does not reset; an administrator can raise it"
    return f"it resets at {datetime.fromtimestamp(math.ceil(now_s + status.reset_s), UTC):%Y-%m-%dT%H:%M:%SZ}"


def _retry_headers(refused: LimitStatus) -> dict[str, str]:
    return {} if refused.reset_s is None else {"Retry-After": str(max(1, math.ceil(refused.reset_s)))}
