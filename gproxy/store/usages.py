"""Usage rows: booking a batch exactly once, and asking for them."""

import json
import time
from collections.abc import Collection
from operator import itemgetter

import peewee as pw

from gproxy.store import accounts, rollups
from gproxy.store import models as m
from gproxy.store.accounts import Charge
from gproxy.store.database import Database
from gproxy.store.ledger import booked
from gproxy.store.paging import after_cursor, within_times

COLUMNS = tuple(field.column_name for field in m.Usage._meta.sorted_fields if field.name != "created_at")
pick = itemgetter(*COLUMNS)
of_call = itemgetter("user_id", "user_key_id", "at", "cost")
INSERT = f"INSERT INTO usages ({', '.join(COLUMNS)}, created_at) VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"
MARK = 'INSERT INTO journal_marks (segment, "offset") VALUES (?, 0) ON CONFLICT (segment) DO NOTHING'
REACH = 'UPDATE journal_marks SET "offset" = ? WHERE segment = ?'
MAX_ROWS = 10_000
MAX_INTEGER = 2**63 - 1
TRY = ("provider_id", "credential_id", "end", "ms")
FILTERS = {
    "provider_id": m.Usage.provider_id,
    "credential_id": m.Usage.credential_id,
    "channel": m.Usage.provider_channel,
    "model": m.Usage.model,
    "user_id": m.Usage.user_id,
    "user_key_id": m.Usage.user_key_id,
}


def book(database: Database, bookings: Collection) -> None:
    """Stores the rows of one batch and charges their accounts, in one transaction; what is booked already stays so."""
    now = time.time_ns()
    with database.write():
        marks = _locked_marks(database, {booking.segment for booking in bookings})
        rows = _unbooked(bookings, marks)
        charges = [Charge(*map(_storable, of_call(row))) for row in rows]
        if m.GlobalSettings.select(m.GlobalSettings.enable_usage).scalar():
            # The driver's own loop: the query builder would cost ten times as much for each row.
            database.execute_all(INSERT, [(*map(_storable, pick(row)), now) for row in rows])
            rollups.add(database, rows)
        else:
            for (user_id, key_id, day), (cost, requests) in accounts.by_day(charges).items():
                accounts.adjust(accounts.USAGE, day, user_id, key_id, cost, requests)
        accounts.charge(database, charges)
        for booking in bookings:
            marks[booking.segment] = max(marks[booking.segment], booking.end)
        database.execute_all(REACH, [(end, segment) for segment, end in marks.items()])


def _storable(value):
    """One value that a database refuses would keep its whole batch out for ever."""
    if type(value) is str:
        return value.replace("\0", "\ufffd")  # PostgreSQL has no NUL in texts
    return min(value, MAX_INTEGER) if type(value) is int else value


def _locked_marks(database: Database, segments: set[str]) -> dict[str, int]:
    """How far these segments are booked. A process that was killed may still be committing: it is waited for here."""
    database.execute_all(MARK, [(segment,) for segment in segments])
    query = database.locked(m.JournalPosition.select().where(m.JournalPosition.segment.in_(segments)))
    return {row.segment: row.offset for row in query}


def _unbooked(bookings: Collection, marks: dict[str, int]) -> list[dict]:
    """The rows that are new.

    Neither is enough alone: a row that was booked may be deleted, or be one of an adjustment; and rows of a version
    that set no marks can only be told by their ids.
    """
    rows = {booking.row["trace_id"]: booking.row for booking in bookings if booking.end > marks[booking.segment]}
    known = booked(rows)
    return [row for trace_id, row in rows.items() if trace_id not in known]


def newest_id() -> int:
    """The newest row's id, 0 without any."""
    return m.Usage.select(pw.fn.MAX(m.Usage.trace_id)).scalar() or 0


def forget(segments: list[str]) -> None:
    """Drops the marks of journal segments that are booked and gone."""
    m.JournalPosition.delete().where(m.JournalPosition.segment.in_(segments)).execute()


class UsageStore:
    """These deeds on one database, for a thread that keeps its connection."""

    def __init__(self, database: Database):
        self._database = database

    def book(self, bookings: Collection) -> None:
        self._database.run_kept(book, self._database, bookings)

    def forget(self, segments: list[str]) -> None:
        self._database.run_kept(forget, segments)


def where(query: pw.Query, asked: dict) -> pw.Query:
    """Of the rows those that have one of the asked values, within the asked time."""
    for name, column in FILTERS.items():
        if asked.get(name) is not None:
            query = query.where(column.in_(asked[name]))
    return within_times(m.Usage, query, asked)


def query(asked: dict) -> list[dict]:
    """The newest rows first, as plain values: time in nanoseconds, cost in nano-USD."""
    found = where(m.Usage.select(), asked).order_by(m.Usage.at.desc(), m.Usage.trace_id.desc())
    if (older := after_cursor(m.Usage, asked)) is not None:
        found = found.where(older)
    limit = asked.get("limit")
    found = found.limit(MAX_ROWS if limit is None else min(limit, MAX_ROWS)).offset(asked.get("offset") or 0)
    rows = list(found.dicts())
    for row in rows:
        row["losses"] = json.loads(row["losses"])
        row["tries"] = [dict(zip(TRY, one, strict=True)) for one in json.loads(row["tries"])]
    return rows
