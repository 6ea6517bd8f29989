"""Generated requests, replies and event orders, streams cut anywhere, and garbage, over every pair of protocols."""

import copy
import itertools
import json
import random
import string
from dataclasses import replace

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gproxy import protocols
from gproxy.errors import BadRequest
from gproxy.protocols import hub, sse, validate
from gproxy.protocols.losses import Losses
from tests.conversations import (
    CLIENT_MODEL,
    PDF,
    PNG,
    PROVIDER,
    REPLIES,
    REQUEST_WITH_TOOLS,
    REQUESTS,
    SCHEMA,
    SHELL,
    F,
    G,
    context,
    target,
)
from tests.examples import examples
from tests.expected_losses import apply, comparable, replies, requests
from tests.protocols.test_streams import ALL, GRAMMARS, bytes_of, check_order
from tests.sampled import documents

LOADED = protocols.load()
EACH = pytest.mark.parametrize("name", LOADED)
PAIRS = pytest.mark.parametrize(("one", "other"), list(itertools.product(LOADED, LOADED)))
RULES, WHOLE, STREAMED = requests(LOADED), replies(False), replies(True)


def up_to(maximum: int):
    return settings(
        max_examples=examples(maximum),
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


# -- generated requests and replies --------------------------------------------------------------------------------

CHARACTERS = st.sampled_from('aZ0 .,"\\/\n\t\r\x00\x1f\x7fü東🗼\u2028\u2029\u200d\ufeff{}[]:<>&%')
TEXTS = st.text(CHARACTERS, max_size=12)
NOT_BLANK = TEXTS.filter(str.strip)
WORDS = st.text(string.ascii_lowercase, min_size=1, max_size=8)
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6, allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(TEXTS, JSON, max_size=3).map(lambda document: orjson.dumps(document).decode())
TOOLS = {"f": F, "g": G, "shell": SHELL, "search": hub.WebSearch()}
MEDIA = st.sampled_from(
    [
        hub.Media("image", "image/png", PNG),
        hub.Media("image", "image/png", PNG, detail="low"),
        hub.Media("image", None, url="https://example.com/a.png"),
        hub.Media("file", "application/pdf", PDF, name="a.pdf"),
        hub.Media("audio", "audio/wav", PNG),
        hub.Media("video", "video/mp4", PNG),
    ]
)


@st.composite
def conversations(draw) -> hub.Request:
    turns: list[hub.Turn] = []
    calls: list[hub.ToolCall] = []
    count = 0
    for number in range(draw(st.integers(1, 6))):
        if number % 2 == 0:
            results_of_calls = [
                hub.ToolResult(call.id, draw(results()), draw(st.booleans()), call.is_custom) for call in calls
            ]
            content = tuple(
                draw(st.lists(NOT_BLANK.map(hub.Text) | MEDIA, min_size=0 if results_of_calls else 1, max_size=3))
            )
            turns.append(hub.Turn("user", (*results_of_calls, *content)))
            calls = []
        else:
            calls = [draw(tool_call(f"toolu_{count + i}")) for i in range(draw(st.integers(0, 2)))]
            count += len(calls)
            content = tuple(map(hub.Text, draw(st.lists(NOT_BLANK, min_size=0 if calls else 1, max_size=2))))
            turns.append(hub.Turn("assistant", (*content, *calls)))
    if calls:  # every call has its result in the next turn
        turns.append(
            hub.Turn("user", tuple(hub.ToolResult(call.id, (hub.Text("x"),), False, call.is_custom) for call in calls))
        )
    if turns[-1].role == "assistant":
        turns.append(hub.Turn("user", (hub.Text("x"),)))
    return replace(draw(other_fields()), turns=tuple(turns))


def results():
    blocks = st.lists(st.text("ab 東🗼", min_size=1, max_size=5).filter(str.strip).map(hub.Text), max_size=2)
    return st.tuples(blocks, st.lists(MEDIA.filter(lambda m: m.kind == "image" and m.data), max_size=1)).map(
        lambda parts: (*parts[0], *parts[1])
    )


def tool_call(call_id: str):
    custom = NOT_BLANK.map(lambda text: hub.ToolCall(call_id, "shell", text, is_custom=True))
    return ARGUMENTS.map(lambda arguments: hub.ToolCall(call_id, "f", arguments)) | custom


def other_fields():
    """Requests with all fields but the turns."""
    unit = st.sampled_from([0, 0.25, 0.5, 1, 1.5, 2])
    return st.builds(
        hub.Request,
        system=st.lists(NOT_BLANK, max_size=2).map(tuple),
        tools=st.sets(st.sampled_from(list(TOOLS))).map(
            lambda names: tuple(tool for name, tool in TOOLS.items() if name in names)
        ),
        choice=st.none()
        | st.sampled_from(
            [hub.ToolChoice("auto"), hub.ToolChoice("any"), hub.ToolChoice("none"), hub.ToolChoice("any", ("f",))]
        ),
        parallel=st.none() | st.booleans(),
        max_tokens=st.none() | st.integers(1, 4096),
        temperature=st.none() | unit,
        top_p=st.none() | st.sampled_from([0, 0.5, 0.96, 1]),
        top_k=st.none() | st.integers(1, 40),
        stop=st.lists(TEXTS.filter(bool), max_size=6).map(tuple),
        seed=st.none() | st.integers(-5, 5),
        frequency_penalty=st.none() | st.sampled_from([-1, 0, 0.5]),
        presence_penalty=st.none() | st.sampled_from([-1, 0, 0.5]),
        n=st.none() | st.integers(1, 3),
        logprobs=st.none() | st.integers(0, 5),
        format=st.none() | st.sampled_from([hub.Format(), hub.Format(SCHEMA), hub.Format(SCHEMA, "out", "what", True)]),
        reasoning=st.none()
        | st.builds(
            hub.Reasoning,
            st.none() | st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"]),
            st.none(),
            st.none() | st.booleans(),
        ),
        verbosity=st.none() | st.sampled_from(["low", "high"]),
        tier=st.none() | st.sampled_from(["auto", "default", "flex", "priority", "scale"]),
        end_user=st.none() | WORDS,
        metadata=st.dictionaries(WORDS, WORDS, max_size=2),
        store=st.none() | st.booleans(),
        cache_key=st.none() | WORDS,
    )


def codec(name: str):
    return LOADED[name].CODECS["generate_content"]


def round_trip(name: str, request: hub.Request, losses: Losses) -> hub.Request:
    """Returns the request as it is read back from its body."""
    body = orjson.loads(validate.dumps(codec(name).write_request(request, target(name), losses)))
    return codec(name).read_request(body, Losses())


@EACH
@up_to(60)
@given(request=conversations())
def test_any_request_is_read_back_as_it_was_written(name, request):
    expected, lost = apply(RULES[name], request)
    losses = Losses()
    assert round_trip(name, request, losses) == expected
    assert set(losses.names()) == lost


@PAIRS
@up_to(25)
@given(request=conversations())
def test_any_request_is_translated_between_two_protocols(one, other, request):
    changed, _ = apply(RULES[one], request)
    expected, lost = apply(RULES[other], changed)
    losses = Losses()
    assert round_trip(other, round_trip(one, request, Losses()), losses) == expected
    assert set(losses.names()) == lost


TOKENS = st.integers(0, 10**6)
USAGES = st.builds(lambda i, o, r, c, w: hub.Usage(i, max(o, r), r, c, w), TOKENS, TOKENS, TOKENS, TOKENS, TOKENS)
LOGPROB = st.builds(hub.Logprob, NOT_BLANK, st.sampled_from([-0.5, -1.25]))


@st.composite
def answers(draw) -> hub.Answer:
    blocks: list = []
    has_image = draw(st.booleans())
    calls = [draw(tool_call(f"toolu_{i}")) for i in range(draw(st.integers(0, 3)))]
    if draw(st.booleans()):
        signature = st.none() | st.text("ab+/=", min_size=1, max_size=6).map(lambda v: hub.Signature("origin", v))
        blocks.append(hub.Thinking(draw(TEXTS.filter(bool)), draw(signature)))
    if draw(st.booleans()):
        text = draw(NOT_BLANK)
        citations = st.builds(hub.Citation, st.just("https://a.com/"), WORDS, st.none(), st.just(0), st.just(len(text)))
        # Gemini sends sources at the end of the reply, where those of an earlier text are lost.
        blocks.append(hub.Text(text, () if calls or has_image else tuple(draw(st.lists(citations, max_size=2)))))
    if has_image:
        blocks.append(hub.Media("image", "image/png", PNG))
    stop = "tools" if calls else draw(st.sampled_from(["stop", "length", "filtered"]))
    has_text = any(isinstance(block, hub.Text) for block in blocks)
    logprobs = tuple(draw(st.lists(LOGPROB, max_size=2))) if has_text else ()
    return hub.Answer((*blocks, *calls), stop, None, logprobs)


REPLY = st.builds(
    hub.Reply,
    st.just("resp_1"),
    st.just(CLIENT_MODEL),
    st.lists(answers(), min_size=1, max_size=2).map(tuple),
    USAGES,
    st.none() | st.sampled_from(["default", "priority"]),
)


@PAIRS
@up_to(15)
@given(reply=REPLY)
def test_any_reply_is_translated_between_two_protocols_whole_and_streamed(one, other, reply):
    changed, _ = apply(WHOLE[one], reply)
    expected, lost = apply(WHOLE[other], comparable(changed))
    losses = Losses()
    written = orjson.loads(orjson.dumps(codec(one).write_reply(reply, context(REQUEST_WITH_TOOLS), Losses())))
    read_reply = codec(one).read_reply(written, context(REQUEST_WITH_TOOLS), Losses())
    body = orjson.loads(orjson.dumps(codec(other).write_reply(read_reply, context(REQUEST_WITH_TOOLS), losses)))
    assert comparable(codec(other).read_reply(body, context(REQUEST_WITH_TOOLS), Losses())) == comparable(expected)
    assert set(losses.names()) == lost
    changed, _ = apply(STREAMED[one], reply)
    expected, lost = apply(STREAMED[other], comparable(changed))
    losses = Losses()
    streamed = read(one, documents(write(one, hub.unfold(reply))))
    assert comparable(hub.fold(read(other, documents(write(other, streamed, losses))))) == comparable(expected)
    assert set(losses.names()) == lost


def read(name: str, payloads: list, losses: Losses | None = None) -> list:
    return list(LOADED[name].read_stream(payloads, context(REQUEST_WITH_TOOLS), losses or Losses()))


def write(name: str, events, losses: Losses | None = None) -> bytes:
    return b"".join(LOADED[name].write_stream(events, context(REQUEST_WITH_TOOLS), losses or Losses()))


@st.composite
def event_sequences(draw) -> list:
    """Legal orders of events: deltas cut anywhere, interleaved choices, with an end or a failure."""
    events: list = [hub.Start("resp_1", "m")] if draw(st.booleans()) else [hub.Start("", "")]
    indexes = itertools.count()
    choices = [draw(choice_events(choice, indexes)) for choice in range(draw(st.integers(1, 2)))]
    if len(choices) == 2:
        order = draw(st.permutations([0] * len(choices[0]) + [1] * len(choices[1])))
        merged = [choices[which].pop(0) for which in order]
        events += _renumbered(merged)
    else:
        events += _renumbered(choices[0])
    events += draw(
        st.sampled_from(
            [[], [hub.Used(hub.Usage(1, 2))], [hub.Used(hub.Usage(1, 2)), hub.Used(hub.Usage(1, 3), "priority")]]
        )
    )
    events.append(draw(st.sampled_from([hub.End(), hub.Failed(502, "upstream_error", "cut")])))
    waits = draw(st.sets(st.integers(0, len(events)), max_size=3))
    return [item for at, event in enumerate(events) for item in ((None, event) if at in waits else (event,))]


@st.composite
def choice_events(draw, choice: int, indexes) -> list:
    events: list = []
    for number in range(draw(st.integers(0, 4))):
        index = next(indexes)
        block = draw(
            st.sampled_from(
                [
                    hub.Text(""), hub.Refusal(""), hub.Thinking(""), hub.Media("image", "image/png", PNG),
                    hub.ToolCall(f"t{choice}{number}", "f"),
                    hub.ToolCall(f"t{choice}{number}", "shell", is_custom=True),
                    hub.ToolCall(f"t{choice}{number}", "f", signature=hub.Signature(PROVIDER, "U0lH")),
                ]
            )
        )  # fmt: skip
        events.append(hub.Open(index, block, choice))
        parts = [] if isinstance(block, hub.Media) else draw(st.lists(TEXTS, max_size=3))
        if isinstance(block, hub.ToolCall) and not block.is_custom:
            arguments = draw(ARGUMENTS)
            at = draw(st.integers(0, len(arguments)))
            parts = draw(st.sampled_from([[], [arguments], [arguments[:at], arguments[at:]]]))
        events += [hub.Delta(index, part) for part in parts]
        events.append(hub.Close(index))
    events.append(hub.Finish(draw(st.sampled_from(["stop", "length", "filtered"])), choice))
    return events


def _renumbered(events: list) -> list:
    """Numbers the blocks from 0 in the order in which they open."""
    numbers: dict[int, int] = {}
    out = []
    for event in events:
        if isinstance(event, hub.Open):
            numbers[event.index] = len(numbers)
        out.append(event if isinstance(event, hub.Finish) else replace(event, index=numbers[event.index]))
    return out


@EACH
@up_to(120)
@given(events=event_sequences())
def test_any_legal_order_of_events_is_written_by_the_grammar_and_read_back(name, events):
    check_order([event for event in events if event is not None])
    stream = write(name, events)
    GRAMMARS[name](stream)
    read_back = read(name, documents(stream))
    check_order(read_back)
    assert isinstance(read_back[-1], type(events[-1]))
    assert stream == write(name, [event for event in events if event is not None])


# -- streams cut anywhere ------------------------------------------------------------------------------------------


def documents_in_parts(stream: bytes, cuts: list[int]) -> list:
    """Returns the documents of a stream that arrives in parts, with None after each part."""
    splitter, out = sse.Splitter(), []
    for start, end in itertools.pairwise([0, *cuts, len(stream)]):
        events = splitter.feed(stream[start:end]) if end > start else []
        out += [_document(event) for event in events]
        out.append(None)
    remainder = splitter.remainder().strip()
    out += [_document(remainder + b"\n\n")] if remainder else []
    return out


def _document(event: bytes) -> dict | None:
    data = sse.data_of(event)
    return orjson.loads(data) if data and not data.startswith(b"[DONE]") else None


@pytest.mark.parametrize(("name", "stream"), ALL)
@up_to(6)
@given(data=st.data())
def test_a_stream_may_be_cut_at_any_byte(name, stream, data):
    whole = bytes_of(name, stream)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(whole) - 1), max_size=12)))
    client = data.draw(st.sampled_from(list(LOADED)))
    failed = hub.Failed(502, "upstream_error", "no end")
    assert write(client, read(name, [*documents_in_parts(whole, cuts), failed])) == write(
        client, read(name, [*documents_in_parts(whole, []), failed])
    )


@EACH
@pytest.mark.parametrize("stream", ["text", "tool_call", "thinking", "crlf", "keepalive"])
def test_a_stream_may_come_byte_by_byte(name, stream):
    whole = bytes_of(name, stream)
    assert any(byte > 127 for byte in whole) or stream != "text", "the stream must have multi-byte characters"
    parts = documents_in_parts(whole, list(range(1, len(whole))))
    for client in LOADED:
        assert write(client, read(name, parts)) == write(client, read(name, documents_in_parts(whole, [])))


# -- garbage -------------------------------------------------------------------------------------------------------

DEEP = '{"a":' * 200 + "1" + "}" * 200
WRONG_VALUES = [
    None, True, False, 0, -1, 2**64 - 1, -(2**63), 1.5, 1e300, 2.0**70, "", "x", "\u2028🗼", "data:,x",
    "data:image/png;base64,é",
    [], [None], [[]], [{}], ["x"], [1], {}, {"a": 1}, {"type": "x"}, {"type": None}, {"type": 7}, {"": {}},
    {"type": "text", "text": 7}, json.loads(DEEP), {"$ref": "#"}, [[[[[[]]]]]], [{"type": {}}], {"type": []},
]  # fmt: skip
SEED = given(seed=st.integers(0, 2**32 - 1))


def _wrong_value(dice: random.Random):
    return copy.deepcopy(dice.choice(WRONG_VALUES))


def _paths(value, path: tuple = ()) -> list[tuple]:
    """Returns the path of every value in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner_path for key, item in inner for inner_path in _paths(item, (*path, key)))]


def garbage(dice: random.Random) -> dict:
    return {dice.choice(KEYS): _wrong_value(dice) for _ in range(dice.randrange(6))}


def corrupted(dice: random.Random, bodies: list[dict]) -> dict:
    """Returns a body with wrong values at some paths, or one of wrong values only."""
    if dice.random() < 0.1:
        return garbage(dice)
    body = copy.deepcopy(dice.choice(bodies))
    for _ in range(dice.randint(1, 3)):
        paths = [path for path in _paths(body) if path]
        if not paths:
            break
        *outer, last = dice.choice(paths)
        inner = body
        for key in outer:
            inner = inner[key]
        match dice.randrange(10):
            case 0 if isinstance(inner, dict):
                del inner[last]
            case 1:
                inner[last] = [inner[last]]
            case 2:
                inner[last] = {"type": "text", "x": inner[last]}
            case 3 if isinstance(inner, dict):
                inner[dice.choice(KEYS)] = _wrong_value(dice)
            case 4 if isinstance(inner, list):
                inner.append(copy.deepcopy(inner[last]))
            case _:
                inner[last] = _wrong_value(dice)
    return body


REQUEST_BODIES = {
    name: [
        orjson.loads(orjson.dumps(codec(name).write_request(request, target(name, is_stream=True), Losses())))
        for case, request in REQUESTS.items()
        if case != "long"
    ]
    for name in LOADED
}
REPLY_BODIES = {
    name: [
        orjson.loads(orjson.dumps(codec(name).write_reply(reply, context(REQUEST_WITH_TOOLS), Losses())))
        for case, reply in REPLIES.items()
        if case != "long"
    ]
    for name in LOADED
}
STREAMS = {name: [documents(bytes_of(name, stream)) for owner, stream in ALL if owner == name] for name in LOADED}
KEYS = sorted(
    {
        path[-1]
        for bodies in (REQUEST_BODIES, REPLY_BODIES)
        for bodies_of_protocol in bodies.values()
        for body in bodies_of_protocol
        for path in _paths(body)
        if path and isinstance(path[-1], str)
    }
)


@EACH
@up_to(1200)
@SEED
def test_a_garbage_request_is_a_bad_request_or_a_request(name, seed):
    body = corrupted(random.Random(seed), REQUEST_BODIES[name])
    before = copy.deepcopy(body)
    for operation, codec_ in LOADED[name].CODECS.items():
        try:
            request = codec_.read_request(body, Losses(LOADED[name].NAMES))
        except BadRequest as error:
            assert error.message
            continue
        if operation != "generate_content":
            continue
        assert isinstance(request, hub.Request)
        for other in LOADED:
            try:
                validate.dumps(codec(other).write_request(request, target(other), Losses(LOADED[name].NAMES)))
            except BadRequest as error:
                assert error.message
    assert body == before


@EACH
@up_to(600)
@SEED
def test_a_garbage_reply_is_an_error_or_a_reply(name, seed):
    body = corrupted(random.Random(seed), REPLY_BODIES[name])
    before = copy.deepcopy(body)
    try:
        reply = codec(name).read_reply(body, context(REQUEST_WITH_TOOLS), Losses())
    except (BadRequest, ValueError):
        return
    assert isinstance(reply, hub.Reply)
    assert body == before
    for other in LOADED:
        try:
            orjson.dumps(codec(other).write_reply(reply, context(REQUEST_WITH_TOOLS), Losses()))
        except (BadRequest, ValueError) as error:
            assert str(error)


@EACH
@up_to(600)
@SEED
def test_garbage_in_a_stream_never_breaks_the_reader(name, seed):
    dice = random.Random(seed)
    stream = dice.choice(STREAMS[name])
    at = dice.randrange(len(stream))
    payloads = {
        "instead": [*stream[:at], corrupted(dice, [stream[at]]), *stream[at + 1 :]],
        "before": [*stream[:at], corrupted(dice, [stream[at]]), *stream[at:]],
        "removed": [*stream[:at], *stream[at + 1 :]],
        "twice": [*stream[: at + 1], *stream[at:]],
        "late": [*stream[:at], *stream[at + 1 :], stream[at]],
    }
    events = read(name, [*payloads[dice.choice(list(payloads))], hub.Failed(502, "upstream_error", "no end")])
    check_order(events)
    for client in LOADED:
        GRAMMARS[client](write(client, events))


@EACH
@up_to(300)
@SEED
def test_a_stream_of_garbage_only_is_read_to_its_end(name, seed):
    dice = random.Random(seed)
    payloads = [garbage(dice) for _ in range(dice.randint(1, 4))]
    events = read(name, [*payloads, hub.Failed(502, "upstream_error", "no end")])
    assert isinstance(events[-1], hub.End | hub.Failed)
    for client in LOADED:
        write(client, events)


# -- known client bodies -------------------------------------------------------------------------------------------


def nested(depth: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


CYCLE = {
    "type": "object",
    "properties": {"next": {"$ref": "#/$defs/node"}},
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
}


@PAIRS
@pytest.mark.parametrize(
    "schema",
    [nested(200), nested(60), CYCLE, {"$ref": "#"}, {"allOf": [{"$ref": "#"}]}, {"maximum": 2**70}],
    ids=lambda schema: str(schema)[:30],
)
def test_a_schema_of_any_depth_and_with_cycles_is_written_or_a_bad_request(one, other, schema):
    request = replace(REQUESTS["tools"], tools=(replace(F, schema=schema),))
    try:
        body = orjson.loads(validate.dumps(codec(one).write_request(request, target(one), Losses())))
        read_back = codec(one).read_request(body, Losses())
        validate.dumps(codec(other).write_request(read_back, target(other), Losses()))
    except BadRequest as error:
        assert error.message


@PAIRS
@pytest.mark.parametrize(
    "arguments", [DEEP, '{"a":' + "9" * 40 + "}", "[" * 900 + "]" * 900, "not json", '"x"', "1e999"]
)
def test_arguments_of_any_depth_and_size_are_written_or_a_bad_request(one, other, arguments):
    """Arguments are a text in chat and Responses, and an object in the other protocols."""
    turns = (
        hub.Turn("user", (hub.Text("q"),)),
        hub.Turn("assistant", (hub.ToolCall("toolu_1", "f", arguments),)),
        hub.Turn("user", (hub.ToolResult("toolu_1", (hub.Text(arguments),)),)),
    )
    try:
        body = orjson.loads(
            validate.dumps(codec(one).write_request(hub.Request(turns, max_tokens=9), target(one), Losses()))
        )
        validate.dumps(codec(other).write_request(codec(one).read_request(body, Losses()), target(other), Losses()))
    except BadRequest as error:
        assert error.message
