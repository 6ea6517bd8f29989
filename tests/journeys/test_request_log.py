"""Logs of requests through a running gateway: each request and attempt, without secrets, delays or gaps."""

import json
import time
from pathlib import Path

import psycopg
import pytest

from gproxy.state.change_counter import ChangeCounter
from tests import postgres
from tests.gateway import ADMIN, DEV, UPSTREAM_KEYS, seed
from tests.journeys.test_login import PASSWORD, log_in
from tests.raw_http import check_events_leave_at_once, open_stream
from tests.vendor import STREAM_HEAD, chunk, events, refuses, sends, streams

ALL = {
    "enable_upstream_log": True,
    "enable_upstream_log_body": True,
    "enable_downstream_log": True,
    "enable_downstream_log_body": True,
}


@pytest.fixture
def running(own_gateway, vendor):
    found = own_gateway(seed(vendor.url), GPROXY_ADMIN_PASSWORD=PASSWORD, GPROXY_ADMIN_API_KEY=ADMIN)
    assert found.post("/admin/global-settings/upsert", ALL).status == 200
    yield found
    vendor.scripts.clear()


def rows(gateway, kind: str, count: int, **filters) -> list[dict]:
    """Returns the rows, newest first, once there are `count` of them."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = gateway.post(f"/admin/requests/{kind}/query", {"include_body": True, "as_text": True, **filters}).json
        if len(found) >= count:
            break
        time.sleep(0.1)
    assert len(found) == count, found
    return found


def test_what_came_in_and_went_out_and_each_attempt(running, vendor):
    vendor.scripts["gpt-one-fails"] = refuses(500, "broken")
    body = {"model": "openai-main/gpt-logged", "messages": [{"role": "user", "content": "Say hello."}]}
    reply = running.request("POST", "/v1/chat/completions?key=sk-x&a=b", body, DEV, x_team="blue")
    (down,) = rows(running, "downstream", 1, request_path_contains="chat/completions")
    assert (down["request_method"], down["request_path"], down["response_status"]) == (
        "POST", "/v1/chat/completions", 200
    )  # fmt: skip
    assert down["request_query"] == "key=%5Bredacted%5D&a=b"
    assert json.loads(down["request_body"]) == body
    assert down["response_body"].encode() == reply.body
    sent, received = dict(down["request_headers_json"]), dict(down["response_headers_json"])
    assert (sent["authorization"], sent["x-team"]) == ("[redacted]", "blue")
    assert received["x-request-id"] == reply.headers["x-request-id"]
    (up,) = rows(running, "upstream", 1)
    assert (up["request_url"], up["response_status"]) == (f"{vendor.url}/v1/chat/completions?a=b", 200)
    assert json.loads(up["request_body"])["model"] == "gpt-logged"
    assert dict(up["request_headers_json"])["Authorization"] == "[redacted]"
    assert json.loads(up["response_body"])["x_novel"] == {"kept": True}
    assert up["downstream_trace_id"] == down["trace_id"]
    assert 0 <= up["initial_latency_ms"] <= up["total_latency_ms"]
    (usage,) = running.wait_rows(1)
    assert usage["downstream_trace_id"] == down["trace_id"]
    assert (down["user_id"], down["user_key_id"]) == (usage["user_id"], usage["user_key_id"])
    failed = running.chat("openai-main/gpt-one-fails")
    attempts = rows(running, "upstream", 2, request_url_contains="/v1/", from_unix_ms=_ms(up) + 1)
    assert {row["response_status"] for row in attempts} == {500}
    assert len({row["credential_id"] for row in attempts}) == 2
    assert failed.status == 500


def _ms(row: dict) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(row["at"]).timestamp() * 1000)


def test_streams_pass_at_once_and_are_kept_whole(running, vendor):
    vendor.scripts["gpt-paced"] = streams(None, "clean", pause_s=0.15)
    check_events_leave_at_once(running.port, "openai-main/gpt-paced", 5, 0.08)
    (down,) = rows(running, "downstream", 1, request_path_contains="chat")
    assert down["response_body"].count("data: ") == 8
    assert down["response_body"].endswith("data: [DONE]\n\n")
    (up,) = rows(running, "upstream", 1)
    assert up["response_body"] == b"".join(events("openai_chat", "gpt-paced")).decode()


def test_a_client_that_leaves_and_an_upstream_that_breaks_are_kept_too(running, vendor):
    head = [chunk(one) for one in events("openai_chat", "m")[:3]]
    vendor.scripts["gpt-left"] = sends(STREAM_HEAD, *head, "hang")
    sock = open_stream(running.port, "openai-main/gpt-left")
    got = b""
    while b" there" not in got:
        got += sock.recv(65536)
    sock.close()
    (down,) = rows(running, "downstream", 1, request_path_contains="chat")
    assert " there" in down["response_body"]
    (up,) = rows(running, "upstream", 1)
    assert up["response_status"] == 200
    vendor.scripts["gpt-breaks"] = sends("reset")
    assert running.chat("openai-main/gpt-breaks").status == 502
    broken = [row for row in rows(running, "upstream", 2) if row["response_status"] is None]
    assert (len(broken), broken[0]["response_body"], broken[0]["initial_latency_ms"]) == (1, None, None)
    refused = running.chat("openai-main/o3", DEV)
    down, *_ = rows(running, "downstream", 3, request_path_contains="chat")
    assert (down["response_status"], refused.status) == (403, 403)


def test_no_secret_is_kept_anywhere(running, vendor):
    """Headers, parameters, login, documents, echoes of a vendor, and what a user pastes into a prompt."""
    key = UPSTREAM_KEYS[0]
    token = log_in(running).json["session_token"]
    running.post("/login", {"username": "admin", "password": "wrong-password"}, None)
    new = "sk-upstream-brand-new-1"
    running.post("/admin/credentials/upsert", {"provider_name": "openai-main", "credential": {"api_key": new}})
    made = running.post("/admin/user-keys/generate", {"user_id": 1}, token).json["api_key"]
    running.post("/admin/users/upsert", {"name": "logged", "password": "a-users-password"})
    running.post("/admin/config/import-toml", {"toml": f'[[users]]\nname = "u"\npassword = "{PASSWORD}-2"\n'})
    running.post("/admin/config/export-toml")
    pasted = f"my key is {key}, and mine is {ADMIN}, and {made}"
    running.chat("openai-main/gpt-1", messages=[{"role": "user", "content": pasted}])
    running.get(f"/v1/models?key={DEV}")
    running.chat("anthropic-main/claude-x", stream=True, messages=[{"role": "user", "content": pasted}])
    rows(running, "downstream", 2, request_path_contains="chat")
    time.sleep(1.0)
    stored = b"".join(path.read_bytes() for path in running.data.rglob("*") if path.is_file())
    shown = json.dumps(running.post("/admin/requests/downstream/query", {"include_body": True, "as_text": True}).json)
    shown += json.dumps(running.post("/admin/requests/upstream/query", {"include_body": True, "as_text": True}).json)
    for secret in (token, "wrong-password", new, made, "a-users-password", PASSWORD, key, ADMIN, DEV):
        assert secret not in shown, secret
    for secret in (token, "wrong-password", made, "a-users-password", PASSWORD, ADMIN, DEV):
        assert secret.encode() not in stored, secret
    assert "my key is [redacted]" in shown


def test_bodies_are_cut_and_flags_are_live(own_gateway, vendor):
    gateway = own_gateway(seed(vendor.url), GPROXY_LOG_BODY="1000")
    gateway.chat("openai-main/gpt-1")
    gateway.post("/admin/global-settings/upsert", {"enable_downstream_log": True})
    gateway.chat("openai-main/gpt-2", messages=[{"role": "user", "content": "x" * 5000}])
    (row,) = rows(gateway, "downstream", 1, request_path_contains="chat")
    assert (row["request_body"], row["response_body"]) == (None, None)
    gateway.post("/admin/global-settings/upsert", {"enable_downstream_log_body": True})
    gateway.chat("openai-main/gpt-3", messages=[{"role": "user", "content": "x" * 5000}])
    row, _ = rows(gateway, "downstream", 2, request_path_contains="chat")
    assert len(row["request_body"]) == 1000
    as_bytes = gateway.post(
        "/admin/requests/downstream/query", {"include_body": True, "trace_id": row["trace_id"]}
    ).json[0]
    assert as_bytes["request_body"][:3] == [123, 34, 109]
    gateway.post("/admin/global-settings/upsert", {"enable_downstream_log": False})
    gateway.chat("openai-main/gpt-4")
    time.sleep(1.0)
    assert gateway.post("/admin/requests/upstream/count", {}).json == {"count": 0}
    assert gateway.post("/admin/requests/downstream/count", {"request_path_contains": "chat"}).json == {"count": 2}


def test_rows_are_emptied_and_deleted(running):
    for _ in range(3):
        running.chat("openai-main/gpt-1")
    found = rows(running, "upstream", 3)
    ids = [row["trace_id"] for row in found]
    assert running.post("/admin/requests/upstream/clear", {}).status == 400
    assert running.post("/admin/requests/upstream/clear", {"trace_ids": ids[:1]}).json["cleared"] == 1
    assert [row["request_body"] is None for row in rows(running, "upstream", 3)] == [True, False, False]
    assert running.post("/admin/requests/upstream/batch-delete", []).json["deleted"] == 0
    assert running.post("/admin/requests/upstream/delete", {"trace_ids": ids[:1]}).json["deleted"] == 1
    assert running.post("/admin/requests/upstream/batch-delete", [int(ids[1])]).json["deleted"] == 1
    assert running.post("/admin/requests/upstream/clear", {"all": True}).json["cleared"] == 1
    for path in ("query", "count", "clear", "delete", "batch-delete"):
        assert running.post(f"/admin/requests/upstream/{path}", b"{").status == 400
        assert running.post(f"/admin/requests/upstream/{path}", {}, DEV).status == 403


def test_what_a_killed_worker_wrote_is_moved_by_the_others(running):
    for n in range(20):
        running.chat(f"openai-main/gpt-{n}")
    running.kill_worker()
    found = rows(running, "upstream", 20) if _eventually(running, 20) else []
    assert len(found) == 20


def _eventually(gateway, count: int) -> bool:
    """Within the time after which the spools of dead workers are looked for."""
    deadline = time.monotonic() + 25
    while time.monotonic() < deadline:
        if gateway.post("/admin/requests/upstream/count", {}).json["count"] >= count:
            return True
        time.sleep(0.5)
    return False


def shown(gateway, kind: str) -> str:
    time.sleep(1.2)
    return gateway.post(f"/admin/requests/{kind}/query", {"include_body": True, "as_text": True}).body.decode()


def test_parameters_addresses_and_ends_hold_no_secret_either(own_gateway, vendor):
    gateway = own_gateway(seed(vendor.url), workers=1, GPROXY_LOG_BODY="1000", OPENAI_API_KEY="sk-abcdefgh\udce4")
    gateway.post("/admin/global-settings/upsert", ALL)
    body = {"model": "openai-main/gpt-1", "messages": [{"role": "user", "content": "x"}]}
    gateway.request("POST", "/v1/chat/completions?access_token=abcdef-123456&password=pa%20ss", body, ADMIN)
    settings = {"proxy": "http://u:proxypass1@127.0.0.1:9"}
    gateway.post("/admin/providers/upsert", {"name": "prox", "channel": "openai", "settings": settings})
    gateway.post("/admin/providers/query", {"name": "prox"})
    key = gateway.post("/admin/user-keys/generate", {"user_id": 1}).json["api_key"]
    for pad in range(880, 1010, 10):
        messages = [{"role": "user", "content": "x" * pad + key + "y" * 3000}]
        gateway.post("/v1/chat/completions", {"model": "openai-main/gpt-1", "messages": messages}, key)
    assert gateway.get("/healthz").status == 200
    for kind in ("downstream", "upstream"):
        text = shown(gateway, kind)
        for secret in ("abcdef-123456", "proxypass1", key[:20]):
            assert secret not in text, (kind, secret)


def test_a_provider_may_be_named_as_a_route_begins(running, vendor):
    for name in ("menu", "login-hub"):
        settings = {"base_url": f"{vendor.url}/v1"}
        running.post("/admin/providers/upsert", {"name": name, "channel": "openai", "settings": settings})
        running.post("/admin/credentials/upsert", {"provider_name": name, "credential": "sk-upstream-named-1"})
        said = [{"role": "user", "content": 'say "token": "hello"'}]
        assert running.post(f"/{name}/v1/chat/completions", {"model": "gpt-1", "messages": said}).status == 200
    for row in rows(running, "downstream", 2, request_path_contains="chat"):
        assert json.loads(row["request_body"])["messages"][0]["content"] == 'say "token": "hello"'


def test_probes_wait_for_no_database(own_gateway, vendor, pytestconfig):
    dsn = postgres.fresh_database(pytestconfig)
    gateway = own_gateway(seed(vendor.url), workers=1, GPROXY_DSN=dsn)
    time.sleep(1)
    with psycopg.connect(dsn) as connection:
        connection.execute("LOCK TABLE revisions IN ACCESS EXCLUSIVE MODE")
        signal = ChangeCounter(gateway.data / "signal")
        signal.increment()
        signal.close()
        started = time.monotonic()
        assert gateway.get("/healthz").status == 200
        assert time.monotonic() - started < 0.5
        connection.rollback()


def test_streams_that_a_stop_ends_are_kept(own_gateway, vendor):
    gateway = own_gateway(seed(vendor.url), GPROXY_GRACE="1")
    gateway.post("/admin/global-settings/upsert", ALL)
    head = [chunk(one) for one in events("openai_chat", "m")[:3]]
    vendor.scripts["gpt-left"] = sends(STREAM_HEAD, *head, "hang")
    socks = [open_stream(gateway.port, "openai-main/gpt-left") for _ in range(20)]
    for sock in socks:
        sock.recv(10)
    time.sleep(0.5)
    gateway.stop()
    for sock in socks:
        sock.close()
    vendor.scripts.clear()
    gateway.start()
    rows(gateway, "downstream", 20, request_path_contains="chat")
    rows(gateway, "upstream", 20)
    gateway.wait_rows(20)
    assert "Traceback" not in gateway.log


def test_open_streams_keep_no_body_and_no_descriptor(own_gateway, vendor):
    gateway = own_gateway(seed(vendor.url), workers=1)
    gateway.post("/admin/global-settings/upsert", ALL)
    pid = gateway.workers()[0]
    head = [chunk(one) for one in events("openai_chat", "m")[:3]]
    vendor.scripts["gpt-left"] = sends(STREAM_HEAD, *head, "hang")

    def descriptors_after(count: int) -> int:
        for _ in range(count):
            sock = open_stream(gateway.port, "openai-main/gpt-left")
            sock.recv(10)
            sock.close()
        time.sleep(1.0)
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))

    before = descriptors_after(30)
    assert descriptors_after(60) <= before + 3
    vendor.scripts.clear()
