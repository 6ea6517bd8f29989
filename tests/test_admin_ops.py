"""What administrators do: every change is announced to all workers, and audited if someone is named for it."""

from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from gproxy import channels
from gproxy.admin_ops import AdminOps, ConfigurationReader
from gproxy.config import export
from gproxy.errors import BadRequest
from gproxy.state.change_counter import ChangeCounter
from gproxy.state.interface import Account, AccountAmounts
from gproxy.state.mmap.state import MmapState
from gproxy.store import accounts, audit, entities
from gproxy.store.audit import Actor
from gproxy.threads import Threads
from tests.running_process import PROMPT_S, busy_process
from tests.sample_db import filled

ACTOR = Actor(1, "root", 1, "127.0.0.1", "req_1", "a test")
PROVIDER = {"name": "late", "channel": "openai"}
NO_NAMES = frozenset()


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[AdminOps]:
    database = filled(tmp_path)
    shared, counter = MmapState(tmp_path / "state"), ChangeCounter(tmp_path / "signal")
    reader = ConfigurationReader({}, channels.load())
    yield AdminOps(database, None, shared, counter, reader, Threads(1))
    shared.close()
    counter.close()


def provider_names(admin: AdminOps) -> list[str]:
    return [row["name"] for row in admin.ask(entities.find, entities.PROVIDER, {})]


def audited(admin: AdminOps) -> list[tuple[str, str]]:
    return [(row["user_name"], row["action"]) for row in admin.ask(audit.query, {})]


def load_account(admin: AdminOps, name: str) -> None:
    admin.shared.load(name, admin.shared.version(name), AccountAmounts(0, 7, {}, {}))


def is_loaded(admin: AdminOps, name: str) -> bool:
    return not admin.shared.inspect((Account(name, 100),), ()).unknown


def test_a_query_returns_its_result_and_announces_nothing(admin):
    assert provider_names(admin) == ["one", "two"]
    assert admin.change_counter.read() == 0


@pytest.mark.parametrize(("actor", "entries"), [(ACTOR, [("root", "a test")]), (None, [])])
def test_a_change_is_announced_and_audited_if_it_has_an_actor(admin, actor, entries):
    admin.change(actor, entities.put, entities.PROVIDER, [PROVIDER])
    assert "late" in provider_names(admin)
    assert audited(admin) == entries
    assert admin.change_counter.read() == 1


def test_a_refused_change_is_neither_announced_nor_audited(admin):
    with pytest.raises(BadRequest, match="there is no provider 99"):
        admin.change(ACTOR, entities.put, entities.PROVIDER, [{"id": 99, "name": "none"}])
    assert (audited(admin), admin.change_counter.read()) == ([], 0)


def test_a_changed_account_is_loaded_again_and_the_others_are_not(admin):
    for name in ("u1", "u2"):
        load_account(admin, name)
    admin.change_account(ACTOR, accounts.set_quota, "u2", 2, 500, None, "day")
    assert [is_loaded(admin, name) for name in ("u1", "u2")] == [True, False]
    assert (len(audited(admin)), admin.change_counter.read()) == (1, 1)


def test_an_export_can_be_imported_without_a_change(admin):
    text = export.toml(admin.export(), True)
    assert admin.apply_import(ACTOR, text, NO_NAMES, True, False) == []
    assert (audited(admin), admin.change_counter.read()) == ([], 0)


NEW = '[[providers]]\nname = "late"\nchannel = "openai"\n'


def test_a_dry_import_changes_nothing_and_returns_the_changes(admin):
    (change,) = admin.apply_import(ACTOR, NEW, NO_NAMES, False, True)
    assert (change.what, change.entity, change.name) == ("added", "providers", "late")
    assert provider_names(admin) == ["one", "two"]
    assert (audited(admin), admin.change_counter.read()) == ([], 0)


def test_an_import_is_announced_and_audited_and_all_accounts_are_loaded_again(admin):
    admin.change(None, accounts.set_quota, 2, 500, None, "day")
    load_account(admin, "u2")
    assert len(admin.apply_import(ACTOR, NEW, NO_NAMES, False, False)) == 1
    assert "late" in provider_names(admin)
    assert not is_loaded(admin, "u2")
    assert (len(audited(admin)) > 0, admin.change_counter.read()) == (True, 2)


def test_rows_that_a_pruning_import_does_not_contain_are_deleted(admin):
    text = export.toml(admin.export(), True)
    admin.change(None, entities.put, entities.PROVIDER, [PROVIDER])
    assert admin.apply_import(ACTOR, text, NO_NAMES, False, True) == []
    (change,) = admin.apply_import(ACTOR, text, NO_NAMES, True, False)
    assert (change.what, change.entity, change.name) == ("deleted", "providers", "late")
    assert provider_names(admin) == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("[[providers", "toml: not readable"), ("x = " + "[" * 9000, "toml: not readable"), ("[[providers]]\n", "name")],
)
def test_an_unreadable_configuration_is_refused(admin, text, message):
    with pytest.raises(BadRequest, match=message):
        admin.apply_import(ACTOR, text, NO_NAMES, False, False)


def test_a_reserved_name_is_refused(admin):
    with pytest.raises(BadRequest, match="late"):
        admin.apply_import(ACTOR, NEW, frozenset({"late"}), False, False)


def test_slow_queries_delay_no_change(tmp_path):
    with busy_process(tmp_path) as process, gevent.Timeout(PROMPT_S):
        process.admin.change(None, entities.put, entities.PROVIDER, [PROVIDER])
        assert "late" in process.snapshots().providers
