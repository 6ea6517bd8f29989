"""What is left of a caller's own limits, under the header names that each vendor's SDKs and agents read.

https://platform.openai.com/docs/guides/rate-limits and https://docs.anthropic.com/en/api/rate-limits; Google has no
such headers, and tells in an error's details how long to wait.
"""

import math
from datetime import UTC, datetime
from typing import Protocol


class RemainingLimit(Protocol):
    """Of requests, or of tokens. `reset_s` is when all of it is there again, in seconds from now on."""

    limit: int
    remaining: int
    reset_s: float


def openai(requests: RemainingLimit | None, tokens: RemainingLimit | None, now_s: float) -> list[tuple[str, str]]:
    """`x-ratelimit-reset-requests` and its like are durations: `20ms`, `1s`, `6m0s`."""
    told = []
    for what, left in (("requests", requests), ("tokens", tokens)):
        if left is not None:
            told.append((f"x-ratelimit-limit-{what}", str(left.limit)))
            told.append((f"x-ratelimit-remaining-{what}", str(left.remaining)))
            told.append((f"x-ratelimit-reset-{what}", _duration(left.reset_s)))
    return told


def anthropic(requests: RemainingLimit | None, tokens: RemainingLimit | None, now_s: float) -> list[tuple[str, str]]:
    """`anthropic-ratelimit-requests-reset` and its like are moments in RFC 3339."""
    told = []
    for what, left in (("requests", requests), ("tokens", tokens)):
        if left is not None:
            moment = datetime.fromtimestamp(math.ceil(now_s + left.reset_s), UTC)
            told.append((f"anthropic-ratelimit-{what}-limit", str(left.limit)))
            told.append((f"anthropic-ratelimit-{what}-remaining", str(left.remaining)))
            told.append((f"anthropic-ratelimit-{what}-reset", f"{moment:%Y-%m-%dT%H:%M:%SZ}"))
    return told


def google(requests: RemainingLimit | None, tokens: RemainingLimit | None, now_s: float) -> list[tuple[str, str]]:
    return []


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
