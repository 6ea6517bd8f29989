"""Sample streams of the vendors are read as the expected answers, and the vendors' SDKs read every written stream."""

import json
from dataclasses import replace

import pytest

from gproxy import protocols
from gproxy.protocols import hub, signatures
from gproxy.protocols.losses import Losses
from tests.conversations import PROVIDER, REPLIES, REQUEST_WITH_TOOLS, context
from tests.sampled import documents, names, read, sample
from tests.sdk_readers import ERRORS, READERS, STOPS, SdkReply

LOADED = protocols.load()
EACH = pytest.mark.parametrize("name", LOADED)
CLIENTS = pytest.mark.parametrize("client", LOADED)
USED = hub.Usage(input_tokens=10, output_tokens=20, cache_read_tokens=4)
PARIS = hub.ToolCall("call_1", "get_weather", '{"city":"Paris"}')
CET = hub.ToolCall("call_2", "get_time", '{"zone":"CET"}')


def signature(value: str) -> hub.Signature:
    return hub.Signature(PROVIDER, value)


def answer(*blocks, stop="stop", **more) -> hub.Answer:
    return hub.Answer(blocks, stop, **more)


GEMINI_ID = "call_mAITaLmkHPPlz7IPvtfUqQ4_0_"
# The answer of each sample stream. Samples that are missing here are only checked for order and grammar.
ANSWERS = {
    "openai_chat": {
        "text_and_calls": answer(
            hub.Text("Hi there"),
            hub.ToolCall("call_1", "f", '{"a":1}'),
            hub.ToolCall("call_2", "g", "{}"),
            stop="tools",
        ),
        "interleaved_calls": answer(PARIS, CET, stop="tools"),
        "calls_at_one_index": answer(PARIS, CET, stop="tools"),
        "repeated_ids": answer(PARIS, CET, stop="tools"),
        "calls_without_ids": answer(
            replace(PARIS, id="call_req_1_0_0"), replace(CET, id="call_req_1_0_1"), stop="tools"
        ),
        "call_without_arguments": answer(hub.ToolCall("call_1", "now", ""), stop="tools"),
        "calls_in_one_chunk": answer(PARIS, CET, stop="tools"),
        "call_then_text": answer(PARIS, hub.Text("Wait."), stop="tools"),
        "legacy_call": answer(replace(PARIS, id="call_req_1_0_0"), stop="tools"),
        "refusal": answer(hub.Refusal("I cannot help.")),
        "filtered": answer(hub.Text("It is"), stop="filtered"),
        "length": answer(hub.Text("It is"), stop="length"),
        "logprobs": answer(
            hub.Text("It is"),
            logprobs=(
                hub.Logprob("It", -0.25, (hub.Logprob("It", -0.25),)),
                hub.Logprob(" is", -0.5, (hub.Logprob(" is", -0.5),)),
            ),
        ),
        "citations": answer(hub.Text("It is so.", (hub.Citation("https://a.com/", "A", None, 0, 9),))),
        "signed_thinking": answer(
            hub.Thinking(
                "hm",
                signature(
                    '[{"type":"reasoning.text","text":"hm","index":0,"format":"anthropic-claude-v1"},'
                    '{"type":"reasoning.text","signature":"U0lH","index":0,"format":"anthropic-claude-v1"}]'
                ),
            ),
            hub.Text("42"),
        ),
        "thinking_in_two_fields": answer(hub.Thinking("hm"), hub.Text("42")),
        "finish_twice": answer(hub.Text("42")),
    },
    "openai_responses": {
        "interleaved_calls": answer(PARIS, CET, stop="tools"),
        "arguments_only_when_done": answer(PARIS, stop="tools"),
        "items_only_when_done": answer(hub.Text("I look."), PARIS, stop="tools"),
        "all_only_at_the_end": answer(hub.Text("I look."), PARIS, stop="tools"),
        "text_only_when_done": answer(hub.Text("I look.")),
        "image": answer(hub.Media("image", "image/png", "iVBORw0KGgo="), hub.Text("Here.")),
        "trailing_empty_message": answer(PARIS, stop="tools"),
        "custom_call": answer(hub.ToolCall("call_1", "shell", "ls -l", is_custom=True), stop="tools"),
        "refusal": answer(hub.Refusal("I cannot.")),
        "searched": answer(hub.Text("It is so.", (hub.Citation("https://a.com/", "A", None, 0, 9),))),
        "encrypted_reasoning": answer(hub.Thinking("First.\nThen.", signature("rs_1:gAAAAAB=")), PARIS, stop="tools"),
        "open_reasoning": answer(hub.Thinking("hm"), hub.Text("42")),
        "two_messages": answer(hub.Text("I look."), hub.Text("It is so.")),
        "filtered": answer(hub.Text("It is"), stop="filtered"),
    },
    "anthropic": {
        "thinking_text_and_call": answer(
            hub.Thinking("hm", signature("thinking:S")),
            hub.Text("Hi"),
            hub.ToolCall("toolu_1", "f", '{"a":1}'),
            stop="tools",
        ),
        "text_in_the_start": answer(hub.Text("It is.")),
        "input_in_the_start": answer(
            hub.ToolCall("toolu_1", "f", '{"a":1}'), hub.ToolCall("toolu_2", "g", ""), stop="tools"
        ),
        "redacted_thinking": answer(hub.Thinking("", signature("redacted:EmwK")), hub.Text("42")),
        "searched": answer(
            hub.Text("I look."), hub.Text("It is so.", (hub.Citation("https://a.com/", "A", "so it is"),))
        ),
        "cites_a_document": answer(hub.Text("It is so.", (hub.Citation(None, "paper.pdf", "so it is"),))),
        "refusal": answer(hub.Text("I"), stop="filtered"),
        "length": answer(hub.Text("It is"), stop="length"),
        "stop_sequence": answer(hub.Text("It is"), sequence="X"),
        "nothing": answer(),
        "odd/unknown_events": answer(hub.Text("42")),
    },
    "gemini": {
        "thinking_text_and_call": answer(
            hub.Thinking("think"),
            hub.Text("Hi"),
            hub.ToolCall(f"{GEMINI_ID}0", "f", '{"a":1}', signature=signature("U0lH")),
            stop="tools",
        ),
        "odd/stop_in_every_event": answer(hub.Text("It is"), hub.ToolCall(f"{GEMINI_ID}0", "f", "{}"), stop="tools"),
        "call_before_the_stop": answer(hub.ToolCall(f"{GEMINI_ID}0", "f", '{"a":1}'), stop="tools"),
        "signed_text": answer(hub.Text("It is so."), hub.Thinking("", signature("U0lH"))),
        "signed_empty_text": answer(hub.Text("It is so."), hub.Thinking("", signature("U0lH"))),
        "signed_thought": answer(hub.Thinking("hm", signature("U0lH")), hub.Text("42")),
        "signed_first_call": answer(
            hub.ToolCall(f"{GEMINI_ID}0", "f", '{"a":1}', signature=signature("U0lH")),
            hub.ToolCall(f"{GEMINI_ID}1", "f", '{"a":2}'),
            stop="tools",
        ),
        "calls_with_ids": answer(hub.ToolCall("fn-1", "f", '{"a":1}'), hub.ToolCall("fn-2", "g", "{}"), stop="tools"),
        "grounded": answer(hub.Text("It is so.", (hub.Citation("https://a.com/", "A", "It is so.", 0, 9),))),
        "ran_code": answer(hub.Text("```python\nprint(42)\n``````\n42\n\n```It is 42.")),
        "image": answer(hub.Text("Here."), hub.Media("image", "image/png", "iVBORw0KGgo=")),
        "length": answer(hub.Text("It is"), stop="length"),
        "unsafe": answer(hub.Text("It is"), stop="filtered"),
        "tool_use_prompt": answer(hub.Text("42")),
    },
}
LOSSES = {
    ("openai_responses", "searched"): {"output.web_search_call"},
    ("anthropic", "searched"): {"content.server_tool_use", "content.web_search_tool_result"},
    ("anthropic", "odd/unknown_events"): {"content.hologram"},
    ("gemini", "ran_code"): {
        "candidates.content.parts.executableCode", "candidates.content.parts.codeExecutionResult",
    },
}  # fmt: skip
WITH_ANSWERS = [(name, stream) for name in ANSWERS for stream in ANSWERS[name]]
ALL = [(name, stream.removesuffix(".sse")) for name in LOADED for stream in names(name, ".sse")]
ALL += [(name, stream) for name, stream in WITH_ANSWERS if stream.startswith("odd/")]


def bytes_of(name: str, stream: str) -> bytes:
    return sample(name, f"{stream}.sse")


def payloads(name: str, stream: str) -> list:
    """Returns the documents as the relay passes them on: with Failed in place of a missing end."""
    received: list = documents(bytes_of(name, stream))
    reader = read(LOADED[name], bytes_of(name, stream)).stream
    if not reader.is_terminal and not reader.has_failed:
        received.append(hub.Failed(502, "upstream_error", "the upstream's stream ended without its end"))
    return received


def events_of(name: str, stream: str, losses: Losses | None = None) -> list:
    return list(LOADED[name].read_stream(payloads(name, stream), context(REQUEST_WITH_TOOLS), losses or Losses()))


def write(client: str, events, **more) -> bytes:
    return b"".join(LOADED[client].write_stream(events, context(REQUEST_WITH_TOOLS, **more), Losses()))


def sdk_reply(client: str, reply: hub.Reply) -> SdkReply:
    """Returns the reply that a program must receive from the SDK of any protocol."""
    answer, usage = reply.answers[0], reply.usage
    expected = SdkReply(stop=STOPS[client][answer.stop])
    for block in answer.blocks:
        match block:
            case hub.Text(text):
                expected.text += text
            case hub.Refusal(text) if client in ("openai_chat", "openai_responses"):
                expected.refusal += text
            case hub.Refusal(text):
                expected.text += text
            case hub.Thinking(text):
                expected.thinking += text
            case hub.ToolCall(is_custom=False):
                expected.calls.append(
                    (LOADED[client].client_call_id(block.id), block.name, json.loads(block.arguments or "{}"))
                )
            case hub.ToolCall():
                text = block.arguments if client in ("openai_chat", "openai_responses") else {"input": block.arguments}
                expected.calls.append((block.id, block.name, text))
    if client == "anthropic" and answer.sequence:
        expected.stop = "stop_sequence"
    if client == "gemini" and answer.stop == "filtered" and not (expected.text or expected.calls or expected.thinking):
        expected.stop = "OTHER"
    expected.used = (usage.prompt_tokens, usage.cache_read_tokens, usage.output_tokens)
    return expected


# -- reading vendors' streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "stream"), WITH_ANSWERS)
def test_a_vendors_stream_is_read_as_the_expected_answer(name, stream):
    losses = Losses()
    reply = hub.fold(events_of(name, stream, losses))
    assert reply.answers == (ANSWERS[name][stream],)
    assert set(losses.names()) == LOSSES.get((name, stream), set())
    assert reply.id
    assert reply.model


@pytest.mark.parametrize(("name", "stream"), WITH_ANSWERS)
def test_the_usage_of_a_stream_is_split_into_classes(name, stream):
    usage = hub.fold(events_of(name, stream)).usage
    match name, stream:
        case "anthropic", "cache_split":
            assert usage == hub.Usage(10, 20, 0, 4, 0, 5, 2)
        case "gemini", "thinking_text_and_call":
            assert usage == hub.Usage(input_tokens=14, output_tokens=20, reasoning_tokens=15)
        case _:
            assert usage == USED


def test_cache_writes_are_split_by_their_lifetime():
    assert hub.fold(events_of("anthropic", "cache_split")).usage == hub.Usage(10, 20, 0, 4, 0, 5, 2)
    nested = hub.fold(events_of("anthropic", "cache_split_in_iterations")).usage
    assert nested.cache_write_5m_tokens or nested.cache_write_1h_tokens


def test_the_tier_of_a_messages_stream_is_read_from_its_start():
    assert hub.fold(events_of("anthropic", "fast")).tier == "priority"


def test_a_first_chunk_without_an_id_does_not_start_the_reply():
    start = next(event for event in events_of("openai_chat", "azure") if isinstance(event, hub.Start))
    assert start == hub.Start("chatcmpl-CgX8bQ1hV7sNzEwT2kPq", "gpt-4o-2024-11-20")


def test_a_malformed_function_call_is_an_error():
    failed = events_of("gemini", "malformed_call")[-1]
    assert isinstance(failed, hub.Failed)
    assert "MALFORMED_FUNCTION_CALL" in failed.message


def test_usage_on_every_chunk_is_counted_once():
    events = events_of("openai_chat", "usage_on_every_chunk")
    reader = read(LOADED["openai_chat"], bytes_of("openai_chat", "usage_on_every_chunk")).stream
    assert hub.fold(events).usage == reader.usage


@pytest.mark.parametrize(("name", "stream"), ALL)
def test_the_billed_usage_equals_the_usage_sent_to_the_client(name, stream):
    """Usage is counted on the upstream's own events; the client must receive the same."""
    reader = read(LOADED[name], bytes_of(name, stream)).stream
    events = events_of(name, stream)
    if isinstance(events[-1], hub.Failed):
        assert reader.has_failed or not reader.is_terminal or stream.startswith(FAILING)
        return
    sent = [event.usage for event in events if isinstance(event, hub.Used)]
    assert (sent[-1] if sent else None) == reader.usage


@pytest.mark.parametrize(("name", "stream"), ALL)
def test_the_events_of_a_stream_are_in_a_legal_order(name, stream):
    events = events_of(name, stream)
    check_order(events)
    is_good = stream in ANSWERS[name] or not stream.startswith(FAILING)
    assert isinstance(events[-1], hub.End if is_good else hub.Failed)


FAILING = ("malformed_call", "cut", "error", "failed", "done_without", "one_choice", "finish_is_empty")


def check_order(events: list) -> None:
    """Checks the order that every writer relies on: one open block of a choice at a time."""
    open_blocks: dict[int, int] = {}  # open blocks, with their choice
    kinds: dict[int, type] = {}
    choices: set[int] = set()
    finished: set[int] = set()
    assert events
    for at, event in enumerate(events):
        match event:
            case hub.Start():
                assert at == 0
            case hub.Open(index, block, choice):
                assert index == len(kinds), "indexes count from 0"
                assert choice not in open_blocks.values(), "one at a time"
                assert choice not in finished
                assert getattr(block, "text", "") == ""
                assert getattr(block, "arguments", "") == ""
                assert getattr(block, "citations", ()) == ()
                open_blocks[index], kinds[index] = choice, type(block)
                choices.add(choice)
            case hub.Delta(index, text):
                assert index in open_blocks
                assert kinds[index] is not hub.Media
                assert isinstance(text, str)
            case hub.Signed(index):
                assert index in open_blocks
                assert kinds[index] in (hub.Thinking, hub.ToolCall)
            case hub.Cited(index) | hub.Logprobs(index):
                assert index in open_blocks
                assert kinds[index] in (hub.Text, hub.Refusal)
            case hub.Close(index):
                del open_blocks[index]
            case hub.Finish(_, choice):
                assert choice not in open_blocks.values()
                assert choice not in finished, "a choice is over once"
                finished.add(choice)
            case hub.Used():
                assert isinstance(event.usage, hub.Usage)
            case hub.End():
                assert not open_blocks
                assert choices <= finished
                assert at == len(events) - 1
            case hub.Failed():
                assert at == len(events) - 1
            case _:
                raise AssertionError(event)
    assert isinstance(events[-1], hub.End | hub.Failed)


# -- writing clients' streams --------------------------------------------------------------------------------------


@CLIENTS
@pytest.mark.parametrize(("name", "stream"), ALL)
def test_every_sdk_reads_the_vendors_answer_from_a_translated_stream(name, stream, client):
    events = events_of(name, stream)
    if isinstance(events[-1], hub.Failed):
        with pytest.raises(ERRORS[client], match=r"\w"):
            READERS[client](write(client, events))
        return
    received = READERS[client](write(client, events))
    if client == "gemini" and len(hub.fold(events).answers) > 1:
        received = SdkReply(received.text, stop=received.stop, used=received.used)
        text = "".join(b.text for answer in hub.fold(events).answers for b in answer.blocks)
        assert sorted(received.text) == sorted(text)
        return
    assert received == sdk_reply(client, hub.fold(events))


@CLIENTS
@pytest.mark.parametrize("case", ["text", "parallel tools"])
def test_the_sdks_ignore_heartbeats(client, case):
    """Before, between and after all events."""
    written, heartbeat = write(client, hub.unfold(hub.fold(hub.unfold(REPLIES[case])))), LOADED[client].HEARTBEAT
    with_heartbeats = heartbeat + b"".join(
        event + b"\n\n" + heartbeat + heartbeat for event in written.split(b"\n\n") if event
    )
    assert READERS[client](with_heartbeats) == READERS[client](written)


INVALID_ARGUMENTS = ("broken arguments", "arguments that are a list")  # the SDKs reject them or keep them as text


@CLIENTS
@pytest.mark.parametrize("case", [case for case in REPLIES if case not in ("two answers", *INVALID_ARGUMENTS)])
def test_every_sdk_reads_every_reply_from_its_written_stream(client, case):
    reply = hub.fold(hub.unfold(REPLIES[case]))
    assert READERS[client](write(client, hub.unfold(reply))) == sdk_reply(client, reply)


@CLIENTS
@pytest.mark.parametrize("case", REPLIES)
def test_a_written_stream_follows_the_grammar_of_its_protocol(client, case):
    GRAMMARS[client](write(client, hub.unfold(REPLIES[case])))


@CLIENTS
@pytest.mark.parametrize(("name", "stream"), ALL)
def test_a_translated_stream_follows_the_grammar_of_its_protocol(name, stream, client):
    GRAMMARS[client](write(client, events_of(name, stream)))


def check_chat(stream: bytes) -> None:
    received = documents(stream)
    *chunks, last = received
    failed = "error" in last
    assert stream.endswith(b"data: [DONE]\n\n") is not failed
    heads, finished, calls = set(), {}, {}
    for chunk in chunks if failed else received:
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
    events = documents(stream)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    if kinds[0] != "error":
        assert kinds[:2] == ["response.created", "response.in_progress"]
    assert [line[7:] for line in stream.decode().split("\n") if line.startswith("event: ")] == kinds
    done, item, texts = [], None, {}
    for event in events:
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
    last = events[-1]
    if last["type"] == "error":
        return
    assert item is None
    assert last["response"]["output"] == done
    assert len({output_item["id"] for output_item in done}) == len(done)
    assert last["type"] == f"response.{last['response']['status']}"


def check_messages(stream: bytes) -> None:
    events = documents(stream)
    kinds = [event["type"] for event in events]
    assert [line[7:] for line in stream.decode().split("\n") if line.startswith("event: ")] == kinds
    failed = kinds[-1] == "error"
    if not failed:
        assert kinds[-2:] == ["message_delta", "message_stop"]
        assert kinds.count("message_delta") == 1
    assert kinds == ["error"] or kinds[0] == "message_start"
    at, is_open = -1, False
    for event in events:
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
def test_a_chat_stream_has_usage_only_if_the_client_requested_it(name):
    events = events_of(name, "text")
    with_usage, without = (documents(write("openai_chat", events, wants_usage=wants)) for wants in (True, False))
    assert with_usage[-1]["choices"] == []
    assert with_usage[:-1] == without
    assert all("usage" not in chunk for chunk in without)


@EACH
@CLIENTS
def test_an_upstream_error_within_a_stream_is_written_in_the_clients_protocol(name, client):
    events = events_of(name, "error")
    assert isinstance(events[-1], hub.Failed)
    assert events[-1].status >= 500
    stream = write(client, events)
    inner = documents(stream)[-1]["error"]
    assert inner["message"] == events[-1].message
    with pytest.raises(ERRORS[client]) as raised:
        READERS[client](stream)
    assert events[-1].message in str(raised.value)


@EACH
@CLIENTS
def test_a_cut_stream_keeps_its_text_and_ends_in_an_error(name, client):
    stream = write(client, events_of(name, "cut"))
    deltas = [event.text for event in events_of(name, "cut") if isinstance(event, hub.Delta)]
    texts = _texts(documents(stream))
    assert deltas
    assert [text for text in texts if text in deltas] == deltas
    assert "error" in documents(stream)[-1]


def _texts(value) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _texts(item)]


# -- worked examples -----------------------------------------------------------------------------------------------


def deltas(stream: bytes) -> list:
    """Returns the deltas, finish reasons and usage of a chat stream."""
    out = []
    for chunk in documents(stream):
        for choice in chunk["choices"]:
            out.append(choice["delta"] if choice["finish_reason"] is None else choice["finish_reason"])
        if not chunk["choices"]:
            out.append(chunk["usage"])
    return out


def call_delta(number: int, **fields) -> dict:
    return {"tool_calls": [{"index": number, **fields}]}


def test_a_messages_stream_for_a_chat_client():
    events = [e for e in events_of("anthropic", "thinking_text_and_call") if not isinstance(e, hub.Signed)]
    assert deltas(write("openai_chat", events)) == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": "Hi"},
        call_delta(0, id="toolu_1", type="function", function={"name": "f", "arguments": ""}),
        call_delta(0, function={"arguments": '{"a":'}),
        call_delta(0, function={"arguments": "1}"}),
        "tool_calls",
        {
            "prompt_tokens": 14,
            "completion_tokens": 20,
            "total_tokens": 34,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    ]


def test_a_chat_stream_for_a_messages_client():
    events = documents(write("anthropic", events_of("openai_chat", "text_and_calls")))
    message = events[0].pop("message")
    assert message["usage"]["input_tokens"] == message["usage"]["output_tokens"] == 0
    assert (message["role"], message["content"], message["stop_reason"]) == ("assistant", [], None)
    usage = events[-2].pop("usage")
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (10, 4, 20)

    def tool_start(index: int, call_id: str, name: str) -> dict:
        block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        return {"type": "content_block_start", "index": index, "content_block": block}

    def delta(index: int, kind: str, field: str, text: str) -> dict:
        return {"type": "content_block_delta", "index": index, "delta": {"type": kind, field: text}}

    def stop(index: int) -> dict:
        return {"type": "content_block_stop", "index": index}

    assert events == [
        {"type": "message_start"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        delta(0, "text_delta", "text", "Hi"),
        delta(0, "text_delta", "text", " there"),
        stop(0),
        tool_start(1, "call_1", "f"),
        delta(1, "input_json_delta", "partial_json", '{"a":1}'),
        stop(1),
        tool_start(2, "call_2", "g"),
        delta(2, "input_json_delta", "partial_json", "{}"),
        stop(2),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}},
        {"type": "message_stop"},
    ]


def test_a_chat_stream_for_a_gemini_client():
    *chunks, last = documents(write("gemini", events_of("openai_chat", "text_and_calls")))
    parts = [chunk["candidates"][0]["content"]["parts"] for chunk in chunks]
    for signed_part in parts[2], parts[3]:
        del signed_part[0]["thoughtSignature"]  # the value for a missing signature, which some clients require
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


def test_a_gemini_stream_for_a_chat_client():
    received = deltas(write("openai_chat", events_of("gemini", "thinking_text_and_call")))
    texts = "".join(_texts(received))
    assert "U0lH" not in texts, "the signature is wrapped"
    first_call = received[3]["tool_calls"][0]
    call_id = first_call["id"]
    assert first_call.pop("extra_content")["google"]["thought_signature"].startswith(signatures.WRAPPED_PREFIX)
    assert received == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "think"},
        {"content": "Hi"},
        call_delta(0, id=call_id, type="function", function={"name": "f", "arguments": ""}),
        call_delta(0, function={"arguments": '{"a":1}'}),
        "tool_calls",
        {
            "prompt_tokens": 14,
            "completion_tokens": 20,
            "total_tokens": 34,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 15},
        },
    ]


def test_generated_call_ids_differ_between_replies():
    ids = set()
    for number in range(3):
        received = documents(bytes_of("gemini", "call_before_the_stop"))
        for document in received:
            document["responseId"] = f"reply{number}"
        reply = hub.fold(LOADED["gemini"].read_stream(received, context(), Losses()))
        ids |= {block.id for block in reply.answers[0].blocks}
    assert len(ids) == 3


def test_a_responses_stream_for_a_chat_client():
    received = deltas(write("openai_chat", events_of("openai_responses", "interleaved_calls")))
    ids = [
        call["id"]
        for delta in received
        if isinstance(delta, dict)
        for call in delta.get("tool_calls", ())
        if "id" in call
    ]
    assert ids == ["call_1", "call_2"]
    assert received[-2] == "tool_calls"
    text = deltas(write("openai_chat", events_of("openai_responses", "text")))
    assert "".join(delta.get("content", "") for delta in text[:-2]) == (
        'Grüße from 東京 with "model":"gpt-5.1-2025-11-13".'
    )


@CLIENTS
@pytest.mark.parametrize(
    "stream", ["tool_call", "parallel_tools", "trailing_empty_message", "arguments_only_when_done"]
)
def test_streamed_items_are_not_repeated_by_their_done_events(client, stream):
    """The event `completed` does not change a stop for calls into another one."""
    reply = READERS[client](write(client, events_of("openai_responses", stream)))
    assert len(reply.calls) == (2 if stream == "parallel_tools" else 1)
    assert reply.stop == STOPS[client]["tools"]
