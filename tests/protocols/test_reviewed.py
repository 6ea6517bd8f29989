"""What a review found, so that it does not come back; each of it between two rooms, or in a place of no other test."""

import base64
import copy
import json
import random

import orjson
import pytest

from gproxy import channels, protocols
from gproxy.channels.model_capabilities import facts
from gproxy.errors import BadRequest
from gproxy.protocols import validate
from gproxy.protocols.hub import (
    Delta,
    End,
    Failed,
    Media,
    Open,
    Reasoning,
    Refusal,
    Reply,
    Request,
    Signature,
    StreamFailed,
    Target,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
    fold,
)
from gproxy.protocols.losses import Losses
from gproxy.protocols.repair import NO_RESULT
from gproxy.protocols.signatures import SKIP_VALIDATOR, WRAPPED_PREFIX, wrap
from gproxy.relay.planner import Call, Plan, Planner
from tests.conversations import OWN_SIGNATURES, PDF, PNG, PROVIDER, context, target
from tests.stopwatch import seconds

LOADED = protocols.load()
CHAT, RESPONSES, CLAUDE, GEMINI = "openai_chat", "openai_responses", "anthropic", "gemini"
Q, HI = Turn("user", (Text("Is it?"),)), Text("hi")
CALL = ToolCall("a", "f", '{"x":1}')


def codec(name: str):
    return LOADED[name].CODECS["generate_content"]


def write(name: str, *turns: Turn, to: Target | None = None, **more) -> tuple[dict, set[str]]:
    """The body for a vendor, and what it lost by the hub's names."""
    losses = Losses()
    request = Request(turns or (Q,), **{"max_tokens": 999, **more})
    body = codec(name).write_request(request, to or target(name), losses)
    return orjson.loads(orjson.dumps(body)), set(losses.names())


def read(name: str, body: dict) -> tuple[Request, set[str]]:
    losses = Losses(LOADED[name].NAMES)
    return codec(name).read_request(body, losses), set(losses.names())


def events(name: str, payloads: list, losses: Losses | None = None) -> list:
    return list(LOADED[name].read_stream(payloads, context(), losses or Losses()))


# -- Anthropic -----------------------------------------------------------------------------------------------------


def nested(levels: int, kind: str) -> dict:
    found: dict = {"type": "text", "text": "inside"}
    for _ in range(levels):
        if kind == "tool_result":
            found = {"type": "tool_result", "tool_use_id": "a", "content": [found]}
        else:
            found = {"type": "document", "source": {"type": "content", "content": [found]}}
    return found


@pytest.mark.parametrize("kind", ["tool_result", "document"])
@pytest.mark.parametrize("levels", [2, 3, 250])
def test_what_stands_inside_itself_is_told_and_dropped_at_any_depth(kind, levels):
    beside = {"type": "text", "text": "beside"}
    content = [nested(levels, kind), beside]
    request, told = read(CLAUDE, {"messages": [{"role": "user", "content": content}]})
    assert told == {f"messages.content.{kind}"}
    (turn,) = request.turns
    assert turn.blocks == ((ToolResult("a"), Text("beside")) if kind == "tool_result" else (Text("beside"),))


def test_one_level_is_read_as_it_is_meant():
    request, told = read(CLAUDE, {"messages": [{"role": "user", "content": [nested(1, "tool_result")]}]})
    assert (request.turns[0].blocks, told) == ((ToolResult("a", (Text("inside"),)),), set())


@pytest.mark.parametrize(
    ("result", "written"),
    [
        (ToolResult("a", is_error=True), {"content": "Error", "is_error": True}),
        (ToolResult("a", (Text(" \n"),), is_error=True), {"content": "Error", "is_error": True}),
        (ToolResult("a", (Text("no"),), is_error=True), {"content": "no", "is_error": True}),
        (ToolResult("a"), {}),
    ],
)
def test_claude_is_told_of_an_error_in_words(result, written):
    body, _ = write(CLAUDE, Q, Turn("assistant", (CALL,)), Turn("user", (result,)))
    assert body["messages"][-1]["content"] == [{"type": "tool_result", "tool_use_id": "a", **written}]


@pytest.mark.parametrize(
    ("user", "passes"),
    [
        ("u-1", True),
        ("x" * 256, True),
        ("x" * 257, False),
        ("jane@example.com", False),
        ("@", False),
        ("+49 30 1234567", False),
    ],
)
@pytest.mark.parametrize("field", ["end_user", "metadata"])
def test_who_asks_is_named_to_claude_by_a_digest_where_the_name_would_be_refused(user, passes, field):
    more = {"end_user": user} if field == "end_user" else {"metadata": {"user_id": user}}
    body, told = write(CLAUDE, **more)
    if passes:
        assert (body["metadata"], told) == ({"user_id": user}, set())
        return
    shown = body["metadata"]["user_id"]
    assert shown.startswith("user_")
    assert len(shown) == 37
    assert told == {"end_user"}
    assert write(CLAUDE, **more)[0]["metadata"]["user_id"] == shown  # the same one always
    assert write(CLAUDE, end_user=user + "m@")[0]["metadata"]["user_id"] != shown


def test_priority_is_speed_only_where_the_model_has_it():
    fast = Target(PROVIDER, "m", traits=frozenset(("fast",)))
    body, told = write(CLAUDE, tier="priority", to=fast)
    assert (body["speed"], told) == ("fast", set())
    assert "service_tier" not in body
    body, told = write(CLAUDE, tier="priority", to=Target(PROVIDER, "m"))
    assert (body["service_tier"], told) == ("auto", {"tier"})
    assert "speed" not in body


LIMITS = {CLAUDE: "max_tokens", CHAT: "max_completion_tokens", RESPONSES: "max_output_tokens"}


@pytest.mark.parametrize("name", LIMITS)
def test_no_more_is_asked_for_than_a_model_can_write(name):
    small = Target(PROVIDER, "m", max_output=4096)
    for asked, written, lost in ((4097, 4096, {"max_tokens"}), (4096, 4096, set()), (100, 100, set())):
        body, told = write(name, max_tokens=asked, to=small)
        assert (body[LIMITS[name]], told) == (written, lost)
    body, told = write(name, max_tokens=10**6)  # of a model that nothing is known of
    assert (body[LIMITS[name]], told) == (10**6, set())


OWN_THOUGHT = Thinking("hm", Signature(PROVIDER, "thinking:c2ln"))
OTHERS = Thinking("hm", Signature("other/anthropic", "thinking:c2ln"))
RESULT = Turn("user", (ToolResult("a", (Text("42"),)),))


@pytest.mark.parametrize(
    ("turns", "thinks"),
    [
        ((Q,), True),
        ((Q, Turn("assistant", (HI,)), Q), True),
        # it does not go on with words that it did not think of
        ((Q, Turn("assistant", (HI,))), False),
        ((Q, Turn("assistant", (OWN_THOUGHT, HI))), False),
        # the turn whose calls are answered begins with thinking of its own
        ((Q, Turn("assistant", (OWN_THOUGHT, CALL)), RESULT), True),
        ((Q, Turn("assistant", (HI, OWN_THOUGHT, CALL)), RESULT), False),
        ((Q, Turn("assistant", (CALL, OWN_THOUGHT)), RESULT), False),
        ((Q, Turn("assistant", (OTHERS, CALL)), RESULT), False),
        ((Q, Turn("assistant", (Thinking("hm"), CALL)), RESULT), False),
        ((Q, Turn("assistant", (CALL,)), RESULT), False),
        ((RESULT,), False),
    ],
)
def test_budgeted_thinking_is_off_where_claude_would_refuse_it(turns, thinks):
    to = Target(PROVIDER, "m", budgets=True)
    body, told = write(CLAUDE, *turns, to=to, max_tokens=8000, reasoning=Reasoning("medium"))
    expected = {"type": "enabled", "budget_tokens": 4000} if thinks else {"type": "disabled"}
    assert body["thinking"] == expected
    assert ("signature" in told) is not thinks


@pytest.mark.parametrize("name", LOADED)
def test_calls_that_a_conversation_ends_with_are_answered(name):
    body, told = write(name, Q, Turn("assistant", (CALL, ToolCall("b", "g", "{}"))))
    assert "tool_result" in told
    assert json.dumps(body).count(NO_RESULT) == 2


@pytest.mark.parametrize("name", LOADED)
def test_where_nothing_at_all_is_said_it_is_refused(name):
    with pytest.raises(BadRequest, match="at least one message is needed"):
        codec(name).write_request(Request(max_tokens=9), target(name), Losses())
    codec(name).write_request(Request(system=("Be brief.",), max_tokens=9), target(name), Losses())


def test_models_that_begin_no_answer_of_ours_are_asked_by_the_user():
    turns = (Q, Turn("assistant", (Text("It is"),)))
    strict = Target(PROVIDER, "m", traits=frozenset(("no_prefill",)))
    body, told = write(CLAUDE, *turns, to=strict)
    assert (body["messages"][-1]["role"], told) == ("user", {"turns"})
    body, told = write(CLAUDE, *turns)
    assert (body["messages"][-1]["role"], told) == ("assistant", set())


# -- Gemini --------------------------------------------------------------------------------------------------------

MANY = 20_000


@pytest.mark.parametrize("has_ids", [True, False])
@pytest.mark.parametrize("has_names", [True, False])
def test_many_calls_and_their_responses_in_reverse_order_are_read_in_linear_time(has_ids, has_names):
    def named(i: int) -> dict:
        return {"name": f"f{i}" if has_names else "f", **({"id": f"c{i}"} if has_ids else {})}

    calls = [{"functionCall": {**named(i), "args": {}}} for i in range(MANY)]
    responses = [{"functionResponse": {**named(i), "response": {"n": i}}} for i in reversed(range(MANY))]
    body = {"contents": [{"role": "model", "parts": calls}, {"role": "user", "parts": responses}]}
    found: list[Request] = []
    assert seconds(lambda: found.append(read(GEMINI, body)[0])) < 0.5
    given, got = (turn.blocks for turn in found[0].turns)
    assert {call.id for call in given} == {result.call_id for result in got}
    if has_ids or has_names:
        assert [call.id for call in reversed(given)] == [result.call_id for result in got]


def test_a_response_in_the_models_name_is_the_users():
    parts = [
        {"text": "I look."},
        {"functionCall": {"name": "f", "args": {}}},
        {"functionResponse": {"name": "f", "response": {"output": "42"}}},
    ]
    request, _ = read(
        GEMINI, {"contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": parts}]}
    )
    assert [turn.role for turn in request.turns] == ["user", "assistant", "user"]
    said, answered = request.turns[1:]
    assert [type(block) for block in said.blocks] == [Text, ToolCall]
    assert answered.blocks == (ToolResult(said.blocks[1].id, (Text("42"),), name="f"),)
    alone = [{"role": "model", "parts": parts[1:2]}, {"role": "model", "parts": parts[2:]}]
    assert [turn.role for turn in read(GEMINI, {"contents": alone})[0].turns] == ["assistant", "user"]


def test_all_responses_stand_before_what_they_show():
    image = Media("image", "image/png", PNG)
    results = (ToolResult("a", (Text("see"), image)), ToolResult("b", (image,)), ToolResult("c", (Text("no"),)))
    calls = tuple(ToolCall(result.call_id, "f", "{}") for result in results)
    body, told = write(GEMINI, Q, Turn("assistant", calls), Turn("user", (HI, *results, image)))
    kinds = [next(iter(part)) for part in body["contents"][-1]["parts"]]
    assert kinds == ["functionResponse"] * 3 + ["inlineData"] * 2 + ["text", "inlineData"]
    assert told == {"tool_media"}


@pytest.mark.parametrize("media_type", ["image/gif", "image/bmp", "image/svg+xml"])
@pytest.mark.parametrize("name", [None, "cat"])
def test_an_image_that_gemini_cannot_read_is_a_note_and_a_loss(media_type, name):
    image = Media("image", media_type, PNG, name=name)
    body, told = write(GEMINI, Turn("user", (HI, image)))
    text = f"[{name or media_type} omitted: this model cannot read it]"
    assert body["contents"][0]["parts"] == [{"text": "hi"}, {"text": text}]
    assert told - {"filename"} == {"image"}
    body, told = write(GEMINI, Q, Turn("assistant", (HI, image)), Q)
    assert body["contents"][1]["parts"] == [{"text": "hi"}]
    assert "image" in told


@pytest.mark.parametrize(
    ("parts", "blocks"),
    [
        ([{"text": "a"}, {"text": "b"}, {"text": ""}, {"text": " c"}], (Text("ab c"),)),
        ([{"text": "h", "thought": True}, {"text": "m", "thought": True}], (Thinking("hm"),)),
        (
            [{"text": "h", "thought": True}, {"text": "m", "thought": True}, {"text": "a"}, {"text": "b"}],
            (Thinking("hm"), Text("ab")),
        ),
        (
            [{"text": "h", "thought": True}, {"text": "m", "thought": True, "thoughtSignature": "S"}],
            (Thinking("hm", Signature(None, "S")),),
        ),
        # a signature ends what it signs
        (
            [{"text": "h", "thought": True, "thoughtSignature": "S"}, {"text": "m", "thought": True}],
            (Thinking("h", Signature(None, "S")), Thinking("m")),
        ),
    ],
)
def test_the_pieces_of_a_models_streamed_turn_are_joined(parts, blocks):
    for contents in ([{"role": "model", "parts": parts}], [{"role": "model", "parts": [part]} for part in parts]):
        request, _ = read(GEMINI, {"contents": contents})
        assert request.turns == (Turn("assistant", blocks),)


def test_what_a_user_said_in_pieces_stays_in_pieces():
    request, _ = read(GEMINI, {"contents": [{"parts": [{"text": "a"}, {"text": "b"}]}]})
    assert request.turns == (Turn("user", (Text("a"), Text("b"))),)


# -- chat ----------------------------------------------------------------------------------------------------------


def chunk(delta: dict, finish: str | None = None, **more) -> dict:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}


def piece(text: str, **head) -> dict:
    named = {"id": "a", "type": "function"} if head else {}
    return chunk({"tool_calls": [{"index": 0, **named, "function": {**head, "arguments": text}}]})


ANNOTATION = {
    "type": "url_citation",
    "url_citation": {"url": "https://x", "title": "X", "start_index": 0, "end_index": 1},
}
LIKELY = {"logprobs": {"content": [{"token": "{", "logprob": -0.5, "top_logprobs": []}]}}
# What stands between the pieces of a call, and what else is then said.
BETWEEN = {
    "text": (chunk({"content": "so"}), (Text("so"),)),
    "empty text": (chunk({"content": ""}), ()),
    "thinking": (chunk({"reasoning_content": "hm"}), (Thinking("hm"),)),
    "details": (chunk({"reasoning_details": [{"type": "reasoning.summary", "summary": "s"}]}), (Thinking(""),)),
    "logprobs": (chunk({}, **LIKELY), ()),
    "annotations": (chunk({"annotations": [ANNOTATION]}), ()),
    "all": (chunk({"content": "so", "annotations": [ANNOTATION]}, **LIKELY), (Text("so"),)),
}


@pytest.mark.parametrize("case", BETWEEN)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_nothing_cuts_the_arguments_of_a_streamed_call(case, at):
    between, said = BETWEEN[case]
    stream = [piece("", name="f"), piece('{"x": "a}'), piece(' b{", "y": '), piece("1}")]
    stream = [*stream[:at], between, *stream[at:], chunk({}, "tool_calls")]
    losses = Losses()
    found = events(CHAT, stream, losses)
    (answer,) = fold(found).answers
    assert answer.blocks[0] == ToolCall("a", "f", '{"x": "a} b{", "y": 1}')
    assert answer.blocks[1:] == said
    assert answer.stop == "tools"
    assert set(losses.names()) == {
        "logprobs": {"logprobs"},
        "annotations": {"delta.annotations"},
        "all": {"delta.annotations", "logprobs"},
    }.get(case, set())


def test_a_refusal_has_no_citations():
    losses = Losses()
    stream = [chunk({"refusal": "no", "annotations": [ANNOTATION]}, **LIKELY), chunk({}, "stop")]
    (answer,) = fold(events(CHAT, stream, losses)).answers
    assert (answer.blocks, len(answer.logprobs)) == ((Refusal("no"),), 1)
    assert losses.names() == ("delta.annotations",)


@pytest.mark.parametrize("case", BETWEEN)
def test_nor_those_of_calls_that_are_interleaved(case):
    between, said = BETWEEN[case]

    def of(at: int, text: str, **head) -> dict:
        return {"index": at, **({"id": f"c{at}"} if head else {}), "function": {**head, "arguments": text}}

    stream = [
        chunk({"tool_calls": [of(0, "", name="f"), of(1, "", name="g")]}),
        chunk({"tool_calls": [of(1, '{"y"')]}),
        between,
        chunk({"tool_calls": [of(0, '{"x"'), of(1, ":2}")]}),
        chunk({"tool_calls": [of(0, ":1}")]}),
        chunk({}, "tool_calls"),
    ]
    (answer,) = fold(events(CHAT, stream)).answers
    assert answer.blocks[:2] == (ToolCall("c0", "f", '{"x":1}'), ToolCall("c1", "g", '{"y":2}'))
    assert answer.blocks[2:] == said


def test_a_long_call_with_much_between_its_pieces_is_read_in_linear_time():
    pieces = [piece("", name="f"), piece('{"x": "'), *(piece("}" if i % 2 else "a") for i in range(4000)), piece('"}')]
    assert seconds(lambda: events(CHAT, [*pieces, chunk({}, "tool_calls")])) < 1


@pytest.mark.parametrize("name", [CHAT, RESPONSES])
def test_to_leave_out_what_is_meant_anyway_is_no_loss(name):
    known = facts(name, "o3")
    thinker = Target(PROVIDER, "o3", refused=known.refused, efforts=known.efforts, traits=known.traits)
    for temperature, lost in ((1, set()), (1.0, set()), (0.5, {"temperature"}), (0, {"temperature"})):
        body, told = write(name, temperature=temperature, to=thinker)
        assert "temperature" not in body
        assert told == lost
    body, told = write(name, top_p=1, frequency_penalty=0, presence_penalty=0, to=thinker)
    assert not {"top_p", "frequency_penalty", "presence_penalty"} & body.keys()
    assert not {"top_p"} & told


@pytest.mark.parametrize(
    ("media", "text"),
    [
        (Media("file", "text/plain", base64.b64encode("grüße".encode()).decode()), "grüße"),
        (Media("file", "text/markdown", base64.b64encode(b"# a").decode(), name="a.md"), "a.md:\n# a"),
        (Media("file", "application/json", base64.b64encode(b"{}").decode()), "{}"),
        (Media("file", "text/plain", "//79"), None),
        (Media("file", "application/pdf", PDF), None),
    ],
)
def test_chat_is_sent_a_text_document_as_text(media, text):
    body, told = write(CHAT, Turn("user", (HI, media)))
    shown = body["messages"][0]["content"][1]
    assert told == set()
    assert shown == {"type": "text", "text": text} if text is not None else shown["type"] == "file"


@pytest.mark.parametrize(
    ("blocks", "shown", "told"),
    [
        ((Thinking("hm"), CALL), "hm", set()),
        ((CALL,), "", {"thinking"}),
        ((HI, CALL), "", {"thinking"}),
        ((OTHERS, CALL), "hm", set()),
        ((HI,), None, set()),
    ],
)
def test_deepseek_gets_thinking_with_every_call(blocks, shown, told):
    kind = channels.load()["deepseek"]
    deepseek = Target(PROVIDER, "deepseek-chat", traits=kind.traits, refused=kind.refused)
    after = RESULT if CALL in blocks else Q
    body, lost = write(CHAT, Q, Turn("assistant", blocks), after, to=deepseek)
    assert body["messages"][1].get("reasoning_content") == shown
    assert lost == told
    body, _ = write(CHAT, Q, Turn("assistant", blocks), after)
    assert "reasoning_content" not in body["messages"][1]


# -- the same dialect ----------------------------------------------------------------------------------------------

PLANNER = Planner(LOADED, {}, None)
SEALED = wrap(Signature("other/gemini", "S"))


def passed(protocol: str, body: dict) -> tuple[bytes, tuple[str, ...]]:
    data = json.dumps(body, indent=1).encode()  # not as we would write it
    call = Call(protocol, data, lambda name: None, (), "req_1", 0.0, model="m")
    plan = Plan(
        None, LOADED[protocol].read_head(data), "m", "m", None, None, None, "", "m", "", protocol, data, None, "", 0
    )
    sent, losses = PLANNER.passed(plan, call)
    assert data == call.body
    return sent, losses


# A client's own request, with the mark in its text and with all that could be taken for something of ours.
MENTIONS = {
    CHAT: {
        "model": "m",
        "messages": [
            {"role": "user", "content": f"what is {WRAPPED_PREFIX}?"},
            {"role": "assistant", "content": WRAPPED_PREFIX, "tool_calls": [], "reasoning_details": []},
            {"role": "assistant", "content": "x", "tool_calls": None},
            {"role": "user", "content": [{"type": "text", "text": SEALED}]},
        ],
    },
    RESPONSES: {
        "model": "m",
        "input": [
            {"role": "user", "content": SEALED},
            {"type": "reasoning", "summary": [], "encrypted_content": "own"},
        ],
    },
    CLAUDE: {
        "model": "m",
        "max_tokens": 9,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": SEALED}]},
            {"role": "assistant", "content": []},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": WRAPPED_PREFIX, "signature": "own"}]},
        ],
    },
    GEMINI: {
        "contents": [
            {"role": "user", "parts": [{"text": SEALED}]},
            {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"x": WRAPPED_PREFIX}}}]},
            {"role": "user", "parts": []},
        ]
    },
}


@pytest.mark.parametrize("name", LOADED)
def test_a_users_text_with_our_mark_in_it_changes_nothing(name):
    body = MENTIONS[name]
    assert passed(name, body) == (json.dumps(body, indent=1).encode(), ())


# What is sealed by another provider, and what is left of its turn.
SEALS = {
    CHAT: (
        {"role": "assistant", "content": "x", "reasoning_details": [{"type": "reasoning.encrypted", "data": SEALED}]},
        {"role": "assistant", "content": "x"},
    ),
    RESPONSES: ({"type": "reasoning", "summary": [], "encrypted_content": SEALED}, None),
    CLAUDE: (
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "t", "signature": SEALED}, {"type": "text", "text": "x"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "x"}]},
    ),
    GEMINI: (
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}, "thoughtSignature": SEALED}]},
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}, "thoughtSignature": SKIP_VALIDATOR}]},
    ),
}


@pytest.mark.parametrize("name", LOADED)
def test_what_another_provider_sealed_is_taken_out_and_told(name):
    (turns,) = MENTIONS[name].keys() & {"messages", "input", "contents"}
    given, left = SEALS[name]
    sent, losses = passed(name, {**MENTIONS[name], turns: [*MENTIONS[name][turns], given]})
    assert json.loads(sent) == {**MENTIONS[name], turns: [*MENTIONS[name][turns], *([left] if left else [])]}
    assert losses == (LOADED[name].NAMES["signature"],)


# -- wrong types in every place ------------------------------------------------------------------------------------

TOOL = Tool("f", "looks it up", {"type": "object", "properties": {"x": {"type": "integer", "enum": [1]}}}, True)
EVERYTHING = Request(
    turns=(
        Turn("user", (HI, Media("image", "image/png", PNG), Media("file", "application/pdf", PDF, name="a.pdf"))),
        Turn("assistant", (Text("I look."), CALL)),
        Turn("user", (ToolResult("a", (Text("42"), Media("image", "image/png", PNG)), name="f"), Text("And?"))),
    ),
    system=("Be brief.",),
    tools=(TOOL,),
    choice=ToolChoice("any", ("f",)),
    parallel=False,
    max_tokens=999,
    temperature=0.5,
    top_p=0.5,
    stop=("END",),
    reasoning=Reasoning("low"),
    tier="priority",
    end_user="u",
    metadata={"user_id": "u"},
)
WRONG = [None, True, 7, -1.5, "x", "", [], ["x"], [None], [[]], {}, {"x": 1}, {"type": "text"}, {"type": []}]


def places(value, path: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def changed(body, path: tuple, wrong):
    """A copy with another value in that place."""
    if not path:
        return copy.deepcopy(wrong)
    key, *rest = path
    found = body.copy()
    found[key] = changed(body[key], tuple(rest), wrong)
    return found


def spoilt(body: dict, seed: int, maximum: int):
    """Each place with each wrong value, and some with wrong values in more places; so many of them at most."""
    dice = random.Random(seed)
    found = [(path, wrong) for path in places(body)[1:] for wrong in WRONG]
    for path, wrong in found if len(found) <= maximum else dice.sample(found, maximum):
        yield changed(body, path, wrong)
    for _ in range(maximum // 4):
        other = body
        for _ in range(3):
            if inner := places(other)[1:]:
                other = changed(other, dice.choice(inner), dice.choice(WRONG))
        yield other


WRITTEN = {
    name: orjson.loads(orjson.dumps(codec(name).write_request(EVERYTHING, target(name), Losses()))) for name in LOADED
}


@pytest.mark.parametrize("name", LOADED)
def test_wrong_types_anywhere_in_a_request_are_a_bad_request_or_a_request(name):
    answers = {"refused": 0, "read": 0}
    for body in spoilt(WRITTEN[name], 1, 2000):
        try:
            request = codec(name).read_request(body, Losses(LOADED[name].NAMES))
        except BadRequest as fault:
            assert fault.message.startswith(f"{fault.label}: ")
            answers["refused"] += 1
            continue
        assert isinstance(request, Request)
        answers["read"] += 1
        if answers["read"] % 8 == 0:  # and what was read can be written to anyone
            for other in LOADED:
                try:
                    validate.dumps(codec(other).write_request(request, target(other), Losses()))
                except BadRequest as fault:
                    assert fault.message
    assert all(answers.values())


REPLIES = {
    CHAT: {
        "id": "c",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "hi",
                    "refusal": "no",
                    "reasoning_content": "hm",
                    "reasoning_details": json.loads(OWN_SIGNATURES[CHAT]),
                    "annotations": [ANNOTATION],
                    "images": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}],
                    "tool_calls": [
                        {
                            "id": "a",
                            "type": "function",
                            "function": {"name": "f", "arguments": "{}"},
                            "extra_content": {"google": {"thought_signature": "S"}},
                        },
                        {"id": "b", "type": "custom", "custom": {"name": "shell", "input": "ls"}},
                    ],
                },
                "logprobs": LIKELY["logprobs"],
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
        "service_tier": "default",
    },
    RESPONSES: {
        "id": "r",
        "model": "m",
        "status": "completed",
        "output": [
            {
                "type": "reasoning",
                "id": "rs",
                "summary": [{"type": "summary_text", "text": "hm"}],
                "encrypted_content": "S",
            },
            {
                "type": "message",
                "role": "assistant",
                "content": [
                    {
                        "type": "output_text",
                        "text": "hi",
                        "annotations": [{"type": "url_citation", **ANNOTATION["url_citation"]}],
                        "logprobs": LIKELY["logprobs"]["content"],
                    },
                    {"type": "refusal", "refusal": "no"},
                ],
            },
            {"type": "function_call", "id": "fc", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "custom_tool_call", "id": "ct", "call_id": "b", "name": "shell", "input": "ls"},
            {"type": "image_generation_call", "result": PNG, "output_format": "png"},
        ],
        "incomplete_details": {"reason": "x"},
        "usage": {"input_tokens": 9, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 1}},
        "service_tier": "default",
    },
    CLAUDE: {
        "id": "m",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "S"},
            {"type": "redacted_thinking", "data": "S"},
            {"type": "text", "text": "hi", "citations": [{"url": "https://x", "title": "X", "cited_text": "q"}]},
            {"type": "tool_use", "id": "a", "name": "f", "input": {"x": [1]}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 9,
            "output_tokens": 9,
            "cache_creation": {"ephemeral_5m_input_tokens": 1},
            "speed": "fast",
        },
    },
    GEMINI: {
        "responseId": "r",
        "modelVersion": "m",
        "candidates": [
            {
                "index": 0,
                "content": {
                    "role": "model",
                    "parts": [
                        {"text": "hm", "thought": True, "thoughtSignature": "S"},
                        {"text": "hi"},
                        {"functionCall": {"id": "a", "name": "f", "args": {"x": [1]}}, "thoughtSignature": "S"},
                        {"inlineData": {"mimeType": "image/png", "data": PNG}},
                        {"executableCode": {"language": "PYTHON", "code": "1"}},
                        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
                    ],
                },
                "finishReason": "STOP",
                "citationMetadata": {"citationSources": [{"startIndex": 0, "endIndex": 1, "uri": "https://x"}]},
                "groundingMetadata": {
                    "groundingChunks": [{"web": {"uri": "https://x", "title": "X"}}],
                    "groundingSupports": [{"segment": {"startIndex": 0, "endIndex": 1}, "groundingChunkIndices": [0]}],
                },
                "logprobsResult": {
                    "chosenCandidates": [{"token": "hi", "logProbability": -0.5}],
                    "topCandidates": [{"candidates": [{"token": "hi", "logProbability": -0.5}]}],
                },
            }
        ],
        "promptFeedback": {"x": 1},
        "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 9, "thoughtsTokenCount": 1},
    },
}


@pytest.mark.parametrize("name", LOADED)
def test_wrong_types_anywhere_in_a_reply_are_refused_or_read(name):
    for number, body in enumerate(spoilt(REPLIES[name], 2, 2400)):
        try:
            reply = codec(name).read_reply(body, context(), Losses())
        except (BadRequest, ValueError) as fault:
            assert str(fault)
            continue
        assert isinstance(reply, Reply)
        for other in LOADED if number % 4 == 0 else ():
            orjson.dumps(codec(other).write_reply(reply, context(), Losses()))


def streamed(name: str) -> list[dict]:
    """The documents of a stream with everything in it."""
    match name:
        case "openai_chat":
            message = REPLIES[CHAT]["choices"][0]["message"]
            calls = [{"index": at, **call} for at, call in enumerate(message["tool_calls"])]
            whole = {key: value for key, value in message.items() if key != "tool_calls"}
            return [
                chunk(whole, None, **LIKELY),
                chunk({"tool_calls": calls}),
                chunk({}, "tool_calls"),
                {"id": "c", "choices": [], "usage": REPLIES[CHAT]["usage"]},
            ]
        case "gemini":
            return [REPLIES[GEMINI]]
        case "anthropic":
            blocks = REPLIES[CLAUDE]["content"]
            deltas = [
                {"type": "thinking_delta", "thinking": "hm"},
                {"type": "signature_delta", "signature": "S"},
                {"type": "citations_delta", "citation": blocks[2]["citations"][0]},
                {"type": "input_json_delta", "partial_json": "{}"},
            ]
            return [
                {"type": "message_start", "message": {**REPLIES[CLAUDE], "content": []}},
                *(
                    event
                    for at, block in enumerate(blocks)
                    for event in (
                        {"type": "content_block_start", "index": at, "content_block": block},
                        {"type": "content_block_delta", "index": at, "delta": deltas[at]},
                        {"type": "content_block_stop", "index": at},
                    )
                ),
                {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
                {"type": "message_stop"},
            ]
    output = REPLIES[RESPONSES]["output"]
    at = {"output_index": 1, "content_index": 0}
    return [
        {"type": "response.created", "response": {"id": "r", "model": "m"}},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "hm"},
        {"type": "response.output_item.done", "output_index": 0, "item": output[0]},
        {"type": "response.output_text.delta", **at, "delta": "hi", "logprobs": LIKELY["logprobs"]["content"]},
        {
            "type": "response.output_text.annotation.added",
            **at,
            "annotation": output[1]["content"][0]["annotations"][0],
        },
        {"type": "response.refusal.delta", "output_index": 1, "content_index": 1, "delta": "no"},
        {"type": "response.output_item.added", "output_index": 2, "item": output[2]},
        {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": "{}"},
        {"type": "response.function_call_arguments.done", "output_index": 2, "arguments": "{}"},
        {"type": "response.output_item.added", "output_index": 3, "item": output[3]},
        {"type": "response.custom_tool_call_input.delta", "output_index": 3, "delta": "ls"},
        {"type": "response.completed", "response": REPLIES[RESPONSES]},
    ]


@pytest.mark.parametrize("name", LOADED)
def test_wrong_types_anywhere_in_a_stream_break_nothing(name):
    stream = streamed(name)
    assert isinstance(events(name, stream)[-1], End)
    for number, payloads in enumerate(spoilt(stream, 3, 2000)):
        given = [payload for payload in payloads if isinstance(payload, dict)]
        found = events(name, [*given, Failed(502, "upstream_error", "no end")])
        assert isinstance(found[-1], End | Failed)
        opened = {event.index for event in found if isinstance(event, Open)}
        assert all(event.index in opened for event in found if isinstance(event, Delta))
        for other in LOADED if number % 4 == 0 else ():
            b"".join(LOADED[other].write_stream(found, context(), Losses()))
        try:
            fold(found)
        except StreamFailed as fault:
            assert isinstance(fault.failed, Failed)
