"""Counts calls in the metric families.

Label values are our own words, names of providers, and names of models that an operator configured. Another model's
name becomes a label only after a call to it succeeded, and only for a limited number of models: what clients send makes
no series. No user and no key is a label.
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
    DAMAGED,
    DISCONNECTS,
    DURATION,
    ERRORS,
    FAILOVERS,
    FIRST_TOKEN,
    FIRST_TOKEN_S,
    FOLDED,
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
    UNSTORED,
    WORKERS,
    Family,
)
from gproxy.metrics.mmap_values import OTHER, SINK, MmapValues
from gproxy.protocols.hub import Usage
from gproxy.snapshot import Provider, Snapshot

# Names of models that no operator configured, per worker.
MAX_SERVED = 200
# Label combinations whose offsets are cached.
MAX_OFFSETS = 20_000
MIN_ERROR = 400


class _CallOffsets(NamedTuple):
    """Offsets of the series in which a call with certain labels is counted."""

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
    """The metrics of one worker. `current` returns the current snapshot, or None before the first one is loaded."""

    def __init__(self, mmap_values: MmapValues, current: Callable[[], Snapshot | None]):
        self.mmap_values, self._values, self._current = mmap_values, mmap_values.values, current
        self._call_offsets: dict[tuple, _CallOffsets] = {}
        self._offsets: dict[tuple, int] = {}
        self._snapshot: Snapshot | None = None
        # Pairs of provider and model. The served ones include those of the worker whose files were taken over.
        self._configured_models: frozenset[tuple[str, str]] = frozenset()
        self._served_models = {
            series.labels
            for series in mmap_values.series()
            if series.family == COST.name and OTHER not in series.labels
        }
        self._folded = 0
        for family in (DISCONNECTS, OPEN_REQUESTS, OPEN_STREAMS, UNSTORED, FOLDED):
            self._offset(family)

    def settled(
        self, summary: CallSummary, status: int, seconds: float, attempts: Sequence[tuple] = (), has_row: bool = True
    ) -> None:
        """Counts a call that has settled; called once per call. `has_row`: it gets a usage row."""
        values = self._values
        model = self._model(summary, status)
        key = (summary.provider, model, summary.operation, summary.protocol, summary.outcome, status)
        at = self._call_offsets.get(key) or self._lookup_call_offsets(key)
        values[at.requests] += 1
        values[at.duration + bisect_left(LATENCY_S, seconds)] += 1
        values[at.duration + len(LATENCY_S) + 1] += seconds
        if summary.first_token_s is not None:
            values[at.first_token + bisect_left(FIRST_TOKEN_S, summary.first_token_s)] += 1
            values[at.first_token + len(FIRST_TOKEN_S) + 1] += summary.first_token_s
        if summary.usage is not None:
            self._count_tokens(at, summary.usage)
        if summary.cost:
            values[at.cost] += summary.cost
        if has_row:
            values[self._offset(UNSTORED)] += 1
        if len(attempts) == 1 and attempts[0][2] == status:
            values[at.attempt] += 1
        elif attempts:
            self._count_attempts(attempts)

    def answered(self, summary: CallSummary, seconds: float) -> None:
        """Counts the time in gproxy, in seconds, when the headers of an answer are about to be sent."""
        at = self._offset(OVERHEAD, summary.provider or "", summary.operation or "")
        self._values[at + bisect_left(OVERHEAD_S, seconds)] += 1
        self._values[at + len(OVERHEAD_S) + 1] += seconds

    def failed(self, summary: CallSummary, error: str) -> None:
        """Counts an error of gproxy itself that the client receives, and stores its code in the summary."""
        summary.error = error
        self._values[self._offset(ERRORS, summary.protocol, error)] += 1
        if summary.outcome is None:
            self._values[self._offset(REFUSALS, summary.protocol, error)] += 1

    def client_disconnected(self) -> None:
        self._values[self._offset(DISCONNECTS)] += 1

    def open(self, requests: int, streams: int) -> None:
        """Sets the numbers of requests and streams that are being served."""
        self._values[self._offset(OPEN_REQUESTS)] = requests
        self._values[self._offset(OPEN_STREAMS)] = streams

    def stored(self, calls: int) -> None:
        """Subtracts calls that are stored in the database from the unstored ones."""
        at = self._offset(UNSTORED)
        self._values[at] = max(0.0, self._values[at] - calls)

    def connections(self, provider: str) -> Callable[[int], None]:
        """A function that counts a connection to this provider: called with 1 when a call begins to use it, then -1."""
        return partial(self._change, self._offset(CONNECTIONS, provider))

    def _change(self, at: int, by: int) -> None:
        self._values[at] = max(0.0, self._values[at] + by)

    def _offset(self, family: Family, *labels: str) -> int:
        """The offset of one series, from the cache if possible."""
        key = (family.name, labels)
        at = self._offsets.get(key)
        if at is None:
            at = self._lookup_offset(family, *labels)
            if at != SINK and len(self._offsets) < MAX_OFFSETS:
                self._offsets[key] = at
        return at

    def _count_tokens(self, at: _CallOffsets, usage: Usage) -> None:
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
        known = snapshot.provider_by_id if (snapshot := self._current()) is not None else {}
        last = len(attempts) - 1
        for number, (provider_id, _, result, _) in enumerate(attempts):
            provider = known[provider_id].name if provider_id in known else OTHER
            self._values[self._offset(ATTEMPTS, provider, str(result))] += 1
            if number < last:
                self._values[self._offset(FAILOVERS, provider, str(result))] += 1

    def _model(self, summary: CallSummary, status: int) -> str:
        """The model's name if it may be a label, else OTHER."""
        snapshot = self._current()
        if snapshot is not self._snapshot and snapshot is not None:
            self._snapshot, self._configured_models = snapshot, _configured_models(snapshot)
            self._served_models -= self._configured_models
        name = summary.provider or "", summary.model or ""
        if name in self._configured_models or name in self._served_models:
            return name[1]
        if status >= MIN_ERROR or len(self._served_models) >= MAX_SERVED:
            return OTHER
        self._served_models.add(name)
        return name[1]

    def _lookup_call_offsets(self, key: tuple) -> _CallOffsets:
        provider, model, operation, protocol, outcome, status = key
        found = _CallOffsets(
            requests=self._lookup_offset(REQUESTS, provider, model, operation, protocol, str(outcome), str(status)),
            duration=self._lookup_offset(DURATION, provider, operation),
            first_token=self._lookup_offset(FIRST_TOKEN, provider, operation),
            input=self._lookup_offset(TOKENS, provider, model, "input"),
            cache_read=self._lookup_offset(TOKENS, provider, model, "cache_read"),
            cache_write=self._lookup_offset(TOKENS, provider, model, "cache_write"),
            output=self._lookup_offset(TOKENS, provider, model, "output"),
            reasoning=self._lookup_offset(REASONING, provider, model),
            cost=self._lookup_offset(COST, provider, model),
            attempt=self._lookup_offset(ATTEMPTS, provider, str(status)),
        )
        if SINK not in found and len(self._call_offsets) < MAX_OFFSETS:
            self._call_offsets[key] = found
        return found

    def _lookup_offset(self, family: Family, *labels: str) -> int:
        at = self.mmap_values.offset(family.name, labels, family.width)
        if self.mmap_values.folded != self._folded:
            self._values[self._offsets.get((FOLDED.name, ()), SINK)] += self.mmap_values.folded - self._folded
            self._folded = self.mmap_values.folded
        return at


_STATES = {"healthy": "usable", "cooldown": "cooling", "unavailable": "disabled"}


def credentials(providers: Sequence[Provider], statuses: Mapping[int, str]) -> dict[tuple, list[float]]:
    """One series per credential and state; its value is 1 for the current state. `statuses` are by credential id."""
    return {
        (CREDENTIALS.name, (provider.name, str(one.id), state), 1): [float(statuses[one.id] == status)]
        for provider in providers
        for one in provider.credentials
        for status, state in _STATES.items()
    }


def process(version: str, workers: int, journal_bytes: int, damaged_lines: int) -> dict[tuple, list[float]]:
    """The series of one machine that no worker counts."""
    return {
        (BUILD.name, (version,), 1): [1.0],
        (WORKERS.name, (), 1): [float(workers)],
        (JOURNAL.name, (), 1): [float(journal_bytes)],
        (DAMAGED.name, (), 1): [float(damaged_lines)],
    }


def _configured_models(snapshot: Snapshot) -> frozenset[tuple[str, str]]:
    """Pairs of provider and model that an operator registered or named as the target of an alias without wildcard."""
    named = [(one.provider_id, one.model_id) for alias in snapshot.aliases.values() for one in alias.targets]
    known = snapshot.provider_by_id
    return frozenset(
        (known[provider].name, model) for provider, model in (*named, *snapshot.models) if provider in known
    )
