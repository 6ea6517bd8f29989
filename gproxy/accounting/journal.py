"""The journal: every call's `open` line before it is sent, its `settled` line before its end is told.

A worker owns one slot, a folder that it keeps locked while it lives, and writes lines into segments there. A plain
write survives `kill -9`. Room for a `settled` line is reserved on the disk together with its `open` line, so that a
full disk refuses new calls and never loses the end of a running one.

Slot numbers also make usage ids unique among the workers of a machine.
"""

import logging
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson

from gproxy.accounting.slots import SLOTS, Slot
from gproxy.errors import Unavailable
from gproxy.fastpath.syscalls import pwrite

log = logging.getLogger(__name__)

SEGMENT_BYTES = 4 * 1024 * 1024
GROW_BYTES = 256 * 1024
# A settled line holds numbers, short words and a few names; tests hold it to this.
SETTLED_ROOM = 1_536

EPOCH_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
MACHINES = 256
SEQUENCES = 256


class Ids:
    """Unique, time-ordered 63-bit ids: 40 bits of milliseconds, 8 of machine, 7 of slot, 8 of sequence."""

    def __init__(self, machine: int, slot: int, newest: int = 0):
        """`newest` is the newest id that is known: a clock that was set back does not lead below it."""
        self._node = (machine * SLOTS + slot) * SEQUENCES
        self._last_ms, self._sequence = newest >> 23, SEQUENCES - 1

    def next(self, now_ns: int) -> int:
        now_ms = now_ns // 1_000_000 - EPOCH_MS
        if now_ms > self._last_ms:
            self._last_ms, self._sequence = now_ms, 0
        elif self._sequence + 1 < SEQUENCES:
            self._sequence += 1
        else:  # more than a millisecond holds: borrow from the next one
            self._last_ms, self._sequence = self._last_ms + 1, 0
        return self._last_ms << 23 | self._node | self._sequence


class Journal:
    """The writing end, used by the greenlets of one worker. `live` are the calls without a `settled` line."""

    def __init__(self, slot: Slot):
        self.slot = slot
        self.is_writable = True
        self.segments: list[Path] = []  # own ones, oldest first; the last is being written
        self.end = 0  # of the last segment
        self._fd = -1
        self._allocated = 0
        self._live: dict[int, bytes] = {}
        self._unwritten: list[bytes] = []

    @property
    def live(self) -> int:
        return len(self._live)

    def open(self, entry: dict) -> None:
        """Books that a call is about to be sent; `entry["o"]` is its id. Raises Unavailable when it cannot."""
        line = orjson.dumps(entry) + b"\n"
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
        self._live[entry["o"]] = line

    def refuse_when_full(self) -> None:
        """Raises Unavailable while nothing can be opened, so that nothing else has to be undone."""
        if not self.is_writable:
            raise Unavailable("the usage journal cannot be written", retry_after_s=5)

    def settle(self, entry: dict) -> None:
        """Books how a call ended; `entry["s"]` is its id. Its room was reserved, so a full disk does not matter."""
        line = orjson.dumps(entry) + b"\n"
        self._live.pop(entry["s"], None)
        try:
            self._write(line)
        except OSError as fault:
            log.error("a settled line could not be written: %s; it is kept and tried again", fault.strerror)
            self._unwritten.append(line)

    def probe(self) -> None:
        """Whether the disk has room again; calls are taken from then on."""
        try:
            if self._fd < 0:
                self._next_segment()
            self._reserve(GROW_BYTES)
            self.is_writable = True
        except OSError as fault:
            log.debug("the usage journal still cannot be written: %s", fault.strerror)

    def retry_unwritten(self) -> None:
        """Writes what an I/O error kept back. Raises OSError."""
        while self._unwritten:
            self._write(self._unwritten[0])
            del self._unwritten[0]

    def forget_segment(self, path: Path) -> None:
        """Drops a segment whose lines are all in the database."""
        self.segments.remove(path)
        path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _reserve(self, room: int) -> None:
        needed = self.end + room + SETTLED_ROOM * len(self._live)
        if needed > self._allocated:
            size = needed + GROW_BYTES
            os.posix_fallocate(self._fd, 0, size)
            self._allocated = size

    def _write(self, line: bytes) -> None:
        written = 0
        while written < len(line):
            written += pwrite(self._fd, line[written:], self.end + written)
        self.end += len(line)

    def _next_segment(self) -> None:
        """Starts a segment with the calls that still run, so that the one before needs only to be read to its end."""
        path = self.slot.folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}.log"
        carried = b"".join(self._live.values())
        size = len(carried) + SETTLED_ROOM * (len(self._live) + 1) + GROW_BYTES
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
            os.pwrite(fd, carried, 0)
            fresh.rename(path)
        except OSError:
            os.close(fd)
            fresh.unlink(missing_ok=True)
            if self._fd < 0:
                raise
            return  # no room for a new one: the old one has what it reserved
        self.close()
        self._fd, self._allocated, self.end = fd, size, len(carried)
        self.segments.append(path)


class Line(NamedTuple):
    """One line read back, with where it ends."""

    segment: str
    end: int
    entry: dict


def read_lines(path: Path, start: int, stop: int | None = None) -> Iterator[Line]:
    """The whole lines of a segment from an offset on. Reserved room is zeros; a torn last line is none.

    A line that a dying disk garbled is left out: it must not keep the others from being booked.
    """
    with path.open("rb") as file:
        file.seek(start)
        position = start
        for raw in file:
            if raw[:1] == b"\0" or not raw.endswith(b"\n") or (stop is not None and position + len(raw) > stop):
                return
            position += len(raw)
            try:
                entry = orjson.loads(raw)
            except orjson.JSONDecodeError:
                log.error("%s: the line that ends at byte %d is garbled and left out", path, position)
                continue
            yield Line(path.name, position, entry)
