"""Usage rows: stored exactly once, listed page by page, added up exactly."""

import threading
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from gproxy.accounting.journal_reader import SettledCall
from gproxy.errors import RowRefused, Unavailable
from gproxy.store import accounts, ledger, ledger_check, usage_queries, usages
from gproxy.store import models as m
from gproxy.store.database import Database
from tests import postgres
from tests.sample_db import filled

MS = 1_000_000
AT = 1_790_000_000_000  # milliseconds
SEGMENTS = count()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def location(request, tmp_path_factory) -> tuple[str, Path]:
    """DSN and data directory of a filled database of each kind, for all tests of this file."""
    folder = tmp_path_factory.mktemp("usages")
    is_sqlite = request.param == "sqlite"
    dsn = f"sqlite:///{folder / 'gproxy.db'}" if is_sqlite else postgres.fresh_database(request.config)
    filled(folder, dsn)
    return dsn, folder


def without_usage(location: tuple[str, Path], enable_usage: bool) -> Database:
    """The database without usage rows and accounts."""
    database = Database(*location)

    def delete():
        for table in (m.UsageRollup, m.Usage, m.Adjustment, m.JournalPosition, m.Quota):
            table.delete().execute()
        m.UserKey.update(cost_used=0).execute()
        m.GlobalSettings.update(enable_usage=enable_usage).execute()

    database.run(delete)
    return database


def spent(database: Database) -> dict[str, int]:
    """What users and keys have spent, after a ledger check."""
    assert database.run(ledger_check.verify).differences == ()
    users = database.run(lambda: {f"u{row.user_id}": row.cost_used for row in m.Quota.select()})
    return users | database.run(lambda: {f"k{row.id}": row.cost_used for row in m.UserKey.select()})


@pytest.fixture
def database(location: tuple[str, Path]) -> Database:
    return without_usage(location, True)


def row(trace_id: int, **changes) -> dict:
    return {
        "trace_id": trace_id,
        "downstream_trace_id": None,
        "request_id": f"req-{trace_id}",
        "at": AT * MS + trace_id,
        "provider_id": 1,
        "provider_channel": "openai",
        "credential_id": 1,
        "user_id": 2,
        "user_key_id": 2,
        "operation": "generate_content",
        "protocol": "openai_chat",
        "model": "m",
        "end_user": None,
        "tag": None,
        "input_tokens": 10,
        "output_tokens": 5,
        "reasoning_tokens": 2,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 6,
        "cache_creation_input_tokens_5min": 2,
        "cache_creation_input_tokens_1h": 4,
        "cost": 1_000,
        "price_source": "model",
        "priced": True,
        "estimated": False,
        "status": 200,
        "outcome": "complete",
        "latency_ms": 12,
        "first_byte_ms": 7,
        "attempts": 1,
        "tries": "[[3,9,500,12],[3,7,200,4]]",
        "losses": "[]",
    } | changes


def store(database: Database, *rows: dict, segment: str | None = None, ends: list[int] | None = None) -> None:
    """Stores rows with their ends in a segment, by default in a new segment."""
    segment = segment or f"segment-{next(SEGMENTS)}"
    ends = ends or [100 * (i + 1) for i in range(len(rows))]
    database.run(usages.insert, database, [SettledCall(r, segment, end) for r, end in zip(rows, ends, strict=True)])


def listed(database: Database, **filters) -> list[int]:
    return [found["trace_id"] for found in database.run(usages.query, filters)]


def test_a_row_is_stored_unchanged(database: Database):
    given = row(2**62 + 1, end_user="team-ü", tag="nightly", losses='["top_k"]', first_byte_ms=None)
    store(database, given)
    (found,) = database.run(usages.query, {})
    assert found.pop("created_at") > 0
    tries = [
        {"provider_id": 3, "credential_id": 9, "end": 500, "ms": 12},
        {"provider_id": 3, "credential_id": 7, "end": 200, "ms": 4},
    ]
    assert found == given | {"losses": ["top_k"], "tries": tries}


def test_a_call_that_is_stored_twice_counts_once(database: Database):
    store(database, row(1), row(2))
    store(database, row(2, cost=9), row(3), row(1))
    assert listed(database) == [3, 2, 1]
    assert database.run(usage_queries.totals, {}).cost == 3_000


def test_a_row_twice_in_one_batch_counts_once(database: Database):
    store(database, row(1), row(1))
    assert listed(database) == [1]
    assert spent(database)["u2"] == 1_000


def test_stored_calls_are_charged_to_users_and_keys(database: Database):
    store(database, row(1), row(2, user_id=1, user_key_id=1, cost=7), row(3, cost=5))
    assert spent(database) == {"u1": 7, "u2": 1_005, "k1": 7, "k2": 1_005}
    store(database, row(3, cost=5), row(4, cost=1))
    assert spent(database) == {"u1": 7, "u2": 1_006, "k1": 7, "k2": 1_006}


def test_a_row_of_a_deleted_user_is_kept_and_creates_no_account(database: Database):
    store(database, row(1, user_id=98, user_key_id=99), row(2), row(3, user_id=None, user_key_id=None))
    assert listed(database) == [3, 2, 1]
    assert spent(database) == {"u2": 1_000, "k1": 0, "k2": 1_000}


@pytest.mark.parametrize("enable_usage", [True, False])
def test_a_replay_does_not_restore_deleted_rows(location, enable_usage):
    database = without_usage(location, enable_usage)
    store(database, row(1), row(2), segment="s", ends=[100, 200])
    database.run(accounts.delete_usages, database, [1, 2])
    database.run(m.GlobalSettings.update(enable_usage=not enable_usage).execute)
    # As after a crash, with usage rows switched on or off meanwhile.
    store(database, row(1), row(2), row(3, cost=1), segment="s", ends=[100, 200, 300])
    assert spent(database)["u2"] == spent(database)["k2"] == 2_001


def test_the_position_of_a_segment_is_kept_until_it_is_deleted(database: Database):
    store(database, row(1), row(2), segment="s", ends=[100, 200])
    store(database, row(3), segment="t", ends=[50])
    assert database.run(ledger.journal_positions, ["s", "t", "u"]) == {"s": 200, "t": 50}
    database.run(usages.delete_positions, ["s"])
    assert database.run(ledger.journal_positions, ["s", "t"]) == {"t": 50}


@pytest.mark.parametrize("enable_usage", [True, False])
def test_the_commit_of_a_killed_process_is_awaited(tmp_path: Path, pytestconfig, enable_usage):
    """Its transaction commits while its successor stores the same journal."""
    database = filled(tmp_path, postgres.fresh_database(pytestconfig), enable_usage=enable_usage)
    rows = [SettledCall(row(i), "s", 100 * i) for i in range(1, 4)]
    has_stored, may_end = threading.Event(), threading.Event()

    def commit_late():
        with database.write():
            usages.insert(database, rows)
            has_stored.set()
            assert may_end.wait(10)

    thread = threading.Thread(target=database.run, args=(commit_late,))
    thread.start()
    assert has_stored.wait(10)
    threading.Timer(0.3, may_end.set).start()
    database.run(usages.insert, database, rows)
    thread.join()
    assert spent(database)["k2"] == 3_000


def test_an_empty_batch_stores_nothing(database: Database):
    store(database)
    assert listed(database) == []


def test_a_batch_is_stored_all_or_none(database: Database):
    with pytest.raises(Unavailable):
        store(database, row(1), row(2, outcome=None))
    assert listed(database) == []


def test_a_connection_that_breaks_during_an_insert_is_an_outage(tmp_path: Path, pytestconfig):
    dsn = postgres.fresh_database(pytestconfig)
    database = filled(tmp_path, dsn)

    def insert_after_cut():
        own = m.proxy.obj.execute_sql("SELECT pg_backend_pid()").fetchone()[0]
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (own,))
        usages.insert(database, [SettledCall(row(1), "s", 100)])

    def insert_during_write():
        with database.write():
            own = m.proxy.obj.execute_sql("SELECT pg_backend_pid()").fetchone()[0]
            with psycopg.connect(dsn, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (own,))
            database.execute_all("INSERT INTO machines (id, owner, seen_at) VALUES (?, ?, ?)", [(1, "x", 1)])

    for function in (insert_after_cut, insert_during_write):
        with pytest.raises(Unavailable):
            database.run(function)
    store(database, row(1))
    assert listed(database) == [1]


# No value of a client or an upstream may keep a batch out of the database for ever.
@pytest.mark.parametrize(
    "hostile",
    [{"model": "m\0"}, {"end_user": "\0\0"}, {"tag": "a\0b"}, {"input_tokens": 2**64}, {"cost": 2**63}],
    ids=["model", "end user", "tag", "tokens", "cost"],
)
def test_a_hostile_value_does_not_block_its_batch(database: Database, hostile):
    store(database, row(1), row(2, **hostile))
    assert listed(database) == [2, 1]
    (name, value), (found, _) = next(iter(hostile.items())), database.run(usages.query, {})
    expected = value.replace("\0", "\ufffd") if isinstance(value, str) else 2**63 - 1
    assert found[name] == expected


@pytest.fixture
def adjusting(location: tuple[str, Path]) -> Database:
    """A database with usage rows switched off."""
    return without_usage(location, False)


def adjustments(database: Database) -> list[tuple]:
    fields = (m.Adjustment.user_id, m.Adjustment.kind, m.Adjustment.cost, m.Adjustment.requests)
    return database.run(lambda: list(m.Adjustment.select(*fields).order_by(m.Adjustment.id).tuples()))


def test_without_usage_rows_each_user_has_one_adjustment_for_each_batch(adjusting: Database):
    mine = {"user_id": 1, "user_key_id": 1}
    store(adjusting, row(1, **mine), row(2), row(3, **mine, cost=5))
    store(adjusting, row(4, **mine))
    assert sorted(adjustments(adjusting)) == [(1, "usage", 1_000, 1), (1, "usage", 1_005, 2), (2, "usage", 1_000, 1)]
    assert listed(adjusting) == []
    assert spent(adjusting) == {"u1": 2_005, "u2": 1_000, "k1": 2_005, "k2": 1_000}


def test_an_adjustment_is_of_one_key_and_day(adjusting: Database):
    day = 86_400_000 * MS
    start = AT * MS // day * day
    store(
        adjusting, row(1, at=start), row(2, at=start - 1), row(3, at=start + day - 1), row(4, at=start, user_key_id=1)
    )
    columns = (m.Adjustment.at, m.Adjustment.key_id, m.Adjustment.requests)
    found = adjusting.run(lambda: sorted(m.Adjustment.select(*columns).tuples()))
    assert found == [(start - day, 2, 1), (start, 1, 1), (start, 2, 2)]


def test_a_replayed_batch_adds_no_adjustment(adjusting: Database):
    rows = [row(i) for i in range(1, 5)]
    store(adjusting, *rows[:2], segment="s", ends=[100, 200])
    store(adjusting, *rows[:2], segment="s", ends=[100, 200])
    # After a crash the segment is read from its beginning, in batches of another size.
    store(adjusting, *rows[:3], segment="s", ends=[100, 200, 300])
    store(adjusting, rows[3], segment="s", ends=[400])
    store(adjusting, *rows, segment="s", ends=[100, 200, 300, 400])
    assert adjustments(adjusting) == [(2, "usage", 2_000, 2), (2, "usage", 1_000, 1), (2, "usage", 1_000, 1)]


def test_each_segment_has_its_own_position(adjusting: Database):
    store(adjusting, row(1), segment="s1", ends=[500])
    store(adjusting, row(2), segment="s2", ends=[100])
    mixed = [SettledCall(row(1), "s1", 500), SettledCall(row(2), "s2", 100), SettledCall(row(3), "s2", 200)]
    adjusting.run(usages.insert, adjusting, mixed)
    assert [cost for _, _, cost, _ in adjustments(adjusting)] == [1_000, 1_000, 1_000]


def test_a_failed_adjustment_is_added_at_the_next_attempt(adjusting: Database):
    calls = [SettledCall(row(1), "s", 100), SettledCall(row(2), "s", 2**63)]  # an offset too great for the column
    with pytest.raises((Unavailable, OverflowError)):
        adjusting.run(usages.insert, adjusting, calls)
    assert adjustments(adjusting) == [] and spent(adjusting)["k2"] == 0
    store(adjusting, row(1), row(2), segment="s", ends=[100, 200])
    assert adjustments(adjusting) == [(2, "usage", 2_000, 2)]


VARIED = [
    row(1),
    row(2, provider_id=2, provider_channel="anthropic"),
    row(3, user_id=1, user_key_id=1),
    row(4, model="n", credential_id=2),
    row(5, model=None, provider_id=None, provider_channel=None, credential_id=None),
    row(6, at=(AT + 1) * MS),
    row(7, at=(AT + 2) * MS - 1),
    row(8, at=(AT + 2) * MS),
]
FILTERS = [
    ({}, [8, 7, 6, 5, 4, 3, 2, 1]),
    ({"provider_id": [1]}, [8, 7, 6, 4, 3, 1]),
    ({"provider_id": [1, 2]}, [8, 7, 6, 4, 3, 2, 1]),
    ({"provider_id": []}, []),
    ({"provider_id": None, "model": ["n"]}, [4]),
    ({"credential_id": [2]}, [4]),
    ({"channel": ["anthropic"]}, [2]),
    ({"channel": ["Anthropic"]}, []),
    ({"model": ["m", "n"], "user_id": [2], "provider_id": [1]}, [8, 7, 6, 4, 1]),
    ({"model": ["m' OR 1=1 --"]}, []),
    ({"user_id": [1]}, [3]),
    ({"user_key_id": [2], "channel": ["anthropic", "openai"]}, [8, 7, 6, 4, 2, 1]),
    ({"from_unix_ms": AT}, [8, 7, 6, 5, 4, 3, 2, 1]),
    ({"from_unix_ms": AT + 1}, [8, 7, 6]),
    ({"to_unix_ms": AT}, [5, 4, 3, 2, 1]),
    ({"to_unix_ms": AT + 1}, [7, 6, 5, 4, 3, 2, 1]),
    ({"from_unix_ms": AT + 1, "to_unix_ms": AT + 1}, [7, 6]),
    ({"from_unix_ms": AT + 3}, []),
    ({"limit": 2}, [8, 7]),
    ({"limit": 2, "offset": 3}, [5, 4]),
    ({"offset": 7}, [1]),
    ({"limit": 2**62, "offset": 100}, []),
]


def test_a_query_returns_the_rows_that_match_the_filters(database: Database):
    store(database, *VARIED)
    for filters, found in FILTERS:
        assert listed(database, **filters) == found, filters
        if not {"limit", "offset"} & filters.keys():
            assert database.run(usage_queries.totals, filters).count == len(found), filters


def test_pages_contain_every_row_once_even_with_equal_times(database: Database):
    # Each worker has its own range of ids, so the order of ids is not the order of times.
    rows = [row(1000 - i if i % 3 else i, at=AT * MS + (i % 4) * 250_000 + (i // 20) * MS) for i in range(1, 61)]
    store(database, *rows)
    whole = database.run(usages.query, {})
    assert [(r["at"], r["trace_id"]) for r in whole] == sorted(((r["at"], r["trace_id"]) for r in rows), reverse=True)
    for size in (1, 7, 60):
        pages, cursor = [], {}
        while page := database.run(usages.query, {"limit": size, **cursor}):
            pages += [r["trace_id"] for r in page]
            cursor = {"cursor_at_unix_ms": page[-1]["at"] // MS, "cursor_trace_id": page[-1]["trace_id"]}
        assert pages == [r["trace_id"] for r in whole], size


def test_a_cursor_can_be_combined_with_filters(database: Database):
    store(database, *VARIED)
    assert listed(database, user_id=[2], cursor_at_unix_ms=AT + 1, cursor_trace_id=6, limit=3) == [5, 4, 2]


def test_a_cursor_may_be_an_id_or_a_time_alone(database: Database):
    store(database, *VARIED)
    assert listed(database, cursor_trace_id=4) == [3, 2, 1]
    assert listed(database, cursor_at_unix_ms=AT + 2) == [7, 6, 5, 4, 3, 2, 1]
    assert listed(database, cursor_at_unix_ms=AT + 1) == [5, 4, 3, 2, 1]


def test_a_cursor_works_after_its_row_was_deleted(database: Database):
    store(database, *VARIED)
    database.run(m.Usage.delete().where(m.Usage.trace_id == 7).execute)
    assert listed(database, cursor_at_unix_ms=AT + 1, cursor_trace_id=7) == [6, 5, 4, 3, 2, 1]


def test_totals_of_large_values_are_exact(database: Database):
    big = 2**61 - 1
    store(
        database,
        row(1, cost=big, input_tokens=big),
        row(2, cost=big, input_tokens=2),
        row(3, cost=1, output_tokens=big),
    )
    totals = database.run(usage_queries.totals, {})
    assert (totals.count, totals.cost) == (3, 2 * big + 1)
    assert (totals.tokens["input_tokens"], totals.tokens["output_tokens"]) == (big + 2 + 10, big + 10)
    assert type(totals.cost) is int and {type(value) for value in totals.tokens.values()} == {int}


def test_totals_have_every_token_class_and_the_unpriced_calls(database: Database):
    store(database, row(1), row(2, priced=False, cost=0), row(3, priced=False, cost=0, user_id=1))
    totals = database.run(usage_queries.totals, {"user_id": [2]})
    assert (totals.count, totals.unpriced, totals.cost) == (2, 1, 1_000)
    assert totals.tokens == {
        "input_tokens": 20,
        "output_tokens": 10,
        "reasoning_tokens": 4,
        "cache_read_input_tokens": 6,
        "cache_creation_input_tokens": 12,
        "cache_creation_input_tokens_5min": 4,
        "cache_creation_input_tokens_1h": 8,
    }


def test_the_totals_of_no_rows_are_zero(database: Database):
    totals = database.run(usage_queries.totals, {"user_id": [99]})
    assert (totals.count, totals.unpriced, totals.cost, set(totals.tokens.values())) == (0, 0, 0, {0})


def test_a_settled_call_needs_only_row_segment_and_end(database: Database):
    database.run(usages.insert, database, [SimpleNamespace(row=row(1), segment="s", end=1)])
    assert listed(database) == [1]


@pytest.mark.parametrize("changes", [{"operation": None}, {"model": "\ud800"}])
def test_a_row_that_the_database_never_takes_is_refused_and_later_rows_are_stored(database: Database, changes):
    usage_store = usages.UsageStore(database)
    with pytest.raises(RowRefused):
        usage_store.insert([SettledCall(row(1), "s", 10), SettledCall(row(2, **changes), "s", 20)])
    assert listed(database) == []
    usage_store.insert([SettledCall(row(3), "s", 30)])
    assert listed(database) == [3]
