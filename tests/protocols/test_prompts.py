"""Schemas and formats as each protocol writes them: as fields, as prompts in words, and as losses."""

import copy

import pytest

from gproxy import protocols
from gproxy.errors import BadRequest
from gproxy.protocols import hub, prompts
from gproxy.protocols.losses import Losses

LOADED = protocols.load()
OPENAI = ("openai_chat", "openai_responses")
EACH = pytest.mark.parametrize("name", LOADED)
EACH_OPENAI = pytest.mark.parametrize("name", OPENAI)
CLOSED = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "additionalProperties": False}
OPEN = {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "string"}}, "required": ["x"]}
LIST = {"type": "array", "items": CLOSED}
ENUM = {"type": "string", "enum": ["a", "b"]}
TREE = {"type": "object", "properties": {"inner": {"type": "array", "items": {"$ref": "#"}}}}


def hub_request(text: str = "Hi", system: tuple[str, ...] = (), **more) -> hub.Request:
    return hub.Request((hub.Turn("user", (hub.Text(text),)),), system, max_tokens=99, **more)


def write(name: str, request: hub.Request, *traits: str, **more) -> tuple[dict, tuple[str, ...]]:
    losses = Losses()
    before = copy.deepcopy(request)
    target = hub.Target("house", "m", traits=frozenset(traits), **more)
    body = LOADED[name].CODECS["generate_content"].write_request(request, target, losses)
    assert request == before
    return body, losses.names()


def format_of(name: str, body: dict) -> dict | None:
    match name:
        case "openai_chat":
            format_ = body.get("response_format")
            return format_ and {"type": format_["type"], **format_.get("json_schema", {})}
        case "openai_responses":
            return body.get("text", {}).get("format")
        case "anthropic":
            return body.get("output_config", {}).get("format")
    config = body.get("generationConfig", {})
    kind = {"application/json": "json_schema" if "responseJsonSchema" in config else "json_object"}
    mime = config.get("responseMimeType")
    return {"type": kind[mime], "schema": config.get("responseJsonSchema")} if mime else None


def function_of(name: str, body: dict) -> dict:
    (tool,) = body["tools"]
    match name:
        case "openai_chat":
            return {**tool["function"], "schema": tool["function"]["parameters"]}
        case "openai_responses":
            return {**tool, "schema": tool["parameters"]}
        case "anthropic":
            return {**tool, "schema": tool["input_schema"]}
    (declared,) = tool["functionDeclarations"]
    return {**declared, "schema": declared.get("parametersJsonSchema")}


def system_of(name: str, body: dict) -> str:
    """Returns the system prompt."""
    match name:
        case "openai_chat":
            return "\n".join(m["content"] for m in body["messages"] if m["role"] == "system")
        case "openai_responses":
            developer = [c["text"] for i in body["input"] if i.get("role") == "developer" for c in i["content"]]
            return "\n".join([body.get("instructions") or "", *developer]).strip("\n")
        case "anthropic":
            system = body.get("system") or ""
            return system if isinstance(system, str) else "\n".join(block["text"] for block in system)
    return "\n".join(item["text"] for item in body.get("systemInstruction", {}).get("parts", ()))


# -- any JSON ------------------------------------------------------------------------------------------------------


@EACH_OPENAI
@pytest.mark.parametrize(
    "case",
    [
        hub_request("As JSON, please", format=hub.Format()),
        hub_request(system=("In json.",), format=hub.Format()),
        hub_request(system=("Be brief.", "json"), format=hub.Format()),
    ],
)
def test_any_json_is_a_field_if_a_text_contains_the_word_json(name, case):
    body, lost = write(name, case)
    assert format_of(name, body) == {"type": "json_object"}
    assert system_of(name, body) == "\n".join(case.system)
    assert lost == ()


def test_responses_gets_the_word_json_in_its_input():
    body, lost = write("openai_responses", hub_request(system=("Be brief.", "In JSON."), format=hub.Format()))
    assert "instructions" not in body
    message = {"type": "message", "role": "developer"}
    texts = [{"type": "input_text", "text": text} for text in ("Be brief.", "In JSON.")]
    assert body["input"][0] == {**message, "content": texts}
    assert lost == ()


@EACH_OPENAI
def test_any_json_is_also_a_prompt_if_no_text_contains_the_word_json(name):
    hidden = hub.Turn("user", (hub.ToolResult("call", (hub.Text("json"),)), hub.Text("So?")))
    for request in (hub_request(format=hub.Format()), hub.Request((hidden,), format=hub.Format())):
        body, lost = write(name, request)
        assert format_of(name, body) == {"type": "json_object"}
        assert system_of(name, body) == prompts.JSON_ONLY
        assert "format" in lost
    body, _ = write(name, hub_request(system=("Be brief.",), format=hub.Format()))
    assert system_of(name, body) == f"Be brief.\n{prompts.JSON_ONLY}"


def test_any_json_is_a_prompt_for_anthropic():
    body, lost = write("anthropic", hub_request("As JSON", format=hub.Format()))
    assert (format_of("anthropic", body), system_of("anthropic", body)) == (None, prompts.JSON_ONLY)
    assert lost == ("format",)


# -- JSON by a schema ----------------------------------------------------------------------------------------------


@EACH
def test_a_schema_that_every_vendor_accepts_is_written_unchanged(name):
    body, lost = write(name, hub_request(format=hub.Format(CLOSED)))
    format_ = format_of(name, body)
    assert (format_["type"], format_["schema"]) == ("json_schema", CLOSED)
    assert lost == ()
    assert system_of(name, body) == ""


@EACH_OPENAI
@pytest.mark.parametrize("schema", [LIST, ENUM, {}, {"anyOf": [CLOSED]}, {"type": ["object", "null"]}])
def test_a_format_that_is_not_an_object_is_a_prompt_for_openai(name, schema):
    body, lost = write(name, hub_request(format=hub.Format(schema, strict=True)))
    assert format_of(name, body) is None
    assert system_of(name, body) == prompts.format_prompt(hub.Format(schema))
    assert lost == ("format",)


def test_a_host_with_json_object_only_gets_json_object_or_a_prompt_alone():
    body, lost = write("openai_chat", hub_request(format=hub.Format(CLOSED)), "json_object_only")
    assert (body["response_format"], lost) == ({"type": "json_object"}, ("format",))
    assert system_of("openai_chat", body) == prompts.format_prompt(hub.Format(CLOSED))
    body, lost = write("openai_chat", hub_request(format=hub.Format(LIST)), "json_object_only")
    assert ("response_format" not in body, lost) == (True, ("format",))


@EACH_OPENAI
def test_a_format_for_openai_has_its_unions_and_references_merged(name):
    body, lost = write(
        name, hub_request(format=hub.Format({**OPEN, "anyOf": [{"required": ["y"]}, {"required": ["x"]}]}))
    )
    schema = format_of(name, body)["schema"]
    assert "anyOf" not in schema
    assert "(anyOf: " in schema["description"]
    assert lost == ("format_schema.anyOf",)
    body, lost = write(name, hub_request(format=hub.Format({"$ref": "#/$defs/X", "$defs": {"X": CLOSED}}, strict=True)))
    assert format_of(name, body)["schema"] == {"$defs": {"X": CLOSED}, **CLOSED}
    assert (format_of(name, body)["strict"], lost) == (True, ())


@EACH_OPENAI
@pytest.mark.parametrize(
    ("schema", "is_requested", "is_strict", "expected"),
    [
        (CLOSED, True, True, ()),
        (CLOSED, False, False, ()),
        (CLOSED, None, None, ()),
        (OPEN, True, False, ("strict",)),
        (OPEN, False, False, ()),
        (OPEN, None, None, ()),
    ],
)
def test_openai_is_strict_only_if_requested_and_the_schema_allows_it(name, schema, is_requested, is_strict, expected):
    body, lost = write(name, hub_request(format=hub.Format(schema, strict=is_requested)))
    assert format_of(name, body)["schema"] == schema
    assert format_of(name, body).get("strict") is is_strict
    assert lost == tuple(f"format_{word}" for word in expected)
    body, lost = write(name, hub_request(tools=(hub.Tool("f", None, schema, is_requested),)))
    assert function_of(name, body)["schema"] == schema
    assert bool(function_of(name, body).get("strict")) is bool(is_strict)
    assert lost == expected


def test_a_format_for_anthropic_reports_each_lost_keyword():
    body, lost = write("anthropic", hub_request(format=hub.Format({**OPEN, "minProperties": 1})))
    assert body["output_config"]["format"]["schema"] == {
        **OPEN,
        "required": ["x", "y"],
        "additionalProperties": False,
        "description": "(minProperties: 1)",
    }
    assert lost == ("format_schema.minProperties", "format_schema.required")
    assert write("anthropic", hub_request(format=hub.Format(LIST)))[0]["output_config"]["format"]["schema"] == LIST


@pytest.mark.parametrize("schema", [TREE, {"$ref": "https://example.com/s.json"}])
def test_a_recursive_or_remote_schema_is_a_prompt_for_anthropic(schema):
    body, lost = write("anthropic", hub_request(format=hub.Format(schema)))
    assert format_of("anthropic", body) is None
    assert system_of("anthropic", body) == prompts.format_prompt(hub.Format(schema))
    assert lost == ("format",)


def test_a_format_beside_functions_is_a_prompt_for_an_older_gemini():
    tools = (hub.Tool("f", None, CLOSED),)
    for form in (hub.Format(), hub.Format(CLOSED)):
        body, lost = write(
            "gemini", hub_request(system=("Be brief.",), format=form, tools=tools), "no_json_with_functions"
        )
        assert format_of("gemini", body) is None
        assert system_of("gemini", body) == f"Be brief.\n{prompts.format_prompt(form)}"
        assert lost == ("format",)
        assert format_of("gemini", write("gemini", hub_request(format=form), "no_json_with_functions")[0])
        assert format_of("gemini", write("gemini", hub_request(format=form, tools=tools))[0])


# -- tools ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OPENAI, "anthropic"])
def test_a_tools_schema_is_an_object_without_unions(name):
    union = {"oneOf": [CLOSED, OPEN]}
    body, lost = write(name, hub_request(tools=(hub.Tool("f", None, union),)))
    schema = function_of(name, body)["schema"]
    assert (schema["type"], sorted(schema["properties"]), schema["required"]) == ("object", ["x", "y"], ["x"])
    assert lost == ("schema.oneOf",)
    for empty in ({}, {"type": "object"}):
        body, lost = write(name, hub_request(tools=(hub.Tool("f", None, empty),)))
        assert (function_of(name, body)["schema"], lost) == ({"type": "object", "properties": {}}, ())


@EACH_OPENAI
def test_an_array_for_openai_has_items(name):
    body, lost = write(name, hub_request(tools=(hub.Tool("f", None, {"properties": {"a": {"type": "array"}}}),)))
    assert function_of(name, body)["schema"]["properties"] == {"a": {"type": "array", "items": {}}}
    assert lost == ()


def test_a_tool_for_anthropic_is_strict_only_with_an_unchanged_schema():
    body, lost = write("anthropic", hub_request(tools=(hub.Tool("f", None, CLOSED, True),)))
    assert (function_of("anthropic", body)["strict"], lost) == (True, ())
    narrow = {**CLOSED, "properties": {"x": {"type": "integer", "minimum": 1}}}
    for schema in (OPEN, narrow, TREE, {**CLOSED, "properties": {"x": {"oneOf": [{"type": "string"}]}}}):
        body, lost = write("anthropic", hub_request(tools=(hub.Tool("f", None, schema, True),)))
        function = function_of("anthropic", body)
        assert ("strict" in function, function["schema"], lost) == (False, schema, ("strict",))
    _, lost = write(
        "anthropic", hub_request(tools=(hub.Tool("f", None, CLOSED, True),)), refused=frozenset(("format",))
    )
    assert lost == ("strict",)


@EACH
def test_an_invalid_schema_is_a_bad_request_that_names_its_tool(name):
    with pytest.raises(BadRequest, match=r"tools\[0\]"):
        write(name, hub_request(tools=(hub.Tool("f", None, {"anyOf": 5}),)))


# -- formats in Gemini's requests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected", "lost"),
    [
        ({"responseMimeType": "application/json"}, hub.Format(), ()),
        ({"responseMimeType": "text/plain"}, None, ()),
        ({"responseMimeType": ""}, None, ()),
        (
            {"responseMimeType": "application/json", "responseSchema": {"type": "OBJECT"}},
            hub.Format({"type": "object"}),
            (),
        ),
        (
            {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": ["a", "b"]}},
            hub.Format(ENUM),
            ("generationConfig.responseMimeType",),
        ),
        ({"response_mime_type": "application/xml"}, None, ("generationConfig.responseMimeType",)),
    ],
)
def test_an_unknown_mime_type_of_a_reply_is_a_loss(config, expected, lost):
    losses = Losses()
    body = {"contents": "Hi", "generationConfig": config}
    assert LOADED["gemini"].CODECS["generate_content"].read_request(body, losses).format == expected
    assert losses.names() == lost


@pytest.mark.parametrize("client", LOADED)
def test_the_losses_of_formats_have_wire_names_in_every_protocol(client):
    losses = Losses(LOADED[client].NAMES)
    for field in ("format", "format_schema", "schema"):
        assert losses.wire_name(field) != field
    if client != "gemini":  # its clients cannot request strict schemas
        assert all(losses.wire_name(field) != field for field in ("strict", "format_strict"))
