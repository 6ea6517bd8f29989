"""Translates Gemini's countTokens bodies to and from the hub."""

import pytest
from google.genai.types import CountTokensResponse

from gproxy.errors import BadRequest
from gproxy.protocols import gemini_generate, hub
from gproxy.protocols.losses import Losses

CODEC = gemini_generate.CODECS["count_tokens"]
CONTEXT = hub.Context("asked", "main", "req_1", 0)
HELLO = (hub.Turn("user", (hub.Text("hi"),)),)
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
SYSTEM = {"systemInstruction": {"parts": [{"text": "be brief"}]}}


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        (CONTENTS, hub.Request(HELLO)),
        ({"generateContentRequest": {"model": "models/a", **CONTENTS, **SYSTEM}}, hub.Request(HELLO, ("be brief",))),
        ({"generate_content_request": {**CONTENTS, **SYSTEM}}, hub.Request(HELLO, ("be brief",))),
        ({"generateContentRequest": None, **CONTENTS}, hub.Request(HELLO)),
    ],
)
def test_a_count_request_is_read(body, request_):
    assert CODEC.read_request(body, Losses()) == request_


@pytest.mark.parametrize("body", [{"generateContentRequest": 7}, {"contents": 7}, {"contents": [7]}])
def test_an_unreadable_count_request_is_refused(body):
    with pytest.raises(BadRequest, match=r"contents|generateContentRequest"):
        CODEC.read_request(body, Losses())


@pytest.mark.parametrize("model", ["gemini-2.5-flash", "models/gemini-2.5-flash"])
def test_a_count_request_is_written_whole(model):
    """`contents` alone would omit the system instruction and the tools."""
    body = CODEC.write_request(hub.Request(HELLO, ("be brief",)), hub.Target("main", model), Losses())
    assert body == {"generateContentRequest": {"model": "models/gemini-2.5-flash", **CONTENTS, **SYSTEM}}
    assert CODEC.read_request(body, Losses()) == hub.Request(HELLO, ("be brief",))


@pytest.mark.parametrize(("body", "tokens"), [({"totalTokens": 12}, 12), ({}, 0), ({"totalTokens": -1}, 0)])
def test_a_count_reply_is_translated_both_ways(body, tokens):
    count = CODEC.read_reply(body, CONTEXT, Losses())
    assert count == hub.TokenCount(tokens)
    written = CODEC.write_reply(count, CONTEXT, Losses())
    assert written == {"totalTokens": tokens}
    CountTokensResponse.model_validate(written)
