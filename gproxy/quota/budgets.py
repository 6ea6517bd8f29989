"""Which money caps apply to a call, and what is said of them."""

import math
from datetime import UTC, datetime

from gproxy.errors import OverQuota
from gproxy.snapshot import Caller
from gproxy.state.interface import Account, LimitStatus
from gproxy.units import usd_text

USER, KEY = "u", "k"  # what the name of an account begins with
TITLES = {USER: "quota", KEY: "budget of this key"}


def accounts(caller: Caller) -> tuple[Account, ...]:
    """The user's quota and the key's budget, where they are set."""
    found = []
    if caller.quota is not None:
        found.append(Account(f"{USER}{caller.user_id}", caller.quota.cap, caller.quota.period))
    if caller.budget is not None:
        found.append(Account(f"{KEY}{caller.key_id}", caller.budget))
    return tuple(found)


def refusal(refused: LimitStatus, money: int, now_s: float) -> OverQuota:
    """The answer to a call whose upper bound of `money` has no room in an account."""
    title, cap, left = TITLES[refused.key[0]], usd_text(refused.limit), usd_text(refused.remaining)
    detail = f"this request may cost up to {usd_text(money)} USD, and of the {title} of {cap} USD {left} USD are left"
    if refused.reserved:
        detail += f" ({usd_text(refused.reserved)} USD are held by running requests)"
    return OverQuota(f"{detail}; {resets(refused, now_s)}", headers=_retry(refused))


def ended(status: LimitStatus | None, now_s: float) -> OverQuota:
    """What ends a stream whose running cost passed what was left."""
    if status is None:
        return OverQuota("the quota is spent, so this stream ends here")
    return OverQuota(f"the {TITLES[status.key[0]]} is spent, so this stream ends here; {resets(status, now_s)}")


def resets(status: LimitStatus, now_s: float) -> str:
    if status.reset_s is None:
        return "it does not reset; an administrator can raise it"
    return f"it resets at {datetime.fromtimestamp(math.ceil(now_s + status.reset_s), UTC):%Y-%m-%dT%H:%M:%SZ}"


def _retry(refused: LimitStatus) -> dict[str, str]:
    return {} if refused.reset_s is None else {"Retry-After": str(max(1, math.ceil(refused.reset_s)))}
