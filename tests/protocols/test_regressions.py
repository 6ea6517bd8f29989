"""Regression tests of defects that concern several modules of the protocols."""

import base64
import copy
import json
import random

import orjson
import pytest

from gproxy import channels, protocols
from gproxy.channels.model_capabilities import capabilities
from gproxy.errors import BadRequest
from gproxy.protocols import hub, validate
from gproxy.protocols.losses import Losses
from gproxy.protocols.repair import NO_RESULT
from gproxy.protocols.signatures import SKIP_VALIDATOR, WRAPPED_PREFIX, wrap
from gproxy.relay.planner import passthrough_body
from tests.conversations import OWN_SIGNATURES, PDF, PNG, PROVIDER, context, target
from tests.stopwatch import seconds

LOADED = protocols.load()
CHAT, RESPONSES, CLAUDE, GEMINI = "openai_chat", "openai_responses", "anthropic", "gemini"
Q, HI = hub.Turn("user", (hub.Text("Is it?"),)), hub.Text("hi")
CALL = hub.ToolCall("a", "f", '{"x":1}')


def codec(name: str):
    return LOADED[name].CODECS["generate_content"]


def write(name: str, *turns: hub.Turn, to: hub.Target | None = None, **more) -> tuple[dict, set[str]]:
    """Returns the body for a vendor and the losses by their hub names."""
    losses = Losses()
    request = hub.Request(turns or (Q,), **{"max_tokens": 999, **more})
    body = codec(name).write_request(request, to or target(name), losses)
    return orjson.loads(orjson.dumps(body)), set(losses.names())


def read(name: str, body: dict) -> tuple[hub.Request, set[str]]:
    losses = Losses(LOADED[name].NAMES)
    return codec(name).read_request(body, losses), set(losses.names())


def events(name: str, payloads: list, losses: Losses | None = None) -> list:
    return list(LOADED[name].read_stream(payloads, context(), losses or Losses()))


# -- Anthropic -----------------------------------------------------------------------------------------------------


def nested(levels: int, kind: str) -> dict:
    block: dict = {"type": "text", "text": "inside"}
    for _ in range(levels):
        if kind == "tool_result":
            block = {"type": "tool_result", "tool_use_id": "a", "content": [block]}
        else:
            block = {"type": "document", "source": {"type": "content", "content": [block]}}
    return block


@pytest.mark.parametrize("kind", ["tool_result", "document"])
@pytest.mark.parametrize("levels", [2, 3, 250])
def test_a_block_nested_in_its_own_type_is_dropped_as_a_loss_at_any_depth(kind, levels):
    beside = {"type": "text", "text": "beside"}
    content = [nested(levels, kind), beside]
    request, lost = read(CLAUDE, {"messages": [{"role": "user", "content": content}]})
    assert lost == {f"messages.content.{kind}"}
    (turn,) = request.turns
    assert turn.blocks == (
        (hub.ToolResult("a"), hub.Text("beside")) if kind == "tool_result" else (hub.Text("beside"),)
    )


def test_one_level_of_nesting_is_read():
    request, lost = read(CLAUDE, {"messages": [{"role": "user", "content": [nested(1, "tool_result")]}]})
    assert (request.turns[0].blocks, lost) == ((hub.ToolResult("a", (hub.Text("inside"),)),), set())


@pytest.mark.parametrize(
    ("result", "written"),
    [
        (hub.ToolResult("a", is_error=True), {"content": "Error", "is_error": True}),
        (hub.ToolResult("a", (hub.Text(" \n"),), is_error=True), {"content": "Error", "is_error": True}),
        (hub.ToolResult("a", (hub.Text("no"),), is_error=True), {"content": "no", "is_error": True}),
        (hub.ToolResult("a"), {}),
    ],
)
def test_a_failed_result_has_a_text_for_anthropic(result, written):
    body, _ = write(CLAUDE, Q, hub.Turn("assistant", (CALL,)), hub.Turn("user", (result,)))
    assert body["messages"][-1]["content"] == [{"type": "tool_result", "tool_use_id": "a", **written}]


@pytest.mark.parametrize(
    ("user", "is_accepted"),
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
def test_an_end_user_that_anthropic_would_reject_becomes_a_digest(user, is_accepted, field):
    more = {"end_user": user} if field == "end_user" else {"metadata": {"user_id": user}}
    body, lost = write(CLAUDE, **more)
    if is_accepted:
        assert (body["metadata"], lost) == ({"user_id": user}, set())
        return
    digest = body["metadata"]["user_id"]
    assert digest.startswith("user_")
    assert len(digest) == 37
    assert lost == {"end_user"}
    assert write(CLAUDE, **more)[0]["metadata"]["user_id"] == digest  # always the same digest
    assert write(CLAUDE, end_user=user + "m@")[0]["metadata"]["user_id"] != digest


def test_priority_is_the_field_speed_only_for_models_with_fast_mode():
    fast = hub.Target(PROVIDER, "m", traits=frozenset(("fast",)))
    body, lost = write(CLAUDE, tier="priority", to=fast)
    assert (body["speed"], lost) == ("fast", set())
    assert "service_tier" not in body
    body, lost = write(CLAUDE, tier="priority", to=hub.Target(PROVIDER, "m"))
    assert (body["service_tier"], lost) == ("auto", {"tier"})
    assert "speed" not in body


LIMIT_FIELDS = {CLAUDE: "max_tokens", CHAT: "max_completion_tokens", RESPONSES: "max_output_tokens"}


@pytest.mark.parametrize("name", LIMIT_FIELDS)
def test_the_output_limit_is_reduced_to_the_models_maximum(name):
    small = hub.Target(PROVIDER, "m", max_output=4096)
    for requested, written, expected in ((4097, 4096, {"max_tokens"}), (4096, 4096, set()), (100, 100, set())):
        body, lost = write(name, max_tokens=requested, to=small)
        assert (body[LIMIT_FIELDS[name]], lost) == (written, expected)
    body, lost = write(name, max_tokens=10**6)  # an unknown model
    assert (body[LIMIT_FIELDS[name]], lost) == (10**6, set())


OWN_THOUGHT = hub.Thinking("hm", hub.Signature(PROVIDER, "thinking:c2ln"))
FOREIGN_THOUGHT = hub.Thinking("hm", hub.Signature("other/anthropic", "thinking:c2ln"))
RESULT = hub.Turn("user", (hub.ToolResult("a", (hub.Text("42"),)),))


@pytest.mark.parametrize(
    ("turns", "is_enabled"),
    [
        ((Q,), True),
        ((Q, hub.Turn("assistant", (HI,)), Q), True),
        # the model cannot continue a text that follows no thinking of its own
        ((Q, hub.Turn("assistant", (HI,))), False),
        ((Q, hub.Turn("assistant", (OWN_THOUGHT, HI))), False),
        # a turn with answered calls must begin with thinking of the same vendor
        ((Q, hub.Turn("assistant", (OWN_THOUGHT, CALL)), RESULT), True),
        ((Q, hub.Turn("assistant", (HI, OWN_THOUGHT, CALL)), RESULT), False),
        ((Q, hub.Turn("assistant", (CALL, OWN_THOUGHT)), RESULT), False),
        ((Q, hub.Turn("assistant", (FOREIGN_THOUGHT, CALL)), RESULT), False),
        ((Q, hub.Turn("assistant", (hub.Thinking("hm"), CALL)), RESULT), False),
        ((Q, hub.Turn("assistant", (CALL,)), RESULT), False),
        ((RESULT,), False),
    ],
)
def test_budgeted_thinking_is_disabled_where_anthropic_would_reject_it(turns, is_enabled):
    to = hub.Target(PROVIDER, "m", budgets=True)
    body, lost = write(CLAUDE, *turns, to=to, max_tokens=8000, reasoning=hub.Reasoning("medium"))
    expected = {"type": "enabled", "budget_tokens": 4000} if is_enabled else {"type": "disabled"}
    assert body["thinking"] == expected
    assert ("signature" in lost) is not is_enabled


@pytest.mark.parametrize("name", LOADED)
def test_calls_at_the_end_of_a_conversation_get_results(name):
    body, lost = write(name, Q, hub.Turn("assistant", (CALL, hub.ToolCall("b", "g", "{}"))))
    assert "tool_result" in lost
    assert json.dumps(body).count(NO_RESULT) == 2


@pytest.mark.parametrize("name", LOADED)
def test_a_request_without_messages_and_system_prompt_is_a_bad_request(name):
    with pytest.raises(BadRequest, match="at least one message is needed"):
        codec(name).write_request(hub.Request(max_tokens=9), target(name), Losses())
    codec(name).write_request(hub.Request(system=("Be brief.",), max_tokens=9), target(name), Losses())


def test_a_model_without_prefill_gets_a_final_user_message():
    turns = (Q, hub.Turn("assistant", (hub.Text("It is"),)))
    strict = hub.Target(PROVIDER, "m", traits=frozenset(("no_prefill",)))
    body, lost = write(CLAUDE, *turns, to=strict)
    assert (body["messages"][-1]["role"], lost) == ("user", {"turns"})
    body, lost = write(CLAUDE, *turns)
    assert (body["messages"][-1]["role"], lost) == ("assistant", set())


# -- Gemini --------------------------------------------------------------------------------------------------------

MANY = 20_000


@pytest.mark.parametrize("has_ids", [True, False])
@pytest.mark.parametrize("has_names", [True, False])
def test_many_calls_and_their_responses_in_reverse_order_are_read_in_linear_time(has_ids, has_names):
    def function(i: int) -> dict:
        return {"name": f"f{i}" if has_names else "f", **({"id": f"c{i}"} if has_ids else {})}

    calls = [{"functionCall": {**function(i), "args": {}}} for i in range(MANY)]
    responses = [{"functionResponse": {**function(i), "response": {"n": i}}} for i in reversed(range(MANY))]
    body = {"contents": [{"role": "model", "parts": calls}, {"role": "user", "parts": responses}]}
    requests: list[hub.Request] = []
    assert seconds(lambda: requests.append(read(GEMINI, body)[0])) < 0.5
    calls_read, results_read = (turn.blocks for turn in requests[0].turns)
    assert {call.id for call in calls_read} == {result.call_id for result in results_read}
    if has_ids or has_names:
        assert [call.id for call in reversed(calls_read)] == [result.call_id for result in results_read]


def test_a_function_response_in_a_model_turn_is_read_as_the_users():
    parts = [
        {"text": "I look."},
        {"functionCall": {"name": "f", "args": {}}},
        {"functionResponse": {"name": "f", "response": {"output": "42"}}},
    ]
    request, _ = read(
        GEMINI, {"contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": parts}]}
    )
    assert [turn.role for turn in request.turns] == ["user", "assistant", "user"]
    call_turn, result_turn = request.turns[1:]
    assert [type(block) for block in call_turn.blocks] == [hub.Text, hub.ToolCall]
    assert result_turn.blocks == (hub.ToolResult(call_turn.blocks[1].id, (hub.Text("42"),), name="f"),)
    alone = [{"role": "model", "parts": parts[1:2]}, {"role": "model", "parts": parts[2:]}]
    assert [turn.role for turn in read(GEMINI, {"contents": alone})[0].turns] == ["assistant", "user"]


def test_function_responses_come_before_their_media():
    image = hub.Media("image", "image/png", PNG)
    results = (
        hub.ToolResult("a", (hub.Text("see"), image)),
        hub.ToolResult("b", (image,)),
        hub.ToolResult("c", (hub.Text("no"),)),
    )
    calls = tuple(hub.ToolCall(result.call_id, "f", "{}") for result in results)
    body, lost = write(GEMINI, Q, hub.Turn("assistant", calls), hub.Turn("user", (HI, *results, image)))
    kinds = [next(iter(part)) for part in body["contents"][-1]["parts"]]
    assert kinds == ["functionResponse"] * 3 + ["inlineData"] * 2 + ["text", "inlineData"]
    assert lost == {"tool_media"}


@pytest.mark.parametrize("media_type", ["image/gif", "image/bmp", "image/svg+xml"])
@pytest.mark.parametrize("name", [None, "cat"])
def test_an_image_that_gemini_cannot_read_is_a_note_and_a_loss(media_type, name):
    image = hub.Media("image", media_type, PNG, name=name)
    body, lost = write(GEMINI, hub.Turn("user", (HI, image)))
    text = f"[{name or media_type} omitted: this model cannot read it]"
    assert body["contents"][0]["parts"] == [{"text": "hi"}, {"text": text}]
    assert lost - {"filename"} == {"image"}
    body, lost = write(GEMINI, Q, hub.Turn("assistant", (HI, image)), Q)
    assert body["contents"][1]["parts"] == [{"text": "hi"}]
    assert "image" in lost


@pytest.mark.parametrize(
    ("parts", "blocks"),
    [
        ([{"text": "a"}, {"text": "b"}, {"text": ""}, {"text": " c"}], (hub.Text("ab c"),)),
        ([{"text": "h", "thought": True}, {"text": "m", "thought": True}], (hub.Thinking("hm"),)),
        (
            [{"text": "h", "thought": True}, {"text": "m", "thought": True}, {"text": "a"}, {"text": "b"}],
            (hub.Thinking("hm"), hub.Text("ab")),
        ),
        (
            [{"text": "h", "thought": True}, {"text": "m", "thought": True, "thoughtSignature": "S"}],
            (hub.Thinking("hm", hub.Signature(None, "S")),),
        ),
        # a signature ends its thinking block
        (
            [{"text": "h", "thought": True, "thoughtSignature": "S"}, {"text": "m", "thought": True}],
            (hub.Thinking("h", hub.Signature(None, "S")), hub.Thinking("m")),
        ),
    ],
)
def test_adjacent_texts_of_a_model_turn_are_merged(parts, blocks):
    for contents in ([{"role": "model", "parts": parts}], [{"role": "model", "parts": [part]} for part in parts]):
        request, _ = read(GEMINI, {"contents": contents})
        assert request.turns == (hub.Turn("assistant", blocks),)


def test_adjacent_texts_of_a_user_turn_stay_separate():
    request, _ = read(GEMINI, {"contents": [{"parts": [{"text": "a"}, {"text": "b"}]}]})
    assert request.turns == (hub.Turn("user", (hub.Text("a"), hub.Text("b"))),)


# -- chat ----------------------------------------------------------------------------------------------------------


def chunk(delta: dict, finish: str | None = None, **more) -> dict:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}


def call_chunk(text: str, **head) -> dict:
    ids = {"id": "a", "type": "function"} if head else {}
    return chunk({"tool_calls": [{"index": 0, **ids, "function": {**head, "arguments": text}}]})


ANNOTATION = {
    "type": "url_citation",
    "url_citation": {"url": "https://x", "title": "X", "start_index": 0, "end_index": 1},
}
LOGPROBS = {"logprobs": {"content": [{"token": "{", "logprob": -0.5, "top_logprobs": []}]}}
# A chunk between the chunks of a call, and the other blocks of the reply then.
BETWEEN = {
    "text": (chunk({"content": "so"}), (hub.Text("so"),)),
    "empty text": (chunk({"content": ""}), ()),
    "thinking": (chunk({"reasoning_content": "hm"}), (hub.Thinking("hm"),)),
    "details": (chunk({"reasoning_details": [{"type": "reasoning.summary", "summary": "s"}]}), (hub.Thinking(""),)),
    "logprobs": (chunk({}, **LOGPROBS), ()),
    "annotations": (chunk({"annotations": [ANNOTATION]}), ()),
    "all": (chunk({"content": "so", "annotations": [ANNOTATION]}, **LOGPROBS), (hub.Text("so"),)),
}


@pytest.mark.parametrize("case", BETWEEN)
@pytest.mark.parametrize("at", [1, 2, 3])
def test_no_other_delta_cuts_the_arguments_of_a_streamed_call(case, at):
    between, other_blocks = BETWEEN[case]
    stream = [call_chunk("", name="f"), call_chunk('{"x": "a}'), call_chunk(' b{", "y": '), call_chunk("1}")]
    stream = [*stream[:at], between, *stream[at:], chunk({}, "tool_calls")]
    losses = Losses()
    received = events(CHAT, stream, losses)
    (answer,) = hub.fold(received).answers
    assert answer.blocks[0] == hub.ToolCall("a", "f", '{"x": "a} b{", "y": 1}')
    assert answer.blocks[1:] == other_blocks
    assert answer.stop == "tools"
    assert set(losses.names()) == {
        "logprobs": {"logprobs"},
        "annotations": {"delta.annotations"},
        "all": {"delta.annotations", "logprobs"},
    }.get(case, set())


def test_a_refusal_has_no_citations():
    losses = Losses()
    stream = [chunk({"refusal": "no", "annotations": [ANNOTATION]}, **LOGPROBS), chunk({}, "stop")]
    (answer,) = hub.fold(events(CHAT, stream, losses)).answers
    assert (answer.blocks, len(answer.logprobs)) == ((hub.Refusal("no"),), 1)
    assert losses.names() == ("delta.annotations",)


@pytest.mark.parametrize("case", BETWEEN)
def test_no_other_delta_cuts_the_arguments_of_interleaved_calls(case):
    between, other_blocks = BETWEEN[case]

    def part(at: int, text: str, **head) -> dict:
        return {"index": at, **({"id": f"c{at}"} if head else {}), "function": {**head, "arguments": text}}

    stream = [
        chunk({"tool_calls": [part(0, "", name="f"), part(1, "", name="g")]}),
        chunk({"tool_calls": [part(1, '{"y"')]}),
        between,
        chunk({"tool_calls": [part(0, '{"x"'), part(1, ":2}")]}),
        chunk({"tool_calls": [part(0, ":1}")]}),
        chunk({}, "tool_calls"),
    ]
    (answer,) = hub.fold(events(CHAT, stream)).answers
    assert answer.blocks[:2] == (hub.ToolCall("c0", "f", '{"x":1}'), hub.ToolCall("c1", "g", '{"y":2}'))
    assert answer.blocks[2:] == other_blocks


def test_a_long_call_in_many_chunks_is_read_in_linear_time():
    chunks = [
        call_chunk("", name="f"),
        call_chunk('{"x": "'),
        *(call_chunk("}" if i % 2 else "a") for i in range(4000)),
        call_chunk('"}'),
    ]
    assert seconds(lambda: events(CHAT, [*chunks, chunk({}, "tool_calls")])) < 1


@pytest.mark.parametrize("name", [CHAT, RESPONSES])
def test_omitting_a_default_value_is_not_a_loss(name):
    known = capabilities(name, "o3")
    thinker = hub.Target(PROVIDER, "o3", refused=known.refused, efforts=known.efforts, traits=known.traits)
    for temperature, expected in ((1, set()), (1.0, set()), (0.5, {"temperature"}), (0, {"temperature"})):
        body, lost = write(name, temperature=temperature, to=thinker)
        assert "temperature" not in body
        assert lost == expected
    body, lost = write(name, top_p=1, frequency_penalty=0, presence_penalty=0, to=thinker)
    assert not {"top_p", "frequency_penalty", "presence_penalty"} & body.keys()
    assert not {"top_p"} & lost


@pytest.mark.parametrize(
    ("media", "text"),
    [
        (hub.Media("file", "text/plain", base64.b64encode("grüße".encode()).decode()), "grüße"),
        (hub.Media("file", "text/markdown", base64.b64encode(b"# a").decode(), name="a.md"), "a.md:\n# a"),
        (hub.Media("file", "application/json", base64.b64encode(b"{}").decode()), "{}"),
        (hub.Media("file", "text/plain", "//79"), None),
        (hub.Media("file", "application/pdf", PDF), None),
    ],
)
def test_a_text_document_is_a_text_for_chat(media, text):
    body, lost = write(CHAT, hub.Turn("user", (HI, media)))
    part = body["messages"][0]["content"][1]
    assert lost == set()
    assert part == {"type": "text", "text": text} if text is not None else part["type"] == "file"


@pytest.mark.parametrize(
    ("blocks", "expected", "lost"),
    [
        ((hub.Thinking("hm"), CALL), "hm", set()),
        ((CALL,), "", {"thinking"}),
        ((HI, CALL), "", {"thinking"}),
        ((FOREIGN_THOUGHT, CALL), "hm", set()),
        ((HI,), None, set()),
    ],
)
def test_deepseek_gets_reasoning_content_with_every_call(blocks, expected, lost):
    kind = channels.load()["deepseek"]
    deepseek = hub.Target(PROVIDER, "deepseek-chat", traits=kind.traits, refused=kind.refused)
    after = RESULT if CALL in blocks else Q
    body, actual = write(CHAT, Q, hub.Turn("assistant", blocks), after, to=deepseek)
    assert body["messages"][1].get("reasoning_content") == expected
    assert actual == lost
    body, _ = write(CHAT, Q, hub.Turn("assistant", blocks), after)
    assert "reasoning_content" not in body["messages"][1]


# -- same-protocol lane --------------------------------------------------------------------------------------------

WRAPPED = wrap(hub.Signature("other/gemini", "S"))


def passed_on(protocol: str, body: dict) -> tuple[bytes, tuple[str, ...]]:
    data = json.dumps(body, indent=1).encode()  # indented, unlike our own JSON
    return passthrough_body(LOADED[protocol], LOADED[protocol].read_head(data), data, "m")


# A client's own request with the prefix of wrapped signatures in its texts.
WITH_PREFIX = {
    CHAT: {
        "model": "m",
        "messages": [
            {"role": "user", "content": f"what is {WRAPPED_PREFIX}?"},
            {"role": "assistant", "content": WRAPPED_PREFIX, "tool_calls": [], "reasoning_details": []},
            {"role": "assistant", "content": "x", "tool_calls": None},
            {"role": "user", "content": [{"type": "text", "text": WRAPPED}]},
        ],
    },
    RESPONSES: {
        "model": "m",
        "input": [
            {"role": "user", "content": WRAPPED},
            {"type": "reasoning", "summary": [], "encrypted_content": "own"},
        ],
    },
    CLAUDE: {
        "model": "m",
        "max_tokens": 9,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": WRAPPED}]},
            {"role": "assistant", "content": []},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": WRAPPED_PREFIX, "signature": "own"}]},
        ],
    },
    GEMINI: {
        "contents": [
            {"role": "user", "parts": [{"text": WRAPPED}]},
            {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"x": WRAPPED_PREFIX}}}]},
            {"role": "user", "parts": []},
        ]
    },
}


@pytest.mark.parametrize("name", LOADED)
def test_a_users_text_with_the_prefix_of_wrapped_signatures_changes_nothing(name):
    body = WITH_PREFIX[name]
    assert passed_on(name, body) == (json.dumps(body, indent=1).encode(), ())


# An item with a signature of another provider, and its remainder.
WITH_SIGNATURE = {
    CHAT: (
        {"role": "assistant", "content": "x", "reasoning_details": [{"type": "reasoning.encrypted", "data": WRAPPED}]},
        {"role": "assistant", "content": "x"},
    ),
    RESPONSES: ({"type": "reasoning", "summary": [], "encrypted_content": WRAPPED}, None),
    CLAUDE: (
        {
            "role": "assistant",
            "content": [{"type": "thinking", "thinking": "t", "signature": WRAPPED}, {"type": "text", "text": "x"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "x"}]},
    ),
    GEMINI: (
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}, "thoughtSignature": WRAPPED}]},
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}, "thoughtSignature": SKIP_VALIDATOR}]},
    ),
}


@pytest.mark.parametrize("name", LOADED)
def test_a_signature_of_another_provider_is_removed_as_a_loss(name):
    (field,) = WITH_PREFIX[name].keys() & {"messages", "input", "contents"}
    item, kept = WITH_SIGNATURE[name]
    sent, losses = passed_on(name, {**WITH_PREFIX[name], field: [*WITH_PREFIX[name][field], item]})
    assert json.loads(sent) == {**WITH_PREFIX[name], field: [*WITH_PREFIX[name][field], *([kept] if kept else [])]}
    assert losses == (LOADED[name].NAMES["signature"],)


# -- wrong types at every path -------------------------------------------------------------------------------------

TOOL = hub.Tool("f", "looks it up", {"type": "object", "properties": {"x": {"type": "integer", "enum": [1]}}}, True)
EVERYTHING = hub.Request(
    turns=(
        hub.Turn(
            "user", (HI, hub.Media("image", "image/png", PNG), hub.Media("file", "application/pdf", PDF, name="a.pdf"))
        ),
        hub.Turn("assistant", (hub.Text("I look."), CALL)),
        hub.Turn(
            "user",
            (hub.ToolResult("a", (hub.Text("42"), hub.Media("image", "image/png", PNG)), name="f"), hub.Text("And?")),
        ),
    ),
    system=("Be brief.",),
    tools=(TOOL,),
    choice=hub.ToolChoice("any", ("f",)),
    parallel=False,
    max_tokens=999,
    temperature=0.5,
    top_p=0.5,
    stop=("END",),
    reasoning=hub.Reasoning("low"),
    tier="priority",
    end_user="u",
    metadata={"user_id": "u"},
)
WRONG_VALUES = [None, True, 7, -1.5, "x", "", [], ["x"], [None], [[]], {}, {"x": 1}, {"type": "text"}, {"type": []}]


def paths(value, path: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner_path for key, item in inner for inner_path in paths(item, (*path, key)))]


def with_value(body, path: tuple, wrong):
    """Returns a copy with another value at the path."""
    if not path:
        return copy.deepcopy(wrong)
    key, *rest = path
    copied = body.copy()
    copied[key] = with_value(body[key], tuple(rest), wrong)
    return copied


def corrupted(body: dict, seed: int, maximum: int):
    """Yields bodies with one wrong value at one path, and some with three: at most `maximum` times 1.25."""
    dice = random.Random(seed)
    replacements = [(path, wrong) for path in paths(body)[1:] for wrong in WRONG_VALUES]
    for path, wrong in replacements if len(replacements) <= maximum else dice.sample(replacements, maximum):
        yield with_value(body, path, wrong)
    for _ in range(maximum // 4):
        other = body
        for _ in range(3):
            if inner := paths(other)[1:]:
                other = with_value(other, dice.choice(inner), dice.choice(WRONG_VALUES))
        yield other


REQUEST_BODIES = {
    name: orjson.loads(orjson.dumps(codec(name).write_request(EVERYTHING, target(name), Losses()))) for name in LOADED
}


@pytest.mark.parametrize("name", LOADED)
def test_wrong_types_anywhere_in_a_request_are_a_bad_request_or_a_request(name):
    answers = {"refused": 0, "read": 0}
    for body in corrupted(REQUEST_BODIES[name], 1, 2000):
        try:
            request = codec(name).read_request(body, Losses(LOADED[name].NAMES))
        except BadRequest as error:
            assert error.message.startswith(f"{error.label}: ")
            answers["refused"] += 1
            continue
        assert isinstance(request, hub.Request)
        answers["read"] += 1
        if answers["read"] % 8 == 0:  # the request can be written in every protocol
            for other in LOADED:
                try:
                    validate.dumps(codec(other).write_request(request, target(other), Losses()))
                except BadRequest as error:
                    assert error.message
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
                "logprobs": LOGPROBS["logprobs"],
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
                        "logprobs": LOGPROBS["logprobs"]["content"],
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
def test_wrong_types_anywhere_in_a_reply_are_an_error_or_a_reply(name):
    for number, body in enumerate(corrupted(REPLIES[name], 2, 2400)):
        try:
            reply = codec(name).read_reply(body, context(), Losses())
        except (BadRequest, ValueError) as error:
            assert str(error)
            continue
        assert isinstance(reply, hub.Reply)
        for other in LOADED if number % 4 == 0 else ():
            orjson.dumps(codec(other).write_reply(reply, context(), Losses()))


def stream_with_everything(name: str) -> list[dict]:
    """Returns the documents of a stream with every kind of event."""
    match name:
        case "openai_chat":
            message = REPLIES[CHAT]["choices"][0]["message"]
            calls = [{"index": at, **call} for at, call in enumerate(message["tool_calls"])]
            delta = {key: value for key, value in message.items() if key != "tool_calls"}
            return [
                chunk(delta, None, **LOGPROBS),
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
        {"type": "response.output_text.delta", **at, "delta": "hi", "logprobs": LOGPROBS["logprobs"]["content"]},
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
def test_wrong_types_anywhere_in_a_stream_never_break_the_reader(name):
    stream = stream_with_everything(name)
    assert isinstance(events(name, stream)[-1], hub.End)
    for number, payloads in enumerate(corrupted(stream, 3, 2000)):
        documents = [payload for payload in payloads if isinstance(payload, dict)]
        received = events(name, [*documents, hub.Failed(502, "upstream_error", "no end")])
        assert isinstance(received[-1], hub.End | hub.Failed)
        open_indexes = {event.index for event in received if isinstance(event, hub.Open)}
        assert all(event.index in open_indexes for event in received if isinstance(event, hub.Delta))
        for other in LOADED if number % 4 == 0 else ():
            b"".join(LOADED[other].write_stream(received, context(), Losses()))
        try:
            hub.fold(received)
        except hub.StreamFailed as error:
            assert isinstance(error.failed, hub.Failed)
