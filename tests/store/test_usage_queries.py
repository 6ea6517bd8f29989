"""Totals from rollups equal the totals of the rows, for any time and filter."""

import random
from collections import defaultdict
from pathlib import Path

import pytest

from gproxy.store import accounts, usage_queries, usages
from gproxy.store import models as m
from gproxy.store.database import MIGRATIONS, Database
from gproxy.store.rollups import HOUR_NS
from gproxy.store.usage_queries import TimeSlice, time_slices
from tests import postgres
from tests.sample_db import filled
from tests.store.test_accounts import store
from tests.store.test_usages import row

DAY_NS, HOUR_MS = 24 * HOUR_NS, HOUR_NS // 1_000_000
START = 20_000 * DAY_NS


@pytest.mark.parametrize(
    ("since", "until", "found"),
    [
        (0, 0, []),
        (5, 9, [(0, 5, 9)]),
        (0, HOUR_NS, [(1, 0, 1)]),
        (1, HOUR_NS, [(0, 1, HOUR_NS)]),
        (0, DAY_NS, [(24, 0, 1)]),
        (1, DAY_NS + 5, [(0, 1, HOUR_NS), (1, 1, 24), (0, DAY_NS, DAY_NS + 5)]),
        (HOUR_NS, 2 * DAY_NS + HOUR_NS, [(1, 1, 24), (24, 1, 2), (1, 48, 49)]),
    ],
)
def test_a_time_is_split_into_the_longest_spans(since, until, found):
    assert list(time_slices(since, until)) == [TimeSlice(*one) for one in found]


def test_time_slices_cover_a_time_without_overlap():
    dice = random.Random(7)
    for _ in range(500):
        since, until = sorted(dice.randrange(5 * DAY_NS) for _ in range(2))
        at = since
        for piece in time_slices(since, until):
            length = piece.span * HOUR_NS or 1
            assert piece.since * length == at
            at = piece.until * length
        assert at == until


@pytest.fixture(params=["sqlite", "postgres"], scope="module")
def stored(request, tmp_path_factory) -> tuple[Database, dict[int, dict]]:
    """A database with random calls, and their rows by id."""
    folder: Path = tmp_path_factory.mktemp("totals")
    dsn = None if request.param == "sqlite" else postgres.fresh_database(request.config)
    database, dice = filled(folder, dsn), random.Random(3)
    rows = [
        row(
            number,
            at=START + dice.randrange(4 * DAY_NS),
            cost=dice.randrange(10**9),
            user_id=dice.choice([1, 2]),
            user_key_id=dice.choice([1, 2]),
            provider_id=dice.choice([1, 2, None]),
            credential_id=dice.choice([1, None]),
            model=dice.choice(["m-1", "m-2", None]),
            status=dice.choice([200, 200, 404, 500, None]),
            latency_ms=dice.choice([None, dice.randrange(5000)]),
            tag=dice.choice(["a", None]),
        )
        for number in range(1, 601)
    ]
    store(database, *rows)
    return database, {one["trace_id"]: one for one in rows}


def matching(rows, filters) -> list[dict]:
    since, until = filters.get("from_unix_ms", 0) * 1_000_000, (filters.get("to_unix_ms", 2**43) + 1) * 1_000_000
    return [
        one
        for one in rows
        if since <= one["at"] < until
        and all(one[name] in filters[name] for name in ("user_id", "provider_id", "model") if name in filters)
    ]


TIMES = [
    {},
    {"from_unix_ms": START // 1_000_000 + 12_345},
    {"to_unix_ms": START // 1_000_000 + 50 * HOUR_MS + 777},
    {"from_unix_ms": START // 1_000_000 + 1_234_567, "to_unix_ms": START // 1_000_000 + 70 * HOUR_MS + 99},
    {"from_unix_ms": START // 1_000_000 + HOUR_MS, "to_unix_ms": START // 1_000_000 + 2 * HOUR_MS - 1},
    {"from_unix_ms": START // 1_000_000 + 5, "to_unix_ms": START // 1_000_000 + 60_000},
]
FILTERS = [{}, {"user_id": [1]}, {"provider_id": [2]}, {"model": ["m-1"]}, {"user_id": [1, 2], "model": ["m-2"]}]


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("filters", FILTERS)
def test_totals_are_what_the_rows_add_up_to(stored, time, filters):
    database, rows = stored
    filters = {**time, **filters}
    found, listed = database.run(usage_queries.totals, filters), matching(rows.values(), filters)
    assert found.count == len(listed)
    assert found.cost == sum(one["cost"] for one in listed)
    assert found.tokens["output_tokens"] == sum(one["output_tokens"] for one in listed)
    assert found.succeeded == sum(1 for one in listed if one["status"] == 200)
    assert found.refused == sum(1 for one in listed if one["status"] == 404)
    assert found.failed == sum(1 for one in listed if one["status"] == 500)
    assert found.latency_ms == sum(one["latency_ms"] or 0 for one in listed)
    assert found.max_latency_ms == max((one["latency_ms"] or 0 for one in listed), default=0)


@pytest.mark.parametrize("by", ["model", "provider_id", "user_id", "user_key_id", "tag"])
@pytest.mark.parametrize("time", TIMES)
def test_a_breakdown_is_what_the_rows_of_each_group_add_up_to(stored, by, time):
    database, rows = stored
    costs = defaultdict(int)
    for one in matching(rows.values(), time):
        costs[one[by]] += one["cost"]
    found = database.run(usage_queries.breakdown, time, by)
    assert {value: totals.cost for value, totals in found} == costs
    assert [totals.cost for _, totals in found] == sorted(costs.values(), reverse=True)


@pytest.mark.parametrize(("seconds", "used"), [(86_400, 86_400), (3_600, 3_600), (7_200, 7_200), (600, 3_600)])
def test_buckets_are_what_the_rows_in_them_add_up_to(stored, seconds, used):
    database, rows = stored
    length, found = database.run(usage_queries.buckets, {}, seconds)
    counts = defaultdict(int)
    for one in rows.values():
        counts[one["at"] // 10**9 // used * used] += 1
    assert length == used
    assert {at: totals.count for at, totals in found} == counts


def test_a_short_time_has_short_buckets(stored):
    database, rows = stored
    filters = {"from_unix_ms": START // 1_000_000, "to_unix_ms": START // 1_000_000 + 3 * HOUR_MS - 1}
    length, found = database.run(usage_queries.buckets, filters, 60)
    assert length == 60
    assert sum(totals.count for _, totals in found) == len(matching(rows.values(), filters))
    days = database.run(usage_queries.breakdown, {}, "day")
    assert [day for day, _ in days] == ["2024-10-07", "2024-10-06", "2024-10-05", "2024-10-04"]


def test_deleted_rows_leave_the_totals_and_expired_rows_stay_in_them(tmp_path):
    database: Database = filled(tmp_path)
    store(database, *(row(n, at=START + n * HOUR_NS, cost=n, user_id=1, user_key_id=1) for n in range(1, 31)))
    database.run(accounts.delete_usages, database, [5, 30])
    assert database.run(usage_queries.totals, {}).cost == sum(range(1, 31)) - 35
    assert database.run(accounts.delete_usages_before, database, START + 10 * HOUR_NS, 100) == 8
    assert database.run(usage_queries.totals, {}).cost == sum(range(1, 31)) - 35
    database.run(accounts.delete_usages, database, list(range(31)))
    assert database.run(lambda: m.UsageRollup.select().count()) > 0
    filters = {"from_unix_ms": (START + 10 * HOUR_NS) // 1_000_000}
    assert database.run(usage_queries.totals, filters).count == 0


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request, tmp_path) -> Database:
    return filled(tmp_path, None if request.param == "sqlite" else postgres.fresh_database(request.config))


@pytest.mark.parametrize("apart", [0, HOUR_NS])
def test_the_greatest_costs_can_be_added_up(empty, apart):
    store(empty, *(row(n, at=START + 5 + n * apart, cost=2**63 - 1) for n in (1, 2)))
    few_ms = {"from_unix_ms": START // 10**6, "to_unix_ms": START // 10**6 + 50}
    assert empty.run(usage_queries.totals, {}).count == 2
    assert empty.run(usage_queries.totals, few_ms).count in (0, 2)
    assert empty.run(usage_queries.breakdown, {}, "model")
    assert empty.run(usage_queries.breakdown, {}, "tag")
    assert empty.run(usage_queries.buckets, {}, 3600 * 5)


@pytest.mark.parametrize("big", [10**12, 2**63 - 1])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_rows_of_an_older_version_are_added_to_the_rollups_once(request, tmp_path, kind, big):
    dsn = f"sqlite:///{tmp_path / 'x.db'}" if kind == "sqlite" else postgres.fresh_database(request.config)
    database, older = Database(dsn, tmp_path), tmp_path / "older"
    older.mkdir()
    for path in sorted(MIGRATIONS.glob("000[1-4]*.py")):
        (older / path.name).symlink_to(path)
    with database.start_lock():
        database.migrate(older)
    rows = [
        row(
            n,
            at=START + n * HOUR_NS // 3,
            cost=big,
            input_tokens=big,
            user_id=None,
            provider_id=[1, None][n % 2],
            status=[200, None, 404, 500][n % 4],
            model=["a", None][n % 2],
        )
        for n in range(1, 30)
    ]
    values = [(*map(usages._storable, usages.row_values(one)), 1) for one in rows]
    database.run(database.execute_all, usages.INSERT, values)
    with database.start_lock():
        database.migrate()
    totals = database.run(usage_queries.totals, {})
    assert (totals.count, totals.succeeded) == (29, sum(1 for one in rows if one["status"] == 200))
    if big < 10**15:
        assert totals.cost == big * 29
    database.run(accounts.delete_usages, database, list(range(1, 29)))
    totals = database.run(usage_queries.totals, {})
    assert totals.count == 1
    assert totals.cost >= 0
    assert totals.tokens["input_tokens"] >= 0
