"""Hourly and daily (UTC) totals of usage rows, written in the transactions that store or delete the rows."""

from collections.abc import Iterable

from gproxy.store import models as m
from gproxy.store.database import Database

HOUR_NS = 3_600_000_000_000
SPANS = (24, 1)  # in hours, the longest first
HOUR_TOTAL = -1  # span of the rows that hold one hour in total, over all users, keys, providers and models
KEY_COLUMNS = ("span", "period", "user_id", "user_key_id", "provider_id", "provider_channel", "credential_id", "model")
TOKEN_COLUMNS = (
    "input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_5min",
    "cache_creation_input_tokens_1h",
)
ADDED_COLUMNS = ("requests", "unpriced", "succeeded", "refused", "failed", "latency_ms", *TOKEN_COLUMNS, "cost")
COLUMNS = (*KEY_COLUMNS, *ADDED_COLUMNS, "most_latency_ms")
MAX_INTEGER = 2**63 - 1
# A total stops at the greatest integer: an overflow would keep its batch out of the database for ever.
_ADD_COLUMN = "{0} = CASE WHEN usage_sums.{0} > {1} - EXCLUDED.{0} THEN {1} ELSE usage_sums.{0} + EXCLUDED.{0} END"
_ADD_COLUMNS = ", ".join(_ADD_COLUMN.format(name, MAX_INTEGER) for name in ADDED_COLUMNS)
_MAX_LATENCY = "CASE WHEN EXCLUDED.most_latency_ms > usage_sums.most_latency_ms THEN EXCLUDED.most_latency_ms "
ADD = (
    f"INSERT INTO usage_sums ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
    f"ON CONFLICT ({', '.join(KEY_COLUMNS)}) DO UPDATE SET {_ADD_COLUMNS}, "
    f"most_latency_ms = {_MAX_LATENCY} ELSE usage_sums.most_latency_ms END"
)
# A total does not become negative where a row was counted only in part, up to the greatest integer.
_SUBTRACT_COLUMNS = ", ".join(f"{name} = CASE WHEN {name} > ? THEN {name} - ? ELSE 0 END" for name in ADDED_COLUMNS)
SUBTRACT = f"UPDATE usage_sums SET {_SUBTRACT_COLUMNS} WHERE {' AND '.join(f'{name} = ?' for name in KEY_COLUMNS)}"
# The columns of a usage row that `add` and `subtract` read.
USAGE_COLUMNS = (
    *("at", "user_id", "user_key_id", "provider_id", "provider_channel", "credential_id", "model"),
    *("priced", "status", "latency_ms", *TOKEN_COLUMNS, "cost"),
)


def add(database: Database, rows: Iterable[dict]) -> None:
    """Adds these usage rows to the rollups, in the transaction that stores them."""
    database.execute_all(ADD, [(*key, *totals) for key, totals in _rollups(rows)])


def subtract(database: Database, rows: Iterable[dict]) -> None:
    """Subtracts these usage rows from the rollups. The maximum latency stays: the second highest is not stored."""
    values = [(*(value for value in totals[:-1] for _ in range(2)), *key) for key, totals in _rollups(rows)]
    database.execute_all(SUBTRACT, values)
    m.UsageRollup.delete().where(m.UsageRollup.requests <= 0).execute()


def _rollups(rows: Iterable[dict]) -> list[tuple[tuple, list[int]]]:
    """(key, totals) of every span, ordered by key: transactions that lock rows in one order cannot deadlock."""
    rows = list(rows)
    found = [((span, *key), totals) for span in sorted(SPANS) for key, totals in sorted(_by_key(rows, span).items())]
    return [*sorted((key, totals) for key, totals in _hour_totals(found).items()), *found]


def _hour_totals(found: list[tuple[tuple, list[int]]]) -> dict[tuple, list[int]]:
    """The hourly rollups among these, added up for each hour."""
    hours: dict[tuple, list[int]] = {}
    for (span, period, *_), totals in found:
        if span == 1:
            key = (HOUR_TOTAL, period, 0, 0, 0, "", 0, "")
            *before, maximum = hours.get(key, [0] * (len(ADDED_COLUMNS) + 1))
            added = [min(one + other, MAX_INTEGER) for one, other in zip(before, totals[:-1], strict=True)]
            hours[key] = [*added, max(maximum, totals[-1])]
    return hours


def _by_key(rows: list[dict], span: int) -> dict[tuple, list[int]]:
    """Totals of the rows, by their key without the span; the maximum latency is the last value."""
    found: dict[tuple, list[int]] = {}
    for row in rows:
        key = (
            row["at"] // HOUR_NS // span,
            *(row[name] or 0 for name in ("user_id", "user_key_id", "provider_id")),
            row["provider_channel"] or "",
            row["credential_id"] or 0,
            (row["model"] or "").replace("\0", "\ufffd"),
        )
        status, latency = row["status"] or 0, row["latency_ms"] or 0
        values = (
            *(1, not row["priced"], 0 < status < 400, 400 <= status < 500, status >= 500, latency),
            *(row[name] for name in TOKEN_COLUMNS),
            row["cost"],
        )
        totals = found.setdefault(key, [0] * (len(ADDED_COLUMNS) + 1))
        for n, value in enumerate(values):
            totals[n] = min(totals[n] + int(value), MAX_INTEGER)
        totals[-1] = max(totals[-1], latency)
    return found
