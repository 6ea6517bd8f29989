"""Gemini replies and streams: an upstream without an answer, and parts that have nothing to write."""

import orjson
import pytest

from gproxy import protocols
from gproxy.protocols import hub, signatures
from gproxy.protocols.gemini_generate import reply as gemini
from gproxy.protocols.losses import Losses
from tests.conversations import PROVIDER, context
from tests.sampled import documents

SIGNED = hub.Signature(PROVIDER, "c2ln")


@pytest.mark.parametrize("payloads", [[], [{"responseId": "r", "usageMetadata": {"promptTokenCount": 3}}]])
def test_a_stream_without_a_candidate_fails_and_does_not_end(payloads):
    events = list(gemini.read_stream(payloads, context(), Losses()))
    assert events[-1] == hub.Failed(502, "upstream_error", "the upstream sent no answer")
    assert not [event for event in events if isinstance(event, hub.Finish | hub.Used | hub.End)]


def test_a_signature_that_arrives_after_its_call_is_written_with_the_call():
    call = hub.ToolCall("c1", "f", "")
    head = [hub.Start("1", "m"), hub.Open(0, call), hub.Delta(0, '{"a":1}'), hub.Signed(0, SIGNED), hub.Close(0)]
    written = b"".join(gemini.write_stream([*head, hub.Finish("tools"), hub.End()], context(), Losses()))
    parts = [
        p for d in documents(written) for c in d.get("candidates", ()) for p in c.get("content", {}).get("parts", ())
    ]
    (found,) = [part for part in parts if "functionCall" in part]
    assert found["functionCall"]["args"] == {"a": 1}
    assert found["thoughtSignature"] == signatures.wrap(SIGNED)


def test_thinking_without_text_and_signature_is_not_written():
    blocks = (hub.Thinking(""), hub.Thinking("", SIGNED), hub.Text("hi"))
    written = gemini.write_reply(hub.Reply("1", "m", (hub.Answer(blocks, "stop"),)), context(), Losses())
    assert written["candidates"][0]["content"]["parts"] == [
        {"text": "", "thought": True, "thoughtSignature": signatures.wrap(SIGNED)},
        {"text": "hi"},
    ]


@pytest.mark.parametrize(("retry_s", "delays"), [(None, []), (0, ["0.000s"]), (1.5, ["1.500s"])])
def test_the_delay_before_a_retry_is_a_detail_of_the_error(retry_s, delays):
    error = orjson.loads(protocols.load()["gemini"].write_error(429, "rate_limited", "slow down", "req_1", retry_s))
    assert (error["error"]["code"], error["error"]["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert [detail["retryDelay"] for detail in error["error"]["details"] if "retryDelay" in detail] == delays
