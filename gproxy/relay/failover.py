"""Failover of one call: the credentials of a target, then those of the next target, until one attempt succeeds."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from gproxy.channels.error_classifier import Fault, Verdict
from gproxy.credentials.pool import Candidates, Pool
from gproxy.errors import BadRequest, CredentialRefused, GatewayError, NoCredential, Overloaded, UpstreamError
from gproxy.relay.planner import Plan
from gproxy.snapshot import Credential
from gproxy.upstream.client import Exchange

UNREACHED, REFUSED = Fault(Verdict.UPSTREAM_FAILED), Fault(Verdict.INVALID_KEY)


class RetryDecision(Enum):
    OTHER_CREDENTIAL = "retry with another credential"
    SAME_CREDENTIAL = "retry with the same credential"
    NO_RETRY = "no retry"


@dataclass(slots=True)
class RetryPolicy:
    """Retry policy of one call: attempt count, time budget, no retry that could generate output twice.

    No attempt begins later than `time_budget_s` after the first. `clock` is in seconds. `attempts` lists those made:
    provider id, credential id, result (a status or an error code) and milliseconds.
    """

    max_attempts: int
    time_budget_s: float
    clock: Callable[[], float] = time.perf_counter
    attempts: list[tuple[int, int | None, int | str, int]] = field(default_factory=list)
    _deadline: float = 0.0
    _started: float = 0.0
    _has_repeated: bool = False

    def begin(self) -> None:
        """Starts the time of an attempt, and with the first one the time budget."""
        self._started = self.clock()
        self._deadline = self._deadline or self._started + self.time_budget_s

    def end(self, provider: int, credential: int | None, result: int | str) -> None:
        """Adds the attempt that ended to `attempts`."""
        self.attempts.append((provider, credential, result, int((self.clock() - self._started) * 1000)))

    def is_exhausted(self) -> bool:
        return len(self.attempts) >= self.max_attempts or self.clock() >= self._deadline

    def decide(self, error: UpstreamError, retry_timeouts: bool) -> RetryDecision:
        """Returns whether to retry after an attempt without a response.

        Once the body was sent, the upstream may be working on it, and a retry could generate output twice. A stale
        connection is the exception: one that was reused, and that the upstream closed without sending a byte. It is
        retried once.
        """
        if not error.was_sent:
            return RetryDecision.OTHER_CREDENTIAL
        if error.is_stale and not self._has_repeated:
            self._has_repeated = True
            return RetryDecision.SAME_CREDENTIAL
        return RetryDecision.OTHER_CREDENTIAL if retry_timeouts else RetryDecision.NO_RETRY


class CredentialReservation:
    """The reservation in the current credential's own limits; `id` is None if there is no reservation.

    It has no reference to the call: a stream needs it to its end, and must not keep the request's body in memory.
    """

    __slots__ = ("_pool", "id")

    def __init__(self, pool: Pool):
        self._pool = pool
        self.id: int | None = None

    def release(self) -> None:
        """Returns the reservation to the credential's limits. Idempotent."""
        if self.id is not None:
            reserved, self.id = self.id, None
            self._pool.release(reserved)


@dataclass(slots=True)
class _ReachedTarget:
    """A target of the call that failover has reached. `candidates`: None if gproxy answers itself."""

    plan: Plan
    candidates: Candidates | None


class Failover:
    """The attempts of one call. `plan` and `credential` are those of the current attempt.

    The constructor only selects the first credential; `reserve` counts the call in the credential's own limits, after
    the caller's quotas and limits have accepted it. The constructor raises NoCredential if no target has a usable
    credential.
    """

    def __init__(self, pool: Pool, plan: Plan):
        self._pool, self._fallbacks = pool, list(plan.fallbacks)
        self._reached: list[_ReachedTarget] = []  # those with a credential, or without a need for one
        self._refusals: list[NoCredential] = []
        self._first_failure: tuple[_ReachedTarget, GatewayError | Exchange] | None = None
        self.reservation = CredentialReservation(pool)
        self._has_reserved = False
        self._has_open_attempt = False  # a credential was selected, and its result is not known
        settings = plan.provider.settings
        self._retries_timeouts = settings.retry_timeouts
        self.policy = RetryPolicy(settings.max_attempts, settings.retry_within_s)
        self.plan, self._current = plan, _ReachedTarget(plan, None)
        self.credential: Credential | None = None
        if not self._reach(plan) and not self._next_target():
            raise self._no_credential()

    def replace_plan(self, plan: Plan) -> None:
        """Replaces the plan of the current target, for all further attempts at it."""
        self.plan = self._current.plan = plan

    def reserve(self) -> None:
        """Reserves in the selected credential's own limits; if they are used up, selects and reserves another one.

        Raises NoCredential or Unavailable.
        """
        self._has_reserved = True
        if self.credential is None or not self.credential.is_limited:
            return
        self.reservation.id = self._current.candidates.reserve(self.credential)
        if self.reservation.id is None:
            self.abandon()
            if not self._next_credential() and not self._next_target():
                raise self._no_credential()

    def begin(self) -> float:
        """Begins an attempt. Returns its start in seconds since the epoch."""
        self.policy.begin()
        return self._pool.clock()

    @property
    def may_retry(self) -> bool:
        """Whether there may be another attempt after the current one."""
        is_last = self.credential is None or len(self.policy.attempts) + 1 >= self.policy.max_attempts
        candidates = self._reached[-1].candidates
        return not is_last and bool(self._fallbacks or (candidates is not None and candidates.remaining))

    def succeeded(self, status: int, began: float) -> None:
        """Ends the attempt with a usable response."""
        self._end_attempt(status)
        self._close_first_failure()
        if self.credential is not None:
            self._pool.succeeded(self.credential, self.plan.model, began)

    def answered(self, response, fault: Fault) -> bool:
        """Ends the attempt with a response that is a fault. Returns whether there is another attempt to make."""
        self._end_attempt(response.status)
        if self._first_failure is not None:
            response.close()
        return self._advance(response, fault)

    def failed(self, error: GatewayError) -> bool:
        """Ends the attempt without a response. Returns whether there is another attempt to make.

        Raises the error if the upstream did not cause it.
        """
        if not isinstance(error, UpstreamError):
            # A later target that cannot be called does not replace the first target's failure.
            if self._first_failure is None or not isinstance(error, BadRequest | Overloaded):
                raise error
            self._has_open_attempt = False
            self.reservation.release()
            return self._next_target()
        self._end_attempt(error.code)
        decision = self.policy.decide(error, self._retries_timeouts)
        if decision is RetryDecision.SAME_CREDENTIAL and not self.policy.is_exhausted():
            return True
        fault = REFUSED if isinstance(error, CredentialRefused) else UNREACHED
        return self._advance(error, fault, may_retry=decision is RetryDecision.OTHER_CREDENTIAL)

    def first_failure(self):
        """Returns the first failed response. Raises the first error instead if there was no response."""
        self._current, failure = self._first_failure
        self.plan = self._current.plan
        if isinstance(failure, GatewayError):
            raise failure
        return failure

    def abandon(self) -> None:
        """Ends the call before its attempt has a result, so that other calls need not wait for a probe."""
        self._close_first_failure()
        if self._has_open_attempt and self.credential is not None:
            self._pool.release_probe(self.credential, self.plan.model)
        self._has_open_attempt = False

    def _close_first_failure(self) -> None:
        if self._first_failure is not None and not isinstance(self._first_failure[1], GatewayError):
            self._first_failure[1].close()

    def _end_attempt(self, result: int | str) -> None:
        self._has_open_attempt = False
        self.policy.end(self.plan.provider.id, self.credential and self.credential.id, result)

    def _advance(self, failure, fault: Fault, may_retry: bool = True) -> bool:
        """Records the failure, and selects the next credential or target. Returns whether there is one."""
        self._first_failure = self._first_failure or (self._current, failure)
        self.reservation.release()
        if self.credential is None:
            return False
        self._pool.failed(self.credential, self.plan.model, fault)
        return may_retry and not self.policy.is_exhausted() and (self._next_credential() or self._next_target())

    def _next_credential(self) -> bool:
        """Selects the next usable credential of the target reached last. Returns whether there is one."""
        target = self._reached[-1]
        return target.candidates is not None and self._select(target, target.candidates.next)

    def _next_target(self) -> bool:
        """Selects a credential of the next target; after the last target, one that failed only temporarily."""
        while self._fallbacks:
            try:
                plan = self._fallbacks.pop(0).plan()
            except GatewayError:  # this target cannot serve the call
                continue
            if plan.endpoint is not None and self._reach(plan):
                return True
        with_candidates = [target for target in self._reached if target.candidates is not None]
        return any(self._select(target, target.candidates.last_resort) for target in with_candidates)

    def _reach(self, plan: Plan) -> bool:
        """Makes this the current target and selects its first credential. Returns False if no credential is usable."""
        if plan.kind.responder is not None:
            self._reached.append(_ReachedTarget(plan, None))
            self._current, self.plan, self.credential = self._reached[-1], plan, None
            return True
        try:
            candidates = self._pool.candidates(plan.provider, plan.model, plan.affinity, plan.pinned_credential)
        except NoCredential as refusal:
            self._refusals.append(refusal)
            return False
        self._reached.append(_ReachedTarget(plan, candidates))
        return self._next_credential()

    def _select(self, target: _ReachedTarget, choose: Callable[[bool], tuple[Credential, int | None] | None]) -> bool:
        if (found := choose(self._has_reserved)) is None:
            return False
        self._current, self.plan, (self.credential, self.reservation.id) = target, target.plan, found
        self._has_open_attempt = True
        return True

    def _no_credential(self) -> NoCredential:
        """Returns the error with the shortest wait of all targets."""
        of_targets = [target.candidates.refusal() for target in self._reached if target.candidates is not None]
        refusals = [*self._refusals, *of_targets]
        return min(refusals, key=lambda refusal: int(refusal.headers["Retry-After"]))
