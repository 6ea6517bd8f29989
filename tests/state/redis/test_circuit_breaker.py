"""Outages of the remote state: the machine counts locally, logs it once, and then sends what was spent."""

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from gproxy.errors import Unavailable
from gproxy.state.interface import Account, Limit, Taken
from gproxy.state.mmap.state import MmapState
from gproxy.state.periods import DAY as DAILY
from gproxy.state.redis.circuit_breaker import CircuitBreaker
from gproxy.state.redis.state import RedisState
from tests import redis
from tests.state_helpers import DAY, Clock, call, is_taken, load, load_empty

ROOT = Path(__file__).resolve().parents[3]
FIXED, OTHER, DAILY_ACCOUNT = Account("fixed", 100), Account("other", 100), Account("daily", 100, DAILY)
OPEN_S = 5

# Greenlets that take at the same time. Prints how many lines were logged so far and how long each greenlet waited.
HALF_OPEN = """
from gevent import monkey
monkey.patch_all()
import logging, sys, time
from pathlib import Path
import gevent
from gproxy.state.interface import Take
from gproxy.state.redis.circuit_breaker import CircuitBreaker
from gproxy.state.mmap.state import MmapState
from gproxy.state.redis.state import RedisState

class Logged(logging.Handler):
    count = 0
    def emit(self, record):
        self.count += 1

logged = Logged()
logging.getLogger().addHandler(logged)
state = CircuitBreaker(RedisState(*sys.argv[1:3]), MmapState(Path(sys.argv[3])), open_s=0.2)

def take(number):
    before = time.perf_counter()
    state.take(Take(number, "one", (), (), 0, 0))
    return time.perf_counter() - before

state.take(Take(0, "one", (), (), 0, 0))
for count in map(int, sys.stdin):
    time.sleep(0.3)
    taking = [gevent.spawn(take, number) for number in range(count)]
    waits = [one.get() for one in taking]
    print(logged.count, *waits, flush=True)
"""

# Greenlets that spend during outages of Redis. A dictionary replaces the journal and is written before the state.
# Prints what was spent, what Redis has as used and reserved once everything was sent, and the number of calls.
SPEND = """
from gevent import monkey
monkey.patch_all()
import random, sys, time
from pathlib import Path
import gevent
from gproxy.errors import Unavailable
from gproxy.state.interface import Account, AccountAmounts, Limit, Take
from gproxy.state.redis.circuit_breaker import CircuitBreaker
from gproxy.state.mmap.state import MmapState
from gproxy.state.redis.state import RedisState

state = CircuitBreaker(RedisState(*sys.argv[1:3]), MmapState(Path(sys.argv[3])), open_s=0.4)
account, settled, running, random_source = Account("rich", 10**9), {}, {}, random.Random(5)
calls = iter(range(1, 10**9))

def load():
    while account.key in state.inspect((account,), ()).unknown:
        version = state.version(account.key)
        read, open_calls = dict(settled), {call: ("one", 10) for call in running}
        gevent.sleep(0.002)
        state.load(account.key, version, AccountAmounts(0, 0, read, open_calls))

def spend(until):
    while time.monotonic() < until:
        call = next(calls)
        while state.take(Take(call, "one", (account,), (), 10, 0)).unknown:
            load()
        running[call] = True
        gevent.sleep(random_source.random() * 0.1)
        del running[call]
        settled[call] = call
        state.settle(call, call, 0)

until = time.monotonic() + float(sys.argv[4])
print("ready", flush=True)
gevent.joinall([gevent.spawn(spend, until) for _ in range(50)], raise_error=True)
sys.stdin.read()
while not state.is_shared or account.key in state.inspect((account,), ()).unknown:
    gevent.sleep(0.05)
    state.renew("one")
    load()
(found,) = RedisState(*sys.argv[1:3], timeout_s=10).inspect((account,), ()).statuses
print(sum(settled.values()), found.used, found.reserved, len(settled))
"""


class Losing(RedisState):
    """Redis whose replies are lost: the operation is done, but raises Unavailable."""

    is_losing = False

    def credit(self, *arguments) -> None:
        super().credit(*arguments)
        self._lose()

    def settle_taken_locally(self, *arguments, **named) -> None:
        super().settle_taken_locally(*arguments, **named)
        self._lose()

    def forget(self, account: str | None = None) -> None:
        super().forget(account)
        self._lose()

    def _lose(self) -> None:
        if self.is_losing:
            raise Unavailable("the reply is lost")


class Machine:
    """A machine's two states, which share a clock here, and the breaker's clock."""

    def __init__(self, url: str, folder: Path, clock: Clock):
        self.remote, self.local = Losing(url, "own", clock), MmapState(folder, clock)
        self.now_s = 0.0
        self.state = CircuitBreaker(self.remote, self.local, lambda: self.now_s, OPEN_S)

    def take(self, number: int, *accounts: Account, money: int = 0, limits=()) -> Taken:
        return self.state.take(call(number, accounts, limits, money=money))

    def used(self, *accounts: Account) -> list[tuple[int, int]]:
        """Used and reserved money of each account in the remote state."""
        return [status[6:] for status in self.remote.inspect(accounts, ()).statuses]

    def close(self) -> None:
        self.state.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server() -> Iterator[redis.Server]:
    with redis.server() as running:
        yield running


@pytest.fixture
def new_machine(server, clock, tmp_path) -> Iterator[Callable[[], Machine]]:
    made: list[Machine] = []

    def make() -> Machine:
        made.append(Machine(server.url, tmp_path / f"counters-{len(made)}", clock))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def machine(new_machine) -> Machine:
    return new_machine()


def start_outage(machine: Machine, server: redis.Server) -> None:
    """Redis hangs, and the breaker opens."""
    server.hang()
    machine.state.renew("one")
    assert not machine.state.is_shared


def end_outage(machine: Machine, server: redis.Server) -> None:
    """Redis replies again with its data intact, and the breaker closes."""
    server.resume()
    try_again(machine)
    assert machine.state.is_shared


def try_again(machine: Machine, times: int = 1) -> None:
    for _ in range(times):
        machine.now_s += OPEN_S
        machine.state.renew("one")


def logged(caplog) -> list[str]:
    return [record.levelname for record in caplog.records if record.name == "gproxy.state.redis.circuit_breaker"]


# The breaker


def test_a_closed_breaker_uses_redis_only(machine):
    limit = Limit("user", rpm=5)
    load_empty(machine.state, FIXED, limit)
    assert is_taken(machine.take(1, FIXED, money=10, limits=[limit]))
    assert machine.state.extend(1, minimum=1, requested=5) == 5
    assert machine.state.reservations() == machine.remote.reservations() == {"one": [1]}
    assert machine.local.reservations() == {}
    machine.state.settle(1, 7, 0)
    assert machine.used(FIXED) == [(7, 0)]
    assert sorted(machine.local.inspect((FIXED,), (limit,)).unknown) == ["fixed", "user"]


@pytest.mark.parametrize("how", ["kill", "hang"])
def test_an_outage_is_logged_once_and_delays_one_call(machine, server, caplog, how):
    caplog.set_level(logging.INFO)
    limit = Limit("user", rpm=3)
    load_empty(machine.state, limit)
    machine.take(1, limits=[limit])
    getattr(server, how)()
    before = time.perf_counter()
    assert machine.take(2, limits=[limit]).unknown == ("user",)
    assert time.perf_counter() - before < 0.2
    assert machine.state.is_shared is False
    load_empty(machine.state, limit)
    passed = [is_taken(machine.take(number, limits=[limit])) for number in range(3, 13)]
    assert passed == [True] * 3 + [False] * 7
    assert time.perf_counter() - before < 0.3
    for _ in range(3):  # tries again without success
        machine.now_s += OPEN_S
        machine.take(20, limits=[limit])
    assert logged(caplog) == ["WARNING"]
    server.resume() if how == "hang" else server.start()
    machine.now_s += OPEN_S
    assert is_taken(machine.take(21, limits=[limit])) == (how == "hang")
    assert machine.state.is_shared is True
    assert logged(caplog) == ["WARNING", "INFO"]


def test_no_call_tries_redis_before_the_retry_time(machine, server):
    start_outage(machine, server)
    server.resume()
    machine.now_s += OPEN_S - 0.001
    machine.take(1)
    assert not machine.state.is_shared
    machine.now_s += 0.001
    machine.take(2)
    assert machine.state.is_shared


def test_one_greenlet_tries_and_the_others_do_not_wait(server, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HALF_OPEN, server.url, "own", tmp_path / "counters"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:

        def take(count: int) -> tuple[int, list[float]]:
            running.stdin.write(f"{count}\n")
            running.stdin.flush()
            logged, *waits = running.stdout.readline().split()
            return int(logged), sorted(float(wait) for wait in waits)

        assert take(1)[0] == 0
        server.hang()
        assert take(50)[0] == 1
        logged, (*others, longest) = take(50)
        assert logged == 1
        assert 0.09 < longest < 0.3
        assert others[-1] < 0.09
        server.resume()
        logged, waits = take(50)
        assert waits[-1] < 0.3
        running.stdin.close()


# Calls that ran when the outage began


def test_a_call_from_before_the_outage_is_settled_after_it(machine, server):
    load_empty(machine.state, FIXED, DAILY_ACCOUNT)
    for number in (1, 2, 3):
        assert is_taken(machine.take(number, FIXED, DAILY_ACCOUNT, money=10))
    start_outage(machine, server)
    machine.state.settle(1, 7, 0)
    machine.state.settle(2, 5, 0)
    assert machine.state.extend(3, minimum=1, requested=50) == 50
    end_outage(machine, server)
    assert machine.used(FIXED, DAILY_ACCOUNT) == [(12, 10), (12, 10)]
    machine.state.settle(3, 60, 0)
    assert machine.used(FIXED, DAILY_ACCOUNT) == [(72, 0), (72, 0)]


def test_a_settlement_that_starts_an_outage_is_sent_after_it(machine, server):
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=10)
    server.hang()
    machine.state.settle(1, 7, 0)
    assert not machine.state.is_shared
    end_outage(machine, server)
    assert machine.used(FIXED) == [(7, 0)]


def test_the_local_reservation_of_a_call_from_before_ends_with_it(machine, server):
    """Loading an account during the outage gave its running call a local reservation."""
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=10)
    start_outage(machine, server)
    load(machine.state, FIXED, running={1: ("one", 10)})
    assert machine.local.reservations() == machine.state.reservations() == {"one": [1]}
    end_outage(machine, server)
    assert machine.state.reservations() == {"one": [1]}
    machine.state.settle(1, 7, 0)
    assert machine.state.reservations() == machine.local.reservations() == {}


@pytest.mark.parametrize("is_taken_locally", [True, False])
def test_a_take_whose_reply_was_lost_is_reserved_while_the_call_runs(machine, server, is_taken_locally):
    load_empty(machine.state, FIXED)
    machine.take(9, FIXED, money=0)  # Redis knows the script from here on
    server.hang()
    assert machine.take(1, FIXED, money=10).unknown == ("fixed",)
    if is_taken_locally:
        load(machine.state, FIXED)
        assert is_taken(machine.take(1, FIXED, money=10))
    server.resume()
    until = time.monotonic() + 5
    while machine.used(FIXED) != [(0, 10)]:
        assert time.monotonic() < until
    end_outage(machine, server)
    if is_taken_locally:
        assert machine.used(FIXED) == [(0, 10)]
        machine.state.settle(1, 7, 0)
        assert machine.used(FIXED) == [(7, 0)]
    else:
        assert machine.used(FIXED) == [(0, 0)]


@pytest.mark.parametrize("tries", [0, 2])
def test_a_take_whose_reply_was_lost_is_settled_once(machine, server, tries):
    load_empty(machine.state, FIXED, OTHER)
    machine.take(9, FIXED, money=0)
    start_outage(machine, server)
    load_empty(machine.state, FIXED)
    end_outage(machine, server)
    server.hang()
    machine.take(1, FIXED, money=10)
    load_empty(machine.state, FIXED)
    assert is_taken(machine.take(1, FIXED, money=10))
    machine.state.settle(1, 7, 0)
    try_again(machine, tries)
    end_outage(machine, server)
    assert machine.used(FIXED) == [(7, 0)]


# Calls that were counted locally


def test_money_spent_locally_is_added_after_the_outage(machine, server):
    load_empty(machine.state, FIXED, OTHER, DAILY_ACCOUNT)
    machine.take(1, FIXED, money=1)
    start_outage(machine, server)
    load_empty(machine.state, FIXED, OTHER, DAILY_ACCOUNT)
    for number, accounts in enumerate([(FIXED, DAILY_ACCOUNT), (FIXED,), (OTHER,), (FIXED,)], 10):
        assert is_taken(machine.take(number, *accounts, money=10))
        assert machine.state.extend(number, minimum=1, requested=5) == 5
    for number in (10, 11, 12):
        machine.state.settle(number, number - 2, 0)
        machine.state.settle(number, 50, 0)
    end_outage(machine, server)
    assert machine.used(FIXED, OTHER, DAILY_ACCOUNT) == [(17, 1), (10, 0), (8, 0)]
    assert machine.state.reservations() == {"one": [1, 13]}
    machine.state.settle(13, 4, 0)
    assert machine.used(FIXED) == [(21, 1)]
    assert machine.state.reservations() == {"one": [1]}


def test_a_call_that_ends_during_the_recovery_is_sent_too(machine, server):
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=0)
    start_outage(machine, server)
    load_empty(machine.state, FIXED)
    for number in (2, 3):
        machine.take(number, FIXED, money=10)
    machine.state.settle(2, 9, 0)
    send = machine.remote.settle_taken_locally

    def during(*arguments, **named):
        machine.remote.settle_taken_locally = send
        machine.state.settle(3, 8, 0)
        send(*arguments, **named)

    machine.remote.settle_taken_locally = during
    end_outage(machine, server)
    assert machine.used(FIXED) == [(17, 0)]


def test_money_spent_before_midnight_does_not_count_on_the_next_day(machine, server, clock):
    load_empty(machine.state, DAILY_ACCOUNT, FIXED)
    machine.take(1, FIXED, money=1)
    start_outage(machine, server)
    load_empty(machine.state, DAILY_ACCOUNT)
    machine.take(2, DAILY_ACCOUNT, money=10)
    machine.state.settle(2, 9, 0)
    clock.advance(DAY)
    machine.take(3, DAILY_ACCOUNT, money=10)
    machine.state.settle(3, 4, 0)
    end_outage(machine, server)
    assert machine.used(DAILY_ACCOUNT) == [(4, 0)]


def test_accounts_are_loaded_again_if_redis_comes_back_empty(machine, server):
    load_empty(machine.state, FIXED, OTHER)
    machine.take(1, FIXED, money=10)
    server.kill()
    assert machine.take(2, FIXED, money=10).unknown
    load_empty(machine.state, FIXED, OTHER)
    machine.take(3, FIXED, OTHER, money=10)
    machine.state.settle(1, 7, 0)
    machine.state.settle(3, 8, 0)
    server.start()
    machine.now_s += OPEN_S
    assert machine.take(4, FIXED, OTHER, money=10).unknown == ("fixed", "other")
    load(machine.state, FIXED, used=15)
    load(machine.state, OTHER, used=8)
    assert is_taken(machine.take(4, FIXED, OTHER, money=10))
    assert machine.used(FIXED, OTHER) == [(15, 10), (8, 10)]


@pytest.mark.parametrize("tries", [0, 1])
def test_money_that_another_machine_has_loaded_is_not_added_again(machine, new_machine, server, clock, tries):
    other = new_machine()
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=0)
    start_outage(machine, server)
    load_empty(machine.state, FIXED)
    machine.take(2, FIXED, money=10)
    machine.state.settle(2, 9, 0)
    try_again(machine, tries)
    clock.advance(1)
    server.resume()
    other.state.forget("fixed")
    load(other.state, FIXED, used=9)
    assert is_taken(other.take(3, FIXED, money=1))
    end_outage(machine, server)
    assert machine.take(4, FIXED, money=1).unknown == ("fixed",)


@pytest.mark.parametrize("tries", [0, 1])
def test_money_whose_confirmation_was_lost_is_not_added_twice(machine, server, tries):
    """Sent call by call, or merged into a credit after a failed try."""
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=0)
    start_outage(machine, server)
    load_empty(machine.state, FIXED)
    machine.take(2, FIXED, money=10)
    machine.state.settle(2, 9, 0)
    try_again(machine, tries)
    server.resume()
    for is_losing in (True, False):
        assert not machine.state.is_shared
        machine.remote.is_losing = is_losing
        try_again(machine)
    assert machine.state.is_shared
    assert machine.take(3, FIXED, money=1).unknown == ("fixed",)


def test_a_remote_reservation_that_a_load_gave_a_local_call_ends_with_it(machine, new_machine, server):
    other = new_machine()
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=0)
    start_outage(machine, server)
    load_empty(machine.state, FIXED)
    for number in (2, 3):
        machine.take(number, FIXED, money=10)
    server.resume()
    other.state.forget("fixed")
    load(other.state, FIXED, running={2: ("one", 10), 3: ("one", 10)})
    machine.state.settle(2, 9, 0)
    assert other.used(FIXED) == [(0, 20)]
    end_outage(machine, server)
    assert other.used(FIXED) == [(9, 10)]
    machine.state.settle(3, 8, 0)
    assert other.used(FIXED) == [(17, 0)]


def test_a_remote_reservation_from_between_two_outages_ends_with_its_local_call(machine, server):
    load_empty(machine.state, FIXED)
    start_outage(machine, server)
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=10)
    end_outage(machine, server)
    machine.state.forget("fixed")
    load(machine.state, FIXED, running={1: ("one", 10)})
    machine.take(2, FIXED, money=0)
    start_outage(machine, server)
    machine.state.settle(1, 9, 0)
    try_again(machine, 2)
    end_outage(machine, server)
    assert machine.used(FIXED) == [(9, 0)]


def test_a_late_reply_does_not_count_as_remote_time(machine, new_machine, server, clock):
    """An account that was loaded after the breaker opened may include what was spent locally."""
    other = new_machine()
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=0)
    clock.advance(1)
    take = machine.remote.take

    def during(requested):
        taken = take(requested)
        start_outage(machine, server)
        server.resume()
        return taken

    machine.remote.take = during
    machine.take(2, FIXED, money=0)
    load_empty(machine.state, FIXED)
    machine.take(3, FIXED, money=10)
    machine.state.settle(3, 9, 0)
    other.state.forget("fixed")
    load(other.state, FIXED, used=9)
    end_outage(machine, server)
    assert other.take(4, FIXED, money=1).unknown == ("fixed",)


def test_accounts_are_loaded_again_in_each_outage(machine, server):
    load_empty(machine.state, FIXED)
    machine.take(3, FIXED, money=0)
    for _ in range(2):
        start_outage(machine, server)
        assert machine.take(1, FIXED, money=1).unknown == ("fixed",)
        load(machine.state, FIXED)
        assert is_taken(machine.take(1, FIXED, money=1))
        machine.state.settle(1, 1, 0)
        end_outage(machine, server)
        assert is_taken(machine.take(2, FIXED, money=1))
        machine.state.settle(2, 1, 0)
    assert machine.used(FIXED) == [(4, 0)]


def test_what_must_be_sent_does_not_grow_with_the_outage(machine, server):
    accounts = Account("rich", 10**6), Account("richer", 10**6)
    load_empty(machine.state, *accounts)
    machine.take(0, *accounts, money=0)
    start_outage(machine, server)
    load_empty(machine.state, *accounts)
    for number in range(1, 501):
        assert is_taken(machine.take(number, *accounts, money=1))
        machine.state.settle(number, number, 0)
        if number % 100 == 0:
            try_again(machine)
    server.resume()
    with Redis.from_url(server.url) as client:
        client.config_resetstat()
        end_outage(machine, server)
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] < 10
    assert machine.used(*accounts) == [(sum(range(501)), 0)] * 2


def test_an_account_reset_during_an_outage_is_loaded_again_after_it(machine, server):
    load_empty(machine.state, FIXED, OTHER)
    start_outage(machine, server)
    load_empty(machine.state, FIXED, OTHER)
    machine.state.forget("fixed")
    assert machine.state.inspect((FIXED, OTHER), ()).unknown == ("fixed",)
    end_outage(machine, server)
    assert machine.state.inspect((FIXED, OTHER), ()).unknown == ("fixed",)
    load_empty(machine.state, FIXED)
    start_outage(machine, server)
    machine.state.forget()
    end_outage(machine, server)
    assert sorted(machine.state.inspect((FIXED, OTHER), ()).unknown) == ["fixed", "other"]


def test_a_reset_whose_confirmation_was_lost_is_repeated(machine, server):
    load_empty(machine.state, FIXED)
    start_outage(machine, server)
    machine.state.forget("fixed")
    server.resume()
    machine.remote.is_losing = True
    try_again(machine)
    machine.remote.is_losing = False
    load(machine.remote, FIXED, used=99)
    try_again(machine)
    assert machine.state.inspect((FIXED,), ()).unknown == ("fixed",)


def test_a_local_state_that_cannot_be_used_does_no_harm_while_redis_replies(server, clock, tmp_path):
    (tmp_path / "file").write_bytes(b"a file in place of the folder")
    state = CircuitBreaker(RedisState(server.url, "own", clock), MmapState(tmp_path / "file", clock))
    load_empty(state, FIXED)
    state.forget("fixed")
    load_empty(state, FIXED)
    assert is_taken(state.take(call(1, [FIXED], money=10)))
    state.settle(1, 7, 0)
    assert state.take(call(2, [FIXED], money=10)).statuses[0].used == 7
    server.hang()
    with pytest.raises(Unavailable):
        state.take(call(3, [FIXED], money=10))
    state.settle(2, 8, 0)
    with pytest.raises(Unavailable):
        state.forget("fixed")
    state.close()


def test_a_call_is_released_in_both_states(machine, server):
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=10)
    start_outage(machine, server)
    load(machine.state, FIXED, running={1: ("one", 10)})
    machine.take(2, FIXED, money=10)
    end_outage(machine, server)
    for number in (1, 2):
        machine.state.release(number)
        machine.state.settle(number, 9, 0)
    assert machine.state.reservations() == {}
    assert machine.used(FIXED) == [(0, 0)]


def test_no_money_is_lost_over_many_outages(machine, server):
    """The used money is the cost of all calls, wherever they were taken and settled."""
    rich = Account("rich", 10**6)
    load_empty(machine.state, rich)
    running: list[int] = []
    spent = 0
    for number in range(300):
        if number % 30 == 10:
            start_outage(machine, server)
        if number % 30 == 20:
            end_outage(machine, server)
        if machine.take(number, rich, money=10).unknown:
            load(machine.state, rich, used=spent, running={one: ("one", 10) for one in running})
            assert is_taken(machine.take(number, rich, money=10))
        running.append(number)
        if len(running) > 7:
            ended = running.pop(number % 7)
            machine.state.settle(ended, ended, 0)
            spent += ended
    for number in running:
        machine.state.settle(number, number, 0)
    assert machine.used(rich) == [(sum(range(300)), 0)]
    assert machine.state.reservations() == {}


@pytest.mark.parametrize("how", ["hang", "kill"])
def test_no_money_of_concurrent_greenlets_is_lost_over_outages(server, tmp_path, how):
    with subprocess.Popen(
        [sys.executable, "-c", SPEND, server.url, "own", tmp_path / "counters", "3"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout.readline() == "ready\n"
        for _ in range(3):
            time.sleep(0.3)
            getattr(server, how)()
            time.sleep(0.3)
            server.resume() if how == "hang" else server.start()
        running.stdin.close()
        spent, used, reserved, calls = map(int, running.stdout.readline().split())
    assert (used, reserved) == (spent, 0)
    assert calls > 1000
