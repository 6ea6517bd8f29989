"""Translates OpenAI's `input_tokens` bodies to and from the hub."""

import pytest
from openai.types.responses import InputTokenCountResponse

from gproxy.errors import BadRequest
from gproxy.protocols import hub, openai_responses
from gproxy.protocols.losses import Losses

CODEC = openai_responses.CODECS["count_tokens"]
TARGET = hub.Target("main", "gpt-4.1")
CONTEXT = hub.Context("asked", "main", "req_1", 0)
HELLO = (hub.Turn("user", (hub.Text("hi"),)),)


def test_a_count_request_is_written_without_fields_that_only_shape_the_reply():
    tool = hub.Tool("f", schema={"type": "object", "properties": {}})
    request = hub.Request(HELLO, ("be brief",), (tool,), temperature=0.5, max_tokens=99, store=True)
    body = CODEC.write_request(request, TARGET, Losses())
    assert body.keys() == {"model", "instructions", "input", "tools"}
    assert (body["model"], body["instructions"]) == ("gpt-4.1", "be brief")
    assert [item["role"] for item in body["input"]] == ["user"]
    assert body["tools"][0]["name"] == "f"


def test_a_count_request_is_read():
    assert CODEC.read_request({"model": "a", "input": "hi"}, Losses()) == hub.Request(HELLO)
    with pytest.raises(BadRequest, match="previous_response_id"):
        CODEC.read_request({"model": "a", "previous_response_id": "resp_1"}, Losses())


@pytest.mark.parametrize(("body", "tokens"), [({"input_tokens": 12}, 12), ({}, 0), ({"input_tokens": True}, 0)])
def test_a_count_reply_is_translated_both_ways(body, tokens):
    count = CODEC.read_reply(body, CONTEXT, Losses())
    assert count == hub.TokenCount(tokens)
    written = CODEC.write_reply(count, CONTEXT, Losses())
    assert written == {"object": "response.input_tokens", "input_tokens": tokens}
    InputTokenCountResponse.model_validate(written)
