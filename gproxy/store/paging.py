"""Pages of rows, and conditions for pages that are ordered by time and id, the newest first."""

import peewee as pw

from gproxy.store.rows import AnyQuery, AnyTable


def page(query: AnyQuery, filters: dict) -> AnyQuery:
    """The query for `limit` rows from number `offset` on; for all rows if the filters have neither."""
    return query.limit(filters.get("limit")).offset(filters.get("offset"))


def after_cursor(table: AnyTable, filters: dict) -> pw.Expression | None:
    """The condition for rows after the last row of the previous page, None without a cursor.

    If that row was deleted meanwhile, the millisecond of the cursor decides.
    """
    ms, trace_id = filters.get("cursor_at_unix_ms"), filters.get("cursor_trace_id")
    if trace_id is not None:
        at = table.select(table.at).where(table.trace_id == trace_id).scalar()
        if at is not None:
            return (table.at < at) | ((table.at == at) & (table.trace_id < trace_id))
    if ms is None:
        return None
    older = table.at < ms * 1_000_000
    if trace_id is not None:
        older |= (table.at < (ms + 1) * 1_000_000) & (table.trace_id < trace_id)
    return older


def within_times(table: AnyTable, query: AnyQuery, filters: dict) -> AnyQuery:
    """The query for rows from one millisecond to another, both included."""
    if (since := filters.get("from_unix_ms")) is not None:
        query = query.where(table.at >= since * 1_000_000)
    if (until := filters.get("to_unix_ms")) is not None:
        query = query.where(table.at < (until + 1) * 1_000_000)
    return query
