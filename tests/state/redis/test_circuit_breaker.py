"""An outage of the shared state: the machine goes on by itself, says so once, and afterwards knows what was spent."""

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
FIXED, OTHER, DAILY_ONE = Account("fixed", 100), Account("other", 100), Account("daily", 100, DAILY)
OPEN_S = 5

# Greenlets that take at once: how many lines the log has by then, and how long each waited.
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

class Said(logging.Handler):
    count = 0
    def emit(self, record):
        self.count += 1

said = Said()
logging.getLogger().addHandler(said)
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
    print(said.count, *waits, flush=True)
"""

# Greenlets that spend while Redis comes and goes. The books are a dictionary, written before the state is told. Ends by
# telling what was spent, what the shared state says of it after it was told everything, and how many calls there were.
SPEND = """
from gevent import monkey
monkey.patch_all()
import random, sys, time
from pathlib import Path
import gevent
from gproxy.errors import Unavailable
from gproxy.state.interface import Account, Limit, Take
from gproxy.state.redis.circuit_breaker import CircuitBreaker
from gproxy.state.mmap.state import MmapState
from gproxy.state.redis.state import RedisState

state = CircuitBreaker(RedisState(*sys.argv[1:3]), MmapState(Path(sys.argv[3])), open_s=0.4)
account, settled, running, dice = Account("rich", 10**9), {}, {}, random.Random(5)
calls = iter(range(1, 10**9))

def load():
    while account.key in state.look((account,), ()).unknown:
        version = state.version(account.key)
        books, open_calls = dict(settled), {call: ("one", 10) for call in running}
        gevent.sleep(0.002)
        state.load(account.key, version, 0, 0, books, open_calls)

def spend(until):
    while time.monotonic() < until:
        call = next(calls)
        while state.take(Take(call, "one", (account,), (), 10, 0)).unknown:
            load()
        running[call] = True
        gevent.sleep(dice.random() * 0.1)
        del running[call]
        settled[call] = call
        state.settle(call, call, 0)

until = time.monotonic() + float(sys.argv[4])
print("ready", flush=True)
gevent.joinall([gevent.spawn(spend, until) for _ in range(50)], raise_error=True)
sys.stdin.read()
while not state.is_shared or account.key in state.look((account,), ()).unknown:
    gevent.sleep(0.05)
    state.renew("one")
    load()
(found,) = RedisState(*sys.argv[1:3], timeout_s=10).look((account,), ()).statuses
print(sum(settled.values()), found.used, found.held, len(settled))
"""


class Losing(RedisState):
    """Redis as it is when an answer is lost: what was asked is done, and nobody knows."""

    is_losing = False

    def credit(self, *arguments) -> None:
        super().credit(*arguments)
        self._lose()

    def settle_elsewhere(self, *arguments, **named) -> None:
        super().settle_elsewhere(*arguments, **named)
        self._lose()

    def forget(self, account: str | None = None) -> None:
        super().forget(account)
        self._lose()

    def _lose(self) -> None:
        if self.is_losing:
            raise Unavailable("the answer is lost")


class Machine:
    """A machine's two states, and the breaker's clock. Its own clock and Redis's are one here."""

    def __init__(self, url: str, folder: Path, clock: Clock):
        self.remote, self.local = Losing(url, "own", clock), MmapState(folder, clock)
        self.now_s = 0.0
        self.state = CircuitBreaker(self.remote, self.local, lambda: self.now_s, OPEN_S)

    def take(self, number: int, *accounts: Account, money: int = 0, limits=()) -> Taken:
        return self.state.take(call(number, accounts, limits, money=money))

    def used(self, *accounts: Account) -> list[tuple[int, int]]:
        """Used and held of each, as the shared state knows it."""
        return [one[6:] for one in self.remote.look(accounts, ()).statuses]

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


def lose(machine: Machine, server: redis.Server) -> None:
    """Redis hangs, and the machine finds out."""
    server.hang()
    machine.state.renew("one")
    assert not machine.state.is_shared


def find(machine: Machine, server: redis.Server) -> None:
    """Redis answers again, as if nothing had been, and the machine finds out."""
    server.go_on()
    try_again(machine)
    assert machine.state.is_shared


def try_again(machine: Machine, times: int = 1) -> None:
    for _ in range(times):
        machine.now_s += OPEN_S
        machine.state.renew("one")


def said(caplog) -> list[str]:
    return [record.levelname for record in caplog.records if record.name == "gproxy.state.redis.circuit_breaker"]


# The breaker


def test_while_redis_answers_it_alone_counts(machine):
    limit = Limit("user", rpm=5)
    load_empty(machine.state, FIXED, limit)
    assert is_taken(machine.take(1, FIXED, money=10, limits=[limit]))
    assert machine.state.extend(1, need=1, wish=5) == 5
    assert machine.state.holds() == machine.remote.holds() == {"one": [1]}
    assert machine.local.holds() == {}
    machine.state.settle(1, 7, 0)
    assert machine.used(FIXED) == [(7, 0)]
    assert sorted(machine.local.look((FIXED,), (limit,)).unknown) == ["fixed", "user"]


@pytest.mark.parametrize("how", ["kill", "hang"])
def test_an_outage_is_said_once_and_costs_one_call_a_moment(machine, server, caplog, how):
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
    for _ in range(3):  # tries again, in vain
        machine.now_s += OPEN_S
        machine.take(20, limits=[limit])
    assert said(caplog) == ["WARNING"]
    server.go_on() if how == "hang" else server.start()
    machine.now_s += OPEN_S
    assert is_taken(machine.take(21, limits=[limit])) == (how == "hang")
    assert machine.state.is_shared is True
    assert said(caplog) == ["WARNING", "INFO"]


def test_nobody_tries_before_its_time(machine, server):
    lose(machine, server)
    server.go_on()
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
            said, *waits = running.stdout.readline().split()
            return int(said), sorted(float(wait) for wait in waits)

        assert take(1)[0] == 0
        server.hang()
        assert take(50)[0] == 1
        said, (*others, longest) = take(50)
        assert said == 1
        assert 0.09 < longest < 0.3
        assert others[-1] < 0.09
        server.go_on()
        said, waits = take(50)
        assert waits[-1] < 0.3
        running.stdin.close()


# What ran when it began


def test_a_call_from_before_is_settled_when_redis_is_back(machine, server):
    load_empty(machine.state, FIXED, DAILY_ONE)
    for number in (1, 2, 3):
        assert is_taken(machine.take(number, FIXED, DAILY_ONE, money=10))
    lose(machine, server)
    machine.state.settle(1, 7, 0)
    machine.state.settle(2, 5, 0)
    assert machine.state.extend(3, need=1, wish=50) == 50
    find(machine, server)
    assert machine.used(FIXED, DAILY_ONE) == [(12, 10), (12, 10)]
    machine.state.settle(3, 60, 0)
    assert machine.used(FIXED, DAILY_ONE) == [(72, 0), (72, 0)]


def test_a_settlement_that_finds_redis_gone_is_kept(machine, server):
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=10)
    server.hang()
    machine.state.settle(1, 7, 0)
    assert not machine.state.is_shared
    find(machine, server)
    assert machine.used(FIXED) == [(7, 0)]


def test_a_call_from_before_is_no_longer_held_here_when_it_ends(machine, server):
    """To load an account during the outage gave its running call a hold here."""
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=10)
    lose(machine, server)
    load(machine.state, FIXED, running={1: ("one", 10)})
    assert machine.local.holds() == machine.state.holds() == {"one": [1]}
    find(machine, server)
    assert machine.state.holds() == {"one": [1]}
    machine.state.settle(1, 7, 0)
    assert machine.state.holds() == machine.local.holds() == {}


@pytest.mark.parametrize("is_taken_here", [True, False])
def test_a_take_whose_answer_was_lost_is_held_while_the_call_runs(machine, server, is_taken_here):
    load_empty(machine.state, FIXED)
    machine.take(9, FIXED, money=0)  # Redis knows the script from here on
    server.hang()
    assert machine.take(1, FIXED, money=10).unknown == ("fixed",)
    if is_taken_here:
        load(machine.state, FIXED)
        assert is_taken(machine.take(1, FIXED, money=10))
    server.go_on()
    until = time.monotonic() + 5
    while machine.used(FIXED) != [(0, 10)]:
        assert time.monotonic() < until
    find(machine, server)
    if is_taken_here:
        assert machine.used(FIXED) == [(0, 10)]
        machine.state.settle(1, 7, 0)
        assert machine.used(FIXED) == [(7, 0)]
    else:
        assert machine.used(FIXED) == [(0, 0)]


@pytest.mark.parametrize("tries", [0, 2])
def test_a_take_whose_answer_was_lost_is_settled_like_others(machine, server, tries):
    load_empty(machine.state, FIXED, OTHER)
    machine.take(9, FIXED, money=0)
    lose(machine, server)
    load_empty(machine.state, FIXED)
    find(machine, server)
    server.hang()
    machine.take(1, FIXED, money=10)
    load_empty(machine.state, FIXED)
    assert is_taken(machine.take(1, FIXED, money=10))
    machine.state.settle(1, 7, 0)
    try_again(machine, tries)
    find(machine, server)
    assert machine.used(FIXED) == [(7, 0)]


# What was counted here


def test_what_was_spent_here_is_added_when_redis_is_back(machine, server):
    load_empty(machine.state, FIXED, OTHER, DAILY_ONE)
    machine.take(1, FIXED, money=1)
    lose(machine, server)
    load_empty(machine.state, FIXED, OTHER, DAILY_ONE)
    for number, accounts in enumerate([(FIXED, DAILY_ONE), (FIXED,), (OTHER,), (FIXED,)], 10):
        assert is_taken(machine.take(number, *accounts, money=10))
        assert machine.state.extend(number, need=1, wish=5) == 5
    for number in (10, 11, 12):
        machine.state.settle(number, number - 2, 0)
        machine.state.settle(number, 50, 0)
    find(machine, server)
    assert machine.used(FIXED, OTHER, DAILY_ONE) == [(17, 1), (10, 0), (8, 0)]
    assert machine.state.holds() == {"one": [1, 13]}
    machine.state.settle(13, 4, 0)
    assert machine.used(FIXED) == [(21, 1)]
    assert machine.state.holds() == {"one": [1]}


def test_a_call_that_ends_while_the_others_are_told_is_told_too(machine, server):
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=0)
    lose(machine, server)
    load_empty(machine.state, FIXED)
    for number in (2, 3):
        machine.take(number, FIXED, money=10)
    machine.state.settle(2, 9, 0)
    tell = machine.remote.settle_elsewhere

    def meanwhile(*arguments, **named):
        machine.remote.settle_elsewhere = tell
        machine.state.settle(3, 8, 0)
        tell(*arguments, **named)

    machine.remote.settle_elsewhere = meanwhile
    find(machine, server)
    assert machine.used(FIXED) == [(17, 0)]


def test_what_was_spent_before_midnight_is_not_taken_from_the_next_day(machine, server, clock):
    load_empty(machine.state, DAILY_ONE, FIXED)
    machine.take(1, FIXED, money=1)
    lose(machine, server)
    load_empty(machine.state, DAILY_ONE)
    machine.take(2, DAILY_ONE, money=10)
    machine.state.settle(2, 9, 0)
    clock.turn(DAY)
    machine.take(3, DAILY_ONE, money=10)
    machine.state.settle(3, 4, 0)
    find(machine, server)
    assert machine.used(DAILY_ONE) == [(4, 0)]


def test_a_redis_that_comes_back_empty_has_the_books_read(machine, server):
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
def test_what_another_machine_found_in_the_books_is_not_added_again(machine, new_machine, server, clock, tries):
    other = new_machine()
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=0)
    lose(machine, server)
    load_empty(machine.state, FIXED)
    machine.take(2, FIXED, money=10)
    machine.state.settle(2, 9, 0)
    try_again(machine, tries)
    clock.turn(1)
    server.go_on()
    other.state.forget("fixed")
    load(other.state, FIXED, used=9)
    assert is_taken(other.take(3, FIXED, money=1))
    find(machine, server)
    assert machine.take(4, FIXED, money=1).unknown == ("fixed",)


@pytest.mark.parametrize("tries", [0, 1])
def test_money_whose_receipt_was_lost_is_not_added_twice(machine, server, tries):
    """Told call by call, or as a sum after a try in vain."""
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=0)
    lose(machine, server)
    load_empty(machine.state, FIXED)
    machine.take(2, FIXED, money=10)
    machine.state.settle(2, 9, 0)
    try_again(machine, tries)
    server.go_on()
    for is_losing in (True, False):
        assert not machine.state.is_shared
        machine.remote.is_losing = is_losing
        try_again(machine)
    assert machine.state.is_shared
    assert machine.take(3, FIXED, money=1).unknown == ("fixed",)


def test_a_hold_that_another_worker_gave_a_call_of_here_ends_with_it(machine, new_machine, server):
    other = new_machine()
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=0)
    lose(machine, server)
    load_empty(machine.state, FIXED)
    for number in (2, 3):
        machine.take(number, FIXED, money=10)
    server.go_on()
    other.state.forget("fixed")
    load(other.state, FIXED, running={2: ("one", 10), 3: ("one", 10)})
    machine.state.settle(2, 9, 0)
    assert other.used(FIXED) == [(0, 20)]
    find(machine, server)
    assert other.used(FIXED) == [(9, 10)]
    machine.state.settle(3, 8, 0)
    assert other.used(FIXED) == [(17, 0)]


def test_a_hold_that_a_call_of_here_was_given_between_two_outages_ends_with_it(machine, server):
    load_empty(machine.state, FIXED)
    lose(machine, server)
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=10)
    find(machine, server)
    machine.state.forget("fixed")
    load(machine.state, FIXED, running={1: ("one", 10)})
    machine.take(2, FIXED, money=0)
    lose(machine, server)
    machine.state.settle(1, 9, 0)
    try_again(machine, 2)
    find(machine, server)
    assert machine.used(FIXED) == [(9, 0)]


def test_an_answer_that_comes_when_others_gave_up_is_no_sign_of_life(machine, new_machine, server, clock):
    """What was loaded after they did may know of what was spent here."""
    other = new_machine()
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=0)
    clock.turn(1)
    answer = machine.remote.take

    def meanwhile(take):
        taken = answer(take)
        lose(machine, server)
        server.go_on()
        return taken

    machine.remote.take = meanwhile
    machine.take(2, FIXED, money=0)
    load_empty(machine.state, FIXED)
    machine.take(3, FIXED, money=10)
    machine.state.settle(3, 9, 0)
    other.state.forget("fixed")
    load(other.state, FIXED, used=9)
    find(machine, server)
    assert other.take(4, FIXED, money=1).unknown == ("fixed",)


def test_a_second_outage_begins_with_the_books(machine, server):
    load_empty(machine.state, FIXED)
    machine.take(3, FIXED, money=0)
    for _ in range(2):
        lose(machine, server)
        assert machine.take(1, FIXED, money=1).unknown == ("fixed",)
        load(machine.state, FIXED)
        assert is_taken(machine.take(1, FIXED, money=1))
        machine.state.settle(1, 1, 0)
        find(machine, server)
        assert is_taken(machine.take(2, FIXED, money=1))
        machine.state.settle(2, 1, 0)
    assert machine.used(FIXED) == [(4, 0)]


def test_what_an_outage_leaves_to_be_told_does_not_grow_with_it(machine, server):
    accounts = Account("rich", 10**6), Account("richer", 10**6)
    load_empty(machine.state, *accounts)
    machine.take(0, *accounts, money=0)
    lose(machine, server)
    load_empty(machine.state, *accounts)
    for number in range(1, 501):
        assert is_taken(machine.take(number, *accounts, money=1))
        machine.state.settle(number, number, 0)
        if number % 100 == 0:
            try_again(machine)
    server.go_on()
    with Redis.from_url(server.url) as client:
        client.config_resetstat()
        find(machine, server)
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] < 10
    assert machine.used(*accounts) == [(sum(range(501)), 0)] * 2


def test_what_an_operator_resets_during_an_outage_is_loaded_again_after_it(machine, server):
    load_empty(machine.state, FIXED, OTHER)
    lose(machine, server)
    load_empty(machine.state, FIXED, OTHER)
    machine.state.forget("fixed")
    assert machine.state.look((FIXED, OTHER), ()).unknown == ("fixed",)
    find(machine, server)
    assert machine.state.look((FIXED, OTHER), ()).unknown == ("fixed",)
    load_empty(machine.state, FIXED)
    lose(machine, server)
    machine.state.forget()
    find(machine, server)
    assert sorted(machine.state.look((FIXED, OTHER), ()).unknown) == ["fixed", "other"]


def test_a_reset_whose_receipt_was_lost_is_made_again(machine, server):
    load_empty(machine.state, FIXED)
    lose(machine, server)
    machine.state.forget("fixed")
    server.go_on()
    machine.remote.is_losing = True
    try_again(machine)
    machine.remote.is_losing = False
    load(machine.remote, FIXED, used=99)
    try_again(machine)
    assert machine.state.look((FIXED,), ()).unknown == ("fixed",)


def test_a_local_state_that_cannot_be_used_is_in_nobodys_way_while_redis_answers(server, clock, tmp_path):
    (tmp_path / "file").write_bytes(b"a file in the way")
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


def test_a_released_call_is_freed_wherever_it_is_held(machine, server):
    load_empty(machine.state, FIXED)
    machine.take(1, FIXED, money=10)
    lose(machine, server)
    load(machine.state, FIXED, running={1: ("one", 10)})
    machine.take(2, FIXED, money=10)
    find(machine, server)
    for number in (1, 2):
        machine.state.release(number)
        machine.state.settle(number, 9, 0)
    assert machine.state.holds() == {}
    assert machine.used(FIXED) == [(0, 0)]


def test_money_is_known_after_many_outages(machine, server):
    """What is used afterwards is what every call cost, wherever it was taken and settled."""
    rich = Account("rich", 10**6)
    load_empty(machine.state, rich)
    running: list[int] = []
    spent = 0
    for number in range(300):
        if number % 30 == 10:
            lose(machine, server)
        if number % 30 == 20:
            find(machine, server)
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
    assert machine.state.holds() == {}


@pytest.mark.parametrize("how", ["hang", "kill"])
def test_greenlets_that_spend_through_outages_are_all_counted(server, tmp_path, how):
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
            server.go_on() if how == "hang" else server.start()
        running.stdin.close()
        spent, used, held, calls = map(int, running.stdout.readline().split())
    assert (used, held) == (spent, 0)
    assert calls > 1000
