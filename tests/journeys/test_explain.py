"""Explaining a request without sending it; the request that is then sent matches the explanation."""

import json

import pytest

from tests.gateway import ADMIN, DEV

EXTRA = """
[[model_aliases]]
alias = "smart"
targets = [
  { provider = "openai-main", model = "gpt-4.1-mini" },
  { provider = "anthropic-main", model = "claude-sonnet-4-5", tier = 1 },
]

[[rate_limits]]
user_name = "dev"
model_pattern = "gpt-*"
rpm = 2

[[rate_limits]]
user_name = "dev"
model_pattern = "*"
rpm = 100

[[quotas]]
user_name = "dev"
quota = 1
"""
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}


@pytest.fixture
def running(own_gateway, vendor):
    from tests.gateway import seed

    return own_gateway(seed(vendor.url) + EXTRA)


def ids(gateway, label: str) -> tuple[int, int]:
    row = next(row for row in gateway.post("/admin/user-keys/query").json if row["label"] == label)
    return row["user_id"], row["id"]


def explained(gateway, **body) -> dict:
    reply = gateway.post("/admin/explain", body)
    assert reply.status == 200, reply.body
    return reply.json


def test_the_explained_request_is_the_one_that_is_sent(running, vendor):
    user_id, key_id = ids(running, "laptop")
    body = {"model": "openai-main/gpt-4.1-mini", **HELLO, "stream": True}
    before = len(vendor.seen)
    found = explained(running, key_id=key_id, body=json.dumps(body), headers={"X-Team": "blue"})
    assert len(vendor.seen) == before
    assert found["who"]["user_name"] == "dev"
    assert found["who"]["may_call"]
    assert found["outcome"]["message"] == "it would be sent"
    (target,) = found["targets"]
    assert running.request("POST", "/v1/chat/completions", body, DEV, x_team="blue").status == 200
    seen = vendor.seen[-1]
    upstream = target["upstream"]
    assert upstream["body_text"].encode() == seen.body
    assert upstream["body"] == seen.json
    assert upstream["url"] == f"{vendor.url}{seen.path}"
    assert upstream["headers"]["x-team"] == seen.headers["x-team"] == "blue"
    assert upstream["headers"]["Authorization"] == "Bearer (the credential)"
    assert [one["turn"] for one in target["credentials"]] == [1, 2]
    assert (target["price"], target["bound"]["cost"] > 0) == ("model", True)
    matching = [row["model_pattern"] for row in found["permissions"] if row["matches"]]
    assert matching == ["gpt-*"]
    limits = {row["model_pattern"]: row for row in found["limits"]}
    assert (limits["gpt-*"]["applies"], limits["*"]["applies"]) == (True, False)
    assert limits["gpt-*"]["counters"][0]["remaining"] == 2
    assert found["accounts"][0]["remaining"] == 1
    assert user_id == found["who"]["user_id"]


def test_an_explanation_reserves_nothing_however_often(running):
    _, key_id = ids(running, "laptop")
    body = {"model": "openai-main/gpt-4.1-mini", **HELLO}
    first = explained(running, key_id=key_id, body=body)
    for _ in range(20):
        again = explained(running, key_id=key_id, body=body)
        assert again["limits"][0]["counters"][0]["remaining"] == 2
    assert again["targets"] == first["targets"]
    assert running.usages() == []
    for _ in range(2):
        assert running.chat("openai-main/gpt-4.1-mini", DEV).status == 200
    found = explained(running, key_id=key_id, body=body)
    assert (found["outcome"]["status"], found["outcome"]["code"]) == (429, "rate_limited")
    assert running.chat("openai-main/gpt-4.1-mini", DEV).status == 429


def test_targets_are_listed_in_order_with_losses(running):
    (admin,) = running.post("/admin/users/query", {"name": "admin"}).json
    body = {"model": "smart", **HELLO, "seed": 7}
    found = explained(running, user_id=admin["id"], body=body)
    first, second = found["targets"]
    assert [(one["provider"], one["tier"]) for one in (first, second)] == [("openai-main", 0), ("anthropic-main", 1)]
    assert (first["translated"], first["losses"]) == (None, [])
    assert (second["translated"], second["losses"]) == ("openai_chat->anthropic", ["seed"])
    assert second["upstream"]["url"].endswith("/v1/messages")
    assert second["upstream"]["body"]["model"] == "claude-sonnet-4-5"
    assert found["accounts"] == []
    running.post("/admin/credential-statuses/update", {"provider_name": "openai-main", "index": 0, "status": "dead"})
    dead, other = explained(running, user_id=admin["id"], body=body)["targets"][0]["credentials"]
    if dead["turn"] is not None:
        dead, other = other, dead
    assert (dead["turn"], dead["why"], dead["status"]) == (None, "dead: an administrator must enable it", "unavailable")
    assert other["turn"] == 1


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/chat/completions", {"model": "nothing", **HELLO}, 400, "provider_prefix"),
        ("/v1/chat/completions", {"model": "openai-main/o3", **HELLO}, 403, "forbidden"),
        ("/v1/chat/completions", {"model": "openai-main/retired", **HELLO}, 404, "not_found"),
        ("/v1/chat/completions", {**HELLO}, 400, "invalid_request"),
        ("/v1/chat/completions", "{", 400, "invalid_request"),
        ("/openai-main/v1/chat/completions", {"model": "gpt-1", **HELLO}, 200, None),
        (
            "/openai-main/v1beta/models/gpt-1:streamGenerateContent",
            {"contents": [{"parts": [{"text": "Hi"}]}]},
            200,
            None,
        ),
    ],
)
def test_a_refusal_is_explained_with_its_error(running, path, body, status, code):
    name = "admin" if status == 404 else "dev"
    (user,) = running.post("/admin/users/query", {"name": name}).json
    found = explained(running, user_id=user["id"], path=path, body=body)
    assert (found["outcome"]["status"], found["outcome"]["code"]) == (status, code)
    sent = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    real = running.request("POST", path, sent, ADMIN if name == "admin" else DEV)
    assert real.status == status
    if code is not None:
        assert real.json["error"]["message"] == found["outcome"]["message"]


def test_who_may_not_call_at_all(running):
    keys = running.post("/admin/user-keys/query").json
    gone = next(row for row in keys if row["user_name"] == "gone")
    off = next(row for row in keys if row["user_name"] == "dev" and not row["enabled"])
    late = next(row for row in keys if row["expires_at"])
    body = {"model": "openai-main/gpt-1", **HELLO}
    reasons = [explained(running, key_id=one["id"], body=body)["who"]["why_not"] for one in (gone, off, late)]
    assert reasons == ["the user is disabled", "the key is disabled", "the key is expired"]
    assert explained(running, key_id=off["id"], body=body)["outcome"]["status"] == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"user_id": 4711}, 404),
        ({"key_id": 4711}, 404),
        ({"user_id": 1, "path": "/v1/models"}, 400),
        ({"user_id": 1, "path": "/admin/users/query"}, 400),
        ({"user_id": 1, "path": "/"}, 400),
        ({"user_id": 1, "headers": {"x": 1}}, 400),
        ({"user_id": 1, "key_id": 4711}, 404),
    ],
)
def test_what_cannot_be_explained(running, body, status):
    assert running.post("/admin/explain", body).status == status
