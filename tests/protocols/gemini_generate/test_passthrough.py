"""Gemini generateContent in the same-protocol lane: request heads, streams, usage, errors and model lists."""

import copy
import json

import httpx2
import pytest
from google.genai import errors
from google.genai.types import GenerateContentResponse

from gproxy.protocols.gemini_generate import passthrough
from gproxy.protocols.hub import ModelCard, Signature, Usage
from gproxy.protocols.signatures import SKIP_VALIDATOR, wrap
from gproxy.protocols.verdict import Verdict
from tests.sampled import documents, names, read, request_head, sample

REQUEST = httpx2.Request("POST", "http://127.0.0.1:9/v1beta/models/m:generateContent")


@pytest.mark.parametrize("name", [name for name in names("gemini", ".sse") if name != "error.sse"])
def test_the_vendors_client_reads_the_sample_streams(name):
    for document in documents(sample("gemini", name)):
        GenerateContentResponse.model_validate(document)


def test_the_vendors_client_reads_the_sample_reply():
    GenerateContentResponse.model_validate_json(sample("gemini", "reply.json"))


@pytest.mark.parametrize("body", [b'{"contents": [ ]}', b'{"stream": true, "contents": [{"model": "m"}]}', b"{}"])
def test_model_and_stream_are_not_read_from_the_body_which_is_forwarded_unchanged(body):
    head = passthrough.read_head(body)
    assert head[:4] == (None, False, True, None)
    assert passthrough.outgoing(head, body, "other") is body


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ("", None, 1)),
        (
            {"serviceTier": "flex", "generationConfig": {"maxOutputTokens": 7, "candidateCount": 2}},
            ("flex", 7, 2),
        ),
        (
            {"service_tier": "PRIORITY", "generation_config": {"max_output_tokens": 7, "candidate_count": 2}},
            ("priority", 7, 2),
        ),
        ({"serviceTier": "SERVICE_TIER_FLEX", "generationConfig": {}}, ("flex", None, 1)),
        ({"serviceTier": "standard", "generationConfig": None}, ("", None, 1)),
        ({"serviceTier": "unspecified", "generationConfig": [7]}, ("", None, 1)),
        (
            {"serviceTier": 7, "generationConfig": {"maxOutputTokens": "7", "candidateCount": -1}},
            ("", None, 1),
        ),
        ({"maxOutputTokens": 7, "candidateCount": 2}, ("", None, 1)),
    ],
)
def test_the_mode_and_the_output_limit_of_a_request_are_read(body, expected):
    head = passthrough.read_head(json.dumps(body).encode())
    assert (head.mode, head.max_output, head.choices) == expected


@pytest.mark.parametrize(
    ("body", "model", "expected"),
    [
        ({"model": "models/asked", "contents": []}, "x", {"model": "models/x", "contents": []}),
        ({"model": "asked"}, "models/x", {"model": "models/x"}),
        (
            {"generateContentRequest": {"model": "models/asked", "contents": [1.50]}},
            "x",
            {"generateContentRequest": {"model": "models/x", "contents": [1.50]}},
        ),
        (
            {"generate_content_request": {"contents": []}},
            "x",
            {"generate_content_request": {"contents": [], "model": "models/x"}},
        ),
        (
            {"requests": [{"model": "models/asked", "content": {"parts": []}}, {"title": "model"}]},
            "vendor/x",
            {
                "requests": [
                    {"model": "models/vendor/x", "content": {"parts": []}},
                    {"title": "model", "model": "models/vendor/x"},
                ]
            },
        ),
        # a malformed list of requests is forwarded
        ({"requests": "text", "model": "a"}, "x", {"requests": "text", "model": "models/x"}),
    ],
)
def test_a_model_that_the_body_repeats_is_replaced(body, model, expected):
    head = passthrough.read_head(json.dumps(body).encode())
    before = dict(head.body)
    assert json.loads(passthrough.outgoing(head, json.dumps(body).encode(), model)) == expected
    assert head.body == before


@pytest.mark.parametrize(
    ("name", "is_terminal", "has_failed", "last"),
    [
        ("text.sse", True, False, Verdict.MAY_END),
        ("tool_call.sse", True, False, Verdict.MAY_END),
        ("usage_only_at_the_end.sse", True, False, Verdict.MAY_END),
        ("two_candidates.sse", True, False, Verdict.MAY_END),
        ("blocked.sse", True, False, Verdict.MAY_END),
        ("crlf.sse", True, False, Verdict.MAY_END),
        ("cut.sse", False, False, Verdict.CONTINUES),
        ("error.sse", False, True, Verdict.CONTINUES),
    ],
)
def test_the_end_of_a_stream_is_recognised(name, is_terminal, has_failed, last):
    result = read(passthrough, sample("gemini", name))
    assert result.stream.is_terminal is is_terminal
    assert result.stream.has_failed is has_failed
    assert result.verdicts[-1] is last
    assert Verdict.MAY_END not in result.verdicts[:-1]
    assert result.stream.tail() == b""


@pytest.mark.parametrize("reason", [None, "", "FINISH_REASON_UNSPECIFIED"])
def test_an_unspecified_finish_reason_does_not_end_a_stream(reason):
    reader = passthrough.Stream(b'"a"', request_head())
    reader.observe(
        json.dumps({"candidates": [{"finishReason": reason}], "usageMetadata": {"promptTokenCount": 1}}).encode()
    )
    assert not reader.is_terminal


@pytest.mark.parametrize("reason", ["STOP", "MAX_TOKENS", "SAFETY", "MALFORMED_FUNCTION_CALL", "SOMETHING_NEW"])
def test_every_other_finish_reason_ends_a_stream(reason):
    reader = passthrough.Stream(b'"a"', request_head())
    reader.observe(json.dumps({"candidates": [{"finishReason": reason}]}).encode())
    assert reader.is_terminal


def test_a_finished_candidate_stays_finished():
    reader = passthrough.Stream(b'"a"', request_head())
    reader.observe(b'{"candidates": [{"finishReason": "STOP"}]}')
    reader.observe(b'{"candidates": [{"groundingMetadata": {}}]}')
    assert reader.is_terminal


def test_prompt_feedback_ends_a_stream_once_it_has_a_block_reason():
    reader = passthrough.Stream(b'"a"', request_head())
    reader.observe(b'{"promptFeedback": {"safetyRatings": []}}')
    assert not reader.is_terminal
    reader.observe(b'{"promptFeedback": {"blockReason": "SAFETY"}}')
    assert reader.is_terminal
    reader.observe(b'{"promptFeedback": {"safetyRatings": []}}')
    assert reader.is_terminal


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {
                "promptTokenCount": 14,
                "candidatesTokenCount": 5,
                "thoughtsTokenCount": 15,
                "totalTokenCount": 34,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 14}],
            },
            Usage(input_tokens=14, output_tokens=20, reasoning_tokens=15),
        ),
        (
            {"promptTokenCount": 2100, "cachedContentTokenCount": 2048, "candidatesTokenCount": 50},
            Usage(input_tokens=52, output_tokens=50, cache_read_tokens=2048),
        ),
        # tool-use prompts are billed as input
        (
            {"promptTokenCount": 100, "toolUsePromptTokenCount": 40, "candidatesTokenCount": 7},
            Usage(input_tokens=140, output_tokens=7),
        ),
        ({"promptTokenCount": 7, "totalTokenCount": 7}, Usage(input_tokens=7)),
        # audio and images of the prompt and of tool results, some of them from the cache
        (
            {
                "promptTokenCount": 1000,
                "toolUsePromptTokenCount": 100,
                "cachedContentTokenCount": 300,
                "candidatesTokenCount": 1400,
                "thoughtsTokenCount": 50,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 500},
                    {"modality": "AUDIO", "tokenCount": 200},
                    {"modality": "IMAGE", "tokenCount": 258},
                    {"modality": "VIDEO", "tokenCount": 42},
                ],
                "toolUsePromptTokensDetails": [{"modality": "IMAGE", "tokenCount": 100}],
                "cacheTokensDetails": [
                    {"modality": "AUDIO", "tokenCount": 120},
                    {"modality": "IMAGE", "tokenCount": 58},
                    {"modality": "TEXT", "tokenCount": 122},
                ],
                "candidatesTokensDetails": [
                    {"modality": "IMAGE", "tokenCount": 1290},
                    {"modality": "AUDIO", "tokenCount": 25},
                ],
            },
            Usage(
                input_tokens=800,
                output_tokens=1450,
                reasoning_tokens=50,
                cache_read_tokens=300,
                audio_input_tokens=80,
                image_input_tokens=300,
                audio_output_tokens=25,
                image_output_tokens=1290,
                audio_cache_read_tokens=120,
            ),
        ),
        # parts that exceed their whole
        (
            {
                "promptTokenCount": 10,
                "cachedContentTokenCount": 4,
                "candidatesTokenCount": 5,
                "promptTokensDetails": [
                    {"modality": "IMAGE", "tokenCount": 9},
                    {"modality": "AUDIO", "tokenCount": 9},
                ],
                "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 7}],
                "candidatesTokensDetails": [
                    {"modality": "AUDIO", "tokenCount": 3},
                    {"modality": "IMAGE", "tokenCount": 3},
                ],
            },
            Usage(
                input_tokens=6,
                output_tokens=5,
                cache_read_tokens=4,
                audio_input_tokens=5,
                image_input_tokens=1,
                audio_output_tokens=3,
                image_output_tokens=2,
                audio_cache_read_tokens=4,
            ),
        ),
        (
            {
                "promptTokenCount": 10,
                "promptTokensDetails": [7, {"modality": "AUDIO"}, {"modality": ["AUDIO"], "tokenCount": 3}],
                "cacheTokensDetails": {"modality": "AUDIO", "tokenCount": 3},
                "candidatesTokensDetails": None,
            },
            Usage(input_tokens=10),
        ),
        # malformed values
        ({}, Usage()),
        ({"promptTokenCount": None, "candidatesTokenCount": "5", "thoughtsTokenCount": -3}, Usage()),
        ({"promptTokenCount": 10, "cachedContentTokenCount": 99}, Usage(cache_read_tokens=10)),
        ({"promptTokenCount": 10**30, "candidatesTokenCount": [1]}, Usage()),
    ],
)
def test_usage_is_read_in_disjoint_classes(usage, expected):
    assert passthrough.read_usage(usage) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("text.sse", Usage(input_tokens=11, output_tokens=21)),
        ("tool_call.sse", Usage(input_tokens=60, output_tokens=44, reasoning_tokens=30)),
        ("parallel_tools.sse", Usage(input_tokens=75, output_tokens=28)),
        ("thinking.sse", Usage(input_tokens=9, output_tokens=20, reasoning_tokens=15)),
        ("cached.sse", Usage(input_tokens=42, output_tokens=3, cache_read_tokens=2048)),
        ("usage_only_at_the_end.sse", Usage(input_tokens=4, output_tokens=5)),
        ("two_candidates.sse", Usage(input_tokens=8, output_tokens=6)),
        ("blocked.sse", Usage(input_tokens=7)),
        ("cut.sse", Usage(input_tokens=11, output_tokens=20)),
    ],
)
def test_the_usage_of_a_stream_is_read(name, expected):
    assert read(passthrough, sample("gemini", name)).stream.usage == expected


@pytest.mark.parametrize(
    ("reported", "tier"),
    [
        ("standard", "default"),
        ("flex", "flex"),
        ("PRIORITY", "priority"),
        ("batch", "batch"),
        ("unspecified", ""),
        ("", ""),
        (None, ""),
        (7, ""),
    ],
)
def test_the_tier_that_served_a_reply_is_read(reported, tier):
    assert passthrough.read_usage({"promptTokenCount": 1, "serviceTier": reported}).tier == tier


def candidate(queries: object) -> dict:
    return {"content": {"parts": [{"text": "webSearchQueries"}]}, "groundingMetadata": {"webSearchQueries": queries}}


@pytest.mark.parametrize(
    ("candidates", "calls"),
    [
        ([candidate(["a"])], (("google_search", 1),)),
        # one search, whatever its number of queries and candidates
        ([candidate(["a", "b"]), candidate(["c"])], (("google_search", 1),)),
        ([candidate([]), candidate(["c"])], (("google_search", 1),)),
        ([candidate([])], ()),
        ([candidate(None), candidate("a")], ()),
        ([{"groundingMetadata": None}, {"content": {"parts": [{"text": '"webSearchQueries"'}]}}], ()),
        ([{"groundingMetadata": ["webSearchQueries"]}], ()),
        ([], ()),
    ],
)
def test_a_reply_with_search_queries_counts_as_one_search(candidates, calls):
    reply = {"candidates": candidates, "usageMetadata": {"promptTokenCount": 3}}
    usage, _ = passthrough.read_whole(json.dumps(reply).encode())
    assert (usage, usage.tool_calls) == (Usage(input_tokens=3), calls)
    reader = passthrough.Stream(None, request_head())
    for chunk in ({"candidates": candidates}, reply, {"usageMetadata": reply["usageMetadata"]}):
        reader.observe(json.dumps(chunk).encode())
    assert reader.usage.tool_calls == calls


def test_the_search_of_a_grounded_stream_is_counted():
    assert read(passthrough, sample("gemini", "grounded.sse")).stream.usage.tool_calls == (("google_search", 1),)


def test_the_usage_of_a_whole_reply_is_read():
    usage, fields = passthrough.read_whole(sample("gemini", "reply.json"))
    assert usage == Usage(input_tokens=52, output_tokens=75, reasoning_tokens=25, cache_read_tokens=2048)
    assert bytes(fields["modelVersion"]) == b'"gemini-2.5-flash"'


@pytest.mark.parametrize(
    ("part", "minimum"),
    [
        ({"text": "four"}, 4),
        ({"text": ""}, 0),
        ({"text": "think", "thought": True}, 5),
        ({"functionCall": {"name": "f", "args": {"city": "Paris"}}}, 17),
        ({"inlineData": {"data": "AAAA"}}, 0),
    ],
)
def test_texts_and_calls_are_counted(part, minimum):
    reader = passthrough.Stream(b'"a"', request_head())
    reader.observe(json.dumps({"candidates": [{"content": {"parts": [part]}}]}).encode())
    assert reader.text_bytes >= minimum
    assert (reader.text_bytes > 0) == (minimum > 0)


@pytest.mark.parametrize(
    ("status", "name", "raised"),
    [
        (400, "INVALID_ARGUMENT", errors.ClientError),
        (401, "UNAUTHENTICATED", errors.ClientError),
        (402, "RESOURCE_EXHAUSTED", errors.ClientError),
        (403, "PERMISSION_DENIED", errors.ClientError),
        (404, "NOT_FOUND", errors.ClientError),
        (429, "RESOURCE_EXHAUSTED", errors.ClientError),
        (500, "INTERNAL", errors.ServerError),
        (501, "UNIMPLEMENTED", errors.ServerError),
        (502, "UNAVAILABLE", errors.ServerError),
        (504, "DEADLINE_EXCEEDED", errors.ServerError),
    ],
)
def test_the_vendors_client_raises_its_own_exception(status, name, raised):
    body = passthrough.write_error(status, "a_code", "label: the text", "req_1")
    with pytest.raises(raised) as caught:
        errors.APIError.raise_for_response(httpx2.Response(status, content=body, request=REQUEST))
    assert (caught.value.code, caught.value.status, caught.value.message) == (status, name, "label: the text")


def test_a_model_is_listed_under_its_resource_name():
    assert passthrough.write_model(ModelCard("a", "A Name"), "main/a") == {
        "name": "models/main/a",
        "baseModelId": "main/a",
        "displayName": "A Name",
        "supportedGenerationMethods": ["generateContent"],
    }


@pytest.mark.parametrize(
    ("body", "query"),
    [
        ({"nextPageToken": "t-2"}, {"pageSize": "1000", "pageToken": "t-2"}),
        ({"nextPageToken": ""}, None),
        ({"nextPageToken": 7}, None),
        ({}, None),
    ],
)
def test_the_query_of_the_next_page_of_a_list(body, query):
    assert passthrough.next_page(body) == query


WRAPPED = wrap(Signature("second", "S"))
# a part, and the part without wrapped signatures
PARTS = [
    ({"text": WRAPPED}, {"text": WRAPPED}),
    ({"text": "so", "thoughtSignature": WRAPPED}, {"text": "so"}),
    ({"text": "hm", "thought": True, "thoughtSignature": WRAPPED}, {"text": "hm", "thought": True}),
    ({"inlineData": {"data": "AAAA"}, "thought_signature": WRAPPED}, {"inlineData": {"data": "AAAA"}}),
    ({"text": "so", "thoughtSignature": "own"}, {"text": "so", "thoughtSignature": "own"}),
    # newer models require a signature in a call
    (
        {"functionCall": {"name": "f"}, "thoughtSignature": WRAPPED},
        {"functionCall": {"name": "f"}, "thoughtSignature": "skip_thought_signature_validator"},
    ),
    (
        {"function_call": {"name": "f"}, "thought_signature": WRAPPED},
        {"function_call": {"name": "f"}, "thoughtSignature": "skip_thought_signature_validator"},
    ),
    # a part that held nothing else is removed
    ({"text": "", "thoughtSignature": WRAPPED}, None),
    ({"thoughtSignature": WRAPPED}, None),
    ({"text": "", "thought": True, "thoughtSignature": WRAPPED}, None),
    # a malformed part is forwarded
    (7, 7),
]


@pytest.mark.parametrize(("part", "stripped"), PARTS)
def test_signatures_that_gproxy_wrapped_are_removed(part, stripped):
    body = {"x_novel": WRAPPED, "contents": [{"role": "model", "parts": [{"text": "first"}, part]}]}
    before = copy.deepcopy(body)
    kept = [{"text": "first"}, *([] if stripped is None else [stripped])]
    expected = {"x_novel": WRAPPED, "contents": [{"role": "model", "parts": kept}]}
    assert passthrough.without_wrapped_signatures(body) == expected
    counted = passthrough.without_wrapped_signatures({"generateContentRequest": body})
    assert counted == {"generateContentRequest": expected}
    assert body == before


def test_only_the_first_call_of_a_content_skips_the_validator():
    calls = [{"functionCall": {"name": "f"}, "thoughtSignature": WRAPPED}, {"functionCall": {"name": "g"}}]
    own = [{"functionCall": {"name": "f"}, "thoughtSignature": "own"}, calls[1]]
    body = {"contents": [{"parts": calls}, {"parts": own}]}
    (first, second) = passthrough.without_wrapped_signatures(body)["contents"]
    assert first["parts"] == [{"functionCall": {"name": "f"}, "thoughtSignature": SKIP_VALIDATOR}, calls[1]]
    assert second["parts"] == own


def test_a_content_that_held_nothing_else_is_removed():
    contents = [{"role": "model", "parts": [{"thoughtSignature": WRAPPED}]}, {"role": "user", "parts": [{"text": "a"}]}]
    assert passthrough.without_wrapped_signatures({"contents": contents}) == {"contents": contents[1:]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"contents": None},
        {"contents": {"parts": [{"text": "a"}]}},
        {"contents": [7, {"role": "user"}, {"parts": {"text": "a"}}]},
        {"content": {"parts": [{"text": WRAPPED}]}},
        {"requests": [{"content": {"parts": [{"text": WRAPPED}]}}]},
    ],
)
def test_a_body_without_wrapped_signatures_is_unchanged(body):
    assert passthrough.without_wrapped_signatures(body) == body
