"""Around a translation: headers, usage rows, signatures over workers, refusals, and an operator's routing."""

import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter

import pytest

from tests.gateway import ADMIN, OTHER, UPSTREAM_KEYS, Gateway
from tests.load import nano
from tests.sdk_clients import SDK_CLIENTS, TOOLS
from tests.vendor import answers, dumps, sends
from tests.vendor_protocols import (
    CACHED,
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
    schema_errors,
    whole_reply,
)

MORE = """
[[providers]]
name = "strict"
channel = "custom"
settings = {{ base_url = "{vendor}/v1", protocol = "openai_chat", strict_translation = true }}
credentials = [{{ api_key = "sk-upstream-openai-aaaa" }}]

[[providers]]
name = "fetching"
channel = "aistudio"
settings = {{ base_url = "{vendor}/v1beta/", fetch_images = true }}
credentials = [{{ api_key = "AIza-upstream-dddd" }}]

[[providers]]
name = "deep"
channel = "deepseek"
settings = {{ base_url = "{vendor}" }}
credentials = [{{ api_key = "sk-upstream-openai-aaaa" }}]

[[providers]]
name = "quick"
channel = "groq"
settings = {{ base_url = "{vendor}" }}
credentials = [{{ api_key = "sk-upstream-openai-aaaa" }}]

[[providers]]
name = "chat-only"
channel = "openai"
settings = {{ base_url = "{vendor}" }}
routing = "chat-completions-only"
credentials = [{{ api_key = "sk-upstream-openai-aaaa" }}]

[[providers]]
name = "claude-only"
channel = "custom"
settings = {{ base_url = "{vendor}", protocol = "anthropic" }}
routing = "claude-only"
credentials = [{{ api_key = "sk-upstream-openai-aaaa" }}]

[[providers]]
name = "picky"
channel = "openai"
settings = {{ base_url = "{vendor}" }}
credentials = [{{ api_key = "sk-upstream-openai-aaaa" }}]

[[providers.routing.rules]]
route = {{ operation = "generate_content", protocol = "openai_chat_completions" }}
implementation = {{ TransformTo = {{ destination = {{ operation = "generate_content", protocol = "openai_response" }} }} }}

[[providers.routing.rules]]
route = {{ operation = "generate_content", protocol = "claude" }}
implementation = {{ TransformTo = {{ destination = {{ operation = "stream_generate_content", protocol = "openai_chat_completions" }} }} }}

[[providers.routing.rules]]
route = {{ operation = "generate_content", protocol = "gemini" }}
implementation = "Unsupported"

[[providers.routing.rules]]
route = {{ operation = "count_tokens", protocol = "claude" }}
implementation = "Local"

[[models]]
provider_name = "chat-main"
model_id = "default"
price_tiers = [{{ input_tokens_up_to = 100000000, price_input_tokens = 0.40, price_output_tokens = 1.60 }}]

[[models]]
provider_name = "responses-main"
model_id = "default"
price_tiers = [{{ input_tokens_up_to = 100000000, price_input_tokens = 0.40, price_output_tokens = 1.60 }}]
"""  # noqa: E501 - a table of one line is TOML
PATHS = {
    "openai_chat": "/v1/chat/completions",
    "openai_responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/{}:{}",
}
HELLO = {
    "openai_chat": {"messages": [{"role": "user", "content": "Hello"}]},
    "openai_responses": {"input": "Hello"},
    "anthropic": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 99},
    "gemini": {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]},
}
# USD per million tokens: (prompt, completion)
PRICES = {"openai_chat": (0.4, 1.6), "openai_responses": (0.4, 1.6), "anthropic": (3, 15), "gemini": (0.1, 0.4)}
BOTH = pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
EVERY_PAIR = pytest.mark.parametrize(("client", "upstream"), PAIRS)


def seeded(vendor) -> str:
    return all_pairs(vendor.url) + MORE.format(vendor=vendor.url)


@pytest.fixture(scope="module")
def gateway(vendor, tmp_path_factory):
    running = Gateway(tmp_path_factory.mktemp("translation-rules"), seeded(vendor)).start()
    yield running
    running.stop()


def addressed(client: str, name: str, body: dict, is_streamed: bool = False) -> tuple[str, dict]:
    if client == "gemini":
        action = "streamGenerateContent?alt=sse" if is_streamed else "generateContent"
        return PATHS[client].format(name, action), body
    return PATHS[client], {"model": name, **body, **({"stream": True} if is_streamed else {})}


def post(gateway: Gateway, client: str, name: str, body: dict | None = None, is_streamed: bool = False, **headers):
    path, body = addressed(client, name, {**HELLO[client], **(body or {})}, is_streamed)
    return gateway.post(path, body, ADMIN, **headers)


def message(reply) -> str:
    return reply.json["error"]["message"]


# -- headers and usage rows -----------------------------------------------------------------------------------------


@BOTH
@EVERY_PAIR
def test_usage_rows_have_the_upstreams_own_usage(gateway, vendor, client, upstream, is_streamed):
    model = f"booked-{client}-{upstream}-{is_streamed}"
    vendor.scripts[model] = replies_with(VendorReply("Hello you", thinking="Hm."))
    reply = post(gateway, client, f"{PROVIDERS[upstream]}/{model}", None, is_streamed)
    assert reply.status == 200, reply.body
    assert reply.headers["x-gproxy-translated"] == f"{client}->{upstream}"
    assert reply.headers["x-gproxy-provider"] == PROVIDERS[upstream]
    assert reply.headers["x-upstream-request-id"] == "req_up"
    prompt, completion = PRICES[upstream]
    # Without a price of its own a cached token costs what any other does.
    expected = round((UNCACHED + CACHED) * prompt * 1000) + round(OUTPUT * completion * 1000)
    row = gateway.wait_rows(1, model=model)[0]
    assert (row["outcome"], row["status"], row["estimated"]) == ("complete", 200, False)
    assert (row["input_tokens"], row["cache_read_input_tokens"], row["output_tokens"]) == (UNCACHED, CACHED, OUTPUT)
    assert nano(row["cost"]) == expected
    assert row["protocol"] == {"openai_chat": "openai_chat_completions", "openai_responses": "openai_response",
                               "anthropic": "claude"}.get(client, "gemini")  # fmt: skip
    if is_streamed:
        assert reply.headers["x-gproxy-cost-usd"] is None
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        assert reply.headers["X-Accel-Buffering"] == "no"
    else:
        assert nano(float(reply.headers["x-gproxy-cost-usd"])) == expected
        assert reply.headers["Content-Type"] == "application/json"


@BOTH
def test_losses_are_listed_in_one_order_and_stored(gateway, vendor, is_streamed):
    model = f"lossy-{is_streamed}"
    vendor.scripts[model] = replies_with(VendorReply("Hi"))
    more = {"seed": 7, "n": 1, "logit_bias": {"1": 2}, "top_logprobs": 2, "logprobs": True, "presence_penalty": 0.5}
    reply = post(gateway, "openai_chat", f"anthropic-main/{model}", more, is_streamed)
    losses = reply.headers["x-gproxy-lossy"]
    names = losses.split(", ")
    assert {"logit_bias", "logprobs", "max_completion_tokens", "presence_penalty", "seed"} == set(names)
    assert names == sorted(names)
    assert gateway.wait_rows(1, model=model)[0]["losses"] == names
    backwards = dict(reversed(more.items()))
    again = post(gateway, "openai_chat", f"anthropic-main/{model}", backwards, is_streamed)
    assert again.headers["x-gproxy-lossy"] == losses


@EVERY_PAIR
def test_a_plain_question_loses_nothing(gateway, vendor, client, upstream):
    model = f"lossless-{client}-{upstream}"
    vendor.scripts[model] = replies_with(VendorReply("Hi"))
    limit = {
        "openai_chat": {"max_completion_tokens": 99},
        "openai_responses": {"max_output_tokens": 99},
        "gemini": {"generationConfig": {"maxOutputTokens": 99}},
    }.get(client, {})
    reply = post(gateway, client, f"{PROVIDERS[upstream]}/{model}", {**limit})
    assert reply.headers["x-gproxy-lossy"] is None
    assert parse_request(vendor.received(model)[0]).maximum == 99


@pytest.mark.parametrize("phase", ["before the head", "in a stream", "in a whole reply"])
@pytest.mark.parametrize(
    ("client", "upstream"), [("openai_chat", "anthropic"), ("anthropic", "openai_chat"), ("gemini", "openai_responses"),
                             ("openai_responses", "gemini")]
)  # fmt: skip
def test_a_client_that_leaves_closes_the_upstream(gateway, vendor, client, upstream, phase):
    model = f"left-{client}-{upstream}-{phase.replace(' ', '-')}"
    count = {"openai_chat": 2, "openai_responses": 5, "anthropic": 3, "gemini": 1}[upstream]
    said = VendorReply("Hello there, my friend")
    vendor.scripts[model] = {
        "before the head": sends("hang"),
        "in a stream": breaks_after(said, count, "hang"),
        "in a whole reply": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "hang"),
    }[phase]
    path, body = addressed(client, f"{PROVIDERS[upstream]}/{model}", HELLO[client], phase == "in a stream")
    data = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as sock:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n"
        sock.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        got = b""
        while phase == "in a stream" and said.text_parts[0].encode() not in got:
            got += sock.recv(65536)
        deadline = time.monotonic() + 5
        while not vendor.received(model):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(0.1)
        left = time.monotonic()
    while not vendor.received(model)[0].closed_at:
        assert time.monotonic() - left < 3, "the upstream was not closed"
        time.sleep(0.005)
    assert vendor.received(model)[0].closed_at - left < 0.5
    row = gateway.wait_rows(1, model=model)[0]
    assert (row["outcome"], row["status"], row["estimated"]) == ("partial", 499, True)
    assert row["input_tokens"] + row["cache_read_input_tokens"] > 0
    assert (row["output_tokens"] > 0) is (phase == "in a stream")
    assert row["cost"] > 0


@pytest.mark.parametrize("end", ["close", "error"])
@EVERY_PAIR
def test_a_broken_stream_is_billed_for_the_delivered_part(gateway, vendor, client, upstream, end):
    model = f"broken-{client}-{upstream}-{end}"
    count = {"openai_chat": 2, "openai_responses": 5, "anthropic": 3, "gemini": 1}[upstream]
    vendor.scripts[model] = breaks_after(VendorReply("Hello there, my friend"), count, end)
    reply = post(gateway, client, f"{PROVIDERS[upstream]}/{model}", None, True)
    assert (reply.status, b"error" in reply.body) == (200, True)
    for mark in (b"[DONE]", b"message_stop", b"response.completed", b"finishReason"):
        assert mark not in reply.body
    row = gateway.wait_rows(1, model=model)[0]
    assert (row["outcome"], row["estimated"]) == ("partial", True)
    assert row["output_tokens"] >= 3
    assert row["cost"] > 0


def test_a_worker_killed_during_translated_streams_loses_no_row(own_gateway, vendor):
    gateway = own_gateway(seeded(vendor))
    model = "killed-translation"
    said = VendorReply("Hello there, my friend")

    async def slowly(seen, reader, writer):
        await breaks_after(said, None, "clean", pause_s=0.05)(seen, reader, writer)

    vendor.scripts[model] = slowly
    ended, lock, numbers = Counter(), threading.Lock(), iter(range(240))

    def work() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            client, upstream = PAIRS[number % 12]
            name = f"{model}-{number}"
            try:
                reply = post(
                    gateway, client, f"{PROVIDERS[upstream]}/{model}", None, True, x_request_id=name, traceparent=name
                )
                ended["error" if b'"error"' in reply.body else "done"] += 1
            except Exception:
                ended["cut"] += 1

    threads = [threading.Thread(target=work) for _ in range(40)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    gateway.kill_worker()
    for thread in threads:
        thread.join()
    assert ended["cut"] > 0, "the kill hit nobody"
    assert ended["done"] > 100, ended
    seen = Counter(one.headers["traceparent"] for one in vendor.received(model))
    assert set(seen.values()) == {1}
    deadline = time.monotonic() + 20
    while True:
        try:
            rows = gateway.usages(model=model)
        except (OSError, AssertionError):
            rows = []
        stored = Counter(row["request_id"] for row in rows)
        if set(stored) >= set(seen):
            break
        assert time.monotonic() < deadline, f"{len(set(seen) - set(stored))} rows are missing"
        time.sleep(0.1)
    assert set(stored.values()) == {1}
    outcomes = Counter(row["outcome"] for row in rows)
    assert outcomes["complete"] >= ended["done"]
    assert outcomes["failed"] > 0
    for row in rows:
        if row["outcome"] == "complete":
            assert (row["input_tokens"], row["cache_read_input_tokens"], row["output_tokens"]) == (
                UNCACHED,
                CACHED,
                OUTPUT,
            )
        else:
            assert (row["status"], row["cost"]) == (None, 0) or row["outcome"] == "partial"


# -- seals over workers --------------------------------------------------------------------------------------------

THINKERS = {
    "openai_chat": "or-{}",
    "openai_responses": "gpt-5-{}",
    "anthropic": "claude-opus-4-6-{}",
    "gemini": "gemini-3-pro-{}",
}


def looks(call_id: str) -> VendorReply:
    return VendorReply(
        thinking="I should look.", signature=SIGNATURE, calls=(Call("get_weather", {"city": "Bonn"}, call_id),)
    )


def test_seals_are_kept_over_workers_and_restarts(own_gateway, vendor):
    """These clients send back only the ids of the calls."""
    gateway = own_gateway(seeded(vendor))
    speakers = {speaker.name: speaker for speaker in SDK_CLIENTS}
    turns = []
    for client, upstream in PAIRS:
        model = THINKERS[upstream].format(f"kept-{client}")
        vendor.scripts[model] = replies_with(looks(f"call_{client}_{upstream}"), (b"sunny", VendorReply("Sunny.")))
        speaker = speakers[client](gateway.url)
        history = speaker.first_turn("How is it?")
        heard = speaker.send(f"{PROVIDERS[upstream]}/{model}", history, TOOLS, is_streamed=client != "gemini")
        turns.append((client, upstream, model, history + speaker.echo_without_reasoning(heard, ["sunny"])))
        speaker.close()

    def check(times: int) -> None:
        for client, upstream, model, history in turns:
            for _ in range(times):
                speaker = speakers[client](gateway.url)  # with a connection of its own
                assert speaker.send(f"{PROVIDERS[upstream]}/{model}", history, TOOLS).text == "Sunny."
                speaker.close()
                assert parse_request(vendor.received(model)[-1]).signatures == [SIGNATURE], (client, upstream)

    check(3)
    for pid in gateway.workers():
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    gateway.wait_until_ready()
    check(1)
    gateway.stop()
    gateway.start()
    check(1)


def test_a_seal_is_found_by_its_own_user_only(gateway, vendor):
    model = "claude-opus-4-6-others"
    vendor.scripts[model] = replies_with(looks("toolu_mine"), (b"sunny", VendorReply("Sunny.")))
    call = post(gateway, "openai_chat", f"anthropic-main/{model}").json["choices"][0]["message"]["tool_calls"][0]
    history = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
    ]
    for key, seals in ((ADMIN, [SIGNATURE]), (OTHER, [])):
        reply = gateway.post("/v1/chat/completions", {"model": f"anthropic-main/{model}", "messages": history}, key)
        assert reply.status == 200, reply.body
        seen = vendor.received(model)[-1]
        assert (parse_request(seen).signatures, schema_errors(seen)) == (seals, [])


@pytest.mark.parametrize("client", ["openai_responses", "anthropic", "gemini"])
def test_ids_that_repeat_do_not_mix_conversations_up(gateway, vendor, client):
    """Some models number their calls, starting anew in each conversation."""
    speaker = {one.name: one for one in SDK_CLIENTS}[client](gateway.url)
    turns = []
    for city, seal in (("Bonn", SIGNATURE), ("Rom", SIGNATURE[:-4] + "LTI=")):
        model = f"kimi-{client}-{city}"
        call = Call("get_weather", {"city": city, "days": 2}, f"functions.{client}:0")
        vendor.scripts[model] = replies_with(
            VendorReply(thinking=city, signature=seal, calls=(call,)), (b"sunny", VendorReply("Sunny."))
        )
        history = speaker.first_turn("How is it?")
        heard = speaker.send(f"chat-main/{model}", history, TOOLS)
        turns.append((model, history + speaker.echo_without_reasoning(heard, ["sunny"]), seal))
    for (model, history, seal), is_known in zip(turns, (False, True), strict=True):  # the newest is kept
        speaker.send(f"chat-main/{model}", history, TOOLS)
        assert parse_request(vendor.received(model)[-1]).signatures == ([seal] if is_known else [])
    speaker.close()


@pytest.mark.parametrize("client", ["openai_chat", "openai_responses", "anthropic"])
def test_gemini_3_gets_the_documented_word_where_a_signature_is_gone(gateway, vendor, client):
    model = f"gemini-3-flash-{client}"
    vendor.scripts[model] = replies_with(VendorReply("Sunny."))
    call = {"city": "Bonn"}
    history = {
        "openai_chat": {"messages": [
            {"role": "user", "content": "How?"},
            {"role": "assistant", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": json.dumps(call)}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
            {"role": "tool", "tool_call_id": "c2", "content": "2"}]},
        "openai_responses": {"input": [
            {"role": "user", "content": "How?"},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": json.dumps(call)},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
            {"type": "function_call_output", "call_id": "c2", "output": "2"}]},
        "anthropic": {"max_tokens": 9, "messages": [
            {"role": "user", "content": "How?"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": call},
                                              {"type": "tool_use", "id": "c2", "name": "g", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "1"},
                                         {"type": "tool_result", "tool_use_id": "c2", "content": "2"}]}]},
    }[client]  # fmt: skip
    reply = post(gateway, client, f"vertex-main/{model}", history)
    assert reply.status == 200
    (seen,) = vendor.received(model)
    parts = seen.json["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == ["skip_thought_signature_validator", None]
    assert re.search(r"reasoning_details|encrypted_content|signature", reply.headers["x-gproxy-lossy"])
    assert schema_errors(seen) == []


# -- what is refused -----------------------------------------------------------------------------------------------


def test_strict_translation_refuses_by_name(gateway, vendor):
    vendor.scripts["strict-model"] = replies_with(VendorReply("Hi"))
    assert post(gateway, "anthropic", "strict/strict-model").status == 200
    reply = post(gateway, "anthropic", "strict/strict-model", {"top_k": 5, "container": "x"})
    assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")
    assert re.search(r"container, top_k.*strict_translation", message(reply))
    reply = post(gateway, "openai_responses", "strict/strict-model", {"truncation": "auto"}, True)
    assert (reply.status, "truncation" in message(reply)) == (400, True)
    assert len(vendor.received("strict-model")) == 1
    # Its own protocol is not translated.
    assert post(gateway, "openai_chat", "strict/strict-model", {"logit_bias": {}}).status == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [("previous_response_id", "resp_1"), ("conversation", "conv_1"), ("background", True), ("prompt", {"id": "p"})],
)
@pytest.mark.parametrize("upstream", ["openai_chat", "anthropic", "gemini"])
def test_objects_stored_at_the_vendor_are_refused(gateway, vendor, upstream, field, value):
    reply = post(gateway, "openai_responses", f"{PROVIDERS[upstream]}/kept-there", {field: value})
    assert (reply.status, f"invalid_request: {field}:" in message(reply)) == (400, True)
    assert vendor.received("kept-there") == []


@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_a_thread_is_refused_as_anthropics_sdk_knows_it(gateway, path, thread):
    body = {"model": "vertex-main/gemini-2.5-pro", **HELLO["anthropic"], "thread": thread}
    reply = gateway.post(path, body)
    assert (reply.status, "invalid_request: thread:" in message(reply)) == (400, True)
    assert reply.json["error"]["details"] == {"error_code": "thread_unsupported_request", "unsupported": []}
    assert "details" not in gateway.post(path, {**body, "thread": None, "max_tokens": -1}).json["error"]


def test_cached_content_of_gemini_is_refused(gateway):
    reply = post(gateway, "gemini", "anthropic-main/claude-x", {"cachedContent": "cachedContents/1"})
    assert (reply.status, "cachedContent" in message(reply)) == (400, True)


def picture(client: str, url: str) -> dict:
    return {
        "openai_chat": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]},
        "openai_responses": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]},
        "anthropic": {
            "messages": [
                {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": url}}]},
            ]
        },
    }[client]


@pytest.mark.parametrize("client", ["openai_chat", "openai_responses", "anthropic"])
def test_an_address_of_an_image_goes_to_gemini_only_if_the_operator_lets_it_be_fetched(gateway, vendor, client):
    body = picture(client, "https://example.com/a.png")
    reply = post(gateway, client, "vertex-main/sees-url", body)
    assert (reply.status, "fetch_images" in message(reply)) == (400, True)
    assert "image" in message(reply)
    assert vendor.received("sees-url") == []
    for upstream in PROTOCOLS:
        if upstream in (client, "gemini"):
            continue
        model = f"sees-url-{client}"
        vendor.scripts[model] = replies_with(VendorReply("Nice."))
        assert post(gateway, client, f"{PROVIDERS[upstream]}/{model}", body).status == 200
        assert parse_request(vendor.received(model)[-1]).images == ["https://example.com/a.png"]


# "Nested too deeply" is reported of the body, not of a field.
DEEP: dict = {"type": "object"}
for _ in range(200):
    DEEP = {"type": "object", "properties": {"a": DEEP}}
CYCLE = {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}},
         "$defs": {"a": {"type": "object", "properties": {"again": {"$ref": "#/$defs/a"}}}}}  # fmt: skip


def nested(depth: int) -> dict:
    found: dict = {}
    for _ in range(depth):
        found = {"a": [found]}
    return found


def chat_call(arguments: str) -> dict:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "x"},
        ]
    }


def chat_tool(schema) -> dict:
    return {**HELLO["openai_chat"], "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]}


def responses_tool(schema) -> dict:
    return {"input": "Hi", "tools": [{"type": "function", "name": "f", "parameters": schema}]}


def claude_tool(schema) -> dict:
    return {**HELLO["anthropic"], "tools": [{"name": "f", "input_schema": schema}]}


def claude(*content, role: str = "user", **more) -> dict:
    return {"max_tokens": 9, "messages": [{"role": role, "content": list(content)}], **more}


def gemini(*parts, **more) -> dict:
    return {"contents": [{"role": "user", "parts": list(parts)}], **more}


TIFF = f"data:image/tiff;base64,{PIXEL}"
# client -> (body, a field that a 400 or a loss names). Towards some upstreams a row may be fine.
BAD = {
    "openai_chat": [
        (chat_call("{not json"), r"arguments|call 'c1'"),
        (chat_call("[1]"), r"arguments|call 'c1'"),
        (chat_call('"x"'), r"arguments|call 'c1'"),
        ({"messages": [{"role": "tool", "tool_call_id": "c9", "content": "x"}]}, "tool_call_id"),
        ({"messages": [{"role": "robot", "content": "x"}]}, r"messages\[0\].role"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\].role"),
        ({"messages": ["x"]}, r"messages\[0\]"),
        ({"messages": {"role": "user"}}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, "hologram|messages"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, r"messages\[0\].content\[0\].type"),
        ({"messages": [{"role": "user", "content": 7}]}, r"messages\[0\].content"),
        (picture("openai_chat", TIFF), "image_url"),
        (picture("openai_chat", "data:;base64,!!!"), "image_url"),
        (chat_tool(CYCLE), "parameters"),
        (chat_tool(DEEP), "parameters"),
        (chat_tool([1]), "parameters"),
        ({**HELLO["openai_chat"], "max_tokens": -1}, "max_tokens"),
        ({**HELLO["openai_chat"], "max_completion_tokens": "many"}, "max_completion_tokens"),
        ({**HELLO["openai_chat"], "temperature": "hot"}, "temperature"),
        ({**HELLO["openai_chat"], "tools": [{"type": "function"}]}, r"tools\[0\].function"),
        ({**HELLO["openai_chat"], "tool_choice": "perhaps"}, "tool_choice"),
        ({**HELLO["openai_chat"], "reasoning_effort": "enormous"}, "reasoning_effort"),
        ({**HELLO["openai_chat"], "response_format": {"type": "json_schema"}}, "response_format"),
        ({**HELLO["openai_chat"], "response_format": {"type": "xml"}}, "response_format"),
        ({**HELLO["openai_chat"], "metadata": nested(200)}, "metadata"),
        ({**HELLO["openai_chat"], "x_new": nested(200)}, "x_new"),
    ],
    "openai_responses": [
        ({"input": [{"type": "function_call_output", "call_id": "c9", "output": "x"}]}, "function_call_output"),
        ({"input": [{"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{"},
                    {"type": "function_call_output", "call_id": "c1", "output": "x"}]}, r"arguments|call 'c1'"),
        ({"input": [{"role": "robot", "content": "x"}]}, r"input\[0\].role"),
        ({"input": [{"type": "hologram"}]}, "hologram|input"),
        ({"input": [{"x": 1}]}, r"input\[0\].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, r"input\[0\]"),
        ({"input": 7}, "input"),
        ({}, "input"),
        (picture("openai_responses", TIFF), "input_image"),
        (responses_tool(CYCLE), "parameters"),
        (responses_tool(DEEP), "parameters"),
        ({"input": "Hi", "tools": [{"type": "hologram"}]}, "hologram"),
        ({"input": "Hi", "max_output_tokens": -1}, "max_output_tokens"),
        ({"input": "Hi", "text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"input": "Hi", "reasoning": {"effort": 7}}, "reasoning.effort"),
    ],
    "anthropic": [
        (claude({"type": "tool_result", "tool_use_id": "c9", "content": "x"}), "tool_result"),
        (claude({"type": "tool_use", "id": "c1", "name": "f", "input": "{"}, role="assistant"), "input"),
        (claude({"type": "hologram"}), "messages"),
        (claude({"type": "hologram"}, {"type": "text", "text": "x"}), "messages.content.hologram"),
        (claude({"text": "x"}), r"messages\[0\].content\[0\].type"),
        (claude({"type": "text", "text": "x"}, role="robot"), r"messages\[0\].role"),
        (claude({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "!!"}}), "data"),
        (claude({"type": "image", "source": {"type": "disk"}}), r"source.type"),
        (claude_tool(CYCLE), "input_schema|tools"),
        (claude_tool(DEEP), "input_schema|tools"),
        (claude_tool("x"), "input_schema"),
        ({**HELLO["anthropic"], "max_tokens": -1}, "max_tokens"),
        ({**HELLO["anthropic"], "thinking": {"type": "wild"}}, "thinking.type"),
        ({**HELLO["anthropic"], "thinking": {"type": "enabled", "budget_tokens": -5}}, "budget_tokens"),
        ({**HELLO["anthropic"], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({**HELLO["anthropic"], "system": 7}, "system"),
        (claude({"type": "tool_use", "id": "c1", "name": "f", "input": nested(200)}, role="assistant"), "input|tool"),
    ],
    "gemini": [
        (gemini({"functionResponse": {"name": "f", "response": {"a": 1}}}), "functionResponse"),
        (gemini({"functionCall": {"name": "f", "args": "{"}}), "functionCall"),
        (gemini({"functionCall": {"args": {}}}), r"functionCall.name"),
        (gemini({"hologram": 1}), "contents"),
        (gemini({"hologram": 1}, {"text": "x"}), "contents.parts.hologram"),
        (gemini({"inlineData": {"mimeType": "image/tiff", "data": PIXEL}}), "inlineData"),
        (gemini({"inlineData": {"mimeType": "image/png", "data": "!!"}}), "inlineData"),
        (gemini({"text": 7}), r"parts\[0\].text"),
        ({"contents": [{"role": "robot", "parts": [{"text": "x"}]}]}, r"contents\[0\].role"),
        ({"contents": 7}, "contents"),
        (gemini({"text": "x"}, tools=[{"functionDeclarations": [{"name": "f", "parametersJsonSchema": DEEP}]}]),
         "parameters|tools"),
        (gemini({"text": "x"}, tools=[{"functionDeclarations": [{"name": "f", "parameters": "x"}]}]),
         "parameters"),
        (gemini({"text": "x"}, generationConfig={"maxOutputTokens": -1}), "maxOutputTokens"),
        (gemini({"text": "x"}, generationConfig={"thinkingConfig": {"thinkingBudget": -7}}), "thinkingBudget"),
        (gemini({"text": "x"}, generationConfig={"responseSchema": "x"}), "responseSchema"),
        (gemini({"text": "x"}, toolConfig={"functionCallingConfig": {"mode": "PERHAPS"}}), "mode"),
    ],
}  # fmt: skip
ROWS = [(client, number) for client in BAD for number in range(len(BAD[client]))]


@pytest.mark.parametrize(("client", "number"), ROWS)
def test_bad_input_is_a_named_400_or_a_named_loss(gateway, vendor, client, number):
    """What is sent nevertheless is valid for the vendor."""
    body, named = BAD[client][number]
    model = f"bad-{client}-{number}"
    vendor.scripts[model] = replies_with(VendorReply("Hi"))
    losses = []
    for upstream in PROTOCOLS:
        if upstream == client:
            continue
        path, sent = addressed(client, f"{PROVIDERS[upstream]}/{model}", body)
        reply = gateway.post(path, sent)
        assert reply.status in (200, 400), (upstream, reply.body)
        if reply.status == 400:
            losses.append(message(reply))
            assert message(reply).startswith("invalid_request: ")
        else:
            losses.append(reply.headers["x-gproxy-lossy"] or "")
            assert schema_errors(vendor.received(model)[-1]) == []
    assert any(re.search(f"{named}|nested too deeply", one) for one in losses), losses
    # Where it is an error of the body itself, every upstream's client hears of it.
    refused = [one for one in losses if one.startswith("invalid_request")]
    for one in refused:
        assert re.search(f"{named}|nested too deeply", one), one


# -- routing -------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("provider", "client", "spoken"),
    [
        ("openai-main", "anthropic", "openai_responses"),
        ("openai-main", "gemini", "openai_responses"),
        ("openai-main", "openai_chat", None),
        ("openai-main", "openai_responses", None),
        ("chat-only", "openai_chat", None),
        ("chat-only", "openai_responses", "openai_chat"),
        ("chat-only", "anthropic", "openai_chat"),
        ("chat-only", "gemini", "openai_chat"),
        ("claude-only", "anthropic", None),
        ("claude-only", "openai_chat", "anthropic"),
        ("claude-only", "gemini", "anthropic"),
        ("quick", "anthropic", "openai_chat"),
        ("quick", "openai_responses", None),
        ("deep", "anthropic", None),
        ("deep", "gemini", "openai_chat"),
    ],
)
def test_who_is_spoken_to_in_what(gateway, vendor, provider, client, spoken, is_streamed):
    model = f"routed-{provider}-{client}"
    vendor.scripts[model] = replies_with(VendorReply("Hi"))
    reply = post(gateway, client, f"{provider}/{model}", None, is_streamed)
    assert (reply.status, b"Hi" in reply.body or b'"H"' in reply.body) == (200, True)
    assert reply.headers["x-gproxy-translated"] == (f"{client}->{spoken}" if spoken else None)
    assert vendor.received(model)[-1].protocol == (spoken or client)
    # Both ends of one connection agree on whether it streams.
    assert vendor.received(model)[-1].is_stream is is_streamed


def test_an_override_document_is_the_whole_table(gateway, vendor):
    for model in ("picky-1", "picky-2"):
        vendor.scripts[model] = replies_with(VendorReply("Hi", calls=(Call("f", {"a": 1}),)))
    reply = post(gateway, "openai_chat", "picky/picky-1")
    assert (reply.status, reply.headers["x-gproxy-translated"]) == (200, "openai_chat->openai_responses")
    # A whole reply that is made of a stream.
    reply = post(gateway, "anthropic", "picky/picky-2")
    assert reply.status == 200, reply.body
    assert [block["type"] for block in reply.json["content"]] == ["text", "tool_use"]
    assert reply.json["usage"]["output_tokens"] == OUTPUT
    assert vendor.received("picky-2")[0].is_stream
    assert gateway.wait_rows(1, model="picky-2")[0]["outcome"] == "complete"
    for client, is_streamed in (
        ("gemini", False),
        ("gemini", True),
        ("openai_chat", True),
        ("openai_responses", False),
    ):
        reply = post(gateway, client, "picky/picky-3", None, is_streamed)
        assert (reply.status, "unsupported" in message(reply)) == (501, True), (client, is_streamed)
    counted = gateway.post("/v1/messages/count_tokens", {"model": "picky/picky-3", **HELLO["anthropic"]})
    assert (counted.status, counted.headers["x-gproxy-estimated"]) == (200, "true")
    assert counted.json["input_tokens"] > 1
    assert gateway.post("/v1/embeddings", {"model": "picky/picky-3", "input": "x"}).status == 501
    assert vendor.received("picky-3") == []


def test_a_whole_reply_made_of_a_stream_that_breaks_is_an_error(gateway, vendor):
    vendor.scripts["picky-breaks"] = breaks_after(VendorReply("Hello there"), 2, "close")
    reply = post(gateway, "anthropic", "picky/picky-breaks")
    assert (reply.status, "upstream_error" in message(reply)) == (502, True)
    row = gateway.wait_rows(1, model="picky-breaks")[0]
    assert row["outcome"] in ("partial", "failed")


def test_presets_count_here(gateway, vendor):
    for path, body in (
        ("/v1/messages/count_tokens", {"model": "chat-only/m", **HELLO["anthropic"]}),
        ("/v1/responses/input_tokens", {"model": "chat-only/m", "input": "Hello"}),
        ("/v1beta/models/chat-only/m:countTokens", HELLO["gemini"]),
    ):
        reply = gateway.post(path, body)
        assert (reply.status, reply.headers["x-gproxy-estimated"]) == (200, "true")
    assert gateway.post("/v1/embeddings", {"model": "chat-only/m", "input": "x"}).status == 501


# -- how much to think, and what hosts are particular about --------------------------------------------------------

THINK = [
    ("openai_chat", {"reasoning_effort": "high"}, "anthropic", "claude-opus-4-6-a",
     {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}),
    ("openai_chat", {"reasoning_effort": "high", "max_completion_tokens": 8000}, "anthropic", "claude-sonnet-4-5-a",
     {"thinking": {"type": "enabled", "budget_tokens": 6000}}),
    ("openai_chat", {"reasoning_effort": "none"}, "anthropic", "claude-sonnet-4-5-b",
     {"thinking": {"type": "disabled"}}),
    ("openai_chat", {"reasoning_effort": "low"}, "gemini", "gemini-3-pro-a",
     {"generationConfig.thinkingConfig": {"includeThoughts": True, "thinkingLevel": "LOW"}}),
    ("openai_chat", {"reasoning_effort": "low"}, "gemini", "gemini-2.5-pro-a",
     {"generationConfig.thinkingConfig": {"includeThoughts": True, "thinkingBudget": 1024}}),
    ("openai_chat", {"reasoning_effort": "medium"}, "openai_responses", "gpt-5-a",
     {"reasoning": {"effort": "medium"}, "include": ["reasoning.encrypted_content"], "store": False}),
    ("anthropic", {"thinking": {"type": "enabled", "budget_tokens": 2048}, "max_tokens": 4000}, "gemini",
     "gemini-2.5-pro-b", {"generationConfig.thinkingConfig": {"includeThoughts": True, "thinkingBudget": 2048}}),
    ("anthropic", {"thinking": {"type": "enabled", "budget_tokens": 2048}, "max_tokens": 4000}, "openai_responses",
     "gpt-5-b", {"reasoning": {"effort": "minimal", "summary": "auto"}}),
    ("anthropic", {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}, "openai_chat", "gpt-5-c",
     {"reasoning_effort": "high"}),
    ("gemini", {"generationConfig": {"thinkingConfig": {"thinkingLevel": "HIGH", "includeThoughts": True}}},
     "anthropic", "claude-opus-4-6-c",
     {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "high"}}),
    ("gemini", {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}}, "openai_responses", "gpt-5.1-d",
     {"reasoning": {"effort": "none"}}),
    ("openai_responses", {"reasoning": {"effort": "high", "summary": "auto"}}, "gemini", "gemini-3-pro-d",
     {"generationConfig.thinkingConfig": {"includeThoughts": True, "thinkingLevel": "HIGH"}}),
    ("openai_responses", {"reasoning": {"effort": "low"}}, "openai_chat", "gpt-4.1-x", {"reasoning_effort": None}),
]  # fmt: skip


@pytest.mark.parametrize(("client", "body", "upstream", "model", "expected"), THINK)
def test_how_much_to_think_arrives(gateway, vendor, client, body, upstream, model, expected):
    vendor.scripts[model] = replies_with(VendorReply("Hi"))
    reply = post(gateway, client, f"{PROVIDERS[upstream]}/{model}", body)
    assert reply.status == 200, reply.body
    (seen,) = vendor.received(model)
    for place, value in expected.items():
        found = seen.json
        for key in place.split("."):
            found = found.get(key, {}) if key != place.split(".")[-1] else found.get(key)
        assert found == value, place
    assert schema_errors(seen) == []
    if expected == {"reasoning_effort": None}:
        assert "reasoning" in reply.headers["x-gproxy-lossy"]


def test_deepseek_gets_words_for_a_schema_and_its_thinking_back(gateway, vendor):
    vendor.scripts["deepseek-chat"] = replies_with(VendorReply("{}", thinking="Hm."), (b"sunny", VendorReply("Sunny.")))
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    text = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    reply = post(gateway, "openai_responses", "deep/deepseek-chat", {"text": text, "max_output_tokens": 50,
                                                                     "reasoning": {"effort": "high"}})  # fmt: skip
    sent = vendor.received("deepseek-chat")[0].json
    assert sent["response_format"] == {"type": "json_object"}
    assert json.dumps(schema, separators=(",", ":")) in sent["messages"][0]["content"]
    assert (sent["max_tokens"], sent["thinking"]) == (50, {"type": "enabled"})
    assert "max_completion_tokens" not in sent
    assert reply.headers["x-gproxy-lossy"] == "text.format"
    again = [{"role": "user", "content": "Hi"}, *reply.json["output"], {"role": "user", "content": "sunny"}]
    assert post(gateway, "openai_responses", "deep/deepseek-chat", {"input": again}).status == 200
    assert vendor.received("deepseek-chat")[1].json["messages"][1]["reasoning_content"] == "Hm."


def test_groq_is_not_sent_what_it_refuses(gateway, vendor):
    vendor.scripts["llama"] = replies_with(VendorReply("Hi"))
    body = {"generationConfig": {"candidateCount": 2, "responseLogprobs": True, "temperature": 0.5}}
    reply = post(gateway, "gemini", "quick/llama", body)
    sent = vendor.received("llama")[0].json
    assert not {"n", "logprobs", "top_logprobs"} & set(sent)
    assert sent["temperature"] == 0.5
    assert reply.headers["x-gproxy-lossy"] == "generationConfig.candidateCount, generationConfig.responseLogprobs"


# -- unusual vendors and fields ------------------------------------------------------------------------------------


@EVERY_PAIR
def test_a_vendor_that_does_not_stream_is_streamed_all_the_same(gateway, vendor, client, upstream):
    model = f"whole-only-{client}-{upstream}"
    said = VendorReply("Hello you", calls=(Call("f", {"a": 1}),))
    vendor.scripts[model] = answers(200, dumps(whole_reply(upstream, "m", said)))
    speaker = {one.name: one for one in SDK_CLIENTS}[client](gateway.url)
    heard = speaker.send(f"{PROVIDERS[upstream]}/{model}", speaker.first_turn("Hi"), (), True)
    speaker.close()
    assert (heard.text, heard.calls, heard.stop, heard.output_tokens) == (
        "Hello you",
        [("f", {"a": 1})],
        "tools",
        OUTPUT,
    )
    row = gateway.wait_rows(1, model=model)[0]
    assert (row["outcome"], row["output_tokens"]) == ("complete", OUTPUT)


@BOTH
@pytest.mark.parametrize("client", ["anthropic", "gemini", "openai_responses"])
def test_an_error_with_a_good_status_is_one_and_costs_nothing(gateway, vendor, client, is_streamed):
    model = f"liar-{client}-{is_streamed}"
    vendor.scripts[model] = answers(200, dumps({"error": {"message": "no money left", "type": "x", "code": None}}))
    reply = post(gateway, client, f"chat-main/{model}", None, is_streamed)
    assert (reply.status, "no money left" in message(reply)) == (502, True)
    row = gateway.wait_rows(1, model=model)[0]
    assert (row["outcome"], row["cost"]) == ("failed", 0)


@EVERY_PAIR
def test_events_leave_as_they_come(gateway, vendor, client, upstream):
    model = f"paced-{client}-{upstream}"
    said = VendorReply("Hello there, my friend")
    vendor.scripts[model] = breaks_after(said, None, "clean", pause_s=0.06)
    speaker = {one.name: one for one in SDK_CLIENTS}[client](gateway.url)
    arrived = [(time.monotonic(), text) for text in speaker.stream_text(f"{PROVIDERS[upstream]}/{model}")]
    speaker.close()
    assert [text for _, text in arrived] == said.text_parts
    assert arrived[1][0] - arrived[0][0] > 0.03


@EVERY_PAIR
def test_no_key_crosses_a_translation(gateway, vendor, client, upstream):
    """An upstream that echoes its key is masked, in errors and in streams."""

    async def echo(seen, reader, writer):
        key = next(key for key in UPSTREAM_KEYS if key in str(seen.headers))  # in one event of a stream
        script = (
            replies_with(VendorReply(f"{60 * 'x'} {key}")) if seen.is_stream else answers_error(400, f"bad key {key}")
        )
        await script(seen, reader, writer)

    model = f"echo-{client}-{upstream}"
    vendor.scripts[model] = echo
    for is_streamed in (False, True):
        reply = post(gateway, client, f"{PROVIDERS[upstream]}/{model}", None, is_streamed)
        assert reply.status == (200 if is_streamed else 400)
        assert not any(key.encode() in reply.body for key in UPSTREAM_KEYS)
    seen = vendor.received(model)[0]
    assert ADMIN not in f"{seen.headers}{seen.path}{seen.query}{seen.body}"
    assert not any(key in gateway.everything_printed() for key in UPSTREAM_KEYS)


def test_only_headers_of_the_upstreams_own_protocol_pass(gateway, vendor):
    vendor.scripts["headers"] = replies_with(VendorReply("Hi"))
    asks = {"anthropic_beta": "b1", "openai_beta": "b2", "traceparent": "00-1-2-03"}
    post(gateway, "openai_chat", "anthropic-main/headers", None, **asks)
    post(gateway, "anthropic", "chat-main/headers", None, **asks)
    first, second = vendor.received("headers")
    assert (first.headers.get("anthropic-beta"), first.headers.get("openai-beta")) == ("b1", None)
    assert (second.headers.get("anthropic-beta"), second.headers.get("openai-beta")) == (None, "b2")
    assert {seen.headers["traceparent"] for seen in (first, second)} == {"00-1-2-03"}
    assert first.headers["anthropic-version"]
    path, body = addressed("gemini", "chat-main/headers", HELLO["gemini"])
    assert gateway.post(f"{path}?alt=json&prettyPrint=true", body).status == 200
    assert vendor.received("headers")[2].query == ""


@pytest.mark.parametrize("upstream", ["openai_chat", "openai_responses", "anthropic"])
def test_a_cut_array_for_gemini_is_still_json(gateway, vendor, upstream):
    model = f"cut-array-{upstream}"
    count = {"openai_chat": 2, "openai_responses": 5, "anthropic": 3}[upstream]
    vendor.scripts[model] = breaks_after(VendorReply("Hello there"), count, "close")
    reply = gateway.post(f"/v1beta/models/{PROVIDERS[upstream]}/{model}:streamGenerateContent", HELLO["gemini"])
    assert reply.headers["Content-Type"].startswith("application/json")
    assert reply.json[0]["candidates"][0]["content"]["parts"][0]["text"] == "Hello"
    assert reply.json[-1]["error"]["message"].startswith("upstream_error")


def test_names_are_the_clients_over_aliases_and_scoped_paths(gateway, vendor):
    claude, google = SDK_CLIENTS[2](gateway.url), SDK_CLIENTS[3](gateway.url)
    for is_streamed in (False, True):
        assert claude.send("chat-default", claude.first_turn("Hi"), (), is_streamed).model == "chat-default"
        assert google.send("fast-4.1-mini", google.first_turn("Hi"), (), is_streamed).model == "fast-4.1-mini"
    claude.close()
    google.close()
    scoped = SDK_CLIENTS[2](f"{gateway.url}/openai-main")
    assert scoped.send("gpt-4.1-mini", scoped.first_turn("Hi")).model == "gpt-4.1-mini"
    assert scoped.headers["x-gproxy-translated"] == "anthropic->openai_responses"
    scoped.close()
    assert vendor.received("gpt-4.1-mini")[-1].path == "/v1/responses"


def test_permission_is_checked_before_a_body_is_translated(gateway):
    path, body = addressed("openai_chat", "chat-main/claude", {"messages": 7})
    assert gateway.post(path, body, "sk-dev-0002").status == 403
    assert gateway.post(path, body, None).status == 401


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.png", "http://169.254.169.254/a.png", "http://[::1]/a.png"])
def test_an_address_inside_is_never_fetched(gateway, vendor, url):
    reply = post(gateway, "openai_chat", "fetching/sees-inside", picture("openai_chat", url))
    assert (reply.status, "image_url" in message(reply)) == (400, True)
    assert vendor.received("sees-inside") == []
    assert gateway.usages(model="sees-inside") == []
