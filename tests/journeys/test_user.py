"""What users do for themselves: their keys, what they may and have used, and nothing of anybody else's."""

import pytest

from tests.gateway import ADMIN
from tests.journeys.test_login import PASSWORD, log_in, make


@pytest.fixture
def running(own_gateway):
    return own_gateway(GPROXY_ADMIN_PASSWORD=PASSWORD, GPROXY_ADMIN_API_KEY=ADMIN)


def test_own_keys_are_made_told_once_switched_and_deleted(running):
    user_id = make(running, "ann")
    token = log_in(running, "ann").json["session_token"]
    running.post("/admin/user-permissions/upsert", {"user_id": user_id, "model_pattern": "*"})
    assert running.post("/user/keys/query", b"", token).json == []
    made = running.post("/user/keys/generate", {"label": "laptop"}, token).json
    assert running.chat("openai-main/gpt-1", made["api_key"]).status == 200
    (shown,) = running.post("/user/keys/query", {}, token).json
    assert (shown["id"], shown["label"], shown["enabled"]) == (made["id"], "laptop", True)
    assert made["api_key"] not in str(shown)
    assert running.post("/user/keys/update-enabled", {"id": made["id"], "enabled": False}, token).status == 200
    assert running.chat("openai-main/gpt-1", made["api_key"]).status == 401
    assert running.post("/user/keys/delete", {"id": made["id"]}, token).status == 200
    assert running.post("/user/keys/query", {}, token).json == []
    assert running.post("/user/keys/generate", {"budget": 5}, token).status == 400
    (noted, *_) = running.post("/admin/audit/query", {"entity": "user_keys"}).json
    assert (noted["user_name"], noted["action"]) == ("ann", "user/keys/delete")


def test_nobody_reaches_anothers_keys(running):
    make(running, "ann")
    token = log_in(running, "ann").json["session_token"]
    own = [running.post("/user/keys/generate", {}, token).json["id"] for _ in range(2)]
    (other, *_) = [key["id"] for key in running.post("/admin/user-keys/query").json if key["user_name"] == "dev"]
    for path, body in (
        ("update-enabled", {"id": other, "enabled": False}),
        ("delete", {"id": other}),
        ("batch-delete", [*own, other]),
    ):
        refused = running.post(f"/user/keys/{path}", body, token)
        assert (refused.status, str(other) in refused.json["error"]["message"]) == (404, True)
    assert len(running.post("/user/keys/query", {}, token).json) == 2
    assert running.post("/user/keys/batch-delete", own, token).status == 200
    for path in ("users/query", "usages/query", "providers/query"):
        assert running.post(f"/admin/{path}", {}, token).status == 403


def test_own_usage_quota_and_limits(running):
    user_id = make(running, "ann")
    token = log_in(running, "ann").json["session_token"]
    key = running.post("/user/keys/generate", {}, token).json["api_key"]
    running.post("/admin/user-permissions/upsert", {"user_id": user_id, "model_pattern": "*"})
    assert running.get("/user/quota", token).json == {
        "user_id": user_id, "quota": None, "cost_used": 0, "remaining": None, "period": None
    }  # fmt: skip
    running.post("/admin/user-quotas/upsert", {"user_id": user_id, "quota": 5})
    running.post("/admin/user-rate-limits/upsert", {"user_id": user_id, "model_pattern": "gpt-*", "rpm": 50})
    for n, tag in enumerate(("red", "red", None)):
        headers = {"x_gproxy_tag": tag} if tag else {}
        body = {"model": f"openai-main/gpt-{n % 2}", "messages": []}
        assert running.post("/v1/chat/completions", body, key, **headers).status == 200
    running.chat("openai-main/gpt-9")  # somebody else's
    running.wait_rows(4)
    assert running.post("/user/usages/count", {"user_id": 1}, token).json == {"count": 3}
    assert len(running.post("/user/usages/query", {"user_id": "all", "limit": 2}, token).json) == 2
    summary = running.post("/user/usages/summary", {}, token).json
    assert (summary["count"], summary["input_tokens"], summary["output_tokens"]) == (3, 36, 120)
    by_model = running.post("/user/usages/breakdown", {"by": "model"}, token).json
    assert [(row["model"], row["count"]) for row in by_model] == [("gpt-0", 2), ("gpt-1", 1)]
    by_tag = running.get("/me/usage?by=tag", key).json["rows"]
    assert [(row["tag"], row["count"]) for row in by_tag] == [("red", 2), (None, 1)]
    (today,) = running.get("/me/usage", key).json["rows"]
    assert (today["count"], today["total_cost"]) == (3, summary["total_cost"])
    assert running.get("/me/usage?by=user_id", key).status == 400
    assert running.get("/me/usage?from_unix_ms=x", key).status == 400
    quota = running.get("/user/quota", token).json
    assert (quota["cost_used"], quota["remaining"]) == (summary["total_cost"], 5 - summary["total_cost"])
    (limit,) = running.get("/user/limits", token).json
    assert (limit["model_pattern"], limit["counters"][0]["remaining"]) == ("gpt-*", 47)
    assert running.post("/admin/usages/count", {}).json == {"count": 4}
    rows = running.post("/admin/usages/breakdown", {"by": "user_id"}).json
    assert {row["user_id"]: row["count"] for row in rows}[user_id] == 3
    assert running.post("/admin/usages/breakdown", {"by": "moon"}).status == 400


@pytest.mark.parametrize("key", [None, ADMIN, "sess-unknown"])
def test_only_a_session_opens_the_door(running, key):
    for method, path in (("POST", "keys/query"), ("GET", "quota"), ("GET", "limits"), ("POST", "usages/query")):
        assert running.request(method, f"/user/{path}", b"{}" if method == "POST" else None, key).status == 401
