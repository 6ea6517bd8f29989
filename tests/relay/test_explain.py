"""Explaining a call: the same plan as a real call, every obstacle it would meet, and no effect at all."""

import re
from dataclasses import replace

import orjson
import pytest

from gproxy.channels.error_classifier import Fault, Verdict
from gproxy.credentials import selection
from gproxy.errors import BadRequest, Forbidden, NotFound, OverQuota, RateLimited, Unsupported
from gproxy.relay.explain import HIDDEN, Explanation, explain
from gproxy.relay.failover import Failover
from gproxy.snapshot import (
    Alias,
    Credential,
    Provider,
    ProviderSettings,
    Quota,
    RateLimit,
    ServiceAccount,
    Target,
    glob,
)
from tests.worker import COST

CHAT, CLAUDE = "openai_chat", "anthropic"


def explained(worker, call=None) -> Explanation:
    return explain(worker.relay, call or worker.call(), worker.caller, worker.snapshot)


def turns(found: Explanation, at: int = 0) -> list[tuple[int, int | None]]:
    """Returns the ids and the positions of a target's credentials."""
    return [(one.credential.id, one.position) for one in found.targets[at].candidates]


def serve_alone(worker, provider: Provider, model: str) -> None:
    worker.snapshot = replace(
        worker.snapshot,
        providers={provider.name: provider},
        provider_by_id={provider.id: provider},
        aliases={"a": Alias("a", (Target(provider.id, model),), None)},
    )


def test_nothing_is_sent_reserved_or_written(worker, vendor):
    worker.serve(CHAT, CLAUDE)
    before = len(vendor.seen)
    for _ in range(3):
        explained(worker)
    assert (len(vendor.seen), worker.entries(), worker.account()) == (before, [], (0, 0))
    assert worker.running.capacity.requests == 0


def test_the_explained_request_is_the_one_that_is_sent(worker, vendor):
    worker.serve(CHAT, CLAUDE)
    found = explained(worker)
    worker.run(worker.call())
    (seen,) = vendor.received("m1")
    (target, later) = found.targets
    assert (found.error, found.name) == (None, "a")
    assert (target.url, target.plan.body) == (vendor.url + seen.path, seen.body)
    assert [(one.provider, one.model, one.tier) for one in (target, later)] == [("p1", "m1", 1), ("p2", "m2", 2)]
    assert (later.url, later.plan.translation.label) == (f"{vendor.url}/v1/messages", "openai_chat->anthropic")


def test_the_credential_is_hidden(worker):
    worker.serve(CHAT, CLAUDE)
    first, second = explained(worker).targets
    assert first.request_headers["Authorization"] == f"Bearer {HIDDEN}"
    assert second.request_headers["x-api-key"] == HIDDEN
    assert "sk-1-0" not in repr((first, second))


def test_the_url_of_a_service_account_has_the_project_of_the_first_candidate(worker):
    credentials = tuple(
        Credential(n, 1, "pem", account=ServiceAccount(f"acme-{n}", "e", "https://token.test")) for n in (1, 2)
    )
    serve_alone(worker, Provider(1, "v", "vertex", ProviderSettings(), credentials), "gemini-2.5-pro")
    (target,) = explained(worker).targets
    assert "/projects/acme-1/" in target.url
    serve_alone(worker, Provider(1, "v", "vertex", ProviderSettings(), ()), "gemini-2.5-pro")
    (target,) = explained(worker).targets
    assert "{project}" in target.url and target.candidates == ()


def test_a_channel_inside_the_gateway_has_neither_url_nor_credentials(worker):
    serve_alone(worker, Provider(1, "demo", "demo", ProviderSettings(), ()), "demo-1")
    found = explained(worker)
    assert (found.error, found.targets[0].url, found.targets[0].candidates) == (None, None, ())


def test_a_local_token_count_has_no_url(worker):
    worker.serve(CHAT)
    (target,) = explained(worker, worker.call(CLAUDE, operation="count_tokens")).targets
    assert (target.url, target.plan.endpoint, target.candidates) == (None, None, ())


# -- credentials ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (selection.ROUND_ROBIN, "round robin"),
        (selection.STICKY, "the first usable credential"),
        (selection.CACHE_AFFINITY, "of this conversation"),
    ],
)
def test_the_first_candidate_is_the_one_that_the_next_call_uses(worker, vendor, strategy, reason):
    worker.serve(CHAT, credentials=3, rotation_strategy=strategy)
    for _ in range(4):
        (target,) = explained(worker).targets
        assert [one.position for one in target.candidates] == [1, 2, 3]
        assert reason in target.candidates[0].reason
        seen = len(vendor.received("m1"))
        worker.run(worker.call())
        used = vendor.received("m1")[seen].headers["authorization"]
        assert used == f"Bearer {target.candidates[0].credential.secret}"


def test_a_cooling_credential_is_skipped_with_its_reason(worker):
    worker.serve(CHAT, credentials=3, rotation_strategy=selection.STICKY)
    first, second, _ = worker.snapshot.providers["p1"].credentials
    worker.pool.failed(first, "m1", Fault(Verdict.RATE_LIMITED, 60.0))
    worker.pool.disable(second)
    found = explained(worker)
    assert turns(found) == [(10, None), (11, None), (12, 1)]
    cooling, disabled, usable = found.targets[0].candidates
    assert cooling.reason.startswith("limited until ") and cooling.state.status == "cooldown"
    assert disabled.reason == "dead: an administrator must enable it" and disabled.state.status == "unavailable"
    assert usable.state.status == "healthy"


def test_a_credential_without_room_in_its_own_limits_is_skipped(worker):
    worker.serve(CHAT)
    one = Credential(10, 1, "sk-1-0", rpm=1)
    served = replace(worker.snapshot.providers["p1"], credentials=(one,))
    worker.snapshot = replace(worker.snapshot, providers={"p1": served}, provider_by_id={1: served})
    worker.state.load_limit("c10", {}, (), {})
    assert turns(explained(worker)) == [(10, 1)]
    worker.run(worker.call())
    (candidate,) = explained(worker).targets[0].candidates
    assert (candidate.position, candidate.reason) == (None, "its own rpm of 1 is used up")


def test_the_credential_of_the_previous_response_comes_first(worker, vendor):
    worker.serve("openai_responses", credentials=3)
    body = {"model": "a", "input": "hi"}
    worker.run(worker.call("openai_responses", body=orjson.dumps(body)))
    more = orjson.dumps({**body, "previous_response_id": "resp_1"})
    found = explained(worker, worker.call("openai_responses", body=more))
    assert turns(found)[0] == (10, 1)
    assert "the vendor stored the previous response" in found.targets[0].candidates[0].reason


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "name", "error"),
    [
        ({"body": b'{"model": "nothing"}'}, "nothing", NotFound | BadRequest),
        ({"body": b'{"model": "p1/m1", "messages": 7}', "provider": "p9"}, "m1", Forbidden | NotFound),
        ({"body": b"{"}, None, BadRequest),
        ({"body": b"{}"}, None, BadRequest),
    ],
    ids=["unknown model", "unknown provider", "no JSON", "no model"],
)
def test_a_call_that_cannot_be_planned_has_its_error_and_no_target(worker, fields, name, error):
    worker.serve(CHAT)
    found = explained(worker, worker.call(**fields))
    assert isinstance(found.error, error)
    assert (found.name, found.targets, found.limits) == (name, (), None)


def test_a_caller_without_permission_gets_its_error(worker):
    worker.serve(CHAT)
    worker.caller = replace(worker.caller, grants=())
    found = explained(worker)
    assert (type(found.error), found.name, found.targets) == (Forbidden, "a", ())


def test_targets_that_cannot_serve_the_call_are_listed_with_the_reason(worker):
    worker.serve(CHAT, CLAUDE, CHAT)
    embedding = worker.call(body=b'{"model": "a", "input": "hi"}', operation="embeddings")
    found = explained(worker, embedding)
    assert [one.plan is not None for one in found.targets] == [True, False, True]
    assert isinstance(found.targets[1].error, Unsupported)
    worker.serve(CLAUDE, CHAT)
    found = explained(worker, embedding)
    assert [(one.provider, type(one.error)) for one in found.targets] == [("p1", Unsupported), ("p2", type(None))]


def test_a_call_over_its_quota_has_the_error_that_a_real_call_gets(worker):
    worker.serve(CHAT)
    worker.caller = replace(worker.caller, quota=Quota(COST // 2, None))
    found = explained(worker)
    with pytest.raises(OverQuota) as caught:
        worker.run(worker.call())
    assert (type(found.error), found.error.message) == (OverQuota, caught.value.message)
    assert [one.remaining for one in found.limits.statuses] == [COST // 2]
    assert len(found.targets) == 1


@pytest.mark.parametrize("counter", ["rpm", "rpd", "total_tokens", "concurrency"])
@pytest.mark.parametrize("state", ["used up", "blocked", "too small"])
def test_a_call_over_its_rate_limit_has_the_error_that_a_real_call_gets(worker, counter, state):
    worker.serve(CHAT)
    amount = {"used up": 100 if counter == "total_tokens" else 1, "blocked": 0, "too small": 10}[state]
    limit = RateLimit(1, "*", glob("*").fullmatch, **{counter: amount})
    worker.caller = replace(worker.caller, limits=(limit,))
    worker.state.load_limit("1", {}, (), {})
    running = None
    if state == "used up":
        assert explained(worker).error is None
        running = worker.relay.opener.open(
            Failover(worker.pool, worker.relay.plan(worker.call(), worker.caller, worker.snapshot)), worker.call()
        )
    found = explained(worker)
    if state == "too small" and counter != "total_tokens":
        assert found.error is None
        return
    with pytest.raises(RateLimited) as caught:
        worker.run(worker.call())
    assert type(found.error) is RateLimited
    assert _without_times(found.error.message) == _without_times(caught.value.message)
    assert found.error.headers["X-RateLimit-Counter"] == caught.value.headers["X-RateLimit-Counter"] == counter
    assert (found.error.retry_s is None) is (caught.value.retry_s is None)
    if running is not None:
        running.settle_failed(502, None, 0)


def _without_times(message: str) -> str:
    return re.sub(r"try again in \d+ s", "try again later", message)


def test_a_quota_is_refused_before_a_rate_limit(worker):
    worker.serve(CHAT)
    limit = RateLimit(1, "*", glob("*").fullmatch, rpm=0)
    worker.caller = replace(worker.caller, quota=Quota(1, None), limits=(limit,))
    worker.state.load_limit("1", {}, (), {})
    assert isinstance(explained(worker).error, OverQuota)


def test_a_caller_without_limits_has_none(worker):
    worker.serve(CHAT)
    worker.caller = replace(worker.caller, quota=None)
    found = explained(worker)
    assert (found.error, found.limits) == (None, None)
