"""Accounts: what each user and each key has spent, and every deed that changes it.

Of every account it holds at all times that what it says can be added up:
- of a user: `opening`, and the cost of the user's rows and adjustments from `opened_at` on;
- of a key: the cost of all its rows and adjustments.
Windows begin with a UTC day. So an adjustment that stands for rows has to keep to their day and to nothing finer.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import peewee as pw

from gproxy.errors import NotFound
from gproxy.state.periods import DAY_S, window
from gproxy.store import models as m
from gproxy.store import rollups as totals
from gproxy.store.audit import changing
from gproxy.store.database import Database
from gproxy.store.snapshot_loader import bump
from gproxy.units import NANO, NS

DAY = DAY_S * NS
MAX = 2**63 - 1
AT_ONCE = 500
# Kinds of adjustments. The last two stand in place of rows that were removed: no money came or went by them.
USAGE, SET, DELETION, RETENTION = "usage", "set", "deletion", "retention"
MOVED = (USAGE, SET)
AS_IT_IS = object()

UPDATE_USER = "UPDATE user_quotas SET cost_used = ?, opening = ?, opened_at = ?, updated_at = ? WHERE user_id = ?"
UPDATE_KEY = "UPDATE user_keys SET cost_used = CASE WHEN cost_used > ? THEN ? ELSE cost_used + ? END WHERE id = ?"


class Charge(NamedTuple):
    """One booked call; times in nanoseconds, money in nano-USD."""

    user_id: int
    key_id: int
    at: int
    cost: int


@dataclass(frozen=True, slots=True)
class Account:
    """`window` is where it began, in seconds since the epoch; without a period 0. No `cap`: no end."""

    cost_used: int
    window: int = 0
    cap: int | None = None
    period: str | None = None


def charge(database: Database, charges: Collection[Charge]) -> None:
    """Adds booked calls to the accounts of their users and keys, in the transaction that books them."""
    of_user, of_key = defaultdict(list), Counter()
    for call in charges:
        of_user[call.user_id].append(call)
        of_key[call.key_id] += call.cost
    for nobody in (of_user, of_key):
        nobody.pop(None, None)
    now, changed = time.time_ns(), []
    for user_id, used, period, opening, opened_at in _locked(database, list(of_user)):
        calls = of_user[user_id]
        start = _window(period, max(call.at for call in calls))
        if start > opened_at:
            used, opening, opened_at = 0, 0, start
        # A call of a window that is over changes nothing any more.
        used += sum(call.cost for call in calls if call.at >= opened_at)
        changed.append((min(used, MAX), opening, opened_at, now, user_id))
    database.execute_all(UPDATE_USER, changed)
    costs = [(key_id, min(cost, MAX)) for key_id, cost in sorted(of_key.items())]
    database.execute_all(UPDATE_KEY, [(MAX - cost, MAX, cost, key_id) for key_id, cost in costs])


def _locked(database: Database, user_ids: list[int]) -> list[tuple]:
    """The accounts of these users, made where one is missing; none of a user that is gone.

    In the order of the users, as everywhere: two that lock several accounts then wait for each other one way only.
    """
    columns = (m.Quota.user, m.Quota.cost_used, m.Quota.period, m.Quota.opening, m.Quota.opened_at)
    query = database.locked(m.Quota.select(*columns).where(m.Quota.user.in_(user_ids)).order_by(m.Quota.user)).tuples()
    found = list(query)
    if len(found) < len(user_ids):
        _open(user_ids)
        found = list(query.clone())
    return found


def _open(user_ids: list[int]) -> None:
    fresh = m.User.select(m.User.id, pw.Value(0), pw.Value(time.time_ns())).where(m.User.id.in_(user_ids))
    m.Quota.insert_from(fresh, [m.Quota.user, m.Quota.cost_used, m.Quota.updated_at]).on_conflict_ignore().execute()


def _window(period: str | None, at: int) -> int:
    return window(period, at // NS)[0] * NS


def adjust(kind: str, at: int, user_id: int | None, key_id: int | None, cost: int, requests: int, note=None) -> None:
    m.Adjustment.insert(
        at=at,
        user_id=user_id,
        key_id=key_id,
        kind=kind,
        cost=max(-MAX, min(cost, MAX)),
        requests=requests,
        note=note,
        created_at=time.time_ns(),
    ).execute()


def set_used(database: Database, user_id: int, nano: int) -> None:
    """From now on the user has used this much of the window that runs. Raises NotFound."""
    with database.write():
        _set_used(_current(database, user_id), nano)


def set_key_used(database: Database, key_id: int, nano: int) -> None:
    """From now on the key has used this much. Raises NotFound."""
    with database.write():
        key = database.locked(m.UserKey.select().where(m.UserKey.id == key_id)).first()
        if key is None:
            raise NotFound(f"there is no key {key_id}")
        moved = nano - key_spent(key_id, key.user_id)
        adjust(SET, time.time_ns(), None, key_id, moved, 0, _told(key.cost_used, nano))
        m.UserKey.update(cost_used=nano).where(m.UserKey.id == key_id).execute()


def set_quota(database: Database, user_id: int, quota: int | None, cost_used: int | None, period=AS_IT_IS) -> None:
    """A user's cap (None: none) and period; what was used stays, unless told. Raises NotFound.

    Only another period moves the window, to the one that runs; what was used in it is then added up anew.
    """
    with database.write(), changing(m.Quota, _account_ids(user_id)) as also:
        account = _current(database, user_id)
        also([account.id])
        if period is not AS_IT_IS and period != account.period:
            _change_period(account, period)
        m.Quota.update(quota=quota, updated_at=time.time_ns()).where(m.Quota.id == account.id).execute()
        if cost_used is not None:
            _set_used(account, cost_used)
        bump("users")


def remove_quota(database: Database, user_id: int) -> None:
    """Takes the cap away; the account goes on counting. Raises NotFound."""
    with database.write(), changing(m.Quota, _account_ids(user_id)):
        change = m.Quota.update(quota=None, updated_at=time.time_ns())
        if not change.where((m.Quota.user == user_id) & m.Quota.quota.is_null(False)).execute():
            raise NotFound(f"user {user_id} has no quota")
        bump("users")


def _account_ids(user_id: int) -> list[int]:
    return [row_id for (row_id,) in m.Quota.select(m.Quota.id).where(m.Quota.user == user_id).tuples()]


def _current(database: Database, user_id: int) -> m.Quota:
    """The user's account in the window that runs, locked. Raises NotFound."""
    if not _locked(database, [user_id]):
        raise NotFound(f"there is no user {user_id}")
    account = m.Quota.get(m.Quota.user == user_id)
    start = _window(account.period, time.time_ns())
    if start > account.opened_at:
        account.cost_used, account.opening, account.opened_at = 0, 0, start
        account.save()
    return account


def _change_period(account: m.Quota, period: str | None) -> None:
    # No row may lie behind the window of its account: a clock may have been wrong.
    start = _window(period, max(time.time_ns(), _newest(account.user_id)))
    found = spent(account.user_id, start)
    opening = account.opening if start <= account.opened_at else 0
    # Less than nothing would be found where an amount was set back in the longer window.
    account.opening = max(opening, -found)
    account.period, account.opened_at = period, start
    account.cost_used = min(account.opening + found, MAX)
    account.save()


def _set_used(account: m.Quota, nano: int) -> None:
    """By an adjustment from what can be added up, so that an account that was wrong is right again."""
    moved = nano - account.opening - spent(account.user_id, account.opened_at)
    at = max(time.time_ns(), account.opened_at)
    adjust(SET, at, account.user_id, None, moved, 0, _told(account.cost_used, nano))
    m.Quota.update(cost_used=nano, updated_at=time.time_ns()).where(m.Quota.id == account.id).execute()


def _told(before: int, after: int) -> str:
    return f"set from {before} to {after}"


def sums(rows: pw.ModelSelect, owner: pw.Field) -> dict[int, int]:
    """The cost of these usage rows or adjustments for each owner."""
    # As an expression: for the column itself SQLite would go through its index, row by row over the whole table.
    group = owner + pw.SQL("0")
    found = rows.select(group, *cost_parts(owner.model.cost)).group_by(group)
    return {owner_id: _whole(*parts) for owner_id, *parts in found.tuples()}


def spent(user_id: int, since: int) -> int:
    """What the user's rows and adjustments from this moment on add up to."""
    return _sum(*((table.user_id == user_id) & (table.at >= since) for table in (m.Usage, m.Adjustment)))


def key_spent(key_id: int, user_id: int) -> int:
    """What the rows and adjustments of this user's key add up to."""
    return _sum((m.Usage.user_id == user_id) & (m.Usage.user_key_id == key_id), m.Adjustment.key_id == key_id)


def _sum(rows: pw.Expression, adjustments: pw.Expression) -> int:
    """In one statement: between two of them a row might be deleted and then be counted twice."""
    all_of_them = m.Usage.select(m.Usage.cost).where(rows) + m.Adjustment.select(m.Adjustment.cost).where(adjustments)
    (parts,) = m.Usage.select(*cost_parts(all_of_them.c.cost)).from_(all_of_them).tuples()
    return _whole(*parts)


def cost_parts(cost: pw.Node) -> tuple[pw.Function, pw.Function]:
    """The sum of a column in whole dollars and the rest, so that no sum is too great for a number of the database."""
    dollars = cost / NANO
    return pw.fn.SUM(dollars), pw.fn.SUM(cost - dollars * NANO)


def _whole(dollars, rest) -> int:
    return int(dollars or 0) * NANO + int(rest or 0)


def _newest(user_id: int) -> int:
    """When the user's newest row or adjustment was made."""
    tables = (m.Usage, m.Adjustment)
    return max(table.select(pw.fn.MAX(table.at)).where(table.user_id == user_id).scalar() or 0 for table in tables)


def delete_usages(database: Database, ids: list[int]) -> int:
    """Removes these usage rows; what they cost stays spent. Returns how many there were."""
    with database.write():
        some = [ids[i : i + AT_ONCE] for i in range(0, len(ids), AT_ONCE)]
        return sum(_remove(database, m.Usage.trace_id.in_(part), DELETION) for part in some)


def delete_usages_before(database: Database, before: int, max_rows: int) -> int:
    """Removes the oldest usage rows, if they are older than this moment; what they cost stays spent.

    Returns how many were removed: less than `most_rows` when none is left.
    """
    oldest = m.Usage.select(m.Usage.trace_id).where(m.Usage.at < before).order_by(m.Usage.at, m.Usage.trace_id)
    with database.write():
        return _remove(database, m.Usage.trace_id.in_(oldest.limit(max_rows)), RETENTION)


def _remove(database: Database, which: pw.Expression, kind: str) -> int:
    """Each user, key and day of the rows has an adjustment in their place, to which further rows are added."""
    columns = [getattr(m.Usage, name) for name in totals.OF_ROW]
    removed = list(m.Usage.delete().where(which).returning(*columns).dicts())
    if kind == DELETION:  # what goes by its age stays in the sums
        totals.take(database, removed)
    costs = [(row["user_id"], row["user_key_id"], row["at"], row["cost"]) for row in removed]
    # In order, as everywhere: two that change several adjustments wait for each other one way only.
    for (user_id, key_id, day), (cost, requests) in sorted(by_day(costs).items(), key=str):
        same = (
            (m.Adjustment.kind == kind)
            & (m.Adjustment.at == day)
            & _is(m.Adjustment.user_id, user_id)
            & _is(m.Adjustment.key_id, key_id)
            & (m.Adjustment.cost <= MAX - cost)
        )
        # Two that come at once make one each; only one of these goes on.
        first = m.Adjustment.select(pw.fn.MIN(m.Adjustment.id)).where(same).scalar()
        if first is None:
            adjust(kind, day, user_id, key_id, cost, requests)
        else:
            more = {"cost": m.Adjustment.cost + cost, "requests": m.Adjustment.requests + requests}
            m.Adjustment.update(more).where(m.Adjustment.id == first).execute()
    return len(removed)


def by_day(charges: Iterable[tuple]) -> dict[tuple, tuple[int, int]]:
    """Cost and count of each user, key and UTC day."""
    found: dict[tuple, tuple[int, int]] = {}
    for user_id, key_id, at, cost in charges:
        place = (user_id, key_id, at // DAY * DAY)
        before = found.get(place, (0, 0))
        found[place] = (min(before[0] + cost, MAX), before[1] + 1)
    return found


def _is(column: pw.Field, value: int | None) -> pw.Expression:
    return column.is_null() if value is None else column == value


def of_users(asked: dict, now: int) -> list[tuple[int, Account]]:
    """The accounts of the asked users, or of all, each in its window at this moment (nanoseconds)."""
    query = m.Quota.select().order_by(m.Quota.user).limit(asked.get("limit")).offset(asked.get("offset"))
    if asked.get("user_id") is not None:
        query = query.where(m.Quota.user.in_(asked["user_id"]))
    found = []
    for row in query:
        start = max(_window(row.period, now), row.opened_at)
        used = row.cost_used if start == row.opened_at else 0
        found.append((row.user_id, Account(used, start // NS, row.quota, row.period)))
    return found
