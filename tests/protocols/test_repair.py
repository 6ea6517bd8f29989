"""Repairs of conversations that vendors would reject."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gproxy.errors import BadRequest
from gproxy.protocols import hub, repair
from gproxy.protocols.losses import Losses
from gproxy.protocols.repair import FIRST_USER_TEXT, LAST_USER_TEXT, NO_RESULT, PLACEHOLDER_TOOL
from tests.stopwatch import seconds


def user(*blocks) -> hub.Turn:
    return hub.Turn("user", blocks)


def assistant(*blocks) -> hub.Turn:
    return hub.Turn("assistant", blocks)


def system(text: str) -> hub.Turn:
    return hub.Turn("system", (hub.Text(text),))


def call(call_id: str, name: str = "f", **more) -> hub.ToolCall:
    return hub.ToolCall(call_id, name, "{}", **more)


def result(call_id: str, text: str = "42", **more) -> hub.ToolResult:
    return hub.ToolResult(call_id, (hub.Text(text),), **more)


def paired(call_id: str, text: str = "42", name: str = "f", **more) -> hub.ToolResult:
    """A result after pairing, with the name of its call."""
    return hub.ToolResult(call_id, (hub.Text(text),), name=name, **more)


def placeholder(call_id: str) -> hub.ToolCall:
    return hub.ToolCall(call_id, PLACEHOLDER_TOOL, "{}")


def missing(call_id: str, **more) -> hub.ToolResult:
    return hub.ToolResult(call_id, (hub.Text(NO_RESULT),), is_error=True, **{"name": "f", **more})


HI, OK, IMAGE = hub.Text("hi"), hub.Text("ok"), hub.Media("image", "image/png", "AAAA")


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([], ()),
        ([user(HI), user(OK)], (user(HI, OK),)),
        ([user(HI), assistant(OK), assistant(call("a")), user(HI)], (user(HI), assistant(OK, call("a")), user(HI))),
        # empty texts and empty turns are dropped, and their neighbours merged
        ([user(HI), assistant(hub.Text(" \n")), user(OK)], (user(HI, OK),)),
        ([user(hub.Text("")), assistant(OK)], (assistant(OK),)),
        ([user(), user(HI, hub.Text(""), IMAGE)], (user(HI, IMAGE),)),
        # only texts may be empty
        ([assistant(hub.Thinking(""), hub.Refusal(""))], (assistant(hub.Thinking(""), hub.Refusal("")),)),
        ([system("a"), system("b"), user(HI)], (hub.Turn("system", (hub.Text("a"), hub.Text("b"))), user(HI))),
    ],
)
def test_adjacent_turns_of_one_role_are_merged(turns, expected):
    before = list(turns)
    assert repair.merge_turns(turns) == expected
    assert turns == before


# turns, repaired turns, whether a loss is reported
PAIRINGS = [
    ((user(HI), assistant(OK)), (user(HI), assistant(OK)), False),
    ((user(HI), assistant(call("a")), user(result("a"))), (user(HI), assistant(call("a")), user(paired("a"))), False),
    # results come before any text, in their own order
    (
        (assistant(call("a"), call("b", "g")), user(HI, result("b", "B"), IMAGE, result("a", "A"), OK)),
        (assistant(call("a"), call("b", "g")), user(paired("b", "B", "g"), paired("a", "A"), HI, IMAGE, OK)),
        False,
    ),
    # a result gets the type of its call, and keeps its own name
    (
        (assistant(call("a", is_custom=True)), user(result("a"))),
        (assistant(call("a", is_custom=True)), user(paired("a", is_custom=True))),
        False,
    ),
    (
        (assistant(call("a")), user(result("a", is_custom=True, name="own"))),
        (assistant(call("a")), user(paired("a", name="own"))),
        False,
    ),
    # a result without its call
    ((user(result("c1")),), (assistant(placeholder("c1")), user(result("c1"))), True),
    (
        (user(HI), assistant(OK), user(result("c1"), hub.Text("go on"))),
        (user(HI), assistant(OK, placeholder("c1")), user(result("c1"), hub.Text("go on"))),
        True,
    ),
    (
        (assistant(call("a")), user(result("a"), result("z"))),
        (assistant(call("a"), placeholder("z")), user(paired("a"), result("z"))),
        True,
    ),
    # a call without its result
    (
        (assistant(call("a"), call("b")), user(result("a"))),
        (assistant(call("a"), call("b")), user(paired("a"), missing("b"))),
        True,
    ),
    ((assistant(call("a")), user(HI)), (assistant(call("a")), user(missing("a"), HI)), True),
    (
        (assistant(call("a", is_custom=True)), user(HI)),
        (assistant(call("a", is_custom=True)), user(missing("a", is_custom=True), HI)),
        True,
    ),
    # also calls at the end of the conversation: every vendor requires their results
    (
        (user(HI), assistant(OK, call("a"), call("b", "g"))),
        (user(HI), assistant(OK, call("a"), call("b", "g")), user(missing("a"), missing("b", name="g"))),
        True,
    ),
    # of two results for one call, the later one is kept
    (
        (assistant(call("a")), user(result("a", "old"), result("a", "new"))),
        (assistant(call("a")), user(paired("a", "new"))),
        True,
    ),
    # a system turn between a call and its result is moved behind them
    (
        (assistant(call("a")), system("be brief"), user(HI, result("a"))),
        (assistant(call("a")), user(paired("a")), system("be brief"), user(HI)),
        False,
    ),
    (
        (assistant(call("a")), system("be brief"), user(result("a"))),
        (assistant(call("a")), user(paired("a")), system("be brief")),
        False,
    ),
    (
        (assistant(call("a")), system("be brief"), assistant(OK)),
        (assistant(call("a")), user(missing("a")), system("be brief"), assistant(OK)),
        True,
    ),
    (
        (assistant(call("a")), system("be brief")),
        (assistant(call("a")), user(missing("a")), system("be brief")),
        True,
    ),
    (
        (user(HI), system("be brief"), assistant(call("a")), user(result("a"))),
        (user(HI), system("be brief"), assistant(call("a")), user(paired("a"))),
        False,
    ),
    # repeated ids become unique, and their results follow them
    (
        (assistant(call("a")), user(result("a", "1")), assistant(call("a", "g")), user(result("a", "2"))),
        (assistant(call("a")), user(paired("a", "1")), assistant(call("a_2", "g")), user(paired("a_2", "2", "g"))),
        False,
    ),
    (
        (assistant(call("a"), call("a", "g"), call("a")), user(result("a", "1"), result("a", "2"), result("a", "3"))),
        (
            assistant(call("a"), call("a_2", "g"), call("a_3")),
            user(paired("a", "1"), paired("a_2", "2", "g"), paired("a_3", "3")),
        ),
        False,
    ),
    (
        (assistant(call("a_2"), call("a"), call("a")), user(result("a_2", "0"), result("a", "1"), result("a", "2"))),
        (
            assistant(call("a_2"), call("a"), call("a_3")),
            user(paired("a_2", "0"), paired("a", "1"), paired("a_3", "2")),
        ),
        False,
    ),
    # a late result gets a placeholder call with an id of its own
    (
        (assistant(call("a")), user(HI), assistant(OK), user(result("a"))),
        (assistant(call("a")), user(missing("a"), HI), assistant(OK, placeholder("a_2")), user(result("a_2"))),
        True,
    ),
    (
        (assistant(call("a")), user(HI), system("be brief"), user(result("a"))),
        (
            *(assistant(call("a")), user(missing("a"), HI), system("be brief")),
            *(assistant(placeholder("a_2")), user(result("a_2"))),
        ),
        True,
    ),
    (
        (assistant(call("a")), user(result("a")), assistant(OK), user(result("a"), result("a", "new"))),
        (assistant(call("a")), user(paired("a")), assistant(OK, placeholder("a_2")), user(result("a_2", "new"))),
        True,
    ),
    (
        (user(result("z")), assistant(OK), user(result("z"))),
        (assistant(placeholder("z")), user(result("z")), assistant(OK, placeholder("z_2")), user(result("z_2"))),
        True,
    ),
]


@pytest.mark.parametrize(("turns", "expected", "is_lost"), PAIRINGS)
def test_every_result_follows_its_call_and_every_call_has_one_result(turns, expected, is_lost):
    losses = Losses()
    assert repair.pair_results(turns, losses) == expected
    assert losses.names() == (("tool_result",) if is_lost else ())


@pytest.mark.parametrize(("turns", "expected"), [row[:2] for row in PAIRINGS])
def test_repaired_turns_need_no_further_repair(turns, expected):
    losses = Losses()
    again = repair.pair_results(expected, losses)
    assert [(turn.role, list(map(_without_name, turn.blocks))) for turn in again] == [
        (turn.role, list(map(_without_name, turn.blocks))) for turn in expected
    ]
    assert losses.names() == ()


def _without_name(block):
    """The name of a result is ignored: pairing again adds the name of its placeholder call."""
    return replace(block, name=None) if isinstance(block, hub.ToolResult) else block


BLOCKS = {
    "user": st.one_of(st.builds(result, st.sampled_from("abc")), st.just(HI), st.just(IMAGE)),
    "assistant": st.one_of(st.builds(call, st.sampled_from("abc")), st.just(OK)),
    "system": st.just(hub.Text("be brief")),
}
TURNS = st.sampled_from(tuple(BLOCKS)).flatmap(
    lambda role: st.builds(hub.Turn, st.just(role), st.lists(BLOCKS[role], max_size=4).map(tuple))
)


@given(st.lists(TURNS, max_size=6))
def test_after_repair_results_always_directly_follow_their_calls(turns):
    repaired = repair.pair_results(repair.merge_turns(turns), Losses())
    for i, turn in enumerate(repaired):
        calls = {block.id for block in turn.blocks if isinstance(block, hub.ToolCall)}
        after = repaired[i + 1] if i + 1 < len(repaired) else None
        results = [b.call_id for b in after.blocks if isinstance(b, hub.ToolResult)] if after else []
        if calls:
            assert after.role == "user"
            assert set(results) == calls
            assert len(results) == len(set(results))
            assert not any(isinstance(b, hub.ToolResult) for b in after.blocks[len(results) :])
        elif not calls:
            assert not results
    ids = [block.id for turn in repaired for block in turn.blocks if isinstance(block, hub.ToolCall)]
    assert len(ids) == len(set(ids))
    assert all(before.role != after.role for before, after in pairwise(repaired))
    assert not any(isinstance(block, hub.ToolResult) for block in (repaired[0].blocks if repaired else ()))


@pytest.mark.parametrize("has_system", [True, False])
@pytest.mark.parametrize(
    ("turns", "expected", "lost"),
    [
        ((user(HI),), (user(HI),), ()),
        ((assistant(OK), user(HI)), (user(hub.Text(FIRST_USER_TEXT)), assistant(OK), user(HI)), ("turns",)),
        ((system("be brief"), user(HI)), (user(hub.Text(FIRST_USER_TEXT)), system("be brief"), user(HI)), ("turns",)),
    ],
)
def test_a_conversation_begins_with_a_user_turn(turns, expected, lost, has_system):
    losses = Losses()
    assert repair.start_with_user(turns, has_system, losses) == expected
    assert losses.names() == lost


def test_a_system_prompt_alone_is_accepted_and_an_empty_request_is_not():
    losses = Losses({"turns": "messages"})
    assert repair.start_with_user((), True, losses) == (user(hub.Text(FIRST_USER_TEXT)),)
    assert losses.names() == ("messages",)
    with pytest.raises(BadRequest, match=r"^invalid_request: messages: at least one message is needed$"):
        repair.start_with_user((), False, losses)


@pytest.mark.parametrize(
    ("turns", "is_changed"),
    [
        ((user(HI),), False),
        ((user(HI), assistant(OK)), True),
        ((user(HI), system("be brief")), True),
    ],
)
def test_a_conversation_ends_with_a_user_turn(turns, is_changed):
    losses = Losses()
    assert repair.end_with_user(turns, losses) == ((*turns, user(hub.Text(LAST_USER_TEXT))) if is_changed else turns)
    assert losses.names() == (("turns",) if is_changed else ())


def test_a_long_conversation_is_repaired_in_linear_time():
    """Quadratic time would block a worker for minutes."""
    same = [user(HI)] * 20_000
    assert seconds(lambda: repair.merge_turns(same)) < 0.3
    assert repair.merge_turns(same) == (user(*(HI,) * 20_000),)
    assert seconds(lambda: repair.merge_turns([user(HI), assistant(OK)] * 10_000)) < 0.3
    again = (assistant(*(call("a") for _ in range(20_000))), user(*(result("a") for _ in range(20_000))))
    assert seconds(lambda: repair.pair_results(again, Losses())) < 1
    turns = tuple(turn for _ in range(5000) for turn in (assistant(call("a")), user(result("a"))))
    assert seconds(lambda: repair.pair_results(turns, Losses())) < 1
    late = tuple(turn for _ in range(5000) for turn in (assistant(OK), user(result("a"))))
    assert seconds(lambda: repair.pair_results(late, Losses())) < 1


@pytest.mark.parametrize(
    ("turns", "expected", "lost"),
    [
        ((user(HI), assistant(OK)), (user(HI), assistant(OK)), ()),
        ((user(HI), system("be brief")), (user(HI, hub.Text("be brief")),), ("system_turn",)),
        (
            (user(HI), assistant(OK), system("be brief"), assistant(OK)),
            (user(HI), assistant(OK), user(hub.Text("be brief")), assistant(OK)),
            ("system_turn",),
        ),
    ],
)
def test_later_system_turns_become_user_turns(turns, expected, lost):
    losses = Losses()
    assert repair.without_system(turns, losses) == expected
    assert losses.names() == lost


LEGAL = re.compile(r"[A-Za-z0-9_-]+")


@pytest.mark.parametrize("original", ["call_abc", "toolu_01-x", "a", "x" * 64])
def test_a_legal_id_stays(original):
    assert repair.legal_id(original, LEGAL, 64) == original


@pytest.mark.parametrize(
    ("original", "prefix"),
    [
        ("call:1", "call_1_"),
        ("functions.look_up:0", "functions_look_up_0_"),
        ("größe", "gr_e_"),
        ("🗼", "call_"),
        ("", "call_"),
        ("x" * 65, "x" * 50 + "_"),
        ("__a__.", "a_"),
    ],
)
def test_an_illegal_id_always_becomes_the_same_legal_id(original, prefix):
    legal = repair.legal_id(original, LEGAL, 64)
    assert LEGAL.fullmatch(legal)
    assert len(legal) <= 64
    assert re.fullmatch(re.escape(prefix) + "[0-9a-f]{12}", legal)
    assert repair.legal_id(original, LEGAL, 64) == legal
    assert repair.legal_id(legal, LEGAL, 64) == legal


def test_ids_that_differ_only_in_illegal_characters_stay_different():
    originals = ["a.1", "a:1", "a/1", "a 1", "a_1", "a..1", ".a.1"]
    assert len({repair.legal_id(original, LEGAL, 64) for original in originals}) == len(originals)


@pytest.mark.parametrize("role", ["user", "system"])
@pytest.mark.parametrize(
    ("block", "kept", "lost"),
    [
        (hub.Refusal("no"), (hub.Text("no"),), ("refusal",)),
        (hub.Thinking("hm"), (), ("thinking",)),
        (call("a"), (), ("turns",)),
    ],
)
def test_a_block_of_the_model_in_another_turn_is_reported(role, block, kept, lost):
    losses = Losses()
    before, after = hub.Text("before"), hub.Text("after")
    turn = hub.Turn(role, (before, block, after))
    assert repair.pair_results((turn,), losses) == (hub.Turn(role, (before, *kept, after)),)
    assert losses.names() == lost


def test_a_result_in_a_turn_of_the_model_is_reported():
    losses = Losses()
    turns = (user(hub.Text("q")), assistant(hub.Text("a"), result("a")), user(hub.Text("z")))
    assert repair.pair_results(turns, losses) == (turns[0], assistant(hub.Text("a")), turns[2])
    assert losses.names() == ("tool_result",)


NAMES = (re.compile(r"[A-Za-z0-9_]+"), 20)
LONG = "look.up.in.the.great.library"


def test_names_that_the_vendor_accepts_stay_and_change_nothing():
    request = hub.Request((user(hub.Text("q")), assistant(call("a", "g"))), tools=(hub.Tool("f"), hub.WebSearch()))
    changed, originals = repair.legal_names(request, *NAMES)
    assert changed is request
    assert originals == {}


def test_a_name_that_the_vendor_rejects_is_changed_wherever_it_is_used():
    turns = (
        user(hub.Text("q")),
        assistant(hub.Text("I look."), call("a", "old.tool"), call("b", "f")),
        user(result("a", name="old.tool"), result("b", name="f")),
    )
    request = hub.Request(
        turns, tools=(hub.Tool(LONG), hub.Tool("f"), hub.WebSearch()), choice=hub.ToolChoice("any", (LONG, "f"))
    )
    changed, originals = repair.legal_names(request, *NAMES)
    new = {name: legal for legal, name in originals.items()}
    assert set(new) == {LONG, "old.tool"}
    assert all(NAMES[0].fullmatch(legal) and len(legal) <= NAMES[1] for legal in originals)
    assert changed.tools == (hub.Tool(new[LONG]), hub.Tool("f"), hub.WebSearch())
    assert changed.choice == hub.ToolChoice("any", (new[LONG], "f"))
    text, renamed, same = changed.turns[1].blocks
    assert (text, renamed.name, same.name) == (hub.Text("I look."), new["old.tool"], "f")
    assert [block.name for block in changed.turns[2].blocks] == [new["old.tool"], "f"]
    assert repair.legal_names(request, *NAMES) == (changed, originals), "the names of later requests are the same"


@pytest.mark.parametrize("choice", [None, hub.ToolChoice("any")])
def test_a_choice_that_names_no_tool_stays(choice):
    changed, originals = repair.legal_names(hub.Request((), tools=(hub.Tool(LONG),), choice=choice), *NAMES)
    assert changed.choice is choice
    assert list(originals.values()) == [LONG]
