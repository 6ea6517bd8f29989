"""Users' keys over the admin API: budgets and expiry."""

import pytest

from tests.gateway import Gateway

DEV_ID = 2


def ok(gateway: Gateway, path: str, body) -> dict | list:
    reply = gateway.post(f"/admin/user-keys/{path}", body)
    assert reply.status == 200, reply.body
    return reply.json


def key_fields(gateway: Gateway, key_id: int) -> dict:
    (found,) = (key for key in ok(gateway, "query", {"user_id": DEV_ID}) if key["id"] == key_id)
    return {name: found[name] for name in ("label", "enabled", "budget", "cost_used", "expires_at")}


def test_a_key_is_created_with_a_budget_and_an_expiry_and_changed(admin: Gateway):
    expires_at = "2040-01-31T00:00:00Z"
    key_id = ok(admin, "generate", {"user_id": DEV_ID, "label": "new", "budget": 2.5, "expires_at": expires_at})["id"]
    first = {"label": "new", "enabled": True, "budget": 2.5, "cost_used": 0, "expires_at": expires_at}
    assert key_fields(admin, key_id) == first
    assert ok(admin, "update", {"id": key_id}) == {"ok": True}
    assert key_fields(admin, key_id) == first
    ok(admin, "update", {"id": key_id, "cost_used": 1.5, "enabled": False})
    assert key_fields(admin, key_id) == {**first, "cost_used": 1.5, "enabled": False}
    ok(admin, "update", {"id": key_id, "label": None, "budget": None, "expires_at": None})
    nothing = dict.fromkeys(first)
    assert key_fields(admin, key_id) == {**nothing, "enabled": False, "cost_used": 1.5}


def test_each_of_many_new_keys_has_the_budget(admin: Gateway):
    keys = ok(admin, "batch-upsert", {"user_id": DEV_ID, "count": 2, "budget": 1})["keys"]
    assert [key_fields(admin, key["id"])["budget"] for key in keys] == [1, 1]


WRONG = [
    ({"budget": 0}, "budget: expected an amount in USD of more than 0; leave it out: without one there is no cap"),
    ({"budget": "5"}, "budget: expected an amount in USD as a number"),
    ({"expires_at": "tomorrow"}, "expires_at: expected a date and time with offset"),
    ({"expires_at": "2040-01-31T00:00:00"}, "expires_at: expected a date and time with offset"),
    ({"label": "a\0"}, "label: holds a NUL"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG, ids=[str(fields) for fields, _ in WRONG])
def test_a_wrong_value_is_refused_by_name(admin: Gateway, fields, message):
    for path, body in (("generate", {"user_id": DEV_ID}), ("update", {"id": 2})):
        reply = admin.post(f"/admin/user-keys/{path}", {**body, **fields})
        assert reply.status == 400 and message in reply.json["error"]["message"], reply.body
    reply = admin.post("/admin/user-keys/update", {"id": 2, "cost_used": -1})
    assert reply.status == 400 and "cost_used: expected an amount in USD" in reply.json["error"]["message"]


def test_a_key_that_does_not_exist_is_not_found(admin: Gateway):
    for fields in ({"budget": 1}, {"cost_used": 1}, {}):
        assert admin.post("/admin/user-keys/update", {"id": 99, **fields}).status == 404
