"""Anthropic's count of tokens to and from the hub."""

import pytest
from anthropic.types import MessageTokensCount

from gproxy.errors import BadRequest
from gproxy.protocols import anthropic_messages
from gproxy.protocols.hub import Context, Format, Reasoning, Request, Target, Text, TokenCount, Tool, Turn
from gproxy.protocols.losses import Losses

CODEC = anthropic_messages.CODECS["count_tokens"]
TARGET = Target("main", "claude-sonnet-4-5")
CONTEXT = Context("asked", "main", "req_1", 0)
HELLO = (Turn("user", (Text("hi"),)),)


@pytest.mark.parametrize(
    ("request_", "written", "told"),
    [
        (Request(HELLO), {}, ()),
        # what says how it is answered is not counted, and so not lost
        (Request(HELLO, temperature=0.5, max_tokens=9, reasoning=Reasoning("high"), end_user="u"), {}, ()),
        (
            Request(HELLO, ("be brief",), (Tool("f", schema={"type": "object", "properties": {}}),)),
            {
                "system": "be brief",
                "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}}],
            },
            (),
        ),
    ],
)
def test_what_is_written(request_, written, told):
    losses = Losses()
    body = CODEC.write_request(request_, TARGET, losses)
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert body == {"model": "claude-sonnet-4-5", "messages": messages, **written}
    assert losses.names() == told


def test_a_format_is_counted_too():
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    body = CODEC.write_request(Request(HELLO, format=Format(schema)), TARGET, Losses())
    assert body["output_config"]["format"]["type"] == "json_schema"


def test_what_is_read():
    body = {"model": "asked", "system": "be brief", "messages": [{"role": "user", "content": "hi"}]}
    assert CODEC.read_request(body, Losses()) == Request(HELLO, ("be brief",))
    with pytest.raises(BadRequest, match="messages"):
        CODEC.read_request({"model": "asked", "messages": "hi"}, Losses())


@pytest.mark.parametrize(("body", "tokens"), [({"input_tokens": 12}, 12), ({}, 0), ({"input_tokens": "x"}, 0)])
def test_a_reply(body, tokens):
    found = CODEC.read_reply(body, CONTEXT, Losses())
    assert found == TokenCount(tokens)
    written = CODEC.write_reply(found, CONTEXT, Losses())
    assert written == {"input_tokens": tokens}
    MessageTokensCount.model_validate(written)
