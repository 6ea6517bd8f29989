"""The shared table as a storage of the `limits` library, for flask-limiter's limits by client address.

The library names its counters, which lie beside ours in the table and are shared by all workers of a machine.
"""

import os
import struct
import time
from hashlib import blake2b
from math import floor
from pathlib import Path

from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage
from limits.storage.base import TimestampedSlidingWindow

from gproxy.state.mmap.sliding_log import SlidingLog
from gproxy.state.mmap.table import Corrupted, Table, TableFull, Transaction
from gproxy.units import NS

COUNT, LOG = 5, 6  # kinds of entries
_COUNT_FORMAT = struct.Struct("<qd")  # the count, and its expiry in seconds since the epoch
_LOG_FORMAT = struct.Struct("<QQQQQ")  # the numbers of a sliding log


class TableStorage(Storage, MovingWindowSupport, SlidingWindowCounterSupport, TimestampedSlidingWindow):
    """Storage of the URI `gproxy-table:///folder`; each process opens the table at its first use."""

    STORAGE_SCHEME = ["gproxy-table"]

    def __init__(self, uri: str, wrap_exceptions: bool = False, **_: str):
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self._folder = Path(uri.partition("://")[2])
        self._opened: tuple[int, Table] | None = None

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        return (OSError, TableFull, Corrupted)

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        return self._run(self._add, key, expiry, amount)

    def decr(self, key: str, amount: int = 1) -> int:
        """Returns the new count, which never falls below 0."""
        return self._run(self._add, key, 0, -amount)

    def get(self, key: str) -> int:
        return self._run(_read, key)[0]

    def get_expiry(self, key: str) -> float:
        return self._run(_read, key)[1] or time.time()

    def clear(self, key: str) -> None:
        self._run(self._remove, key)

    def check(self) -> bool:
        """Returns True if the table can be used."""
        try:
            self._run(_read, "check")
        except self.base_exceptions:
            return False
        return True

    def reset(self) -> int:
        """Removes the library's counters and returns their number; our own entries stay."""
        found = self._run(_counter_digests)
        for digest in found:
            self._run(lambda transaction, digest: transaction.remove(digest), digest)
        return len(found)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return amount <= limit and self._run(self._add_to_log, key, limit, expiry, amount)

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        return self._run(self._read_log, key, expiry)

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return amount <= limit and self._run(self._add_to_window, key, limit, expiry, amount)

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        return self._run(self._read_windows, key, expiry, time.time())

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        for name in self.sliding_window_keys(key, expiry, time.time()):
            self.clear(name)

    def _run(self, function, *args):
        """Runs the function as one transaction, once more if the table was corrupted and is empty now."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), Table(self._folder))
        table = self._opened[1]
        try:
            return table.run(function, *args)
        except Corrupted:
            return table.run(function, *args)

    # The methods below run as one transaction each.

    def _add(self, transaction: Transaction, key: str, expiry: float, amount: int) -> int:
        count, expires = _read(transaction, key)
        if expires is None and amount < 0:
            return 0
        if expires is None:
            expires = time.time() + expiry
        count = max(0, count + amount)
        transaction.put(_digest(key), COUNT, _COUNT_FORMAT.pack(count, expires), int(expires) + 1)
        return count

    def _remove(self, transaction: Transaction, key: str) -> None:
        for digest in (_digest(key), _digest(key, "window")):
            transaction.remove(digest)

    def _add_to_log(self, transaction: Transaction, key: str, limit: int, expiry: int, amount: int) -> bool:
        at, log = time.time_ns(), self._sliding_log(transaction, key, expiry)
        log.advance(transaction, at)
        if log.count + amount > limit:
            return False
        log.add(transaction, at, count=amount)
        expires = (at + log.span) // NS + 1
        transaction.put(log.digest, LOG, _LOG_FORMAT.pack(*log.numbers) + log.tail, expires)
        return True

    def _read_log(self, transaction: Transaction, key: str, expiry: int) -> tuple[float, int]:
        at, log = time.time_ns(), self._sliding_log(transaction, key, expiry)
        log.advance(transaction, at)
        return (log.oldest if log.count else at) / NS, log.count

    def _sliding_log(self, transaction: Transaction, key: str, expiry: int) -> SlidingLog:
        digest = _digest(key, "window")
        if (found := transaction.find(digest, LOG)) is None:
            return SlidingLog(digest, expiry * NS)
        return SlidingLog(digest, expiry * NS, _LOG_FORMAT.unpack_from(found), found[_LOG_FORMAT.size :])

    def _add_to_window(self, transaction: Transaction, key: str, limit: int, expiry: int, amount: int) -> bool:
        now = time.time()
        previous, previous_s, count, _ = self._read_windows(transaction, key, expiry, now)
        if floor(previous * previous_s / expiry + count) + amount > limit:
            return False
        self._add(transaction, self.sliding_window_keys(key, expiry, now)[1], 2 * expiry, amount)
        return True

    def _read_windows(
        self, transaction: Transaction, key: str, expiry: int, now: float
    ) -> tuple[int, float, int, float]:
        previous, count = (_read(transaction, name)[0] for name in self.sliding_window_keys(key, expiry, now))
        remaining = (1 - now / expiry % 1) * expiry
        return previous, remaining if previous else 0.0, count, remaining + expiry


def _counter_digests(transaction: Transaction) -> list[bytes]:
    return [entry.digest for entry in transaction.entries() if entry.kind in (COUNT, LOG)]


def _read(transaction: Transaction, key: str) -> tuple[int, float | None]:
    """Returns the count and its expiry, or (0, None) without a count."""
    found = transaction.find(_digest(key), COUNT)
    count, expires = _COUNT_FORMAT.unpack(found) if found else (0, 0.0)
    return (count, expires) if expires > time.time() else (0, None)


def _digest(key: str, kind: str = "count") -> bytes:
    return blake2b(f"limits:{kind}:{key}".encode(), digest_size=16).digest()
