"""Quotas over the admin API."""

import pytest

from tests.gateway import DEV, Gateway

DEV_ID, DISABLED_ID, OTHER_ID = 2, 3, 4


def ok(gateway: Gateway, path: str, body) -> dict | list:
    reply = gateway.post(f"/admin/user-quotas/{path}", body)
    assert reply.status == 200, reply.body
    return reply.json


def quota(gateway: Gateway, user_id: int) -> dict:
    (found,) = ok(gateway, "query", {"user_id": user_id})
    return found


def test_a_quota_is_set_changed_and_removed(admin: Gateway):
    whole = {"user_id": OTHER_ID, "quota": 25.5, "cost_used": 1.25, "period": "month"}
    assert ok(admin, "upsert", whole) == {"ok": True}
    assert quota(admin, OTHER_ID) == {**whole, "remaining": 24.25}
    # Missing fields keep their values.
    ok(admin, "upsert", {"user_id": OTHER_ID, "quota": 1})
    assert quota(admin, OTHER_ID) == {**whole, "quota": 1, "remaining": 0}
    ok(admin, "upsert", {"user_id": OTHER_ID, "quota": 2, "cost_used": 0.000000001, "period": None})
    lifelong = {"user_id": OTHER_ID, "quota": 2, "cost_used": 1e-9, "period": None}
    assert quota(admin, OTHER_ID) == {**lifelong, "remaining": 1.999999999}
    assert ok(admin, "delete", {"user_id": OTHER_ID}) == {"ok": True}
    assert quota(admin, OTHER_ID) == {**lifelong, "quota": None, "remaining": None}
    reply = admin.post("/admin/user-quotas/delete", {"user_id": OTHER_ID})
    assert reply.status == 404 and "has no quota" in reply.json["error"]["message"]


def test_the_cost_used_can_be_set_without_a_quota(admin: Gateway):
    ok(admin, "upsert", {"user_id": DISABLED_ID, "quota": None, "cost_used": 3})
    assert (quota(admin, DISABLED_ID)["quota"], quota(admin, DISABLED_ID)["cost_used"]) == (None, 3)


def test_quotas_are_found_by_user_ids(admin: Gateway):
    for user_id in (DEV_ID, DISABLED_ID):
        ok(admin, "upsert", {"user_id": user_id, "quota": user_id})
    assert [row["user_id"] for row in ok(admin, "query", {"user_id": {"In": [DISABLED_ID, DEV_ID, 99]}})] == [2, 3]
    assert [row["user_id"] for row in ok(admin, "query", {"limit": 1})] == [DEV_ID]
    assert ok(admin, "query", {"user_id": 99}) == []


REMEDY = "remove the row: without one there is no cap; to block use a rate limit of 0 or disable the user"
WRONG = [
    ({"quota": 0}, f"quota: expected an amount in USD of more than 0; {REMEDY}"),
    ({"quota": 0.0}, f"quota: expected an amount in USD of more than 0; {REMEDY}"),
    ({"quota": -1}, f"quota: expected an amount in USD of more than 0; {REMEDY}"),
    ({"quota": 4e-10}, "quota: expected an amount in USD of more than 0"),
    ({"quota": "5 USD"}, "quota: expected an amount in USD as a number"),
    ({"quota": True}, "quota: expected an amount in USD as a number"),
    ({"quota": [5]}, "quota: expected an amount in USD as a number"),
    ({"quota": 1_000_000_001}, "quota: expected an amount in USD of at most 1000000000"),
    ({"quota": 1e300}, "quota: expected an amount in USD of at most 1000000000"),
    ({}, "quota: Missing"),
    ({"quota": 1, "cost_used": -0.5}, "cost_used: expected an amount in USD that is not negative"),
    ({"quota": 1, "cost_used": "0"}, "cost_used: expected an amount in USD as a number"),
    ({"quota": 1, "period": "year"}, "period: expected day, week or month"),
    ({"quota": 1, "period": 7}, "period: "),
    ({"quota": 1, "until": 7}, "until: Unknown field"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG, ids=[str(fields) for fields, _ in WRONG])
def test_a_wrong_value_is_refused_by_name(admin: Gateway, fields, message):
    reply = admin.post("/admin/user-quotas/upsert", {"user_id": 1, **fields})
    assert reply.status == 400 and message in reply.json["error"]["message"], reply.body
    assert ok(admin, "query", {"user_id": 1}) == []


@pytest.mark.parametrize("written", ["NaN", "Infinity", "1e999"])
def test_an_amount_that_is_not_a_number_is_refused(admin: Gateway, written):
    reply = admin.post("/admin/user-quotas/upsert", f'{{"user_id": 1, "quota": {written}}}'.encode())
    assert reply.status == 400, reply.body


def test_an_unknown_user_is_not_found(admin: Gateway):
    for path, body in (("upsert", {"user_id": 99, "quota": 1}), ("delete", {"user_id": 99})):
        reply = admin.post(f"/admin/user-quotas/{path}", body)
        assert reply.status == 404 and "99" in reply.json["error"]["message"]


@pytest.mark.parametrize("verb", ["query", "upsert", "delete"])
def test_only_administrators_can_read_or_change(admin: Gateway, verb):
    assert admin.post(f"/admin/user-quotas/{verb}", {"user_id": 1, "quota": 1}, DEV).status == 403
