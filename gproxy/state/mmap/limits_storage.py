"""The shared table as a storage of the `limits` library, for limits by address that flask-limiter keeps.

Its counters are named by the library and lie beside ours; they hold over all workers of a machine.
"""

import os
import struct
import time
from hashlib import blake2b
from math import floor
from pathlib import Path

from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage
from limits.storage.base import TimestampedSlidingWindow

from gproxy.state.mmap.sliding_log import Ring
from gproxy.state.mmap.table import Full, Garbled, Table, Transaction
from gproxy.units import NS

COUNT, WINDOW = 5, 6  # kinds of records
_COUNT = struct.Struct("<qd")  # the count and when it expires
_WINDOW = struct.Struct("<QQQQQ")  # a ring's numbers


class TableStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport, TimestampedSlidingWindow):
    """`gproxy-table:///folder`. Opened by each process, at its first use."""

    STORAGE_SCHEME = ["gproxy-table"]

    def __init__(self, uri: str, wrap_exceptions: bool = False, **_: str):
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._folder = Path(uri.partition("://")[2])
        self._opened: tuple[int, Table] | None = None

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        return (OSError, Full, Garbled)

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        return self._run(self._add, key, expiry, amount)

    def decr(self, key: str, amount: int = 1) -> int:
        """Never below 0."""
        return self._run(self._add, key, 0, -amount)

    def get(self, key: str) -> int:
        return self._run(_read, key)[0]

    def get_expiry(self, key: str) -> float:
        return self._run(_read, key)[1] or time.time()

    def clear(self, key: str) -> None:
        self._run(self._remove, key)

    def check(self) -> bool:
        """Whether the table can be used."""
        try:
            self._run(_read, "check")
        except self.base_exceptions:
            return False
        return True

    def reset(self) -> int:
        """Removes the library's counters, and none of ours. Returns how many there were."""
        found = self._run(_counters)
        for digest in found:
            self._run(lambda records, digest: records.remove(digest), digest)
        return len(found)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return amount <= limit and self._run(self._strike, key, limit, expiry, amount)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        return self._run(self._look, key, expiry)

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return amount <= limit and self._run(self._slide, key, limit, expiry, amount)

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        return self._run(self._windows, key, expiry, time.time())

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        for name in self.sliding_window_keys(key, expiry, time.time()):
            self.clear(name)

    def _run(self, function, *args):
        """As one transaction of this process's own table; a garbled one was made anew, empty."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), Table(self._folder))
        table = self._opened[1]
        try:
            return table.run(function, *args)
        except Garbled:
            return table.run(function, *args)

    # Below: deeds, each one transaction.

    def _add(self, records: Transaction, key: str, expiry: float, amount: int) -> int:
        count, until = _read(records, key)
        if until is None and amount < 0:
            return 0
        if until is None:
            until = time.time() + expiry
        count = max(0, count + amount)
        records.put(_digest(key), COUNT, _COUNT.pack(count, until), int(until) + 1)
        return count

    def _remove(self, records: Transaction, key: str) -> None:
        for digest in (_digest(key), _digest(key, "window")):
            records.remove(digest)

    def _strike(self, records: Transaction, key: str, limit: int, expiry: int, amount: int) -> bool:
        at, ring = time.time_ns(), self._ring(records, key, expiry)
        ring.advance(records, at)
        if ring.count + amount > limit:
            return False
        ring.strike(records, at, count=amount)
        expires = (at + ring.span) // NS + 1
        records.put(ring.digest, WINDOW, _WINDOW.pack(*ring.numbers) + ring.tail, expires)
        return True

    def _look(self, records: Transaction, key: str, expiry: int) -> tuple[float, int]:
        at, ring = time.time_ns(), self._ring(records, key, expiry)
        ring.advance(records, at)
        return (ring.oldest if ring.count else at) / NS, ring.count

    def _ring(self, records: Transaction, key: str, expiry: int) -> Ring:
        digest = _digest(key, "window")
        if (found := records.find(digest, WINDOW)) is None:
            return Ring(digest, expiry * NS)
        return Ring(digest, expiry * NS, _WINDOW.unpack_from(found), found[_WINDOW.size :])

    def _slide(self, records: Transaction, key: str, limit: int, expiry: int, amount: int) -> bool:
        now = time.time()
        before, before_s, count, _ = self._windows(records, key, expiry, now)
        if floor(before * before_s / expiry + count) + amount > limit:
            return False
        self._add(records, self.sliding_window_keys(key, expiry, now)[1], 2 * expiry, amount)
        return True

    def _windows(self, records: Transaction, key: str, expiry: int, now: float) -> tuple[int, float, int, float]:
        before, count = (_read(records, name)[0] for name in self.sliding_window_keys(key, expiry, now))
        left = (1 - now / expiry % 1) * expiry
        return before, left if before else 0.0, count, left + expiry


def _counters(records: Transaction) -> list[bytes]:
    return [record.digest for record in records.records() if record.kind in (COUNT, WINDOW)]


def _read(records: Transaction, key: str) -> tuple[int, float | None]:
    """The count and when it expires; (0, None) without one."""
    found = records.find(_digest(key), COUNT)
    count, until = _COUNT.unpack(found) if found else (0, 0.0)
    return (count, until) if until > time.time() else (0, None)


def _digest(key: str, what: str = "count") -> bytes:
    return blake2b(f"limits:{what}:{key}".encode(), digest_size=16).digest()
