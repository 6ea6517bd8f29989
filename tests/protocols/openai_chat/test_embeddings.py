"""OpenAI's embeddings to and from the hub."""

import base64
import copy
import struct

import pytest
from openai.types import CreateEmbeddingResponse

from gproxy.errors import BadRequest
from gproxy.protocols import openai_chat
from gproxy.protocols.hub import Context, EmbeddingRequest, Embeddings, Target, Usage
from gproxy.protocols.losses import Losses

CODEC = openai_chat.CODECS["embeddings"]
TARGET = Target("main", "text-embedding-3-small")
VECTORS = ((0.5, -0.25), (1.0, 2.0))


def packed(*vector: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def context(**more) -> Context:
    return Context("asked", "main", "req_1", 0, EmbeddingRequest(("a",), **more))


@pytest.mark.parametrize(
    ("body", "read", "told"),
    [
        ({"input": "a"}, EmbeddingRequest(("a",)), ()),
        ({"input": ["a", "b"]}, EmbeddingRequest(("a", "b")), ()),
        ({"input": "a", "encoding_format": "float"}, EmbeddingRequest(("a",)), ()),
        ({"input": "a", "encoding_format": "base64"}, EmbeddingRequest(("a",), is_packed=True), ()),
        ({"input": "a", "encoding_format": None, "dimensions": None, "user": None}, EmbeddingRequest(("a",)), ()),
        ({"input": "a", "dimensions": 256, "user": "u-1"}, EmbeddingRequest(("a",), 256, end_user="u-1"), ()),
        ({"input": "a", "input_type": "query", "x": None}, EmbeddingRequest(("a",)), ("input_type",)),
    ],
)
def test_what_is_read(body, read, told):
    losses = Losses(openai_chat.NAMES)
    body = {"model": "asked", **body}
    before = copy.deepcopy(body)
    assert CODEC.read_request(body, losses) == read
    assert losses.names() == told
    assert body == before


@pytest.mark.parametrize(
    ("body", "word"),
    [
        # tokens are those of one vendor
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
def test_what_is_refused(body, word):
    with pytest.raises(BadRequest, match=word):
        CODEC.read_request(body, Losses())


@pytest.mark.parametrize(
    ("request_", "written", "told"),
    [
        (EmbeddingRequest(("a",)), {"input": "a"}, ()),
        (
            EmbeddingRequest(("a", "b"), 256, end_user="u-1"),
            {"input": ["a", "b"], "dimensions": 256, "user": "u-1"},
            (),
        ),
        (EmbeddingRequest(("a",), task="RETRIEVAL_QUERY", title="t"), {"input": "a"}, ("taskType", "title")),
        (EmbeddingRequest(("a",), is_packed=True), {"input": "a"}, ()),
    ],
)
def test_what_is_written(request_, written, told):
    losses = Losses({"task": "taskType"})
    assert CODEC.write_request(request_, TARGET, losses) == {
        "model": "text-embedding-3-small",
        "encoding_format": "float",
        **written,
    }
    assert losses.names() == told


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (
            {
                "data": [{"index": 0, "embedding": [0.5, -0.25]}, {"index": 1, "embedding": [1, 2]}],
                "usage": {"prompt_tokens": 5, "total_tokens": 5},
            },
            Embeddings(VECTORS, Usage(input_tokens=5)),
        ),
        # in whatever order they come
        (
            {"data": [{"index": 1, "embedding": [1.0, 2.0]}, {"index": 0, "embedding": [0.5, -0.25]}]},
            Embeddings(VECTORS),
        ),
        # a host that leaves the index out, and one that packs without being asked
        ({"data": [{"embedding": [0.5, -0.25]}, {"embedding": packed(1.0, 2.0)}]}, Embeddings(VECTORS)),
        ({"data": [None, {"embedding": ["x", 1.5]}], "usage": 7}, Embeddings(((), (1.5,)))),
        ({}, Embeddings(())),
    ],
)
def test_what_is_read_of_a_reply(body, read):
    assert CODEC.read_reply(body, context(), Losses()) == read


def test_a_reply_as_the_client_asked_for_it():
    found = Embeddings(VECTORS, Usage(input_tokens=5))
    plain = CODEC.write_reply(found, context(), Losses())
    assert [row["embedding"] for row in plain["data"]] == [[0.5, -0.25], [1.0, 2.0]]
    assert [row["index"] for row in plain["data"]] == [0, 1]
    assert (plain["model"], plain["usage"]) == ("asked", {"prompt_tokens": 5, "total_tokens": 5})
    small = CODEC.write_reply(found, context(is_packed=True), Losses())
    assert [row["embedding"] for row in small["data"]] == [packed(0.5, -0.25), packed(1.0, 2.0)]
    assert {**small, "data": None} == {**plain, "data": None}
    CreateEmbeddingResponse.model_validate(plain)
    assert CODEC.read_reply(small, context(), Losses()) == CODEC.read_reply(plain, context(), Losses()) == found


def test_usage_that_the_upstream_did_not_tell_is_zero_in_a_shape_that_must_have_it():
    assert CODEC.write_reply(Embeddings(()), context(), Losses())["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
