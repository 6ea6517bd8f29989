"""What faults make of a credential, one after another, by an injected clock and dice."""

import pytest

from gproxy.credentials import cooldown
from gproxy.credentials.cooldown import (
    BROKE,
    DEAD,
    FAILED,
    FORBIDDEN,
    LIMITED,
    Mark,
    after,
    cools_until,
    is_due,
    is_light,
)

NOW = 1_000_000.0


def failed(times: int, verdict: str = FAILED, pause: float = 0.0, dice: float = 0.5) -> tuple[Mark, float]:
    """The mark after so many faults, each as soon as the cooling of the last is over."""
    mark, now = None, NOW
    for _ in range(times):
        mark = after(mark, verdict, None, "s", now, dice)
        last, now = now, mark.until + pause
    return mark, last


def test_the_cooling_doubles_up_to_a_minute():
    waits = [mark.until - at for mark, at in (failed(n) for n in range(1, 10))]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


@pytest.mark.parametrize(("dice", "wait"), [(0.0, 0.75), (0.999, 1.25)])
def test_it_is_spread_so_that_not_all_come_back_at_once(dice, wait):
    assert after(None, FAILED, None, "s", NOW, dice).until - NOW == pytest.approx(wait, abs=0.01)


def test_what_the_upstream_tells_is_what_is_waited():
    assert after(None, LIMITED, 17.0, "s", NOW, 0.9).until == NOW + 17


@pytest.mark.parametrize(("verdict", "wait"), [(BROKE, 3600), (FORBIDDEN, 300)])
def test_a_fault_that_does_not_pass_soon_cools_long(verdict, wait):
    assert after(None, verdict, None, "s", NOW, 0.5).until == NOW + wait


def test_a_key_that_is_none_is_disabled_whatever_comes_later():
    mark = after(None, DEAD, None, "s", NOW, 0.5)
    assert cools_until(mark, "s", NOW + 10**9) > NOW + 10**9
    assert not is_due(mark, "s", NOW + 10**9)
    assert after(mark, LIMITED, 1.0, "s", NOW + 5, 0.5) == mark


def test_another_key_in_its_place_starts_anew():
    mark = after(None, DEAD, None, "old", NOW, 0.5)
    assert cools_until(mark, "new", NOW) == 0
    assert after(mark, FAILED, None, "new", NOW, 0.5).strikes == 1


def test_a_later_fault_does_not_shorten_what_was_told():
    mark = after(None, LIMITED, 100.0, "s", NOW, 0.5)
    assert after(mark, LIMITED, 2.0, "s", NOW + 1, 0.5).until == NOW + 100


def test_a_fault_long_after_the_last_is_the_first_again():
    mark, _ = failed(5)
    again = after(mark, FAILED, None, "s", mark.until + cooldown.FORGOTTEN_S + 1, 0.5)
    assert again.strikes == 1


def test_one_tries_when_the_cooling_is_over_and_the_others_wait():
    mark = after(None, LIMITED, 10.0, "s", NOW, 0.5)
    assert (cools_until(mark, "s", NOW + 9), is_due(mark, "s", NOW + 9)) == (NOW + 10, False)
    assert (cools_until(mark, "s", NOW + 10), is_due(mark, "s", NOW + 10)) == (0, True)
    tried = mark._replace(probe=NOW + 10 + cooldown.PROBE_S)
    assert (cools_until(tried, "s", NOW + 11), is_due(tried, "s", NOW + 11)) == (tried.probe, False)
    assert is_due(tried, "s", tried.probe)  # whoever tried was lost: another may


def test_what_may_be_used_where_there_is_nothing_else():
    assert [is_light(failed(n)[0]) for n in (1, 2, 3, 4)] == [True, True, False, False]
    assert is_light(after(None, FORBIDDEN, None, "s", NOW, 0.5))
    assert not any(is_light(after(None, verdict, None, "s", NOW, 0.5)) for verdict in (DEAD, BROKE, LIMITED))
