"""The shared state of one machine, without a server: a table of accounts, limits and reservations in a shared file."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeGuard, TypeVar

from gproxy.errors import Unavailable
from gproxy.state.interface import Account, AccountAmounts, Limit, LimitStatus, Take, Taken
from gproxy.state.mmap.counters import (
    ACCOUNT,
    HOUR_NS,
    RESERVATION,
    AccountEntry,
    LimitEntry,
    ReservationEntry,
    call_digest,
    key_digest,
)
from gproxy.state.mmap.sliding_log import PAGE_LENGTH
from gproxy.state.mmap.table import Corrupted, Table, TableFull, Transaction
from gproxy.units import NS

log = logging.getLogger(__name__)

_Entry = TypeVar("_Entry")
MAX_RECENT, MAX_CALLS = 200 * PAGE_LENGTH, 100  # moments, and reservations, that one transaction can write


class MmapState:
    """One process's access to the table. `clock` returns nanoseconds since the epoch and is read under the lock."""

    is_shared = True

    def __init__(self, folder: Path, clock: Callable[[], int] = time.time_ns):
        self._table = Table(folder, clock=lambda: clock() / NS)
        self._folder, self._clock = folder, clock

    def take(self, take: Take) -> Taken:
        return self._run(self._take, take)

    def inspect(self, accounts: tuple[Account, ...], limits: tuple[Limit, ...]) -> Taken:
        return self._run(self._inspect, accounts, limits)

    def settle(self, call: int, money: int, tokens: int) -> None:
        self._run(self._settle, call, money, tokens)

    def extend(self, call: int, minimum: int, requested: int) -> int:
        return self._run(self._extend, call, minimum, requested)

    def version(self, account: str) -> int:
        return self._run(lambda transaction: AccountEntry.get_or_new(transaction, key_digest("a", account)).version)

    def load(self, account: str, version: int, amounts: AccountAmounts) -> bool:
        # Reservations first: nothing is taken from the account until it is loaded.
        for batch in _batches(amounts.running):
            self._run(self._reserve_in_account, account, amounts.window, batch)
        return self._run(self._load, account, version, amounts)

    def load_limit(
        self,
        limit: str,
        hours: Mapping[int, tuple[int, int]],
        recent: Sequence[int],
        running: Mapping[int, tuple[str, int, int]],
    ) -> None:
        self._run(self._load_limit, limit, hours, recent)
        for batch in _batches(running):
            self._run(self._reserve_in_limit, limit, batch)

    def forget(self, account: str | None = None) -> None:
        digests = [key_digest("a", account)] if account is not None else self._run(_account_digests)
        for digest in digests:
            self._run(_forget, digest)

    def reservations(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for owner, call in self._run(_reservations):
            found.setdefault(owner, []).append(call)
        return found

    def release(self, call: int) -> None:
        self._run(self._settle, call, 0, None)

    def renew(self, owner: str) -> None:
        """Does nothing: on one machine the lock of its journal shows whether an owner lives."""

    def close(self) -> None:
        self._table.close()

    def _run(self, function: Callable, *args):
        """Runs the function as one transaction, once more if the table was corrupted and is empty now.

        Raises Unavailable.
        """
        try:
            try:
                return self._table.run(function, *args)
            except Corrupted:
                log.error("the counters in %s were corrupted: they are rebuilt from journal and database", self._folder)
                return self._table.run(function, *args)
        except TableFull:
            raise Unavailable("the counters have no room") from None
        except (OSError, Corrupted) as fault:
            log.error("the counters in %s cannot be used: %s", self._folder, fault)
            raise Unavailable("the counters cannot be used right now") from None

    # The methods below run as one transaction each.

    def _inspect(self, transaction: Transaction, accounts: tuple[Account, ...], limits: tuple[Limit, ...]) -> Taken:
        at = self._clock()
        account_entries = [AccountEntry.current(transaction, account, at) for account in accounts]
        limit_entries = [LimitEntry.current(transaction, limit, at) for limit in limits]
        unknown = _missing_keys(accounts, account_entries) + _missing_keys(limits, limit_entries)
        known_accounts = [entry for entry in account_entries if entry is not None]
        known_limits = [entry for entry in limit_entries if entry is not None]
        return Taken(at, _statuses(transaction, known_accounts, known_limits, at, None), None, unknown)

    def _take(self, transaction: Transaction, take: Take) -> Taken:
        at = self._clock()
        accounts = [AccountEntry.current(transaction, account, at) for account in take.accounts]
        limits = [LimitEntry.current(transaction, limit, at) for limit in take.limits]
        if not (_are_known(accounts) and _are_known(limits)):
            return Taken(at, unknown=_missing_keys(take.accounts, accounts) + _missing_keys(take.limits, limits))
        if not _have_room(accounts, limits, take):
            statuses = _statuses(transaction, accounts, limits, at, take)
            return Taken(at, statuses, next(status for status in statuses if status.wait_s != 0.0))
        reservation = ReservationEntry(take.call, take.owner, at, take.tokens)
        for account in accounts:
            account.reserved += take.money
            account.write(transaction, at)
            reservation.amounts.append((account.digest, account.window, take.money))
        for limit in limits:
            if limit.add_request(transaction, take.tokens, at):
                reservation.limits.append(limit.digest)
            limit.write(transaction, at)
        if reservation.amounts or reservation.limits:
            reservation.write(transaction, call_digest(take.call))
        return Taken(at, _statuses(transaction, accounts, limits, at, None))

    def _settle(self, transaction: Transaction, call: int, money: int, tokens: int | None) -> None:
        """Replaces a reservation by the money and tokens that the call used; `tokens` None: those that it counted."""
        digest = call_digest(call)
        if (reservation := ReservationEntry.find(transaction, digest)) is None:
            return
        at = self._clock()
        for name, start, amount in reservation.amounts:
            if (account := AccountEntry.find(transaction, name)) is not None:
                if account.window == start:
                    account.reserved -= amount
                    account.used += money
                account.version += 1
                account.write(transaction, at)
        more_tokens = 0 if tokens is None else tokens - reservation.tokens
        for name in reservation.limits:
            if (limit := LimitEntry.find(transaction, name)) is not None:
                limit.running = max(0, limit.running - 1)
                limit.add_to_hour(reservation.at // HOUR_NS, 0, more_tokens)
                limit.write(transaction, at)
        transaction.remove(digest)

    def _extend(self, transaction: Transaction, call: int, minimum: int, requested: int) -> int:
        digest = call_digest(call)
        if (reservation := ReservationEntry.find(transaction, digest)) is None:
            return 0
        found = ((AccountEntry.find(transaction, account), start) for account, start, _ in reservation.amounts)
        accounts = [account for account, start in found if account is not None and account.window == start]
        # An account that must be loaded, or is in another window, does not know what remains in this one: it ends no
        # call. The caps are those of the last take.
        remaining = min(
            (account.cap - account.used - account.reserved for account in accounts if account.is_loaded),
            default=requested,
        )
        if remaining < minimum:
            return 0
        granted = min(requested, remaining)
        for account in accounts:
            account.reserved += granted
            account.write(transaction, self._clock())
        reservation.amounts = [(account, start, amount + granted) for account, start, amount in reservation.amounts]
        reservation.write(transaction, digest)
        return granted

    def _reserve_in_account(self, transaction: Transaction, account: str, window: int, running) -> None:
        """Adds an account that is about to be loaded, in this window, to the reservations of running calls."""
        entry = AccountEntry.get_or_new(transaction, key_digest("a", account))
        if entry.is_loaded and entry.window == window:
            return
        if entry.is_loaded:
            entry.is_loaded = False
            entry.write(transaction, self._clock())
        for call, (owner, amount) in running:
            digest = call_digest(call)
            reservation = ReservationEntry.find(transaction, digest) or ReservationEntry(call, owner, self._clock(), 0)
            reservation.add_account(entry.digest, window, amount)
            reservation.write(transaction, digest)

    def _load(self, transaction: Transaction, account: str, version: int, amounts: AccountAmounts) -> bool:
        entry = AccountEntry.get_or_new(transaction, key_digest("a", account))
        window = amounts.window
        if entry.version != version:
            return False
        if entry.is_loaded and window == entry.window:
            return True  # another process loaded it first
        found = (ReservationEntry.parse(one.payload) for one in transaction.entries() if one.kind == RESERVATION)
        reserved = {
            reservation.call: reservation.amount_in(entry.digest, window)
            for reservation in found
            if reservation.has_account(entry.digest)
        }
        entry.used = amounts.used + sum(cost for call, cost in amounts.settled.items() if call not in reserved)
        entry.reserved, entry.window, entry.is_loaded = sum(reserved.values()), window, True
        entry.write(transaction, self._clock())
        return True

    def _load_limit(self, transaction: Transaction, limit: str, hours, recent: Sequence[int]) -> None:
        digest = key_digest("l", limit)
        if LimitEntry.find(transaction, digest) is not None:
            return
        at = self._clock()
        entry = LimitEntry.new(digest, at)
        for hour, (requests, tokens) in hours.items():
            entry.add_to_hour(hour, requests, tokens)
        for moment in recent[-MAX_RECENT:]:
            entry.log.add(transaction, moment)
        entry.write(transaction, at)

    def _reserve_in_limit(self, transaction: Transaction, limit: str, running) -> None:
        """Adds a limit that was just loaded to the reservations of running calls."""
        if (entry := LimitEntry.find(transaction, key_digest("l", limit))) is None:
            return
        for call, (owner, at, tokens) in running:
            digest = call_digest(call)
            reservation = ReservationEntry.find(transaction, digest) or ReservationEntry(call, owner, at, tokens)
            if entry.digest not in reservation.limits:
                reservation.limits.append(entry.digest)
                reservation.write(transaction, digest)
                entry.running += 1
        entry.write(transaction, self._clock())


def _batches(running: Mapping) -> Iterator[list[tuple]]:
    """Yields the calls in lists that one transaction can write."""
    calls = iter(running.items())
    while batch := list(islice(calls, MAX_CALLS)):
        yield batch


def _are_known(entries: list[_Entry | None]) -> TypeGuard[list[_Entry]]:
    return None not in entries


def _missing_keys(requested: Sequence[Account | Limit], entries: Sequence) -> tuple[str, ...]:
    return tuple(one.key for one, entry in zip(requested, entries, strict=True) if entry is None)


def _have_room(accounts: list[AccountEntry], limits: list[LimitEntry], take: Take) -> bool:
    for account in accounts:
        if account.used + account.reserved + take.money > account.cap:
            return False
    for limit in limits:  # noqa: SIM110 - on the request path a generator costs as much as the check itself
        if not limit.has_room(take.tokens):
            return False
    return True


def _statuses(
    transaction: Transaction, accounts: list[AccountEntry], limits: list[LimitEntry], at: int, take: Take | None
) -> tuple[LimitStatus, ...]:
    """Returns the status of every account and counter; `wait_s` is set in those that have no room for `take`."""
    found = [account.status(at, take.money if take else None) for account in accounts]
    for limit in limits:
        found += limit.statuses(transaction, at, take)
    return tuple(found)


def _account_digests(transaction: Transaction) -> list[bytes]:
    return [entry.digest for entry in transaction.entries() if entry.kind == ACCOUNT]


def _reservations(transaction: Transaction) -> list[tuple[str, int]]:
    found = (ReservationEntry.parse(entry.payload) for entry in transaction.entries() if entry.kind == RESERVATION)
    return [(reservation.owner, reservation.call) for reservation in found]


def _forget(transaction: Transaction, digest: bytes) -> None:
    if (account := AccountEntry.find(transaction, digest)) is not None:
        account.is_loaded = False
        account.version += 1
        transaction.put(digest, ACCOUNT, account.pack())
