"""What follows on a fault: whom it may be sent to again, how often, and how long."""

import pytest

from gproxy.errors import UpstreamError, UpstreamTimeout
from gproxy.relay.failover import Attempts, Next


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def fault(kind: type = UpstreamError, was_sent: bool = True, is_stale: bool = False) -> UpstreamError:
    found = kind("x")
    found.was_sent, found.is_stale = was_sent, is_stale
    return found


@pytest.mark.parametrize(
    ("found", "retries_timeouts", "expected"),
    [
        (fault(was_sent=False), False, Next.OTHER),
        (fault(UpstreamTimeout, was_sent=False), False, Next.OTHER),
        (fault(is_stale=True), False, Next.SAME),
        (fault(), False, Next.NONE),
        (fault(), True, Next.OTHER),
        (fault(UpstreamTimeout), False, Next.NONE),
        (fault(UpstreamTimeout), True, Next.OTHER),
    ],
)
def test_what_may_have_begun_is_not_repeated(found, retries_timeouts, expected):
    assert Attempts(5, 60).after(found, retries_timeouts) is expected


def test_a_stale_connection_is_forgiven_once():
    attempts = Attempts(5, 60)
    assert [attempts.after(fault(is_stale=True), False) for _ in range(2)] == [Next.SAME, Next.NONE]


def test_so_many_attempts():
    attempts = Attempts(2, 60)
    for over in (False, True):
        attempts.begin()
        attempts.end(1, 7, 500)
        assert attempts.is_over() is over


def test_so_long():
    clock = Clock()
    attempts = Attempts(20, 60, clock)
    attempts.begin()
    clock.now += 59.9
    attempts.end(1, 7, "upstream_timeout")
    assert not attempts.is_over()
    attempts.begin()  # the time counts from the first
    clock.now += 0.25
    attempts.end(2, None, 200)
    assert attempts.is_over()
    assert attempts.made == [(1, 7, "upstream_timeout", 59_900), (2, None, 200, 250)]
