"""Sums of usage rows by hours and UTC days: kept by what books or deletes the rows, and asked in their place."""

from collections.abc import Iterable

from gproxy.store import models as m
from gproxy.store.database import Database

HOUR_NS = 3_600_000_000_000
SPANS = (24, 1)  # in hours, the longest first
ALL = -1  # an hour of all that there is, in one row
KEY = ("span", "period", "user_id", "user_key_id", "provider_id", "provider_channel", "credential_id", "model")
TOKENS = (
    "input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_5min",
    "cache_creation_input_tokens_1h",
)
ADDED = ("requests", "unpriced", "succeeded", "refused", "failed", "latency_ms", *TOKENS, "cost")
COLUMNS = (*KEY, *ADDED, "most_latency_ms")
MAX = 2**63 - 1
# No sum may become too great for its column: that would keep its batch out for ever.
_SUM = "{0} = CASE WHEN usage_sums.{0} > {1} - EXCLUDED.{0} THEN {1} ELSE usage_sums.{0} + EXCLUDED.{0} END"
_SUMS = ", ".join(_SUM.format(name, MAX) for name in ADDED)
_MAX = "CASE WHEN EXCLUDED.most_latency_ms > usage_sums.most_latency_ms THEN EXCLUDED.most_latency_ms "
ADD = (
    f"INSERT INTO usage_sums ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "
    f"ON CONFLICT ({', '.join(KEY)}) DO UPDATE SET {_SUMS}, "
    f"most_latency_ms = {_MAX} ELSE usage_sums.most_latency_ms END"
)
# Nor less than nothing, where not all of a row was counted.
TAKE = (
    f"UPDATE usage_sums SET {', '.join(f'{name} = CASE WHEN {name} > ? THEN {name} - ? ELSE 0 END' for name in ADDED)} "
    f"WHERE {' AND '.join(f'{name} = ?' for name in KEY)}"
)
# What a usage row must tell.
OF_ROW = (
    *("at", "user_id", "user_key_id", "provider_id", "provider_channel", "credential_id", "model"),
    *("priced", "status", "latency_ms", *TOKENS, "cost"),
)


def add(database: Database, rows: Iterable[dict]) -> None:
    """Counts these usage rows, in the transaction that stores them."""
    database.execute_all(ADD, [(*key, *sums) for key, sums in _summed(rows)])


def take(database: Database, rows: Iterable[dict]) -> None:
    """Counts them no more. Which of them took longest is not known afterwards."""
    taken = [(*(value for value in sums[:-1] for _ in range(2)), *key) for key, sums in _summed(rows)]
    database.execute_all(TAKE, taken)
    m.UsageRollup.delete().where(m.UsageRollup.requests <= 0).execute()


def _summed(rows: Iterable[dict]) -> list[tuple[tuple, list[int]]]:
    """In the order of the keys, as everywhere: two that change several rows wait for each other one way only."""
    rows = list(rows)
    found = [((span, *key), sums) for span in sorted(SPANS) for key, sums in sorted(_of_span(rows, span).items())]
    return [*sorted((key, sums) for key, sums in _of_all(found).items()), *found]


def _of_all(found: list[tuple[tuple, list[int]]]) -> dict[tuple, list[int]]:
    """The hours among these, each as one."""
    hours: dict[tuple, list[int]] = {}
    for (span, period, *_), sums in found:
        if span == 1:
            *before, maximum = hours.get(key := (ALL, period, 0, 0, 0, "", 0, ""), [0] * (len(ADDED) + 1))
            added = [min(one + other, MAX) for one, other in zip(before, sums[:-1], strict=True)]
            hours[key] = [*added, max(maximum, sums[-1])]
    return hours


def _of_span(rows: list[dict], span: int) -> dict[tuple, list[int]]:
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
            *(row[name] for name in TOKENS),
            row["cost"],
        )
        sums = found.setdefault(key, [0] * (len(ADDED) + 1))
        for n, value in enumerate(values):
            sums[n] = min(sums[n] + int(value), MAX)
        sums[-1] = max(sums[-1], latency)
    return found
