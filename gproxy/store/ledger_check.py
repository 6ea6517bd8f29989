"""The ledger check: compares every account with the total of its usage rows and adjustments.

A check sees one moment, also while other processes write.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import peewee as pw

from gproxy.store import models as m
from gproxy.store.accounts import CHANGING_KINDS, MAX_INTEGER, cost_by_owner, key_cost, user_cost
from gproxy.store.rows import tuples
from gproxy.store.snapshot_loader import read_transaction
from gproxy.units import NS, usd_text

# A row may become visible this long after its `created_at`.
VISIBILITY_DELAY_NS = 60 * NS
# More accounts than this are added up faster all together than one by one.
MAX_SINGLE_TOTALS = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """An account that differs from the total of its rows and adjustments; money in nano-USD."""

    account: str  # `u5` of user 5, `k7` of key 7
    owner: str
    expected: int
    found: int

    def __str__(self) -> str:
        rows, account = usd_text(self.expected), usd_text(self.found)
        return f"{self.owner}: the rows add up to {rows} USD, the account has {account} USD"


@dataclass(frozen=True, slots=True)
class AccountStart:
    """The amount (nano-USD) and the time (nanoseconds) with which an account began."""

    opening: int
    opened_at: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The total of each account up to `horizon`, with the start for which the total holds."""

    horizon: int
    totals: Mapping[str, tuple[AccountStart, int]]


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """`checkpoint` shortens the next check."""

    accounts: int
    differences: tuple[Difference, ...]
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class _Account:
    owner: str
    id: int
    user_id: int
    start: AccountStart
    cost_used: int

    def agrees_with(self, total: int | None) -> bool:
        return total is not None and _capped(total) == self.cost_used


def _capped(total: int) -> int:
    """A total as an account stores it, which ends at the greatest integer of a database."""
    return min(total, MAX_INTEGER)


def verify(since: Checkpoint | None = None) -> LedgerReport:
    """Compares every account with its rows and adjustments. With a checkpoint it reads only those stored since.

    An account that these do not explain is added up completely before it is reported as different.
    """
    horizon = time.time_ns() - VISIBILITY_DELAY_NS
    with read_transaction():
        accounts = _accounts()
        totals = _totals_since(accounts, since) if since is not None else {}
        doubtful = [name for name, account in accounts.items() if not account.agrees_with(totals.get(name))]
        totals |= _totals(accounts, doubtful)
        late = _costs(horizon)
    differences = tuple(
        Difference(name, account.owner, _capped(totals[name]), account.cost_used)
        for name, account in accounts.items()
        if not account.agrees_with(totals[name])
    )
    early = {name: (account.start, totals[name] - late[name]) for name, account in accounts.items()}
    return LedgerReport(len(accounts), differences, Checkpoint(horizon, early))


def _accounts() -> dict[str, _Account]:
    found = {}
    columns = (m.User.id, m.User.name, m.Quota.opening, m.Quota.opened_at, m.Quota.cost_used)
    users = m.User.select(*columns).join(m.Quota, pw.JOIN.LEFT_OUTER).order_by(m.User.id)
    for user_id, name, opening, opened_at, used in tuples(users):
        # The account of a user is created with the first stored call; until then it counts as 0.
        start = AccountStart(opening or 0, opened_at or 0)
        found[f"u{user_id}"] = _Account(f"user {user_id} ({name})", user_id, user_id, start, used or 0)
    keys = m.UserKey.select(m.UserKey.id, m.UserKey.user, m.UserKey.cost_used).order_by(m.UserKey.id)
    for key_id, user_id, used in tuples(keys):
        found[f"k{key_id}"] = _Account(f"key {key_id} of user {user_id}", key_id, user_id, AccountStart(0, 0), used)
    return found


def _totals_since(accounts: Mapping[str, _Account], since: Checkpoint) -> dict[str, int]:
    """The totals of accounts by the checkpoint and what was stored since, if their start is the same."""
    recent = _costs(since.horizon)
    return {
        name: total + recent[name]
        for name, (start, total) in since.totals.items()
        if name in accounts and accounts[name].start == start
    }


def _totals(accounts: Mapping[str, _Account], names: list[str]) -> dict[str, int]:
    """The totals of these accounts, from all rows and adjustments."""
    if len(names) > MAX_SINGLE_TOTALS:
        costs = _costs(None)
        return {name: accounts[name].start.opening + costs[name] for name in names}
    return {name: _total(name, accounts[name]) for name in names}


def _total(name: str, account: _Account) -> int:
    if name.startswith("k"):
        return key_cost(account.id, account.user_id)
    return account.start.opening + user_cost(account.id, account.start.opened_at)


def _costs(after: int | None) -> Counter:
    """The cost of what was stored after this moment, by account; for users within their window. None: of everything.

    With a moment, adjustments that replace deleted rows are left out: the rows themselves were counted before it.
    """
    found = Counter()
    for table, key in ((m.Usage, m.Usage.user_key_id), (m.Adjustment, m.Adjustment.key_id)):
        rows = table.select()
        if after is not None:
            rows = rows.where(table.created_at > after)
        if after is not None and table is m.Adjustment:
            rows = rows.where(table.kind.in_(CHANGING_KINDS))
        within = rows.join(m.Quota, pw.JOIN.LEFT_OUTER, on=(table.user_id == m.Quota.user))
        within = within.where(table.at >= pw.fn.COALESCE(m.Quota.opened_at, 0))
        found.update({f"u{user_id}": cost for user_id, cost in cost_by_owner(within, table.user_id).items()})
        found.update({f"k{key_id}": cost for key_id, cost in cost_by_owner(rows, key).items()})
    return found
