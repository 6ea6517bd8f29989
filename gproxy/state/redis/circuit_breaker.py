"""What becomes of the shared state while it cannot be reached: this machine counts by itself, and no money is lost.

A breaker. The first failure opens it, and everything goes to the local state. After a while one call tries again, tells
the remote state what it missed, and closes it.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

from gproxy.errors import Unavailable
from gproxy.state.interface import Account, Limit, SharedState, Take, Taken
from gproxy.state.periods import window
from gproxy.units import NS

log = logging.getLogger(__name__)


Place = tuple[str, int]  # an account and the start of its window


class RemoteState(SharedState, Protocol):
    """A state over several machines, any of which may be cut off from it for a while."""

    def settle_elsewhere(self, call: int, money: int, tokens: int, places: Sequence[Place], since: int) -> None:
        """Settles a call that was taken elsewhere: what holds it, or else its accounts, which are credited."""

    def credit(self, account: str, window: int, money: int, since: int) -> None:
        """Adds what was spent elsewhere after `since` (nanoseconds), or has the account loaded again."""


class _Here(NamedTuple):
    """A call that was counted locally, in which outage. `is_asked`: the remote state may have counted it as well."""

    outage: int
    is_asked: bool
    places: tuple[Place, ...]


class _Ended(NamedTuple):
    """A settlement that the remote state has yet to be told; with `places` if the call was counted locally.

    `is_strange`: the remote state cannot have heard of the call while it was out of reach.
    """

    money: int
    tokens: int
    places: tuple[Place, ...] | None = None
    since: int = 0
    is_strange: bool = False


class CircuitBreaker:
    """One process's end, used by the greenlets of one thread; several may wait for the remote state at a time."""

    def __init__(
        self, remote: RemoteState, local: SharedState, clock: Callable[[], float] = time.monotonic, open_s: float = 5.0
    ):
        """`open_s` is longer than the remote state is ever waited for."""
        self.is_shared = True  # the breaker is closed
        self._remote, self._local, self._clock, self._open_s = remote, local, clock, open_s
        self._retry_at = 0.0
        self._seen_at = 0  # the remote's time when it last counted something for us
        self._outages = 0
        self._here: dict[int, _Here] = {}  # calls counted locally
        # What the remote has yet to be told: single calls, sums of money spent here, accounts that an operator changed.
        self._settlements: dict[int, _Ended] = {}
        self._credits: Counter[Place] = Counter()
        self._forgotten: set[str | None] = set()

    def take(self, take: Take) -> Taken:
        return self._try(lambda remote: self._take_there(remote, take), lambda: self._take_here(take))

    def look(self, accounts: tuple[Account, ...], limits: tuple[Limit, ...]) -> Taken:
        return self._ask(lambda state: state.look(accounts, limits))

    def settle(self, call: int, money: int, tokens: int) -> None:
        """What the remote state cannot be told now it is told later.

        Both are told, whoever counted the call: to load an account or a limit gives holds to all calls that run.
        """
        self._settlements.setdefault(call, self._ended(call, money, tokens))
        self._try(lambda _: self._tell((), (), (call,)))
        with suppress(Unavailable):  # it has said so in the log, and the money is known
            self._local.settle(call, money, tokens)

    def extend(self, call: int, need: int, wish: int) -> int:
        """What is held where nobody can ask gets its wish: an outage ends no stream, and its cost is settled anyway."""
        if call in self._here:
            return self._local.extend(call, need, wish)
        return self._try(lambda remote: remote.extend(call, need, wish), lambda: wish)

    def version(self, account: str) -> int:
        """One of the remote state is even, one of the local state is odd: it is for a load into the same."""
        return self._try(lambda remote: remote.version(account) * 2, lambda: self._local.version(account) * 2 + 1)

    def load(
        self,
        account: str,
        version: int,
        window: int,
        used: int,
        settled: Mapping[int, int],
        running: Mapping[int, tuple[str, int]],
    ) -> bool:
        number, is_local = divmod(version, 2)
        books = account, number, window, used, settled, running
        return self._try(
            lambda remote: not is_local and remote.load(*books), lambda: bool(is_local) and self._local.load(*books)
        )

    def load_limit(
        self,
        limit: str,
        hours: Mapping[int, tuple[int, int]],
        recent: Sequence[int],
        running: Mapping[int, tuple[str, int, int]],
    ) -> None:
        self._ask(lambda state: state.load_limit(limit, hours, recent, running))

    def forget(self, account: str | None = None) -> None:
        self._forgotten.add(account)
        self._try(lambda _: self._tell((account,), (), ()))
        try:
            self._local.forget(account)
        except Unavailable:
            if not self.is_shared:
                raise

    def holds(self) -> dict[str, list[int]]:
        """In both states, as far as they can be reached."""
        found = self._local.holds()
        for owner, calls in (self._try(lambda remote: remote.holds()) or {}).items():
            found[owner] = sorted({*calls, *found.get(owner, ())})
        return found

    def release(self, call: int) -> None:
        """In both states; what cannot be freed now still stands among the holds when it can."""
        self._here.pop(call, None)
        self._local.release(call)
        self._try(lambda remote: remote.release(call))

    def renew(self, owner: str) -> None:
        self._local.renew(owner)
        self._try(lambda remote: remote.renew(owner))

    def close(self) -> None:
        self._remote.close()
        self._local.close()

    def _ask(self, question: Callable[[SharedState], object]):
        return self._try(question, lambda: question(self._local))

    def _try(self, function: Callable[[RemoteState], object], otherwise: Callable[[], object] = lambda: None):
        """The deed, on the remote state; otherwise, while that cannot be reached, what stands in for it."""
        if self._is_reachable():
            try:
                return function(self._remote)
            except Unavailable as fault:
                self._open(fault)
        return otherwise()

    def _take_there(self, remote: RemoteState, take: Take) -> Taken:
        try:
            taken = remote.take(take)
        except Unavailable:
            # Perhaps it was counted, and only the answer is lost: if it is not taken here then, it has to go.
            self._settlements[take.call] = _Ended(0, 0)
            raise
        if self.is_shared:
            self._seen_at = max(self._seen_at, taken.at)
        return taken

    def _take_here(self, take: Take) -> Taken:
        taken = self._local.take(take)
        if taken.refused is None and not taken.unknown:
            now_s = taken.at // NS
            places = tuple((account.key, window(account.period, now_s)[0]) for account in take.accounts)
            is_asked = self._settlements.pop(take.call, None) is not None
            self._here[take.call] = _Here(self._outages, is_asked, places)
        return taken

    def _ended(self, call: int, money: int, tokens: int) -> _Ended:
        here = self._here.pop(call, None)
        if here is None:
            return _Ended(money, tokens)
        is_strange = here.outage == self._outages and not here.is_asked
        return _Ended(money, tokens, here.places, self._seen_at, is_strange)

    def _is_reachable(self) -> bool:
        if self.is_shared:
            return True
        if self._clock() < self._retry_at:
            return False
        self._retry_at = self._clock() + self._open_s  # the others go on locally while this one tries
        try:
            self._recover()
        except Unavailable:
            self._sum_up()
            return False
        return self.is_shared

    def _open(self, fault: Unavailable) -> None:
        if not self.is_shared:
            return
        self.is_shared, self._retry_at = False, self._clock() + self._open_s
        self._outages += 1
        log.warning(
            "the shared state cannot be reached (%s): limits and quotas hold per machine until it can",
            type(fault.__cause__).__name__,
        )
        # What the local state knows of money is of another time. If it cannot be used either, its takes will say so.
        with suppress(Unavailable):
            self._local.forget()

    def _recover(self) -> None:
        """Tells the remote state what it missed, and goes back to it. Raises Unavailable."""
        self._remote.look((), ())
        while self._forgotten or self._credits or self._settlements:  # more comes up while these are told
            self._tell(tuple(self._forgotten), tuple(self._credits), tuple(self._settlements))
        self.is_shared = True
        log.info("the shared state is back: limits and quotas hold over all machines again")

    def _sum_up(self) -> None:
        """One sum for each account in place of its calls: a long outage takes no more room than a short one."""
        for call, ended in tuple(self._settlements.items()):
            if ended.is_strange:
                del self._settlements[call]
                self._credits.update(dict.fromkeys(ended.places, ended.money))

    def _tell(self, accounts: tuple[str | None, ...], places: tuple[Place, ...], calls: tuple[int, ...]) -> None:
        """Each of these that no other greenlet tells meanwhile. Raises Unavailable, and keeps what was not told."""
        for account in accounts:
            self._tell_forgotten(account)
        for place in places:
            self._tell_credit(place)
        for call in calls:
            self._tell_settlement(call)

    def _tell_forgotten(self, account: str | None) -> None:
        if account in self._forgotten:
            self._forgotten.remove(account)
            try:
                self._remote.forget(account)
            except BaseException:
                self._forgotten.add(account)
                raise

    def _tell_credit(self, place: Place) -> None:
        if place in self._credits:
            account, start = place
            money = self._credits.pop(place)
            try:
                self._remote.credit(account, start, money, self._seen_at)
            except BaseException:
                # Perhaps it was added, and only the answer is lost: the books know.
                self._forgotten.add(account)
                raise

    def _tell_settlement(self, call: int) -> None:
        if (ended := self._settlements.pop(call, None)) is None:
            return
        try:
            if ended.places is None:
                self._remote.settle(call, ended.money, ended.tokens)
            else:
                self._remote.settle_elsewhere(call, ended.money, ended.tokens, ended.places, ended.since)
        except BaseException:
            # Perhaps it was credited, and only the answer is lost: without a moment its accounts are loaded again.
            self._settlements[call] = ended._replace(since=0, is_strange=False)
            raise
