"""A stream of the translated lane: its text and its end in the client's protocol, and how every fault ends it."""

from dataclasses import replace

import gevent
import orjson
import pytest
from gevent.event import Event

from gproxy import protocols
from gproxy.errors import UpstreamError, UpstreamTimeout
from gproxy.protocols import sse
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.relay.stream import LAST_EVENT_S, TAIL_S
from gproxy.snapshot import Quota
from tests.arriving import Arriving
from tests.vendor import WORDS, dumps, event, events, whole
from tests.worker import COST

LOADED = protocols.load()
TEXT = "".join(WORDS)
BODIES = {
    "openai_chat": {"messages": [{"role": "user", "content": "hi"}], "stream_options": {"include_usage": True}},
    "openai_responses": {"input": "hi"},
    "anthropic": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 50},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
}
# Client's protocol, upstream's protocol.
PAIRS = [(client, upstream) for client in sorted(BODIES) for upstream in sorted(BODIES) if client != upstream]
ALL = pytest.mark.parametrize(("client", "upstream"), PAIRS, ids=["<-".join(pair) for pair in PAIRS])
SOME = pytest.mark.parametrize(("client", "upstream"), [("openai_chat", "anthropic"), ("anthropic", "openai_chat")])
FAILED = {
    "openai_chat": event({"error": {"message": "broken", "type": "server_error"}}),
    "openai_responses": event({"type": "error", "code": "server_error", "message": "broken", "sequence_number": 7}),
    "anthropic": event({"type": "error", "error": {"type": "api_error", "message": "broken"}}, "error"),
    "gemini": event({"error": {"code": 500, "message": "broken", "status": "INTERNAL"}}),
}


def call(worker, client: str, **fields):
    if client == "gemini":
        path = {"model": "a", "operation": "stream_generate_content"}
        return worker.call(client, body=orjson.dumps(BODIES[client]), **path, **fields)
    return worker.call(client, body=orjson.dumps({"model": "a", "stream": True, **BODIES[client]}), **fields)


def streamed(worker, client: str, upstream: str, *steps, watch: DisconnectWatch | None = None, **fields):
    """Returns the pieces that the client receives, and the upstream's response."""
    worker.serve(upstream)
    exchange = steps[0] if isinstance(steps[0], Arriving) else Arriving(*steps)
    answer = worker.answer(call(worker, client, **fields), exchange, watch)
    pieces = list(answer.body)
    answer.close()
    return pieces, exchange


def data(pieces: list[bytes]) -> list[dict]:
    """Returns the JSON objects of a stream's events."""
    found = [sse.data_of(one) for one in sse.Splitter().feed(b"".join(pieces))]
    return [orjson.loads(one) for one in found if one not in (None, b"[DONE]")]


def is_ended(client: str, pieces: list[bytes]) -> bool:
    """Returns whether the stream has the end that its protocol requires."""
    reader = LOADED[client].Stream(None, LOADED[client].read_head(b'{"model": "a", "stream": true}'))
    for one in data(pieces):
        reader.observe(dumps(one))
    return reader.is_terminal and not reader.has_failed


def text_of(client: str, pieces: list[bytes]) -> str:
    found = []
    for one in data(pieces):
        if client == "openai_chat":
            found += [choice["delta"].get("content") or "" for choice in one["choices"]]
        elif client == "openai_responses":
            found += [one["delta"]] if one["type"] == "response.output_text.delta" else []
        elif client == "anthropic":
            found += [one["delta"]["text"]] if one["type"] == "content_block_delta" else []
        else:
            found += [part.get("text", "") for part in one["candidates"][0].get("content", {}).get("parts", ())]
    return "".join(found)


def settled(worker) -> tuple:
    (entry,) = worker.settled()
    return entry["x"], entry["st"], entry["c"]


@ALL
@pytest.mark.parametrize("size", [50, 10**6])
def test_the_text_arrives_once_and_ends_as_the_protocol_requires(worker, client, upstream, size):
    sent = b"".join(events(upstream, "m1"))
    pieces, _ = streamed(worker, client, upstream, *(sent[at : at + size] for at in range(0, len(sent), size)))
    assert text_of(client, pieces) == TEXT
    assert is_ended(client, pieces)
    assert b"m1" not in b"".join(pieces)
    assert settled(worker) == ("complete", 200, COST)


@ALL
def test_it_is_settled_before_its_end_is_yielded(worker, client, upstream):
    worker.serve(upstream)
    answer = worker.answer(call(worker, client), Arriving(*events(upstream, "m1")))
    before_end = []
    for piece in answer.body:
        if not worker.settled():
            before_end.append(piece)
    answer.close()
    assert before_end and not is_ended(client, before_end)
    assert settled(worker) == ("complete", 200, COST)


@SOME
def test_each_text_is_yielded_when_it_arrives(worker, client, upstream):
    gate, sent = Event(), events(upstream, "m1")
    worker.serve(upstream)
    first = next(n for n, one in enumerate(sent) if WORDS[0].encode() in one) + 1
    answer = worker.answer(call(worker, client), Arriving(*sent[:first], gate, *sent[first:]))
    body, received = iter(answer.body), []
    while WORDS[0] not in text_of(client, received):
        received.append(next(body))
    gate.set()
    assert text_of(client, [*received, *body]) == TEXT
    answer.close()


@ALL
@pytest.mark.parametrize("end", [None, UpstreamError("the connection broke"), UpstreamTimeout("no answer in time")])
def test_a_cut_ends_with_an_error_event_and_the_delivered_text_is_charged(worker, client, upstream, end):
    count = next(n for n, one in enumerate(events(upstream, "m1")) if WORDS[1].encode() in one) + 1
    pieces, _ = streamed(worker, client, upstream, *events(upstream, "m1")[:count], *([end] if end else []))
    assert not is_ended(client, pieces)
    assert (end or UpstreamError()).code.encode() in pieces[-1]
    outcome, status, cost = settled(worker)
    assert (outcome, status) == ("partial", end.status if end else 502)
    assert 0 < cost < COST
    assert worker.running.client_disconnects == 0


@ALL
def test_an_error_event_of_the_upstream_reaches_the_client_once(worker, client, upstream):
    pieces, exchange = streamed(worker, client, upstream, events(upstream, "m1")[0], FAILED[upstream])
    received = b"".join(pieces)
    assert b"broken" in received and b"broke off" not in received
    assert not is_ended(client, pieces)
    assert settled(worker)[0] == ("partial" if upstream == "gemini" else "failed")
    assert exchange.idle_limits[-1] == TAIL_S


@pytest.mark.parametrize("upstream", ["openai_chat", "openai_responses", "anthropic"])
def test_after_the_last_event_nothing_is_waited_for(worker, upstream):
    client = "gemini"
    with gevent.Timeout(2):
        pieces, _ = streamed(worker, client, upstream, *events(upstream, "m1"), Event())
    assert is_ended(client, pieces)


@SOME
def test_the_time_of_the_first_text_is_recorded(worker, client, upstream):
    worker.serve(upstream)
    one = call(worker, client)
    answer = worker.answer(one, Arriving(*events(upstream, "m1")))
    b"".join(answer.body)
    answer.close()
    assert 0 < one.summary.first_token_s < 5


@SOME
def test_a_stream_without_any_event_costs_nothing(worker, client, upstream):
    pieces, _ = streamed(worker, client, upstream, Arriving())
    assert b"broke off before its end" in b"".join(pieces)
    assert settled(worker) == ("failed", 502, 0)


@ALL
def test_a_missing_blank_line_at_the_end_loses_nothing(worker, client, upstream):
    pieces, _ = streamed(worker, client, upstream, b"".join(events(upstream, "m1")).rstrip(b"\n"))
    assert (text_of(client, pieces), is_ended(client, pieces)) == (TEXT, True)
    assert settled(worker) == ("complete", 200, COST)


@ALL
def test_an_upstream_that_does_not_end_the_body_changes_nothing(worker, client, upstream):
    sent = events(upstream, "m1")
    pieces, exchange = streamed(worker, client, upstream, *sent, UpstreamTimeout("no answer in time"))
    assert (text_of(client, pieces), is_ended(client, pieces)) == (TEXT, True)
    assert settled(worker) == ("complete", 200, COST)
    assert exchange.idle_limits[-1] == (LAST_EVENT_S if upstream == "gemini" else TAIL_S)


@SOME
@pytest.mark.parametrize("junk", [b"data: <html>{\n\n", b"data: 7\n\n", b"data:\n\n", b": comment\n\n", b"\n\n"])
def test_unreadable_data_is_passed_over(worker, client, upstream, junk):
    first, *rest = events(upstream, "m1")
    pieces, _ = streamed(worker, client, upstream, first, junk, *rest)
    assert (text_of(client, pieces), is_ended(client, pieces)) == (TEXT, True)


def test_half_an_emoji_does_not_end_the_stream(worker):
    sent = [one.replace(b"Hello", b"Hello\\ud83d") for one in events("openai_chat", "m1")]
    pieces, _ = streamed(worker, "anthropic", "openai_chat", *sent)
    assert text_of("anthropic", pieces).startswith("Hello")
    assert is_ended("anthropic", pieces)


@SOME
@pytest.mark.parametrize("function", ["read_stream", "write_stream"])
def test_events_that_cannot_be_translated_end_with_an_error_event(worker, client, upstream, function, monkeypatch):
    side = LOADED[upstream if function == "read_stream" else client]
    translate = getattr(side, function)

    def breaks(*arguments):
        yield from (one for _, one in zip(range(6), translate(*arguments), strict=False))
        raise KeyError("sk-part-of-the-reply")

    monkeypatch.setattr(side, function, breaks)
    pieces, exchange = streamed(worker, client, upstream, b"".join(events(upstream, "m1")))
    assert len(data(pieces)) > 1  # what was written before reaches the client too
    assert b"cannot be translated: KeyError" in pieces[-1] and b"sk-part" not in b"".join(pieces)
    assert not is_ended(client, pieces)
    (entry,) = worker.settled()
    assert (entry["st"], worker.account(), exchange.times_closed > 0) == (502, (entry["c"], 0), True)


@SOME
def test_an_event_larger_than_the_maximum_ends_the_stream(worker, client, upstream, monkeypatch):
    monkeypatch.setattr(sse.Splitter.__init__, "__defaults__", (1000,))
    pieces, _ = streamed(worker, client, upstream, *events(upstream, "m1")[:1], b"data: " + b"x" * 5000)
    monkeypatch.undo()
    assert b"larger than the maximum" in b"".join(pieces)
    assert settled(worker)[1] == 502


@SOME
def test_a_heartbeat_is_sent_while_the_upstream_is_silent(worker, client, upstream):
    watch, gate = DisconnectWatch(None), Event()
    sent = events(upstream, "m1")
    gevent.spawn_later(0.02, gate.set)
    gevent.spawn_later(0.005, lambda: watch.check_heartbeat(10**12))
    pieces, _ = streamed(worker, client, upstream, *sent[:4], gate, *sent[4:], watch=watch)
    assert pieces.count(LOADED[client].HEARTBEAT) == 1
    assert (text_of(client, pieces), is_ended(client, pieces)) == (TEXT, True)


def test_a_stream_as_one_json_array_is_an_array_also_when_it_is_cut(worker):
    sent = events("openai_chat", "m1")
    for steps, status in ((sent, None), (sent[:3], 502)):
        pieces, _ = streamed(worker, "gemini", "openai_chat", *steps, as_array=True)
        *_, last = orjson.loads(b"".join(pieces))
        assert last.get("error", {}).get("code") == status


def test_a_stream_that_spends_the_quota_is_cut_with_an_error_event(worker):
    cap = 10_000_000
    worker.caller = replace(worker.caller, quota=Quota(cap, None))
    text = next(one for one in events("openai_chat", "m1") if WORDS[0].encode() in one)
    sent = [text.replace(WORDS[0].encode(), b"x" * 4000)] * 50
    pieces, _ = streamed(worker, "openai_responses", "openai_chat", *sent)
    assert b"is spent, so this stream ends here" in pieces[-1]
    outcome, status, cost = settled(worker)
    assert (outcome, status, worker.account()) == ("partial", 402, (cost, 0))
    assert cap * 0.8 < cost < cap * 1.1


# -- an upstream that does not stream ------------------------------------------------------------------------------


@ALL
def test_a_whole_reply_is_written_as_the_stream_that_the_client_requested(worker, client, upstream):
    reply = Arriving(dumps(whole(upstream, "m1")), content_type="application/json")
    pieces, exchange = streamed(worker, client, upstream, reply)
    assert (text_of(client, pieces), is_ended(client, pieces)) == (TEXT, True)
    assert settled(worker) == ("complete", 200, COST)
    assert exchange.times_closed > 0


def test_a_whole_reply_is_written_as_one_json_array(worker):
    reply = Arriving(dumps(whole("openai_chat", "m1")), content_type="application/json")
    pieces, _ = streamed(worker, "gemini", "openai_chat", reply, as_array=True)
    assert "".join(
        part["text"] for one in orjson.loads(b"".join(pieces)) for part in one["candidates"][0]["content"]["parts"]
    ).startswith(TEXT)


@pytest.mark.parametrize("reply", [b"<html>", b"[]", b"7", b""])
def test_a_whole_reply_that_is_no_json_object_is_an_upstream_error(worker, reply):
    worker.serve("openai_chat")
    exchange = Arriving(reply, content_type="application/json")
    with pytest.raises(UpstreamError):
        worker.answer(call(worker, "anthropic"), exchange)
    assert exchange.times_closed > 0
    assert worker.account()[0] == sum(entry["c"] for entry in worker.settled())
