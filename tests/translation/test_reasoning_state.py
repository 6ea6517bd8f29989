"""Reasoning state: what is stored of a reply, and restored into the next request."""

import json
import re
from dataclasses import replace

import pytest

from gproxy.protocols import hub
from gproxy.translation import reasoning_state


def signed(value: str, origin: str = "main") -> hub.Signature:
    return hub.Signature(origin, value)


def reply(*answers: tuple) -> hub.Reply:
    return hub.Reply("r", "m", tuple(hub.Answer(blocks, "tools") for blocks in answers))


def assistant(*blocks) -> hub.Request:
    return hub.Request(
        (hub.Turn("user", (hub.Text("hi"),)), hub.Turn("assistant", blocks), hub.Turn("user", (hub.ToolResult("a"),)))
    )


THOUGHT = hub.Thinking("hm", signed("T"))
CALL, SECOND = hub.ToolCall("a", "f", '{"x": 1}'), hub.ToolCall("b", "g", "{}")
# the blocks of a reply, and what is stored of them, by call id: thinking with its position among the blocks
STORED = [
    ((THOUGHT, CALL), {"a": {"o": "main", "t": [[0, "hm", "T"]], "c": {}}}),
    (
        (THOUGHT, hub.Text("so"), hub.Thinking("", signed("U")), CALL, SECOND),
        {"a": {"o": "main", "t": [[0, "hm", "T"], [2, "", "U"]], "c": {}}},
    ),
    (
        (THOUGHT, CALL, hub.Thinking("", signed("U")), SECOND),
        {"a": {"o": "main", "t": [[0, "hm", "T"], [2, "", "U"]], "c": {}}},
    ),
    (
        (hub.ToolCall("a", "f", "{}", signature=signed("S")), SECOND),
        {"a": {"o": "main", "t": [], "c": {"a": "S"}}},
    ),
    ((CALL, hub.ToolCall("b", "g", "{}", signature=signed("S"))), {"a": {"o": "main", "t": [], "c": {"b": "S"}}}),
    # no state that a vendor requires
    ((CALL, SECOND), {}),
    ((hub.Thinking("hm"), CALL), {}),
    # no call that needs a result
    ((THOUGHT, hub.Text("so")), {}),
    ((hub.Text("so"),), {}),
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
    events = [None, *hub.unfold(reply(blocks))]
    assert list(reasoning_state.store_stream(events, stored.__setitem__)) == events
    assert without_digests(stored) == expected
    whole: dict[str, bytes] = {}
    reasoning_state.store_reply(reply(blocks), whole.__setitem__)
    assert stored == whole


def test_each_choice_has_its_own_state():
    stored: dict[str, bytes] = {}
    answers = reply((THOUGHT, CALL), (hub.Thinking("ha", signed("U")), SECOND))
    list(reasoning_state.store_stream(hub.unfold(answers), stored.__setitem__))
    whole: dict[str, bytes] = {}
    reasoning_state.store_reply(answers, whole.__setitem__)
    assert stored == whole
    assert {key: value["t"] for key, value in without_digests(stored).items()} == {
        "a": [[0, "hm", "T"]],
        "b": [[0, "ha", "U"]],
    }


def test_state_is_stored_before_the_finish_of_its_choice_is_sent():
    stored: dict[str, bytes] = {}
    for event in reasoning_state.store_stream(hub.unfold(reply((THOUGHT, CALL))), stored.__setitem__):
        if isinstance(event, hub.Start | hub.Open | hub.Delta | hub.Signed | hub.Close):
            assert stored == {}
        if isinstance(event, hub.Finish):
            assert set(stored) == {"a"}


def test_a_signature_may_come_after_its_block_was_closed():
    stored: dict[str, bytes] = {}
    events = [
        hub.Start("r", "m"),
        hub.Open(0, hub.Thinking("")),
        hub.Delta(0, "h"),
        hub.Delta(0, "m"),
        hub.Close(0),
        hub.Signed(0, signed("T")),
        hub.Open(1, hub.ToolCall("a", "f")),
        hub.Delta(1, "{}"),
        hub.Close(1),
        hub.Finish("tools"),
        hub.End(),
    ]
    assert hub.fold(reasoning_state.store_stream(events, stored.__setitem__)) == hub.fold(events)
    assert without_digests(stored) == {"a": {"o": "main", "t": [[0, "hm", "T"]], "c": {}}}


def test_nothing_is_stored_of_a_cut_stream():
    stored: dict[str, bytes] = {}
    events = [
        hub.Start("r", "m"),
        hub.Open(0, hub.Thinking("")),
        hub.Signed(0, signed("T")),
        hub.Close(0),
        hub.Open(1, hub.ToolCall("a", "f")),
    ]
    list(reasoning_state.store_stream([*events, hub.Failed(502, "x", "y")], stored.__setitem__))
    assert stored == {}


@pytest.mark.parametrize(("blocks", "expected"), [row for row in STORED if row[1]])
def test_stored_state_is_restored_into_the_next_request(blocks, expected):
    stored: dict[str, bytes] = {}
    reasoning_state.store_reply(reply(blocks), stored.__setitem__)
    sent_back = tuple(
        replace(block, signature=None) if isinstance(block, hub.ToolCall) else block
        for block in blocks
        if not isinstance(block, hub.Thinking)
    )
    request = assistant(*sent_back)
    found = reasoning_state.restore(request, "main", stored.get)
    assert found.turns[1].blocks == blocks  # each at its own position
    assert (found.turns[0], found.turns[2]) == (request.turns[0], request.turns[2])
    assert request == assistant(*sent_back)


def restored(request: hub.Request, provider: str = "main", stored: tuple = (THOUGHT, CALL)) -> hub.Request:
    found: dict[str, bytes] = {}
    reasoning_state.store_reply(reply(stored), found.__setitem__)
    return reasoning_state.restore(request, provider, found.get)


def test_stored_thinking_replaces_the_thinking_that_the_client_sends():
    found = restored(assistant(hub.Thinking("shown", signed("x", "other")), hub.Text("so"), CALL))
    assert found.turns[1].blocks == (THOUGHT, hub.Text("so"), CALL)


def test_without_stored_thinking_the_clients_thinking_stays():
    signature = signed("S")
    found = restored(assistant(hub.Thinking("shown"), CALL), stored=(replace(CALL, signature=signature),))
    assert found.turns[1].blocks == (hub.Thinking("shown"), hub.ToolCall("a", "f", '{"x": 1}', signature=signature))


@pytest.mark.parametrize(
    "request_",
    [
        assistant(hub.Text("no call")),
        assistant(hub.ToolCall("unknown", "f")),
        assistant(SECOND, CALL),  # stored under the id of the first call
        assistant(hub.Thinking("hm", signed("carried")), CALL),  # the client sent the state itself
        assistant(replace(CALL, signature=signed("carried"))),
        hub.Request((hub.Turn("user", (hub.ToolResult("a"),)),)),
        hub.Request(),
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
    request = assistant(hub.ToolCall("a", "f", echoed))
    found = restored(request, stored=(THOUGHT, hub.ToolCall("a", "f", written)))
    assert (found.turns[1].blocks == (THOUGHT, hub.ToolCall("a", "f", echoed))) is matches
    assert (found is request) is not matches
    other = assistant(hub.ToolCall("a", "g", written))
    assert restored(other, stored=(THOUGHT, hub.ToolCall("a", "f", written))) is other


def test_state_without_a_digest_from_an_older_version_is_ignored():
    request = assistant(CALL)
    old = json.dumps({"o": "main", "t": [["hm", "T"]], "c": {}}).encode()
    assert reasoning_state.restore(request, "main", {"a": old}.get) is request


def test_state_is_not_restored_for_another_provider():
    request = assistant(CALL)
    assert restored(request, provider="second") is request
