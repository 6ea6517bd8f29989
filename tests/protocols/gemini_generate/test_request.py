"""Gemini requests: parts and tools that few clients send, and what the vendor gets."""

import pytest

from gproxy.errors import BadRequest
from gproxy.protocols import hub, signatures
from gproxy.protocols.gemini_generate import request as gemini
from gproxy.protocols.losses import Losses
from tests.conversations import MODEL, PNG, PROVIDER, F, Q

SIGNED = hub.Signature(PROVIDER, "c2ln")


def read(*parts: dict, role: str = "user", **fields) -> tuple[hub.Request, set[str]]:
    losses = Losses()
    return gemini.read_request({"contents": [{"role": role, "parts": [*parts]}], **fields}, losses), set(losses.names())


def blocks(*parts: dict, role: str = "user") -> tuple[tuple, set[str]]:
    request, lost = read({"text": "hi"}, *parts, role=role)
    return request.turns[0].blocks[1:], lost


def write(*turns: hub.Turn, refused=(), **more) -> tuple[dict, set[str]]:
    losses = Losses()
    target = hub.Target(PROVIDER, MODEL, refused=frozenset(refused))
    return gemini.write_request(hub.Request(turns or (Q,), **more), target, losses), set(losses.names())


def test_content_that_the_vendor_keeps_is_refused():
    with pytest.raises(BadRequest, match=": cachedContent: the content is kept by the vendor"):
        read({"text": "hi"}, cachedContent="cachedContents/1")


@pytest.mark.parametrize(
    ("modalities", "lost"),
    [(["TEXT"], set()), (None, set()), ([], set()), (["IMAGE"], {"generationConfig.responseModalities"})],
)
def test_an_output_other_than_text_is_reported(modalities, lost):
    assert read({"text": "hi"}, generationConfig={"responseModalities": modalities})[1] == lost


@pytest.mark.parametrize("field", ["videoMetadata", "mediaResolution", "video_metadata"])
def test_a_field_of_a_part_that_is_not_read_is_reported(field):
    request, lost = read({"text": "hi", field: {"fps": 1}})
    assert request.turns[0].blocks == (hub.Text("hi"),)
    assert lost == {f"contents.parts.{field if field != 'video_metadata' else 'videoMetadata'}"}


def test_code_that_the_vendor_ran_and_its_output_become_text():
    code = {"executableCode": {"language": "PYTHON", "code": "1+1"}}
    result = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2"}}
    (written, output), lost = blocks(code, result)
    assert "python\n1+1" in written.text
    assert "2" in output.text and "OUTCOME" not in output.text
    assert lost == {"contents.parts.executableCode", "contents.parts.codeExecutionResult"}


@pytest.mark.parametrize(
    ("part", "lost"),
    [
        ({"hologram": {}}, {"contents.parts.hologram"}),
        ({}, {"contents.parts"}),
        ({"thought": True}, {"contents.parts"}),
    ],
)
def test_a_part_of_an_unknown_kind_is_reported(part, lost):
    assert blocks(part) == ((), lost)


def test_a_signature_without_a_text_is_a_thinking_of_its_own():
    part = {"thoughtSignature": signatures.wrap(SIGNED)}
    assert blocks(part, role="model") == ((hub.Thinking("", SIGNED),), set())
    request, lost = read({"text": "so", **part}, role="model")
    assert (request.turns[0].blocks, lost) == ((hub.Text("so"), hub.Thinking("", SIGNED)), set())


def test_files_within_a_result_are_kept():
    part = {"inlineData": {"mimeType": "image/png", "data": PNG}}
    response = {"name": "f", "id": "c1", "response": {"output": "see"}, "parts": [part, {"text": "dropped"}]}
    (_, result), _ = blocks({"functionCall": {"name": "f", "id": "c1"}}, {"functionResponse": response})
    assert result.blocks == (hub.Text("see"), hub.Media("image", "image/png", PNG))


def test_a_response_without_an_id_answers_the_first_call_that_has_no_response():
    calls = [{"functionCall": {"name": "f", "id": call_id}} for call_id in ("c1", "c2")]
    by_id = {"functionResponse": {"name": "f", "id": "c1", "response": {"output": "1"}}}
    by_name = {"functionResponse": {"name": "f", "response": {"output": "2"}}}
    contents = [{"role": "model", "parts": calls}, {"role": "user", "parts": [by_id, by_name]}]
    request = gemini.read_request({"contents": contents}, Losses())
    assert [(block.call_id, block.blocks[0].text) for block in request.turns[1].blocks] == [("c1", "1"), ("c2", "2")]


def test_tools_that_are_not_known_are_reported():
    declared = {"name": "f", "behavior": "BLOCKING", "response": {"type": "STRING"}}
    tools = [{"functionDeclarations": [declared]}, {"urlContext": {}}, {"telepathy": {}, "googleMaps": None}]
    request, lost = read({"text": "hi"}, tools=tools)
    assert [type(tool) for tool in request.tools] == [hub.Tool, hub.WebFetch]
    assert lost == {
        "tools.functionDeclarations.behavior",
        "tools.functionDeclarations.response",
        "tools.telepathy",
    }


def test_a_signature_of_thinking_without_text_is_sent_with_what_follows():
    signed = hub.Thinking("", SIGNED)
    call = hub.ToolCall("c1", "f", "{}")
    result = hub.Turn("user", (hub.ToolResult("c1", (hub.Text("1"),)),))
    alone = {"text": "", "thoughtSignature": "c2ln"}

    def parts(*model_blocks) -> list[dict]:
        return write(Q, hub.Turn("assistant", model_blocks), result)[0]["contents"][1]["parts"]

    assert parts(signed, call)[0]["thoughtSignature"] == "c2ln"
    assert parts(signed, hub.Text("so"), call)[:2] == [alone, {"text": "so"}]
    assert write(Q, hub.Turn("assistant", (hub.Text("so"), signed)), Q)[0]["contents"][1]["parts"][-1] == alone


def test_only_images_of_the_assistant_are_sent():
    image, audio = hub.Media("image", "image/png", PNG), hub.Media("audio", "audio/wav", PNG)
    body, lost = write(Q, hub.Turn("assistant", (hub.Text("ok"), image, audio)), Q)
    assert body["contents"][1]["parts"] == [{"text": "ok"}, {"inlineData": {"mimeType": "image/png", "data": PNG}}]
    assert lost == {"audio"}


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ('{"a": 1}', {"a": 1}),
        ('{"a": ', {"output": '{"a": '}),
        ("[1]", {"output": "[1]"}),
        ("42", {"output": "42"}),
    ],
)
def test_the_text_of_a_result_is_an_object_or_its_output(text, response):
    called = hub.Turn("assistant", (hub.ToolCall("c1", "f", "{}"),))
    body, _ = write(Q, called, hub.Turn("user", (hub.ToolResult("c1", (hub.Text(text),)),)))
    assert body["contents"][-1]["parts"][0]["functionResponse"]["response"] == response


def test_the_vendors_own_tools_are_a_loss_only_beside_functions():
    own = (hub.WebSearch(), hub.CodeExecution(), hub.WebFetch())
    body, lost = write(tools=own)
    assert (body["tools"], lost) == ([{"googleSearch": {}}, {"codeExecution": {}}, {"urlContext": {}}], set())
    body, lost = write(tools=(F, *own))
    assert [list(tool) for tool in body["tools"]] == [["functionDeclarations"]]
    assert lost == {"web_search", "code_execution", "web_fetch"}


def test_a_field_that_the_model_refuses_is_left_out_and_reported_if_it_was_set():
    name, places = next(iter(gemini.REFUSED.items()))
    body, lost = write(refused=[name], **{name: 0.5})
    assert lost == {name}
    assert not set(places) & body.get("generationConfig", {}).keys()
    assert write(refused=[name])[1] == set()
