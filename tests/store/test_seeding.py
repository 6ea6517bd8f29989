"""Filling an empty database stores everything or nothing."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gproxy.errors import Unavailable
from gproxy.state.periods import window
from gproxy.store import access, ledger, ledger_check, seeding, snapshot_loader, users
from gproxy.store import models as m
from gproxy.store.accounts import Account
from gproxy.store.seeding import NewAlias, NewLimit, NewModel, NewQuota, NewTarget, NewUser
from tests import postgres
from tests.sample_db import SECRET, content, filled, key, migrated, provider


@pytest.fixture(params=["sqlite", "postgres"])
def dsn(request, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gproxy.db'}"
    return postgres.fresh_database(request.config)


def counts() -> dict[str, int]:
    return {model._meta.table_name: found for model in m.ALL if (found := model.select().count())}


# rows that a migration adds
REVISIONS = {"revisions": len(snapshot_loader.TABLES)}


def test_a_database_is_empty_until_it_is_filled(tmp_path: Path, dsn):
    database = migrated(tmp_path, dsn)
    assert database.run(seeding.is_empty)
    database.run(seeding.fill, database, content())
    assert not database.run(seeding.is_empty)


def test_everything_is_stored(tmp_path: Path, dsn):
    database = filled(tmp_path, dsn)
    assert database.run(counts) == REVISIONS | {
        "global_settings": 1,
        "providers": 2,
        "credentials": 1,
        "models": 1,
        "model_aliases": 1,
        "model_alias_targets": 1,
        "users": 2,
        "user_keys": 2,
        "user_model_permissions": 2,
    }
    credential = database.run(lambda: m.Credential.select().get())
    assert (json.loads(credential.secret_json), credential.kind) == ({"api_key": SECRET}, "openai")
    model = database.run(lambda: m.Model.select().dicts().get())
    assert (model["pricing_json"], model["display_name"]) == ('{"price_each_call": "0.1"}', "Model M")


def test_a_routing_document_is_stored_unchanged(tmp_path: Path, dsn):
    written = replace(provider("two"), routing_json='{"rules": []}')
    database = filled(tmp_path, dsn, providers=(provider("one"), written))
    stored = database.run(lambda: [row.routing_json for row in m.Provider.select().order_by(m.Provider.name)])
    assert stored == ["{}", '{"rules": []}']


def test_limits_quotas_and_restricted_keys_are_stored(tmp_path: Path, dsn):
    restricted = key(
        "sk-ann",
        budget=5,
        permissions=(("one", "m*"), (None, "n")),
        limits=(NewLimit("m", rpm=1, concurrency=2),),
    )
    database = filled(
        tmp_path,
        dsn,
        users=(NewUser("root", None, True, True, (key("sk-root"),)), NewUser("ann", None, True, False, (restricted,))),
        limits=(("ann", NewLimit("*", rpd=0)), ("root", NewLimit("*", total_tokens=2**53))),
        quotas=(("ann", NewQuota(10, 4, "month")), ("root", NewQuota(20))),
        file_permissions=(("ann", "two"),),
        aliases=(NewAlias("chat", True, (NewTarget("one", "m"),), '{"price_each_call": "0.2"}'),),
    )
    assert database.run(access.rows, access.Permission, {"user_id": [2]}) == [
        access.Permission(1, 2, 2, 1, "m*"),
        access.Permission(2, 2, 2, None, "n"),
        access.Permission(4, 2, None, 1, "m*"),
    ]
    assert database.run(access.rows, access.RateLimit, {}) == [
        access.RateLimit(1, 2, 2, "m", 1, None, None, 2),
        access.RateLimit(2, 2, None, "*", None, 0, None, None),
        access.RateLimit(3, 1, None, "*", None, None, 2**53, None),
    ]
    assert database.run(access.rows, access.FilePermission, {}) == [access.FilePermission(1, 2, 2)]
    month = window("month", time.time())[0]
    assert database.run(ledger.account, 2) == Account(4, month, 10, "month")
    assert database.run(ledger.account, 1) == Account(0, 0, 20, None)
    assert database.run(ledger.key_account, 2) == Account(0, 0, 5, None)
    assert database.run(ledger_check.verify).differences == ()
    assert database.run(lambda: [k.narrowed for k in m.UserKey.select().order_by(m.UserKey.id)]) == [False, True]
    assert database.run(lambda: m.ModelAlias.get().pricing_json) == '{"price_each_call": "0.2"}'


@pytest.mark.parametrize(
    "broken",
    [
        {"models": (NewModel("absent", "m", None, True, None),)},
        {"aliases": (NewAlias("a", True, (NewTarget("absent", "m"),)),)},
        {"permissions": (("absent", None, "*"),)},
        {"users": tuple(replace(user, keys=(key("same"),)) for user in content().users)},
        {"providers": content().providers * 2},
        {"limits": (("absent", NewLimit("*", rpm=1)),)},
        {"limits": (("ann", NewLimit("*", rpm=1)),) * 2},
        {"quotas": (("ann", NewQuota(1)),) * 2},
        {"file_permissions": (("ann", "absent"),)},
    ],
    ids=["model", "alias", "permission", "key", "provider", "limit", "limits", "quota", "files"],
)
def test_a_broken_configuration_stores_nothing(tmp_path: Path, dsn, broken):
    database = migrated(tmp_path, dsn)
    with pytest.raises((KeyError, Unavailable)):
        database.run(seeding.fill, database, content(**broken))
    assert database.run(counts) == REVISIONS
    assert database.run(seeding.is_empty)


def test_filling_increments_every_revision(tmp_path: Path, dsn):
    database = migrated(tmp_path, dsn)
    before = database.run(snapshot_loader.revisions)
    database.run(seeding.fill, database, content())
    after = database.run(snapshot_loader.revisions)
    assert after == {table: revision + 1 for table, revision in before.items()}
    assert set(after) == set(snapshot_loader.TABLES)


def test_keys_are_stored_as_digest_and_fingerprint_only(tmp_path: Path):
    database = filled(tmp_path)
    (root, ann) = database.run(users.keys, None)
    assert (root.fingerprint, ann.fingerprint) == (key("sk-root").fingerprint, key("sk-ann").fingerprint)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert key("sk-ann").digest.encode() in stored and b"sk-ann" not in stored
