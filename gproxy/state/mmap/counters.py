"""The table entries of one machine's shared state: accounts, limits, and the reservations of running calls."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

from gproxy.state import interface
from gproxy.state.interface import BUCKETS, HOUR_S, MINUTE_S, Account, Limit, LimitStatus, Take
from gproxy.state.mmap.sliding_log import SlidingLog
from gproxy.state.mmap.table import Transaction
from gproxy.state.periods import window
from gproxy.units import NS

LIMIT, ACCOUNT, RESERVATION = 1, 3, 4  # kinds of entries
MINUTE_NS, HOUR_NS = MINUTE_S * NS, HOUR_S * NS
# After this time an idle account or limit expires, and its slot may be reused; it can be loaded again.
IDLE_S = 40 * 86_400
# For a larger limit per minute, requests within 12 ms share one moment of the sliding log, the latest: no log has more
# than about this many moments.
MAX_EXACT = 5_000
GRAIN_NS = MINUTE_NS // MAX_EXACT
MAX = 2**63 - 1
MAX_COUNTED = MAX // BUCKETS  # in one bucket; the sum of all buckets must not pass MAX

_ACCOUNT_FORMAT = struct.Struct("<qqqqI?")


@dataclass(slots=True)
class AccountEntry:
    """An account. Money is in nano-USD; `window` is the start of its window, `cap` the cap of the last take.

    `key`, and `end` of the window, are set by `current` only and not stored.
    """

    digest: bytes
    window: int = 0
    used: int = 0
    reserved: int = 0
    cap: int = 0
    version: int = 0
    is_loaded: bool = False
    key: str = ""
    end: int | None = None

    @classmethod
    def find(cls, transaction: Transaction, digest: bytes) -> "AccountEntry | None":
        found = transaction.find(digest, ACCOUNT)
        return None if found is None else cls(digest, *_ACCOUNT_FORMAT.unpack(found))

    @classmethod
    def get_or_new(cls, transaction: Transaction, digest: bytes) -> "AccountEntry":
        return cls.find(transaction, digest) or cls(digest)

    @classmethod
    def current(cls, transaction: Transaction, account: Account, at: int) -> "AccountEntry | None":
        """Returns the account in the window of `at`, or None if it must be loaded. A new window starts with 0 used."""
        entry = cls.find(transaction, key_digest("a", account.key))
        if entry is None or not entry.is_loaded:
            return None
        start, entry.end = window(account.period, at / NS)
        if start < entry.window:  # its period was changed, and some process does not know it yet
            return None
        if start > entry.window:
            entry.window, entry.used, entry.reserved, entry.version = start, 0, 0, entry.version + 1
        entry.key, entry.cap = account.key, account.cap
        return entry

    def status(self, at: int, money: int | None) -> LimitStatus:
        """Returns its status; `wait_s` is set if `money` has no room, and 0 if `money` is None."""
        reset = None if self.end is None else self.end - at / NS
        remaining = self.cap - self.used - self.reserved
        wait = 0.0 if money is None or money <= remaining else reset
        return LimitStatus(self.key, None, self.cap, max(0, remaining), reset, wait, self.used, self.reserved)

    def pack(self) -> bytes:
        used, reserved = min(MAX, self.used), max(-MAX, min(MAX, self.reserved))
        return _ACCOUNT_FORMAT.pack(self.window, used, reserved, self.cap, self.version % 2**32, self.is_loaded)

    def write(self, transaction: Transaction, at: int) -> None:
        transaction.put(self.digest, ACCOUNT, self.pack(), at // NS + IDLE_S)


_RESERVATION_FORMAT = struct.Struct("<qqqBBB")  # call, at, tokens, length of the owner, number of accounts, of limits
_AMOUNT_FORMAT = struct.Struct("<16sqq")


@dataclass(slots=True)
class ReservationEntry:
    """The reservation of a running call: (account, window, amount) of each account, and the limits that count it."""

    call: int
    owner: str
    at: int
    tokens: int
    amounts: list[tuple[bytes, int, int]] = field(default_factory=list)
    limits: list[bytes] = field(default_factory=list)

    @classmethod
    def find(cls, transaction: Transaction, digest: bytes) -> "ReservationEntry | None":
        found = transaction.find(digest, RESERVATION)
        return None if found is None else cls.parse(found)

    @classmethod
    def parse(cls, payload: bytes) -> "ReservationEntry":
        call, at, tokens, length, accounts, limits = _RESERVATION_FORMAT.unpack_from(payload)
        start = _RESERVATION_FORMAT.size + length
        owner = payload[_RESERVATION_FORMAT.size : start].decode()
        amounts = [_AMOUNT_FORMAT.unpack_from(payload, start + n * _AMOUNT_FORMAT.size) for n in range(accounts)]
        start += accounts * _AMOUNT_FORMAT.size
        return cls(
            call, owner, at, tokens, amounts, [payload[start + n * 16 : start + n * 16 + 16] for n in range(limits)]
        )

    def has_account(self, account: bytes) -> bool:
        return any(name == account for name, _, _ in self.amounts)

    def amount_in(self, account: bytes, window: int) -> int:
        """Returns what is reserved of the account in this window."""
        return sum(amount for name, start, amount in self.amounts if (name, start) == (account, window))

    def add_account(self, account: bytes, window: int, amount: int) -> None:
        """Reserves `amount` of the account in this window; an amount already reserved of it moves to this window."""
        reserved = next((before for name, _, before in self.amounts if name == account), amount)
        self.amounts = [one for one in self.amounts if one[0] != account] + [(account, window, reserved)]

    def write(self, transaction: Transaction, digest: bytes) -> None:
        owner = self.owner.encode()
        head = _RESERVATION_FORMAT.pack(
            self.call, self.at, self.tokens, len(owner), len(self.amounts), len(self.limits)
        )
        amounts = b"".join(_AMOUNT_FORMAT.pack(*one) for one in self.amounts)
        transaction.put(digest, RESERVATION, head + owner + amounts + b"".join(self.limits))


# The five numbers of the sliding log, the hour of the newest bucket, running calls, and the totals of the buckets.
_NUMBERS = struct.Struct("<QQQQQIiqq")
_BUCKETS, _BUCKET = struct.Struct(f"<{BUCKETS}q"), struct.Struct("<q")
_REQUESTS_AT, _TOKENS_AT = _NUMBERS.size, _NUMBERS.size + _BUCKETS.size
_TAIL_AT = _TOKENS_AT + _BUCKETS.size
_LAST = (BUCKETS - 1) * _BUCKET.size


class LimitEntry:
    """A limit: a sliding log of its requests, hourly buckets of requests and tokens, and the number of running calls.

    `requests` and `tokens` are the totals of the buckets. `limit` has the amounts; only `current` sets it.
    """

    __slots__ = ("_raw", "digest", "hour", "limit", "log", "requests", "running", "tokens")

    def __init__(self, digest: bytes, raw: bytes):
        self.digest, self._raw = digest, bytearray(raw[:_TAIL_AT])
        *numbers, self.hour, self.running, self.requests, self.tokens = _NUMBERS.unpack_from(raw)
        self.log = SlidingLog(digest, MINUTE_NS, numbers, raw[_TAIL_AT:])

    @classmethod
    def find(cls, transaction: Transaction, digest: bytes) -> "LimitEntry | None":
        found = transaction.find(digest, LIMIT)
        return None if found is None else cls(digest, found)

    @classmethod
    def new(cls, digest: bytes, at: int) -> "LimitEntry":
        return cls(digest, _NUMBERS.pack(0, 0, 0, 0, 0, at // HOUR_NS, 0, 0, 0) + bytes(2 * _BUCKETS.size))

    @classmethod
    def current(cls, transaction: Transaction, limit: Limit, at: int) -> "LimitEntry | None":
        """Returns the limit without counts that are too old at `at`, or None if it must be loaded."""
        entry = cls.find(transaction, key_digest("l", limit.key))
        if entry is not None:
            entry.limit = limit
            entry.advance(at // HOUR_NS)
            entry.log.advance(transaction, at)
        return entry

    def write(self, transaction: Transaction, at: int) -> None:
        numbers = (*self.log.numbers, self.hour, self.running, self.requests, self.tokens)
        _NUMBERS.pack_into(self._raw, 0, *numbers)
        transaction.put(self.digest, LIMIT, self._raw + self.log.tail, at // NS + IDLE_S)

    def advance(self, hour: int) -> None:
        """Drops the buckets that are too old at this hour; a clock that was set back does not restore them."""
        if hour < self.hour - 1:  # the clock was far ahead: what was counted then counts as of now
            self.hour = hour
        if hour <= self.hour:
            return
        dropped = min(BUCKETS, hour - self.hour) * _BUCKET.size
        for start in (_REQUESTS_AT, _TOKENS_AT):
            end = start + _BUCKETS.size
            self._raw[start:end] = self._raw[start + dropped : end] + bytes(dropped)
        self.hour = hour
        self.requests, self.tokens = sum(self._buckets(_REQUESTS_AT)), sum(self._buckets(_TOKENS_AT))

    def has_room(self, tokens: int) -> bool:
        """Returns True if one more request with this number of tokens is within every counter."""
        limit = self.limit
        return (
            (limit.rpm is None or self.log.count < limit.rpm)
            and (limit.rpd is None or self.requests < limit.rpd)
            and (limit.total_tokens is None or 0 < limit.total_tokens >= self.tokens + tokens)
            and (limit.concurrency is None or self.running < limit.concurrency)
        )

    def add_request(self, transaction: Transaction, tokens: int, at: int) -> bool:
        """Counts one request. Returns True if its settlement must correct tokens or free its concurrency."""
        limit = self.limit
        if limit.rpm is not None:
            self.log.add(transaction, at, 1 if limit.rpm <= MAX_EXACT else GRAIN_NS)
        self.requests += self._add_to_bucket(_REQUESTS_AT + _LAST, 1)
        if limit.total_tokens is None and limit.concurrency is None:
            return False
        self.tokens += self._add_to_bucket(_TOKENS_AT + _LAST, tokens)
        self.running += 1
        return True

    def add_to_hour(self, hour: int, requests: int, tokens: int) -> None:
        """Adds to the buckets of an hour, if it is one of the 25; a bucket never falls below 0."""
        index = BUCKETS - 1 - (self.hour - hour)
        if 0 <= index < BUCKETS:
            if requests:
                self.requests += self._add_to_bucket(_REQUESTS_AT + index * _BUCKET.size, requests)
            self.tokens += self._add_to_bucket(_TOKENS_AT + index * _BUCKET.size, tokens)

    def _add_to_bucket(self, at: int, by: int) -> int:
        """Returns by how much the bucket changed; it is kept between 0 and MAX_COUNTED."""
        before = _BUCKET.unpack_from(self._raw, at)[0]
        after = before + by
        if not 0 <= after <= MAX_COUNTED:
            after = 0 if after < 0 else MAX_COUNTED
        _BUCKET.pack_into(self._raw, at, after)
        return after - before

    def _buckets(self, start: int) -> tuple[int, ...]:
        return _BUCKETS.unpack_from(self._raw, start)

    def statuses(self, transaction: Transaction, at: int, take: Take | None) -> list[LimitStatus]:
        """Returns the status of each counter; `wait_s` is set in those that have no room for `take`."""
        limit, log = self.limit, self.log
        found, key = [], limit.key
        if limit.rpm is not None:
            remaining = limit.rpm - log.count
            reset = max(0.0, (log.newest + MINUTE_NS - at) / NS) if log.count else 0.0
            wait = self._minute_wait(transaction, at) if take and remaining <= 0 else 0.0
            found.append(LimitStatus(key, interface.RPM, limit.rpm, max(0, remaining), reset, wait))
        if limit.rpd is not None:
            found.append(self._day_status(interface.RPD, limit.rpd, self.requests, at, 1 if take else None))
        if limit.total_tokens is not None:
            cost = take.tokens if take else None
            found.append(self._day_status(interface.TOKENS, limit.total_tokens, self.tokens, at, cost))
        if limit.concurrency is not None:
            remaining = limit.concurrency - self.running
            busy = interface.BUSY_WAIT_S if limit.concurrency else None
            wait = busy if take and remaining <= 0 else 0.0
            reset = None if self.running else 0.0
            found.append(LimitStatus(key, interface.CONCURRENCY, limit.concurrency, max(0, remaining), reset, wait))
        return found

    def _minute_wait(self, transaction: Transaction, at: int) -> float | None:
        """Returns the seconds until enough requests are a minute old for one more; None if the limit is 0."""
        if self.limit.rpm == 0:
            return None
        free_at = self.log.moment_of(transaction, self.log.count - self.limit.rpm + 1) + MINUTE_NS
        return max(0.001, (free_at - at) / NS)

    def _day_status(self, counter: str, maximum: int, count: int, at: int, cost: int | None) -> LimitStatus:
        """Returns the status of a counter of 24 hours; `cost` is what a take would count, None without a take."""
        start = _REQUESTS_AT if counter == interface.RPD else _TOKENS_AT
        remaining = maximum - count
        if cost is not None and (cost > maximum or maximum == 0):
            wait = None
        elif cost is not None and cost > remaining:
            wait = self._seconds_until_dropped(_last_to_drop(self._buckets(start), cost - remaining), at)
        else:
            wait = 0.0
        reset = self._seconds_until_empty(start, at) if count else 0.0
        return LimitStatus(self.limit.key, counter, maximum, max(0, remaining), reset, wait)

    def _seconds_until_empty(self, start: int, at: int) -> float:
        """Returns the seconds until the newest bucket that is not 0 is dropped."""
        if _BUCKET.unpack_from(self._raw, start + _LAST)[0]:
            return self._seconds_until_dropped(BUCKETS - 1, at)
        buckets = self._buckets(start)
        return self._seconds_until_dropped(max(n for n in range(BUCKETS) if buckets[n]), at)

    def _seconds_until_dropped(self, index: int, at: int) -> float:
        """Returns the seconds until this bucket is dropped."""
        return (self.hour + index + 1) * HOUR_S - at / NS


def _last_to_drop(buckets: Sequence[int], lacking: int) -> int:
    """Returns the index of the bucket that, dropped with all older ones, frees `lacking`."""
    for index, count in enumerate(buckets):
        lacking -= count
        if lacking <= 0:
            return index
    return BUCKETS - 1


@lru_cache(maxsize=16_384)
def key_digest(kind: str, key: str) -> bytes:
    return blake2b(f"{kind}:{key}".encode(), digest_size=16).digest()


# Spreads calls over the table: an odd number without a pattern.
_SPREAD, _MASK = 0x9E3779B97F4A7C15F39CC0605CEDC835, 2**128 - 1


def call_digest(call: int) -> bytes:
    """Returns the digest of a call, which no other call has."""
    return ((call * 2 + 1) * _SPREAD & _MASK).to_bytes(16, "big")
