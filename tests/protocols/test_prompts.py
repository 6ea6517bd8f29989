"""What each protocol's writer makes of schemas and formats: said in its fields, asked for in words, and told."""

import copy

import pytest

from gproxy import protocols
from gproxy.errors import BadRequest
from gproxy.protocols import prompts
from gproxy.protocols.hub import Format, Request, Target, Text, Tool, ToolResult, Turn
from gproxy.protocols.losses import Losses

LOADED = protocols.load()
OPENAI = ("openai_chat", "openai_responses")
EACH = pytest.mark.parametrize("name", LOADED)
BOTH = pytest.mark.parametrize("name", OPENAI)
CLOSED = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "additionalProperties": False}
OPEN = {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "string"}}, "required": ["x"]}
LIST = {"type": "array", "items": CLOSED}
ENUM = {"type": "string", "enum": ["a", "b"]}
TREE = {"type": "object", "properties": {"inner": {"type": "array", "items": {"$ref": "#"}}}}


def asked(text: str = "Hi", system: tuple[str, ...] = (), **more) -> Request:
    return Request((Turn("user", (Text(text),)),), system, max_tokens=99, **more)


def written(name: str, request: Request, *traits: str, **more) -> tuple[dict, tuple[str, ...]]:
    losses = Losses()
    before = copy.deepcopy(request)
    target = Target("house", "m", traits=frozenset(traits), **more)
    body = LOADED[name].CODECS["generate_content"].write_request(request, target, losses)
    assert request == before
    return body, losses.names()


def format_of(name: str, body: dict) -> dict | None:
    match name:
        case "openai_chat":
            found = body.get("response_format")
            return found and {"type": found["type"], **found.get("json_schema", {})}
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


def words_of(name: str, body: dict) -> str:
    """The system's text."""
    match name:
        case "openai_chat":
            return "\n".join(m["content"] for m in body["messages"] if m["role"] == "system")
        case "openai_responses":
            inside = [c["text"] for i in body["input"] if i.get("role") == "developer" for c in i["content"]]
            return "\n".join([body.get("instructions") or "", *inside]).strip("\n")
        case "anthropic":
            found = body.get("system") or ""
            return found if isinstance(found, str) else "\n".join(block["text"] for block in found)
    return "\n".join(item["text"] for item in body.get("systemInstruction", {}).get("parts", ()))


# -- any JSON ------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "request_",
    [
        asked("Tell it as JSON", format=Format()),
        asked(system=("In json.",), format=Format()),
        asked(system=("Be brief.", "json"), format=Format()),
    ],
)
def test_any_json_is_a_field_where_the_word_stands_somewhere(name, request_):
    body, told = written(name, request_)
    assert format_of(name, body) == {"type": "json_object"}
    assert words_of(name, body) == "\n".join(request_.system)
    assert told == ()


def test_the_word_stands_in_the_input_of_responses():
    body, told = written("openai_responses", asked(system=("Be brief.", "In JSON."), format=Format()))
    assert "instructions" not in body
    said = {"type": "message", "role": "developer"}
    texts = [{"type": "input_text", "text": text} for text in ("Be brief.", "In JSON.")]
    assert body["input"][0] == {**said, "content": texts}
    assert told == ()


@BOTH
def test_any_json_is_asked_for_in_words_where_no_text_names_it(name):
    hidden = Turn("user", (ToolResult("call", (Text("json"),)), Text("So?")))
    for request in (asked(format=Format()), Request((hidden,), format=Format())):
        body, told = written(name, request)
        assert format_of(name, body) == {"type": "json_object"}
        assert words_of(name, body) == prompts.JSON_ONLY
        assert "format" in told
    body, _ = written(name, asked(system=("Be brief.",), format=Format()))
    assert words_of(name, body) == f"Be brief.\n{prompts.JSON_ONLY}"


def test_anthropic_has_no_field_for_any_json():
    body, told = written("anthropic", asked("As JSON", format=Format()))
    assert (format_of("anthropic", body), words_of("anthropic", body)) == (None, prompts.JSON_ONLY)
    assert told == ("format",)


# -- JSON by a schema ----------------------------------------------------------------------------------------------


@EACH
def test_a_schema_that_every_vendor_takes_is_written_as_it_is(name):
    body, told = written(name, asked(format=Format(CLOSED)))
    found = format_of(name, body)
    assert (found["type"], found["schema"]) == ("json_schema", CLOSED)
    assert told == ()
    assert words_of(name, body) == ""


@BOTH
@pytest.mark.parametrize("schema", [LIST, ENUM, {}, {"anyOf": [CLOSED]}, {"type": ["object", "null"]}])
def test_openai_is_asked_in_words_for_what_is_no_object(name, schema):
    body, told = written(name, asked(format=Format(schema, strict=True)))
    assert format_of(name, body) is None
    assert words_of(name, body) == prompts.format_prompt(Format(schema))
    assert told == ("format",)


def test_a_host_that_knows_only_objects_is_asked_for_one_or_in_words_alone():
    body, told = written("openai_chat", asked(format=Format(CLOSED)), "json_object_only")
    assert (body["response_format"], told) == ({"type": "json_object"}, ("format",))
    assert words_of("openai_chat", body) == prompts.format_prompt(Format(CLOSED))
    body, told = written("openai_chat", asked(format=Format(LIST)), "json_object_only")
    assert ("response_format" not in body, told) == (True, ("format",))


@BOTH
def test_a_format_of_openai_is_folded_as_a_tool_is(name):
    body, told = written(name, asked(format=Format({**OPEN, "anyOf": [{"required": ["y"]}, {"required": ["x"]}]})))
    found = format_of(name, body)["schema"]
    assert "anyOf" not in found
    assert "(anyOf: " in found["description"]
    assert told == ("format_schema.anyOf",)
    body, told = written(name, asked(format=Format({"$ref": "#/$defs/X", "$defs": {"X": CLOSED}}, strict=True)))
    assert format_of(name, body)["schema"] == {"$defs": {"X": CLOSED}, **CLOSED}
    assert (format_of(name, body)["strict"], told) == (True, ())


@BOTH
@pytest.mark.parametrize(
    ("schema", "is_asked", "is_strict", "lost"),
    [
        (CLOSED, True, True, ()),
        (CLOSED, False, False, ()),
        (CLOSED, None, None, ()),
        (OPEN, True, False, ("strict",)),
        (OPEN, False, False, ()),
        (OPEN, None, None, ()),
    ],
)
def test_openai_is_strict_only_where_that_is_asked_for_and_the_schema_allows_it(
    name, schema, is_asked, is_strict, lost
):
    body, told = written(name, asked(format=Format(schema, strict=is_asked)))
    assert format_of(name, body)["schema"] == schema
    assert format_of(name, body).get("strict") is is_strict
    assert told == tuple(f"format_{word}" for word in lost)
    body, told = written(name, asked(tools=(Tool("f", None, schema, is_asked),)))
    assert function_of(name, body)["schema"] == schema
    assert bool(function_of(name, body).get("strict")) is bool(is_strict)
    assert told == lost


def test_a_format_of_anthropic_tells_each_keyword():
    body, told = written("anthropic", asked(format=Format({**OPEN, "minProperties": 1})))
    assert body["output_config"]["format"]["schema"] == {
        **OPEN,
        "required": ["x", "y"],
        "additionalProperties": False,
        "description": "(minProperties: 1)",
    }
    assert told == ("format_schema.minProperties", "format_schema.required")
    assert written("anthropic", asked(format=Format(LIST)))[0]["output_config"]["format"]["schema"] == LIST


@pytest.mark.parametrize("schema", [TREE, {"$ref": "https://example.com/s.json"}])
def test_anthropic_is_asked_in_words_for_a_schema_that_it_cannot_follow(schema):
    body, told = written("anthropic", asked(format=Format(schema)))
    assert format_of("anthropic", body) is None
    assert words_of("anthropic", body) == prompts.format_prompt(Format(schema))
    assert told == ("format",)


def test_a_gemini_that_takes_no_format_beside_functions_is_asked_in_words():
    tools = (Tool("f", None, CLOSED),)
    for form in (Format(), Format(CLOSED)):
        body, told = written("gemini", asked(system=("Be brief.",), format=form, tools=tools), "no_json_with_functions")
        assert format_of("gemini", body) is None
        assert words_of("gemini", body) == f"Be brief.\n{prompts.format_prompt(form)}"
        assert told == ("format",)
        assert format_of("gemini", written("gemini", asked(format=form), "no_json_with_functions")[0])
        assert format_of("gemini", written("gemini", asked(format=form, tools=tools))[0])


# -- tools ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OPENAI, "anthropic"])
def test_a_tool_is_an_object_without_unions(name):
    union = {"oneOf": [CLOSED, OPEN]}
    body, told = written(name, asked(tools=(Tool("f", None, union),)))
    found = function_of(name, body)["schema"]
    assert (found["type"], sorted(found["properties"]), found["required"]) == ("object", ["x", "y"], ["x"])
    assert told == ("schema.oneOf",)
    for empty in ({}, {"type": "object"}):
        body, told = written(name, asked(tools=(Tool("f", None, empty),)))
        assert (function_of(name, body)["schema"], told) == ({"type": "object", "properties": {}}, ())


@BOTH
def test_an_array_of_openai_has_items(name):
    body, told = written(name, asked(tools=(Tool("f", None, {"properties": {"a": {"type": "array"}}}),)))
    assert function_of(name, body)["schema"]["properties"] == {"a": {"type": "array", "items": {}}}
    assert told == ()


def test_a_strict_tool_of_anthropic_is_so_as_it_is_or_not_at_all():
    body, told = written("anthropic", asked(tools=(Tool("f", None, CLOSED, True),)))
    assert (function_of("anthropic", body)["strict"], told) == (True, ())
    narrow = {**CLOSED, "properties": {"x": {"type": "integer", "minimum": 1}}}
    for schema in (OPEN, narrow, TREE, {**CLOSED, "properties": {"x": {"oneOf": [{"type": "string"}]}}}):
        body, told = written("anthropic", asked(tools=(Tool("f", None, schema, True),)))
        found = function_of("anthropic", body)
        assert ("strict" in found, found["schema"], told) == (False, schema, ("strict",))
    _, told = written("anthropic", asked(tools=(Tool("f", None, CLOSED, True),)), refused=frozenset(("format",)))
    assert told == ("strict",)


@EACH
def test_what_is_no_schema_is_told_by_its_tool(name):
    with pytest.raises(BadRequest, match=r"tools\[0\]"):
        written(name, asked(tools=(Tool("f", None, {"anyOf": 5}),)))


# -- what is read of Gemini's ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected", "told"),
    [
        ({"responseMimeType": "application/json"}, Format(), ()),
        ({"responseMimeType": "text/plain"}, None, ()),
        ({"responseMimeType": ""}, None, ()),
        (
            {"responseMimeType": "application/json", "responseSchema": {"type": "OBJECT"}},
            Format({"type": "object"}),
            (),
        ),
        (
            {"responseMimeType": "text/x.enum", "responseSchema": {"type": "STRING", "enum": ["a", "b"]}},
            Format(ENUM),
            ("generationConfig.responseMimeType",),
        ),
        ({"response_mime_type": "application/xml"}, None, ("generationConfig.responseMimeType",)),
    ],
)
def test_a_kind_of_reply_that_is_not_known_is_told(config, expected, told):
    losses = Losses()
    body = {"contents": "Hi", "generationConfig": config}
    assert LOADED["gemini"].CODECS["generate_content"].read_request(body, losses).format == expected
    assert losses.names() == told


@pytest.mark.parametrize("client", LOADED)
def test_each_client_is_told_by_its_own_name(client):
    losses = Losses(LOADED[client].NAMES)
    for field in ("format", "format_schema", "schema"):
        assert losses.wire_name(field) != field
    if client != "gemini":  # whose clients cannot ask for it
        assert all(losses.wire_name(field) != field for field in ("strict", "format_strict"))
