"""A crash-safe table of small records in a file that the processes of a machine share.

The file is a header, a log of what is being written, and slots of one size, found by the hash of a record's digest. A
transaction of several records is written to the log first: whoever takes the lock after a writer was killed writes it
again. The file is used through memory, with all its room taken from the disk before, and after a look at its size: one
that was cut is a fault to be told and kills nobody.

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
from typing import NamedTuple

from gproxy.fastpath import syscalls

HEADER = struct.Struct("<12sIQ")  # magic, number of slots, birth in nanoseconds; their check follows
MAGIC = b"gproxy tab 2"
HEADER_BYTES = 4096
LOG_HEAD = struct.Struct("<II")  # length of what follows, its check; zeros: nothing is being written
LOG_ENTRY = struct.Struct("<QI")  # where what follows goes, and its length
LOG_AT, LOG_BYTES = HEADER_BYTES, 256 * 1024
LOG_BODY_AT = LOG_AT + LOG_HEAD.size
TABLE_AT = LOG_AT + LOG_BYTES
SLOT_BYTES = 1024
# Check of all that follows, digest, kind, length of the payload, expiry in seconds; then the payload.
HEAD = struct.Struct("<I16sBxHq")
DIGEST_AT, KIND_AT, PAYLOAD_AT = 4, 20, HEAD.size
MAX_PAYLOAD = SLOT_BYTES - PAYLOAD_AT
MAX_RECORDS = LOG_BYTES // (SLOT_BYTES + LOG_ENTRY.size) - 1  # slots of one transaction, were they all full
FREE, GONE = 0, 255  # kinds of slots without a record; a search ends at the first, and goes on at the second
NEVER = 2**62
MIN_SLOTS, MAX_SLOTS = 4096, 256 * 1024
MAX_PROBES = 24  # beyond, the table is made anew, with room for four times what it holds
# The lock is held for microseconds. After a few tries it is waited for asleep: a holder that was stopped must not stop
# our event loop.
LOCK_TRIES, LOCK_WAIT_S, LOCK_NAP_S = 50, 1.0, 0.0003
_CLEAR, _EMPTY = bytes(LOG_HEAD.size), bytes(HEAD.size)
_GONE_SLOT = _EMPTY[:KIND_AT] + bytes([GONE]) + _EMPTY[KIND_AT + 1 :]


class Garbled(Exception):
    """The file has bytes in it that were not written so."""


class Full(Exception):
    """The table holds as much as it may."""


class Record(NamedTuple):
    digest: bytes
    kind: int
    payload: bytes
    expires: int


class Table:
    """Opened in each process, after the fork."""

    def __init__(self, folder: Path, max_slots: int = MAX_SLOTS, clock: Callable[[], float] = time.time):
        """`clock` is in seconds since the epoch: records expire by it."""
        self._folder, self._path, self._fresh_path = folder, folder / "table", folder / "fresh"
        self._max_slots, self._clock = max_slots, clock
        self._folder_fd = self._fd = -1
        self._map: mmap.mmap | None = None
        self._watch: syscalls.FileStatus | None = None
        self._size = self._slots = 0
        self._places: dict[bytes, int] = {}  # where a record was last seen

    def run(self, function: Callable, *args):
        """`deed(transaction, *args)` under the lock of all processes: all that it writes, or nothing.

        Raises OSError, Full, and Garbled: then the table was made anew, empty.
        """
        self._lock()
        try:
            self._catch_up()
            transaction = Transaction(self)
            result = function(transaction, *args)
            transaction.commit()
            return result
        except Garbled:
            self._start(MIN_SLOTS, [])
            raise
        finally:
            syscalls.unlock(self._folder_fd)

    def close(self) -> None:
        self._let_go()
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
        self._folder_fd = -1

    # Below: within the lock.

    def find(self, digest: bytes) -> tuple[int | None, bytes | None]:
        """Place and slot of the record. Without one, the free place where it belongs if there is one near.

        Raises Garbled.
        """
        place = self._places.get(digest)
        if is_home := place is None:
            place = TABLE_AT + int.from_bytes(digest[:4], "little") % self._slots * SLOT_BYTES
        slot = self._map[place : place + SLOT_BYTES]
        if slot[DIGEST_AT:KIND_AT] == digest and slot[KIND_AT] != GONE:
            return place, slot
        if is_home and slot[KIND_AT] == FREE:
            return place, None
        for place in self._probe(digest):
            slot = self._slot(place)
            if slot[KIND_AT] == FREE:
                return place, None
            if slot[KIND_AT] != GONE:
                if slot[DIGEST_AT:KIND_AT] == digest:
                    self._remember(digest, place)
                    return place, slot
                payload_of(slot)  # another's: it must be whole, or this search may have passed what it looks for
        return None, None

    def place_for(self, digest: bytes, taken: Collection[int]) -> int | None:
        """A slot whose record is gone, or has expired, near where one belongs for which there is no free one."""
        now_s = int(self._clock())
        for place in self._probe(digest):
            if place not in taken:
                slot = self._slot(place)
                if slot[KIND_AT] in (FREE, GONE) or record_of(slot).expires < now_s:
                    return place
        return None

    def records(self) -> Iterator[Record]:
        """Every record. Raises Garbled."""
        at, end = TABLE_AT, TABLE_AT + self._slots * SLOT_BYTES
        while at < end:
            piece = self._map[at : min(end, at + 1024 * SLOT_BYTES)]
            for start in range(0, len(piece), SLOT_BYTES):
                if piece[start + KIND_AT] not in (FREE, GONE):
                    yield record_of(piece[start : start + SLOT_BYTES])
            at += len(piece)

    def empty(self, place: int, slots: dict[int, bytes]) -> None:
        """Adds to what is to be written what a slot becomes when its record goes.

        Where no search goes on behind it, it is free, and so are those before it through which searches only passed:
        else the table would fill with what is gone.
        """
        last = self._size - SLOT_BYTES
        if self._kind(place + SLOT_BYTES if place < last else TABLE_AT, slots) != FREE:
            slots[place] = _GONE_SLOT
            return
        slots[place] = _EMPTY
        for _ in range(MAX_PROBES):
            place = place - SLOT_BYTES if place > TABLE_AT else last
            if self._kind(place, slots) != GONE:
                return
            slots[place] = _EMPTY

    def _kind(self, place: int, slots: dict[int, bytes]) -> int:
        slot = slots.get(place)
        return self._map[place + KIND_AT] if slot is None else slot[KIND_AT]

    def write(self, slots: dict[int, bytes]) -> None:
        """These slots by their places, all or none: even one could be left half written by a process that is killed."""
        memory = self._map
        body = b"".join([part for place, slot in slots.items() for part in (LOG_ENTRY.pack(place, len(slot)), slot)])
        memory[LOG_BODY_AT : LOG_BODY_AT + len(body)] = body
        memory[LOG_AT:LOG_BODY_AT] = LOG_HEAD.pack(len(body), zlib.crc32(body))
        for place, slot in slots.items():
            memory[place : place + len(slot)] = slot
        memory[LOG_AT:LOG_BODY_AT] = _CLEAR

    def grow(self) -> None:
        """Makes the table anew with what still matters in it: places found before are none any more.

        Raises Garbled, Full.
        """
        now_s = int(self._clock())
        kept = [record for record in self.records() if record.expires >= now_s]
        self._start(4 * len(kept), kept)

    def _remember(self, digest: bytes, place: int) -> None:
        if len(self._places) > self._slots:  # calls come and go, and each has a digest of its own
            self._places.clear()
        self._places[digest] = place

    def _probe(self, digest: bytes) -> Iterator[int]:
        start = int.from_bytes(digest[:4], "little")
        for step in range(MAX_PROBES):
            yield TABLE_AT + (start + step) % self._slots * SLOT_BYTES

    def _slot(self, place: int) -> bytes:
        return self._map[place : place + SLOT_BYTES]

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

    def _catch_up(self) -> None:
        """The file as it is now: another process may have made a new one, or was killed while it wrote."""
        links, size = self._watch.look() if self._watch is not None else (0, 0)
        if links == 0:
            if os.fstat(self._folder_fd).st_nlink == 0:  # the folder was removed under us, and its lock with it
                self.close()
                self._lock()
            self._reopen()
        elif size != self._size:
            raise Garbled
        head = self._map[LOG_AT:LOG_BODY_AT]
        if head != _CLEAR:
            self._redo(*LOG_HEAD.unpack(head))

    def _redo(self, length: int, check: int) -> None:
        memory = self._map
        body = memory[LOG_BODY_AT : min(TABLE_AT, LOG_BODY_AT + length)]
        # One that is not whole: its writer was killed before it began with the slots themselves.
        if len(body) == length and zlib.crc32(body) == check:
            at = 0
            while at < length:
                place, size = LOG_ENTRY.unpack_from(body, at)
                at += LOG_ENTRY.size + size
                memory[place : place + size] = body[at - size : at]
        memory[LOG_AT:LOG_BODY_AT] = _CLEAR

    def _reopen(self) -> None:
        self._let_go()
        try:
            fd = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            self._start(MIN_SLOTS, [])
            return
        raw = os.pread(fd, HEADER.size + 4, 0)
        header = raw[: HEADER.size]
        is_whole = raw.startswith(MAGIC) and raw == header + _check(header)
        slots = HEADER.unpack(header)[1] if is_whole else 0
        if not slots or os.fstat(fd).st_size != TABLE_AT + slots * SLOT_BYTES:
            os.close(fd)
            raise Garbled
        self._take_up(fd, slots)

    def _take_up(self, fd: int, slots: int) -> None:
        self._let_go()
        self._fd, self._slots, self._size = fd, slots, TABLE_AT + slots * SLOT_BYTES
        self._map, self._watch = mmap.mmap(fd, self._size), syscalls.FileStatus(fd)

    def _let_go(self) -> None:
        self._places.clear()
        if self._fd >= 0:
            self._map.close()
            os.close(self._fd)
        self._fd, self._map, self._watch = -1, None, None

    def _start(self, min_slots: int, kept: list[Record]) -> None:
        slots = MIN_SLOTS
        while slots < min_slots or (content := _laid_out(slots, kept)) is None:
            slots *= 2
        if slots > self._max_slots:
            raise Full
        header = HEADER.pack(MAGIC, slots, time.time_ns())
        fd = os.open(self._fresh_path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            # Room for all of it now: later a full disk does not matter.
            os.posix_fallocate(fd, 0, TABLE_AT + slots * SLOT_BYTES)
            _write(fd, header + _check(header), 0)
            for place, slot in content:
                _write(fd, slot, place)
            self._fresh_path.rename(self._path)
        except OSError:
            os.close(fd)
            raise
        self._take_up(fd, slots)


class Transaction:
    """Reads and writes records by their digests; what it wrote it reads back."""

    __slots__ = ("_changed", "_places", "_table")

    def __init__(self, table: Table):
        self._table = table
        # Where what was looked for lies (True) or belongs (False), if there is a place near.
        self._places: dict[bytes, tuple[int | None, bool]] = {}
        self._changed: dict[bytes, bytes | None] = {}  # slots, None where the record goes

    def find(self, digest: bytes, kind: int) -> bytes | None:
        """The payload of the record of this kind. Raises Garbled."""
        if digest in self._changed:
            slot = self._changed[digest]
        else:
            place, slot = self._table.find(digest)
            self._places[digest] = place, slot is not None
        return payload_of(slot) if slot is not None and slot[KIND_AT] == kind else None

    def put(self, digest: bytes, kind: int, payload: bytes, expires: int = NEVER) -> None:
        """`expires` in seconds: from then on its slot may be used for another. Raises Full."""
        if len(payload) > MAX_PAYLOAD:
            raise Full
        self._changed[digest] = _slot_of(digest, kind, payload, expires)

    def remove(self, digest: bytes) -> None:
        self._changed[digest] = None

    def records(self) -> Iterator[Record]:
        """Every record as it was before this transaction."""
        return self._table.records()

    def commit(self) -> None:
        """Raises Garbled, Full, OSError."""
        if not self._changed:
            return
        if (slots := self._placed()) is None:
            self._table.grow()
            self._places.clear()
            slots = self._placed()
        if slots is None or len(slots) > MAX_RECORDS:
            raise Full
        self._table.write(slots)

    def _placed(self) -> dict[int, bytes] | None:
        """Each changed slot by its place; None when there is none for one of them."""
        slots, gone = {}, []
        for digest, slot in self._changed.items():
            if (known := self._places.get(digest)) is None:
                place, found = self._table.find(digest)
                known = place, found is not None
            place, is_there = known
            if slot is None:
                gone += [place] if is_there else []
                continue
            if place is None or place in slots:
                place = self._table.place_for(digest, slots)
            if place is None:
                return None
            slots[place] = slot
        # Last, for what goes must not end the search for what was put behind it.
        for place in gone:
            self._table.empty(place, slots)
        return slots


def payload_of(slot: bytes) -> bytes:
    """Raises Garbled."""
    check, _, _, length, _ = HEAD.unpack_from(slot)
    end = PAYLOAD_AT + length
    if zlib.crc32(slot[DIGEST_AT:end]) != check:
        raise Garbled
    return slot[PAYLOAD_AT:end]


def record_of(slot: bytes) -> Record:
    """Raises Garbled."""
    _, digest, kind, _, expires = HEAD.unpack_from(slot)
    return Record(digest, kind, payload_of(slot), expires)


def _slot_of(digest: bytes, kind: int, payload: bytes, expires: int) -> bytes:
    content = HEAD.pack(0, digest, kind, len(payload), expires)[DIGEST_AT:] + payload
    return _check(content) + content


def _check(header: bytes) -> bytes:
    return zlib.crc32(header).to_bytes(4, "little")


def _laid_out(slots: int, records: list[Record]) -> list[tuple[int, bytes]] | None:
    """Where each record goes in a table of so many slots; None when it is too small for them."""
    taken: set[int] = set()
    placed = []
    for record in records:
        start = int.from_bytes(record.digest[:4], "little")
        numbers = ((start + step) % slots for step in range(MAX_PROBES))
        number = next((number for number in numbers if number not in taken), None)
        if number is None:
            return None
        taken.add(number)
        placed.append((TABLE_AT + number * SLOT_BYTES, _slot_of(*record)))
    return placed


def _write(fd: int, content: bytes, at: int) -> None:
    """All of it or OSError: a disk that becomes full takes a part without a word."""
    if os.pwrite(fd, content, at) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
