"""Which credential is next, what faults make of it, and what its own limits allow; by an injected clock."""

import itertools

import pytest

from gproxy.channels.error_classifier import Fault, Verdict
from gproxy.credentials import cooldown
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
    """Pools of as many processes as are asked for."""
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
    """Who would be tried, one after the other."""
    candidates, found = pool.candidates(of, model, b""), []
    while (one := candidates.next()) is not None:
        found.append(one[0].id)
    return found


def test_a_cooling_credential_is_passed_over_by_every_process(make, clock):
    one, other, both = make(), make(), provider()
    one.failed(both.credentials[0], "m", RATE_LIMITED)
    assert order(other, both) == [2]
    assert order(other, both, "another model") == [1, 2]
    clock.now += 29.9
    assert order(other, both) == [2]


def test_after_its_cooling_one_tries_and_its_success_is_for_all(make, clock):
    one, other, both = make(), make(), provider()
    first = both.credentials[0]
    one.failed(first, "m", RATE_LIMITED)
    clock.now += 31
    assert order(one, both) == [1, 2]
    assert order(other, both) == [2]  # the first process tries
    one.succeeded(first, "m", clock.now)
    assert order(other, both) == [1, 2]


def test_who_tried_and_was_lost_is_waited_for_only_so_long(make, clock):
    one, other, both = make(), make(), provider()
    one.failed(both.credentials[0], "m", RATE_LIMITED)
    clock.now += 31
    assert order(one, both) == [1, 2]
    clock.now += cooldown.PROBE_S + 1
    assert order(other, both) == [1, 2]


def test_who_gives_up_trying_lets_the_next_one_try(make, clock):
    one, other, both = make(), make(), provider()
    one.failed(both.credentials[0], "m", RATE_LIMITED)
    clock.now += 31
    assert order(one, both) == [1, 2]
    assert order(other, both) == [2]
    one.unclaim(both.credentials[0], "m")
    assert order(other, both) == [1, 2]


def test_a_success_that_began_before_the_fault_ends_no_cooling(make, clock):
    pool, both = make(), provider()
    began = clock.now
    clock.now += 1
    pool.failed(both.credentials[0], "m", RATE_LIMITED)
    pool.succeeded(both.credentials[0], "m", began)
    assert order(pool, both) == [2]


def test_a_refused_key_is_of_no_use_for_any_model_until_it_is_enabled_or_another(make, clock):
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


def test_how_a_credential_stands(make, clock):
    pool, (first, second) = make(), provider().credentials
    assert (pool.state(first).status, pool.is_usable(first)) == ("healthy", True)
    pool.failed(first, "m", RATE_LIMITED)
    assert (pool.state(first).status, list(pool.state(first).cooling)) == ("cooldown", ["m"])
    assert pool.is_usable(first)
    pool.failed(first, "m", Fault(Verdict.NO_CREDIT))
    assert not pool.is_usable(first)
    assert pool.is_usable(second)
    assert set(pool.state(first).cooling) == {"m", ""}


def test_all_stand_as_each_of_them_does(make, clock):
    pool, both = make(), provider()
    first, second = both.credentials
    for function in (
        lambda: pool.failed(first, "m", RATE_LIMITED),
        lambda: pool.failed(second, "n/m", RATE_LIMITED),
        lambda: pool.disable(first),
        lambda: pool.failed(Credential(9, 9, "of another provider"), "m", RATE_LIMITED),
    ):
        function()
        assert pool.statuses(both.credentials) == {one.id: pool.state(one).status for one in both.credentials}
    assert pool.statuses(both.credentials) == {first.id: "unavailable", second.id: "cooldown"}
    # Nothing is known of another key in its place.
    assert pool.statuses([Credential(first.id, 1, "renewed")]) == {first.id: "healthy"}
    clock.now += 10**6
    assert pool.statuses(both.credentials) == {first.id: "unavailable", second.id: "healthy"}


def test_where_none_can_be_used_it_is_told_when_one_can(make, clock):
    pool, both = make(), provider()
    pool.failed(both.credentials[0], "m", Fault(Verdict.RATE_LIMITED, 40.0))
    pool.failed(both.credentials[1], "m", Fault(Verdict.RATE_LIMITED, 12.5))
    candidates = pool.candidates(both, "m", b"")
    assert candidates.next() is None
    assert candidates.last_resort() is None
    assert candidates.refusal().headers["Retry-After"] == "13"
    with pytest.raises(NoCredential, match="no enabled credential"):
        pool.candidates(Provider(1, "p", "openai", ProviderSettings(), ()), "m", b"")


def test_what_failed_for_a_moment_is_the_last_resort_and_not_for_long(make, clock):
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


def test_limits_of_a_credential_are_counted_for_all_processes(make, clock):
    one, other = make(), make()
    tight = provider(Credential(1, 1, "a", concurrency=1), Credential(2, 1, "b", rpm=2))
    (first, lease), (second, nothing) = (
        one.candidates(tight, "m", b"").next(),
        other.candidates(tight, "m", b"").next(),
    )
    assert (first.id, second.id) == (1, 2)
    assert order(other, tight) == [2]
    assert order(other, tight) == []
    one.give_back(lease)
    assert order(other, tight) == [1]
    other.give_back(nothing)


def test_a_long_model_name_has_a_place_on_the_board(make, clock):
    pool, both = make(), provider()
    names = ["ü" * 512, "ü" * 511 + "x"]
    pool.failed(both.credentials[0], names[0], RATE_LIMITED)
    assert [order(pool, both, name) for name in names] == [[2], [1, 2]]


def test_lists_are_asked_with_a_credential_that_works(make, clock):
    pool, both = make(), provider()
    assert pool.any(both).id == 1
    pool.failed(both.credentials[0], "m", Fault(Verdict.INVALID_KEY))
    assert pool.any(both).id == 2
    pool.failed(both.credentials[1], "m", Fault(Verdict.INVALID_KEY))
    assert pool.any(both).id == 1
    with pytest.raises(NoCredential):
        pool.any(Provider(1, "p", "openai", ProviderSettings(), ()))
