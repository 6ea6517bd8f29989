"""The state that several machines share, in Redis: each operation is one Lua script and one round trip.

All keys begin with the same hash tag, so that a cluster stores them together, and expire once they are of no use. Only
the scripts know the layout of the keys; this file writes their arguments and reads their replies.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson
import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from gproxy.errors import Unavailable
from gproxy.state.interface import (
    CONCURRENCY,
    HOUR_S,
    RPD,
    RPM,
    TOKENS,
    Account,
    AccountAmounts,
    Limit,
    LimitStatus,
    Take,
    Taken,
)
from gproxy.state.periods import window

US_PER_S = 1_000_000  # microseconds in a second
NS_PER_US = 1000
HOUR_NS = HOUR_S * US_PER_S * NS_PER_US
COUNTERS = (RPM, RPD, TOKENS, CONCURRENCY)
MAX_CONNECTIONS = 64
WINDOW_TRIES = 3
MAX_RELEASED = 200  # reservations in one run of a script, during which Redis serves no one else


class Script(NamedTuple):
    text: str
    digest: str


def _script(name: str) -> Script:
    folder = Path(__file__).parent / "scripts"
    text = (folder / "common.lua").read_text() + (folder / f"{name}.lua").read_text()
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


TAKE, SETTLE, EXTEND, RELEASE, CREDIT = map(_script, ("take", "settle", "extend", "release", "credit"))
VERSION, LOAD, LOAD_LIMIT, FORGET = map(_script, ("version", "load", "load_limit", "forget"))
RESERVATIONS, RENEW = map(_script, ("holds", "renew"))


class RedisState:
    """One process's access to Redis, for the greenlets of one thread. Redis keeps time in microseconds.

    All machines use Redis's clock. `clock`, in nanoseconds since the epoch, replaces it in tests.
    """

    is_shared = True

    def __init__(self, url: str, prefix: str, clock: Callable[[], int] | None = None, timeout_s: float = 0.1):
        """Does not connect. Raises ValueError for an invalid URL."""
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,  # otherwise each connection begins with two round trips that identify the client
        )
        self._redis = redis.Redis.from_pool(pool)
        self._prefix, self._clock = f"gproxy:{{{prefix}}}:", clock
        self._clock_offset_s = 0.0  # Redis's clock minus ours
        self._accounts: dict[int, tuple[str, ...]] = {}  # accounts of this process's running calls

    def take(self, take: Take) -> Taken:
        # Large numbers are sent as text: numbers of a script are exact to 2^53 only.
        call = {"call": str(take.call), "owner": take.owner, "money": str(take.money), "tokens": take.tokens}
        taken = self._run_take(take.accounts, take.limits, call)
        if take.accounts and not taken.unknown and taken.refused is None:
            self._accounts[take.call] = tuple(account.key for account in take.accounts)
        return taken

    def inspect(self, accounts: tuple[Account, ...], limits: tuple[Limit, ...]) -> Taken:
        return self._run_take(accounts, limits, {})

    def settle(self, call: int, money: int, tokens: int) -> None:
        """If Redis lost the reservation, the accounts are loaded again: the journal has the call by now."""
        accounts = self._accounts.pop(call, ())
        try:
            self.settle_taken_locally(call, money, tokens, [(account, 0) for account in accounts], since=0)
        except BaseException:
            if accounts:
                self._accounts[call] = accounts
            raise

    def settle_taken_locally(
        self, call: int, money: int, tokens: int, windows: Sequence[tuple[str, int]], since: int
    ) -> None:
        """Settles a call that a local state counted in these windows of accounts.

        An account where the call has a reservation, since a load gave it one, is settled; the others are credited.
        """
        pairs = [value for account_window in windows for value in account_window]
        self._run(SETTLE, self._now(), call, money, tokens, since // NS_PER_US, *pairs)

    def extend(self, call: int, minimum: int, requested: int) -> int:
        """Grants `requested` to a running call whose reservation Redis lost: no known cap would be exceeded."""
        granted = self._run(EXTEND, self._now(), call, minimum, requested)
        if granted is not None:
            return int(granted)
        return requested if call in self._accounts else 0

    def version(self, account: str) -> int:
        return self._run(VERSION, self._now(), account)

    def load(self, account: str, version: int, amounts: AccountAmounts) -> bool:
        document = {
            "account": account,
            "version": version,
            "window": amounts.window,
            "used": str(amounts.used),
            "settled": [(str(call), str(cost)) for call, cost in amounts.settled.items()],
            "running": [(str(call), owner, str(money)) for call, (owner, money) in amounts.running.items()],
        }
        return self._run(LOAD, self._now(), orjson.dumps(document)) == 1

    def load_limit(
        self,
        limit: str,
        hours: Mapping[int, tuple[int, int]],
        recent: Sequence[int],
        running: Mapping[int, tuple[str, int, int]],
    ) -> None:
        document = {
            "limit": limit,
            "hours": [(hour, *counted) for hour, counted in hours.items()],
            "recent": [moment // NS_PER_US for moment in recent],
            "running": [(str(call), owner, at // HOUR_NS, tokens) for call, (owner, at, tokens) in running.items()],
        }
        self._run(LOAD_LIMIT, self._now(), orjson.dumps(document))

    def forget(self, account: str | None = None) -> None:
        self._run(FORGET, self._now(), *([] if account is None else [account]))

    def reservations(self) -> dict[str, list[int]]:
        reply = self._run(RESERVATIONS, self._now())
        return {
            owner.decode(): [int(call) for call in calls] for owner, calls in zip(reply[::2], reply[1::2], strict=True)
        }

    def release(self, call: int) -> None:
        self._run(RELEASE, self._now(), call)
        self._accounts.pop(call, None)

    def renew(self, owner: str) -> None:
        """Renews the lease of an owner, as each take does. It lasts 30 s; then the owner counts as crashed."""
        while self._run(RENEW, self._now(), owner, MAX_RELEASED) == MAX_RELEASED:
            pass

    def credit(self, account: str, window: int, money: int, since: int) -> None:
        """Adds what was spent in a local state after `since` (nanoseconds).

        An account that was loaded after `since`, perhaps with this money, is loaded again instead.
        """
        self._run(CREDIT, self._now(), account, window, money, since // NS_PER_US)

    def close(self) -> None:
        self._redis.connection_pool.disconnect()

    def _now(self) -> int | None:
        return None if self._clock is None else self._clock() // NS_PER_US

    def _run_take(self, accounts: tuple[Account, ...], limits: tuple[Limit, ...], call: dict) -> Taken:
        """Runs the script `take`, which only inspects if `call` is empty.

        The windows are computed here; the script checks that its time lies in them, and otherwise returns its time.
        """
        for _ in range(WINDOW_TRIES):
            now = self._now()
            now_s = time.time() + self._clock_offset_s if now is None else now / US_PER_S
            windows = [window(account.period, now_s) for account in accounts]
            document = {
                "accounts": [_account(account, *window) for account, window in zip(accounts, windows, strict=True)],
                "limits": [_limit(limit) for limit in limits],
                **call,
            }
            reply, at, *values = self._run(TAKE, now, orjson.dumps(document))
            if reply == b"unknown":
                return Taken(at * NS_PER_US, unknown=tuple(key.decode() for key in values))
            if reply == b"standing":
                return _parse_taken(at, accounts, [end for _, end in windows], limits, values)
            self._clock_offset_s = at / US_PER_S - time.time()
        raise Unavailable("the shared state's clock is not steady")

    def _run(self, script: Script, now: int | None, *arguments: str | bytes | int):
        arguments = (1, self._prefix, "" if now is None else now, *arguments)
        try:
            try:
                return self._redis.execute_command("EVALSHA", script.digest, *arguments)
            except NoScriptError:
                return self._redis.execute_command("EVAL", script.text, *arguments)
        except redis.RedisError as fault:
            raise Unavailable("the shared state cannot be reached") from fault


def _account(account: Account, start: int, end: int | None) -> dict:
    document = {"key": account.key, "cap": str(account.cap), "start": start}
    return document if end is None else {**document, "finish": end}


def _limit(limit: Limit) -> dict:
    amounts = ((name, getattr(limit, name)) for name in COUNTERS)
    return {"key": limit.key, **{name: amount for name, amount in amounts if amount is not None}}


def _parse_taken(at: int, accounts, ends: list[int | None], limits, numbers: list) -> Taken:
    """Parses `numbers`: the position of the status that refused, two for each account, three for each counter."""
    position, *values = numbers
    statuses, values = [], iter(values)
    for account, end in zip(accounts, ends, strict=True):
        used, reserved = int(next(values)), int(next(values))
        reset_s = None if end is None else (end * US_PER_S - at) / US_PER_S
        is_refused = len(statuses) + 1 == position
        statuses.append(
            LimitStatus(
                account.key,
                None,
                account.cap,
                max(0, account.cap - used - reserved),
                reset_s,
                reset_s if is_refused else 0.0,
                used,
                reserved,
            )
        )
    for limit in limits:
        for name in COUNTERS:
            if (amount := getattr(limit, name)) is not None:
                count, empty_at, free_at = next(values), next(values), next(values)
                reset_s, wait_s = _seconds(empty_at, at), _seconds(free_at, at)
                statuses.append(LimitStatus(limit.key, name, amount, max(0, amount - count), reset_s, wait_s))
    return Taken(at * NS_PER_US, tuple(statuses), statuses[position - 1] if position else None)


def _seconds(moment: int, at: int) -> float | None:
    """Returns the seconds from `at` to `moment`, both in microseconds, or None for a negative `moment`: never."""
    return None if moment < 0 else (moment - at) / US_PER_S
