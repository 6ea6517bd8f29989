"""Planning of a call: its reservation covers every target that may serve it."""

import json
from types import SimpleNamespace

import pytest

from gproxy import channels, protocols
from gproxy.quota.reservations import covering
from gproxy.relay.planner import Call, Plan, Planner
from gproxy.snapshot import Alias, Caller, Grant, Model, Provider, ProviderSettings, Quota, Snapshot, Target, glob

LOADED = protocols.load()
PLANNER = Planner(LOADED, channels.load(), SimpleNamespace(find=lambda *key: None))
CALLER = Caller(1, "ann", 1, False, None, (Grant(None, glob("*").fullmatch),), quota=Quota(10**12, None))
TIER = {
    "input_tokens_up_to": 10**8,
    "price_input_tokens": "1",
    "price_output_tokens": "2",
    "price_cache_creation_input_tokens": "10",
    "price_input_image_tokens": "7",
}
PRICE = {"price_tiers": [TIER], "priority_price_tiers": [{**TIER, "price_output_tokens": "9"}]}
CHAT, CLAUDE = "openai_chat", "anthropic"


def plan(protocol: str, body: dict, *targets: tuple[str, bool], **settings) -> Plan:
    """Returns the plan at the first target. A target is its protocol and whether it has a price."""
    rows = [
        Provider(n, f"p{n}", "custom", ProviderSettings(base_url="http://u", protocol=wire, **settings), ())
        for n, (wire, _) in enumerate(targets, 1)
    ]
    priced = [n for n, (_, has_price) in enumerate(targets, 1) if has_price]
    alias = Alias("a", tuple(Target(one.id, "m", tier=one.id) for one in rows), None)
    snapshot = Snapshot(
        {},
        providers={one.name: one for one in rows},
        provider_by_id={one.id: one for one in rows},
        models={(n, "m"): Model(n, "m", None, True, json.dumps(PRICE)) for n in priced},
        aliases={"a": alias},
    )
    data = json.dumps({"model": "a", **body}).encode()
    return PLANNER.plan(Call(protocol, data, lambda name: None, (), "req_1", 0.0), CALLER, snapshot)


TEXT = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
CACHED = {
    "max_tokens": 9,
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]}],
}


@pytest.mark.parametrize(
    ("protocol", "body", "targets"),
    [
        (CHAT, TEXT, ((CHAT, True), (CHAT, False))),
        (CHAT, TEXT, ((CHAT, False), (CHAT, True))),
        (CHAT, TEXT, ((CHAT, False), (CLAUDE, True), (CHAT, True))),
        # The translation of the first target has no cache, and the second target gets the client's own body.
        (CLAUDE, CACHED, ((CHAT, True), (CLAUDE, True))),
        # The translation of the first target has no service tier.
        (CHAT, {**TEXT, "service_tier": "priority"}, ((CLAUDE, True), (CHAT, True))),
        (CHAT, {**TEXT, "service_tier": "flex"}, ((CHAT, True), (CLAUDE, True))),
    ],
    ids=["to unpriced", "to priced", "three", "cache", "priority", "flex"],
)
def test_the_reservation_covers_every_target(protocol, body, targets):
    found = plan(protocol, body, *targets)
    bounds = [found.target_bound, *(fallback.plan().target_bound for fallback in found.fallbacks)]
    assert len(bounds) == len(targets)
    assert [bool(bound.money) for bound in bounds] == [has_price for _, has_price in targets]
    for bound in bounds:
        assert covering(found.upper_bound, bound) == found.upper_bound


def test_a_call_to_one_target_reserves_its_own_upper_bound():
    found = plan(CHAT, TEXT, (CHAT, True))
    assert found.upper_bound == found.target_bound
    assert found.target_bound.max_output == 4096


def test_a_target_whose_streams_may_not_pass_a_maximum_has_no_open_output():
    found = plan(CHAT, {**TEXT, "max_tokens": 7}, (CHAT, True), (CLAUDE, True))
    assert [found.target_bound.max_output, found.fallbacks[0].plan().target_bound.max_output] == [None, None]
