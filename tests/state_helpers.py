"""Helpers for tests of a shared state: a clock that they set, and loading of accounts and limits with nothing used."""

from collections.abc import Sequence
from datetime import UTC, datetime

from gproxy.state.interface import Account, AccountAmounts, Limit, LimitStatus, SharedState, Take, Taken
from gproxy.state.periods import window

NS = 1_000_000_000
MINUTE, HOUR, DAY = 60, 3600, 86_400
MONDAY = int(datetime(2026, 3, 2, 10, 20, tzinfo=UTC).timestamp())


class Clock:
    """A clock that moves only by `advance`, in whole microseconds as Redis's does."""

    def __init__(self, now_s: float = MONDAY):
        self.now = int(now_s * NS)

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1_000_000) * 1000


def call(
    number: int,
    accounts: Sequence[Account] = (),
    limits: Sequence[Limit] = (),
    money: int = 0,
    tokens: int = 0,
    owner: str = "one",
) -> Take:
    return Take(number, owner, tuple(accounts), tuple(limits), money, tokens)


def load(
    state: SharedState, account: Account, used: int = 0, settled=None, running=None, now_ns: int = MONDAY * NS
) -> None:
    start, _ = window(account.period, now_ns // NS)
    amounts = AccountAmounts(start, used, settled or {}, running or {})
    assert state.load(account.key, state.version(account.key), amounts)


def load_empty(state: SharedState, *accounts_and_limits: Account | Limit, now_ns: int = MONDAY * NS) -> None:
    for one in accounts_and_limits:
        if isinstance(one, Limit):
            state.load_limit(one.key, {}, [], {})
        else:
            load(state, one, now_ns=now_ns)


def is_taken(taken: Taken) -> bool:
    return taken.refused is None and not taken.unknown


def status_of(taken: Taken, key: str, counter: str | None = None) -> LimitStatus:
    (found,) = [status for status in taken.statuses if (status.key, status.counter) == (key, counter)]
    return found
