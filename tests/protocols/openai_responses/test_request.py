"""Responses requests: items, contents and tools that few clients send, and what the vendor gets."""

import orjson
import pytest

from gproxy.errors import BadRequest
from gproxy.protocols import hub
from gproxy.protocols.losses import Losses
from gproxy.protocols.openai_responses import request as responses
from tests.conversations import MODEL, PNG, PROVIDER, WAV, Q


def read(*items: dict, **fields) -> tuple[hub.Request, set[str]]:
    losses = Losses()
    return responses.read_request({"model": "m", "input": [*items], **fields}, losses), set(losses.names())


def blocks(*items: dict) -> tuple[tuple, set[str]]:
    """Returns the blocks of all turns and the losses."""
    request, lost = read(*items)
    return tuple(block for turn in request.turns for block in turn.blocks), lost


def write(*turns: hub.Turn, refused=(), **more) -> tuple[dict, set[str]]:
    losses = Losses()
    target = hub.Target(PROVIDER, MODEL, refused=frozenset(refused))
    body = responses.write_request(hub.Request(turns or (Q,), **{"max_tokens": 999, **more}), target, losses)
    return {name: value for name, value in body.items() if value is not None}, set(losses.names())


ACTION = {"type": "exec", "command": ["ls"]}


@pytest.mark.parametrize(
    ("call", "tool", "action"),
    [
        ({"type": "local_shell_call", "call_id": "c1", "action": ACTION}, "local_shell", ACTION),
        ({"type": "shell_call", "id": "c1", "action": ACTION}, "shell", ACTION),
        ({"type": "apply_patch_call", "call_id": "c1", "operation": {"path": "a"}}, "apply_patch", {"path": "a"}),
    ],
)
@pytest.mark.parametrize(
    ("output", "text"),
    [("done", (hub.Text("done"),)), ([{"stdout": "a"}], (hub.Text('{"output":[{"stdout":"a"}]}'),)), ("", ())],
)
def test_a_call_that_the_client_ran_is_kept_with_its_output(call, tool, action, output, text):
    result = {"type": f"{call['type']}_output", "call_id": "c1", "output": output}
    (read_call, read_result), lost = blocks(call, result)
    assert (read_call.id, read_call.name) == ("c1", tool)
    assert orjson.loads(read_call.arguments) == {"action": action}
    assert read_result == hub.ToolResult("c1", text)
    assert lost == {f"input.{call['type']}"}


@pytest.mark.parametrize("kind", ["item_reference", "compaction"])
def test_an_item_that_only_its_vendor_has_is_refused(kind):
    with pytest.raises(BadRequest, match=rf": input\[0\]: {kind} refers to content that only its vendor has"):
        read({"type": kind, "id": "x"})


@pytest.mark.parametrize(("given", "media_type"), [({}, "image/png"), ({"output_format": "webp"}, "image/webp")])
def test_an_image_that_the_model_made_is_an_image_of_the_assistant(given, media_type):
    request, lost = read({"type": "image_generation_call", "id": "i", "result": PNG, **given})
    assert (request.turns, lost) == ((hub.Turn("assistant", (hub.Media("image", media_type, PNG),)),), set())
    assert read({"type": "image_generation_call", "id": "i", "result": None})[1] == {"input.image_generation_call"}


def test_audio_is_read_and_an_unknown_content_is_reported():
    audio = {"type": "input_audio", "input_audio": {"data": WAV, "format": "mp3"}}
    plain = {"type": "input_audio", "input_audio": {"data": WAV}}
    content = [
        audio,
        plain,
        {"type": "hologram"},
        {"type": "input_text", "text": "hi", "prompt_cache_breakpoint": True},
    ]
    found, lost = blocks({"role": "user", "content": content})
    assert found == (hub.Media("audio", "audio/mp3", WAV), hub.Media("audio", "audio/wav", WAV), hub.Text("hi"))
    assert lost == {"input.content.hologram", "input.content.prompt_cache_breakpoint"}


def test_fields_that_are_not_read_are_reported():
    item = {"role": "user", "content": "hi"}
    assert read(item, include=["file_search_call.results"])[1] == {"include"}
    assert read(item, truncation="auto")[1] == {"truncation"}
    assert read(item, truncation="disabled", include=["reasoning.encrypted_content"])[1] == set()


def test_tools_in_a_namespace_have_one_name():
    inner = [{"type": "function", "name": "read"}, {"type": "custom", "name": "sql", "format": {"type": "grammar"}}]
    request, lost = read(
        tools=[{"type": "namespace", "name": "db", "description": "a database", "tools": inner}, {"type": "telepathy"}]
    )
    assert request.tools == (hub.Tool("db__read", None, {}), hub.Tool("db__sql", None))
    assert lost == {"tools.namespace.description", "tools.custom.format", "tools.telepathy"}


def test_the_options_of_a_web_search_that_are_not_read_are_reported():
    search = {
        "type": "web_search_preview",
        "search_context_size": "low",
        "external_web_access": False,
        "filters": {"allowed_domains": ["a.com"]},
        "user_location": {"type": "approximate", "city": "Kyoto", "region": None},
    }
    request, lost = read(tools=[search])
    assert request.tools == (hub.WebSearch(("a.com",), place={"city": "Kyoto"}),)
    assert lost == {"tools.web_search.search_context_size", "tools.web_search.external_web_access"}


def test_the_verbosity_is_a_loss_only_for_a_model_that_refuses_it():
    body, lost = write(verbosity="low")
    assert (body["text"], lost) == ({"verbosity": "low"}, set())
    body, lost = write(verbosity="low", refused=["verbosity"])
    assert ("text" in body, lost) == (False, {"verbosity"})


def test_a_file_beside_text_is_sent_and_one_of_the_assistant_is_a_loss():
    image = hub.Media("image", "image/png", PNG)
    body, lost = write(hub.Turn("user", (hub.Text("see"), image)), hub.Turn("assistant", (hub.Text("ok"), image)), Q)
    assert [part["type"] for part in body["input"][0]["content"]] == ["input_text", "input_image"]
    assert body["input"][1]["content"] == [{"type": "output_text", "text": "ok", "annotations": []}]
    assert lost == {"image"}


def test_a_tool_that_fetches_pages_is_a_loss():
    body, lost = write(tools=(hub.WebFetch(), hub.CodeExecution()))
    assert ([tool["type"] for tool in body["tools"]], lost) == (["code_interpreter"], {"web_fetch"})
