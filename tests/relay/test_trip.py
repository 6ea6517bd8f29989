"""One call's way: which target and credential is next, and what is told when none has answered."""

from types import SimpleNamespace

import pytest

from gproxy.channels.faults import Fault, Verdict
from gproxy.errors import BadRequest, NoCredential, ShuttingDown, UpstreamError
from gproxy.relay.trip import Trip
from gproxy.store.snapshot import Credential, Provider, ProviderSettings

FAILED = Fault(Verdict.FAILED)


class Candidates:
    """So many credentials, each once."""

    def __init__(self, provider: Provider):
        self._left = list(provider.credentials)

    @property
    def left(self) -> int:
        return len(self._left)

    def next(self):
        return (self._left.pop(0), None) if self._left else None

    last_resort = next

    def refusal(self) -> NoCredential:
        return NoCredential("none", retry_after_s=9)


class Pool:
    def __init__(self):
        self.told: list[tuple] = []

    def clock(self) -> float:
        return 0.0

    def candidates(self, provider, model, affinity, first):
        if not provider.credentials:
            raise NoCredential("none at all", retry_after_s=60)
        return Candidates(provider)

    def failed(self, credential, model, fault):
        self.told.append(("failed", credential.id))

    def succeeded(self, credential, model, began):
        self.told.append(("succeeded", credential.id))

    def unclaim(self, credential, model):
        self.told.append(("unclaimed", credential.id))


class Answer:
    def __init__(self, status: int):
        self.status, self.closed = status, 0

    def close(self) -> None:
        self.closed += 1


def plan(number: int, credentials: int, *others, **settings):
    found = tuple(Credential(10 * number + n, number, f"s{n}") for n in range(credentials))
    provider = Provider(number, f"p{number}", "openai", ProviderSettings(**settings), found)
    kind = SimpleNamespace(answers=None)
    rest = {"affinity": b"", "kept_by": None, "lane": "lane", "bound": None}
    return SimpleNamespace(provider=provider, kind=kind, model="m", others=others, **rest)


def unsent() -> UpstreamError:
    found = UpstreamError("x")
    found.was_sent = False
    return found


def test_all_credentials_of_a_target_and_then_the_next_target():
    pool = Pool()
    trip = Trip(pool, plan(1, 2, lambda: plan(2, 1)))
    seen = []
    for _ in range(3):
        trip.begin()
        seen.append((trip.plan.provider.id, trip.credential.id))
        goes_on = trip.got_none(unsent())
    assert seen == [(1, 10), (1, 11), (2, 20)]
    assert not goes_on
    with pytest.raises(UpstreamError):
        trip.first()
    assert [one[:3] for one in trip.attempts.made] == [(1, 10, "upstream_error"), (1, 11, "upstream_error"),
                                                       (2, 20, "upstream_error")]  # fmt: skip


def test_the_first_cause_is_told_and_the_later_ones_are_closed():
    trip, answers = Trip(Pool(), plan(1, 2)), (Answer(429), Answer(500))
    for answer in answers:
        trip.begin()
        goes_on = trip.got(answer, FAILED)
    assert not goes_on
    assert trip.first() is answers[0]
    assert [answer.closed for answer in answers] == [0, 1]


def test_a_good_answer_closes_what_came_before():
    pool, bad = Pool(), Answer(500)
    trip = Trip(pool, plan(1, 2))
    trip.begin()
    assert trip.has_others
    assert trip.got(bad, FAILED)
    trip.begin()
    assert not trip.has_others
    trip.served(200, 0.0)
    assert bad.closed == 1
    assert pool.told == [("failed", 10), ("succeeded", 11)]


def test_a_call_that_is_given_up_leaves_nothing_open():
    pool, bad = Pool(), Answer(500)
    trip = Trip(pool, plan(1, 2))
    trip.begin()
    trip.got(bad, FAILED)
    trip.begin()
    trip.give_up()
    assert bad.closed == 1
    assert pool.told == [("failed", 10), ("unclaimed", 11)]


def test_a_target_that_the_call_cannot_be_said_to_is_passed_over():
    def unsayable():
        raise BadRequest("tools: cannot be said")

    trip = Trip(Pool(), plan(1, 1, unsayable, lambda: plan(3, 1)))
    trip.begin()
    assert trip.got_none(unsent())
    assert trip.plan.provider.id == 3
    trip.begin()
    assert not trip.got_none(BadRequest("image: cannot be had"))
    with pytest.raises(UpstreamError):
        trip.first()


def test_what_is_ours_or_the_clients_ends_the_call():
    for fault in (BadRequest("x"), ShuttingDown("x")):
        trip = Trip(Pool(), plan(1, 2))
        trip.begin()
        with pytest.raises(type(fault)):
            trip.got_none(fault)


def test_attempts_are_bounded():
    trip = Trip(Pool(), plan(1, 5, max_attempts=2))
    for goes_on in (True, False):
        trip.begin()
        assert trip.got(Answer(500), FAILED) is goes_on


def test_without_any_credential_the_soonest_is_told():
    with pytest.raises(NoCredential) as told:
        Trip(Pool(), plan(1, 0, lambda: plan(2, 0)))
    assert told.value.headers["Retry-After"] == "60"
    assert Trip(Pool(), plan(1, 0, lambda: plan(2, 1))).plan.provider.id == 2
