"""Cooldowns after one or several faults, with an injected clock and dice."""

import pytest

from gproxy.credentials.cooldown import (
    FORBIDDEN,
    FORGET_S,
    INVALID_KEY,
    NO_CREDIT,
    PROBE_S,
    RATE_LIMITED,
    UPSTREAM_FAILED,
    Cooldown,
    after_fault,
    allows_last_resort,
    cools_until,
    is_probe_due,
)

NOW = 1_000_000.0


def failed(times: int, verdict: str = UPSTREAM_FAILED, pause: float = 0.0, dice: float = 0.5) -> tuple[Cooldown, float]:
    """Returns the cooldown after `times` faults, each at the end of the cooldown before, and the last time."""
    cooldown, now = None, NOW
    for _ in range(times):
        cooldown = after_fault(cooldown, verdict, None, "s", now, dice)
        last, now = now, cooldown.until + pause
    return cooldown, last


def test_the_cooldown_doubles_up_to_a_minute():
    waits = [cooldown.until - at for cooldown, at in (failed(n) for n in range(1, 10))]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(("dice", "wait"), [(0.0, 0.75), (0.999, 1.25)])
def test_the_backoff_is_spread_by_25_percent(dice, wait):
    assert after_fault(None, UPSTREAM_FAILED, None, "s", NOW, dice).until - NOW == pytest.approx(wait, abs=0.01)


def test_the_time_that_the_upstream_asks_for_is_used():
    assert after_fault(None, RATE_LIMITED, 17.0, "s", NOW, 0.9).until == NOW + 17


@pytest.mark.parametrize(("verdict", "wait"), [(NO_CREDIT, 3600), (FORBIDDEN, 300)])
def test_no_credit_and_a_forbidden_model_have_fixed_cooldowns(verdict, wait):
    assert after_fault(None, verdict, None, "s", NOW, 0.5).until == NOW + wait


def test_an_invalid_key_stays_disabled_after_later_faults():
    cooldown = after_fault(None, INVALID_KEY, None, "s", NOW, 0.5)
    assert cools_until(cooldown, "s", NOW + 10**9) > NOW + 10**9
    assert not is_probe_due(cooldown, "s", NOW + 10**9)
    assert after_fault(cooldown, RATE_LIMITED, 1.0, "s", NOW + 5, 0.5) == cooldown


def test_another_key_starts_without_a_cooldown():
    cooldown = after_fault(None, INVALID_KEY, None, "old", NOW, 0.5)
    assert cools_until(cooldown, "new", NOW) == 0
    assert after_fault(cooldown, UPSTREAM_FAILED, None, "new", NOW, 0.5).failures == 1


def test_a_later_fault_does_not_shorten_a_cooldown():
    cooldown = after_fault(None, RATE_LIMITED, 100.0, "s", NOW, 0.5)
    assert after_fault(cooldown, RATE_LIMITED, 2.0, "s", NOW + 1, 0.5).until == NOW + 100


def test_a_fault_long_after_the_last_is_the_first_again():
    cooldown, _ = failed(5)
    again = after_fault(cooldown, UPSTREAM_FAILED, None, "s", cooldown.until + FORGET_S + 1, 0.5)
    assert again.failures == 1


def test_one_call_probes_after_the_cooldown_and_the_others_wait():
    cooldown = after_fault(None, RATE_LIMITED, 10.0, "s", NOW, 0.5)
    assert (cools_until(cooldown, "s", NOW + 9), is_probe_due(cooldown, "s", NOW + 9)) == (NOW + 10, False)
    assert (cools_until(cooldown, "s", NOW + 10), is_probe_due(cooldown, "s", NOW + 10)) == (0, True)
    probed = cooldown._replace(probe_until=NOW + 10 + PROBE_S)
    assert (cools_until(probed, "s", NOW + 11), is_probe_due(probed, "s", NOW + 11)) == (probed.probe_until, False)
    assert is_probe_due(probed, "s", probed.probe_until)  # the probing call was lost: another may probe


def test_which_cooldowns_allow_a_last_resort():
    assert [allows_last_resort(failed(n)[0]) for n in (1, 2, 3, 4)] == [True, True, False, False]
    assert allows_last_resort(after_fault(None, FORBIDDEN, None, "s", NOW, 0.5))
    assert not any(
        allows_last_resort(after_fault(None, verdict, None, "s", NOW, 0.5))
        for verdict in (INVALID_KEY, NO_CREDIT, RATE_LIMITED)
    )
