"""What metrics and the access log cost on the request road, in CPU time of the best batch."""

import logging
import os
import time
from types import SimpleNamespace

import pytest

from gproxy import logs
from gproxy.protocols.hub import Usage
from gproxy.relay import measures
from gproxy.relay.measures import Measures
from gproxy.relay.record import Record
from gproxy.state.meters import Meters
from gproxy.store.snapshot import Model, Provider, ProviderSettings, Snapshot
from gproxy.web import access_log, inbound
from tests.bench.test_checks import LIST_US, _list_us

pytestmark = [pytest.mark.slow, pytest.mark.ci]
MOST_COUNTING_US, MOST_LINE_US = 5.0, 15.0
BATCHES, CALLS = 25, 1_000
PROVIDER = Provider(1, "main", "openai", ProviderSettings(), ())
SNAPSHOT = Snapshot(
    revisions={}, provider_by_id={1: PROVIDER}, models={(1, "known"): Model(1, "known", None, True, None)}
)


class Plan:
    operation, sent_model, model, provider = "stream_generate_content", "chat-default", "known", PROVIDER


def best(work) -> float:
    def batch() -> float:
        started = time.process_time()
        for _ in range(CALLS):
            work()
        return (time.process_time() - started) / CALLS * 1e6

    return min(batch() for _ in range(BATCHES))


def slowness() -> float:
    return max(1.0, _list_us() / LIST_US)


def test_counting_a_request_costs_at_most_5_microseconds(tmp_path, record_property):
    """Everything that one stream does for its metrics, from its arrival to its end."""
    measured = Measures(Meters(tmp_path / "metrics", 0, measures.GAUGES), lambda: SNAPSHOT)
    usage, attempts = Usage(12, 40, 3, 5), [(1, 2, 200, 9)]

    def one() -> None:
        record = Record("openai_chat")
        measured.open(1, 0)
        record.goes_to(Plan)
        told = measured.connections("main")
        told(1)
        record.goes_to(Plan)
        measured.answered(record, 0.0007)
        measured.open(1, 1)
        record.outcome, record.usage, record.cost, record.first_token_s = "complete", usage, 68_800, 0.3
        measured.settled(record, 200, 1.2, attempts)
        told(-1)
        measured.open(0, 0)

    found = best(one)
    record_property("microseconds", found)
    print(f"metrics: {found:.1f} µs of CPU a request")
    assert found <= MOST_COUNTING_US * slowness()
    measured.meters.close()


def test_a_line_of_the_access_log_costs_at_most_15_microseconds(record_property, monkeypatch, caplog):
    usage = Usage(12, 40)
    record = Record("openai_chat", "stream_generate_content", "chat-default", "main", "known", None, "complete")
    record.usage, record.cost, record.first_token_s = usage, 68_800, 0.3
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/chat/completions",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_X_FORWARDED_FOR": "10.1.2.3",
        inbound.REQUEST_ID: "req_0123456789abcdef01234567",
        inbound.RECORD: record,
        inbound.VISITOR: SimpleNamespace(user_name="dev", key_id=2),
    }
    caplog.set_level(logging.INFO, "gproxy.access")
    with open(os.devnull, "wb") as nobody:
        monkeypatch.setattr(logs, "STANDARD_ERROR", nobody.fileno())
        found = best(lambda: access_log.write(environ, 200, 1234, 0.0123, ("127.0.0.1", "::1")))
    record_property("microseconds", found)
    print(f"access log: {found:.1f} µs of CPU a line")
    assert found <= MOST_LINE_US * slowness()
