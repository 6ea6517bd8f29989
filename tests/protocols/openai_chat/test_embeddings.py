"""Translates OpenAI's embeddings to and from the hub."""

import base64
import copy
import struct

import pytest
from openai.types import CreateEmbeddingResponse

from gproxy.errors import BadRequest
from gproxy.protocols import hub, openai_chat
from gproxy.protocols.losses import Losses

CODEC = openai_chat.CODECS["embeddings"]
TARGET = hub.Target("main", "text-embedding-3-small")
VECTORS = ((0.5, -0.25), (1.0, 2.0))


def packed(*vector: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def context(**more) -> hub.Context:
    return hub.Context("asked", "main", "req_1", 0, hub.EmbeddingRequest(("a",), **more))


@pytest.mark.parametrize(
    ("body", "request_", "lost"),
    [
        ({"input": "a"}, hub.EmbeddingRequest(("a",)), ()),
        ({"input": ["a", "b"]}, hub.EmbeddingRequest(("a", "b")), ()),
        ({"input": "a", "encoding_format": "float"}, hub.EmbeddingRequest(("a",)), ()),
        ({"input": "a", "encoding_format": "base64"}, hub.EmbeddingRequest(("a",), is_packed=True), ()),
        ({"input": "a", "encoding_format": None, "dimensions": None, "user": None}, hub.EmbeddingRequest(("a",)), ()),
        ({"input": "a", "dimensions": 256, "user": "u-1"}, hub.EmbeddingRequest(("a",), 256, end_user="u-1"), ()),
        ({"input": "a", "input_type": "query", "x": None}, hub.EmbeddingRequest(("a",)), ("input_type",)),
    ],
)
def test_a_request_is_read(body, request_, lost):
    losses = Losses(openai_chat.NAMES)
    body = {"model": "asked", **body}
    before = copy.deepcopy(body)
    assert CODEC.read_request(body, losses) == request_
    assert losses.names() == lost
    assert body == before


@pytest.mark.parametrize(
    ("body", "message"),
    [
        # tokens of one vendor mean nothing to another
        ({"input": [1, 2, 3]}, "input: token arrays"),
        ({"input": [[1, 2], [3]]}, "input: token arrays"),
        ({"input": ["a", 5]}, r"input\[1\]: expected a string"),
        ({"input": []}, "input: missing"),
        ({}, "input: missing"),
        ({"input": None}, "input: missing"),
        ({"input": {"text": "a"}}, "input: expected a list"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format: 'int8' is unknown"),
        ({"input": "a", "dimensions": 0}, "dimensions: must be at least 1"),
        ({"input": "a", "dimensions": "many"}, "dimensions: expected"),
        ({"input": "a", "user": 7}, "user: expected a string"),
    ],
)
def test_an_unreadable_request_is_refused(body, message):
    with pytest.raises(BadRequest, match=message):
        CODEC.read_request(body, Losses())


@pytest.mark.parametrize(
    ("request_", "written", "lost"),
    [
        (hub.EmbeddingRequest(("a",)), {"input": "a"}, ()),
        (
            hub.EmbeddingRequest(("a", "b"), 256, end_user="u-1"),
            {"input": ["a", "b"], "dimensions": 256, "user": "u-1"},
            (),
        ),
        (hub.EmbeddingRequest(("a",), task="RETRIEVAL_QUERY", title="t"), {"input": "a"}, ("taskType", "title")),
        (hub.EmbeddingRequest(("a",), is_packed=True), {"input": "a"}, ()),
    ],
)
def test_a_request_is_written(request_, written, lost):
    losses = Losses({"task": "taskType"})
    assert CODEC.write_request(request_, TARGET, losses) == {
        "model": "text-embedding-3-small",
        "encoding_format": "float",
        **written,
    }
    assert losses.names() == lost


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        (
            {
                "data": [{"index": 0, "embedding": [0.5, -0.25]}, {"index": 1, "embedding": [1, 2]}],
                "usage": {"prompt_tokens": 5, "total_tokens": 5},
            },
            hub.Embeddings(VECTORS, hub.Usage(input_tokens=5)),
        ),
        # in any order
        (
            {"data": [{"index": 1, "embedding": [1.0, 2.0]}, {"index": 0, "embedding": [0.5, -0.25]}]},
            hub.Embeddings(VECTORS),
        ),
        # without an index, and base64 although floats were requested
        ({"data": [{"embedding": [0.5, -0.25]}, {"embedding": packed(1.0, 2.0)}]}, hub.Embeddings(VECTORS)),
        ({"data": [None, {"embedding": ["x", 1.5]}], "usage": 7}, hub.Embeddings(((), (1.5,)))),
        ({}, hub.Embeddings(())),
    ],
)
def test_a_reply_is_read(body, reply):
    assert CODEC.read_reply(body, context(), Losses()) == reply


def test_a_reply_is_written_in_the_requested_encoding():
    reply = hub.Embeddings(VECTORS, hub.Usage(input_tokens=5))
    as_floats = CODEC.write_reply(reply, context(), Losses())
    assert [row["embedding"] for row in as_floats["data"]] == [[0.5, -0.25], [1.0, 2.0]]
    assert [row["index"] for row in as_floats["data"]] == [0, 1]
    assert (as_floats["model"], as_floats["usage"]) == ("asked", {"prompt_tokens": 5, "total_tokens": 5})
    as_base64 = CODEC.write_reply(reply, context(is_packed=True), Losses())
    assert [row["embedding"] for row in as_base64["data"]] == [packed(0.5, -0.25), packed(1.0, 2.0)]
    assert {**as_base64, "data": None} == {**as_floats, "data": None}
    CreateEmbeddingResponse.model_validate(as_floats)
    assert CODEC.read_reply(as_base64, context(), Losses()) == CODEC.read_reply(as_floats, context(), Losses()) == reply


def test_usage_that_the_upstream_did_not_report_is_written_as_zero():
    assert CODEC.write_reply(hub.Embeddings(()), context(), Losses())["usage"] == {
        "prompt_tokens": 0,
        "total_tokens": 0,
    }
