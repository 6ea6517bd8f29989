"""What passes through a gateway and what does not: names, fields, headers, keys, errors, bad input."""

import json
import socket
import threading
import time

import pytest

from tests.gateway import ADMIN, DEV, OTHER, UPSTREAM_KEYS
from tests.vendor import STREAM_HEAD, answers, chunk, dumps, events, refuses, sends, streams, whole

CHAT = "openai-main/gpt-4.1-mini"
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-admin-1\r\n"


def raw(gateway, data: bytes, timeout_s: float = 5, half_close: bool = False) -> bytes:
    """Sends these bytes and returns the bytes of the reply."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout_s) as sock:
        sock.sendall(data)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        got = b""
        while piece := sock.recv(65536):
            got += piece
        return got


def test_unknown_fields_survive_and_only_the_model_changes(gateway, vendor):
    vendor.seen.clear()
    content = b'"\\u00fc \\"model\\": \\"x\\""'
    body = b'{"model" : "openai-main/gpt-4.1-mini", "x_new":{"a":[1.0, 2e3]}, "messages":[{"content":%s}]}' % content
    assert gateway.post("/v1/chat/completions", body).status == 200
    sent = vendor.received("gpt-4.1-mini")[-1]
    assert b'"x_new":{"a":[1.0, 2e3]}' in sent.body
    assert content in sent.body
    assert sent.path == "/v1/chat/completions"


def test_a_body_that_needs_no_change_passes_byte_for_byte(gateway, vendor):
    body = b'{ "model":"gpt-4.1-mini",  "messages":[ {"role":"user","content":"Hi"} ]}'
    assert gateway.post("/openai-main/v1/chat/completions", body).status == 200
    assert vendor.received("gpt-4.1-mini")[-1].body == body


def test_headers_and_query_pass_by_allow_list(gateway, vendor):
    gateway.request(
        "POST",
        "/v1/chat/completions?key=sk-admin-1&alt=x&trace=on",
        {"model": CHAT, "messages": []},
        ADMIN,
        traceparent="00-1-2-03",
        x_team="blue",
        Cookie="session=1",
        anthropic_beta="b1",
        openai_beta="b2",
        x_stainless_lang="python",
    )
    sent = vendor.received("gpt-4.1-mini")[-1]
    assert sent.query == "trace=on"
    assert (sent.headers["traceparent"], sent.headers["x-team"], sent.headers["openai-beta"]) == (
        "00-1-2-03",
        "blue",
        "b2",
    )
    assert not {"cookie", "anthropic-beta", "x-stainless-lang", "x-forwarded-for"} & set(sent.headers)
    assert sent.headers["user-agent"].startswith("gproxy")


def test_the_answer_carries_its_headers(gateway):
    reply = gateway.chat(CHAT, key=ADMIN)
    headers = {name.lower(): value for name, value in reply.headers.items()}
    assert headers["x-gproxy-provider"] == "openai-main"
    assert headers["x-upstream-request-id"] == "req_up"
    assert headers["x-gproxy-cost-usd"] == "0.000068800"  # 12 × 0.40 + 40 × 1.60 per million
    assert 0 <= float(headers["x-gproxy-overhead-ms"]) < 1000
    assert headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(("sent", "kept"), [("abc-123", True), ("a b", False), ("x" * 200, False)])
def test_a_sane_request_id_is_kept(gateway, sent, kept):
    reply = gateway.post("/v1/chat/completions", {"model": CHAT, "messages": []}, ADMIN, x_request_id=sent)
    assert (reply.headers["x-request-id"] == sent) is kept
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {ADMIN}"},
        {"Authorization": f"bearer {ADMIN}"},
        {"x-api-key": ADMIN},
        {"x-goog-api-key": ADMIN},
        {"Authorization": "Bearer  ", "x-api-key": ADMIN},
    ],
)
def test_every_key_location(gateway, headers):
    body = {"model": CHAT, "messages": []}
    assert gateway.request("POST", "/v1/chat/completions", body, None, **headers).status == 200


def test_a_key_in_the_query_opens_llm_routes_only(gateway):
    assert gateway.request("POST", f"/v1/chat/completions?key={ADMIN}", {"model": CHAT, "messages": []}).status == 200
    assert gateway.request("POST", f"/admin/usages/summary?key={ADMIN}", {}).status == 401


def test_one_text_for_every_reason_of_a_401(gateway):
    keys = [None, "sk-unknown", "sk-dev-disabled", "sk-dev-expired", "sk-gone-0001", "a\nb".replace("\n", "%0A")]
    replies = [gateway.chat(CHAT, key=key) for key in keys]
    assert {reply.status for reply in replies} == {401}
    assert len({reply.json["error"]["message"] for reply in replies}) == 1


def test_a_client_key_with_a_newline_is_refused(gateway):
    assert gateway.request("POST", "/v1/chat/completions?key=sk%0Aadmin", {"model": CHAT}).status == 401
    split = b"Host: x\r\nConnection: close\r\nAuthorization: Bearer sk\n-admin: 1\r\n\r\n"
    got = raw(gateway, b"POST /v1/chat/completions HTTP/1.1\r\n" + split)
    assert got.startswith((b"HTTP/1.1 400", b"HTTP/1.1 401"))


@pytest.mark.parametrize(
    ("path", "model", "key", "status"),
    [
        ("/v1", "openai-main/gpt-4.1-mini", DEV, 200),
        ("/v1", "chat-default", DEV, 200),
        ("/v1", "gpt-4.1-mini", DEV, 200),  # one provider registered it
        ("/v1", "fast-4.1-mini", ADMIN, 200),
        ("/v1", "fast-4.1-mini", DEV, 403),  # an alias does not inherit its target's permission
        ("/v1", "openai-main/o1", DEV, 403),
        ("/v1", "anthropic-main/claude", DEV, 403),
        ("/v1", "nowhere/claude-3", OTHER, 404),
        ("/v1", "nowhere/gpt", DEV, 403),
        ("/v1", "nowhere/gpt", ADMIN, 404),
        ("/v1", "off/gpt", ADMIN, 404),
        ("/v1", "openai-main/retired", ADMIN, 404),
        ("/v1", "unprefixed", DEV, 400),
        ("/openai-main/v1", "openai-main/gpt-4.1-mini", DEV, 200),
        ("/openai-main/v1", "gpt-anything", DEV, 200),
        ("/nowhere/v1", "gpt", DEV, 403),
        ("/nowhere/v1", "gpt", ADMIN, 404),
        ("/off/v1", "gpt", ADMIN, 404),
        ("/v1", "keyless/llama", ADMIN, 503),
        ("/v1", "anthropic-main/claude", ADMIN, 200),  # another protocol
        ("/v1", "unreachable/m", ADMIN, 502),
    ],
)
def test_which_model(gateway, path, model, key, status):
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    reply = gateway.post(f"{path}/chat/completions", body, key)
    assert reply.status == status, reply.body
    if status == 200:
        assert reply.json["model"] == model


def test_an_error_names_the_provider_only_once_permitted(gateway):
    assert gateway.chat("unreachable/m").headers["x-gproxy-provider"] == "unreachable"
    assert gateway.chat("anthropic-main/claude", key=DEV).headers["x-gproxy-provider"] is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"model": ', "not readable JSON"),
        (b"[1]", "must be a JSON object"),
        (b"", "not readable JSON"),
        (b"\xff\xfe", "not readable JSON"),
        (b"{}", "model: missing"),
        (b'{"model": 7}', "model: expected a string"),
        (b'{"model": null}', "model: missing"),
        (b'{"model": "x", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_errors_of_bad_bodies_name_the_fault(gateway, path, body, message):
    reply = gateway.post(path, body)
    assert (reply.status, "invalid_request" in reply.json["error"]["message"]) == (400, True)
    assert message in reply.json["error"]["message"]


def test_errors_have_the_shape_of_their_protocol(gateway):
    claude = gateway.post("/v1/messages", b"{").json
    assert (claude["type"], claude["error"]["type"]) == ("error", "invalid_request_error")
    gemini = gateway.post("/v1beta/models/vertex-main/g:generateContent", b"{").json
    assert (gemini["error"]["code"], gemini["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert gateway.get("/v1beta/nothing").json["error"]["status"] == "NOT_FOUND"
    assert gateway.get("/nothing", anthropic_version="2023-06-01").json["type"] == "error"
    assert gateway.get("/nothing").json["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/openai-main/v1/responses", "/v1/models"])
def test_a_wrong_method_says_which_is_right(gateway, path):
    reply = gateway.request("DELETE", path, None, ADMIN)
    assert (reply.status, reply.json["error"]["code"]) == (405, "method_not_allowed")
    assert ("GET" if path.endswith("models") else "POST") in reply.headers["Allow"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/responses/compact"),
        ("POST", "/openai-main/v1/images/edits"),
        ("POST", "/v1/audio/speech"),
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("GET", "/v1/files"),
    ],
)
def test_routes_to_come_say_so_after_the_key(gateway, method, path):
    body = {} if method == "POST" else None
    assert gateway.request(method, path, body, ADMIN).status == 501
    assert gateway.request(method, path, body).status == 401


def test_slashes_do_not_make_another_path(gateway):
    assert gateway.post("//v1//chat/completions/", {"model": CHAT, "messages": []}).status == 200


def test_preflight_needs_no_key_and_cors_stands_on_llm_routes_only(gateway):
    reply = gateway.request("OPTIONS", "/v1/chat/completions")
    assert (reply.status, reply.headers["Access-Control-Allow-Origin"]) == (204, "*")
    assert gateway.post("/admin/usages/summary").headers["Access-Control-Allow-Origin"] is None
    assert gateway.chat(CHAT, key=None).headers["Access-Control-Allow-Origin"] == "*"


def test_gemini_streams_an_array_without_alt(gateway):
    path = "/v1beta/models/vertex-main/gemini-1.5-flash:streamGenerateContent"
    body = {"contents": [{"parts": [{"text": "Hi"}]}]}
    array = gateway.post(path, body)
    assert array.status == 200, array.body
    assert array.headers["Content-Type"].startswith("application/json")
    assert array.json[-1]["candidates"][0]["finishReason"] == "STOP"
    events = gateway.post(f"{path}?alt=SSE", body)
    assert events.headers["Content-Type"].startswith("text/event-stream")
    assert [json.loads(line[6:]) for line in events.body.decode().splitlines() if line] == array.json


def test_a_cut_gemini_array_is_still_json_and_ends_in_an_error(gateway, vendor):
    vendor.scripts["cut-array"] = streams(2, "close")
    reply = gateway.post("/v1beta/models/vertex-main/cut-array:streamGenerateContent", {"contents": []})
    assert reply.json[-1]["error"]["message"].startswith("upstream_error")


@pytest.mark.parametrize(
    ("name", "script", "status", "label"),
    [
        ("redirects", answers(302, b"", {"Location": "http://127.0.0.1:1/"}), 502, "upstream_error"),
        ("not-json", answers(200, b"<html>"), 502, "upstream_error"),
        ("no-http", sends(b"SSH-2.0-OpenSSH\r\n\r\n", "close"), 502, "upstream_error"),
        ("closes", sends("close"), 502, "upstream_error"),
        ("resets", sends("reset"), 502, "upstream_error"),
        ("half-head", sends(b"HTTP/1.1 200 OK\r\nContent-", "close"), 502, "upstream_error"),
        ("short-body", sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "close"), 502, "upstream_error"),
        ("silent", sends("hang"), 504, "upstream_timeout"),
        ("stalls", sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "hang"), 504, "upstream_timeout"),
        (
            "broken-chunk",
            sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{", "close"),
            502,
            "upstream_error",
        ),
    ],
)
def test_a_failing_upstream_is_reported_by_its_fault(gateway, vendor, name, script, status, label):
    vendor.scripts[name] = script
    reply = gateway.chat(f"openai-main/{name}")
    assert (reply.status, reply.json["error"]["code"]) == (status, label), reply.body
    row = gateway.wait_rows(1, model=name)[0]
    assert (row["outcome"], row["status"], row["cost"], row["output_tokens"]) == ("failed", status, 0, 0)


def test_a_stale_connection_costs_a_clear_error_at_most(gateway, vendor):
    """The vendor closes kept connections; the next calls open new ones."""
    vendor.scripts["then-closes"] = sends(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", "close"
    )
    assert [gateway.chat("openai-main/then-closes").status for _ in range(6)] == [200] * 6


def test_an_upstreams_error_passes_byte_for_byte_in_streams_too(gateway, vendor):
    vendor.scripts["teapot"] = refuses(418, "no coffee", {"x-ratelimit-remaining-requests": "3", "set-cookie": "a=b"})
    for stream in (False, True):
        reply = gateway.chat("openai-main/teapot", stream=stream)
        assert (reply.status, reply.json["error"]["message"]) == (418, "no coffee")
        assert reply.headers["x-ratelimit-remaining-requests"] == "3"
        assert reply.headers["set-cookie"] is None


def test_no_key_crosses_the_gateway(gateway, vendor):
    """No key is shown although the upstream echoes everything, also in errors; the client's key is not passed on."""

    async def echo(seen, reader, writer):
        reply = {"error": {"message": f"bad key in {seen.headers}", "type": "x", "code": None}}
        writer.write(
            b"HTTP/1.1 400 No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(dumps(reply))
        )
        writer.write(dumps(reply))

    vendor.scripts["echo"] = echo
    for _ in range(4):
        reply = gateway.chat("openai-main/echo")
        assert reply.status == 400
        assert not any(key.encode() in reply.body for key in UPSTREAM_KEYS)
    for seen in list(vendor.seen):
        assert not any(key in f"{seen.headers}{seen.path}{seen.query}{seen.body}" for key in (ADMIN, DEV, OTHER))
    for key in (*UPSTREAM_KEYS, ADMIN, DEV, OTHER):
        assert key not in gateway.everything_printed()


def test_a_key_that_comes_in_two_pieces_or_in_a_header_is_masked_too(gateway, vendor):
    async def echo(seen, reader, writer):
        import asyncio

        key = seen.headers["authorization"].removeprefix("Bearer ").encode()
        reply = b'{"error": {"message": "bad key %s here"}}' % key
        head = b"HTTP/1.1 400 No\r\nx-ratelimit-key: %s\r\nx-request-id: %s\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % (key, key, len(reply)) + reply[:40])
        await asyncio.sleep(0.2)
        writer.write(reply[40:])

    async def streamed(seen, reader, writer):
        import asyncio

        key = seen.headers["authorization"].removeprefix("Bearer ").encode()
        event = events("openai_chat", "m")[1].replace(b"Hello", b"a " + key)
        writer.write(STREAM_HEAD + chunk(event[:-40]))
        await asyncio.sleep(0.2)
        writer.write(chunk(event[-40:]) + b"0\r\n\r\n")

    vendor.scripts["echo-pieces"], vendor.scripts["echo-stream"] = echo, streamed
    for model, stream in (("echo-pieces", False), ("echo-stream", True)):
        for _ in range(3):
            reply = gateway.chat(f"openai-main/{model}", stream=stream)
            received = reply.body + str(reply.headers).encode()
            assert b"****" in received
            assert not any(key.encode() in received for key in UPSTREAM_KEYS)


@pytest.mark.parametrize("end", [b"", b"Connection: close\r\n"])
def test_timeouts_hold_whatever_the_upstream_says_of_its_connection(gateway, vendor, end):
    name = f"silent-{len(end)}"
    vendor.scripts[name] = sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n" + end + b"\r\n{", "hang")
    started = time.monotonic()
    assert gateway.chat(f"openai-main/{name}").status == 504
    assert time.monotonic() - started < 3


def test_an_odd_header_name_of_an_upstream_harms_nobody(gateway, vendor):
    odd = STREAM_HEAD.replace(b"x-request-id", b"x-ratelimit-a(b)")
    vendor.scripts["odd-header"] = sends(odd, *map(chunk, events("openai_chat", "m")), b"0\r\n\r\n")
    reply = gateway.chat("openai-main/odd-header", stream=True)
    assert (reply.status, reply.body.endswith(b"[DONE]\n\n")) == (200, True)
    assert gateway.wait_rows(1, model="odd-header")[0]["outcome"] == "complete"


@pytest.mark.parametrize("tail", [b"zz\r\n{}", b"2\r\n{}\r\n0\r\nbad trailer\r\n\r\n"])
def test_broken_chunks_are_a_bad_request(gateway, tail):
    got = raw(gateway, HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + tail)
    assert b" 400 " in got.split(b"\r\n")[0]
    assert b"invalid_request" in got


def test_a_compressed_body_is_named(gateway):
    reply = gateway.post("/v1/chat/completions", b"\x1f\x8b...", ADMIN, Content_Encoding="gzip")
    assert (reply.status, "content-encoding" in reply.json["error"]["message"]) == (400, True)


def test_an_event_cut_in_its_middle_is_not_passed_on(gateway, vendor):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    vendor.scripts["half-event"] = sends(head, events("openai_chat", "m")[1], b'data: {"id":"chatcmpl', "close")
    reply = gateway.chat("openai-main/half-event", stream=True)
    frames = [line[6:] for line in reply.body.decode().splitlines() if line.startswith("data: ")]
    assert [sorted(json.loads(frame)) for frame in frames][1:] == [["error"]]


def test_a_deep_reply_without_usage_passes(gateway, vendor):
    deep = b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}"
    vendor.scripts["deep"] = answers(200, deep)
    assert gateway.chat("openai-main/deep").body == deep
    demo = b'{"model": "demo/demo-1", "messages": [{"content": ' + b"[" * 900 + b"]" * 900 + b"}]}"
    assert gateway.post("/v1/chat/completions", demo).status == 200
    assert (
        gateway.post("/v1/chat/completions", b'{"model":"demo/demo-1","messages":[{"content":"\\ud800"}]}').status
        == 200
    )


def test_anthropic_finds_its_request_id_and_nobody_repeats_a_501(gateway):
    reply = gateway.post("/v1/messages", {"model": "anthropic-main/claude", "max_tokens": 1, "messages": []})
    assert reply.headers["request-id"] == reply.headers["x-request-id"]
    refused = gateway.request("GET", "/v1/files", None, ADMIN, anthropic_version="2023-06-01")
    assert (refused.status, refused.headers["x-should-retry"], bool(refused.headers["request-id"])) == (
        501,
        "false",
        True,
    )
    assert gateway.request("GET", "/v1/messages", None, ADMIN).json["type"] == "error"


def test_gemini_paths_work_without_models(gateway):
    reply = gateway.post("/v1beta/vertex-main/gemini-1.5-flash:generateContent", {"contents": []})
    assert (reply.status, reply.json["modelVersion"]) == (200, "vertex-main/gemini-1.5-flash")


def test_credentials_take_turns(gateway, vendor):
    vendor.seen.clear()
    for _ in range(40):
        gateway.chat("openai-main/turns")
    used = {seen.headers["authorization"] for seen in vendor.received("turns")}
    assert used == {"Bearer sk-upstream-openai-aaaa", "Bearer sk-upstream-openai-bbbb"}


def test_a_body_over_the_cap_is_413_and_the_connection_lives(gateway):
    reply = gateway.post("/v1/chat/completions", b"x" * (70 * 1024 * 1024))
    assert (reply.status, reply.json["error"]["code"]) == (413, "too_large")


def test_a_chunked_body_over_the_cap_is_413(own_gateway):
    small = own_gateway(GPROXY_MAX_BODY="1000", workers=1)
    head = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    assert b" 413 " in raw(small, head + b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n").split(b"\r\n")[0]


def test_a_truncated_body_is_refused(gateway, vendor):
    body = dumps({"model": "openai-main/truncated", "messages": []})
    got = raw(gateway, HEAD + b"Content-Length: %d\r\n\r\n" % (len(body) + 5) + body, half_close=True)
    assert b" 400 " in got.split(b"\r\n")[0]
    assert b"cut off" in got
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (len(body) + 5) + body
    assert b" 400 " in raw(gateway, chunked, half_close=True).split(b"\r\n")[0]
    assert not vendor.received("truncated")


def test_a_slow_body_is_timed_out(own_gateway):
    slow = own_gateway(GPROXY_BODY_TIMEOUT="1", workers=1)
    head = HEAD + b"Content-Length: 100\r\nConnection: close\r\n\r\n{"
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", slow.port), 10) as sock:
        sock.sendall(head)
        got = sock.recv(65536)
    assert b" 408 " in got.split(b"\r\n")[0]
    assert time.monotonic() - started < 5


def test_requests_and_bytes_in_flight_are_capped(own_gateway, vendor):
    vendor.scripts["waits"] = sends(2.0, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    small = own_gateway(GPROXY_MAX_INFLIGHT="3", GPROXY_MAX_INFLIGHT_BYTES="100000", workers=1)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(small.chat("openai-main/waits").status)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.8)
    full = small.chat("openai-main/waits")
    assert (full.status, full.json["error"]["code"], full.headers["Retry-After"]) == (503, "overloaded", "1")
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 3 + [503] * 5
    big = small.chat("openai-main/gpt-4.1-mini", padding="x" * 200_000)
    assert (big.status, big.json["error"]["code"]) == (503, "overloaded")
    assert small.chat("openai-main/gpt-4.1-mini").status == 200
    assert small.get("/readyz").json["in_flight"] == 0


def test_a_connection_that_is_always_ready_lets_others_come_up(own_gateway):
    alone = own_gateway(workers=1)
    many = 1_500
    answered, began = [], threading.Event()

    def read(sock: socket.socket) -> None:
        while len(answered) < many and (piece := sock.recv(65536)):
            answered.extend([1] * piece.count(b"HTTP/1.1 200"))
            began.set()

    with socket.create_connection(("127.0.0.1", alone.port), 30) as sock:
        reader = threading.Thread(target=read, args=(sock,))
        reader.start()
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * many)
        began.wait(10)
        assert alone.get("/healthz").status == 200
        before = len(answered)
        reader.join()
    assert len(answered) == many
    assert before < many / 2


def test_lists_survive_a_failing_upstream(gateway, vendor):
    assert whole("openai_chat", "x")["model"] == "x"
    listed = {model["id"] for model in gateway.get("/v1/models", ADMIN).json["data"]}
    assert "openai-main/gpt-4.1-mini" in listed
    assert not any(name.startswith(("unreachable/", "off/")) for name in listed)
    assert "openai-main/retired" not in listed


def test_lists_show_what_a_user_may_use(gateway):
    assert [m["id"] for m in gateway.get("/v1/models", DEV).json["data"]] == [
        "chat-default",
        "openai-main/gpt-4.1-mini",
    ]
    assert [m["id"] for m in gateway.get("/v1/models", OTHER).json["data"]] == [
        "anthropic-main/claude-3-5-sonnet-latest"
    ]
    assert gateway.get("/v1/models/openai-main/gpt-4.1-mini", OTHER).status == 403
    assert gateway.get("/openai-main/v1/models", DEV).json["data"][0]["id"] == "chat-default"


def test_shapes_of_lists_are_decided_by_headers_and_version(gateway):
    assert gateway.get("/v1/models?limit=5&pageSize=2&after_id=x", ADMIN).json["object"] == "list"
    assert gateway.get("/v1/models", ADMIN, anthropic_version="2023-06-01").json["has_more"] is False
    assert gateway.get("/v1/models", None, x_api_key=ADMIN).json["data"][0]["type"] == "model"
    assert "models" in gateway.get("/v1beta/models", ADMIN).json
    assert "models" in gateway.get("/vertex-main/v1beta/models", ADMIN).json
    # a vendor's own fields survive in its own shape
    flash = gateway.get("/v1beta/models/vertex-main/gemini-1.5-flash", ADMIN).json
    assert (flash["name"], flash["inputTokenLimit"]) == ("models/vertex-main/gemini-1.5-flash", 1000)


def test_the_overhead_leaves_out_the_wait_for_the_upstream(gateway, vendor):
    vendor.scripts["thinks"] = sends(0.5, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    assert float(gateway.chat("openai-main/thinks").headers["x-gproxy-overhead-ms"]) < 200


def test_a_header_that_cannot_be_sent_on_is_left_out(gateway, vendor):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx-ratelimit-a: one\x01two\r\nx-ratelimit-b: three\r\n\r\n{}"
    vendor.scripts["folds"] = sends(head)
    reply = gateway.chat("openai-main/folds")
    assert (reply.status, reply.headers["x-ratelimit-b"], reply.headers["x-ratelimit-a"]) == (200, "three", None)


def test_a_short_upstream_key_is_an_ordinary_word(own_gateway, vendor):
    from tests.gateway import seed

    gateway = own_gateway(seed(vendor.url).replace("sk-upstream-openai-aaaa", "ollama"), workers=1)
    text = b'{"choices": [{"message": {"content": "run ollama serve"}}]}'
    vendor.scripts["ollama-says"] = answers(200, text)
    assert {gateway.chat("openai-main/ollama-says").body for _ in range(2)} == {text}


def test_a_large_reply_reaches_a_slow_reader(own_gateway, vendor):
    """The transfer takes longer than the write timeout, but no single write does."""
    gateway = own_gateway(timeouts=", write_timeout_s = 1", workers=1)
    vendor.scripts["large"] = answers(200, b'{"x": "' + b"y" * 24_000_000 + b'"}')
    body = dumps({"model": "openai-main/large", "messages": []})
    got = 0
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while piece := sock.recv(200_000):
            got += len(piece)
            time.sleep(0.01)
    assert got > 24_000_000
