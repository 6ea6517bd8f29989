"""Keeps what cannot be stored: parts of the journal that are no entries, and rows that the database refuses.

Each gets one line in a file of the data directory, one line in the log, and counts once. The file and its predecessor
have at most MAX_BYTES together, the oldest lines are dropped. All processes of a machine write to the same file, under
the lock of the file that holds the count.
"""

import base64
import errno
import fcntl
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import orjson

from gproxy.accounting import segments
from gproxy.accounting.segments import KEPT_BYTES, DamagedPart
from gproxy.units import moment

log = logging.getLogger(__name__)

MAX_BYTES = 16 * 1024 * 1024
LOGGED = 100  # lines in the log for one segment
COUNT_BYTES = 20
LINE, ROW, OTHER = "line", "row", "no segment"  # kinds
WRITE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Kept(msgspec.Struct):
    """The fields of a line of the file that identify a part."""

    slot: str
    segment: str
    file: str
    kind: str
    end: int


_decode_kept = msgspec.json.Decoder(_Kept).decode


class _Progress(NamedTuple):
    """A segment's identity, and up to which offset its parts are kept, by kind."""

    file: str
    ends: dict[str, int]


class DamagedLines:
    """Opened in each process; used by its writer's native thread, except for `count`."""

    def __init__(self, folder: Path):
        self.path = folder / "journal.jsonl"
        self._folder, self._before, self._count_path = folder, folder / "journal.1.jsonl", folder / "count"
        self._progress: dict[Path, _Progress] = {}
        self._logged: dict[Path, int] = {}

    def count(self) -> int:
        """Returns how many damaged lines and refused rows this data directory has had."""
        try:
            with segments.open_file(self._count_path) as file:
                return _number(file.read(COUNT_BYTES))
        except OSError:
            return 0

    def keep_part(self, path: Path, part: DamagedPart) -> None:
        """Keeps a damaged part of a segment. Raises OSError."""
        self._keep(path, LINE, part.start, part.end, part.reason, part.head)

    def keep_row(self, path: Path, end: int, row: dict, reason: str) -> None:
        """Keeps a row that the database refuses; `end` is the offset behind its entry. Raises OSError."""
        self._keep(path, ROW, end, end, reason, orjson.dumps(row))

    def report_other(self, path: Path, reason: str) -> None:
        """Reports what has the name of a segment or slot and is left where it is. Raises OSError."""
        self._keep(path, OTHER, 0, 1, reason, b"")

    def forget(self, path: Path) -> None:
        """Forgets a segment that was deleted."""
        self._progress.pop(path, None)
        self._logged.pop(path, None)

    def _keep(self, path: Path, kind: str, start: int, end: int, reason: str, content: bytes) -> None:
        if (found := self._progress.get(path)) is not None and end <= found.ends.get(kind, -1):
            return
        with self._locked() as count_fd:
            if found is None:
                found = self._progress[path] = self._load_progress(path)
                if end <= found.ends.get(kind, -1):
                    return
            name, slot = segments.name_of(path), segments.name_of(path.parent)
            record = {
                **{"at": moment(time.time()), "slot": slot, "segment": name, "file": found.file, "kind": kind},
                **{"start": start, "end": end, "reason": reason, **_content(content[:KEPT_BYTES])},
            }
            self._append(orjson.dumps(record) + b"\n")
            if kind != OTHER:
                count = _number(os.pread(count_fd, COUNT_BYTES, 0)) + 1
                os.pwrite(count_fd, str(count).rjust(COUNT_BYTES).encode(), 0)
            found.ends[kind] = end
        self._log(path, kind, f"{slot}/{name}", start, reason)

    def _log(self, path: Path, kind: str, name: str, start: int, reason: str) -> None:
        if kind == OTHER:
            log.error("journal: %s is left where it is: %s", name, reason)
            return
        logged = self._logged[path] = self._logged.get(path, 0) + 1
        if logged > LOGGED:
            return
        what = "a line is damaged" if kind == LINE else "a row cannot be stored"
        log.error("journal segment %s, byte %d: %s: %s; it is kept in %s", name, start, what, reason, self.path)
        if logged == LOGGED:
            log.error("journal segment %s: what follows of this kind is kept and not logged", name)

    # -- files --

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Excludes the other processes. The descriptor is that of the file with the count. Raises OSError."""
        if not self._folder.is_dir() or self._folder.is_symlink():
            _move_aside(self._folder)
            self._folder.mkdir(0o700, parents=True, exist_ok=True)
        fd = _open(self._count_path, WRITE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    def _append(self, line: bytes) -> None:
        fd = _open(self.path, WRITE | os.O_APPEND)
        try:
            size = os.fstat(fd).st_size
            if size + len(line) > MAX_BYTES // 2:
                self.path.replace(self._before)
                os.close(fd)
                fd = _open(self.path, WRITE | os.O_APPEND)
                size = 0
            if size and os.pread(fd, 1, size - 1) != b"\n":  # of a process that was killed while it wrote
                line = b"\n" + line
            try:
                if os.write(fd, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)

    def _load_progress(self, path: Path) -> _Progress:
        """Finds what an earlier process has kept of the same file."""
        try:
            found = path.lstat()
            file = f"{found.st_ino}-{found.st_ctime_ns}"
        except OSError:
            file = ""
        slot, name, ends = segments.name_of(path.parent), segments.name_of(path), {}
        for source in (self._before, self.path):
            try:
                with segments.open_file(source) as lines:
                    while line := lines.readline(MAX_BYTES):
                        if (kept := _kept(line)) and (kept.slot, kept.segment, kept.file) == (slot, name, file):
                            ends[kept.kind] = max(kept.end, ends.get(kept.kind, 0))
            except FileNotFoundError:
                continue
            except OSError as fault:
                log.warning("%s cannot be read: %s", source, fault.strerror)
        return _Progress(file, ends)


def _kept(line: bytes) -> _Kept | None:
    try:
        return _decode_kept(line)
    except (ValueError, RecursionError):  # not written by us, or not to its end
        return None


def _content(content: bytes) -> dict[str, str]:
    try:
        return {"content": content.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}


def _number(text: bytes) -> int:
    digits = text.strip()
    return int(digits) if digits.isdigit() else 0


def _open(path: Path, flags: int) -> int:
    """Opens a file to write; anything else under its name is renamed. Raises OSError."""
    for is_second in (False, True):
        try:
            fd = os.open(path, flags, 0o600)
        except OSError as fault:
            if is_second or fault.errno not in (errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EACCES):
                raise
        else:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
            if is_second:
                break
        _move_aside(path)
    raise OSError(errno.EINVAL, f"{path} is no regular file")


def _move_aside(path: Path) -> None:
    """Renames what has the name of one of our files and cannot be used. Raises OSError."""
    if os.path.lexists(path):
        aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        path.rename(aside)
        log.error("%s cannot be used; it is renamed to %s", path, aside.name)
