"""What only Redis brings with it: its clock, its keys, lost scripts, lost state, machines that die, and its absence."""

import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis import Redis

from gproxy.errors import Unavailable
from gproxy.state.interface import Account, Limit
from gproxy.state.periods import DAY as DAILY
from gproxy.state.periods import window
from gproxy.state.redis import state as redis_state
from gproxy.state.redis.state import RedisState
from tests import redis
from tests.state_helpers import DAY, HOUR, MONDAY, NS, Clock, call, is_taken, load, load_empty, standing

ROOT = Path(__file__).resolve().parents[3]
FIXED, DAILY_ONE = Account("fixed", 100), Account("daily", 100, DAILY)
EVERYTHING = Limit("user", rpm=100, rpd=100, total_tokens=100, concurrency=100)

# Takes in many greenlets while another looks how late it gets its turn.
GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from gproxy.errors import Unavailable
from gproxy.state.interface import Limit, Take
from gproxy.state.redis.state import RedisState

state = RedisState(*sys.argv[1:3])
latest = 0

def watch():
    global latest
    while True:
        before = time.perf_counter()
        gevent.sleep(0.005)
        latest = max(latest, time.perf_counter() - before)

def take(number):
    before = time.perf_counter()
    try:
        state.take(Take(number, "one", (), (Limit("user", rpm=1000),), 0, 0))
        return True, 0
    except Unavailable:
        return False, time.perf_counter() - before

watching = gevent.spawn(watch)
print("ready", flush=True)
for count in map(int, sys.stdin):
    taking = [gevent.spawn(take, number) for number in range(count)]
    found = [one.get() for one in taking]
    print(sum(passed for passed, _ in found), max(waited for _, waited in found), latest, flush=True)
    latest = 0
"""


@pytest.fixture
def where(pytestconfig) -> tuple[str, str]:
    return redis.fresh(pytestconfig)


@pytest.fixture
def client(where) -> Iterator[Redis]:
    with Redis.from_url(where[0], decode_responses=True) as found:
        yield found


@pytest.fixture
def opened() -> Iterator[Callable[..., RedisState]]:
    """Opens states that are closed in the end."""
    made: list[RedisState] = []

    def open_one(url: str, prefix: str, clock=None, timeout_s: float = 10) -> RedisState:
        made.append(RedisState(url, prefix, clock, timeout_s))
        return made[-1]

    yield open_one
    for state in made:
        state.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(opened, where, clock) -> RedisState:
    return opened(*where, clock)


def keys(client: Redis, prefix: str) -> list[str]:
    return sorted(client.scan_iter(f"*{prefix}*"))


# Keys and scripts


def test_every_key_begins_with_one_hash_tag_and_expires(state, client, where):
    state.forget()
    load_empty(state, FIXED, DAILY_ONE, EVERYTHING)
    state.take(call(1, [FIXED, DAILY_ONE], [EVERYTHING], money=5, tokens=7))
    state.load_limit("other", {}, [MONDAY * NS], {2: ("two", MONDAY * NS, 5)})
    state.renew("three")
    state.forget("never loaded")
    found = keys(client, where[1])
    assert len(found) >= 12
    assert all(key.startswith(f"gproxy:{{{where[1]}}}:") for key in found)
    # One number for all accounts stays: if it began again, what was forgotten would be known again.
    assert {key.rpartition(":")[2] for key in found if client.ttl(key) < 0} == {"epoch"}
    assert all(client.ttl(key) <= (61 if ":minute:" in key else 26 * HOUR) for key in found)


def test_what_ended_leaves_no_hold_behind(state, client, where):
    load_empty(state, FIXED, EVERYTHING)
    before = keys(client, where[1])
    for number in range(50):
        assert is_taken(state.take(call(number, [FIXED], [EVERYTHING], money=2, tokens=2)))
        if number % 2:
            state.settle(number, 1, 1)
        else:
            state.release(number)
    left = set(keys(client, where[1])) - set(before)
    assert {key.rpartition("}:")[2] for key in left} == {"leases", "minute:user"}


def test_two_prefixes_are_two_states(opened, where):
    one, other = opened(*where), opened(where[0], where[1] + "x")
    load_empty(one, FIXED)
    assert other.look((FIXED,), ()).unknown == ("fixed",)


def test_a_take_and_a_settlement_are_one_round_trip_each(state, client):
    load_empty(state, FIXED, DAILY_ONE, EVERYTHING)
    state.take(call(1, [FIXED], money=1))
    state.settle(1, 1, 1)
    client.config_resetstat()
    state.take(call(2, [FIXED, DAILY_ONE], [EVERYTHING], money=5, tokens=7))
    state.settle(2, 4, 5)
    told = client.info("commandstats")
    assert told["cmdstat_evalsha"]["calls"] == 2
    assert "cmdstat_eval" not in told


def test_scripts_that_redis_forgot_are_sent_again(state, client):
    load_empty(state, FIXED, EVERYTHING)
    for number in (1, 2):
        client.script_flush()
        assert is_taken(state.take(call(number, [FIXED], [EVERYTHING], money=5)))
        client.script_flush()
        state.settle(number, 4, 0)
    assert standing(state.look((FIXED,), ()), "fixed").used == 8


# The clock


def test_the_time_is_that_of_redis(opened, where, client):
    state = opened(*where)
    seconds, micros = client.time()
    taken = state.take(call(1))
    assert 0 <= taken.at / NS - (seconds + micros / 1_000_000) < 5


@pytest.mark.parametrize("ahead", [-40 * DAY, -DAY, DAY, 400 * DAY])
def test_windows_are_those_of_redis_whatever_our_own_clock_says(opened, where, client, monkeypatch, ahead):
    state, now_s = opened(*where), client.time()[0]
    accounts = [Account(period, 100, period) for period in ("day", "week", "month")]
    for account in accounts:
        load(state, account, now_ns=now_s * NS)
    state.take(call(1, accounts, money=1))
    monkeypatch.setattr(redis_state, "time", SimpleNamespace(time=lambda: now_s + ahead))
    client.config_resetstat()
    for number in range(2, 5):
        taken = state.take(call(number, accounts, money=1))
        assert [one.held for one in taken.statuses] == [number] * 3
        for one, account in zip(taken.statuses, accounts, strict=True):
            assert one.reset_s == pytest.approx(window(account.period, now_s)[1] - now_s, abs=60)
    # The difference was learned with the first.
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 4


# Lost state


def test_a_call_whose_hold_was_lost_has_its_accounts_loaded_again(state, client):
    load_empty(state, FIXED, DAILY_ONE)
    state.take(call(1, [FIXED], money=20))
    client.flushdb()
    load_empty(state, FIXED, DAILY_ONE)
    state.settle(1, 15, 0)
    assert state.look((FIXED, DAILY_ONE), ()).unknown == ("fixed",)
    load(state, FIXED, used=15)
    state.settle(1, 15, 0)
    assert standing(state.look((FIXED,), ()), "fixed").used == 15


def test_a_load_does_not_give_a_hold_to_a_call_that_ended_while_it_read(state, client):
    load_empty(state, FIXED)
    state.take(call(1, [FIXED], money=20))
    client.flushdb()
    version = state.version("fixed")
    state.settle(1, 15, 0)
    assert state.load("fixed", version, 0, 0, {}, {1: ("one", 20)}) is False
    assert state.holds() == {}


def test_a_running_call_whose_hold_was_lost_gets_its_wish(state, client):
    load_empty(state, FIXED)
    state.take(call(1, [FIXED], money=20))
    client.flushdb()
    assert state.extend(1, need=1, wish=500) == 500
    state.settle(1, 300, 0)
    assert state.extend(1, need=1, wish=500) == 0


# Machines that die


def test_holds_of_a_silent_owner_are_freed_and_others_are_not(state, clock):
    limit = Limit("user", total_tokens=100, concurrency=10)
    load_empty(state, FIXED, limit)
    state.take(call(1, [FIXED], [limit], money=20, tokens=30, owner="silent"))
    state.take(call(2, [FIXED], [limit], money=5, tokens=7, owner="busy"))
    state.load_limit("other", {}, [], {3: ("booked", clock.now, 0)})
    clock.turn(29)
    state.renew("idle")
    state.take(call(4, [FIXED], money=1, owner="busy"))
    assert {owner: sorted(calls) for owner, calls in state.holds().items()} == {
        "silent": [1],
        "busy": [2, 4],
        "booked": [3],
    }
    clock.turn(1.000001)
    state.renew("idle")
    assert {owner: sorted(calls) for owner, calls in state.holds().items()} == {"busy": [2, 4]}
    taken = state.look((FIXED,), (limit,))
    assert [one.remaining for one in taken.statuses] == [94, 63, 9]


def test_an_owner_that_renews_keeps_what_it_holds_for_a_day_and_an_hour(state, clock):
    load_empty(state, FIXED)
    state.take(call(1, [FIXED], money=20))
    for _ in range(25 * HOUR // 30 - 1):
        clock.turn(30)
        state.renew("one")
    assert state.holds() == {"one": [1]}
    clock.turn(30)
    state.renew("one")
    assert state.holds() == {}
    assert standing(state.look((FIXED,), ()), "fixed").held == 0


def test_as_many_holds_are_freed_as_there_are(state, clock, client, where):
    rich = Account("rich", 10_000)
    load_empty(state, rich)
    for number in range(450):
        state.take(call(number, [rich], money=1, owner=f"owner-{number // 300}"))
    clock.turn(31)
    state.renew("living")
    assert state.holds() == {}
    assert standing(state.look((rich,), ()), "rich").held == 0
    assert client.zrange(f"gproxy:{{{where[1]}}}:leases", 0, -1) == ["living"]


def test_a_hold_that_expired_is_in_nobodys_way(state, clock, client, where):
    load_empty(state, FIXED)
    for number in range(redis_state.FREED_AT_ONCE + 1):
        state.take(call(number, [FIXED], owner="silent"))
    client.delete(*client.scan_iter(f"*{where[1]}*:hold:*"))
    clock.turn(31)
    state.renew("living")
    assert state.holds() == {}


# Money spent elsewhere


def test_credit_is_added_to_an_account_that_was_loaded_before(state, clock):
    load_empty(state, FIXED, DAILY_ONE)
    since = clock.now
    version = state.version("fixed")
    clock.turn(10)
    state.take(call(1, [FIXED, DAILY_ONE], money=3))
    for account in ("fixed", "daily"):
        state.credit(account, window(None if account == "fixed" else DAILY, MONDAY)[0], 20, since)
    assert [one[6:] for one in state.look((FIXED, DAILY_ONE), ()).statuses] == [(20, 3), (20, 3)]
    assert state.version("fixed") > version


def test_credit_for_an_account_that_was_loaded_later_has_it_loaded_again(state, clock):
    since = clock.now
    clock.turn(10)
    load_empty(state, FIXED)
    state.take(call(1, [FIXED], money=3))
    version = state.version("fixed")
    state.credit("fixed", 0, 20, since)
    assert state.look((FIXED,), ()).unknown == ("fixed",)
    assert state.load("fixed", version, 0, 0, {}, {}) is False
    load(state, FIXED, used=20)
    assert standing(state.look((FIXED,), ()), "fixed")[6:] == (20, 3)


def test_credit_goes_to_its_window(state, clock):
    load_empty(state, DAILY_ONE)
    yesterday, since = window(DAILY, MONDAY)[0], clock.now
    clock.turn(DAY)
    state.credit("daily", yesterday + DAY, 20, since)
    state.credit("daily", yesterday, 50, since)
    assert standing(state.look((DAILY_ONE,), ()), "daily").used == 20


def test_credit_for_an_account_that_nobody_knows_is_left_to_the_books(state, clock):
    state.credit("fixed", 0, 20, clock.now)
    assert state.look((FIXED,), ()).unknown == ("fixed",)
    load(state, FIXED, used=20)
    assert standing(state.look((FIXED,), ()), "fixed").used == 20


def test_a_call_that_was_taken_elsewhere_is_settled_where_a_load_gave_it_a_hold_and_credited_elsewhere(state, clock):
    limit = Limit("user", total_tokens=100, concurrency=5)
    load(state, FIXED, running={1: ("one", 20)})
    load_empty(state, DAILY_ONE)
    state.load_limit("user", {clock.now // (HOUR * NS): (1, 30)}, [], {1: ("one", clock.now, 30)})
    places = [("fixed", 0), ("daily", window(DAILY, MONDAY)[0])]
    state.settle_elsewhere(1, 15, 10, places, since=clock.now)
    taken = state.look((FIXED, DAILY_ONE), (limit,))
    assert [one.remaining for one in taken.statuses] == [85, 85, 90, 5]
    state.settle_elsewhere(1, 15, 10, places, since=0)
    assert sorted(state.look((FIXED, DAILY_ONE), ()).unknown) == ["daily", "fixed"]


# Absence


def told(state: RedisState) -> tuple[Unavailable, float]:
    """How a take fails, and after how long."""
    before = time.perf_counter()
    with pytest.raises(Unavailable) as caught:
        state.take(call(1))
    return caught.value, time.perf_counter() - before


@pytest.mark.parametrize("function", ["take", "settle", "renew"])
def test_a_fault_tells_nothing_of_the_address(opened, function):
    state = opened("redis://user:hunter2@127.0.0.1:1/0", "none", timeout_s=0.1)
    functions = {
        "take": lambda: state.take(call(1)),
        "settle": lambda: state.settle(1, 1, 1),
        "renew": lambda: state.renew(""),
    }
    with pytest.raises(Unavailable) as caught:
        functions[function]()
    assert caught.value.message == "unavailable: the shared state cannot be reached"
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_password_that_redis_does_not_take_is_an_absence(opened, where):
    fault, _ = told(opened(where[0].replace("//", "//user:hunter2@"), where[1]))
    assert "hunter2" not in "".join(traceback.format_exception(fault))


def test_redis_that_was_killed_is_used_again_when_it_is_back(opened):
    with redis.server() as server:
        state = opened(server.url, "own", timeout_s=0.1)
        load_empty(state, FIXED)
        assert is_taken(state.take(call(1, [FIXED], money=1)))
        server.kill()
        for _ in range(3):
            assert told(state)[1] < 0.1
        server.start()
        assert state.take(call(2, [FIXED], money=1)).unknown == ("fixed",)
        load_empty(state, FIXED)
        assert is_taken(state.take(call(3, [FIXED], money=1)))


def test_a_settlement_that_failed_can_be_made_again(opened):
    with redis.server() as server:
        state = opened(server.url, "own", timeout_s=0.1)
        load_empty(state, FIXED)
        state.take(call(1, [FIXED], money=10))
        for _ in range(2):
            server.kill()
            with pytest.raises(Unavailable):
                state.settle(1, 7, 0)
            server.start()
        load_empty(state, FIXED)
        state.settle(1, 7, 0)
        assert state.look((FIXED,), ()).unknown == ("fixed",)


def test_redis_that_hangs_is_not_waited_for(opened):
    with redis.server() as server:
        state = opened(server.url, "own", timeout_s=0.1)
        state.take(call(1))
        server.hang()
        for _ in range(3):
            _, waited = told(state)
            assert 0.09 < waited < 0.2
        server.go_on()
        assert is_taken(state.take(call(2)))


def test_many_greenlets_share_few_connections_and_none_stops_the_others():
    with redis.server() as server:
        state = RedisState(server.url, "own")
        state.load_limit("user", {}, [], {})
        state.close()
        with subprocess.Popen(
            [sys.executable, "-c", GREENLETS, server.url, "own"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as running:

            def take(count: int) -> list[float]:
                running.stdin.write(f"{count}\n")
                running.stdin.flush()
                return [float(word) for word in running.stdout.readline().split()]

            assert running.stdout.readline() == "ready\n"
            passed, _, late = take(200)
            assert (passed, late < 0.1) == (200, True)
            with Redis.from_url(server.url) as client:
                assert client.info("clients")["connected_clients"] <= redis_state.MAX_CONNECTIONS + 1
            server.hang()
            passed, waited, late = take(300)
            assert (passed, waited < 0.5, late < 0.1) == (0, True, True)
            server.go_on()
            running.stdin.close()


def test_redis_is_imported_only_where_it_is_used():
    work = "import sys, gproxy.state.redis.circuit_breaker, gproxy.state.mmap.state; assert 'redis' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", work], cwd=ROOT, check=False).returncode == 0
