"""How a call is counted: in which families, and with which labels."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gproxy.metrics import definitions
from gproxy.metrics.call_metrics import MAX_SERVED, CallMetrics
from gproxy.metrics.call_summary import CallSummary
from gproxy.metrics.definitions import FAMILIES
from gproxy.metrics.mmap_values import FIRST_OFFSET, OTHER, RESERVED, MmapValues
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
def call_metrics(mmap_values: MmapValues) -> CallMetrics:
    return CallMetrics(mmap_values, lambda: SNAPSHOT)


def summary(model: str = "known", provider: str = "main", **more) -> CallSummary:
    found = CallSummary("anthropic", "stream_generate_content", "sent", provider, model, None, "complete")
    return replace(found, **more)


def values(call_metrics: CallMetrics, family) -> dict:
    found = call_metrics.mmap_values.totals().values
    return {labels: counted for (name, labels, _), counted in found.items() if name == family.name and any(counted)}


def models(call_metrics: CallMetrics) -> set[str]:
    return {labels[1] for labels in values(call_metrics, definitions.REQUESTS)}


def test_a_call_is_counted_in_all_its_families(call_metrics):
    usage = Usage(30, 5, 2, 60, 7, 8, 9)
    call = summary(usage=usage, cost=68_800, first_token_s=0.4)
    call_metrics.answered(call, 0.0005)
    call_metrics.settled(call, 200, 1.2, [(1, 3, 200, 9)])
    place = ("main", "stream_generate_content")
    labels = ("main", "known", "stream_generate_content", "anthropic", "complete", "200")
    assert values(call_metrics, definitions.REQUESTS) == {labels: [1]}
    assert values(call_metrics, definitions.DURATION) == {place: [0, 0, 0, 0, 0, 1, *[0] * 8, 1.2]}
    # A value equal to the bound of a bucket is in that bucket.
    assert values(call_metrics, definitions.FIRST_TOKEN) == {place: [0, 0, 0, 1, *[0] * 8, 0.4]}
    assert values(call_metrics, definitions.OVERHEAD) == {place: [1, *[0] * 10, 0.0005]}
    tokens = {"input": [30], "cache_read": [60], "cache_write": [24], "output": [5]}
    assert values(call_metrics, definitions.TOKENS) == {
        ("main", "known", name): count for name, count in tokens.items()
    }
    assert values(call_metrics, definitions.REASONING) == {("main", "known"): [2]}
    assert values(call_metrics, definitions.COST) == {("main", "known"): [68_800]}
    assert values(call_metrics, definitions.ATTEMPTS) == {("main", "200"): [1]}
    assert values(call_metrics, definitions.FAILOVERS) == {}
    assert values(call_metrics, definitions.UNSTORED) == {(): [1]}


def test_a_duration_beyond_all_buckets_is_counted(call_metrics):
    call_metrics.settled(summary(), 200, 1e6)
    assert next(iter(values(call_metrics, definitions.DURATION).values()))[-2:] == [1, 1e6]


def test_attempts_and_failovers_are_counted_by_provider_and_reason(call_metrics):
    call_metrics.settled(
        summary("named", "spare"), 200, 1.0, [(1, 3, 500, 9), (1, 4, "upstream_error", 9), (2, 5, 200, 9)]
    )
    assert values(call_metrics, definitions.ATTEMPTS) == {
        ("main", "500"): [1],
        ("main", "upstream_error"): [1],
        ("spare", "200"): [1],
    }
    assert values(call_metrics, definitions.FAILOVERS) == {("main", "500"): [1], ("main", "upstream_error"): [1]}
    call_metrics.settled(summary(), 502, 1.0, [(1, 3, 200, 9)])  # a stream that broke
    call_metrics.settled(summary(), 502, 1.0, [(8, 3, 400, 9), (8, 3, 400, 9)])  # of a deleted provider
    assert values(call_metrics, definitions.ATTEMPTS)["main", "200"] == [1]
    assert values(call_metrics, definitions.FAILOVERS)[OTHER, "400"] == [1]


@pytest.mark.parametrize(("provider", "model"), [("main", "known"), ("spare", "named")])
def test_a_configured_model_is_a_label_also_if_the_call_fails(call_metrics, provider, model):
    call_metrics.settled(summary(model, provider), 500, 1.0)
    assert models(call_metrics) == {model}


@pytest.mark.parametrize(
    ("provider", "model"), [("main", "named"), ("spare", "known"), ("main", "x-*"), ("main", "x-1"), ("main", "lost")]
)
def test_another_model_becomes_a_label_when_it_is_served(call_metrics, provider, model):
    call_metrics.settled(summary(model, provider), 404, 1.0)
    assert models(call_metrics) == {OTHER}
    call_metrics.settled(summary(model, provider), 200, 1.0)
    call_metrics.settled(summary(model, provider), 404, 1.0)
    assert values(call_metrics, definitions.REQUESTS)[
        provider, model, "stream_generate_content", "anthropic", "complete", "404"
    ] == [1]


def test_the_number_of_other_models_with_a_label_is_limited(call_metrics, tmp_path):
    for number in range(MAX_SERVED + 50):
        call_metrics.settled(summary(f"m{number}"), 200, 1.0)
    call_metrics.settled(summary(), 200, 1.0)
    assert len(models(call_metrics)) == MAX_SERVED + 2  # the configured one, and "other"
    call_metrics.mmap_values.close()
    # The limit also includes the models of the worker before.
    next_worker = CallMetrics(MmapValues(tmp_path / "metrics", 0, definitions.GAUGES), lambda: SNAPSHOT)
    for number in range(MAX_SERVED + 50, MAX_SERVED + 100):
        next_worker.settled(summary(f"m{number}"), 200, 1.0)
    next_worker.settled(summary("m1"), 500, 1.0)
    assert len(models(next_worker)) == MAX_SERVED + 2
    assert next_worker.mmap_values.folded == 0
    next_worker.mmap_values.close()


def test_an_error_without_an_outcome_is_a_refusal_too(call_metrics):
    refused, broken = summary(outcome=None), summary(outcome="failed")
    call_metrics.failed(refused, "rate_limited")
    call_metrics.failed(broken, "upstream_error")
    assert values(call_metrics, definitions.REFUSALS) == {("anthropic", "rate_limited"): [1]}
    assert values(call_metrics, definitions.ERRORS) == {
        ("anthropic", "rate_limited"): [1],
        ("anthropic", "upstream_error"): [1],
    }
    assert (refused.error, broken.error) == ("rate_limited", "upstream_error")


def test_gauges_go_up_and_down(call_metrics):
    call_metrics.open(3, 2)
    count_connection = call_metrics.connections("main")
    count_connection(1)
    count_connection(1)
    count_connection(-1)
    call_metrics.settled(summary(), 200, 1.0)
    call_metrics.settled(summary(), 200, 1.0, has_row=False)
    assert values(call_metrics, definitions.OPEN_REQUESTS) == {(): [3]}
    assert values(call_metrics, definitions.OPEN_STREAMS) == {(): [2]}
    assert values(call_metrics, definitions.CONNECTIONS) == {("main",): [1]}
    assert values(call_metrics, definitions.UNSTORED) == {(): [1]}
    call_metrics.open(0, 0)
    count_connection(-1)
    call_metrics.stored(1)
    assert not any(values(call_metrics, family) for family in FAMILIES if family.name in definitions.GAUGES)


def test_folded_series_are_counted(tmp_path):
    mmap_values = MmapValues(tmp_path / "metrics", 0, definitions.GAUGES, maximum=1_100)
    call_metrics = CallMetrics(mmap_values, lambda: SNAPSHOT)
    for number in range(30):
        call_metrics.settled(summary(f"m{number}"), 200, 1.0)
    requests = values(call_metrics, definitions.REQUESTS)
    assert sum(count for (count,) in requests.values()) == 30
    assert requests[(OTHER,) * 6][0] > 1
    assert values(call_metrics, definitions.FOLDED) == {(): [mmap_values.folded]}
    assert mmap_values.folded
    mmap_values.close()


def test_without_a_configuration_no_model_is_a_label(mmap_values):
    call_metrics = CallMetrics(mmap_values, lambda: None)
    call_metrics.settled(summary(), 500, 1.0, [(1, 2, 500, 3), (1, 3, 500, 3)])
    assert models(call_metrics) == {OTHER}


def test_families_follow_the_naming_rules_of_prometheus():
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert family.name.startswith("gproxy_")
        assert family.name.endswith("_total") is (family.kind == definitions.COUNTER)
        assert family.name.endswith("_seconds") is (family.kind == definitions.HISTOGRAM)
        assert family.help.endswith(".") and "\n" not in family.help
        assert list(family.bucket_bounds) == sorted(set(family.bucket_bounds))
        assert family.width <= FIRST_OFFSET  # series that could not be added are counted there
        assert not set(family.labels) & {"user", "key", "le"}
    assert sum(family.width for family in FAMILIES) <= RESERVED
