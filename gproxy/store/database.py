"""Connections, transactions and locks of the database, and its migrations.

A connection lives for one function of the store. SQLite is C code in our process and blocks the calling thread, so a
worker runs these functions in a native thread, and the gevent hub keeps serving.
"""

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import peewee as pw
from gevent.monkey import get_original
from playhouse.db_url import connect
from playhouse.migrations import Runner

from gproxy.errors import BadRequest, StartupError, Unavailable
from gproxy.store import models

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_Query = TypeVar("_Query", bound="pw.ModelSelect[Any]")
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 5
PRAGMAS = {"journal_mode": "wal", "synchronous": "normal", "foreign_keys": 1, "busy_timeout": BUSY_TIMEOUT_S * 1000}
# Advisory locks of PostgreSQL, the same numbers on every machine: one to migrate and seed, one for administrators.
START_LOCK = 0x6770726F7879
ADMIN_LOCK = 0x61646D696E
_native_lock = get_original("_thread", "allocate_lock")
DATABASE_ERRORS = (pw.PeeweeException, sqlite3.Error, OSError)


class Database:
    """The database of one process. Safe to fork before the first function runs, since no connection is kept."""

    def __init__(self, dsn: str, data_dir: Path):
        self.data_dir = data_dir
        self.is_sqlite = dsn.startswith("sqlite")
        self.path = _sqlite_path(dsn) if self.is_sqlite else None
        self._db = _open(dsn, self.path)
        # gevent's own lock may leave a native thread waiting for ever when another native thread releases it.
        self._db._lock = _native_lock()  # pyright: ignore[reportAttributeAccessIssue] - private to peewee
        models.proxy.initialize(self._db)

    def run(self, function: Callable[..., _Result], *args, **kwargs) -> _Result:
        """Runs a function of the store inside one connection and returns its result. Raises Unavailable."""
        try:
            with self._db.connection_context():
                return function(*args, **kwargs)
        except DATABASE_ERRORS as error:
            # The text of a database error may quote parameters, so only its type is logged.
            log.debug("database: %s", type(error).__name__)
            raise Unavailable("the database cannot be used right now", retry_after_s=2) from error

    def run_for_caller(self, function: Callable[..., _Result], *args) -> _Result:
        """Like `run`, for values of a caller. Raises BadRequest if the database cannot store one of them."""
        try:
            return self.run(function, *args)
        except Unavailable as error:
            if isinstance(error.__cause__, pw.DataError):
                raise BadRequest("a value has a NUL character or a number that the database cannot store") from error
            raise

    def run_on_kept_connection(self, function: Callable[..., _Result], *args) -> _Result:
        """Like `run`, on a connection that the calling thread keeps.

        Whenever its last connection closes, SQLite moves its whole log into the database and syncs the disk.
        """
        try:
            self._db.connect(reuse_if_open=True)
            return function(*args)
        except DATABASE_ERRORS as error:
            log.debug("database: %s", type(error).__name__)
            self._db.close()
            raise Unavailable("the database cannot be used right now", retry_after_s=2) from error

    @contextmanager
    def write(self) -> Iterator[None]:
        """A writing transaction; SQLite takes its write lock at the beginning."""
        with self._db.atomic("IMMEDIATE") if self.is_sqlite else self._db.atomic():
            yield

    @contextmanager
    def admin_write(self) -> Iterator[None]:
        """A writing transaction that excludes those of other administrators.

        Otherwise two of them could take the same name at once, or demote each other. SQLite has one writer anyway.
        """
        with self.write():
            if not self.is_sqlite:
                self._db.execute_sql("SELECT pg_advisory_xact_lock(%s)", (ADMIN_LOCK,))
            yield

    def execute_all(self, sql: str, rows: list[tuple]) -> None:
        """Executes a statement, with `?` for each value, once for each row, in the current transaction."""
        # The driver is called without peewee, so its exceptions are converted to peewee's here.
        wrapper = pw.__exception_wrapper__  # pyright: ignore[reportAttributeAccessIssue] - private to peewee
        with wrapper, closing(self._db.connection().cursor()) as cursor:
            cursor.executemany(sql if self.is_sqlite else sql.replace("?", "%s"), rows)

    def for_update(self, query: _Query) -> _Query:
        """The query, locking the rows that it returns; a writing transaction of SQLite has locked all rows already."""
        return query if self.is_sqlite else query.for_update()

    def erase_overwritten(self) -> None:
        """Erases overwritten and deleted values from SQLite's file and its log. Not inside a transaction."""
        if self.is_sqlite:
            self._db.execute_sql("VACUUM")
            self._db.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextmanager
    def start_lock(self) -> Iterator[None]:
        """Excludes every other starting process, on this machine and on others."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        # In the folder of the database: gateways with data directories of their own may share one file.
        path = self.path.with_name(f"{self.path.name}.lock") if self.path else self.data_dir / "start.lock"
        with path.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with self._db.connection_context():
                if self.is_sqlite:
                    yield
                    return
                self._db.execute_sql("SELECT pg_advisory_lock(%s)", (START_LOCK,))
                try:
                    yield
                finally:
                    self._db.execute_sql("SELECT pg_advisory_unlock(%s)", (START_LOCK,))

    def migrate(self, folder: Path = MIGRATIONS) -> list[str]:
        """Applies pending migrations, each in its own transaction, on SQLite after a backup. Returns their names."""
        runner = Runner(self._db, str(folder))
        # A new database needs no backup.
        has_data = self.is_sqlite and bool(self._db.get_tables())
        applied = []
        for migration in runner.status():
            if migration.applied or migration.path is None:
                continue
            if has_data:
                self._backup(migration.name)
            runner.up(migration.name)
            applied.append(migration.name)
        return applied

    def pending_migrations(self) -> list[str]:
        """The names of the migrations that are not applied."""
        return [migration.name for migration in Runner(self._db, str(MIGRATIONS)).status() if not migration.applied]

    def _backup(self, before: str) -> None:
        folder = self.data_dir / "backups"
        folder.mkdir(exist_ok=True)
        target = folder / f"gproxy-before-{before}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.db"
        with sqlite3.connect(target) as copy:
            self._db.connection().backup(copy)
        copy.close()
        log.info("backed up the database to %s before migration %s", target, before)


def _sqlite_path(dsn: str) -> Path:
    """The path of `sqlite:///rel.db`, `sqlite:////abs.db` or `sqlite://./data/gproxy.db?mode=rwc`."""
    address = dsn.partition("?")[0].removeprefix("sqlite:")
    path = address[3:] if address.startswith("///") else address[2:] if address.startswith("//") else address
    return Path(path)


def _open(dsn: str, path: Path | None) -> pw.Database:
    if path is not None:
        unknown = [name for name, _ in parse_qsl(urlsplit(dsn).query) if name != "mode"]
        if path.name in ("", ":memory:") or unknown:
            raise StartupError([f"GPROXY_DSN: expected sqlite:///path/to/gproxy.db, got {dsn!r}"])
        return pw.SqliteDatabase(str(path), pragmas=PRAGMAS, timeout=BUSY_TIMEOUT_S)
    try:
        return connect(dsn, unquote_user=True, unquote_password=True, connect_timeout=BUSY_TIMEOUT_S)
    except ValueError:
        # The exception may quote the password.
        raise StartupError(["GPROXY_DSN: not readable; expected postgresql://user:password@host:5432/name"]) from None


def prepare_folders(data_dir: Path, database_path: Path | None) -> None:
    """Creates the folders and tests that they are writable. Raises StartupError, which names folder and remedy."""
    for folder in {data_dir, database_path.parent if database_path else data_dir}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StartupError(
                [f"GPROXY_DATA_DIR: cannot write to {folder}: {error.strerror}; make it writable or choose another"]
            ) from error
