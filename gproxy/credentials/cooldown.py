"""The cooldown of a credential, for one model or for all: how long a fault lasts, and when a probe is due. Pure.

A fault starts a cooldown. When its time is over one call probes the credential, and a success ends the cooldown. An
invalid key is disabled until an administrator enables it. Moments are in seconds since the epoch.
"""

from typing import NamedTuple

# Why a credential cools down. The values are stored and shown, and equal those of `channels.error_classifier.Verdict`.
INVALID_KEY, NO_CREDIT, FORBIDDEN, RATE_LIMITED, UPSTREAM_FAILED = "dead", "broke", "forbidden", "limited", "failed"
# These apply to all models of a credential, the others to one model.
FOR_ALL_MODELS = (INVALID_KEY, NO_CREDIT)
NO_CREDIT_S, FORBIDDEN_S = 3600.0, 300.0
FIRST_BACKOFF_S, MAX_BACKOFF_S = 1.0, 60.0
FORGET_S = 600.0  # a fault that is this much later than the last one counts as the first
PROBE_S = 5.0  # the other calls wait this long for the probe, whose response may take minutes
# From this number of failures in a row on, a cooling credential is not used as the last resort either.
MAX_FAILURES = 3
NEVER = 2.0**40


class Cooldown(NamedTuple):
    """The state of a credential after a fault, the last one `at`. A probe is claimed until `probe_until`."""

    verdict: str
    until: float
    at: float
    failures: int = 1
    probe_until: float = 0.0
    fingerprint: str = ""  # of the key that was used: the cooldown does not apply to another key


def after_fault(
    cooldown: Cooldown | None, verdict: str, wait_s: float | None, fingerprint: str, now: float, dice: float
) -> Cooldown:
    """Returns the cooldown after one more fault.

    `wait_s` is the time that the upstream asked for; without it `dice`, in [0, 1), spreads the backoff.
    """
    is_new = (
        cooldown is None or cooldown.fingerprint != fingerprint or now - max(cooldown.at, cooldown.until) > FORGET_S
    )
    failures = 1 if is_new else cooldown.failures + 1
    if verdict == INVALID_KEY:
        return Cooldown(INVALID_KEY, NEVER, now, failures, 0.0, fingerprint)
    if not is_new and cooldown.verdict == INVALID_KEY:
        return cooldown
    if verdict == NO_CREDIT:
        wait = NO_CREDIT_S
    elif verdict == FORBIDDEN:
        wait = FORBIDDEN_S
    elif wait_s is not None:
        wait = wait_s
    else:
        wait = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 16)) * (0.75 + dice / 2)
    until = now + wait if is_new else max(now + wait, cooldown.until)
    return Cooldown(verdict, until, now, failures, 0.0, fingerprint)


def cools_until(cooldown: Cooldown | None, fingerprint: str, now: float) -> float:
    """Returns until when the credential must not be used, or 0 if it may be."""
    if cooldown is None or cooldown.fingerprint != fingerprint:
        return 0.0
    if cooldown.until > now:
        return cooldown.until
    return cooldown.probe_until if cooldown.probe_until > now else 0.0


def is_probe_due(cooldown: Cooldown | None, fingerprint: str, now: float) -> bool:
    """Returns True if the time of the cooldown is over and no call probes the credential yet."""
    return (
        cooldown is not None
        and cooldown.fingerprint == fingerprint
        and cooldown.until <= now
        and cooldown.probe_until <= now
    )


def allows_last_resort(cooldown: Cooldown) -> bool:
    """Returns True if the credential may be used although it cools down, when there is no other.

    With a model that is forbidden, the client then gets the upstream's own error message.
    """
    return cooldown.verdict == FORBIDDEN or (cooldown.verdict == UPSTREAM_FAILED and cooldown.failures < MAX_FAILURES)
