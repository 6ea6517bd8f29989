"""Users' keys: added, changed, listed and deleted."""

from pathlib import Path

import pytest

from gproxy.admission.keys import digest
from gproxy.errors import Forbidden, NotFound
from gproxy.store import ledger_check, snapshot_loader, users
from gproxy.store import models as m
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


BY_USER, BY_ADMINISTRATOR = "user", "administrator"
# Who switches the key, in order, and what it is afterwards: enabled, and who disabled it.
SWITCHED = [
    ([(BY_USER, False)], (False, BY_USER)),
    ([(BY_USER, False), (BY_USER, True)], (True, None)),
    ([(BY_USER, True)], (True, None)),
    ([(BY_ADMINISTRATOR, False)], (False, BY_ADMINISTRATOR)),
    ([(BY_ADMINISTRATOR, False), (BY_ADMINISTRATOR, True)], (True, None)),
    ([(BY_ADMINISTRATOR, False), (BY_ADMINISTRATOR, True), (BY_USER, False)], (False, BY_USER)),
    ([(BY_ADMINISTRATOR, False), (BY_USER, False)], (False, BY_ADMINISTRATOR)),
    ([(BY_USER, False), (BY_ADMINISTRATOR, False)], (False, BY_ADMINISTRATOR)),
    ([(BY_USER, False), (BY_ADMINISTRATOR, True)], (True, None)),
]


def switch(database: Database, who: str, enabled: bool) -> None:
    if who == BY_USER:
        database.run(users.switch_own_key, database, 2, 2, enabled)
    else:
        database.run(users.change_key, database, 2, {"enabled": enabled})


@pytest.mark.parametrize(("switches", "expected"), SWITCHED)
def test_a_disabled_key_names_who_disabled_it(database: Database, switches, expected):
    for who, enabled in switches:
        switch(database, who, enabled)
    (key,) = database.run(users.keys, [2])
    assert (key.enabled, key.disabled_by) == expected


@pytest.mark.parametrize("first", [[], [(BY_USER, False)]], ids=["enabled", "disabled by its user"])
def test_a_user_cannot_enable_a_key_that_an_administrator_disabled(database: Database, first):
    for who, enabled in (*first, (BY_ADMINISTRATOR, False), (BY_USER, False)):
        switch(database, who, enabled)
    before = revision(database)
    with pytest.raises(Forbidden, match="key 2: an administrator disabled it"):
        switch(database, BY_USER, True)
    assert digest("sk-ann") not in callers(database) and revision(database) == before


def test_a_change_of_other_fields_leaves_who_disabled_a_key(database: Database):
    switch(database, BY_USER, False)
    database.run(users.change_key, database, 2, {"label": "new", "budget": 5})
    assert database.run(users.keys, [2])[0].disabled_by == BY_USER


def test_a_key_that_was_disabled_without_a_name_counts_as_disabled_by_an_administrator(database: Database):
    """Such as by an older version on another machine."""
    database.run(m.UserKey.update(enabled=False).where(m.UserKey.id == 2).execute)
    assert database.run(users.keys, [2])[0].disabled_by == BY_ADMINISTRATOR
    with pytest.raises(Forbidden):
        switch(database, BY_USER, True)


def test_a_user_switches_only_own_keys(database: Database):
    for key_id in (1, 99):
        with pytest.raises(NotFound, match=f"you have no key {key_id}"):
            database.run(users.switch_own_key, database, 2, key_id, False)
    assert all(key.enabled for key in database.run(users.keys, None))


def test_a_user_makes_keys_only_if_it_may(database: Database):
    assert database.run(users.add_own_key, database, 2, ("d1", "f1"), None) == 3
    database.run(m.User.update(may_make_keys=False).where(m.User.id == 2).execute)
    before = revision(database)
    with pytest.raises(Forbidden, match="may not make keys"):
        database.run(users.add_own_key, database, 2, ("d2", "f2"), None)
    assert not database.run(users.key_exists, "d2") and revision(database) == before
    made_by_administrator = database.run(users.add_keys, database, 2, [("d3", "f3")], users.KeySettings())
    assert made_by_administrator == [4]


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
