"""A crash-safe hash table of small entries in a file that the processes of a machine share.

The file has a header, a write-ahead log and slots of one size; the hash of an entry's digest selects its slot. A
transaction is written to the log first: if its writer is killed, the next process that takes the lock writes it again.
The file is mapped into memory. Its disk space is allocated when it is created, and its size is checked before each use,
so that a truncated file raises Corrupted instead of killing the process with SIGBUS.

Only one thread of a process may use a table, and nothing within a transaction may switch greenlets.
"""

import errno
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from gproxy.fastpath import syscalls

HEADER = struct.Struct("<12sIQ")  # magic, number of slots, time of creation in nanoseconds; a checksum follows
MAGIC = b"gproxy tab 2"
HEADER_BYTES = 4096
LOG_HEAD = struct.Struct("<II")  # length and checksum of the log's body; zeros while no write is in progress
LOG_ITEM = struct.Struct("<QI")  # offset and length of a slot, whose bytes follow
LOG_AT, LOG_BYTES = HEADER_BYTES, 256 * 1024
LOG_BODY_AT = LOG_AT + LOG_HEAD.size
TABLE_AT = LOG_AT + LOG_BYTES
SLOT_BYTES = 1024
# Checksum of all that follows, digest, kind, length of the payload, expiry in seconds; then the payload.
SLOT_HEAD = struct.Struct("<I16sBxHq")
DIGEST_AT, KIND_AT, PAYLOAD_AT = 4, 20, SLOT_HEAD.size
MAX_PAYLOAD = SLOT_BYTES - PAYLOAD_AT
MAX_ENTRIES = LOG_BYTES // (SLOT_BYTES + LOG_ITEM.size) - 1  # of one transaction, if all its slots are full
FREE, TOMBSTONE = 0, 255  # kinds of slots without an entry; a search ends at FREE and continues at TOMBSTONE
NEVER = 2**62
MIN_SLOTS, MAX_SLOTS = 4096, 256 * 1024
MAX_PROBES = 24  # if no slot is free within them, the table is rebuilt with four times as many slots as entries
# The lock is normally held for microseconds. After LOCK_TRIES the process sleeps between tries, so that a process that
# was stopped while it held the lock does not stop our event loop.
LOCK_TRIES, LOCK_WAIT_S, LOCK_NAP_S = 50, 1.0, 0.0003
_CLEAR, _EMPTY = bytes(LOG_HEAD.size), bytes(SLOT_HEAD.size)
_TOMBSTONE_SLOT = _EMPTY[:KIND_AT] + bytes([TOMBSTONE]) + _EMPTY[KIND_AT + 1 :]


class Corrupted(Exception):
    """The file contains bytes that no process wrote."""


class TableFull(Exception):
    """The table has no room for another entry."""


class Entry(NamedTuple):
    digest: bytes
    kind: int
    payload: bytes
    expires: int


class _FileStatus(Protocol):
    """The status of an open file."""

    def look(self) -> tuple[int, int]:
        """Returns the file's number of links and its size in bytes. Raises OSError."""
        ...


class Table:
    """Opened in each process, after the fork."""

    def __init__(self, folder: Path, max_slots: int = MAX_SLOTS, clock: Callable[[], float] = time.time):
        """`clock` returns seconds since the epoch; entries expire by it."""
        self._folder, self._path, self._fresh_path = folder, folder / "table", folder / "fresh"
        self._max_slots, self._clock = max_slots, clock
        self._folder_fd = self._fd = -1
        self._map: mmap.mmap  # set while the file is open
        self._watch: _FileStatus | None = None
        self._size = self._slots = 0
        self._offsets: dict[bytes, int] = {}  # where each entry was found last

    def run(self, function: Callable, *args):
        """Returns `function(transaction, *args)`, run under the lock of all processes; its writes are all or nothing.

        Raises OSError and TableFull, and Corrupted after it replaced the file by an empty table.
        """
        self._lock()
        try:
            self._refresh()
            transaction = Transaction(self)
            result = function(transaction, *args)
            transaction.commit()
            return result
        except Corrupted:
            self._create(MIN_SLOTS, [])
            raise
        finally:
            syscalls.unlock(self._folder_fd)

    def close(self) -> None:
        self._close_file()
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
        self._folder_fd = -1

    # The methods below need the lock.

    def find(self, digest: bytes) -> tuple[int | None, bytes | None]:
        """Returns offset and slot of the entry, else the offset of a free slot for it and None, else (None, None).

        Raises Corrupted.
        """
        offset = self._offsets.get(digest)
        if is_home := offset is None:
            offset = TABLE_AT + int.from_bytes(digest[:4], "little") % self._slots * SLOT_BYTES
        slot = self._map[offset : offset + SLOT_BYTES]
        if slot[DIGEST_AT:KIND_AT] == digest and slot[KIND_AT] != TOMBSTONE:
            return offset, slot
        if is_home and slot[KIND_AT] == FREE:
            return offset, None
        for offset in self._probe(digest):
            slot = self._slot(offset)
            if slot[KIND_AT] == FREE:
                return offset, None
            if slot[KIND_AT] != TOMBSTONE:
                if slot[DIGEST_AT:KIND_AT] == digest:
                    self._cache_offset(digest, offset)
                    return offset, slot
                payload_of(slot)  # of another entry: if its digest were corrupted, this could be the one searched for
        return None, None

    def free_offset(self, digest: bytes, taken: Collection[int]) -> int | None:
        """Returns the offset of a slot for a new entry: free, a tombstone or expired, and not in `taken`; else None."""
        now_s = int(self._clock())
        for offset in self._probe(digest):
            if offset not in taken:
                slot = self._slot(offset)
                if slot[KIND_AT] in (FREE, TOMBSTONE) or entry_of(slot).expires < now_s:
                    return offset
        return None

    def entries(self) -> Iterator[Entry]:
        """Yields every entry. Raises Corrupted."""
        at, end = TABLE_AT, TABLE_AT + self._slots * SLOT_BYTES
        while at < end:
            piece = self._map[at : min(end, at + 1024 * SLOT_BYTES)]
            for start in range(0, len(piece), SLOT_BYTES):
                if piece[start + KIND_AT] not in (FREE, TOMBSTONE):
                    yield entry_of(piece[start : start + SLOT_BYTES])
            at += len(piece)

    def clear_slot(self, offset: int, slots: dict[int, bytes]) -> None:
        """Adds the slot of a removed entry to `slots`, the slots to be written.

        If the next slot is free, no search continues behind this one: it becomes free, and so do the tombstones right
        before it. Otherwise it becomes a tombstone. Without this the table would fill with tombstones.
        """
        last = self._size - SLOT_BYTES
        if self._kind(offset + SLOT_BYTES if offset < last else TABLE_AT, slots) != FREE:
            slots[offset] = _TOMBSTONE_SLOT
            return
        slots[offset] = _EMPTY
        for _ in range(MAX_PROBES):
            offset = offset - SLOT_BYTES if offset > TABLE_AT else last
            if self._kind(offset, slots) != TOMBSTONE:
                return
            slots[offset] = _EMPTY

    def _kind(self, offset: int, slots: dict[int, bytes]) -> int:
        slot = slots.get(offset)
        return self._map[offset + KIND_AT] if slot is None else slot[KIND_AT]

    def write(self, slots: dict[int, bytes]) -> None:
        """Writes all of these slots (by offset) or none.

        They go to the log first, even a single one: a process killed here could leave a slot half written.
        """
        memory = self._map
        body = b"".join([part for offset, slot in slots.items() for part in (LOG_ITEM.pack(offset, len(slot)), slot)])
        memory[LOG_BODY_AT : LOG_BODY_AT + len(body)] = body
        memory[LOG_AT:LOG_BODY_AT] = LOG_HEAD.pack(len(body), zlib.crc32(body))
        for offset, slot in slots.items():
            memory[offset : offset + len(slot)] = slot
        memory[LOG_AT:LOG_BODY_AT] = _CLEAR

    def grow(self) -> None:
        """Rebuilds the table with the entries that have not expired; offsets found before are invalid then.

        Raises Corrupted, TableFull.
        """
        now_s = int(self._clock())
        entries = [entry for entry in self.entries() if entry.expires >= now_s]
        self._create(4 * len(entries), entries)

    def _cache_offset(self, digest: bytes, offset: int) -> None:
        if len(self._offsets) > self._slots:  # every call has a digest of its own, so the cache would grow without end
            self._offsets.clear()
        self._offsets[digest] = offset

    def _probe(self, digest: bytes) -> Iterator[int]:
        start = int.from_bytes(digest[:4], "little")
        for step in range(MAX_PROBES):
            yield TABLE_AT + (start + step) % self._slots * SLOT_BYTES

    def _slot(self, offset: int) -> bytes:
        return self._map[offset : offset + SLOT_BYTES]

    def _lock(self) -> None:
        if self._folder_fd < 0:
            self._open_folder()
        tries, until = 0, None
        while not syscalls.try_lock(self._folder_fd):
            tries += 1
            if tries < LOCK_TRIES:
                continue
            now = time.monotonic()
            until = until or now + LOCK_WAIT_S
            if now > until:
                raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
            time.sleep(LOCK_NAP_S)

    def _open_folder(self) -> None:
        self._folder.mkdir(0o700, parents=True, exist_ok=True)
        self._folder_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)

    def _refresh(self) -> None:
        """Opens a file that another process created meanwhile, and completes the write of one that was killed."""
        links, size = self._watch.look() if self._watch is not None else (0, 0)
        if links == 0:
            if os.fstat(self._folder_fd).st_nlink == 0:  # the folder was removed, and its lock with it
                self.close()
                self._lock()
            self._reopen()
        elif size != self._size:
            raise Corrupted
        head = self._map[LOG_AT:LOG_BODY_AT]
        if head != _CLEAR:
            self._replay_log(*LOG_HEAD.unpack(head))

    def _replay_log(self, length: int, checksum: int) -> None:
        memory = self._map
        body = memory[LOG_BODY_AT : min(TABLE_AT, LOG_BODY_AT + length)]
        # An incomplete log: its writer was killed before it wrote the first slot.
        if len(body) == length and zlib.crc32(body) == checksum:
            at = 0
            while at < length:
                offset, size = LOG_ITEM.unpack_from(body, at)
                at += LOG_ITEM.size + size
                memory[offset : offset + size] = body[at - size : at]
        memory[LOG_AT:LOG_BODY_AT] = _CLEAR

    def _reopen(self) -> None:
        self._close_file()
        try:
            fd = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            self._create(MIN_SLOTS, [])
            return
        raw = os.pread(fd, HEADER.size + 4, 0)
        header = raw[: HEADER.size]
        is_whole = raw.startswith(MAGIC) and raw == header + _checksum(header)
        slots = HEADER.unpack(header)[1] if is_whole else 0
        if not slots or os.fstat(fd).st_size != TABLE_AT + slots * SLOT_BYTES:
            os.close(fd)
            raise Corrupted
        self._map_file(fd, slots)

    def _map_file(self, fd: int, slots: int) -> None:
        self._close_file()
        self._fd, self._slots, self._size = fd, slots, TABLE_AT + slots * SLOT_BYTES
        self._map, self._watch = mmap.mmap(fd, self._size), syscalls.FileStatus(fd)

    def _close_file(self) -> None:
        self._offsets.clear()
        if self._fd >= 0:
            self._map.close()
            os.close(self._fd)
        self._fd, self._watch = -1, None

    def _create(self, min_slots: int, entries: list[Entry]) -> None:
        slots = MIN_SLOTS
        while slots < min_slots or (content := _lay_out(slots, entries)) is None:
            slots *= 2
        if slots > self._max_slots:
            raise TableFull
        header = HEADER.pack(MAGIC, slots, time.time_ns())
        fd = os.open(self._fresh_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            # All disk space is allocated now: a disk that becomes full later does no harm.
            os.posix_fallocate(fd, 0, TABLE_AT + slots * SLOT_BYTES)
            _write(fd, header + _checksum(header), 0)
            for offset, slot in content:
                _write(fd, slot, offset)
            self._fresh_path.rename(self._path)
        except OSError:
            os.close(fd)
            raise
        self._map_file(fd, slots)


class Transaction:
    """Reads and writes entries by their digests, and reads back what it wrote."""

    __slots__ = ("_changed", "_offsets", "_table")

    def __init__(self, table: Table):
        self._table = table
        # Per digest the offset of its entry (True), or of a free slot for it if there is one (False).
        self._offsets: dict[bytes, tuple[int | None, bool]] = {}
        self._changed: dict[bytes, bytes | None] = {}  # new slots, None for removed entries

    def find(self, digest: bytes, kind: int) -> bytes | None:
        """Returns the payload of the entry of this kind, or None. Raises Corrupted."""
        if digest in self._changed:
            slot = self._changed[digest]
        else:
            offset, slot = self._table.find(digest)
            self._offsets[digest] = offset, slot is not None
        return payload_of(slot) if slot is not None and slot[KIND_AT] == kind else None

    def put(self, digest: bytes, kind: int, payload: bytes | bytearray, expires: int = NEVER) -> None:
        """Adds or replaces an entry; after `expires` (seconds since the epoch) its slot may be reused.

        Raises TableFull.
        """
        if len(payload) > MAX_PAYLOAD:
            raise TableFull
        self._changed[digest] = _slot_of(digest, kind, payload, expires)

    def remove(self, digest: bytes) -> None:
        self._changed[digest] = None

    def entries(self) -> Iterator[Entry]:
        """Yields every entry as it was before this transaction. Raises Corrupted."""
        return self._table.entries()

    def commit(self) -> None:
        """Raises Corrupted, TableFull, OSError."""
        if not self._changed:
            return
        if (slots := self._place_changes()) is None:
            self._table.grow()
            self._offsets.clear()
            slots = self._place_changes()
        if slots is None or len(slots) > MAX_ENTRIES:
            raise TableFull
        self._table.write(slots)

    def _place_changes(self) -> dict[int, bytes] | None:
        """Returns the changed slots by their offsets, or None if one of them has no room."""
        slots, removed = {}, []
        for digest, slot in self._changed.items():
            if (location := self._offsets.get(digest)) is None:
                offset, found = self._table.find(digest)
                location = offset, found is not None
            offset, exists = location
            if slot is None:
                removed += [offset] if exists else []
                continue
            if offset is None or offset in slots:
                offset = self._table.free_offset(digest, slots)
            if offset is None:
                return None
            slots[offset] = slot
        # Removals come last: a freed slot must not end the search for an entry that was put behind it.
        for offset in removed:
            self._table.clear_slot(offset, slots)
        return slots


def payload_of(slot: bytes) -> bytes:
    """Raises Corrupted if the checksum does not match."""
    checksum, _, _, length, _ = SLOT_HEAD.unpack_from(slot)
    end = PAYLOAD_AT + length
    if zlib.crc32(slot[DIGEST_AT:end]) != checksum:
        raise Corrupted
    return slot[PAYLOAD_AT:end]


def entry_of(slot: bytes) -> Entry:
    """Raises Corrupted if the checksum does not match."""
    _, digest, kind, _, expires = SLOT_HEAD.unpack_from(slot)
    return Entry(digest, kind, payload_of(slot), expires)


def _slot_of(digest: bytes, kind: int, payload: bytes | bytearray, expires: int) -> bytes:
    content = SLOT_HEAD.pack(0, digest, kind, len(payload), expires)[DIGEST_AT:] + payload
    return _checksum(content) + content


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")


def _lay_out(slots: int, entries: list[Entry]) -> list[tuple[int, bytes]] | None:
    """Returns offset and slot of each entry in a table of `slots` slots, or None if they do not fit."""
    taken: set[int] = set()
    laid_out = []
    for entry in entries:
        start = int.from_bytes(entry.digest[:4], "little")
        numbers = ((start + step) % slots for step in range(MAX_PROBES))
        number = next((number for number in numbers if number not in taken), None)
        if number is None:
            return None
        taken.add(number)
        laid_out.append((TABLE_AT + number * SLOT_BYTES, _slot_of(*entry)))
    return laid_out


def _write(fd: int, content: bytes, at: int) -> None:
    """Writes all of it or raises OSError: on a disk that becomes full, pwrite writes a part and reports no error."""
    if os.pwrite(fd, content, at) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
