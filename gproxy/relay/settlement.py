"""One call's books: opened before it is sent, settled exactly once before its end is told."""

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gproxy.accounting import prices
from gproxy.accounting.cost import cost
from gproxy.accounting.journal import Journal
from gproxy.metrics.call_summary import CallSummary
from gproxy.protocols.hub import Usage
from gproxy.quota.reservations import STEP_TOKENS, NoReservation, Reservation
from gproxy.snapshot import Credential

# Bytes of text that a token stands for, where no count was told.
BYTES_PER_TOKEN = 4
LARGE_BODY = 32 * 1024
# Longer than any word; base64 of a file is one such run.
# The look behind keeps it from trying a short run again from each of its letters.
_ENCODED = re.compile(rb"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{4096,}")
ENCODED_TOKENS = 1_500
CLIENT_CLOSED_STATUS = 499
# What the client sends into the row is bounded, as every line of the journal is.
MAX_TEXT = 128
# Attempts that a row tells of, the last ones.
MAX_TOLD = 8
# Names of what a reply lost in translation; a request's stand in the line that opens a call.
MAX_LOSSES_BYTES = 300
# What a column holds, in nano-USD.
MAX_COST = 2**63 - 1


class Outcome(StrEnum):
    COMPLETE = "complete"
    PARTIAL = "partial"
    FAILED = "failed"


def estimate(size: int) -> int:
    """Tokens that so many bytes of text are, rounded up."""
    return -(-size // BYTES_PER_TOKEN)


def input_estimate(body: bytes) -> int:
    """Tokens of a request body. Encoded images and files are not text: each counts as much as a large image does."""
    size = len(body)
    if size > LARGE_BODY:
        encoded = [len(run) for run in _ENCODED.findall(body)]
        size += len(encoded) * ENCODED_TOKENS * BYTES_PER_TOKEN - sum(encoded)
    return estimate(size)


@dataclass(slots=True)
class Settlement:
    """`started` is on the performance counter. After settlement `cost` is in nano-USD, None when unpriced.

    A stream that has delivered more than `covered_bytes` of text may cost more than is held for it.
    """

    journal: Journal
    call_id: int
    price: prices.FoundPrice | None
    input_estimate: int
    started: float
    mode: str = ""
    reservation: Reservation | NoReservation | None = None
    covered_bytes: float = math.inf
    attempts: Sequence[tuple] = ()  # each: provider, credential, end, milliseconds
    by: tuple[int, str, int | None] | None = None  # who served it, where not the one that `open` tells
    give_back: Callable[[], None] = lambda: None  # the place that the credential's own limits gave
    losses: list[str] = field(default_factory=list)
    summary: CallSummary | None = None  # is told how it ended
    count_metrics: Callable[..., None] | None = None  # counts what the record says
    first_byte: float | None = None
    first_token: float | None = None
    cost: int | None = None
    is_settled: bool = False

    def open(self, entry: dict) -> None:
        """Raises Unavailable when the journal cannot be written; then nothing is sent."""
        for name in ("eu", "t"):
            if entry.get(name):
                entry[name] = entry[name][:MAX_TEXT]
        if self.reservation is not None and self.reservation.amounts is not None:
            entry["h"] = self.reservation.amounts
        self.journal.open({"o": self.call_id, "e": self.input_estimate, **entry})

    def overruns(self, usage: Usage | None, text_bytes: int) -> bool:
        """Whether a stream, which delivered so much, costs more by now than its caller has left."""
        seen = self._delivered(usage, text_bytes)
        running = self._cost(seen)
        step = self._cost(replace(seen, output_tokens=seen.output_tokens + STEP_TOKENS)) - running
        if not self.reservation.covers(running, step):
            return True
        free = (self.reservation.money - running) / step * STEP_TOKENS if step else math.inf
        self.covered_bytes = text_bytes + max(1, free) * BYTES_PER_TOKEN
        return False

    def _cost(self, usage: Usage) -> int:
        return min(cost(usage, self.price.price, self.mode), MAX_COST)

    def serve(self, plan, credential: Credential | None) -> None:
        """Who answers: its price counts, and the row tells it."""
        self.price, self.mode, self.input_estimate = plan.price, plan.mode, plan.input_tokens
        self.by = plan.provider.id, plan.provider.channel, credential.id if credential else None
        if self.summary is not None:
            self.summary.set_target(plan)

    def saw_first_byte(self, text_bytes: int = 0) -> None:
        """Something came; of a stream also how much text until now."""
        if self.first_byte is None:
            self.first_byte = time.perf_counter()
        if text_bytes and self.first_token is None:
            self.first_token = time.perf_counter()

    def complete(self, status: int, usage: Usage | None, text_bytes: int) -> None:
        """The reply ended as its protocol ends; where the vendor told no usage, it is estimated."""
        if usage is not None:
            self._settle(Outcome.COMPLETE, status, usage)
        else:
            self._settle(Outcome.COMPLETE, status, self._delivered(None, text_bytes), estimated=True)

    def broke(self, status: int, usage: Usage | None, text_bytes: int) -> None:
        """The upstream failed: before any output that costs nothing, after it what was delivered."""
        if text_bytes:
            self._settle(Outcome.PARTIAL, status, self._delivered(usage, text_bytes), estimated=True)
        else:
            self._settle(Outcome.FAILED, status, Usage())

    def client_disconnected(self, usage: Usage | None, text_bytes: int, is_whole: bool = False) -> None:
        """The client went away: its input, and what was delivered; or all of it, where the rest was read for that."""
        if is_whole and usage is not None:
            self._settle(Outcome.PARTIAL, CLIENT_CLOSED_STATUS, usage)
        else:
            self._settle(Outcome.PARTIAL, CLIENT_CLOSED_STATUS, self._delivered(usage, text_bytes), estimated=True)

    def _delivered(self, usage: Usage | None, text_bytes: int) -> Usage:
        seen = usage or Usage()
        return replace(
            seen,
            input_tokens=seen.input_tokens if seen.prompt_tokens else self.input_estimate,
            output_tokens=max(seen.output_tokens, estimate(text_bytes)),
        )

    def _settle(self, outcome: Outcome, status: int, usage: Usage, estimated: bool = False) -> None:
        if self.is_settled:
            return
        self.is_settled = True
        is_free = outcome is Outcome.FAILED
        if self.price is not None:
            self.cost = 0 if is_free else self._cost(usage)
        now = time.perf_counter()
        entry = {
            "s": self.call_id,
            "x": outcome,
            "st": status,
            "n": [
                usage.input_tokens,
                usage.output_tokens,
                usage.reasoning_tokens,
                usage.cache_read_tokens,
                usage.cache_write_tokens,
                usage.cache_write_5m_tokens,
                usage.cache_write_1h_tokens,
            ],
            "c": self.cost or 0,
            "l": int((now - self.started) * 1000),
            "a": max(1, len(self.attempts)),
        }
        if len(self.attempts) > 1:
            entry["tr"] = self.attempts[-MAX_TOLD:]
            if self.by is not None:
                entry["by"] = self.by
        if self.price is not None:
            entry["ps"] = self.price.source
        if estimated:
            entry["est"] = True
        if self.first_byte is not None:
            entry["f"] = int((self.first_byte - self.started) * 1000)
        if self.losses:
            entry["lo"] = _within(self.losses)
        try:
            self.journal.settle(entry)
            if self.count_metrics is not None:
                self._tell(outcome, status, usage, now - self.started)
        finally:
            if self.reservation is not None:
                self.reservation.settle(self.cost or 0, usage.prompt_tokens + usage.output_tokens)
            self.give_back()

    def _tell(self, outcome: Outcome, status: int, usage: Usage, seconds: float) -> None:
        summary = self.summary
        summary.outcome, summary.usage, summary.cost = outcome, usage, self.cost
        if self.first_token is not None:
            summary.first_token_s = self.first_token - self.started
        self.count_metrics(summary, status, seconds, self.attempts)


def _within(losses: list[str]) -> list[str]:
    """So many of them as the room of a settled line holds."""
    kept, room = [], MAX_LOSSES_BYTES
    for name in losses:
        room -= len(name) + 3
        if room < 0:
            break
        kept.append(name)
    return kept


class NoSettlement:
    """In a tally's place for a call that has no row: a count of tokens costs nothing."""

    cost = None
    reservation = None
    is_settled = True
    covered_bytes = math.inf

    def __init__(self, give_back: Callable[[], None], ended: Callable[[Outcome, int], None] = lambda *_: None):
        """`ended` is told how, once."""
        self.losses: list[str] = []
        self._give_back, self._ended = give_back, ended

    def serve(self, plan, credential: Credential | None) -> None:
        """No row tells it."""

    def saw_first_byte(self, text_bytes: int = 0) -> None:
        """Nothing is measured."""

    def complete(self, status: int, usage: Usage | None, text_bytes: int) -> None:
        """Nothing is booked."""
        self._end(Outcome.COMPLETE, status)

    def broke(self, status: int, usage: Usage | None, text_bytes: int) -> None:
        """Nothing is booked."""
        self._end(Outcome.FAILED, status)

    def client_disconnected(self, usage: Usage | None, text_bytes: int, is_whole: bool = False) -> None:
        """Nothing is booked."""
        self._end(Outcome.PARTIAL, CLIENT_CLOSED_STATUS)

    def _end(self, outcome: Outcome, status: int) -> None:
        self._give_back()
        ended, self._ended = self._ended, lambda *_: None
        ended(outcome, status)
