"""What is asked of the accounts, and of how far they have heard of the journal."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gproxy.store import models as m
from gproxy.store.accounts import AT_ONCE, Account
from gproxy.store.snapshot_loader import read
from gproxy.units import NS


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """An account, which of the asked calls have a row, and how far the asked journal segments are booked."""

    account: Account
    booked: frozenset[int]
    marks: Mapping[str, int]


def account(user_id: int) -> Account | None:
    """The account of a user, None when there is no such user."""
    row = m.Quota.get_or_none(m.Quota.user == user_id)
    if row is not None:
        return Account(row.cost_used, row.opened_at // NS, row.quota, row.period)
    return Account(0) if m.User.select().where(m.User.id == user_id).exists() else None


def key_account(key_id: int) -> Account | None:
    """The account of a key, None when there is no such key."""
    key = m.UserKey.get_or_none(m.UserKey.id == key_id)
    return None if key is None else Account(key.cost_used, cap=key.budget)


def booked(ids: Iterable[int]) -> frozenset[int]:
    """Which of these calls have a usage row."""
    asked, found = list(ids), []
    database = m.proxy.obj
    for i in range(0, len(asked), AT_ONCE):
        some = asked[i : i + AT_ONCE]
        # Past the query builder, which would take longer than the database.
        places = ", ".join([database.param] * len(some))
        found += database.execute_sql(f"SELECT trace_id FROM usages WHERE trace_id IN ({places})", some).fetchall()
    return frozenset(trace_id for (trace_id,) in found)


def marks(segments: Iterable[str]) -> dict[str, int]:
    """How far these journal segments are booked; none of which nothing is."""
    query = m.JournalPosition.select().where(m.JournalPosition.segment.in_(list(segments)))
    return {row.segment: row.offset for row in query}


def standing(user_id: int | None, key_id: int | None, ids: Iterable[int], segments: Iterable[str]) -> LimitStatus:
    """What the shared state needs to load the account of a user, or of a key, as of one moment."""
    with read():
        found = key_account(key_id) if user_id is None else account(user_id)
        return LimitStatus(found or Account(0), booked(ids), marks(segments))
