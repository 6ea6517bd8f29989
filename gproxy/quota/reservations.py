"""What a call may cost and use: held before it is sent, more of it as a stream runs on, ended with the call."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from gproxy.accounting import cost
from gproxy.accounting.prices import Found
from gproxy.errors import OverQuota, Unavailable
from gproxy.protocols.hub import RequestHead
from gproxy.quota import budgets, limits
from gproxy.snapshot import Caller
from gproxy.state.interface import Account, Limit, LimitStatus, SharedState, Take, Taken
from gproxy.units import NS

log = logging.getLogger(__name__)

# How often what is not known yet is loaded for one call; more than once only when somebody else changes it meanwhile.
ATTEMPTS = 5
# Of tokens and of nano-USD: beyond any limit and any quota.
MAX = 2**61
# A stream that runs beyond its hold asks for so many tokens more at once.
STEP_TOKENS = 1_024


class UpperBound(NamedTuple):
    """The most that a call may cost (nano-USD) and use, and where that is counted.

    `most_output` is the output in it, in tokens; None where the upstream cannot go beyond.
    """

    accounts: tuple[Account, ...]
    limits: tuple[Limit, ...]
    money: int = 0
    tokens: int = 0
    max_output: int | None = None


def applying(caller: Caller, name: str) -> tuple[tuple[Account, ...], tuple[Limit, ...]]:
    """The accounts and limits that a call of this name counts in."""
    return budgets.accounts(caller), limits.applying(caller, name)


def upper_bound(
    accounts: tuple[Account, ...],
    rows: tuple[Limit, ...],
    asked: RequestHead,
    price: Found | None,
    mode: str,
    input_tokens: int,
    max_output: int | None,
    assumed_output: int,
    may_cache: bool,
    has_media: bool,
) -> UpperBound:
    """What is to be held for a call in these accounts and limits.

    `most_output` is what the model can write at most, where that is known: 0 of one that writes nothing.
    """
    if asked.max_output is not None and max_output != 0:
        output, is_open = asked.max_output, False
    else:
        output = assumed_output if max_output is None else min(max_output, assumed_output)
        is_open = output != max_output
    output *= asked.choices
    money = 0 if price is None else cost.upper_bound(price.price, mode, input_tokens, output, may_cache, has_media)
    tokens = min(input_tokens + output, MAX)
    return UpperBound(accounts, rows, min(money, MAX), tokens, output if is_open else None)


def dearer(one: UpperBound, other: UpperBound) -> UpperBound:
    """What covers either of two calls in the same accounts and limits."""
    opened = [upper_bound.max_output for upper_bound in (one, other) if upper_bound.max_output is not None]
    money, tokens = max(one.money, other.money), max(one.tokens, other.tokens)
    return one._replace(money=money, tokens=tokens, max_output=min(opened, default=None))


class Reserver:
    """Takes and ends holds for one process. `load` makes the shared state know accounts and limits by their keys."""

    def __init__(
        self,
        shared: SharedState,
        owner: str,
        load: Callable[[tuple[str, ...]], None],
        changes: Callable[[], int] = lambda: 0,
    ):
        """`changes` is a number that grows whenever somebody may have got a limit or a cap."""
        self.shared, self.owner, self._load, self.changes = shared, owner, load, changes
        self._unsettled: deque[tuple[int, int, int]] = deque()  # at most one for each call that ran

    def take(self, call: int, upper_bound: UpperBound) -> "Reservation":
        """Raises OverQuota, RateLimited, Unavailable; then nothing is held and nothing counted."""
        wanted = Take(call, self.owner, upper_bound.accounts, upper_bound.limits, upper_bound.money, upper_bound.tokens)
        taken = self.count(wanted)
        if (refused := taken.refused) is not None:
            now_s = taken.at / NS
            if refused.counter is None:
                raise budgets.refusal(refused, upper_bound.money, now_s)
            raise limits.refusal(refused, taken.statuses, upper_bound.tokens, now_s)
        return Reservation(self, call, taken.at, upper_bound, taken.statuses)

    def count(self, wanted: Take) -> Taken:
        """A take as it comes out. Raises Unavailable."""
        return self._known(lambda: self.shared.take(wanted))

    def look(self, accounts: tuple[Account, ...], rows: tuple[Limit, ...]) -> Taken:
        """How these accounts and limits stand. Raises Unavailable."""
        return self._known(lambda: self.shared.look(accounts, rows))

    def _known(self, ask: Callable[[], Taken]) -> Taken:
        """The answer once all that it is about is loaded. Raises Unavailable."""
        for _ in range(ATTEMPTS):
            taken = ask()
            if not taken.unknown:
                return taken
            self._load(taken.unknown)
        raise Unavailable("the limits and quotas of this user are being changed")

    def settle(self, call: int, money: int, tokens: int) -> None:
        """Never raises: what cannot be told now is told later."""
        try:
            self.shared.settle(call, money, tokens)
        except Unavailable:
            self._unsettled.append((call, money, tokens))

    def retry(self) -> None:
        """Settles what could not be settled before. Raises Unavailable."""
        while self._unsettled:
            self.shared.settle(*self._unsettled[0])
            self._unsettled.popleft()


class Reservation:
    """One call's hold. `at` is when it was counted, in nanoseconds."""

    __slots__ = ("_call", "_reserver", "_upper_bound", "at", "money", "statuses")

    def __init__(
        self, reserver: Reserver, call: int, at: int, upper_bound: UpperBound, statuses: tuple[LimitStatus, ...]
    ):
        self._reserver, self._call, self._upper_bound = reserver, call, upper_bound
        self.at, self.money, self.statuses = at, upper_bound.money, statuses

    @property
    def entry(self) -> list[int]:
        """For the journal: what has to be held again where the shared state is lost."""
        return [self._upper_bound.money, self._upper_bound.tokens]

    @property
    def max_output(self) -> int | None:
        """The output tokens that it covers, where a call may go beyond and has to stop at a cap."""
        return self._upper_bound.max_output if self._upper_bound.accounts else None

    def settle(self, money: int, tokens: int) -> None:
        self._reserver.settle(self._call, money, tokens)

    def covers(self, running: int, step: int) -> bool:
        """Whether the cost so far is held, by now: else `step` more is asked for, or what is left of it."""
        need = running - self.money
        if need <= 0:
            return True
        granted = self._reserver.shared.extend(self._call, need, need + step)
        self.money += granted
        return granted > 0

    def ended(self) -> OverQuota:
        """What ends a stream that is not covered any more."""
        now_s = time.time()
        found = self._reserver.shared.look(self._upper_bound.accounts, ()).statuses
        return budgets.ended(min(found, key=lambda one: one.remaining, default=None), now_s)


class NoReservation:
    """In a hold's place for a caller without limits and caps.

    If the caller got some meanwhile, whoever loaded them gave the call a hold, and it has to end as any other.
    """

    __slots__ = ("_call", "_changes", "_reserver", "at")

    entry = max_output = None

    def __init__(self, reserver: Reserver, call: int, at: int):
        self._reserver, self._call, self.at, self._changes = reserver, call, at, reserver.changes()

    def settle(self, money: int, tokens: int) -> None:
        if self._reserver.changes() != self._changes:
            self._reserver.settle(self._call, money, tokens)
