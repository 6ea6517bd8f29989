"""Chat requests: messages, parts and tools that few clients send, and what each host gets."""

import pytest

from gproxy.errors import BadRequest
from gproxy.protocols import hub
from gproxy.protocols.losses import Losses
from gproxy.protocols.openai_chat import request as chat
from tests.conversations import MODEL, PDF, PNG, PROVIDER, SHELL, Q

USER = {"role": "user", "content": "hi"}


def read(*messages: dict, **fields) -> tuple[hub.Request, set[str]]:
    losses = Losses()
    return chat.read_request({"model": "m", "messages": [*messages], **fields}, losses), set(losses.names())


def blocks(message: dict) -> tuple[tuple, set[str]]:
    """Returns the blocks of a message and the losses."""
    request, lost = read(message)
    return request.turns[0].blocks, lost


def part(**fields) -> dict:
    return {"role": "user", "content": [fields]}


def write(*turns: hub.Turn, traits=(), **more) -> tuple[dict, set[str]]:
    losses = Losses()
    target = hub.Target(PROVIDER, MODEL, traits=frozenset(traits))
    body = chat.write_request(hub.Request(turns or (Q,), **{"max_tokens": 9, **more}), target, losses)
    return {name: value for name, value in body.items() if value is not None}, set(losses.names())


def test_a_legacy_function_message_is_the_result_of_the_newest_call_of_that_function():
    called = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f"}}]}
    newer = {"role": "assistant", "function_call": {"name": "f", "arguments": '{"a":1}'}}
    request, lost = read(USER, called, newer, {"role": "function", "name": "f", "content": "42"})
    assert lost == set()
    assert [block for turn in request.turns[1:] for block in turn.blocks] == [
        hub.ToolCall("c1", "f", ""),
        hub.ToolCall("function_call_f", "f", '{"a":1}'),
        hub.ToolResult("function_call_f", (hub.Text("42"),), name="f"),
    ]
    request, _ = read(USER, called, {"role": "function", "name": "f", "content": ""})
    assert request.turns[-1].blocks == (hub.ToolResult("c1", (), name="f"),)
    request, _ = read(USER, {"role": "function", "name": "g", "content": "42"})
    assert request.turns[-1].blocks[-1].call_id == "function_call_g"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({**USER, "name": "jane"}, "messages.name"),
        ({"role": "assistant", "content": "hi", "audio": {"id": "a"}}, "messages.audio"),
        (part(type="text", text="hi", cache_control={"type": "ephemeral"}), "cache_control"),
        (part(type="text", text="hi", prompt_cache_breakpoint=True), "messages.content.prompt_cache_breakpoint"),
    ],
)
def test_a_field_of_a_message_that_is_not_read_is_reported(message, field):
    assert blocks(message) == ((hub.Text("hi"),), {field})


def test_a_kind_of_part_that_is_not_known_is_reported():
    message = {"role": "user", "content": [{"type": "hologram"}, {"type": "text", "text": "hi"}]}
    assert blocks(message) == ((hub.Text("hi"),), {"messages.content.hologram"})


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "refusal": "no"},
    ],
)
def test_a_refusal_is_read_from_a_part_and_from_a_field(message):
    assert blocks(message) == ((hub.Refusal("no"),), set())


@pytest.mark.parametrize(
    ("file", "media"),
    [
        ({"filename": "a.pdf", "file_data": PDF}, hub.Media("file", "application/pdf", PDF, name="a.pdf")),
        ({"filename": "a.png", "file_data": PNG}, hub.Media("image", "image/png", PNG, name="a.png")),
        ({"file_data": f"data:application/pdf;base64,{PDF}"}, hub.Media("file", "application/pdf", PDF)),
        ({"file_url": "https://a.com/x"}, hub.Media("file", url="https://a.com/x")),
        (
            {"file_id": "file-1", "filename": "a.pdf"},
            hub.Media("file", "application/pdf", file_id="file-1", name="a.pdf"),
        ),
    ],
)
def test_a_file_is_data_an_address_or_an_id(file, media):
    assert blocks(part(type="file", file=file)) == ((media,), set())


def test_a_signature_that_gproxy_did_not_wrap_is_a_loss_and_the_text_of_the_thinking_stays():
    details = [{"type": "reasoning.text", "text": "hidden", "signature": "foreign"}]
    message = {"role": "assistant", "content": "hi", "reasoning_content": "hm", "reasoning_details": details}
    assert blocks(message) == ((hub.Thinking("hm"), hub.Text("hi")), {"signature"})
    assert blocks({"role": "assistant", "content": "hi", "reasoning": "hm"})[0][0] == hub.Thinking("hm")
    assert blocks({"role": "assistant", "content": "hi", "reasoning": ["hm"]})[0] == (hub.Text("hi"),)


def test_tools_are_functions_free_texts_and_legacy_functions():
    grammar = {"type": "custom", "custom": {"name": "sql", "format": {"type": "grammar", "grammar": {}}}}
    declared = [{"type": "function", "function": {"name": "f", "strict": True}}, grammar, {"type": "telepathy"}]
    request, lost = read(USER, tools=declared, functions=[{"name": "old", "description": "d"}])
    assert request.tools == (
        hub.Tool("f", None, {}, True),
        hub.Tool("sql", None),
        hub.Tool("old", "d", {}),
    )
    assert lost == {"tools.custom.format", "tools.telepathy"}


def test_the_options_of_a_web_search_are_a_tool():
    options = {
        "search_context_size": "low",
        "user_location": {"type": "approximate", "approximate": {"city": "Kyoto", "country": None}},
    }
    request, lost = read(USER, web_search_options=options)
    assert request.tools == (hub.WebSearch(place={"city": "Kyoto"}),)
    assert lost == {"web_search_options.search_context_size"}
    assert read(USER, web_search_options={})[0].tools == (hub.WebSearch(),)


@pytest.mark.parametrize(
    ("choice", "read_as"),
    [
        ("auto", hub.ToolChoice("auto")),
        ("none", hub.ToolChoice("none")),
        ({"name": "old"}, hub.ToolChoice("any", ("old",))),
    ],
)
def test_a_legacy_choice_of_a_function_is_read_unless_there_is_a_newer_one(choice, read_as):
    functions = [{"name": "old"}]
    assert read(USER, functions=functions, function_call=choice)[0].choice == read_as
    newer = read(USER, functions=functions, function_call=choice, tool_choice="required")[0].choice
    assert newer == hub.ToolChoice("any")


@pytest.mark.parametrize(
    ("fields", "effort", "budget", "is_shown"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}, "reasoning_effort": "low"}, None, 2048, True),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "low"}, "none", None, None),
        ({"reasoning_effort": "low"}, "low", None, None),
    ],
)
def test_the_thinking_of_compatible_hosts_takes_precedence_over_the_effort(fields, effort, budget, is_shown):
    found = read(USER, **fields)[0].reasoning
    assert (found.effort, found.budget) == (effort, budget)
    assert found.is_shown is is_shown or is_shown is None


def test_the_thinking_of_google_is_read_from_the_extra_body():
    config = {"include_thoughts": True, "thinking_budget": 512}
    request, lost = read(USER, extra_body={"google": {"thinking_config": config}, "other": 1}, reasoning_effort="high")
    assert (request.reasoning.budget, request.reasoning.is_shown) == (512, True)
    assert lost == {"extra_body.other"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tools": [{}]}, r": tools\[0\].type: missing"),
        ({"tool_choice": {"type": "hope"}}, ": tool_choice.type: expected function, custom or allowed_tools"),
        ({"response_format": {"type": "yaml"}}, ": response_format.type: "),
        ({"messages": [part(text="x")]}, r": messages\[0\].content\[0\].type: missing"),
        ({"messages": [part(type="file", file={})]}, r": messages\[0\].content\[0\].file: give file_data or file_id"),
        ({"messages": [{"role": "function", "content": "x"}]}, r": messages\[0\].name: "),
    ],
)
def test_an_unreadable_field_is_named(fields, message):
    with pytest.raises(BadRequest, match=message):
        chat.read_request({"messages": [USER], **fields}, Losses())


def test_a_format_of_plain_text_is_no_format():
    assert read(USER, response_format={"type": "text"})[0].format is None
    assert read(USER, response_format={"type": "json_object"})[0].format == hub.Format()


def test_a_file_beside_text_is_sent_and_one_of_the_assistant_is_a_loss():
    image = hub.Media("image", "image/png", PNG)
    body, lost = write(hub.Turn("user", (hub.Text("see"), image)), hub.Turn("assistant", (hub.Text("ok"), image)), Q)
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    assert (body["messages"][1]["content"], lost) == ("ok", {"image"})


def test_a_tool_of_free_text_is_a_function_for_a_host_without_such_tools():
    call = hub.Turn("assistant", (hub.ToolCall("c1", "shell", "ls", is_custom=True),))
    result = hub.Turn("user", (hub.ToolResult("c1", (hub.Text("a"),)),))
    body, lost = write(Q, call, result, tools=(SHELL,))
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "shell", "arguments": '{"input":"ls"}'}
    assert body["tools"][0]["function"]["parameters"]["required"] == ["input"]
    assert lost == {"custom"}
    body, lost = write(Q, call, result, tools=(SHELL,), traits=["custom_tools"])
    assert body["messages"][1]["tool_calls"][0]["custom"] == {"name": "shell", "input": "ls"}
    assert (body["tools"][0]["type"], lost) == ("custom", set())


@pytest.mark.parametrize(("tool", "lost"), [(hub.CodeExecution(), "code_execution"), (hub.WebFetch(), "web_fetch")])
def test_a_tool_of_another_vendor_is_a_loss(tool, lost):
    body, losses = write(tools=(tool,))
    assert (body.get("tools"), losses) == (None, {lost})


@pytest.mark.parametrize(("effort", "switch"), [("none", "disabled"), ("low", "enabled"), ("high", "enabled")])
def test_a_host_with_a_switch_gets_thinking_on_or_off(effort, switch):
    body, _ = write(reasoning=hub.Reasoning(effort), traits=["thinking_switch"])
    assert body["thinking"] == {"type": switch}
    assert "reasoning_effort" not in body
