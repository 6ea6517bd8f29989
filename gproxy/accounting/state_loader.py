"""Loads accounts and limits into the shared state, from the journal and then the database.

In this order no call is lost: a call that leaves the journal between the two readings is in the database by then.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import gevent
from gevent.event import AsyncResult

from gproxy.accounting import slots
from gproxy.accounting.entries import Opened, Reserved
from gproxy.accounting.journal_reader import JournalReader, SettledCall, tokens_of
from gproxy.accounting.slots import MachineSlots
from gproxy.accounting.writer import Threads
from gproxy.errors import Unavailable
from gproxy.state.interface import BUCKETS, HOUR_S, MINUTE_S, AccountAmounts, SharedState
from gproxy.state.periods import window
from gproxy.units import NS

log = logging.getLogger(__name__)

HOUR_NS = HOUR_S * NS
# An account is read again if a call settled in it meanwhile. Until it is loaded no new call is admitted, so the number
# of running calls falls.
LOAD_S, PAUSE_S = 5.0, 0.005
CREDENTIAL = "c"  # first character of the keys of credentials' limits
USER, KEY = "u", "k"  # first character of accounts' keys


class StoredAccount(Protocol):
    """Money in nano-USD. `window` is its start in seconds since the epoch, 0 without a period."""

    @property
    def cost_used(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def period(self) -> str | None: ...


class AccountState(Protocol):
    """An account, which of the given calls have a usage row, and how far the given segments are stored."""

    @property
    def account(self) -> StoredAccount: ...
    @property
    def stored(self) -> Collection[int]: ...
    @property
    def positions(self) -> Mapping[str, int]: ...


class LimitHistory(Protocol):
    """`hours`: (hour since the epoch, model, requests, tokens); `recent`: (time, model) of the last minute.

    Calls before `since` (nanoseconds) do not count. `applies_to` returns whether this limit is the one that applies to
    a model. `stored` are the given calls that `hours` and `recent` contain.
    """

    @property
    def user_id(self) -> int: ...
    @property
    def key_id(self) -> int | None: ...
    @property
    def applies_to(self) -> Callable[[str], bool]: ...
    @property
    def since(self) -> int: ...
    @property
    def hours(self) -> Iterable[tuple[int, str, int, int]]: ...
    @property
    def recent(self) -> Iterable[tuple[int, str]]: ...
    @property
    def stored(self) -> Collection[int]: ...


class Store(Protocol):
    """Queries of the store, run in the calling thread. They raise Unavailable."""

    def account_state(
        self, user_id: int | None, key_id: int | None, ids: list[int], segments: list[str]
    ) -> AccountState:
        """Returns the account of a user or of a key."""
        ...

    def limit_history(self, limit_id: int, since: int, now: int, ids: list[int]) -> LimitHistory | None:
        """Returns what the usage rows count in a limit; None without such a limit."""
        ...


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call that has not settled, and the worker that runs it."""

    owner: str
    opened: Opened

    @property
    def reserved(self) -> Reserved:
        """The call's reservation; of a call without one, no money and the estimated input tokens."""
        return self.opened.reserved or Reserved(0, self.opened.input_tokens)


class StateLoader:
    """Loads accounts and limits into the shared state. Reading is done in a native thread, one load at a time."""

    def __init__(
        self, shared: SharedState, machine_slots: MachineSlots, store: Store, threads: Threads, clock: Callable[[], int]
    ):
        self._shared, self._slots, self._store = shared, machine_slots, store
        self._threads, self._clock = threads, clock
        self._loading: dict[str, AsyncResult] = {}

    def load(self, keys: tuple[str, ...]) -> None:
        """Loads users' accounts (`u5`), keys' accounts (`k7`) and limit rows (`3`).

        A key that another greenlet is loading is waited for. Raises Unavailable.
        """
        # Limits first: only the reservations that they make include the tokens of their calls.
        for key in sorted(keys, key=lambda key: key[0] in (USER, KEY)):
            if (running := self._loading.get(key)) is not None:
                running.get()
                continue
            result = self._loading[key] = AsyncResult()
            try:
                self._load_one(key)
                result.set()
            except BaseException as fault:
                result.set_exception(fault if isinstance(fault, Exception) else Unavailable("loading was given up"))
                raise
            finally:
                del self._loading[key]

    def _load_one(self, key: str) -> None:
        if key[0] == CREDENTIAL:  # its limits protect the upstream, are stored nowhere, and start empty
            self._shared.load_limit(key, {}, [], {})
            return
        if key[0] not in (USER, KEY):
            found = self._threads.run(self._limit_counts, int(key))
            self._shared.load_limit(key, *found)
            self._settle_ended(found[-1])
            return
        until, ran = time.monotonic() + LOAD_S, set()  # calls that were open at any of the readings
        try:
            while time.monotonic() < until:
                version = self._shared.version(key)
                amounts = self._threads.run(self._account_amounts, key[0], int(key[1:]))
                ran |= amounts.running.keys()
                if self._shared.load(key, version, amounts):
                    return
                gevent.sleep(PAUSE_S)
            raise Unavailable("an account is too busy to be loaded")
        finally:  # a failed load may have made reservations too
            self._settle_ended(ran)

    def _settle_ended(self, opened: Collection[int]) -> None:
        """Settles those of the calls that ended before the load made their reservations."""
        if opened:
            for call, money, tokens in self._threads.run(self._settled_of, frozenset(opened)):
                self._shared.settle(call, money, tokens)

    # Below: in the native thread.

    def _account_amounts(self, owner: str, owner_id: int) -> AccountAmounts:
        settled_calls, open_calls = self._read_journal(
            lambda user_id, key_id: owner_id == (user_id if owner == USER else key_id)
        )
        ids = [*open_calls, *(call.row["trace_id"] for call in settled_calls)]
        segments = sorted({call.segment for call in settled_calls})
        account_of = (owner_id, None) if owner == USER else (None, owner_id)
        found = self._store.account_state(*account_of, ids, segments)
        account = found.account
        unstored = [
            call
            for call in settled_calls
            if call.row["trace_id"] not in found.stored and call.end > found.positions.get(call.segment, 0)
        ]
        opened_at, _ = window(account.period, self._clock() / NS)

        def is_in_window(at: int) -> bool:
            return window(account.period, at / NS)[0] == opened_at

        used = account.cost_used if account.window == opened_at else 0
        settled = {call.row["trace_id"]: call.row["cost"] for call in unstored if is_in_window(call.row["at"])}
        running = {
            call: (one.owner, one.reserved.money)
            for call, one in open_calls.items()
            if call not in found.stored and is_in_window(one.opened.at)  # stored: it ended between the two readings
        }
        return AccountAmounts(opened_at, used, settled, running)

    def _settled_of(self, calls: Collection[int]) -> list[tuple[int, int, int]]:
        """Those of the calls that have settled: id, cost and tokens."""
        rows = (call.row for call in self._read_journal(lambda user_id, key_id: True)[0])
        return [(row["trace_id"], row["cost"], tokens_of(row)) for row in rows if row["trace_id"] in calls]

    def _limit_counts(
        self, limit_id: int
    ) -> tuple[dict[int, tuple[int, int]], list[int], dict[int, tuple[str, int, int]]]:
        """The arguments of `SharedState.load_limit`: counts by hour, recent requests, and running calls."""
        now = self._clock()
        settled_calls, open_calls = self._read_journal(lambda user_id, key_id: True)
        found = self._store.limit_history(
            limit_id,
            (now // HOUR_NS - BUCKETS + 1) * HOUR_NS,
            now,
            [*open_calls, *(call.row["trace_id"] for call in settled_calls)],
        )
        if found is None:
            return {}, [], {}
        hours: dict[int, tuple[int, int]] = {}
        recent = [at for at, model in found.recent if found.applies_to(model)]

        def count(hour: int, requests: int, tokens: int) -> None:
            before = hours.get(hour, (0, 0))
            hours[hour] = (before[0] + requests, before[1] + tokens)

        def is_counted(user_id: int, key_id: int, at: int, model: str) -> bool:
            is_own = key_id == found.key_id if found.key_id is not None else user_id == found.user_id
            return is_own and at >= found.since and found.applies_to(model)

        for hour, model, requests, tokens in found.hours:
            if found.applies_to(model):
                count(hour, requests, tokens)
        sent_at = []
        for row in (call.row for call in settled_calls if call.row["trace_id"] not in found.stored):
            if is_counted(row["user_id"], row["user_key_id"], row["at"], row["model"]):
                count(row["at"] // HOUR_NS, 1, tokens_of(row))
                sent_at.append(row["at"])
        running = {}
        for call, one in open_calls.items():
            opened = one.opened
            if call not in found.stored and is_counted(opened.user_id, opened.key_id, opened.at, opened.model):
                count(opened.at // HOUR_NS, 1, one.reserved.tokens)
                sent_at.append(opened.at)
                running[call] = (one.owner, opened.at, one.reserved.tokens)
        recent += [at for at in sent_at if at > now - MINUTE_S * NS]
        return hours, sorted(recent), running

    def _read_journal(self, matches: Callable[[int, int], bool]) -> tuple[list[SettledCall], dict[int, OpenCall]]:
        """The settled and the open calls in this machine's journal whose user id and key id match."""
        settled_calls: list[SettledCall] = []
        open_calls: dict[int, OpenCall] = {}
        for folder in self._slots.folders():
            reader = JournalReader()
            for call in _settled_calls(reader, folder):
                if matches(call.row["user_id"], call.row["user_key_id"]):
                    settled_calls.append(call)
            owner = self._slots.owner_of(folder)
            if owner is not None:
                for call_id, opened in reader.open_calls():
                    if matches(opened.user_id, opened.key_id):
                        open_calls[call_id] = OpenCall(owner, opened)
        return settled_calls, open_calls


def _settled_calls(reader: JournalReader, folder: Path) -> Iterator[SettledCall]:
    for path in slots.segments(folder):
        try:
            yield from reader.settled_calls(path, 0, None)
        except FileNotFoundError:  # stored and deleted since it was listed
            continue
        except OSError as fault:  # the writer that stores it reports it
            log.debug("%s cannot be read: %s", path, fault.strerror)
