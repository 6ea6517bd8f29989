"""Permissions, file permissions and rate limits over the admin API."""

import pytest

from tests.gateway import DEV, Gateway

# Ids of users and keys in the journeys' seed. User 3 is disabled.
DEV_ID, DISABLED_ID, OTHER_ID, OTHER_KEY = 2, 3, 4, 6
OPENAI, ANTHROPIC = 1, 2
NOTHING = {"rpm": None, "rpd": None, "total_tokens": None, "concurrency": None}

# path, a row, and the names of the fields that identify it in a deletion
KINDS = [
    (
        "user-permissions",
        {"user_id": OTHER_ID, "key_id": OTHER_KEY, "provider_id": ANTHROPIC, "model_pattern": "claude-*"},
        "id",
    ),
    ("user-file-permissions", {"user_id": OTHER_ID, "provider_id": ANTHROPIC}, "id"),
    (
        "user-rate-limits",
        {"user_id": OTHER_ID, "key_id": OTHER_KEY, "model_pattern": "claude-*", **NOTHING, "rpm": 5},
        "user_id key_id model_pattern",
    ),
]
PATHS = [kind[0] for kind in KINDS]


def ok(gateway: Gateway, path: str, body) -> dict | list:
    reply = gateway.post(f"/admin/{path}", body)
    assert reply.status == 200, reply.body
    return reply.json


@pytest.mark.parametrize(("path", "row", "identifier"), KINDS, ids=PATHS)
def test_a_row_is_created_found_changed_and_deleted(admin: Gateway, path, row, identifier):
    mine = {"user_id": {"Eq": OTHER_ID}} if path == "user-file-permissions" else {"key_id": OTHER_KEY}
    row_id = ok(admin, f"{path}/upsert", row)["id"]
    assert ok(admin, f"{path}/query", mine) == [{"id": row_id, **row}]
    changed = row | ({"rpm": 7, "concurrency": 0} if "rpm" in row else {})
    assert ok(admin, f"{path}/upsert", changed | {"id": row_id}) == {"ok": True, "id": row_id}
    assert ok(admin, f"{path}/query", mine) == [{"id": row_id, **changed}]
    document = {name: (row | {"id": row_id})[name] for name in identifier.split()}
    assert ok(admin, f"{path}/delete", document) == {"ok": True}
    assert ok(admin, f"{path}/query", mine) == []
    reply = admin.post(f"/admin/{path}/delete", document)
    assert reply.status == 404 and "nothing was deleted" in reply.json["error"]["message"]


@pytest.mark.parametrize("pattern", ["*-" * 17, "*" + "a" * 256])
def test_a_pattern_beyond_the_bounds_is_refused_alone_and_in_a_batch(admin: Gateway, pattern):
    bound = "at most 16 stars" if len(pattern) < 256 else "at most 256 characters"
    row = {"user_id": OTHER_ID, "model_pattern": pattern}
    alias = {"alias": pattern, "targets": [{"provider": "openai", "model": "*"}]}
    documents = (("user-permissions", row, "model_pattern"), ("user-rate-limits", {**row, "rpm": 1}, "model_pattern"))
    for path, document, field in (*documents, ("aliases", alias, "alias")):
        for reply in (
            admin.post(f"/admin/{path}/upsert", document),
            admin.post(f"/admin/{path}/batch-upsert", [document]),
        ):
            message = reply.json["error"]["message"]
            assert reply.status == 400 and field in message and bound in message


@pytest.mark.parametrize(("path", "row", "identifier"), KINDS, ids=PATHS)
def test_many_rows_are_created_and_deleted_at_once(admin: Gateway, path, row, identifier):
    rows = (
        [{**row, "user_id": DISABLED_ID, "provider_id": n} for n in (1, 2)]
        if path == "user-file-permissions"
        else [{**row, "user_id": DISABLED_ID, "key_id": None, "model_pattern": pattern} for pattern in "ab"]
    )
    mine = {"user_id": {"In": [DISABLED_ID]}}
    ids = ok(admin, f"{path}/batch-upsert", rows)["ids"]
    created = [{"id": row_id, **one} for row_id, one in zip(ids, rows, strict=True)]
    assert ok(admin, f"{path}/query", mine) == created
    assert ok(admin, f"{path}/query", {**mine, "limit": 1, "offset": 1}) == created[1:]
    assert admin.post(f"/admin/{path}/batch-upsert", [rows[0], {**rows[1], "user_id": 99}]).status == 404
    documents = [{name: one[name] for name in identifier.split()} for one in created]
    assert (
        admin.post(f"/admin/{path}/batch-delete", [documents[0], documents[0] | {identifier.split()[0]: 99}]).status
        == 404
    )
    assert ok(admin, f"{path}/query", mine) == created
    assert ok(admin, f"{path}/batch-delete", []) == {"ok": True}
    assert ok(admin, f"{path}/query", mine) == created
    assert ok(admin, f"{path}/batch-delete", documents) == {"ok": True}
    assert ok(admin, f"{path}/query", mine) == []


LIMIT, PERMISSION = "user-rate-limits/upsert", "user-permissions/upsert"
PLACE = {"user_id": DEV_ID, "model_pattern": "*"}
WRONG = [
    (LIMIT, {**PLACE, "rpm": -1}, "rpm: expected a whole number from 0, which blocks"),
    (LIMIT, {**PLACE, "rpd": 1.5}, "rpd: expected a whole number"),
    (LIMIT, {**PLACE, "rpd": "5"}, "rpd: expected a whole number"),
    (LIMIT, {**PLACE, "total_tokens": 2**53 + 1}, "total_tokens: expected a whole number"),
    (LIMIT, {**PLACE, "concurrency": True}, "concurrency: expected a whole number"),
    (LIMIT, PLACE, "give at least one of rpm, rpd, total_tokens and concurrency"),
    (LIMIT, {**PLACE, **NOTHING}, "give at least one of rpm, rpd, total_tokens and concurrency"),
    (LIMIT, {"user_id": DEV_ID, "rpm": 1}, "model_pattern: Missing"),
    (LIMIT, {"model_pattern": "*", "rpm": 1}, "user_id: Missing"),
    (LIMIT, {**PLACE, "model_pattern": "", "rpm": 1}, "model_pattern: expected 1 to 1024"),
    (LIMIT, {**PLACE, "model_pattern": "a\0", "rpm": 1}, "model_pattern: holds a NUL"),
    (LIMIT, {**PLACE, "rpm": 1, "id": -1}, "id: expected a whole number"),
    (LIMIT, {**PLACE, "rpm": 1, "id": 2**31}, "id: expected a whole number"),
    (LIMIT, {**PLACE, "rpm": 1, "pattern": "*"}, "pattern: Unknown field"),
    ("user-rate-limits/batch-upsert", [{**PLACE, "rpm": 1}, {**PLACE, "rpm": -1}], "1.rpm: expected a whole number"),
    ("user-rate-limits/delete", {"user_id": DEV_ID}, "model_pattern: Missing"),
    ("user-rate-limits/query", {"user_id": "dev"}, "user_id: "),
    (PERMISSION, {"user_id": DEV_ID, "model_pattern": None}, "model_pattern: "),
    (PERMISSION, {**PLACE, "provider_id": "one"}, "provider_id: "),
    (PERMISSION, {**PLACE, "key_id": 1.5}, "key_id: "),
    ("user-permissions/batch-upsert", PLACE, "Invalid input type"),
    ("user-permissions/batch-delete", [1], "0: Invalid input type"),
    ("user-permissions/delete", {}, "id: Missing"),
    ("user-file-permissions/upsert", {"user_id": DEV_ID}, "provider_id: Missing"),
    ("user-file-permissions/upsert", {"user_id": DEV_ID, "provider_id": None}, "provider_id: "),
]


@pytest.mark.parametrize(("path", "body", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_a_wrong_value_is_refused_by_name(admin: Gateway, path, body, message):
    reply = admin.post(f"/admin/{path}", body)
    assert reply.status == 400 and message in reply.json["error"]["message"], reply.body


NOT_FOUND = [
    (LIMIT, {**PLACE, "user_id": 99, "rpm": 1}, "no user 99"),
    (LIMIT, {**PLACE, "key_id": OTHER_KEY, "rpm": 1}, f"user {DEV_ID} has no key {OTHER_KEY}"),
    (PERMISSION, {**PLACE, "provider_id": 99}, "no provider 99"),
    ("user-file-permissions/upsert", {"user_id": DEV_ID, "provider_id": 99}, "no provider 99"),
    ("user-permissions/delete", {"id": 9_999}, "no row 9999"),
]


@pytest.mark.parametrize(("path", "body", "message"), NOT_FOUND, ids=[message for _, _, message in NOT_FOUND])
def test_a_row_that_does_not_exist_is_not_found(admin: Gateway, path, body, message):
    reply = admin.post(f"/admin/{path}", body)
    assert reply.status == 404 and message in reply.json["error"]["message"], reply.body


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("verb", ["query", "upsert", "delete", "batch-upsert", "batch-delete"])
def test_only_administrators_can_read_or_change(admin: Gateway, path, verb):
    assert admin.post(f"/admin/{path}/{verb}", {}, DEV).status == 403
    assert admin.post(f"/admin/{path}/{verb}", {}, None).status == 401


def test_an_unknown_verb_answers_501(admin: Gateway):
    assert admin.post("/admin/user-permissions/rename", {}).status == 501
