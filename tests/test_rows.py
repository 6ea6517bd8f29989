import pytest

from tests import rows
from tests.vendor import COMPLETION_TOKENS, PROMPT_TOKENS

NANO_OF_ONE = PROMPT_TOKENS * 400 + COMPLETION_TOKENS * 1600


@pytest.fixture
def provider(gateway, vendor) -> rows.Provider:
    return rows.provider(gateway, base_url=f"{vendor.url}/v1")


def test_a_user_may_use_every_model_unless_its_permissions_are_narrower(gateway, provider):
    free = rows.user(gateway)
    bound = rows.user(gateway, permissions=["never-*", (provider.name, "gpt-*")])
    assert gateway.chat(f"{provider.name}/o-1", free.key).status == 200
    assert gateway.chat(f"{provider.name}/gpt-1", bound.key).status == 200
    assert gateway.chat(f"{provider.name}/o-1", bound.key).status == 403
    assert gateway.chat("openai-main/gpt-1", bound.key).status == 403


def test_a_users_keys_have_labels_and_budgets(gateway):
    made = rows.user(gateway, keys=[{"label": "laptop"}, {"budget": 0.5}])
    shown = gateway.post("/admin/user-keys/query", {"user_id": made.id}).json
    assert {row["id"]: row["label"] for row in shown} == {made.key_ids[0]: "laptop", made.key_ids[1]: None}
    assert gateway.get("/me", made.keys[1]).json["budget"]["quota"] == 0.5
    assert len(set(rows.user(gateway, keys=3).keys)) == 3


def test_limits_and_a_quota_are_in_force_in_every_worker(gateway, provider):
    limited = rows.user(gateway, limits=[{"rpm": 1}])
    statuses = [gateway.chat(f"{provider.name}/gpt-1", limited.key).status for _ in range(8)]
    assert sorted(statuses) == [200] + [429] * 7
    poor = rows.user(gateway, quota=0.000000001, period="month")
    assert [gateway.chat("openai-main/gpt-4.1-mini", poor.key).status for _ in range(8)] == [402] * 8
    rows.set_quota(gateway, poor.id, None)
    assert [gateway.chat("openai-main/gpt-4.1-mini", poor.key).status for _ in range(8)] == [200] * 8


def test_a_limit_of_one_key_leaves_the_others_free(gateway, provider):
    made = rows.user(gateway, keys=2)
    rows.rate_limit(gateway, made.id, key_id=made.key_ids[0], rpm=0)
    rows.permission(gateway, made.id, "gpt-*", key_id=made.key_ids[1])
    assert gateway.chat(f"{provider.name}/gpt-1", made.keys[0]).status == 429
    assert gateway.chat(f"{provider.name}/gpt-1", made.keys[1]).status == 200
    assert gateway.chat(f"{provider.name}/o-1", made.keys[1]).status == 403


def test_a_provider_is_called_with_its_keys(gateway, vendor):
    made = rows.provider(gateway, base_url=f"{vendor.url}/v1", credentials=["sk-upstream-rows", {"api_key": "second"}])
    name = rows.unique("gpt-rows")
    for _ in range(12):
        assert gateway.chat(f"{made.name}/{name}").status == 200
    seen = {request.headers["authorization"] for request in vendor.received(name)}
    assert seen == {f"Bearer {key}" for key in made.keys}
    assert len(set(made.credential_ids)) == 2


def test_settings_and_channel_are_the_providers(gateway, vendor):
    claude = rows.provider(gateway, base_url=vendor.url, channel="anthropic", strict_translation=True, credentials=2)
    assert len(set(claude.keys)) == 2
    assert gateway.chat(f"{claude.name}/claude", logit_bias={"1": 1}).status == 400
    off = rows.provider(gateway, base_url=vendor.url, enabled=False)
    assert gateway.chat(f"{off.name}/m").status == 404


def test_a_model_has_a_price_and_an_alias_leads_to_it(gateway, provider):
    priced = rows.model(gateway, provider.name, usd=(0.4, 1.6))
    named = rows.alias(gateway, priced)
    dear = rows.alias(
        gateway, [{"provider": provider.name, "model": priced.model_id}], pricing={"price_each_call": 1.5}
    )
    for model in (priced.path, named.name, dear.name):
        assert gateway.chat(model).status == 200
    found = gateway.wait_rows(3, provider_id=provider.id)
    assert sorted(round(row["cost"] * 1e9) for row in found) == [NANO_OF_ONE, NANO_OF_ONE, 1_500_000_000]


def test_no_name_is_given_twice():
    assert len({rows.unique("m") for _ in range(100)}) == 100


def test_a_refused_row_is_an_error_with_the_reason(gateway):
    with pytest.raises(AssertionError, match="did you mean"):
        rows.provider(gateway, channel="opnai")
