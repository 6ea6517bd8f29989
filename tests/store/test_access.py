"""Permissions, file permissions and rate limits: unique rows, stored all or none, with a new revision."""

from pathlib import Path

import pytest

from gproxy.admission.keys import digest
from gproxy.errors import NotFound
from gproxy.store import access, snapshot_loader
from gproxy.store import models as m
from gproxy.store.access import FilePermission, Permission, RateLimit
from gproxy.store.database import Database
from gproxy.store.seeding import NewUser
from tests import postgres
from tests.sample_db import filled, key

ROOT, ANN, ONE, TWO = 1, 2, 1, 2
SECOND_KEY = 3  # of Ann
USERS = (
    NewUser("root", None, True, True, (key("sk-root"),)),
    NewUser("ann", None, True, False, (key("sk-ann"), key("sk-ann-2"))),
)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path: Path) -> Database:
    dsn = None if request.param == "sqlite" else postgres.fresh_database(request.config)
    return filled(tmp_path, dsn, users=USERS, permissions=())


def put(database: Database, *entries) -> list[int]:
    return database.run(access.put, database, entries)


def rows(database: Database, kind: type, **filters) -> list:
    return database.run(access.rows, kind, filters)


def revision(database: Database) -> int:
    return database.run(snapshot_loader.revisions)["users"]


def limit(pattern: str = "*", key_id: int | None = None, row_id: int = 0, user: int = ANN, **amounts) -> RateLimit:
    amounts = {"rpm": None, "rpd": None, "total_tokens": None, "concurrency": None} | amounts
    return RateLimit(row_id, user, key_id, pattern, **amounts)


def test_rows_are_stored_as_they_are_given(database: Database):
    before = revision(database)
    assert put(database, limit("a", rpm=0, total_tokens=2**53), limit("b", ANN, concurrency=1)) == [1, 2]
    assert put(database, Permission(0, ANN, None, ONE, "m*"), Permission(0, ANN, None, None, "m*")) == [1, 2]
    assert put(database, FilePermission(0, ANN, TWO)) == [1]
    assert rows(database, RateLimit) == [
        RateLimit(1, ANN, None, "a", 0, None, 2**53, None),
        RateLimit(2, ANN, ANN, "b", None, None, None, 1),
    ]
    assert rows(database, Permission) == [Permission(1, ANN, None, ONE, "m*"), Permission(2, ANN, None, None, "m*")]
    assert rows(database, FilePermission) == [FilePermission(1, ANN, TWO)]
    assert revision(database) == before + 3


def test_rows_are_found_by_user_key_and_provider(database: Database):
    put(database, *(Permission(0, user, None, provider, "m") for user in (ROOT, ANN) for provider in (ONE, TWO)))
    put(database, Permission(0, ANN, ANN, ONE, "m"))
    for filters, found in (
        ({}, [1, 2, 3, 4, 5]),
        ({"user_id": [ANN]}, [3, 4, 5]),
        ({"user_id": [ROOT, ANN], "provider_id": [ONE]}, [1, 3, 5]),
        ({"key_id": [ANN]}, [5]),
        ({"user_id": []}, []),
        ({"limit": 2}, [1, 2]),
        ({"limit": 2, "offset": 3}, [4, 5]),
        ({"offset": 4}, [5]),
        ({"user_id": None, "limit": None}, [1, 2, 3, 4, 5]),
    ):
        assert [row.id for row in rows(database, Permission, **filters)] == found, filters


def test_a_row_with_the_same_unique_columns_is_changed_and_keeps_its_id(database: Database):
    put(database, limit("a", rpm=1), limit("a", ANN, rpm=2), limit("a", SECOND_KEY, rpm=3))
    assert put(database, limit("a", ANN, rpd=5), limit("a", rpm=7)) == [2, 1]
    assert [(row.rpm, row.rpd) for row in rows(database, RateLimit)] == [(7, None), (None, 5), (3, None)]


def test_a_row_may_be_changed_by_its_id(database: Database):
    put(database, limit("a", rpm=1), limit("b", rpm=2))
    assert put(database, limit("c", row_id=1, rpm=3)) == [1]
    assert [(row.id, row.model_pattern, row.rpm) for row in rows(database, RateLimit)] == [(1, "c", 3), (2, "b", 2)]


def test_a_row_that_is_changed_into_another_replaces_it(database: Database):
    put(database, Permission(0, ANN, None, None, "a"), Permission(0, ANN, None, None, "b"))
    assert put(database, Permission(1, ANN, None, None, "b")) == [2]
    assert rows(database, Permission) == [Permission(2, ANN, None, None, "b")]


def test_an_id_may_be_chosen_and_is_not_used_again(database: Database):
    assert put(database, limit("a", row_id=2, rpm=1)) == [2]
    assert put(database, *(limit(pattern, rpm=1) for pattern in "bcd")) == [3, 4, 5]
    assert put(database, limit("e", row_id=1, rpm=1)) == [1]
    assert put(database, limit("f", rpm=1))[0] > 5


BROKEN_REFERENCES = [
    (limit(user=99, rpm=1), "there is no user 99"),
    (limit(key_id=99, rpm=1), "user 2 has no key 99"),
    (limit(key_id=ROOT, rpm=1), "user 2 has no key 1"),
    (Permission(0, 99, None, None, "*"), "there is no user 99"),
    (Permission(0, ANN, None, 99, "*"), "there is no provider 99"),
    (Permission(0, ANN, ROOT, None, "*"), "user 2 has no key 1"),
    (FilePermission(0, ANN, 99), "there is no provider 99"),
]


@pytest.mark.parametrize(("entry", "message"), BROKEN_REFERENCES, ids=[message for _, message in BROKEN_REFERENCES])
def test_rows_are_stored_all_or_none(database: Database, entry, message):
    before = revision(database)
    good = limit("good", rpm=1) if isinstance(entry, RateLimit) else Permission(0, ANN, ANN, None, "good")
    with pytest.raises(NotFound, match=message):
        put(database, good, entry)
    assert [rows(database, kind) for kind in access.TABLES] == [[], [], []]
    assert revision(database) == before


@pytest.mark.parametrize("kind", access.TABLES)
def test_rows_are_deleted_all_or_none(database: Database, kind):
    entries = {
        RateLimit: [limit("a", rpm=1), limit("b", rpm=1)],
        Permission: [Permission(0, ANN, None, None, "a"), Permission(0, ANN, None, None, "b")],
        FilePermission: [FilePermission(0, ANN, ONE), FilePermission(0, ANN, TWO)],
    }[kind]
    put(database, *entries)
    before = revision(database)
    with pytest.raises(NotFound, match="no row 8, 9; nothing was deleted"):
        database.run(access.delete, database, kind, [1, 9, 8])
    assert (len(rows(database, kind)), revision(database)) == (2, before)
    database.run(access.delete, database, kind, [1])
    assert ([row.id for row in rows(database, kind)], revision(database)) == ([2], before + 1)


def test_a_limit_is_deleted_by_its_unique_columns(database: Database):
    put(database, limit("a", rpm=1), limit("a", ANN, rpm=2), limit("b", rpm=3))
    for limits, message in (
        ([(ANN, None, "a"), (ANN, None, "c")], "user 2 has no rate limit for 'c'; nothing was deleted"),
        ([(ANN, SECOND_KEY, "a")], "key 3 has no rate limit for 'a'; nothing was deleted"),
    ):
        with pytest.raises(NotFound, match=message):
            database.run(access.delete_limits, database, limits)
    assert len(rows(database, RateLimit)) == 3
    database.run(access.delete_limits, database, [(ANN, ANN, "a"), (ANN, None, "b")])
    assert [(row.key_id, row.model_pattern) for row in rows(database, RateLimit)] == [(None, "a")]


def test_a_key_is_restricted_as_long_as_it_has_permissions(database: Database):
    def restricted() -> list[bool]:
        found = database.run(snapshot_loader.load, None, {}, None)
        return [found.callers[digest(text)].key_grants is not None for text in ("sk-root", "sk-ann", "sk-ann-2")]

    put(database, Permission(0, ANN, None, None, "*"), FilePermission(0, ANN, ONE))
    assert restricted() == [False, False, False]
    first, second = put(database, Permission(0, ANN, ANN, None, "a"), Permission(0, ANN, ANN, ONE, "a"))
    assert restricted() == [False, True, False]
    database.run(access.delete, database, Permission, [first])
    assert restricted() == [False, True, False]
    put(database, Permission(second, ANN, SECOND_KEY, ONE, "a"))
    assert restricted() == [False, False, True]
    database.run(access.delete, database, Permission, [second])
    assert restricted() == [False, False, False]


def test_a_key_for_a_deleted_provider_stays_restricted(database: Database):
    put(database, Permission(0, ANN, ANN, ONE, "a"), Permission(0, ANN, SECOND_KEY, None, "a"))
    database.run(m.Provider.delete().where(m.Provider.id == ONE).execute)
    put(database, Permission(0, ANN, SECOND_KEY, TWO, "a"))
    narrowed = database.run(lambda: [key.narrowed for key in m.UserKey.select().order_by(m.UserKey.id)])
    assert narrowed == [False, True, True]


def test_the_rows_of_a_deleted_user_or_key_are_deleted(database: Database):
    put(database, limit("a", rpm=1), limit("a", ANN, rpm=1), Permission(0, ANN, ANN, None, "a"))
    database.run(m.UserKey.delete().where(m.UserKey.id == ANN).execute)
    assert ([row.key_id for row in rows(database, RateLimit)], rows(database, Permission)) == ([None], [])
    database.run(m.User.delete().where(m.User.id == ANN).execute)
    assert rows(database, RateLimit) == []
