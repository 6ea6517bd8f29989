"""The shared state of one machine: limits, accounts and holds in a table that its processes share, without a server."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from gproxy.errors import Unavailable
from gproxy.state.interface import Account, Limit, LimitStatus, Take, Taken
from gproxy.state.mmap.counters import ACCOUNT, HOLD, HOUR_NS, Counts, Funds, Hold, named, numbered
from gproxy.state.mmap.sliding_log import PIECE
from gproxy.state.mmap.table import Full, Garbled, Table, Transaction
from gproxy.units import NS

log = logging.getLogger(__name__)

MAX_RECENT, MAX_CALLS = 200 * PIECE, 100  # moments, and holds, that one transaction can write


class MmapState:
    """One process's end. `clock` is in nanoseconds since the epoch and read under the lock of all processes."""

    is_shared = True

    def __init__(self, folder: Path, clock: Callable[[], int] = time.time_ns):
        self._table = Table(folder, clock=lambda: clock() / NS)
        self._folder, self._clock = folder, clock

    def take(self, take: Take) -> Taken:
        return self._run(self._take, take)

    def look(self, accounts: tuple[Account, ...], limits: tuple[Limit, ...]) -> Taken:
        return self._run(self._look, accounts, limits)

    def settle(self, call: int, money: int, tokens: int) -> None:
        self._run(self._settle, call, money, tokens)

    def extend(self, call: int, need: int, wish: int) -> int:
        return self._run(self._extend, call, need, wish)

    def version(self, account: str) -> int:
        return self._run(lambda records: Funds.read(records, named("a", account)).version)

    def load(
        self,
        account: str,
        version: int,
        window: int,
        used: int,
        settled: Mapping[int, int],
        running: Mapping[int, tuple[str, int]],
    ) -> bool:
        # Holds first: until the account is loaded nothing is taken from it.
        for some in _parts(running):
            self._run(self._join_account, account, window, some)
        return self._run(self._load, account, version, window, used, settled)

    def load_limit(
        self,
        limit: str,
        hours: Mapping[int, tuple[int, int]],
        recent: Sequence[int],
        running: Mapping[int, tuple[str, int, int]],
    ) -> None:
        self._run(self._load_limit, limit, hours, recent)
        for some in _parts(running):
            self._run(self._join_limit, limit, some)

    def forget(self, account: str | None = None) -> None:
        names = [named("a", account)] if account is not None else self._run(_accounts)
        for digest in names:
            self._run(_forget, digest)

    def holds(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for owner, call in self._run(_holds):
            found.setdefault(owner, []).append(call)
        return found

    def release(self, call: int) -> None:
        self._run(self._settle, call, 0, None)

    def renew(self, owner: str) -> None:
        """Nothing: whether an owner lives is told by the lock of its journal."""

    def close(self) -> None:
        self._table.close()

    def _run(self, function: Callable, *args):
        """The deed as one transaction. What was lost is told, and has to be loaded again. Raises Unavailable."""
        try:
            try:
                return self._table.run(function, *args)
            except Garbled:
                log.error("the counters in %s were garbled: they are rebuilt from the books", self._folder)
                return self._table.run(function, *args)
        except Full:
            raise Unavailable("the counters have no room") from None
        except (OSError, Garbled) as fault:
            log.error("the counters in %s cannot be used: %s", self._folder, fault)
            raise Unavailable("the counters cannot be used right now") from None

    # Below: deeds, each one transaction.

    def _look(self, records: Transaction, accounts: tuple[Account, ...], limits: tuple[Limit, ...]) -> Taken:
        at = self._clock()
        funds = [Funds.current(records, account, at) for account in accounts]
        counts = [Counts.current(records, limit, at) for limit in limits]
        unknown = _lacking(accounts, funds) + _lacking(limits, counts)
        known, counted = [one for one in funds if one is not None], [one for one in counts if one is not None]
        return Taken(at, _statuses(records, known, counted, at, None), None, unknown)

    def _take(self, records: Transaction, take: Take) -> Taken:
        at = self._clock()
        funds = [Funds.current(records, account, at) for account in take.accounts]
        counts = [Counts.current(records, limit, at) for limit in take.limits]
        if None in funds or None in counts:
            return Taken(at, unknown=_lacking(take.accounts, funds) + _lacking(take.limits, counts))
        if not _have_room(funds, counts, take):
            statuses = _statuses(records, funds, counts, at, take)
            return Taken(at, statuses, next(one for one in statuses if one.wait_s != 0.0))
        hold = Hold(take.call, take.owner, at, take.tokens)
        for fund in funds:
            fund.held += take.money
            fund.write(records, at)
            hold.money.append((fund.digest, fund.window, take.money))
        for count in counts:
            if count.add(records, take.tokens, at):
                hold.limits.append(count.digest)
            count.write(records, at)
        if hold.money or hold.limits:
            hold.write(records, numbered(take.call))
        return Taken(at, _statuses(records, funds, counts, at, None))

    def _settle(self, records: Transaction, call: int, money: int, tokens: int | None) -> None:
        digest = numbered(call)
        if (hold := Hold.read(records, digest)) is not None:
            _end(records, digest, hold, self._clock(), money, hold.tokens if tokens is None else tokens)

    def _extend(self, records: Transaction, call: int, need: int, wish: int) -> int:
        digest = numbered(call)
        if (hold := Hold.read(records, digest)) is None:
            return 0
        found = ((Funds.of(records, account), opened) for account, opened, _ in hold.money)
        funds = [fund for fund, opened in found if fund is not None and fund.window == opened]
        # One that has to be loaded, or began another window, cannot say what is left in this one: it stops no call.
        # The caps are those of the last take.
        left = min((fund.cap - fund.used - fund.held for fund in funds if fund.is_loaded), default=wish)
        if left < need:
            return 0
        granted = min(wish, left)
        for fund in funds:
            fund.held += granted
            fund.write(records, self._clock())
        hold.money = [(account, opened, amount + granted) for account, opened, amount in hold.money]
        hold.write(records, digest)
        return granted

    def _join_account(self, records: Transaction, account: str, window: int, running) -> None:
        """Running calls hold something of an account that is about to be loaded, in its window."""
        fund = Funds.read(records, named("a", account))
        if fund.is_loaded and fund.window == window:
            return
        if fund.is_loaded:
            fund.is_loaded = False
            fund.write(records, self._clock())
        for call, (owner, amount) in running:
            digest = numbered(call)
            hold = Hold.read(records, digest) or Hold(call, owner, self._clock(), 0)
            hold.enter(fund.digest, window, amount)
            hold.write(records, digest)

    def _load(self, records: Transaction, account: str, version: int, window: int, used: int, settled) -> bool:
        fund = Funds.read(records, named("a", account))
        if fund.version != version:
            return False
        if fund.is_loaded and window == fund.window:
            return True  # somebody was faster
        found = (Hold.parse(record.payload) for record in records.records() if record.kind == HOLD)
        holds = {hold.call: hold.amount(fund.digest, window) for hold in found if hold.has(fund.digest)}
        fund.used = used + sum(cost for call, cost in settled.items() if call not in holds)
        fund.held, fund.window, fund.is_loaded = sum(holds.values()), window, True
        fund.write(records, self._clock())
        return True

    def _load_limit(self, records: Transaction, limit: str, hours, recent: Sequence[int]) -> None:
        digest = named("l", limit)
        if Counts.of(records, digest) is not None:
            return
        at = self._clock()
        count = Counts.fresh(digest, at)
        for hour, (requests, tokens) in hours.items():
            count.count(hour, requests, tokens)
        for moment in recent[-MAX_RECENT:]:
            count.ring.strike(records, moment)
        count.write(records, at)

    def _join_limit(self, records: Transaction, limit: str, running) -> None:
        """Holds of running calls for a limit that was loaded."""
        if (count := Counts.of(records, named("l", limit))) is None:
            return
        for call, (owner, at, tokens) in running:
            digest = numbered(call)
            hold = Hold.read(records, digest) or Hold(call, owner, at, tokens)
            if count.digest not in hold.limits:
                hold.limits.append(count.digest)
                hold.write(records, digest)
                count.running += 1
        count.write(records, self._clock())


def _parts(running: Mapping) -> Iterator[list[tuple]]:
    """So many calls as one transaction can hold."""
    left = iter(running.items())
    while some := list(islice(left, MAX_CALLS)):
        yield some


def _lacking(asked: Sequence[Account | Limit], found: Sequence) -> tuple[str, ...]:
    return tuple(one.key for one, known in zip(asked, found, strict=True) if known is None)


def _have_room(funds: list[Funds], counts: list[Counts], take: Take) -> bool:
    for fund in funds:
        if fund.used + fund.held + take.money > fund.cap:
            return False
    for count in counts:  # noqa: SIM110 - on the request road a generator costs as much as the question
        if not count.has_room(take.tokens):
            return False
    return True


def _statuses(
    records: Transaction, funds: list[Funds], counts: list[Counts], at: int, take: Take | None
) -> tuple[LimitStatus, ...]:
    """Every account and counter; those that have no room for a take have to wait."""
    found = [fund.standing(at, take.money if take else None) for fund in funds]
    for count in counts:
        found += count.statuses(records, at, take)
    return tuple(found)


def _end(records: Transaction, digest: bytes, hold: Hold, at: int, money: int, tokens: int) -> None:
    """Ends a hold: money and tokens as they were used."""
    for name, opened, amount in hold.money:
        if (fund := Funds.of(records, name)) is not None:
            if fund.window == opened:
                fund.held -= amount
                fund.used += money
            fund.version += 1
            fund.write(records, at)
    for name in hold.limits:
        if (count := Counts.of(records, name)) is not None:
            count.running = max(0, count.running - 1)
            count.count(hold.at // HOUR_NS, 0, tokens - hold.tokens)
            count.write(records, at)
    records.remove(digest)


def _accounts(records: Transaction) -> list[bytes]:
    return [record.digest for record in records.records() if record.kind == ACCOUNT]


def _holds(records: Transaction) -> list[tuple[str, int]]:
    found = (Hold.parse(record.payload) for record in records.records() if record.kind == HOLD)
    return [(hold.owner, hold.call) for hold in found]


def _forget(records: Transaction, digest: bytes) -> None:
    if (fund := Funds.of(records, digest)) is not None:
        fund.is_loaded = False
        fund.version += 1
        records.put(digest, ACCOUNT, fund.packed())
