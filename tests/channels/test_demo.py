"""The demo channel, checked by the vendors' own client libraries and by gproxy's readers."""

import json

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from google.genai.types import GenerateContentResponse
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gproxy import protocols
from gproxy.channels import demo
from gproxy.protocols.hub import Usage
from gproxy.protocols.verdict import Verdict
from tests.sampled import documents, payloads, read, request_head

LOADED = protocols.load()
EACH = pytest.mark.parametrize("name", LOADED)
REQUESTS = {
    "openai_chat": {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "Grüße 東京"}, {"type": "text", "text": "again"}]},
        ]
    },
    "openai_responses": {"input": [{"role": "system", "content": "be brief"}, {"content": "Grüße 東京 again"}]},
    "anthropic": {
        "messages": [
            {"role": "assistant", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "Grüße 東京 again"}]},
        ]
    },
    "gemini": {
        "contents": [
            {"role": "model", "parts": [{"text": "be brief"}]},
            {"role": "user", "parts": [{"text": "Grüße 東京 again"}, {"inlineData": {"data": "AAAA"}}]},
        ]
    },
}
REPLY = "Hello from gproxy! You said: Grüße 東京 again"
TEXTS = {
    "openai_chat": lambda whole: whole["choices"][0]["message"]["content"],
    "openai_responses": lambda whole: whole["output"][0]["content"][0]["text"],
    "anthropic": lambda whole: whole["content"][0]["text"],
    "gemini": lambda whole: whole["candidates"][0]["content"]["parts"][0]["text"],
}
DELTAS = {
    "openai_chat": lambda event: "".join(c["delta"].get("content") or "" for c in event["choices"]),
    "openai_responses": lambda event: event.get("delta", ""),
    "anthropic": lambda event: (event.get("delta") or {}).get("text", ""),
    "gemini": lambda event: event["candidates"][0]["content"]["parts"][0]["text"],
}
CLIENT_TYPES = {
    "openai_chat": (TypeAdapter(ChatCompletion), TypeAdapter(ChatCompletionChunk)),
    "openai_responses": (TypeAdapter(Response), TypeAdapter(ResponseStreamEvent)),
    "anthropic": (TypeAdapter(Message), TypeAdapter(RawMessageStreamEvent)),
    "gemini": (TypeAdapter(GenerateContentResponse), TypeAdapter(GenerateContentResponse)),
}


def whole(name: str, body: dict) -> bytes:
    return demo.KIND.responder.whole(name, demo.MODEL, json.dumps(body).encode())


def stream(name: str, body: dict) -> bytes:
    return b"".join(demo.KIND.responder.stream(name, demo.MODEL, json.dumps(body).encode()))


def test_the_demo_supports_every_protocol():
    assert set(demo.WRITERS) == set(LOADED) == set(REQUESTS)


@EACH
def test_the_vendors_clients_accept_its_replies_and_streams(name):
    reply_type, event_type = CLIENT_TYPES[name]
    reply_type.validate_json(whole(name, REQUESTS[name]))
    for event in documents(stream(name, REQUESTS[name])):
        event_type.validate_python(event)


@EACH
def test_it_quotes_the_last_user_text_whole_and_word_by_word(name):
    assert TEXTS[name](json.loads(whole(name, REQUESTS[name]))) == REPLY
    words = [word for event in documents(stream(name, REQUESTS[name])) if (word := DELTAS[name](event))]
    assert "".join(words) == REPLY
    assert len(words) == len(REPLY.split())


@EACH
def test_a_word_is_one_token_in_replies_and_streams(name):
    expected = Usage(input_tokens=5, output_tokens=len(REPLY.split()))
    usage, found = LOADED[name].read_whole(whole(name, REQUESTS[name]))
    result = read(LOADED[name], stream(name, REQUESTS[name]), demo.MODEL)
    assert usage == result.stream.usage == expected
    assert bytes(found[LOADED[name].MODEL_FIELD]) == b'"demo-1"'


@EACH
def test_its_streams_have_the_terminal_event_of_their_protocol(name):
    result = read(LOADED[name], stream(name, REQUESTS[name]), demo.MODEL)
    assert result.stream.is_terminal
    assert result.verdicts[-1] in (Verdict.ENDS, Verdict.MAY_END)
    assert result.stream.tail() == b""
    assert result.is_unchanged


@EACH
def test_the_terminal_event_comes_after_the_last_word(name):
    reader = LOADED[name].Stream(b'"demo-1"', request_head())
    body = stream(name, REQUESTS[name])
    whole_text = read(LOADED[name], body).stream.text_bytes
    for data in payloads(body):
        reader.observe(data)
        assert not reader.is_terminal or reader.text_bytes == whole_text


@EACH
def test_the_same_request_gets_the_same_bytes(name):
    assert whole(name, REQUESTS[name]) == whole(name, REQUESTS[name])
    assert stream(name, REQUESTS[name]) == stream(name, REQUESTS[name])


@EACH
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": [], "contents": [], "input": []},
        {"messages": None, "contents": None, "input": None},
        {"messages": 7, "contents": 7, "input": 7},
        {"messages": [7, None, "x", []], "contents": [7], "input": [None]},
        {"messages": [{"role": "user", "content": None}], "input": [{"role": "user", "content": 7}]},
        {"messages": [{"role": {}, "content": "x"}], "contents": [{"role": [], "parts": {}}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
    ],
)
def test_a_malformed_request_gets_a_reply_too(name, body):
    assert TEXTS[name](json.loads(whole(name, body))).startswith("Hello from gproxy!")
    assert read(LOADED[name], stream(name, body)).stream.is_terminal


@EACH
def test_a_request_that_is_nested_too_deeply_to_be_walked_gets_a_reply_too(name):
    deep = b"[" * 5_000 + b"]" * 5_000
    body = b'{"messages": %b, "input": %b, "contents": %b}' % (deep, deep, deep)
    reply = json.loads(demo.KIND.responder.whole(name, demo.MODEL, body))
    assert TEXTS[name](reply) == "Hello from gproxy! You said: something very deep"
    assert read(LOADED[name], b"".join(demo.KIND.responder.stream(name, demo.MODEL, body))).stream.is_terminal


@EACH
def test_a_request_with_a_number_of_thousands_of_digits_gets_a_reply_too(name):
    body = json.dumps(REQUESTS[name]).encode()[:-1] + b', "seed": %b}' % (b"9" * 5_000)
    assert TEXTS[name](json.loads(demo.KIND.responder.whole(name, demo.MODEL, body))) == REPLY


def test_only_the_start_of_a_long_text_is_quoted():
    body = {"messages": [{"role": "user", "content": "word " * 100_000}]}
    assert (
        len(TEXTS["openai_chat"](json.loads(whole("openai_chat", body)))) <= len("Hello from gproxy! You said: ") + 200
    )


def test_the_vendors_client_accepts_its_model():
    (model,) = demo.KIND.responder.models()
    assert Model.model_validate(model).id == demo.MODEL
