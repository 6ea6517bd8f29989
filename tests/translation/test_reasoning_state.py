"""What a vendor wants back with a call's result, kept where its client cannot carry it."""

import json
import re
from dataclasses import replace

import pytest

from gproxy.protocols.hub import (
    Answer,
    Close,
    Delta,
    End,
    Failed,
    Finish,
    Open,
    Reply,
    Request,
    Signature,
    Signed,
    Start,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Turn,
    fold,
    unfold,
)
from gproxy.translation import reasoning_state


def signed(value: str, origin: str = "main") -> Signature:
    return Signature(origin, value)


def reply(*answers: tuple) -> Reply:
    return Reply("r", "m", tuple(Answer(blocks, "tools") for blocks in answers))


def assistant(*blocks) -> Request:
    return Request((Turn("user", (Text("hi"),)), Turn("assistant", blocks), Turn("user", (ToolResult("a"),))))


THOUGHT = Thinking("hm", signed("T"))
CALL, SECOND = ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "g", "{}")
# the blocks of a reply, and what is kept of them by which call: thoughts with their places among the blocks
KEPT = [
    ((THOUGHT, CALL), {"a": {"o": "main", "t": [[0, "hm", "T"]], "c": {}}}),
    (
        (THOUGHT, Text("so"), Thinking("", signed("U")), CALL, SECOND),
        {"a": {"o": "main", "t": [[0, "hm", "T"], [2, "", "U"]], "c": {}}},
    ),
    (
        (THOUGHT, CALL, Thinking("", signed("U")), SECOND),
        {"a": {"o": "main", "t": [[0, "hm", "T"], [2, "", "U"]], "c": {}}},
    ),
    (
        (ToolCall("a", "f", "{}", signature=signed("S")), SECOND),
        {"a": {"o": "main", "t": [], "c": {"a": "S"}}},
    ),
    ((CALL, ToolCall("b", "g", "{}", signature=signed("S"))), {"a": {"o": "main", "t": [], "c": {"b": "S"}}}),
    # nothing that a vendor wants back
    ((CALL, SECOND), {}),
    ((Thinking("hm"), CALL), {}),
    # no call that will be answered
    ((THOUGHT, Text("so")), {}),
    ((Text("so"),), {}),
    ((), {}),
]


def opened(kept: dict[str, bytes]) -> dict[str, dict]:
    """What was kept, without the digest that each value has."""
    found = {call_id: json.loads(value) for call_id, value in kept.items()}
    assert all(re.fullmatch("[0-9a-f]{16}", value.pop("d")) for value in found.values())
    return found


@pytest.mark.parametrize(("blocks", "expected"), KEPT)
def test_what_is_kept_of_a_whole_reply(blocks, expected):
    kept: dict[str, bytes] = {}
    reasoning_state.keep(reply(blocks), kept.__setitem__)
    assert opened(kept) == expected


@pytest.mark.parametrize(("blocks", "expected"), KEPT)
def test_the_same_is_kept_of_a_stream_and_its_events_stay(blocks, expected):
    kept: dict[str, bytes] = {}
    events = [None, *unfold(reply(blocks))]
    assert list(reasoning_state.keeping(events, kept.__setitem__)) == events
    assert opened(kept) == expected
    whole: dict[str, bytes] = {}
    reasoning_state.keep(reply(blocks), whole.__setitem__)
    assert kept == whole


def test_each_choice_keeps_its_own():
    kept: dict[str, bytes] = {}
    answers = reply((THOUGHT, CALL), (Thinking("ha", signed("U")), SECOND))
    list(reasoning_state.keeping(unfold(answers), kept.__setitem__))
    whole: dict[str, bytes] = {}
    reasoning_state.keep(answers, whole.__setitem__)
    assert kept == whole
    assert {key: value["t"] for key, value in opened(kept).items()} == {"a": [[0, "hm", "T"]], "b": [[0, "ha", "U"]]}


def test_it_is_kept_before_the_client_is_told_that_the_choice_is_over():
    kept: dict[str, bytes] = {}
    for event in reasoning_state.keeping(unfold(reply((THOUGHT, CALL))), kept.__setitem__):
        if isinstance(event, Start | Open | Delta | Signed | Close):
            assert kept == {}
        if isinstance(event, Finish):
            assert set(kept) == {"a"}


def test_a_signature_may_come_after_its_block_was_closed():
    kept: dict[str, bytes] = {}
    events = [
        Start("r", "m"),
        Open(0, Thinking("")),
        Delta(0, "h"),
        Delta(0, "m"),
        Close(0),
        Signed(0, signed("T")),
        Open(1, ToolCall("a", "f")),
        Delta(1, "{}"),
        Close(1),
        Finish("tools"),
        End(),
    ]
    assert fold(reasoning_state.keeping(events, kept.__setitem__)) == fold(events)
    assert opened(kept) == {"a": {"o": "main", "t": [[0, "hm", "T"]], "c": {}}}


def test_of_a_stream_that_was_cut_nothing_is_kept():
    kept: dict[str, bytes] = {}
    events = [Start("r", "m"), Open(0, Thinking("")), Signed(0, signed("T")), Close(0), Open(1, ToolCall("a", "f"))]
    list(reasoning_state.keeping([*events, Failed(502, "x", "y")], kept.__setitem__))
    assert kept == {}


@pytest.mark.parametrize(("blocks", "expected"), [row for row in KEPT if row[1]])
def test_what_was_kept_comes_back_with_the_next_request(blocks, expected):
    kept: dict[str, bytes] = {}
    reasoning_state.keep(reply(blocks), kept.__setitem__)
    shown = tuple(
        replace(block, signature=None) if isinstance(block, ToolCall) else block
        for block in blocks
        if not isinstance(block, Thinking)
    )
    request = assistant(*shown)
    found = reasoning_state.recalled(request, "main", kept.get)
    assert found.turns[1].blocks == blocks  # each at its own place
    assert (found.turns[0], found.turns[2]) == (request.turns[0], request.turns[2])
    assert request == assistant(*shown)


def recalled(request: Request, provider: str = "main", kept: tuple = (THOUGHT, CALL)) -> Request:
    found: dict[str, bytes] = {}
    reasoning_state.keep(reply(kept), found.__setitem__)
    return reasoning_state.recalled(request, provider, found.get)


def test_what_the_client_shows_of_the_thinking_gives_way_to_what_was_kept():
    found = recalled(assistant(Thinking("shown", signed("x", "other")), Text("so"), CALL))
    assert found.turns[1].blocks == (THOUGHT, Text("so"), CALL)


def test_without_kept_thinking_what_the_client_shows_stays():
    signature = signed("S")
    found = recalled(assistant(Thinking("shown"), CALL), kept=(replace(CALL, signature=signature),))
    assert found.turns[1].blocks == (Thinking("shown"), ToolCall("a", "f", '{"x": 1}', signature=signature))


@pytest.mark.parametrize(
    "request_",
    [
        assistant(Text("no call")),
        assistant(ToolCall("nobody's", "f")),
        assistant(SECOND, CALL),  # kept by the first call
        assistant(Thinking("hm", signed("carried")), CALL),  # the client brought it itself
        assistant(replace(CALL, signature=signed("carried"))),
        Request((Turn("user", (ToolResult("a"),)),)),
        Request(),
    ],
)
def test_what_needs_nothing_stays_the_very_same(request_):
    assert recalled(request_) is request_


@pytest.mark.parametrize(
    ("written", "echoed", "fits"),
    [
        ('{"x": 1, "y": [2]}', '{"y":[2],"x":1}', True),
        ('{"x": "\\u00fc"}', '{ "x": "ü" }', True),
        ("no JSON", "no JSON", True),
        ("no JSON", "no  JSON", False),
        ('{"x": 1}', '{"x": 2}', False),
        ('{"x": 1}', '{"x": "1"}', False),
        ('{"x": 1}', "{}", False),
        ("", "", True),
        ("[" * 100_000, "[" * 100_000, True),
    ],
    ids=lambda value: str(value)[:20],
)
def test_of_another_conversation_with_the_same_id_nothing_comes_back(written, echoed, fits):
    request = assistant(ToolCall("a", "f", echoed))
    found = recalled(request, kept=(THOUGHT, ToolCall("a", "f", written)))
    assert (found.turns[1].blocks == (THOUGHT, ToolCall("a", "f", echoed))) is fits
    assert (found is request) is not fits
    other = assistant(ToolCall("a", "g", written))
    assert recalled(other, kept=(THOUGHT, ToolCall("a", "f", written))) is other


def test_what_an_older_process_kept_without_a_digest_is_left_alone():
    request = assistant(CALL)
    old = json.dumps({"o": "main", "t": [["hm", "T"]], "c": {}}).encode()
    assert reasoning_state.recalled(request, "main", {"a": old}.get) is request


def test_no_provider_is_sent_what_another_one_sealed():
    request = assistant(CALL)
    assert recalled(request, provider="second") is request
