"""Migrations: what they make, the backup before them, and what a failed one leaves."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from gproxy.store import models as m
from gproxy.store.database import MIGRATIONS, Database
from tests import postgres
from tests.filled import filled, migrated

SECOND = """
import peewee as pw

def up(migrator, db):
    migrator.migrate(migrator.add_column("providers", "note", pw.TextField(null=True)))
"""
BROKEN = SECOND + '    db.execute_sql("SELECT 1 FROM nowhere")\n'


@pytest.fixture(params=["sqlite", "postgres"])
def dsn(request, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'gproxy.db'}"
    return postgres.fresh_database(request.config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Our migrations, to which a test adds."""
    copy = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def migrate(database: Database, folder: Path) -> list[str]:
    with database.alone():
        return database.migrate(folder)


def columns(database: Database, table: str) -> set[str]:
    return {column.name for column in database.run(m.proxy.obj.get_columns, table)}


def test_the_migrations_make_the_tables_that_the_models_tell(tmp_path: Path, dsn):
    database = migrated(tmp_path, dsn)
    for model in m.ALL:
        fields = {field.column_name: field.null for field in model._meta.sorted_fields}
        made = database.run(m.proxy.obj.get_columns, model._meta.table_name)
        assert {column.name: column.null for column in made} == fields, model
        indexed = {
            (tuple(index.columns), index.unique)
            for index in database.run(m.proxy.obj.get_indexes, model._meta.table_name)
        }
        told = {((field.column_name,), bool(field.unique)) for field in model._meta.sorted_fields if field.index}
        together = {
            (tuple(model._meta.fields[name].column_name for name in names), unique)
            for names, unique in model._meta.indexes
        }
        assert told | together <= indexed, model


def test_a_fresh_database_is_not_backed_up(tmp_path: Path, folder: Path, dsn):
    (folder / "0002_second.py").write_text(SECOND)
    assert migrate(Database(dsn, tmp_path), folder) == ["0001_initial", "0002_second"]
    assert not (tmp_path / "backups").exists()


def test_what_was_applied_is_not_applied_again(tmp_path: Path, folder: Path, dsn):
    database = filled(tmp_path, dsn)
    assert migrate(database, folder) == []
    (folder / "0002_second.py").write_text(SECOND)
    assert migrate(database, folder) == ["0002_second"]
    assert migrate(database, folder) == []
    assert "note" in columns(database, "providers")
    assert database.run(m.Provider.select().count) == 2


def test_sqlite_is_backed_up_before_a_second_migration(tmp_path: Path, folder: Path):
    database = filled(tmp_path)
    (folder / "0002_second.py").write_text(SECOND)
    migrate(database, folder)
    (backup,) = (tmp_path / "backups").iterdir()
    assert backup.name.startswith("gproxy-before-0002_second-") and backup.suffix == ".db"
    copy = sqlite3.connect(backup)
    assert [row[0] for row in copy.execute("SELECT name FROM providers ORDER BY name")] == ["one", "two"]
    assert "note" not in {row[1] for row in copy.execute("PRAGMA table_info(providers)")}
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copy.close()


def test_postgres_is_left_to_its_operator(tmp_path: Path, folder: Path, pytestconfig):
    database = filled(tmp_path, postgres.fresh_database(pytestconfig))
    (folder / "0002_second.py").write_text(SECOND)
    assert migrate(database, folder) == ["0002_second"]
    assert not (tmp_path / "backups").exists()


def test_a_failed_migration_leaves_nothing_and_is_tried_again(tmp_path: Path, folder: Path, dsn):
    database = filled(tmp_path, dsn)
    (folder / "0002_second.py").write_text(BROKEN)
    with pytest.raises(Exception, match="nowhere"):
        migrate(database, folder)
    assert "note" not in columns(database, "providers")
    (folder / "0002_second.py").write_text(SECOND)
    assert migrate(database, folder) == ["0002_second"]
    assert "note" in columns(database, "providers")


def test_an_older_version_works_on_a_newer_database(tmp_path: Path, folder: Path, dsn):
    database = filled(tmp_path, dsn)
    (folder / "0002_second.py").write_text(SECOND)
    migrate(database, folder)
    with database.alone():
        assert database.migrate() == []
    assert database.run(lambda: sorted(row.name for row in m.Provider.select())) == ["one", "two"]
