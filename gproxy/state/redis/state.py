"""The state that several machines share, in Redis: each deed is one script there, and one round trip.

Every key begins with one hash tag, so that a cluster keeps them together; each expires when nothing in it matters any
more. The scripts know the whole layout; here is only what is asked and how the answers read.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gproxy.errors import Unavailable
from gproxy.state.interface import CONCURRENCY, HOUR_S, RPD, RPM, TOKENS, Account, Limit, LimitStatus, Take, Taken
from gproxy.state.periods import window

US = 1_000_000
NS_PER_US = 1000
HOUR_NS = HOUR_S * US * NS_PER_US
COUNTERS = (RPM, RPD, TOKENS, CONCURRENCY)
MAX_CONNECTIONS = 64
WINDOW_TRIES = 3
FREED_AT_ONCE = 200  # in one script, while which nobody else is served


class Script(NamedTuple):
    text: str
    digest: str


def _script(name: str) -> Script:
    folder = Path(__file__).parent / "scripts"
    text = (folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text()
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


TAKE, SETTLE, EXTEND, RELEASE, CREDIT = map(_script, ("take", "settle", "extend", "release", "credit"))
VERSION, LOAD, LOAD_LIMIT, FORGET = map(_script, ("version", "load", "load_limit", "forget"))
HOLDS, RENEW = map(_script, ("holds", "renew"))


class RedisState:
    """One process's end, used by the greenlets of one thread. Moments are counted in microseconds.

    Redis's clock is everybody's. `clock`, in nanoseconds since the epoch, stands in for it.
    """

    is_shared = True

    def __init__(self, url: str, prefix: str, clock: Callable[[], int] | None = None, timeout_s: float = 0.1):
        """Does not connect. Raises ValueError for an address that cannot be one."""
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,  # else each connection begins with two round trips that tell who we are
        )
        self._redis = redis.Redis.from_pool(pool)
        self._prefix, self._clock = f"gproxy:{{{prefix}}}:", clock
        self._ahead_s = 0.0  # Redis's clock before ours
        self._accounts: dict[int, tuple[str, ...]] = {}  # of this process's running calls

    def take(self, take: Take) -> Taken:
        # As text: a script's numbers are exact to 2^53.
        call = {"call": str(take.call), "owner": take.owner, "money": str(take.money), "tokens": take.tokens}
        taken = self._stand(take.accounts, take.limits, call)
        if take.accounts and not taken.unknown and taken.refused is None:
            self._accounts[take.call] = tuple(account.key for account in take.accounts)
        return taken

    def look(self, accounts: tuple[Account, ...], limits: tuple[Limit, ...]) -> Taken:
        return self._stand(accounts, limits, {})

    def settle(self, call: int, money: int, tokens: int) -> None:
        """An account whose hold Redis lost has to be loaded again: the call is in the books by now."""
        accounts = self._accounts.pop(call, ())
        try:
            self.settle_elsewhere(call, money, tokens, [(account, 0) for account in accounts], since=0)
        except BaseException:
            if accounts:
                self._accounts[call] = accounts
            raise

    def settle_elsewhere(
        self, call: int, money: int, tokens: int, places: Sequence[tuple[str, int]], since: int
    ) -> None:
        """Settles a call that was taken elsewhere, from these accounts in these windows.

        What holds it here, since a load gave it a hold, is settled; where nothing does its money is credited.
        """
        pairs = [value for place in places for value in place]
        self._run(SETTLE, self._now(), call, money, tokens, since // NS_PER_US, *pairs)

    def extend(self, call: int, need: int, wish: int) -> int:
        """A running call whose hold Redis lost gets its wish: nothing is known that would be passed."""
        granted = self._run(EXTEND, self._now(), call, need, wish)
        if granted is not None:
            return int(granted)
        return wish if call in self._accounts else 0

    def version(self, account: str) -> int:
        return self._run(VERSION, self._now(), account)

    def load(
        self,
        account: str,
        version: int,
        window: int,
        used: int,
        settled: Mapping[int, int],
        running: Mapping[int, tuple[str, int]],
    ) -> bool:
        asked = {
            "account": account,
            "version": version,
            "window": window,
            "used": str(used),
            "settled": [(str(call), str(cost)) for call, cost in settled.items()],
            "running": [(str(call), owner, str(money)) for call, (owner, money) in running.items()],
        }
        return self._run(LOAD, self._now(), orjson.dumps(asked)) == 1

    def load_limit(
        self,
        limit: str,
        hours: Mapping[int, tuple[int, int]],
        recent: Sequence[int],
        running: Mapping[int, tuple[str, int, int]],
    ) -> None:
        asked = {
            "limit": limit,
            "hours": [(hour, *counted) for hour, counted in hours.items()],
            "recent": [moment // NS_PER_US for moment in recent],
            "running": [(str(call), owner, at // HOUR_NS, tokens) for call, (owner, at, tokens) in running.items()],
        }
        self._run(LOAD_LIMIT, self._now(), orjson.dumps(asked))

    def forget(self, account: str | None = None) -> None:
        self._run(FORGET, self._now(), *([] if account is None else [account]))

    def holds(self) -> dict[str, list[int]]:
        found = self._run(HOLDS, self._now())
        return {
            owner.decode(): [int(call) for call in calls] for owner, calls in zip(found[::2], found[1::2], strict=True)
        }

    def release(self, call: int) -> None:
        self._run(RELEASE, self._now(), call)
        self._accounts.pop(call, None)

    def renew(self, owner: str) -> None:
        """Each take says so too. An owner that is silent for 30 s counts as dead, perhaps together with its machine."""
        while self._run(RENEW, self._now(), owner, FREED_AT_ONCE) == FREED_AT_ONCE:
            pass

    def credit(self, account: str, window: int, money: int, since: int) -> None:
        """Adds what was spent elsewhere, after `since` (nanoseconds).

        An account that was loaded later, perhaps with this money, has to be loaded again instead.
        """
        self._run(CREDIT, self._now(), account, window, money, since // NS_PER_US)

    def close(self) -> None:
        self._redis.connection_pool.disconnect()

    def _now(self) -> int | None:
        return None if self._clock is None else self._clock() // NS_PER_US

    def _stand(self, accounts: tuple[Account, ...], limits: tuple[Limit, ...], call: dict) -> Taken:
        """Windows are found here and compared there: at the edge of one both ends have to agree on the time."""
        for _ in range(WINDOW_TRIES):
            now = self._now()
            now_s = time.time() + self._ahead_s if now is None else now / US
            windows = [window(account.period, now_s) for account in accounts]
            asked = {
                "accounts": [_account(account, *window) for account, window in zip(accounts, windows, strict=True)],
                "limits": [_limit(limit) for limit in limits],
                **call,
            }
            answer, at, *found = self._run(TAKE, now, orjson.dumps(asked))
            if answer == b"unknown":
                return Taken(at * NS_PER_US, unknown=tuple(key.decode() for key in found))
            if answer == b"standing":
                return _taken(at, accounts, [finish for _, finish in windows], limits, found)
            self._ahead_s = at / US - time.time()
        raise Unavailable("the shared state's clock is not steady")

    def _run(self, script: Script, now: int | None, *arguments: str | bytes | int):
        arguments = (1, self._prefix, "" if now is None else now, *arguments)
        try:
            try:
                return self._redis.execute_command("EVALSHA", script.digest, *arguments)
            except redis.exceptions.NoScriptError:
                return self._redis.execute_command("EVAL", script.text, *arguments)
        except redis.RedisError as fault:
            raise Unavailable("the shared state cannot be reached") from fault


def _account(account: Account, start: int, finish: int | None) -> dict:
    asked = {"key": account.key, "cap": str(account.cap), "start": start}
    return asked if finish is None else {**asked, "finish": finish}


def _limit(limit: Limit) -> dict:
    amounts = ((name, getattr(limit, name)) for name in COUNTERS)
    return {"key": limit.key, **{name: amount for name, amount in amounts if amount is not None}}


def _taken(at: int, accounts, finishes: list[int | None], limits, found: list) -> Taken:
    """`found`: the number of the one that refused, two numbers for each account, three for each counter."""
    number, *values = found
    statuses, values = [], iter(values)
    for account, finish in zip(accounts, finishes, strict=True):
        used, held = int(next(values)), int(next(values))
        left = None if finish is None else (finish * US - at) / US
        is_refused = len(statuses) + 1 == number
        statuses.append(
            LimitStatus(
                account.key,
                None,
                account.cap,
                max(0, account.cap - used - held),
                left,
                left if is_refused else 0.0,
                used,
                held,
            )
        )
    for limit in limits:
        for name in COUNTERS:
            if (amount := getattr(limit, name)) is not None:
                count, ends, room = next(values), next(values), next(values)
                remaining = max(0, amount - count)
                statuses.append(LimitStatus(limit.key, name, amount, remaining, _seconds(ends, at), _seconds(room, at)))
    return Taken(at * NS_PER_US, tuple(statuses), statuses[number - 1] if number else None)


def _seconds(moment: int, at: int) -> float | None:
    return None if moment < 0 else (moment - at) / US
