"""Pages of rows that are listed the newest first, by moment and id."""

import peewee as pw


def after_cursor(table: type[pw.Model], asked: dict) -> pw.Expression | None:
    """What comes after the last row of the page before: it decides where it is still there, else its millisecond."""
    ms, trace_id = asked.get("cursor_at_unix_ms"), asked.get("cursor_trace_id")
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


def within_times(table: type[pw.Model], found: pw.Query, asked: dict) -> pw.Query:
    """Of the rows those from one millisecond to another, both of them too."""
    if (since := asked.get("from_unix_ms")) is not None:
        found = found.where(table.at >= since * 1_000_000)
    if (until := asked.get("to_unix_ms")) is not None:
        found = found.where(table.at < (until + 1) * 1_000_000)
    return found
