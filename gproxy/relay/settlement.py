"""Settlement of one call: its cost, exactly once and before the end is sent.

A call that has no usage row settles as NoSettlement.
"""

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gproxy.accounting import prices
from gproxy.accounting.cost import cost
from gproxy.accounting.entries import Attempt, ServedBy, Settled, Tokens
from gproxy.accounting.journal import Journal
from gproxy.channels.kind import STREAM
from gproxy.metrics.call_summary import CallSummary
from gproxy.protocols.hub import Usage
from gproxy.quota.reservations import STEP_TOKENS, NoReservation, Reservation
from gproxy.snapshot import Credential

# Bytes of text per token, for estimates when the upstream reports no usage.
BYTES_PER_TOKEN = 4
LARGE_BODY_BYTES = 32 * 1024
# A run longer than any word: the base64 data of a file. The lookbehind prevents that a short run is tried again from
# each of its letters.
_ENCODED = re.compile(rb"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{4096,}")
ENCODED_TOKENS = 1_500
CLIENT_CLOSED_STATUS = 499
# The number of attempts that a row lists, the last ones.
MAX_LISTED_ATTEMPTS = 8
# Total size of the names that a reply lost in translation; those of the request are in the `opened` entry.
MAX_LOSSES_BYTES = 300
# The maximum of the database column, in nano-USD.
MAX_COST = 2**63 - 1


class Outcome(StrEnum):
    COMPLETE = "complete"
    PARTIAL = "partial"
    FAILED = "failed"


def estimate(size: int) -> int:
    """Returns the estimated tokens of `size` bytes of text, rounded up."""
    return -(-size // BYTES_PER_TOKEN)


def input_estimate(body: bytes) -> int:
    """Returns the estimated tokens of a request body. Base64 data is not text: each run counts as a large image."""
    size = len(body)
    if size > LARGE_BODY_BYTES:
        encoded = [len(run) for run in _ENCODED.findall(body)]
        size += len(encoded) * ENCODED_TOKENS * BYTES_PER_TOKEN - sum(encoded)
    return estimate(size)


@dataclass(slots=True)
class Settlement:
    """Settles one call. `started` is on the performance counter.

    After the settlement `cost` is in nano-USD, or None without a price. A stream that has delivered more than
    `covered_bytes` of text may cost more than its reservation covers.
    """

    journal: Journal
    call_id: int
    price: prices.FoundPrice | None
    input_estimate: int
    started: float
    mode: str = ""
    reservation: Reservation | NoReservation | None = None
    covered_bytes: float = math.inf
    attempts: Sequence[Attempt] = ()
    served_by: ServedBy | None = None
    release_credential: Callable[[], None] = lambda: None  # releases the reservation in the credential's limits
    losses: list[str] = field(default_factory=list)
    summary: CallSummary | None = None  # gets outcome, usage and cost
    count_metrics: Callable[..., None] | None = None  # counts the summary
    first_byte: float | None = None
    first_token: float | None = None
    cost: int | None = None
    is_settled: bool = False

    def exceeds_quota(self, usage: Usage | None, text_bytes: int) -> bool:
        """Returns whether a stream costs more than the caller's quotas allow. Extends the reservation if needed.

        `usage` and `text_bytes`: delivered by the stream so far.
        """
        delivered = self._delivered_usage(usage, text_bytes)
        cost_so_far = self._cost(delivered)
        step = self._cost(replace(delivered, output_tokens=delivered.output_tokens + STEP_TOKENS)) - cost_so_far
        if not self.reservation.covers(cost_so_far, step):
            return True
        covered_tokens = (self.reservation.money - cost_so_far) / step * STEP_TOKENS if step else math.inf
        self.covered_bytes = text_bytes + max(1, covered_tokens) * BYTES_PER_TOKEN
        return False

    def cover(self, plan) -> None:
        """Sets `covered_bytes` for the target that serves the call; infinite if the text needs no check."""
        bound = plan.target_bound
        self.covered_bytes = math.inf
        if bound is None or not bound.accounts or plan.price is None:
            return
        if plan.operation != STREAM or not plan.provider.settings.stop_at_quota:
            return
        if bound.money > self.reservation.money:  # the target was not planned yet when the reservation was made
            self.covered_bytes = 0
        elif bound.max_output is not None:
            self.covered_bytes = bound.max_output * BYTES_PER_TOKEN

    def _cost(self, usage: Usage) -> int:
        return min(cost(usage, self.price.price, self.mode), MAX_COST)

    def set_target(self, plan, credential: Credential | None) -> None:
        """Sets the target that answers: its price applies, and the usage row names it."""
        self.price, self.mode, self.input_estimate = plan.price, plan.mode, plan.input_tokens
        self.cover(plan)
        self.served_by = plan.provider.id, plan.provider.channel, credential.id if credential else None
        if self.summary is not None:
            self.summary.set_target(plan)

    def record_first_byte(self, text_bytes: int = 0) -> None:
        """Records the time of the first byte, and of the first token once `text_bytes` of a stream are not 0."""
        if self.first_byte is None:
            self.first_byte = time.perf_counter()
        if text_bytes and self.first_token is None:
            self.first_token = time.perf_counter()

    def settle_complete(self, status: int, usage: Usage | None, text_bytes: int) -> None:
        """Settles a reply that ended as its protocol requires; without `usage` it is estimated from the text."""
        if usage is not None:
            self._settle(Outcome.COMPLETE, status, usage)
        else:
            self._settle(Outcome.COMPLETE, status, self._delivered_usage(None, text_bytes), is_estimated=True)

    def settle_failed(self, status: int, usage: Usage | None, text_bytes: int) -> None:
        """Settles a failure of the upstream: free before any output, else the cost of the delivered output."""
        if text_bytes:
            self._settle(Outcome.PARTIAL, status, self._delivered_usage(usage, text_bytes), is_estimated=True)
        else:
            self._settle(Outcome.FAILED, status, Usage())

    def settle_disconnected(self, usage: Usage | None, text_bytes: int, is_complete: bool = False) -> None:
        """Settles a call after its client disconnected: the cost of the input and of the delivered output.

        `is_complete`: the upstream's stream was read to its end, so that `usage` is exact.
        """
        if is_complete and usage is not None:
            self._settle(Outcome.PARTIAL, CLIENT_CLOSED_STATUS, usage)
        else:
            self._settle(
                Outcome.PARTIAL, CLIENT_CLOSED_STATUS, self._delivered_usage(usage, text_bytes), is_estimated=True
            )

    def _delivered_usage(self, usage: Usage | None, text_bytes: int) -> Usage:
        """Returns the reported usage, completed by estimates where the stream was cut before its final count."""
        reported = usage or Usage()
        return replace(
            reported,
            input_tokens=reported.input_tokens if reported.prompt_tokens else self.input_estimate,
            output_tokens=max(reported.output_tokens, estimate(text_bytes)),
        )

    def _settle(self, outcome: Outcome, status: int, usage: Usage, is_estimated: bool = False) -> None:
        if self.is_settled:
            return
        self.is_settled = True
        is_free = outcome is Outcome.FAILED
        if self.price is not None:
            self.cost = 0 if is_free else self._cost(usage)
        now = time.perf_counter()
        try:
            self.journal.settle(self._settled_entry(outcome, status, usage, is_estimated, now))
            if self.count_metrics is not None:
                self._count(outcome, status, usage, now - self.started)
        finally:
            if self.reservation is not None:
                self.reservation.settle(self.cost or 0, usage.prompt_tokens + usage.output_tokens)
            self.release_credential()

    def _settled_entry(self, outcome: Outcome, status: int, usage: Usage, is_estimated: bool, end: float) -> Settled:
        """Returns the `settled` journal entry of a call that ended at `end` on the performance counter."""
        has_several_attempts = len(self.attempts) > 1
        return Settled(
            call_id=self.call_id,
            outcome=outcome,
            status=status,
            tokens=Tokens(
                usage.input_tokens,
                usage.output_tokens,
                usage.reasoning_tokens,
                usage.cache_read_tokens,
                usage.cache_write_tokens,
                usage.cache_write_5m_tokens,
                usage.cache_write_1h_tokens,
            ),
            cost=self.cost or 0,
            latency_ms=self._milliseconds_to(end),
            attempts=max(1, len(self.attempts)),
            tries=tuple(self.attempts[-MAX_LISTED_ATTEMPTS:]) if has_several_attempts else (),
            served_by=self.served_by if has_several_attempts else None,
            price_source=None if self.price is None else self.price.source,
            is_estimated=is_estimated,
            first_byte_ms=None if self.first_byte is None else self._milliseconds_to(self.first_byte),
            losses=_fitting(self.losses) if self.losses else None,
        )

    def _milliseconds_to(self, moment: float) -> int:
        return int((moment - self.started) * 1000)

    def _count(self, outcome: Outcome, status: int, usage: Usage, seconds: float) -> None:
        summary = self.summary
        summary.outcome, summary.usage, summary.cost = outcome, usage, self.cost
        if self.first_token is not None:
            summary.first_token_s = self.first_token - self.started
        self.count_metrics(summary, status, seconds, self.attempts)


def _fitting(losses: list[str]) -> tuple[str, ...]:
    """Returns the first losses, as many as fit into a `settled` entry."""
    fitting, room = [], MAX_LOSSES_BYTES
    for name in losses:
        room -= len(name) + 3
        if room < 0:
            break
        fitting.append(name)
    return tuple(fitting)


class NoSettlement:
    """The settlement of a call without a usage row: a token count, which costs nothing."""

    cost = None
    reservation = None
    is_settled = True
    covered_bytes = math.inf

    def __init__(
        self, release_credential: Callable[[], None], on_end: Callable[[Outcome, int], None] = lambda *_: None
    ):
        """`on_end` is called once, with the outcome and the status."""
        self.losses: list[str] = []
        self._release_credential, self._on_end = release_credential, on_end

    def set_target(self, plan, credential: Credential | None) -> None:
        """Does nothing: there is no usage row."""

    def record_first_byte(self, text_bytes: int = 0) -> None:
        """Does nothing: there is no usage row."""

    def settle_complete(self, status: int, usage: Usage | None, text_bytes: int) -> None:
        """Stores nothing."""
        self._end(Outcome.COMPLETE, status)

    def settle_failed(self, status: int, usage: Usage | None, text_bytes: int) -> None:
        """Stores nothing."""
        self._end(Outcome.FAILED, status)

    def settle_disconnected(self, usage: Usage | None, text_bytes: int, is_complete: bool = False) -> None:
        """Stores nothing."""
        self._end(Outcome.PARTIAL, CLIENT_CLOSED_STATUS)

    def _end(self, outcome: Outcome, status: int) -> None:
        self._release_credential()
        on_end, self._on_end = self._on_end, lambda *_: None
        on_end(outcome, status)
