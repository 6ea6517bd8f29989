"""Response headers with the remaining requests and tokens of a caller's limits, in the form each vendor's SDKs read.

https://platform.openai.com/docs/guides/rate-limits and https://docs.anthropic.com/en/api/rate-limits; Google has no
such headers: its errors state in their details how long to wait.
"""

import math
from datetime import UTC, datetime
from typing import Protocol


class RemainingLimit(Protocol):
    """State of one limit, of requests or of tokens. `reset_s`: seconds until the whole limit is available again."""

    limit: int
    remaining: int
    reset_s: float


def openai(requests: RemainingLimit | None, tokens: RemainingLimit | None, now_s: float) -> list[tuple[str, str]]:
    """The reset headers are durations: `20ms`, `1s`, `6m0s`."""
    headers = []
    for unit, state in (("requests", requests), ("tokens", tokens)):
        if state is not None:
            headers.append((f"x-ratelimit-limit-{unit}", str(state.limit)))
            headers.append((f"x-ratelimit-remaining-{unit}", str(state.remaining)))
            headers.append((f"x-ratelimit-reset-{unit}", _duration(state.reset_s)))
    return headers


def anthropic(requests: RemainingLimit | None, tokens: RemainingLimit | None, now_s: float) -> list[tuple[str, str]]:
    """The reset headers are moments in RFC 3339."""
    headers = []
    for unit, state in (("requests", requests), ("tokens", tokens)):
        if state is not None:
            moment = datetime.fromtimestamp(math.ceil(now_s + state.reset_s), UTC)
            headers.append((f"anthropic-ratelimit-{unit}-limit", str(state.limit)))
            headers.append((f"anthropic-ratelimit-{unit}-remaining", str(state.remaining)))
            headers.append((f"anthropic-ratelimit-{unit}-reset", f"{moment:%Y-%m-%dT%H:%M:%SZ}"))
    return headers


def google(requests: RemainingLimit | None, tokens: RemainingLimit | None, now_s: float) -> list[tuple[str, str]]:
    return []


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    hours, remaining = divmod(whole, 3600)
    minutes, seconds = divmod(remaining, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
