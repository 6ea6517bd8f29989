"""What an operator writes over the admin API: made, read, changed, deleted, one by one and in batches, refused when it
is wrong, and in force for the next request in every worker."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.gateway import ADMIN
from tests.journeys.test_changes import connections

SEALED = {"DATABASE_SECRET_KEY": "a-sealing-secret"}
PRICED = {"price_tiers": [{"input_tokens_up_to": 2**53 - 1, "price_input_tokens": 0.4, "price_output_tokens": 1.6}]}


@pytest.fixture(scope="module")
def running(vendor, tmp_path_factory):
    from tests.gateway import Gateway, seed

    found = Gateway(tmp_path_factory.mktemp("entities"), seed(vendor.url), 4, **SEALED).start()
    found.vendor = vendor
    yield found
    found.stop()


@dataclass
class Case:
    """The documents of one kind of row.

    `made` are documents for new rows, `changes` changed fields, `shown` the row's fields after the change, `wrong`
    refused documents with a part of the message. `deletion` and `many` identify a row to delete.
    """

    path: str
    made: list[Callable]
    changes: dict
    shown: dict
    wrong: list[tuple[object, str]]
    deletion: Callable[[dict], object] = lambda row: {"id": row["id"]}
    many: Callable[[dict], object] = lambda row: row["id"]


def provider_id(gateway, name: str = "openai-main") -> int:
    return gateway.post("/admin/providers/query", {"name": name}).json[0]["id"]


CASES = [
    Case(
        "providers",
        [
            lambda g, n: {
                "id": 0,
                "name": f"new-{n}",
                "channel": "openai",
                "settings_json": json.dumps({"base_url": g.vendor.url}),
                "routing_json": "",
            }
        ],
        {"label": "A label", "settings_json": {"base_url": "http://127.0.0.1:9", "max_attempts": 2}, "enabled": False},
        {"label": "A label", "settings_json": {"base_url": "http://127.0.0.1:9", "max_attempts": 2}, "enabled": False},
        [
            ({"name": "x", "channel": "opnai"}, "did you mean 'openai'"),
            ({"name": "admin", "channel": "openai"}, "path of gproxy's own"),
            ({"name": "a/b", "channel": "openai"}, "path segment"),
            ({"channel": "openai"}, "name: missing"),
            ({"name": "x"}, "channel: missing"),
            ({"name": "openai-main", "channel": "openai"}, "give its id to change it"),
            ({"name": "x", "channel": "custom"}, "base_url: missing"),
            ({"name": "x", "channel": "openai", "settings_json": "{"}, "settings_json: not readable JSON"),
            ({"name": "x", "channel": "openai", "settings_json": {"max_attempts": 0}}, "max_attempts"),
            ({"name": "x", "channel": "openai", "routing_json": "openai-lik"}, "routing_json"),
            ({"id": 1, "channel": "groq"}, "keeps its channel"),
            ({"id": 1, "nam": "x"}, "nam"),
            ({"id": -1, "name": "x", "channel": "openai"}, "id"),
        ],
        deletion=lambda row: {"name": row["name"]},
        many=lambda row: row["name"],
    ),
    Case(
        "credentials",
        [
            lambda g, n: {"provider_name": "openai-main", "credential": {"api_key": f"sk-upstream-new-{n}"}},
            lambda g, n: {"provider_id": provider_id(g), "credential": f"sk-upstream-plain-{n}", "name": "plain"},
        ],
        {"credential": {"api_key": "sk-upstream-exchanged"}, "rpm": 500, "enabled": False, "weight": 3},
        {"rpm": 500, "enabled": False, "weight": 3, "index": None},
        [
            ({"credential": "k"}, "provider_name: missing"),
            ({"provider_name": "openai-main"}, "credential: missing"),
            ({"provider_name": "openai-main", "credential": {}}, "api_key"),
            ({"provider_name": "openai-main", "credential": {"api_key": "a b"}}, "no header can carry"),
            ({"provider_name": "openai-main", "credential": "k", "weight": 0}, "weight"),
            ({"provider_id": 4711, "credential": "k"}, "there is no provider 4711"),
            ({"provider_name": "nowhere", "credential": "k"}, "there is no provider 'nowhere'"),
        ],
        many=lambda row: {"id": row["id"]},
    ),
    Case(
        "models",
        [
            lambda g, n: {
                "id": 0,
                "provider_id": provider_id(g),
                "model_id": f"new-{n}",
                "display_name": None,
                "enabled": True,
                "pricing_json": json.dumps({"model_id": "x", **PRICED}),
            },
            lambda g, n: {"provider_name": "openai-main", "model_id": f"named-{n}", "pricing_json": PRICED},
        ],
        {"display_name": "Shown", "enabled": False, "pricing_json": {"price_each_call": 0.123456789}},
        {"display_name": "Shown", "enabled": False, "pricing_json": '{"price_each_call": 0.123456789}'},
        [
            ({"model_id": "x"}, "provider_id: missing"),
            ({"provider_id": 4711, "model_id": "x"}, "there is no provider 4711"),
            ({"provider_id": 1}, "model_id: missing"),
            ({"provider_id": 1, "model_id": "x", "pricing_json": {"price_per_call": 1}}, "price_per_call"),
            ({"provider_id": 1, "model_id": "x", "pricing_json": {"price_each_call": -1}}, "not negative"),
            ({"provider_id": 1, "model_id": "x", "enabled": 1}, "expected true or false"),
        ],
    ),
    Case(
        "aliases",
        [
            lambda g, n: {
                "alias": f"new-{n}",
                "targets": [
                    {"provider": "openai-main", "model": "gpt-4.1-mini"},
                    {"provider": "demo", "model": "demo-1", "tier": 1},
                ],
            },
            lambda g, n: {"alias": f"one-{n}", "provider_name": "openai-main", "model_id": "gpt-4.1-mini"},
        ],
        {"targets": [{"provider": "demo", "model": "demo-1", "weight": 2}], "enabled": False},
        {"targets": [{"provider": "demo", "model": "demo-1", "tier": 0, "weight": 2}], "enabled": False},
        [
            ({"alias": "x"}, "targets: missing"),
            ({"targets": [{"provider": "demo", "model": "m"}]}, "alias: missing"),
            ({"alias": "x", "targets": []}, "targets"),
            ({"alias": "x", "targets": [{"provider": "nowhere", "model": "m"}]}, "there is no provider 'nowhere'"),
            ({"alias": "chat-default", "targets": [{"provider": "demo", "model": "m"}]}, "give its id"),
        ],
    ),
    Case(
        "users",
        [lambda g, n: {"id": 0, "name": f"new-{n}", "password": "correct horse", "enabled": True, "is_admin": False}],
        {"name": "renamed", "password": "", "enabled": False, "is_admin": True},
        {"name": "renamed", "enabled": False, "is_admin": True, "has_password": True},
        [
            ({"password": "x"}, "name: missing"),
            ({"name": "dev"}, "give its id to change it"),
            ({"name": "x", "password": "$argon2id$v=19$x"}, "starts like an Argon2 hash and is not a valid one"),
            ({"id": 1, "enabled": False}, "no enabled administrator"),
        ],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path)
def test_made_read_changed_and_deleted(running, case):
    def rows(**filters) -> list[dict]:
        reply = running.post(f"/admin/{case.path}/query", filters)
        assert reply.status == 200, reply.body
        return reply.json

    before = rows()
    for number, make in enumerate(case.made):
        reply = running.post(f"/admin/{case.path}/upsert", make(running, number))
        assert reply.status == 200, reply.body
        (row,) = rows(id={"eq": reply.json["id"]})
        again = running.post(f"/admin/{case.path}/upsert", {"id": row["id"], **case.changes})
        assert (again.status, again.json["id"]) == (200, row["id"]), again.body
        (changed,) = rows(id={"In": [row["id"]]})
        assert {name: changed[name] for name in case.shown} == case.shown
        assert running.post(f"/admin/{case.path}/delete", case.deletion(changed)).status == 200
        assert rows(id=row["id"]) == []
        assert running.post(f"/admin/{case.path}/delete", {"id": row["id"]}).status == 404
    assert rows() == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path)
def test_a_batch_is_all_or_nothing(running, case):
    def query() -> list[dict]:
        return running.post(f"/admin/{case.path}/query", {}).json

    before = query()
    good = [case.made[0](running, f"batch-{n}") for n in range(3)]
    refused = running.post(f"/admin/{case.path}/batch-upsert", [*good, case.wrong[0][0]])
    assert refused.status in (400, 404)
    assert "3" in refused.json["error"]["message"]
    assert query() == before
    made = running.post(f"/admin/{case.path}/batch-upsert", good)
    assert made.status == 200, made.body
    rows = [row for row in query() if row["id"] in made.json["ids"]]
    assert len(rows) == 3
    assert running.post(f"/admin/{case.path}/batch-delete", []).json == {"ok": True, "deleted": 0}
    missing = running.post(f"/admin/{case.path}/batch-delete", [case.many(rows[0]), {"id": 99_999}])
    assert (missing.status, "99999" in missing.json["error"]["message"]) == (404, True)
    assert len(query()) == len(before) + 3
    reply = running.post(f"/admin/{case.path}/batch-delete", [case.many(row) for row in rows])
    assert reply.json == {"ok": True, "deleted": 3}
    assert query() == before


@pytest.mark.parametrize(
    ("path", "body", "message"), [(case.path, body, message) for case in CASES for body, message in case.wrong]
)
def test_what_is_wrong_is_refused_by_its_name(running, path, body, message):
    if body == {"id": 1, "enabled": False}:
        (admin,) = running.post("/admin/users/query", {"name": "admin"}).json
        body = {"id": admin["id"], "enabled": False}
    reply = running.post(f"/admin/{path}/upsert", body)
    assert reply.status in (400, 404), reply.body
    assert message in reply.json["error"]["message"]


@pytest.mark.parametrize("path", [case.path for case in CASES])
@pytest.mark.parametrize("body", [b"{", b"[[]]", b"7.5", b'"x"', b'{"id": "7"}', b'{"unknown": 1}', b"\xff"])
def test_what_is_no_document_is_refused(running, path, body):
    for verb in ("query", "upsert", "batch-upsert", "delete", "batch-delete"):
        assert running.request("POST", f"/admin/{path}/{verb}", body, ADMIN).status in (400, 404)


def statuses(gateway, kept, model: str, key: str = ADMIN) -> set[int]:
    found = set()
    for connection in kept:
        body = json.dumps({"model": model, "messages": []})
        connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        answer.read()
        found.add(answer.status)
    return found


def test_each_is_in_force_in_every_worker_when_the_call_returns(running):
    """A provider, its key, a model, an alias and a user, each switched on and off."""
    kept = connections(running, 12)

    def put(path: str, **row) -> int:
        reply = running.post(f"/admin/{path}/upsert", row)
        assert reply.status == 200, reply.body
        return reply.json["id"]

    try:
        settings = {"base_url": running.vendor.url}
        provider = put("providers", name="live", channel="openai", settings_json=settings)
        assert statuses(running, kept, "live/gpt-1") == {503}
        credential = put("credentials", provider_name="live", credential="sk-upstream-live-1")
        assert statuses(running, kept, "live/gpt-1") == {200}
        put("credentials", id=credential, enabled=False)
        assert statuses(running, kept, "live/gpt-1") == {503}
        put("credentials", id=credential, enabled=True, credential="sk-upstream-live-2")
        assert statuses(running, kept, "live/gpt-1") == {200}
        assert running.vendor.seen[-1].headers["authorization"] == "Bearer sk-upstream-live-2"
        alias = put("aliases", alias="live-alias", provider_name="live", model_id="gpt-1")
        assert statuses(running, kept, "live-alias") == {200}
        put("aliases", id=alias, enabled=False)
        assert statuses(running, kept, "live-alias") == {400}
        model = put("models", provider_id=provider, model_id="gpt-1", enabled=False)
        assert statuses(running, kept, "live/gpt-1") == {404}
        put("models", id=model, enabled=True)
        assert statuses(running, kept, "live/gpt-1") == {200}
        user = put("users", name="lively")
        key = running.post("/admin/user-keys/generate", {"user_id": user}).json["api_key"]
        assert statuses(running, kept, "live/gpt-1", key) == {403}
        put("user-permissions", user_id=user, provider_id=provider, model_pattern="*")
        assert statuses(running, kept, "live/gpt-1", key) == {200}
        put("users", id=user, enabled=False)
        assert statuses(running, kept, "live/gpt-1", key) == {401}
        put("users", id=user, enabled=True)
        put("providers", id=provider, enabled=False)
        assert statuses(running, kept, "live/gpt-1") == {404}
        put("providers", id=provider, enabled=True, name="alive")
        assert statuses(running, kept, "alive/gpt-1") == {200}
        assert running.post("/admin/models/pull", {"provider_id": provider}).json["models"] == ["gpt-4.1-mini"]
        assert running.post("/admin/providers/delete", {"name": "alive"}).status == 200
        assert statuses(running, kept, "alive/gpt-1") == {404}
        for path in ("credentials", "models"):
            assert running.post(f"/admin/{path}/query", {"provider_id": provider}).json == []
        assert statuses(running, kept, "live-alias") == {400}  # it is switched off, and leads nowhere any more
        assert "live-alias" not in running.post("/admin/config/export-toml").body.decode()
        assert running.post("/admin/aliases/delete", {"alias": "live-alias"}).status == 200
        assert running.post("/admin/users/delete", {"id": user}).status == 200
        assert statuses(running, kept, "openai-main/gpt-1", key) == {401}
    finally:
        for connection in kept:
            connection.close()


def test_credentials_are_also_found_by_their_index(running):
    for n in range(3):
        running.post("/admin/credentials/upsert", {"provider_name": "keyless", "credential": f"sk-upstream-place-{n}"})
    rows = running.post("/admin/credentials/query", {"provider_name": {"Eq": "keyless"}}).json
    assert [row["index"] for row in rows] == [0, 1, 2]
    places = [{"provider_name": "keyless", "index": n} for n in (0, 2)]
    assert running.post("/admin/credentials/batch-delete", places).json["deleted"] == 2
    (left,) = running.post("/admin/credentials/query", {"provider_name": "keyless"}).json
    assert left["id"] == rows[1]["id"]
    assert running.post("/admin/credentials/delete", {"provider_name": "keyless", "index": 1}).status == 404
    assert running.post("/admin/credentials/delete", {"provider_name": "keyless", "index": 0}).status == 200


def test_secrets_are_shown_where_they_are_sealed_and_that_is_noted(running, own_gateway):
    secret = "sk-upstream-openai-aaaa"
    body = {"provider_name": "openai-main", "reveal": True}
    shown = running.post("/admin/credentials/query", body)
    assert shown.json[0]["credential"]["api_key"] == secret
    hidden = running.post("/admin/credentials/query", {"provider_name": "openai-main"})
    assert secret not in hidden.body.decode()
    assert hidden.json[0]["credential"]["fingerprint"] == shown.json[0]["credential"]["fingerprint"]
    (noted, *_) = running.post("/admin/audit/query", {"action": "admin/credentials/query", "limit": 1}).json
    assert (noted["user_name"], noted["changes"]["what"], noted["address"]) == ("admin", "revealed", "127.0.0.1")
    open_one = own_gateway()
    refused = open_one.post("/admin/credentials/query", body)
    assert refused.status == 403
    assert "DATABASE_SECRET_KEY" in refused.json["error"]["message"]


def test_every_change_is_noted_with_who_and_what_and_without_secrets(running):
    made = running.post(
        "/admin/users/upsert", {"name": "noted", "password": "hunter2-hunter2"}, x_request_id="audit-1"
    ).json["id"]
    running.post("/admin/users/upsert", {"id": made, "is_admin": True, "password": "hunter3-hunter3"})
    running.post("/admin/user-quotas/upsert", {"user_id": made, "quota": 5})
    running.post("/admin/user-rate-limits/upsert", {"user_id": made, "model_pattern": "*", "rpm": 7})
    key = running.post("/admin/user-keys/generate", {"user_id": made}).json
    running.post("/admin/users/delete", {"id": made})
    refused = running.post("/admin/users/upsert", {"id": made, "enabled": False})
    assert refused.status == 400
    rows = running.post("/admin/audit/query", {"limit": 8}).json
    changes = [(row["action"].removeprefix("admin/"), row["entity"], row["changes"]["what"]) for row in rows]
    assert changes[:6] == [
        ("users/delete", "users", "deleted"),
        ("user-keys/generate", "user_keys", "added"),
        ("user-rate-limits/upsert", "user_rate_limits", "added"),
        ("user-quotas/upsert", "user_quotas", "added"),
        ("users/upsert", "users", "changed"),
        ("users/upsert", "users", "added"),
    ]
    assert rows[5]["request_id"] == "audit-1"
    fields = rows[4]["changes"]["fields"]
    assert fields["is_admin"] == [False, True]
    assert fields["password"][0] != fields["password"][1]
    text = json.dumps(rows)
    for secret in ("hunter2", "hunter3", key["api_key"], "$argon2"):
        assert secret not in text
    assert running.post("/admin/audit/query", {"entity": "users", "entity_id": str(made)}).json[-1]["user_id"]


def test_settings_of_the_process_are_shown_and_kept(running):
    shown = running.get("/admin/global-settings", ADMIN).json
    assert shown["port"] == running.port
    assert running.post("/admin/global-settings/upsert", shown).status == 200
    refused = running.post("/admin/global-settings/upsert", {**shown, "port": 1})
    assert (refused.status, "environment variable" in refused.json["error"]["message"]) == (400, True)
    defaults = {"max_attempts": 3, "total_timeout_s": 99.5}
    assert running.post("/admin/global-settings/upsert", {"provider_defaults": defaults}).status == 200
    assert running.get("/admin/global-settings", ADMIN).json["provider_defaults"] == defaults
    assert running.post("/admin/global-settings/upsert", {"provider_defaults": {}, "enable_usage": True}).status == 200
    health = running.get("/admin/health", ADMIN).json
    assert (health["status"], health["provider_count"] > 5) == ("ok", True)
    assert running.post("/admin/reload").json["providers"] == health["provider_count"]
    rules = running.post("/admin/providers/default-routing", {"channel": "anthropic"}).json["rules"]
    assert {"route": {"operation": "generate_content", "protocol": "claude"}, "implementation": "Passthrough"} in rules
    assert running.post("/admin/providers/default-routing", {"channel": "x"}).status == 400
    assert running.post("/admin/update/check").status == 501


def test_the_effective_routing_can_be_sent_back(running):
    (row,) = running.post("/admin/providers/query", {"name": "openai-main"}).json
    assert not row["has_own_routing"]
    assert running.post("/admin/providers/upsert", {"id": row["id"], "routing_json": row["routing_json"]}).status == 200
    (again,) = running.post("/admin/providers/query", {"name": "openai-main"}).json
    assert (again["routing_json"], again["has_own_routing"]) == (row["routing_json"], True)
    assert running.chat("openai-main/gpt-1").status == 200
    assert running.post("/admin/providers/upsert", {"id": row["id"], "routing_json": ""}).status == 200
    (last,) = running.post("/admin/providers/query", {"name": "openai-main"}).json
    assert not last["has_own_routing"]


def test_the_configuration_goes_out_and_in(running):
    reply = running.post("/admin/config/export-toml")
    text = reply.body.decode()
    assert reply.headers["Content-Type"].startswith("application/toml")
    assert "sk-upstream-openai-aaaa" not in text
    assert "sk-upstream-openai-aaaa" in running.post("/admin/config/export-toml", {"secrets": True}).body.decode()
    same = running.post("/admin/config/import-toml", {"toml": text, "prune": True})
    assert same.json.get("changes") == [], same.body
    noted = len(running.post("/admin/audit/query", {}).json)
    changed = text.replace('label = "laptop"', 'label = "desk"') + '\n[[users]]\nname = "imported"\n'
    dry = running.post("/admin/config/import-toml", {"toml": changed, "dry_run": True}).json
    assert [(one["what"], one["entity"]) for one in dry["changes"]] == [("added", "users"), ("changed", "user_keys")]
    assert running.post("/admin/config/export-toml").body.decode() == text
    assert len(running.post("/admin/audit/query", {}).json) == noted
    done = running.post("/admin/config/import-toml", {"toml": changed}).json
    assert done["changes"] == dry["changes"]
    assert len(running.post("/admin/audit/query", {}).json) == noted + 2
    assert {running.post("/admin/users/query", {"name": "imported"}).status for _ in range(8)} == {200}
    back = running.post("/admin/config/import-toml", {"toml": text, "prune": True}).json["changes"]
    assert sorted(one["what"] for one in back) == ["changed", "deleted"]
    for toml, message in (("[[", "not readable"), ('[[providers]]\nname = "x"\n', "channel: missing"), (7, "toml")):
        refused = running.post("/admin/config/import-toml", {"toml": toml})
        assert (refused.status, message in refused.json["error"]["message"]) == (400, True)
