"""DSNs, transactions and locks of the database, and many processes that start at once."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import peewee as pw
import psycopg
import pytest

from gproxy.errors import StartupError, Unavailable
from gproxy.store import models as m
from gproxy.store.database import Database, prepare_folders
from tests import postgres
from tests.sample_db import filled, migrated

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 6

# DSN, path of the file
FILES = [
    ("sqlite:///data/gproxy.db", "data/gproxy.db"),
    ("sqlite:////srv/gproxy.db", "/srv/gproxy.db"),
    ("sqlite://./data/gproxy.db?mode=rwc", "data/gproxy.db"),
    ("sqlite:///gproxy.db?mode=rwc", "gproxy.db"),
]
INVALID_DSNS = [
    "sqlite:///",
    "sqlite://",
    "sqlite:///:memory:",
    "sqlite://:memory:",
    "sqlite:///data/gproxy.db?cache=shared",
    "postgresql://gproxy:hidden@host:port/gproxy",
    "postgresql://gproxy:hidden@[host/gproxy",
]


@pytest.mark.parametrize(("dsn", "path"), FILES)
def test_the_dsn_of_a_sqlite_file_has_several_forms(tmp_path: Path, dsn, path):
    assert Database(dsn, tmp_path).path == Path(path)


@pytest.mark.parametrize("dsn", INVALID_DSNS)
def test_an_invalid_dsn_stops_the_start_and_its_password_is_not_quoted(tmp_path: Path, dsn):
    with pytest.raises(StartupError) as caught:
        Database(dsn, tmp_path)
    assert caught.value.problems[0].startswith("GPROXY_DSN: ") and "hidden" not in str(caught.value)


def test_sqlite_waits_for_locks_and_enforces_foreign_keys(tmp_path: Path):
    database = migrated(tmp_path)

    def pragma(name: str):
        return m.proxy.obj.execute_sql(f"PRAGMA {name}").fetchone()[0]

    found = {
        name: database.run(pragma, name) for name in ("journal_mode", "busy_timeout", "foreign_keys", "synchronous")
    }
    assert found == {"journal_mode": "wal", "busy_timeout": 5000, "foreign_keys": 1, "synchronous": 1}


def test_an_error_of_the_database_becomes_unavailable_and_quotes_no_value(tmp_path: Path, caplog):
    caplog.set_level("DEBUG", logger="gproxy")
    database = filled(tmp_path)

    def duplicate():
        m.User.create(name="root", created_at=0, updated_at=0, password="hidden")

    with pytest.raises(Unavailable) as caught:
        database.run(duplicate)
    assert caught.value.status == 503 and caught.value.headers == {"Retry-After": "2"}
    assert caplog.messages == ["database: IntegrityError"]


def test_another_exception_is_not_converted(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        filled(tmp_path).run(lambda: 1 // 0)


def test_a_database_that_cannot_be_reached_is_unavailable(tmp_path: Path):
    database = Database("postgresql://nobody@127.0.0.1:1/none", tmp_path)
    with pytest.raises(Unavailable):
        database.run(m.User.select().count)


def test_a_failed_write_is_rolled_back(tmp_path: Path):
    database = filled(tmp_path)

    def half():
        with database.write():
            m.Machine.create(id=1, owner="x", seen_at=0)
            m.Machine.create(id=1, owner="y", seen_at=0)

    with pytest.raises(Unavailable):
        database.run(half)
    assert database.run(m.Machine.select().count) == 0


def test_a_write_takes_the_lock_at_its_beginning(tmp_path: Path):
    database = filled(tmp_path)

    def other_writes():
        with database.write(), sqlite3.connect(tmp_path / "gproxy.db", timeout=0) as other:
            other.execute("UPDATE revisions SET revision = 0")

    with pytest.raises(Unavailable) as caught:
        database.run(other_writes)
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


def test_values_are_passed_as_parameters(tmp_path: Path):
    database = migrated(tmp_path)
    nasty = "'); DROP TABLE machines; --"
    sql = "INSERT INTO machines (id, owner, seen_at) VALUES (?, ?, ?)"
    database.run(database.execute_all, sql, [(1, nasty, 5), (2, "%s ? :x", 6)])
    assert database.run(lambda: list(m.Machine.select().order_by(m.Machine.id).tuples())) == [
        (1, nasty, 5),
        (2, "%s ? :x", 6),
    ]


def test_overwritten_values_are_erased_from_the_disk(tmp_path: Path):
    database = filled(tmp_path)

    def overwrite():
        m.proxy.obj.execute_sql("PRAGMA secure_delete = off")
        m.Provider.update(label="label-secret " * 100).execute()
        m.Provider.update(label=None).execute()
        before = on_disk(tmp_path)
        database.erase_overwritten()
        return before, on_disk(tmp_path)

    before, after = database.run(overwrite)
    assert (b"label-secret" in before, b"label-secret" in after) == (True, False)


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("gproxy.db*"))


def excludes(first: Database, second: Database) -> bool:
    """True if `second` waits until `first` has released the start lock."""
    order = []

    def start_second():
        with second.start_lock():
            order.append("second")

    with first.start_lock():
        waiting = threading.Thread(target=start_second)
        waiting.start()
        time.sleep(0.2)
        order.append("first")
    waiting.join(5)
    return order == ["first", "second"]


def test_one_process_at_a_time_prepares_a_data_directory(tmp_path: Path):
    dsn = f"sqlite:///{tmp_path / 'gproxy.db'}"
    assert excludes(Database(dsn, tmp_path), Database(dsn, tmp_path))


def test_one_machine_at_a_time_prepares_a_postgres_database(tmp_path: Path, pytestconfig):
    dsn = postgres.fresh_database(pytestconfig)
    assert excludes(Database(dsn, tmp_path / "a"), Database(dsn, tmp_path / "b"))


def test_a_failed_preparation_lets_the_next_one_in(tmp_path: Path, pytestconfig):
    for dsn in (f"sqlite:///{tmp_path / 'gproxy.db'}", postgres.fresh_database(pytestconfig)):
        database = Database(dsn, tmp_path)
        with pytest.raises(pw.DatabaseError), database.start_lock(), database.write():
            m.proxy.obj.execute_sql("SELECT 1 FROM nowhere")
        with database.start_lock():
            assert database.migrate()[0] == "0001_initial"


def test_folders_are_created(tmp_path: Path):
    prepare_folders(tmp_path / "a" / "b", tmp_path / "c" / "gproxy.db")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "c"]
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize(("data_dir", "file"), [("taken", None), ("data", "taken/gproxy.db"), ("taken/deeper", None)])
def test_a_folder_that_cannot_be_written_stops_the_start(tmp_path: Path, data_dir, file):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StartupError, match=r"cannot write to .*taken.*; make it writable or choose another"):
        prepare_folders(tmp_path / data_dir, tmp_path / file if file else None)


SEED = """
[[providers]]
name = "one"
channel = "openai"
credentials = [{ api_key = "${UPSTREAM}" }]

[[models]]
provider_name = "one"
model_id = "m"

[[users]]
name = "ann"
keys = [{ api_key = "sk-ann" }]

[[permissions]]
user_name = "ann"
model_pattern = "*"
"""
# What the gunicorn master does before it binds and forks.
START = """
from gevent import monkey; monkey.patch_all()
from gproxy import runtime, server
from gproxy.app import create_app
prepared = runtime.prepare(server.load_settings(), lambda database: server._fill(create_app(), database))
print("machine", prepared.machine)
"""


def start_at_once(folder: Path, **environs: list[str]) -> list[str]:
    """Starts PROCESSES processes, each with its own value of every variable. Returns their outputs."""
    (folder / "gproxy.toml").write_text(SEED)
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "UPSTREAM": "sk-up"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", START],
            cwd=folder,
            env=base | {name: values[i] for name, values in environs.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(PROCESSES)
    ]
    printed = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0] * PROCESSES, printed
    return printed


def rows(execute) -> dict[str, int]:
    tables = ("global_settings", "providers", "credentials", "models", "users", "user_keys", "user_model_permissions")
    return {table: execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables}


# Including one administrator, whom the seed does not have.
COUNTS = {
    "global_settings": 1,
    "providers": 1,
    "credentials": 1,
    "models": 1,
    "users": 2,
    "user_keys": 2,
    "user_model_permissions": 2,
}


def test_many_processes_fill_one_sqlite_file_once(tmp_path: Path):
    printed = start_at_once(tmp_path, GPROXY_DATA_DIR=["data"] * PROCESSES)
    database = sqlite3.connect(tmp_path / "data" / "gproxy.db")
    assert rows(database.execute) == COUNTS
    assert sum("made an administrator" in text for text in printed) == 1
    assert {text.splitlines()[-1] for text in printed} == {"machine 0"}
    assert not (tmp_path / "data" / "backups").exists()
    stored = database.execute("SELECT secret_json FROM credentials").fetchone()[0]
    assert json.loads(stored) == {"api_key": "${UPSTREAM}"}
    database.close()


def test_many_machines_fill_one_postgres_database_once(tmp_path: Path, pytestconfig):
    dsn = postgres.fresh_database(pytestconfig)
    folders = [f"data-{i}" for i in range(PROCESSES)]
    printed = start_at_once(tmp_path, GPROXY_DATA_DIR=folders, GPROXY_DSN=[dsn] * PROCESSES)
    with psycopg.connect(dsn) as database:
        assert rows(database.execute) == COUNTS
    assert sum("made an administrator" in text for text in printed) == 1
    assert sorted(text.splitlines()[-1] for text in printed) == [f"machine {i}" for i in range(PROCESSES)]


MANY_THREADS = """
from gevent import monkey; monkey.patch_all()
import sys
from pathlib import Path
import gevent
from gproxy.store.database import Database
from gproxy.threads import Threads
folder = Path(sys.argv[1])
database, pools = Database(f"sqlite:///{folder / 'x.db'}", folder), [Threads(2) for _ in range(4)]
def run_many(n):
    for _ in range(400):
        pools[n % 4].run(database.run, lambda: None)
gevent.joinall([gevent.spawn(run_many, n) for n in range(16)], raise_error=True)
print(type(database._db._lock))
"""


def test_native_threads_that_use_one_database_never_wait_for_ever(tmp_path: Path):
    """gevent's own lock sometimes lost the wake-up of a native thread, which then waited for ever."""
    done = subprocess.run(
        [sys.executable, "-c", MANY_THREADS, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "<class '_thread.lock'>"
