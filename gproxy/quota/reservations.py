"""Reservations: the upper bound of a call is reserved before sending, extended while it streams, and settled once."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from gproxy.accounting import cost
from gproxy.accounting.cost import Features
from gproxy.accounting.entries import Reserved
from gproxy.accounting.prices import FoundPrice
from gproxy.errors import OverQuota, Unavailable
from gproxy.protocols.hub import RequestHead
from gproxy.quota import budgets, limits
from gproxy.snapshot import Caller
from gproxy.state.interface import Account, Limit, LimitStatus, SharedState, Take, Taken
from gproxy.units import NS

log = logging.getLogger(__name__)

# Loads for one call; more than one is needed only if accounts or limits change meanwhile.
MAX_LOADS = 5
# Tokens and nano-USD above any limit and quota.
MAX_AMOUNT = 2**61
# A stream that passes its reservation extends it by this many tokens.
STEP_TOKENS = 1_024


# The accounts and limits in which a call counts.
Scope = tuple[tuple[Account, ...], tuple[Limit, ...]]


class UpperBound(NamedTuple):
    """The upper bound of a call in nano-USD and tokens, and the accounts and limits in which it counts.

    `max_output` are the output tokens it includes, or None if the upstream cannot write more than that.
    """

    accounts: tuple[Account, ...]
    limits: tuple[Limit, ...]
    money: int = 0
    tokens: int = 0
    max_output: int | None = None


def applying(caller: Caller, name: str) -> Scope:
    """Returns the accounts and limits in which a call of this model name counts."""
    return budgets.accounts(caller), limits.applying(caller, name)


class TokenBounds(NamedTuple):
    """The tokens of a call before it is sent: estimated input, and the output that the model may write.

    `max_output` is the model's maximum if it is known, and 0 if it writes nothing. `assumed_output` is the maximum to
    reserve for a request that does not limit its output.
    """

    input: int
    max_output: int | None
    assumed_output: int


def upper_bound(
    scope: Scope, requested: RequestHead, price: FoundPrice | None, features: Features, tokens: TokenBounds
) -> UpperBound:
    """Returns the upper bound of a call in the accounts and limits of the scope."""
    max_output = tokens.max_output
    if requested.max_output is not None and max_output != 0:
        output, is_unbounded = requested.max_output, False
    else:
        output = tokens.assumed_output if max_output is None else min(max_output, tokens.assumed_output)
        is_unbounded = output != max_output
    output *= requested.choices
    money = 0 if price is None else cost.upper_bound(price.price, features, tokens.input, output)
    total = min(tokens.input + output, MAX_AMOUNT)
    return UpperBound(*scope, min(money, MAX_AMOUNT), total, output if is_unbounded else None)


def covering(one: UpperBound, other: UpperBound) -> UpperBound:
    """Returns an upper bound that covers either of two calls in the same accounts and limits."""
    open_outputs = [upper_bound.max_output for upper_bound in (one, other) if upper_bound.max_output is not None]
    money, tokens = max(one.money, other.money), max(one.tokens, other.tokens)
    return one._replace(money=money, tokens=tokens, max_output=min(open_outputs, default=None))


class Reserver:
    """Makes and settles the reservations of one process."""

    def __init__(
        self,
        shared: SharedState,
        owner: str,
        load: Callable[[tuple[str, ...]], None],
        changes: Callable[[], int] = lambda: 0,
    ):
        """`load` loads accounts and limits, by their keys, into the shared state.

        `changes` returns a number that grows whenever a caller may have got a limit or a cap.
        """
        self.shared, self.owner, self._load, self.changes = shared, owner, load, changes
        self._unsettled: deque[tuple[int, int, int]] = deque()  # at most one for each call that ran

    def take(self, call: int, upper_bound: UpperBound) -> "Reservation":
        """Reserves the upper bound. Raises OverQuota, RateLimited, Unavailable; then nothing is reserved or counted."""
        take = Take(call, self.owner, upper_bound.accounts, upper_bound.limits, upper_bound.money, upper_bound.tokens)
        taken = self.try_take(take)
        if (refused := taken.refused) is not None:
            now_s = taken.at / NS
            if refused.counter is None:
                raise budgets.refusal(refused, upper_bound.money, now_s)
            raise limits.refusal(refused, taken.statuses, upper_bound.tokens, now_s)
        return Reservation(self, call, taken.at, upper_bound, taken.statuses)

    def try_take(self, take: Take) -> Taken:
        """Returns the outcome of a take. Raises Unavailable."""
        return self._with_loaded(lambda: self.shared.take(take))

    def inspect(self, accounts: tuple[Account, ...], limits: tuple[Limit, ...]) -> Taken:
        """Returns the statuses of these accounts and limits. Raises Unavailable."""
        return self._with_loaded(lambda: self.shared.inspect(accounts, limits))

    def _with_loaded(self, function: Callable[[], Taken]) -> Taken:
        """Returns the function's outcome once the accounts and limits it needs are loaded. Raises Unavailable."""
        for _ in range(MAX_LOADS):
            taken = function()
            if not taken.unknown:
                return taken
            self._load(taken.unknown)
        raise Unavailable("the limits and quotas of this user are being changed")

    def settle(self, call: int, money: int, tokens: int) -> None:
        """Settles a call; never raises. `settle_pending` repeats a settlement that failed."""
        try:
            self.shared.settle(call, money, tokens)
        except Unavailable:
            self._unsettled.append((call, money, tokens))

    def settle_pending(self) -> None:
        """Repeats the settlements that failed. Raises Unavailable."""
        while self._unsettled:
            self.shared.settle(*self._unsettled[0])
            self._unsettled.popleft()


class Reservation:
    """The reservation of one call; `at` is its moment in nanoseconds since the epoch, `money` its nano-USD."""

    __slots__ = ("_call", "_reserver", "_upper_bound", "at", "money", "statuses")

    def __init__(
        self, reserver: Reserver, call: int, at: int, upper_bound: UpperBound, statuses: tuple[LimitStatus, ...]
    ):
        self._reserver, self._call, self._upper_bound = reserver, call, upper_bound
        self.at, self.money, self.statuses = at, upper_bound.money, statuses

    @property
    def amounts(self) -> Reserved:
        """The amounts for the journal, from which the reservation is restored if the shared state is lost."""
        return Reserved(self._upper_bound.money, self._upper_bound.tokens)

    def settle(self, money: int, tokens: int) -> None:
        self._reserver.settle(self._call, money, tokens)

    def covers(self, cost_so_far: int, step: int) -> bool:
        """Returns True if the reservation covers the cost so far, extending it by up to `step` (nano-USD) if needed."""
        missing = cost_so_far - self.money
        if missing <= 0:
            return True
        granted = self._reserver.shared.extend(self._call, missing, missing + step)
        self.money += granted
        return granted > 0

    def exhausted(self) -> OverQuota:
        """Returns the error that ends a stream whose reservation cannot be extended. Raises Unavailable."""
        now_s = time.time()
        statuses = self._reserver.shared.inspect(self._upper_bound.accounts, ()).statuses
        return budgets.exhausted(min(statuses, key=lambda status: status.remaining, default=None), now_s)


class NoReservation:
    """Replaces the reservation of a caller without limits and caps.

    If the caller got a limit or a cap during the call, loading it gave the call a reservation, which must be settled.
    """

    __slots__ = ("_call", "_changes", "_reserver", "at")

    amounts = None

    def __init__(self, reserver: Reserver, call: int, at: int):
        self._reserver, self._call, self.at, self._changes = reserver, call, at, reserver.changes()

    def settle(self, money: int, tokens: int) -> None:
        if self._reserver.changes() != self._changes:
            self._reserver.settle(self._call, money, tokens)
