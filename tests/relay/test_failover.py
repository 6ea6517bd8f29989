"""Failover of one call: the retry policy, the order of credentials and targets, and the result if all attempts fail."""

from types import SimpleNamespace

import pytest

from gproxy.channels.error_classifier import Fault, Verdict
from gproxy.errors import BadRequest, NoCredential, ShuttingDown, UpstreamError, UpstreamTimeout
from gproxy.relay.failover import Failover, RetryDecision, RetryPolicy
from gproxy.snapshot import Credential, Provider, ProviderSettings

UPSTREAM_FAILED = Fault(Verdict.UPSTREAM_FAILED)


# -- the retry policy ----------------------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def error(kind: type = UpstreamError, was_sent: bool = True, is_stale: bool = False) -> UpstreamError:
    found = kind("x")
    found.was_sent, found.is_stale = was_sent, is_stale
    return found


@pytest.mark.parametrize(
    ("failure", "retries_timeouts", "expected"),
    [
        (error(was_sent=False), False, RetryDecision.OTHER_CREDENTIAL),
        (error(UpstreamTimeout, was_sent=False), False, RetryDecision.OTHER_CREDENTIAL),
        (error(is_stale=True), False, RetryDecision.SAME_CREDENTIAL),
        (error(), False, RetryDecision.NO_RETRY),
        (error(), True, RetryDecision.OTHER_CREDENTIAL),
        (error(UpstreamTimeout), False, RetryDecision.NO_RETRY),
        (error(UpstreamTimeout), True, RetryDecision.OTHER_CREDENTIAL),
    ],
)
def test_a_request_that_the_upstream_may_be_working_on_is_not_retried(failure, retries_timeouts, expected):
    assert RetryPolicy(5, 60).decide(failure, retries_timeouts) is expected


def test_a_stale_connection_is_retried_once():
    policy = RetryPolicy(5, 60)
    decisions = [policy.decide(error(is_stale=True), False) for _ in range(2)]
    assert decisions == [RetryDecision.SAME_CREDENTIAL, RetryDecision.NO_RETRY]


def test_the_policy_is_exhausted_after_the_maximum_of_attempts():
    policy = RetryPolicy(2, 60)
    for is_exhausted in (False, True):
        policy.begin()
        policy.end(1, 7, 500)
        assert policy.is_exhausted() is is_exhausted


def test_the_policy_is_exhausted_after_its_time_budget():
    clock = Clock()
    policy = RetryPolicy(20, 60, clock)
    policy.begin()
    clock.now += 59.9
    policy.end(1, 7, "upstream_timeout")
    assert not policy.is_exhausted()
    policy.begin()  # the budget starts with the first attempt
    clock.now += 0.25
    policy.end(2, None, 200)
    assert policy.is_exhausted()
    assert policy.attempts == [(1, 7, "upstream_timeout", 59_900), (2, None, 200, 250)]


# -- credentials and targets ---------------------------------------------------------------------------------------


class Candidates:
    """A provider's credentials, each returned once."""

    def __init__(self, pool: "Pool", provider: Provider):
        self.pool, self._remaining = pool, list(provider.credentials)

    @property
    def remaining(self) -> int:
        return len(self._remaining)

    def next(self, with_reservation=True):
        while self._remaining:
            credential = self._remaining.pop(0)
            lease = self.reserve(credential) if with_reservation and credential.is_limited else None
            if lease is not None or not with_reservation or not credential.is_limited:
                return credential, lease
        return None

    last_resort = next

    def reserve(self, credential):
        """Returns None for a credential with a concurrency of 0, as if its limits were used up."""
        self.pool.calls.append(("leased", credential.id))
        return credential.id if credential.concurrency else None

    def refusal(self) -> NoCredential:
        return NoCredential("no usable credential", retry_after_s=9)


class Pool:
    def __init__(self):
        self.calls: list[tuple] = []

    def clock(self) -> float:
        return 0.0

    def candidates(self, provider, model, affinity, first):
        if not provider.credentials:
            raise NoCredential("no credential at all", retry_after_s=60)
        return Candidates(self, provider)

    def failed(self, credential, model, fault):
        self.calls.append(("failed", credential.id))

    def succeeded(self, credential, model, began):
        self.calls.append(("succeeded", credential.id))

    def release_probe(self, credential, model):
        self.calls.append(("unclaimed", credential.id))


class Response:
    def __init__(self, status: int):
        self.status, self.closed = status, 0

    def close(self) -> None:
        self.closed += 1


def plan(number: int, credentials: int, *fallbacks, concurrency=(), **settings):
    limits = [*concurrency, *[None] * credentials][:credentials]
    found = tuple(Credential(10 * number + n, number, f"s{n}", concurrency=limit) for n, limit in enumerate(limits))
    provider = Provider(number, f"p{number}", "openai", ProviderSettings(**settings), found)
    kind = SimpleNamespace(responder=None)
    fields = {"affinity": b"", "pinned_credential": None, "endpoint": "endpoint", "upper_bound": None}
    later = tuple(SimpleNamespace(plan=one) for one in fallbacks)
    return SimpleNamespace(provider=provider, kind=kind, model="m", fallbacks=later, **fields)


def test_all_credentials_of_a_target_are_tried_before_the_next_target():
    pool = Pool()
    failover = Failover(pool, plan(1, 2, lambda: plan(2, 1)))
    tried = []
    for _ in range(3):
        failover.begin()
        tried.append((failover.plan.provider.id, failover.credential.id))
        has_next = failover.failed(error(was_sent=False))
    assert tried == [(1, 10), (1, 11), (2, 20)]
    assert not has_next
    with pytest.raises(UpstreamError):
        failover.first_failure()
    assert [one[:3] for one in failover.policy.attempts] == [
        (1, 10, "upstream_error"),
        (1, 11, "upstream_error"),
        (2, 20, "upstream_error"),
    ]


def test_the_first_failed_response_is_returned_and_later_ones_are_closed():
    failover, responses = Failover(Pool(), plan(1, 2)), (Response(429), Response(500))
    for response in responses:
        failover.begin()
        has_next = failover.answered(response, UPSTREAM_FAILED)
    assert not has_next
    assert failover.first_failure() is responses[0]
    assert [response.closed for response in responses] == [0, 1]


def test_a_successful_attempt_closes_the_failed_response_before_it():
    pool, failed = Pool(), Response(500)
    failover = Failover(pool, plan(1, 2))
    failover.begin()
    assert failover.may_retry
    assert failover.answered(failed, UPSTREAM_FAILED)
    failover.begin()
    assert not failover.may_retry
    failover.succeeded(200, 0.0)
    assert failed.closed == 1
    assert pool.calls == [("failed", 10), ("succeeded", 11)]


def test_an_abandoned_call_closes_its_response_and_releases_the_probe():
    pool, failed = Pool(), Response(500)
    failover = Failover(pool, plan(1, 2))
    failover.begin()
    failover.answered(failed, UPSTREAM_FAILED)
    failover.begin()
    failover.abandon()
    assert failed.closed == 1
    assert pool.calls == [("failed", 10), ("unclaimed", 11)]


def test_a_call_abandoned_before_its_first_attempt_releases_the_probe():
    """If the caller's quota refuses the call, the next call may use the credential that this one selected."""
    pool = Pool()
    Failover(pool, plan(1, 1)).abandon()
    assert pool.calls == [("unclaimed", 10)]


def test_the_limits_of_a_credential_are_used_only_by_reserve():
    """A call that the caller's limits refuse must not use up the credential's limits."""
    pool = Pool()
    failover = Failover(pool, plan(1, 2, concurrency=(0, 5)))
    assert failover.credential.id == 10
    assert pool.calls == []
    failover.reserve()
    assert (failover.credential.id, failover.reservation.id) == (11, 11)
    assert pool.calls == [("leased", 10), ("unclaimed", 10), ("leased", 11)]


def test_used_up_limits_of_all_credentials_lead_to_the_next_target():
    pool = Pool()
    failover = Failover(pool, plan(1, 1, lambda: plan(2, 1), concurrency=(0,)))
    failover.reserve()
    assert failover.credential.id == 20
    failover = Failover(pool, plan(1, 1, concurrency=(0,)))
    with pytest.raises(NoCredential):
        failover.reserve()


def test_a_target_that_cannot_serve_the_call_is_skipped():
    def untranslatable():
        raise BadRequest("tools: cannot be translated")

    failover = Failover(Pool(), plan(1, 1, untranslatable, lambda: plan(3, 1)))
    failover.begin()
    assert failover.failed(error(was_sent=False))
    assert failover.plan.provider.id == 3
    failover.begin()
    assert not failover.failed(BadRequest("image: cannot be fetched"))
    with pytest.raises(UpstreamError):
        failover.first_failure()


def test_an_error_of_the_gateway_or_the_client_ends_the_call():
    for failure in (BadRequest("x"), ShuttingDown("x")):
        failover = Failover(Pool(), plan(1, 2))
        failover.begin()
        with pytest.raises(type(failure)):
            failover.failed(failure)


def test_the_number_of_attempts_is_limited():
    failover = Failover(Pool(), plan(1, 5, max_attempts=2))
    for has_next in (True, False):
        failover.begin()
        assert failover.answered(Response(500), UPSTREAM_FAILED) is has_next


def test_without_any_credential_the_error_has_the_shortest_wait():
    with pytest.raises(NoCredential) as caught:
        Failover(Pool(), plan(1, 0, lambda: plan(2, 0)))
    assert caught.value.headers["Retry-After"] == "60"
    assert Failover(Pool(), plan(1, 0, lambda: plan(2, 1))).plan.provider.id == 2
