"""Usage rows: storing batches of settled calls exactly once, and listing rows."""

import json
import time
from collections.abc import Collection
from operator import itemgetter
from typing import Any

import peewee as pw

from gproxy.errors import RowRefused, Unavailable
from gproxy.store import accounts, rollups
from gproxy.store import models as m
from gproxy.store.accounts import Charge
from gproxy.store.database import Database
from gproxy.store.ledger import stored_calls
from gproxy.store.paging import after_cursor, page, within_times
from gproxy.store.rows import AnyQuery

COLUMNS = tuple(field.column_name for field in m.Usage._meta.sorted_fields if field.name != "created_at")
row_values = itemgetter(*COLUMNS)
charge_values = itemgetter("user_id", "user_key_id", "at", "cost")
INSERT = f"INSERT INTO usages ({', '.join(COLUMNS)}, created_at) VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"
ADD_POSITION = 'INSERT INTO journal_marks (segment, "offset") VALUES (?, 0) ON CONFLICT (segment) DO NOTHING'
ADVANCE_POSITION = 'UPDATE journal_marks SET "offset" = ? WHERE segment = ?'
MAX_INTEGER = 2**63 - 1
# What a database raises for a value; whatever else it raises, the same row may be stored later.
REFUSALS = (pw.DataError, pw.IntegrityError)
ATTEMPT_FIELDS = ("provider_id", "credential_id", "end", "ms")
FILTERS = {
    "provider_id": m.Usage.provider_id,
    "credential_id": m.Usage.credential_id,
    "channel": m.Usage.provider_channel,
    "model": m.Usage.model,
    "user_id": m.Usage.user_id,
    "user_key_id": m.Usage.user_key_id,
}


def insert(database: Database, calls: Collection) -> None:
    """Stores a batch of settled calls and charges their accounts, in one transaction. Skips calls already stored.

    A call has `row`, a dictionary of columns, `segment`, its journal segment, and `end`, the offset after its entry.
    """
    now = time.time_ns()
    with database.write():
        positions = _locked_positions(database, {call.segment for call in calls})
        rows = _new_rows(calls, positions)
        charges = [Charge(*map(_storable, charge_values(row))) for row in rows]
        if m.GlobalSettings.select(m.GlobalSettings.enable_usage).scalar():
            # The driver's own loop: the query builder would cost ten times as much for each row.
            database.execute_all(INSERT, [(*map(_storable, row_values(row)), now) for row in rows])
            rollups.add(database, rows)
        else:
            for (user_id, key_id, day), (cost, requests) in accounts.by_day(charges).items():
                adjustment = accounts.Adjustment(accounts.USAGE, day, user_id, key_id, cost, requests)
                accounts.add_adjustment(adjustment)
        accounts.charge(database, charges)
        for call in calls:
            positions[call.segment] = max(positions[call.segment], call.end)
        database.execute_all(ADVANCE_POSITION, [(end, segment) for segment, end in positions.items()])


def _storable(value: Any) -> Any:
    """Replaces what a database refuses: one such value would keep its whole batch out for ever."""
    if type(value) is str:
        return value.replace("\0", "\ufffd")  # PostgreSQL has no NUL in texts
    return min(value, MAX_INTEGER) if type(value) is int else value


def _locked_positions(database: Database, segments: set[str]) -> dict[str, int]:
    """How far these segments are stored. Waits for a killed process whose transaction is still committing."""
    database.execute_all(ADD_POSITION, [(segment,) for segment in segments])
    query = database.for_update(m.JournalPosition.select().where(m.JournalPosition.segment.in_(segments)))
    return {row.segment: row.offset for row in query}


def _new_rows(calls: Collection, positions: dict[str, int]) -> list[dict]:
    """The rows of calls that are not stored yet.

    Neither test is enough alone: a stored row may have been deleted, or replaced by an adjustment; and a version that
    wrote no positions left only the ids of its rows.
    """
    rows = {call.row["trace_id"]: call.row for call in calls if call.end > positions[call.segment]}
    stored = stored_calls(rows)
    return [row for trace_id, row in rows.items() if trace_id not in stored]


def newest_id() -> int:
    """The id of the newest row, 0 without rows."""
    return m.Usage.select(pw.fn.MAX(m.Usage.trace_id)).scalar() or 0


def delete_positions(segments: list[str]) -> None:
    """Deletes the positions of journal segments that are stored and deleted."""
    m.JournalPosition.delete().where(m.JournalPosition.segment.in_(segments)).execute()


class UsageStore:
    """`insert` and `delete_positions` on one database, for a thread that keeps its connection."""

    def __init__(self, database: Database):
        self._database = database

    def insert(self, calls: Collection) -> None:
        """Raises Unavailable, and RowRefused if the database takes one of the rows never."""
        try:
            self._database.run_on_kept_connection(insert, self._database, calls)
        except Unavailable as error:
            if isinstance(error.__cause__, REFUSALS):
                raise RowRefused(type(error.__cause__).__name__) from error
            raise
        except (OverflowError, TypeError, ValueError) as error:  # a value that the driver cannot send
            raise RowRefused(type(error).__name__) from error

    def delete_positions(self, segments: list[str]) -> None:
        self._database.run_on_kept_connection(delete_positions, segments)


def where(query: AnyQuery, filters: dict) -> AnyQuery:
    """The query for the rows that match the filters: lists of values by the names in FILTERS, and a time."""
    for name, column in FILTERS.items():
        if filters.get(name) is not None:
            query = query.where(column.in_(filters[name]))
    return within_times(m.Usage, query, filters)


def query(filters: dict) -> list[dict]:
    """Usage rows as plain values, the newest first: time in nanoseconds, cost in nano-USD."""
    found = where(m.Usage.select(), filters).order_by(m.Usage.at.desc(), m.Usage.trace_id.desc())
    if (older := after_cursor(m.Usage, filters)) is not None:
        found = found.where(older)
    rows = list(page(found, filters).dicts())
    for row in rows:
        row["losses"] = json.loads(row["losses"])
        row["tries"] = [dict(zip(ATTEMPT_FIELDS, one, strict=True)) for one in json.loads(row["tries"])]
    return rows
