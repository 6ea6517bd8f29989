"""The proof of the books: whether each account says what its rows and adjustments add up to.

A proof is of one moment, whoever books meanwhile.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import peewee as pw

from gproxy.store import models as m
from gproxy.store.accounts import MAX, MOVED, key_spent, spent, sums
from gproxy.store.snapshot_loader import read
from gproxy.units import NS, usd_text

# A row may become visible so much later than it says that it was stored.
SETTLED_NS = 60 * NS
# More accounts than this are added up faster all together than one by one.
FEW = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """An account that does not say what its rows and adjustments add up to; money in nano-USD."""

    account: str  # `u5` of user 5, `k7` of key 7
    owner: str
    expected: int
    found: int

    def __str__(self) -> str:
        return f"{self.owner}: the rows say {usd_text(self.expected)} USD, the account says {usd_text(self.found)} USD"


@dataclass(frozen=True, slots=True)
class Opened:
    """Where an account began; what is known of it holds for this beginning only."""

    opening: int
    opened_at: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was stored up to `horizon`, for each account with the beginning for which that holds."""

    horizon: int
    stored: Mapping[str, tuple[Opened, int]]


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """`checkpoint` makes the next proof short."""

    accounts: int
    differences: tuple[Difference, ...]
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class _Checked:
    owner: str
    id: int
    user_id: int
    opened: Opened
    cost_used: int

    def is_said_by(self, total: int | None) -> bool:
        return total is not None and _fitting(total) == self.cost_used


def _fitting(total: int) -> int:
    """An account ends at the greatest number that a database holds."""
    return min(total, MAX)


def verify(since: Checkpoint | None = None) -> LedgerReport:
    """Holds every account against its rows and adjustments, of which only those stored since a checkpoint are read.

    Where these do not explain an account everything is added up, before it counts as a difference.
    """
    horizon = time.time_ns() - SETTLED_NS
    with read():
        accounts = _accounts()
        totals = _totals_since(accounts, since) if since is not None else {}
        doubtful = [name for name, one in accounts.items() if not one.is_said_by(totals.get(name))]
        totals |= _totals(accounts, doubtful)
        late = _stored(horizon)
    differences = tuple(
        Difference(name, one.owner, _fitting(totals[name]), one.cost_used)
        for name, one in accounts.items()
        if not one.is_said_by(totals[name])
    )
    stored = {name: (one.opened, totals[name] - late[name]) for name, one in accounts.items()}
    return LedgerReport(len(accounts), differences, Checkpoint(horizon, stored))


def _accounts() -> dict[str, _Checked]:
    found = {}
    columns = (m.User.id, m.User.name, m.Quota.opening, m.Quota.opened_at, m.Quota.cost_used)
    users = m.User.select(*columns).join(m.Quota, pw.JOIN.LEFT_OUTER).order_by(m.User.id)
    for user_id, name, opening, opened_at, used in users.tuples():
        # The account of a user is made when the first call is booked; until then it says nothing.
        opened = Opened(opening or 0, opened_at or 0)
        found[f"u{user_id}"] = _Checked(f"user {user_id} ({name})", user_id, user_id, opened, used or 0)
    keys = m.UserKey.select(m.UserKey.id, m.UserKey.user, m.UserKey.cost_used).order_by(m.UserKey.id)
    for key_id, user_id, used in keys.tuples():
        found[f"k{key_id}"] = _Checked(f"key {key_id} of user {user_id}", key_id, user_id, Opened(0, 0), used)
    return found


def _totals_since(accounts: Mapping[str, _Checked], since: Checkpoint) -> dict[str, int]:
    """What each account should say, by what is known of it and what was stored since."""
    fresh = _stored(since.horizon)
    known = ((name, total) for name, (opened, total) in since.stored.items() if _began(accounts.get(name), opened))
    return {name: total + fresh[name] for name, total in known}


def _began(account: _Checked | None, opened: Opened) -> bool:
    return account is not None and account.opened == opened


def _totals(accounts: Mapping[str, _Checked], names: list[str]) -> dict[str, int]:
    """What these accounts should say, by all there is."""
    if len(names) > FEW:
        stored = _stored(None)
        return {name: accounts[name].opened.opening + stored[name] for name in names}
    return {name: _total(name, accounts[name]) for name in names}


def _total(name: str, account: _Checked) -> int:
    if name.startswith("k"):
        return key_spent(account.id, account.user_id)
    return account.opened.opening + spent(account.id, account.opened.opened_at)


def _stored(after: int | None) -> Counter:
    """The cost for each account of what was stored after this moment, in a user's window; None: of everything.

    Adjustments in place of rows that were removed come after rows that were known, so only all together count them.
    """
    found = Counter()
    for table, key in ((m.Usage, m.Usage.user_key_id), (m.Adjustment, m.Adjustment.key_id)):
        rows = table.select()
        if after is not None:
            rows = rows.where(table.created_at > after)
        if after is not None and table is m.Adjustment:
            rows = rows.where(table.kind.in_(MOVED))
        within = rows.join(m.Quota, pw.JOIN.LEFT_OUTER, on=(table.user_id == m.Quota.user))
        within = within.where(table.at >= pw.fn.COALESCE(m.Quota.opened_at, 0))
        found.update({f"u{user_id}": cost for user_id, cost in sums(within, table.user_id).items()})
        found.update({f"k{key_id}": cost for key_id, cost in sums(rows, key).items()})
    return found
