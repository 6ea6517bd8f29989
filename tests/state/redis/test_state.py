"""What only the state in Redis has: its clock and keys, lost scripts, lost data, crashed machines, and outages."""

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
from gproxy.state.interface import Account, AccountAmounts, Limit
from gproxy.state.periods import DAY as DAILY
from gproxy.state.periods import window
from gproxy.state.redis import state as redis_state
from gproxy.state.redis.state import RedisState
from tests import redis
from tests.state_helpers import DAY, HOUR, MONDAY, NS, Clock, call, is_taken, load, load_empty, status_of

ROOT = Path(__file__).resolve().parents[3]
FIXED, DAILY_ACCOUNT = Account("fixed", 100), Account("daily", 100, DAILY)
EVERYTHING = Limit("user", rpm=100, rpd=100, total_tokens=100, concurrency=100)

# Takes in many greenlets while another measures how late it runs.
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
    """Returns a function that opens states; all are closed after the test."""
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
    load_empty(state, FIXED, DAILY_ACCOUNT, EVERYTHING)
    state.take(call(1, [FIXED, DAILY_ACCOUNT], [EVERYTHING], money=5, tokens=7))
    state.load_limit("other", {}, [MONDAY * NS], {2: ("two", MONDAY * NS, 5)})
    state.renew("three")
    state.forget("never loaded")
    found = keys(client, where[1])
    assert len(found) >= 12
    assert all(key.startswith(f"gproxy:{{{where[1]}}}:") for key in found)
    # The epoch of all accounts stays: if it started again, forgotten accounts would count as loaded.
    assert {key.rpartition(":")[2] for key in found if client.ttl(key) < 0} == {"epoch"}
    assert all(client.ttl(key) <= (61 if ":minute:" in key else 26 * HOUR) for key in found)


def test_ended_calls_leave_no_reservation_behind(state, client, where):
    load_empty(state, FIXED, EVERYTHING)
    before = keys(client, where[1])
    for number in range(50):
        assert is_taken(state.take(call(number, [FIXED], [EVERYTHING], money=2, tokens=2)))
        if number % 2:
            state.settle(number, 1, 1)
        else:
            state.release(number)
    added = set(keys(client, where[1])) - set(before)
    assert {key.rpartition("}:")[2] for key in added} == {"leases", "minute:user"}


def test_two_prefixes_are_two_states(opened, where):
    one, other = opened(*where), opened(where[0], where[1] + "x")
    load_empty(one, FIXED)
    assert other.inspect((FIXED,), ()).unknown == ("fixed",)


def test_a_take_and_a_settlement_are_one_round_trip_each(state, client):
    load_empty(state, FIXED, DAILY_ACCOUNT, EVERYTHING)
    state.take(call(1, [FIXED], money=1))
    state.settle(1, 1, 1)
    client.config_resetstat()
    state.take(call(2, [FIXED, DAILY_ACCOUNT], [EVERYTHING], money=5, tokens=7))
    state.settle(2, 4, 5)
    stats = client.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 2
    assert "cmdstat_eval" not in stats


def test_scripts_that_redis_forgot_are_sent_again(state, client):
    load_empty(state, FIXED, EVERYTHING)
    for number in (1, 2):
        client.script_flush()
        assert is_taken(state.take(call(number, [FIXED], [EVERYTHING], money=5)))
        client.script_flush()
        state.settle(number, 4, 0)
    assert status_of(state.inspect((FIXED,), ()), "fixed").used == 8


# The clock


def test_the_time_is_that_of_redis(opened, where, client):
    state = opened(*where)
    seconds, micros = client.time()
    taken = state.take(call(1))
    assert 0 <= taken.at / NS - (seconds + micros / 1_000_000) < 5


@pytest.mark.parametrize("ahead", [-40 * DAY, -DAY, DAY, 400 * DAY])
def test_windows_follow_the_clock_of_redis_and_not_ours(opened, where, client, monkeypatch, ahead):
    state, now_s = opened(*where), client.time()[0]
    accounts = [Account(period, 100, period) for period in ("day", "week", "month")]
    for account in accounts:
        load(state, account, now_ns=now_s * NS)
    state.take(call(1, accounts, money=1))
    monkeypatch.setattr(redis_state, "time", SimpleNamespace(time=lambda: now_s + ahead))
    client.config_resetstat()
    for number in range(2, 5):
        taken = state.take(call(number, accounts, money=1))
        assert [one.reserved for one in taken.statuses] == [number] * 3
        for one, account in zip(taken.statuses, accounts, strict=True):
            assert one.reset_s == pytest.approx(window(account.period, now_s)[1] - now_s, abs=60)
    # The first take learned the difference of the clocks.
    assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 4


# Lost data


def test_the_accounts_of_a_lost_reservation_are_loaded_again(state, client):
    load_empty(state, FIXED, DAILY_ACCOUNT)
    state.take(call(1, [FIXED], money=20))
    client.flushdb()
    load_empty(state, FIXED, DAILY_ACCOUNT)
    state.settle(1, 15, 0)
    assert state.inspect((FIXED, DAILY_ACCOUNT), ()).unknown == ("fixed",)
    load(state, FIXED, used=15)
    state.settle(1, 15, 0)
    assert status_of(state.inspect((FIXED,), ()), "fixed").used == 15


def test_a_load_gives_no_reservation_to_a_call_that_ended_while_it_read(state, client):
    load_empty(state, FIXED)
    state.take(call(1, [FIXED], money=20))
    client.flushdb()
    version = state.version("fixed")
    state.settle(1, 15, 0)
    assert state.load("fixed", version, AccountAmounts(0, 0, {}, {1: ("one", 20)})) is False
    assert state.reservations() == {}


def test_a_running_call_with_a_lost_reservation_is_granted_what_it_requests(state, client):
    load_empty(state, FIXED)
    state.take(call(1, [FIXED], money=20))
    client.flushdb()
    assert state.extend(1, minimum=1, requested=500) == 500
    state.settle(1, 300, 0)
    assert state.extend(1, minimum=1, requested=500) == 0


# Crashed machines


def test_only_the_reservations_of_an_owner_with_an_expired_lease_are_released(state, clock):
    limit = Limit("user", total_tokens=100, concurrency=10)
    load_empty(state, FIXED, limit)
    state.take(call(1, [FIXED], [limit], money=20, tokens=30, owner="crashed"))
    state.take(call(2, [FIXED], [limit], money=5, tokens=7, owner="busy"))
    state.load_limit("other", {}, [], {3: ("loaded", clock.now, 0)})
    clock.advance(29)
    state.renew("idle")
    state.take(call(4, [FIXED], money=1, owner="busy"))
    assert {owner: sorted(calls) for owner, calls in state.reservations().items()} == {
        "crashed": [1],
        "busy": [2, 4],
        "loaded": [3],
    }
    clock.advance(1.000001)
    state.renew("idle")
    assert {owner: sorted(calls) for owner, calls in state.reservations().items()} == {"busy": [2, 4]}
    taken = state.inspect((FIXED,), (limit,))
    assert [one.remaining for one in taken.statuses] == [94, 63, 9]


def test_an_owner_that_renews_keeps_a_reservation_for_25_hours(state, clock):
    load_empty(state, FIXED)
    state.take(call(1, [FIXED], money=20))
    for _ in range(25 * HOUR // 30 - 1):
        clock.advance(30)
        state.renew("one")
    assert state.reservations() == {"one": [1]}
    clock.advance(30)
    state.renew("one")
    assert state.reservations() == {}
    assert status_of(state.inspect((FIXED,), ()), "fixed").reserved == 0


def test_all_reservations_of_crashed_owners_are_released(state, clock, client, where):
    rich = Account("rich", 10_000)
    load_empty(state, rich)
    for number in range(450):
        state.take(call(number, [rich], money=1, owner=f"owner-{number // 300}"))
    clock.advance(31)
    state.renew("living")
    assert state.reservations() == {}
    assert status_of(state.inspect((rich,), ()), "rich").reserved == 0
    assert client.zrange(f"gproxy:{{{where[1]}}}:leases", 0, -1) == ["living"]


def test_an_expired_reservation_does_not_stop_the_release_of_others(state, clock, client, where):
    load_empty(state, FIXED)
    for number in range(redis_state.MAX_RELEASED + 1):
        state.take(call(number, [FIXED], owner="crashed"))
    client.delete(*client.scan_iter(f"*{where[1]}*:hold:*"))
    clock.advance(31)
    state.renew("living")
    assert state.reservations() == {}


# Money spent in a local state


def test_credit_is_added_to_an_account_that_was_loaded_before(state, clock):
    load_empty(state, FIXED, DAILY_ACCOUNT)
    since = clock.now
    version = state.version("fixed")
    clock.advance(10)
    state.take(call(1, [FIXED, DAILY_ACCOUNT], money=3))
    for account in ("fixed", "daily"):
        state.credit(account, window(None if account == "fixed" else DAILY, MONDAY)[0], 20, since)
    assert [one[6:] for one in state.inspect((FIXED, DAILY_ACCOUNT), ()).statuses] == [(20, 3), (20, 3)]
    assert state.version("fixed") > version


def test_credit_for_an_account_that_was_loaded_later_has_it_loaded_again(state, clock):
    since = clock.now
    clock.advance(10)
    load_empty(state, FIXED)
    state.take(call(1, [FIXED], money=3))
    version = state.version("fixed")
    state.credit("fixed", 0, 20, since)
    assert state.inspect((FIXED,), ()).unknown == ("fixed",)
    assert state.load("fixed", version, AccountAmounts(0, 0, {}, {})) is False
    load(state, FIXED, used=20)
    assert status_of(state.inspect((FIXED,), ()), "fixed")[6:] == (20, 3)


def test_credit_counts_in_its_window(state, clock):
    load_empty(state, DAILY_ACCOUNT)
    yesterday, since = window(DAILY, MONDAY)[0], clock.now
    clock.advance(DAY)
    state.credit("daily", yesterday + DAY, 20, since)
    state.credit("daily", yesterday, 50, since)
    assert status_of(state.inspect((DAILY_ACCOUNT,), ()), "daily").used == 20


def test_credit_for_an_unknown_account_is_dropped_until_it_is_loaded(state, clock):
    state.credit("fixed", 0, 20, clock.now)
    assert state.inspect((FIXED,), ()).unknown == ("fixed",)
    load(state, FIXED, used=20)
    assert status_of(state.inspect((FIXED,), ()), "fixed").used == 20


def test_a_call_that_was_taken_locally_is_settled_or_credited_by_account(state, clock):
    limit = Limit("user", total_tokens=100, concurrency=5)
    load(state, FIXED, running={1: ("one", 20)})
    load_empty(state, DAILY_ACCOUNT)
    state.load_limit("user", {clock.now // (HOUR * NS): (1, 30)}, [], {1: ("one", clock.now, 30)})
    places = [("fixed", 0), ("daily", window(DAILY, MONDAY)[0])]
    state.settle_taken_locally(1, 15, 10, places, since=clock.now)
    taken = state.inspect((FIXED, DAILY_ACCOUNT), (limit,))
    assert [one.remaining for one in taken.statuses] == [85, 85, 90, 5]
    state.settle_taken_locally(1, 15, 10, places, since=0)
    assert sorted(state.inspect((FIXED, DAILY_ACCOUNT), ()).unknown) == ["daily", "fixed"]


# Outages


def failed_take(state: RedisState) -> tuple[Unavailable, float]:
    """Returns the exception of a take and the seconds until it was raised."""
    before = time.perf_counter()
    with pytest.raises(Unavailable) as caught:
        state.take(call(1))
    return caught.value, time.perf_counter() - before


@pytest.mark.parametrize("operation", ["take", "settle", "renew"])
def test_an_error_does_not_contain_the_password(opened, operation):
    state = opened("redis://user:hunter2@127.0.0.1:1/0", "none", timeout_s=0.1)
    operations = {
        "take": lambda: state.take(call(1)),
        "settle": lambda: state.settle(1, 1, 1),
        "renew": lambda: state.renew(""),
    }
    with pytest.raises(Unavailable) as caught:
        operations[operation]()
    assert caught.value.message == "unavailable: the shared state cannot be reached"
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_a_wrong_password_counts_as_unavailable(opened, where):
    fault, _ = failed_take(opened(where[0].replace("//", "//user:hunter2@"), where[1]))
    assert "hunter2" not in "".join(traceback.format_exception(fault))


def test_redis_is_used_again_after_a_restart(opened):
    with redis.server() as server:
        state = opened(server.url, "own", timeout_s=0.1)
        load_empty(state, FIXED)
        assert is_taken(state.take(call(1, [FIXED], money=1)))
        server.kill()
        for _ in range(3):
            assert failed_take(state)[1] < 0.1
        server.start()
        assert state.take(call(2, [FIXED], money=1)).unknown == ("fixed",)
        load_empty(state, FIXED)
        assert is_taken(state.take(call(3, [FIXED], money=1)))


def test_a_settlement_that_failed_can_be_repeated(opened):
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
        assert state.inspect((FIXED,), ()).unknown == ("fixed",)


def test_a_take_waits_for_a_hanging_redis_no_longer_than_the_timeout(opened):
    with redis.server() as server:
        state = opened(server.url, "own", timeout_s=0.1)
        state.take(call(1))
        server.hang()
        for _ in range(3):
            _, waited = failed_take(state)
            assert 0.09 < waited < 0.2
        server.resume()
        assert is_taken(state.take(call(2)))


def test_many_greenlets_share_few_connections_and_do_not_block_each_other():
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
            server.resume()
            running.stdin.close()


def test_redis_is_imported_only_where_it_is_used():
    work = "import sys, gproxy.state.redis.circuit_breaker, gproxy.state.mmap.state; assert 'redis' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", work], cwd=ROOT, check=False).returncode == 0
