"""Request logs: storing, listing, and deleting their rows or only the bodies."""

import json
import time
from collections.abc import Iterable, Sequence

import peewee as pw

from gproxy.store import models as m
from gproxy.store.database import Database
from gproxy.store.paging import after_cursor, page, within_times
from gproxy.store.rows import AnyQuery, AnyTable

MAX_BYTES = 32 * 1024 * 1024  # of a page with bodies; its JSON takes five times as much
KINDS = {"downstream": m.DownstreamRequest, "upstream": m.UpstreamRequest}
# The values of an entry after its kind, in their order.
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
TEXT_FILTERS = {"request_url_contains": "request_url", "request_path_contains": "request_path"}


def insert(database: Database, entries: Iterable[Sequence]) -> None:
    """Stores entries, each of which begins with its kind. Skips entries that are already stored."""
    now, rows = time.time_ns(), {kind: [] for kind in KINDS}
    for kind, *values in entries:
        stored = [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in values]
        size = sum(len(value) for value in stored if isinstance(value, str | bytes))
        rows[kind].append((*stored, False, size, now))
    with database.write():
        for kind, table in KINDS.items():
            names = (*COLUMNS[kind], "internal", "size", "created_at")
            places = ", ".join("?" * len(names))
            sql = f"INSERT INTO {table._meta.table_name} ({', '.join(names)}) VALUES ({places}) ON CONFLICT DO NOTHING"
            database.execute_all(sql, rows[kind])


def query(kind: str, filters: dict) -> list[dict]:
    """Rows of a kind, the newest first. Bodies are bytes with `include_body`, otherwise None."""
    table = KINDS[kind]
    fields = [field for field in table._meta.sorted_fields if field.name not in (*BODIES, "size")]
    if filters.get("include_body"):
        fields += [getattr(table, name) for name in BODIES]
    found = _where(table, table.select(*fields), filters).order_by(table.at.desc(), table.trace_id.desc())
    if (older := after_cursor(table, filters)) is not None:
        found = found.where(older)
    found = page(found, filters)
    if filters.get("include_body"):
        found = found.limit(_rows_within_bytes(found, table))
    rows = []
    for row in found.dicts():
        for name in ("request_headers_json", "response_headers_json"):
            row[name] = json.loads(row[name])
        for name in BODIES:
            row[name] = bytes(row[name]) if row.get(name) is not None else None
        rows.append(row)
    return rows


def _rows_within_bytes(found: AnyQuery, table: AnyTable) -> int | None:
    """How many of these rows fit into MAX_BYTES, at least one; the query's own limit if all of them do."""
    total = 0
    for n, (size,) in enumerate(found.clone().select(table.size).tuples()):
        total += size
        if total > MAX_BYTES and n:
            return n
    return found._limit


def count(kind: str, filters: dict) -> int:
    table = KINDS[kind]
    return _where(table, table.select(), filters).count()


def _where(table: AnyTable, query: AnyQuery, filters: dict) -> AnyQuery:
    for name in ("trace_id", "provider_id", "credential_id", "user_id", "user_key_id"):
        if filters.get(name) is not None and hasattr(table, name):
            query = query.where(getattr(table, name).in_(filters[name]))
    for name, column in TEXT_FILTERS.items():
        if filters.get(name) and hasattr(table, column):
            query = query.where(getattr(table, column).contains(filters[name]))
    return within_times(table, query, filters)


def clear_bodies(database: Database, kind: str, ids: list[int] | None) -> int:
    """Deletes the bodies of these rows (None: of all) and keeps the rows. Returns the number of rows changed."""
    table = KINDS[kind]
    size = pw.fn.COALESCE(pw.fn.LENGTH(table.request_body), 0) + pw.fn.COALESCE(pw.fn.LENGTH(table.response_body), 0)
    remaining = pw.Case(None, ((table.size > size, table.size - size),), 0)
    change = table.update(request_body=None, response_body=None, size=remaining)
    condition = table.request_body.is_null(False) | table.response_body.is_null(False)
    with database.write():
        return change.where(condition if ids is None else condition & table.trace_id.in_(ids)).execute()


def delete(database: Database, kind: str, ids: list[int]) -> int:
    """Deletes these rows. Returns the number of deleted rows."""
    table = KINDS[kind]
    with database.write():
        return table.delete().where(table.trace_id.in_(ids)).execute()


def trim(database: Database, kind: str, before: int, max_bytes: int, max_rows: int) -> int:
    """Deletes the oldest rows, at most `max_rows`: those older than `before` (nanoseconds) or beyond `max_bytes`.

    Returns the number of deleted rows: less than `max_rows` if nothing remains to delete.
    """
    table = KINDS[kind]
    total = table.select(pw.fn.SUM(table.size)).scalar() or 0
    oldest = table.select(table.trace_id, table.at, table.size).order_by(table.at, table.trace_id).limit(max_rows)
    ids, excess = [], int(total) - max_bytes
    for trace_id, at, size in oldest.tuples():
        if at >= before and excess <= 0:
            break
        ids.append(trace_id)
        excess -= size
    if ids:
        delete(database, kind, ids)
    return len(ids)
