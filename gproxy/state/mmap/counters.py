"""The records of one machine's shared state as they stand in its table: accounts, limits, what running calls hold."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

from gproxy.state import interface
from gproxy.state.interface import BUCKETS, HOUR_S, MINUTE_S, Account, Limit, LimitStatus, Take
from gproxy.state.mmap.sliding_log import Ring
from gproxy.state.mmap.table import Transaction
from gproxy.state.periods import window
from gproxy.units import NS

LIMIT, ACCOUNT, HOLD = 1, 3, 4  # kinds of records
MINUTE_NS, HOUR_NS = MINUTE_S * NS, HOUR_S * NS
# An idle record gives its slot away after so long; it can be loaded again.
IDLE_S = 40 * 86_400
# Of a larger limit per minute the requests of 12 ms are one entry, which leaves when the last of them does: so no ring
# has more than about this many entries.
MAX_EXACT = 5_000
GRAIN_NS = MINUTE_NS // MAX_EXACT
MAX = 2**63 - 1
MAX_COUNTED = MAX // BUCKETS  # in one bucket: their sum has to fit as well
BUSY_WAIT_S = 1.0  # what a caller is told to wait for a running call to end

_FUNDS = struct.Struct("<qqqqI?")


@dataclass(slots=True)
class Funds:
    """An account's record. Money in nano-USD; `cap` is the one that the last take knew.

    Of an account in its current window also its key, and the window's end.
    """

    digest: bytes
    window: int = 0
    used: int = 0
    held: int = 0
    cap: int = 0
    version: int = 0
    is_loaded: bool = False
    key: str = ""
    end: int | None = None

    @classmethod
    def of(cls, records: Transaction, digest: bytes) -> "Funds | None":
        found = records.find(digest, ACCOUNT)
        return None if found is None else cls(digest, *_FUNDS.unpack(found))

    @classmethod
    def read(cls, records: Transaction, digest: bytes) -> "Funds":
        return cls.of(records, digest) or cls(digest)

    @classmethod
    def current(cls, records: Transaction, account: Account, at: int) -> "Funds | None":
        """The account in the window that `at` lies in: a new one begins with nothing used. None: it is to be loaded."""
        fund = cls.of(records, named("a", account.key))
        if fund is None or not fund.is_loaded:
            return None
        start, fund.end = window(account.period, at / NS)
        if start < fund.window:  # its period was changed, and not all know yet
            return None
        if start > fund.window:
            fund.window, fund.used, fund.held, fund.version = start, 0, 0, fund.version + 1
        fund.key, fund.cap = account.key, account.cap
        return fund

    def standing(self, at: int, money: int | None) -> LimitStatus:
        """As it stands; to wait where `money` has no room, None where none is wanted."""
        reset = None if self.end is None else self.end - at / NS
        left = self.cap - self.used - self.held
        wait = 0.0 if money is None or money <= left else reset
        return LimitStatus(self.key, None, self.cap, max(0, left), reset, wait, self.used, self.held)

    def packed(self) -> bytes:
        used, held = min(MAX, self.used), max(-MAX, min(MAX, self.held))
        return _FUNDS.pack(self.window, used, held, self.cap, self.version % 2**32, self.is_loaded)

    def write(self, records: Transaction, at: int) -> None:
        records.put(self.digest, ACCOUNT, self.packed(), at // NS + IDLE_S)


_HOLD = struct.Struct("<qqqBBB")  # call, at, tokens, length of the owner, number of accounts, of limits
_MONEY = struct.Struct("<16sqq")


@dataclass(slots=True)
class Hold:
    """What a running call holds: (account, window, amount) of each account, and the limits that count it."""

    call: int
    owner: str
    at: int
    tokens: int
    money: list[tuple[bytes, int, int]] = field(default_factory=list)
    limits: list[bytes] = field(default_factory=list)

    @classmethod
    def read(cls, records: Transaction, digest: bytes) -> "Hold | None":
        found = records.find(digest, HOLD)
        return None if found is None else cls.parse(found)

    @classmethod
    def parse(cls, payload: bytes) -> "Hold":
        call, at, tokens, length, accounts, limits = _HOLD.unpack_from(payload)
        start = _HOLD.size + length
        owner = payload[_HOLD.size : start].decode()
        money = [_MONEY.unpack_from(payload, start + n * _MONEY.size) for n in range(accounts)]
        start += accounts * _MONEY.size
        return cls(
            call, owner, at, tokens, money, [payload[start + n * 16 : start + n * 16 + 16] for n in range(limits)]
        )

    def has(self, account: bytes) -> bool:
        return any(name == account for name, _, _ in self.money)

    def amount(self, account: bytes, window: int) -> int:
        """What is held of the account in this window."""
        return sum(amount for name, opened, amount in self.money if (name, opened) == (account, window))

    def enter(self, account: bytes, window: int, amount: int) -> None:
        """Holds so much of the account, or what it holds already, in this window."""
        held = next((before for name, _, before in self.money if name == account), amount)
        self.money = [one for one in self.money if one[0] != account] + [(account, window, held)]

    def write(self, records: Transaction, digest: bytes) -> None:
        owner = self.owner.encode()
        head = _HOLD.pack(self.call, self.at, self.tokens, len(owner), len(self.money), len(self.limits))
        money = b"".join(_MONEY.pack(*one) for one in self.money)
        records.put(digest, HOLD, head + owner + money + b"".join(self.limits))


# The ring's five, the hour of the newest bucket, running calls, and the sums of the buckets.
_NUMBERS = struct.Struct("<QQQQQIiqq")
_BUCKETS, _BUCKET = struct.Struct(f"<{BUCKETS}q"), struct.Struct("<q")
_REQUESTS_AT, _TOKENS_AT = _NUMBERS.size, _NUMBERS.size + _BUCKETS.size
_TAIL_AT = _TOKENS_AT + _BUCKETS.size
_LAST = (BUCKETS - 1) * _BUCKET.size


class Counts:
    """A limit's record: a ring of the moments of its requests, hourly buckets of requests and tokens, running calls.

    `limit` are the amounts, where it was asked for by them; `requests` and `tokens` the sums of the buckets.
    """

    __slots__ = ("_raw", "digest", "hour", "limit", "requests", "ring", "running", "tokens")

    def __init__(self, digest: bytes, raw: bytes):
        self.digest, self._raw = digest, bytearray(raw[:_TAIL_AT])
        *numbers, self.hour, self.running, self.requests, self.tokens = _NUMBERS.unpack_from(raw)
        self.ring = Ring(digest, MINUTE_NS, numbers, raw[_TAIL_AT:])

    @classmethod
    def of(cls, records: Transaction, digest: bytes) -> "Counts | None":
        found = records.find(digest, LIMIT)
        return None if found is None else cls(digest, found)

    @classmethod
    def fresh(cls, digest: bytes, at: int) -> "Counts":
        return cls(digest, _NUMBERS.pack(0, 0, 0, 0, 0, at // HOUR_NS, 0, 0, 0) + bytes(2 * _BUCKETS.size))

    @classmethod
    def current(cls, records: Transaction, limit: Limit, at: int) -> "Counts | None":
        """The limit without what is too old by now. None: it is to be loaded."""
        count = cls.of(records, named("l", limit.key))
        if count is not None:
            count.limit = limit
            count.advance(at // HOUR_NS)
            count.ring.advance(records, at)
        return count

    def write(self, records: Transaction, at: int) -> None:
        numbers = (*self.ring.numbers, self.hour, self.running, self.requests, self.tokens)
        _NUMBERS.pack_into(self._raw, 0, *numbers)
        records.put(self.digest, LIMIT, self._raw + self.ring.tail, at // NS + IDLE_S)

    def advance(self, hour: int) -> None:
        """Lets go of buckets that are too old; a clock that was set back does not bring them back."""
        if hour < self.hour - 1:  # it was far ahead: what it counted stays, as of now
            self.hour = hour
        if hour <= self.hour:
            return
        gone = min(BUCKETS, hour - self.hour) * _BUCKET.size
        for start in (_REQUESTS_AT, _TOKENS_AT):
            end = start + _BUCKETS.size
            self._raw[start:end] = self._raw[start + gone : end] + bytes(gone)
        self.hour = hour
        self.requests, self.tokens = sum(self._buckets(_REQUESTS_AT)), sum(self._buckets(_TOKENS_AT))

    def has_room(self, tokens: int) -> bool:
        """Whether one more request, of so many tokens, is within every counter."""
        limit = self.limit
        return (
            (limit.rpm is None or self.ring.count < limit.rpm)
            and (limit.rpd is None or self.requests < limit.rpd)
            and (limit.total_tokens is None or 0 < limit.total_tokens >= self.tokens + tokens)
            and (limit.concurrency is None or self.running < limit.concurrency)
        )

    def add(self, records: Transaction, tokens: int, at: int) -> bool:
        """One request more. Whether its end has to be told: what that corrects or frees is counted only then."""
        limit = self.limit
        if limit.rpm is not None:
            self.ring.strike(records, at, 1 if limit.rpm <= MAX_EXACT else GRAIN_NS)
        self.requests += self._change(_REQUESTS_AT + _LAST, 1)
        if limit.total_tokens is None and limit.concurrency is None:
            return False
        self.tokens += self._change(_TOKENS_AT + _LAST, tokens)
        self.running += 1
        return True

    def count(self, hour: int, requests: int, tokens: int) -> None:
        """Adds to the buckets of an hour, if it is one of the 25; never below 0."""
        index = BUCKETS - 1 - (self.hour - hour)
        if 0 <= index < BUCKETS:
            if requests:
                self.requests += self._change(_REQUESTS_AT + index * _BUCKET.size, requests)
            self.tokens += self._change(_TOKENS_AT + index * _BUCKET.size, tokens)

    def _change(self, at: int, by: int) -> int:
        """By how much the bucket changed: it stays a count, and within its width."""
        before = _BUCKET.unpack_from(self._raw, at)[0]
        after = before + by
        if not 0 <= after <= MAX_COUNTED:
            after = 0 if after < 0 else MAX_COUNTED
        _BUCKET.pack_into(self._raw, at, after)
        return after - before

    def _buckets(self, start: int) -> tuple[int, ...]:
        return _BUCKETS.unpack_from(self._raw, start)

    def statuses(self, records: Transaction, at: int, take: Take | None) -> list[LimitStatus]:
        """Each counter of the limit; those that have no room for a take have to wait."""
        limit, ring = self.limit, self.ring
        found, key = [], limit.key
        if limit.rpm is not None:
            left = limit.rpm - ring.count
            reset = max(0.0, (ring.newest + MINUTE_NS - at) / NS) if ring.count else 0.0
            wait = self._minute_wait(records, at) if take and left <= 0 else 0.0
            found.append(LimitStatus(key, interface.RPM, limit.rpm, max(0, left), reset, wait))
        if limit.rpd is not None:
            found.append(self._day(interface.RPD, limit.rpd, self.requests, _REQUESTS_AT, at, 1 if take else None))
        if limit.total_tokens is not None:
            cost = take.tokens if take else None
            found.append(self._day(interface.TOKENS, limit.total_tokens, self.tokens, _TOKENS_AT, at, cost))
        if limit.concurrency is not None:
            left = limit.concurrency - self.running
            busy = BUSY_WAIT_S if limit.concurrency else None
            wait = busy if take and left <= 0 else 0.0
            reset = None if self.running else 0.0
            found.append(LimitStatus(key, interface.CONCURRENCY, limit.concurrency, max(0, left), reset, wait))
        return found

    def _minute_wait(self, records: Transaction, at: int) -> float | None:
        """Until the one has left whose place the next one takes."""
        if self.limit.rpm == 0:
            return None
        leaves = self.ring.left_by(records, self.ring.count - self.limit.rpm + 1) + MINUTE_NS
        return max(0.001, (leaves - at) / NS)

    def _day(self, counter: str, maximum: int, count: int, start: int, at: int, cost: int | None) -> LimitStatus:
        """`cost` is what is to be counted, None when nothing is."""
        left = maximum - count
        if cost is not None and (cost > maximum or maximum == 0):
            wait = None
        elif cost is not None and cost > left:
            wait = self._leaves_in(_oldest_of(self._buckets(start), cost - left), at)
        else:
            wait = 0.0
        return LimitStatus(
            self.limit.key, counter, maximum, max(0, left), self._empty_in(start, at) if count else 0.0, wait
        )

    def _empty_in(self, start: int, at: int) -> float:
        """Seconds until the newest bucket that holds something has left."""
        if _BUCKET.unpack_from(self._raw, start + _LAST)[0]:
            return self._leaves_in(BUCKETS - 1, at)
        buckets = self._buckets(start)
        return self._leaves_in(max(n for n in range(BUCKETS) if buckets[n]), at)

    def _leaves_in(self, index: int, at: int) -> float:
        """Seconds until this bucket is none of the 25 any more."""
        return (self.hour + index + 1) * HOUR_S - at / NS


def _oldest_of(buckets: Sequence[int], lacking: int) -> int:
    """The bucket with which enough has left."""
    for index, count in enumerate(buckets):
        lacking -= count
        if lacking <= 0:
            return index
    return BUCKETS - 1


@lru_cache(maxsize=16_384)
def named(kind: str, key: str) -> bytes:
    return blake2b(f"{kind}:{key}".encode(), digest_size=16).digest()


# Odd, and without a pattern: it spreads calls over the table.
_SPREAD, _ALL = 0x9E3779B97F4A7C15F39CC0605CEDC835, 2**128 - 1


def numbered(call: int) -> bytes:
    """A call's digest: no two calls have the same."""
    return ((call * 2 + 1) * _SPREAD & _ALL).to_bytes(16, "big")
