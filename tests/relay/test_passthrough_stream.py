"""A stream of the same-protocol lane: what reaches the client, when it is settled, and how every fault ends it."""

from dataclasses import replace

import gevent
import orjson
import pytest
from gevent.event import Event

from gproxy import protocols
from gproxy.errors import UpstreamError, UpstreamTimeout
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.relay.stream import LAST_EVENT_S, TAIL_S
from gproxy.snapshot import Quota
from tests.arriving import Arriving
from tests.vendor import COMPLETION_TOKENS, PROMPT_TOKENS, WORDS, event, events
from tests.worker import COST

LOADED = protocols.load()
NAMES = sorted(LOADED)
TEXT = "".join(WORDS)
ALL = pytest.mark.parametrize("name", NAMES)
FAILED = {
    "openai_chat": event({"error": {"message": "broken", "type": "server_error"}}),
    "openai_responses": event({"type": "error", "code": "server_error", "message": "broken", "sequence_number": 7}),
    "anthropic": event({"type": "error", "error": {"type": "api_error", "message": "broken"}}, "error"),
    "gemini": event({"error": {"code": 500, "message": "broken", "status": "INTERNAL"}}),
}


def call(worker, name: str, **fields):
    body = {
        "openai_chat": {"messages": [{"role": "user", "content": "hi"}]},
        "openai_responses": {"input": "hi"},
        "anthropic": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 50},
        "gemini": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
    }[name]
    if name == "gemini":
        path = {"model": "a", "operation": "stream_generate_content"}
        return worker.call(name, body=orjson.dumps(body), **path, **fields)
    if name == "openai_chat":
        body["stream_options"] = {"include_usage": True}
    return worker.call(name, body=orjson.dumps({"model": "a", "stream": True, **body}), **fields)


def streamed(worker, name: str, *steps, watch: DisconnectWatch | None = None, **fields) -> tuple[list[bytes], Arriving]:
    """Returns the pieces that the client receives, and the upstream's response."""
    worker.serve(name)
    exchange = Arriving(*steps)
    answer = worker.answer(call(worker, name, **fields), exchange, watch)
    pieces = list(answer.body)
    answer.close()
    return pieces, exchange


def settled(worker) -> tuple:
    (entry,) = worker.settled()
    return entry["x"], entry["st"], entry["c"]


@ALL
@pytest.mark.parametrize("size", [1, 50, 10**6])
def test_the_same_bytes_arrive_however_they_were_cut(worker, name, size):
    sent = b"".join(events(name, "a"))
    pieces, _ = streamed(worker, name, *(sent[at : at + size] for at in range(0, len(sent), size)))
    assert b"".join(pieces) == sent
    assert settled(worker) == ("complete", 200, COST)


@ALL
def test_the_model_is_named_as_the_client_named_it(worker, name):
    pieces, _ = streamed(worker, name, *events(name, "gpt-real-2026"))
    received = b"".join(pieces)
    assert b"gpt-real-2026" not in received
    assert received == b"".join(events(name, "a"))


@ALL
def test_it_is_settled_before_its_last_event_is_yielded(worker, name):
    worker.serve(name)
    answer = worker.answer(call(worker, name), Arriving(*events(name, "a")))
    pieces = [(piece, len(worker.settled())) for piece in answer.body]
    assert [count for _, count in pieces[:2]] == [0, 0]
    assert pieces[-1][1] == 1
    answer.close()
    assert settled(worker) == ("complete", 200, COST)


@ALL
def test_each_event_is_yielded_when_it_arrives(worker, name):
    gate = Event()
    worker.serve(name)
    one, *rest = events(name, "a")
    answer = worker.answer(call(worker, name), Arriving(one, gate, *rest))
    body = iter(answer.body)
    assert next(body) == one
    gate.set()
    assert b"".join(body) == b"".join(rest)
    answer.close()


@ALL
def test_the_time_of_the_first_text_is_recorded(worker, name):
    worker.serve(name)
    one = call(worker, name)
    answer = worker.answer(one, Arriving(*events(name, "a")))
    b"".join(answer.body)
    answer.close()
    assert 0 < one.summary.first_token_s < 5


@ALL
def test_a_missing_blank_line_at_the_end_loses_nothing(worker, name):
    sent = b"".join(events(name, "a"))
    pieces, _ = streamed(worker, name, sent.rstrip(b"\n"))
    assert b"".join(pieces) == sent
    assert settled(worker) == ("complete", 200, COST)


@ALL
@pytest.mark.parametrize("end", [None, UpstreamError("the connection broke"), UpstreamTimeout("no answer in time")])
def test_a_cut_ends_with_an_error_event_and_the_delivered_text_is_charged(worker, name, end):
    count = next(n for n, one in enumerate(events(name, "a")) if WORDS[1].encode() in one) + 1
    pieces, _ = streamed(worker, name, *events(name, "a")[:count], *([end] if end else []))
    outcome, status, cost = settled(worker)
    assert (outcome, status) == ("partial", end.status if end else 502)
    assert 0 < cost < COST
    assert (end or UpstreamError()).code.encode() in pieces[-1]
    assert worker.running.client_disconnects == 0


@ALL
def test_a_cut_event_is_not_forwarded(worker, name):
    one, two = events(name, "a")[:2]
    pieces, _ = streamed(worker, name, one, two[:-4])
    received = b"".join(pieces)
    assert received.startswith(one)
    assert two[:-4] not in received


@ALL
def test_a_stream_without_any_event_costs_nothing(worker, name):
    pieces, _ = streamed(worker, name)
    assert b"broke off before its end" in b"".join(pieces)
    assert settled(worker) == ("failed", 502, 0)
    assert worker.account() == (0, 0)


@ALL
def test_an_error_event_of_the_upstream_is_forwarded_once(worker, name):
    pieces, exchange = streamed(worker, name, events(name, "a")[0], FAILED[name])
    assert b"".join(pieces).count(b"broken") == 1
    assert b"broke off" not in b"".join(pieces)
    assert settled(worker)[0] == ("failed" if name != "gemini" else "partial")
    assert exchange.idle_limits[-1] == TAIL_S


@ALL
def test_unreadable_data_is_forwarded_and_changes_no_settlement(worker, name):
    junk = b"data: <html>{\n\n"
    first, *rest = events(name, "a")
    pieces, _ = streamed(worker, name, first, junk, b": comment\n\n", *rest)
    assert b"".join(pieces) == b"".join((first, junk, b": comment\n\n", *rest))
    assert settled(worker) == ("complete", 200, COST)


@ALL
def test_after_the_last_event_the_upstream_has_a_short_time_to_end_the_body(worker, name):
    _, exchange = streamed(worker, name, *events(name, "a"))
    wanted = LAST_EVENT_S if name == "gemini" else TAIL_S
    assert exchange.idle_limits[-1] == wanted


@ALL
def test_an_upstream_that_does_not_end_the_body_changes_nothing(worker, name):
    sent = events(name, "a")
    pieces, _ = streamed(worker, name, *sent, UpstreamTimeout("no answer in time"))
    assert b"".join(pieces) == b"".join(sent)
    assert settled(worker) == ("complete", 200, COST)


def test_an_event_that_may_be_the_last_is_held_until_the_next_one(worker):
    """Some models send the finish reason and the usage in every event."""
    candidate = {"content": {"role": "model", "parts": [{"text": "x"}]}, "finishReason": "STOP", "index": 0}
    counts = {"promptTokenCount": PROMPT_TOKENS, "candidatesTokenCount": COMPLETION_TOKENS}
    sent = [event({"candidates": [candidate], "usageMetadata": {**counts, "n": n}}) for n in range(3)]
    pieces, exchange = streamed(worker, "gemini", *sent)
    assert pieces == sent
    assert exchange.idle_limits == [LAST_EVENT_S, None, LAST_EVENT_S, None, LAST_EVENT_S]
    assert settled(worker) == ("complete", 200, COST)


def test_a_stream_as_one_json_array_is_an_array_in_every_case(worker):
    pieces, _ = streamed(worker, "gemini", *events("gemini", "a"), as_array=True)
    elements = orjson.loads(b"".join(pieces))
    assert "".join(one["candidates"][0]["content"]["parts"][0]["text"] for one in elements) == TEXT


def test_a_cut_array_is_closed_after_the_error(worker):
    pieces, _ = streamed(worker, "gemini", events("gemini", "a")[0], as_array=True)
    first, last = orjson.loads(b"".join(pieces))
    assert (first["candidates"][0]["index"], last["error"]["code"]) == (0, 502)


@ALL
def test_an_event_larger_than_the_maximum_ends_the_stream(worker, name, monkeypatch):
    worker.serve(name)
    answer = worker.answer(call(worker, name), Arriving(events(name, "a")[0], b"data: " + b"x" * 5000))
    body = iter(answer.body)
    next(body)
    monkeypatch.setattr(body.gi_frame.f_locals["splitter"], "_maximum", 1000)
    assert b"larger than the maximum" in b"".join(body)
    answer.close()
    assert [entry["st"] for entry in worker.settled()] == [502]


def test_a_heartbeat_is_sent_while_the_upstream_is_silent(worker):
    watch, gate = DisconnectWatch(None), Event()
    sent = events("openai_chat", "a")
    gevent.spawn_later(0.02, gate.set)
    gevent.spawn_later(0.005, lambda: watch.check_heartbeat(10**12))
    pieces, _ = streamed(worker, "openai_chat", sent[0], gate, *sent[1:], watch=watch)
    assert pieces == [sent[0], b": heartbeat\n\n", *sent[1:]]


@pytest.mark.parametrize("name", ["gemini", "openai_chat", "openai_responses"])
def test_a_stream_that_spends_the_quota_is_cut_with_an_error_event(worker, name):
    cap = 10_000_000
    worker.caller = replace(worker.caller, quota=Quota(cap, None))
    text = next(one for one in events(name, "a") if WORDS[0].encode() in one)
    pieces, _ = streamed(worker, name, *[text.replace(WORDS[0].encode(), b"x" * 4000)] * 50)
    assert b"is spent, so this stream ends here" in pieces[-1]
    outcome, status, cost = settled(worker)
    assert (outcome, status, worker.account()) == ("partial", 402, (cost, 0))
    assert cap * 0.8 < cost < cap * 1.1
    assert len(pieces) < 12


def test_a_missing_end_of_the_protocol_is_added(worker):
    *sent, done = events("openai_chat", "a")
    pieces, _ = streamed(worker, "openai_chat", *sent)
    assert pieces == [*sent, done]
    assert settled(worker) == ("complete", 200, COST)


def test_an_end_before_the_finish_reason_is_a_cut(worker):
    sent = events("openai_chat", "a")
    pieces, _ = streamed(worker, "openai_chat", *sent[:3], sent[-1], b"data: never read\n\n")
    assert pieces[:-1] == sent[:3]
    assert b"broke off before its end" in pieces[-1]
    assert settled(worker)[:2] == ("partial", 502)
