"""The spool of request logs: a worker appends rows to a file, and a native thread moves them into the database.

Logs are less important than requests: a row without space, on the disk or within the maximum size, is dropped and
counted. Each row has a unique id, so that storing it twice adds nothing.
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

MAX_BYTES = 256 * 1024 * 1024  # of one worker, while the database is unavailable
INTERVAL_S = 0.5
ORPHANS_S = 10.0
MAX_BACKOFF_S = 5.0
# The maximum of one transaction.
BATCH_ROWS, BATCH_BYTES = 200, 4 * 1024 * 1024
_LENGTH_BYTES = 4
_encode, _decode_row = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(list).decode


class Threads(Protocol):
    def run(self, function: Callable, *args): ...


class Spool:
    """Appends the rows of one worker to files in a folder that the worker keeps locked."""

    def __init__(self, root: Path, max_bytes: int = MAX_BYTES):
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        # Locked before it gets its name, so that no other worker takes it for the folder of a crashed worker.
        unnamed = root / f".new-{name}"
        unnamed.mkdir(parents=True)
        self._lock = os.open(unnamed / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.folder = unnamed.rename(root / name)
        self._maximum, self._size = max_bytes, 0  # of all files
        self._fd, self._written = -1, 0  # bytes of complete rows in the current file
        self.dropped = 0

    def put(self, row: tuple) -> None:
        """Appends a row, or drops it if it cannot be written. Never raises."""
        data = _encode(row)
        data = len(data).to_bytes(_LENGTH_BYTES, "little") + data
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
            self._truncate()
            return
        self._size += len(data)
        self._written += len(data)

    def _drop(self, reason: str) -> None:
        if not self.dropped:
            log.error("request log rows are dropped: %s", reason)
        self.dropped += 1

    def _truncate(self) -> None:
        """Removes an incomplete row, behind which no row could be read."""
        try:
            if self._fd >= 0:
                os.ftruncate(self._fd, self._written)
        except OSError as fault:
            log.debug("an incomplete row stays in the spool: %s", fault.strerror)

    def rotate(self) -> None:
        """Closes the current file, so that its rows can be moved. Raises OSError; the next call tries again."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        current = self.folder / "current"
        if current.exists():
            current.rename(self.folder / f"{time.time_ns():020d}.log")

    def release(self, size: int) -> None:
        """Subtracts the size of a file that was moved."""
        self._size = max(0, self._size - size)

    def close(self) -> None:
        """Closes the current file and unlocks the folder. Raises OSError."""
        try:
            self.rotate()
        finally:
            os.close(self._lock)


def files(folder: Path) -> list[Path]:
    """The closed files of a folder, oldest first. A link, a folder or a pipe with such a name is none."""
    return sorted(path for path in folder.glob("*.log") if _is_regular(path))


def _is_regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def read(path: Path) -> Iterator[list]:
    """Yields the rows of a file. Stops at an incomplete row, and with a log line at an unreadable one."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while len(length := file.read(_LENGTH_BYTES)) == _LENGTH_BYTES:
            if file.tell() + int.from_bytes(length, "little") > size:
                return
            data = file.read(int.from_bytes(length, "little"))
            try:
                yield _decode_row(data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                log.error("%s: a row cannot be read; the rest of the file is skipped", path)
                return


class Mover:
    """Moves the files of its own worker and of crashed workers into the database.

    `store` stores a batch of rows and raises Unavailable.
    """

    def __init__(self, spool: Spool, root: Path, store: Callable[[list], None], threads: Threads):
        self._spool, self._root, self._store, self._threads = spool, root, store, threads
        self._stopping, self._greenlet = Event(), None
        self._is_failing = False
        self._left: set[Path] = set()  # folders of crashed workers that cannot be removed

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        wait_s, orphans_checked = INTERVAL_S, 0.0
        while not self._stopping.wait(wait_s):
            is_moved = self.move()
            wait_s = INTERVAL_S if is_moved else min(wait_s * 2, MAX_BACKOFF_S)
            if is_moved and time.monotonic() - orphans_checked > ORPHANS_S:
                orphans_checked = time.monotonic()
                self._quietly(self._threads.run, self._move_orphans)

    def move(self) -> bool:
        """Moves all rows that are written so far; returns False while they cannot be stored."""
        return self._quietly(self._move)

    def _move(self) -> None:
        self._spool.rotate()
        for path in files(self._spool.folder):
            size = path.stat().st_size
            self._threads.run(self._move_file, path)
            self._spool.release(size)

    def _quietly(self, function: Callable, *args) -> bool:
        try:
            function(*args)
        except (Unavailable, OSError) as fault:
            if not self._is_failing:
                log.warning("request logs stay on the disk: %s", fault)
            self._is_failing = True
            return False
        self._is_failing = False
        return True

    def _move_file(self, path: Path) -> None:
        """Stores and deletes a file, in a native thread. A file that can never be stored is deleted too."""
        try:
            self._store_file(path)
        except (Unavailable, OSError):
            raise
        except Exception as fault:  # a bad file must not block the files after it
            log.error("%s: the file cannot be stored and is skipped", path, exc_info=fault)
        path.unlink(missing_ok=True)

    def _store_file(self, path: Path) -> None:
        batch, size = [], 0
        for row in read(path):
            batch.append(row)
            size += sum(len(value) for value in row if isinstance(value, bytes | str))
            if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
                self._store(batch)
                batch, size = [], 0
        if batch:
            self._store(batch)

    def _move_orphans(self) -> None:
        """Moves the files of crashed workers and removes their folders, in a native thread."""
        for folder in self._root.iterdir():
            is_named = not folder.name.startswith(".") and folder.is_dir() and not folder.is_symlink()
            if not is_named or folder == self._spool.folder or (lock := try_lock(folder)) is None:
                continue
            try:
                current = folder / "current"
                if _is_regular(current):
                    current.rename(folder / f"{time.time_ns():020d}.log")
                for path in files(folder):
                    self._move_file(path)
                self._remove_orphan(folder)
            finally:
                os.close(lock)

    def _remove_orphan(self, folder: Path) -> None:
        """Removes the folder of a crashed worker, unless it has something that is no file of a spool."""
        if others := [path.name for path in folder.iterdir() if path.name != "lock"]:
            if folder not in self._left:
                log.error("%s is left: %r is no file of a spool", folder, others[0])
            self._left.add(folder)
            return
        (folder / "lock").unlink()
        folder.rmdir()

    def close(self, timeout_s: float) -> None:
        """Moves the remaining rows within this time; what cannot be moved stays for another worker."""
        self._stopping.set()
        with gevent.Timeout(timeout_s, False):  # pyright: ignore[reportArgumentType] - gevent's types lack False: the block ends silently
            if self._greenlet is not None:
                self._greenlet.join()
            self.move()
        self._quietly(self._remove_folder)

    def _remove_folder(self) -> None:
        self._spool.close()
        if not files(self._spool.folder):
            (self._spool.folder / "lock").unlink(missing_ok=True)
            self._spool.folder.rmdir()
