"""The contract of every shared state, both in a file and in Redis."""

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gproxy.state.interface import CONCURRENCY, RPD, RPM, TOKENS, Account, AccountAmounts, Limit, SharedState
from gproxy.state.mmap.state import MmapState
from gproxy.state.periods import DAY as DAILY
from gproxy.state.periods import MONTH, WEEK, window
from gproxy.state.redis.circuit_breaker import CircuitBreaker
from gproxy.state.redis.state import RedisState
from tests import redis
from tests.examples import examples
from tests.state_helpers import DAY, HOUR, MINUTE, MONDAY, NS, Clock, call, is_taken, load, load_empty, status_of

ROOT = Path(__file__).resolve().parents[2]
STATES = ["file", "redis"]
FIXED, DAILY_ACCOUNT = Account("fixed", 100), Account("daily", 100, DAILY)

# Opens the state of the first arguments in a process of its own, with the real clock.
OPEN = """
import sys
from pathlib import Path
from gproxy.state.interface import Account, Limit, Take

kind, place, prefix, *rest = sys.argv[1:]
if kind == "file":
    from gproxy.state.mmap.state import MmapState
    state = MmapState(Path(place))
else:
    from gproxy.state.redis.state import RedisState
    state = RedisState(place, prefix, timeout_s=10)
first, count = map(int, rest)
print("ready", flush=True)
sys.stdin.read(1)
"""
TAKE_OF_A_MINUTE = """
passed = 0
for number in range(first, first + count):
    passed += state.take(Take(number, "one", (), (Limit("user", rpm=100),), 0, 0)).refused is None
print(passed)
"""
# Each call reserves 10 of 1,000; it is settled at half of that or at all of it, or still runs at the end.
SPEND = """
account, maximum, running = Account("user", 1000), 0, 0
for number in range(first, first + count):
    taken = state.take(Take(number, "one", (account,), (), 10, 0))
    assert not taken.unknown
    maximum = max(maximum, taken.statuses[0].used + taken.statuses[0].reserved)
    if taken.refused is None:
        if number % 3:
            state.settle(number, 5 * (number % 3), 0)
        else:
            running += 1
print(maximum, running)
"""


class Place:
    """A place with one state, which a test opens as often as it needs."""

    def __init__(self, kind: str, place: str, prefix: str):
        self.arguments = kind, place, prefix
        self.clock = Clock()
        self._opened: list[SharedState] = []

    def open(self, clock: Callable[[], int] | None = None) -> SharedState:
        """Opens the state, with this place's clock by default."""
        kind, place, prefix = self.arguments
        clock = clock or self.clock
        state = MmapState(Path(place), clock) if kind == "file" else RedisState(place, prefix, clock, timeout_s=10)
        self._opened.append(state)
        return state

    def run(self, work: str, first: int, count: int) -> subprocess.Popen:
        """Starts a process that waits for a byte of input before it works."""
        started = subprocess.Popen(
            [sys.executable, "-c", OPEN + work, *self.arguments, str(first), str(count)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert started.stdout.readline() == "ready\n"
        return started

    def run_four(self, work: str, count: int) -> list[list[int]]:
        """Returns the numbers that four concurrent processes print."""
        running = [self.run(work, 1 + number * count, count) for number in range(4)]
        for one in running:
            one.stdin.write("x")
            one.stdin.flush()
        printed = [one.communicate(timeout=60)[0] for one in running]
        assert [one.returncode for one in running] == [0] * 4
        return [[int(word) for word in text.split()] for text in printed]

    def close(self) -> None:
        for state in self._opened:
            state.close()


@pytest.fixture(params=STATES)
def place(request, tmp_path: Path) -> Iterator[Place]:
    where = (str(tmp_path / "counters"), "") if request.param == "file" else redis.fresh(request.config)
    found = Place(request.param, *where)
    yield found
    found.close()


@pytest.fixture
def clock(place: Place) -> Clock:
    return place.clock


@pytest.fixture
def state(place: Place) -> SharedState:
    return place.open()


@pytest.mark.parametrize("implementation", [MmapState, RedisState, CircuitBreaker])
def test_every_state_has_the_methods_of_the_interface(implementation):
    """With the same parameters and defaults, so that each can replace another."""
    members = {name: value for name, value in vars(SharedState).items() if inspect.isfunction(value)}
    public = {name: value for name, value in members.items() if not name.startswith("_")}
    assert "take" in public
    for name, member in public.items():
        found, expected = inspect.signature(getattr(implementation, name)), inspect.signature(member)
        assert [(one.name, one.kind, one.default) for one in found.parameters.values()] == [
            (one.name, one.kind, one.default) for one in expected.parameters.values()
        ], name
        assert found.return_annotation == expected.return_annotation, name


# Unknown accounts and limits


def test_a_take_reports_unknown_accounts_and_limits_and_takes_nothing(state):
    known, limit = Account("known", 100), Limit("limit", rpm=5)
    load_empty(state, known, limit)
    other, daily, fresh = Account("other", 100), Account("daily", 100, DAILY), Limit("fresh", rpd=5)
    taken = state.take(call(1, [other, known, daily], [fresh, limit], money=1))
    assert sorted(taken.unknown) == ["daily", "fresh", "other"]
    assert (taken.refused, state.reservations()) == (None, {})
    found = state.inspect((known,), (limit,))
    assert [one.remaining for one in found.statuses] == [100, 5]


def test_an_inspection_reports_unknown_accounts_and_limits(state):
    assert sorted(state.inspect((FIXED,), (Limit("limit", rpm=5),)).unknown) == ["fixed", "limit"]


def test_a_call_without_accounts_and_limits_is_taken_and_settled(state, clock):
    taken = state.take(call(1))
    assert (taken.at, taken.statuses, is_taken(taken)) == (clock.now, (), True)
    state.settle(1, 5, 5)


# Requests in a minute


def test_a_request_counts_for_exactly_sixty_seconds(state, clock):
    limit = Limit("user", rpm=2)
    load_empty(state, limit)
    assert is_taken(state.take(call(1, limits=[limit])))
    clock.advance(10)
    assert is_taken(state.take(call(2, limits=[limit])))
    clock.advance(49.999999)
    taken = state.take(call(3, limits=[limit]))
    assert (taken.refused.counter, taken.refused.remaining) == (RPM, 0)
    assert taken.refused.wait_s == pytest.approx(0.000001, abs=0.001)
    assert taken.refused.reset_s == pytest.approx(10.000001)
    clock.advance(0.000001)
    assert is_taken(state.take(call(4, limits=[limit])))
    assert state.take(call(5, limits=[limit])).refused.wait_s == pytest.approx(10)


def test_the_minute_survives_a_change_of_the_amount(state, clock):
    load_empty(state, Limit("user", rpm=5))
    for number in range(5):
        assert is_taken(state.take(call(number, limits=[Limit("user", rpm=5)])))
        clock.advance(1)
    found = status_of(state.inspect((), (Limit("user", rpm=2),)), "user", RPM)
    assert (found.limit, found.remaining) == (2, 0)
    taken = state.take(call(9, limits=[Limit("user", rpm=2)]))
    assert taken.refused.wait_s == pytest.approx(MINUTE - 2)
    clock.advance(MINUTE - 2)
    assert is_taken(state.take(call(10, limits=[Limit("user", rpm=2)])))
    assert is_taken(state.take(call(11, limits=[Limit("user", rpm=6)])))


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 5), st.lists(st.floats(0, 61) | st.sampled_from([0, 20, 30, 60]), max_size=40))
def test_rpm_is_exact_in_every_minute(place, maximum, pauses):
    clock = place.clock
    clock.advance(HOUR)
    state, limit = place.open(), Limit(f"user-{clock.now}", rpm=maximum)
    load_empty(state, limit)
    passed: list[int] = []
    for number, pause in enumerate(pauses):
        clock.advance(pause)
        taken = state.take(call(number, limits=[limit]))
        inside = [moment for moment in passed if moment > clock.now - MINUTE * NS]
        assert is_taken(taken) == (len(inside) < maximum)
        if taken.refused:
            assert taken.refused.wait_s == pytest.approx((inside[-maximum] + MINUTE * NS - clock.now) / NS, abs=0.001)
        else:
            passed.append(taken.at)


@pytest.mark.parametrize("run", range(5))
def test_four_processes_together_pass_exactly_the_limit(place, run):
    load_empty(place.open(), Limit("user", rpm=100))
    assert sum(passed for (passed,) in place.run_four(TAKE_OF_A_MINUTE, 75)) == 100


# Requests and tokens in a day


@pytest.mark.parametrize("counter", [RPM, RPD, TOKENS, CONCURRENCY])
def test_a_limit_of_zero_always_refuses(state, clock, counter):
    limit = Limit("user", **{counter: 0})
    load_empty(state, limit)
    for pause in (0, MINUTE, 30 * HOUR):
        clock.advance(pause)
        taken = state.take(call(1, limits=[limit]))
        assert (taken.refused.counter, taken.refused.limit, taken.refused.remaining) == (counter, 0, 0)
        assert taken.refused.wait_s is None or counter == CONCURRENCY


@pytest.mark.parametrize(("counter", "cost"), [(RPD, 1), (TOKENS, 10)])
def test_requests_and_tokens_count_for_at_most_25_hours(state, clock, counter, cost):
    limit = Limit("user", **{counter: 3 * cost})
    load_empty(state, limit)
    for number in range(3):  # at 10:20, 11:20 and 12:20
        assert is_taken(state.take(call(number, limits=[limit], tokens=10)))
        state.settle(number, 0, 10)
        clock.advance(HOUR)
    taken = state.take(call(3, limits=[limit], tokens=10))
    assert (taken.refused.counter, taken.refused.remaining) == (counter, 0)
    assert taken.refused.wait_s == pytest.approx(21 * HOUR + 40 * MINUTE)  # at 11:00 next day
    assert taken.refused.reset_s == pytest.approx(23 * HOUR + 40 * MINUTE)
    clock.advance(taken.refused.wait_s - 0.001)
    assert not is_taken(state.take(call(4, limits=[limit], tokens=10)))
    clock.advance(0.001)
    assert is_taken(state.take(call(5, limits=[limit], tokens=10)))
    clock.advance(60 * HOUR)
    assert status_of(state.inspect((), (limit,)), "user", counter).remaining == 3 * cost


def test_a_refused_call_waits_until_enough_tokens_are_free(state, clock):
    limit = Limit("user", total_tokens=100)
    load_empty(state, limit)
    for number, tokens in enumerate((30, 20, 40)):
        assert is_taken(state.take(call(number, limits=[limit], tokens=tokens)))
        clock.advance(HOUR)
    waits = {10: 0.0, 11: 21, 40: 21, 41: 22, 60: 22, 61: 23, 100: 23}
    for tokens, hours in waits.items():
        taken = state.inspect((), (limit,)) if hours == 0 else state.take(call(9, limits=[limit], tokens=tokens))
        found = status_of(taken, "user", TOKENS)
        assert found.wait_s == (0.0 if hours == 0 else pytest.approx(hours * HOUR + 40 * MINUTE)), tokens
    assert state.take(call(9, limits=[limit], tokens=101)).refused.wait_s is None
    assert is_taken(state.take(call(10, limits=[limit], tokens=10)))


def test_a_call_without_tokens_passes_full_total_tokens_but_not_full_rpd(state):
    load_empty(state, Limit("user", total_tokens=10))
    assert is_taken(state.take(call(1, limits=[Limit("user", total_tokens=10)], tokens=10)))
    assert is_taken(state.take(call(2, limits=[Limit("user", total_tokens=10)])))
    assert state.take(call(3, limits=[Limit("user", rpd=2)])).refused.counter == RPD


@pytest.mark.parametrize(("counted", "used", "remaining"), [(50, 20, 80), (20, 50, 50), (0, 30, 70), (50, 0, 100)])
def test_settled_tokens_count_in_the_hour_of_their_take(state, clock, counted, used, remaining):
    limit = Limit("user", total_tokens=100)
    load_empty(state, limit)
    assert is_taken(state.take(call(1, limits=[limit], tokens=counted)))
    clock.advance(3 * HOUR)
    state.settle(1, 0, used)
    found = status_of(state.inspect((), (limit,)), "user", TOKENS)
    assert found.remaining == remaining
    assert found.reset_s == (pytest.approx(21 * HOUR + 40 * MINUTE) if used else 0.0)


def test_tokens_of_an_hour_that_was_dropped_are_not_corrected(state, clock):
    limit = Limit("user", total_tokens=100)
    load_empty(state, limit)
    assert is_taken(state.take(call(1, limits=[limit], tokens=50)))
    clock.advance(24 * HOUR + 39 * MINUTE)
    assert is_taken(state.take(call(2, limits=[limit], tokens=10)))
    clock.advance(MINUTE)
    state.settle(1, 0, 99)
    assert status_of(state.inspect((), (limit,)), "user", TOKENS).remaining == 90


def test_an_hour_never_falls_below_zero_tokens(state, clock):
    hour = clock.now // (HOUR * NS)
    state.load_limit("user", {hour: (1, 5), hour - 1: (1, 30)}, [], {7: ("one", clock.now, 20)})
    state.settle(7, 0, 0)
    assert status_of(state.inspect((), (Limit("user", total_tokens=100),)), "user", TOKENS).remaining == 70


def test_settled_tokens_may_pass_the_limit(state):
    limit = Limit("user", total_tokens=100)
    load_empty(state, limit)
    assert is_taken(state.take(call(1, limits=[limit], tokens=90)))
    state.settle(1, 0, 150)
    assert status_of(state.inspect((), (limit,)), "user", TOKENS).remaining == 0
    assert state.take(call(2, limits=[limit], tokens=1)).refused.counter == TOKENS


def test_the_day_survives_a_change_of_what_is_limited(state):
    load_empty(state, Limit("user"))
    for number in range(3):
        assert is_taken(state.take(call(number, limits=[Limit("user", concurrency=9)], tokens=10)))
        state.settle(number, 0, 5)
    taken = state.inspect((), (Limit("user", rpd=10, total_tokens=100),))
    assert [one.remaining for one in taken.statuses] == [7, 85]


# Concurrency


def test_no_more_calls_run_at_a_time_than_the_limit(state):
    limit = Limit("user", concurrency=2)
    load_empty(state, limit)
    assert is_taken(state.take(call(1, limits=[limit])))
    taken = state.take(call(2, limits=[limit]))
    assert status_of(taken, "user", CONCURRENCY)[3:5] == (0, None)
    refused = state.take(call(3, limits=[limit])).refused
    assert (refused.counter, refused.wait_s) == (CONCURRENCY, 1.0)
    state.settle(1, 0, 0)
    state.settle(1, 0, 0)
    assert is_taken(state.take(call(4, limits=[limit])))
    assert not is_taken(state.take(call(5, limits=[limit])))
    state.release(2)
    assert is_taken(state.take(call(6, limits=[limit])))


def test_ended_calls_do_not_count_for_a_concurrency_limit_that_is_added_later(state):
    load_empty(state, Limit("user"))
    for number in range(5):
        assert is_taken(state.take(call(number, limits=[Limit("user", rpm=100)])))
        state.settle(number, 0, 0)
    assert is_taken(state.take(call(9, limits=[Limit("user", concurrency=1)])))


def test_a_clock_that_was_far_ahead_blocks_a_limit_for_a_minute_at_most(state, clock):
    load_empty(state, Limit("user"))
    limit = Limit("user", rpm=3)
    clock.advance(HOUR)
    assert is_taken(state.take(call(1, limits=[limit])))
    clock.advance(-HOUR)
    for number in range(2, 4):
        assert is_taken(state.take(call(number, limits=[limit])))
    clock.advance(MINUTE)
    for number in range(4, 7):
        assert is_taken(state.take(call(number, limits=[limit])))


# Money


def test_used_and_reserved_money_never_pass_the_cap(state, clock):
    load_empty(state, FIXED)
    assert is_taken(state.take(call(1, [FIXED], money=60)))
    refused = state.take(call(2, [FIXED], money=41)).refused
    assert refused[:6] == ("fixed", None, 100, 40, None, None)
    assert (refused.used, refused.reserved) == (0, 60)
    taken = state.take(call(3, [FIXED], money=40))
    assert status_of(taken, "fixed")[3:] == (0, None, 0.0, 0, 100)
    state.settle(1, 10, 0)
    found = status_of(state.inspect((FIXED,), ()), "fixed")
    assert (found.remaining, found.used, found.reserved) == (50, 10, 40)
    state.settle(3, 250, 0)
    found = status_of(state.inspect((FIXED,), ()), "fixed")
    assert (found.remaining, found.used, found.reserved) == (0, 260, 0)
    assert not is_taken(state.take(call(4, [FIXED], money=1)))
    assert is_taken(state.take(call(5, [Account("fixed", 300)], money=40)))


def test_an_overdrawn_account_refuses_a_free_call(state):
    load_empty(state, FIXED)
    assert is_taken(state.take(call(1, [FIXED], money=100)))
    assert is_taken(state.take(call(2, [FIXED])))
    refused = state.take(call(3, [Account("fixed", 99)])).refused
    assert (refused.key, refused.limit, refused.remaining, refused.wait_s) == ("fixed", 99, 0, None)


def test_a_settlement_counts_once(state):
    load_empty(state, FIXED)
    state.take(call(1, [FIXED], money=10))
    for money in (3, 3, 50):
        state.settle(1, money, 0)
    state.release(1)
    state.settle(2, 50, 0)
    assert status_of(state.inspect((FIXED,), ()), "fixed")[6:] == (3, 0)


def test_a_refused_call_counts_nowhere(state):
    accounts = [Account("a", 100), Account("b", 5)]
    limits = [Limit("x", rpm=5, rpd=5, total_tokens=50, concurrency=5), Limit("y", rpm=1)]
    load_empty(state, *accounts, *limits)
    assert is_taken(state.take(call(1, [accounts[0]], [limits[1]], money=1)))
    before = state.inspect(tuple(accounts), tuple(limits)).statuses
    for number, (money, funds, refused) in enumerate([(6, accounts, "b"), (5, accounts, "y"), (6, accounts[:1], "y")]):
        taken = state.take(call(10 + number, funds, limits, money=money, tokens=10))
        assert taken.refused.key == refused
        assert taken.refused in taken.statuses
        assert len(taken.statuses) == len(funds) + 5
    assert state.inspect(tuple(accounts), tuple(limits)).statuses == before
    assert [one.remaining for one in before] == [99, 5, 5, 5, 50, 5, 0]
    assert state.reservations() == {"one": [1]}


def test_the_first_account_that_refuses_is_reported_else_the_first_limit(state):
    poor, poorer = Account("poor", 1), Account("poorer", 1)
    full = Limit("full", rpm=0, rpd=0, total_tokens=0, concurrency=0)
    fuller = Limit("fuller", rpm=0)
    load_empty(state, poor, poorer, full, fuller)
    cases = [
        ([poor, poorer], [full], ("poor", None)),
        ([poorer, poor], [full], ("poorer", None)),
        ([], [full, fuller], ("full", RPM)),
        ([], [fuller, full], ("fuller", RPM)),
        ([], [Limit("full", rpd=0, concurrency=0, total_tokens=0)], ("full", RPD)),
        ([], [Limit("full", concurrency=0, total_tokens=0)], ("full", TOKENS)),
    ]
    for accounts, limits, refused in cases:
        assert state.take(call(1, accounts, limits, money=2)).refused[:2] == refused


def test_every_account_and_limit_counts_the_call(state):
    accounts = [Account("user", 100), Account("key", 50, WEEK)]
    limits = [Limit("x", rpm=5, total_tokens=50), Limit("y", rpd=5, concurrency=5)]
    load_empty(state, *accounts, *limits)
    taken = state.take(call(1, accounts, limits, money=7, tokens=9))
    statuses = [(one.key, one.counter, one.limit, one.remaining) for one in taken.statuses]
    assert statuses == [
        ("user", None, 100, 93),
        ("key", None, 50, 43),
        ("x", RPM, 5, 4),
        ("x", TOKENS, 50, 41),
        ("y", RPD, 5, 4),
        ("y", CONCURRENCY, 5, 4),
    ]
    state.settle(1, 5, 2)
    after = state.inspect(tuple(accounts), tuple(limits)).statuses
    assert [one.remaining for one in after] == [95, 45, 4, 48, 4, 5]


@pytest.mark.parametrize("period", [DAILY, WEEK, MONTH])
def test_a_window_ends_by_the_clock_and_the_next_starts_with_nothing_used(state, clock, period):
    account = Account("user", 100, period)
    load_empty(state, account)
    _, end = window(period, MONDAY)
    state.take(call(1, [account], money=70))
    state.settle(1, 70, 0)
    refused = state.take(call(2, [account], money=40)).refused
    assert refused.wait_s == refused.reset_s == pytest.approx(end - MONDAY)
    clock.advance(end - MONDAY - 0.000001)
    assert not is_taken(state.take(call(3, [account], money=40)))
    clock.advance(0.000001)
    taken = state.take(call(4, [account], money=40))
    assert status_of(taken, "user")[6:] == (0, 40)


def test_a_reservation_is_settled_in_its_window(state, clock):
    load_empty(state, DAILY_ACCOUNT)
    for number in (1, 2):
        state.take(call(number, [DAILY_ACCOUNT], money=30))
    clock.advance(13 * HOUR + 39 * MINUTE)
    state.settle(1, 20, 0)
    assert status_of(state.inspect((DAILY_ACCOUNT,), ()), "daily")[6:] == (20, 30)
    clock.advance(MINUTE)
    assert status_of(state.inspect((DAILY_ACCOUNT,), ()), "daily")[6:] == (0, 0)
    state.take(call(3, [DAILY_ACCOUNT], money=50))
    state.settle(2, 25, 0)
    assert status_of(state.inspect((DAILY_ACCOUNT,), ()), "daily")[6:] == (0, 50)


def test_a_clock_that_is_set_back_does_not_reopen_a_window(state, clock):
    load_empty(state, DAILY_ACCOUNT, now_ns=clock.now)
    clock.advance(DAY)
    state.take(call(1, [DAILY_ACCOUNT], money=60))
    clock.advance(-DAY)
    assert state.take(call(2, [DAILY_ACCOUNT], money=60)).unknown == ("daily",)
    assert state.inspect((DAILY_ACCOUNT,), ()).unknown == ("daily",)
    clock.advance(DAY)
    assert not is_taken(state.take(call(3, [DAILY_ACCOUNT], money=60)))
    clock.advance(-DAY)
    load(state, DAILY_ACCOUNT, used=50)
    assert not is_taken(state.take(call(4, [DAILY_ACCOUNT], money=60)))
    assert is_taken(state.take(call(5, [DAILY_ACCOUNT], money=50)))


def test_amounts_above_the_precision_of_a_float_are_exact(state):
    rich = Account("rich", 4 * 10**18)
    load(state, rich, used=2**53 + 1, settled={7: 2**53 + 1}, running={8: ("one", 2**53 + 1)})
    number = 2**62 + 1
    assert is_taken(state.take(call(number, [rich], money=2**54 + 1)))
    assert status_of(state.inspect((rich,), ()), "rich")[6:] == (2**54 + 2, 2**53 + 2**54 + 2)
    assert sorted(state.reservations()["one"]) == [8, number]
    state.settle(number, 1, 0)
    state.settle(8, 2**53 + 1, 0)
    assert status_of(state.inspect((rich,), ()), "rich")[6:] == (2**54 + 2**53 + 4, 0)


def test_four_processes_together_do_not_pass_the_cap(place):
    account = Account("user", 1000)
    state = place.open()
    load_empty(state, account)
    printed = place.run_four(SPEND, 100)
    assert max(maximum for maximum, _ in printed) <= 1000
    found = status_of(state.inspect((account,), ()), "user")
    running = sum(count for _, count in printed)
    assert found.reserved == 10 * running == 10 * sum(map(len, state.reservations().values()))
    assert 990 < found.used + found.reserved <= 1000


def test_money_for_ten_calls_lets_exactly_ten_of_a_hundred_pass(place):
    account, ends = Account("user", 100), [place.open() for _ in range(10)]
    load_empty(ends[0], account)
    passed = [number for number in range(100) if is_taken(ends[number % 10].take(call(number, [account], money=10)))]
    assert passed == list(range(10))
    for number in passed:
        ends[-1].settle(number, 9, 0)
    assert [is_taken(ends[0].take(call(number, [account], money=10))) for number in (200, 201)] == [True, False]


# More money for a running call


def test_an_extension_grants_what_is_requested_or_what_remains_or_nothing(state):
    rich, poor = Account("rich", 1000), Account("poor", 100)
    load_empty(state, rich, poor)
    state.take(call(1, [rich, poor], money=10))
    assert state.extend(1, minimum=20, requested=50) == 50
    assert state.extend(1, minimum=40, requested=50) == 40
    assert state.extend(1, minimum=1, requested=50) == 0
    assert [one.reserved for one in state.inspect((rich, poor), ()).statuses] == [100, 100]
    state.settle(1, 70, 0)
    assert [one[6:] for one in state.inspect((rich, poor), ()).statuses] == [(70, 0), (70, 0)]
    assert state.extend(1, minimum=1, requested=1) == 0
    assert state.extend(2, minimum=1, requested=1) == 0


def test_an_extension_of_a_call_of_yesterday_does_not_reserve_money_of_today(state, clock):
    load_empty(state, DAILY_ACCOUNT)
    state.take(call(1, [DAILY_ACCOUNT], money=10))
    clock.advance(DAY)
    state.take(call(2, [DAILY_ACCOUNT], money=30))
    state.extend(1, minimum=5, requested=50)
    assert status_of(state.inspect((DAILY_ACCOUNT,), ()), "daily")[6:] == (0, 30)
    state.settle(1, 60, 0)
    assert status_of(state.inspect((DAILY_ACCOUNT,), ()), "daily")[6:] == (0, 30)


def test_an_extension_is_kept_in_an_account_that_must_be_loaded_again(state):
    load_empty(state, FIXED)
    state.take(call(1, [FIXED], money=10))
    state.forget("fixed")
    assert state.extend(1, minimum=5, requested=50) == 50
    load(state, FIXED, used=3)
    assert status_of(state.inspect((FIXED,), ()), "fixed")[6:] == (3, 60)
    state.settle(1, 20, 0)
    assert status_of(state.inspect((FIXED,), ()), "fixed")[6:] == (23, 0)


# Loading


def test_a_load_adds_settled_and_running_calls_that_are_not_in_the_used_money(state):
    load_empty(state, FIXED)
    state.take(call(1, [FIXED], money=20))
    state.forget("fixed")
    assert state.take(call(2, [FIXED], money=1)).unknown == ("fixed",)
    # 1 has a reservation and will be settled; 7 is settled without a reservation; 8 runs without a reservation.
    load(state, FIXED, used=30, settled={1: 15, 7: 4}, running={1: ("one", 20), 8: ("other", 11)})
    assert status_of(state.inspect((FIXED,), ()), "fixed")[6:] == (34, 31)
    assert state.reservations() == {"one": [1], "other": [8]}
    state.settle(1, 15, 0)
    state.settle(8, 1, 0)
    assert status_of(state.inspect((FIXED,), ()), "fixed")[6:] == (50, 0)


def test_a_reservation_in_another_account_does_not_count_in_a_load(state):
    other, limit = Account("other", 100), Limit("limit", concurrency=5)
    load_empty(state, other, limit)
    state.take(call(1, [other], money=20))
    state.take(call(2, limits=[limit]))
    load(state, FIXED, settled={1: 5, 2: 6}, running={})
    assert status_of(state.inspect((FIXED,), ()), "fixed").used == 11
    state.forget("fixed")
    load(state, FIXED, running={1: ("one", 7), 2: ("one", 8)})
    assert status_of(state.inspect((FIXED,), ()), "fixed")[6:] == (0, 15)
    state.settle(1, 3, 0)
    assert [one[6:] for one in state.inspect((FIXED, other), ()).statuses] == [(3, 8), (3, 0)]


@pytest.mark.parametrize("operation", ["settle", "forget", "forget all"])
def test_a_load_fails_after_a_settlement_in_between(state, operation):
    load_empty(state, FIXED)
    state.take(call(1, [FIXED], money=20))
    if operation == "settle":
        state.forget("fixed")
    version = state.version("fixed")
    if operation == "settle":
        state.settle(1, 15, 0)
    else:
        state.forget(*(["fixed"] if operation == "forget" else []))
    assert state.load("fixed", version, AccountAmounts(0, 77, {}, {1: ("one", 20)})) is False
    assert state.take(call(2, [FIXED], money=1)).unknown == ("fixed",)
    load(state, FIXED, used=15)
    assert status_of(state.inspect((FIXED,), ()), "fixed").used == 15


def test_the_first_of_two_loads_wins(state):
    version = state.version("fixed")
    assert state.load("fixed", version, AccountAmounts(0, 5, {}, {})) is True
    assert state.load("fixed", version, AccountAmounts(0, 7, {2: 1}, {1: ("one", 20)})) is True
    assert status_of(state.inspect((FIXED,), ()), "fixed")[6:] == (5, 0)
    assert state.reservations() == {}


def test_a_load_that_began_before_a_new_window_does_nothing(state, clock):
    load_empty(state, DAILY_ACCOUNT)
    version = state.version("daily")
    clock.advance(DAY)
    state.take(call(1, [DAILY_ACCOUNT], money=60))
    yesterday, today = window(DAILY, MONDAY)
    assert state.load("daily", version, AccountAmounts(yesterday, 5, {}, {})) is False
    state.forget("daily")
    assert state.load("daily", state.version("daily"), AccountAmounts(today, 7, {}, {})) is True
    assert status_of(state.inspect((DAILY_ACCOUNT,), ()), "daily")[6:] == (7, 60)


def test_another_period_is_loaded_although_its_window_began_earlier(state):
    load_empty(state, DAILY_ACCOUNT)
    monthly = Account("daily", 100, "month")
    assert state.take(call(1, [monthly], money=1)).unknown == ("daily",)
    load(state, monthly, used=8)
    assert status_of(state.inspect((monthly,), ()), "daily").used == 8


def test_running_calls_follow_their_account_into_another_period(state):
    load_empty(state, DAILY_ACCOUNT)
    state.take(call(1, [DAILY_ACCOUNT], money=60))
    monthly = Account("daily", 100, "month")
    assert state.take(call(2, [monthly], money=1)).unknown == ("daily",)
    load(state, monthly, used=8, running={1: ("one", 60)})
    assert status_of(state.inspect((monthly,), ()), "daily")[6:] == (8, 60)
    state.settle(1, 50, 0)
    assert status_of(state.inspect((monthly,), ()), "daily")[6:] == (58, 0)


def test_a_load_of_the_former_period_finds_the_reservations_in_it(state):
    load_empty(state, DAILY_ACCOUNT)
    state.take(call(1, [DAILY_ACCOUNT], money=60))
    monthly = Account("daily", 100, "month")
    load(state, monthly)
    load(state, DAILY_ACCOUNT)
    assert status_of(state.inspect((DAILY_ACCOUNT,), ()), "daily")[6:] == (0, 60)
    state.settle(1, 50, 0)
    assert status_of(state.inspect((DAILY_ACCOUNT,), ()), "daily")[6:] == (50, 0)


def test_a_concurrency_of_zero_never_has_room(state):
    load_empty(state, Limit("user"))
    refused = state.take(call(1, limits=[Limit("user", concurrency=0)])).refused
    assert (refused.counter, refused.wait_s) == (CONCURRENCY, None)


def test_a_load_of_the_next_window_does_not_count_reservations_of_the_previous_one(state, clock):
    load_empty(state, DAILY_ACCOUNT)
    state.take(call(1, [DAILY_ACCOUNT], money=60))
    state.forget()
    clock.advance(DAY)
    load(state, DAILY_ACCOUNT, used=5, now_ns=clock.now)
    assert status_of(state.inspect((DAILY_ACCOUNT,), ()), "daily")[6:] == (5, 0)
    state.settle(1, 50, 0)
    assert status_of(state.inspect((DAILY_ACCOUNT,), ()), "daily")[6:] == (5, 0)


def test_forgetting_every_account_keeps_the_reservations(state):
    accounts = (FIXED, DAILY_ACCOUNT)
    load_empty(state, *accounts)
    state.take(call(1, accounts, money=20))
    state.forget()
    assert sorted(state.inspect(accounts, ()).unknown) == ["daily", "fixed"]
    load(state, FIXED, used=1)
    assert state.inspect(accounts, ()).unknown == ("daily",)
    load(state, DAILY_ACCOUNT, used=2)
    assert [one[6:] for one in state.inspect(accounts, ()).statuses] == [(1, 20), (2, 20)]


def test_a_limit_is_loaded_unless_it_exists(state, clock):
    limit = Limit("user", rpm=3, rpd=10, total_tokens=100, concurrency=2)
    hour = clock.now // (HOUR * NS)
    hours = {hour: (2, 20), hour - 24: (3, 30), hour - 25: (5, 50)}
    recent = [clock.now - 61 * NS, clock.now - 59 * NS, clock.now - 5 * NS]
    running = {7: ("one", clock.now - 2 * HOUR * NS, 10), 8: ("other", clock.now, 20)}
    state.load_limit("user", hours, recent, {8: running[8]})
    state.load_limit("user", {hour: (9, 90)}, recent, {})
    assert [one.remaining for one in state.inspect((), (limit,)).statuses] == [1, 5, 50, 1]
    assert state.reservations() == {"other": [8]}
    state.settle(8, 0, 5)
    assert [one.remaining for one in state.inspect((), (limit,)).statuses] == [1, 5, 65, 2]
    taken = state.take(call(9, limits=[Limit("user", rpm=1)]))
    assert taken.refused.wait_s == pytest.approx(55)
    clock.advance(MINUTE)
    assert status_of(state.inspect((), (limit,)), "user", RPM).remaining == 3


def test_the_requests_of_a_busy_minute_are_loaded(state, clock):
    moments = [clock.now - 59 * NS + number * 10_000_000 for number in range(3000)]
    state.load_limit("user", {}, moments, {})
    found = status_of(state.inspect((), (Limit("user", rpm=5000),)), "user", RPM)
    assert found.remaining == 2000
    clock.advance(15)
    found = status_of(state.inspect((), (Limit("user", rpm=5000),)), "user", RPM)
    assert found.remaining == 2000 + 1401


# Reservations and their owners


def test_a_released_reservation_costs_nothing_and_its_tokens_stay(state):
    limit = Limit("user", total_tokens=100, concurrency=1)
    load_empty(state, FIXED, limit)
    state.take(call(1, [FIXED], [limit], money=20, tokens=30, owner="crashed"))
    assert state.reservations() == {"crashed": [1]}
    version = state.version("fixed")
    state.release(1)
    state.release(1)
    assert state.reservations() == {}
    assert state.version("fixed") > version
    taken = state.inspect((FIXED,), (limit,))
    assert [one.remaining for one in taken.statuses] == [100, 70, 1]


def test_reservations_are_listed_by_owner(state):
    limit = Limit("user", concurrency=10)
    load_empty(state, FIXED, limit)
    state.take(call(1, [FIXED], money=1, owner="one"))
    state.take(call(2**62, limits=[limit], owner="one"))
    state.take(call(3, [FIXED], [limit], money=1, owner="other"))
    assert {owner: sorted(calls) for owner, calls in state.reservations().items()} == {"one": [1, 2**62], "other": [3]}
    state.settle(3, 0, 0)
    state.renew("other")
    assert set(state.reservations()) == {"one"}


def test_two_processes_share_one_state(place):
    one, other = place.open(), place.open()
    limit = Limit("user", rpm=1)
    load_empty(one, FIXED, limit)
    one.take(call(1, [FIXED], [limit], money=20))
    assert other.take(call(2, [FIXED], [limit], money=20)).refused.counter == RPM
    assert other.extend(1, minimum=1, requested=10) == 10
    other.settle(1, 7, 0)
    assert status_of(one.inspect((FIXED,), ()), "fixed")[6:] == (7, 0)


# Comparison of both states

AMOUNT = st.none() | st.integers(0, 4)
SOME_ACCOUNTS = st.tuples(
    st.none() | st.builds(Account, st.just("a"), st.integers(1, 90), st.none()),
    st.none() | st.builds(Account, st.just("b"), st.integers(1, 90), st.just(DAILY)),
)
SOME_LIMITS = st.tuples(
    *(
        st.none() | st.builds(Limit, st.just(key), AMOUNT, AMOUNT, st.none() | st.integers(0, 50), AMOUNT)
        for key in "xy"
    )
)
NUMBER, SMALL = st.integers(1, 12), st.integers(0, 30)
OPERATIONS = st.one_of(
    st.tuples(st.just("take"), SOME_ACCOUNTS, SOME_LIMITS, SMALL, SMALL),
    st.tuples(st.just("settle"), NUMBER, SMALL, SMALL),
    st.tuples(st.just("extend"), NUMBER, st.integers(1, 10), st.integers(10, 30)),
    st.tuples(st.just("release"), NUMBER),
    st.tuples(st.just("forget"), st.sampled_from(["a", "b", None])),
    st.tuples(st.just("advance"), st.sampled_from([0.5, 20, 60, 600, 3600, 40_000])),
)


class Twins:
    """Two states that run the same operations; their results are compared."""

    def __init__(self, *states: SharedState, clock: Clock):
        self._states, self._clock, self._calls = states, clock, 0

    def run(self, operation: str, *arguments) -> None:
        if operation == "advance":
            self._clock.advance(*arguments)
        elif operation == "take":
            self._take(*arguments)
        else:
            self._compare(lambda state: getattr(state, operation)(*arguments))

    def _take(self, accounts, limits, money: int, tokens: int) -> None:
        self._calls += 1
        wanted = call(
            self._calls, [one for one in accounts if one], [one for one in limits if one], money=money, tokens=tokens
        )
        if unknown := self._compare(lambda state: sorted(state.inspect(wanted.accounts, wanted.limits).unknown)):
            for state in self._states:
                for one in (*wanted.accounts, *wanted.limits):
                    if one.key in unknown:
                        load_empty(state, one, now_ns=self._clock.now)
        self._compare(lambda state: _comparable(state.take(wanted)))
        self._compare(lambda state: _comparable(state.inspect(wanted.accounts, wanted.limits)))

    def _compare(self, function: Callable[[SharedState], object]):
        one, other = map(function, self._states)
        assert one == other
        return one


def _comparable(taken) -> tuple:
    """Rounds times to 10 ms, and reads a reset of None as 0: without a running call a state may report either."""
    wait_s, reset_s = (taken.refused.wait_s, taken.refused.reset_s or 0) if taken.refused else (None, 0)
    refused = taken.refused and (*taken.refused[:2], wait_s and round(wait_s, 2), round(reset_s, 2))
    return (taken.at, refused, [(*one[:4], one.used, one.reserved) for one in taken.statuses])


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(OPERATIONS, max_size=40))
def test_both_states_return_the_same(tmp_path_factory, pytestconfig, operations):
    clock = Clock()
    file = MmapState(tmp_path_factory.mktemp("twin"), clock)
    remote = RedisState(*redis.fresh(pytestconfig), clock, timeout_s=10)
    twins = Twins(file, remote, clock=clock)
    try:
        for operation in operations:
            twins.run(*operation)
    finally:
        file.close()
        remote.close()
