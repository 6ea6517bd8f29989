"""The health of a credential, for one model or for all: what a fault makes of it, and when it may be tried again. Pure.

A fault cools; when the time is over one call tries, and its success makes it healthy. A key that is none is disabled
until an operator says otherwise. Moments are in seconds since the epoch.
"""

from typing import NamedTuple

DEAD, BROKE, FORBIDDEN, LIMITED, FAILED = "dead", "broke", "forbidden", "limited", "failed"
# Of which faults the credential is told, and not only one of its models.
OF_ALL_MODELS = (DEAD, BROKE)
BROKE_S, FORBIDDEN_S = 3600.0, 300.0
FIRST_S, MAX_BACKOFF_S = 1.0, 60.0
FORGOTTEN_S = 600.0  # so long after the last fault the next one is the first again
PROBE_S = 5.0  # so long the others wait for the one that tries; an answer may take minutes
# An upstream that failed so often in a row is not asked any more while it cools; before, it is where nothing else is.
MAX_STRIKES = 3
NEVER = 2.0**40


class Mark(NamedTuple):
    """What is known of a credential that is not simply healthy. `probe` is until when somebody tries."""

    verdict: str
    until: float
    at: float
    strikes: int = 1
    probe: float = 0.0
    secret: str = ""  # the fingerprint of the key that was used: another key starts anew


def after(mark: Mark | None, verdict: str, wait_s: float | None, secret: str, now: float, dice: float) -> Mark:
    """The mark after one more fault. `wait_s` is what the upstream told; `dice`, in [0, 1), spreads the others."""
    is_new = mark is None or mark.secret != secret or now - max(mark.at, mark.until) > FORGOTTEN_S
    strikes = 1 if is_new else mark.strikes + 1
    if verdict == DEAD:
        return Mark(DEAD, NEVER, now, strikes, 0.0, secret)
    if not is_new and mark.verdict == DEAD:
        return mark
    if verdict == BROKE:
        wait = BROKE_S
    elif verdict == FORBIDDEN:
        wait = FORBIDDEN_S
    elif wait_s is not None:
        wait = wait_s
    else:
        wait = min(MAX_BACKOFF_S, FIRST_S * 2.0 ** min(strikes - 1, 16)) * (0.75 + dice / 2)
    until = now + wait if is_new else max(now + wait, mark.until)
    return Mark(verdict, until, now, strikes, 0.0, secret)


def cools_until(mark: Mark | None, secret: str, now: float) -> float:
    """Until when the credential is left alone; 0 when it can be used."""
    if mark is None or mark.secret != secret:
        return 0.0
    if mark.until > now:
        return mark.until
    return mark.probe if mark.probe > now else 0.0


def is_due(mark: Mark | None, secret: str, now: float) -> bool:
    """Whether its cooling is over, and one call has to try before it is healthy again."""
    return mark is not None and mark.secret == secret and mark.until <= now and mark.probe <= now


def is_light(mark: Mark) -> bool:
    """Whether it may be used all the same where there is nothing else.

    What the upstream says of a model that is not for us, it shall say itself.
    """
    return mark.verdict == FORBIDDEN or (mark.verdict == FAILED and mark.strikes < MAX_STRIKES)
