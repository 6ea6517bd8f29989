"""Sums of usage over any time: by days, by hours at both ends, and by single rows only within the hours at the very
ends. So what went by its age is still in them, from its hour on."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import peewee as pw

from gproxy.store import models as m
from gproxy.store.accounts import cost_parts
from gproxy.store.rollups import ALL, HOUR_NS, SPANS, TOKENS
from gproxy.store.usages import FILTERS, where
from gproxy.units import NANO

DAY_HOURS = 24
FOR_EVER = 2**63 - 1
MAX_GROUPS = 10_000
# In a longer time a bucket is at least an hour: shorter ones would have to look at every row.
FINE_NS = 48 * HOUR_NS
ADDED = ("requests", "unpriced", "succeeded", "refused", "failed", "latency_ms", *TOKENS)
OF_SUMS = {
    "provider_id": m.UsageRollup.provider_id,
    "credential_id": m.UsageRollup.credential_id,
    "channel": m.UsageRollup.provider_channel,
    "model": m.UsageRollup.model,
    "user_id": m.UsageRollup.user_id,
    "user_key_id": m.UsageRollup.user_key_id,
}
GROUPS = ("model", "provider_id", "user_id", "user_key_id")


@dataclass(slots=True)
class Sums:
    """`cost` in nano-USD; `succeeded`, `refused` and `failed` by status: below 400, below 500, and beyond."""

    count: int = 0
    unpriced: int = 0
    succeeded: int = 0
    refused: int = 0
    failed: int = 0
    latency_ms: int = 0  # of all of them
    most_latency_ms: int = 0
    cost: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKENS, 0))

    def add(self, row: Iterable) -> None:
        *rest, dollars, nano, maximum = (int(value or 0) for value in row)
        count, unpriced, succeeded, refused, failed, latency, *tokens = rest
        cost = dollars * NANO + nano
        self.count += count
        self.unpriced += unpriced
        self.succeeded += succeeded
        self.refused += refused
        self.failed += failed
        self.latency_ms += latency
        self.cost += cost
        self.most_latency_ms = max(self.most_latency_ms, maximum)
        for name, value in zip(TOKENS, tokens, strict=True):
            self.tokens[name] += value


class Part(NamedTuple):
    """A piece of the asked time, in periods of so many hours; `span` 0: in nanoseconds, of single rows."""

    span: int
    since: int
    until: int


def parts(since: int, until: int, spans: tuple[int, ...] = SPANS) -> Iterator[Part]:
    """The time from one moment to another (nanoseconds, the second one excluded), by the longest spans it holds."""
    if since >= until:
        return
    if not spans:
        yield Part(0, since, until)
        return
    length = spans[0] * HOUR_NS
    first, last = -(-since // length), until // length
    if first >= last:
        yield from parts(since, until, spans[1:])
        return
    yield from parts(since, first * length, spans[1:])
    yield Part(spans[0], first, last)
    yield from parts(last * length, until, spans[1:])


def summary(asked: dict) -> Sums:
    """All of it together."""
    return _grouped(asked, None).get(None, Sums())


def breakdown(asked: dict, by: str) -> list[tuple[object, Sums]]:
    """The sums for each value of a group, the dearest first; days as `2027-01-31`, the newest first.

    Tags stand in single rows alone.
    """
    if by == "day":
        found = _bucketed(asked, DAY_HOURS * HOUR_NS)
        return [(_day(number), sums) for number, sums in sorted(found.items(), reverse=True)]
    found = _of_rows(asked, m.Usage.tag) if by == "tag" else _grouped(asked, by)
    ordered = sorted(found.items(), key=lambda row: (-row[1].cost, -row[1].count, str(row[0])))
    return ordered[:MAX_GROUPS]


def buckets(asked: dict, seconds: int) -> tuple[int, list[tuple[int, Sums]]]:
    """The sums of each piece of the time, by its beginning in seconds since the epoch; and how long a piece is."""
    since, until = _times(asked)
    if until - since > FINE_NS and seconds * 1_000_000_000 % HOUR_NS:
        seconds = -(-seconds // 3600) * 3600
    found = _bucketed(asked, seconds * 1_000_000_000)
    return seconds, [(number * seconds, sums) for number, sums in sorted(found.items())]


def _times(asked: dict) -> tuple[int, int]:
    since, until = asked.get("from_unix_ms"), asked.get("to_unix_ms")
    return (0 if since is None else since * 1_000_000), (FOR_EVER if until is None else (until + 1) * 1_000_000)


def _grouped(asked: dict, by: str | None) -> dict[object, Sums]:
    found: dict[object, Sums] = {}
    for part in parts(*_times(asked)):
        if part.span:
            rows = _of_spans(asked, part, OF_SUMS[by] if by else pw.Value(None))
        else:
            rows = _of_part(asked, part, FILTERS[by] if by else pw.Value(None))
        _collect(found, ((value or None, *values) for value, *values in rows))
    return found


def _bucketed(asked: dict, length: int) -> dict[int, Sums]:
    """By pieces of so many nanoseconds since the epoch."""
    found: dict[int, Sums] = {}
    is_all = all(asked.get(name) is None for name in FILTERS)
    spans = tuple(span for span in SPANS if length % (span * HOUR_NS) == 0 and not (is_all and span > 1))
    for part in parts(*_times(asked), spans):
        if part.span:
            group = m.UsageRollup.period / (length // (part.span * HOUR_NS))
            _collect(found, _of_spans(asked, part._replace(span=ALL) if is_all else part, group))
        else:
            _collect(found, _of_part(asked, part, m.Usage.at / length))
    return {int(number): sums for number, sums in found.items()}


def _collect(found: dict, rows: Iterable[tuple]) -> None:
    for value, *values in rows:
        found.setdefault(value, Sums()).add(values)


def _of_rows(asked: dict, group: pw.Node) -> dict[object, Sums]:
    found: dict[object, Sums] = {}
    _collect(found, where(m.Usage.select(group.alias("value"), *_summed()), asked).group_by(pw.SQL("value")).tuples())
    return found


def _of_part(asked: dict, part: Part, group: pw.Node) -> Iterable[tuple]:
    """Single rows: by the time alone, whatever index a filter would have."""
    query = m.Usage.select(group.alias("value"), *_summed())
    query = query.where((m.Usage.at >= part.since) & (m.Usage.at < part.until))
    for name, column in FILTERS.items():
        if asked.get(name) is not None:
            query = query.where(pw.fn.COALESCE(column, column).in_(asked[name]))
    return query.group_by(pw.SQL("value")).tuples()


def _of_spans(asked: dict, part: Part, group: pw.Node) -> Iterable[tuple]:
    table = m.UsageRollup
    sums = [*(pw.fn.SUM(getattr(table, name)) for name in ADDED), *cost_parts(table.cost)]
    query = table.select(group.alias("value"), *sums, pw.fn.MAX(table.most_latency_ms))
    query = query.where((table.span == part.span) & (table.period >= part.since) & (table.period < part.until))
    for name, column in OF_SUMS.items():
        if asked.get(name) is not None:
            query = query.where(column.in_([value for value in asked[name] if value]))
    return query.group_by(pw.SQL("value")).tuples()


def _summed() -> list[pw.Node]:
    """The columns of sums, of single rows."""

    def counted(condition: pw.Node) -> pw.Node:
        return pw.fn.SUM(pw.Case(None, ((condition, 1),), 0))

    usage = m.Usage
    return [
        pw.fn.COUNT(usage.trace_id),
        counted(usage.priced == False),  # noqa: E712
        counted(usage.status < 400),
        counted((usage.status >= 400) & (usage.status < 500)),
        counted(usage.status >= 500),
        pw.fn.SUM(usage.latency_ms),
        *(pw.fn.SUM(getattr(usage, name)) for name in TOKENS),
        *cost_parts(usage.cost),
        pw.fn.MAX(usage.latency_ms),
    ]


def _day(number: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(number * DAY_HOURS * 3600))
