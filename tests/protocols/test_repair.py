"""What vendors insist on and clients leave out."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gproxy.errors import BadRequest
from gproxy.protocols import repair
from gproxy.protocols.hub import Media, Refusal, Text, Thinking, ToolCall, ToolResult, Turn
from gproxy.protocols.losses import Losses
from gproxy.protocols.repair import FIRST_USER_TEXT, LAST_USER_TEXT, NO_RESULT, PLACEHOLDER_TOOL
from tests.stopwatch import seconds


def user(*blocks) -> Turn:
    return Turn("user", blocks)


def assistant(*blocks) -> Turn:
    return Turn("assistant", blocks)


def system(text: str) -> Turn:
    return Turn("system", (Text(text),))


def call(call_id: str, name: str = "f", **more) -> ToolCall:
    return ToolCall(call_id, name, "{}", **more)


def result(call_id: str, text: str = "42", **more) -> ToolResult:
    return ToolResult(call_id, (Text(text),), **more)


def of(call_id: str, text: str = "42", name: str = "f", **more) -> ToolResult:
    """A result that stands behind its call and knows it by now."""
    return ToolResult(call_id, (Text(text),), name=name, **more)


def placed(call_id: str) -> ToolCall:
    return ToolCall(call_id, PLACEHOLDER_TOOL, "{}")


def missing(call_id: str, **more) -> ToolResult:
    return ToolResult(call_id, (Text(NO_RESULT),), is_error=True, **{"name": "f", **more})


HI, OK, IMAGE = Text("hi"), Text("ok"), Media("image", "image/png", "AAAA")


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([], ()),
        ([user(HI), user(OK)], (user(HI, OK),)),
        ([user(HI), assistant(OK), assistant(call("a")), user(HI)], (user(HI), assistant(OK, call("a")), user(HI))),
        # empty texts and empty turns are gone, and what they stood between is joined
        ([user(HI), assistant(Text(" \n")), user(OK)], (user(HI, OK),)),
        ([user(Text("")), assistant(OK)], (assistant(OK),)),
        ([user(), user(HI, Text(""), IMAGE)], (user(HI, IMAGE),)),
        # only texts may be empty
        ([assistant(Thinking(""), Refusal(""))], (assistant(Thinking(""), Refusal("")),)),
        ([system("a"), system("b"), user(HI)], (Turn("system", (Text("a"), Text("b"))), user(HI))),
    ],
)
def test_neighbours_of_one_role_are_joined(turns, expected):
    before = list(turns)
    assert repair.merge_turns(turns) == expected
    assert turns == before


# what came, what it becomes, whether that is told
PAIRS = [
    ((user(HI), assistant(OK)), (user(HI), assistant(OK)), False),
    ((user(HI), assistant(call("a")), user(result("a"))), (user(HI), assistant(call("a")), user(of("a"))), False),
    # results stand before any text, in the order in which they came
    (
        (assistant(call("a"), call("b", "g")), user(HI, result("b", "B"), IMAGE, result("a", "A"), OK)),
        (assistant(call("a"), call("b", "g")), user(of("b", "B", "g"), of("a", "A"), HI, IMAGE, OK)),
        False,
    ),
    # a result says what kind of call it answers, and keeps a name of its own
    (
        (assistant(call("a", is_custom=True)), user(result("a"))),
        (assistant(call("a", is_custom=True)), user(of("a", is_custom=True))),
        False,
    ),
    (
        (assistant(call("a")), user(result("a", is_custom=True, name="own"))),
        (assistant(call("a")), user(of("a", name="own"))),
        False,
    ),
    # a result without its call: behaviour 19.6
    ((user(result("c1")),), (assistant(placed("c1")), user(result("c1"))), True),
    (
        (user(HI), assistant(OK), user(result("c1"), Text("go on"))),
        (user(HI), assistant(OK, placed("c1")), user(result("c1"), Text("go on"))),
        True,
    ),
    (
        (assistant(call("a")), user(result("a"), result("z"))),
        (assistant(call("a"), placed("z")), user(of("a"), result("z"))),
        True,
    ),
    # a call without its result
    (
        (assistant(call("a"), call("b")), user(result("a"))),
        (assistant(call("a"), call("b")), user(of("a"), missing("b"))),
        True,
    ),
    ((assistant(call("a")), user(HI)), (assistant(call("a")), user(missing("a"), HI)), True),
    (
        (assistant(call("a", is_custom=True)), user(HI)),
        (assistant(call("a", is_custom=True)), user(missing("a", is_custom=True), HI)),
        True,
    ),
    # calls that the conversation ends with too: no vendor goes on before they are answered
    (
        (user(HI), assistant(OK, call("a"), call("b", "g"))),
        (user(HI), assistant(OK, call("a"), call("b", "g")), user(missing("a"), missing("b", name="g"))),
        True,
    ),
    # of two results for one call the later one counts
    (
        (assistant(call("a")), user(result("a", "old"), result("a", "new"))),
        (assistant(call("a")), user(of("a", "new"))),
        True,
    ),
    # a system turn between a call and its result stands behind them
    (
        (assistant(call("a")), system("be brief"), user(HI, result("a"))),
        (assistant(call("a")), user(of("a")), system("be brief"), user(HI)),
        False,
    ),
    (
        (assistant(call("a")), system("be brief"), user(result("a"))),
        (assistant(call("a")), user(of("a")), system("be brief")),
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
        (user(HI), system("be brief"), assistant(call("a")), user(of("a"))),
        False,
    ),
    # ids that a model uses again are told apart, and their results follow them
    (
        (assistant(call("a")), user(result("a", "1")), assistant(call("a", "g")), user(result("a", "2"))),
        (assistant(call("a")), user(of("a", "1")), assistant(call("a_2", "g")), user(of("a_2", "2", "g"))),
        False,
    ),
    (
        (assistant(call("a"), call("a", "g"), call("a")), user(result("a", "1"), result("a", "2"), result("a", "3"))),
        (
            assistant(call("a"), call("a_2", "g"), call("a_3")),
            user(of("a", "1"), of("a_2", "2", "g"), of("a_3", "3")),
        ),
        False,
    ),
    (
        (assistant(call("a_2"), call("a"), call("a")), user(result("a_2", "0"), result("a", "1"), result("a", "2"))),
        (
            assistant(call("a_2"), call("a"), call("a_3")),
            user(of("a_2", "0"), of("a", "1"), of("a_3", "2")),
        ),
        False,
    ),
    # a result that comes late gets a call of its own, under an id of its own
    (
        (assistant(call("a")), user(HI), assistant(OK), user(result("a"))),
        (assistant(call("a")), user(missing("a"), HI), assistant(OK, placed("a_2")), user(result("a_2"))),
        True,
    ),
    (
        (assistant(call("a")), user(HI), system("be brief"), user(result("a"))),
        (
            *(assistant(call("a")), user(missing("a"), HI), system("be brief")),
            *(assistant(placed("a_2")), user(result("a_2"))),
        ),
        True,
    ),
    (
        (assistant(call("a")), user(result("a")), assistant(OK), user(result("a"), result("a", "new"))),
        (assistant(call("a")), user(of("a")), assistant(OK, placed("a_2")), user(result("a_2", "new"))),
        True,
    ),
    (
        (user(result("z")), assistant(OK), user(result("z"))),
        (assistant(placed("z")), user(result("z")), assistant(OK, placed("z_2")), user(result("z_2"))),
        True,
    ),
]


@pytest.mark.parametrize(("turns", "expected", "is_told"), PAIRS)
def test_every_result_stands_behind_its_call_and_every_call_has_one(turns, expected, is_told):
    losses = Losses()
    assert repair.pair_results(turns, losses) == expected
    assert losses.names() == (("tool_result",) if is_told else ())


@pytest.mark.parametrize(("turns", "expected"), [row[:2] for row in PAIRS])
def test_what_is_repaired_needs_no_further_repair(turns, expected):
    losses = Losses()
    again = repair.pair_results(expected, losses)
    assert [(turn.role, list(map(_shown, turn.blocks))) for turn in again] == [
        (turn.role, list(map(_shown, turn.blocks))) for turn in expected
    ]
    assert losses.names() == ()


def _shown(block):
    """A result of a call that was only now made for it does not know its name yet."""
    return replace(block, name=None) if isinstance(block, ToolResult) else block


BLOCKS = {
    "user": st.one_of(st.builds(result, st.sampled_from("abc")), st.just(HI), st.just(IMAGE)),
    "assistant": st.one_of(st.builds(call, st.sampled_from("abc")), st.just(OK)),
    "system": st.just(Text("be brief")),
}
TURNS = st.sampled_from(tuple(BLOCKS)).flatmap(
    lambda role: st.builds(Turn, st.just(role), st.lists(BLOCKS[role], max_size=4).map(tuple))
)


@given(st.lists(TURNS, max_size=6))
def test_whatever_came_calls_and_results_are_neighbours_afterwards(turns):
    paired = repair.pair_results(repair.merge_turns(turns), Losses())
    for i, turn in enumerate(paired):
        calls = {block.id for block in turn.blocks if isinstance(block, ToolCall)}
        after = paired[i + 1] if i + 1 < len(paired) else None
        results = [b.call_id for b in after.blocks if isinstance(b, ToolResult)] if after else []
        if calls:
            assert after.role == "user"
            assert set(results) == calls
            assert len(results) == len(set(results))
            assert not any(isinstance(b, ToolResult) for b in after.blocks[len(results) :])
        elif not calls:
            assert not results
    ids = [block.id for turn in paired for block in turn.blocks if isinstance(block, ToolCall)]
    assert len(ids) == len(set(ids))
    assert all(before.role != after.role for before, after in pairwise(paired))
    assert not any(isinstance(block, ToolResult) for block in (paired[0].blocks if paired else ()))


@pytest.mark.parametrize("has_system", [True, False])
@pytest.mark.parametrize(
    ("turns", "expected", "told"),
    [
        ((user(HI),), (user(HI),), ()),
        ((assistant(OK), user(HI)), (user(Text(FIRST_USER_TEXT)), assistant(OK), user(HI)), ("turns",)),
        ((system("be brief"), user(HI)), (user(Text(FIRST_USER_TEXT)), system("be brief"), user(HI)), ("turns",)),
    ],
)
def test_the_user_begins(turns, expected, told, has_system):
    losses = Losses()
    assert repair.start_with_user(turns, has_system, losses) == expected
    assert losses.names() == told


def test_instructions_alone_are_a_conversation_and_nothing_at_all_is_none():
    losses = Losses({"turns": "messages"})
    assert repair.start_with_user((), True, losses) == (user(Text(FIRST_USER_TEXT)),)
    assert losses.names() == ("messages",)
    with pytest.raises(BadRequest, match=r"^invalid_request: messages: at least one message is needed$"):
        repair.start_with_user((), False, losses)


@pytest.mark.parametrize(
    ("turns", "is_told"),
    [
        ((user(HI),), False),
        ((user(HI), assistant(OK)), True),
        ((user(HI), system("be brief")), True),
    ],
)
def test_where_no_answer_may_be_begun_the_user_speaks_last(turns, is_told):
    losses = Losses()
    assert repair.end_with_user(turns, losses) == ((*turns, user(Text(LAST_USER_TEXT))) if is_told else turns)
    assert losses.names() == (("turns",) if is_told else ())


def test_a_long_conversation_is_repaired_in_linear_time():
    """What was once quadratic took a worker for minutes."""
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
    ("turns", "expected", "told"),
    [
        ((user(HI), assistant(OK)), (user(HI), assistant(OK)), ()),
        ((user(HI), system("be brief")), (user(HI, Text("be brief")),), ("system_turn",)),
        (
            (user(HI), assistant(OK), system("be brief"), assistant(OK)),
            (user(HI), assistant(OK), user(Text("be brief")), assistant(OK)),
            ("system_turn",),
        ),
    ],
)
def test_later_system_turns_are_the_users(turns, expected, told):
    losses = Losses()
    assert repair.without_system(turns, losses) == expected
    assert losses.names() == told


LEGAL = re.compile(r"[A-Za-z0-9_-]+")


@pytest.mark.parametrize("given", ["call_abc", "toolu_01-x", "a", "x" * 64])
def test_a_legal_id_stays(given):
    assert repair.legal_id(given, LEGAL, 64) == given


@pytest.mark.parametrize(
    ("given", "begins"),
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
def test_an_illegal_id_becomes_a_legal_one_and_always_the_same(given, begins):
    made = repair.legal_id(given, LEGAL, 64)
    assert LEGAL.fullmatch(made)
    assert len(made) <= 64
    assert re.fullmatch(re.escape(begins) + "[0-9a-f]{12}", made)
    assert repair.legal_id(given, LEGAL, 64) == made
    assert repair.legal_id(made, LEGAL, 64) == made


def test_ids_that_differ_only_in_what_is_illegal_stay_different():
    given = ["a.1", "a:1", "a/1", "a 1", "a_1", "a..1", ".a.1"]
    assert len({repair.legal_id(one, LEGAL, 64) for one in given}) == len(given)
