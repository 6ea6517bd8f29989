"""OpenAI Responses in the same-protocol lane: request heads, streams, usage and errors."""

import copy
import json

import httpx2
import openai
import pytest
from openai.types.responses import Response, ResponseFailedEvent, ResponseStreamEvent
from pydantic import TypeAdapter

from gproxy.protocols.hub import Signature, Usage
from gproxy.protocols.openai_responses import passthrough
from gproxy.protocols.signatures import wrap
from gproxy.protocols.verdict import Verdict
from tests.sampled import documents, names, payloads, read, request_head, sample

CLIENT = openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9/v1")
REQUEST = httpx2.Request("POST", "http://127.0.0.1:9/v1/responses")
EVENT = TypeAdapter(ResponseStreamEvent)


@pytest.mark.parametrize("name", names("openai_responses", ".sse"))
def test_the_vendors_client_reads_the_sample_streams(name):
    for document in documents(sample("openai_responses", name)):
        if document["type"] != "keepalive":
            EVENT.validate_python(document)


def test_the_vendors_client_reads_the_sample_reply():
    Response.model_validate_json(sample("openai_responses", "reply.json"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"model": "a", "input": "hi"}, ("a", False, True, None)),
        ({"model": "a", "stream": True, "user": "u-1"}, ("a", True, True, "u-1")),
        ({"model": "a", "stream": 1, "user": {"id": 1}}, ("a", False, True, None)),
        ({"input": []}, (None, False, True, None)),
    ],
)
def test_the_head_of_a_request_is_read(body, expected):
    assert passthrough.read_head(json.dumps(body).encode())[:4] == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ("", None, 1)),
        ({"service_tier": "flex", "max_output_tokens": 7}, ("flex", 7, 1)),
        ({"service_tier": "ultrafast", "max_tokens": 7, "n": 3}, ("priority", None, 1)),
        ({"service_tier": "auto", "max_output_tokens": None}, ("", None, 1)),
        ({"service_tier": {}, "max_output_tokens": "7"}, ("", None, 1)),
    ],
)
def test_the_mode_and_the_output_limit_of_a_request_are_read(body, expected):
    head = passthrough.read_head(json.dumps(body).encode())
    assert (head.mode, head.max_output, head.choices) == expected


@pytest.mark.parametrize("is_stream", [True, False])
def test_usage_is_not_requested_since_every_response_has_it(is_stream):
    body = json.dumps({"model": "a", "stream": is_stream}).encode()
    assert passthrough.outgoing(passthrough.read_head(body), body, "a") is body


@pytest.mark.parametrize(
    ("name", "last", "has_failed", "verdict"),
    [
        ("text.sse", "response.completed", False, Verdict.ENDS),
        ("completed_with_empty_output.sse", "response.completed", False, Verdict.ENDS),
        ("tool_call.sse", "response.completed", False, Verdict.ENDS),
        ("thinking.sse", "response.completed", False, Verdict.ENDS),
        ("keepalive.sse", "response.completed", False, Verdict.ENDS),
        ("crlf.sse", "response.completed", False, Verdict.ENDS),
        ("incomplete.sse", "response.incomplete", False, Verdict.ENDS),
        ("failed.sse", "response.failed", True, Verdict.ENDS),
        ("error.sse", "error", True, Verdict.CONTINUES),
        ("cut.sse", "response.output_text.delta", False, Verdict.CONTINUES),
    ],
)
def test_the_end_of_a_stream_is_recognised(name, last, has_failed, verdict):
    result = read(passthrough, sample("openai_responses", name))
    assert result.documents[-1]["type"] == last
    assert result.stream.has_failed is has_failed
    assert result.stream.is_terminal is (verdict is Verdict.ENDS)
    assert result.verdicts[-1] is verdict
    assert Verdict.ENDS not in result.verdicts[:-1]
    assert result.stream.tail() == b""


def test_the_model_name_is_replaced_in_the_response_and_not_in_its_tools():
    body = sample("openai_responses", "text.sse")
    result = read(passthrough, body, "asked")
    responses = [document["response"] for document in result.documents if "response" in document]
    assert len(responses) == 3
    assert {response["model"] for response in responses} == {"asked"}
    enums = [response["tools"][0]["parameters"]["properties"]["model"]["enum"] for response in responses]
    assert enums == [["gpt-5.1-2025-11-13"]] * 3
    assert sum(before == after for before, after in zip(payloads(body), result.passed, strict=True)) == len(
        payloads(body)
    ) - len(responses)


def test_sequence_numbers_continue_after_a_keepalive():
    reader = passthrough.Stream(b'"a"', request_head())
    for data in payloads(sample("openai_responses", "keepalive.sse")):
        reader.observe(data)
    last = documents(sample("openai_responses", "keepalive.sse"))[-1]["sequence_number"]
    failure = [documents(event)[0] for event in reader.failure_events(502, "upstream_error", "the text", "req_1")]
    assert [(event["type"], event["sequence_number"]) for event in failure] == [
        ("response.failed", last + 1),
        ("error", last + 2),
    ]


def test_a_broken_stream_ends_with_a_failed_response_under_the_clients_model_name():
    reader = passthrough.Stream(b'"asked"', request_head())
    (first, *_) = payloads(sample("openai_responses", "cut.sse"))
    reader.observe(first)
    failed, _ = (documents(event)[0] for event in reader.failure_events(502, "upstream_error", "cut", "req_1"))
    response = ResponseFailedEvent.construct(**failed).response
    assert (response.status, response.model, response.error.message) == ("failed", "asked", "cut")
    assert response.id == json.loads(first)["response"]["id"]


def test_an_error_event_raises_in_the_vendors_client_and_has_the_next_number():
    (data,) = payloads(passthrough.error_event(502, "upstream_error", "the text", "req_1", 9))
    document = json.loads(data)
    EVENT.validate_python(document)
    assert document["sequence_number"] == 9
    assert document["type"] == "error"
    assert document["message"] == document["error"]["message"] == "the text"
    assert passthrough.error_event(502, "a", "b", "c").startswith(b"event: error\n")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "input_tokens": 328,
                "input_tokens_details": {"cached_tokens": 256, "cache_write_tokens": 0},
                "output_tokens": 52,
                "output_tokens_details": {"reasoning_tokens": 20},
                "total_tokens": 380,
            },
            Usage(input_tokens=72, output_tokens=52, reasoning_tokens=20, cache_read_tokens=256),
        ),
        (
            {"input_tokens": 4096, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 4000}},
            Usage(input_tokens=96, cache_write_tokens=4000),
        ),
        # compatible hosts that send the fields of chat
        (
            {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}},
            Usage(input_tokens=6, output_tokens=5, cache_read_tokens=4),
        ),
        ({"input_tokens": -1, "output_tokens": "5", "input_tokens_details": 7}, Usage()),
    ],
)
def test_usage_is_read_in_disjoint_classes(usage, expected):
    assert passthrough.read_usage(usage) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("text.sse", Usage(input_tokens=72, output_tokens=52, cache_read_tokens=256)),
        ("completed_with_empty_output.sse", Usage(input_tokens=72, output_tokens=52, cache_read_tokens=256)),
        ("tool_call.sse", Usage(input_tokens=80, output_tokens=19)),
        ("parallel_tools.sse", Usage(input_tokens=26, output_tokens=40, cache_write_tokens=64)),
        ("thinking.sse", Usage(input_tokens=72, output_tokens=152, reasoning_tokens=128, cache_read_tokens=256)),
        ("incomplete.sse", Usage(input_tokens=72, output_tokens=16, cache_read_tokens=256)),
        ("failed.sse", None),
        ("cut.sse", None),
    ],
)
def test_the_usage_of_a_stream_is_read(name, expected):
    assert read(passthrough, sample("openai_responses", name)).stream.usage == expected


def search(action: object = None, status: str = "completed") -> dict:
    return {"type": "web_search_call", "status": status, "action": action}


SEARCH = search({"type": "search", "query": "tower"})
# output items, and the counted calls of the vendor's tools
OUTPUTS = [
    ([], ()),
    ([SEARCH, SEARCH, search()], (("web_search", 3),)),
    # opening a page is part of its search
    ([SEARCH, search({"type": "open_page"}), search({"type": "find_in_page"})], (("web_search", 1),)),
    ([search({"type": "search"}, "failed"), {"type": "image_generation_call", "status": "failed"}], ()),
    (
        [
            {"type": "code_interpreter_call", "code": "1"},
            {"type": "image_generation_call", "action": "generate", "result": "iVBORw0KGgo="},
            {"type": "file_search_call", "queries": ["a"], "results": None},
            {"type": "mcp_call", "name": "function_call"},
            SEARCH,
            {"type": "tool_of_tomorrow_call"},
        ],
        (
            ("code_interpreter", 1),
            ("file_search", 1),
            ("image_generation", 1),
            ("mcp", 1),
            ("tool_of_tomorrow", 1),
            ("web_search", 1),
        ),
    ),
    # tools that the client runs
    ([{"type": f"{name}_call"} for name in ("function", "custom_tool", "computer", "local_shell", "apply_patch")], ()),
    # other items and malformed outputs that contain the word
    ([{"type": "message", "content": [{"type": "output_text", "text": "web_search_call"}]}], ()),
    ([{"type": "reasoning", "summary": "web_search_call"}], ()),
    ([{"type": 7, "of": "web_search_call"}], ()),
    ({"type": "web_search_call"}, ()),
    ("web_search_call", ()),
    (None, ()),
]
USAGE = {"input_tokens": 9, "output_tokens": 2}


@pytest.mark.parametrize(("output", "calls"), OUTPUTS)
def test_the_vendors_own_tools_are_counted_by_their_calls(output, calls):
    reply = {"output": output, "usage": USAGE, "service_tier": "flex"}
    usage, _ = passthrough.read_whole(json.dumps(reply).encode())
    assert (usage.tool_calls, usage.tier) == (calls, "flex")
    reader = passthrough.Stream(None, request_head())
    reader.observe(json.dumps({"type": "response.completed", "response": reply}).encode())
    assert (reader.usage.tool_calls, reader.usage.tier) == (calls, "flex")


@pytest.mark.parametrize(("output", "calls"), [row for row in OUTPUTS if isinstance(row[0], list)])
@pytest.mark.parametrize("last_output", [[], None])
def test_finished_calls_are_counted_where_the_last_response_does_not_list_them(output, calls, last_output):
    reader = passthrough.Stream(None, request_head())
    for item in output:
        for kind in ("added", "done"):
            reader.observe(json.dumps({"type": f"response.output_item.{kind}", "item": item}).encode())
    # usage of a stream that breaks here
    assert reader.usage == (Usage() if calls else None)
    assert calls == (reader.usage.tool_calls if reader.usage else ())
    reader.observe(
        json.dumps({"type": "response.completed", "response": {"output": last_output, "usage": USAGE}}).encode()
    )
    assert reader.usage == Usage(input_tokens=9, output_tokens=2)
    assert reader.usage.tool_calls == calls


def test_calls_that_are_listed_twice_are_counted_once():
    reader = read(passthrough, sample("openai_responses", "searched.sse")).stream
    assert reader.usage.tool_calls == (("web_search", 1),)
    reader = read(passthrough, sample("openai_responses", "image.sse")).stream
    assert reader.usage.tool_calls == (("image_generation", 1),)


def test_a_complete_response_without_usage_has_no_usage_even_with_tool_calls():
    reader = passthrough.Stream(None, request_head())
    reader.observe(json.dumps({"type": "response.output_item.done", "item": SEARCH}).encode())
    reader.observe(b'{"type": "response.completed", "response": {"usage": null}}')
    assert reader.usage is None


def test_the_tier_of_the_last_response_counts():
    reader = passthrough.Stream(None, request_head())
    for kind, tier in (("created", "auto"), ("in_progress", "auto"), ("completed", "priority")):
        response = {"service_tier": tier, "usage": USAGE if kind == "completed" else None}
        reader.observe(json.dumps({"type": f"response.{kind}", "response": response}).encode())
    assert reader.usage.tier == "priority"


def test_a_later_response_without_usage_keeps_the_earlier_usage():
    reader = passthrough.Stream(b'"a"', request_head())
    reader.observe(b'{"type": "response.in_progress", "response": {"usage": {"input_tokens": 9, "output_tokens": 2}}}')
    reader.observe(b'{"type": "response.failed", "response": {"usage": null}}')
    assert reader.usage == Usage(input_tokens=9, output_tokens=2)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("keepalive.sse", len("Late")),
        ("thinking.sse", len("17 has no divisors.It is prime.")),
        ("failed.sse", len("It goes")),
    ],
)
def test_text_is_counted_in_deltas_and_not_again_in_done_events(name, size):
    assert read(passthrough, sample("openai_responses", name)).stream.text_bytes == size


def test_the_usage_of_a_whole_reply_is_read():
    usage, fields = passthrough.read_whole(sample("openai_responses", "reply.json"))
    assert usage == Usage(input_tokens=72, output_tokens=52, reasoning_tokens=20, cache_read_tokens=256)
    assert bytes(fields["model"]) == b'"gpt-5.1-2025-11-13"'


@pytest.mark.parametrize(
    ("status", "raised"),
    [(400, openai.BadRequestError), (429, openai.RateLimitError), (502, openai.InternalServerError)],
)
def test_the_vendors_client_raises_its_own_exception(status, raised):
    body = passthrough.write_error(status, "a_code", "label: the text", "req_1")
    error = CLIENT._make_status_error_from_response(httpx2.Response(status, content=body, request=REQUEST))
    assert type(error) is raised
    assert error.code == "a_code"


WRAPPED = wrap(Signature("second", "S"))


@pytest.mark.parametrize(
    ("input_", "expected"),
    [
        (WRAPPED, WRAPPED),
        (None, None),
        (
            [
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": WRAPPED},
                {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "own"},
                {"type": "message", "role": "user", "content": WRAPPED},
                7,
            ],
            [
                {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "own"},
                {"type": "message", "role": "user", "content": WRAPPED},
                7,
            ],
        ),
    ],
)
def test_reasoning_that_gproxy_wrapped_is_removed(input_, expected):
    body = {"model": "a", "x_novel": WRAPPED, "input": input_}
    before = copy.deepcopy(body)
    assert passthrough.without_wrapped_signatures(body) == {"model": "a", "x_novel": WRAPPED, "input": expected}
    assert body == before


def test_a_body_without_input_is_unchanged():
    assert passthrough.without_wrapped_signatures({"model": "a"}) == {"model": "a"}
