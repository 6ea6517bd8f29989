"""What is measured: the families of metrics, and where each request is counted.

A label is a name of ours, of a provider or of a model that an operator wrote. Another model's name stands there only
once it was served, and of these only so many: what clients send makes no series. No user and no key is a label.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from gproxy.metrics.call_summary import CallSummary
from gproxy.metrics.definitions import (
    ATTEMPTS,
    BUILD,
    CONNECTIONS,
    COST,
    CREDENTIALS,
    DURATION,
    ERRORS,
    FAILOVERS,
    FIRST_S,
    FIRST_TOKEN,
    FOLDED,
    GONE,
    JOURNAL,
    LATENCY_S,
    OPEN_REQUESTS,
    OPEN_STREAMS,
    OVERHEAD,
    OVERHEAD_S,
    REASONING,
    REFUSALS,
    REQUESTS,
    TOKENS,
    UNBOOKED,
    WORKERS,
    Family,
)
from gproxy.metrics.mmap_values import NOWHERE, OTHER, MmapValues
from gproxy.protocols.hub import Usage
from gproxy.snapshot import Provider, Snapshot

# Names of models that no operator wrote, per worker.
MAX_SERVED = 200
# Sets of labels whose places are remembered.
MAX_KEPT = 20_000
MIN_ERROR = 400


class _Places(NamedTuple):
    """Where a call with certain labels is counted."""

    requests: int
    duration: int
    first_token: int
    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    cost: int
    attempt: int


class CallMetrics:
    """One worker's. `configured` is what is in force now."""

    def __init__(self, mmap_values: MmapValues, configured: Callable[[], Snapshot | None]):
        self.mmap_values, self._values, self._configured = mmap_values, mmap_values.values, configured
        self._kept: dict[tuple, _Places] = {}
        self._singles: dict[tuple, int] = {}
        self._seen: Snapshot | None = None
        # By provider's name: models that an operator wrote, and others that were served; also by a worker before this.
        self._written: frozenset[tuple[str, str]] = frozenset()
        self._served = {
            one.labels for one in mmap_values.series() if one.family == COST.name and OTHER not in one.labels
        }
        self._folded = 0
        for family in (GONE, OPEN_REQUESTS, OPEN_STREAMS, UNBOOKED, FOLDED):
            self._single(family)

    def settled(
        self, summary: CallSummary, status: int, seconds: float, attempts: Sequence[tuple] = (), is_booked: bool = True
    ) -> None:
        """A call that ended, once. `record` has its outcome, usage and cost."""
        values = self._values
        model = self._model(summary, status)
        key = (summary.provider, model, summary.operation, summary.protocol, summary.outcome, status)
        at = self._kept.get(key) or self._placed(key)
        values[at.requests] += 1
        values[at.duration + bisect_left(LATENCY_S, seconds)] += 1
        values[at.duration + len(LATENCY_S) + 1] += seconds
        if summary.first_token_s is not None:
            values[at.first_token + bisect_left(FIRST_S, summary.first_token_s)] += 1
            values[at.first_token + len(FIRST_S) + 1] += summary.first_token_s
        if summary.usage is not None:
            self._count_tokens(at, summary.usage)
        if summary.cost:
            values[at.cost] += summary.cost
        if is_booked:
            values[self._single(UNBOOKED)] += 1
        if len(attempts) == 1 and attempts[0][2] == status:
            values[at.attempt] += 1
        elif attempts:
            self._count_attempts(attempts)

    def answered(self, summary: CallSummary, seconds: float) -> None:
        """The answer's headers are about to be sent, after so long in gproxy."""
        at = self._single(OVERHEAD, summary.provider, summary.operation)
        self._values[at + bisect_left(OVERHEAD_S, seconds)] += 1
        self._values[at + len(OVERHEAD_S) + 1] += seconds

    def failed(self, summary: CallSummary, error: str) -> None:
        """The client is told an error of ours in place of an answer."""
        summary.error = error
        self._values[self._single(ERRORS, summary.protocol, error)] += 1
        if summary.outcome is None:
            self._values[self._single(REFUSALS, summary.protocol, error)] += 1

    def client_disconnected(self) -> None:
        self._values[self._single(GONE)] += 1

    def open(self, requests: int, streams: int) -> None:
        """So many are being served now."""
        self._values[self._single(OPEN_REQUESTS)] = requests
        self._values[self._single(OPEN_STREAMS)] = streams

    def booked(self, calls: int) -> None:
        """So many settled calls are in the database, or never will be."""
        at = self._single(UNBOOKED)
        self._values[at] = max(0.0, self._values[at] - calls)

    def connections(self, provider: str) -> Callable[[int], None]:
        """To be told of each connection that begins (1) or ends (-1) to serve a call."""
        return partial(self._change, self._single(CONNECTIONS, provider))

    def _change(self, at: int, by: int) -> None:
        self._values[at] = max(0.0, self._values[at] + by)

    def _single(self, family: Family, *labels: str) -> int:
        key = (family.name, labels)
        at = self._singles.get(key)
        if at is None:
            at = self._place(family, *labels)
            if at != NOWHERE and len(self._singles) < MAX_KEPT:
                self._singles[key] = at
        return at

    def _count_tokens(self, at: _Places, usage: Usage) -> None:
        values = self._values
        values[at.input] += usage.input_tokens
        values[at.output] += usage.output_tokens
        if usage.cache_read_tokens:
            values[at.cache_read] += usage.cache_read_tokens
        if written := usage.cache_creation_tokens:
            values[at.cache_write] += written
        if usage.reasoning_tokens:
            values[at.reasoning] += usage.reasoning_tokens

    def _count_attempts(self, attempts: Sequence[tuple]) -> None:
        known = snapshot.provider_by_id if (snapshot := self._configured()) is not None else {}
        last = len(attempts) - 1
        for number, (provider_id, _, what, _) in enumerate(attempts):
            provider = known[provider_id].name if provider_id in known else OTHER
            self._values[self._single(ATTEMPTS, provider, str(what))] += 1
            if number < last:
                self._values[self._single(FAILOVERS, provider, str(what))] += 1

    def _model(self, summary: CallSummary, status: int) -> str:
        """The model's name, if it may be a label."""
        snapshot = self._configured()
        if snapshot is not self._seen and snapshot is not None:
            self._seen, self._written = snapshot, _written(snapshot)
            self._served -= self._written
        name = (summary.provider, summary.model)
        if name in self._written or name in self._served:
            return summary.model
        if status >= MIN_ERROR or len(self._served) >= MAX_SERVED:
            return OTHER
        self._served.add(name)
        return summary.model

    def _placed(self, key: tuple) -> _Places:
        provider, model, operation, protocol, outcome, status = key
        found = _Places(
            requests=self._place(REQUESTS, provider, model, operation, protocol, str(outcome), str(status)),
            duration=self._place(DURATION, provider, operation),
            first_token=self._place(FIRST_TOKEN, provider, operation),
            input=self._place(TOKENS, provider, model, "input"),
            cache_read=self._place(TOKENS, provider, model, "cache_read"),
            cache_write=self._place(TOKENS, provider, model, "cache_write"),
            output=self._place(TOKENS, provider, model, "output"),
            reasoning=self._place(REASONING, provider, model),
            cost=self._place(COST, provider, model),
            attempt=self._place(ATTEMPTS, provider, str(status)),
        )
        if NOWHERE not in found and len(self._kept) < MAX_KEPT:
            self._kept[key] = found
        return found

    def _place(self, family: Family, *labels: str) -> int:
        at = self.mmap_values.place(family.name, labels, family.width)
        if self.mmap_values.folded != self._folded:
            self._values[self._singles.get((FOLDED.name, ()), NOWHERE)] += self.mmap_values.folded - self._folded
            self._folded = self.mmap_values.folded
        return at


_STATES = {"healthy": "usable", "cooldown": "cooling", "unavailable": "disabled"}


def credentials(providers: Sequence[Provider], statuses: Mapping[int, str]) -> dict[tuple, list[float]]:
    """One series per credential and state: 1 for the state that the credential is in. `statuses` by credential id."""
    return {
        (CREDENTIALS.name, (provider.name, str(one.id), state), 1): [float(statuses[one.id] == status)]
        for provider in providers
        for one in provider.credentials
        for status, state in _STATES.items()
    }


def process(version: str, workers: int, journal_bytes: int) -> dict[tuple, list[float]]:
    return {
        (BUILD.name, (version,), 1): [1.0],
        (WORKERS.name, (), 1): [float(workers)],
        (JOURNAL.name, (), 1): [float(journal_bytes)],
    }


def _written(snapshot: Snapshot) -> frozenset[tuple[str, str]]:
    """Models by provider that an operator registered, or named in an alias without leaving a part of it open."""
    named = [(one.provider_id, one.model_id) for alias in snapshot.aliases.values() for one in alias.targets]
    known = snapshot.provider_by_id
    return frozenset(
        (known[provider].name, model) for provider, model in (*named, *snapshot.models) if provider in known
    )
