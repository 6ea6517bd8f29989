"""Opening the database, migrating it, and running a deed on a native thread.

A connection lives for one deed. SQLite is C in our process and blocks whoever calls it, so a worker hands every
deed to a native thread; the hub keeps serving.
"""

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import peewee as pw
from gevent.monkey import get_original
from playhouse.db_url import connect
from playhouse.migrations import Runner

from gproxy.errors import BadRequest, StartupError, Unavailable
from gproxy.store import models

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 5
PRAGMAS = {"journal_mode": "wal", "synchronous": "normal", "foreign_keys": 1, "busy_timeout": BUSY_TIMEOUT_S * 1000}
# The same number on every machine: who holds it migrates and seeds.
START_LOCK = 0x6770726F7879
# Who holds this one administers.
ADMIN_LOCK = 0x61646D696E
_native_lock = get_original("_thread", "allocate_lock")
FAULTS = (pw.PeeweeException, sqlite3.Error, OSError)


class Database:
    """One database of one process; safe to fork before the first deed, since no connection is kept."""

    def __init__(self, dsn: str, data_dir: Path):
        self.data_dir = data_dir
        self.is_sqlite = dsn.startswith("sqlite")
        self.path = _sqlite_path(dsn) if self.is_sqlite else None
        self._db = _open(dsn, self.path)
        # gevent's own lock may leave a native thread waiting for ever when another native thread lets it go.
        self._db._lock = _native_lock()
        models.proxy.initialize(self._db)

    def run(self, function: Callable, *args, **kwargs):
        """The deed's result, inside one connection. Faults of the database become Unavailable."""
        try:
            with self._db.connection_context():
                return function(*args, **kwargs)
        except FAULTS as fault:
            # The text of a database fault may quote parameters, so only its kind is told.
            log.debug("database: %s", type(fault).__name__)
            raise Unavailable("the database cannot be used right now", retry_after_s=2) from fault

    def answer(self, function: Callable, *args):
        """The same on behalf of a caller, who may have told what no database can hold. Raises BadRequest then."""
        try:
            return self.run(function, *args)
        except Unavailable as fault:
            if isinstance(fault.__cause__, pw.DataError):
                raise BadRequest("it holds a NUL character or a number that the database cannot hold") from fault
            raise

    def run_kept(self, function: Callable, *args):
        """The same on a connection that the calling thread keeps.

        SQLite moves its whole log into the database, with a sync of the disk, whenever the last connection closes.
        """
        try:
            self._db.connect(reuse_if_open=True)
            return function(*args)
        except FAULTS as fault:
            log.debug("database: %s", type(fault).__name__)
            self._db.close()
            raise Unavailable("the database cannot be used right now", retry_after_s=2) from fault

    @contextmanager
    def write(self) -> Iterator[None]:
        """One writing transaction inside a deed; SQLite takes its write lock at the beginning."""
        with self._db.atomic("IMMEDIATE") if self.is_sqlite else self._db.atomic():
            yield

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """A writing transaction that waits for whoever administers: two could each take a name that the other
        takes, or demote the other. SQLite has one writer anyway."""
        with self.write():
            if not self.is_sqlite:
                self._db.execute_sql("SELECT pg_advisory_xact_lock(%s)", (ADMIN_LOCK,))
            yield

    def execute_all(self, sql: str, rows: list[tuple]) -> None:
        """One statement for each of many rows, with `?` for each value, inside a deed's transaction."""
        # The driver is asked past peewee, so its faults are told in peewee's words here.
        with pw.__exception_wrapper__, closing(self._db.connection().cursor()) as cursor:
            cursor.executemany(sql if self.is_sqlite else sql.replace("?", "%s"), rows)

    def locked(self, query: pw.ModelSelect) -> pw.ModelSelect:
        """The query, which then keeps others from changing what it finds; SQLite has locked it all already."""
        return query if self.is_sqlite else query.for_update()

    def forget_overwritten(self) -> None:
        """Leaves nothing in SQLite's file and its log of what was overwritten or deleted; outside a transaction."""
        if self.is_sqlite:
            self._db.execute_sql("VACUUM")
            self._db.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps every other starting process out, on this machine and on others."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        # Beside the database: gateways with data directories of their own may share one file.
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
        """Applies what is pending, each in a transaction of its own, on SQLite after a backup. Returns the names."""
        runner = Runner(self._db, str(folder))
        # A fresh database has nothing to lose.
        has_data = self.is_sqlite and bool(self._db.get_tables())
        done = []
        for migration in runner.status():
            if migration.applied or migration.path is None:
                continue
            if has_data:
                self._backup(migration.name)
            runner.up(migration.name)
            done.append(migration.name)
        return done

    def pending(self) -> list[str]:
        """The migrations that this database lacks."""
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
    """`sqlite:///rel.db`, `sqlite:////abs.db`, and `sqlite://./data/gproxy.db?mode=rwc`."""
    rest = dsn.partition("?")[0].removeprefix("sqlite:")
    path = rest[3:] if rest.startswith("///") else rest[2:] if rest.startswith("//") else rest
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
        # What is wrong with it may be quoted from the password.
        raise StartupError(["GPROXY_DSN: not readable; expected postgresql://user:password@host:5432/name"]) from None


def prepare_folders(data_dir: Path, database_path: Path | None) -> None:
    """Makes the folders and proves that they can be written. Raises StartupError naming folder and remedy."""
    for folder in {data_dir, database_path.parent if database_path else data_dir}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as fault:
            raise StartupError(
                [f"GPROXY_DATA_DIR: cannot write to {folder}: {fault.strerror}; make it writable or choose another"]
            ) from fault
