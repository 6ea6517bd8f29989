"""The TTL store: keeps opaque values that a vendor wants back in the next turn but a client cannot carry, for a day.

The workers of a machine share two files, the newest generation and the one before it. A generation has a header, a
table of slots and the values, which are appended. Since the table is in the file, a process needs no index in memory. A
value is written before its slot: a killed writer leaves at most the bytes of a value without a slot.

Values may be lost, but a wrong value is never returned: a slot's checksum covers key, position, time and value.
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

HEADER = struct.Struct("<12sII")  # magic, number of buckets, time of creation in seconds; a checksum follows
MAGIC = b"gproxy keep1"
TABLE_AT = 32
SLOT = struct.Struct("<16sIII")  # digest of the key, offset and length of the value, time; a checksum follows
SLOT_BYTES = 32
BUCKET_BYTES = 4096  # a key's slot lies in one bucket, so that one read finds it
BYTES_PER_BUCKET = 64 * 1024  # values of less than about 650 bytes fill a bucket before they fill the generation
MIN_BYTES, MAX_BYTES = 64 * 1024, 8 * 1024**3  # less leaves no room beside the table, more exceeds 32-bit offsets
# The lock is normally held for microseconds. The process sleeps between tries, so that a process that was stopped while
# it held the lock does not stop our event loop.
LOCK_WAIT_S, LOCK_NAP_S = 1.0, 0.0005
LOG_EVERY_S = 60


class Corrupted(Exception):
    """A generation contains bytes that no process wrote."""


class Generation:
    """One file. Reading needs no lock, writing does."""

    def __init__(self, fd: int, max_bytes: int):
        """Owns the descriptor unless it raises Corrupted or OSError. `max_bytes` is the largest valid size."""
        raw = os.pread(fd, TABLE_AT, 0)
        header, stat = raw[: HEADER.size], os.fstat(fd)
        if not raw.startswith(MAGIC) or not raw.startswith(header + _checksum(header)):
            raise Corrupted(self)
        _, self._buckets, self.created_at = HEADER.unpack(header)
        self.fd, self.inode, self.min_bytes = fd, stat.st_ino, TABLE_AT + self._buckets * BUCKET_BYTES
        self.is_logged = False
        if not self.min_bytes <= stat.st_size <= max_bytes:
            raise Corrupted(self)

    def end(self) -> int:
        return os.fstat(self.fd).st_size

    def find(self, digest: bytes) -> tuple[bytes, int] | None:
        """Returns the value and the time at which it was put, or None. Raises Corrupted."""
        bucket = os.pread(self.fd, BUCKET_BYTES, self._bucket_offset(digest))
        at = bucket.find(digest)
        slot = bucket[at : at + SLOT_BYTES]
        if at < 0 or len(slot) < SLOT_BYTES:
            return None
        _, start, length, put_at = SLOT.unpack_from(slot)
        # The bounds are checked first: a corrupted length could allocate a buffer of gigabytes.
        value = os.pread(self.fd, length, start) if start + length <= self.end() else b""
        if slot[SLOT.size :] != _checksum(slot[: SLOT.size], value):
            raise Corrupted(self)
        return value, put_at

    def slot_offset(self, digest: bytes) -> int | None:
        """Returns the offset of the key's slot, or of a free slot for it, or None if its bucket is full."""
        start = self._bucket_offset(digest)
        bucket = os.pread(self.fd, BUCKET_BYTES, start)
        at = bucket.find(digest)
        if at < 0:  # the first free slot: a bucket is filled from its start
            at = -(-len(bucket.rstrip(b"\0")) // SLOT_BYTES) * SLOT_BYTES
        return start + at if at < BUCKET_BYTES else None

    def append_first(self, digest: bytes, value: bytes, now: int) -> None:
        """Appends the first value of the generation, all of whose buckets are empty."""
        self.append(self._bucket_offset(digest), digest, value, now)

    def append(self, slot_at: int, digest: bytes, value: bytes, now: int) -> None:
        start = self.end()
        slot = SLOT.pack(digest, start, len(value), now)
        try:
            _write(self.fd, value, start)
            _write(self.fd, slot + _checksum(slot, value), slot_at)
        except OSError:
            os.ftruncate(self.fd, start)
            raise

    def _bucket_offset(self, digest: bytes) -> int:
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
        """`max_bytes` is the maximum disk space. Values older than `max_age_s` are not found.

        The default, a day, lets a session continue the next morning. On disk a value may remain twice as long, or
        until the next put.
        """
        if not MIN_BYTES <= max_bytes <= MAX_BYTES:
            raise ValueError(f"the TTL store needs {MIN_BYTES} to {MAX_BYTES} bytes, not {max_bytes}")
        self.max_value_bytes = max_bytes // 16
        self._generation_bytes = max_bytes // 2
        self._folder, self._max_age_s, self._clock = folder, max_age_s, clock
        self._newest_path, self._older_path, self._fresh_path = folder / "newest", folder / "older", folder / "fresh"
        self._newest: Generation | None = None
        self._older: Generation | None = None
        self._inode = -1  # of the newest generation; 0 if there is none, -1 before the first check
        self._folder_fd = -1
        self._dropped: list[Path] = []
        self._logged_at = -math.inf

    def put(self, user: int, call_id: str, value: bytes) -> bool:
        """Stores or replaces the value of a key. Returns False if that failed or it is above `max_value_bytes`."""
        if len(value) > self.max_value_bytes:
            return False
        try:
            with self._locked():
                self._append(_digest(user, call_id), value, int(self._clock()))
        except OSError as fault:
            self._log_failure(fault)
            return False
        return True

    def find(self, user: int, call_id: str) -> bytes | None:
        """Returns the value of a key, or None if it is missing, too old or cannot be read."""
        digest = _digest(user, call_id)
        try:
            if self._is_stale():
                with self._locked():
                    pass  # taking the lock reopens the files
            try:
                return self._find(digest)
            except Corrupted:  # perhaps a writer was active: read once more while there is none
                with self._locked():
                    return self._find(digest)
        except Corrupted as fault:
            self._log_corrupted(fault.args[0])
        except OSError as fault:
            self._log_failure(fault)
        return None

    def close(self) -> None:
        self._close_generations()
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1

    def _find(self, digest: bytes) -> bytes | None:
        for generation in (self._newest, self._older):
            if generation is not None and (found := generation.find(digest)):
                value, put_at = found
                # A time far ahead: the clock was set back since, so the value's age is unknown.
                return value if abs(self._clock() - put_at) <= self._max_age_s else None
        return None

    def _append(self, digest: bytes, value: bytes, now: int) -> None:
        generation = self._newest
        if generation is not None and self._has_room(generation, len(value), now):
            slot_at = generation.slot_offset(digest)
            if slot_at is not None:
                generation.append(slot_at, digest, value, now)
                return
        self._start_generation(now).append_first(digest, value, now)

    def _has_room(self, generation: Generation, size: int, now: int) -> bool:
        # A generation of that age ends too: the whole one before it has expired and can leave the disk.
        is_young = abs(now - generation.created_at) <= self._max_age_s
        return is_young and generation.end() + size <= self._generation_bytes

    def _start_generation(self, now: int) -> Generation:
        """Drops the older generation first, so that `max_bytes` is never exceeded and a full disk has room."""
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
        """Returns True if another process started a generation, or ours was truncated within its table.

        No new file gets the inode number of a file that we have open.
        """
        try:
            stat = self._newest_path.stat()
        except FileNotFoundError:
            return self._inode != 0
        return self._newest is None or stat.st_ino != self._inode or stat.st_size < self._newest.min_bytes

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Takes the lock of all processes and opens the current generations. Nothing within may switch greenlets."""
        deadline = time.monotonic() + LOCK_WAIT_S
        while not self._try_lock(is_last=time.monotonic() > deadline):
            time.sleep(LOCK_NAP_S)
        try:
            if self._is_stale():
                self._reopen()
            yield
        finally:
            fcntl.flock(self._folder_fd, fcntl.LOCK_UN)
            self._log_dropped()

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
        if self._folder_fd >= 0 and os.fstat(self._folder_fd).st_nlink > 0:  # 0: the folder was removed
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
        """Returns the generation, or None without one; a corrupted or too large one is dropped."""
        try:
            fd = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return None
        with suppress(Corrupted, OSError):
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

    def _log_dropped(self) -> None:
        while self._dropped:  # only after the lock: a log handler may switch greenlets
            log.warning("%s is corrupted or larger than allowed: dropped with its values", self._dropped.pop())

    def _log_corrupted(self, generation: Generation) -> None:
        if not generation.is_logged:
            generation.is_logged = True
            log.warning("a generation of the TTL store in %s is corrupted; unreadable values are ignored", self._folder)

    def _log_failure(self, fault: OSError) -> None:
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.error("the TTL store in %s cannot be used: %s", self._folder, fault.strerror)


def _digest(user: int, call_id: str) -> bytes:
    # The first colon ends the number. An id may contain half of an emoji, a lone surrogate; it is a key like any other.
    return hashlib.blake2b(f"{user}:{call_id}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _checksum(head: bytes, value: bytes = b"") -> bytes:
    return zlib.crc32(value, zlib.crc32(head)).to_bytes(4, "little")


def _write(fd: int, content: bytes, start: int) -> None:
    """Writes all of it or raises OSError: on a disk that becomes full, pwrite writes a part and reports no error."""
    if os.pwrite(fd, content, start) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _create(path: Path, buckets: int, now: int) -> None:
    header = HEADER.pack(MAGIC, buckets, now)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _write(fd, header + _checksum(header), 0)
        os.ftruncate(fd, TABLE_AT + buckets * BUCKET_BYTES)
    finally:
        os.close(fd)


def _drop(path: Path, fd: int) -> None:
    path.unlink(missing_ok=True)
    os.ftruncate(fd, 0)  # frees its space at once; an idle process may keep the file open for days
