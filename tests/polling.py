"""Waits for a condition instead of a fixed time."""

import time
from collections.abc import Callable

STEP_S = 0.01


def wait_until(condition: Callable[[], object], timeout_s: float = 10) -> None:
    """Returns as soon as the condition is true. Raises AssertionError when it is still false at the time-out."""
    deadline = time.monotonic() + timeout_s
    while True:
        is_last = time.monotonic() > deadline
        if condition():
            return
        assert not is_last, f"the condition was still false after {timeout_s} s"
        time.sleep(STEP_S)
