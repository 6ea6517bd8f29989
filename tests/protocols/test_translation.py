"""Requests and replies translated through each protocol and through every pair: the value at the end is the first one.

Differences are allowed only where tests/expected_losses.py lists them, and must be reported as it states.
"""

import copy
import itertools
import json
import re
from dataclasses import replace

import orjson
import pytest

from gproxy import errors, protocols
from gproxy.errors import GatewayError
from gproxy.protocols import hub, repair, signatures, sse
from gproxy.protocols.losses import Losses
from tests.conversations import CALL, MODEL, PROVIDER, REPLIES, REQUEST_WITH_TOOLS, REQUESTS, context, target
from tests.expected_losses import apply, comparable, replies, requests
from tests.sampled import documents, names, sample, split

LOADED = protocols.load()
EACH = pytest.mark.parametrize("name", LOADED)
PAIRS = pytest.mark.parametrize(("one", "other"), list(itertools.product(LOADED, LOADED)))
REQUEST_CASES = pytest.mark.parametrize("case", REQUESTS)
REPLY_CASES = pytest.mark.parametrize("case", REPLIES)
RULES, WHOLE, STREAMED = requests(LOADED), replies(False), replies(True)
ERRORS = [
    fault
    for fault in vars(errors).values()
    if isinstance(fault, type) and issubclass(fault, GatewayError) and fault.__module__ == errors.__name__
]


def codec(name: str):
    return LOADED[name].CODECS["generate_content"]


def write(name: str, request, losses: Losses | None = None, **more) -> dict:
    """Returns the request as the JSON body that is sent."""
    written = codec(name).write_request(request, target(name, **more), losses or Losses())
    return orjson.loads(orjson.dumps(written))


def read(name: str, body: dict):
    losses = Losses()
    request = codec(name).read_request(body, losses)
    assert losses.names() == (), "a reader loses no field that our own writer wrote"
    return request


def write_reply(name: str, reply, losses: Losses | None = None) -> dict:
    written = codec(name).write_reply(reply, context(REQUEST_WITH_TOOLS), losses or Losses())
    return orjson.loads(orjson.dumps(written))


def read_reply(name: str, body: dict):
    return comparable(codec(name).read_reply(body, context(REQUEST_WITH_TOOLS), Losses()))


def write_stream(name: str, events, losses: Losses | None = None) -> bytes:
    return b"".join(LOADED[name].write_stream(events, context(REQUEST_WITH_TOOLS), losses or Losses()))


def read_stream(name: str, stream: bytes):
    return LOADED[name].read_stream(documents(stream), context(REQUEST_WITH_TOOLS), Losses())


def expected_reply(reply, rules):
    changed, lost = apply(rules, reply)
    return comparable(changed), lost


# -- requests ------------------------------------------------------------------------------------------------------


@EACH
@REQUEST_CASES
def test_a_request_is_read_back_as_it_was_written(name, case):
    expected, lost = apply(RULES[name], REQUESTS[case])
    losses = Losses()
    assert read(name, write(name, REQUESTS[case], losses)) == expected
    assert set(losses.names()) == lost


@PAIRS
@REQUEST_CASES
def test_a_request_is_translated_between_two_protocols(one, other, case):
    changed, _ = apply(RULES[one], REQUESTS[case])
    expected, lost = apply(RULES[other], changed)
    losses = Losses()
    translated_request = read(other, write(other, read(one, write(one, REQUESTS[case])), losses))
    assert translated_request == expected
    assert set(losses.names()) == lost


@EACH
def test_every_rule_is_needed(name):
    """A rule that no request needs is stale; a missing rule fails a test above."""
    needed = set()
    for request in REQUESTS.values():
        for at, rule in enumerate(RULES[name]):
            changed = rule.change(request)
            needed |= {at} if changed != request or (rule.when and rule.when(request)) else set()
            request = changed
    stale = [rule for at, rule in enumerate(RULES[name]) if at not in needed and rule.loss not in MEDIA]
    assert "\n".join(f"{RULES[name].index(rule)} {rule.loss}: {rule.why}" for rule in stale) == ""


MEDIA = ("image", "file", "audio", "video")


@EACH
@REQUEST_CASES
def test_reading_and_writing_change_nothing(name, case):
    request, body = REQUESTS[case], write(name, REQUESTS[case])
    body_before, request_before = copy.deepcopy(body), copy.deepcopy(request)
    read(name, body)
    assert body == body_before
    codec(name).write_request(request, target(name), Losses())
    assert request == request_before


@PAIRS
@REQUEST_CASES
def test_a_request_is_written_the_same_each_time(one, other, case):
    body = write(one, REQUESTS[case])
    first, second = (orjson.dumps(write(other, read(one, copy.deepcopy(body)))) for _ in range(2))
    assert first == second


@EACH
@REQUEST_CASES
def test_a_streaming_request_differs_only_in_its_stream_fields(name, case):
    whole, streamed = write(name, REQUESTS[case]), write(name, REQUESTS[case], is_stream=True)
    streaming = {"stream": True} if name != "gemini" else {}
    streaming |= {"stream_options": {"include_usage": True}} if name == "openai_chat" else {}
    assert streamed == {**whole, **streaming}


# -- replies -------------------------------------------------------------------------------------------------------


@EACH
@REPLY_CASES
def test_a_reply_is_read_back_as_it_was_written(name, case):
    expected, lost = expected_reply(REPLIES[case], WHOLE[name])
    losses = Losses()
    assert read_reply(name, write_reply(name, REPLIES[case], losses)) == expected
    assert set(losses.names()) == lost


@PAIRS
@REPLY_CASES
def test_a_reply_is_translated_between_two_protocols(one, other, case):
    changed, _ = expected_reply(REPLIES[case], WHOLE[one])
    expected, lost = expected_reply(changed, WHOLE[other])
    losses = Losses()
    reply = codec(one).read_reply(write_reply(one, REPLIES[case]), context(REQUEST_WITH_TOOLS), Losses())
    assert read_reply(other, write_reply(other, reply, losses)) == expected
    assert set(losses.names()) == lost


@PAIRS
@REPLY_CASES
def test_a_stream_is_translated_between_two_protocols(one, other, case):
    changed, _ = expected_reply(REPLIES[case], STREAMED[one])
    expected, lost = expected_reply(changed, STREAMED[other])
    losses = Losses()
    stream = write_stream(one, hub.unfold(REPLIES[case]))
    translated_stream = write_stream(other, read_stream(one, stream), losses)
    assert comparable(hub.fold(read_stream(other, translated_stream))) == expected
    assert set(losses.names()) == lost


# A whole reply has them as an object, a stream in the spelling of the model.
INVALID_ARGUMENTS = ("broken arguments", "arguments that are a list")


@PAIRS
@pytest.mark.parametrize("case", [case for case in REPLIES if case not in INVALID_ARGUMENTS])
def test_a_translated_stream_equals_the_translated_whole_reply(one, other, case):
    reply = codec(one).read_reply(write_reply(one, REPLIES[case]), context(REQUEST_WITH_TOOLS), Losses())
    streamed = read_stream(one, write_stream(one, hub.unfold(REPLIES[case])))
    whole = read_reply(other, write_reply(other, reply))
    assert comparable(hub.fold(read_stream(other, write_stream(other, streamed)))) == whole


# Blocks with signatures, as the reader of each protocol writes them into the hub.
SIGNED = {
    "anthropic": (hub.Thinking("hm", hub.Signature(PROVIDER, "thinking:U0lH")), CALL),
    "openai_responses": (hub.Thinking("hm", hub.Signature(PROVIDER, "rs_1:U0lH")), CALL),
    "openai_chat": (
        hub.Thinking("hm", hub.Signature(PROVIDER, '[{"type":"reasoning.text","text":"hm","signature":"U0lH"}]')),
        CALL,
    ),
    "gemini": (hub.Text("I look."), replace(CALL, signature=hub.Signature(PROVIDER, "U0lH"))),
}
SIGNED_REDACTED = {
    "anthropic": (hub.Thinking("", hub.Signature(PROVIDER, "redacted:U0lH")), hub.Text("I look."), CALL),
    "openai_responses": (hub.Thinking("", hub.Signature(PROVIDER, "rs_1:U0lH")), hub.Text("I look."), CALL),
    "openai_chat": (
        hub.Thinking("", hub.Signature(PROVIDER, '[{"type":"reasoning.encrypted","data":"U0lH"}]')),
        hub.Text("I look."),
        CALL,
    ),
    "gemini": (hub.Thinking("", hub.Signature(PROVIDER, "U0lH")), hub.Text("I look."), CALL),
}


def next_request(client: str, body: dict) -> dict:
    """Returns the client's next request: the reply as it was received, and the result of its call."""
    match client:
        case "openai_chat":
            result = {"role": "tool", "tool_call_id": CALL.id, "content": "42"}
            return {"messages": [{"role": "user", "content": "q"}, body["choices"][0]["message"], result]}
        case "openai_responses":
            result = {"type": "function_call_output", "call_id": CALL.id, "output": "42"}
            return {"input": [{"role": "user", "content": "q"}, *body["output"], result]}
        case "anthropic":
            result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": CALL.id, "content": "42"}]}
            assistant = {"role": "assistant", "content": body["content"]}
            return {"max_tokens": 99, "messages": [{"role": "user", "content": "q"}, assistant, result]}
    part = {"functionResponse": {"id": CALL.id, "name": CALL.name, "response": {"output": "42"}}}
    return {
        "contents": [
            {"role": "user", "parts": [{"text": "q"}]},
            body["candidates"][0]["content"],
            {"role": "user", "parts": [part]},
        ]
    }


@PAIRS
@pytest.mark.parametrize("blocks_by_protocol", [SIGNED, SIGNED_REDACTED], ids=["own", "secret"])
def test_a_signature_returns_to_its_vendor_and_to_no_other(one, other, blocks_by_protocol):
    """The client echoes the reply; `one` is the client's protocol, `other` the vendor's."""
    reply = hub.Reply("resp_1", MODEL, (hub.Answer(blocks_by_protocol[other], "tools"),))
    request = read(one, next_request(one, write_reply(one, reply)))
    returned = json.dumps(write(other, request))
    assert "U0lH" in returned
    assert signatures.WRAPPED_PREFIX not in returned
    losses = Losses()
    elsewhere = json.dumps(codec(other).write_request(request, replace(target(other), provider="another"), losses))
    assert "U0lH" not in elsewhere
    assert signatures.WRAPPED_PREFIX not in elsewhere
    assert {"thinking", "signature"} & set(losses.names())
    for name in LOADED:
        assert signatures.WRAPPED_PREFIX not in json.dumps(codec(name).write_request(request, target(name), Losses()))


@EACH
@REQUEST_CASES
def test_only_a_result_without_a_call_gets_a_placeholder_call(name, case):
    body = json.dumps(write(name, REQUESTS[case]), ensure_ascii=False)
    assert (repair.PLACEHOLDER_TOOL in body) is (case == "result without a call")


@PAIRS
@REPLY_CASES
def test_a_reply_is_written_the_same_each_time(one, other, case):
    whole = write_reply(one, REPLIES[case])
    stream = write_stream(one, hub.unfold(REPLIES[case]))
    before = copy.deepcopy(whole)
    twice = [
        (
            orjson.dumps(write_reply(other, codec(one).read_reply(whole, context(REQUEST_WITH_TOOLS), Losses()))),
            write_stream(other, read_stream(one, stream)),
        )
        for _ in range(2)
    ]
    assert twice[0] == twice[1]
    assert whole == before
    payloads = documents(stream)
    list(LOADED[one].read_stream(payloads, context(REQUEST_WITH_TOOLS), Losses()))
    assert payloads == documents(stream)


@EACH
@REPLY_CASES
def test_a_reply_has_the_model_name_that_the_client_sent(name, case):
    reply = replace(REPLIES[case], model="a-vendors-own-name")
    written = json.dumps(write_reply(name, reply)) + write_stream(name, hub.unfold(reply)).decode()
    assert "a-vendors-own-name" not in written
    assert "client-model" in written


@EACH
def test_a_failed_stream_ends_with_an_error_event_of_the_clients_protocol(name):
    events = [
        hub.Start("resp_1", "m"),
        hub.Open(0, hub.Text("")),
        hub.Delta(0, "It"),
        hub.Failed(502, "upstream_error", 'a "cut" \u2028'),
    ]
    stream = write_stream(name, events)
    failed = list(read_stream(name, stream))[-1]
    assert isinstance(failed, hub.Failed)
    assert failed.message == 'a "cut" \u2028'
    assert b"[DONE]" not in stream
    assert all(word not in stream for word in (b"message_stop", b"response.completed", b"finishReason"))
    with pytest.raises(ValueError, match="cut"):
        hub.fold(read_stream(name, stream))


@EACH
def test_a_stream_that_fails_before_its_start_is_an_error_event(name):
    (failed,) = read_stream(name, write_stream(name, [hub.Failed(503, "overloaded", "later")]))
    assert failed.status >= 500
    assert failed.message == "later"


@EACH
@pytest.mark.parametrize("error_type", ERRORS, ids=lambda error_type: error_type.__name__)
def test_an_error_of_one_protocol_can_be_written_in_every_other(name, error_type):
    error = error_type("the reason")
    body = json.loads(LOADED[name].write_error(error.status, error.code, error.message, "req_1"))
    status, code, message = LOADED[name].read_error(error.status, body)
    assert (status, message) == (error.status, error.message)
    for other in LOADED.values():
        again = json.loads(other.write_error(status, code, message, "req_1"))
        assert other.read_error(status, again)[2] == error.message


@EACH
@pytest.mark.parametrize(
    "body", [{}, {"error": None}, {"error": {}}, {"error": 7}, {"error": {"message": 7}}, {"detail": "x"}]
)
def test_a_body_that_is_not_an_error_reads_as_none(name, body):
    assert LOADED[name].read_error(500, body) is None


@EACH
def test_a_waiting_stream_is_passed_on_as_no_bytes(name):
    """None among the events means that the stream waits."""
    payloads = documents(write_stream(name, hub.unfold(REPLIES["tool call"])))
    waiting = [None, *itertools.chain.from_iterable((document, None) for document in payloads)]
    events = list(LOADED[name].read_stream(waiting, context(REQUEST_WITH_TOOLS), Losses()))
    assert events.count(None) >= len(payloads) - 1
    assert hub.fold(event for event in events if event is not None) == hub.fold(
        read_stream(name, write_stream(name, hub.unfold(REPLIES["tool call"])))
    )
    for other in LOADED.values():
        pieces = list(other.write_stream(events, context(REQUEST_WITH_TOOLS), Losses()))
        assert pieces.count(b"") >= events.count(None)


@EACH
def test_every_written_piece_consists_of_complete_events(name):
    for reply in REPLIES.values():
        for piece in LOADED[name].write_stream(hub.unfold(reply), context(REQUEST_WITH_TOOLS), Losses()):
            assert sse.Splitter().feed(piece) == split(piece)
            for event in split(piece):
                data = sse.data_of(event)
                assert data == b"[DONE]" or isinstance(json.loads(data), dict)


@EACH
@pytest.mark.parametrize("stream", ["text.sse", "tool_call.sse", "parallel_tools.sse", "thinking.sse"])
def test_a_sample_stream_ends_in_every_protocol(name, stream):
    losses = Losses()
    events = list(LOADED[name].read_stream(documents(sample(name, stream)), context(), losses))
    assert sum(isinstance(event, hub.Finish) for event in events) == 1
    assert isinstance(events[-1], hub.End)
    assert losses.names() == ()
    for other in LOADED:
        assert isinstance(list(read_stream(other, write_stream(other, events)))[-1], hub.End)


def test_every_protocol_has_samples():
    assert all(names(name, ".sse") for name in LOADED)


# -- worked examples -----------------------------------------------------------------------------------------------


def translated(client: str, body: dict, vendor: str, **more) -> dict:
    """Returns the vendor's body for a client's body."""
    request = codec(client).read_request(body, Losses())
    return codec(vendor).write_request(request, replace(target(vendor), **more), Losses())


RESULT_ONLY = {"input": [{"type": "function_call_output", "call_id": "c1", "output": "42"}]}


def test_a_result_without_a_call_gets_a_placeholder_call():
    messages = translated("openai_responses", RESULT_ONLY, "anthropic")["messages"]
    first, call, result = messages
    assert first["role"] == "user"
    assert call == {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "c1", "name": "tool_use_placeholder", "input": {}}],
    }
    assert result == {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "42"}]}
    calls, results = translated("openai_responses", RESULT_ONLY, "openai_chat")["messages"]
    assert calls["tool_calls"][0]["id"] == results["tool_call_id"] == "c1"


def test_tool_calls_and_results_of_messages_become_chat_messages():
    png = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    body = {
        "max_tokens": 9,
        "messages": [
            {"role": "user", "content": "q"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "let me see"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                    {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "A"},
                    {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "B"}, png]},
                    {"type": "text", "text": "go on"},
                ],
            },
        ],
    }
    assert translated("anthropic", body, "openai_chat")["messages"] == [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "let me see",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                {"id": "t2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "A"},
        {"role": "tool", "tool_call_id": "t2", "content": "B"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "text", "text": "go on"},
            ],
        },
    ]


def chat(*messages, **more) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in messages], **more}


def test_results_are_in_one_message_before_any_text():
    calls = [{"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in ("a", "b")]
    body = {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "b", "content": "B"},
            {"role": "user", "content": "so?"},
            {"role": "tool", "tool_call_id": "a", "content": "A"},
        ]
    }
    *_, last = translated("openai_chat", body, "anthropic")["messages"]
    assert [block["type"] for block in last["content"]] == ["tool_result", "tool_result", "text"]
    assert {block["tool_use_id"] for block in last["content"][:2]} == {"a", "b"}


def test_adjacent_messages_of_one_role_are_merged_without_empty_texts():
    body = chat(("user", "a"), ("user", "  "), ("user", "b"), ("assistant", ""), ("user", "c"))
    assert translated("openai_chat", body, "anthropic")["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": text} for text in "abc"]}
    ]


def test_illegal_ids_become_legal_deterministically_and_without_collisions():
    ids = ["call:1", "call.1", "call 1", "call_1", "call-1", "x" * 200, "x" * 201, "", "🗼"]
    legal = [LOADED["anthropic"].client_call_id(original) for original in ids]
    assert legal == [LOADED["anthropic"].client_call_id(original) for original in ids]
    assert len(set(legal)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", original) for original in legal)
    assert legal[3:5] == ids[3:5]


def test_gemini_gets_a_signature_or_the_skip_value_on_the_first_call_of_each_turn():
    body = write("openai_chat", REQUESTS["parallel tools"])
    contents = translated("openai_chat", body, "gemini", traits=frozenset(("signatures",)))["contents"]
    calls = [part for content in contents for part in content["parts"] if "functionCall" in part]
    assert [part.get("thoughtSignature") for part in calls] == [signatures.SKIP_VALIDATOR, None, None]
    results = [part for content in contents for part in content["parts"] if "functionResponse" in part]
    assert [part["functionResponse"]["name"] for part in results] == ["f", "g", "f"]
    assert [content["role"] for content in contents] == ["user", "model", "user"]


def test_gemini_gets_no_search_beside_functions_and_no_tool_config_without_them():
    both = translated("openai_responses", write("openai_responses", REQUESTS["search beside functions"]), "gemini")
    assert [list(tool) for tool in both["tools"]] == [["functionDeclarations"]]
    alone = translated("openai_responses", write("openai_responses", REQUESTS["search and a choice"]), "gemini")
    assert alone["tools"] == [{"googleSearch": {}}]
    assert "toolConfig" not in alone


def test_gemini_contents_without_a_role_get_the_role_user():
    body = {"contents": [{"parts": [{"text": "q"}]}], "system_instruction": {"parts": [{"text": "s"}]}}
    assert translated("gemini", body, "gemini")["contents"] == [{"role": "user", "parts": [{"text": "q"}]}]
    assert translated("gemini", body, "openai_chat")["messages"][0] == {"role": "system", "content": "s"}


def test_gemini_calls_without_ids_are_paired_by_name_and_order():
    def call(name: str, **args) -> dict:
        return {"functionCall": {"name": name, "args": args}}

    def result(name: str, text: str) -> dict:
        return {"functionResponse": {"name": name, "response": {"result": text}}}

    body = {
        "contents": [
            {"role": "user", "parts": [{"text": "q"}]},
            {"role": "model", "parts": [call("f", a=1), call("g"), call("f", a=2)]},
            {"role": "user", "parts": [result("g", "G"), result("f", "1"), result("f", "2")]},
            {"role": "model", "parts": [call("f", a=3)]},
            {"role": "user", "parts": [result("f", "3")]},
        ]
    }
    messages = translated("gemini", body, "openai_chat")["messages"]
    arguments = {
        tool_call["id"]: tool_call["function"]["arguments"]
        for message in messages
        for tool_call in message.get("tool_calls", ())
    }
    assert len(arguments) == 4
    results = [(arguments[m["tool_call_id"]], m["content"]) for m in messages if m["role"] == "tool"]
    assert sorted(results) == [('{"a":1}', "1"), ('{"a":2}', "2"), ('{"a":3}', "3"), ("{}", "G")]


def test_structured_output_for_messages_requires_all_properties_and_allows_no_others():
    body = write("openai_chat", REQUESTS["structured with an optional"])
    schema = translated("openai_chat", body, "anthropic")["output_config"]["format"]["schema"]
    assert schema["additionalProperties"] is False
    assert sorted(schema["required"]) == ["a", "b"]
