"""The moments of the newest requests, oldest first, in pieces that are records of a table: exact in any window."""

import struct
from bisect import bisect_right

from gproxy.state.table import Transaction

KIND = 2
PIECE = 56  # moments in a record
MOST_REMOVED = 3  # pieces in one transaction
NS = 1_000_000_000
_MOMENT = struct.Struct("<Q")
# Spreads the pieces over the table; odd, so that no two of them share a place.
_STEP, _ALL = 0x9E3779B97F4A7C15F39CC0605CEDC835, 2**128 - 1


class Ring:
    """Moments, in nanoseconds, are numbered from 0 on; those from `first` up to `next` count.

    `oldest` is the moment of the first one, `newest` that of the last that ever was. Whoever has the ring keeps these
    four numbers and `tail`, the piece that is not full yet, in a record of its own under `digest`.
    """

    __slots__ = ("digest", "first", "newest", "next", "oldest", "span", "tail")

    def __init__(self, digest: bytes, span: int, numbers: tuple[int, int, int, int] = (0, 0, 0, 0), tail: bytes = b""):
        """`span` is how long a moment counts, in nanoseconds: until it lies exactly so far back."""
        self.digest, self.span, self.tail = digest, span, tail
        self.first, self.next, self.oldest, self.newest = numbers

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        return self.first, self.next, self.oldest, self.newest

    def __len__(self) -> int:
        return self.next - self.first

    def advance(self, records: Transaction, at: int) -> None:
        """Lets go of what is too old by now."""
        until = at - self.span
        if self.first == self.next or self.oldest > until:
            return
        if self.newest <= until:
            self.first = self.next
            return
        gone = 0
        while True:
            number, start = divmod(self.first, PIECE)
            piece = self._piece(records, number)
            moments = struct.unpack(f"<{len(piece) // 8}Q", piece)
            index = bisect_right(moments, until, start)
            self.first += index - start
            if index < len(moments):
                self.oldest = moments[index]
                return
            gone += 1
            if gone <= MOST_REMOVED:  # the others give their slots away by themselves, as they have expired
                records.remove(self._place(number))

    def strike(self, records: Transaction, at: int) -> None:
        """One more; a clock that was set back does not lead behind the newest."""
        at = max(at, self.newest)
        if self.first == self.next:
            self.oldest = at
        self.tail += _MOMENT.pack(at)
        self.next += 1
        self.newest = at
        if len(self.tail) == 8 * PIECE:
            number = self.next // PIECE - 1
            records.put(self._place(number), KIND, self.tail, (at + self.span) // NS + 1)
            self.tail = b""

    def moment(self, records: Transaction, number: int) -> int:
        """When the one of this number was struck; 0 when it is forgotten."""
        piece, index = divmod(number, PIECE)
        return _MOMENT.unpack_from(self._piece(records, piece), index * 8)[0]

    def _piece(self, records: Transaction, number: int) -> bytes:
        """A piece whose slot was given away held only what was too old."""
        if number == self.next // PIECE:
            return self.tail
        return records.find(self._place(number), KIND) or bytes(8 * PIECE)

    def _place(self, number: int) -> bytes:
        return (int.from_bytes(self.digest, "little") + (number + 1) * _STEP & _ALL).to_bytes(16, "little")
