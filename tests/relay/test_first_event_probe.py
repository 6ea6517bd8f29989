"""The first-event probe: which heads of a stream are a fault, which are output, and how long it waits."""

import gevent
import pytest
from gevent.event import Event

from gproxy import protocols
from gproxy.channels.error_classifier import Fault, Verdict
from gproxy.errors import ClientDisconnected, UpstreamError, UpstreamTimeout
from gproxy.relay import first_event_probe
from gproxy.relay.disconnect import DisconnectWatch
from tests.arriving import Arriving
from tests.vendor import dumps, event, events

LOADED = protocols.load()
NAMES = sorted(LOADED)
NOW_S = 1_800_000_000.0
# Events before any output, and an error event, as the vendors send them.
QUIET = {
    "openai_chat": events("openai_chat", "m")[0],
    "openai_responses": b"".join(events("openai_responses", "m")[:4]),
    "anthropic": b"".join(events("anthropic", "m")[:3]),
    "gemini": event({"candidates": [{"content": {"role": "model", "parts": [{"text": ""}]}, "index": 0}]}),
}
LIMITED = {
    "openai_chat": event({"error": {"message": "slow down", "type": "rate_limit_error", "code": None}}),
    "openai_responses": event(
        {"type": "error", "code": "rate_limit_exceeded", "message": "slow down", "sequence_number": 1}, "error"
    ),
    "anthropic": event({"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}, "error"),
    "gemini": event({"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}}),
}
OUTPUT = {
    "openai_chat": events("openai_chat", "m")[1],
    "openai_responses": events("openai_responses", "m")[4],
    "anthropic": events("anthropic", "m")[3],
    "gemini": events("gemini", "m")[0],
}


def probe(exchange: Arriving, name: str, watch: DisconnectWatch | None = None) -> Fault | None:
    head = LOADED[name].read_head(b'{"model": "m", "stream": true}')
    return first_event_probe.find_fault(exchange, LOADED[name], head, watch or DisconnectWatch(None), NOW_S)


def remaining(exchange: Arriving) -> bytes:
    return b"".join(exchange.chunks(DisconnectWatch(None)))


@pytest.mark.parametrize("name", NAMES)
def test_an_error_event_before_output_is_a_fault(name):
    assert probe(Arriving(QUIET[name], LIMITED[name]), name).verdict is Verdict.RATE_LIMITED


@pytest.mark.parametrize("name", NAMES)
def test_output_ends_the_probe_and_nothing_of_the_stream_is_lost(name):
    steps = (QUIET[name], OUTPUT[name][:9], OUTPUT[name][9:], LIMITED[name])
    exchange = Arriving(*steps)
    assert probe(exchange, name) is None
    assert remaining(exchange) == b"".join(steps)


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_stream_in_one_piece_is_no_fault(name):
    whole = b"".join(events(name, "m"))
    exchange = Arriving(b": comment\n\n" + whole)
    assert probe(exchange, name) is None
    assert remaining(exchange) == b": comment\n\n" + whole


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("begun", [False, True], ids=["nothing", "head"])
def test_a_stream_that_ends_before_output_is_broken(name, begun):
    with pytest.raises(UpstreamError, match="broke off before its end"):
        probe(Arriving(*((QUIET[name],) if begun else ())), name)


@pytest.mark.parametrize("name", NAMES)
def test_a_connection_that_breaks_before_output_keeps_its_error(name):
    with pytest.raises(UpstreamTimeout, match="no answer in time"):
        probe(Arriving(QUIET[name], UpstreamTimeout("no answer in time")), name)


@pytest.mark.parametrize("name", NAMES)
def test_an_error_about_the_request_is_no_fault_of_the_credential(name):
    of_request = {
        "openai_chat": event({"error": {"message": "too long", "type": "invalid_request_error"}}),
        "openai_responses": event({"type": "error", "code": "context_length_exceeded", "message": "too long"}),
        "anthropic": event({"type": "error", "error": {"type": "invalid_request_error", "message": "too long"}}),
        "gemini": event({"error": {"code": 400, "message": "too long", "status": "INVALID_ARGUMENT"}}),
    }[name]
    exchange = Arriving(of_request)
    assert probe(exchange, name) is None
    assert remaining(exchange) == of_request


def test_the_wait_that_the_headers_name_belongs_to_the_fault():
    exchange = Arriving(LIMITED["openai_chat"])
    exchange.headers["retry-after"] = "7"
    assert probe(exchange, "openai_chat") == Fault(Verdict.RATE_LIMITED, 7.0)


def test_a_silent_stream_counts_as_output_after_the_maximum(monkeypatch):
    monkeypatch.setattr(first_event_probe, "MAX_PROBE_S", 0.02)
    go_on = Event()
    exchange = Arriving(QUIET["anthropic"], go_on, LIMITED["anthropic"])
    assert probe(exchange, "anthropic") is None
    go_on.set()
    assert remaining(exchange) == QUIET["anthropic"] + LIMITED["anthropic"]


def test_the_time_is_counted_over_all_events_of_the_head(monkeypatch):
    monkeypatch.setattr(first_event_probe, "MAX_PROBE_S", 0.05)
    pings, gates = [b": ping\n\n"] * 20, [Event() for _ in range(20)]
    for n, gate in enumerate(gates):
        gevent.spawn_later(0.01 * n, gate.set)
    exchange = Arriving(*(step for both in zip(gates, pings, strict=True) for step in both), LIMITED["anthropic"])
    assert probe(exchange, "anthropic") is None


@pytest.mark.parametrize(("size", "is_read"), [(first_event_probe.MAX_PROBE_BYTES - 100, True), (70_000, False)])
def test_no_more_than_the_maximum_of_bytes_is_held_back(size, is_read):
    comment = b": " + b"x" * size + b"\n\n"
    exchange = Arriving(comment, LIMITED["openai_chat"])
    assert (probe(exchange, "openai_chat") is not None) is is_read
    if not is_read:
        assert remaining(exchange) == comment + LIMITED["openai_chat"]


@pytest.mark.parametrize(
    "data", [b"data: <html>\n\n", b"data: {\n\n", b"data: 7\n\n", b"data:\n\n", dumps({}) + b"\n\n"]
)
def test_unreadable_events_are_passed_over(data):
    assert probe(Arriving(data, LIMITED["openai_chat"]), "openai_chat").verdict is Verdict.RATE_LIMITED


def test_a_disconnect_ends_the_probe():
    watch = DisconnectWatch(None)
    watch.interrupt(ClientDisconnected())
    with pytest.raises(ClientDisconnected):
        probe(Arriving(QUIET["anthropic"], Event()), "anthropic", watch)
