"""Translates Anthropic's `count_tokens` bodies to and from the hub."""

import pytest
from anthropic.types import MessageTokensCount

from gproxy.errors import BadRequest
from gproxy.protocols import anthropic_messages, hub
from gproxy.protocols.losses import Losses

CODEC = anthropic_messages.CODECS["count_tokens"]
TARGET = hub.Target("main", "claude-sonnet-4-5")
CONTEXT = hub.Context("asked", "main", "req_1", 0)
HELLO = (hub.Turn("user", (hub.Text("hi"),)),)


@pytest.mark.parametrize(
    ("request_", "written", "lost"),
    [
        (hub.Request(HELLO), {}, ()),
        # fields that only shape the reply are not counted, so leaving them out is no loss
        (hub.Request(HELLO, temperature=0.5, max_tokens=9, reasoning=hub.Reasoning("high"), end_user="u"), {}, ()),
        (
            hub.Request(HELLO, ("be brief",), (hub.Tool("f", schema={"type": "object", "properties": {}}),)),
            {
                "system": "be brief",
                "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}}}],
            },
            (),
        ),
    ],
)
def test_a_count_request_is_written_without_sampling_and_limits(request_, written, lost):
    losses = Losses()
    body = CODEC.write_request(request_, TARGET, losses)
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    assert body == {"model": "claude-sonnet-4-5", "messages": messages, **written}
    assert losses.names() == lost


def test_an_output_format_is_counted_too():
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    body = CODEC.write_request(hub.Request(HELLO, format=hub.Format(schema)), TARGET, Losses())
    assert body["output_config"]["format"]["type"] == "json_schema"


def test_a_count_request_is_read():
    body = {"model": "asked", "system": "be brief", "messages": [{"role": "user", "content": "hi"}]}
    assert CODEC.read_request(body, Losses()) == hub.Request(HELLO, ("be brief",))
    with pytest.raises(BadRequest, match="messages"):
        CODEC.read_request({"model": "asked", "messages": "hi"}, Losses())


@pytest.mark.parametrize(("body", "tokens"), [({"input_tokens": 12}, 12), ({}, 0), ({"input_tokens": "x"}, 0)])
def test_a_count_reply_is_translated_both_ways(body, tokens):
    count = CODEC.read_reply(body, CONTEXT, Losses())
    assert count == hub.TokenCount(tokens)
    written = CODEC.write_reply(count, CONTEXT, Losses())
    assert written == {"input_tokens": tokens}
    MessageTokensCount.model_validate(written)
