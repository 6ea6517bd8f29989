"""OpenAI Chat Completions in the same-protocol lane: request heads, streams, usage and errors."""

import copy
import json

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gproxy.errors import BadRequest
from gproxy.protocols.hub import Signature, Usage
from gproxy.protocols.openai_chat import passthrough
from gproxy.protocols.signatures import wrap
from gproxy.protocols.verdict import Verdict
from tests.sampled import documents, names, read, request_head, sample

CLIENT = openai.OpenAI(api_key="none", base_url="http://127.0.0.1:9/v1")
REQUEST = httpx2.Request("POST", "http://127.0.0.1:9/v1/chat/completions")


def forwarded(body: dict, model: str) -> tuple[bytes, bytes]:
    raw = json.dumps(body).encode()
    return raw, passthrough.outgoing(passthrough.read_head(raw), raw, model)


@pytest.mark.parametrize(
    "name", [name for name in names("openai_chat", ".sse") if not name.startswith(("error", "finish_is"))]
)
def test_the_vendors_client_reads_the_sample_streams(name):
    for document in documents(sample("openai_chat", name)):
        if document["id"]:  # Azure's first chunk has empty fields
            ChatCompletionChunk.model_validate(document, strict=True)


def test_the_vendors_client_reads_the_sample_reply():
    ChatCompletion.model_validate_json(sample("openai_chat", "reply.json"))


@pytest.mark.parametrize(
    ("body", "model", "is_stream", "wants_usage", "end_user"),
    [
        ({"model": "a"}, "a", False, False, None),
        ({"model": "a", "stream": True, "user": "u-1"}, "a", True, False, "u-1"),
        ({"model": "a", "stream": True, "stream_options": {"include_usage": True}}, "a", True, True, None),
        ({"model": "a", "stream": True, "stream_options": {"include_usage": False}}, "a", True, False, None),
        ({"model": "a", "stream": True, "stream_options": {"include_usage": "true"}}, "a", True, False, None),
        ({"model": "a", "stream": "true", "stream_options": None, "user": 7}, "a", False, False, None),
        ({"messages": []}, None, False, False, None),
    ],
)
def test_the_head_of_a_request_is_read(body, model, is_stream, wants_usage, end_user):
    head = passthrough.read_head(json.dumps(body).encode())
    assert head[:4] == (model, is_stream, wants_usage, end_user)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ("", None, 1)),
        ({"service_tier": "flex", "max_tokens": 7, "n": 3}, ("flex", 7, 3)),
        ({"service_tier": "scale", "max_completion_tokens": 9, "max_tokens": 7}, ("scale", 9, 1)),
        ({"service_tier": "priority", "max_completion_tokens": 0, "max_tokens": 7}, ("priority", 7, 1)),
        ({"service_tier": "fast"}, ("priority", None, 1)),
        ({"service_tier": "ultrafast"}, ("priority", None, 1)),
        ({"service_tier": "auto"}, ("", None, 1)),
        ({"service_tier": "default"}, ("", None, 1)),
        # values that the vendor will reject
        ({"service_tier": "batch", "max_tokens": -1, "n": 0}, ("", None, 1)),
        ({"service_tier": 7, "max_tokens": "7", "n": True}, ("", None, 1)),
        ({"service_tier": None, "max_tokens": 7.0, "n": [3]}, ("", None, 1)),
        ({"service_tier": ["flex"], "max_tokens": True, "n": 10**30}, ("", None, 1)),
    ],
)
def test_the_mode_and_the_output_limit_of_a_request_are_read(body, expected):
    head = passthrough.read_head(json.dumps(body).encode())
    assert (head.mode, head.max_output, head.choices) == expected


def test_a_mode_is_read_however_its_text_is_escaped():
    assert passthrough.read_head(rb'{"service_tier": "pr\u0069ority"}').mode == "priority"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_obfuscation": False}, {"include_obfuscation": False, "include_usage": True}),
        ({"big": 2**80, "include_usage": None}, {"big": 2**80, "include_usage": True}),
    ],
)
def test_usage_is_requested_of_streams(options, expected):
    body = {"model": "a", "stream": True, "stream_options": options, "n": 1}
    assert json.loads(forwarded(body, "a")[1]) == {**body, "stream_options": expected}


@pytest.mark.parametrize("options", [5, "text", [1], True])
def test_stream_options_that_are_not_an_object_are_refused(options):
    with pytest.raises(BadRequest, match="stream_options"):
        passthrough.read_head(json.dumps({"model": "a", "stream": True, "stream_options": options}).encode())


@pytest.mark.parametrize(
    "body",
    [
        {"model": "a", "stream": True, "stream_options": {"include_usage": True}},
        {"model": "a", "stream": False},
        {"model": "a", "stream": "true"},
        {"model": "a"},
    ],
)
def test_a_body_without_changes_is_forwarded_as_the_same_object(body):
    raw, after = forwarded(body, "a")
    assert after is raw


def test_usage_is_not_requested_of_whole_replies():
    assert json.loads(forwarded({"model": "a"}, "b")[1]) == {"model": "b"}


@pytest.mark.parametrize("name", ["text.sse", "usage_in_last_chunk.sse", "usage_on_every_chunk.sse", "azure.sse"])
def test_usage_that_the_client_did_not_request_is_read_and_hidden(name):
    body = sample("openai_chat", name)
    requested, hidden = (read(passthrough, body, wants_usage=wants) for wants in (True, False))
    assert hidden.stream.usage == requested.stream.usage is not None
    assert all("usage" not in document for document in hidden.documents)
    kept = [
        {k: v for k, v in d.items() if k != "usage"} for d in requested.documents if d["choices"] or not d.get("usage")
    ]
    assert hidden.documents == kept
    assert hidden.passed[-1] == b"[DONE]"


@pytest.mark.parametrize("name", ["text.sse", "usage_in_last_chunk.sse", "usage_on_every_chunk.sse", "azure.sse"])
def test_usage_that_the_client_requested_is_forwarded(name):
    body = sample("openai_chat", name)
    assert [d.get("usage") for d in read(passthrough, body).documents] == [d.get("usage") for d in documents(body)]


@pytest.mark.parametrize(
    ("name", "is_terminal", "has_failed", "ends", "tail"),
    [
        ("text.sse", True, False, ["usage", "done"], b""),
        ("text_without_usage.sse", True, False, ["done"], b""),
        ("azure.sse", True, False, ["usage", "done"], b""),
        ("two_choices.sse", True, False, ["usage", "done"], b""),
        ("usage_in_last_chunk.sse", True, False, ["done"], b""),
        ("usage_on_every_chunk.sse", True, False, ["usage", "done"], b""),
        ("crlf.sse", True, False, ["usage", "done"], b""),
        ("without_done.sse", True, False, [], b"data: [DONE]\n\n"),
        ("cut.sse", False, False, [], b"data: [DONE]\n\n"),
        ("done_without_finish.sse", False, False, [], b""),
        ("one_choice_of_two_unfinished.sse", False, False, [], b""),
        ("finish_is_empty_text.sse", False, False, [], b"data: [DONE]\n\n"),
        ("error.sse", False, True, [], b"data: [DONE]\n\n"),
        ("error_then_done.sse", False, True, ["done"], b""),
    ],
)
def test_the_end_of_a_stream_is_recognised(name, is_terminal, has_failed, ends, tail):
    body = sample("openai_chat", name)
    result = read(passthrough, body)
    kinds = ["chunk"] * len(result.verdicts)
    if body.rstrip().endswith(b"[DONE]"):
        kinds[-1] = "done"
        kinds[-2] = "usage"
    assert result.stream.is_terminal is is_terminal
    assert result.stream.has_failed is has_failed
    assert [k for k, v in zip(kinds, result.verdicts, strict=True) if v is Verdict.ENDS] == ends
    assert result.stream.tail() == tail


@pytest.mark.parametrize("name", ["done_without_finish.sse", "one_choice_of_two_unfinished.sse"])
def test_done_without_a_finish_reason_breaks_the_stream_and_is_dropped(name):
    result = read(passthrough, sample("openai_chat", name))
    assert result.verdicts[-1] is Verdict.BROKEN
    assert b"[DONE]" not in result.passed


def test_done_after_an_error_is_dropped_without_a_second_error():
    result = read(passthrough, sample("openai_chat", "error_then_done.sse"), "asked")
    assert Verdict.BROKEN not in result.verdicts
    assert b"[DONE]" not in result.passed
    assert result.documents[-1]["error"]["message"] == "Provider disconnected unexpectedly"
    assert result.documents[-1]["model"] == "asked"


def test_a_stream_without_choices_ends_at_done_only():
    reader = passthrough.Stream(b'"a"', request_head())
    reader.observe(b'{"choices": [], "usage": {"prompt_tokens": 3}}')
    assert not reader.is_terminal
    assert reader.observe(b"[DONE]") == (b"[DONE]", Verdict.ENDS)
    assert reader.is_terminal


def test_a_finished_choice_stays_finished():
    reader = passthrough.Stream(b'"a"', request_head())
    reader.observe(b'{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}')
    reader.observe(b'{"choices": [{"index": 0, "delta": {}, "finish_reason": null, "content_filter_offsets": {}}]}')
    assert reader.is_terminal


def test_usage_does_not_end_a_stream_with_an_open_choice():
    reader = passthrough.Stream(b'"a"', request_head())
    reader.observe(b'{"choices": [{"index": 0, "delta": {"content": "x"}}]}')
    _, verdict = reader.observe(b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}')
    assert verdict is Verdict.CONTINUES


def test_a_null_usage_is_removed_from_a_chunk_without_choices():
    reader = passthrough.Stream(b'"a"', request_head(wants_usage=False))
    passed, _ = reader.observe(b'{"choices":[],"usage":null,"prompt_filter_results":[{"prompt_index":0}]}')
    assert json.loads(passed) == {"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}


@pytest.mark.parametrize(
    ("delta", "size"),
    [
        ({"content": "four"}, 4),
        ({"content": ""}, 0),
        ({"content": None}, 0),
        ({"reasoning_content": "think"}, 5),
        ({"reasoning": "think"}, 5),
        ({"refusal": "no, never"}, 9),
        ({"role": "assistant"}, 0),
        ({"tool_calls": []}, 0),
    ],
)
def test_the_text_of_a_delta_is_counted(delta, size):
    reader = passthrough.Stream(b'"a"', request_head())
    reader.observe(json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode())
    assert reader.text_bytes == size


def test_arguments_of_a_tool_call_are_counted():
    reader = passthrough.Stream(b'"a"', request_head())
    call = {"index": 0, "function": {"arguments": '{"city": "Paris"}'}}
    reader.observe(json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}).encode())
    assert reader.text_bytes >= len('{"city": "Paris"}')


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        # api.openai.com: prompt tokens include the cached ones
        (
            {
                "prompt_tokens": 1117,
                "completion_tokens": 46,
                "total_tokens": 1163,
                "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 0},
            },
            Usage(input_tokens=93, output_tokens=46, reasoning_tokens=30, cache_read_tokens=1024),
        ),
        # prompt tokens include cache writes too
        (
            {
                "prompt_tokens": 5000,
                "completion_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 3000},
            },
            Usage(input_tokens=1000, output_tokens=10, cache_read_tokens=1000, cache_write_tokens=3000),
        ),
        # fields of DeepSeek
        (
            {"prompt_tokens": 210, "completion_tokens": 96, "prompt_cache_hit_tokens": 192},
            Usage(input_tokens=18, output_tokens=96, cache_read_tokens=192),
        ),
        # fields of images and embeddings
        (
            {
                "input_tokens": 50,
                "output_tokens": 1056,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
            },
            Usage(input_tokens=50, output_tokens=1056, image_input_tokens=40),
        ),
        (
            {
                "input_tokens": 50,
                "output_tokens": 1056,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
                "output_tokens_details": {"text_tokens": 0, "image_tokens": 1056},
            },
            Usage(input_tokens=50, output_tokens=1056, image_input_tokens=40, image_output_tokens=1056),
        ),
        # audio input and output
        (
            {
                "prompt_tokens": 130,
                "completion_tokens": 100,
                "prompt_tokens_details": {"audio_tokens": 30, "text_tokens": 100, "cached_tokens": 50},
                "completion_tokens_details": {"audio_tokens": 90, "reasoning_tokens": 0, "text_tokens": 10},
            },
            Usage(
                input_tokens=80,
                output_tokens=100,
                cache_read_tokens=50,
                audio_input_tokens=30,
                audio_output_tokens=90,
            ),
        ),
        # some of the audio from the cache
        (
            {
                "prompt_tokens": 130,
                "completion_tokens": 1,
                "prompt_tokens_details": {
                    "audio_tokens": 30,
                    "cached_tokens": 64,
                    "cached_tokens_details": {"audio_tokens": 20, "text_tokens": 44},
                },
            },
            Usage(
                input_tokens=66,
                output_tokens=1,
                cache_read_tokens=64,
                audio_input_tokens=10,
                audio_cache_read_tokens=20,
            ),
        ),
        # fields of transcriptions
        (
            {
                "type": "tokens",
                "input_tokens": 14,
                "output_tokens": 45,
                "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
            },
            Usage(input_tokens=14, output_tokens=45, audio_input_tokens=10),
        ),
        # parts that exceed their whole
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 5,
                "prompt_tokens_details": {"audio_tokens": 7, "image_tokens": 7},
                "completion_tokens_details": {"audio_tokens": 99, "image_tokens": 1},
            },
            Usage(
                input_tokens=10,
                output_tokens=5,
                audio_input_tokens=7,
                image_input_tokens=3,
                audio_output_tokens=5,
            ),
        ),
        (
            {
                "prompt_tokens": 10,
                "prompt_tokens_details": {
                    "cached_tokens": 8,
                    "audio_tokens": 5,
                    "cached_tokens_details": {"audio_tokens": 9},
                },
            },
            Usage(input_tokens=2, cache_read_tokens=8, audio_cache_read_tokens=5),
        ),
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(input_tokens=8)),
        # malformed values
        ({}, Usage()),
        ({"prompt_tokens": None, "completion_tokens": None, "prompt_tokens_details": None}, Usage()),
        ({"prompt_tokens": "12", "completion_tokens": -4, "prompt_tokens_details": [1]}, Usage()),
        ({"prompt_tokens": True, "completion_tokens": 2.5, "completion_tokens_details": "x"}, Usage()),
        ({"prompt_tokens": 2**70, "completion_tokens": 10**12 + 1}, Usage()),
        (
            {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 99}},
            Usage(output_tokens=3, cache_read_tokens=10),
        ),
        (
            {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 8}},
            Usage(cache_read_tokens=8, cache_write_tokens=2),
        ),
        (
            {"completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 50}},
            Usage(output_tokens=3, reasoning_tokens=3),
        ),
    ],
)
def test_usage_is_read_in_disjoint_classes(usage, expected):
    assert passthrough.read_usage(usage) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("text.sse", Usage(input_tokens=93, output_tokens=46, cache_read_tokens=1024)),
        ("tool_call.sse", Usage(input_tokens=74, output_tokens=17)),
        ("parallel_tools.sse", Usage(input_tokens=121, output_tokens=44)),
        ("thinking.sse", Usage(input_tokens=18, output_tokens=96, reasoning_tokens=88, cache_read_tokens=192)),
        ("usage_on_every_chunk.sse", Usage(input_tokens=12, output_tokens=4)),
        ("usage_in_last_chunk.sse", Usage(input_tokens=9, output_tokens=11)),
        ("text_without_usage.sse", None),
        ("cut.sse", None),
    ],
)
def test_the_usage_of_a_stream_is_read(name, expected):
    assert read(passthrough, sample("openai_chat", name)).stream.usage == expected


USAGE = {"prompt_tokens": 1, "completion_tokens": 1}


@pytest.mark.parametrize(
    ("reported", "tier"),
    [
        ("default", "default"),
        ("flex", "flex"),
        ("scale", "scale"),
        ("priority", "priority"),
        ("fast", "priority"),
        ("batch", "batch"),
        ("auto", ""),
        ("on_demand", ""),
        (None, ""),
        (7, ""),
        (["flex"], ""),
    ],
)
def test_the_tier_that_served_a_reply_is_read(reported, tier):
    reply = {"choices": [], "service_tier": reported, "usage": USAGE}
    assert passthrough.read_whole(json.dumps(reply).encode())[0].tier == tier
    reader = passthrough.Stream(None, request_head())
    reader.observe(json.dumps({"choices": [{"index": 0, "finish_reason": "stop"}], "service_tier": reported}).encode())
    reader.observe(json.dumps({"choices": [], "usage": USAGE}).encode())
    assert reader.usage.tier == tier


def test_the_last_tier_in_a_stream_counts():
    reader = passthrough.Stream(None, request_head())
    for tier in ("priority", "auto", "default"):
        reader.observe(json.dumps({"choices": [], "service_tier": tier, "usage": USAGE}).encode())
    assert reader.usage.tier == "default"


def test_the_usage_of_a_whole_reply_is_read():
    usage, fields = passthrough.read_whole(sample("openai_chat", "reply.json"))
    assert usage == Usage(input_tokens=93, output_tokens=46, reasoning_tokens=12, cache_read_tokens=1024)
    assert bytes(fields["model"]) == b'"gpt-4.1-2025-04-14"'


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (402, openai.APIStatusError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (501, openai.InternalServerError),
        (503, openai.InternalServerError),
        (504, openai.InternalServerError),
    ],
)
def test_the_vendors_client_raises_its_own_exception(status, raised):
    body = passthrough.write_error(status, "a_code", "label: the text", "req_1")
    error = CLIENT._make_status_error_from_response(httpx2.Response(status, content=body, request=REQUEST))
    assert type(error) is raised
    assert "label: the text" in error.message
    assert error.code == "a_code"
    assert error.type


def test_the_model_name_is_replaced_in_frames_with_half_an_emoji():
    reader = passthrough.Stream(b'"asked"', request_head())
    for half in (b"\\ud83d", b"\\ude00"):
        frame = b'{"model":"theirs","choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}' % half
        passed, verdict = reader.observe(frame)
        assert passed == frame.replace(b"theirs", b"asked")
        assert verdict is Verdict.CONTINUES
    assert reader.text_bytes > 0


WRAPPED = wrap(Signature("second", "S"))
GOOGLE_SIGNATURE = {"google": {"thought_signature": WRAPPED}}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "user", "content": WRAPPED}, {"role": "user", "content": WRAPPED}),
        (
            {
                "role": "assistant",
                "content": "so",
                "reasoning_content": "hm",
                "reasoning_details": [
                    {"type": "reasoning.encrypted", "data": WRAPPED},
                    {"type": "reasoning.text", "text": "hm", "signature": WRAPPED},
                    {"type": "reasoning.encrypted", "data": "own"},
                ],
            },
            {
                "role": "assistant",
                "content": "so",
                "reasoning_content": "hm",
                "reasoning_details": [{"type": "reasoning.encrypted", "data": "own"}],
            },
        ),
        (
            {"role": "assistant", "content": "so", "reasoning_details": [{"type": "x", "data": WRAPPED}]},
            {"role": "assistant", "content": "so"},
        ),
        (
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "a", "extra_content": GOOGLE_SIGNATURE}, {"id": "b"}],
            },
            {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}, {"id": "b"}]},
        ),
        (
            {
                "role": "assistant",
                "tool_calls": [{"id": "a", "extra_content": {"google": {"thought_signature": "own"}}}],
            },
            {
                "role": "assistant",
                "tool_calls": [{"id": "a", "extra_content": {"google": {"thought_signature": "own"}}}],
            },
        ),
        # malformed messages are forwarded
        (7, 7),
        ({"role": "assistant", "tool_calls": [7, None]}, {"role": "assistant", "tool_calls": [7, None]}),
    ],
)
def test_signatures_that_gproxy_wrapped_are_removed(message, expected):
    body = {"model": "a", "x_novel": WRAPPED, "messages": [message]}
    before = copy.deepcopy(body)
    assert passthrough.without_wrapped_signatures(body) == {"model": "a", "x_novel": WRAPPED, "messages": [expected]}
    assert body == before


@pytest.mark.parametrize("body", [{}, {"model": "a", "input": WRAPPED}, {"messages": None}, {"messages": "text"}])
def test_a_body_without_messages_is_unchanged(body):
    """Embeddings requests, for example."""
    assert passthrough.without_wrapped_signatures(body) == body
