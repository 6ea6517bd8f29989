"""Sums by days and hours say what the rows say, whatever the time and the filter."""

import random
from collections import defaultdict
from pathlib import Path

import pytest

from gproxy.store import accounts, usage_queries, usages
from gproxy.store import models as m
from gproxy.store.database import MIGRATIONS, Database
from gproxy.store.rollups import HOUR_NS
from gproxy.store.usage_queries import Part, parts
from tests import postgres
from tests.sample_db import filled
from tests.store.test_accounts import book
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
def test_a_time_is_taken_apart_by_the_longest_spans(since, until, found):
    assert list(parts(since, until)) == [Part(*one) for one in found]


def test_the_parts_of_a_time_are_all_of_it_and_nothing_twice():
    dice = random.Random(7)
    for _ in range(500):
        since, until = sorted(dice.randrange(5 * DAY_NS) for _ in range(2))
        at = since
        for part in parts(since, until):
            length = part.span * HOUR_NS or 1
            assert part.since * length == at
            at = part.until * length
        assert at == until


@pytest.fixture(params=["sqlite", "postgres"], scope="module")
def booked(request, tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("sums")
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
    book(database, *rows)
    return database, {one["trace_id"]: one for one in rows}


def expected(rows, asked) -> list[dict]:
    since, until = asked.get("from_unix_ms", 0) * 1_000_000, (asked.get("to_unix_ms", 2**43) + 1) * 1_000_000
    return [
        one
        for one in rows
        if since <= one["at"] < until
        and all(one[name] in asked[name] for name in ("user_id", "provider_id", "model") if name in asked)
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
def test_a_summary_is_what_the_rows_add_up_to(booked, time, filters):
    database, rows = booked
    asked = {**time, **filters}
    found, listed = database.run(usage_queries.summary, asked), expected(rows.values(), asked)
    assert found.count == len(listed)
    assert found.cost == sum(one["cost"] for one in listed)
    assert found.tokens["output_tokens"] == sum(one["output_tokens"] for one in listed)
    assert found.succeeded == sum(1 for one in listed if one["status"] == 200)
    assert found.refused == sum(1 for one in listed if one["status"] == 404)
    assert found.failed == sum(1 for one in listed if one["status"] == 500)
    assert found.latency_ms == sum(one["latency_ms"] or 0 for one in listed)
    assert found.most_latency_ms == max((one["latency_ms"] or 0 for one in listed), default=0)


@pytest.mark.parametrize("by", ["model", "provider_id", "user_id", "user_key_id", "tag"])
@pytest.mark.parametrize("time", TIMES)
def test_a_breakdown_is_what_the_rows_of_each_add_up_to(booked, by, time):
    database, rows = booked
    costs = defaultdict(int)
    for one in expected(rows.values(), time):
        costs[one[by]] += one["cost"]
    found = database.run(usage_queries.breakdown, time, by)
    assert {value: sums.cost for value, sums in found} == costs
    assert [sums.cost for _, sums in found] == sorted(costs.values(), reverse=True)


@pytest.mark.parametrize(("seconds", "used"), [(86_400, 86_400), (3_600, 3_600), (7_200, 7_200), (600, 3_600)])
def test_buckets_are_what_the_rows_in_them_add_up_to(booked, seconds, used):
    database, rows = booked
    told, found = database.run(usage_queries.buckets, {}, seconds)
    counts = defaultdict(int)
    for one in rows.values():
        counts[one["at"] // 10**9 // used * used] += 1
    assert told == used
    assert {at: sums.count for at, sums in found} == counts


def test_a_short_time_has_short_buckets(booked):
    database, rows = booked
    asked = {"from_unix_ms": START // 1_000_000, "to_unix_ms": START // 1_000_000 + 3 * HOUR_MS - 1}
    told, found = database.run(usage_queries.buckets, asked, 60)
    assert told == 60
    assert sum(sums.count for _, sums in found) == len(expected(rows.values(), asked))
    days = database.run(usage_queries.breakdown, {}, "day")
    assert [day for day, _ in days] == ["2024-10-07", "2024-10-06", "2024-10-05", "2024-10-04"]


def test_what_is_deleted_is_in_no_sum_and_what_goes_by_its_age_is(tmp_path):
    database: Database = filled(tmp_path)
    book(database, *(row(n, at=START + n * HOUR_NS, cost=n, user_id=1, user_key_id=1) for n in range(1, 31)))
    database.run(accounts.delete_usages, database, [5, 30])
    assert database.run(usage_queries.summary, {}).cost == sum(range(1, 31)) - 35
    assert database.run(accounts.delete_usages_before, database, START + 10 * HOUR_NS, 100) == 8
    assert database.run(usage_queries.summary, {}).cost == sum(range(1, 31)) - 35
    database.run(accounts.delete_usages, database, list(range(31)))
    assert database.run(lambda: m.UsageRollup.select().count()) > 0
    asked = {"from_unix_ms": (START + 10 * HOUR_NS) // 1_000_000}
    assert database.run(usage_queries.summary, asked).count == 0


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request, tmp_path) -> Database:
    return filled(tmp_path, None if request.param == "sqlite" else postgres.fresh_database(request.config))


@pytest.mark.parametrize("apart", [0, HOUR_NS])
def test_great_costs_can_be_summed(empty, apart):
    book(empty, *(row(n, at=START + 5 + n * apart, cost=2**63 - 1) for n in (1, 2)))
    part = {"from_unix_ms": START // 10**6, "to_unix_ms": START // 10**6 + 50}
    assert empty.run(usage_queries.summary, {}).count == 2
    assert empty.run(usage_queries.summary, part).count in (0, 2)
    assert empty.run(usage_queries.breakdown, {}, "model")
    assert empty.run(usage_queries.breakdown, {}, "tag")
    assert empty.run(usage_queries.buckets, {}, 3600 * 5)


@pytest.mark.parametrize("big", [10**12, 2**63 - 1])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_rows_of_an_older_version_are_summed_once(request, tmp_path, kind, big):
    dsn = f"sqlite:///{tmp_path / 'x.db'}" if kind == "sqlite" else postgres.fresh_database(request.config)
    database, older = Database(dsn, tmp_path), tmp_path / "older"
    older.mkdir()
    for path in sorted(MIGRATIONS.glob("000[1-4]*.py")):
        (older / path.name).symlink_to(path)
    with database.alone():
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
    stored = [(*map(usages._storable, usages.pick(one)), 1) for one in rows]
    database.run(database.execute_all, usages.INSERT, stored)
    with database.alone():
        database.migrate()
    sums = database.run(usage_queries.summary, {})
    assert (sums.count, sums.succeeded) == (29, sum(1 for one in rows if one["status"] == 200))
    if big < 10**15:
        assert sums.cost == big * 29
    database.run(accounts.delete_usages, database, list(range(1, 29)))
    sums = database.run(usage_queries.summary, {})
    assert sums.count == 1
    assert sums.cost >= 0
    assert sums.tokens["input_tokens"] >= 0
