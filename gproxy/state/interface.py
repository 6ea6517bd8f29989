"""The interface of the state that workers share: an atomic take before each call and a settlement after it. Types only.

A take checks every account and every limit of a call, and then counts in all of them or in none. Its reservation is
stored under the call's id together with its owner, so that it is settled once and the reservations of a crashed owner
can be released.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

RPM, RPD, TOKENS, CONCURRENCY = "rpm", "rpd", "total_tokens", "concurrency"
MINUTE_S, HOUR_S = 60, 3600
# 24 full hours and the current one: any 24 hours stay within the limit, and a request stops counting after at most 25.
BUCKETS = 25
BUSY_WAIT_S = 1.0  # a caller at its concurrency limit is asked to retry after this time


class Account(NamedTuple):
    """A money cap in nano-USD, named by `key`. `period` is `day`, `week` or `month` (UTC), or None for no reset."""

    key: str
    cap: int
    period: str | None = None


class Limit(NamedTuple):
    """One limit row, named by `key`; None means unlimited. Its counters survive a change of the amounts."""

    key: str
    rpm: int | None = None
    rpd: int | None = None
    total_tokens: int | None = None
    concurrency: int | None = None


class Take(NamedTuple):
    """One call: reserves `money` (nano-USD) in each account and counts `tokens` in each limit; both are upper bounds.

    If several refuse, the first account is reported, else the first limit, in the order given here.
    """

    call: int
    owner: str
    accounts: tuple[Account, ...]
    limits: tuple[Limit, ...]
    money: int
    tokens: int


class LimitStatus(NamedTuple):
    """The status of one counter of a limit, or of one account (`counter` is then None). Times are seconds from now.

    `remaining` is never negative, and excludes what is reserved. At `reset_s` all of the limit is available again, at
    `wait_s` the refused call has room; either is None if only a settlement or an administrator can change it.
    """

    key: str
    counter: str | None
    limit: int
    remaining: int
    reset_s: float | None
    wait_s: float | None = 0.0
    used: int = 0  # settled money of an account
    reserved: int = 0


class Taken(NamedTuple):
    """The outcome of a take. `at` is its moment in nanoseconds since the epoch, by which windows and usage rows count.

    `refused` is the first account or counter without room; `unknown` are the keys of accounts and limits that must be
    loaded first, because they are new or were lost. If either is set, nothing was taken.
    """

    at: int
    statuses: tuple[LimitStatus, ...] = ()
    refused: LimitStatus | None = None
    unknown: tuple[str, ...] = ()


class AccountAmounts(NamedTuple):
    """What was used of an account in the window that starts at `window` (seconds, 0 without period), in nano-USD.

    It is read from the journal and the database. `settled` maps calls that are not in `used` to their costs: each cost
    is added unless the call still has a reservation, which will be settled later. `running` maps opened calls to owner
    and amount: each gets a reservation in this account if it has none.
    """

    window: int
    used: int
    settled: Mapping[int, int]
    running: Mapping[int, tuple[str, int]]


class SharedState(Protocol):
    """The state that workers share: in a file on one machine, in Redis over several. Its methods raise Unavailable.

    `is_shared` is False during a Redis outage, while each machine uses its own file.
    """

    is_shared: bool

    def take(self, take: Take) -> Taken: ...

    def settle(self, call: int, money: int, tokens: int) -> None:
        """Replaces the reservation of a call by its real cost (nano-USD) and tokens. A second call does nothing.

        Money counts in the window in which it was reserved, tokens in the hour in which they were counted.
        """
        ...

    def extend(self, call: int, minimum: int, requested: int) -> int:
        """Reserves more money for a running call in each of its accounts, and returns how much.

        That is `requested`, or what remains if it is at least `minimum`, or 0.
        """
        ...

    def inspect(self, accounts: tuple[Account, ...], limits: tuple[Limit, ...]) -> Taken:
        """Returns the statuses of accounts and limits without taking anything."""
        ...

    def version(self, account: str) -> int:
        """Returns a number for `load`, which grows with every settlement in this account and with every new window."""
        ...

    def load(self, account: str, version: int, amounts: AccountAmounts) -> bool:
        """Sets the amounts of an account. Returns False, and changes nothing, if `version` is outdated."""
        ...

    def load_limit(
        self,
        limit: str,
        hours: Mapping[int, tuple[int, int]],
        recent: Sequence[int],
        running: Mapping[int, tuple[str, int, int]],
    ) -> None:
        """Sets the counters of a limit, read from journal and database, unless another process has loaded them.

        `hours` maps hours since the epoch to requests and tokens, `recent` has the moments of the last minute's
        requests in nanoseconds, oldest first. `running` maps opened calls, which `hours` includes, to owner, moment and
        tokens: each gets a reservation in this limit.
        """
        ...

    def forget(self, account: str | None = None) -> None:
        """Has this account, or every account, loaded again before the next take."""
        ...

    def reservations(self) -> dict[str, list[int]]:
        """Returns the calls with a reservation, by owner."""
        ...

    def release(self, call: int) -> None:
        """Ends the reservation of a call that will not be settled, at cost 0; the tokens it counted stay."""
        ...

    def renew(self, owner: str) -> None:
        """Renews the lease of this owner, and releases the reservations of owners whose lease has expired."""
        ...

    def close(self) -> None: ...
