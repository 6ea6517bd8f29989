"""The moments of the newest requests, oldest first, in pieces that are records of a table: exact in any window."""

import struct
from collections.abc import Iterator

from gproxy.state.mmap.table import Transaction
from gproxy.units import NS

KIND = 2
ENTRY = struct.Struct("<QI")  # a moment, and how many came at it
PIECE = 40  # entries in a record
MAX_REMOVED = 3  # pieces in one transaction
# Spreads the pieces over the table; odd, so that no two of them share a place.
_STEP, _ALL = 0x9E3779B97F4A7C15F39CC0605CEDC835, 2**128 - 1


class Ring:
    """Entries, their moments in nanoseconds, are numbered from 0 on; those from `first` up to `next` count.

    `count` is how many came at all of them, `oldest` the moment of the first one, `newest` that of the last that ever
    was. Whoever has the ring keeps these five numbers and `tail`, the piece that is not full yet, in a record of its
    own under `digest`.
    """

    __slots__ = ("count", "digest", "first", "newest", "next", "oldest", "span", "tail")

    def __init__(self, digest: bytes, span: int, numbers=(0, 0, 0, 0, 0), tail: bytes = b""):
        """`span` is how long a moment counts, in nanoseconds: until it lies exactly so far back."""
        self.digest, self.span, self.tail = digest, span, tail
        self.first, self.next, self.count, self.oldest, self.newest = numbers

    @property
    def numbers(self) -> tuple[int, int, int, int, int]:
        return self.first, self.next, self.count, self.oldest, self.newest

    def advance(self, records: Transaction, at: int) -> None:
        """Lets go of what is too old by now."""
        until = at - self.span
        if self.newest > at + self.span:  # the clock was far ahead: what it struck then would not leave for long
            self.first, self.count, self.newest = self.next, 0, at
        if self.count == 0 or self.oldest > until:
            return
        if self.newest <= until:
            self.first, self.count = self.next, 0
            return
        pieces = self.first // PIECE
        for moment, count in self._entries(records):
            if moment > until:
                self.oldest = moment
                break
            self.first += 1
            self.count -= count
        # What is more than these gives its slots away by itself, as it has expired.
        for number in range(pieces, min(self.first // PIECE, pieces + MAX_REMOVED)):
            records.remove(self._place(number))

    def strike(self, records: Transaction, at: int, grain: int = 1, count: int = 1) -> None:
        """So many more, at this moment rounded up to a whole grain, in nanoseconds: those of one grain are one entry.

        A clock that was set back does not lead behind the newest.
        """
        at = max(-(-at // grain) * grain, self.newest)
        if self.count == 0:
            self.oldest = at
        self.count += count
        if self.tail and at == self.newest:
            _, before = ENTRY.unpack_from(self.tail, len(self.tail) - ENTRY.size)
            self.tail = self.tail[: -ENTRY.size] + ENTRY.pack(at, before + count)
            return
        self.tail += ENTRY.pack(at, count)
        self.next += 1
        self.newest = at
        if len(self.tail) == PIECE * ENTRY.size:
            records.put(self._place(self.next // PIECE - 1), KIND, self.tail, (at + self.span) // NS + 1)
            self.tail = b""

    def left_by(self, records: Transaction, count: int) -> int:
        """The moment with which so many of the oldest have come; they have all left a span after it."""
        for moment, here in self._entries(records):
            count -= here
            if count <= 0:
                return moment
        return self.newest

    def _entries(self, records: Transaction) -> Iterator[tuple[int, int]]:
        """Those that count, oldest first."""
        number, skipped = divmod(self.first, PIECE)
        while number * PIECE < self.next:
            yield from list(ENTRY.iter_unpack(self._piece(records, number)))[skipped:]
            number, skipped = number + 1, 0

    def _piece(self, records: Transaction, number: int) -> bytes:
        """A piece whose slot was given away held only what was too old."""
        if number == self.next // PIECE:
            return self.tail
        return records.find(self._place(number), KIND) or bytes(PIECE * ENTRY.size)

    def _place(self, number: int) -> bytes:
        return (int.from_bytes(self.digest, "little") + (number + 1) * _STEP & _ALL).to_bytes(16, "little")
