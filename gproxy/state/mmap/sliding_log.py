"""A sliding log: the moments of the newest requests, oldest first, stored in pages that are entries of a table.

It counts exactly in any window.
"""

import struct
from collections.abc import Iterator

from gproxy.state.mmap.table import Transaction
from gproxy.units import NS

KIND = 2
MOMENT = struct.Struct("<QI")  # nanoseconds since the epoch, and the number of requests at that moment
PAGE_LENGTH = 40  # moments in one entry of the table
MAX_REMOVED_PAGES = 3  # in one transaction
# Spreads the pages over the table; odd, so that no two pages get the same digest.
_STEP, _MASK = 0x9E3779B97F4A7C15F39CC0605CEDC835, 2**128 - 1


class SlidingLog:
    """Moments are numbered from 0 on; those from `first` to before `next` are within the window.

    `count` is the number of their requests, `oldest` the moment `first`, `newest` the latest moment ever added. The
    owner of the log stores these five numbers and `tail`, the page that is not full yet, in its own entry under
    `digest`.
    """

    __slots__ = ("count", "digest", "first", "newest", "next", "oldest", "span", "tail")

    def __init__(self, digest: bytes, span: int, numbers=(0, 0, 0, 0, 0), tail: bytes = b""):
        """`span` is the length of the window in nanoseconds; a moment exactly `span` ago no longer counts."""
        self.digest, self.span, self.tail = digest, span, tail
        self.first, self.next, self.count, self.oldest, self.newest = numbers

    @property
    def numbers(self) -> tuple[int, int, int, int, int]:
        return self.first, self.next, self.count, self.oldest, self.newest

    def advance(self, transaction: Transaction, at: int) -> None:
        """Drops the moments that are outside of the window that ends `at`."""
        until = at - self.span
        if self.newest > at + self.span:  # the clock was far ahead: its moments would count for too long
            self.first, self.count, self.newest = self.next, 0, at
        if self.count == 0 or self.oldest > until:
            return
        if self.newest <= until:
            self.first, self.count = self.next, 0
            return
        first_page = self.first // PAGE_LENGTH
        for moment, count in self._moments(transaction):
            if moment > until:
                self.oldest = moment
                break
            self.first += 1
            self.count -= count
        # Further pages need no removal: they have expired, so their slots can be reused.
        for number in range(first_page, min(self.first // PAGE_LENGTH, first_page + MAX_REMOVED_PAGES)):
            transaction.remove(self._page_digest(number))

    def add(self, transaction: Transaction, at: int, grain: int = 1, count: int = 1) -> None:
        """Adds `count` requests at this moment, rounded up to a multiple of `grain` (nanoseconds).

        Requests of one grain share a moment. If the clock was set back, the newest moment is used.
        """
        at = max(-(-at // grain) * grain, self.newest)
        if self.count == 0:
            self.oldest = at
        self.count += count
        if self.tail and at == self.newest:
            _, before = MOMENT.unpack_from(self.tail, len(self.tail) - MOMENT.size)
            self.tail = self.tail[: -MOMENT.size] + MOMENT.pack(at, before + count)
            return
        self.tail += MOMENT.pack(at, count)
        self.next += 1
        self.newest = at
        if len(self.tail) == PAGE_LENGTH * MOMENT.size:
            transaction.put(
                self._page_digest(self.next // PAGE_LENGTH - 1), KIND, self.tail, (at + self.span) // NS + 1
            )
            self.tail = b""

    def moment_of(self, transaction: Transaction, count: int) -> int:
        """Returns the moment of the `count`-th oldest request; `span` after it none of these requests counts."""
        for moment, requests in self._moments(transaction):
            count -= requests
            if count <= 0:
                return moment
        return self.newest

    def _moments(self, transaction: Transaction) -> Iterator[tuple[int, int]]:
        """Yields the moments within the window and their numbers of requests, oldest first."""
        number, skipped = divmod(self.first, PAGE_LENGTH)
        while number * PAGE_LENGTH < self.next:
            yield from list(MOMENT.iter_unpack(self._page(transaction, number)))[skipped:]
            number, skipped = number + 1, 0

    def _page(self, transaction: Transaction, number: int) -> bytes:
        """Returns a page; one that is missing, because its slot was reused, had only moments outside of the window."""
        if number == self.next // PAGE_LENGTH:
            return self.tail
        return transaction.find(self._page_digest(number), KIND) or bytes(PAGE_LENGTH * MOMENT.size)

    def _page_digest(self, number: int) -> bytes:
        return (int.from_bytes(self.digest, "little") + (number + 1) * _STEP & _MASK).to_bytes(16, "little")
