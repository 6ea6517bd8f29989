"""The path of one call: what is reserved, written, sent, answered and settled, and in which order."""

from dataclasses import replace

import gevent
import orjson
import pytest

from gproxy.errors import ClientDisconnected, Forbidden, NoCredential, OverQuota, ShuttingDown, Unauthorized
from gproxy.snapshot import Quota
from tests.vendor import body, refuses, sends, streams, whole
from tests.worker import CAP, COST

CHAT, CLAUDE = "openai_chat", "anthropic"
LANES = pytest.mark.parametrize("upstream", [CHAT, CLAUDE], ids=["passthrough", "translated"])


@LANES
def test_a_whole_reply_is_reserved_sent_settled_and_answered(worker, upstream):
    worker.serve(upstream)
    answer, data = worker.run(worker.call())
    assert answer.status == 200
    assert orjson.loads(data)["model"] == "a"
    opened, settled = worker.entries()
    assert (opened["rq"], opened["m"], opened["t"], opened["pr"]) == ("req_1", "a", "blue", "openai_chat_completions")
    assert opened["o"] == settled["s"]
    assert (settled["x"], settled["st"], settled["c"]) == ("complete", 200, COST)
    assert worker.account() == (COST, 0)
    headers = dict(answer.headers)
    assert (headers["x-gproxy-provider"], headers["x-gproxy-cost-usd"]) == ("p1", "0.000092000")
    assert headers.get("x-gproxy-translated") == (None if upstream == CHAT else "openai_chat->anthropic")


@LANES
def test_a_stream_is_settled_before_its_end_is_yielded(worker, upstream):
    worker.serve(upstream)
    permit, watch = worker.running.open(None)
    call = worker.call(stream=True)
    answer = worker.relay.run(worker.relay.plan(call, worker.caller, worker.snapshot), call, watch)
    assert dict(answer.headers)["Content-Type"] == "text/event-stream; charset=utf-8"
    received = b""
    for piece in answer.body:
        if b"[DONE]" in piece:
            assert [entry["c"] for entry in worker.settled()] == [COST]
        received += piece
    assert received.endswith(b"data: [DONE]\n\n")
    answer.close()
    worker.running.close(permit, watch)
    assert worker.account() == (COST, 0)


@LANES
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_of_the_upstream_is_answered_and_costs_nothing(worker, vendor, upstream, stream):
    worker.serve(upstream)
    vendor.scripts["m1"] = refuses(422, "no such tool")
    answer, data = worker.run(worker.call(stream=stream))
    assert (answer.status, b"no such tool" in data) == (422, True)
    assert [(entry["x"], entry["c"]) for entry in worker.settled()] == [("failed", 0)]
    assert worker.account() == (0, 0)
    assert "x-gproxy-cost-usd" not in dict(answer.headers)


@LANES
@pytest.mark.parametrize("stream", [False, True])
def test_a_redirect_is_not_followed(worker, vendor, upstream, stream):
    worker.serve(upstream)
    vendor.scripts["m1"] = sends(body(302, b"", {"Location": f"{vendor.url}/elsewhere"}))
    with pytest.raises(Exception, match="redirects"):
        worker.run(worker.call(stream=stream))
    assert [seen.path for seen in vendor.seen if "elsewhere" in seen.path] == []
    assert [entry["x"] for entry in worker.settled()] == ["failed"]


@LANES
def test_a_refused_reservation_leaves_no_trace(worker, vendor, upstream):
    worker.serve(upstream)
    worker.caller = replace(worker.caller, quota=Quota(10, None))
    with pytest.raises(OverQuota) as caught:
        worker.run(worker.call())
    assert caught.value.headers["x-gproxy-provider"] == "p1"
    assert (worker.entries(), vendor.received("m1"), worker.account()) == ([], [], (0, 0))


def test_a_journal_that_cannot_be_written_refuses_the_call_and_reserves_nothing(worker, vendor, monkeypatch):
    worker.serve(CHAT)
    monkeypatch.setattr(worker.journal, "_reserve", _full)
    with pytest.raises(Exception, match="journal") as caught:
        worker.run(worker.call())
    assert caught.value.status == 503
    assert (vendor.received("m1"), worker.account()) == ([], (0, 0))


def _full(*_):
    raise OSError(28, "No space left on device")


def test_without_a_credential_nothing_is_reserved(worker):
    worker.serve(CHAT, credentials=0)
    with pytest.raises(NoCredential) as caught:
        worker.run(worker.call())
    assert caught.value.headers["x-gproxy-provider"] == "p1"
    assert (worker.entries(), worker.account()) == ([], (0, 0))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("targets", [(CHAT, CHAT), (CHAT, CLAUDE), (CLAUDE, CHAT)])
def test_the_next_target_answers_if_the_first_one_fails(worker, vendor, targets, stream):
    worker.serve(*targets)
    vendor.scripts["m1"] = refuses(500, "broken")
    answer, data = worker.run(worker.call(stream=stream))
    assert answer.status == 200
    assert b"broken" not in data
    (settled,) = worker.settled()
    assert (settled["a"], settled["c"], settled["by"][0]) == (2, COST, 2)
    assert dict(answer.headers)["x-gproxy-provider"] == "p2"
    assert worker.account() == (COST, 0)


@LANES
def test_a_disconnect_before_the_first_byte_settles_the_input(worker, upstream):
    worker.serve(upstream)
    permit, watch = worker.running.open(None)
    watch.interrupt(ClientDisconnected())
    gevent.sleep(0)
    call = worker.call()
    with pytest.raises(ClientDisconnected):
        worker.relay.run(worker.relay.plan(call, worker.caller, worker.snapshot), call, watch)
    worker.running.close(permit, watch)
    assert worker.running.client_disconnects == 1
    (settled,) = worker.settled()
    assert (settled["x"], settled["st"], settled["est"]) == ("partial", 499, True)
    assert worker.account() == (settled["c"], 0)


@LANES
def test_a_stream_that_is_closed_before_its_end_settles_what_was_delivered(worker, vendor, upstream):
    worker.serve(upstream)
    vendor.scripts["m1"] = streams(6, "hang")
    permit, watch = worker.running.open(None)
    call = worker.call(stream=True)
    answer = worker.relay.run(worker.relay.plan(call, worker.caller, worker.snapshot), call, watch)
    assert next(iter(answer.body))
    answer.close()
    answer.close()
    worker.running.close(permit, watch)
    (settled,) = worker.settled()
    assert (settled["x"], settled["st"]) == ("partial", 499)
    assert 0 < worker.account()[0] < CAP
    assert worker.account()[1] == 0
    assert worker.running.client_disconnects == 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_interrupted_call_is_settled_as_failed(worker, vendor, stream):
    worker.serve(CHAT)
    permit, watch = worker.running.open(None)
    worker.running.interrupt_all(lambda: ShuttingDown("this worker is stopping"))
    gevent.sleep(0)
    call = worker.call(stream=stream)
    with pytest.raises(ShuttingDown) as caught:
        worker.relay.run(worker.relay.plan(call, worker.caller, worker.snapshot), call, watch)
    worker.running.close(permit, watch)
    assert caught.value.headers["x-gproxy-provider"] == "p1"
    assert [entry["x"] for entry in worker.settled()] == ["failed"]
    assert worker.account() == (0, 0)


def test_a_local_token_count_is_neither_sent_nor_settled(worker, vendor):
    worker.serve(CHAT)
    body = orjson.dumps({"model": "a", "messages": [{"role": "user", "content": "hi" * 50}]})
    answer, data = worker.run(worker.call(CLAUDE, body=body, operation="count_tokens"))
    assert orjson.loads(data)["input_tokens"] == -(-len(body) // 4)
    assert dict(answer.headers)["x-gproxy-estimated"] == "true"
    assert (worker.entries(), vendor.received("m1")) == ([], [])


def test_a_key_is_admitted_by_the_current_snapshot(worker):
    with pytest.raises(Unauthorized):
        worker.relay.admit("sk-unknown-000000")


def test_files_need_a_permission_for_the_provider(worker, monkeypatch):
    worker.serve(CHAT)
    monkeypatch.setattr("gproxy.admission.keys.admit", lambda snapshot, key, now: worker.caller)
    worker.relay.admit_to_files("sk-1", None)
    for provider in ("p1", "unknown"):
        with pytest.raises(Forbidden, match="file permission"):
            worker.relay.admit_to_files("sk-1", provider)


def test_a_reply_without_usage_is_estimated_from_its_text(worker, vendor):
    worker.serve(CHAT)
    reply = whole(CHAT, "m1")
    del reply["usage"]
    vendor.scripts["m1"] = sends(body(200, orjson.dumps(reply)))
    worker.run(worker.call())
    (settled,) = worker.settled()
    assert (settled["x"], settled["est"]) == ("complete", True)
    assert settled["n"][1] == 5  # 20 bytes of text


@pytest.mark.parametrize("data", [b"<html>", b"[1]", b"7", b""])
@LANES
def test_a_reply_that_is_no_json_object_is_an_upstream_error(worker, vendor, upstream, data):
    worker.serve(upstream)
    vendor.scripts["m1"] = sends(body(200, data))
    with pytest.raises(Exception, match="JSON object"):
        worker.run(worker.call())
    assert [(entry["x"], entry["st"]) for entry in worker.settled()] == [("failed", 502)]
    assert worker.account() == (0, 0)


@LANES
def test_an_error_reported_in_a_whole_reply_costs_nothing(worker, vendor, upstream):
    worker.serve(upstream)
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "too busy"}}
    vendor.scripts["m1"] = sends(body(200, orjson.dumps(error)))
    answer, data = worker.run(worker.call())
    assert answer.status == (200 if upstream == CHAT else 502)
    assert b"too busy" in data
    assert [(entry["x"], entry["c"]) for entry in worker.settled()] == [("failed", 0)]
