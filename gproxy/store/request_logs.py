"""Logs of requests: moved in, asked for, emptied and deleted."""

import json
import time
from collections.abc import Iterable, Sequence

import peewee as pw

from gproxy.store import models as m
from gproxy.store.database import Database
from gproxy.store.paging import after_cursor, within_times

MAX_ROWS = 1_000
MAX_BYTES = 32 * 1024 * 1024  # of a page with bodies, which is told in five times as many
KINDS = {"downstream": m.DownstreamRequest, "upstream": m.UpstreamRequest}
# The columns of a record, in its order.
COLUMNS = {
    "downstream": (
        *("trace_id", "at", "user_id", "user_key_id", "request_method", "request_headers_json", "request_path"),
        *("request_query", "request_body", "response_status", "response_headers_json", "response_body"),
    ),
    "upstream": (
        *("trace_id", "downstream_trace_id", "at", "provider_id", "credential_id", "request_method"),
        *("request_headers_json", "request_url", "request_body", "response_status", "response_headers_json"),
        *("response_body", "initial_latency_ms", "total_latency_ms"),
    ),
}
BODIES = ("request_body", "response_body")
TEXTS = {"request_url_contains": "request_url", "request_path_contains": "request_path"}


def book(database: Database, records: Iterable[Sequence]) -> None:
    """Stores records, each of which begins with its kind; what is stored already stays so."""
    now, rows = time.time_ns(), {kind: [] for kind in KINDS}
    for kind, *values in records:
        kept = [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in values]
        size = sum(len(value) for value in kept if isinstance(value, str | bytes))
        rows[kind].append((*kept, False, size, now))
    with database.write():
        for kind, table in KINDS.items():
            names = (*COLUMNS[kind], "internal", "size", "created_at")
            places = ", ".join("?" * len(names))
            sql = f"INSERT INTO {table._meta.table_name} ({', '.join(names)}) VALUES ({places}) ON CONFLICT DO NOTHING"
            database.execute_all(sql, rows[kind])


def query(kind: str, asked: dict) -> list[dict]:
    """The newest first; bodies as bytes where they are asked for."""
    table = KINDS[kind]
    fields = [field for field in table._meta.sorted_fields if field.name not in (*BODIES, "size")]
    if asked.get("include_body"):
        fields += [getattr(table, name) for name in BODIES]
    found = _where(table, table.select(*fields), asked).order_by(table.at.desc(), table.trace_id.desc())
    if (older := after_cursor(table, asked)) is not None:
        found = found.where(older)
    limit = asked.get("limit")
    found = found.limit(MAX_ROWS if limit is None else min(limit, MAX_ROWS)).offset(asked.get("offset") or 0)
    if asked.get("include_body"):
        found = found.limit(_within(found, table))
    rows = []
    for row in found.dicts():
        for name in ("request_headers_json", "response_headers_json"):
            row[name] = json.loads(row[name])
        for name in BODIES:
            row[name] = bytes(row[name]) if row.get(name) is not None else None
        rows.append(row)
    return rows


def _within(found: pw.Query, table: type[pw.Model]) -> int:
    """How many of these rows have room in one answer: at least one."""
    total = 0
    for n, (size,) in enumerate(found.clone().select(table.size).tuples()):
        total += size
        if total > MAX_BYTES and n:
            return n
    return MAX_ROWS if found._limit is None else found._limit


def count(kind: str, asked: dict) -> int:
    table = KINDS[kind]
    return _where(table, table.select(), asked).count()


def _where(table: type[pw.Model], found: pw.Query, asked: dict) -> pw.Query:
    for name in ("trace_id", "provider_id", "credential_id", "user_id", "user_key_id"):
        if asked.get(name) is not None and hasattr(table, name):
            found = found.where(getattr(table, name).in_(asked[name]))
    for name, column in TEXTS.items():
        if asked.get(name) and hasattr(table, column):
            found = found.where(getattr(table, column).contains(asked[name]))
    return within_times(table, found, asked)


def clear(database: Database, kind: str, ids: list[int] | None) -> int:
    """Empties the bodies of these rows, or of all, and leaves the rest. Returns how many there were."""
    table = KINDS[kind]
    room = pw.fn.COALESCE(pw.fn.LENGTH(table.request_body), 0) + pw.fn.COALESCE(pw.fn.LENGTH(table.response_body), 0)
    left = pw.Case(None, ((table.size > room, table.size - room),), 0)
    change = table.update(request_body=None, response_body=None, size=left)
    which = table.request_body.is_null(False) | table.response_body.is_null(False)
    with database.write():
        return change.where(which if ids is None else which & table.trace_id.in_(ids)).execute()


def delete(database: Database, kind: str, ids: list[int]) -> int:
    table = KINDS[kind]
    with database.write():
        return table.delete().where(table.trace_id.in_(ids)).execute()


def trim(database: Database, kind: str, before: int, max_bytes: int, max_rows: int) -> int:
    """Deletes the oldest rows, at most so many, that are older than this moment or beyond the room there is.

    Returns how many went: less than `most_rows` when nothing more has to go.
    """
    table = KINDS[kind]
    total = table.select(pw.fn.SUM(table.size)).scalar() or 0
    oldest = table.select(table.trace_id, table.at, table.size).order_by(table.at, table.trace_id).limit(max_rows)
    gone, over = [], int(total) - max_bytes
    for trace_id, at, size in oldest.tuples():
        if at >= before and over <= 0:
            break
        gone.append(trace_id)
        over -= size
    if gone:
        delete(database, kind, gone)
    return len(gone)
