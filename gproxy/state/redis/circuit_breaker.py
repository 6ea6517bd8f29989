"""The circuit breaker: while the remote state is unreachable, this machine counts in its local state. No money is lost.

The first failure opens the breaker, and every call uses the local state. After `open_s` one call tries the remote state
again, sends it what it missed, and closes the breaker.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol, TypeVar

from gproxy.errors import Unavailable
from gproxy.state.interface import Account, AccountAmounts, Limit, SharedState, Take, Taken
from gproxy.state.periods import window
from gproxy.units import NS

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")
AccountWindow = tuple[str, int]  # an account and the start of its window


class RemoteState(SharedState, Protocol):
    """The state of several machines, each of which may be cut off from it for a while."""

    def settle_taken_locally(
        self, call: int, money: int, tokens: int, windows: Sequence[AccountWindow], since: int
    ) -> None:
        """Settles a call that a local state counted: its reservations, and by `credit` each account that has none."""

    def credit(self, account: str, window: int, money: int, since: int) -> None:
        """Adds what was spent in a local state after `since` (nanoseconds), or has the account loaded again."""


class _LocalCall(NamedTuple):
    """A call that was counted locally. `may_be_remote`: the remote state may have counted it too."""

    outage: int  # its number
    may_be_remote: bool
    windows: tuple[AccountWindow, ...]


class _Settlement(NamedTuple):
    """A settlement to be sent to the remote state; it has `windows` if the call was counted locally.

    `is_unknown_remotely`: the remote state cannot know the call, which began and ended in this outage.
    """

    money: int
    tokens: int
    windows: tuple[AccountWindow, ...] | None = None
    since: int = 0
    is_unknown_remotely: bool = False


def _nothing() -> None:
    """The fallback of what only the remote state has to do."""


class CircuitBreaker:
    """One process's access to both states, for the greenlets of one thread.

    Several greenlets may wait for the remote state at a time.
    """

    def __init__(
        self, remote: RemoteState, local: SharedState, clock: Callable[[], float] = time.monotonic, open_s: float = 5.0
    ):
        """`open_s` must be longer than the timeout of the remote state."""
        self.is_shared = True  # the breaker is closed
        self._remote, self._local, self._clock, self._open_s = remote, local, clock, open_s
        self._retry_at = 0.0
        self._remote_time = 0  # the remote state's time of the last take it counted for us, in nanoseconds
        self._outages = 0
        self._local_calls: dict[int, _LocalCall] = {}
        # To be sent to the remote state: settlements, merged settlements by account, accounts to be loaded again.
        self._settlements: dict[int, _Settlement] = {}
        self._credits: Counter[AccountWindow] = Counter()
        self._forgotten: set[str | None] = set()

    def take(self, take: Take) -> Taken:
        return self._on_remote(lambda remote: self._take_remotely(remote, take), lambda: self._take_locally(take))

    def inspect(self, accounts: tuple[Account, ...], limits: tuple[Limit, ...]) -> Taken:
        return self._on_either(lambda state: state.inspect(accounts, limits))

    def settle(self, call: int, money: int, tokens: int) -> None:
        """Settles the call in both states; a settlement that the remote state misses now is sent later.

        Both may have a reservation of the call: loading an account or a limit gives one to every running call.
        """
        self._settlements.setdefault(call, self._settlement_of(call, money, tokens))
        self._on_remote(lambda _: self._send((), (), (call,)), _nothing)
        with suppress(Unavailable):  # the local state has logged it, and the journal has the cost
            self._local.settle(call, money, tokens)

    def extend(self, call: int, minimum: int, requested: int) -> int:
        """Grants `requested` if the reservation is in the unreachable state: an outage ends no stream.

        The real cost is settled in any case.
        """
        if call in self._local_calls:
            return self._local.extend(call, minimum, requested)
        return self._on_remote(lambda remote: remote.extend(call, minimum, requested), lambda: requested)

    def version(self, account: str) -> int:
        """Returns an even number for the remote state and an odd one for the local state.

        `load` writes to the same state only.
        """
        return self._on_remote(lambda remote: remote.version(account) * 2, lambda: self._local.version(account) * 2 + 1)

    def load(self, account: str, version: int, amounts: AccountAmounts) -> bool:
        number, is_local = divmod(version, 2)
        return self._on_remote(
            lambda remote: not is_local and remote.load(account, number, amounts),
            lambda: bool(is_local) and self._local.load(account, number, amounts),
        )

    def load_limit(
        self,
        limit: str,
        hours: Mapping[int, tuple[int, int]],
        recent: Sequence[int],
        running: Mapping[int, tuple[str, int, int]],
    ) -> None:
        self._on_either(lambda state: state.load_limit(limit, hours, recent, running))

    def forget(self, account: str | None = None) -> None:
        self._forgotten.add(account)
        self._on_remote(lambda _: self._send((account,), (), ()), _nothing)
        try:
            self._local.forget(account)
        except Unavailable:
            if not self.is_shared:
                raise

    def reservations(self) -> dict[str, list[int]]:
        """Returns the reservations of both states, or of the local one while the remote one is unreachable."""
        found = self._local.reservations()
        for owner, calls in self._on_remote(lambda remote: remote.reservations(), dict).items():
            found[owner] = sorted({*calls, *found.get(owner, ())})
        return found

    def release(self, call: int) -> None:
        """Releases the call in both states; an unreachable remote state still lists it in `reservations` later."""
        self._local_calls.pop(call, None)
        self._local.release(call)
        self._on_remote(lambda remote: remote.release(call), _nothing)

    def renew(self, owner: str) -> None:
        self._local.renew(owner)
        self._on_remote(lambda remote: remote.renew(owner), _nothing)

    def close(self) -> None:
        self._remote.close()
        self._local.close()

    def _on_either(self, function: Callable[[SharedState], _Result]) -> _Result:
        return self._on_remote(function, lambda: function(self._local))

    def _on_remote(self, function: Callable[[RemoteState], _Result], fallback: Callable[[], _Result]) -> _Result:
        """Returns `function(remote)`, or `fallback()` while the remote state is unreachable."""
        if self._is_reachable():
            try:
                return function(self._remote)
            except Unavailable as fault:
                self._open(fault)
        return fallback()

    def _take_remotely(self, remote: RemoteState, take: Take) -> Taken:
        try:
            taken = remote.take(take)
        except Unavailable:
            # Perhaps it was counted and only the reply was lost. Unless it is now taken locally, that must be undone.
            self._settlements[take.call] = _Settlement(0, 0)
            raise
        if self.is_shared:
            self._remote_time = max(self._remote_time, taken.at)
        return taken

    def _take_locally(self, take: Take) -> Taken:
        taken = self._local.take(take)
        if taken.refused is None and not taken.unknown:
            now_s = taken.at // NS
            windows = tuple((account.key, window(account.period, now_s)[0]) for account in take.accounts)
            may_be_remote = self._settlements.pop(take.call, None) is not None
            self._local_calls[take.call] = _LocalCall(self._outages, may_be_remote, windows)
        return taken

    def _settlement_of(self, call: int, money: int, tokens: int) -> _Settlement:
        local_call = self._local_calls.pop(call, None)
        if local_call is None:
            return _Settlement(money, tokens)
        is_unknown_remotely = local_call.outage == self._outages and not local_call.may_be_remote
        return _Settlement(money, tokens, local_call.windows, self._remote_time, is_unknown_remotely)

    def _is_reachable(self) -> bool:
        if self.is_shared:
            return True
        if self._clock() < self._retry_at:
            return False
        self._retry_at = self._clock() + self._open_s  # the other greenlets use the local state while this one tries
        try:
            self._recover()
        except Unavailable:
            self._merge_settlements()
            return False
        return self.is_shared

    def _open(self, fault: Unavailable) -> None:
        if not self.is_shared:
            return
        self.is_shared, self._retry_at = False, self._clock() + self._open_s
        self._outages += 1
        log.warning(
            "the shared state cannot be reached (%s): limits and quotas hold per machine until it can be reached again",
            type(fault.__cause__).__name__,
        )
        # The accounts of the local state are outdated. If it cannot be used either, its takes will raise Unavailable.
        with suppress(Unavailable):
            self._local.forget()

    def _recover(self) -> None:
        """Sends the remote state what it missed and closes the breaker. Raises Unavailable."""
        self._remote.inspect((), ())
        while self._forgotten or self._credits or self._settlements:  # calls may add more while these are sent
            self._send(tuple(self._forgotten), tuple(self._credits), tuple(self._settlements))
        self.is_shared = True
        log.info("the shared state is back: limits and quotas hold over all machines again")

    def _merge_settlements(self) -> None:
        """Merges settlements into one credit for each account, so that memory does not grow with the outage."""
        for call, settlement in tuple(self._settlements.items()):
            if settlement.is_unknown_remotely and settlement.windows is not None:
                del self._settlements[call]
                self._credits.update(dict.fromkeys(settlement.windows, settlement.money))

    def _send(
        self, accounts: tuple[str | None, ...], windows: tuple[AccountWindow, ...], calls: tuple[int, ...]
    ) -> None:
        """Sends each of these unless another greenlet has sent it. Raises Unavailable, and keeps what was not sent."""
        for account in accounts:
            self._send_forget(account)
        for account_window in windows:
            self._send_credit(account_window)
        for call in calls:
            self._send_settlement(call)

    def _send_forget(self, account: str | None) -> None:
        if account in self._forgotten:
            self._forgotten.remove(account)
            try:
                self._remote.forget(account)
            except BaseException:
                self._forgotten.add(account)
                raise

    def _send_credit(self, account_window: AccountWindow) -> None:
        if account_window in self._credits:
            account, start = account_window
            money = self._credits.pop(account_window)
            try:
                self._remote.credit(account, start, money, self._remote_time)
            except BaseException:
                # Perhaps it was added and only the reply was lost: the account is loaded again.
                self._forgotten.add(account)
                raise

    def _send_settlement(self, call: int) -> None:
        if (settlement := self._settlements.pop(call, None)) is None:
            return
        try:
            if settlement.windows is None:
                self._remote.settle(call, settlement.money, settlement.tokens)
            else:
                self._remote.settle_taken_locally(
                    call, settlement.money, settlement.tokens, settlement.windows, settlement.since
                )
        except BaseException:
            # Perhaps it was credited and only the reply was lost: `since` 0 has its accounts loaded again.
            self._settlements[call] = settlement._replace(since=0, is_unknown_remotely=False)
            raise
