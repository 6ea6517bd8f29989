"""Custom tools, and the functions that replace them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gproxy.protocols import hub
from gproxy.protocols.custom_tools import FREE_INPUT, as_arguments, free_text, is_custom


@given(st.text())
def test_a_text_is_read_back_from_its_arguments(text):
    written = as_arguments(text)
    assert json.loads(written) == {"input": text}
    assert free_text(written) == text


def test_the_schema_describes_the_arguments():
    assert FREE_INPUT["required"] == list(FREE_INPUT["properties"]) == list(json.loads(as_arguments("x")))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "SELECT 1"}', "SELECT 1"),
        ('{"input": "a", "more": 1}', "a"),
        # arguments of any other form are returned unchanged
        ('{"input": 7}', '{"input": 7}'),
        ('{"input": {"a": 1}}', '{"input": {"a": 1}}'),
        ('{"query": "a"}', '{"query": "a"}'),
        ("{}", "{}"),
        ("[1]", "[1]"),
        ('"text"', '"text"'),
        ("SELECT 1", "SELECT 1"),
        ('{"input": "cut', '{"input": "cut'),
        ("", ""),
    ],
)
def test_free_text_is_read_from_arguments(arguments, text):
    assert free_text(arguments) == text


@pytest.mark.parametrize(
    ("name", "expected"), [("patch", True), ("look_up", False), ("nowhere", False), ("web_search", False)]
)
def test_only_a_tool_that_the_client_declared_as_custom_is_custom(name, expected):
    tools = (hub.Tool("patch"), hub.Tool("look_up", schema={}), hub.WebSearch())
    assert is_custom(name, hub.Context("m", "main", "req_1", 0, hub.Request(tools=tools))) is expected
