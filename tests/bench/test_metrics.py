"""The CPU time of metrics and the access log on the request path, in the best of several batches."""

import logging
import os
import time
from types import SimpleNamespace

import pytest

from gproxy.fastpath import access_line
from gproxy.metrics import definitions
from gproxy.metrics.call_metrics import CallMetrics
from gproxy.metrics.call_summary import CallSummary
from gproxy.metrics.mmap_values import MmapValues
from gproxy.protocols.hub import Usage
from gproxy.snapshot import Model, Provider, ProviderSettings, Snapshot
from gproxy.web import access_log, request_input
from tests.bench.test_checks import LIST_US, list_us

pytestmark = [pytest.mark.slow, pytest.mark.ci]
MAX_COUNTING_US, MAX_LINE_US = 5.0, 15.0
BATCHES, CALLS = 25, 1_000
PROVIDER = Provider(1, "main", "openai", ProviderSettings(), ())
SNAPSHOT = Snapshot(
    revisions={}, provider_by_id={1: PROVIDER}, models={(1, "known"): Model(1, "known", None, True, None)}
)


class Plan:
    operation, sent_model, model, provider = "stream_generate_content", "chat-default", "known", PROVIDER


def best(function) -> float:
    def batch() -> float:
        started = time.process_time()
        for _ in range(CALLS):
            function()
        return (time.process_time() - started) / CALLS * 1e6

    return min(batch() for _ in range(BATCHES))


def slowness() -> float:
    return max(1.0, list_us() / LIST_US)


def test_counting_a_request_costs_at_most_5_microseconds(tmp_path, record_property):
    """Counts everything that one stream counts, from its arrival to its end."""
    metrics = CallMetrics(MmapValues(tmp_path / "metrics", 0, definitions.GAUGES), lambda: SNAPSHOT)
    usage, attempts = Usage(12, 40, 3, 5), [(1, 2, 200, 9)]

    def count_call() -> None:
        summary = CallSummary("openai_chat")
        metrics.open(1, 0)
        summary.set_target(Plan)
        count_connection = metrics.connections("main")
        count_connection(1)
        summary.set_target(Plan)
        metrics.answered(summary, 0.0007)
        metrics.open(1, 1)
        summary.outcome, summary.usage, summary.cost, summary.first_token_s = "complete", usage, 68_800, 0.3
        metrics.settled(summary, 200, 1.2, attempts)
        count_connection(-1)
        metrics.open(0, 0)

    found = best(count_call)
    record_property("microseconds", found)
    print(f"metrics: {found:.1f} µs of CPU per request")
    assert found <= MAX_COUNTING_US * slowness()
    metrics.mmap_values.close()


def test_a_line_of_the_access_log_costs_at_most_15_microseconds(record_property, monkeypatch, caplog):
    usage = Usage(12, 40)
    summary = CallSummary("openai_chat", "stream_generate_content", "chat-default", "main", "known", None, "complete")
    summary.usage, summary.cost, summary.first_token_s = usage, 68_800, 0.3
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/chat/completions",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_X_FORWARDED_FOR": "10.1.2.3",
        request_input.REQUEST_ID: "req_0123456789abcdef01234567",
        request_input.SUMMARY: summary,
        request_input.CALLER: SimpleNamespace(user_name="dev", key_id=2),
    }
    caplog.set_level(logging.INFO, "gproxy.access")
    with open(os.devnull, "wb") as null_device:
        monkeypatch.setattr(access_line, "STANDARD_ERROR", null_device.fileno())
        found = best(lambda: access_log.write(environ, 200, 1234, 0.0123, ("127.0.0.1", "::1")))
    record_property("microseconds", found)
    print(f"access log: {found:.1f} µs of CPU per line")
    assert found <= MAX_LINE_US * slowness()
