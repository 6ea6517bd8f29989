"""The usage journal: an `opened` line before a call is sent, a `settled` line before the client gets the end.

A worker owns one slot, a folder that it keeps locked while it runs, and writes lines into segments there. A plain
write survives `kill -9`. Disk space for the `settled` line is reserved together with the `opened` line, so that a full
disk refuses new calls and never loses the end of a running one. `entries.py` has the schema of the lines, `segments.py`
reads them.
"""

import logging
import os
import secrets
import time
from pathlib import Path

from gproxy.accounting.entries import Opened, Settled, to_line
from gproxy.accounting.slots import SLOTS, Slot
from gproxy.errors import Unavailable
from gproxy.fastpath.syscalls import pwrite

log = logging.getLogger(__name__)

SEGMENT_BYTES = 4 * 1024 * 1024
GROW_BYTES = 256 * 1024
# Disk space reserved for a settled line: numbers, short words and a few names. A test checks the longest line.
SETTLED_ROOM = 1_536

EPOCH_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
MACHINES = 256
SEQUENCES = 256


class Ids:
    """Unique, time-ordered 63-bit ids: 40 bits of milliseconds, 8 of machine, 7 of slot, 8 of sequence."""

    def __init__(self, machine: int, slot: int, newest: int = 0):
        """`newest` is the newest id in the database: new ids are greater even if the clock was set back."""
        self._node = (machine * SLOTS + slot) * SEQUENCES
        self._last_ms, self._sequence = newest >> 23, SEQUENCES - 1

    def next(self, now_ns: int) -> int:
        now_ms = now_ns // 1_000_000 - EPOCH_MS
        if now_ms > self._last_ms:
            self._last_ms, self._sequence = now_ms, 0
        elif self._sequence + 1 < SEQUENCES:
            self._sequence += 1
        else:  # all sequence numbers of this millisecond are used: take the next millisecond
            self._last_ms, self._sequence = self._last_ms + 1, 0
        return self._last_ms << 23 | self._node | self._sequence


class Journal:
    """Writes the journal of one worker; called by its greenlets."""

    def __init__(self, slot: Slot):
        self.slot = slot
        self.is_writable = True
        self.segments: list[Path] = []  # oldest first; the last one is being written
        self.end = 0  # size of the last segment in bytes, without reserved space
        self._fd = -1
        self._allocated = 0
        self._open_lines: dict[int, bytes] = {}
        self._unwritten: list[bytes] = []

    @property
    def open_count(self) -> int:
        """The number of calls without a `settled` line."""
        return len(self._open_lines)

    @property
    def has_unwritten(self) -> bool:
        """True while a `settled` line waits in memory."""
        return bool(self._unwritten)

    def open(self, entry: Opened) -> None:
        """Writes the `opened` line of a call before it is sent. Raises Unavailable if it cannot be written."""
        line = to_line(entry)
        try:
            if self._fd < 0 or self.end >= SEGMENT_BYTES:
                self._next_segment()
            self._reserve(len(line) + SETTLED_ROOM)
            self._write(line)
        except OSError as fault:
            if self.is_writable:
                log.error("the usage journal cannot be written: %s; calls are refused", fault.strerror)
            self.is_writable = False
            raise Unavailable("the usage journal cannot be written", retry_after_s=5) from fault
        self.is_writable = True
        self._open_lines[entry.call_id] = line

    def refuse_when_full(self) -> None:
        """Raises Unavailable while the journal cannot be written; called first, so that nothing has to be undone."""
        if not self.is_writable:
            raise Unavailable("the usage journal cannot be written", retry_after_s=5)

    def settle(self, entry: Settled) -> None:
        """Writes the `settled` line of a call, into the space reserved by `open`; works on a full disk."""
        line = to_line(entry)
        self._open_lines.pop(entry.call_id, None)
        try:
            self._write(line)
        except OSError as fault:
            log.error("a settled line could not be written: %s; it is kept in memory and retried", fault.strerror)
            self._unwritten.append(line)

    def check_space(self) -> None:
        """Sets `is_writable` again once disk space can be reserved; from then on calls are accepted."""
        try:
            if self._fd < 0:
                self._next_segment()
            self._reserve(GROW_BYTES)
            self.is_writable = True
        except OSError as fault:
            log.debug("the usage journal still cannot be written: %s", fault.strerror)

    def retry_unwritten(self) -> None:
        """Writes the `settled` lines that failed with an I/O error. Raises OSError."""
        while self._unwritten:
            self._write(self._unwritten[0])
            del self._unwritten[0]

    def forget_segment(self, path: Path) -> None:
        """Deletes a segment whose calls are all in the database."""
        self.segments.remove(path)
        path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _reserve(self, size: int) -> None:
        """Allocates disk space for `size` bytes and the `settled` lines of all open calls. Raises OSError."""
        needed = self.end + size + SETTLED_ROOM * len(self._open_lines)
        if needed > self._allocated:
            allocated = needed + GROW_BYTES
            os.posix_fallocate(self._fd, 0, allocated)
            self._allocated = allocated

    def _write(self, line: bytes) -> None:
        written = 0
        while written < len(line):
            written += pwrite(self._fd, line[written:], self.end + written)
        self.end += len(line)

    def _next_segment(self) -> None:
        """Starts a segment with a copy of all open lines, so that the segment before it can be deleted. Raises OSError.

        Without disk space for a new segment the current one is continued.
        """
        path = self.slot.folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}.log"
        carried = b"".join(self._open_lines.values())
        size = len(carried) + SETTLED_ROOM * (len(self._open_lines) + 1) + GROW_BYTES
        unfinished = path.with_suffix(".new")
        fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
            os.pwrite(fd, carried, 0)
            unfinished.rename(path)
        except OSError:
            os.close(fd)
            unfinished.unlink(missing_ok=True)
            if self._fd < 0:
                raise
            return
        self.close()
        self._fd, self._allocated, self.end = fd, size, len(carried)
        self.segments.append(path)
