"""What of a request is counted, where, and under which labels."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gproxy.metrics import definitions
from gproxy.metrics.call_metrics import MAX_SERVED, CallMetrics
from gproxy.metrics.call_summary import CallSummary
from gproxy.metrics.definitions import FAMILIES
from gproxy.metrics.mmap_values import FIRST, OTHER, RESERVED, MmapValues
from gproxy.protocols.hub import Usage
from gproxy.snapshot import Alias, Model, Provider, ProviderSettings, Snapshot, Target, glob

MAIN, SPARE = (Provider(n, name, "openai", ProviderSettings(), ()) for n, name in ((1, "main"), (2, "spare")))
SNAPSHOT = Snapshot(
    revisions={},
    providers={"main": MAIN, "spare": SPARE},
    provider_by_id={1: MAIN, 2: SPARE},
    models={(1, "known"): Model(1, "known", None, True, None), (9, "lost"): Model(9, "lost", None, True, None)},
    aliases={"chat": Alias("chat", (Target(2, "named"),), None)},
    wildcards=(Alias("fast-*", (Target(1, "x-*"),), glob("fast-*")),),
)


@pytest.fixture
def mmap_values(tmp_path: Path) -> Iterator[MmapValues]:
    found = MmapValues(tmp_path / "metrics", 0, definitions.GAUGES)
    yield found
    found.close()


@pytest.fixture
def measured(mmap_values: MmapValues) -> CallMetrics:
    return CallMetrics(mmap_values, lambda: SNAPSHOT)


def summary(model: str = "known", provider: str = "main", **more) -> CallSummary:
    found = CallSummary("anthropic", "stream_generate_content", "sent", provider, model, None, "complete")
    return replace(found, **more)


def values(measured: CallMetrics, family) -> dict:
    found = measured.mmap_values.sums().values
    return {labels: counted for (name, labels, _), counted in found.items() if name == family.name and any(counted)}


def models(measured: CallMetrics) -> set[str]:
    return {labels[1] for labels in values(measured, definitions.REQUESTS)}


def test_a_call_is_counted_in_all_its_families(measured):
    usage = Usage(30, 5, 2, 60, 7, 8, 9)
    told = summary(usage=usage, cost=68_800, first_token_s=0.4)
    measured.answered(told, 0.0005)
    measured.settled(told, 200, 1.2, [(1, 3, 200, 9)])
    place = ("main", "stream_generate_content")
    labels = ("main", "known", "stream_generate_content", "anthropic", "complete", "200")
    assert values(measured, definitions.REQUESTS) == {labels: [1]}
    assert values(measured, definitions.DURATION) == {place: [0, 0, 0, 0, 0, 1, *[0] * 8, 1.2]}
    # A bound belongs to its bucket.
    assert values(measured, definitions.FIRST_TOKEN) == {place: [0, 0, 0, 1, *[0] * 8, 0.4]}
    assert values(measured, definitions.OVERHEAD) == {place: [1, *[0] * 10, 0.0005]}
    tokens = {"input": [30], "cache_read": [60], "cache_write": [24], "output": [5]}
    assert values(measured, definitions.TOKENS) == {("main", "known", name): count for name, count in tokens.items()}
    assert values(measured, definitions.REASONING) == {("main", "known"): [2]}
    assert values(measured, definitions.COST) == {("main", "known"): [68_800]}
    assert values(measured, definitions.ATTEMPTS) == {("main", "200"): [1]}
    assert values(measured, definitions.FAILOVERS) == {}
    assert values(measured, definitions.UNBOOKED) == {(): [1]}


def test_what_takes_longest_is_beyond_all_bounds(measured):
    measured.settled(summary(), 200, 1e6)
    assert next(iter(values(measured, definitions.DURATION).values()))[-2:] == [1, 1e6]


def test_attempts_and_failovers_are_counted_by_provider_and_reason(measured):
    measured.settled(summary("named", "spare"), 200, 1.0, [(1, 3, 500, 9), (1, 4, "upstream_error", 9), (2, 5, 200, 9)])
    assert values(measured, definitions.ATTEMPTS) == {
        ("main", "500"): [1],
        ("main", "upstream_error"): [1],
        ("spare", "200"): [1],
    }
    assert values(measured, definitions.FAILOVERS) == {("main", "500"): [1], ("main", "upstream_error"): [1]}
    measured.settled(summary(), 502, 1.0, [(1, 3, 200, 9)])  # a stream that broke
    measured.settled(summary(), 502, 1.0, [(8, 3, 400, 9), (8, 3, 400, 9)])  # of a provider that was deleted meanwhile
    assert values(measured, definitions.ATTEMPTS)["main", "200"] == [1]
    assert values(measured, definitions.FAILOVERS)[OTHER, "400"] == [1]


@pytest.mark.parametrize(("provider", "model"), [("main", "known"), ("spare", "named")])
def test_a_model_that_an_operator_wrote_is_a_label_also_when_it_fails(measured, provider, model):
    measured.settled(summary(model, provider), 500, 1.0)
    assert models(measured) == {model}


@pytest.mark.parametrize(
    ("provider", "model"), [("main", "named"), ("spare", "known"), ("main", "x-*"), ("main", "x-1"), ("main", "lost")]
)
def test_another_model_is_a_label_once_it_was_served(measured, provider, model):
    measured.settled(summary(model, provider), 404, 1.0)
    assert models(measured) == {OTHER}
    measured.settled(summary(model, provider), 200, 1.0)
    measured.settled(summary(model, provider), 404, 1.0)
    assert values(measured, definitions.REQUESTS)[
        provider, model, "stream_generate_content", "anthropic", "complete", "404"
    ] == [1]


def test_of_other_models_only_so_many_are_labels(measured, tmp_path):
    for number in range(MAX_SERVED + 50):
        measured.settled(summary(f"m{number}"), 200, 1.0)
    measured.settled(summary(), 200, 1.0)
    assert len(models(measured)) == MAX_SERVED + 2  # the one that is written, and "other"
    measured.mmap_values.close()
    # Nor does a worker that takes over begin anew.
    after = CallMetrics(MmapValues(tmp_path / "metrics", 0, definitions.GAUGES), lambda: SNAPSHOT)
    for number in range(MAX_SERVED + 50, MAX_SERVED + 100):
        after.settled(summary(f"m{number}"), 200, 1.0)
    after.settled(summary("m1"), 500, 1.0)
    assert len(models(after)) == MAX_SERVED + 2
    assert after.mmap_values.folded == 0
    after.mmap_values.close()


def test_a_refusal_is_an_error_before_anything_was_sent(measured):
    refused, broken = summary(outcome=None), summary(outcome="failed")
    measured.failed(refused, "rate_limited")
    measured.failed(broken, "upstream_error")
    assert values(measured, definitions.REFUSALS) == {("anthropic", "rate_limited"): [1]}
    assert values(measured, definitions.ERRORS) == {
        ("anthropic", "rate_limited"): [1],
        ("anthropic", "upstream_error"): [1],
    }
    assert (refused.error, broken.error) == ("rate_limited", "upstream_error")


def test_gauges_follow_what_is_so(measured):
    measured.open(3, 2)
    told = measured.connections("main")
    told(1)
    told(1)
    told(-1)
    measured.settled(summary(), 200, 1.0)
    measured.settled(summary(), 200, 1.0, is_booked=False)
    assert values(measured, definitions.OPEN_REQUESTS) == {(): [3]}
    assert values(measured, definitions.OPEN_STREAMS) == {(): [2]}
    assert values(measured, definitions.CONNECTIONS) == {("main",): [1]}
    assert values(measured, definitions.UNBOOKED) == {(): [1]}
    measured.open(0, 0)
    told(-1)
    measured.booked(1)
    assert not any(values(measured, family) for family in FAMILIES if family.name in definitions.GAUGES)


def test_what_is_folded_is_counted(tmp_path):
    mmap_values = MmapValues(tmp_path / "metrics", 0, definitions.GAUGES, maximum=1_100)
    measured = CallMetrics(mmap_values, lambda: SNAPSHOT)
    for number in range(30):
        measured.settled(summary(f"m{number}"), 200, 1.0)
    requests = values(measured, definitions.REQUESTS)
    assert sum(count for (count,) in requests.values()) == 30
    assert requests[(OTHER,) * 6][0] > 1
    assert values(measured, definitions.FOLDED) == {(): [mmap_values.folded]}
    assert mmap_values.folded
    mmap_values.close()


def test_without_a_configuration_no_model_is_a_label(mmap_values):
    measured = CallMetrics(mmap_values, lambda: None)
    measured.settled(summary(), 500, 1.0, [(1, 2, 500, 3), (1, 3, 500, 3)])
    assert models(measured) == {OTHER}


def test_families_are_named_as_prometheus_wants_them():
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert family.name.startswith("gproxy_")
        assert family.name.endswith("_total") is (family.kind == definitions.COUNTER)
        assert family.name.endswith("_seconds") is (family.kind == definitions.HISTOGRAM)
        assert family.help.endswith(".") and "\n" not in family.help
        assert list(family.bounds) == sorted(set(family.bounds))
        assert family.width <= FIRST  # what has no place is counted there
        assert not set(family.labels) & {"user", "key", "le"}
    assert sum(family.width for family in FAMILIES) <= RESERVED
