"""A change is in force for every request that starts after the admin call returned, in every worker."""

import http.client
import json
import sqlite3
import time

import pytest

from tests.gateway import ADMIN, DEV

CHAT = {"model": "openai-main/gpt-4.1-mini", "messages": []}


def connections(gateway, count: int) -> list[http.client.HTTPConnection]:
    """Kept connections, which are spread over the workers."""
    found = []
    for _ in range(count):
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        found.append(connection)
    return found


def status(connection: http.client.HTTPConnection, key: str) -> int:
    connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), {"Authorization": f"Bearer {key}"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_a_new_key_works_and_a_revoked_one_does_not_in_every_worker(own_gateway):
    gateway = own_gateway(workers=4)
    users = gateway.post("/admin/user-keys/query").json
    user_id = next(key["user_id"] for key in users if key["label"] == "laptop")
    kept = connections(gateway, 16)
    for _ in range(5):
        made = gateway.post("/admin/user-keys/generate", {"user_id": user_id, "label": "ci"}).json
        assert made["api_key"].startswith("sk-api01-")
        assert {status(connection, made["api_key"]) for connection in kept} == {200}
        off = gateway.post("/admin/user-keys/update-enabled", {"id": made["id"], "enabled": False})
        assert off.status == 200
        assert {status(connection, made["api_key"]) for connection in kept} == {401}
        gateway.post("/admin/user-keys/update-enabled", {"id": made["id"], "enabled": True})
        assert {status(connection, made["api_key"]) for connection in kept} == {200}
        gateway.post("/admin/user-keys/delete", {"id": made["id"]})
        assert {status(connection, made["api_key"]) for connection in kept} == {401}
    assert {status(connection, ADMIN) for connection in kept} == {200}
    for connection in kept:
        connection.close()


def test_keys_are_shown_once_and_stored_as_digests(own_gateway):
    gateway = own_gateway()
    made = gateway.post("/admin/user-keys/batch-upsert", {"user_id": 2, "count": 3, "label": "many"}).json["keys"]
    assert len({key["api_key"] for key in made}) == 3
    listed = gateway.post("/admin/user-keys/query", {"user_id": {"eq": 2}}).body.decode()
    files = b"".join(path.read_bytes() for path in gateway.data.glob("gproxy.db*"))
    for secret in (*(key["api_key"] for key in made), ADMIN, DEV):
        assert secret not in listed
        assert secret.encode() not in files
        assert secret not in gateway.log
    assert all(row["fingerprint"].startswith("sha256:") for row in json.loads(listed))
    ids = [key["id"] for key in made]
    refused = gateway.post("/admin/user-keys/batch-delete", [*ids, 99_999])
    assert (refused.status, "99999" in refused.json["error"]["message"]) == (404, True)
    assert gateway.chat("openai-main/gpt-4.1-mini", key=made[0]["api_key"]).status == 200
    assert gateway.post("/admin/user-keys/batch-delete", ids).status == 200
    assert gateway.chat("openai-main/gpt-4.1-mini", key=made[0]["api_key"]).status == 401


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("user-keys/generate", {}, "user_id"),
        ("user-keys/generate", {"user_id": "1"}, "user_id"),
        ("user-keys/generate", {"user_id": 1, "lable": "x"}, "lable"),
        ("user-keys/batch-upsert", {"user_id": 1, "count": 0}, "count"),
        ("user-keys/batch-delete", [], "body"),
        ("user-keys/batch-delete", {"id": 1}, "body"),
        ("user-keys/update-enabled", {"id": 1, "enabled": "yes"}, "enabled"),
        ("usages/query", {"limit": -1}, "limit"),
        ("usages/query", {"user_id": {"eq": 1, "in": [2]}}, "user_id"),
        ("usages/summary", b"{", "JSON"),
    ],
)
def test_bad_admin_documents_name_the_field(gateway, path, body, message):
    reply = gateway.post(f"/admin/{path}", body)
    assert reply.status == 400
    assert message in reply.json["error"]["message"]


def test_the_admin_api_is_for_administrators(gateway):
    for path in ("usages/query", "usages/summary", "user-keys/query", "user-keys/generate"):
        assert gateway.post(f"/admin/{path}", {}, None).status == 401
        assert gateway.post(f"/admin/{path}", {}, DEV).status == 403
        assert gateway.request("GET", f"/admin/{path}", None, ADMIN).status == 405
    assert gateway.post("/admin/user-keys/generate", {"user_id": 4711}).status == 404


def test_usage_filters_and_cursor(own_gateway):
    gateway = own_gateway()
    for n in range(7):
        gateway.chat(f"openai-main/gpt-page-{n % 2}")
    gateway.wait_rows(7)
    one = gateway.usages(model={"in": ["gpt-page-0"]})
    assert len(one) == 4
    assert len(gateway.usages(model="gpt-page-1", channel={"Eq": "openai"}, user_id="All")) == 3
    seen, cursor = [], {}
    while page := gateway.usages(limit=2, **cursor):
        seen += page
        at = page[-1]["at"]
        moment = time.strptime(at[:19], "%Y-%m-%dT%H:%M:%S")
        import calendar

        cursor = {
            "cursor_at_unix_ms": calendar.timegm(moment) * 1000 + int(at[20:23]),
            "cursor_trace_id": page[-1]["trace_id"],
        }
    assert [row["trace_id"] for row in seen] == [row["trace_id"] for row in gateway.usages()]
    assert [int(row["trace_id"]) for row in seen] == sorted((int(row["trace_id"]) for row in seen), reverse=True)
    assert gateway.post("/admin/usages/summary", {"to_unix_ms": 1}).json["count"] == 0


def test_traffic_goes_on_while_the_database_cannot_be_read(own_gateway):
    """Keys stay known; an outage never turns into a 401."""
    gateway = own_gateway()
    with sqlite3.connect(gateway.data / "gproxy.db", isolation_level=None) as lock:
        lock.execute("PRAGMA locking_mode=EXCLUSIVE")
        lock.execute("BEGIN EXCLUSIVE")
        for _ in range(20):
            assert gateway.chat("openai-main/gpt-4.1-mini").status == 200
            assert gateway.chat("openai-main/gpt-4.1-mini", key="sk-wrong").status == 401
        lock.execute("ROLLBACK")
    lock.close()
