"""Numbers that each worker counts in files of its own: a plain memory write per event, no lock, right after `kill -9`.

A worker has two files: `values`, an array of floats in shared memory, and `names`, which says line by line whose they
are. Who takes over a dead worker's number counts on from there. Whoever reads adds up the files of all. What is only so
at the moment (a gauge) counts while its worker lives, which a lock on its values tells.

Only the greenlets of one thread may count: nothing comes between reading a number and writing it back.
"""

import errno
import fcntl
import logging
import mmap
import os
import secrets
import struct
import time
import zlib
from array import array
from collections.abc import Collection, Iterator
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import orjson

from gproxy.fastpath import syscalls

log = logging.getLogger(__name__)

MAX = 20_000  # values of a worker
RESERVED = 1_000  # of them for the series that the others are folded into
OTHER = "other"
# The first values belong to nobody: they take what has no place.
NOWHERE, FIRST = 0, 64
FLOAT = 8
MAGIC = b"gpmeter1"
HEAD = struct.Struct("=8s32s")  # and the mark that both files of a pair have
# A worker that stops gives its number back a moment before its files.
LOCK_TRIES, LOCK_NAP_S = 1_000, 0.005


class Garbled(Exception):
    """A pair of files is not as any worker leaves it."""


class Series(NamedTuple):
    """Whose values stand from `start` on. `labels` in the order of the family's own names."""

    family: str
    labels: tuple[str, ...]
    start: int
    width: int


class Sums(NamedTuple):
    """The values of all workers by family, labels and number of values; how many workers there are."""

    values: dict[tuple[str, tuple[str, ...], int], list[float]]
    workers: int


class MmapValues:
    """One worker's end. `values[place]` is changed in place; `folded` counts the series that were not made.

    Where the files cannot be used the numbers are counted in memory, and lost with the worker.
    """

    def __init__(self, folder: Path, number: int, gauges: Collection[str], maximum: int = MAX):
        """`number` is nobody else's while this process lives."""
        self.folded = 0
        self._folder, self._number, self._gauges, self._maximum = folder, number, frozenset(gauges), maximum
        self._names = _Names()
        self._places: dict[tuple[str, tuple[str, ...]], Series] = {}
        self._others: dict[int, _Names] = {}
        self._names_fd = self._values_fd = -1
        self._can_name = True
        try:
            self.values = self._opened()
        except OSError as fault:
            log.error("metrics cannot be kept in %s: %s; this worker's are lost when it ends", folder, fault.strerror)
            self._let_go()
            self._names, self._places = _Names(), {}
            self.values = memoryview(bytearray(maximum * FLOAT)).cast("d")

    def place(self, family: str, labels: tuple[str, ...], width: int = 1) -> int:
        """Where the values of this series begin, which is made if need be.

        Beyond the bound it is that of "other". NOWHERE when not even that can be made, now.
        """
        found = self._places.get((family, labels))
        if found is not None and found.width == width:
            return found.start
        if self._names.used + width > self._maximum - RESERVED:
            self.folded += 1
            labels = (OTHER,) * len(labels)
            found = self._places.get((family, labels))
            if found is not None and found.width == width:
                return found.start
            if self._names.used + width > self._maximum:
                return NOWHERE
        return self._made(Series(family, labels, self._names.used, width))

    def series(self) -> Iterator[Series]:
        """This worker's own, also those that it took over."""
        return iter(list(self._places.values()))

    def sums(self) -> Sums:
        """What all workers counted until now, the dead ones as well. From any one thread at a time."""
        found: dict[tuple[str, tuple[str, ...], int], list[float]] = {}
        self._add(found, list(self._names.series), self.values, True)
        workers = 1
        for path in sorted(self._folder.glob("[0-9]*.values")):
            number = int(path.stem)
            if number == self._number and self._values_fd >= 0:
                continue
            try:
                names, values, is_alive = self._read(number)
            except (OSError, Garbled) as fault:
                log.error("metrics of worker %d cannot be read: %s", number, type(fault).__name__)
                continue
            workers += is_alive
            self._add(found, names, values, is_alive)
        return Sums(found, workers)

    def close(self) -> None:
        """From now on this worker counts as dead. What is counted still goes into its files."""
        self._let_go()

    def _add(self, found: dict, names: list[Series], values, is_alive: bool) -> None:
        for family, labels, start, width in names:
            if not is_alive and family in self._gauges:
                continue
            counted = values[start : start + width]
            # Those of another version are not added to ours.
            if (before := found.get((family, labels, width))) is None:
                found[family, labels, width] = list(counted)
            else:
                found[family, labels, width] = [a + b for a, b in zip(before, counted, strict=True)]

    def _made(self, series: Series) -> int:
        content = _line(series)
        if self._names_fd >= 0:
            try:
                if syscalls.pwrite(self._names_fd, content, self._names.end) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as fault:
                if self._can_name:
                    log.error("a series of metrics cannot be named: %s; it is not counted", fault.strerror)
                self._can_name = False
                return NOWHERE
            self._can_name = True
        self._names.add(series, len(content))
        self._places[series.family, series.labels] = series
        return series.start

    # Files.

    def _path(self, number: int, kind: str) -> Path:
        return self._folder / f"{number:03d}.{kind}"

    def _opened(self) -> memoryview:
        """The values, of files that are taken over or made. Raises OSError."""
        self._folder.mkdir(0o700, parents=True, exist_ok=True)
        values = self._path(self._number, "values")
        if values.exists():
            try:
                return self._taken_over()
            except (FileNotFoundError, Garbled) as fault:
                log.error("metrics in %s begin anew: they were %s", values, type(fault).__name__)
        return self._begun()

    def _taken_over(self) -> memoryview:
        """Raises OSError, Garbled."""
        self._values_fd = os.open(self._path(self._number, "values"), os.O_RDWR)
        self._names_fd = os.open(self._path(self._number, "names"), os.O_RDWR)
        _lock(self._values_fd)
        if os.fstat(self._values_fd).st_size != self._size:
            raise Garbled
        self._names.read(self._names_fd, _mark(self._values_fd))
        if self._names.used > self._maximum:
            raise Garbled
        os.ftruncate(self._names_fd, self._names.end)  # the last line, if its writer was killed within it
        values = self._mapped()
        _check(values)
        for series in self._names.series:
            self._places[series.family, series.labels] = series
            if series.family in self._gauges:
                values[series.start : series.start + series.width] = array("d", bytes(series.width * FLOAT))
        return values

    def _begun(self) -> memoryview:
        """New files, in place of what is there. Raises OSError."""
        self._let_go()
        self._names, self._places = _Names(), {}
        mark = secrets.token_hex(16).encode()
        self._names_fd = self._fresh("names", mark + b"\n", 0)
        self._values_fd = self._fresh("values", HEAD.pack(MAGIC, mark), self._size)
        self._names.read(self._names_fd, mark)
        return self._mapped()

    def _fresh(self, kind: str, content: bytes, size: int) -> int:
        path = self._path(self._number, kind)
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            if size:
                # Room for all of it now: to write into memory that has none on the disk would end the process.
                os.posix_fallocate(fd, 0, size)
                _lock(fd)
            os.pwrite(fd, content, 0)
            fresh.rename(path)
        except OSError:
            os.close(fd)
            raise
        return fd

    @property
    def _size(self) -> int:
        return HEAD.size + self._maximum * FLOAT

    def _mapped(self) -> memoryview:
        return memoryview(mmap.mmap(self._values_fd, self._size))[HEAD.size :].cast("d")

    def _let_go(self) -> None:
        if self._values_fd >= 0:
            # The memory keeps a copy of the descriptor, so that closing ours does not end the lock.
            fcntl.flock(self._values_fd, fcntl.LOCK_UN)
            os.close(self._values_fd)
        if self._names_fd >= 0:
            os.close(self._names_fd)
        self._names_fd = self._values_fd = -1

    def _read(self, number: int) -> tuple[list[Series], array, bool]:
        """Another worker's series and values, and whether it lives. Raises OSError, Garbled."""
        names_fd = os.open(self._path(number, "names"), os.O_RDONLY)
        try:
            values_fd = os.open(self._path(number, "values"), os.O_RDONLY)
            try:
                names = self._others.setdefault(number, _Names())
                mark = _mark(values_fd)
                if names.mark != mark:
                    names = self._others[number] = _Names()
                names.read(names_fd, mark)
                # A worker of another version may have had room for more, or for less.
                content = os.pread(values_fd, names.used * FLOAT, HEAD.size)
                if len(content) != names.used * FLOAT:
                    raise Garbled
                values = array("d", content)
                _check(values)
                return names.series, values, _is_locked(values_fd)
            finally:
                os.close(values_fd)
        finally:
            os.close(names_fd)


class _Names:
    """What a names file says, as far as it was read: `end` is in bytes, `used` in values."""

    def __init__(self):
        self.mark, self.end, self.used = b"", 0, FIRST
        self.series: list[Series] = []

    def add(self, series: Series, size: int) -> None:
        self.series.append(series)
        self.used += series.width
        self.end += size

    def read(self, fd: int, mark: bytes) -> None:
        """Goes on to the last whole line. Raises OSError, and Garbled where the file does not belong to this mark."""
        lines = os.pread(fd, max(0, os.fstat(fd).st_size - self.end), self.end).split(b"\n")[:-1]
        if not self.mark:
            if not lines or lines[0] != mark:
                raise Garbled
            self.mark, self.end = mark, len(lines.pop(0)) + 1
        for line in lines:
            self.add(_series(line, self.used), len(line) + 1)


def _line(series: Series) -> bytes:
    text = orjson.dumps([series.family, series.width, *series.labels])
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _series(line: bytes, start: int) -> Series:
    """Raises Garbled."""
    check, _, text = line.partition(b" ")
    if check != b"%08x" % zlib.crc32(text):
        raise Garbled
    family, width, *labels = orjson.loads(text)
    return Series(family, tuple(labels), start, width)


def _mark(values_fd: int) -> bytes:
    """Raises OSError, Garbled."""
    head = os.pread(values_fd, HEAD.size, 0)
    if len(head) < HEAD.size or not head.startswith(MAGIC):
        raise Garbled
    return HEAD.unpack(head)[1]


def _check(values) -> None:
    """Raises Garbled when there is what nobody counts."""
    if not all(map(isfinite, values)) or min(values) < 0:
        raise Garbled


def _lock(fd: int) -> None:
    """For as long as the process lives. Whoever reads has a lock for a moment only. Raises BlockingIOError."""
    for _ in range(LOCK_TRIES):
        if syscalls.try_lock(fd):
            return
        time.sleep(LOCK_NAP_S)
    raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))


def _is_locked(fd: int) -> bool:
    """Whether somebody else has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
