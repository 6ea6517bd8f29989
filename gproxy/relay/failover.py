"""One call's way: target by target, and the credentials of each, until one answers."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from gproxy.channels.error_classifier import Fault, Verdict
from gproxy.credentials.pool import Candidates, Pool
from gproxy.errors import BadRequest, CredentialRefused, GatewayError, NoCredential, Overloaded, UpstreamError
from gproxy.snapshot import Credential

UNREACHED, REFUSED = Fault(Verdict.UPSTREAM_FAILED), Fault(Verdict.INVALID_KEY)


class Next(Enum):
    OTHER = "another credential"
    SAME = "the same once more"
    NONE = "an end"


@dataclass(slots=True)
class Attempts:
    """Those of one call. `within_s` bounds when the last one may begin; `clock` in seconds.

    Of each the row keeps provider, credential, what became of it (a status or a code), and milliseconds.
    """

    maximum: int
    within_s: float
    clock: Callable[[], float] = time.perf_counter
    made: list[tuple[int, int | None, int | str, int]] = field(default_factory=list)
    _until: float = 0.0
    _began: float = 0.0
    _has_repeated: bool = False

    def begin(self) -> None:
        self._began = self.clock()
        self._until = self._until or self._began + self.within_s

    def end(self, provider: int, credential: int | None, what: int | str) -> None:
        self.made.append((provider, credential, what, int((self.clock() - self._began) * 1000)))

    def is_over(self) -> bool:
        return len(self.made) >= self.maximum or self.clock() >= self._until

    def after(self, fault: UpstreamError, retry_timeouts: bool) -> Next:
        """What follows on a call that got no answer.

        Once its body was sent the upstream may be at work on it, except where it had closed a connection that was used
        again: that is seen by a connection that dies without a byte, and happens once.
        """
        if not fault.was_sent:
            return Next.OTHER
        if fault.is_stale and not self._has_repeated:
            self._has_repeated = True
            return Next.SAME
        return Next.OTHER if retry_timeouts else Next.NONE


class Place:
    """The place that a credential's own limits gave, if it has any.

    It knows nothing of the call: a stream keeps it to its end, and shall not keep the request's body with it.
    """

    __slots__ = ("_pool", "lease")

    def __init__(self, pool: Pool):
        self._pool = pool
        self.lease: int | None = None

    def give_back(self) -> None:
        """Idempotent."""
        if self.lease is not None:
            lease, self.lease = self.lease, None
            self._pool.give_back(lease)


class Failover:
    """`plan` and `credential` are those of the attempt that is made. Raises NoCredential when there is none to make.

    The first credential is only looked for, and taken by `secure`: a call that its caller has no money for shall use
    up nothing of anybody's.
    """

    def __init__(self, pool: Pool, plan):
        self._pool, self._targets = pool, list(plan.others)
        self._stops: list[tuple[object, Candidates]] = []  # the targets that were come to
        self._refusals: list[NoCredential] = []
        self._first: tuple[object, GatewayError | object] | None = None  # plan, and its fault or the answer that is one
        self.place = Place(pool)
        self._is_secure = False
        self._is_open = False  # a credential was chosen, and nothing is known of it yet
        self._upper_bound = plan.upper_bound
        settings = plan.provider.settings
        self._retries_timeouts = settings.retry_timeouts
        self.attempts = Attempts(settings.max_attempts, settings.retry_within_s)
        self.plan, self.credential = plan, None
        if plan.kind.responder is None and not (self._stop_at(plan) and self._choose()) and not self._go_on():
            raise self._refusal()

    def secure(self) -> None:
        """Takes the credential, or another where its own limits are used up. Raises NoCredential, Unavailable."""
        self._is_secure = True
        if self.credential is None or not self.credential.is_limited:
            return
        candidates = next(found for plan, found in self._stops if plan is self.plan)
        self.place.lease = candidates.lease(self.credential)
        if self.place.lease is None:
            self.give_up()
            if not self._choose() and not self._go_on():
                raise self._refusal()

    def begin(self) -> float:
        """When the next attempt begins, in seconds since the epoch."""
        self.attempts.begin()
        return self._pool.clock()

    @property
    def has_others(self) -> bool:
        """Whether there may be another attempt after this one."""
        is_last = self.credential is None or len(self.attempts.made) + 1 >= self.attempts.maximum
        return not is_last and bool(self._targets or self._stops[-1][1].left)

    def served(self, status: int, began: float) -> None:
        self._end(status)
        self._close_first()
        if self.credential is not None:
            self._pool.succeeded(self.credential, self.plan.model, began)

    def got(self, answer, fault: Fault) -> bool:
        """An answer that is the fault of who gave it. Whether there is another attempt to make."""
        self._end(answer.status)
        if self._first is not None:
            answer.close()
        return self._failed(answer, fault)

    def got_none(self, fault: GatewayError) -> bool:
        """No answer at all. Whether there is another attempt to make. Raises what is not the upstream's fault."""
        if not isinstance(fault, UpstreamError):
            # A later target that cannot be told or reached does not change what the first one said.
            if self._first is None or not isinstance(fault, BadRequest | Overloaded):
                raise fault
            self._is_open = False
            self.place.give_back()
            return self._go_on()
        self._end(fault.code)
        what = self.attempts.after(fault, self._retries_timeouts)
        if what is Next.SAME and not self.attempts.is_over():
            return True
        why = REFUSED if isinstance(fault, CredentialRefused) else UNREACHED
        return self._failed(fault, why, goes_on=what is Next.OTHER)

    def first(self):
        """The first answer, whatever it says. Raises the first fault, where that was none."""
        self.plan, found = self._first
        if isinstance(found, GatewayError):
            raise found
        return found

    def give_up(self) -> None:
        """The call ends before its attempt did: whoever waits for what comes of it need not."""
        self._close_first()
        if self._is_open and self.credential is not None:
            self._pool.unclaim(self.credential, self.plan.model)
        self._is_open = False

    def _close_first(self) -> None:
        if self._first is not None and not isinstance(self._first[1], GatewayError):
            self._first[1].close()

    def _end(self, what: int | str) -> None:
        self._is_open = False
        self.attempts.end(self.plan.provider.id, self.credential and self.credential.id, what)

    def _failed(self, end, fault: Fault, goes_on: bool = True) -> bool:
        self._first = self._first or (self.plan, end)
        self.place.give_back()
        if self.credential is None:
            return False
        self._pool.failed(self.credential, self.plan.model, fault)
        return goes_on and not self.attempts.is_over() and (self._choose() or self._go_on())

    def _choose(self) -> bool:
        """The next credential of this target that can be used."""
        plan, candidates = self._stops[-1]
        return self._take(plan, candidates.next)

    def _go_on(self) -> bool:
        """To the next target; where none is left, to what only failed for a moment."""
        while self._targets:
            try:
                plan = self._targets.pop(0)()
            except GatewayError:  # the call cannot be said to that one
                continue
            plan.upper_bound = self._upper_bound
            if plan.kind.responder is not None:
                self.plan, self.credential = plan, None
                return True
            if plan.lane is not None and self._stop_at(plan) and self._choose():
                return True
        return any(self._take(plan, candidates.last_resort) for plan, candidates in self._stops)

    def _stop_at(self, plan) -> bool:
        try:
            self._stops.append((plan, self._pool.candidates(plan.provider, plan.model, plan.affinity, plan.kept_by)))
        except NoCredential as refusal:
            self._refusals.append(refusal)
            return False
        return True

    def _take(self, plan, choose: Callable[[bool], tuple[Credential, int | None] | None]) -> bool:
        if (found := choose(self._is_secure)) is None:
            return False
        self.plan, (self.credential, self.place.lease) = plan, found
        self._is_open = True
        return True

    def _refusal(self) -> NoCredential:
        """That of whoever can be used first."""
        refusals = [*self._refusals, *(candidates.refusal() for _, candidates in self._stops)]
        return min(refusals, key=lambda refusal: int(refusal.headers["Retry-After"]))
