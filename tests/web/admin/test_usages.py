"""Deleting usage rows over the admin API."""

import sqlite3
from contextlib import closing

import pytest

from tests.gateway import DEV, Gateway
from tests.store.test_usages import row


@pytest.fixture
def stored(admin: Gateway) -> list[str]:
    """The ids of three usage rows of a user without an account."""
    rows = [row(2**60 + number, user_id=77, user_key_id=77) for number in range(3)]
    names = list(rows[0])
    with closing(sqlite3.connect(admin.data / "gproxy.db", timeout=10)) as database, database:
        database.execute("DELETE FROM usages")
        places = ", ".join("?" * (len(names) + 1))
        sql = f"INSERT INTO usages ({', '.join(names)}, created_at) VALUES ({places})"
        database.executemany(sql, [(*(one[name] for name in names), 1) for one in rows])
    return [str(one["trace_id"]) for one in rows]


def remaining_ids(admin: Gateway) -> list[str]:
    return sorted(found["trace_id"] for found in admin.usages(user_id=77))


def test_rows_are_deleted_by_ids_that_are_numbers_or_text(admin: Gateway, stored):
    reply = admin.post("/admin/usages/batch-delete", [stored[0], int(stored[1]), "5"])
    assert (reply.status, reply.json) == (200, {"ok": True, "deleted": 2})
    assert remaining_ids(admin) == stored[2:]


def test_an_empty_list_deletes_nothing(admin: Gateway, stored):
    reply = admin.post("/admin/usages/batch-delete", [])
    assert (reply.status, reply.json) == (200, {"ok": True, "deleted": 0})
    assert remaining_ids(admin) == stored


@pytest.mark.parametrize("body", [{}, {"all": True}, None, [-1], ["x"], [1.5], [None], [[1]], list(range(10_001))])
def test_a_body_that_is_not_a_list_of_ids_is_refused_and_deletes_nothing(admin: Gateway, stored, body):
    reply = admin.post("/admin/usages/batch-delete", b"null" if body is None else body)
    assert reply.status == 400, reply.body
    assert remaining_ids(admin) == stored


def test_only_administrators_can_delete(admin: Gateway, stored):
    assert admin.post("/admin/usages/batch-delete", stored, DEV).status == 403
    assert remaining_ids(admin) == stored
