"""Replies and streams of the Responses protocol: failures, tools of free text, and tools in a namespace."""

import pytest

from gproxy.protocols import hub
from gproxy.protocols.losses import Losses
from gproxy.protocols.openai_responses import reply as responses
from tests.conversations import REQUEST_WITH_TOOLS, context
from tests.sampled import documents

WITH_SHELL = context(REQUEST_WITH_TOOLS)  # its tool `shell` takes free text
CALL = hub.ToolCall("c1", "shell", "ls -l", is_custom=True)
ITEM = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "shell"}


def test_a_failed_response_is_a_failure_of_the_call():
    body = {"id": "r", "status": "failed", "output": [], "error": {"code": "rate_limit_exceeded", "message": "no"}}
    with pytest.raises(hub.StreamFailed) as caught:
        responses.read_reply(body, WITH_SHELL, Losses())
    assert (caught.value.failed.code, caught.value.failed.message) == ("rate_limit_exceeded", "no")


def test_a_call_of_a_function_that_stands_for_a_tool_of_free_text_is_unwrapped():
    whole = {"id": "r", "status": "completed", "output": [{**ITEM, "arguments": '{"input":"ls -l"}'}]}
    assert responses.read_reply(whole, WITH_SHELL, Losses()).answers[0].blocks == (CALL,)


@pytest.mark.parametrize("pieces", [['{"input":"ls -l"}'], ['{"input":', '"ls', ' -l"}'], []])
def test_the_text_of_such_a_call_in_a_stream_is_unwrapped_when_it_is_whole(pieces):
    place = {"output_index": 0, "item_id": "fc_1"}
    done = {**ITEM, "arguments": '{"input":"ls -l"}'}
    kind = "response.function_call_arguments"
    payloads = [
        {"type": "response.created", "response": {"id": "r", "model": "m"}},
        {"type": "response.output_item.added", **place, "item": {**ITEM, "arguments": ""}},
        *({"type": f"{kind}.delta", **place, "delta": piece} for piece in pieces),
        {"type": f"{kind}.done", **place, "arguments": done["arguments"]},
        {"type": "response.output_item.done", **place, "item": done},
        {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": [done]}},
    ]
    events = list(responses.read_stream(payloads, WITH_SHELL, Losses()))
    assert hub.fold(events).answers[0] == hub.Answer((CALL,), "tools")
    assert [event.text for event in events if isinstance(event, hub.Delta)] == ["ls -l"]


TOOLS = [
    {"type": "namespace", "name": "db", "tools": [{"type": "function", "name": "read"}, 7]},
    {"type": "function", "name": "f"},
    7,
]


@pytest.mark.parametrize("is_custom", [False, True])
@pytest.mark.parametrize(
    ("called", "names"),
    [("db__read", {"name": "read", "namespace": "db"}), ("f", {"name": "f"}), ("x__y", {"name": "x__y"})],
)
def test_a_call_of_a_tool_in_a_namespace_has_the_clients_names(called, names, is_custom):
    call = hub.ToolCall("c1", called, "{}", is_custom=is_custom)
    reply = hub.Reply("1", "m", (hub.Answer((call,), "tools"),))
    asked = context(body={"tools": TOOLS})
    streamed = documents(b"".join(responses.write_stream(hub.unfold(reply), asked, Losses())))
    for response in (responses.write_reply(reply, asked, Losses()), streamed[-1]["response"]):
        (item,) = response["output"]
        assert {name: item[name] for name in ("name", "namespace") if name in item} == names
