"""Logs of requests in the database."""

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


def down(number: int, at: int, user: int = 1, body: bytes | None = b"hello", path: str = "/v1/x") -> tuple:
    headers = '[["a", "b"]]'
    return ("downstream", number, at * SECOND, user, 2, "POST", headers, path, None, body, 200, headers, body)


def up(number: int, at: int, url: str = "http://u/v1") -> tuple:
    return ("upstream", number, 1, at * SECOND, 3, 4, "POST", "[]", url, b"\x00\xff", 500, "[]", None, 5, 7)


def ids(database, kind="downstream", **asked) -> list[int]:
    return [row["trace_id"] for row in database.run(request_logs.query, kind, asked)]


def test_each_is_stored_once_as_it_was(database):
    for _ in range(2):
        database.run(request_logs.book, database, [down(1, 10), up(2, 11)])
    (row,) = database.run(request_logs.query, "upstream", {"include_body": True})
    assert (row["request_body"], row["response_body"], row["response_status"]) == (b"\x00\xff", None, 500)
    assert (row["downstream_trace_id"], row["initial_latency_ms"], row["total_latency_ms"]) == (1, 5, 7)
    (row,) = database.run(request_logs.query, "downstream", {})
    assert (row["request_headers_json"], row["request_body"], row["internal"]) == ([["a", "b"]], None, False)


def test_filters_pages_and_counts(database):
    rows = [down(n, n, user=n % 2, path=f"/v1/{'chat' if n % 3 else 'other'}") for n in range(1, 10)]
    database.run(request_logs.book, database, [*rows, down(20, 5)])
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


def test_bodies_are_emptied_and_rows_deleted(database):
    database.run(request_logs.book, database, [down(n, n) for n in range(1, 5)])
    assert database.run(request_logs.clear, database, "downstream", [1, 99]) == 1
    assert database.run(request_logs.clear, database, "downstream", None) == 3
    rows = database.run(request_logs.query, "downstream", {"include_body": True})
    assert [row["request_body"] for row in rows] == [None] * 4
    assert database.run(request_logs.delete, database, "downstream", []) == 0
    assert database.run(request_logs.delete, database, "downstream", [1, 2, 99]) == 2
    assert ids(database) == [4, 3]


def test_the_oldest_go_by_age_and_by_room_in_small_steps(database):
    database.run(request_logs.book, database, [down(n, n, body=b"x" * 1000) for n in range(1, 11)])

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


def test_rows_whose_bodies_are_gone_take_no_room(database):
    database.run(request_logs.book, database, [down(n, n, body=b"x" * 100_000) for n in range(1, 6)])
    database.run(request_logs.clear, database, "downstream", None)
    assert database.run(request_logs.trim, database, "downstream", 0, 100_000, 200) == 0


def test_a_page_with_bodies_is_bounded_by_its_bytes(database, monkeypatch):
    database.run(request_logs.book, database, [down(n, n, body=b"x" * 1000) for n in range(1, 11)])
    monkeypatch.setattr(request_logs, "MAX_BYTES", 6_500)
    assert ids(database, include_body=True) == [10, 9, 8]
    assert ids(database, include_body=True, limit=2) == [10, 9]
    assert len(ids(database)) == 10
    monkeypatch.setattr(request_logs, "MAX_BYTES", 1)
    assert ids(database, include_body=True, cursor_trace_id=4) == [3]
