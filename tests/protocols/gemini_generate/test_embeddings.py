"""Translates embedContent and batchEmbedContents to and from the hub."""

import copy

import pytest
from google.genai.types import EmbedContentResponse

from gproxy.errors import BadRequest
from gproxy.protocols import gemini_generate, hub
from gproxy.protocols.losses import Losses

SINGLE, BATCH = gemini_generate.CODECS["embeddings"], gemini_generate.CODECS["batch_embeddings"]
TARGET = hub.Target("main", "gemini-embedding-001")
CONTEXT = hub.Context("asked", "main", "req_1", 0, hub.EmbeddingRequest(("a",)))


def content(*texts: str) -> dict:
    return {"content": {"parts": [{"text": text} for text in texts]}}


@pytest.mark.parametrize(
    ("body", "request_", "lost"),
    [
        (content("a"), hub.EmbeddingRequest(("a",)), ()),
        (content("a", "b"), hub.EmbeddingRequest(("a\nb",)), ()),  # the parts of one content are one text
        ({"content": "a"}, hub.EmbeddingRequest(("a",)), ()),
        (
            {**content("a"), "taskType": "RETRIEVAL_DOCUMENT", "title": "t", "outputDimensionality": 256},
            hub.EmbeddingRequest(("a",), 256, "RETRIEVAL_DOCUMENT", "t"),
            (),
        ),
        (
            {**content("a"), "task_type": "CLUSTERING", "output_dimensionality": "9"},
            hub.EmbeddingRequest(("a",), 9, "CLUSTERING"),
            (),
        ),
        (
            {**content("a"), "embedContentConfig": {"outputDimensionality": 9, "autoTruncate": True, "x": None}},
            *(hub.EmbeddingRequest(("a",), 9), ("embedContentConfig.autoTruncate",)),
        ),
        ({**content("a"), "model": "models/asked", "novel": 1, "y": None}, hub.EmbeddingRequest(("a",)), ("novel",)),
        ({**content("a"), "config": {"outputDimensionality": 9}}, hub.EmbeddingRequest(("a",)), ("config",)),
    ],
)
def test_a_request_is_read_alone_and_in_a_batch(body, request_, lost):
    losses = Losses(gemini_generate.NAMES)
    before = copy.deepcopy(body)
    assert SINGLE.read_request(body, losses) == request_
    assert losses.names() == lost
    assert body == before
    batch_losses = Losses(gemini_generate.NAMES)
    assert BATCH.read_request({"requests": [body]}, batch_losses) == request_
    assert batch_losses.names() == lost


def test_a_batch_is_read_as_one_request():
    options = {"taskType": "CLUSTERING", "outputDimensionality": 9}
    body = {"requests": [{**content("a"), **options}, {**content("b", "c"), **options}]}
    assert BATCH.read_request(body, Losses()) == hub.EmbeddingRequest(("a", "b\nc"), 9, "CLUSTERING")


@pytest.mark.parametrize(
    ("codec", "body", "message"),
    [
        (SINGLE, {}, "content: expected an object"),
        (SINGLE, {"content": None}, "content: expected an object"),
        (SINGLE, {"content": {"parts": [{"inlineData": {}}]}}, r"content.parts\[0\].text: expected a string"),
        (SINGLE, {**content("a"), "outputDimensionality": 0}, "outputDimensionality: must be at least 1"),
        (SINGLE, {**content("a"), "taskType": 7}, "taskType: expected a string"),
        (BATCH, {}, "requests: missing"),
        (BATCH, {"requests": []}, "requests: missing"),
        (BATCH, {"requests": [7]}, r"requests\[0\]: expected an object"),
        # other protocols have one set of options for a batch
        (BATCH, {"requests": [content("a"), {**content("b"), "title": "t"}]}, "must be the same in all of them"),
        (BATCH, {"requests": [content("a"), {**content("b"), "outputDimensionality": 9}]}, "must be the same"),
    ],
)
def test_an_unreadable_request_is_refused(codec, body, message):
    with pytest.raises(BadRequest, match=message):
        codec.read_request(body, Losses())


def test_a_request_is_written():
    model = {"model": "models/gemini-embedding-001"}
    assert BATCH.write_request(hub.EmbeddingRequest(("a", "b")), TARGET, Losses()) == {
        "requests": [{**model, **content("a")}, {**model, **content("b")}]
    }
    losses = Losses({"end_user": "user"})
    request = hub.EmbeddingRequest(("a",), 9, "CLUSTERING", "t", end_user="u-1")
    options = {"taskType": "CLUSTERING", "title": "t", "outputDimensionality": 9}
    assert SINGLE.write_request(request, TARGET, losses) == {**model, **options, **content("a")}
    assert losses.names() == ("user",)
    prefixed = hub.Target("main", "models/gemini-embedding-001")
    assert SINGLE.write_request(hub.EmbeddingRequest(("a",)), prefixed, Losses()) == {**model, **content("a")}
    with pytest.raises(BadRequest, match="one text at a time"):
        SINGLE.write_request(hub.EmbeddingRequest(("a", "b")), TARGET, Losses())


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        ({"embedding": {"values": [0.5, 1]}}, hub.Embeddings(((0.5, 1.0),))),
        ({"embeddings": [{"values": [0.5]}, {"values": [1]}]}, hub.Embeddings(((0.5,), (1,)))),
        (
            {"embeddings": [{"values": [0.5]}], "usageMetadata": {"promptTokenCount": 5}},
            hub.Embeddings(((0.5,),), hub.Usage(input_tokens=5)),
        ),
        ({"embeddings": [None, {"values": ["x"]}], "usageMetadata": 7}, hub.Embeddings(((), ()))),
        ({}, hub.Embeddings(((),))),
    ],
)
def test_a_reply_is_read(body, reply):
    assert SINGLE.read_reply(body, CONTEXT, Losses()) == reply
    assert BATCH.read_reply(body, CONTEXT, Losses()) == reply


def test_a_reply_is_written_for_one_text_and_for_a_batch():
    reply = hub.Embeddings(((0.5, 1.0), (2.0,)), hub.Usage(input_tokens=5))
    usage = {"usageMetadata": {"promptTokenCount": 5}}
    single = SINGLE.write_reply(hub.Embeddings(reply.vectors[:1], reply.usage), CONTEXT, Losses())
    assert single == {"embedding": {"values": [0.5, 1.0]}, **usage}
    batch = BATCH.write_reply(reply, CONTEXT, Losses())
    assert batch == {"embeddings": [{"values": [0.5, 1.0]}, {"values": [2.0]}], **usage}
    assert BATCH.read_reply(batch, CONTEXT, Losses()) == reply
    EmbedContentResponse.model_validate({"embeddings": batch["embeddings"]})
    without_usage = SINGLE.write_reply(hub.Embeddings(((0.5,),)), CONTEXT, Losses())
    assert without_usage == {"embedding": {"values": [0.5]}}
