"""Reads journal segments, whatever bytes they contain: entries, and the parts that are none.

Only a regular file is a segment. A line is what ends with a line feed. Zeros at the end of the file are reserved space;
zeros before it are damage, and the line behind them is read.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gproxy.accounting.entries import Damaged, Entry, from_line

MAX_LINE_BYTES = 1024 * 1024
KEPT_BYTES = 64 * 1024  # of a damaged part
BUFFER_BYTES = 64 * 1024


class Unreadable(OSError):
    """A segment exists and cannot be read."""


class Line(NamedTuple):
    """One entry read from a segment, and the byte offsets behind and before it."""

    entry: Entry
    segment: str
    end: int
    start: int


class DamagedPart(NamedTuple):
    """The bytes between two offsets of a segment that are no entry; `head` are the first KEPT_BYTES of them."""

    reason: str
    segment: str
    start: int
    end: int
    head: bytes


def find(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the segments of a folder, oldest first, and what has the name of a segment and is no regular file."""
    segments, others = [], []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if entry.name.endswith(".log"):
                    (segments if entry.is_file(follow_symlinks=False) else others).append(folder / entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    return sorted(segments), sorted(others)


def name_of(path: Path) -> str:
    """Returns the name of a segment as text that a database and a log take, whatever bytes it has on the disk."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def open_file(path: Path) -> BinaryIO:
    """Opens a regular file, never a link, and without waiting for a writer. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "no regular file")
    return os.fdopen(fd, "rb", BUFFER_BYTES)


def read_lines(path: Path, start: int, stop: int | None = None, is_final: bool = False) -> Iterator[Line | DamagedPart]:
    """Yields the complete lines of a segment between two byte offsets, and what is damaged.

    An incomplete last line is damaged only if the file is final, that is, if nothing is written to it any more.
    Raises FileNotFoundError, Unreadable.
    """
    lines = _read_lines(path, start, stop, is_final)
    while True:
        # Only the reading itself: an error of the caller is not one of the file.
        try:
            found = next(lines, None)
        except FileNotFoundError:
            raise
        except OSError as fault:
            raise Unreadable(fault.errno, fault.strerror, str(path)) from fault
        if found is None:
            return
        yield found


def _read_lines(path: Path, start: int, stop: int | None, is_final: bool) -> Iterator[Line | DamagedPart]:
    """Raises OSError."""
    segment, position = name_of(path), start
    file = open_file(path)
    try:
        file.seek(position)
        while stop is None or position < stop:
            raw = file.readline(MAX_LINE_BYTES)
            if raw.endswith(b"\n"):
                end = position + len(raw)
                if stop is not None and end > stop:
                    return
                entry = from_line(raw)
                if not isinstance(entry, Damaged):
                    yield Line(entry, segment, end, position)
                    position = end
                    continue
            elif not raw:
                return
            # Read again: a line may have been written since the buffer was filled.
            file.close()
            file = open_file(path)
            odd = _read_odd(file.fileno(), position)
            if not odd.is_complete:
                if is_final and stop is None and odd.end > position:
                    yield DamagedPart("the file ends within the line", segment, position, odd.end, odd.head)
                return
            if stop is not None and odd.end > stop:
                return
            entry = Damaged(f"longer than {MAX_LINE_BYTES} bytes") if odd.rest is None else from_line(odd.rest)
            if isinstance(entry, Damaged):
                yield DamagedPart(entry.reason if odd.head.strip(b"\n") else "empty", segment, position, *odd[:2])
            else:
                if odd.rest_at > position:
                    head = odd.head[: odd.rest_at - position]
                    yield DamagedPart("zeros before the end", segment, position, odd.rest_at, head)
                yield Line(entry, segment, odd.end, odd.rest_at)
            position = odd.end
            file.seek(position)
    finally:
        file.close()


class _Odd(NamedTuple):
    """A line that needs more than one look. `rest` is what follows its last zero, None if that is too long.

    Empty lines that follow each other are one. Without a line feed, `end` is behind the last byte that is not zero.
    """

    end: int
    head: bytes
    rest: bytes | None
    rest_at: int
    is_complete: bool


def _read_odd(fd: int, start: int) -> _Odd:
    """Reads from an offset to the next line feed, of any length, in little memory. Raises OSError."""
    at = rest_at = last = start
    head, rest = b"", b""
    while chunk := os.pread(fd, BUFFER_BYTES, at):
        if at == start and chunk.startswith(b"\n"):
            end = start + len(chunk) - len(chunk.lstrip(b"\n"))
            return _Odd(end, b"\n" * (end - start), b"", start, True)
        length = chunk.find(b"\n") + 1
        piece = chunk[:length] if length else chunk
        head += piece[: KEPT_BYTES - len(head)]
        zero = piece.rfind(b"\0")
        if zero >= 0:
            rest, rest_at = piece[zero + 1 :], at + zero + 1
        elif len(rest) < MAX_LINE_BYTES:
            rest += piece
        if used := len(piece.rstrip(b"\0")):
            last = at + used
        at += len(piece)
        if length:
            return _Odd(at, head, rest if len(rest) < MAX_LINE_BYTES else None, rest_at, True)
        if not used:
            at = rest_at = _next_data(fd, at)
    return _Odd(last, head[: last - start], None, rest_at, False)


def _next_data(fd: int, at: int) -> int:
    """Returns the offset of the next data: a hole of many gigabytes is not read. Raises OSError."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as fault:
        if fault.errno == errno.ENXIO:  # there is none
            return os.fstat(fd).st_size
        if fault.errno == errno.EINVAL:  # the file system does not know holes
            return at
        raise
