"""Users' keys: added, changed, listed and deleted."""

from pathlib import Path

import pytest

from gproxy.admission.keys import digest
from gproxy.errors import NotFound
from gproxy.store import ledger_check, snapshot_loader, users
from gproxy.store.database import Database
from tests.sample_db import filled


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return filled(tmp_path)


def revision(database: Database) -> int:
    return database.run(snapshot_loader.revisions)["users"]


def ids(database: Database, user_ids: list[int] | None = None) -> list[int]:
    return [key.id for key in database.run(users.keys, user_ids)]


def callers(database: Database) -> set[str]:
    return set(database.run(snapshot_loader.load, None, {}, None).callers)


@pytest.mark.parametrize(("user_ids", "found"), [(None, [1, 2]), ([1], [1]), ([1, 2], [1, 2]), ([], []), ([99], [])])
def test_keys_are_found_by_their_users(database: Database, user_ids, found):
    assert ids(database, user_ids) == found


def test_keys_are_listed_in_pages(database: Database):
    for page, found in (({"limit": 1, "offset": 0}, [1]), ({"limit": 5, "offset": 1}, [2]), ({}, [1, 2])):
        assert [key.id for key in database.run(users.keys, None, page)] == found


def test_new_keys_are_listed_and_usable(database: Database):
    before = revision(database)
    added = database.run(users.add_keys, database, 2, [("d1", "f1"), ("d2", "f2")], users.KeySettings("laptop"))
    assert ids(database, [2]) == [2, *added]
    key = database.run(users.keys, [2])[-1]
    assert (key.fingerprint, key.label, key.enabled, key.expires_at) == ("f2", "laptop", True, None)
    assert {"d1", "d2"} <= callers(database)
    assert revision(database) == before + 1
    assert database.run(users.key_exists, "d1") and not database.run(users.key_exists, "d3")


def test_a_key_for_a_missing_user_is_not_added(database: Database):
    before = revision(database)
    with pytest.raises(NotFound, match="no user 99"):
        database.run(users.add_keys, database, 99, [("d1", "f1")], users.KeySettings())
    assert (revision(database), database.run(users.key_exists, "d1")) == (before, False)


def test_keys_are_added_all_or_none(database: Database):
    with pytest.raises(Exception, match="cannot be used"):
        database.run(users.add_keys, database, 2, [("d1", "f1"), (digest("sk-root"), "f2")], users.KeySettings())
    assert not database.run(users.key_exists, "d1")


def test_a_disabled_key_is_refused(database: Database):
    before = revision(database)
    database.run(users.change_key, database, 2, {"enabled": False})
    assert digest("sk-ann") not in callers(database)
    database.run(users.change_key, database, 2, {"enabled": True})
    assert digest("sk-ann") in callers(database)
    assert revision(database) == before + 2


def test_a_missing_key_cannot_be_changed(database: Database):
    before = revision(database)
    with pytest.raises(NotFound, match="no key 99"):
        database.run(users.change_key, database, 99, {"enabled": True})
    assert revision(database) == before


def test_a_key_may_get_a_budget_and_an_expiry_when_added_or_later(database: Database):
    (added,) = database.run(users.add_keys, database, 2, [("d1", "f1")], users.KeySettings(None, 50, 2_000_000_000))
    key = database.run(users.keys, [2])[-1]
    assert (key.id, key.budget, key.expires_at, key.cost_used) == (added, 50, 2_000_000_000, 0)
    changes = {"label": "new", "budget": None, "expires_at": None, "cost_used": 7}
    database.run(users.change_key, database, added, changes)
    key = database.run(users.keys, [2])[-1]
    assert {name: getattr(key, name) for name in changes} == changes
    assert key.enabled and database.run(ledger_check.verify).differences == ()


def test_only_the_given_key_is_changed(database: Database):
    database.run(users.change_key, database, 2, {"budget": 50, "cost_used": 1})
    assert [(key.budget, key.cost_used) for key in database.run(users.keys, None)] == [(None, 0), (50, 1)]


def test_a_deleted_key_is_neither_listed_nor_admitted(database: Database):
    before = revision(database)
    database.run(users.delete_keys, database, [2])
    assert (ids(database), digest("sk-ann") in callers(database)) == ([1], False)
    assert revision(database) == before + 1


def test_keys_are_deleted_all_or_none(database: Database):
    before = revision(database)
    with pytest.raises(NotFound, match="no key 98, 99; nothing was deleted"):
        database.run(users.delete_keys, database, [1, 99, 2, 98])
    assert (ids(database), revision(database)) == ([1, 2], before)
