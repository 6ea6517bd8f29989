"""Totals of usage over any time, from rollups, and from rows at both ends.

Whole days come from daily rollups, whole hours from hourly ones, and single rows count within the first and last hour.
So usage that retention deleted stays in the totals, except where the time begins or ends within its hour.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import peewee as pw

from gproxy.store import models as m
from gproxy.store.accounts import cost_parts
from gproxy.store.rollups import HOUR_NS, HOUR_TOTAL, SPANS, TOKEN_COLUMNS
from gproxy.store.rows import tuples
from gproxy.store.usages import FILTERS, where
from gproxy.units import NANO

DAY_HOURS = 24
FOR_EVER = 2**63 - 1
MAX_GROUPS = 10_000
# Over a longer time a bucket is at least an hour: shorter buckets would have to read every row.
FINE_NS = 48 * HOUR_NS
ADDED_COLUMNS = ("requests", "unpriced", "succeeded", "refused", "failed", "latency_ms", *TOKEN_COLUMNS)
ROLLUP_FILTERS = {
    "provider_id": m.UsageRollup.provider_id,
    "credential_id": m.UsageRollup.credential_id,
    "channel": m.UsageRollup.provider_channel,
    "model": m.UsageRollup.model,
    "user_id": m.UsageRollup.user_id,
    "user_key_id": m.UsageRollup.user_key_id,
}


@dataclass(slots=True)
class UsageTotals:
    """`cost` in nano-USD; `succeeded`, `refused` and `failed`: calls with a status below 400, below 500, and above."""

    count: int = 0
    unpriced: int = 0
    succeeded: int = 0
    refused: int = 0
    failed: int = 0
    latency_ms: int = 0  # of all calls together
    max_latency_ms: int = 0
    cost: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKEN_COLUMNS, 0))

    def add(self, row: Iterable) -> None:
        """Adds a row of `_of_usages`, or one of the same columns."""
        *counts, dollars, nano, maximum = (int(value or 0) for value in row)
        count, unpriced, succeeded, refused, failed, latency, *tokens = counts
        self.count += count
        self.unpriced += unpriced
        self.succeeded += succeeded
        self.refused += refused
        self.failed += failed
        self.latency_ms += latency
        self.cost += dollars * NANO + nano
        self.max_latency_ms = max(self.max_latency_ms, maximum)
        for name, value in zip(TOKEN_COLUMNS, tokens, strict=True):
            self.tokens[name] += value


class TimeSlice(NamedTuple):
    """Periods of `span` hours since the epoch, `until` excluded. With `span` 0 the bounds are in nanoseconds."""

    span: int
    since: int
    until: int


def time_slices(since: int, until: int, spans: tuple[int, ...] = SPANS) -> Iterator[TimeSlice]:
    """Splits a time (nanoseconds, `until` excluded) into the longest spans that it contains, and what remains."""
    if since >= until:
        return
    if not spans:
        yield TimeSlice(0, since, until)
        return
    length = spans[0] * HOUR_NS
    first, last = -(-since // length), until // length
    if first >= last:
        yield from time_slices(since, until, spans[1:])
        return
    yield from time_slices(since, first * length, spans[1:])
    yield TimeSlice(spans[0], first, last)
    yield from time_slices(last * length, until, spans[1:])


def totals(filters: dict) -> UsageTotals:
    """The totals of all calls that match the filters."""
    return _grouped(filters, None).get(None, UsageTotals())


def breakdown(filters: dict, by: str) -> list[tuple[object, UsageTotals]]:
    """The totals for each value of a group, the highest cost first; days as `2027-01-31`, the newest first.

    Tags are not in the rollups, so their totals are of the rows that are still stored.
    """
    if by == "day":
        found = _bucketed(filters, DAY_HOURS * HOUR_NS)
        return [(_day(number), one) for number, one in sorted(found.items(), reverse=True)]
    found = _grouped_rows(filters, m.Usage.tag) if by == "tag" else _grouped(filters, by)
    ordered = sorted(found.items(), key=lambda row: (-row[1].cost, -row[1].count, str(row[0])))
    return ordered[:MAX_GROUPS]


def buckets(filters: dict, seconds: int) -> tuple[int, list[tuple[int, UsageTotals]]]:
    """The length of a bucket in seconds, and the totals by the start of each bucket in seconds since the epoch."""
    since, until = _times(filters)
    if until - since > FINE_NS and seconds * 1_000_000_000 % HOUR_NS:
        seconds = -(-seconds // 3600) * 3600
    found = _bucketed(filters, seconds * 1_000_000_000)
    return seconds, [(number * seconds, one) for number, one in sorted(found.items())]


def _times(filters: dict) -> tuple[int, int]:
    since, until = filters.get("from_unix_ms"), filters.get("to_unix_ms")
    return (0 if since is None else since * 1_000_000), (FOR_EVER if until is None else (until + 1) * 1_000_000)


def _grouped(filters: dict, by: str | None) -> dict[object, UsageTotals]:
    found: dict[object, UsageTotals] = {}
    for piece in time_slices(*_times(filters)):
        if piece.span:
            rows = _of_rollups(filters, piece, ROLLUP_FILTERS[by] if by else pw.Value(None))
        else:
            rows = _of_usages(filters, piece, FILTERS[by] if by else pw.Value(None))
        _collect(found, ((value or None, *values) for value, *values in rows))
    return found


def _bucketed(filters: dict, length: int) -> dict[int, UsageTotals]:
    """The totals by the number of the bucket since the epoch; `length` of a bucket in nanoseconds."""
    found: dict[int, UsageTotals] = {}
    is_all = all(filters.get(name) is None for name in FILTERS)
    spans = tuple(span for span in SPANS if length % (span * HOUR_NS) == 0 and not (is_all and span > 1))
    for piece in time_slices(*_times(filters), spans):
        if piece.span:
            group = m.UsageRollup.period / (length // (piece.span * HOUR_NS))
            _collect(found, _of_rollups(filters, piece._replace(span=HOUR_TOTAL) if is_all else piece, group))
        else:
            _collect(found, _of_usages(filters, piece, m.Usage.at / length))
    return {int(number): one for number, one in found.items()}


def _collect(found: dict, rows: Iterable[tuple]) -> None:
    for value, *values in rows:
        found.setdefault(value, UsageTotals()).add(values)


def _grouped_rows(filters: dict, group: pw.ColumnBase) -> dict[object, UsageTotals]:
    found: dict[object, UsageTotals] = {}
    query = where(m.Usage.select(group.alias("value"), *_usage_columns()), filters)
    _collect(found, tuples(query.group_by(pw.SQL("value"))))
    return found


def _of_usages(filters: dict, piece: TimeSlice, group: pw.ColumnBase) -> Iterable[tuple]:
    """Totals of usage rows. COALESCE keeps the database from choosing a filter's index instead of the one by time."""
    query = m.Usage.select(group.alias("value"), *_usage_columns())
    query = query.where((m.Usage.at >= piece.since) & (m.Usage.at < piece.until))
    for name, column in FILTERS.items():
        if filters.get(name) is not None:
            query = query.where(pw.fn.COALESCE(column, column).in_(filters[name]))
    return tuples(query.group_by(pw.SQL("value")))


def _of_rollups(filters: dict, piece: TimeSlice, group: pw.ColumnBase) -> Iterable[tuple]:
    """Totals of rollups, in the columns of `_of_usages`."""
    table = m.UsageRollup
    columns = [*(pw.fn.SUM(getattr(table, name)) for name in ADDED_COLUMNS), *cost_parts(table.cost)]
    query = table.select(group.alias("value"), *columns, pw.fn.MAX(table.most_latency_ms))
    query = query.where((table.span == piece.span) & (table.period >= piece.since) & (table.period < piece.until))
    for name, column in ROLLUP_FILTERS.items():
        if filters.get(name) is not None:
            query = query.where(column.in_([value for value in filters[name] if value]))
    return tuples(query.group_by(pw.SQL("value")))


def _usage_columns() -> list[pw.Node]:
    """Aggregates over usage rows, in the order that `UsageTotals.add` reads."""

    def count_if(condition: pw.Node) -> pw.Node:
        return pw.fn.SUM(pw.Case(None, ((condition, 1),), 0))

    usage = m.Usage
    return [
        pw.fn.COUNT(usage.trace_id),
        count_if(usage.priced == False),  # noqa: E712
        count_if(usage.status < 400),
        count_if((usage.status >= 400) & (usage.status < 500)),
        count_if(usage.status >= 500),
        pw.fn.SUM(usage.latency_ms),
        *(pw.fn.SUM(getattr(usage, name)) for name in TOKEN_COLUMNS),
        *cost_parts(usage.cost),
        pw.fn.MAX(usage.latency_ms),
    ]


def _day(number: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(number * DAY_HOURS * 3600))
