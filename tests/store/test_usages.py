"""Usage rows: booked exactly once, found page by page, summed exactly."""

import threading
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from gproxy.accounting.entries import SettledCall
from gproxy.errors import Unavailable
from gproxy.store import accounts as functions
from gproxy.store import ledger, ledger_check, usage_queries, usages
from gproxy.store import models as m
from gproxy.store.database import Database
from tests import postgres
from tests.sample_db import filled

MS = 1_000_000
AT = 1_790_000_000_000  # milliseconds
SEGMENTS = count()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def made(request, tmp_path_factory) -> tuple[str, Path]:
    """One filled database of either kind, for all tests here."""
    folder = tmp_path_factory.mktemp("usages")
    is_sqlite = request.param == "sqlite"
    dsn = f"sqlite:///{folder / 'gproxy.db'}" if is_sqlite else postgres.fresh_database(request.config)
    filled(folder, dsn)
    return dsn, folder


def emptied(made: tuple[str, Path], enable_usage: bool) -> Database:
    database = Database(*made)

    def empty():
        for table in (m.UsageRollup, m.Usage, m.Adjustment, m.JournalPosition, m.Quota):
            table.delete().execute()
        m.UserKey.update(cost_used=0).execute()
        m.GlobalSettings.update(enable_usage=enable_usage).execute()

    database.run(empty)
    return database


def accounts(database: Database) -> dict[str, int]:
    """What users and keys have spent; every account must agree with the rows."""
    assert database.run(ledger_check.verify).differences == ()
    users = database.run(lambda: {f"u{row.user_id}": row.cost_used for row in m.Quota.select()})
    return users | database.run(lambda: {f"k{row.id}": row.cost_used for row in m.UserKey.select()})


@pytest.fixture
def database(made: tuple[str, Path]) -> Database:
    return emptied(made, True)


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


def book(database: Database, *rows: dict, segment: str | None = None, ends: list[int] | None = None) -> None:
    """Books rows at their places in a segment, or in one that was never seen before."""
    segment = segment or f"segment-{next(SEGMENTS)}"
    places = ends or [100 * (i + 1) for i in range(len(rows))]
    database.run(usages.book, database, [SettledCall(r, segment, end) for r, end in zip(rows, places, strict=True)])


def asked(database: Database, **filters) -> list[int]:
    return [found["trace_id"] for found in database.run(usages.query, filters)]


def test_a_row_is_stored_as_it_was_booked(database: Database):
    booked = row(2**62 + 1, end_user="team-ü", tag="nightly", losses='["top_k"]', first_byte_ms=None)
    book(database, booked)
    (found,) = database.run(usages.query, {})
    assert found.pop("created_at") > 0
    tries = [
        {"provider_id": 3, "credential_id": 9, "end": 500, "ms": 12},
        {"provider_id": 3, "credential_id": 7, "end": 200, "ms": 4},
    ]
    assert found == booked | {"losses": ["top_k"], "tries": tries}


def test_booking_twice_adds_nothing(database: Database):
    book(database, row(1), row(2))
    book(database, row(2, cost=9), row(3), row(1))
    assert asked(database) == [3, 2, 1]
    assert database.run(usage_queries.summary, {}).cost == 3_000


def test_a_row_twice_in_one_batch_is_one(database: Database):
    book(database, row(1), row(1))
    assert asked(database) == [1]
    assert accounts(database)["u2"] == 1_000


def test_booking_charges_the_accounts_of_users_and_keys(database: Database):
    book(database, row(1), row(2, user_id=1, user_key_id=1, cost=7), row(3, cost=5))
    assert accounts(database) == {"u1": 7, "u2": 1_005, "k1": 7, "k2": 1_005}
    book(database, row(3, cost=5), row(4, cost=1))
    assert accounts(database) == {"u1": 7, "u2": 1_006, "k1": 7, "k2": 1_006}


def test_a_row_of_a_user_that_was_deleted_is_kept_and_opens_no_account(database: Database):
    book(database, row(1, user_id=98, user_key_id=99), row(2), row(3, user_id=None, user_key_id=None))
    assert asked(database) == [3, 2, 1]
    assert accounts(database) == {"u2": 1_000, "k1": 0, "k2": 1_000}


@pytest.mark.parametrize("enable_usage", [True, False])
def test_a_replay_after_the_row_was_deleted_brings_nothing_back(made, enable_usage):
    database = emptied(made, enable_usage)
    book(database, row(1), row(2), segment="s", ends=[100, 200])
    database.run(functions.delete_usages, database, [1, 2])
    database.run(m.GlobalSettings.update(enable_usage=not enable_usage).execute)
    # After a crash, with usage rows switched on or off meanwhile.
    book(database, row(1), row(2), row(3, cost=1), segment="s", ends=[100, 200, 300])
    assert accounts(database)["u2"] == accounts(database)["k2"] == 2_001


def test_marks_say_how_far_a_segment_is_booked_until_it_is_forgotten(database: Database):
    book(database, row(1), row(2), segment="s", ends=[100, 200])
    book(database, row(3), segment="t", ends=[50])
    assert database.run(ledger.marks, ["s", "t", "u"]) == {"s": 200, "t": 50}
    database.run(usages.forget, ["s"])
    assert database.run(ledger.marks, ["s", "t"]) == {"t": 50}


@pytest.mark.parametrize("enable_usage", [True, False])
def test_a_process_that_was_killed_while_it_committed_is_waited_for(tmp_path: Path, pytestconfig, enable_usage):
    """Its transaction ends although nobody hears of it, while its successor books the same journal."""
    database = filled(tmp_path, postgres.fresh_database(pytestconfig), enable_usage=enable_usage)
    rows = [SettledCall(row(i), "s", 100 * i) for i in range(1, 4)]
    is_held, may_end = threading.Event(), threading.Event()

    def commit_late():
        with database.write():
            usages.book(database, rows)
            is_held.set()
            assert may_end.wait(10)

    thread = threading.Thread(target=database.run, args=(commit_late,))
    thread.start()
    assert is_held.wait(10)
    threading.Timer(0.3, may_end.set).start()
    database.run(usages.book, database, rows)
    thread.join()
    assert accounts(database)["k2"] == 3_000


def test_an_empty_batch_is_none(database: Database):
    book(database)
    assert asked(database) == []


def test_a_batch_is_stored_whole_or_not_at_all(database: Database):
    with pytest.raises(Unavailable):
        book(database, row(1), row(2, outcome=None))
    assert asked(database) == []


def test_a_connection_that_breaks_while_booking_is_an_outage(tmp_path: Path, pytestconfig):
    dsn = postgres.fresh_database(pytestconfig)
    database = filled(tmp_path, dsn)

    def cut_and_book():
        own = m.proxy.obj.execute_sql("SELECT pg_backend_pid()").fetchone()[0]
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (own,))
        usages.book(database, [SettledCall(row(1), "s", 100)])

    def book_while_cut():
        with database.write():
            own = m.proxy.obj.execute_sql("SELECT pg_backend_pid()").fetchone()[0]
            with psycopg.connect(dsn, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (own,))
            database.execute_all("INSERT INTO machines (id, owner, seen_at) VALUES (?, ?, ?)", [(1, "x", 1)])

    for function in (cut_and_book, book_while_cut):
        with pytest.raises(Unavailable):
            database.run(function)
    book(database, row(1))
    assert asked(database) == [1]


# What a client or an upstream may send must not keep a batch out of the database for ever.
@pytest.mark.parametrize(
    "hostile",
    [{"model": "m\0"}, {"end_user": "\0\0"}, {"tag": "a\0b"}, {"input_tokens": 2**64}, {"cost": 2**63}],
    ids=["model", "end user", "tag", "tokens", "cost"],
)
def test_a_hostile_value_does_not_block_the_books(database: Database, hostile):
    book(database, row(1), row(2, **hostile))
    assert asked(database) == [2, 1]
    (name, value), (found, _) = next(iter(hostile.items())), database.run(usages.query, {})
    expected = value.replace("\0", "\ufffd") if isinstance(value, str) else 2**63 - 1
    assert found[name] == expected


@pytest.fixture
def adjusting(made: tuple[str, Path]) -> Database:
    """A database without usage rows."""
    return emptied(made, False)


def adjustments(database: Database) -> list[tuple]:
    fields = (m.Adjustment.user_id, m.Adjustment.kind, m.Adjustment.cost, m.Adjustment.requests)
    return database.run(lambda: list(m.Adjustment.select(*fields).order_by(m.Adjustment.id).tuples()))


def test_without_usage_rows_each_user_and_batch_is_one_adjustment(adjusting: Database):
    mine = {"user_id": 1, "user_key_id": 1}
    book(adjusting, row(1, **mine), row(2), row(3, **mine, cost=5))
    book(adjusting, row(4, **mine))
    assert sorted(adjustments(adjusting)) == [(1, "usage", 1_000, 1), (1, "usage", 1_005, 2), (2, "usage", 1_000, 1)]
    assert asked(adjusting) == []
    assert accounts(adjusting) == {"u1": 2_005, "u2": 1_000, "k1": 2_005, "k2": 1_000}


def test_an_adjustment_keeps_to_one_key_and_day(adjusting: Database):
    day = 86_400_000 * MS
    start = AT * MS // day * day
    book(adjusting, row(1, at=start), row(2, at=start - 1), row(3, at=start + day - 1), row(4, at=start, user_key_id=1))
    columns = (m.Adjustment.at, m.Adjustment.key_id, m.Adjustment.requests)
    found = adjusting.run(lambda: sorted(m.Adjustment.select(*columns).tuples()))
    assert found == [(start - day, 2, 1), (start, 1, 1), (start, 2, 2)]


def test_a_replayed_batch_is_adjusted_once(adjusting: Database):
    rows = [row(i) for i in range(1, 5)]
    book(adjusting, *rows[:2], segment="s", ends=[100, 200])
    book(adjusting, *rows[:2], segment="s", ends=[100, 200])
    # After a crash the segment is read from its start, in batches of another size.
    book(adjusting, *rows[:3], segment="s", ends=[100, 200, 300])
    book(adjusting, rows[3], segment="s", ends=[400])
    book(adjusting, *rows, segment="s", ends=[100, 200, 300, 400])
    assert adjustments(adjusting) == [(2, "usage", 2_000, 2), (2, "usage", 1_000, 1), (2, "usage", 1_000, 1)]


def test_segments_are_told_apart(adjusting: Database):
    book(adjusting, row(1), segment="s1", ends=[500])
    book(adjusting, row(2), segment="s2", ends=[100])
    mixed = [SettledCall(row(1), "s1", 500), SettledCall(row(2), "s2", 100), SettledCall(row(3), "s2", 200)]
    adjusting.run(usages.book, adjusting, mixed)
    assert [cost for _, _, cost, _ in adjustments(adjusting)] == [1_000, 1_000, 1_000]


def test_a_failed_adjustment_is_made_at_the_next_attempt(adjusting: Database):
    bookings = [SettledCall(row(1), "s", 100), SettledCall(row(2), "s", 2**63)]  # a place that no column holds
    with pytest.raises((Unavailable, OverflowError)):
        adjusting.run(usages.book, adjusting, bookings)
    assert adjustments(adjusting) == [] and accounts(adjusting)["k2"] == 0
    book(adjusting, row(1), row(2), segment="s", ends=[100, 200])
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
    ({"limit": 0}, []),
    ({"limit": 2, "offset": 3}, [5, 4]),
    ({"offset": 7}, [1]),
    ({"limit": 2**62, "offset": 100}, []),
]


def test_a_query_gives_the_rows_that_were_asked_for(database: Database):
    book(database, *VARIED)
    for filters, found in FILTERS:
        assert asked(database, **filters) == found, filters
        if not {"limit", "offset"} & filters.keys():
            assert database.run(usage_queries.summary, filters).count == len(found), filters


def test_pages_give_every_row_once_also_with_equal_times(database: Database):
    # Workers number their calls apart, so ids and times of one millisecond do not go together.
    rows = [row(1000 - i if i % 3 else i, at=AT * MS + (i % 4) * 250_000 + (i // 20) * MS) for i in range(1, 61)]
    book(database, *rows)
    whole = database.run(usages.query, {})
    assert [(r["at"], r["trace_id"]) for r in whole] == sorted(((r["at"], r["trace_id"]) for r in rows), reverse=True)
    for size in (1, 7, 60):
        pages, cursor = [], {}
        while page := database.run(usages.query, {"limit": size, **cursor}):
            pages += [r["trace_id"] for r in page]
            cursor = {"cursor_at_unix_ms": page[-1]["at"] // MS, "cursor_trace_id": page[-1]["trace_id"]}
        assert pages == [r["trace_id"] for r in whole], size


def test_a_cursor_goes_with_filters(database: Database):
    book(database, *VARIED)
    assert asked(database, user_id=[2], cursor_at_unix_ms=AT + 1, cursor_trace_id=6, limit=3) == [5, 4, 2]


def test_a_cursor_may_be_an_id_or_a_time_alone(database: Database):
    book(database, *VARIED)
    assert asked(database, cursor_trace_id=4) == [3, 2, 1]
    assert asked(database, cursor_at_unix_ms=AT + 2) == [7, 6, 5, 4, 3, 2, 1]
    assert asked(database, cursor_at_unix_ms=AT + 1) == [5, 4, 3, 2, 1]


def test_a_cursor_works_when_its_row_is_gone(database: Database):
    book(database, *VARIED)
    database.run(m.Usage.delete().where(m.Usage.trace_id == 7).execute)
    assert asked(database, cursor_at_unix_ms=AT + 1, cursor_trace_id=7) == [6, 5, 4, 3, 2, 1]


def test_sums_are_exact_over_big_values(database: Database):
    big = 2**61 - 1
    book(
        database,
        row(1, cost=big, input_tokens=big),
        row(2, cost=big, input_tokens=2),
        row(3, cost=1, output_tokens=big),
    )
    sums = database.run(usage_queries.summary, {})
    assert (sums.count, sums.cost) == (3, 2 * big + 1)
    assert (sums.tokens["input_tokens"], sums.tokens["output_tokens"]) == (big + 2 + 10, big + 10)
    assert type(sums.cost) is int and {type(value) for value in sums.tokens.values()} == {int}


def test_sums_tell_every_token_class_and_what_has_no_price(database: Database):
    book(database, row(1), row(2, priced=False, cost=0), row(3, priced=False, cost=0, user_id=1))
    sums = database.run(usage_queries.summary, {"user_id": [2]})
    assert (sums.count, sums.unpriced, sums.cost) == (2, 1, 1_000)
    assert sums.tokens == {
        "input_tokens": 20,
        "output_tokens": 10,
        "reasoning_tokens": 4,
        "cache_read_input_tokens": 6,
        "cache_creation_input_tokens": 12,
        "cache_creation_input_tokens_5min": 4,
        "cache_creation_input_tokens_1h": 8,
    }


def test_the_sum_of_nothing_is_nothing(database: Database):
    sums = database.run(usage_queries.summary, {"user_id": [99]})
    assert (sums.count, sums.unpriced, sums.cost, set(sums.tokens.values())) == (0, 0, 0, {0})


def test_a_booking_needs_only_its_row_and_place(database: Database):
    database.run(usages.book, database, [SimpleNamespace(row=row(1), segment="s", end=1)])
    assert asked(database) == [1]
