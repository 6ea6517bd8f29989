"""Accounts of users and keys, and how far the journal is stored in them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gproxy.store import models as m
from gproxy.store.accounts import BATCH, Account
from gproxy.store.snapshot_loader import read_transaction
from gproxy.units import NS


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account, which of the given calls have a usage row, and how far the given journal segments are stored."""

    account: Account
    stored: frozenset[int]
    positions: Mapping[str, int]


def account(user_id: int) -> Account | None:
    """The account of a user, None if the user does not exist."""
    row = m.Quota.get_or_none(m.Quota.user == user_id)
    if row is not None:
        return Account(row.cost_used, row.opened_at // NS, row.quota, row.period)
    return Account(0) if m.User.select().where(m.User.id == user_id).exists() else None


def key_account(key_id: int) -> Account | None:
    """The account of a key, None if the key does not exist."""
    key = m.UserKey.get_or_none(m.UserKey.id == key_id)
    return None if key is None else Account(key.cost_used, cap=key.budget)


def stored_calls(ids: Iterable[int]) -> frozenset[int]:
    """The ids among these that have a usage row."""
    ids, found = list(ids), []
    database = m.proxy.obj
    for i in range(0, len(ids), BATCH):
        batch = ids[i : i + BATCH]
        # Without the query builder, which would take longer than the database.
        places = ", ".join([database.param] * len(batch))
        found += database.execute_sql(f"SELECT trace_id FROM usages WHERE trace_id IN ({places})", batch).fetchall()
    return frozenset(trace_id for (trace_id,) in found)


def journal_positions(segments: Iterable[str]) -> dict[str, int]:
    """The offsets up to which these journal segments are stored. A segment that is not stored at all is missing."""
    query = m.JournalPosition.select().where(m.JournalPosition.segment.in_(list(segments)))
    return {row.segment: row.offset for row in query}


def account_state(user_id: int | None, key_id: int | None, ids: Iterable[int], segments: Iterable[str]) -> AccountState:
    """The account of a user, or of a key if `user_id` is None, with the journal's progress at the same moment."""
    with read_transaction():
        found = None
        if user_id is not None:
            found = account(user_id)
        elif key_id is not None:
            found = key_account(key_id)
        return AccountState(found or Account(0), stored_calls(ids), journal_positions(segments))
