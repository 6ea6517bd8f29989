"""What the shared state does not know of accounts and limits, read from the books: the journal, then the database.

That order loses nothing: what leaves the journal between the two is in the database by then.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import gevent
from gevent.event import AsyncResult

from gproxy.accounting import slots
from gproxy.accounting.entries import Reader, SettledCall, tokens_of
from gproxy.accounting.writer import Threads
from gproxy.errors import Unavailable
from gproxy.state.interface import BUCKETS, HOUR_S, MINUTE_S, SharedState
from gproxy.state.periods import window
from gproxy.units import NS

log = logging.getLogger(__name__)

HOUR_NS = HOUR_S * NS
# An account is read again when something was settled in it meanwhile. No new call is granted until it is loaded, so
# that those which run become fewer.
LOAD_S, PAUSE_S = 5.0, 0.005
CREDENTIAL = "c"  # what the keys of their limits begin with
USER, KEY = "u", "k"  # what accounts' keys begin with, and the names of their owners in the journal


class Store(Protocol):
    """The store's questions, asked in the calling thread."""

    def account_state(self, user_id: int | None, key_id: int | None, ids: list[int], segments: list[str]): ...

    def limit_history(self, limit_id: int, since: int, now: int, ids: list[int]): ...


@dataclass(frozen=True, slots=True)
class Running:
    """A call that was opened and did not end yet."""

    owner: str
    opened: dict

    @property
    def held(self) -> tuple[int, int]:
        """Money in nano-USD and tokens."""
        return tuple(self.opened.get("h", (0, self.opened["e"])))


class StateLoader:
    """Loads accounts and limits into the shared state. Reading is done in a native thread, one at a time."""

    def __init__(
        self, shared: SharedState, root: Path, machine: int, store: Store, threads: Threads, clock: Callable[[], int]
    ):
        self._shared, self._root, self._machine, self._store = shared, root, machine, store
        self._threads, self._clock = threads, clock
        self._loading: dict[str, AsyncResult] = {}

    def load(self, keys: tuple[str, ...]) -> None:
        """Users' accounts (`u5`), those of keys (`k7`) and limit rows (`3`); whoever asks meanwhile waits as well.

        Raises Unavailable.
        """
        # Limits first: the holds that they make know the tokens of their calls.
        for key in sorted(keys, key=lambda key: key[0] in (USER, KEY)):
            if (others := self._loading.get(key)) is not None:
                others.get()
                continue
            mine = self._loading[key] = AsyncResult()
            try:
                self._load_one(key)
                mine.set()
            except BaseException as fault:
                mine.set_exception(fault if isinstance(fault, Exception) else Unavailable("loading was given up"))
                raise
            finally:
                del self._loading[key]

    def _load_one(self, key: str) -> None:
        if key[0] == CREDENTIAL:  # its limits are for the upstream's sake: no book has them, and they begin anew
            self._shared.load_limit(key, {}, [], {})
            return
        if key[0] not in (USER, KEY):
            found = self._threads.run(self._counts, int(key))
            self._shared.load_limit(key, *found)
            self._settle_ended(found[-1])
            return
        until, ran = time.monotonic() + LOAD_S, set()  # who ran at any of the readings
        try:
            while time.monotonic() < until:
                version = self._shared.version(key)
                found = self._threads.run(self._funds, key[0], int(key[1:]))
                ran |= found[-1].keys()
                if self._shared.load(key, version, *found):
                    return
                gevent.sleep(PAUSE_S)
            raise Unavailable("an account is too busy to be loaded")
        finally:  # also a load that came to nothing has given them holds
            self._settle_ended(ran)

    def _settle_ended(self, running: Collection[int]) -> None:
        """Calls that ran when the journal was read, and may have ended before they got their holds."""
        if running:
            for call, money, tokens in self._threads.run(self._ended, frozenset(running)):
                self._shared.settle(call, money, tokens)

    # Below: in the native thread.

    def _funds(self, whose: str, own: int) -> tuple[int, int, dict[int, int], dict[int, tuple[str, int]]]:
        """Start of the window, what is used in it, and the calls that are not in that yet."""
        ended, running = self._journal(lambda opened: opened[whose] == own)
        ids, segments = [*running, *(b.row["trace_id"] for b in ended)], sorted({b.segment for b in ended})
        asked = (own, None) if whose == USER else (None, own)
        found = self._store.account_state(*asked, ids, segments)
        account = found.account
        unbooked = [
            booking
            for booking in ended
            if booking.row["trace_id"] not in found.stored and booking.end > found.positions.get(booking.segment, 0)
        ]
        opened_at, _ = window(account.period, self._clock() / NS)

        def is_in(at: int) -> bool:
            return window(account.period, at / NS)[0] == opened_at

        used = account.cost_used if account.window == opened_at else 0
        settled = {booking.row["trace_id"]: booking.row["cost"] for booking in unbooked if is_in(booking.row["at"])}
        held = {
            call: (one.owner, one.held[0])
            for call, one in running.items()
            if call not in found.stored and is_in(one.opened["at"])  # else it ended between the two readings
        }
        return opened_at, used, settled, held

    def _ended(self, calls: Collection[int]) -> list[tuple[int, int, int]]:
        rows = (booking.row for booking in self._journal(lambda opened: True)[0])
        return [(row["trace_id"], row["cost"], tokens_of(row)) for row in rows if row["trace_id"] in calls]

    def _counts(self, limit_id: int):
        now = self._clock()
        ended, running = self._journal(lambda opened: True)
        found = self._store.limit_history(
            limit_id,
            (now // HOUR_NS - BUCKETS + 1) * HOUR_NS,
            now,
            [*running, *(b.row["trace_id"] for b in ended)],
        )
        if found is None:
            return {}, [], {}
        hours: dict[int, tuple[int, int]] = {}
        recent = [at for at, model in found.recent if found.applies_to(model)]

        def count(hour: int, requests: int, tokens: int) -> None:
            before = hours.get(hour, (0, 0))
            hours[hour] = (before[0] + requests, before[1] + tokens)

        def is_meant(user_id: int, key_id: int, at: int, model: str) -> bool:
            is_own = key_id == found.key_id if found.key_id is not None else user_id == found.user_id
            return is_own and at >= found.since and found.applies_to(model)

        for hour, model, requests, tokens in found.hours:
            if found.applies_to(model):
                count(hour, requests, tokens)
        moments = []
        for row in (booking.row for booking in ended if booking.row["trace_id"] not in found.stored):
            if is_meant(row["user_id"], row["user_key_id"], row["at"], row["model"]):
                count(row["at"] // HOUR_NS, 1, tokens_of(row))
                moments.append(row["at"])
        held = {}
        for call, one in running.items():
            opened = one.opened
            if call not in found.stored and is_meant(opened["u"], opened["k"], opened["at"], opened["m"]):
                count(opened["at"] // HOUR_NS, 1, one.held[1])
                moments.append(opened["at"])
                held[call] = (one.owner, opened["at"], one.held[1])
        recent += [at for at in moments if at > now - MINUTE_S * NS]
        return hours, sorted(recent), held

    def _journal(self, is_meant: Callable[[dict], bool]) -> tuple[list[SettledCall], dict[int, Running]]:
        """The calls of this machine's journal that ended, and those that run, as far as they are meant."""
        ended: list[SettledCall] = []
        running: dict[int, Running] = {}
        for folder in sorted(self._root.glob("[0-9]*")):
            reader = Reader()
            ended += (booking for booking in _bookings(reader, folder) if is_meant(_opened(booking.row)))
            owner = slots.owner_of(folder, self._machine)
            if owner is not None:
                running |= {call: Running(owner, entry) for call, entry in reader.opens() if is_meant(entry)}
        return ended, running


def _bookings(reader: Reader, folder: Path) -> Iterator[SettledCall]:
    for path in slots.segments(folder):
        try:
            yield from reader.rows(path, 0, None)
        except FileNotFoundError:  # booked since it was listed
            continue


def _opened(row: dict) -> dict:
    return {"u": row["user_id"], "k": row["user_key_id"]}
