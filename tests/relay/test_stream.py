"""What the streams of both lanes share: how a stream that its client leaves is settled, drained and closed; framing."""

import gevent
import pytest
from gevent.event import Event

from gproxy.errors import ClientDisconnected, ShuttingDown, UpstreamError
from gproxy.protocols.sse import TooLong
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.relay.stream import ArrayFraming, SseFraming, is_complete_event
from tests.arriving import Arriving
from tests.vendor import COMPLETION_TOKENS, PROMPT_TOKENS, event, events
from tests.worker import COST

CHAT, CLAUDE = "openai_chat", "anthropic"
LANES = pytest.mark.parametrize("upstream", [CHAT, CLAUDE], ids=["passthrough", "translated"])
DRAIN_S = 0.05
FAILED = {
    CHAT: event({"error": {"message": "broken", "type": "server_error"}}),
    CLAUDE: event({"type": "error", "error": {"type": "api_error", "message": "broken"}}, "error"),
}


def begun(worker, upstream: str, *rest, watch: DisconnectWatch | None = None, is_drained: bool = False):
    """Returns the answer and the exchange of a stream of which the client has read the first text."""
    settings = {"on_disconnect": "drain", "drain_s": DRAIN_S} if is_drained else {}
    worker.serve(upstream, **settings)
    exchange = Arriving(b"".join(events(upstream, "m1")[:4]), *rest)
    answer = worker.answer(worker.call(stream=True), exchange, watch)
    assert b"Hello" in next(iter(answer.body))
    return answer, exchange


def settled(worker) -> tuple:
    (entry,) = worker.settled()
    return entry["x"], entry["st"], entry.get("est", False), entry["n"][:2]


@LANES
def test_a_stream_that_its_client_leaves_is_settled_once_and_closes_the_upstream(worker, upstream):
    answer, exchange = begun(worker, upstream, Event())
    for _ in range(2):
        answer.close()
    outcome, status, is_estimated, (_, output_tokens) = settled(worker)
    assert (outcome, status, is_estimated, output_tokens > 0) == ("partial", 499, True, True)
    assert (worker.running.client_disconnects, exchange.times_closed > 0, worker.account()[1]) == (1, True, 0)


@LANES
def test_a_stream_that_was_never_read_is_settled_by_its_input(worker, upstream):
    worker.serve(upstream)
    exchange = Arriving(*events(upstream, "m1"))
    worker.answer(worker.call(stream=True), exchange).close()
    outcome, status, is_estimated, (input_tokens, output_tokens) = settled(worker)
    assert (outcome, status, is_estimated, output_tokens) == ("partial", 499, True, 0)
    assert input_tokens > 0 and exchange.times_closed == 1


@LANES
def test_closing_a_stream_after_its_end_counts_no_disconnect(worker, upstream):
    answer, _ = begun(worker, upstream, *events(upstream, "m1")[4:])
    b"".join(answer.body)
    answer.close()
    assert settled(worker) == ("complete", 200, False, [PROMPT_TOKENS, COMPLETION_TOKENS])
    assert (worker.running.client_disconnects, worker.account()) == (0, (COST, 0))


@LANES
def test_a_disconnect_during_the_wait_ends_the_stream_without_an_error_event(worker, upstream):
    watch = DisconnectWatch(None)
    answer, exchange = begun(worker, upstream, Event(), watch=watch)
    watch.interrupt(ClientDisconnected())
    received = b"".join(answer.body)
    assert b"error" not in received
    assert settled(worker)[:2] == ("partial", 499)
    answer.close()
    assert (worker.running.client_disconnects, exchange.times_closed > 0) == (1, True)


@LANES
def test_a_stopping_worker_ends_the_stream_with_an_error_event(worker, upstream):
    watch = DisconnectWatch(None)
    answer, _ = begun(worker, upstream, Event(), watch=watch)
    watch.interrupt(ShuttingDown("this worker is stopping"))
    assert b"this worker is stopping" in b"".join(answer.body)
    answer.close()
    assert settled(worker)[:2] == ("partial", 503)
    assert worker.running.client_disconnects == 0


# -- draining ------------------------------------------------------------------------------------------------------


@LANES
def test_a_drained_stream_is_read_to_its_end_and_settled_by_its_usage(worker, upstream):
    rest = events(upstream, "m1")[4:]
    answer, exchange = begun(worker, upstream, *rest[:1], b"".join(rest[1:]), is_drained=True)
    answer.close()
    assert settled(worker) == ("partial", 499, False, [PROMPT_TOKENS, COMPLETION_TOKENS])
    assert (worker.running.client_disconnects, exchange.times_closed > 0) == (1, True)


@LANES
@pytest.mark.parametrize("end", ["silent", "cut", "broken", "failed", "endless"])
def test_a_stream_that_cannot_be_drained_is_settled_by_what_was_delivered(worker, upstream, end, monkeypatch):
    steps = {
        "silent": [Event()],
        "cut": [],
        "broken": [UpstreamError("the connection broke")],
        "failed": [FAILED[upstream]],
        "endless": [b"data: " + b"x" * 100],
    }[end]
    answer, exchange = begun(worker, upstream, *steps, is_drained=True)
    if end == "endless":
        monkeypatch.setattr("gproxy.protocols.sse.Splitter.feed", _refuse)
    with gevent.Timeout(2):
        answer.close()
    outcome, status, is_estimated, (_, output_tokens) = settled(worker)
    assert (outcome, status, is_estimated, output_tokens > 0) == ("partial", 499, True, True)
    assert (worker.running.client_disconnects, exchange.times_closed > 0, worker.account()[1]) == (1, True, 0)


def _refuse(*_) -> None:
    raise TooLong


# -- framing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "is_complete"),
    [
        (b"data: [DONE]\n\n", True),
        (b'data: {"a": 1}\n\n', True),
        (b'event: x\ndata: {"a": {}}\n\n', True),
        (b'data: {"a": 1\n\n', False),
        (b'data: {"a": "b\n\n', False),
        (b"data: [DO\n\n", False),
        (b"data: 1\n\n", False),
        (b"data:\n\n", False),
        (b": comment\n\n", False),
        (b"\n\n", False),
    ],
)
def test_an_event_without_its_blank_line_is_complete_if_its_data_is(tail, is_complete):
    assert is_complete_event(tail) is is_complete


def test_events_are_framed_as_they_came_unless_their_data_changed():
    framing = SseFraming()
    original, data = b"event: x\nid: 7\ndata: 1\n\n", b"1"
    assert framing.event_bytes(original, data, data) is original
    assert framing.event_bytes(original, data, b"2") == b"event: x\nid: 7\ndata: 2\n\n"
    assert framing.event_bytes(original, data, None) == b""
    assert (framing.comment(b": c\n\n"), framing.own_event(original)) == (b": c\n\n", original)
    assert (framing.end(b"data: [DONE]\n\n"), framing.end(b"")) == (b"data: [DONE]\n\n", b"")


@pytest.mark.parametrize(("count", "expected"), [(0, b"[]"), (1, b"[1\n]"), (3, b"[1,\r\n1,\r\n1\n]")])
def test_events_are_framed_as_one_json_array(count, expected):
    framing, one = ArrayFraming(), b"data: 1\n\n"
    pieces = [framing.comment(b": c\n\n"), framing.event_bytes(one, b"1", None)]
    pieces += [framing.own_event(one) if n else framing.event_bytes(one, b"0", b"1") for n in range(count)]
    pieces += [framing.own_event(b": no data\n\n"), framing.end(b"tail"), framing.end(b"")]
    assert b"".join(pieces) == expected
