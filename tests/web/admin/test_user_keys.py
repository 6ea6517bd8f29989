"""Keys' budgets and ends over the admin API."""

import pytest

from tests.gateway import Gateway

DEV_ID = 2


def ok(gateway: Gateway, path: str, body) -> dict | list:
    reply = gateway.post(f"/admin/user-keys/{path}", body)
    assert reply.status == 200, reply.body
    return reply.json


def shown(gateway: Gateway, key_id: int) -> dict:
    (found,) = (key for key in ok(gateway, "query", {"user_id": DEV_ID}) if key["id"] == key_id)
    return {name: found[name] for name in ("label", "enabled", "budget", "cost_used", "expires_at")}


def test_a_key_is_made_with_a_budget_and_an_end_and_changed(admin: Gateway):
    end = "2040-01-31T00:00:00Z"
    made = ok(admin, "generate", {"user_id": DEV_ID, "label": "new", "budget": 2.5, "expires_at": end})["id"]
    first = {"label": "new", "enabled": True, "budget": 2.5, "cost_used": 0, "expires_at": end}
    assert shown(admin, made) == first
    assert ok(admin, "update", {"id": made}) == {"ok": True}
    assert shown(admin, made) == first
    ok(admin, "update", {"id": made, "cost_used": 1.5, "enabled": False})
    assert shown(admin, made) == {**first, "cost_used": 1.5, "enabled": False}
    ok(admin, "update", {"id": made, "label": None, "budget": None, "expires_at": None})
    nothing = dict.fromkeys(first)
    assert shown(admin, made) == {**nothing, "enabled": False, "cost_used": 1.5}


def test_many_keys_have_a_budget_each(admin: Gateway):
    made = ok(admin, "batch-upsert", {"user_id": DEV_ID, "count": 2, "budget": 1})["keys"]
    assert [shown(admin, key["id"])["budget"] for key in made] == [1, 1]


WRONG = [
    ({"budget": 0}, "budget: expected an amount in USD of more than 0; leave it out: without one there is no cap"),
    ({"budget": "5"}, "budget: expected an amount in USD as a number"),
    ({"expires_at": "tomorrow"}, "expires_at: expected a date and time with offset"),
    ({"expires_at": "2040-01-31T00:00:00"}, "expires_at: expected a date and time with offset"),
    ({"label": "a\0"}, "label: holds a NUL"),
]


@pytest.mark.parametrize(("fields", "told"), WRONG, ids=[str(fields) for fields, _ in WRONG])
def test_a_wrong_value_is_refused_by_name(admin: Gateway, fields, told):
    for path, body in (("generate", {"user_id": DEV_ID}), ("update", {"id": 2})):
        reply = admin.post(f"/admin/user-keys/{path}", {**body, **fields})
        assert reply.status == 400 and told in reply.json["error"]["message"], reply.body
    reply = admin.post("/admin/user-keys/update", {"id": 2, "cost_used": -1})
    assert reply.status == 400 and "cost_used: expected an amount in USD" in reply.json["error"]["message"]


def test_a_key_that_is_not_there_is_not_found(admin: Gateway):
    for fields in ({"budget": 1}, {"cost_used": 1}, {}):
        assert admin.post("/admin/user-keys/update", {"id": 99, **fields}).status == 404
