"""JSON Schemas rewritten for each vendor: unchanged, rewritten, lost with a note, or rejected."""

import copy
import json
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gproxy.errors import BadRequest
from gproxy.protocols.schemas import (
    for_anthropic,
    for_gemini,
    for_openai,
    from_openapi,
    is_object,
    is_openai_strict,
    is_strict,
    strict,
)
from tests.examples import examples

PLACE = "tools[0].parameters"
ALLOWED = {
    *("type", "format", "title", "description", "enum", "items", "prefixItems", "minItems", "maxItems", "minimum"),
    *("maximum", "anyOf", "properties", "additionalProperties", "required", "propertyOrdering"),
}
REWRITERS = {
    "for_gemini": lambda schema: for_gemini(schema, PLACE)[0],
    "for_openai": lambda schema: for_openai(schema, PLACE)[0],
    "for_anthropic": lambda schema: for_anthropic(schema, PLACE)[0],
    "strict": lambda schema: strict(schema, PLACE)[0],
    "from_openapi": lambda schema: from_openapi(schema, PLACE),
}
every_rewriter = pytest.mark.parametrize("rewrite", REWRITERS.values(), ids=REWRITERS)


def same(actual, expected) -> bool:
    """Returns whether two schemas are equal, including the order of keys, on which prompt caches depend."""
    return json.dumps(actual) == json.dumps(expected)


def nested(levels: int) -> dict:
    """Returns that many nested schemas."""
    schema: dict = {"type": "string"}
    for _ in range(levels - 1):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def chained(levels: int, **more) -> dict:
    """Returns that many definitions, each used twice by the one before it."""
    twice = [{"properties": {n: {"$ref": f"#/$defs/d{i + 1}"} for n in "ab"}, **more} for i in range(levels)]
    return {"$ref": "#/$defs/d0", "$defs": {f"d{i}": d for i, d in enumerate([*twice, {"type": "string"}])}}


def nested_list(depth: int) -> list:
    items: list = []
    for _ in range(depth):
        items = [items]
    return items


# -- Gemini: tables ------------------------------------------------------------------------------------------------

POINT = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}
TREE = {
    "type": "object",
    "description": "A node",
    "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
}

UNCHANGED = {
    "everything that Gemini documents": {
        "type": "object",
        "title": "T",
        "description": "D",
        "properties": {
            "s": {"type": ["string", "null"], "format": "date-time"},
            "c": {"type": "string", "format": "enum", "enum": ["a", "b"]},
            "i": {"type": "integer", "format": "int64", "minimum": 1, "maximum": 9},
            "n": {"type": "number", "format": "double", "minimum": 0.5, "enum": [1.5, 2]},
            "l": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
            "t": {"prefixItems": [{"type": "string"}, {"type": "null"}], "items": {"type": "boolean"}},
            "u": {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "either"},
            "m": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["i", "s"],
        "propertyOrdering": ["n", "s"],
        "additionalProperties": False,
    },
    "an empty schema": {},
    "properties named like keywords": {
        "type": "object",
        "properties": {
            "pattern": {"type": "string"},
            "$ref": {"type": "string"},
            "$defs": {"type": "string"},
            "properties": {"type": "object", "properties": {"not": {"type": "string"}}, "required": ["not"]},
            "allOf": {"type": "string"},
        },
        "required": ["$ref", "pattern"],
    },
    "the order of the caller": {"required": ["b"], "properties": {"b": {}, "a": {}}, "type": "object"},
}

LOSSLESS = {  # schema, rewritten schema
    "silent keywords": (
        {"$schema": "s", "$id": "i", "$comment": "c", "$anchor": "a", "type": "string", "$defs": {"X": 5}},
        {"type": "string"},
    ),
    "null as a keyword's value": (
        {"type": "string", "properties": None, "anyOf": None, "$ref": None, "allOf": None, "pattern": None},
        {"type": "string"},
    ),
    "const": ({"type": "string", "const": "a"}, {"type": "string", "enum": ["a"]}),
    "const of a number": ({"const": 7}, {"enum": [7]}),
    "const null": ({"const": None}, {"type": "null"}),
    "const null of its type": ({"const": None, "type": "null"}, {"type": "null"}),
    "const within an enum": ({"enum": ["a", "b"], "const": "b"}, {"enum": ["b"]}),
    "oneOf": ({"oneOf": [{"type": "string"}, {"type": "null"}]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
    "an alternative that is never valid": ({"anyOf": [False, {"type": "string"}]}, {"anyOf": [{"type": "string"}]}),
    "a list of one type": ({"type": ["string"]}, {"type": "string"}),
    "a repeated type": ({"type": ["string", "string"]}, {"type": "string"}),
    "a tuple of nothing": ({"type": "array", "prefixItems": []}, {"type": "array"}),
    "whole numbers of JavaScript": ({"type": "array", "minItems": 2.0}, {"type": "array", "minItems": 2}),
    "exclusive bounds of whole numbers": (
        {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
        {"type": "integer", "minimum": 1, "maximum": 9},
    ),
    "exclusive bounds between whole numbers": (
        {"type": ["integer", "null"], "exclusiveMinimum": -0.5, "exclusiveMaximum": 2.5},
        {"type": ["integer", "null"], "minimum": 0, "maximum": 2},
    ),
    "the tighter of two bounds": (
        {"exclusiveMinimum": 3, "minimum": 1, "maximum": 5, "exclusiveMaximum": 9, "type": "integer"},
        {"minimum": 4, "maximum": 5, "type": "integer"},
    ),
    "nullable": ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
    "nullable twice": ({"type": ["string", "null"], "nullable": True}, {"type": ["string", "null"]}),
    "nullable false": ({"type": "string", "nullable": False}, {"type": "string"}),
    "nullable alternatives": (
        {"oneOf": [{"type": "string"}, {"type": "integer"}], "nullable": True},
        {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]},
    ),
    "nullable around a reference": (
        {"properties": {"p": {"allOf": [{"$ref": "#/$defs/P"}], "nullable": True}}, "$defs": {"P": POINT}},
        {"properties": {"p": {**POINT, "type": ["object", "null"]}}},
    ),
    "the boolean true": (
        {"properties": {"a": True}, "items": True, "additionalProperties": True},
        {"properties": {"a": {}}, "items": {}, "additionalProperties": True},
    ),
    "required names that do not exist": (
        {"properties": {"a": {}}, "required": ["b", "a", 5, "a"], "propertyOrdering": ["c"]},
        {"properties": {"a": {}}, "required": ["a"]},
    ),
    "required nothing": ({"properties": {"a": {}}, "required": ["b"]}, {"properties": {"a": {}}}),
    "the empty object of PHP": ({"type": "object", "properties": []}, {"type": "object", "properties": {}}),
    "tuples of draft 7": (
        {"type": "array", "items": [{"type": "string"}, True], "additionalItems": {"type": "null"}},
        {"type": "array", "prefixItems": [{"type": "string"}, {}], "items": {"type": "null"}},
    ),
    "a closed tuple": (
        {"prefixItems": [{"type": "string"}, {}], "items": False, "maxItems": 5},
        {"prefixItems": [{"type": "string"}, {}], "maxItems": 2},
    ),
    "a closed tuple of draft 7": (
        {"items": [{"type": "string"}], "additionalItems": False},
        {"prefixItems": [{"type": "string"}], "maxItems": 1},
    ),
    "references": (
        {
            "properties": {"a": {"$ref": "#/$defs/P"}, "b": {"$ref": "#/definitions/Q"}},
            "$defs": {"P": POINT},
            "definitions": {"Q": {"$ref": "#/$defs/P"}},
        },
        {"properties": {"a": POINT, "b": POINT}},
    ),
    "a reference of the whole": ({"$ref": "#/$defs/P", "$defs": {"P": POINT}}, POINT),
    "pointers into anything": (
        {
            "properties": {
                "plain": {"type": "string", "description": "P"},
                "a/b~c d": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
                "one": {"$ref": "#/properties/plain"},
                "two": {"$ref": "#/properties/a~1b~0c%20d/anyOf/1"},
                "three": {"$ref": "#/%70roperties/pl%61in"},
            }
        },
        {
            "properties": {
                "plain": {"type": "string", "description": "P"},
                "a/b~c d": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
                "one": {"type": "string", "description": "P"},
                "two": {"type": "integer"},
                "three": {"type": "string", "description": "P"},
            }
        },
    ),
    "pointers with escaped escapes": (
        {"properties": {"~1": {"type": "null"}, "a": {"$ref": "#/properties/~01"}}},
        {"properties": {"~1": {"type": "null"}, "a": {"type": "null"}}},
    ),
    "a repeated description": (
        {"description": "D", "allOf": [{"description": "D"}, {"description": "E"}]},
        {"description": "D\nE"},
    ),
    "keywords beside a reference": (
        {
            "properties": {"a": {"$ref": "#/$defs/S", "description": "mine", "title": "A"}},
            "$defs": {"S": {"type": "string", "description": "theirs", "title": "S"}},
        },
        {"properties": {"a": {"description": "mine\ntheirs", "title": "A", "type": "string"}}},
    ),
    "a definition used twice is not a cycle": (
        {"$ref": "#/$defs/P", "properties": {"next": {"$ref": "#/$defs/P"}}, "$defs": {"P": POINT}},
        {"properties": {"next": POINT, "x": {"type": "number"}}, "type": "object", "required": ["x"]},
    ),
    "allOf": (
        {
            "allOf": [
                {"$ref": "#/$defs/P"},
                {"properties": {"y": {"type": "number"}}, "required": ["y"], "description": "more"},
                {"required": ["z"]},
                True,
            ],
            "properties": {"z": {"type": "string"}},
            "$defs": {"P": POINT},
        },
        {
            "properties": {"z": {"type": "string"}, "x": {"type": "number"}, "y": {"type": "number"}},
            "type": "object",
            "required": ["x", "y", "z"],
            "description": "more",
        },
    ),
    "allOf of one property": (
        {
            "allOf": [
                {"properties": {"n": {"type": ["number", "string"], "minimum": 1, "enum": [1, 2, 3]}}},
                {"properties": {"n": {"type": "integer", "minimum": 2, "maximum": 9, "enum": [3, 2, 5]}}},
            ]
        },
        {"properties": {"n": {"type": "integer", "minimum": 2, "enum": [2, 3], "maximum": 9}}},
    ),
    "allOf in one closed object": (
        {
            "additionalProperties": False,
            "properties": {"a": {}, "b": {}},
            "allOf": [{"properties": {"a": {"type": "string"}}, "additionalProperties": True}],
        },
        {"additionalProperties": False, "properties": {"a": {"type": "string"}, "b": {}}},
    ),
    "allOf of maps": (
        {"allOf": [{"additionalProperties": {"title": "T"}}, {"additionalProperties": {"type": "string"}}]},
        {"additionalProperties": {"title": "T", "type": "string"}},
    ),
    "allOf of lists": (
        {"items": {"type": "string"}, "minItems": 1, "allOf": [{"items": {"title": "T"}, "minItems": 2}]},
        {"items": {"type": "string", "title": "T"}, "minItems": 2},
    ),
    "allOf of types": (
        {"properties": {"a": {"type": "integer"}}, "allOf": [{"properties": {"a": {"type": ["null", "number"]}}}]},
        {"properties": {"a": {"type": "integer"}}},
    ),
    "allOf of open and closed maps": (
        {
            "properties": {
                "a": {"additionalProperties": True, "allOf": [{"additionalProperties": False}]},
                "b": {"additionalProperties": False, "allOf": [{"additionalProperties": {}}]},
                "c": {"additionalProperties": True, "allOf": [{"additionalProperties": POINT}]},
                "d": {"additionalProperties": POINT, "allOf": [{"additionalProperties": True}]},
            }
        },
        {
            "properties": {
                "a": {"additionalProperties": False},
                "b": {"additionalProperties": False},
                "c": {"additionalProperties": POINT},
                "d": {"additionalProperties": POINT},
            }
        },
    ),
    "allOf with a tuple": (
        {"minItems": 1, "allOf": [{"prefixItems": [{"type": "string"}], "items": {}}]},
        {"minItems": 1, "prefixItems": [{"type": "string"}], "items": {}},
    ),
    "a format whose type is in allOf": (
        {"format": "date", "allOf": [{"type": "string"}]},
        {"format": "date", "type": "string"},
    ),
}

LOSSY = {  # schema, rewritten schema, losses
    "constraints of strings": (
        {"type": "string", "description": "A name", "pattern": "^a$", "minLength": 1, "maxLength": 9},
        {"type": "string", "description": "A name (pattern: ^a$) (minLength: 1) (maxLength: 9)"},
        ("maxLength", "minLength", "pattern"),
    ),
    "constraints without a description": (
        {"multipleOf": 5, "type": "integer", "default": None},
        {"type": "integer", "description": "(multipleOf: 5) (default: null)"},
        ("default", "multipleOf"),
    ),
    "a description behind its constraints": (
        {"uniqueItems": True, "description": "D"},
        {"description": "D (uniqueItems: true)"},
        ("uniqueItems",),
    ),
    "constraints with schemas inside": (
        {"not": {"type": "null"}, "if": True, "then": {}, "patternProperties": {"^x": {"type": "string"}}},
        {"description": '(not: {"type":"null"}) (if: true) (then: {}) (patternProperties: {"^x":{"type":"string"}})'},
        ("if", "not", "patternProperties", "then"),
    ),
    "examples in any alphabet": (
        {"examples": ["Zoë", 1], "dependentRequired": {"a": ["b"]}},
        {"description": '(examples: ["Zoë",1]) (dependentRequired: {"a":["b"]})'},
        ("dependentRequired", "examples"),
    ),
    "keywords without a meaning to a model": (
        {"type": "string", "deprecated": True, "readOnly": True, "x-order": 1, "contentEncoding": "base64"},
        {"type": "string"},
        ("contentEncoding", "deprecated", "readOnly", "x-order"),
    ),
    "a format of the same type only": (
        {"type": "string", "format": "email"},
        {"type": "string", "description": "(format: email)"},
        ("format",),
    ),
    "a format of another type": (
        {"type": "string", "format": "int32"},
        {"type": "string", "description": "(format: int32)"},
        ("format",),
    ),
    "a format of no type": ({"format": "date"}, {"description": "(format: date)"}, ("format",)),
    "exclusive bounds of other numbers": (
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1.5},
        {"type": "number", "description": "(exclusiveMinimum: 0) (exclusiveMaximum: 1.5)"},
        ("exclusiveMaximum", "exclusiveMinimum"),
    ),
    "exclusive bounds that may be of a string": (
        {"type": ["integer", "number"], "exclusiveMinimum": 0},
        {"type": ["integer", "number"], "description": "(exclusiveMinimum: 0)"},
        ("exclusiveMinimum",),
    ),
    "an exclusive bound beyond whole numbers": (
        {"type": "integer", "exclusiveMaximum": 1e300},
        {"type": "integer", "description": "(exclusiveMaximum: 1e+300)"},
        ("exclusiveMaximum",),
    ),
    "exclusive bounds of draft 4": (
        {"type": "integer", "minimum": 1, "exclusiveMinimum": True},
        {"type": "integer", "minimum": 1, "description": "(exclusiveMinimum: true)"},
        ("exclusiveMinimum",),
    ),
    "enum values that are no strings or numbers": (
        {"type": ["string", "null"], "enum": ["a", None]},
        {"type": ["string", "null"], "enum": ["a"], "description": '(enum: ["a",null])'},
        ("enum",),
    ),
    "an enum of booleans": (
        {"type": "boolean", "enum": [True]},
        {"type": "boolean", "description": "(enum: [true])"},
        ("enum",),
    ),
    "an enum of nothing": ({"enum": []}, {"description": "(enum: [])"}, ("enum",)),
    "const of a boolean": ({"const": False}, {"description": "(const: false)"}, ("const",)),
    "const null against its type": (
        {"const": None, "type": "string"},
        {"type": "string", "description": "(const: null)"},
        ("const",),
    ),
    "const outside an enum": (
        {"enum": ["a"], "const": "b"},
        {"enum": ["a"], "description": "(const: b)"},
        ("const",),
    ),
    "nullable of an enum without a type": (
        {"enum": ["a"], "nullable": True},
        {"enum": ["a"], "description": "(nullable: true)"},
        ("nullable",),
    ),
    "the boolean false": (
        {"properties": {"a": False}},
        {"properties": {"a": {"description": "(no value is valid here)"}}},
        ("false",),
    ),
    "two alternatives": (
        {"anyOf": [{"type": "string"}], "oneOf": [{"minLength": 1}]},
        {"anyOf": [{"type": "string"}], "description": '(oneOf: [{"minLength":1}])'},
        ("minLength", "oneOf"),
    ),
    "no alternative": ({"anyOf": []}, {"description": "(anyOf: [])"}, ("anyOf",)),
    "alternatives that require": (
        {"type": "object", "properties": {"a": {}, "b": {}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
        {
            "type": "object",
            "properties": {"a": {}, "b": {}},
            "anyOf": [{"description": '(required: ["a"])'}, {"description": '(required: ["b"])'}],
        },
        ("required",),
    ),
    "keywords with invalid values": (
        {"type": "any", "minItems": "2", "maxItems": -1, "minimum": "0", "required": True, "title": 5, "format": []},
        {
            "description": "(type: any) (minItems: 2) (maxItems: -1) (minimum: 0)"
            " (required: true) (title: 5) (format: [])"
        },
        ("format", "maxItems", "minItems", "minimum", "required", "title", "type"),
    ),
    "a reference to elsewhere": (
        {"properties": {"a": {"$ref": "https://example.org/s.json", "description": "A"}}},
        {"properties": {"a": {"description": "A\n($ref: https://example.org/s.json)"}}},
        ("$ref",),
    ),
    "references to nothing": (
        {
            "anyOf": [
                {"$ref": "#/$defs/None"},
                {"$ref": "#name"},
                {"$ref": 5},
                {"$ref": "#/anyOf/01"},
                {"$ref": "#/anyOf/9"},
                {"$ref": "#/x/y"},
            ]
        },
        {
            "anyOf": [
                {"description": "($ref: #/$defs/None)"},
                {"description": "($ref: #name)"},
                {"description": "($ref: 5)"},
                {"description": "($ref: #/anyOf/01)"},
                {"description": "($ref: #/anyOf/9)"},
                {"description": "($ref: #/x/y)"},
            ]
        },
        ("$ref",),
    ),
    "a reference to itself": ({"$ref": "#"}, {"type": "object", "description": "($ref: #)"}, ("$ref",)),
    "a schema inside itself": (
        {"properties": {"tree": {"$ref": "#/$defs/Tree"}}, "$defs": {"Tree": TREE}},
        {
            "properties": {
                "tree": {
                    "type": "object",
                    "description": "A node",
                    "properties": {
                        "name": {"type": "string"},
                        "children": {
                            "type": "array",
                            "items": {"type": "object", "description": "A node ($ref: #/$defs/Tree)"},
                        },
                    },
                }
            }
        },
        ("$ref",),
    ),
    "the document inside itself, by another spelling": (
        {"type": "array", "items": {"properties": {"a": {"$ref": "#/%69tems"}, "b": {"$ref": "#"}}}},
        {
            "type": "array",
            "items": {
                "properties": {
                    "a": {"type": "object", "description": "($ref: #/%69tems)"},
                    "b": {"type": "array", "description": "($ref: #)"},
                }
            },
        },
        ("$ref",),
    ),
    "references in a circle": (
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}},
        {"type": "object", "description": "($ref: #/$defs/A)"},
        ("$ref",),
    ),
    "allOf that contradicts itself": (
        {"type": "string", "allOf": [{"type": "integer", "minimum": 1}]},
        {"type": "string", "description": "(type: integer)", "minimum": 1},
        ("allOf",),
    ),
    "a reference that contradicts its node": (
        {"enum": ["a"], "$ref": "#/$defs/E", "$defs": {"E": {"enum": ["b"]}}},
        {"enum": ["a"], "description": '(enum: ["b"])'},
        ("$ref",),
    ),
    "allOf of alternatives": (
        {"anyOf": [{"type": "string"}], "allOf": [{"anyOf": [{"type": "string"}]}, {"anyOf": [{"title": "T"}]}]},
        {"anyOf": [{"type": "string"}], "description": '(anyOf: [{"title":"T"}])'},
        ("allOf",),
    ),
    "allOf of tuples": (
        {"prefixItems": [{"type": "string"}], "allOf": [{"items": {"type": "integer"}}]},
        {"prefixItems": [{"type": "string"}], "description": '(items: {"type":"integer"})'},
        ("allOf",),
    ),
    "allOf of closed objects": (
        {"properties": {"a": {}}, "additionalProperties": False, "allOf": [{"properties": {"b": {}}}]},
        {"properties": {"a": {}, "b": {}}, "additionalProperties": False},
        ("allOf",),
    ),
    "tuples of two drafts": (
        {"prefixItems": [{"type": "string"}], "items": [{"type": "null"}]},
        {"prefixItems": [{"type": "string"}], "description": '(items: [{"type":"null"}])'},
        ("items",),
    ),
    "allOf of a closed part": (
        {"properties": {"a": {}}, "allOf": [{"properties": {"b": {}}, "additionalProperties": False}]},
        {"properties": {"a": {}, "b": {}}, "additionalProperties": False},
        ("allOf",),
    ),
    "half an item": ({"minItems": 1.5}, {"description": "(minItems: 1.5)"}, ("minItems",)),
    "a reference too long to follow": (
        {"properties": {"a" * 1000: {"$ref": "#/properties/" + "a" * 1000}}},
        {"properties": {"a" * 1000: {"description": "($ref: #/properties/" + "a" * 487 + "…)"}}},
        ("$ref",),
    ),
    "a long note": (
        {"default": "x" * 600},
        {"description": f"(default: {'x' * 500}…)"},
        ("default",),
    ),
}


@pytest.mark.parametrize("schema", UNCHANGED.values(), ids=UNCHANGED)
def test_a_schema_of_geminis_documented_keywords_is_unchanged(schema):
    rewritten, losses = for_gemini(schema, PLACE)
    assert rewritten == schema
    assert same(rewritten, schema)
    assert losses == ()


@pytest.mark.parametrize(("schema", "expected"), LOSSLESS.values(), ids=LOSSLESS)
def test_keywords_with_an_equivalent_in_gemini_are_rewritten_without_a_loss(schema, expected):
    rewritten, losses = for_gemini(schema, PLACE)
    assert rewritten == expected
    assert same(rewritten, expected)
    assert losses == ()


@pytest.mark.parametrize(("schema", "expected", "lost"), LOSSY.values(), ids=LOSSY)
def test_keywords_without_an_equivalent_in_gemini_are_noted_and_lost(schema, expected, lost):
    rewritten, losses = for_gemini(schema, PLACE)
    assert rewritten == expected
    assert same(rewritten, expected)
    assert losses == lost


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": 5}, "parameters.properties: .*number"),
        ({"properties": {"a": {"items": "x"}}}, "parameters.properties.a.items: .*string"),
        ({"properties": {"a": None}}, "parameters.properties.a: .*null"),
        ({"anyOf": {}}, "parameters.anyOf: .*list"),
        ({"anyOf": [{}, []]}, "parameters.anyOf.1: .*a list"),
        ({"allOf": 1}, "parameters.allOf: "),
        ({"prefixItems": True}, "parameters.prefixItems: "),
        ({"items": [{}, 7]}, "parameters.(items|prefixItems).1: .*number"),
        ({"additionalProperties": "no"}, "parameters.additionalProperties: "),
        ({"properties": {"a" * 5000: 1}}, "parameters.properties.a{40}: "),
    ],
    ids=str,
)
def test_an_invalid_inner_schema_is_a_bad_request_with_its_path(schema, place):
    for rewrite in (for_gemini, for_openai, strict, from_openapi):
        with pytest.raises(BadRequest, match=rf"tools\[0\]\.{place}"):
            rewrite(schema, PLACE)


# -- limits --------------------------------------------------------------------------------------------------------


@every_rewriter
@pytest.mark.parametrize("garbage", [None, True, 5, 1.5, "object", [], [{}]], ids=str)
def test_a_schema_that_is_not_an_object_is_a_bad_request_with_its_path(rewrite, garbage):
    with pytest.raises(BadRequest, match=r"tools\[0\]\.parameters: expected a schema object"):
        rewrite(garbage)


@every_rewriter
@pytest.mark.parametrize(
    "schema",
    [{"default": nested_list(100_000)}, {"items": nested(5_000)}, nested(100)],
    ids=["value", "schema", "less"],
)
def test_too_deep_nesting_is_a_bad_request_with_its_path(rewrite, schema):
    with pytest.raises(BadRequest, match=r"tools\[0\]\.parameters: nested"):
        rewrite(schema)


@pytest.mark.parametrize("name", ["for_gemini", "for_openai", "strict", "from_openapi"])
def test_sixty_four_schemas_may_be_nested(name):
    rewrite = REWRITERS[name]
    assert rewrite(nested(64))["properties"]["a"]["properties"]["a"]["type"] == "object"
    with pytest.raises(BadRequest, match="nested deeper than 64"):
        rewrite(nested(65))


def test_references_count_as_nesting():
    links = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(80)}
    with pytest.raises(BadRequest, match="nested deeper than 64"):
        for_gemini({"$ref": "#/$defs/d0", "$defs": links}, PLACE)
    assert for_gemini({"$ref": "#/$defs/d30", "$defs": {**links, "d80": {}, "d60": {"type": "null"}}}, PLACE) == (
        {"type": "null"},
        (),
    )


def test_the_deepest_schema_uses_at_most_600_frames_of_the_stack():
    folded = {"type": "string", "default": nested_list(60)}
    for _ in range(63):
        folded = {"properties": {"a": {**folded, "minLength": 1}}}
    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 600)
    try:
        for rewrite in REWRITERS.values():
            assert rewrite(folded)["properties"]
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    ("more", "what"),
    [({}, "20000 schemas"), ({"description": "d" * 100_000}, "characters"), ({"default": "d" * 100_000}, "characters")],
    ids=["schemas", "description", "default"],
)
def test_references_that_double_at_every_level_are_a_bad_request(more, what):
    with pytest.raises(BadRequest, match=rf"tools\[0\]\.parameters: more than .*{what}, counting inlined references"):
        for_gemini(chained(30, **more), PLACE)
    assert for_gemini(chained(3), PLACE)[1] == ()


def test_a_long_text_is_not_repeated_by_a_recursive_reference():
    with pytest.raises(BadRequest, match="characters, counting inlined references"):
        for_gemini({"description": "d" * 100_000, "anyOf": [{"$ref": "#"}] * 30}, PLACE)


@pytest.mark.parametrize(
    "part",
    [
        {"description": "d" * 200_000},
        {"default": "d" * 200_000},
        {"enum": ["d"] * 60_000},
        {"required": [str(i) for i in range(60_000)]},
        {"properties": {"d" * 200_000: True}},
        {f"x-{i}": 1 for i in range(30_000)},
    ],
    ids=lambda part: next(iter(part)),
)
def test_a_large_schema_is_not_inlined_without_end(part):
    schema = {"anyOf": [{"$ref": "#/$defs/d"}] * 100, "$defs": {"d": part}}
    with pytest.raises(BadRequest, match="characters, counting inlined references"):
        for_gemini(schema, PLACE)
    assert for_gemini({**schema, "anyOf": schema["anyOf"][:3]}, PLACE)[0]["anyOf"]


@pytest.mark.parametrize(
    "part",
    [lambda i: {"description": f"{i:0200}"}, lambda i: {"required": [f"{i:0200}"]}, lambda i: {"type": ["null"]}],
    ids=["description", "required", "contradiction"],
)
def test_many_parts_are_not_merged_in_quadratic_time(part):
    with pytest.raises(BadRequest, match="characters"):
        for_gemini({"type": "string", "allOf": [part(i) for i in range(15_000)]}, PLACE)


TEXT, LONG = {"type": "string"}, {"minLength": 2}


@pytest.mark.parametrize(
    ("mine", "theirs", "merged"),
    [
        ({"title": "A"}, {"title": "B"}, {"title": "A"}),
        ({"minimum": 1}, {"minimum": 3}, {"minimum": 3}),
        ({"maximum": 1}, {"maximum": 3}, {"maximum": 1}),
        ({"description": "A"}, {"description": "B"}, {"description": "A\nB"}),
        ({"additionalProperties": False}, {"additionalProperties": TEXT}, {"additionalProperties": False}),
        ({"additionalProperties": TEXT}, {"additionalProperties": False}, {"additionalProperties": False}),
        ({"additionalProperties": True}, {"additionalProperties": TEXT}, {"additionalProperties": TEXT}),
        ({"additionalProperties": TEXT}, {"additionalProperties": {}}, {"additionalProperties": TEXT}),
        ({"additionalProperties": TEXT}, {"additionalProperties": dict(TEXT)}, {"additionalProperties": TEXT}),
        (
            {"additionalProperties": TEXT},
            {"additionalProperties": LONG},
            {"additionalProperties": {"allOf": [TEXT, LONG]}},
        ),
        (
            {"additionalProperties": {"allOf": [TEXT]}},
            {"additionalProperties": LONG},
            {"additionalProperties": {"allOf": [TEXT, LONG]}},
        ),
        (
            {"properties": {"a": TEXT}, "required": ["a"]},
            {"properties": {"a": LONG, "b": TEXT}, "required": ["b", "a"]},
            {"properties": {"a": {"allOf": [TEXT, LONG]}, "b": TEXT}, "required": ["a", "b"]},
        ),
    ],
)
def test_the_parts_of_a_tools_schema_are_merged_at_the_top_without_loss(mine, theirs, merged):
    schema, lost = for_anthropic({"type": "object", **mine, "allOf": [theirs]}, PLACE)
    assert ({"properties": {}, **schema}, lost) == ({"type": "object", "properties": {}, **merged}, ())


def test_values_that_no_schema_can_combine_are_a_loss_with_a_note():
    schema, lost = for_anthropic({"type": "object", "minProperties": 1, "allOf": [{"minProperties": 3}]}, PLACE)
    assert (schema["minProperties"], schema["description"], lost) == (1, "(minProperties: 3)", ("allOf",))


def test_a_union_at_the_top_that_holds_the_whole_schema_is_folded_once():
    schema = {"type": "object", "properties": {"a": TEXT}, "anyOf": [{"$ref": "#"}, {"properties": {"b": TEXT}}]}
    folded, lost = for_anthropic(schema, PLACE)
    assert folded["properties"] == {"a": TEXT, "b": TEXT}
    assert "anyOf" in lost


def test_a_number_that_python_cannot_write_is_a_bad_request():
    with pytest.raises(BadRequest, match=r"tools\[0\]\.parameters: the value of default"):
        for_gemini({"type": "integer", "default": 10**5000}, PLACE)


def test_a_schema_of_many_nodes_is_accepted():
    wide = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(5_000)}}
    assert for_gemini(wide, PLACE) == (wide, ())
    assert for_openai(wide, PLACE) == (wide, ())
    assert len(strict(wide, PLACE)[0]["required"]) == 5_000


# -- tools of OpenAI and Anthropic ---------------------------------------------------------------------------------

A = {"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "number"}}, "required": ["kind", "x"]}
B = {"type": "object", "properties": {"kind": {"const": "b"}, "y": {"type": "number"}}, "required": ["kind"]}
UNCHANGED_TOOLS = {
    "properties": {"type": "object", "properties": {"a": {"pattern": "x"}}, "required": ["a"], "$defs": {"X": {}}},
    "nothing required": {"type": "object", "properties": {}, "required": []},
    "a closed one": {"type": "object", "properties": {}, "additionalProperties": False},
    "unions below the top": {
        "type": "object",
        "properties": {
            "u": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "l": {"type": "array", "items": {"oneOf": [A, B]}},
            "m": {"type": "object"},
            "r": {"$ref": "#/$defs/Tree"},
        },
        "$defs": {"Tree": TREE},
    },
    "properties named like keywords": {
        "type": "object",
        "properties": {"enum": {}, "anyOf": True, "items": {"type": "string"}, "not": {}, "type": {"enum": ["array"]}},
    },
}
EMPTY = {"type": "object", "properties": {}}
UNION = '{"type":"object","properties":{"kind":{"const":"a"},"x":{"type":"number"}},"required":["kind","x"]}'
OTHER = '{"type":"object","properties":{"kind":{"const":"b"},"y":{"type":"number"}},"required":["kind"]}'
EITHER = {
    "properties": {
        "kind": {"anyOf": [{"const": "a"}, {"const": "b"}]},
        "x": {"type": "number"},
        "y": {"type": "number"},
    },
    "required": ["kind"],
}
TOOL_TOPS = {  # schema, rewritten schema, losses; the same for OpenAI and Anthropic
    "nothing": ({}, EMPTY, ()),
    "an object and no more": ({"type": "object"}, EMPTY, ()),
    "no type": ({"properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}, ()),
    "a list of types": ({"type": ["object", "null"]}, EMPTY, ()),
    "the empty object of PHP": ({"type": "object", "properties": []}, EMPTY, ()),
    "another type": (
        {"type": "string"},
        {"type": "object", "properties": {}, "description": "(type: string)"},
        ("type",),
    ),
    "a reference": (
        {"$ref": "#/$defs/X", "$defs": {"X": POINT}, "title": "T"},
        {"$defs": {"X": POINT}, "title": "T", **POINT},
        (),
    ),
    "allOf": (
        {"allOf": [{"$ref": "#/$defs/X"}, {"properties": {"y": {}}, "required": ["y"]}, True], "$defs": {"X": POINT}},
        {
            "$defs": {"X": POINT},
            "type": "object",
            "properties": {"x": {"type": "number"}, "y": {}},
            "required": ["x", "y"],
        },
        (),
    ),
    "allOf of one property": (
        {"allOf": [POINT, {"properties": {"x": {"minimum": 1}}}, {"properties": {"x": {"maximum": 2}}}]},
        {**POINT, "properties": {"x": {"allOf": [{"type": "number"}, {"minimum": 1}, {"maximum": 2}]}}},
        (),
    ),
    "allOf of closed objects": (
        {"properties": {"a": {}}, "additionalProperties": False, "allOf": [{"properties": {"b": {}}}]},
        {"type": "object", "properties": {"a": {}, "b": {}}, "additionalProperties": False},
        ("allOf",),
    ),
    "allOf that contradicts itself": (
        {"minProperties": 1, "allOf": [{"type": "object", "minProperties": 2}]},
        {"minProperties": 1, "type": "object", "description": "(minProperties: 2)", "properties": {}},
        ("allOf",),
    ),
    "alternatives": (
        {"anyOf": [A, B], "description": "D"},
        {"description": f"D (anyOf: [{UNION},{OTHER}])", **EITHER, "type": "object"},
        ("anyOf",),
    ),
    "alternatives by reference": (
        {"type": "object", "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}], "$defs": {"A": A, "B": B}},
        {
            "type": "object",
            "$defs": {"A": A, "B": B},
            "description": '(oneOf: [{"$ref":"#/$defs/A"},{"$ref":"#/$defs/B"}])',
            **EITHER,
        },
        ("oneOf",),
    ),
    "alternatives that require": (
        {**POINT, "properties": {"x": {}, "y": {}}, "anyOf": [{"required": ["x"]}, {"required": ["y"]}]},
        {
            "type": "object",
            "properties": {"x": {}, "y": {}},
            "required": ["x"],
            "description": '(anyOf: [{"required":["x"]},{"required":["y"]}])',
        },
        ("anyOf",),
    ),
    "one alternative, or null": ({"anyOf": [POINT, {"type": "null"}, False]}, POINT, ()),
    "the same alternative twice": ({"oneOf": [POINT, dict(POINT)]}, POINT, ()),
    "an alternative of another type": (
        {"anyOf": [POINT, {"type": "string"}]},
        {
            "description": '(anyOf: [{"type":"object","properties":{"x":{"type":"number"}},"required":["x"]},'
            '{"type":"string"}])',
            **POINT,
        },
        ("anyOf",),
    ),
    "no alternative": (
        {"anyOf": []},
        {"type": "object", "description": "(anyOf: [])", "properties": {}},
        ("anyOf",),
    ),
    "closed alternatives": (
        {"anyOf": [{**A, "additionalProperties": False}, {**B, "additionalProperties": False}]},
        {**EITHER, "type": "object", "additionalProperties": False, "description": ...},
        ("anyOf",),
    ),
    "alternatives inside alternatives": (
        {"anyOf": [{"oneOf": [{"$ref": "#/$defs/X"}]}], "$defs": {"X": POINT}},
        {"$defs": {"X": POINT}, **POINT},
        (),
    ),
    "alternatives in a circle": (
        {"anyOf": [{"$ref": "#"}, POINT]},
        {"type": "object", "description": ..., "properties": {"x": {"type": "number"}}},
        ("anyOf",),
    ),
}


def shortened(schema: dict, expected: dict) -> dict:
    """Returns the schema with `...` for each text that is `...` in the expected schema."""
    return {key: ... if expected.get(key) is ... and isinstance(value, str) else value for key, value in schema.items()}


@pytest.mark.parametrize("rewrite", [for_openai, for_anthropic])
@pytest.mark.parametrize(("schema", "expected", "lost"), TOOL_TOPS.values(), ids=TOOL_TOPS)
def test_a_tools_schema_becomes_an_object_without_unions(rewrite, schema, expected, lost):
    rewritten, losses = rewrite(schema, PLACE)
    assert shortened(rewritten, expected) == expected
    assert losses == lost
    again, more = rewrite(rewritten, PLACE)
    assert same(again, rewritten)
    assert more == ()


@pytest.mark.parametrize("schema", UNCHANGED_TOOLS.values(), ids=UNCHANGED_TOOLS)
def test_a_valid_tool_schema_for_openai_is_unchanged(schema):
    rewritten, losses = for_openai(schema, PLACE)
    assert same(rewritten, schema)
    assert losses == ()


OPENAI = {
    "arrays without items": (
        {"type": "object", "properties": {"a": {"type": "array"}, "b": {"type": ["null", "array"], "items": None}}},
        {
            "type": "object",
            "properties": {"a": {"type": "array", "items": {}}, "b": {"type": ["null", "array"], "items": {}}},
        },
        (),
    ),
    "arrays in definitions and alternatives": (
        {**EMPTY, "$defs": {"X": {"anyOf": [{"type": "array"}, {"type": "string"}]}}},
        {**EMPTY, "$defs": {"X": {"anyOf": [{"type": "array", "items": {}}, {"type": "string"}]}}},
        (),
    ),
    "tuples of draft 7": (
        {**EMPTY, "properties": {"a": {"type": "array", "items": [{"type": "string"}]}}},
        {**EMPTY, "properties": {"a": {"type": "array", "prefixItems": [{"type": "string"}], "items": {}}}},
        (),
    ),
    "null as a keyword's value": (
        {"type": None, "properties": {"a": {"required": None, "default": None}}, "required": None},
        {"type": "object", "properties": {"a": {"default": None}}},
        (),
    ),
    "enum and not at the top": (
        {**EMPTY, "not": {"required": ["a"]}, "enum": [{}]},
        {**EMPTY, "description": '(enum: [{}]) (not: {"required":["a"]})'},
        ("enum", "not"),
    ),
    "an enum": (
        {"type": "string", "enum": ["a"]},
        {"type": "object", "properties": {}, "description": '(enum: ["a"]) (type: string)'},
        ("enum", "type"),
    ),
}


@pytest.mark.parametrize(("schema", "expected", "lost"), OPENAI.values(), ids=OPENAI)
def test_arrays_in_a_tool_schema_for_openai_get_items(schema, expected, lost):
    assert for_openai(schema, PLACE) == (expected, lost)


ANTHROPIC = {
    "arrays": ({**EMPTY, "properties": {"a": {"type": "array"}}}, {**EMPTY, "properties": {"a": {"type": "array"}}}),
    "nothing required": ({**EMPTY, "required": []}, EMPTY),
    "null required": (
        {"type": None, "title": "T", "required": None},
        {"type": "object", "title": "T", "properties": {}},
    ),
}


@pytest.mark.parametrize(("schema", "expected"), ANTHROPIC.values(), ids=ANTHROPIC)
def test_a_tool_schema_for_anthropic_becomes_an_object(schema, expected):
    rewritten, losses = for_anthropic(schema, PLACE)
    assert same(rewritten, expected)
    assert losses == ()


def test_many_alternatives_are_not_merged_in_quadratic_time():
    for part in ({"properties": {"a" * 900: {}}}, {"properties": {"a": {"title": "t" * 900}}}):
        parts = [{**part, "title": str(i)} for i in range(15_000)]
        with pytest.raises(BadRequest, match="characters"):
            for_openai({"anyOf": parts}, PLACE)
    with pytest.raises(BadRequest, match="characters"):
        for_anthropic({"allOf": [{"properties": {"a": {"title": str(i)}}} for i in range(15_000)]}, PLACE)
    with pytest.raises(BadRequest, match="characters"):
        for_anthropic({"allOf": [{"properties": {str(i): {}}} for i in range(15_000)]}, PLACE)
    doubled = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    with pytest.raises(BadRequest, match="20000 schemas"):
        for_openai({"$ref": "#/$defs/d0", "$defs": {**doubled, "d40": {}}}, PLACE)


# -- structured output ---------------------------------------------------------------------------------------------

CLOSED = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"], "additionalProperties": False}
OPEN = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}


def closed(**properties) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


UNCHANGED_STRICT = {
    "an object": CLOSED,
    "in another order": {**closed(a={}, b={}), "required": ["b", "a"]},
    "no properties": {"type": "object", "properties": {}, "additionalProperties": False, "required": []},
    "an object without properties": {"type": "object", "additionalProperties": False, "properties": {}},
    "every accepted keyword": closed(
        s={"type": ["string", "null"], "format": "uri", "title": "S", "description": "a", "default": None},
        e={"type": "string", "enum": ["a", "b"]},
        m={"enum": [1, None, True]},
        c={"const": 7},
        l={"type": "array", "items": CLOSED, "minItems": 1},
        u={"anyOf": [CLOSED, {"type": "null"}], "description": "either"},
        r={"$ref": "#/$defs/X"},
    )
    | {"$defs": {"X": CLOSED}, "definitions": {"Y": CLOSED}},
    "a list": {"type": "array", "items": CLOSED},
    "a reference": {"$ref": "#/$defs/X", "$defs": {"X": CLOSED}},
}
STRICT = {  # schema, rewritten schema, losses
    "an object": (OPEN, CLOSED, ()),
    "all are required, in their order": (
        {"type": "object", "required": ["b"], "properties": {"a": {}, "b": {}}},
        closed(a={}, b={}),
        ("required",),
    ),
    "required and not there": ({**CLOSED, "required": ["x", "y"]}, CLOSED, ("required",)),
    "explicitly open": ({**OPEN, "additionalProperties": {}}, CLOSED, ("additionalProperties",)),
    "a map": (
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "additionalProperties": False},
        ("additionalProperties",),
    ),
    "any object": (
        {"type": "object", "required": ["a"]},
        {"type": "object", "additionalProperties": False},
        ("additionalProperties", "required"),
    ),
    "without a type": ({"properties": {}}, {"type": "object", "properties": {}, "additionalProperties": False}, ()),
    "of two types": (
        {"type": ["object", "null"], "properties": {}},
        {"type": ["object", "null"], "properties": {}, "additionalProperties": False},
        (),
    ),
    "of another type": (
        {"type": "string", "properties": {"a": True}},
        {"type": "string", "properties": {"a": True}},
        (),
    ),
    "null": ({"items": None, "properties": None, "type": "string"}, {"type": "string"}, ()),
    "properties named like keywords": (
        {"type": "object", "properties": {"properties": {"type": "string"}, "items": OPEN, "minimum": {}}},
        closed(properties={"type": "string"}, items=CLOSED, minimum={}),
        ("required",),
    ),
    "silent keywords": ({"$schema": "s", "$id": "i", "$comment": "c", **CLOSED}, CLOSED, ()),
    "numbers": (
        {"type": "integer", "minimum": 1, "maximum": 9, "multipleOf": 2, "description": "D"},
        {"type": "integer", "description": "D (minimum: 1) (maximum: 9) (multipleOf: 2)"},
        ("maximum", "minimum", "multipleOf"),
    ),
    "strings": (
        {"type": "string", "minLength": 1, "maxLength": 9, "pattern": "^a$", "format": "regex"},
        {"type": "string", "description": "(minLength: 1) (maxLength: 9) (pattern: ^a$) (format: regex)"},
        ("format", "maxLength", "minLength", "pattern"),
    ),
    "lists": (
        {"type": "array", "items": {}, "minItems": 2, "maxItems": 3, "uniqueItems": True},
        {"type": "array", "items": {}, "description": "(minItems: 2) (maxItems: 3) (uniqueItems: true)"},
        ("maxItems", "minItems", "uniqueItems"),
    ),
    "tuples": (
        {"type": "array", "items": [{"type": "string"}], "additionalItems": False},
        {"type": "array", "description": '(prefixItems: [{"type":"string"}]) (items: false)'},
        ("items", "prefixItems"),
    ),
    "values that are objects": (
        {"enum": [{"a": 1}], "const": []},
        {"description": '(enum: [{"a":1}]) (const: [])'},
        ("const", "enum"),
    ),
    "unknown keywords": (
        {"type": "string", "x-order": 1, "nullable": True},
        {"type": "string"},
        ("nullable", "x-order"),
    ),
    "oneOf": ({"oneOf": [OPEN, {"type": "null"}, False]}, {"anyOf": [CLOSED, {"type": "null"}]}, ()),
    "both": (
        {"anyOf": [{"type": "string"}], "oneOf": [{"title": "T"}]},
        {"anyOf": [{"type": "string"}], "description": '(oneOf: [{"title":"T"}])'},
        ("oneOf",),
    ),
    "alternatives that require": (
        {**OPEN, "anyOf": [{"required": ["x"]}]},
        {**CLOSED, "description": '(anyOf: [{"required":["x"]}])'},
        ("anyOf", "required"),
    ),
    "required of nothing": ({"required": ["x"]}, {"description": '(required: ["x"])'}, ("required",)),
    "allOf": (
        {"allOf": [OPEN, {"properties": {"y": {"type": "null"}}, "required": ["y"]}]},
        closed(x={"type": "number"}, y={"type": "null"}),
        (),
    ),
    "allOf of one property": (
        {"allOf": [OPEN, {"properties": {"x": {"title": "T", "minimum": 1}}}]},
        closed(x={"type": "number", "title": "T", "description": "(minimum: 1)"}),
        ("minimum",),
    ),
    "annotations beside a reference": (
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/X", "description": "D"}}, "$defs": {"X": OPEN}},
        {**closed(a={"anyOf": [{"$ref": "#/$defs/X"}], "description": "D"}), "$defs": {"X": CLOSED}},
        ("required",),
    ),
    "constraints beside a reference": (
        {**closed(a={"$ref": "#/$defs/X", "required": ["y"]}), "$defs": {"X": {"properties": {"y": {}}}}},
        {**closed(a=closed(y={})), "$defs": {"X": closed(y={})}},
        ("required",),
    ),
    "a reference to elsewhere": ({"$ref": "https://a.com/s.json"}, {"$ref": "https://a.com/s.json"}, ("$ref",)),
    "a schema inside itself": (
        {"$ref": "#/$defs/Tree", "$defs": {"Tree": TREE}},
        {"$ref": "#/$defs/Tree", "$defs": {"Tree": TREE}},
        ("$ref",),
    ),
    "the document inside itself": ({"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}, ("$ref",)),
}


@pytest.mark.parametrize("schema", UNCHANGED_STRICT.values(), ids=UNCHANGED_STRICT)
def test_a_schema_that_structured_output_accepts_is_unchanged(schema):
    assert strict(schema, PLACE) == (schema, ())
    assert is_strict({**schema, "$schema": "https://json-schema.org/draft/2020-12/schema"}, PLACE)


@pytest.mark.parametrize(("schema", "expected", "lost"), STRICT.values(), ids=STRICT)
def test_keywords_that_structured_output_lacks_are_noted_and_lost(schema, expected, lost):
    rewritten, losses = strict(schema, PLACE)
    assert rewritten == expected
    assert losses == lost
    assert is_strict(schema, PLACE) is (schema == expected and not lost)
    if "$ref" not in lost:
        assert strict(rewritten, PLACE) == (expected, ())


@pytest.mark.parametrize("key", ["items", "anyOf", "oneOf", "$defs", "definitions"])
def test_strict_rewrites_every_inner_object(key):
    shapes = {"items": lambda s: s, "$defs": lambda s: {"n": s}, "definitions": lambda s: {"n": s}}
    wrap = shapes.get(key, lambda s: [s, True])
    assert strict({key: wrap(OPEN)}, PLACE)[0] == {key.replace("oneOf", "anyOf"): wrap(CLOSED)}


def test_a_schema_of_many_references_is_not_recursive():
    links = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(50)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**links, "d50": {"type": "null"}}}
    assert strict(schema, PLACE) == (schema, ())
    long = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(15_000)}
    assert strict({"$defs": {**long, "d15000": {}}}, PLACE)[1] == ()
    assert strict({"$defs": {**long, "d15000": {"$ref": "#/$defs/d0"}}}, PLACE)[1] == ("$ref",)


OPENAI_STRICT = {
    "an object": CLOSED,
    "no properties": {"type": "object", "properties": {}, "additionalProperties": False},
    "every accepted keyword": {
        **closed(
            s={"type": ["string", "null"], "format": "email", "pattern": "^a$", "title": "S", "description": "a"},
            e={"type": "string", "enum": ["a", "b"]},
            c={"type": "string", "const": "a"},
            i={"type": "integer", "minimum": 1, "exclusiveMaximum": 9, "multipleOf": 2},
            l={"type": "array", "items": CLOSED, "minItems": 2, "maxItems": 5},
            u={"anyOf": [CLOSED, {"type": "null"}], "description": "either"},
            t={"$ref": "#/$defs/T"},
            me={"$ref": "#"},
        ),
        "$defs": {"T": closed(children={"type": "array", "items": {"$ref": "#/$defs/T"}})},
        "$schema": "https://json-schema.org/draft/2020-12/schema",
    },
}
NOT_OPENAI_STRICT = {
    "open": OPEN,
    "optional": {**CLOSED, "required": []},
    "required and not there": {**CLOSED, "required": ["x", "y"]},
    "no properties": {"type": "object", "additionalProperties": False},
    "no type": {key: value for key, value in CLOSED.items() if key != "type"},
    "a list": {"type": "array", "items": CLOSED},
    "nullable": {**CLOSED, "type": ["object", "null"]},
    "nothing": {},
    "alternatives at the top": {**CLOSED, "anyOf": [CLOSED]},
    "a reference at the top": {"$ref": "#/$defs/X", "$defs": {"X": CLOSED}},
    **{
        name: closed(a=part)
        for name, part in {
            "open inside": OPEN,
            "open in a list": {"type": "array", "items": OPEN},
            "open in alternatives": {"anyOf": [OPEN]},
            "a map": {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}},
            "anything": {},
            "true": True,
            "false": False,
            "a list of anything": {"type": "array"},
            "no alternative": {"anyOf": []},
            "no value": {"type": "string", "enum": []},
            "oneOf": {"oneOf": [CLOSED]},
            "allOf": {"allOf": [CLOSED]},
            "not": {"type": "string", "not": {}},
            "default": {"type": "string", "default": "a"},
            "an unknown format": {"type": "string", "format": "uri"},
            "an invalid format": {"type": "string", "format": []},
            "annotations beside a reference": {"$ref": "#", "description": "D"},
            "a reference to nothing": {"$ref": "#/$defs/None"},
            "garbage": 5,
            "an invalid type": {"type": 5},
        }.items()
    },
    "open definitions": {**CLOSED, "$defs": {"X": OPEN}},
}


@pytest.mark.parametrize("schema", OPENAI_STRICT.values(), ids=OPENAI_STRICT)
def test_openai_accepts_a_schema_as_strict(schema):
    assert is_openai_strict(schema)
    assert for_openai(schema, PLACE) == (schema, ())


@pytest.mark.parametrize("schema", NOT_OPENAI_STRICT.values(), ids=NOT_OPENAI_STRICT)
def test_openai_rejects_a_schema_as_strict(schema):
    assert not is_openai_strict(schema)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (CLOSED, True),
        ({"properties": {}}, True),
        ({"type": ["object"]}, True),
        ({"$ref": "#/$defs/X", "$defs": {"X": OPEN}}, True),
        ({"$ref": "#/$defs/X", "$defs": {"X": {"type": "string"}}}, False),
        ({"$ref": "#"}, False),
        ({"$ref": "#/$defs/X", "$defs": {"X": True}}, False),
        ({"type": "array", "items": CLOSED}, False),
        ({"type": ["object", "null"], "properties": {}}, False),
        ({"enum": ["a"]}, False),
        ({"anyOf": [CLOSED]}, False),
        ({}, False),
    ],
)
def test_whether_a_schema_allows_only_objects(schema, expected):
    assert is_object(schema) is expected


# -- from Gemini ---------------------------------------------------------------------------------------------------

OPENAPI = {
    "types": (
        {"type": "OBJECT", "properties": {"TYPE": {"type": "ARRAY", "items": {"type": "STRING"}}}},
        {"type": "object", "properties": {"TYPE": {"type": "array", "items": {"type": "string"}}}},
    ),
    "a list of types": ({"type": ["STRING", "null"]}, {"type": ["string", "null"]}),
    "no type": ({"type": "TYPE_UNSPECIFIED", "title": "T"}, {"title": "T"}),
    "nullable": ({"nullable": True, "type": "STRING"}, {"type": ["string", "null"]}),
    "not nullable": ({"type": "STRING", "nullable": False}, {"type": "string"}),
    "nullable enum": (
        {"type": "STRING", "format": "enum", "enum": ["a"], "nullable": True},
        {"type": ["string", "null"], "format": "enum", "enum": ["a", None]},
    ),
    "nullable enum with null": ({"enum": [None], "nullable": True}, {"enum": [None]}),
    "nullable alternatives": (
        {"anyOf": [{"type": "STRING"}], "nullable": True},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
    ),
    "nullable alternatives, one of them null": (
        {"anyOf": [{"type": "STRING", "nullable": True}], "nullable": True},
        {"anyOf": [{"type": ["string", "null"]}]},
    ),
    "numbers in strings": (
        {"type": "ARRAY", "minItems": "3", "maxItems": 5, "maxLength": "9223372036854775807x", "minimum": "1"},
        {"type": "array", "minItems": 3, "maxItems": 5, "maxLength": "9223372036854775807x", "minimum": "1"},
    ),
    "enums of whole numbers": (
        {"type": "INTEGER", "enum": ["101", "-7", "x"]},
        {"type": "integer", "enum": [101, -7, "x"]},
    ),
    "enums of digits": ({"type": "STRING", "enum": ["101"]}, {"type": "string", "enum": ["101"]}),
    "example": ({"example": {"type": "X"}, "type": "STRING"}, {"examples": [{"type": "X"}], "type": "string"}),
    "example and examples": ({"examples": [1], "example": 2}, {"examples": [1, 2]}),
    "examples after the example": ({"example": 2, "examples": [1]}, {"examples": [1, 2]}),
    "snake case": (
        {
            "any_of": [{"type": "ARRAY", "min_items": "1", "max_items": "2"}],
            "min_length": "1",
            "max_length": "2",
            "min_properties": "3",
            "max_properties": "4",
            "additional_properties": {"type": "STRING"},
        },
        {
            "anyOf": [{"type": "array", "minItems": 1, "maxItems": 2}],
            "minLength": 1,
            "maxLength": 2,
            "minProperties": 3,
            "maxProperties": 4,
            "additionalProperties": {"type": "string"},
        },
    ),
    "both spellings": ({"min_items": "1", "minItems": "2"}, {"minItems": 2}),
    "both spellings, the other way round": ({"minItems": "2", "min_items": "1"}, {"minItems": 2}),
    "properties in snake case": (
        {"properties": {"any_of": {"type": "STRING"}, "nullable": {"type": "NULL"}}},
        {"properties": {"any_of": {"type": "string"}, "nullable": {"type": "null"}}},
    ),
    "the order of properties": (
        {"properties": {"a": {}, "b": {}, "c": {}}, "propertyOrdering": ["c", "x", 5, "a"]},
        {"properties": {"c": {}, "a": {}, "b": {}}},
    ),
    "the order in snake case": (
        {"property_ordering": ["b"], "properties": {"a": {}, "b": {}}},
        {"properties": {"b": {}, "a": {}}},
    ),
    "everywhere": (
        {"prefixItems": [{"type": "STRING"}], "$defs": {"A": {"type": "NUMBER"}}, "additionalProperties": False},
        {"prefixItems": [{"type": "string"}], "$defs": {"A": {"type": "number"}}, "additionalProperties": False},
    ),
    "values are no schemas": (
        {"default": {"type": "STRING"}, "enum": ["STRING"]},
        {"default": {"type": "STRING"}, "enum": ["STRING"]},
    ),
}


@pytest.mark.parametrize(("schema", "expected"), OPENAPI.values(), ids=OPENAPI)
def test_the_openapi_schema_of_gemini_becomes_json_schema(schema, expected):
    converted = from_openapi(schema, PLACE)
    assert same(converted, expected)
    assert same(from_openapi(converted, PLACE), expected)


# -- generated documents -------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "pattern", "$ref", "properties", "a/b~", "ü"])


def maps(inner):
    return st.dictionaries(NAMES, inner, max_size=3)


VALUES = st.none() | st.booleans() | st.integers(-3, 9) | st.sampled_from([0.5, 2.0, 1e300]) | st.sampled_from("abc")
JSON = st.recursive(VALUES | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2) | maps(inner), max_leaves=6)
POINTERS = [
    "#",
    "#/$defs/A",
    "#/$defs/B",
    "#/$defs/C",
    "#/properties/a",
    "#/anyOf/0",
    "#/$defs/a~1b~0",
    "#/$defs/%C3%BC",
]
KINDS = st.sampled_from(["string", "integer", "number", "object", "array", "null", "boolean"])
LEAVES = {
    "type": KINDS | st.lists(KINDS, max_size=3),
    "description": st.sampled_from(["", "D", "E"]),
    "title": st.just("T"),
    "format": st.sampled_from(["date-time", "email", "int32", "enum"]),
    "enum": st.lists(VALUES, max_size=3),
    "const": VALUES,
    "nullable": st.booleans(),
    "minimum": st.integers(-3, 9),
    "exclusiveMinimum": st.sampled_from([-1, 0.5, 3, True]),
    "exclusiveMaximum": st.sampled_from([-1, 2.5, 5]),
    "minItems": st.sampled_from([0, 1, 2.0, "1"]),
    "required": st.lists(NAMES, max_size=3),
    "propertyOrdering": st.lists(NAMES, max_size=3),
    "pattern": st.just("^a$"),
    "default": JSON,
    "not": JSON,
    "x-more": JSON,
    "$comment": st.just("c"),
    "$ref": st.sampled_from([*POINTERS, "#/$defs/None", "https://example.org", "#name"]),
}


def some_of(table: dict, maximum: int = 3):
    """Objects with up to `maximum` of the keys, in any order."""
    chosen = st.lists(st.sampled_from(sorted(table)), max_size=maximum, unique=True)
    return chosen.flatmap(lambda keys: st.fixed_dictionaries({key: table[key] for key in keys}))


def with_children(inner):
    """Schemas with inner schemas."""
    table = {
        "properties": maps(inner),
        "items": inner | st.lists(inner, max_size=2),
        "additionalItems": inner,
        "prefixItems": st.lists(inner, max_size=2),
        "additionalProperties": inner,
        **dict.fromkeys(("anyOf", "oneOf", "allOf"), st.lists(inner, max_size=3)),
    }
    return some_of({**LEAVES, **table}, 5)


NODES = st.recursive(some_of(LEAVES) | st.booleans(), with_children, max_leaves=8)
GARBAGE = st.recursive(
    some_of({**LEAVES, **dict.fromkeys(LEAVES, JSON)}), lambda inner: with_children(inner | JSON), max_leaves=6
)
TOPS = with_children(NODES)
DEFINED = st.builds(
    lambda top, definitions: {**top, "$defs": definitions},
    TOPS,
    st.fixed_dictionaries({"A": NODES, "B": NODES, "C": NODES}, optional={"a/b~": NODES, "ü": NODES}),
)
ANYTHING = DEFINED | GARBAGE | JSON | maps(JSON)


def all_nodes(schema):
    """Yields every inner schema of a schema for Gemini, without the code under test."""
    yield schema
    inner = [schema.get("items"), schema.get("additionalProperties"), *schema.get("properties", {}).values()]
    for child in (*inner, *schema.get("anyOf", ()), *schema.get("prefixItems", ())):
        if isinstance(child, dict):
            yield from all_nodes(child)
        else:
            assert child is None or child is schema["additionalProperties"]


@every_rewriter
@given(ANYTHING)
@settings(deadline=None)
def test_a_rewriter_raises_only_bad_request_and_never_changes_its_input(rewrite, document):
    before = json.dumps(document)
    try:
        first = rewrite(document)
    except BadRequest as error:
        assert PLACE in str(error)
    else:
        assert same(first, rewrite(copy.deepcopy(document)))
    assert json.dumps(document) == before


@given(DEFINED | GARBAGE)
@settings(deadline=None, max_examples=examples(300))
def test_a_schema_for_gemini_has_only_its_keywords_and_stays_the_same_when_rewritten_again(document):
    try:
        rewritten, losses = for_gemini(document, PLACE)
    except BadRequest:
        return
    assert list(losses) == sorted(set(losses))
    for node in all_nodes(rewritten):
        assert node.keys() <= ALLOWED
        assert set(node.get("required", ())) <= node.get("properties", {}).keys()
        assert all(isinstance(value, str) or type(value) in (int, float) for value in node.get("enum", ()))
        assert node.get("enum") != []
        assert isinstance(node.get("description", ""), str)
    again, more = for_gemini(rewritten, PLACE)
    assert same(again, rewritten)
    assert more == ()


@given(DEFINED)
@settings(deadline=None)
def test_a_valid_schema_is_rejected_only_for_its_size(document):
    try:
        for_gemini(document, PLACE)
    except BadRequest as error:
        assert "nested deeper" in str(error) or "counting inlined references" in str(error)
    assert from_openapi(document, PLACE)
    for rewrite in (for_openai, for_anthropic, strict):
        try:
            assert rewrite(document, PLACE)
        except BadRequest as error:
            assert "nested deeper" in str(error) or "counting inlined references" in str(error)


@given(TOPS)
@settings(deadline=None)
def test_every_strict_object_is_closed(document):
    def walk(node):
        if not isinstance(node, dict):
            return
        kinds = node.get("type")
        if "object" in (kinds if isinstance(kinds, list) else [kinds]) or (kinds is None and "properties" in node):
            assert node["additionalProperties"] is False
            assert set(node.get("required", [])) == set(node.get("properties", {}))
        inner = [*node.get("properties", {}).values(), node.get("items"), *node.get("anyOf", ())]
        for child in inner:
            walk(child)

    rewritten, losses = strict(document, PLACE)
    if "$ref" in losses:
        return
    walk(rewritten)
    assert strict(rewritten, PLACE) == (rewritten, ())


@given(DEFINED)
@example({"$ref": "#/$defs/A", "anyOf": [], "$defs": {"A": {"$ref": "#/$defs/A"}}})
@settings(deadline=None)
def test_a_tools_schema_is_an_object_and_stays_the_same_when_rewritten_again(document):
    for rewrite in (for_openai, for_anthropic):
        try:
            rewritten, losses = rewrite(document, PLACE)
        except BadRequest:
            continue
        assert list(losses) == sorted(set(losses))
        assert rewritten["type"] == "object"
        assert isinstance(rewritten["properties"], dict)
        assert not rewritten.keys() & {"anyOf", "oneOf", "allOf"}
        assert same(rewrite(rewritten, PLACE)[0], rewritten)


@given(ANYTHING)
@settings(deadline=None)
def test_the_checks_accept_any_document(document):
    if isinstance(document, dict):
        before = json.dumps(document)
        assert is_openai_strict(document) in (True, False)
        assert is_object(document) in (True, False)
        assert json.dumps(document) == before


@given(DEFINED)
@settings(deadline=None)
def test_a_schema_that_is_strict_for_openai_is_unchanged_in_a_tool(document):
    if is_openai_strict(document):
        assert for_openai(document, PLACE) == (document, ())


# -- a schema without losses accepts the same values ---------------------------------------------------------------

LETTERS = st.sampled_from("abc")
INTEGERS = st.integers(-1, 4)
CHECKED = {
    "type": KINDS | st.lists(KINDS, min_size=1, max_size=3, unique=True),
    "enum": st.lists(INTEGERS | LETTERS, min_size=1, max_size=4),
    "const": INTEGERS | LETTERS | st.none(),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), INTEGERS),
    **dict.fromkeys(("minItems", "maxItems"), st.integers(0, 2)),
    "$ref": st.sampled_from(["#/$defs/A", "#/$defs/B"]),
}


def checked_schemas(inner):
    table = {
        "items": inner,
        "prefixItems": st.lists(inner, min_size=1, max_size=2),
        "additionalProperties": inner,
        **dict.fromkeys(("anyOf", "oneOf"), st.lists(inner, min_size=1, max_size=2)),
        "allOf": st.lists(inner, min_size=1, max_size=3),
    }
    objects = st.dictionaries(LETTERS, inner, min_size=1, max_size=2).flatmap(
        lambda properties: st.fixed_dictionaries(
            {"properties": st.just(properties)},
            optional={"required": st.lists(st.sampled_from(sorted(properties)), max_size=2)},
        )
    )
    return st.builds(
        lambda keywords, properties_: {**keywords, **properties_},
        some_of({**CHECKED, **table}, 4),
        objects | st.just({}),
    )


CHECKED_SCHEMAS = st.recursive(some_of(CHECKED) | st.booleans(), checked_schemas, max_leaves=6)
DOCUMENTS = st.builds(
    lambda top, first, second: {**top, "$defs": {"A": first, "B": second}},
    checked_schemas(CHECKED_SCHEMAS),
    some_of(CHECKED),
    checked_schemas(CHECKED_SCHEMAS),
)
INSTANCES = [
    *(None, True, -1, 0, 1, 2, 3, 4, "a", "b", [], [1], ["a", 2], [1, "b", None], {}),
    *({"a": 1}, {"a": "a"}, {"b": 3}, {"a": 2, "b": "b"}, {"a": 1, "b": 2, "c": None}, {"c": [0]}, {"z": 1}),
]


def is_number(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


TYPE_CHECKS = {
    "string": lambda v: isinstance(v, str),
    "integer": is_number,
    "number": is_number,
    "boolean": lambda v: isinstance(v, bool),
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
    "null": lambda v: v is None,
}


def is_valid(schema, value, root) -> bool:
    """Validates a value by the keywords above. oneOf means anyOf, as in Gemini."""
    if isinstance(schema, bool):
        return schema
    kinds = schema.get("type", list(TYPE_CHECKS))
    rules = [
        any(TYPE_CHECKS[kind](value) for kind in ([kinds] if isinstance(kinds, str) else kinds)),
        "enum" not in schema or json.dumps(value) in map(json.dumps, schema["enum"]),
        "const" not in schema or json.dumps(value) == json.dumps(schema["const"]),
        "$ref" not in schema or is_valid(root["$defs"][schema["$ref"][-1]], value, root),
        all(is_valid(part, value, root) for part in schema.get("allOf", ())),
        *(any(is_valid(p, value, root) for p in schema[key]) for key in ("anyOf", "oneOf") if key in schema),
    ]
    if is_number(value):
        rules += [value >= schema.get("minimum", value), value <= schema.get("maximum", value)]
        rules += [value > schema.get("exclusiveMinimum", value - 1), value < schema.get("exclusiveMaximum", value + 1)]
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        rules += [len(value) >= schema.get("minItems", 0), len(value) <= schema.get("maxItems", 99)]
        rules += [is_valid(part, item, root) for part, item in zip(first, value, strict=False)]
        rules += [is_valid(schema.get("items", True), item, root) for item in value[len(first) :]]
    if isinstance(value, dict):
        named = schema.get("properties", {})
        rules += [name in value for name in schema.get("required", ())]
        rules += [is_valid(named.get(n, schema.get("additionalProperties", True)), v, root) for n, v in value.items()]
    return all(rules)


@given(DOCUMENTS)
@settings(deadline=None, max_examples=examples(300))
def test_a_schema_without_losses_accepts_the_same_values(document):
    rewritten, losses = for_gemini(document, PLACE)
    if losses:
        return
    for instance in INSTANCES:
        assert is_valid(rewritten, instance, rewritten) == is_valid(document, instance, document), instance
