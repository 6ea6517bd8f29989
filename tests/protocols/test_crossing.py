"""Every conversation over every pair of protocols, and over each alone: what comes out is what went in.

What a protocol cannot say stands in tests/expected_losses.py, and must be told; nothing else may be missing or told.
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
from gproxy.protocols import repair, signatures, sse
from gproxy.protocols.hub import (
    Answer,
    Delta,
    End,
    Failed,
    Finish,
    Open,
    Reply,
    Signature,
    Start,
    Text,
    Thinking,
    fold,
    unfold,
)
from gproxy.protocols.losses import Losses
from tests.conversations import ASKED, CALL, MODEL, PROVIDER, REPLIES, REQUESTS, context, target
from tests.expected_losses import apply, comparable, replies, requests
from tests.sampled import documents, names, sample, split

LOADED = protocols.load()
EACH = pytest.mark.parametrize("name", LOADED)
PAIRS = pytest.mark.parametrize(("one", "other"), list(itertools.product(LOADED, LOADED)))
CASES = pytest.mark.parametrize("case", REQUESTS)
SHOWN = pytest.mark.parametrize("case", REPLIES)
RULES, WHOLE, STREAMED = requests(LOADED), replies(False), replies(True)
FAULTS = [
    fault
    for fault in vars(errors).values()
    if isinstance(fault, type) and issubclass(fault, GatewayError) and fault.__module__ == errors.__name__
]


def codec(name: str):
    return LOADED[name].CODECS["generate_content"]


def write(name: str, request, losses: Losses | None = None, **more) -> dict:
    """As it goes over the wire."""
    written = codec(name).write_request(request, target(name, **more), losses or Losses())
    return orjson.loads(orjson.dumps(written))


def read(name: str, body: dict):
    losses = Losses()
    request = codec(name).read_request(body, losses)
    assert losses.names() == (), "a reader loses nothing of what our own writer wrote"
    return request


def write_reply(name: str, reply, losses: Losses | None = None) -> dict:
    written = codec(name).write_reply(reply, context(ASKED), losses or Losses())
    return orjson.loads(orjson.dumps(written))


def read_reply(name: str, body: dict):
    return comparable(codec(name).read_reply(body, context(ASKED), Losses()))


def write_stream(name: str, events, losses: Losses | None = None) -> bytes:
    return b"".join(LOADED[name].write_stream(events, context(ASKED), losses or Losses()))


def read_stream(name: str, stream: bytes):
    return LOADED[name].read_stream(documents(stream), context(ASKED), Losses())


def shown(reply, rules):
    left, lost = apply(rules, reply)
    return comparable(left), lost


# -- requests ------------------------------------------------------------------------------------------------------


@EACH
@CASES
def test_a_request_comes_back_as_it_was_written(name, case):
    expected, lost = apply(RULES[name], REQUESTS[case])
    losses = Losses()
    assert read(name, write(name, REQUESTS[case], losses)) == expected
    assert set(losses.names()) == lost


@PAIRS
@CASES
def test_a_request_crosses(one, other, case):
    left, _ = apply(RULES[one], REQUESTS[case])
    expected, lost = apply(RULES[other], left)
    losses = Losses()
    crossed = read(other, write(other, read(one, write(one, REQUESTS[case])), losses))
    assert crossed == expected
    assert set(losses.names()) == lost


@EACH
def test_every_rule_is_needed(name):
    """One that no conversation needs is stale; with one too few, a conversation fails above."""
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
@CASES
def test_reading_and_writing_change_nothing(name, case):
    request, body = REQUESTS[case], write(name, REQUESTS[case])
    before, schemas = copy.deepcopy(body), copy.deepcopy(request)
    read(name, body)
    assert body == before
    codec(name).write_request(request, target(name), Losses())
    assert request == schemas


@PAIRS
@CASES
def test_a_request_is_written_the_same_each_time(one, other, case):
    body = write(one, REQUESTS[case])
    first, second = (orjson.dumps(write(other, read(one, copy.deepcopy(body)))) for _ in range(2))
    assert first == second


@EACH
@CASES
def test_a_stream_is_asked_for_and_nothing_else_changes(name, case):
    whole, streamed = write(name, REQUESTS[case]), write(name, REQUESTS[case], is_stream=True)
    streaming = {"stream": True} if name != "gemini" else {}
    streaming |= {"stream_options": {"include_usage": True}} if name == "openai_chat" else {}
    assert streamed == {**whole, **streaming}


# -- replies -------------------------------------------------------------------------------------------------------


@EACH
@SHOWN
def test_a_reply_comes_back_as_it_was_written(name, case):
    expected, lost = shown(REPLIES[case], WHOLE[name])
    losses = Losses()
    assert read_reply(name, write_reply(name, REPLIES[case], losses)) == expected
    assert set(losses.names()) == lost


@PAIRS
@SHOWN
def test_a_reply_crosses(one, other, case):
    left, _ = shown(REPLIES[case], WHOLE[one])
    expected, lost = shown(left, WHOLE[other])
    losses = Losses()
    vendors = codec(one).read_reply(write_reply(one, REPLIES[case]), context(ASKED), Losses())
    assert read_reply(other, write_reply(other, vendors, losses)) == expected
    assert set(losses.names()) == lost


@PAIRS
@SHOWN
def test_a_stream_crosses(one, other, case):
    left, _ = shown(REPLIES[case], STREAMED[one])
    expected, lost = shown(left, STREAMED[other])
    losses = Losses()
    wire = write_stream(one, unfold(REPLIES[case]))
    crossed = write_stream(other, read_stream(one, wire), losses)
    assert comparable(fold(read_stream(other, crossed))) == expected
    assert set(losses.names()) == lost


# Whole, they are an object; in pieces they pass as the model wrote them.
SPELT_IN_PIECES = ("broken arguments", "arguments that are a list")


@PAIRS
@pytest.mark.parametrize("case", [case for case in REPLIES if case not in SPELT_IN_PIECES])
def test_a_stream_says_what_the_whole_reply_says(one, other, case):
    vendors = codec(one).read_reply(write_reply(one, REPLIES[case]), context(ASKED), Losses())
    streamed = read_stream(one, write_stream(one, unfold(REPLIES[case])))
    whole = read_reply(other, write_reply(other, vendors))
    assert comparable(fold(read_stream(other, write_stream(other, streamed)))) == whole


# What a vendor signed, as its protocol's reader keeps it.
OWN = {
    "anthropic": (Thinking("hm", Signature(PROVIDER, "thinking:U0lH")), CALL),
    "openai_responses": (Thinking("hm", Signature(PROVIDER, "rs_1:U0lH")), CALL),
    "openai_chat": (
        Thinking("hm", Signature(PROVIDER, '[{"type":"reasoning.text","text":"hm","signature":"U0lH"}]')),
        CALL,
    ),
    "gemini": (Text("I look."), replace(CALL, signature=Signature(PROVIDER, "U0lH"))),
}
SECRET = {
    "anthropic": (Thinking("", Signature(PROVIDER, "redacted:U0lH")), Text("I look."), CALL),
    "openai_responses": (Thinking("", Signature(PROVIDER, "rs_1:U0lH")), Text("I look."), CALL),
    "openai_chat": (
        Thinking("", Signature(PROVIDER, '[{"type":"reasoning.encrypted","data":"U0lH"}]')),
        Text("I look."),
        CALL,
    ),
    "gemini": (Thinking("", Signature(PROVIDER, "U0lH")), Text("I look."), CALL),
}


def echoed(client: str, body: dict) -> dict:
    """The client's next request: it sends the reply back as it came, and the result of its call."""
    match client:
        case "openai_chat":
            answer = {"role": "tool", "tool_call_id": CALL.id, "content": "42"}
            return {"messages": [{"role": "user", "content": "q"}, body["choices"][0]["message"], answer]}
        case "openai_responses":
            answer = {"type": "function_call_output", "call_id": CALL.id, "output": "42"}
            return {"input": [{"role": "user", "content": "q"}, *body["output"], answer]}
        case "anthropic":
            answer = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": CALL.id, "content": "42"}]}
            said = {"role": "assistant", "content": body["content"]}
            return {"max_tokens": 99, "messages": [{"role": "user", "content": "q"}, said, answer]}
    part = {"functionResponse": {"id": CALL.id, "name": CALL.name, "response": {"output": "42"}}}
    return {
        "contents": [
            {"role": "user", "parts": [{"text": "q"}]},
            body["candidates"][0]["content"],
            {"role": "user", "parts": [part]},
        ]
    }


@PAIRS
@pytest.mark.parametrize("signed", [OWN, SECRET], ids=["own", "secret"])
def test_what_a_vendor_signed_comes_back_to_it_and_to_no_other(one, other, signed):
    """Through a client that echoes what it got; `one` is the client's protocol and `other` the vendor's."""
    reply = Reply("resp_1", MODEL, (Answer(signed[other], "tools"),))
    request = read(one, echoed(one, write_reply(one, reply)))
    back = json.dumps(write(other, request))
    assert "U0lH" in back
    assert signatures.WRAPPED_PREFIX not in back
    losses = Losses()
    elsewhere = json.dumps(codec(other).write_request(request, replace(target(other), provider="else"), losses))
    assert "U0lH" not in elsewhere
    assert signatures.WRAPPED_PREFIX not in elsewhere
    assert {"thinking", "signature"} & set(losses.names())
    for name in LOADED:
        assert signatures.WRAPPED_PREFIX not in json.dumps(codec(name).write_request(request, target(name), Losses()))


@EACH
@CASES
def test_a_placeholder_stands_only_where_a_result_has_lost_its_call(name, case):
    told = json.dumps(write(name, REQUESTS[case]), ensure_ascii=False)
    assert (repair.PLACEHOLDER_TOOL in told) is (case == "result without a call")


@PAIRS
@SHOWN
def test_a_reply_is_written_the_same_each_time(one, other, case):
    whole = write_reply(one, REPLIES[case])
    stream = write_stream(one, unfold(REPLIES[case]))
    before = copy.deepcopy(whole)
    twice = [
        (
            orjson.dumps(write_reply(other, codec(one).read_reply(whole, context(ASKED), Losses()))),
            write_stream(other, read_stream(one, stream)),
        )
        for _ in range(2)
    ]
    assert twice[0] == twice[1]
    assert whole == before
    payloads = documents(stream)
    list(LOADED[one].read_stream(payloads, context(ASKED), Losses()))
    assert payloads == documents(stream)


@EACH
@SHOWN
def test_a_reply_names_the_model_as_the_client_did(name, case):
    reply = replace(REPLIES[case], model="a-vendors-own-name")
    told = json.dumps(write_reply(name, reply)) + write_stream(name, unfold(reply)).decode()
    assert "a-vendors-own-name" not in told
    assert "shown-model" in told


@EACH
def test_a_stream_that_fails_ends_in_the_clients_own_error(name):
    events = [Start("resp_1", "m"), Open(0, Text("")), Delta(0, "It"), Failed(502, "upstream_error", 'a "cut" \u2028')]
    stream = write_stream(name, events)
    failed = list(read_stream(name, stream))[-1]
    assert isinstance(failed, Failed)
    assert failed.message == 'a "cut" \u2028'
    assert b"[DONE]" not in stream
    assert all(word not in stream for word in (b"message_stop", b"response.completed", b"finishReason"))
    with pytest.raises(ValueError, match="cut"):
        fold(read_stream(name, stream))


@EACH
def test_a_stream_that_fails_before_it_began_is_still_an_error(name):
    (failed,) = read_stream(name, write_stream(name, [Failed(503, "overloaded", "later")]))
    assert failed.status >= 500
    assert failed.message == "later"


@EACH
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_an_error_of_one_protocol_can_be_read_and_told_in_any(name, fault):
    told = fault("what went wrong")
    body = json.loads(LOADED[name].write_error(told.status, told.code, told.message, "req_1"))
    status, code, message = LOADED[name].read_error(told.status, body)
    assert (status, message) == (told.status, told.message)
    for other in LOADED.values():
        again = json.loads(other.write_error(status, code, message, "req_1"))
        assert other.read_error(status, again)[2] == told.message


@EACH
@pytest.mark.parametrize(
    "body", [{}, {"error": None}, {"error": {}}, {"error": 7}, {"error": {"message": 7}}, {"detail": "x"}]
)
def test_what_is_no_error_of_the_protocol_is_none(name, body):
    assert LOADED[name].read_error(500, body) is None


@EACH
def test_nothing_arrives_as_nothing(name):
    """None says that a stream waits: it goes through, as no bytes."""
    wire = documents(write_stream(name, unfold(REPLIES["tool call"])))
    waiting = [None, *itertools.chain.from_iterable((document, None) for document in wire)]
    events = list(LOADED[name].read_stream(waiting, context(ASKED), Losses()))
    assert events.count(None) >= len(wire) - 1
    assert fold(event for event in events if event is not None) == fold(
        read_stream(name, write_stream(name, unfold(REPLIES["tool call"])))
    )
    for other in LOADED.values():
        pieces = list(other.write_stream(events, context(ASKED), Losses()))
        assert pieces.count(b"") >= events.count(None)


@EACH
def test_every_written_event_is_one_whole_event(name):
    for reply in REPLIES.values():
        for piece in LOADED[name].write_stream(unfold(reply), context(ASKED), Losses()):
            assert sse.Splitter().feed(piece) == split(piece)
            for event in split(piece):
                data = sse.data_of(event)
                assert data == b"[DONE]" or isinstance(json.loads(data), dict)


@EACH
@pytest.mark.parametrize("stream", ["text.sse", "tool_call.sse", "parallel_tools.sse", "thinking.sse"])
def test_a_vendors_stream_ends_in_every_protocol(name, stream):
    losses = Losses()
    events = list(LOADED[name].read_stream(documents(sample(name, stream)), context(), losses))
    assert sum(isinstance(event, Finish) for event in events) == 1
    assert isinstance(events[-1], End)
    assert losses.names() == ()
    for other in LOADED:
        assert isinstance(list(read_stream(other, write_stream(other, events)))[-1], End)


def test_every_protocol_has_samples():
    assert all(names(name, ".sse") for name in LOADED)


# -- the worked examples of the specification, and its traps -------------------------------------------------------


def sent(client: str, body: dict, vendor: str, **more) -> dict:
    """What a client's body becomes for a vendor."""
    request = codec(client).read_request(body, Losses())
    return codec(vendor).write_request(request, replace(target(vendor), **more), Losses())


RESULT_ONLY = {"input": [{"type": "function_call_output", "call_id": "c1", "output": "42"}]}


def test_a_result_whose_call_is_gone_gets_one():
    """19.6"""
    messages = sent("openai_responses", RESULT_ONLY, "anthropic")["messages"]
    opening, call, answer = messages
    assert opening["role"] == "user"
    assert call == {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "c1", "name": "tool_use_placeholder", "input": {}}],
    }
    assert answer == {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "42"}]}
    calls, results = sent("openai_responses", RESULT_ONLY, "openai_chat")["messages"]
    assert calls["tool_calls"][0]["id"] == results["tool_call_id"] == "c1"


def test_a_tool_turn_of_messages_to_chat():
    """19.7"""
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
    assert sent("anthropic", body, "openai_chat")["messages"] == [
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


def test_results_stand_in_one_message_before_any_text():
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
    *_, last = sent("openai_chat", body, "anthropic")["messages"]
    assert [block["type"] for block in last["content"]] == ["tool_result", "tool_result", "text"]
    assert {block["tool_use_id"] for block in last["content"][:2]} == {"a", "b"}


def test_neighbours_of_one_role_and_empty_texts_become_one_message():
    body = chat(("user", "a"), ("user", "  "), ("user", "b"), ("assistant", ""), ("user", "c"))
    assert sent("openai_chat", body, "anthropic")["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": text} for text in "abc"]}
    ]


def test_foreign_ids_are_made_legal_the_same_way_each_time_and_never_collide():
    ids = ["call:1", "call.1", "call 1", "call_1", "call-1", "x" * 200, "x" * 201, "", "🗼"]
    made = [LOADED["anthropic"].client_call_id(one) for one in ids]
    assert made == [LOADED["anthropic"].client_call_id(one) for one in ids]
    assert len(set(made)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", one) for one in made)
    assert made[3:5] == ids[3:5]


def test_gemini_gets_a_signature_or_the_word_for_none_with_the_first_call_of_each_turn():
    body = write("openai_chat", REQUESTS["parallel tools"])
    contents = sent("openai_chat", body, "gemini", traits=frozenset(("signatures",)))["contents"]
    calls = [part for content in contents for part in content["parts"] if "functionCall" in part]
    assert [part.get("thoughtSignature") for part in calls] == [signatures.SKIP_VALIDATOR, None, None]
    results = [part for content in contents for part in content["parts"] if "functionResponse" in part]
    assert [part["functionResponse"]["name"] for part in results] == ["f", "g", "f"]
    assert [content["role"] for content in contents] == ["user", "model", "user"]


def test_gemini_gets_no_search_beside_functions_and_no_tool_config_without_them():
    both = sent("openai_responses", write("openai_responses", REQUESTS["search beside functions"]), "gemini")
    assert [list(tool) for tool in both["tools"]] == [["functionDeclarations"]]
    alone = sent("openai_responses", write("openai_responses", REQUESTS["search and a choice"]), "gemini")
    assert alone["tools"] == [{"googleSearch": {}}]
    assert "toolConfig" not in alone


def test_gemini_contents_without_a_role_are_the_users_and_get_one():
    body = {"contents": [{"parts": [{"text": "q"}]}], "system_instruction": {"parts": [{"text": "s"}]}}
    assert sent("gemini", body, "gemini")["contents"] == [{"role": "user", "parts": [{"text": "q"}]}]
    assert sent("gemini", body, "openai_chat")["messages"][0] == {"role": "system", "content": "s"}


def test_gemini_calls_without_ids_are_paired_by_name_and_order():
    def called(name: str, **args) -> dict:
        return {"functionCall": {"name": name, "args": args}}

    def returned(name: str, text: str) -> dict:
        return {"functionResponse": {"name": name, "response": {"result": text}}}

    body = {
        "contents": [
            {"role": "user", "parts": [{"text": "q"}]},
            {"role": "model", "parts": [called("f", a=1), called("g"), called("f", a=2)]},
            {"role": "user", "parts": [returned("g", "G"), returned("f", "1"), returned("f", "2")]},
            {"role": "model", "parts": [called("f", a=3)]},
            {"role": "user", "parts": [returned("f", "3")]},
        ]
    }
    messages = sent("gemini", body, "openai_chat")["messages"]
    names = {
        call["id"]: call["function"]["arguments"] for message in messages for call in message.get("tool_calls", ())
    }
    assert len(names) == 4
    told = [(names[m["tool_call_id"]], m["content"]) for m in messages if m["role"] == "tool"]
    assert sorted(told) == [('{"a":1}', "1"), ('{"a":2}', "2"), ('{"a":3}', "3"), ("{}", "G")]


def test_structured_output_for_messages_requires_all_and_allows_nothing_else():
    body = write("openai_chat", REQUESTS["structured with an optional"])
    schema = sent("openai_chat", body, "anthropic")["output_config"]["format"]["schema"]
    assert schema["additionalProperties"] is False
    assert sorted(schema["required"]) == ["a", "b"]
