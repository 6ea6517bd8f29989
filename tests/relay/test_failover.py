"""One call's way: which target and credential is next, and what is told when none has answered."""

from types import SimpleNamespace

import pytest

from gproxy.channels.error_classifier import Fault, Verdict
from gproxy.errors import BadRequest, NoCredential, ShuttingDown, UpstreamError
from gproxy.relay.failover import Failover
from gproxy.snapshot import Credential, Provider, ProviderSettings

UPSTREAM_FAILED = Fault(Verdict.UPSTREAM_FAILED)


class Candidates:
    """So many credentials, each once."""

    def __init__(self, pool: "Pool", provider: Provider):
        self.pool, self._left = pool, list(provider.credentials)

    @property
    def left(self) -> int:
        return len(self._left)

    def next(self, leases=True):
        while self._left:
            credential = self._left.pop(0)
            lease = self.lease(credential) if leases and credential.is_limited else None
            if lease is not None or not leases or not credential.is_limited:
                return credential, lease
        return None

    last_resort = next

    def lease(self, credential):
        """A credential of no concurrency at all is used up."""
        self.pool.told.append(("leased", credential.id))
        return credential.id if credential.concurrency else None

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
        return Candidates(self, provider)

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


def plan(number: int, credentials: int, *others, concurrency=(), **settings):
    limits = [*concurrency, *[None] * credentials][:credentials]
    found = tuple(Credential(10 * number + n, number, f"s{n}", concurrency=of) for n, of in enumerate(limits))
    provider = Provider(number, f"p{number}", "openai", ProviderSettings(**settings), found)
    kind = SimpleNamespace(responder=None)
    rest = {"affinity": b"", "kept_by": None, "lane": "lane", "upper_bound": None}
    return SimpleNamespace(provider=provider, kind=kind, model="m", others=others, **rest)


def unsent() -> UpstreamError:
    found = UpstreamError("x")
    found.was_sent = False
    return found


def test_all_credentials_of_a_target_and_then_the_next_target():
    pool = Pool()
    failover = Failover(pool, plan(1, 2, lambda: plan(2, 1)))
    seen = []
    for _ in range(3):
        failover.begin()
        seen.append((failover.plan.provider.id, failover.credential.id))
        goes_on = failover.got_none(unsent())
    assert seen == [(1, 10), (1, 11), (2, 20)]
    assert not goes_on
    with pytest.raises(UpstreamError):
        failover.first()
    assert [one[:3] for one in failover.attempts.made] == [(1, 10, "upstream_error"), (1, 11, "upstream_error"),
                                                       (2, 20, "upstream_error")]  # fmt: skip


def test_the_first_cause_is_told_and_the_later_ones_are_closed():
    failover, answers = Failover(Pool(), plan(1, 2)), (Answer(429), Answer(500))
    for answer in answers:
        failover.begin()
        goes_on = failover.got(answer, UPSTREAM_FAILED)
    assert not goes_on
    assert failover.first() is answers[0]
    assert [answer.closed for answer in answers] == [0, 1]


def test_a_good_answer_closes_what_came_before():
    pool, bad = Pool(), Answer(500)
    failover = Failover(pool, plan(1, 2))
    failover.begin()
    assert failover.has_others
    assert failover.got(bad, UPSTREAM_FAILED)
    failover.begin()
    assert not failover.has_others
    failover.served(200, 0.0)
    assert bad.closed == 1
    assert pool.told == [("failed", 10), ("succeeded", 11)]


def test_a_call_that_is_given_up_leaves_nothing_open():
    pool, bad = Pool(), Answer(500)
    failover = Failover(pool, plan(1, 2))
    failover.begin()
    failover.got(bad, UPSTREAM_FAILED)
    failover.begin()
    failover.give_up()
    assert bad.closed == 1
    assert pool.told == [("failed", 10), ("unclaimed", 11)]


def test_a_call_that_is_refused_before_it_is_sent_keeps_nobody_waiting():
    """Its caller has no money left: the credential that it would have tried is free for the next one."""
    pool = Pool()
    Failover(pool, plan(1, 1)).give_up()
    assert pool.told == [("unclaimed", 10)]


def test_the_limits_of_a_credential_are_asked_when_the_caller_may_pass():
    """A caller who is refused uses up nothing of the credential's own limits."""
    pool = Pool()
    failover = Failover(pool, plan(1, 2, concurrency=(0, 5)))
    assert failover.credential.id == 10
    assert pool.told == []
    failover.secure()
    assert (failover.credential.id, failover.place.lease) == (11, 11)
    assert pool.told == [("leased", 10), ("unclaimed", 10), ("leased", 11)]


def test_limits_that_are_used_up_lead_to_the_next_target():
    pool = Pool()
    failover = Failover(pool, plan(1, 1, lambda: plan(2, 1), concurrency=(0,)))
    failover.secure()
    assert failover.credential.id == 20
    failover = Failover(pool, plan(1, 1, concurrency=(0,)))
    with pytest.raises(NoCredential):
        failover.secure()


def test_a_target_that_the_call_cannot_be_said_to_is_passed_over():
    def unsayable():
        raise BadRequest("tools: cannot be said")

    failover = Failover(Pool(), plan(1, 1, unsayable, lambda: plan(3, 1)))
    failover.begin()
    assert failover.got_none(unsent())
    assert failover.plan.provider.id == 3
    failover.begin()
    assert not failover.got_none(BadRequest("image: cannot be had"))
    with pytest.raises(UpstreamError):
        failover.first()


def test_what_is_ours_or_the_clients_ends_the_call():
    for fault in (BadRequest("x"), ShuttingDown("x")):
        failover = Failover(Pool(), plan(1, 2))
        failover.begin()
        with pytest.raises(type(fault)):
            failover.got_none(fault)


def test_attempts_are_bounded():
    failover = Failover(Pool(), plan(1, 5, max_attempts=2))
    for goes_on in (True, False):
        failover.begin()
        assert failover.got(Answer(500), UPSTREAM_FAILED) is goes_on


def test_without_any_credential_the_soonest_is_told():
    with pytest.raises(NoCredential) as told:
        Failover(Pool(), plan(1, 0, lambda: plan(2, 0)))
    assert told.value.headers["Retry-After"] == "60"
    assert Failover(Pool(), plan(1, 0, lambda: plan(2, 1))).plan.provider.id == 2
