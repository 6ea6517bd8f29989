"""Headers with the remaining limits, in the names and formats of each vendor."""

from types import SimpleNamespace

import pytest

from gproxy.protocols import ratelimit_headers

NOW = 1_795_564_800.5  # 2026-11-25T00:00:00.5Z


def limit(limit: int, remaining: int, reset_s: float) -> SimpleNamespace:
    return SimpleNamespace(limit=limit, remaining=remaining, reset_s=reset_s)


REQUESTS, TOKENS = limit(60, 59, 12.2), limit(1_000, 0, 90_000.0)


def test_openai_headers_have_durations():
    assert ratelimit_headers.openai(REQUESTS, TOKENS, NOW) == [
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "59"),
        ("x-ratelimit-reset-requests", "13s"),
        ("x-ratelimit-limit-tokens", "1000"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "25h0m0s"),
    ]


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.0, "0ms"), (0.0201, "21ms"), (1.0, "1s"), (59.5, "1m0s"), (360.0, "6m0s"), (3_661.0, "1h1m1s")],
)
def test_durations_are_rounded_up(seconds, written):
    assert ratelimit_headers.openai(limit(1, 0, seconds), None, NOW)[2] == ("x-ratelimit-reset-requests", written)


def test_anthropic_headers_have_times():
    assert ratelimit_headers.anthropic(REQUESTS, TOKENS, NOW) == [
        ("anthropic-ratelimit-requests-limit", "60"),
        ("anthropic-ratelimit-requests-remaining", "59"),
        ("anthropic-ratelimit-requests-reset", "2026-11-25T00:00:13Z"),
        ("anthropic-ratelimit-tokens-limit", "1000"),
        ("anthropic-ratelimit-tokens-remaining", "0"),
        ("anthropic-ratelimit-tokens-reset", "2026-11-26T01:00:01Z"),
    ]


@pytest.mark.parametrize("write", [ratelimit_headers.openai, ratelimit_headers.anthropic, ratelimit_headers.google])
def test_without_limits_there_are_no_headers(write):
    assert write(None, None, NOW) == []
