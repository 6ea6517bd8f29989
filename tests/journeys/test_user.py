"""What users do themselves: they manage their own keys and read their own usage, and reach no one else's."""

import pytest

from tests import rows
from tests.gateway import ADMIN
from tests.journeys.test_login import PASSWORD, session_token


@pytest.fixture
def user(gateway):
    return rows.user(gateway, password=PASSWORD, keys=0)


@pytest.fixture
def token(gateway, user) -> str:
    return session_token(gateway, user.name)


def test_a_user_makes_disables_and_deletes_keys_and_sees_each_key_once(gateway, user, token):
    assert gateway.post("/user/keys/query", b"", token).json == []
    made = gateway.post("/user/keys/generate", {"label": "laptop"}, token).json
    assert gateway.chat("openai-main/gpt-1", made["api_key"]).status == 200
    (shown,) = gateway.post("/user/keys/query", {}, token).json
    assert (shown["id"], shown["label"], shown["enabled"]) == (made["id"], "laptop", True)
    assert made["api_key"] not in str(shown)
    assert gateway.post("/user/keys/update-enabled", {"id": made["id"], "enabled": False}, token).status == 200
    assert gateway.chat("openai-main/gpt-1", made["api_key"]).status == 401
    assert gateway.post("/user/keys/delete", {"id": made["id"]}, token).status == 200
    assert gateway.post("/user/keys/query", {}, token).json == []
    assert gateway.post("/user/keys/generate", {"budget": 5}, token).status == 400
    (newest, *_) = gateway.post("/admin/audit/query", {"entity": "user_keys"}).json
    assert (newest["user_name"], newest["action"]) == (user.name, "user/keys/delete")


def test_a_user_reaches_no_key_of_another_user(gateway, token):
    other = rows.user(gateway).key_id
    own = [gateway.post("/user/keys/generate", {}, token).json["id"] for _ in range(2)]
    for path, body in (
        ("update-enabled", {"id": other, "enabled": False}),
        ("delete", {"id": other}),
        ("batch-delete", [*own, other]),
    ):
        refused = gateway.post(f"/user/keys/{path}", body, token)
        assert (refused.status, str(other) in refused.json["error"]["message"]) == (404, True)
    assert len(gateway.post("/user/keys/query", {}, token).json) == 2
    assert gateway.post("/user/keys/batch-delete", own, token).status == 200
    for path in ("users/query", "usages/query", "providers/query"):
        assert gateway.post(f"/admin/{path}", {}, token).status == 403


def test_what_an_administrator_does_to_a_key_is_not_undone_by_its_user(gateway, user, token):
    made = gateway.post("/user/keys/generate", {}, token).json
    switch = "/user-keys/update-enabled", "/user-keys/update"

    def shown() -> tuple:
        (key,) = gateway.post("/user/keys/query", {}, token).json
        return key["enabled"], key["disabled_by"]

    def enable() -> int:
        return gateway.post("/user/keys/update-enabled", {"id": made["id"], "enabled": True}, token).status

    for path in switch:
        assert gateway.post("/user/keys/update-enabled", {"id": made["id"], "enabled": False}, token).status == 200
        assert shown() == (False, "user")
        assert gateway.post(f"/admin{path}", {"id": made["id"], "enabled": False}).status == 200
        assert (shown(), enable(), shown()) == ((False, "administrator"), 403, (False, "administrator"))
        assert gateway.chat("openai-main/gpt-1", made["api_key"]).status == 401
        assert gateway.post(f"/admin{path}", {"id": made["id"], "enabled": True}).status == 200
        assert (shown(), enable()) == ((True, None), 200)
    assert gateway.chat("openai-main/gpt-1", made["api_key"]).status == 200
    for fields in ({"budget": None}, {"expires_at": None}, {"label": "x"}, {"disabled_by": None}):
        body = {"id": made["id"], "enabled": True, **fields}
        assert gateway.post("/user/keys/update-enabled", body, token).status == 400


def test_a_user_who_may_not_make_keys_makes_none(gateway, user, token):
    assert gateway.post("/admin/users/upsert", {"id": user.id, "may_make_keys": False}).status == 200
    refused = gateway.post("/user/keys/generate", {}, token)
    assert (refused.status, refused.json["error"]["code"]) == (403, "forbidden")
    (row,) = gateway.post("/admin/users/query", {"id": user.id}).json
    assert row["may_make_keys"] is False and gateway.post("/user/keys/query", {}, token).json == []
    assert gateway.post("/admin/user-keys/generate", {"user_id": user.id}).status == 200
    (change, *_) = gateway.post("/admin/audit/query", {"entity": "users", "entity_id": str(user.id)}).json
    assert change["changes"]["fields"] == {"may_make_keys": [True, False]}


def test_a_user_sees_its_own_usage_quota_and_limits(gateway, user, token):
    other = rows.user(gateway)
    model = rows.unique("gpt-own")
    key = gateway.post("/user/keys/generate", {}, token).json["api_key"]
    assert gateway.get("/user/quota", token).json == {
        "user_id": user.id, "quota": None, "cost_used": 0, "remaining": None, "period": None
    }  # fmt: skip
    rows.set_quota(gateway, user.id, 5)
    rows.rate_limit(gateway, user.id, "gpt-*", rpm=50)
    for n, tag in enumerate(("red", "red", None)):
        headers = {"x_gproxy_tag": tag} if tag else {}
        body = {"model": f"openai-main/{model}-{n % 2}", "messages": []}
        assert gateway.post("/v1/chat/completions", body, key, **headers).status == 200
    assert gateway.chat(f"openai-main/{model}-other", other.key).status == 200
    gateway.wait_rows(3, user_id=user.id)
    gateway.wait_rows(1, user_id=other.id)
    assert gateway.post("/user/usages/count", {"user_id": other.id}, token).json == {"count": 3}
    assert len(gateway.post("/user/usages/query", {"user_id": "all", "limit": 2}, token).json) == 2
    summary = gateway.post("/user/usages/summary", {}, token).json
    assert (summary["count"], summary["input_tokens"], summary["output_tokens"]) == (3, 36, 120)
    by_model = gateway.post("/user/usages/breakdown", {"by": "model"}, token).json
    assert [(row["model"], row["count"]) for row in by_model] == [(f"{model}-0", 2), (f"{model}-1", 1)]
    by_tag = gateway.get("/me/usage?by=tag", key).json["rows"]
    assert [(row["tag"], row["count"]) for row in by_tag] == [("red", 2), (None, 1)]
    (today,) = gateway.get("/me/usage", key).json["rows"]
    assert (today["count"], today["total_cost"]) == (3, summary["total_cost"])
    assert gateway.get("/me/usage?by=user_id", key).status == 400
    assert gateway.get("/me/usage?from_unix_ms=x", key).status == 400
    quota = gateway.get("/user/quota", token).json
    assert (quota["cost_used"], quota["remaining"]) == (summary["total_cost"], 5 - summary["total_cost"])
    (limit,) = gateway.get("/user/limits", token).json
    assert (limit["model_pattern"], limit["counters"][0]["remaining"]) == ("gpt-*", 47)
    assert gateway.post("/admin/usages/count", {"user_id": user.id}).json == {"count": 3}
    assert gateway.post("/admin/usages/count", {}).json["count"] >= 4
    by_user = gateway.post("/admin/usages/breakdown", {"by": "user_id"}).json
    counts = {row["user_id"]: row["count"] for row in by_user}
    assert (counts[user.id], counts[other.id]) == (3, 1)
    assert gateway.post("/admin/usages/breakdown", {"by": "moon"}).status == 400


@pytest.mark.parametrize("key", [None, ADMIN, "sess-unknown"])
def test_user_endpoints_accept_a_session_token_alone(gateway, key):
    for method, path in (("POST", "keys/query"), ("GET", "quota"), ("GET", "limits"), ("POST", "usages/query")):
        assert gateway.request(method, f"/user/{path}", b"{}" if method == "POST" else None, key).status == 401
