"""The order of credentials, their cooldowns over several processes, and their own limits, with an injected clock."""

import itertools

import pytest

from gproxy.channels.error_classifier import Fault, Verdict
from gproxy.credentials.cooldown import PROBE_S
from gproxy.credentials.pool import Pool, expires
from gproxy.errors import NoCredential
from gproxy.quota.reservations import Reserver
from gproxy.snapshot import Credential, Provider, ProviderSettings
from gproxy.state.mmap.state import MmapState
from gproxy.state.shared_dict import SharedDict

RATE_LIMITED, UPSTREAM_FAILED = Fault(Verdict.RATE_LIMITED, 30.0), Fault(Verdict.UPSTREAM_FAILED)


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    """Returns a function that makes the pool of one more process."""
    state = MmapState(tmp_path / "state")
    numbers = itertools.count(1)

    def load(keys: tuple[str, ...]) -> None:
        for key in keys:
            state.load_limit(key, {}, [], {})

    def pool() -> Pool:
        reserver = Reserver(state, "0/000/0123456789abcdef", load)
        shared_dict = SharedDict(tmp_path / "health", expires, clock)
        return Pool(shared_dict, reserver, lambda now: next(numbers), clock, lambda: 0.5)

    return pool


def provider(*credentials: Credential, strategy: str = "sticky") -> Provider:
    settings = ProviderSettings(rotation_strategy=strategy)
    return Provider(1, "p", "openai", settings, credentials or (Credential(1, 1, "a"), Credential(2, 1, "b")))


def order(pool: Pool, of: Provider, model: str = "m") -> list[int]:
    """Returns the ids of the credentials in the order in which a call would try them."""
    candidates, found = pool.candidates(of, model, b""), []
    while (one := candidates.next()) is not None:
        found.append(one[0].id)
    return found


def test_every_process_skips_a_cooling_credential(make, clock):
    one, other, both = make(), make(), provider()
    one.failed(both.credentials[0], "m", RATE_LIMITED)
    assert order(other, both) == [2]
    assert order(other, both, "another model") == [1, 2]
    clock.now += 29.9
    assert order(other, both) == [2]


def test_after_a_cooldown_one_call_probes_and_its_success_counts_for_all(make, clock):
    one, other, both = make(), make(), provider()
    first = both.credentials[0]
    one.failed(first, "m", RATE_LIMITED)
    clock.now += 31
    assert order(one, both) == [1, 2]
    assert order(other, both) == [2]  # the first process probes
    one.succeeded(first, "m", clock.now)
    assert order(other, both) == [1, 2]


def test_a_lost_probe_is_waited_for_only_for_its_time(make, clock):
    one, other, both = make(), make(), provider()
    one.failed(both.credentials[0], "m", RATE_LIMITED)
    clock.now += 31
    assert order(one, both) == [1, 2]
    clock.now += PROBE_S + 1
    assert order(other, both) == [1, 2]


def test_a_released_probe_lets_the_next_call_probe(make, clock):
    one, other, both = make(), make(), provider()
    one.failed(both.credentials[0], "m", RATE_LIMITED)
    clock.now += 31
    assert order(one, both) == [1, 2]
    assert order(other, both) == [2]
    one.release_probe(both.credentials[0], "m")
    assert order(other, both) == [1, 2]


def test_a_success_that_began_before_the_fault_ends_no_cooldown(make, clock):
    pool, both = make(), provider()
    began = clock.now
    clock.now += 1
    pool.failed(both.credentials[0], "m", RATE_LIMITED)
    pool.succeeded(both.credentials[0], "m", began)
    assert order(pool, both) == [2]


def test_an_invalid_key_is_disabled_for_all_models_until_it_is_enabled_or_replaced(make, clock):
    pool, both = make(), provider()
    pool.failed(both.credentials[0], "m", Fault(Verdict.INVALID_KEY))
    clock.now += 10**8
    assert order(pool, both, "other") == [2]
    assert pool.state(both.credentials[0]).status == "unavailable"
    renewed = provider(Credential(1, 1, "renewed"), both.credentials[1])
    assert order(pool, renewed) == [1, 2]
    pool.enable(1)
    assert order(pool, both) == [1, 2]
    pool.disable(both.credentials[0])
    assert order(pool, both) == [2]


def test_the_state_of_a_credential(make, clock):
    pool, (first, second) = make(), provider().credentials
    assert (pool.state(first).status, pool.is_usable(first)) == ("healthy", True)
    pool.failed(first, "m", RATE_LIMITED)
    assert (pool.state(first).status, list(pool.state(first).cooldowns)) == ("cooldown", ["m"])
    assert pool.is_usable(first)
    pool.failed(first, "m", Fault(Verdict.NO_CREDIT))
    assert not pool.is_usable(first)
    assert pool.is_usable(second)
    assert set(pool.state(first).cooldowns) == {"m", ""}


def test_statuses_equal_the_states_of_the_credentials(make, clock):
    pool, both = make(), provider()
    first, second = both.credentials
    for change in (
        lambda: pool.failed(first, "m", RATE_LIMITED),
        lambda: pool.failed(second, "n/m", RATE_LIMITED),
        lambda: pool.disable(first),
        lambda: pool.failed(Credential(9, 9, "of another provider"), "m", RATE_LIMITED),
    ):
        change()
        assert pool.statuses(both.credentials) == {one.id: pool.state(one).status for one in both.credentials}
    assert pool.statuses(both.credentials) == {first.id: "unavailable", second.id: "cooldown"}
    # The cooldowns do not apply to another key of the same credential.
    assert pool.statuses([Credential(first.id, 1, "renewed")]) == {first.id: "healthy"}
    clock.now += 10**6
    assert pool.statuses(both.credentials) == {first.id: "unavailable", second.id: "healthy"}


def test_without_a_usable_credential_retry_after_is_the_shortest_wait(make, clock):
    pool, both = make(), provider()
    pool.failed(both.credentials[0], "m", Fault(Verdict.RATE_LIMITED, 40.0))
    pool.failed(both.credentials[1], "m", Fault(Verdict.RATE_LIMITED, 12.5))
    candidates = pool.candidates(both, "m", b"")
    assert candidates.next() is None
    assert candidates.last_resort() is None
    assert candidates.refusal().headers["Retry-After"] == "13"
    with pytest.raises(NoCredential, match="no enabled credential"):
        pool.candidates(Provider(1, "p", "openai", ProviderSettings(), ()), "m", b"")


def test_a_failed_credential_is_the_last_resort_up_to_its_third_failure(make, clock):
    pool, both = make(), provider()
    first, second = both.credentials
    pool.failed(first, "m", UPSTREAM_FAILED)
    pool.failed(second, "m", RATE_LIMITED)
    for last in (first.id, None):
        candidates = pool.candidates(both, "m", b"")
        assert candidates.next() is None
        found = candidates.last_resort()
        assert (found and found[0].id) == last
        pool.failed(first, "m", UPSTREAM_FAILED)
        pool.failed(first, "m", UPSTREAM_FAILED)


def test_limits_of_a_credential_are_counted_over_all_processes(make, clock):
    one, other = make(), make()
    tight = provider(Credential(1, 1, "a", concurrency=1), Credential(2, 1, "b", rpm=2))
    (first, reservation), (second, other_reservation) = (
        one.candidates(tight, "m", b"").next(),
        other.candidates(tight, "m", b"").next(),
    )
    assert (first.id, second.id) == (1, 2)
    assert order(other, tight) == [2]
    assert order(other, tight) == []
    one.release(reservation)
    assert order(other, tight) == [1]
    other.release(other_reservation)


def test_a_long_model_name_has_a_cooldown_of_its_own(make, clock):
    pool, both = make(), provider()
    names = ["ü" * 512, "ü" * 511 + "x"]
    pool.failed(both.credentials[0], names[0], RATE_LIMITED)
    assert [order(pool, both, name) for name in names] == [[2], [1, 2]]


def test_the_first_usable_credential_is_used_for_model_lists(make, clock):
    pool, both = make(), provider()
    assert pool.first_usable(both).id == 1
    pool.failed(both.credentials[0], "m", Fault(Verdict.INVALID_KEY))
    assert pool.first_usable(both).id == 2
    pool.failed(both.credentials[1], "m", Fault(Verdict.INVALID_KEY))
    assert pool.first_usable(both).id == 1
    with pytest.raises(NoCredential):
        pool.first_usable(Provider(1, "p", "openai", ProviderSettings(), ()))


# -- keys that were replaced ---------------------------------------------------------------------------------------

OLD, NEW = Credential(1, 1, "old"), Credential(1, 1, "new")
INVALID = Fault(Verdict.INVALID_KEY)


@pytest.fixture
def rotated(make, clock):
    """A pool at the moment when OLD was replaced by NEW, and calls with OLD still run."""
    pool = make()
    pool.is_current = lambda credential: credential.fingerprint == NEW.fingerprint
    return pool


@pytest.mark.parametrize("fault", [INVALID, RATE_LIMITED, UPSTREAM_FAILED, Fault(Verdict.NO_CREDIT)])
@pytest.mark.parametrize("before", [None, INVALID, Fault(Verdict.NO_CREDIT), RATE_LIMITED])
def test_a_fault_of_a_replaced_key_changes_nothing_for_the_new_key(rotated, clock, fault, before):
    if before is not None:
        rotated.failed(NEW, "m", before)
    expected = rotated.state(NEW)
    clock.now += 1
    rotated.failed(OLD, "m", fault)
    assert rotated.state(NEW) == expected
    assert rotated.is_usable(NEW) is (before is None or before is RATE_LIMITED)


@pytest.mark.parametrize("before", [INVALID, RATE_LIMITED])
def test_a_success_of_a_replaced_key_ends_no_cooldown_of_the_new_key(rotated, clock, before):
    rotated.failed(NEW, "m", before)
    expected = rotated.state(NEW)
    rotated.succeeded(OLD, "m", clock.now + 1)
    assert rotated.state(NEW) == expected


def test_a_call_with_a_replaced_key_does_not_release_the_probe_of_the_new_key(rotated, clock):
    rotated.failed(NEW, "m", RATE_LIMITED)
    clock.now += 31
    assert order(rotated, provider(NEW)) == [1]
    rotated.release_probe(OLD, "m")
    assert order(rotated, provider(NEW)) == []


def test_a_success_of_the_new_key_ends_the_cooldown_of_the_old_one(make, clock):
    pool = make()
    pool.failed(OLD, "m", INVALID)
    pool.succeeded(NEW, "m", clock.now)
    assert pool.cooldowns(NEW, "m") == (None, None)


def test_the_cooldown_of_the_old_key_does_not_keep_the_new_one_from_the_last_resort(make, clock):
    pool = make()
    pool.failed(OLD, "m", INVALID)
    assert pool.candidates(provider(OLD), "m", b"").last_resort() is None
    assert pool.candidates(provider(NEW), "m", b"").last_resort() == (NEW, None)
