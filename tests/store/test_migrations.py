"""Migrations: the tables they create, the backup before them, and the rollback of a failed one."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from gproxy.errors import Unavailable
from gproxy.store import ledger, ledger_check
from gproxy.store import models as m
from gproxy.store.accounts import MAX_INTEGER
from gproxy.store.database import MIGRATIONS, Database
from tests import postgres
from tests.sample_db import filled, migrated

LATER = """
import peewee as pw

def up(migrator, db):
    migrator.migrate(migrator.add_column("providers", "note", pw.TextField(null=True)))
"""
OURS = sorted(path.stem for path in MIGRATIONS.glob("[0-9]*.py"))
BROKEN = LATER + '    db.execute_sql("SELECT 1 FROM nowhere")\n'


@pytest.fixture(params=["sqlite", "postgres"])
def dsn(request, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gproxy.db'}"
    return postgres.fresh_database(request.config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the migrations, to which a test adds one."""
    copy = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def migrate(database: Database, folder: Path) -> list[str]:
    with database.start_lock():
        return database.migrate(folder)


def columns(database: Database, table: str) -> set[str]:
    return {column.name for column in database.run(m.proxy.obj.get_columns, table)}


def test_the_migrations_create_the_tables_of_the_models(tmp_path: Path, dsn):
    database = migrated(tmp_path, dsn)
    for model in m.ALL:
        fields = {field.column_name: field.null for field in model._meta.sorted_fields}
        created = database.run(m.proxy.obj.get_columns, model._meta.table_name)
        assert {column.name: column.null for column in created} == fields, model
        indexed = {
            (tuple(index.columns), index.unique)
            for index in database.run(m.proxy.obj.get_indexes, model._meta.table_name)
        }
        single = {((field.column_name,), bool(field.unique)) for field in model._meta.sorted_fields if field.index}
        together = {
            (tuple(model._meta.fields[name].column_name for name in names), unique)
            for names, unique in model._meta.indexes
        }
        assert single | together <= indexed, model


def test_a_fresh_database_is_not_backed_up(tmp_path: Path, folder: Path, dsn):
    (folder / "9000_later.py").write_text(LATER)
    assert migrate(Database(dsn, tmp_path), folder) == [*OURS, "9000_later"]
    assert not (tmp_path / "backups").exists()


def test_an_applied_migration_is_not_applied_again(tmp_path: Path, folder: Path, dsn):
    database = filled(tmp_path, dsn)
    assert migrate(database, folder) == []
    (folder / "9000_later.py").write_text(LATER)
    assert migrate(database, folder) == ["9000_later"]
    assert migrate(database, folder) == []
    assert "note" in columns(database, "providers")
    assert database.run(m.Provider.select().count) == 2


def test_sqlite_is_backed_up_before_a_migration(tmp_path: Path, folder: Path):
    database = filled(tmp_path)
    (folder / "9000_later.py").write_text(LATER)
    migrate(database, folder)
    (backup,) = (tmp_path / "backups").iterdir()
    assert backup.name.startswith("gproxy-before-9000_later-") and backup.suffix == ".db"
    copy = sqlite3.connect(backup)
    assert [row[0] for row in copy.execute("SELECT name FROM providers ORDER BY name")] == ["one", "two"]
    assert "note" not in {row[1] for row in copy.execute("PRAGMA table_info(providers)")}
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copy.close()


def test_postgres_is_not_backed_up(tmp_path: Path, folder: Path, pytestconfig):
    database = filled(tmp_path, postgres.fresh_database(pytestconfig))
    (folder / "9000_later.py").write_text(LATER)
    assert migrate(database, folder) == ["9000_later"]
    assert not (tmp_path / "backups").exists()


def test_a_failed_migration_is_rolled_back_and_applied_at_the_next_attempt(tmp_path: Path, folder: Path, dsn):
    database = filled(tmp_path, dsn)
    (folder / "9000_later.py").write_text(BROKEN)
    with pytest.raises(Exception, match="nowhere"):
        migrate(database, folder)
    assert "note" not in columns(database, "providers")
    (folder / "9000_later.py").write_text(LATER)
    assert migrate(database, folder) == ["9000_later"]
    assert "note" in columns(database, "providers")


def test_an_older_version_works_on_a_newer_database(tmp_path: Path, folder: Path, dsn):
    database = filled(tmp_path, dsn)
    (folder / "9000_later.py").write_text(LATER)
    migrate(database, folder)
    with database.start_lock():
        assert database.migrate() == []
    assert database.run(lambda: sorted(row.name for row in m.Provider.select())) == ["one", "two"]


SWITCHES = (
    "enable_usage",
    "enable_upstream_log",
    "enable_upstream_log_body",
    "enable_downstream_log",
    "enable_downstream_log_body",
)
NUMBERS = (
    "input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation_input_tokens_5min",
    "cache_creation_input_tokens_1h",
    "attempts",
)
USAGE = {
    **{"request_id": "r", "at": 1, "operation": "o", "protocol": "p", "outcome": "complete", "losses": "[]"},
    **dict.fromkeys(NUMBERS, 1),
    **{"priced": True, "estimated": False, "created_at": 1},
}


@pytest.fixture
def first(tmp_path: Path, dsn, folder: Path) -> Database:
    """A database of the first version, with calls of all users but one."""
    for later in OURS[1:]:
        (folder / f"{later}.py").unlink()
    database = Database(dsn, tmp_path)
    migrate(database, folder)

    def insert(table: str, **values):
        places = ", ".join([m.proxy.obj.param] * len(values))
        m.proxy.obj.execute_sql(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", tuple(values.values()))

    def fill():
        insert("global_settings", **dict.fromkeys(SWITCHES, True), provider_defaults_json="{}", updated_at=1)
        stamps = {"created_at": 1, "updated_at": 1}
        insert("providers", name="p", channel="c", enabled=True, settings_json="{}", routing_json="{}", **stamps)
        for user in (1, 2, 3, 4):
            insert("users", name=f"user-{user}", enabled=True, is_admin=False, **stamps)
            key = {"user_id": user, "api_key_digest": f"d{user}", "fingerprint": "f", "enabled": True, "cost_used": 0}
            insert("user_keys", **key, **stamps)
        for trace_id, (user, cost) in enumerate(
            ((1, 5), (1, 6), (2, 7), (99, 8), (4, MAX_INTEGER), (4, MAX_INTEGER)), 1
        ):
            insert("usages", **USAGE, trace_id=trace_id, user_id=user, user_key_id=user, cost=cost)
        for user, cost in ((2, 10), (3, 20), (99, 30)):
            insert("adjustments", at=1, user_id=user, kind="usage", cost=cost, requests=1)
        insert("user_quotas", user_id=1, quota=1_000, cost_used=100, updated_at=1)
        for provider in (None, None, 1):
            insert("user_model_permissions", user_id=1, provider_id=provider, model_pattern="*", created_at=1)
        insert("user_rate_limits", user_id=1, model_pattern="*", rpm=5, **stamps)
        insert("journal_marks", segment="s", **{'"offset"': 7})

    database.run(fill)
    return database


def test_migrated_accounts_start_with_the_earlier_cost(first: Database):
    assert migrate(first, MIGRATIONS) == OURS[1:]
    columns = (m.Quota.user, m.Quota.quota, m.Quota.cost_used, m.Quota.opening, m.Quota.opened_at, m.Quota.period)
    assert first.run(lambda: list(m.Quota.select(*columns).order_by(m.Quota.user).tuples())) == [
        (1, 1_000, 111, 100, 0, None),  # 100 stored before, 11 of rows
        (2, None, 17, 0, 0, None),
        (3, None, 20, 0, 0, None),
        (4, None, MAX_INTEGER, 0, 0, None),
    ]
    assert first.run(lambda: [key.cost_used for key in m.UserKey.select().order_by(m.UserKey.id)]) == [
        11,
        7,
        0,
        MAX_INTEGER,
    ]
    assert first.run(ledger_check.verify).differences == ()
    assert first.run(m.Usage.select().count) == 6 and first.run(ledger.journal_positions, ["s"]) == {"s": 7}


def test_duplicate_rows_are_removed_and_then_refused(first: Database):
    migrate(first, MIGRATIONS)
    assert first.run(lambda: [row.provider_id for row in m.ModelPermission.select()]) == [None, 1]

    def create(table, **values):
        table.create(user=1, model_pattern="*", created_at=1, **values)

    limit = {"rpm": 1, "updated_at": 1}
    first.run(create, m.RateLimit, key=1, **limit)
    first.run(create, m.ModelPermission, key=1)
    for table, values in (
        (m.RateLimit, limit),
        (m.RateLimit, {**limit, "key": 1}),
        (m.ModelPermission, {}),
        (m.ModelPermission, {"provider": 1}),
        (m.ModelPermission, {"key": 1}),
    ):
        with pytest.raises(Unavailable):
            first.run(create, table, **values)


def test_each_database_has_a_different_deployment_name(first: Database, tmp_path: Path):
    migrate(first, MIGRATIONS)
    names = {first.run(lambda: m.GlobalSettings.get().deployment)}
    for number in range(2):
        other = filled(tmp_path / f"{number}")
        names.add(other.run(lambda: m.GlobalSettings.get().deployment))
    assert len(names) == 3 and all(len(name) == 32 for name in names)


BY_USER, BY_ADMIN = "user/keys/update-enabled", "admin/user-keys/update"
# The audit log of a disabled key: (action, enabled before, enabled after); and who counts as having disabled it.
AUDITED = [
    ((), "administrator"),  # such as in the seed
    (((BY_USER, True, False),), "user"),
    (((BY_USER, True, False), (BY_USER, False, True), (BY_USER, True, False)), "user"),
    (((BY_ADMIN, True, False),), "administrator"),
    (((BY_ADMIN, True, False), (BY_USER, False, True), (BY_USER, True, False)), "administrator"),
    (((BY_USER, False, True), (BY_USER, True, False)), "administrator"),  # disabled before the log begins
    (((BY_ADMIN, True, False), (BY_ADMIN, False, True), (BY_USER, True, False)), "user"),
    (((BY_USER, True, False), (BY_ADMIN, False, True), (BY_ADMIN, True, False)), "administrator"),
    ((("user/keys/generate", None, True), (BY_USER, True, False)), "user"),
    ((("admin/config/import-toml", None, False),), "administrator"),
]


def test_a_key_that_was_disabled_earlier_is_disabled_by_an_administrator_unless_its_user_did_it(
    tmp_path: Path, dsn, folder: Path
):
    for later in OURS[OURS.index("0006_key_bounds") :]:
        (folder / f"{later}.py").unlink()
    database = Database(dsn, tmp_path)
    migrate(database, folder)

    def insert(table: str, **values):
        places = ", ".join([m.proxy.obj.param] * len(values))
        m.proxy.obj.execute_sql(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", tuple(values.values()))

    def fill():
        stamps = {"created_at": 1, "updated_at": 1}
        insert("users", name="ann", enabled=True, is_admin=False, **stamps)
        key = {"user_id": 1, "fingerprint": "f", "cost_used": 0, "narrowed": False, **stamps}
        for number, (switches, _) in enumerate(AUDITED, 1):
            insert("user_keys", api_key_digest=f"d{number}", enabled=False, **key)
            row = {"user_name": "u", "entity": "user_keys", "entity_id": str(number)}
            for at, (action, *values) in enumerate(switches):
                changes = json.dumps({"what": "changed", "fields": {"enabled": values}})
                insert("audits", at=at, action=action, changes=changes, **row)
        insert("user_keys", api_key_digest="enabled", enabled=True, **key)

    database.run(fill)
    migrate(database, MIGRATIONS)
    found = database.run(lambda: [row.disabled_by for row in m.UserKey.select().order_by(m.UserKey.id)])
    assert found == [*(who for _, who in AUDITED), None]
    assert database.run(lambda: m.User.get().may_make_keys) is True


def test_an_older_version_can_write_to_a_migrated_database(first: Database):
    """It runs on a machine that was not upgraded yet and does not write the new columns."""
    migrate(first, MIGRATIONS)

    def write():
        execute = m.proxy.obj.execute_sql
        columns = "user_id, api_key_digest, fingerprint, enabled, cost_used, created_at, updated_at"
        execute(f"INSERT INTO user_keys ({columns}) VALUES (1, 'new', 'f', TRUE, 0, 1, 1)")
        execute("INSERT INTO users (name, enabled, is_admin, created_at, updated_at) VALUES ('new', TRUE, FALSE, 1, 1)")
        execute("INSERT INTO adjustments (at, user_id, kind, cost, requests) VALUES (1, 1, 'usage', 1, 1)")

    first.run(write)
    key = first.run(lambda: m.UserKey.get(m.UserKey.api_key_digest == "new"))
    assert (key.narrowed, key.budget, key.disabler) == (False, None, None)
    assert first.run(lambda: m.User.get(m.User.name == "new").may_make_keys)
