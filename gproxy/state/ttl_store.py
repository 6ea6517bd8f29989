"""Keepsakes: opaque values that a vendor wants back next turn and the client cannot carry, kept for a day at most.

The workers of a machine share two files, the newest generation and the one before it. A generation is a header, a
table of slots, and the values, appended. As the table lies in the file, a process has no index to hold or to catch up
with. A value is written before its slot: what a killed writer leaves has no slot and costs its bytes only.

Loss is allowed here, a wrong value is not: a slot's check covers the key, the place, the time and the value.
"""

import errno
import fcntl
import hashlib
import logging
import math
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

HEADER = struct.Struct("<12sII")  # magic, number of buckets, time of birth; its check follows
MAGIC = b"gproxy keep1"
TABLE_AT = 32
SLOT = struct.Struct("<16sIII")  # digest of the key, start, length, time; its check follows
SLOT_BYTES = 32
BUCKET_BYTES = 4096  # a key's slot lies in one bucket, so that one read finds it
BYTES_PER_BUCKET = 64 * 1024  # values of less than about 650 bytes fill a bucket before they fill the generation
MIN_BYTES, MAX_BYTES = 64 * 1024, 8 * 1024**3  # less has hardly room beside the table, more none in a slot
# The lock is held for microseconds. It is waited for asleep: a holder that was stopped must not stop our event loop.
LOCK_WAIT_S, LOCK_NAP_S = 1.0, 0.0005
COMPLAIN_EVERY_S = 60


class Garbled(Exception):
    """A generation has bytes in it that were not written so."""


class Generation:
    """One file. Reading needs no lock, writing does."""

    def __init__(self, fd: int, max_bytes: int):
        """Takes the descriptor over if it succeeds. Raises Garbled, OSError."""
        raw = os.pread(fd, TABLE_AT, 0)
        header, found = raw[: HEADER.size], os.fstat(fd)
        if not raw.startswith(MAGIC) or not raw.startswith(header + _check(header)):
            raise Garbled(self)
        _, self._buckets, self.born = HEADER.unpack(header)
        self.fd, self.inode, self.min_bytes = fd, found.st_ino, TABLE_AT + self._buckets * BUCKET_BYTES
        self.is_told = False
        if not self.min_bytes <= found.st_size <= max_bytes:
            raise Garbled(self)

    def end(self) -> int:
        return os.fstat(self.fd).st_size

    def find(self, digest: bytes) -> tuple[bytes, int] | None:
        """The value and when it was put. Raises Garbled."""
        bucket = os.pread(self.fd, BUCKET_BYTES, self._bucket_at(digest))
        at = bucket.find(digest)
        slot = bucket[at : at + SLOT_BYTES]
        if at < 0 or len(slot) < SLOT_BYTES:
            return None
        _, start, length, put_at = SLOT.unpack_from(slot)
        # Looked at first, because a garbled length could ask for a buffer of gigabytes.
        value = os.pread(self.fd, length, start) if start + length <= self.end() else b""
        if slot[SLOT.size :] != _check(slot[: SLOT.size], value):
            raise Garbled(self)
        return value, put_at

    def slot_for(self, digest: bytes) -> int | None:
        """Where the key's slot is or may be; None when its bucket is full."""
        start = self._bucket_at(digest)
        bucket = os.pread(self.fd, BUCKET_BYTES, start)
        at = bucket.find(digest)
        if at < 0:  # the first free one: a bucket is filled from its front
            at = -(-len(bucket.rstrip(b"\0")) // SLOT_BYTES) * SLOT_BYTES
        return start + at if at < BUCKET_BYTES else None

    def append(self, slot_at: int, digest: bytes, value: bytes, now: int) -> None:
        start = self.end()
        slot = SLOT.pack(digest, start, len(value), now)
        try:
            _write(self.fd, value, start)
            _write(self.fd, slot + _check(slot, value), slot_at)
        except OSError:
            os.ftruncate(self.fd, start)
            raise

    def _bucket_at(self, digest: bytes) -> int:
        return TABLE_AT + int.from_bytes(digest[:4], "little") % self._buckets * BUCKET_BYTES


class TtlStore:
    """Opened in each process, after the fork; used by the greenlets of one thread."""

    def __init__(
        self,
        folder: Path,
        max_bytes: int = 64 * 1024 * 1024,
        max_age_s: float = 24 * 3600,
        clock: Callable[[], float] = time.time,
    ):
        """`max_bytes` bounds the disk. `max_age_s` bounds what is found, and a day lets a session go on next morning;
        on the disk a value may lie twice as long, or until the next put.
        """
        if not MIN_BYTES <= max_bytes <= MAX_BYTES:
            raise ValueError(f"keepsakes need {MIN_BYTES} to {MAX_BYTES} bytes, not {max_bytes}")
        self.max_value_bytes = max_bytes // 16
        self._generation_bytes = max_bytes // 2
        self._folder, self._max_age_s, self._clock = folder, max_age_s, clock
        self._newest_path, self._older_path, self._fresh_path = folder / "newest", folder / "older", folder / "fresh"
        self._newest: Generation | None = None
        self._older: Generation | None = None
        self._inode = -1  # of the newest; 0 when there is none, -1 when nobody looked yet
        self._folder_fd = -1
        self._dropped: list[Path] = []
        self._complained_at = -math.inf

    def put(self, user: int, call_id: str, value: bytes) -> bool:
        """Whether it is kept, in place of what the key had; a value above `max_value_bytes` is not."""
        if len(value) > self.max_value_bytes:
            return False
        try:
            with self._locked():
                self._append(_digest(user, call_id), value, int(self._clock()))
        except OSError as fault:
            self._complain(fault)
            return False
        return True

    def find(self, user: int, call_id: str) -> bytes | None:
        digest = _digest(user, call_id)
        try:
            if self._is_stale():
                with self._locked():
                    pass  # to lock is to catch up
            try:
                return self._look(digest)
            except Garbled:  # perhaps only because a writer was about it: once more while nobody is
                with self._locked():
                    return self._look(digest)
        except Garbled as fault:
            self._tell_garbled(fault.args[0])
        except OSError as fault:
            self._complain(fault)
        return None

    def close(self) -> None:
        self._close_generations()
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1

    def _look(self, digest: bytes) -> bytes | None:
        for generation in (self._newest, self._older):
            if generation is not None and (found := generation.find(digest)):
                value, put_at = found
                # Far ahead: the clock was set back since, and nobody knows how old it is.
                return value if abs(self._clock() - put_at) <= self._max_age_s else None
        return None

    def _append(self, digest: bytes, value: bytes, now: int) -> None:
        generation, slot_at = self._newest, None
        if generation is not None and self._has_room(generation, len(value), now):
            slot_at = generation.slot_for(digest)
        if slot_at is None:
            generation = self._start_generation(now)
            slot_at = generation.slot_for(digest)
        generation.append(slot_at, digest, value, now)

    def _has_room(self, generation: Generation, size: int, now: int) -> bool:
        # A generation of that age ends as well: all of the one before it has expired and need not stay on the disk.
        is_young = abs(now - generation.born) <= self._max_age_s
        return is_young and generation.end() + size <= self._generation_bytes

    def _start_generation(self, now: int) -> Generation:
        """Room is made first, so that the bound is never passed and a full disk can take the new one."""
        if self._newest is not None and self._older is not None:
            _drop(self._older_path, self._older.fd)
        _create(self._fresh_path, max(1, self._generation_bytes // BYTES_PER_BUCKET), now)
        if self._newest is not None:
            self._newest_path.rename(self._older_path)
        self._fresh_path.rename(self._newest_path)
        self._reopen()
        if self._newest is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._newest

    def _is_stale(self) -> bool:
        """Whether another process started a generation, or somebody cut ours within its table.

        A file that we hold open keeps its inode number to itself.
        """
        try:
            found = self._newest_path.stat()
        except FileNotFoundError:
            return self._inode != 0
        return found.st_ino != self._inode or found.st_size < self._newest.min_bytes

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock of all processes, and the generations as they are now. Nothing within may switch greenlets."""
        deadline = time.monotonic() + LOCK_WAIT_S
        while not self._try_lock(is_last=time.monotonic() > deadline):
            time.sleep(LOCK_NAP_S)
        try:
            if self._is_stale():
                self._reopen()
            yield
        finally:
            fcntl.flock(self._folder_fd, fcntl.LOCK_UN)
            self._tell_dropped()

    def _try_lock(self, is_last: bool) -> bool:
        self._open_folder()
        try:
            fcntl.flock(self._folder_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if is_last:
                raise
            return False
        return True

    def _open_folder(self) -> None:
        if self._folder_fd >= 0 and os.fstat(self._folder_fd).st_nlink > 0:  # 0: it was removed under us
            return
        self.close()
        self._folder.mkdir(0o700, parents=True, exist_ok=True)
        self._folder_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)

    def _reopen(self) -> None:
        self._close_generations()
        self._older = self._open(self._older_path)
        self._newest = self._open(self._newest_path)
        self._inode = 0 if self._newest is None else self._newest.inode

    def _open(self, path: Path) -> Generation | None:
        """None when there is none. One that is garbled, or too large for the bound that we were given, is dropped."""
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return None
        with suppress(Garbled, OSError):
            return Generation(fd, self._generation_bytes)
        try:
            _drop(path, fd)
            self._dropped.append(path)
        finally:
            os.close(fd)
        return None

    def _close_generations(self) -> None:
        for generation in (self._newest, self._older):
            if generation is not None:
                os.close(generation.fd)
        self._newest, self._older, self._inode = None, None, -1

    def _tell_dropped(self) -> None:
        while self._dropped:  # only now: a log handler may switch greenlets
            log.warning("%s is not whole, or above its bound: dropped with its keepsakes", self._dropped.pop())

    def _tell_garbled(self, generation: Generation) -> None:
        if not generation.is_told:
            generation.is_told = True
            log.warning("a generation of keepsakes in %s is garbled; what cannot be read is left out", self._folder)

    def _complain(self, fault: OSError) -> None:
        now = time.monotonic()
        if now - self._complained_at >= COMPLAIN_EVERY_S:
            self._complained_at = now
            log.error("keepsakes in %s cannot be used: %s", self._folder, fault.strerror)


def _digest(user: int, call_id: str) -> bytes:
    # The first colon ends the number. An id may hold half of an emoji; it is a key like any other.
    return hashlib.blake2b(f"{user}:{call_id}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _check(head: bytes, value: bytes = b"") -> bytes:
    return zlib.crc32(value, zlib.crc32(head)).to_bytes(4, "little")


def _write(fd: int, content: bytes, start: int) -> None:
    """All of it or OSError: a disk that becomes full takes a part without a word."""
    if os.pwrite(fd, content, start) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _create(path: Path, buckets: int, now: int) -> None:
    header = HEADER.pack(MAGIC, buckets, now)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write(fd, header + _check(header), 0)
        os.ftruncate(fd, TABLE_AT + buckets * BUCKET_BYTES)
    finally:
        os.close(fd)


def _drop(path: Path, fd: int) -> None:
    path.unlink(missing_ok=True)
    os.ftruncate(fd, 0)  # its bytes are free at once, though an idle process may hold it open for days
