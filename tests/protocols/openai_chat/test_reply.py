"""Chat replies and streams: failures, calls and media that only compatible hosts send."""

import pytest

from gproxy.protocols import hub, signatures
from gproxy.protocols.losses import Losses
from gproxy.protocols.openai_chat import reply as chat
from tests.conversations import PNG, PROVIDER, REQUEST_WITH_TOOLS, context
from tests.sampled import documents

DATA_URL = f"data:image/png;base64,{PNG}"
WITH_SHELL = context(REQUEST_WITH_TOOLS)  # its tool `shell` takes free text


def read(choice: dict) -> tuple[tuple[hub.Block, ...], set[str]]:
    losses = Losses()
    reply = chat.read_reply({"id": "1", "choices": [choice]}, WITH_SHELL, losses)
    return reply.answers[0].blocks, set(losses.names())


def read_stream(*choices: dict) -> tuple[list, set[str]]:
    losses = Losses()
    payloads = [{"id": "1", "choices": [choice]} for choice in choices]
    return list(chat.read_stream(payloads, WITH_SHELL, losses)), set(losses.names())


def delta(**fields) -> dict:
    return {"index": 0, "delta": fields}


def function(name: str, arguments, call_id: str = "c1") -> dict:
    return {"id": call_id, "type": "function", "index": 0, "function": {"name": name, "arguments": arguments}}


def test_audio_is_a_loss_in_a_reply_and_in_a_stream():
    assert read({"message": {"content": "hi", "audio": {"id": "a"}}}) == ((hub.Text("hi"),), {"message.audio"})
    events, lost = read_stream(
        delta(content="hi", audio={"id": "a"}), {"index": 0, "delta": {}, "finish_reason": "stop"}
    )
    assert hub.fold(events).answers[0].blocks == (hub.Text("hi"),)
    assert lost == {"delta.audio"}


@pytest.mark.parametrize(
    ("choice", "failure"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, (429, "api_error", "slow down")),
        ({"error": "it broke"}, (500, "api_error", "it broke")),
        ({}, (502, "upstream_error", "the upstream reported a failure without a reason")),
        ({"error": {"code": 429}}, (502, "upstream_error", "the upstream reported a failure without a reason")),
    ],
)
def test_a_choice_that_failed_is_a_failure_of_the_call(choice, failure):
    with pytest.raises(hub.StreamFailed) as caught:
        read({"message": {"content": "It is"}, "finish_reason": "error", **choice})
    assert caught.value.failed == hub.Failed(*failure)
    events, _ = read_stream(
        delta(content="It is"), {"index": 0, "delta": {}, "finish_reason": "error", **choice}, delta(content="never")
    )
    assert events[-2:] == [hub.Close(0), hub.Failed(*failure)]
    assert hub.Delta(0, "It is") in events


def test_a_call_of_a_function_that_stands_for_a_tool_of_free_text_is_unwrapped():
    call = hub.ToolCall("c1", "shell", "ls -l", is_custom=True)
    assert read({"message": {"tool_calls": [function("shell", '{"input":"ls -l"}')]}})[0] == (call,)
    events, _ = read_stream(
        delta(tool_calls=[function("shell", '{"input":')]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '"ls -l"}'}}]),
        {"index": 0, "delta": {}, "finish_reason": "tool_calls"},
    )
    assert hub.fold(events).answers[0].blocks == (call,)
    assert [event.text for event in events if isinstance(event, hub.Delta)] == ["ls -l"], "the text is written whole"


def test_arguments_that_a_host_sends_as_an_object_are_text():
    assert read({"message": {"tool_calls": [function("f", {"a": 1})]}})[0] == (hub.ToolCall("c1", "f", '{"a":1}'),)


@pytest.mark.parametrize("levels", [1, 2, 500])
def test_texts_of_parts_are_joined_and_nested_parts_are_not_walked(levels):
    nested: object = "inside"
    for _ in range(levels):
        nested = [{"text": nested}]
    content = [{"type": "text", "text": "It "}, {"type": "text", "text": nested}, 7, {"text": "is"}]
    assert read({"message": {"content": content}})[0] == (hub.Text("It is"),)


def test_an_image_beside_text_is_written_in_the_message():
    blocks = (hub.Text("Here."), hub.Media("image", "image/png", PNG))
    written = chat.write_reply(hub.Reply("1", "m", (hub.Answer(blocks, "stop"),)), WITH_SHELL, Losses())
    message = written["choices"][0]["message"]
    assert message["content"] == "Here."
    assert [image["image_url"]["url"] for image in message["images"]] == [DATA_URL]


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        (hub.ToolCall("c1", "f", ""), {"function": {"arguments": ""}}),
        (hub.ToolCall("c1", "shell", "", is_custom=True), {"custom": {"input": ""}}),
    ],
)
def test_a_signature_that_arrives_after_its_call_is_written_in_a_chunk_of_the_call(call, fields):
    signature = hub.Signature(PROVIDER, "c2ln")
    events = [
        hub.Start("1", "m"),
        hub.Open(0, call),
        hub.Signed(0, signature),
        hub.Close(0),
        hub.Finish("tools"),
        hub.End(),
    ]
    written = b"".join(chat.write_stream(events, WITH_SHELL, Losses()))
    deltas = [
        c["delta"]["tool_calls"][0] for d in documents(written) for c in d["choices"] if "tool_calls" in c["delta"]
    ]
    signed = [found for found in deltas if "extra_content" in found]
    assert signed == [
        {"index": 0, **fields, "extra_content": {"google": {"thought_signature": signatures.wrap(signature)}}}
    ]


def test_a_signature_of_text_has_no_place_in_a_chat_stream():
    start = [hub.Start("1", "m"), hub.Open(0, hub.Text("")), hub.Delta(0, "hi")]
    end = [hub.Close(0), hub.Finish("stop"), hub.End()]
    signed = hub.Signed(0, hub.Signature(PROVIDER, "c2ln"))
    written = b"".join(chat.write_stream([*start, signed, *end], WITH_SHELL, Losses()))
    assert written == b"".join(chat.write_stream([*start, *end], WITH_SHELL, Losses()))


def test_an_image_that_is_not_base64_fails_the_stream():
    events, _ = read_stream(delta(content="hi"), delta(images=[{"image_url": {"url": "data:image/png;base64,!"}}]))
    assert (events[-1].status, events[-1].code) == (502, "upstream_error")
    assert events[-1].message.startswith("the upstream's reply cannot be translated: ")
