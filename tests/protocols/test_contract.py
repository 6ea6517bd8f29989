"""The contract of every protocol module. A new protocol is tested as it exists; it needs samples and a path here."""

import copy
import json

import pytest

from gproxy import errors, protocols
from gproxy.channels import load as kinds
from gproxy.channels.kind import COUNT, EMBED, EMBED_BATCH, GENERATE, GET_MODEL, LIST_MODELS, STREAM
from gproxy.errors import BadRequest, GatewayError
from gproxy.protocols import sse
from gproxy.protocols.hub import ModelCard, Usage
from gproxy.protocols.verdict import Verdict
from tests.sampled import documents, names, payloads, read, request_head, sample, split

LOADED = protocols.load()
EACH = pytest.mark.parametrize("protocol", LOADED.values(), ids=LOADED)
# Every protocol has at least these samples.
REQUIRED_SAMPLES = {
    "text.sse", "tool_call.sse", "parallel_tools.sse", "thinking.sse", "error.sse", "cut.sse", "keepalive.sse",
    "crlf.sse", "reply.json", "error.json",
}  # fmt: skip
# The path of the model in a stream's event, as keys.
MODEL_PATHS = {
    "openai_chat": ("model",),
    "openai_responses": ("response", "model"),
    "anthropic": ("message", "model"),
    "gemini": ("modelVersion",),
}
STREAMS = pytest.mark.parametrize(
    ("name", "stream"), [(name, stream) for name in LOADED for stream in names(name, ".sse")]
)
ERRORS = [
    fault
    for fault in vars(errors).values()
    if isinstance(fault, type) and issubclass(fault, GatewayError) and fault.__module__ == errors.__name__
]
OPERATIONS = {GENERATE, STREAM, COUNT, EMBED, EMBED_BATCH}
TRICKY = 'line\nbreak "quoted" \\ Grüße 🗼 </script> \u2028'


def with_model(document: dict, path: tuple[str, ...], name: str) -> dict:
    """Returns a copy of the document with another model, if it has one."""
    after = copy.deepcopy(document)
    *outer, last = path
    inner = after
    for key in outer:
        inner = inner.get(key) or {}
    if last in inner:
        inner[last] = name
    return after


@EACH
def test_every_protocol_has_its_samples_and_the_path_of_its_model(protocol):
    missing = REQUIRED_SAMPLES - {*names(protocol.NAME, ".sse"), *names(protocol.NAME, ".json")}
    assert missing == set()
    assert MODEL_PATHS[protocol.NAME][-1] == protocol.MODEL_FIELD


@EACH
def test_every_route_leads_to_an_operation_that_can_be_translated(protocol):
    assert set(protocol.ROUTES.values()) <= set(protocol.CODECS) <= OPERATIONS
    assert {GENERATE, STREAM} <= set(protocol.CODECS)
    assert set(protocol.WIRE_NAMES) <= {*protocol.CODECS, LIST_MODELS, GET_MODEL}


def test_routes_names_and_wire_names_are_unique():
    routes = [route for protocol in LOADED.values() for route in protocol.ROUTES]
    wire_names = [
        (operation, protocol.WIRE_NAMES.get(operation, protocol.WIRE_NAME))
        for protocol in LOADED.values()
        for operation in protocol.CODECS
    ]
    assert len(set(routes)) == len(routes)
    assert len(set(wire_names)) == len(wire_names)
    assert all(name == protocol.NAME for name, protocol in LOADED.items())


@EACH
@pytest.mark.parametrize("model", ["vendor/model:free", "asked", "größe-🗼"])
def test_the_outgoing_request_differs_only_in_its_model(protocol, model):
    body = json.dumps(
        {
            "model": "asked",
            "unknown": {"kept": [1, 2.50, None]},
            "messages": [{"role": "user", "content": 'the "model":"asked"', "model": "asked"}],
            "tools": [{"name": "pick", "parameters": {"properties": {"model": {"enum": ["asked"]}}}}],
            "contents": [{"parts": [{"text": '"model":"asked"'}]}],
        }
    ).encode()
    head = protocol.read_head(body)
    before = dict(head.body)
    sent = protocol.outgoing(head, body, model)
    assert head.body == before
    # In Gemini the model is in the URL path; the body may repeat it as a resource name.
    expected_model = f"models/{model}" if head.model is None else model
    assert json.loads(sent) == {**json.loads(body), "model": expected_model}
    assert (sent is body) == (head.model == model)


@EACH
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"text"', b"\xff", b'{"\xff": 1}', b"[" * 100_000])
def test_an_unreadable_request_is_a_bad_request(protocol, body):
    with pytest.raises(BadRequest):
        protocol.read_head(body)


@STREAMS
def test_an_event_with_the_right_model_is_passed_on_as_the_same_object(name, stream):
    for data in payloads(sample(name, stream)):
        model = None if data.startswith(b"[DONE]") else _value_at(json.loads(data), MODEL_PATHS[name])
        passed, _ = LOADED[name].Stream(json.dumps(model or "asked").encode(), request_head()).observe(data)
        assert model == "" or passed is data


def _value_at(document: dict, path: tuple[str, ...]):
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return document


@STREAMS
def test_the_model_name_is_replaced_at_its_path_and_nowhere_else(name, stream):
    body = sample(name, stream)
    result = read(LOADED[name], body, "größe/asked")
    assert result.documents == [with_model(document, MODEL_PATHS[name], "größe/asked") for document in documents(body)]


@STREAMS
def test_an_event_with_another_model_is_still_one_event(name, stream):
    for event in split(sample(name, stream)):
        data = sse.data_of(event)
        if data is None or data.startswith(b"[DONE]"):
            continue
        passed, _ = LOADED[name].Stream(b'"other"', request_head()).observe(data)
        written = split(sse.with_data(event, passed))
        assert [json.loads(sse.data_of(written_event)) for written_event in written] == [json.loads(passed)]


@STREAMS
def test_no_text_follows_the_terminal_event(name, stream):
    reader = LOADED[name].Stream(b'"asked"', request_head())
    for data in payloads(sample(name, stream)):
        had_ended, before = reader.is_terminal, reader.text_bytes
        reader.observe(data)
        assert not had_ended or reader.text_bytes == before


@EACH
def test_a_cut_stream_is_not_terminal(protocol):
    for stream in names(protocol.NAME, ".sse"):
        result = read(protocol, sample(protocol.NAME, stream))
        is_complete = result.stream.is_terminal and not result.stream.has_failed
        is_cut = stream.startswith(("cut", "error", "failed", "done_without", "one_choice", "finish_is_empty"))
        assert is_complete is not is_cut, stream
        assert (
            {Verdict.ENDS, Verdict.MAY_END} & set(result.verdicts) or not is_complete or stream == "without_done.sse"
        ), stream


@EACH
def test_no_prefix_of_a_stream_that_stops_within_the_text_is_terminal(protocol):
    events = payloads(sample(protocol.NAME, "text.sse"))
    whole = read(protocol, sample(protocol.NAME, "text.sse")).stream.text_bytes
    assert whole > 0
    reader = protocol.Stream(b'"asked"', request_head())
    for data in events:
        _, verdict = reader.observe(data)
        if reader.text_bytes < whole:
            assert not reader.is_terminal
            assert verdict is Verdict.CONTINUES


@EACH
@pytest.mark.parametrize("stream", ["text.sse", "tool_call.sse", "parallel_tools.sse", "thinking.sse"])
def test_the_text_and_the_tokens_of_a_stream_are_counted(protocol, stream):
    result = read(protocol, sample(protocol.NAME, stream))
    assert result.stream.text_bytes >= 15
    assert result.stream.usage.output_tokens > 0
    assert result.stream.usage.input_tokens > 0


@EACH
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"text",
        b'{"type": 7}',
        b'{"\xff": 1}',
        b'{"choices": 7, "candidates": 7}',
        b'{"choices": [null], "candidates": [null]}',
        b'{"unknown": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"usage": {"prompt_tokens": 1e999}, "usageMetadata": {"promptTokenCount": 1e999}}',
        b'{"type": "message_delta", "usage": {"output_tokens": "\xff"}}',
        b'{"type": "message_start", "message": 7}',
        b'{"type": "message_start", "message": {"model": "x"}, "\xff": 1}',
        b'{"type": "response.created", "response": {"model": "x"}, "\xff": 1}',
        b'{"model": "x", "modelVersion": "x", "\xff": 1}',
        b'{"type": "content_block_delta"}',
        b'{"type": "response.completed"}',
        b'{"error": null, "candidates": null, "choices": null, "model": null}',
    ],
    ids=lambda data: data[:40],
)
def test_an_unreadable_frame_is_passed_on_and_ends_nothing(protocol, data):
    reader = protocol.Stream(b'"asked"', request_head())
    passed, verdict = reader.observe(data)
    assert passed is not None
    assert verdict is Verdict.CONTINUES
    assert not reader.is_terminal
    assert not reader.has_failed
    assert reader.usage in (None, Usage())


@EACH
def test_usage_is_read_from_a_whole_reply_only(protocol):
    usage, fields = protocol.read_whole(sample(protocol.NAME, "reply.json"))
    assert usage.output_tokens > 0
    assert protocol.MODEL_FIELD in fields
    assert protocol.read_whole(b"<html>") == (None, None)
    assert protocol.read_whole(b"[]") == (None, None)
    assert protocol.read_whole(b"{}") == (None, {})


@EACH
@pytest.mark.parametrize("usage", [b"null", b"{}", b"[]", b"7", b'"text"', b'{"a": 1e999}', b'{"a": "\xff"}'])
def test_a_usage_block_without_counts_is_none(protocol, usage):
    assert protocol.read_whole(b'{"usage": ' + usage + b', "usageMetadata": ' + usage + b"}")[0] is None


@EACH
@pytest.mark.parametrize("error_type", ERRORS, ids=lambda error_type: error_type.__name__)
def test_every_error_has_its_message_code_and_request_id(protocol, error_type):
    error = error_type(TRICKY)
    body = protocol.write_error(error.status, error.code, error.message, "req_1")
    document = json.loads(body)
    flat = json.dumps(document, ensure_ascii=False)
    assert document["error"]["message"] == error.message
    assert "req_1" in flat
    assert error.code in flat
    assert b"\n" not in body


@EACH
@pytest.mark.parametrize(
    "status", [400, 401, 402, 403, 404, 405, 408, 413, 422, 429, 499, 500, 501, 502, 503, 504, 529]
)
def test_every_status_has_an_error_type(protocol, status):
    inner = json.loads(protocol.write_error(status, "code", "text", "req_1"))["error"]
    kind = inner.get("type") or inner.get("status")
    assert isinstance(kind, str)
    assert kind


@EACH
def test_an_error_event_is_one_event_that_fails_the_stream(protocol):
    event = protocol.error_event(502, "upstream_error", TRICKY, "req_1")
    (data,) = payloads(event)
    assert json.loads(data)["error"]["message"] == TRICKY
    result = read(protocol, sample(protocol.NAME, "cut.sse") + event)
    assert result.stream.has_failed
    assert Verdict.ENDS not in result.verdicts


@EACH
def test_a_broken_stream_ends_with_an_error_event(protocol):
    result = read(protocol, sample(protocol.NAME, "cut.sse"))
    *_, last = result.stream.failure_events(502, "upstream_error", TRICKY, "req_1")
    assert json.loads(payloads(last)[0])["error"]["message"] == TRICKY


@EACH
def test_the_upstreams_own_error_event_is_passed_on_and_is_no_end(protocol):
    result = read(protocol, sample(protocol.NAME, "error.sse"))
    assert result.stream.has_failed
    assert result.stream.text_bytes > 0
    assert result.documents[-1]["error"]["message"]
    assert Verdict.ENDS not in result.verdicts


CARDS = [
    ModelCard("vendor/model:free"),
    ModelCard("bare", "A Name", 1_700_000_000, "someone"),
    ModelCard("late", created=1_700_000_000_000),
    ModelCard("far", created=10**30),
]
GARBAGE = [
    {},
    {"data": None, "models": None},
    {"data": 7, "models": 7},
    {"data": "text", "models": "text"},
    {"data": {"a": 1}, "models": {"a": 1}},
    {"data": [None, 7, "x", [], {}, {"id": 7}, {"id": None}], "models": [None, 7, {}, {"name": 7}]},
]


@EACH
def test_a_model_list_is_read_as_it_was_written(protocol):
    written = protocol.write_models([(card, f"main/{card.id}") for card in CARDS])
    before = copy.deepcopy(written)
    cards = protocol.read_models(json.loads(json.dumps(written)))
    assert [card.id for card in cards] == [f"main/{card.id}" for card in CARDS]
    assert protocol.next_page(written) is None
    assert written == before


@EACH
@pytest.mark.parametrize("body", GARBAGE, ids=str)
def test_a_model_list_may_be_garbage(protocol, body):
    before = copy.deepcopy(body)
    assert protocol.read_models(body) == []
    assert protocol.next_page(body) is None
    assert body == before


@EACH
@pytest.mark.parametrize("reader", LOADED.values(), ids=LOADED)
def test_a_model_of_any_protocol_can_be_written_in_every_other(protocol, reader):
    """The upstream's extra fields are kept in its own protocol, and never written in another."""
    raw = {"id": "m", "name": "models/m", "extra": {"kept": True}, "created": 1_700_000_000_000}
    (card,) = reader.read_models({"data": [raw], "models": [raw]})
    before = copy.deepcopy(card.raw)
    written = protocol.write_model(card, "main/m")
    assert "main/m" in (written.get("id"), written.get("name", "").removeprefix("models/"))
    is_same_shape = reader.read_models is protocol.read_models
    assert ("extra" in written) is is_same_shape
    assert card.raw == before


def test_every_protocol_has_a_channel():
    used = {protocol for kind in kinds().values() for _, protocol in kind.lanes}
    assert used == set(LOADED)
