"""Request logs in the database: stored once, filtered, paged and deleted."""

from pathlib import Path

import pytest

from gproxy.store import models as m
from gproxy.store import request_logs
from gproxy.store.database import Database
from tests import postgres
from tests.sample_db import migrated

SECOND = 1_000_000_000


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path: Path) -> Database:
    dsn = None if request.param == "sqlite" else postgres.fresh_database(request.config)
    return migrated(tmp_path, dsn)


def downstream(number: int, at: int, user: int = 1, body: bytes | None = b"hello", path: str = "/v1/x") -> tuple:
    headers = '[["a", "b"]]'
    return ("downstream", number, at * SECOND, user, 2, "POST", headers, path, None, body, 200, headers, body)


def upstream(number: int, at: int, url: str = "http://u/v1") -> tuple:
    return ("upstream", number, 1, at * SECOND, 3, 4, "POST", "[]", url, b"\x00\xff", 500, "[]", None, 5, 7)


def ids(database, kind="downstream", **filters) -> list[int]:
    return [row["trace_id"] for row in database.run(request_logs.query, kind, filters)]


def test_an_entry_is_stored_once_and_unchanged(database):
    for _ in range(2):
        database.run(request_logs.insert, database, [downstream(1, 10), upstream(2, 11)])
    (row,) = database.run(request_logs.query, "upstream", {"include_body": True})
    assert (row["request_body"], row["response_body"], row["response_status"]) == (b"\x00\xff", None, 500)
    assert (row["downstream_trace_id"], row["initial_latency_ms"], row["total_latency_ms"]) == (1, 5, 7)
    (row,) = database.run(request_logs.query, "downstream", {})
    assert (row["request_headers_json"], row["request_body"], row["internal"]) == ([["a", "b"]], None, False)


def test_filters_pages_and_counts(database):
    rows = [downstream(n, n, user=n % 2, path=f"/v1/{'chat' if n % 3 else 'other'}") for n in range(1, 10)]
    database.run(request_logs.insert, database, [*rows, downstream(20, 5)])
    assert ids(database, user_id=[0]) == [8, 6, 4, 2]
    assert ids(database, trace_id=[3, 4]) == [4, 3]
    assert ids(database, request_path_contains="other") == [9, 6, 3]
    assert ids(database, from_unix_ms=3000, to_unix_ms=5000) == [20, 5, 4, 3]
    assert ids(database, limit=2, offset=1) == [8, 7]
    seen, cursor = [], {}
    while page := ids(database, limit=3, **cursor):
        seen += page
        cursor = {"cursor_trace_id": page[-1]}
    assert seen == [9, 8, 7, 6, 20, 5, 4, 3, 2, 1]
    assert ids(database, cursor_at_unix_ms=3000) == [2, 1]
    assert database.run(request_logs.count, "downstream", {"user_id": [0]}) == 4


def test_bodies_are_cleared_and_rows_deleted(database):
    database.run(request_logs.insert, database, [downstream(n, n) for n in range(1, 5)])
    assert database.run(request_logs.clear_bodies, database, "downstream", [1, 99]) == 1
    assert database.run(request_logs.clear_bodies, database, "downstream", None) == 3
    rows = database.run(request_logs.query, "downstream", {"include_body": True})
    assert [row["request_body"] for row in rows] == [None] * 4
    assert database.run(request_logs.delete, database, "downstream", []) == 0
    assert database.run(request_logs.delete, database, "downstream", [1, 2, 99]) == 2
    assert ids(database) == [4, 3]


def test_the_oldest_rows_are_deleted_by_age_and_size_in_small_steps(database):
    database.run(request_logs.insert, database, [downstream(n, n, body=b"x" * 1000) for n in range(1, 11)])

    def trim(before: int, max_bytes: int, max_rows: int = 100) -> int:
        return database.run(request_logs.trim, database, "downstream", before * SECOND, max_bytes, max_rows)

    assert trim(0, 10**9) == 0
    assert trim(4, 10**9, max_rows=2) == 2
    assert trim(4, 10**9, max_rows=2) == 1
    assert ids(database) == [10, 9, 8, 7, 6, 5, 4]
    size = database.run(lambda: m.DownstreamRequest.select(m.DownstreamRequest.size).scalar())
    assert trim(0, size * 5) == 2
    assert ids(database) == [10, 9, 8, 7, 6]
    assert trim(0, 0) == 5


def test_cleared_bodies_no_longer_count_toward_the_size(database):
    database.run(request_logs.insert, database, [downstream(n, n, body=b"x" * 100_000) for n in range(1, 6)])
    database.run(request_logs.clear_bodies, database, "downstream", None)
    assert database.run(request_logs.trim, database, "downstream", 0, 100_000, 200) == 0


def test_a_page_with_bodies_is_limited_by_its_bytes(database, monkeypatch):
    database.run(request_logs.insert, database, [downstream(n, n, body=b"x" * 1000) for n in range(1, 11)])
    monkeypatch.setattr(request_logs, "MAX_BYTES", 6_500)
    assert ids(database, include_body=True) == [10, 9, 8]
    assert ids(database, include_body=True, limit=2) == [10, 9]
    assert len(ids(database)) == 10
    monkeypatch.setattr(request_logs, "MAX_BYTES", 1)
    assert ids(database, include_body=True, cursor_trace_id=4) == [3]
