"""The answer to the client: its status, headers and body for each kind of response, and how whole replies settle."""

from dataclasses import replace

import orjson
import pytest

from gproxy import protocols
from gproxy.errors import UpstreamError
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.snapshot import Alias, Credential, Provider, ProviderSettings, RateLimit, Target, glob
from tests.arriving import Arriving
from tests.vendor import answers, body, dumps, error, events, refuses, sends, vector, whole
from tests.worker import COST

LOADED = protocols.load()
CHAT, RESPONSES, CLAUDE, GEMINI = "openai_chat", "openai_responses", "anthropic", "gemini"
ALL = pytest.mark.parametrize("name", sorted(LOADED))
LANES = pytest.mark.parametrize("upstream", [CHAT, CLAUDE], ids=["passthrough", "translated"])
BODIES = {
    CHAT: {"model": "a", "messages": [{"role": "user", "content": "hi"}]},
    RESPONSES: {"model": "a", "input": "hi"},
    CLAUDE: {"model": "a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50},
    GEMINI: {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]},
}


def call(worker, name: str, **fields):
    path = {"model": "a"} if name == GEMINI else {}
    return worker.call(name, body=dumps(BODIES[name] | fields.pop("more", {})), **path, **fields)


def reply(value, status: int = 200, **headers) -> Arriving:
    """The whole reply of an upstream."""
    data = value if isinstance(value, bytes) else dumps(value)
    found = Arriving(data, status=status, content_type="application/json")
    found.headers |= {name.replace("_", "-"): text for name, text in headers.items()}
    return found


def settled(worker) -> tuple:
    (entry,) = worker.settled()
    return entry["x"], entry["st"], entry["c"]


# -- whole replies of the same protocol ----------------------------------------------------------------------------


@ALL
def test_a_whole_reply_is_returned_as_it_came(worker, name):
    worker.serve(name)
    exchange = reply(whole(name, "a"), content_type="application/json; charset=utf-8")
    answer = worker.answer(call(worker, name), exchange)
    assert (answer.status, answer.body) == (200, dumps(whole(name, "a")))
    assert dict(answer.headers)["Content-Type"] == "application/json; charset=utf-8"
    assert (settled(worker), exchange.times_closed) == (("complete", 200, COST), 1)


@ALL
def test_only_the_model_is_named_as_the_client_named_it(worker, name):
    worker.serve(name)
    answer = worker.answer(call(worker, name), reply(whole(name, "gpt-real-2026")))
    assert orjson.loads(answer.body) == whole(name, "a")


def test_a_reply_without_a_model_gets_none(worker):
    worker.serve(CHAT)
    sent = {key: value for key, value in whole(CHAT, "m1").items() if key != "model"}
    assert worker.answer(call(worker, CHAT), reply(sent)).body == dumps(sent)


@ALL
@pytest.mark.parametrize("data", [b"<html>", b"[1]", b"7", b"", b'{"a":'])
def test_a_reply_that_is_no_json_object_is_an_upstream_error(worker, name, data):
    worker.serve(name)
    exchange = reply(data)
    with pytest.raises(UpstreamError, match="not a JSON object"):
        worker.answer(call(worker, name), exchange)
    assert exchange.times_closed == 1


@ALL
def test_a_reply_without_usage_is_charged_by_its_text(worker, name):
    worker.serve(name)
    sent = whole(name, "a")
    for field in ("usage", "usageMetadata"):
        sent.pop(field, None)
    worker.answer(call(worker, name), reply(sent))
    (entry,) = worker.settled()
    assert (entry["x"], entry["est"]) == ("complete", True)
    assert 5 <= entry["n"][1] < 60


def test_a_reply_whose_text_cannot_be_read_is_charged_by_its_size(worker):
    worker.serve(CHAT)
    sent = b'{"id": "1", "choices": [{"message": {"content": "\\ud83d"}}], "padding": "' + b"x" * 400 + b'"}'
    worker.answer(call(worker, CHAT), reply(sent))
    (entry,) = worker.settled()
    assert (entry["est"], entry["n"][1]) == (True, -(-len(sent) // 4))


def test_the_cost_of_a_whole_reply_is_in_its_headers(worker):
    worker.serve(CHAT)
    answer = worker.answer(call(worker, CHAT), reply(whole(CHAT, "a")))
    assert dict(answer.headers)["x-gproxy-cost-usd"] == "0.000092000"


# -- headers -------------------------------------------------------------------------------------------------------


def test_only_listed_headers_of_the_upstream_are_returned(worker):
    worker.serve(CHAT)
    worker.caller = replace(worker.caller, quota=None)
    sent = {"x_ratelimit_limit_requests": "5", "openai_processing_ms": "7", "x_request_id": "req_up"}
    answer = worker.answer(call(worker, CHAT), reply(whole(CHAT, "a"), **sent, set_cookie="a=b", server="nginx"))
    headers = dict(answer.headers)
    assert headers.pop("x-gproxy-overhead-ms")
    assert headers == {
        **{"x-gproxy-provider": "p1", "x-ratelimit-limit-requests": "5", "openai-processing-ms": "7"},
        **{"x-upstream-request-id": "req_up", "Content-Type": "application/json"},
        "x-gproxy-cost-usd": "0.000092000",
    }


def test_a_limited_caller_gets_its_own_rate_limits_and_not_the_upstreams(worker):
    worker.serve(CHAT)
    worker.caller = replace(worker.caller, limits=(RateLimit(1, "*", glob("*").fullmatch, rpm=9),))
    worker.state.load_limit("1", {}, (), {})
    sent = reply(whole(CHAT, "a"), x_ratelimit_limit_requests="5", retry_after="7")
    headers = worker.answer(call(worker, CHAT), sent).headers
    assert [value for name, value in headers if name == "x-ratelimit-limit-requests"] == ["9"]
    assert (dict(headers)["X-RateLimit-Remaining"], dict(headers)["retry-after"]) == ("8", "7")


@pytest.mark.parametrize(
    ("name", "as_array", "expected"),
    [(CHAT, False, "text/event-stream; charset=utf-8"), (GEMINI, True, "application/json; charset=utf-8")],
)
def test_a_stream_is_neither_buffered_nor_changed_on_its_way(worker, name, as_array, expected):
    worker.serve(name)
    path = {"operation": "stream_generate_content"} if name == GEMINI else {"more": {"stream": True}}
    answer = worker.answer(call(worker, name, as_array=as_array, **path), Arriving(*events(name, "a")))
    headers = dict(answer.headers)
    assert (headers["Content-Type"], headers["X-Accel-Buffering"]) == (expected, "no")
    assert headers["Cache-Control"] == "no-cache, no-transform"
    assert "x-gproxy-cost-usd" not in headers
    answer.close()


@pytest.mark.parametrize(("stream", "is_set"), [(True, True), (False, False)])
def test_only_a_stream_gets_heartbeats(worker, stream, is_set):
    worker.serve(CHAT, heartbeat_s=7)
    beats = []

    class Watch(DisconnectWatch):
        def set_heartbeat(self, seconds: float) -> None:
            beats.append(seconds)

    exchange = Arriving(*events(CHAT, "a")) if stream else reply(whole(CHAT, "a"))
    answer = worker.answer(worker.call(stream=stream), exchange, Watch(None))
    answer.close()
    assert beats == ([7] if is_set else [])


def test_the_losses_of_a_translation_are_in_the_headers(worker):
    worker.serve(CLAUDE)
    answer = worker.answer(call(worker, CHAT, more={"seed": 7}), reply(whole(CLAUDE, "m1")))
    headers = dict(answer.headers)
    assert headers["x-gproxy-translated"] == "openai_chat->anthropic"
    assert "seed" in headers["x-gproxy-lossy"].split(", ")


# -- errors --------------------------------------------------------------------------------------------------------


@ALL
def test_an_error_of_the_same_protocol_is_returned_as_it_came(worker, name):
    worker.serve(name)
    sent = error(name, 422, "no such tool")
    answer = worker.answer(call(worker, name), reply(sent, 422))
    assert (answer.status, answer.body) == (422, dumps(sent))
    assert settled(worker) == ("failed", 422, 0)


@pytest.mark.parametrize("upstream", [CLAUDE, GEMINI, RESPONSES])
@pytest.mark.parametrize("html", [False, True])
def test_an_error_of_another_protocol_is_written_in_the_clients(worker, upstream, html):
    worker.serve(upstream)
    sent = b"<html><title>Bad</title>no such tool</html>" if html else error(upstream, 422, "no such tool")
    answer = worker.answer(call(worker, CHAT), reply(sent, 422))
    found = orjson.loads(answer.body)["error"]
    assert (answer.status, "no such tool" in found["message"]) == (422, True)
    assert dict(answer.headers)["Content-Type"] == "application/json"
    assert settled(worker) == ("failed", 422, 0)


@LANES
@pytest.mark.parametrize("stream", [False, True])
def test_a_redirect_is_an_error_and_its_connection_is_closed(worker, upstream, stream):
    worker.serve(upstream)
    exchange = reply(b"", 307, location="http://elsewhere.test")
    with pytest.raises(UpstreamError, match=r"redirects \(307\)"):
        worker.answer(worker.call(stream=stream), exchange)
    assert exchange.times_closed == 1


@LANES
def test_a_body_that_breaks_off_is_an_upstream_error(worker, upstream):
    worker.serve(upstream)
    sent = dumps(whole(upstream, "a"))
    exchange = Arriving(sent[:50], UpstreamError("the connection broke"), content_type="application/json")
    with pytest.raises(UpstreamError, match="broke"):
        worker.answer(worker.call(), exchange)
    assert exchange.times_closed == 1


@LANES
def test_an_upstream_that_closes_the_body_early_is_an_upstream_error(worker, vendor, upstream):
    worker.serve(upstream)
    vendor.scripts["m1"] = sends(body(200, dumps(whole(upstream, "a")))[:-20], "close")
    with pytest.raises(UpstreamError):
        worker.run(worker.call())
    assert (settled(worker), worker.account()) == (("failed", 502, 0), (0, 0))


# -- whole replies of another protocol -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "upstream"), [(one, other) for one in sorted(LOADED) for other in sorted(LOADED) if one != other]
)
def test_a_whole_reply_is_translated_and_charged_by_the_upstreams_own_counts(worker, client, upstream):
    worker.serve(upstream)
    answer = worker.answer(call(worker, client), reply(whole(upstream, "m1")))
    usage, fields = LOADED[client].read_whole(answer.body)
    assert (usage.prompt_tokens, usage.output_tokens) == (12, 40)
    assert b"Hello there, friend!" in answer.body
    assert bytes(fields[LOADED[client].MODEL_FIELD]) == b'"a"'
    assert settled(worker) == ("complete", 200, COST)


def test_a_stream_is_folded_into_the_whole_reply_that_the_client_requested(worker):
    worker.serve(CLAUDE)
    exchange = Arriving(*events(CLAUDE, "m1"))
    answer = worker.answer(worker.call(), exchange)
    assert orjson.loads(answer.body)["choices"][0]["message"]["content"] == "Hello there, friend!"
    assert (settled(worker), exchange.times_closed > 0) == (("complete", 200, COST), True)


@pytest.mark.parametrize("count", [0, 5])
def test_a_stream_that_breaks_off_while_it_is_folded_is_an_upstream_error(worker, count):
    worker.serve(CLAUDE)
    exchange = Arriving(*events(CLAUDE, "m1")[:count])
    with pytest.raises(UpstreamError) as caught:
        worker.answer(worker.call(), exchange)
    assert "broke off" in caught.value.message
    assert (settled(worker)[:2], exchange.times_closed > 0) == (("partial" if count else "failed", 502), True)


# -- responses that the vendor stores, and counts --------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_stored_response_is_continued_with_its_own_credential(worker, vendor, stream):
    worker.serve(RESPONSES, credentials=4)
    for more in ({}, {"previous_response_id": "resp_1"}, {"previous_response_id": "resp_1"}, {}):
        worker.run(call(worker, RESPONSES, more={"stream": stream, **more}))
    used = [seen.headers["authorization"] for seen in vendor.received("m1")]
    assert used[0] == used[1] == used[2] != used[3]


def test_a_failed_response_stores_nothing(worker, vendor):
    worker.serve(RESPONSES, credentials=2)
    vendor.scripts["m1"] = refuses(422, "no")
    worker.run(call(worker, RESPONSES))
    vendor.scripts["m1"] = answers(200, dumps({**whole(RESPONSES, "m1"), "id": None}))
    worker.run(call(worker, RESPONSES))
    assert worker.ttl_store.find(worker.caller.user_id, b"resp_1") is None


def test_a_local_count_is_marked_as_estimated_in_every_protocol(worker):
    worker.serve(CHAT)
    for name, field in ((CLAUDE, "input_tokens"), (RESPONSES, "input_tokens"), (GEMINI, "totalTokens")):
        counting = call(worker, name, operation="count_tokens")
        answer, data = worker.run(counting)
        assert orjson.loads(data)[field] == -(-len(counting.body) // 4)
        assert ("x-gproxy-estimated", "true") in answer.headers
    assert worker.entries() == []


def test_a_reply_gets_the_standard_field_names_of_its_protocol(worker):
    one = Provider(1, "v", "vertexexpress", ProviderSettings(), (Credential(1, 1, "AIza-1"),))
    alias = Alias("a", (Target(1, "m1"),), None)
    worker.snapshot = replace(worker.snapshot, providers={"v": one}, provider_by_id={1: one}, aliases={"a": alias})
    sent = whole(GEMINI, "a")
    sent["candidates"][0]["citationMetadata"] = {"citations": [{"uri": "https://u.test"}]}
    for stream in (False, True):
        path = {"operation": "stream_generate_content"} if stream else {}
        exchange = Arriving(b"data: " + dumps(sent) + b"\n\n") if stream else reply(sent)
        answer = worker.answer(call(worker, GEMINI, **path), exchange)
        received = b"".join(answer.body) if stream else answer.body
        answer.close()
        assert b'"citationSources"' in received and b'"citations"' not in received


def test_an_embedding_is_charged_for_its_input_alone(worker):
    worker.serve(CHAT)
    embedding = worker.call(body=dumps({"model": "a", "input": "hello"}), operation="embeddings")
    _, data = worker.run(embedding)
    assert orjson.loads(data)["data"][0]["embedding"] == vector("hello")
    assert settled(worker) == ("complete", 200, 12 * 1_000)
