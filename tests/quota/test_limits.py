"""Which limit rows apply, and the errors and headers of their counters."""

import pytest

from gproxy.errors import RateLimited
from gproxy.quota import limits
from gproxy.snapshot import Caller, RateLimit, glob
from gproxy.state.interface import CONCURRENCY, RPD, RPM, TOKENS, Limit, LimitStatus


def row(number: int, pattern: str, **amounts) -> RateLimit:
    return RateLimit(number, pattern, glob(pattern).fullmatch, **{"rpm": None, **amounts})


def caller(users: tuple[RateLimit, ...] = (), keys: tuple[RateLimit, ...] = ()) -> Caller:
    return Caller(1, "user", 2, False, None, (), limits=users, key_limits=keys)


def test_the_first_matching_row_of_the_user_and_of_the_key_applies():
    one = caller((row(1, "gpt-4", rpm=1), row(2, "gpt-*", rpm=2), row(3, "*", rpd=3)), (row(4, "*", concurrency=4),))
    assert limits.applying(one, "gpt-4") == (Limit("1", rpm=1), Limit("4", concurrency=4))
    assert limits.applying(one, "gpt-5") == (Limit("2", rpm=2), Limit("4", concurrency=4))
    assert limits.applying(one, "claude") == (Limit("3", rpd=3), Limit("4", concurrency=4))


def test_without_a_matching_row_nothing_is_limited():
    assert limits.applying(caller(), "gpt-4") == ()
    assert limits.applying(caller((row(1, "claude-*", rpm=1),)), "gpt-4") == ()


def status(counter: str, limit: int, remaining: int, reset_s: float | None, wait_s: float | None = 0.0) -> LimitStatus:
    return LimitStatus("1", counter, limit, remaining, reset_s, wait_s)


@pytest.mark.parametrize(
    ("refused", "message", "headers"),
    [
        (
            status(RPM, 3, 0, 59.2, 12.34),
            "rate_limited: rpm: 3 requests per minute are used up; try again in 13 s",
            {"X-RateLimit-Reset": "1060", "Retry-After": "13", "retry-after-ms": "12340"},
        ),
        (
            status(RPD, 3, 0, 86_000.0, 7_000.5),
            "rate_limited: rpd: 3 requests per day are used up; try again in 7001 s",
            {"X-RateLimit-Reset": "87000", "Retry-After": "7001", "x-should-retry": "false"},
        ),
        (
            status(TOKENS, 50, 50, 0.0, None),
            "rate_limited: total_tokens: this request may use 900 tokens, and 50 tokens per day are allowed",
            {"X-RateLimit-Remaining": "50", "Retry-After": "3600", "x-should-retry": "false"},
        ),
        (
            status(CONCURRENCY, 2, 0, None, 1.0),
            "rate_limited: concurrency: 2 requests at once are used up; try again in 1 s",
            {"X-RateLimit-Reset": "1000", "Retry-After": "1", "retry-after-ms": "1000"},
        ),
        (
            status(RPM, 0, 0, 0.0, None),
            "rate_limited: rpm: this model is blocked by a limit of 0 requests per minute",
            {"Retry-After": "3600", "x-should-retry": "false"},
        ),
    ],
    ids=["minute", "day", "tokens that never fit", "concurrency", "blocked"],
)
def test_a_refusal_names_the_counter_and_when_to_retry(refused, message, headers):
    fault = limits.refusal(refused, (refused,), 900, 1000.0)
    assert isinstance(fault, RateLimited)
    assert (fault.status, fault.code, fault.message) == (429, "rate_limited", message)
    assert fault.headers.items() >= headers.items()
    assert fault.headers["X-RateLimit-Limit"] == str(refused.limit)
    assert fault.headers["X-RateLimit-Counter"] == refused.counter
    assert fault.retry_s == refused.wait_s


def test_retry_after_is_at_least_one_second():
    assert limits.refusal(status(RPM, 1, 0, 0.01, 0.001), (), 1, 0.0).headers["Retry-After"] == "1"


def test_the_tightest_counters_have_the_least_remaining():
    minute, day, tokens = status(RPM, 9, 4, 1.0), status(RPD, 99, 2, 1.0), status(TOKENS, 9, 0, 1.0)
    calls, account = status(CONCURRENCY, 2, 1, None), LimitStatus("u1", None, 9, 0, None)
    assert limits.tightest((account, minute, day, tokens, calls)) == (day, tokens, calls)
    looser = (status(RPM, 9, 3, 1.0), status(TOKENS, 9, 1, 1.0), status(CONCURRENCY, 2, 2, None))
    assert limits.tightest((minute, *looser, tokens, calls)) == (looser[0], tokens, calls)
    assert limits.tightest((account,)) == (None, None, None)
