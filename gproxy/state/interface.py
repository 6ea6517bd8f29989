"""What is asked of the state that workers share: one atomic take before a call, and its settlement after. Types only.

A take tests every account and every limit of a call and then counts in all of them, or in none. What it holds is
written down under the call's id together with its owner, so that a settlement happens once and a dead owner's holds
can be freed.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

RPM, RPD, TOKENS, CONCURRENCY = "rpm", "rpd", "total_tokens", "concurrency"
MINUTE_S, HOUR_S = 60, 3600
# 24 whole hours and the one that runs: no more than the limit in any 24 hours, and what was counted is free again
# after at most 25.
BUCKETS = 25


class Account(NamedTuple):
    """Money with a cap, in nano-USD. `key` names it; `period` is `day`, `week`, `month` (UTC) or None: for ever."""

    key: str
    cap: int
    period: str | None = None


class Limit(NamedTuple):
    """One limit row, named by `key`: its counters outlive a change of the amounts. None: that is not limited."""

    key: str
    rpm: int | None = None
    rpd: int | None = None
    total_tokens: int | None = None
    concurrency: int | None = None


class Take(NamedTuple):
    """One call: `money` (nano-USD) is held in each account and `tokens` are counted in each limit, upper bounds both.

    Accounts are told before limits when several refuse, and both in their order here.
    """

    call: int
    owner: str
    accounts: tuple[Account, ...]
    limits: tuple[Limit, ...]
    money: int
    tokens: int


class LimitStatus(NamedTuple):
    """One counter of a limit as it stands, or one account (`counter` is then None). Times in seconds from now on.

    `remaining` is never negative; an account's is without what is held. `reset_s` is when all of it is there again,
    `wait_s` when what was refused could pass, both None where only a settlement or an operator ends it.
    """

    key: str
    counter: str | None
    limit: int
    remaining: int
    reset_s: float | None
    wait_s: float | None = 0.0
    used: int = 0  # of an account: settled
    held: int = 0


class Taken(NamedTuple):
    """`at` is the moment of counting, in nanoseconds since the epoch: windows go by it, and so does the usage row.

    `refused` is the first that had no room; `unknown` are the keys of accounts and limits that have to be loaded first,
    for they are new here or were lost. With either nothing was taken.
    """

    at: int
    statuses: tuple[LimitStatus, ...] = ()
    refused: LimitStatus | None = None
    unknown: tuple[str, ...] = ()


class SharedState(Protocol):
    """The state that workers share, in a file on one machine or in Redis over several. Raises Unavailable.

    `is_shared` is False while it is not shared by all who should share it.
    """

    is_shared: bool

    def take(self, take: Take) -> Taken: ...

    def settle(self, call: int, money: int, tokens: int) -> None:
        """Ends a call's hold: what it cost and used in place of what was held and counted. Once: later it does nothing.

        Money goes to the window in which it was held, tokens to the hour in which they were counted.
        """

    def extend(self, call: int, need: int, wish: int) -> int:
        """More money for a running call in each of its accounts: `wish`, else what is left if it is `need`, else 0."""

    def look(self, accounts: tuple[Account, ...], limits: tuple[Limit, ...]) -> Taken:
        """How they stand, without taking anything."""

    def version(self, account: str) -> int:
        """A number that grows with every settlement in this account and every window that it begins, for `load`."""

    def load(
        self,
        account: str,
        version: int,
        window: int,
        used: int,
        settled: Mapping[int, int],
        running: Mapping[int, tuple[str, int]],
    ) -> bool:
        """Sets what is used in the window that started at `window` (seconds, 0 without period), read from the books.

        `settled` are calls, with their costs, that are not in `used`: each is added unless its hold is still there, for
        then its settlement is to come. `running` are calls that were opened, with owner and amount: each gets a hold of
        this account that it lacks. False: `version` has grown since it was asked, and nothing was done.
        """

    def load_limit(
        self,
        limit: str,
        hours: Mapping[int, tuple[int, int]],
        recent: Sequence[int],
        running: Mapping[int, tuple[str, int, int]],
    ) -> None:
        """Sets a limit's counters, read from the books, unless somebody else was faster.

        `hours` are requests and tokens by hour (since the epoch), `recent` the moments in nanoseconds of the last
        minute's requests, oldest first; `running` are calls that were opened, with owner, moment and tokens: they are
        in `hours` too, and each gets a hold of this limit.
        """

    def forget(self, account: str | None = None) -> None:
        """The account (None: every one) has to be loaded again before the next take."""

    def holds(self) -> dict[str, list[int]]:
        """Every owner with the calls that it holds something for."""

    def release(self, call: int) -> None:
        """Frees the hold of a call that will not be settled; what it counted as tokens stays."""

    def renew(self, owner: str) -> None:
        """Says that this owner is alive, and frees what those hold who did not say so for long."""

    def close(self) -> None: ...
