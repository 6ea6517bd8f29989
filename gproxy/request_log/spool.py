"""Logs of requests on their way into the database: a worker appends them to a file, a native thread moves them on.

They are no books. They stand in nobody's way: what finds no room, on the disk or within the bound, is dropped and
counted. Each has an id of its own, so that moving one twice adds nothing.
"""

import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import gevent
import msgspec
from gevent.event import Event

from gproxy.errors import Unavailable
from gproxy.state.folder_lock import try_lock

log = logging.getLogger(__name__)

MAX_BYTES = 256 * 1024 * 1024  # of one worker, while the database is away
INTERVAL_S = 0.5
INHERIT_S = 10.0
MAX_BACKOFF_S = 5.0
# What is moved in one transaction.
BATCH_ROWS, BATCH_BYTES = 200, 4 * 1024 * 1024
_HEAD_BYTES = 4
_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode


class Threads(Protocol):
    def run(self, function: Callable, *args): ...


class Spool:
    """The writing end of one worker, in a folder of its own that it holds locked."""

    def __init__(self, root: Path, max_bytes: int = MAX_BYTES):
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        # Locked before it has its name, so that nobody ever takes it for a dead worker's.
        fresh = root / f".new-{name}"
        fresh.mkdir(parents=True)
        self._lock = os.open(fresh / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.folder = fresh.rename(root / name)
        self._maximum, self._size = max_bytes, 0  # of all files
        self._fd, self._written = -1, 0  # whole records, in bytes
        self.dropped = 0

    def put(self, record: tuple) -> None:
        """Never raises: what cannot be kept is dropped."""
        data = _encode(record)
        data = len(data).to_bytes(_HEAD_BYTES, "little") + data
        if self._size + len(data) > self._maximum:
            self._drop("the spool is full")
            return
        try:
            if self._fd < 0:
                self._fd = os.open(self.folder / "current", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                self._written = os.fstat(self._fd).st_size
            if os.write(self._fd, data) < len(data):
                raise OSError("the disk is full")
        except OSError as fault:
            self._drop(str(fault))
            self._cut_off()
            return
        self._size += len(data)
        self._written += len(data)

    def _drop(self, why: str) -> None:
        if not self.dropped:
            log.error("logs of requests are dropped: %s", why)
        self.dropped += 1

    def _cut_off(self) -> None:
        """Behind a record that was cut nothing can be read."""
        try:
            if self._fd >= 0:
                os.ftruncate(self._fd, self._written)
        except OSError as fault:
            log.debug("a record that was cut stays in the spool: %s", fault.strerror)

    def rotate(self) -> None:
        """What was written until now can be read from then on. Raises OSError; the next time tries again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        current = self.folder / "current"
        if current.exists():
            current.rename(self.folder / f"{time.time_ns():020d}.log")

    def moved(self, size: int) -> None:
        self._size = max(0, self._size - size)

    def close(self) -> None:
        """Raises OSError."""
        try:
            self.rotate()
        finally:
            os.close(self._lock)


def files(folder: Path) -> list[Path]:
    """What can be read of a folder, oldest first."""
    return sorted(folder.glob("*.log"))


def read(path: Path) -> Iterator[list]:
    """The records of a file; one that was cut at its end is none."""
    with path.open("rb") as file:
        while len(head := file.read(_HEAD_BYTES)) == _HEAD_BYTES:
            data = file.read(int.from_bytes(head, "little"))
            if len(data) < int.from_bytes(head, "little"):
                return
            try:
                yield _decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError):
                log.error("%s: a record cannot be read; what follows is left out", path)
                return


class Mover:
    """Moves the files of its own worker, and of dead ones, into the database. `book` is the store's deed."""

    def __init__(self, spool: Spool, root: Path, book: Callable[[list], None], threads: Threads):
        self._spool, self._root, self._book, self._threads = spool, root, book, threads
        self._stopping, self._greenlet = Event(), None
        self._is_failing = False

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        wait_s, looked = INTERVAL_S, 0.0
        while not self._stopping.wait(wait_s):
            is_done = self.move()
            wait_s = INTERVAL_S if is_done else min(wait_s * 2, MAX_BACKOFF_S)
            if is_done and time.monotonic() - looked > INHERIT_S:
                looked = time.monotonic()
                self._quietly(self._threads.run, self._inherit)

    def move(self) -> bool:
        """Whether everything that was written is in the database."""
        return self._quietly(self._move)

    def _move(self) -> None:
        self._spool.rotate()
        for path in files(self._spool.folder):
            size = path.stat().st_size
            self._threads.run(self._move_file, path)
            self._spool.moved(size)

    def _quietly(self, function: Callable, *args) -> bool:
        try:
            function(*args)
        except (Unavailable, OSError) as fault:
            if not self._is_failing:
                log.warning("logs of requests wait on the disk: %s", fault)
            self._is_failing = True
            return False
        self._is_failing = False
        return True

    def _move_file(self, path: Path) -> None:
        """In a native thread. A file goes once all of it is in the database, or never can be."""
        try:
            self._book_file(path)
        except (Unavailable, OSError):
            raise
        except Exception as fault:  # it must not keep all that comes after it out
            log.error("%s: it cannot be stored and is left out", path, exc_info=fault)
        path.unlink(missing_ok=True)

    def _book_file(self, path: Path) -> None:
        batch, size = [], 0
        for record in read(path):
            batch.append(record)
            size += sum(len(value) for value in record if isinstance(value, bytes | str))
            if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
                self._book(batch)
                batch, size = [], 0
        if batch:
            self._book(batch)

    def _inherit(self) -> None:
        """In a native thread: what workers left that died."""
        for folder in self._root.iterdir():
            is_made = not folder.name.startswith(".")
            if not is_made or folder == self._spool.folder or (lock := try_lock(folder)) is None:
                continue
            try:
                current = folder / "current"
                if current.exists():
                    current.rename(folder / f"{time.time_ns():020d}.log")
                for path in files(folder):
                    self._move_file(path)
                (folder / "lock").unlink()
                folder.rmdir()
            finally:
                os.close(lock)

    def close(self, timeout_s: float) -> None:
        """Moves what is left, as far as the time goes."""
        self._stopping.set()
        with gevent.Timeout(timeout_s, False):
            if self._greenlet is not None:
                self._greenlet.join()
            self.move()
        self._quietly(self._leave)

    def _leave(self) -> None:
        self._spool.close()
        if not files(self._spool.folder):
            (self._spool.folder / "lock").unlink(missing_ok=True)
            self._spool.folder.rmdir()
