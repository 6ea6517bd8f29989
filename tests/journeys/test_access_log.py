"""The access log of a real gateway: one line per request, when its answer is over, and nothing that is secret."""

import http.client
import json
import time

import pytest

from tests import rows
from tests.gateway import ADMIN, DEV, OTHER, UPSTREAM_KEYS, Gateway
from tests.journeys.test_login import PASSWORD, session_token
from tests.vendor import COMPLETION_TOKENS, PROMPT_TOKENS, streams

CHAT = "openai-main/gpt-4.1-mini"


def lines(gateway: Gateway, count: int, **having) -> list[dict]:
    """Returns the lines with these fields, once there are `count` of them."""
    deadline = time.monotonic() + 10
    while True:
        written = [json.loads(line) for line in gateway.log.splitlines() if '"logger": "gproxy.access"' in line]
        found = [line for line in written if having.items() <= line.items()]
        if len(found) >= count or time.monotonic() > deadline:
            assert len(found) == count, written
            return found
        time.sleep(0.05)


@pytest.fixture
def logged(own_gateway) -> Gateway:
    return own_gateway(GPROXY_LOG_FORMAT="json")


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_is_one_line_with_all_that_it_was(logged, stream):
    reply = logged.post(
        "/v1/chat/completions?x=secret-query",
        {"model": "chat-default", "messages": [], "stream": stream},
        DEV,
        x_request_id="call-7",
        x_forwarded_for="203.0.113.9",
    )
    (line,) = lines(logged, 1, request_id="call-7")
    assert line.pop("ms") > 0 and line.pop("pid") in logged.workers() and line.pop("time")
    assert ("ttft_ms" in line) is stream
    line.pop("ttft_ms", None)
    cost = line.pop("cost_usd")
    assert cost == pytest.approx((PROMPT_TOKENS * 0.4 + COMPLETION_TOKENS * 1.6) / 1e6)
    assert line == {
        **{"level": "info", "logger": "gproxy.access", "message": "request"},
        **{"method": "POST", "path": "/v1/chat/completions", "status": 200, "client": "203.0.113.9"},
        **{"request_id": "call-7", "user": "dev", "key": 2, "protocol": "openai_chat", "bytes": len(reply.body)},
        **{"operation": "stream_generate_content" if stream else "generate_content", "asked": "chat-default"},
        **{"provider": "openai-main", "model": "gpt-4.1-mini", "outcome": "complete"},
        **{"input_tokens": PROMPT_TOKENS, "output_tokens": COMPLETION_TOKENS},
    }


def test_a_stream_that_its_client_leaves_is_logged_at_its_end(logged, vendor):
    vendor.scripts["gpt-left"] = streams(3, "hang")
    connection = http.client.HTTPConnection("127.0.0.1", logged.port)
    body = json.dumps({"model": "openai-main/gpt-left", "messages": [], "stream": True})
    connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {ADMIN}"})
    answer = connection.getresponse()
    answer.read(10)
    assert lines(logged, 0, path="/v1/chat/completions") == []
    answer.close()
    connection.close()
    (line,) = lines(logged, 1, path="/v1/chat/completions")
    assert (line["outcome"], line["status"], line["user"]) == ("partial", 200, "admin")
    del vendor.scripts["gpt-left"]


def test_refusals_and_other_routes_have_their_line(logged):
    logged.chat(CHAT, OTHER)
    logged.chat(CHAT, "sk-nobody-knows")
    logged.get("/me", ADMIN)
    logged.get("/v1/models", DEV)
    logged.get("/metrics", ADMIN)
    (forbidden,) = lines(logged, 1, status=403)
    assert (forbidden["error"], forbidden["user"], "provider" in forbidden) == ("forbidden", "other", False)
    (unknown,) = lines(logged, 1, status=401)
    assert (unknown["error"], "user" in unknown) == ("unauthorized", False)
    (listed,) = lines(logged, 1, path="/v1/models")
    assert (listed["status"], listed["user"], "outcome" in listed) == (200, "dev", False)
    (scraped,) = lines(logged, 1, path="/metrics")
    assert (scraped["user"], scraped["key"], "protocol" in scraped) == ("admin", 1, False)
    (other,) = lines(logged, 1, path="/me")
    assert (other["method"], other["status"], other["user"]) == ("GET", 200, "admin")


def test_every_line_of_a_caller_names_the_user_and_the_key_if_there_is_one(logged):
    """A body that is not readable changes nothing, and its caller is authenticated all the same."""
    admin = rows.user(logged, password=PASSWORD, is_admin=True)
    token, paths = session_token(logged, admin.name), logged.get("/openapi.json").json["paths"]
    own = {path for path in paths if path.startswith(("/me", "/user/", "/admin/")) or path in ("/metrics", "/logout")}
    assert len(own) > 60
    expected = {}
    for path in [*sorted(own - {"/logout"}), "/logout"]:
        key = token if path.startswith(("/user/", "/logout")) else admin.key
        for method in paths[path]:
            reply = logged.request(method.upper(), path, b"[" if method == "post" else None, key)
            assert reply.status not in (401, 403, 404, 405, 500), (path, reply.body)
            expected[method.upper(), path] = (admin.name, admin.key_id if key == admin.key else None)
    lines(logged, 1, path="/logout")
    written = [json.loads(line) for line in logged.log.splitlines() if '"logger": "gproxy.access"' in line]
    written = written[1 + next(n for n, line in enumerate(written) if line["path"] == "/openapi.json") :]
    assert {(line["method"], line["path"]): (line.get("user"), line.get("key")) for line in written} == expected


def test_nothing_secret_is_in_a_line_and_no_line_can_be_forged(logged):
    logged.chat(CHAT, stream=True)
    logged.post(f"/v1beta/models/{CHAT}:generateContent?key={ADMIN}", {"contents": []}, None)
    forged = "%0A2026-01-01T00:00:00.000Z%20error%20[1]%20gproxy:%20forged%0D%1B[31m"
    logged.get(f"/v1/models/{forged}", ADMIN)
    logged.get(f"/{UPSTREAM_KEYS[0]}/x", ADMIN)
    lines(logged, 1, path="/[redacted]/x")
    (odd,) = lines(logged, 1, status=400, method="GET")
    assert "\n" in odd["path"]  # as JSON has it
    hidden = (*UPSTREAM_KEYS, ADMIN, DEV, "Say hello", "Hello", "\x1b", "?key=")
    assert [text for text in hidden if text in logged.log.partition("gproxy.access")[2]] == []
    assert all(line.startswith("{") or "forged" not in line for line in logged.log.splitlines())


def test_text_lines_cannot_be_forged_either(own_gateway):
    gateway = own_gateway()
    gateway.get("/v1/models/%0A2026%20error%20forged%20x=y", ADMIN)
    deadline = time.monotonic() + 10
    while "forged" not in gateway.log and time.monotonic() < deadline:
        time.sleep(0.05)
    (line,) = [line for line in gateway.log.splitlines() if "forged" in line]
    assert ' gproxy.access: method=GET path="/v1/models/\\n2026 error forged x=y" status=400 ' in line


def test_it_can_be_switched_off(own_gateway):
    gateway = own_gateway(GPROXY_ACCESS_LOG="off")
    assert gateway.chat(CHAT).status == 200
    gateway.wait_rows(1)
    assert gateway.stop() == 0
    assert "gproxy.access" not in gateway.log
