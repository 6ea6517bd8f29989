"""Anthropic Messages in the same-protocol lane: request heads, streams, usage, errors and model lists."""

import copy
import json

import anthropic
import httpx2
import pytest
from anthropic.types import Message, ModelInfo, RawMessageStreamEvent
from pydantic import TypeAdapter

from gproxy.protocols import openai
from gproxy.protocols.anthropic_messages import passthrough
from gproxy.protocols.hub import ModelCard, Signature, Usage
from gproxy.protocols.signatures import wrap
from gproxy.protocols.verdict import Verdict
from tests.sampled import documents, names, payloads, read, request_head, sample

CLIENT = anthropic.Anthropic(api_key="none", base_url="http://127.0.0.1:9")
REQUEST = httpx2.Request("POST", "http://127.0.0.1:9/v1/messages")
EVENT = TypeAdapter(RawMessageStreamEvent)


@pytest.mark.parametrize("name", names("anthropic", ".sse"))
def test_the_vendors_client_reads_the_sample_streams(name):
    for document in documents(sample("anthropic", name)):
        if document["type"] not in ("ping", "error"):
            EVENT.validate_python(document)


def test_the_vendors_client_reads_the_sample_reply():
    Message.model_validate_json(sample("anthropic", "reply.json"))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"model": "a", "max_tokens": 5}, ("a", False, True, None)),
        ({"model": "a", "stream": True, "metadata": {"user_id": "u-1"}}, ("a", True, True, "u-1")),
        ({"model": "a", "stream": "true", "metadata": {"user_id": 7}}, ("a", False, True, None)),
        ({"model": "a", "metadata": None}, ("a", False, True, None)),
        ({"model": "a", "metadata": "text", "user": "not here"}, ("a", False, True, None)),
    ],
)
def test_the_head_of_a_request_is_read(body, expected):
    assert passthrough.read_head(json.dumps(body).encode())[:4] == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ("", None, 1)),
        ({"speed": "fast", "max_tokens": 7}, ("priority", 7, 1)),
        ({"speed": "standard", "max_tokens": 0}, ("", None, 1)),
        # priority capacity of the account has no price of its own
        ({"service_tier": "auto", "speed": None}, ("", None, 1)),
        ({"speed": ["fast"], "max_tokens": True, "n": 4}, ("", None, 1)),
    ],
)
def test_the_mode_and_the_output_limit_of_a_request_are_read(body, expected):
    head = passthrough.read_head(json.dumps(body).encode())
    assert (head.mode, head.max_output, head.choices) == expected


@pytest.mark.parametrize(
    ("name", "last", "is_terminal", "has_failed"),
    [
        ("text.sse", "message_stop", True, False),
        ("tool_call.sse", "message_stop", True, False),
        ("keepalive.sse", "message_stop", True, False),
        ("crlf.sse", "message_stop", True, False),
        ("cut.sse", "content_block_delta", False, False),
        ("cut_before_stop.sse", "message_delta", False, False),
        ("error.sse", "error", False, True),
    ],
)
def test_only_message_stop_ends_a_stream(name, last, is_terminal, has_failed):
    result = read(passthrough, sample("anthropic", name))
    assert result.documents[-1]["type"] == last
    assert result.stream.is_terminal is is_terminal
    assert result.stream.has_failed is has_failed
    assert (result.verdicts[-1] is Verdict.ENDS) is is_terminal
    assert Verdict.ENDS not in result.verdicts[:-1]
    assert result.stream.tail() == b""


def test_the_model_name_is_replaced_in_message_start_only():
    body = sample("anthropic", "tool_call.sse")
    result = read(passthrough, body, "asked")
    assert result.documents[0]["message"]["model"] == "asked"
    assert result.passed[1:] == payloads(body)[1:]


FULL = {
    "input_tokens": 12,
    "cache_creation_input_tokens": 3300,
    "cache_read_input_tokens": 18000,
    "cache_creation": {"ephemeral_5m_input_tokens": 300, "ephemeral_1h_input_tokens": 3000},
    "output_tokens": 77,
    "output_tokens_details": {"thinking_tokens": 40},
    "service_tier": "standard",
}
READ = Usage(
    input_tokens=12,
    output_tokens=77,
    reasoning_tokens=40,
    cache_read_tokens=18000,
    cache_write_5m_tokens=300,
    cache_write_1h_tokens=3000,
)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (FULL, READ),
        ({"input_tokens": 25, "output_tokens": 1}, Usage(input_tokens=25, output_tokens=1)),
        # without a lifetime
        (
            {"input_tokens": 5, "output_tokens": 2, "cache_creation_input_tokens": 700},
            Usage(input_tokens=5, output_tokens=2, cache_write_tokens=700),
        ),
        # a split that covers a part of the sum
        (
            {"cache_creation_input_tokens": 700, "cache_creation": {"ephemeral_5m_input_tokens": 500}},
            Usage(cache_write_tokens=200, cache_write_5m_tokens=500),
        ),
        # a split without a sum
        ({"cache_creation": {"ephemeral_1h_input_tokens": 60}}, Usage(cache_write_1h_tokens=60)),
        # in message_delta the split is under iterations
        (
            {
                "cache_creation_input_tokens": 700,
                "iterations": [
                    {"cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 600}}
                ],
            },
            Usage(cache_write_5m_tokens=100, cache_write_1h_tokens=600),
        ),
        # malformed values
        ({"input_tokens": None, "output_tokens": None, "cache_creation": None, "iterations": None}, Usage()),
        ({"input_tokens": "5", "output_tokens": -1, "cache_creation": [1], "iterations": {}}, Usage()),
        ({"cache_creation_input_tokens": "x", "iterations": [7], "output_tokens_details": 7}, Usage()),
        ({"input_tokens": True, "output_tokens": 10**30, "cache_read_input_tokens": 2.5}, Usage()),
        (
            {"output_tokens": 3, "output_tokens_details": {"thinking_tokens": 50}},
            Usage(output_tokens=3, reasoning_tokens=3),
        ),
    ],
)
def test_usage_is_read_in_disjoint_classes(usage, expected):
    assert passthrough.read_usage(usage) == expected


@pytest.mark.parametrize(
    ("reported", "tier"),
    [
        ({}, ""),
        ({"service_tier": "standard"}, "default"),
        ({"service_tier": "priority"}, "default"),
        ({"service_tier": "batch"}, "batch"),
        ({"service_tier": None, "speed": None}, ""),
        ({"service_tier": "unheard of", "speed": ["fast"]}, ""),
        # a fast reply still reports the standard service tier
        ({"service_tier": "standard", "speed": "fast"}, "priority"),
        ({"service_tier": "priority", "speed": "standard"}, "default"),
    ],
)
def test_the_tier_that_served_a_reply_is_read(reported, tier):
    usage, _ = passthrough.read_whole(json.dumps({"usage": {"input_tokens": 1, **reported}}).encode())
    assert usage.tier == tier
    assert passthrough.read_usage({"output_tokens": 9}, usage).tier == tier


@pytest.mark.parametrize(
    ("server_tool_use", "calls"),
    [
        ({"web_search_requests": 3, "web_fetch_requests": 0}, (("web_search", 3),)),
        ({"web_search_requests": 1, "web_fetch_requests": 2}, (("web_fetch", 2), ("web_search", 1))),
        ({"tool_of_tomorrow_requests": 1, "total": 9}, (("tool_of_tomorrow", 1),)),
        ({"web_search_requests": -1, "web_fetch_requests": True, "code_requests": "2", "x_requests": 10**7}, ()),
        ({}, ()),
        (None, ()),
        ([1], ()),
    ],
)
def test_the_vendors_own_tools_are_counted_by_their_requests(server_tool_use, calls):
    assert passthrough.read_usage({"server_tool_use": server_tool_use}).tool_calls == calls


def test_the_last_number_of_tool_requests_in_a_stream_counts():
    reader = passthrough.Stream(None, request_head())
    start = {"input_tokens": 5, "service_tier": "batch", "server_tool_use": {"web_search_requests": 0}}
    reader.observe(json.dumps({"type": "message_start", "message": {"usage": start}}).encode())
    for number in (1, 2):
        usage = {"output_tokens": number, "server_tool_use": {"web_search_requests": number}}
        reader.observe(json.dumps({"type": "message_delta", "usage": usage}).encode())
    reader.observe(json.dumps({"type": "message_delta", "usage": {"output_tokens": 9}}).encode())
    assert reader.usage == Usage(input_tokens=5, output_tokens=9)
    assert (reader.usage.tool_calls, reader.usage.tier) == ((("web_search", 2),), "batch")


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ({"output_tokens": 90}, {"output_tokens": 90}),
        ({}, {}),
        ({"output_tokens": 0, "input_tokens": None}, {}),
        ({"input_tokens": 0, "output_tokens": 90}, {"input_tokens": 0, "output_tokens": 90}),
        ({"cache_read_input_tokens": 20000, "output_tokens": 90}, {"cache_read_tokens": 20000, "output_tokens": 90}),
        ({"cache_creation_input_tokens": 3300, "output_tokens": 90}, {"output_tokens": 90}),
        (
            {"output_tokens": 99, "output_tokens_details": {"thinking_tokens": 60}},
            {"output_tokens": 99, "reasoning_tokens": 60},
        ),
    ],
)
def test_counts_that_a_later_usage_block_lacks_are_kept(later, expected):
    before = {name: getattr(READ, name) for name in Usage.__slots__}
    assert passthrough.read_usage(later, READ) == Usage(**{**before, **expected})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("text.sse", Usage(input_tokens=25, output_tokens=31)),
        ("tool_call.sse", Usage(input_tokens=472, output_tokens=58)),
        ("parallel_tools.sse", Usage(input_tokens=500, output_tokens=90)),
        ("thinking.sse", Usage(input_tokens=44, output_tokens=120, reasoning_tokens=96)),
        (
            "cached.sse",
            Usage(
                input_tokens=12,
                output_tokens=9,
                cache_read_tokens=18000,
                cache_write_5m_tokens=300,
                cache_write_1h_tokens=3000,
            ),
        ),
        (
            "cache_split_in_iterations.sse",
            Usage(
                input_tokens=12,
                output_tokens=9,
                cache_read_tokens=50,
                cache_write_5m_tokens=100,
                cache_write_1h_tokens=600,
            ),
        ),
        ("cut.sse", Usage(input_tokens=25, output_tokens=1)),
    ],
)
def test_the_usage_of_a_stream_is_read(name, expected):
    assert read(passthrough, sample("anthropic", name)).stream.usage == expected


@pytest.mark.parametrize(
    ("delta", "size"),
    [
        ({"type": "text_delta", "text": "four"}, 4),
        ({"type": "thinking_delta", "thinking": "think"}, 5),
        ({"type": "input_json_delta", "partial_json": "[12]"}, 4),
        ({"type": "input_json_delta", "partial_json": ""}, 0),
        ({"type": "signature_delta", "signature": "EqQBCgIYAhIM"}, 0),
    ],
)
def test_the_text_of_a_delta_is_counted(delta, size):
    reader = passthrough.Stream(b'"a"', request_head())
    data = json.dumps({"type": "content_block_delta", "index": 0, "delta": delta}).encode()
    assert reader.observe(data) == (data, Verdict.CONTINUES)
    assert reader.text_bytes == size


def test_the_usage_of_a_whole_reply_is_read():
    usage, fields = passthrough.read_whole(sample("anthropic", "reply.json"))
    assert usage == READ
    assert bytes(fields["model"]) == b'"claude-sonnet-4-5-20250929"'


@pytest.mark.parametrize(
    ("status", "kind", "raised"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.AuthenticationError),
        (402, "billing_error", anthropic.PaymentRequiredError),
        (403, "permission_error", anthropic.PermissionDeniedError),
        (404, "not_found_error", anthropic.NotFoundError),
        (413, "request_too_large", anthropic.RequestTooLargeError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (503, "overloaded_error", anthropic.ServiceUnavailableError),
        (504, "timeout_error", anthropic.DeadlineExceededError),
    ],
)
def test_the_vendors_client_raises_its_own_exception(status, kind, raised):
    body = passthrough.write_error(status, "a_code", "label: the text", "req_1")
    error = CLIENT._make_status_error_from_response(httpx2.Response(status, content=body, request=REQUEST))
    assert type(error) is raised
    assert error.body["error"]["type"] == kind
    assert error.body["error"]["message"] == "label: the text"
    assert error.body["request_id"] == "req_1"


def test_an_error_event_is_named_so_that_the_vendors_client_raises():
    event = passthrough.error_event(502, "upstream_error", "the text", "req_1")
    assert event.startswith(b"event: error\ndata: ")
    assert json.loads(payloads(event)[0])["type"] == "error"


@pytest.mark.parametrize(
    ("created", "created_at"),
    [
        (None, "1970-01-01T00:00:00Z"),
        (1_700_000_000, "2023-11-14T22:13:20Z"),
        (1_700_000_000_000, "1970-01-01T00:00:00Z"),
        (10**30, "1970-01-01T00:00:00Z"),
    ],
)
def test_the_vendors_client_reads_a_model(created, created_at):
    written = passthrough.write_model(ModelCard("a", created=created), "main/a")
    # A gateway does not know the lifecycle of a model, which the type requires.
    ModelInfo.model_validate({**written, "lifecycle": "active"})
    assert written["created_at"] == created_at
    assert written["id"] == written["display_name"] == "main/a"


def test_a_list_of_models_is_one_page_with_its_first_and_last_id():
    cards = openai.read_models({"data": [{"id": "a", "created": 1_700_000_000}, {"id": "b"}]})
    page = passthrough.write_models([(card, f"main/{card.id}") for card in cards])
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("main/a", "main/b", False)
    assert passthrough.write_models([]) == {"data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ({"has_more": True, "last_id": "m-9"}, {"limit": "1000", "after_id": "m-9"}),
        ({"has_more": False, "last_id": "m-9"}, None),
        ({"has_more": True, "last_id": None}, None),
        ({"has_more": "yes", "last_id": "m-9"}, None),
        ({}, None),
    ],
)
def test_the_query_of_the_next_page_of_a_list(body, query):
    assert passthrough.next_page(body) == query


WRAPPED = wrap(Signature("second", "S"))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "user", "content": "hi"}], [{"role": "user", "content": "hi"}]),
        (
            [{"role": "user", "content": [{"type": "text", "text": WRAPPED}]}],
            [{"role": "user", "content": [{"type": "text", "text": WRAPPED}]}],
        ),
        (
            [
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": WRAPPED},
                        {"type": "redacted_thinking", "data": WRAPPED},
                        {"type": "thinking", "thinking": "own", "signature": "EqQB"},
                        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
                    ],
                }
            ],
            [
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "own", "signature": "EqQB"},
                        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
                    ],
                }
            ],
        ),
        # a message that held nothing else is removed
        (
            [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": WRAPPED}]},
            ],
            [{"role": "user", "content": "hi"}],
        ),
        # malformed messages are forwarded
        ([7, {"role": "user"}, {"content": [7, None]}], [7, {"role": "user"}, {"content": [7, None]}]),
    ],
)
def test_signatures_that_gproxy_wrapped_are_removed(messages, expected):
    body = {"model": "a", "x_novel": WRAPPED, "messages": messages}
    before = copy.deepcopy(body)
    assert passthrough.without_wrapped_signatures(body) == {"model": "a", "x_novel": WRAPPED, "messages": expected}
    assert body == before


@pytest.mark.parametrize("body", [{}, {"model": "a"}, {"messages": None}, {"messages": "text"}])
def test_a_body_without_messages_is_unchanged(body):
    assert passthrough.without_wrapped_signatures(body) == body
