"""Every client with every vendor: the SDKs check the replies, and the vendors' own types the requests."""

import asyncio
import base64

import anthropic
import openai
import pytest
from google.genai import errors as genai_errors
from google.genai import types as genai_types
from pydantic import BaseModel

from tests.gateway import ADMIN, Gateway
from tests.sdk_clients import CITY, SDK_CLIENTS, TOOLS, ZONE
from tests.vendor import PROMPT_TOKENS, STREAM_HEAD, answers, chunk, event, sends, vector
from tests.vendor_protocols import (
    CACHED,
    ERROR_TYPES,
    OUTPUT,
    PAIRS,
    PIXEL,
    PROTOCOLS,
    PROVIDERS,
    SIGNATURE,
    UNCACHED,
    Call,
    VendorReply,
    all_pairs,
    answers_error,
    breaks_after,
    parse_request,
    replies_with,
    reply_events,
    schema_errors,
)


@pytest.fixture(scope="module")
def gateway(vendor, tmp_path_factory):
    running = Gateway(tmp_path_factory.mktemp("translation"), all_pairs(vendor.url)).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def sdks(gateway):
    made = {sdk.name: sdk(gateway.url) for sdk in SDK_CLIENTS}
    yield made
    for sdk in made.values():
        sdk.close()


PRICED = ("anthropic", "gemini")  # by the journeys' seed
SCENES = {
    "text": VendorReply("Grüße, 東京 🗼!"),
    "length": VendorReply("It was cut", stop="length"),
    "call": VendorReply(calls=(Call("get_weather", {"city": "Köln"}),)),
    "parallel": VendorReply(
        "Let me see.", calls=(Call("get_weather", {"city": "Rom"}), Call("get_time", {"zone": "CET"}, "call_up_2"))
    ),
    "no-arguments": VendorReply(calls=(Call("get_time", {}),)),
    "thinking": VendorReply("42", thinking="Hm. Well.", signature=SIGNATURE),
    "thoughtful-call": VendorReply(
        thinking="I should look.", signature=SIGNATURE, calls=(Call("get_weather", {"city": "Bonn"}),)
    ),
    "filtered": VendorReply("Half of it", stop="filtered"),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_what_the_vendor_said_comes_out(vendor, sdks, client, upstream, is_streamed, scene):
    said = SCENES[scene]
    model = f"{scene}-{client}-{upstream}-{is_streamed}"
    vendor.scripts[model] = replies_with(said)
    sdk, name = sdks[client], f"{PROVIDERS[upstream]}/{model}"
    heard = sdk.send(name, sdk.first_turn("How is it?"), TOOLS, is_streamed)
    assert (heard.text, heard.thinking) == (said.text, said.thinking)
    assert heard.calls == [(call.name, call.arguments) for call in said.calls]
    if upstream != "gemini":
        assert heard.ids == [call.id for call in said.calls]
    assert len(set(heard.ids)) == len(said.calls)
    assert all(heard.ids)
    assert heard.stop == said.stop_reason
    assert (heard.prompt_tokens, heard.cached_tokens, heard.output_tokens) == (UNCACHED + CACHED, CACHED, OUTPUT)
    assert heard.model == name
    assert sdk.headers["x-gproxy-translated"] == f"{client}->{upstream}"
    assert ("x-gproxy-cost-usd" in sdk.headers) is (not is_streamed and upstream in PRICED)
    (seen,) = vendor.received(model)
    assert schema_errors(seen) == []
    got = parse_request(seen)
    assert (got.users, got.tools) == (["How is it?"], {"get_weather": CITY, "get_time": ZONE})
    assert seen.is_stream is is_streamed


# Names by which gproxy knows that these models think, and what they want back.
THINKERS = {
    "openai_chat": "or-{}",
    "openai_responses": "gpt-5-{}",
    "anthropic": "claude-opus-4-6-{}",
    "gemini": "gemini-3-pro-{}",
}
LOOKS = VendorReply(
    "Let me see.",
    thinking="I should look.",
    signature=SIGNATURE,
    calls=(Call("get_weather", {"city": "Bonn"}), Call("get_time", {"zone": "CET"}, "call_up_2")),
)
ANSWERS = VendorReply("Sunny at noon.")


def looks(vendor, upstream: str, tag: str, said: VendorReply = LOOKS) -> str:
    """Scripts a model that calls tools and answers once it has the results."""
    model = THINKERS[upstream].format(tag)
    vendor.scripts[model] = replies_with(said, (b"sunny", ANSWERS))
    return model


@pytest.mark.parametrize("way", ["echo", "echo_without_reasoning"])
@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_a_tool_call_and_its_result_return_the_vendors_signature(vendor, sdks, client, upstream, is_streamed, way):
    """Also where the client sends nothing but the calls' ids back."""
    model = looks(vendor, upstream, f"trip-{client}-{is_streamed}-{way}")
    sdk, name = sdks[client], f"{PROVIDERS[upstream]}/{model}"
    history = sdk.first_turn("How is it?")
    heard = sdk.send(name, history, TOOLS, is_streamed)
    assert (heard.text, len(heard.calls)) == (LOOKS.text, 2)
    history += getattr(sdk, way)(heard, ["sunny", "noon"])
    assert sdk.send(name, history, TOOLS, is_streamed).text == ANSWERS.text
    seen = vendor.received(model)[1]
    assert schema_errors(seen) == []
    got = parse_request(seen)
    assert (got.users, got.assistants) == (["How is it?"], [LOOKS.text])
    assert [call[1:] for call in got.calls] == [(call.name, call.arguments) for call in LOOKS.calls]
    assert got.results == [(got.calls[0][0], "sunny"), (got.calls[1][0], "noon")]
    assert got.calls[0][0] != got.calls[1][0]
    if upstream != "gemini":
        assert [call[0] for call in got.calls] == [call.id for call in LOOKS.calls]
    assert got.signatures == [SIGNATURE]
    if upstream in ("anthropic", "openai_responses"):
        assert got.thinking == [LOOKS.thinking]
    assert NAMED_SEAL[client] not in sdk.headers.get("x-gproxy-lossy", "")


NAMED_SEAL = {
    "openai_chat": "messages.reasoning_details",
    "openai_responses": "input.reasoning.encrypted_content",
    "anthropic": "messages.content.signature",
    "gemini": "contents.parts.thoughtSignature",
}
MARK = b"Z3Byb3h5LXNlYWwx"  # the start of every signature that gproxy wrapped
ELSEWHERE = [(client, first, then) for client, first in PAIRS for then in PROTOCOLS if then != first]


@pytest.mark.parametrize(("client", "first", "then"), ELSEWHERE)
def test_what_one_vendor_sealed_is_never_sent_to_another(vendor, sdks, client, first, then):
    """The same if the second provider has the client's own protocol."""
    name = f"moved-{client}-{first}-{then}"
    sdk, begun, next_name = sdks[client], looks(vendor, first, name), looks(vendor, then, name)
    history = sdk.first_turn("How is it?")
    heard = sdk.send(f"{PROVIDERS[first]}/{begun}", history, TOOLS)
    history += sdk.echo(heard, ["sunny", "noon"])
    answer = sdk.send(f"{PROVIDERS[then]}/{next_name}", history, TOOLS)
    assert answer.text == ANSWERS.text
    (seen,) = vendor.received(next_name)
    assert SIGNATURE.encode() not in seen.body
    assert MARK not in seen.body
    assert sdk.headers["x-gproxy-lossy"]
    assert ("x-gproxy-translated" in sdk.headers) is (client != then)
    got = parse_request(seen)
    assert [call[1:] for call in got.calls] == [(call.name, call.arguments) for call in LOOKS.calls]
    assert [text for _, text in got.results] == ["sunny", "noon"]
    assert got.assistants == [LOOKS.text]
    if client != then:
        assert schema_errors(seen) == []
    if then == "gemini":
        assert set(got.signatures) == {"skip_thought_signature_validator"}
        assert NAMED_SEAL[client] in sdk.headers["x-gproxy-lossy"]
    else:
        assert got.signatures == []


@pytest.mark.parametrize(("client", "first"), [(c, f) for c, f in PAIRS if c != "openai_chat"])
def test_thinking_that_nobody_signed_does_not_go_to_the_clients_own_vendor(vendor, sdks, client, first):
    """The vendor would refuse it, and Gemini also a call without a signature."""
    unsigned = VendorReply("Let me see.", thinking="I should look.", calls=(Call("get_weather", {"city": "Bonn"}),))
    name = f"unsigned-{client}-{first}"
    sdk, begun, next_name = sdks[client], looks(vendor, first, name, unsigned), looks(vendor, client, name)
    for is_streamed in (False, True):
        history = sdk.first_turn("How is it?")
        heard = sdk.send(f"{PROVIDERS[first]}/{begun}", history, TOOLS, is_streamed)
        assert heard.thinking == unsigned.thinking
        assert sdk.send(f"{PROVIDERS[first]}/{begun}", history + sdk.echo(heard, ["sunny"])).text == ANSWERS.text
        assert NAMED_SEAL[client] not in sdk.headers.get("x-gproxy-lossy", "") or first == "gemini"
        sdk.send(f"{PROVIDERS[client]}/{next_name}", history + sdk.echo(heard, ["sunny"]), TOOLS)
        seen = vendor.received(next_name)[-1]
        assert MARK not in seen.body
        got = parse_request(seen)
        assert got.calls[0][1:] == ("get_weather", {"city": "Bonn"})
        assert got.signatures == (["skip_thought_signature_validator"] if client == "gemini" else [])
        if client != "gemini":
            assert got.thinking == []
            assert b"reasoning" not in seen.body


def code_of(fault) -> int:
    return fault.code if isinstance(fault, genai_errors.APIError) else fault.status_code


def error_type(client: str, fault) -> str:
    if client == "gemini":
        return fault.status
    return fault.body["error"]["type"] if client == "anthropic" else fault.body["type"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 529])
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_a_refusal_before_the_first_byte_is_the_sdks_own(gateway, vendor, sdks, client, upstream, status):
    model = f"says-{status}"
    vendor.scripts[model] = answers_error(status, f"vendor says {status} 東京", {"retry-after": "7"})
    sdk, name = sdks[client], f"{PROVIDERS[upstream]}/{model}"
    for is_streamed in (False, True):
        with pytest.raises(sdk.exception(status), match=f"vendor says {status} 東京") as caught:
            sdk.send(name, sdk.first_turn("Hello"), (), is_streamed)
        gateway.heal()
        assert type(caught.value) is sdk.exception(status)
        assert code_of(caught.value) == status
        assert sdk.headers["retry-after"] == "7"
        assert sdk.headers["x-gproxy-translated"] == f"{client}->{upstream}"
        assert sdk.headers["x-upstream-request-id"] == "req_up"
        if status in ERROR_TYPES["openai"] and status < 500:
            assert error_type(client, caught.value) == ERROR_TYPES.get(client, ERROR_TYPES["openai"])[status]


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_an_error_that_is_no_json_stays_readable(gateway, vendor, sdks, client, upstream, is_streamed):
    page = b"<html><head><style>b{}</style><title>502</title></head><body><h1>Bad &amp; gone</h1></body></html>"
    vendor.scripts["page"] = answers(500, page, {"Content-Type": "text/html"})
    sdk = sdks[client]
    with pytest.raises(sdk.exception(500), match="502 Bad & gone") as caught:
        sdk.send(f"{PROVIDERS[upstream]}/page", sdk.first_turn("Hello"), (), is_streamed)
    gateway.heal()
    assert "<" not in str(caught.value).replace("<class", "")
    assert sdk.headers["content-type"].startswith("application/json")


SLOW_TALK = VendorReply("One two three four five six seven")


@pytest.mark.parametrize("end", ["error", "clean", "close", "reset"])
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_a_stream_that_breaks_raises_in_every_sdk(vendor, sdks, client, upstream, end):
    """After its first words, and never as an end."""
    model = f"breaks-{end}-{client}-{upstream}"
    count = {"openai_chat": 2, "openai_responses": 5, "anthropic": 3, "gemini": 1}[upstream]
    vendor.scripts[model] = breaks_after(SLOW_TALK, count, end, pause_s=0.01)
    words: list[str] = []
    label = "vendor fell over" if end == "error" else "upstream_error"
    with pytest.raises(BROKEN[client], match=label):
        for piece in sdks[client].stream_text(f"{PROVIDERS[upstream]}/{model}"):
            words.append(piece)
    assert "".join(words) == SLOW_TALK.text_parts[0]


BROKEN = {
    "openai_chat": openai.APIError,
    "openai_responses": openai.APIError,
    "anthropic": anthropic.APIStatusError,
    "gemini": genai_errors.APIError,
}


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_a_whole_reply_that_is_none_is_an_upstream_error(vendor, sdks, client, upstream):
    vendor.scripts["no-reply"] = answers(200, b"<html>All is well</html>")
    sdk = sdks[client]
    with pytest.raises(sdk.exception(500), match="upstream_error") as caught:
        sdk.send(f"{PROVIDERS[upstream]}/no-reply", sdk.first_turn("Hello"))
    assert code_of(caught.value) == 502


# -- what each SDK does beyond asking ------------------------------------------------------------------------------


class Weather(BaseModel):
    """A day's weather."""

    city: str
    degrees: int


RAINY = VendorReply('{"city": "Köln", "degrees": 7}')


def others(client: str):
    return pytest.mark.parametrize("upstream", [upstream for upstream in PROTOCOLS if upstream != client])


def new(vendor, upstream: str, model: str, said: VendorReply, *then) -> str:
    vendor.scripts[model] = replies_with(said, *then)
    return f"{PROVIDERS[upstream]}/{model}"


def check_schema(vendor, model: str) -> None:
    """The vendor received the schema of a pydantic model."""
    (seen,) = vendor.received(model)
    assert schema_errors(seen) == []
    schema = parse_request(seen).schema
    assert (set(schema["properties"]), set(schema["required"])) == ({"city", "degrees"},) * 2
    assert schema["properties"]["degrees"]["type"].lower() == "integer"


@others("openai_chat")
def test_chat_parses_into_a_model(vendor, sdks, upstream):
    sdk, expected = sdks["openai_chat"].sdk.chat.completions, Weather(city="Köln", degrees=7)
    name = new(vendor, upstream, f"chat-parse-{upstream}", RAINY)
    hello = [{"role": "user", "content": "Hello"}]
    reply = sdk.parse(model=name, messages=hello, response_format=Weather)
    assert reply.choices[0].message.parsed == expected
    check_schema(vendor, f"chat-parse-{upstream}")
    with sdk.stream(model=name, messages=hello, response_format=Weather) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == expected
    assert kinds.count("content.delta") >= 2
    assert (kinds.count("content.done"), final.model) == (1, name)


@others("openai_chat")
def test_chat_parses_the_arguments_of_a_strict_tool(vendor, sdks, upstream):
    sdk, model = sdks["openai_chat"].sdk.chat.completions, f"chat-strict-{upstream}"
    name = new(vendor, upstream, model, VendorReply(calls=(Call("Weather", {"city": "Köln", "degrees": 7}),)))
    tools, hello = [openai.pydantic_function_tool(Weather)], [{"role": "user", "content": "Hello"}]
    whole = sdk.parse(model=name, messages=hello, tools=tools)
    with sdk.stream(model=name, messages=hello, tools=tools) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    for reply in (whole, final):
        (call,) = reply.choices[0].message.tool_calls
        assert call.function.parsed_arguments == Weather(city="Köln", degrees=7)
    assert [event.name for event in done] == ["Weather"]
    assert schema_errors(vendor.received(model)[0]) == []


@others("openai_chat")
@pytest.mark.parametrize("wants_usage", [False, True])
def test_chat_sends_usage_in_a_stream_only_if_requested(vendor, sdks, upstream, wants_usage):
    name = new(vendor, upstream, f"chat-usage-{upstream}", VendorReply("Hi"))
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    hello = [{"role": "user", "content": "Hello"}]
    chunks = list(sdks["openai_chat"].sdk.chat.completions.create(model=name, messages=hello, stream=True, **options))
    assert [(c.usage.prompt_tokens, c.choices) for c in chunks if c.usage] == [(UNCACHED + CACHED, [])] * wants_usage
    assert {c.model for c in chunks} == {name}
    assert len({c.id for c in chunks}) == 1


@others("openai_responses")
def test_responses_parse_into_a_model(vendor, sdks, upstream):
    sdk, expected = sdks["openai_responses"].sdk.responses, Weather(city="Köln", degrees=7)
    name = new(vendor, upstream, f"responses-parse-{upstream}", RAINY)
    assert sdk.parse(model=name, input="Hello", text_format=Weather).output_parsed == expected
    check_schema(vendor, f"responses-parse-{upstream}")
    with sdk.stream(model=name, input="Hello", text_format=Weather) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.output_parsed == expected
    assert ("".join(deltas), final.model, len(deltas) > 1) == (RAINY.text, name, True)


@others("openai_responses")
def test_every_item_of_a_responses_stream_lives_its_whole_life(vendor, sdks, upstream):
    said = VendorReply("42", thinking="Hm.", signature=SIGNATURE, calls=(Call("get_weather", {"city": "Rom"}),))
    name = new(vendor, upstream, f"responses-life-{upstream}", said)
    events = list(sdks["openai_responses"].sdk.responses.create(model=name, input="Hello", stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    added = [event.item for event in events if event.type == "response.output_item.added"]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    sealed = ["reasoning"] if upstream == "gemini" else []  # the call's own seal
    assert [item.type for item in done] == ["reasoning", "message", *sealed, "function_call"]
    assert [item.id for item in added] == [item.id for item in done]
    assert done == events[-1].response.output
    indexes = [event.output_index for event in events if hasattr(event, "output_index")]
    assert indexes == sorted(indexes)
    assert set(indexes) == set(range(len(done)))


@others("anthropic")
def test_the_tool_runner_of_anthropic_runs_to_the_answer(vendor, sdks, upstream):
    """The runner requests a thread stored at the vendor, is refused, and then sends the whole conversation."""
    asked_for = []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """How the weather is.

        Args:
            city: where
        """
        asked_for.append(city)
        return "sunny"

    said = VendorReply(thinking="I should look.", signature=SIGNATURE, calls=(Call("get_weather", {"city": "Bonn"}),))
    for is_streamed in (False, True):
        model = THINKERS[upstream].format(f"runner-{is_streamed}")
        name = new(vendor, upstream, model, said, (b"sunny", ANSWERS))
        runner = sdks["anthropic"].sdk.beta.messages.tool_runner(
            model=name,
            max_tokens=2000,
            tools=[get_weather],
            messages=[{"role": "user", "content": "How is it?"}],
            stream=is_streamed,
        )
        turns = [turn.get_final_message() if is_streamed else turn for turn in runner]
        assert turns[-1].content[0].text == ANSWERS.text
        assert len(turns) == 2
        seen = vendor.received(model)[1]
        got = parse_request(seen)
        assert (got.results[0][1], got.signatures) == ("sunny", [SIGNATURE])
        assert schema_errors(seen) == []
    assert asked_for == ["Bonn", "Bonn"]


@others("anthropic")
def test_anthropic_streams_texts_and_parses(vendor, sdks, gateway, upstream):
    name = new(vendor, upstream, f"claude-text-{upstream}", RAINY)
    sdk, hello = sdks["anthropic"].sdk.messages, [{"role": "user", "content": "Hello"}]
    with sdk.stream(model=name, max_tokens=99, messages=hello) as stream:
        assert list(stream.text_stream) == RAINY.text_parts
    parsed = new(vendor, upstream, f"claude-parse-{upstream}", RAINY)
    reply = sdk.parse(model=parsed, max_tokens=99, messages=hello, output_format=Weather)
    assert reply.parsed_output == Weather(city="Köln", degrees=7)
    check_schema(vendor, f"claude-parse-{upstream}")

    async def ask():
        async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=ADMIN, max_retries=0) as client:
            whole = await client.messages.create(model=name, max_tokens=99, messages=hello)
            async with client.messages.stream(model=name, max_tokens=99, messages=hello) as stream:
                return whole.content[0].text, [text async for text in stream.text_stream]

    assert asyncio.run(ask()) == (RAINY.text, RAINY.text_parts)


@others("gemini")
@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_a_gemini_chat_remembers_what_was_said(vendor, sdks, upstream, is_streamed):
    model = THINKERS[upstream].format(f"gemini-chat-{is_streamed}")
    name = new(
        vendor,
        upstream,
        model,
        VendorReply("One, two.", thinking="I count.", signature=SIGNATURE),
        (b"More?", VendorReply("Three.")),
    )
    chat = sdks["gemini"].sdk.chats.create(model=name)
    for question, answer in (("Count!", "One, two."), ("More?", "Three.")):
        if is_streamed:
            pieces = [chunk for chunk in chat.send_message_stream(question) if chunk.candidates]
            text = "".join(chunk.text or "" for chunk in pieces if chunk.candidates[0].content.parts)
        else:
            text = chat.send_message(question).text
        assert text == answer
    seen = vendor.received(model)[1]
    got = parse_request(seen)
    assert (got.users, got.assistants) == (["Count!", "More?"], ["One, two."])
    assert got.signatures == [SIGNATURE]
    if upstream != "openai_chat":
        assert got.thinking == ["I count."]
    assert schema_errors(seen) == []


@others("gemini")
@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_gemini_calls_a_python_function_by_itself(vendor, sdks, upstream, is_streamed):
    asked_for = []

    def get_weather(city: str) -> str:
        """How the weather is."""
        asked_for.append(city)
        return "sunny"

    model = THINKERS[upstream].format(f"gemini-function-{is_streamed}")
    said = VendorReply(thinking="I should look.", signature=SIGNATURE, calls=(Call("get_weather", {"city": "Bonn"}),))
    name = new(vendor, upstream, model, said, (b"sunny", ANSWERS))
    models, config = sdks["gemini"].sdk.models, genai_types.GenerateContentConfig(tools=[get_weather])
    if is_streamed:
        chunks = models.generate_content_stream(model=name, contents="How is it?", config=config)
        parts = [part for chunk in chunks for part in chunk.candidates[0].content.parts or []]
        text = "".join(part.text or "" for part in parts if not part.thought)
    else:
        text = models.generate_content(model=name, contents="How is it?", config=config).text
    assert (text, asked_for) == (ANSWERS.text, ["Bonn"])
    first, second = vendor.received(model)
    assert parse_request(first).tools["get_weather"]["properties"]["city"]["type"] == "string"
    got = parse_request(second)
    assert ("sunny" in got.results[0][1], got.signatures) == (True, [SIGNATURE])
    assert schema_errors(second) == []


@others("gemini")
@pytest.mark.parametrize("way", ["response_schema", "response_json_schema"])
def test_gemini_parses_into_a_model(vendor, sdks, upstream, way):
    model = f"gemini-parse-{upstream}-{way}"
    name = new(vendor, upstream, model, RAINY)
    schema = Weather if way == "response_schema" else Weather.model_json_schema()
    config = genai_types.GenerateContentConfig(response_mime_type="application/json", **{way: schema})
    reply = sdks["gemini"].sdk.models.generate_content(model=name, contents="Hello", config=config)
    expected = Weather(city="Köln", degrees=7)
    assert reply.parsed == (expected if way == "response_schema" else expected.model_dump())
    check_schema(vendor, model)


@others("gemini")
def test_gemini_streams_an_array_too(vendor, gateway, upstream):
    name = new(vendor, upstream, f"array-{upstream}", VendorReply("One two"))
    body = {"contents": [{"parts": [{"text": "Hi"}]}]}
    reply = gateway.post(f"/v1beta/models/{name}:streamGenerateContent", body)
    assert reply.headers["Content-Type"].startswith("application/json")
    replies = reply.json
    assert replies[-1]["candidates"][0]["finishReason"] == "STOP"
    parts = [part for one in replies for part in one["candidates"][0]["content"]["parts"]]
    assert "".join(part["text"] for part in parts) == "One two"


# -- counts and embeddings -----------------------------------------------------------------------------------------


def counted(sdks, client: str, name: str) -> int:
    sdk = sdks[client].sdk
    if client == "gemini":
        return sdk.models.count_tokens(model=name, contents="Hello there").total_tokens
    if client == "anthropic":
        hello = [{"role": "user", "content": "Hello there"}]
        return sdk.messages.count_tokens(model=name, messages=hello, system="Be brief.").input_tokens
    return sdk.responses.input_tokens.count(model=name, input="Hello there", instructions="Be brief.").input_tokens


@pytest.mark.parametrize("upstream", ["openai_responses", "anthropic", "gemini"])
@pytest.mark.parametrize("client", ["openai_responses", "anthropic", "gemini"])
def test_tokens_are_counted_by_the_vendor(vendor, gateway, sdks, client, upstream):
    model = f"count-{client}-{upstream}"
    assert counted(sdks, client, f"{PROVIDERS[upstream]}/{model}") == PROMPT_TOKENS
    (seen,) = vendor.received(model)
    assert (seen.operation, seen.protocol) == ("count", upstream)
    if client != upstream:
        assert schema_errors(seen) == []
    assert ("x-gproxy-translated" in sdks[client].headers) is (client != upstream)
    assert "x-gproxy-estimated" not in sdks[client].headers
    assert gateway.usages(model=model) == []


@pytest.mark.parametrize("client", ["openai_responses", "anthropic", "gemini"])
def test_tokens_are_estimated_where_the_vendor_does_not_count(vendor, sdks, client):
    assert counted(sdks, client, "chat-main/count-here") > 1
    assert sdks[client].headers["x-gproxy-estimated"] == "true"
    assert vendor.received("count-here") == []


def test_embeddings_of_gemini_for_openai(vendor, gateway, sdks):
    sdk, texts = sdks["openai_chat"].sdk.embeddings, ["Hello", "東京"]
    for form in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        reply = sdk.create(model="vertex-main/embed-1", input=texts, dimensions=3, **form)
        vectors = [row.embedding for row in reply.data]
        if form.get("encoding_format") != "base64":
            assert vectors == [vector(text) for text in texts]
        assert [row.index for row in reply.data] == [0, 1]
        assert reply.model == "vertex-main/embed-1"
    one = sdk.create(model="vertex-main/embed-1", input="Hello")
    assert [row.embedding for row in one.data] == [vector("Hello")]
    first = vendor.received("embed-1")[0]
    assert first.path.endswith(":batchEmbedContents")
    assert [one["outputDimensionality"] for one in first.json["requests"]] == [3, 3]
    assert len(gateway.wait_rows(4, model="embed-1")) == 4


@pytest.mark.parametrize("provider", ["openai-main", "chat-main", "responses-main"])
def test_embeddings_of_openai_for_gemini(vendor, gateway, sdks, provider):
    models, model = sdks["gemini"].sdk.models, f"text-embedding-{provider}"
    config = genai_types.EmbedContentConfig(output_dimensionality=3)
    one = models.embed_content(model=f"{provider}/{model}", contents="Hello", config=config)
    many = models.embed_content(model=f"{provider}/{model}", contents=["Hello", "東京", ""])
    assert [e.values for e in one.embeddings] == [vector("Hello")]
    assert [e.values for e in many.embeddings] == [vector("Hello"), vector("東京"), vector("")]
    for seen in vendor.received(model):
        assert schema_errors(seen) == []
    assert vendor.received(model)[0].json["dimensions"] == 3
    assert {row["input_tokens"] for row in gateway.wait_rows(2, model=model)} == {PROMPT_TOKENS}


def test_a_provider_without_embeddings_says_so(sdks):
    with pytest.raises(openai.APIStatusError, match="unsupported") as caught:
        sdks["openai_chat"].sdk.embeddings.create(model="anthropic-main/claude", input="Hello")
    assert caught.value.status_code == 501
    with pytest.raises(genai_errors.ServerError, match="unsupported") as caught:
        sdks["gemini"].sdk.models.embed_content(model="anthropic-main/claude", contents="Hello")
    assert caught.value.code == 501


def test_token_arrays_are_refused(sdks):
    with pytest.raises(openai.BadRequestError, match="input: token arrays"):
        sdks["openai_chat"].sdk.embeddings.create(model="vertex-main/embed-2", input=[[1, 2]])


# -- less common content -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("client", "upstream"), [pair for pair in PAIRS if pair[1].startswith("openai")])
def test_a_refusal_is_heard(vendor, sdks, client, upstream, is_streamed):
    name = new(vendor, upstream, f"refusal-{client}-{upstream}", VendorReply(refusal="I will not."))
    sdk = sdks[client]
    heard = sdk.send(name, sdk.first_turn("Do it"), (), is_streamed)
    if client.startswith("openai"):
        assert (heard.refusal, heard.text) == ("I will not.", "")
    else:
        assert (heard.refusal, heard.text) == ("", "I will not.")


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("client", "upstream"), [pair for pair in PAIRS if pair[1] != "anthropic"])
def test_an_image_of_the_model_comes_out_or_is_reported_as_lost(vendor, gateway, sdks, client, upstream, is_streamed):
    model = f"paints-{client}-{upstream}-{is_streamed}"
    name = new(vendor, upstream, model, VendorReply("Here.", image=PIXEL))
    sdk = sdks[client]
    heard = sdk.send(name, sdk.first_turn("Paint"), (), is_streamed)
    assert heard.text == "Here."
    if client == "anthropic":
        assert heard.images == []
        assert len(gateway.wait_rows(1, model=model)[0]["losses"]) >= 1
        if not is_streamed:
            assert sdk.headers["x-gproxy-lossy"]
    else:
        assert heard.images == [f"data:image/png;base64,{PIXEL}"]


PICTURE = {
    "openai_chat": [
        {"type": "text", "text": "See"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
    ],
    "openai_responses": [
        {"type": "input_text", "text": "See"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"},
    ],
    "anthropic": [
        {"type": "text", "text": "See"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
    ],
}


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
def test_an_image_of_the_user_goes_in(vendor, sdks, client, upstream):
    model = f"sees-{client}-{upstream}"
    name, sdk = new(vendor, upstream, model, VendorReply("Nice.")), sdks[client]
    if client == "gemini":
        picture = genai_types.Part.from_bytes(data=base64.b64decode(PIXEL), mime_type="image/png")
        history = [genai_types.Content(role="user", parts=[genai_types.Part(text="See"), picture])]
    else:
        history = [{"role": "user", "content": PICTURE[client]}]
    assert sdk.send(name, history).text == "Nice."
    (seen,) = vendor.received(model)
    assert schema_errors(seen) == []
    got = parse_request(seen)
    assert (got.users, got.images) == (["See"], [f"data:image/png;base64,{PIXEL}"])
    assert "image" not in sdk.headers.get("x-gproxy-lossy", "")


def test_citations_of_a_stream_accumulate(vendor, sdks):
    """Each comes in an event of its own, and OpenAI's SDK joins them by their index."""
    first, second = ({"type": "web_search_result_location", "url": f"https://x.de/{n}", "title": f"T{n}",
                      "cited_text": "q", "encrypted_index": ""} for n in (1, 2))  # fmt: skip
    events = reply_events("anthropic", "m", VendorReply("Read this."))
    cited = [
        event({"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": one}},
              "content_block_delta") for one in (first, second)
    ]  # fmt: skip
    vendor.scripts["cites"] = sends(STREAM_HEAD, *(chunk(one) for one in (*events[:4], *cited, *events[4:])), "close")
    heard = sdks["openai_chat"].send("anthropic-main/cites", sdks["openai_chat"].first_turn("Hi"), (), True)
    citations = [one.url_citation if hasattr(one, "url_citation") else one for one in heard.raw.annotations]
    assert [one.url for one in citations] == ["https://x.de/1", "https://x.de/2"]
    heard = sdks["openai_responses"].send("anthropic-main/cites", "Hi", (), True)
    assert [one.url for one in heard.raw.output[0].content[0].annotations] == ["https://x.de/1", "https://x.de/2"]
