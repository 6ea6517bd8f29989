"""Metric values in memory-mapped files, one pair per worker: counting is a plain memory write and survives `kill -9`.

The file `values` is an array of floats; each line of `names` describes the series of the next values. A worker that
takes over the number of a crashed worker continues its values. A reader adds up the files of all workers. Gauges count
only while their worker runs, that is, while its values file is locked.

Only greenlets of one thread may count, so that nothing runs between reading a value and writing it back.
"""

import errno
import fcntl
import logging
import mmap
import os
import secrets
import stat
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

MAX_VALUES = 20_000  # of one worker
MAX_NAMES_BYTES = 64 * 1024 * 1024  # more than the names of all series can have
RESERVED = 1_000  # values kept for series with the label values "other"
OTHER = "other"
# The first values belong to no series; they absorb counts of series that could not be added.
SINK, FIRST_OFFSET = 0, 64
FLOAT = 8
MAGIC = b"gpmeter1"
HEADER = struct.Struct("=8s32s")  # magic, and an id that the first line of the names file repeats
# A worker that stops releases its number a moment before it unlocks its files.
LOCK_TRIES, LOCK_PAUSE_S = 1_000, 0.005


class Corrupted(Exception):
    """The content of a pair of files is invalid."""


class Series(NamedTuple):
    """`width` values from the offset `start` on. `labels` are in the order of the family's label names."""

    family: str
    labels: tuple[str, ...]
    start: int
    width: int


class Totals(NamedTuple):
    """The values of all workers by family, labels and width, and the number of running workers."""

    values: dict[tuple[str, tuple[str, ...], int], list[float]]
    workers: int


class MmapValues:
    """The values of one worker. Callers change `values[offset]`; `folded` counts series that were replaced by "other".

    If the files cannot be used, the values are in memory only and lost when the worker ends.
    """

    def __init__(self, folder: Path, number: int, gauges: Collection[str], maximum: int = MAX_VALUES):
        """No other running worker may have the same `number`."""
        self.folded = 0
        self._folder, self._number, self._gauges, self._maximum = folder, number, frozenset(gauges), maximum
        self._names = _NamesFile()
        self._series: dict[tuple[str, tuple[str, ...]], Series] = {}
        self._other_names: dict[int, _NamesFile] = {}
        self._names_fd = self._values_fd = -1
        self._can_add_series = True
        try:
            self.values = self._open_files()
        except OSError as fault:
            log.error(
                "metrics cannot be stored in %s: %s; those of this worker are lost when it ends", folder, fault.strerror
            )
            self._release_files()
            self._names, self._series = _NamesFile(), {}
            self.values = memoryview(bytearray(maximum * FLOAT)).cast("d")

    def offset(self, family: str, labels: tuple[str, ...], width: int = 1) -> int:
        """The offset of a series, which is added if it is new.

        Beyond the maximum number of values it is the offset of the series "other", or SINK if that cannot be added.
        """
        found = self._series.get((family, labels))
        if found is not None and found.width == width:
            return found.start
        if self._names.used + width > self._maximum - RESERVED:
            self.folded += 1
            labels = (OTHER,) * len(labels)
            found = self._series.get((family, labels))
            if found is not None and found.width == width:
                return found.start
            if self._names.used + width > self._maximum:
                return SINK
        return self._add_series(Series(family, labels, self._names.used, width))

    def series(self) -> Iterator[Series]:
        """The series of this worker, including those that it took over."""
        return iter(list(self._series.values()))

    def totals(self) -> Totals:
        """Adds up the values of all workers, including crashed ones. Must not run in two threads at a time."""
        found: dict[tuple[str, tuple[str, ...], int], list[float]] = {}
        self._add_values(found, list(self._names.series), self.values, True)
        workers = 1
        for path in sorted(self._folder.glob("[0-9][0-9][0-9].values")):
            number = int(path.stem)
            if number == self._number and self._values_fd >= 0:
                continue
            try:
                series, values, is_running = self._read_worker(number)
            except (OSError, Corrupted) as fault:
                log.error("metrics of worker %d cannot be read: %s", number, type(fault).__name__)
                continue
            workers += is_running
            self._add_values(found, series, values, is_running)
        return Totals(found, workers)

    def close(self) -> None:
        """Unlocks the files: this worker no longer counts as running. Later counts still go into its files."""
        self._release_files()

    def _add_values(self, found: dict, all_series: list[Series], values, is_running: bool) -> None:
        for family, labels, start, width in all_series:
            if not is_running and family in self._gauges:
                continue
            counted = values[start : start + width]
            # The width is part of the key, because another version may have had other buckets.
            if (before := found.get((family, labels, width))) is None:
                found[family, labels, width] = list(counted)
            else:
                found[family, labels, width] = [a + b for a, b in zip(before, counted, strict=True)]

    def _add_series(self, series: Series) -> int:
        content = _encode_series(series)
        if self._names_fd >= 0:
            try:
                if syscalls.pwrite(self._names_fd, content, self._names.end) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as fault:
                if self._can_add_series:
                    log.error("a metric series cannot be added: %s; it is not counted", fault.strerror)
                self._can_add_series = False
                return SINK
            self._can_add_series = True
        self._names.add(series, len(content))
        self._series[series.family, series.labels] = series
        return series.start

    # -- files --

    def _path(self, number: int, kind: str) -> Path:
        return self._folder / f"{number:03d}.{kind}"

    def _open_files(self) -> "memoryview[float]":
        """Takes over or creates the files and returns the values. Raises OSError."""
        self._folder.mkdir(0o700, parents=True, exist_ok=True)
        values = self._path(self._number, "values")
        if values.exists():
            try:
                return self._take_over_files()
            except (FileNotFoundError, Corrupted) as fault:
                log.error("metrics in %s are reset: %s", values, type(fault).__name__)
        return self._create_files()

    def _take_over_files(self) -> "memoryview[float]":
        """Raises OSError, Corrupted."""
        self._values_fd = os.open(self._path(self._number, "values"), os.O_RDWR)
        self._names_fd = os.open(self._path(self._number, "names"), os.O_RDWR)
        _lock(self._values_fd)
        if os.fstat(self._values_fd).st_size != self._size:
            raise Corrupted
        self._names.read(self._names_fd, _read_pair_id(self._values_fd))
        if self._names.used > self._maximum:
            raise Corrupted
        os.ftruncate(self._names_fd, self._names.end)  # an incomplete last line, if its writer was killed
        values = self._map_values()
        _check_values(values)
        for series in self._names.series:
            self._series[series.family, series.labels] = series
            if series.family in self._gauges:
                values[series.start : series.start + series.width] = array("d", bytes(series.width * FLOAT))
        return values

    def _create_files(self) -> "memoryview[float]":
        """Creates new files, replacing existing ones. Raises OSError."""
        self._release_files()
        self._names, self._series = _NamesFile(), {}
        pair_id = secrets.token_hex(16).encode()
        self._names_fd = self._create_file("names", pair_id + b"\n", 0)
        self._values_fd = self._create_file("values", HEADER.pack(MAGIC, pair_id), self._size)
        self._names.read(self._names_fd, pair_id)
        return self._map_values()

    def _create_file(self, kind: str, content: bytes, size: int) -> int:
        path = self._path(self._number, kind)
        unnamed = path.with_suffix(".new")
        fd = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            if size:
                # All disk space now: a write to mapped memory without disk space behind it kills the process.
                os.posix_fallocate(fd, 0, size)
                _lock(fd)
            os.pwrite(fd, content, 0)
            unnamed.rename(path)
        except OSError:
            os.close(fd)
            raise
        return fd

    @property
    def _size(self) -> int:
        return HEADER.size + self._maximum * FLOAT

    def _map_values(self) -> "memoryview[float]":
        return memoryview(mmap.mmap(self._values_fd, self._size))[HEADER.size :].cast("d")

    def _release_files(self) -> None:
        if self._values_fd >= 0:
            # The memory map has its own copy of the descriptor, so closing ours alone does not unlock the file.
            fcntl.flock(self._values_fd, fcntl.LOCK_UN)
            os.close(self._values_fd)
        if self._names_fd >= 0:
            os.close(self._names_fd)
        self._names_fd = self._values_fd = -1

    def _read_worker(self, number: int) -> tuple[list[Series], array, bool]:
        """Another worker's series and values, and whether it is running. Raises OSError, Corrupted."""
        names_fd = _open_to_read(self._path(number, "names"))
        try:
            values_fd = _open_to_read(self._path(number, "values"))
            try:
                names = self._other_names.setdefault(number, _NamesFile())
                pair_id = _read_pair_id(values_fd)
                if names.pair_id != pair_id:
                    names = self._other_names[number] = _NamesFile()
                names.read(names_fd, pair_id)
                # The maximum number of values may have been another one in the version of that worker.
                content = os.pread(values_fd, names.used * FLOAT, HEADER.size)
                if len(content) != names.used * FLOAT:
                    raise Corrupted
                values = array("d", content)
                _check_values(values)
                return names.series, values, _is_locked(values_fd)
            finally:
                os.close(values_fd)
        finally:
            os.close(names_fd)


class _NamesFile:
    """The content of a names file, as far as it was read: `end` is in bytes, `used` in values."""

    def __init__(self):
        self.pair_id, self.end, self.used = b"", 0, FIRST_OFFSET
        self.series: list[Series] = []

    def add(self, series: Series, size: int) -> None:
        self.series.append(series)
        self.used += series.width
        self.end += size

    def read(self, fd: int, pair_id: bytes) -> None:
        """Reads on to the last complete line. Raises OSError, and Corrupted if the file has another pair id."""
        size = os.fstat(fd).st_size
        if size > MAX_NAMES_BYTES:
            raise Corrupted
        lines = os.pread(fd, max(0, size - self.end), self.end).split(b"\n")[:-1]
        if not self.pair_id:
            if not lines or lines[0] != pair_id:
                raise Corrupted
            self.pair_id, self.end = pair_id, len(lines.pop(0)) + 1
        for line in lines:
            self.add(_decode_series(line, self.used), len(line) + 1)


def _encode_series(series: Series) -> bytes:
    text = orjson.dumps([series.family, series.width, *series.labels])
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decode_series(line: bytes, start: int) -> Series:
    """Raises Corrupted."""
    check, _, text = line.partition(b" ")
    if check != b"%08x" % zlib.crc32(text):
        raise Corrupted
    try:
        family, width, *labels = orjson.loads(text)
    except (ValueError, TypeError):
        raise Corrupted from None
    if type(width) is not int or width < 1 or not all(isinstance(one, str) for one in (family, *labels)):
        raise Corrupted
    return Series(family, tuple(labels), start, width)


def _open_to_read(path: Path) -> int:
    """Opens another worker's file. Raises OSError, and Corrupted if it is no regular file."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise Corrupted


def _read_pair_id(values_fd: int) -> bytes:
    """Raises OSError, Corrupted."""
    head = os.pread(values_fd, HEADER.size, 0)
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise Corrupted
    return HEADER.unpack(head)[1]


def _check_values(values) -> None:
    """Raises Corrupted if a value is negative or not finite."""
    if not all(map(isfinite, values)) or min(values) < 0:
        raise Corrupted


def _lock(fd: int) -> None:
    """Locks a file until the process ends, waiting for readers, which lock it briefly. Raises BlockingIOError."""
    for _ in range(LOCK_TRIES):
        if syscalls.try_lock(fd):
            return
        time.sleep(LOCK_PAUSE_S)
    raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))


def _is_locked(fd: int) -> bool:
    """True if a worker has locked the file."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
