"""Reasoning state: what is stored of a reply, and restored into the next request."""

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
# the blocks of a reply, and what is stored of them, by call id: thinking with its position among the blocks
STORED = [
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
    # no state that a vendor requires
    ((CALL, SECOND), {}),
    ((Thinking("hm"), CALL), {}),
    # no call that needs a result
    ((THOUGHT, Text("so")), {}),
    ((Text("so"),), {}),
    ((), {}),
]


def without_digests(stored: dict[str, bytes]) -> dict[str, dict]:
    """Returns what was stored, without the digest in each value."""
    found = {call_id: json.loads(value) for call_id, value in stored.items()}
    assert all(re.fullmatch("[0-9a-f]{16}", value.pop("d")) for value in found.values())
    return found


@pytest.mark.parametrize(("blocks", "expected"), STORED)
def test_what_is_stored_of_a_whole_reply(blocks, expected):
    stored: dict[str, bytes] = {}
    reasoning_state.store_reply(reply(blocks), stored.__setitem__)
    assert without_digests(stored) == expected


@pytest.mark.parametrize(("blocks", "expected"), STORED)
def test_the_same_is_stored_of_a_stream_and_its_events_are_unchanged(blocks, expected):
    stored: dict[str, bytes] = {}
    events = [None, *unfold(reply(blocks))]
    assert list(reasoning_state.store_stream(events, stored.__setitem__)) == events
    assert without_digests(stored) == expected
    whole: dict[str, bytes] = {}
    reasoning_state.store_reply(reply(blocks), whole.__setitem__)
    assert stored == whole


def test_each_choice_has_its_own_state():
    stored: dict[str, bytes] = {}
    answers = reply((THOUGHT, CALL), (Thinking("ha", signed("U")), SECOND))
    list(reasoning_state.store_stream(unfold(answers), stored.__setitem__))
    whole: dict[str, bytes] = {}
    reasoning_state.store_reply(answers, whole.__setitem__)
    assert stored == whole
    assert {key: value["t"] for key, value in without_digests(stored).items()} == {
        "a": [[0, "hm", "T"]],
        "b": [[0, "ha", "U"]],
    }


def test_state_is_stored_before_the_finish_of_its_choice_is_sent():
    stored: dict[str, bytes] = {}
    for event in reasoning_state.store_stream(unfold(reply((THOUGHT, CALL))), stored.__setitem__):
        if isinstance(event, Start | Open | Delta | Signed | Close):
            assert stored == {}
        if isinstance(event, Finish):
            assert set(stored) == {"a"}


def test_a_signature_may_come_after_its_block_was_closed():
    stored: dict[str, bytes] = {}
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
    assert fold(reasoning_state.store_stream(events, stored.__setitem__)) == fold(events)
    assert without_digests(stored) == {"a": {"o": "main", "t": [[0, "hm", "T"]], "c": {}}}


def test_nothing_is_stored_of_a_cut_stream():
    stored: dict[str, bytes] = {}
    events = [Start("r", "m"), Open(0, Thinking("")), Signed(0, signed("T")), Close(0), Open(1, ToolCall("a", "f"))]
    list(reasoning_state.store_stream([*events, Failed(502, "x", "y")], stored.__setitem__))
    assert stored == {}


@pytest.mark.parametrize(("blocks", "expected"), [row for row in STORED if row[1]])
def test_stored_state_is_restored_into_the_next_request(blocks, expected):
    stored: dict[str, bytes] = {}
    reasoning_state.store_reply(reply(blocks), stored.__setitem__)
    sent_back = tuple(
        replace(block, signature=None) if isinstance(block, ToolCall) else block
        for block in blocks
        if not isinstance(block, Thinking)
    )
    request = assistant(*sent_back)
    found = reasoning_state.restore(request, "main", stored.get)
    assert found.turns[1].blocks == blocks  # each at its own position
    assert (found.turns[0], found.turns[2]) == (request.turns[0], request.turns[2])
    assert request == assistant(*sent_back)


def restored(request: Request, provider: str = "main", stored: tuple = (THOUGHT, CALL)) -> Request:
    found: dict[str, bytes] = {}
    reasoning_state.store_reply(reply(stored), found.__setitem__)
    return reasoning_state.restore(request, provider, found.get)


def test_stored_thinking_replaces_the_thinking_that_the_client_sends():
    found = restored(assistant(Thinking("shown", signed("x", "other")), Text("so"), CALL))
    assert found.turns[1].blocks == (THOUGHT, Text("so"), CALL)


def test_without_stored_thinking_the_clients_thinking_stays():
    signature = signed("S")
    found = restored(assistant(Thinking("shown"), CALL), stored=(replace(CALL, signature=signature),))
    assert found.turns[1].blocks == (Thinking("shown"), ToolCall("a", "f", '{"x": 1}', signature=signature))


@pytest.mark.parametrize(
    "request_",
    [
        assistant(Text("no call")),
        assistant(ToolCall("unknown", "f")),
        assistant(SECOND, CALL),  # stored under the id of the first call
        assistant(Thinking("hm", signed("carried")), CALL),  # the client sent the state itself
        assistant(replace(CALL, signature=signed("carried"))),
        Request((Turn("user", (ToolResult("a"),)),)),
        Request(),
    ],
)
def test_a_request_without_missing_state_is_returned_unchanged(request_):
    assert restored(request_) is request_


@pytest.mark.parametrize(
    ("written", "echoed", "matches"),
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
def test_state_is_restored_only_for_the_same_call(written, echoed, matches):
    request = assistant(ToolCall("a", "f", echoed))
    found = restored(request, stored=(THOUGHT, ToolCall("a", "f", written)))
    assert (found.turns[1].blocks == (THOUGHT, ToolCall("a", "f", echoed))) is matches
    assert (found is request) is not matches
    other = assistant(ToolCall("a", "g", written))
    assert restored(other, stored=(THOUGHT, ToolCall("a", "f", written))) is other


def test_state_without_a_digest_from_an_older_version_is_ignored():
    request = assistant(CALL)
    old = json.dumps({"o": "main", "t": [["hm", "T"]], "c": {}}).encode()
    assert reasoning_state.restore(request, "main", {"a": old}.get) is request


def test_state_is_not_restored_for_another_provider():
    request = assistant(CALL)
    assert restored(request, provider="second") is request
