"""Every protocol folder has the members of the interface, and the registry refuses one that lacks any."""

import ast
import inspect
import sys
from itertools import pairwise

import pytest

from gproxy import protocols
from gproxy.protocols import interface
from gproxy.protocols.interface import CONSTANTS, FUNCTIONS, StreamReader, WireProtocol, missing_members
from tests.sampled import request_head

LOADED = protocols.load()
EACH = pytest.mark.parametrize("protocol", LOADED.values(), ids=LOADED)
READER_MEMBERS = [name for name in vars(StreamReader) if name[0] != "_"]


def parameters(function) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_the_members_are_those_of_the_type():
    assert {"NAME", "ROUTES", "CODECS", "HEARTBEAT"} < set(CONSTANTS)
    assert {"read_head", "outgoing", "Stream", "read_stream", "write_models"} < set(FUNCTIONS)
    declared = {name for name in (*WireProtocol.__annotations__, *vars(WireProtocol)) if not name.startswith("_")}
    assert declared == {*CONSTANTS, *FUNCTIONS}


def test_every_member_of_the_interface_has_a_docstring():
    classes = [node for node in ast.parse(inspect.getsource(interface)).body if isinstance(node, ast.ClassDef)]
    assert [found.name for found in classes] == ["StreamReader", "WireProtocol"]
    for node, following in (pair for found in classes for pair in pairwise(found.body)):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant), node.target.id
        if isinstance(following, ast.FunctionDef):
            assert ast.get_docstring(following), following.name


@EACH
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_the_parameters_of_the_interface(protocol, name):
    expected = parameters(getattr(WireProtocol, name))
    assert parameters(getattr(protocol, name))[: len(expected)] == expected


@EACH
def test_a_stream_reader_has_the_members_of_the_interface(protocol):
    reader = protocol.Stream(None, request_head())
    assert [name for name in READER_MEMBERS if not hasattr(reader, name)] == []


@pytest.fixture
def add_protocol(tmp_path, monkeypatch):
    """Returns a function that adds a protocol module with the given source to the registry's folder."""
    monkeypatch.setattr(protocols, "__path__", [*protocols.__path__, str(tmp_path)])

    def add(source: str) -> None:
        (tmp_path / "another.py").write_text(source)

    yield add
    sys.modules.pop("gproxy.protocols.another", None)
    vars(protocols).pop("another", None)


WHOLE = "from gproxy.protocols.openai_chat import *\nNAME, ROUTES = 'another', {'elsewhere': 'generate_content'}\n"


def test_another_folder_is_loaded(add_protocol):
    add_protocol(WHOLE)
    assert set(protocols.load()) == {*LOADED, "another"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("del read_head, HEARTBEAT", "another: HEARTBEAT, read_head missing"),
        ("write_stream = None", "another: write_stream missing"),
        ("NAME = 'gemini'", "another: its name or a route is taken"),
        ("ROUTES = {'chat/completions': 'generate_content'}", "another: its name or a route is taken"),
    ],
)
def test_a_folder_that_is_incomplete_or_clashes_stops_the_start(add_protocol, change, message):
    add_protocol(WHOLE + change)
    with pytest.raises(RuntimeError, match=message):
        protocols.load()


def test_a_module_without_members_misses_all():
    assert missing_members(object()) == [*CONSTANTS, *FUNCTIONS]
