"""What vendors' streams say, whatever they look like; and that what we write is a stream to the vendors' SDKs."""

import json
from dataclasses import replace

import pytest

from gproxy import protocols
from gproxy.protocols import signatures
from gproxy.protocols.hub import (
    Answer,
    Citation,
    Cited,
    Close,
    Delta,
    End,
    Failed,
    Finish,
    Logprob,
    Logprobs,
    Media,
    Open,
    Refusal,
    Reply,
    Signature,
    Signed,
    Start,
    Text,
    Thinking,
    ToolCall,
    Usage,
    Used,
    fold,
    unfold,
)
from gproxy.protocols.losses import Losses
from tests.conversations import PROVIDER, REPLIES, REQUEST_WITH_TOOLS, context
from tests.sampled import documents, names, read, sample
from tests.sdk_readers import ERRORS, READERS, STOPS, SdkReply

LOADED = protocols.load()
EACH = pytest.mark.parametrize("name", LOADED)
CLIENTS = pytest.mark.parametrize("client", LOADED)
USED = Usage(input_tokens=10, output_tokens=20, cache_read_tokens=4)
PARIS = ToolCall("call_1", "get_weather", '{"city":"Paris"}')
CET = ToolCall("call_2", "get_time", '{"zone":"CET"}')


def signed(value: str) -> Signature:
    return Signature(PROVIDER, value)


def said(*blocks, stop="stop", **more) -> Answer:
    return Answer(blocks, stop, **more)


GEMINI_ID = "call_mAITaLmkHPPlz7IPvtfUqQ4_0_"
# What each vendor's stream says; of those that are not here, only that they are read as any other.
SAYS = {
    "openai_chat": {
        "text_and_calls": said(
            Text("Hi there"), ToolCall("call_1", "f", '{"a":1}'), ToolCall("call_2", "g", "{}"), stop="tools"
        ),
        "interleaved_calls": said(PARIS, CET, stop="tools"),
        "calls_at_one_index": said(PARIS, CET, stop="tools"),
        "repeated_ids": said(PARIS, CET, stop="tools"),
        "calls_without_ids": said(replace(PARIS, id="call_req_1_0_0"), replace(CET, id="call_req_1_0_1"), stop="tools"),
        "call_without_arguments": said(ToolCall("call_1", "now", ""), stop="tools"),
        "calls_in_one_chunk": said(PARIS, CET, stop="tools"),
        "call_then_text": said(PARIS, Text("Wait."), stop="tools"),
        "legacy_call": said(replace(PARIS, id="call_req_1_0_0"), stop="tools"),
        "refusal": said(Refusal("I cannot help.")),
        "filtered": said(Text("It is"), stop="filtered"),
        "length": said(Text("It is"), stop="length"),
        "logprobs": said(
            Text("It is"),
            logprobs=(
                Logprob("It", -0.25, (Logprob("It", -0.25),)),
                Logprob(" is", -0.5, (Logprob(" is", -0.5),)),
            ),
        ),
        "citations": said(Text("It is so.", (Citation("https://a.com/", "A", None, 0, 9),))),
        "signed_thinking": said(
            Thinking(
                "hm",
                signed(
                    '[{"type":"reasoning.text","text":"hm","index":0,"format":"anthropic-claude-v1"},'
                    '{"type":"reasoning.text","signature":"U0lH","index":0,"format":"anthropic-claude-v1"}]'
                ),
            ),
            Text("42"),
        ),
        "thinking_twice_told": said(Thinking("hm"), Text("42")),
        "finish_twice": said(Text("42")),
    },
    "openai_responses": {
        "interleaved_calls": said(PARIS, CET, stop="tools"),
        "arguments_only_when_done": said(PARIS, stop="tools"),
        "items_only_when_done": said(Text("I look."), PARIS, stop="tools"),
        "all_only_at_the_end": said(Text("I look."), PARIS, stop="tools"),
        "text_only_when_done": said(Text("I look.")),
        "image": said(Media("image", "image/png", "iVBORw0KGgo="), Text("Here.")),
        "trailing_empty_message": said(PARIS, stop="tools"),
        "custom_call": said(ToolCall("call_1", "shell", "ls -l", is_custom=True), stop="tools"),
        "refusal": said(Refusal("I cannot.")),
        "searched": said(Text("It is so.", (Citation("https://a.com/", "A", None, 0, 9),))),
        "sealed_reasoning": said(Thinking("First.\nThen.", signed("rs_1:gAAAAAB=")), PARIS, stop="tools"),
        "open_reasoning": said(Thinking("hm"), Text("42")),
        "two_messages": said(Text("I look."), Text("It is so.")),
        "filtered": said(Text("It is"), stop="filtered"),
    },
    "anthropic": {
        "thinking_text_and_call": said(
            Thinking("hm", signed("thinking:S")), Text("Hi"), ToolCall("toolu_1", "f", '{"a":1}'), stop="tools"
        ),
        "text_in_the_start": said(Text("It is.")),
        "input_in_the_start": said(ToolCall("toolu_1", "f", '{"a":1}'), ToolCall("toolu_2", "g", ""), stop="tools"),
        "redacted_thinking": said(Thinking("", signed("redacted:EmwK")), Text("42")),
        "searched": said(Text("I look."), Text("It is so.", (Citation("https://a.com/", "A", "so it is"),))),
        "cites_a_document": said(Text("It is so.", (Citation(None, "paper.pdf", "so it is"),))),
        "refusal": said(Text("I"), stop="filtered"),
        "length": said(Text("It is"), stop="length"),
        "stop_sequence": said(Text("It is"), sequence="X"),
        "nothing": said(),
        "odd/unknown_events": said(Text("42")),
    },
    "gemini": {
        "thinking_text_and_call": said(
            Thinking("think"),
            Text("Hi"),
            ToolCall(f"{GEMINI_ID}0", "f", '{"a":1}', signature=signed("U0lH")),
            stop="tools",
        ),
        "odd/stop_in_every_event": said(Text("It is"), ToolCall(f"{GEMINI_ID}0", "f", "{}"), stop="tools"),
        "call_before_the_stop": said(ToolCall(f"{GEMINI_ID}0", "f", '{"a":1}'), stop="tools"),
        "signed_text": said(Text("It is so."), Thinking("", signed("U0lH"))),
        "signed_nothing": said(Text("It is so."), Thinking("", signed("U0lH"))),
        "signed_thought": said(Thinking("hm", signed("U0lH")), Text("42")),
        "signed_first_call": said(
            ToolCall(f"{GEMINI_ID}0", "f", '{"a":1}', signature=signed("U0lH")),
            ToolCall(f"{GEMINI_ID}1", "f", '{"a":2}'),
            stop="tools",
        ),
        "calls_with_ids": said(ToolCall("fn-1", "f", '{"a":1}'), ToolCall("fn-2", "g", "{}"), stop="tools"),
        "grounded": said(Text("It is so.", (Citation("https://a.com/", "A", "It is so.", 0, 9),))),
        "ran_code": said(Text("```python\nprint(42)\n``````\n42\n\n```It is 42.")),
        "image": said(Text("Here."), Media("image", "image/png", "iVBORw0KGgo=")),
        "length": said(Text("It is"), stop="length"),
        "unsafe": said(Text("It is"), stop="filtered"),
        "tool_use_prompt": said(Text("42")),
    },
}
LOST = {
    ("openai_responses", "searched"): {"output.web_search_call"},
    ("anthropic", "searched"): {"content.server_tool_use", "content.web_search_tool_result"},
    ("anthropic", "odd/unknown_events"): {"content.hologram"},
    ("gemini", "ran_code"): {
        "candidates.content.parts.executableCode", "candidates.content.parts.codeExecutionResult",
    },
}  # fmt: skip
TOLD = [(name, stream) for name in SAYS for stream in SAYS[name]]
ALL = [(name, stream.removesuffix(".sse")) for name in LOADED for stream in names(name, ".sse")]
ALL += [(name, stream) for name, stream in TOLD if stream.startswith("odd/")]


def bytes_of(name: str, stream: str) -> bytes:
    return sample(name, f"{stream}.sse")


def payloads(name: str, stream: str) -> list:
    """The documents as relay hands them on: with a fault in the place of an end that never came."""
    found: list = documents(bytes_of(name, stream))
    reader = read(LOADED[name], bytes_of(name, stream)).stream
    if not reader.is_terminal and not reader.has_failed:
        found.append(Failed(502, "upstream_error", "the upstream's stream ended without its end"))
    return found


def events_of(name: str, stream: str, losses: Losses | None = None) -> list:
    return list(LOADED[name].read_stream(payloads(name, stream), context(REQUEST_WITH_TOOLS), losses or Losses()))


def write(client: str, events, **more) -> bytes:
    return b"".join(LOADED[client].write_stream(events, context(REQUEST_WITH_TOOLS, **more), Losses()))


def expected(client: str, reply: Reply) -> SdkReply:
    """What a program must get of it, through any protocol."""
    answer, usage = reply.answers[0], reply.usage
    heard = SdkReply(stop=STOPS[client][answer.stop])
    for block in answer.blocks:
        match block:
            case Text(text):
                heard.text += text
            case Refusal(text) if client in ("openai_chat", "openai_responses"):
                heard.refusal += text
            case Refusal(text):
                heard.text += text
            case Thinking(text):
                heard.thinking += text
            case ToolCall(is_custom=False):
                heard.calls.append(
                    (LOADED[client].client_call_id(block.id), block.name, json.loads(block.arguments or "{}"))
                )
            case ToolCall():
                text = block.arguments if client in ("openai_chat", "openai_responses") else {"input": block.arguments}
                heard.calls.append((block.id, block.name, text))
    if client == "anthropic" and answer.sequence:
        heard.stop = "stop_sequence"
    if client == "gemini" and answer.stop == "filtered" and not (heard.text or heard.calls or heard.thinking):
        heard.stop = "OTHER"
    heard.used = (usage.prompt_tokens, usage.cache_read_tokens, usage.output_tokens)
    return heard


# -- what vendors' streams say -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stream"), TOLD)
def test_what_a_vendors_stream_says(name, stream):
    losses = Losses()
    reply = fold(events_of(name, stream, losses))
    assert reply.answers == (SAYS[name][stream],)
    assert set(losses.names()) == LOST.get((name, stream), set())
    assert reply.id
    assert reply.model


@pytest.mark.parametrize(("name", "stream"), TOLD)
def test_what_it_used_is_told_apart(name, stream):
    usage = fold(events_of(name, stream)).usage
    match name, stream:
        case "anthropic", "cache_split":
            assert usage == Usage(10, 20, 0, 4, 0, 5, 2)
        case "gemini", "thinking_text_and_call":
            assert usage == Usage(input_tokens=14, output_tokens=20, reasoning_tokens=15)
        case _:
            assert usage == USED


def test_a_cache_that_was_written_for_five_minutes_and_an_hour():
    assert fold(events_of("anthropic", "cache_split")).usage == Usage(10, 20, 0, 4, 0, 5, 2)
    nested = fold(events_of("anthropic", "cache_split_in_iterations")).usage
    assert nested.cache_write_5m_tokens or nested.cache_write_1h_tokens


def test_the_tier_of_a_messages_stream_is_told_at_its_start():
    assert fold(events_of("anthropic", "fast")).tier == "priority"


def test_a_first_chunk_that_names_nothing_does_not_name_the_reply():
    start = next(event for event in events_of("openai_chat", "azure") if isinstance(event, Start))
    assert start == Start("chatcmpl-CgX8bQ1hV7sNzEwT2kPq", "gpt-4o-2024-11-20")


def test_a_call_that_the_model_botched_is_an_error_and_not_an_end():
    failed = events_of("gemini", "malformed_call")[-1]
    assert isinstance(failed, Failed)
    assert "MALFORMED_FUNCTION_CALL" in failed.message


def test_usage_on_every_chunk_counts_once():
    events = events_of("openai_chat", "usage_on_every_chunk")
    reader = read(LOADED["openai_chat"], bytes_of("openai_chat", "usage_on_every_chunk")).stream
    assert fold(events).usage == reader.usage


@pytest.mark.parametrize(("name", "stream"), ALL)
def test_a_translated_stream_is_billed_as_it_is_told(name, stream):
    """Usage is counted on the upstream's own events; the client is told the same."""
    reader = read(LOADED[name], bytes_of(name, stream)).stream
    events = events_of(name, stream)
    if isinstance(events[-1], Failed):
        assert reader.has_failed or not reader.is_terminal or stream.startswith(BAD)
        return
    told = [event.usage for event in events if isinstance(event, Used)]
    assert (told[-1] if told else None) == reader.usage


@pytest.mark.parametrize(("name", "stream"), ALL)
def test_events_come_in_a_legal_order(name, stream):
    events = events_of(name, stream)
    check_order(events)
    is_good = stream in SAYS[name] or not stream.startswith(BAD)
    assert isinstance(events[-1], End if is_good else Failed)


BAD = ("malformed_call", "cut", "error", "failed", "done_without", "one_choice", "finish_is_empty")


def check_order(events: list) -> None:
    """As hub.py says, and as every writer relies on: one open block of a choice at a time."""
    opened: dict[int, int] = {}  # open blocks, with their choice
    kinds: dict[int, type] = {}
    choices: set[int] = set()
    finished: set[int] = set()
    assert events
    for at, event in enumerate(events):
        match event:
            case Start():
                assert at == 0
            case Open(index, block, choice):
                assert index == len(kinds), "indexes count from 0"
                assert choice not in opened.values(), "one at a time"
                assert choice not in finished
                assert getattr(block, "text", "") == ""
                assert getattr(block, "arguments", "") == ""
                assert getattr(block, "citations", ()) == ()
                opened[index], kinds[index] = choice, type(block)
                choices.add(choice)
            case Delta(index, text):
                assert index in opened
                assert kinds[index] is not Media
                assert isinstance(text, str)
            case Signed(index):
                assert index in opened
                assert kinds[index] in (Thinking, ToolCall)
            case Cited(index) | Logprobs(index):
                assert index in opened
                assert kinds[index] in (Text, Refusal)
            case Close(index):
                del opened[index]
            case Finish(_, choice):
                assert choice not in opened.values()
                assert choice not in finished, "a choice is over once"
                finished.add(choice)
            case Used():
                assert isinstance(event.usage, Usage)
            case End():
                assert not opened
                assert choices <= finished
                assert at == len(events) - 1
            case Failed():
                assert at == len(events) - 1
            case _:
                raise AssertionError(event)
    assert isinstance(events[-1], End | Failed)


# -- what we write -------------------------------------------------------------------------------------------------


@CLIENTS
@pytest.mark.parametrize(("name", "stream"), ALL)
def test_the_vendors_sdk_hears_what_the_vendor_said(name, stream, client):
    events = events_of(name, stream)
    if isinstance(events[-1], Failed):
        with pytest.raises(ERRORS[client], match=r"\w"):
            READERS[client](write(client, events))
        return
    heard = READERS[client](write(client, events))
    if client == "gemini" and len(fold(events).answers) > 1:
        heard = SdkReply(heard.text, stop=heard.stop, used=heard.used)
        text = "".join(b.text for answer in fold(events).answers for b in answer.blocks)
        assert sorted(heard.text) == sorted(text)
        return
    assert heard == expected(client, fold(events))


@CLIENTS
@pytest.mark.parametrize("case", ["text", "parallel tools"])
def test_the_vendors_sdk_hears_nothing_of_heartbeats(client, case):
    """Wherever between two events they stand."""
    written, beat = write(client, unfold(fold(unfold(REPLIES[case])))), LOADED[client].HEARTBEAT
    beating = beat + b"".join(event + b"\n\n" + beat + beat for event in written.split(b"\n\n") if event)
    assert READERS[client](beating) == READERS[client](written)


BROKEN = ("broken arguments", "arguments that are a list")  # the SDKs refuse them, or keep them as text


@CLIENTS
@pytest.mark.parametrize("case", [case for case in REPLIES if case not in ("two answers", *BROKEN)])
def test_the_vendors_sdk_hears_each_conversation(client, case):
    reply = fold(unfold(REPLIES[case]))
    assert READERS[client](write(client, unfold(reply))) == expected(client, reply)


@CLIENTS
@pytest.mark.parametrize("case", REPLIES)
def test_a_written_stream_keeps_to_its_grammar(client, case):
    GRAMMARS[client](write(client, unfold(REPLIES[case])))


@CLIENTS
@pytest.mark.parametrize(("name", "stream"), ALL)
def test_a_vendors_stream_is_written_by_the_grammar(name, stream, client):
    GRAMMARS[client](write(client, events_of(name, stream)))


def check_chat(stream: bytes) -> None:
    found = documents(stream)
    *chunks, last = found
    failed = "error" in last
    assert stream.endswith(b"data: [DONE]\n\n") is not failed
    heads, finished, calls = set(), {}, {}
    for chunk in chunks if failed else found:
        heads.add((chunk["id"], chunk["created"], chunk["model"], chunk["object"]))
        for choice in chunk["choices"]:
            number, delta = choice["index"], choice["delta"]
            if number not in finished:
                assert delta["role"] == "assistant"
                finished[number] = None
            assert finished[number] is None, "nothing follows a finish"
            for call in delta.get("tool_calls", ()):
                known = calls.setdefault(number, {})
                assert ("id" in call) is (call["index"] not in known)
                assert call["index"] in (len(known) - 1, len(known)), "no interleaving"
                known[call["index"]] = True
            finished[number] = choice["finish_reason"]
        assert ("usage" in chunk) is (chunk["choices"] == [])
    assert len(heads) <= 1
    if not failed:
        assert all(finished.values())
        assert last["choices"] == []


def check_responses(stream: bytes) -> None:
    found = documents(stream)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    kinds = [event["type"] for event in found]
    if kinds[0] != "error":
        assert kinds[:2] == ["response.created", "response.in_progress"]
    assert [line[7:] for line in stream.decode().split("\n") if line.startswith("event: ")] == kinds
    done, item, texts = [], None, {}
    for event in found:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert item is None
            assert event["output_index"] == len(done)
            item = event["item"]
        elif kind == "output_item.done":
            assert (event["item"]["id"], event["item"]["type"]) == (item["id"], item["type"])
            assert event["item"].get("status", "completed") == "completed"
            assert event["output_index"] == len(done)
            done.append(event["item"])
            item = None
        elif "output_index" in event:
            assert event["output_index"] == len(done)
            assert event["item_id"] == item["id"]
            place = (event["output_index"], event.get("content_index"), event.get("summary_index"))
            if kind.endswith(".delta"):
                texts[place] = texts.get(place, "") + event["delta"]
            elif kind.endswith(".done") and "part" not in kind:
                whole = event.get("text", event.get("arguments", event.get("input", event.get("refusal"))))
                assert texts.get(place, "") == whole
    last = found[-1]
    if last["type"] == "error":
        return
    assert item is None
    assert last["response"]["output"] == done
    assert len({one["id"] for one in done}) == len(done)
    assert last["type"] == f"response.{last['response']['status']}"


def check_messages(stream: bytes) -> None:
    found = documents(stream)
    kinds = [event["type"] for event in found]
    assert [line[7:] for line in stream.decode().split("\n") if line.startswith("event: ")] == kinds
    failed = kinds[-1] == "error"
    if not failed:
        assert kinds[-2:] == ["message_delta", "message_stop"]
        assert kinds.count("message_delta") == 1
    assert kinds == ["error"] or kinds[0] == "message_start"
    at, is_open = -1, False
    for event in found:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                at, is_open = at + 1, True
                assert event["index"] == at
            case "content_block_delta":
                assert is_open
                assert event["index"] == at
            case "content_block_stop":
                assert is_open
                assert event["index"] == at
                is_open = False
            case "message_delta":
                assert not is_open
    assert failed or not is_open


def check_gemini(stream: bytes) -> None:
    *chunks, last = documents(stream)
    assert not stream.rstrip().endswith(b"data: [DONE]")
    heads = {(chunk["modelVersion"], chunk["responseId"]) for chunk in chunks}
    assert len(heads) <= 1
    for chunk in chunks:
        assert "usageMetadata" not in chunk
        assert all("finishReason" not in candidate for candidate in chunk["candidates"])
    if "error" not in last:
        assert "usageMetadata" in last
        assert "promptFeedback" in last or all(candidate["finishReason"] for candidate in last["candidates"])


GRAMMARS = {
    "openai_chat": check_chat,
    "openai_responses": check_responses,
    "anthropic": check_messages,
    "gemini": check_gemini,
}


@EACH
def test_usage_is_told_in_a_chat_stream_only_where_it_was_asked_for(name):
    events = events_of(name, "text")
    with_usage, without = (documents(write("openai_chat", events, wants_usage=wants)) for wants in (True, False))
    assert with_usage[-1]["choices"] == []
    assert with_usage[:-1] == without
    assert all("usage" not in chunk for chunk in without)


@EACH
@CLIENTS
def test_an_upstreams_error_in_the_middle_is_told_in_the_clients_words(name, client):
    told = events_of(name, "error")
    assert isinstance(told[-1], Failed)
    assert told[-1].status >= 500
    stream = write(client, told)
    inner = documents(stream)[-1]["error"]
    assert inner["message"] == told[-1].message
    with pytest.raises(ERRORS[client]) as fault:
        READERS[client](stream)
    assert told[-1].message in str(fault.value)


@EACH
@CLIENTS
def test_a_cut_stream_keeps_what_was_said_and_ends_in_an_error(name, client):
    stream = write(client, events_of(name, "cut"))
    pieces = [event.text for event in events_of(name, "cut") if isinstance(event, Delta)]
    told = _texts(documents(stream))
    assert pieces
    assert [text for text in told if text in pieces] == pieces
    assert "error" in documents(stream)[-1]


def _texts(value) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _texts(one)]


# -- the worked examples of the specification ----------------------------------------------------------------------


def deltas(stream: bytes) -> list:
    """The deltas of a chat stream, and what else its chunks say."""
    out = []
    for chunk in documents(stream):
        for choice in chunk["choices"]:
            out.append(choice["delta"] if choice["finish_reason"] is None else choice["finish_reason"])
        if not chunk["choices"]:
            out.append(chunk["usage"])
    return out


def call(number: int, **fields) -> dict:
    return {"tool_calls": [{"index": number, **fields}]}


def test_messages_to_a_chat_client():
    """19.1"""
    events = [e for e in events_of("anthropic", "thinking_text_and_call") if not isinstance(e, Signed)]
    assert deltas(write("openai_chat", events)) == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": "Hi"},
        call(0, id="toolu_1", type="function", function={"name": "f", "arguments": ""}),
        call(0, function={"arguments": '{"a":'}),
        call(0, function={"arguments": "1}"}),
        "tool_calls",
        {
            "prompt_tokens": 14,
            "completion_tokens": 20,
            "total_tokens": 34,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    ]


def test_chat_to_a_messages_client():
    """19.2"""
    found = documents(write("anthropic", events_of("openai_chat", "text_and_calls")))
    message = found[0].pop("message")
    assert message["usage"]["input_tokens"] == message["usage"]["output_tokens"] == 0
    assert (message["role"], message["content"], message["stop_reason"]) == ("assistant", [], None)
    usage = found[-2].pop("usage")
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (10, 4, 20)

    def tool(index: int, call_id: str, name: str) -> dict:
        block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        return {"type": "content_block_start", "index": index, "content_block": block}

    def delta(index: int, kind: str, field: str, text: str) -> dict:
        return {"type": "content_block_delta", "index": index, "delta": {"type": kind, field: text}}

    def stop(index: int) -> dict:
        return {"type": "content_block_stop", "index": index}

    assert found == [
        {"type": "message_start"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        delta(0, "text_delta", "text", "Hi"),
        delta(0, "text_delta", "text", " there"),
        stop(0),
        tool(1, "call_1", "f"),
        delta(1, "input_json_delta", "partial_json", '{"a":1}'),
        stop(1),
        tool(2, "call_2", "g"),
        delta(2, "input_json_delta", "partial_json", "{}"),
        stop(2),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}},
        {"type": "message_stop"},
    ]


def test_chat_to_a_gemini_client():
    """19.3"""
    *chunks, last = documents(write("gemini", events_of("openai_chat", "text_and_calls")))
    parts = [chunk["candidates"][0]["content"]["parts"] for chunk in chunks]
    for signed_part in parts[2], parts[3]:
        del signed_part[0]["thoughtSignature"]  # that there is none, for clients which insist on one
    assert parts == [
        [{"text": "Hi"}],
        [{"text": " there"}],
        [{"functionCall": {"id": "call_1", "name": "f", "args": {"a": 1}}}],
        [{"functionCall": {"id": "call_2", "name": "g", "args": {}}}],
    ]
    assert last["candidates"][0]["finishReason"] == "STOP"
    assert last["usageMetadata"] == {
        "promptTokenCount": 14,
        "candidatesTokenCount": 20,
        "totalTokenCount": 34,
        "cachedContentTokenCount": 4,
    }


def test_gemini_to_a_chat_client():
    """19.4"""
    found = deltas(write("openai_chat", events_of("gemini", "thinking_text_and_call")))
    told = "".join(_texts(found))
    assert "U0lH" not in told, "it travels in an envelope"
    opening = found[3]["tool_calls"][0]
    call_id = opening["id"]
    assert opening.pop("extra_content")["google"]["thought_signature"].startswith(signatures.WRAPPED_PREFIX)
    assert found == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "think"},
        {"content": "Hi"},
        call(0, id=call_id, type="function", function={"name": "f", "arguments": ""}),
        call(0, function={"arguments": '{"a":1}'}),
        "tool_calls",
        {
            "prompt_tokens": 14,
            "completion_tokens": 20,
            "total_tokens": 34,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 15},
        },
    ]


def test_ids_that_we_make_differ_between_replies():
    made = set()
    for number in range(3):
        found = documents(bytes_of("gemini", "call_before_the_stop"))
        for document in found:
            document["responseId"] = f"reply{number}"
        reply = fold(LOADED["gemini"].read_stream(found, context(), Losses()))
        made |= {block.id for block in reply.answers[0].blocks}
    assert len(made) == 3


def test_responses_to_a_chat_client():
    """19.5"""
    found = deltas(write("openai_chat", events_of("openai_responses", "interleaved_calls")))
    ids = [
        call["id"] for delta in found if isinstance(delta, dict) for call in delta.get("tool_calls", ()) if "id" in call
    ]
    assert ids == ["call_1", "call_2"]
    assert found[-2] == "tool_calls"
    text = deltas(write("openai_chat", events_of("openai_responses", "text")))
    assert "".join(delta.get("content", "") for delta in text[:-2]) == (
        'Grüße from 東京 with "model":"gpt-5.1-2025-11-13".'
    )


@CLIENTS
@pytest.mark.parametrize(
    "stream", ["tool_call", "parallel_tools", "trailing_empty_message", "arguments_only_when_done"]
)
def test_what_was_streamed_is_not_told_again_when_it_is_done(client, stream):
    """And `completed` does not turn a stop for calls into another one."""
    heard = READERS[client](write(client, events_of("openai_responses", stream)))
    assert len(heard.calls) == (2 if stream == "parallel_tools" else 1)
    assert heard.stop == STOPS[client]["tools"]
