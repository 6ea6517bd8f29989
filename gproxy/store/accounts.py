"""Accounts: what each user and each key has spent, and every function that changes it.

Every account can be recomputed at any time:
- a user's is `opening` plus the cost of the user's rows and adjustments from `opened_at` on;
- a key's is the cost of all its rows and adjustments.
Quota windows begin with a UTC day. So an adjustment in place of rows must keep their day, and need not be more exact.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import peewee as pw

from gproxy.errors import NotFound
from gproxy.state.periods import DAY_S, window
from gproxy.store import models as m
from gproxy.store import rollups
from gproxy.store.audit import track_changes
from gproxy.store.database import Database
from gproxy.store.paging import page
from gproxy.store.rows import AnyQuery, tuples
from gproxy.store.snapshot_loader import bump
from gproxy.units import NANO, NS

DAY = DAY_S * NS
MAX_INTEGER = 2**63 - 1
BATCH = 500  # ids in one statement
# Kinds of adjustments. The last two replace rows that were deleted, so they change no total.
USAGE, SET, DELETION, RETENTION = "usage", "set", "deletion", "retention"
CHANGING_KINDS = (USAGE, SET)
UNCHANGED: Any = object()

UPDATE_USER = "UPDATE user_quotas SET cost_used = ?, opening = ?, opened_at = ?, updated_at = ? WHERE user_id = ?"
UPDATE_KEY = "UPDATE user_keys SET cost_used = CASE WHEN cost_used > ? THEN ? ELSE cost_used + ? END WHERE id = ?"


class Charge(NamedTuple):
    """The cost of one call in nano-USD; `at` in nanoseconds since the epoch."""

    user_id: int
    key_id: int
    at: int
    cost: int


@dataclass(frozen=True, slots=True)
class Account:
    """Money in nano-USD. `window` is its start in seconds since the epoch, 0 without a period. `cap` None: no limit."""

    cost_used: int
    window: int = 0
    cap: int | None = None
    period: str | None = None


def charge(database: Database, charges: Collection[Charge]) -> None:
    """Adds calls to the accounts of their users and keys, in the transaction that stores the calls."""
    by_user, by_key = defaultdict(list), Counter()
    for call in charges:
        by_user[call.user_id].append(call)
        by_key[call.key_id] += call.cost
    for calls in (by_user, by_key):
        calls.pop(None, None)
    now, changed = time.time_ns(), []
    for user_id, used, period, opening, opened_at in _locked(database, list(by_user)):
        calls = by_user[user_id]
        start = _window_start(period, max(call.at for call in calls))
        if start > opened_at:
            used, opening, opened_at = 0, 0, start
        # A call of a window that has ended no longer changes the account.
        used += sum(call.cost for call in calls if call.at >= opened_at)
        changed.append((min(used, MAX_INTEGER), opening, opened_at, now, user_id))
    database.execute_all(UPDATE_USER, changed)
    costs = [(key_id, min(cost, MAX_INTEGER)) for key_id, cost in sorted(by_key.items())]
    database.execute_all(UPDATE_KEY, [(MAX_INTEGER - cost, MAX_INTEGER, cost, key_id) for key_id, cost in costs])


def _locked(database: Database, user_ids: list[int]) -> list[tuple]:
    """Locks the accounts of these users and returns them. Creates missing ones, except for users that do not exist.

    Ordered by user: transactions that lock accounts in one order cannot deadlock.
    """
    columns = (m.Quota.user, m.Quota.cost_used, m.Quota.period, m.Quota.opening, m.Quota.opened_at)
    accounts = m.Quota.select(*columns).where(m.Quota.user.in_(user_ids)).order_by(m.Quota.user)
    query = database.for_update(accounts)
    found = list(tuples(query))
    if len(found) < len(user_ids):
        _create(user_ids)
        found = list(tuples(query.clone()))
    return found


def _create(user_ids: list[int]) -> None:
    fresh = m.User.select(m.User.id, pw.Value(0), pw.Value(time.time_ns())).where(m.User.id.in_(user_ids))
    m.Quota.insert_from(fresh, [m.Quota.user, m.Quota.cost_used, m.Quota.updated_at]).on_conflict_ignore().execute()


def _window_start(period: str | None, at: int) -> int:
    return window(period, at // NS)[0] * NS


class Adjustment(NamedTuple):
    """What changes accounts without a usage row; `at` in nanoseconds since the epoch, `cost` in nano-USD."""

    kind: str
    at: int
    user_id: int | None
    key_id: int | None
    cost: int
    requests: int = 0
    note: str | None = None


def add_adjustment(adjustment: Adjustment) -> None:
    stored = adjustment._replace(cost=max(-MAX_INTEGER, min(adjustment.cost, MAX_INTEGER)))
    m.Adjustment.insert(**stored._asdict(), created_at=time.time_ns()).execute()


def set_used(database: Database, user_id: int, nano: int) -> None:
    """Sets what the user has used of the current window, in nano-USD. Raises NotFound."""
    with database.write():
        _set_used(_current(database, user_id), nano)


def set_key_used(database: Database, key_id: int, nano: int) -> None:
    """Sets what the key has used, in nano-USD. Raises NotFound."""
    with database.write():
        key = database.for_update(m.UserKey.select().where(m.UserKey.id == key_id)).first()
        if key is None:
            raise NotFound(f"there is no key {key_id}")
        difference = nano - key_cost(key_id, key.user_id)
        note = _set_note(key.cost_used, nano)
        add_adjustment(Adjustment(SET, time.time_ns(), None, key_id, difference, note=note))
        m.UserKey.update(cost_used=nano).where(m.UserKey.id == key_id).execute()


def set_quota(database: Database, user_id: int, quota: int | None, cost_used: int | None, period=UNCHANGED) -> None:
    """Sets a user's cap (None: no limit) and period, and what was used unless `cost_used` is None. Raises NotFound.

    Only another period moves the window, to the current one of that period; what was used in it is then recomputed.
    """
    with database.write(), track_changes(m.Quota, _account_ids(user_id)) as add_ids:
        account = _current(database, user_id)
        add_ids([account.id])
        if period is not UNCHANGED and period != account.period:
            _change_period(account, period)
        m.Quota.update(quota=quota, updated_at=time.time_ns()).where(m.Quota.id == account.id).execute()
        if cost_used is not None:
            _set_used(account, cost_used)
        bump("users")


def remove_quota(database: Database, user_id: int) -> None:
    """Removes the cap; the account keeps counting. Raises NotFound."""
    with database.write(), track_changes(m.Quota, _account_ids(user_id)):
        change = m.Quota.update(quota=None, updated_at=time.time_ns())
        if not change.where((m.Quota.user == user_id) & m.Quota.quota.is_null(False)).execute():
            raise NotFound(f"user {user_id} has no quota")
        bump("users")


def _account_ids(user_id: int) -> list[int]:
    return [row_id for (row_id,) in tuples(m.Quota.select(m.Quota.id).where(m.Quota.user == user_id))]


def _current(database: Database, user_id: int) -> m.Quota:
    """The user's account in the current window, locked. Raises NotFound."""
    if not _locked(database, [user_id]):
        raise NotFound(f"there is no user {user_id}")
    account = m.Quota.get(m.Quota.user == user_id)
    start = _window_start(account.period, time.time_ns())
    if start > account.opened_at:
        account.cost_used, account.opening, account.opened_at = 0, 0, start
        account.save()
    return account


def _change_period(account: m.Quota, period: str | None) -> None:
    # No row may be later than the window of its account: a clock may have been ahead.
    start = _window_start(period, max(time.time_ns(), _newest(account.user_id)))
    found = user_cost(account.user_id, start)
    opening = account.opening if start <= account.opened_at else 0
    # The total would be negative if an amount was lowered in the longer window.
    account.opening = max(opening, -found)
    account.period, account.opened_at = period, start
    account.cost_used = min(account.opening + found, MAX_INTEGER)
    account.save()


def _set_used(account: m.Quota, nano: int) -> None:
    """Adjusts from the recomputed total, so that an account that disagreed with its rows agrees again."""
    difference = nano - account.opening - user_cost(account.user_id, account.opened_at)
    at = max(time.time_ns(), account.opened_at)
    note = _set_note(account.cost_used, nano)
    add_adjustment(Adjustment(SET, at, account.user_id, None, difference, note=note))
    m.Quota.update(cost_used=nano, updated_at=time.time_ns()).where(m.Quota.id == account.id).execute()


def _set_note(before: int, after: int) -> str:
    return f"set from {before} to {after}"


def cost_by_owner(rows: AnyQuery, owner: pw.Field) -> dict[int, int]:
    """The cost of these usage rows or adjustments for each owner, in nano-USD."""
    # As an expression: for the column itself SQLite would go through its index, row by row over the whole table.
    group = owner + pw.SQL("0")
    found = rows.select(group, *cost_parts(owner.model.cost)).group_by(group)
    return {owner_id: _nano_usd(*parts) for owner_id, *parts in tuples(found)}


def user_cost(user_id: int, since: int) -> int:
    """The cost of the user's rows and adjustments from this moment (nanoseconds) on, in nano-USD."""
    return _total_cost(*((table.user_id == user_id) & (table.at >= since) for table in (m.Usage, m.Adjustment)))


def key_cost(key_id: int, user_id: int) -> int:
    """The cost of the rows and adjustments of this user's key, in nano-USD."""
    return _total_cost((m.Usage.user_id == user_id) & (m.Usage.user_key_id == key_id), m.Adjustment.key_id == key_id)


def _total_cost(rows: pw.Expression, adjustments: pw.Expression) -> int:
    """In one statement: between two statements a row might be deleted, and then be counted twice."""
    both = m.Usage.select(m.Usage.cost).where(rows) + m.Adjustment.select(m.Adjustment.cost).where(adjustments)
    (parts,) = tuples(m.Usage.select(*cost_parts(both.c.cost)).from_(both))
    return _nano_usd(*parts)


def cost_parts(cost: pw.ColumnBase) -> tuple[pw.Function, pw.Function]:
    """The totals of a column in whole dollars and in nano-USD beyond them, so that neither overflows an integer."""
    dollars = cost / NANO
    return pw.fn.SUM(dollars), pw.fn.SUM(cost - dollars * NANO)


def _nano_usd(dollars, nano) -> int:
    return int(dollars or 0) * NANO + int(nano or 0)


def _newest(user_id: int) -> int:
    """The time of the user's newest row or adjustment, in nanoseconds."""
    tables = (m.Usage, m.Adjustment)
    return max(table.select(pw.fn.MAX(table.at)).where(table.user_id == user_id).scalar() or 0 for table in tables)


def delete_usages(database: Database, ids: list[int]) -> int:
    """Deletes these usage rows; their cost stays in the accounts. Returns the number of deleted rows."""
    with database.write():
        batches = [ids[i : i + BATCH] for i in range(0, len(ids), BATCH)]
        return sum(_delete(database, m.Usage.trace_id.in_(batch), DELETION) for batch in batches)


def delete_usages_before(database: Database, before: int, max_rows: int) -> int:
    """Deletes the oldest usage rows that are older than this moment; their cost stays in the accounts.

    Returns the number of deleted rows: less than `max_rows` if no older row remains.
    """
    oldest = m.Usage.select(m.Usage.trace_id).where(m.Usage.at < before).order_by(m.Usage.at, m.Usage.trace_id)
    with database.write():
        return _delete(database, m.Usage.trace_id.in_(oldest.limit(max_rows)), RETENTION)


def _delete(database: Database, condition: pw.Expression, kind: str) -> int:
    """Replaces the rows by one adjustment for each user, key and day, to which later deletions add."""
    columns = [getattr(m.Usage, name) for name in rollups.USAGE_COLUMNS]
    deleted = list(m.Usage.delete().where(condition).returning(*columns).dicts())
    if kind == DELETION:  # retention leaves the rollups as they are
        rollups.subtract(database, deleted)
    costs = [(row["user_id"], row["user_key_id"], row["at"], row["cost"]) for row in deleted]
    # Ordered: transactions that change several adjustments in one order cannot deadlock.
    for (user_id, key_id, day), (cost, requests) in sorted(by_day(costs).items(), key=str):
        same = (
            (m.Adjustment.kind == kind)
            & (m.Adjustment.at == day)
            & _equals(m.Adjustment.user_id, user_id)
            & _equals(m.Adjustment.key_id, key_id)
            & (m.Adjustment.cost <= MAX_INTEGER - cost)
        )
        # Two concurrent deletions add one adjustment each; later deletions add to the first of them.
        first = m.Adjustment.select(pw.fn.MIN(m.Adjustment.id)).where(same).scalar()
        if first is None:
            add_adjustment(Adjustment(kind, day, user_id, key_id, cost, requests))
        else:
            more = {"cost": m.Adjustment.cost + cost, "requests": m.Adjustment.requests + requests}
            m.Adjustment.update(more).where(m.Adjustment.id == first).execute()
    return len(deleted)


def by_day(charges: Iterable[tuple]) -> dict[tuple, tuple[int, int]]:
    """Cost (nano-USD) and number of calls for each user, key and UTC day, of (user, key, time, cost) tuples."""
    found: dict[tuple, tuple[int, int]] = {}
    for user_id, key_id, at, cost in charges:
        owner_and_day = (user_id, key_id, at // DAY * DAY)
        total, count = found.get(owner_and_day, (0, 0))
        found[owner_and_day] = (min(total + cost, MAX_INTEGER), count + 1)
    return found


def _equals(column: pw.Field, value: int | None) -> pw.Expression:
    return column.is_null() if value is None else column == value


def list_accounts(filters: dict, now: int) -> list[tuple[int, Account]]:
    """(user id, account) of users, each account in its window at `now` (nanoseconds).

    `filters`: `user_id`, a list; `limit` and `offset` choose a page.
    """
    query = page(m.Quota.select().order_by(m.Quota.user), filters)
    if filters.get("user_id") is not None:
        query = query.where(m.Quota.user.in_(filters["user_id"]))
    found = []
    for row in query:
        start = max(_window_start(row.period, now), row.opened_at)
        used = row.cost_used if start == row.opened_at else 0
        found.append((row.user_id, Account(used, start // NS, row.quota, row.period)))
    return found
