"""The table as a storage of the `limits` library, under that library's own strategies."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from limits import RateLimitItemPerHour, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.errors import StorageError
from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage, storage_from_string
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

from gproxy.state.interface import Limit, Take
from gproxy.state.mmap.limits_storage import TableStorage
from gproxy.state.mmap.state import MmapState

STRATEGIES = (FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return storage_from_string(f"gproxy-table://{tmp_path}/state")


def test_the_library_finds_it_by_its_scheme(storage):
    assert isinstance(storage, TableStorage)
    assert isinstance(storage, MovingWindowSupport)
    assert isinstance(storage, SlidingWindowCounterSupport)
    assert storage.check() is True


def test_a_counter_counts_expires_and_is_cleared(storage):
    now = time.time()
    assert [storage.incr("a", 2), storage.incr("a", 60, 5), storage.get("a")] == [1, 6, 6]
    assert now + 1.9 <= storage.get_expiry("a") <= time.time() + 2
    storage.clear("a")
    assert storage.get("a") == 0
    assert abs(storage.get_expiry("a") - time.time()) < 1
    storage.incr("b", 0.05)
    time.sleep(0.06)
    assert storage.get("b") == 0
    assert storage.incr("b", 60) == 1


def test_a_counter_never_falls_below_zero(storage):
    storage.incr("a", 60, 2)
    assert [storage.decr("a"), storage.decr("a", 5), storage.decr("unknown")] == [1, 0, 0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_exactly_the_limit_is_hit(storage, strategy):
    limiter, item = strategy(storage), RateLimitItemPerHour(10)
    assert [limiter.hit(item, "who") for _ in range(13)] == [True] * 10 + [False] * 3
    assert limiter.test(item, "who") is False
    assert limiter.test(item, "another") is True
    assert limiter.get_window_stats(item, "who").remaining == 0
    limiter.clear(item, "who")
    assert limiter.get_window_stats(item, "who").remaining == 10
    assert limiter.hit(item, "who") is True


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_hit_may_cost_more_than_one(storage, strategy):
    limiter, item = strategy(storage), RateLimitItemPerHour(10)
    assert limiter.hit(item, "who", cost=11) is False
    assert limiter.test(item, "big", cost=11) is False
    assert limiter.hit(item, "again", cost=6) is True
    if strategy is not FixedWindowRateLimiter:  # a fixed window counts refused hits too
        assert limiter.hit(item, "again", cost=5) is False
        assert limiter.hit(item, "again", cost=4) is True
    assert limiter.get_window_stats(item, "again").remaining in (0, 4)


def test_a_moving_window_moves(storage):
    limiter, item = MovingWindowRateLimiter(storage), RateLimitItemPerSecond(2)
    started = time.time()
    assert limiter.hit(item)
    time.sleep(0.5)
    assert limiter.hit(item)
    assert not limiter.hit(item)
    reset, remaining = limiter.get_window_stats(item)
    assert remaining == 0
    assert abs(reset - (started + 1)) < 0.2
    time.sleep(0.6)
    assert limiter.get_window_stats(item).remaining == 1
    assert limiter.hit(item)
    assert not limiter.hit(item)


def test_a_fixed_window_starts_with_its_first_hit(storage):
    limiter, item = FixedWindowRateLimiter(storage), RateLimitItemPerSecond(2)
    started = time.time()
    assert [limiter.hit(item) for _ in range(3)] == [True, True, False]
    assert abs(limiter.get_window_stats(item).reset_time - (started + 1)) < 0.2
    time.sleep(1.05)
    assert limiter.hit(item)


def test_a_sliding_window_weighs_the_previous_one(storage):
    limiter, item = SlidingWindowCounterRateLimiter(storage), RateLimitItemPerSecond(4)
    while time.time() % 1 > 0.1:
        time.sleep(0.01)
    assert [limiter.hit(item) for _ in range(4)] == [True] * 4
    previous, previous_s, count, count_s = storage.get_sliding_window(item.key_for(), 1)
    assert (previous, previous_s, count) == (0, 0.0, 4)
    assert 1 < count_s <= 2
    while time.time() % 1 < 0.5 or not storage.get_sliding_window(item.key_for(), 1)[0]:
        time.sleep(0.01)
    # The previous window counts for up to two of the four.
    assert [limiter.hit(item) for _ in range(4)].count(True) in (2, 3)


def test_a_reset_removes_only_the_librarys_counters(storage, tmp_path):
    state = MmapState(tmp_path / "state")
    state.load_limit("7", {}, [], {})
    limit = Limit("7", rpm=5)
    state.take(Take(1, "0/0/x", (), (limit,), 0, 0))
    storage.incr("a", 60)
    MovingWindowRateLimiter(storage).hit(RateLimitItemPerMinute(5))
    assert storage.reset() == 2
    assert storage.get("a") == 0
    assert state.inspect((), (limit,)).statuses[0].remaining == 4


def test_errors_are_wrapped_only_if_the_library_was_configured_to(tmp_path):
    (tmp_path / "file").write_text("no folder")
    uri = f"gproxy-table://{tmp_path}/file/state"
    with pytest.raises(OSError):
        storage_from_string(uri).incr("a", 60)
    with pytest.raises(StorageError):
        storage_from_string(uri, wrap_exceptions=True).incr("a", 60)
    assert storage_from_string(uri).check() is False


HITTING = """
import sys
import gproxy.state.mmap.limits_storage
from limits import parse
from limits.storage import storage_from_string
from limits.strategies import STRATEGIES
limiter = STRATEGIES[sys.argv[2]](storage_from_string(sys.argv[1]))
print(sum(limiter.hit(parse("100/hour"), "who") for _ in range(60)))
"""


@pytest.mark.parametrize("strategy", ["fixed-window", "moving-window", "sliding-window-counter"])
def test_four_processes_hit_exactly_the_limit(tmp_path, strategy):
    uri = f"gproxy-table://{tmp_path}/state"
    running = [
        subprocess.Popen([sys.executable, "-c", HITTING, uri, strategy], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert sum(int(child.communicate(timeout=60)[0]) for child in running) == 100
