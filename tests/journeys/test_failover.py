"""Failover over real workers: the next credential, the next target, cooldowns and the health of credentials."""

import asyncio
import json
import random
import re
import threading
import time
from collections import Counter

import pytest

from tests import rows
from tests.gateway import ADMIN
from tests.polling import wait_until
from tests.postgres import fresh_database
from tests.raw_http import open_stream
from tests.redis import fresh
from tests.vendor import STREAM_HEAD, answers, body, chunk, dumps, events, faithful, refuses, sends, streams, whole

KEYS = ("sk-pool-aaaa-0001", "sk-pool-bbbb-0002", "sk-pool-cccc-0003")

# Each provider has credentials of its own, so that a test which disables one affects no other provider.
SEED = """
[[providers]]
name = "pool"
channel = "openai"
settings = {{ {settings}, first_byte_timeout_s = 2, rotation_strategy = "sticky" }}
credentials = [{{ api_key = "{keys[0]}" }}, {{ api_key = "{keys[1]}" }}]

[[providers]]
name = "claude"
channel = "anthropic"
settings = {{ base_url = "{vendor}", idle_timeout_s = 2 }}
credentials = [{{ api_key = "sk-ant-spare-0001" }}]

[[providers]]
name = "refusing"
channel = "custom"
settings = {{ base_url = "http://127.0.0.1:9" }}
credentials = [{{ api_key = "sk-refused-0001" }}]

[[providers]]
name = "demo"
channel = "demo"

[[providers]]
name = "retrying"
channel = "openai"
settings = {{ {unshared}, first_byte_timeout_s = 1, rotation_strategy = "sticky", retry_timeouts = true }}
credentials = [{{ api_key = "{keys[0]}" }}, {{ api_key = "{keys[1]}" }}]

[[providers]]
name = "not-retrying"
channel = "openai"
settings = {{ {unshared}, first_byte_timeout_s = 1, rotation_strategy = "sticky", retry_timeouts = false }}
credentials = [{{ api_key = "{keys[0]}" }}, {{ api_key = "{keys[1]}" }}]

[[providers]]
name = "single"
channel = "openai"
settings = {{ {settings}, first_byte_timeout_s = 2 }}
credentials = [{{ api_key = "sk-single-0001" }}]

[[providers]]
name = "rotating"
channel = "openai"
settings = {{ {settings}, first_byte_timeout_s = 2 }}
credentials = [{{ api_key = "{keys[0]}" }}, {{ api_key = "{keys[1]}" }}, {{ api_key = "{keys[2]}" }}]

[[providers]]
name = "affine"
channel = "openai"
settings = {{ {settings}, first_byte_timeout_s = 2, rotation_strategy = "cache_affinity" }}
credentials = [{{ api_key = "{keys[0]}" }}, {{ api_key = "{keys[1]}" }}, {{ api_key = "{keys[2]}" }}]

[[providers]]
name = "limited"
channel = "openai"
settings = {{ {settings}, first_byte_timeout_s = 2 }}
credentials = [{{ api_key = "{keys[0]}", rpm = 3 }}, {{ api_key = "{keys[1]}", rpm = 3 }}]

[[providers]]
name = "narrow"
channel = "openai"
settings = {{ {settings}, first_byte_timeout_s = 2 }}
credentials = [{{ api_key = "sk-narrow-0001", concurrency = 1 }}]

[[models]]
provider_name = "pool"
model_id = "default"
price_tiers = [{{ input_tokens_up_to = 100000000, price_input_tokens = 0.40, price_output_tokens = 1.60 }}]

[[models]]
provider_name = "claude"
model_id = "default"
price_tiers = [{{ input_tokens_up_to = 100000000, price_input_tokens = 3.00, price_output_tokens = 15.00 }}]

{aliases}

[[users]]
name = "root"
is_admin = true
keys = [{{ api_key = "sk-admin-1" }}]

[[users]]
name = "rated"
keys = [{{ api_key = "sk-rated-0001" }}]

[[users]]
name = "poor"
keys = [{{ api_key = "sk-poor-0001" }}]

[[permissions]]
user_name = "root"
model_pattern = "*"

[[permissions]]
user_name = "rated"
model_pattern = "*"

[[permissions]]
user_name = "poor"
model_pattern = "*"

[[rate_limits]]
user_name = "rated"
model_pattern = "*"
rpm = 9

# Of 9 tokens of output the model of "pool" costs at most 14,400 nano-USD, the one of "claude" 135,000.
[[quotas]]
user_name = "poor"
quota = 0.000100
"""


def alias(name: str, *targets: str) -> str:
    return f'[[model_aliases]]\nalias = "{name}"\ntargets = [{", ".join(targets)}]\n'


def target(provider: str, model: str, tier: int = 0, weight: int = 1) -> str:
    return f'{{ provider = "{provider}", model = "{model}", tier = {tier}, weight = {weight} }}'


# An upstream model of its own for each test: a failure puts the model of a credential in cooldown.
ALIASES = "\n".join(
    [
        *(
            alias(f"best-{use}", target("pool", f"failing-{use}"), target("claude", f"spare-{use}", tier=1))
            for use in ("whole", "stream", "rated")
        ),
        alias("always", target("pool", "failing-always"), target("demo", "demo-1", tier=1)),
        alias("unreachable", target("refusing", "x"), target("pool", "reachable", tier=1)),
        alias("weighted", target("pool", "weight-3", weight=3), target("pool", "weight-1", weight=1)),
        alias("claude-first", target("claude", "failing-claude"), target("pool", "after-claude", tier=1)),
        alias("expensive", target("pool", "cheap"), target("claude", "expensive", tier=1)),
    ]
)


def seed(vendor) -> str:
    settings = f'base_url = "{vendor.url}/v1", connect_timeout_s = 2, idle_timeout_s = 2'
    # Connections are kept by host: under another name a provider finds none that an earlier test opened.
    unshared = settings.replace("127.0.0.1", "localhost")
    return SEED.format(vendor=vendor.url, settings=settings, unshared=unshared, keys=KEYS, aliases=ALIASES)


@pytest.fixture(scope="module")
def gateway(module_gateway, vendor):
    for use in ("whole", "stream", "rated", "always"):
        vendor.scripts[f"failing-{use}"] = refuses(500, "down")
    return module_gateway(seed(vendor))


@pytest.fixture
def enable_credentials(gateway):
    """Enables the credentials of the shared gateway that the test disables."""
    yield
    gateway.heal()


def by_key(scripts: dict) -> object:
    """A script for each upstream key; the faithful one for the others."""

    async def script(seen, reader, writer):
        await scripts.get(key_of(seen), faithful)(seen, reader, writer)

    return script


def key_of(seen) -> str:
    return seen.headers.get("authorization", "").removeprefix("Bearer ") or seen.headers.get("x-api-key", "")


def keys_used(vendor, model: str) -> list[str]:
    """The keys of the calls for a model, in order."""
    return [key_of(seen) for seen in vendor.received(model)]


def usage_rows(gateway, model: str, count: int, **filters) -> list[dict]:
    return gateway.wait_rows(count, model={"Eq": model}, **filters)


STATUSES = (401, 402, 403, 408, 429, 500, 503, 529)


@pytest.mark.parametrize("client", ["chat", "stream", "translated", "translated stream"])
def test_an_error_response_leads_to_the_next_credential(gateway, vendor, enable_credentials, client):
    for status in STATUSES:
        model = f"error-{status}-{client.replace(' ', '-')}"
        vendor.scripts[model] = by_key({KEYS[0]: refuses(status, "upstream says no")})
        if client.startswith("translated"):
            body = {"model": f"pool/{model}", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
            body["stream"] = client.endswith("stream")
            reply = gateway.post("/v1/messages", body, ADMIN)
        else:
            reply = gateway.chat(f"pool/{model}", stream=client == "stream")
        assert reply.status == 200, (status, reply.body)
        assert keys_used(vendor, model) == list(KEYS[:2])
        if status in (401, 402):  # of the whole credential: the next status must start with it again
            gateway.heal()


def test_the_usage_row_has_every_attempt_and_the_credential_that_answered(gateway, vendor):
    vendor.scripts["recorded"] = by_key({KEYS[0]: refuses(500, "no")})
    reply = gateway.chat("pool/recorded")
    assert (reply.status, reply.headers["x-gproxy-provider"]) == (200, "pool")
    (row,) = usage_rows(gateway, "recorded", 1)
    assert (row["attempts"], row["outcome"], row["status"], row["credential_id"]) == (2, "complete", 200, 2)
    assert [(one["credential_id"], one["end"]) for one in row["tries"]] == [(1, 500), (2, 200)]
    assert gateway.chat("pool/not-failing").status == 200
    (row,) = usage_rows(gateway, "not-failing", 1)
    assert (row["attempts"], row["tries"]) == (1, [])


def test_a_rejected_key_is_disabled_on_all_workers_and_after_a_restart_until_it_is_enabled(own_gateway, vendor):
    gateway = own_gateway(seed(vendor))
    vendor.scripts["rejected"] = by_key({KEYS[0]: refuses(401, "invalid api key")})
    for _ in range(10):
        assert gateway.chat("pool/rejected").status == 200
    assert keys_used(vendor, "rejected").count(KEYS[0]) == 1
    for _ in range(4):
        assert gateway.chat("pool/not-rejected").status == 200
    assert set(keys_used(vendor, "not-rejected")) == {KEYS[1]}
    gateway.stop()
    gateway.start()
    assert gateway.chat("pool/restarted").status == 200
    assert keys_used(vendor, "restarted") == [KEYS[1]]
    statuses = gateway.post("/admin/credential-statuses/query", {"provider_name": "pool"}, ADMIN).json
    assert [(one["index"], one["status"]) for one in statuses] == [(0, "unavailable"), (1, "healthy")]
    gateway.heal()
    assert gateway.chat("pool/enabled-again").status == 200
    assert keys_used(vendor, "enabled-again") == [KEYS[0]]


def test_a_late_401_of_a_replaced_key_changes_nothing_for_the_new_key(gateway, vendor, enable_credentials):
    provider = rows.provider(gateway, base_url=f"{vendor.url}/v1", credentials=["sk-replaced-0001"])
    model, ends = rows.unique("replaced"), threading.Event()

    async def script(seen, reader, writer):
        while key_of(seen) == "sk-replaced-0001" and not ends.is_set():
            await asyncio.sleep(0.01)
        await refuses(401, "no such key")(seen, reader, writer)

    def status() -> str:
        return gateway.post("/admin/credential-statuses/query", {"provider_name": provider.name}).json[0]["status"]

    vendor.scripts[model] = script
    old_call = threading.Thread(target=gateway.chat, args=(f"{provider.name}/{model}",))
    old_call.start()
    wait_until(lambda: vendor.received(model))
    rows.put(gateway, "credentials", id=provider.credential_ids[0], credential="sk-replaced-0002")
    assert status() == "healthy"
    assert gateway.chat(f"{provider.name}/{model}").status == 401
    assert status() == "unavailable"
    ends.set()
    old_call.join()
    assert status() == "unavailable"


def test_a_rate_limited_credential_cools_down_for_the_given_time_and_is_then_probed(gateway, vendor):
    answers_of_first = iter([refuses(429, "slow down", {"Retry-After": "2"})])

    async def first(seen, reader, writer):
        await next(answers_of_first, faithful)(seen, reader, writer)

    def calls_of_first() -> list:
        return [seen for seen in vendor.received("rate-limited") if key_of(seen) == KEYS[0]]

    vendor.scripts["rate-limited"] = by_key({KEYS[0]: first})
    assert gateway.chat("pool/rate-limited").status == 200
    assert gateway.chat("pool/other-model").status == 200
    assert keys_used(vendor, "other-model") == [KEYS[0]]  # only this model cools down
    last_of_second = 0.0
    while len(calls_of_first()) == 1:
        last_of_second = time.monotonic()
        assert gateway.chat("pool/rate-limited").status == 200
        assert last_of_second - calls_of_first()[0].at < 2.5
    limited, probe = calls_of_first()
    assert probe.at - limited.at > 1.6, "the credential was used while it cooled down"
    before = len(vendor.received("rate-limited"))
    for _ in range(3):
        assert gateway.chat("pool/rate-limited").status == 200
    assert keys_used(vendor, "rate-limited")[before:] == [KEYS[0]] * 3


def test_if_all_credentials_fail_the_client_gets_the_first_error_and_then_the_time_to_wait(gateway, vendor):
    vendor.scripts["spent"] = by_key(
        {
            KEYS[0]: refuses(429, "the first says no", {"Retry-After": "7"}),
            KEYS[1]: refuses(429, "the second says no", {"Retry-After": "30"}),
        }
    )
    reply = gateway.chat("pool/spent")
    assert (reply.status, reply.json["error"]["message"]) == (429, "the first says no")
    assert reply.headers["Retry-After"] == "7"
    reply = gateway.chat("pool/spent")
    assert (reply.status, reply.json["error"]["code"]) == (503, "no_credential")
    assert 5 <= int(reply.headers["Retry-After"]) <= 7
    assert len(keys_used(vendor, "spent")) == 2
    (row,) = usage_rows(gateway, "spent", 1)  # the refused call has no row
    assert (row["attempts"], row["outcome"], row["status"], row["cost"]) == (2, "failed", 429, 0)
    body = {"model": "pool/spent-too", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    vendor.scripts["spent-too"] = vendor.scripts["spent"]
    reply = gateway.post("/v1/messages", body, ADMIN)
    assert (reply.status, reply.json["type"], reply.headers["Retry-After"]) == (429, "error", "7")
    assert (reply.json["error"]["type"], reply.json["error"]["message"]) == ("rate_limit_error", "the first says no")


def test_an_error_about_the_request_is_never_retried(gateway, vendor):
    for status in (400, 404, 413, 422):
        vendor.scripts[f"bad-{status}"] = refuses(status, "your mistake")
        assert gateway.chat(f"pool/bad-{status}").status == status
        assert len(keys_used(vendor, f"bad-{status}")) == 1


def test_the_only_credential_is_used_in_spite_of_its_cooldown_until_three_failures_in_a_row(gateway, vendor):
    """One bad response must not block a provider with one key."""
    failing = iter([True, False, True, False])

    async def moody(seen, reader, writer):
        await (refuses(500, "oops") if next(failing) else faithful)(seen, reader, writer)

    vendor.scripts["moody"] = moody
    assert [gateway.chat("single/moody").status for _ in range(4)] == [500, 200, 500, 200]
    vendor.scripts["always-down"] = refuses(500, "down")
    assert [gateway.chat("single/always-down").status for _ in range(5)] == [500, 500, 500, 503, 503]


# -- no response -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [False, True])
@pytest.mark.parametrize("end", ["reset", "close", "hang"])
def test_a_call_that_was_sent_is_retried_only_if_the_provider_allows_it(gateway, vendor, end, retries):
    model = f"sent-{end}-{retries}"
    complete = answers(200, dumps(whole("openai_chat", model)), {"Connection": "close"})
    vendor.scripts[model] = by_key({KEYS[0]: sends(0.05, end), KEYS[1]: complete})
    reply = gateway.chat(f"{'retrying' if retries else 'not-retrying'}/{model}")
    assert reply.status == (200 if retries else 504 if end == "hang" else 502)
    assert keys_used(vendor, model) == list(KEYS[: 2 if retries else 1])


def test_a_call_on_a_connection_that_the_upstream_had_closed_is_sent_again_with_the_same_key(own_gateway, vendor):
    gateway = own_gateway(seed(vendor), workers=1)  # the next call must find the connection
    vendor.scripts["once"] = sends(body(200, dumps(whole("openai_chat", "once"))), 0.2, "close")
    assert gateway.chat("single/once").status == 200
    # The next connection is closed in the moment in which a call is sent on it.
    ends = iter([sends("reset")])

    async def closes(seen, reader, writer):
        await next(ends, faithful)(seen, reader, writer)

    assert gateway.chat("single/opens-connection").status == 200
    vendor.scripts["closed-late"] = closes
    assert gateway.chat("single/closed-late").status == 200
    assert len(keys_used(vendor, "closed-late")) == 2
    (row,) = usage_rows(gateway, "closed-late", 1)
    assert (row["outcome"], row["attempts"]) == ("complete", 2)


# -- a stream that fails before its first output ---------------------------------------------------------------------

FIRST_EVENTS = {
    "openai_chat": b'data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":'
    b'[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n',
    "anthropic": b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg","type":"message","role":'
    b'"assistant","model":"m","content":[],"usage":{"input_tokens":3,"output_tokens":1}}}\n\n'
    b'event: ping\ndata: {"type":"ping"}\n\n',
}
ERRORS = {
    "openai_chat": b'data: {"error":{"message":"overloaded","type":"server_error","code":null}}\n\n',
    "anthropic": b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n',
}


def begins(protocol: str, *then: bytes | float | str):
    """A stream with a first event that has no output, and what follows."""
    return sends(STREAM_HEAD + chunk(FIRST_EVENTS[protocol]), *then)


def test_an_error_before_any_output_leads_to_the_next_credential(gateway, vendor):
    vendor.scripts["error-first"] = by_key({KEYS[0]: begins("openai_chat", chunk(ERRORS["openai_chat"]), b"0\r\n\r\n")})
    reply = gateway.chat("pool/error-first", stream=True)
    assert (reply.status, b"overloaded" in reply.body, reply.body.count(b"[DONE]")) == (200, False, 1)
    assert keys_used(vendor, "error-first") == list(KEYS[:2])
    (row,) = usage_rows(gateway, "error-first", 1)
    assert (row["outcome"], row["attempts"]) == ("complete", 2)


def test_an_error_after_output_reaches_the_client_without_a_retry(gateway, vendor):
    vendor.scripts["has-output"] = by_key({KEYS[0]: streams(2, "clean")})
    assert b"error" in gateway.chat("pool/has-output", stream=True).body
    assert keys_used(vendor, "has-output") == [KEYS[0]]


@pytest.mark.timing
def test_the_beginning_of_a_stream_is_held_back_for_two_seconds(gateway, vendor):
    remainder = b"".join(map(chunk, events("openai_chat", "m")[1:])) + b"0\r\n\r\n"
    vendor.scripts["slow-start"] = by_key({KEYS[0]: begins("openai_chat", 1.2, chunk(b": ping\n\n"), 1.2, remainder)})
    started = time.monotonic()
    with open_stream(gateway.port, "pool/slow-start") as sock:
        head = sock.recv(65536)
        assert 1.8 < time.monotonic() - started < 2.3
        assert head.startswith(b"HTTP/1.1 200")
        while b"[DONE]" not in head and (piece := sock.recv(65536)):
            head += piece
    assert b'"role":"assistant"' in head and b"error" not in head and b"[DONE]" in head
    assert keys_used(vendor, "slow-start") == [KEYS[0]]


def test_a_stream_that_ends_before_any_output_is_an_error_with_a_status(gateway, vendor):
    vendor.scripts["ends-empty"] = by_key({KEYS[0]: begins("openai_chat", b"0\r\n\r\n")})
    assert gateway.chat("pool/ends-empty", stream=True).status == 502
    assert keys_used(vendor, "ends-empty") == [KEYS[0]]


def test_an_error_before_any_output_leads_to_a_target_with_another_protocol(gateway, vendor):
    vendor.scripts["failing-claude"] = begins("anthropic", chunk(ERRORS["anthropic"]), b"0\r\n\r\n")
    body = {"model": "claude-first", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    reply = gateway.post("/v1/messages", body, ADMIN)
    assert (reply.status, reply.headers["x-gproxy-translated"]) == (200, "anthropic->openai_responses")
    assert b"message_stop" in reply.body and b"busy" not in reply.body


def test_if_every_stream_fails_the_client_gets_the_events_of_the_first(gateway, vendor):
    vendor.scripts["both-fail"] = begins("openai_chat", chunk(ERRORS["openai_chat"]), b"0\r\n\r\n")
    reply = gateway.chat("pool/both-fail", stream=True)
    assert (reply.status, b"overloaded" in reply.body, b"[DONE]" in reply.body) == (200, True, False)
    assert keys_used(vendor, "both-fail") == list(KEYS[:2])
    (row,) = usage_rows(gateway, "both-fail", 1)
    assert (row["outcome"], row["attempts"], row["cost"]) == ("failed", 2, 0)


# -- several targets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["whole", "stream"])
def test_the_next_tier_answers_across_protocols(gateway, vendor, use):
    reply = gateway.chat(f"best-{use}", stream=use == "stream")
    assert (reply.status, reply.headers["x-gproxy-provider"]) == (200, "claude")
    assert reply.headers["x-gproxy-translated"] == "openai_chat->anthropic"
    assert len(keys_used(vendor, f"failing-{use}")) >= 2 and len(keys_used(vendor, f"spare-{use}")) == 1
    if use == "whole":
        assert reply.json["model"] == "best-whole"
        (row,) = usage_rows(gateway, "best-whole", 1)
        assert (row["provider_channel"], row["credential_id"], row["attempts"]) == ("anthropic", 3, 3)
        assert row["cost"] == pytest.approx(float(reply.headers["x-gproxy-cost-usd"]))


def test_the_response_of_the_next_target_has_the_callers_remaining_limits_too(gateway):
    reply = gateway.chat("best-rated", "sk-rated-0001")
    assert (reply.status, reply.headers["x-gproxy-provider"]) == (200, "claude")
    assert (reply.headers["X-RateLimit-Limit"], reply.headers["x-ratelimit-remaining-requests"]) == ("9", "8")


def test_the_demo_provider_may_be_the_last_target(gateway):
    reply = gateway.chat("always")
    assert (reply.status, reply.headers["x-gproxy-provider"]) == (200, "demo")


def test_a_client_that_disconnects_during_a_probe_frees_the_credential(gateway, vendor):
    vendor.scripts["probed"] = refuses(429, "slow down", {"Retry-After": "1"})
    assert gateway.chat("single/probed").status == 429
    vendor.scripts["probed"] = sends("hang")
    time.sleep(1.1)
    with open_stream(gateway.port, "single/probed"):
        wait_until(lambda: len(vendor.received("probed")) == 2)
    wait_until(lambda: vendor.received("probed")[1].closed_at)
    vendor.scripts["probed"] = faithful
    wait_until(lambda: gateway.chat("single/probed").status == 200, timeout_s=0.5)


def test_a_refused_connection_leads_to_the_next_target(gateway):
    reply = gateway.chat("unreachable")
    assert (reply.status, reply.headers["x-gproxy-provider"]) == (200, "pool")


def test_targets_of_a_tier_share_the_calls_by_weight(gateway, vendor):
    for _ in range(80):
        assert gateway.chat("weighted").status == 200
    heavy, light = len(keys_used(vendor, "weight-3")), len(keys_used(vendor, "weight-1"))
    assert heavy + light == 80
    assert 45 <= heavy <= 75


def test_the_reservation_covers_the_most_expensive_target(gateway):
    assert gateway.chat("pool/cheap", "sk-poor-0001", max_tokens=9).status == 200
    assert gateway.chat("expensive", "sk-poor-0001", max_tokens=9).status == 402


# -- rotation and the limits of a credential ---------------------------------------------------------------------------


def test_a_credential_has_limits_of_its_own_over_all_workers(gateway, vendor):
    statuses = Counter(gateway.chat("limited/counted").status for _ in range(9))
    assert statuses == {200: 6, 503: 3}
    assert Counter(keys_used(vendor, "counted")) == {KEYS[0]: 3, KEYS[1]: 3}


@pytest.mark.parametrize("end", ["complete", "disconnected"])
def test_a_call_frees_its_place_with_a_credential_however_it_ends(gateway, vendor, end):
    model = f"occupying-{end}"
    vendor.scripts[model] = streams(None, "clean", pause_s=0.1)
    sock = open_stream(gateway.port, f"narrow/{model}")
    wait_until(lambda: vendor.received(model))
    refused = gateway.chat("narrow/refused")
    assert (refused.status, refused.json["error"]["code"]) == (503, "no_credential")
    if end == "complete":
        received = b""
        while b"[DONE]" not in received and (piece := sock.recv(65536)):
            received += piece
        assert received.startswith(b"HTTP/1.1 200") and b"[DONE]" in received
    sock.close()
    if end == "disconnected":
        open_stream(gateway.port, f"narrow/{model}").close()
        wait_until(lambda: gateway.chat("narrow/free").status == 200, timeout_s=1)
    assert gateway.chat("narrow/free").status == 200


def test_a_conversation_keeps_its_credential(gateway, vendor):
    used = set()
    for n in range(60):
        history = [{"role": "system", "content": "be brief"}, {"role": "user", "content": f"question {n}"}]
        model = f"talk-{n}"
        for turn in range(3):
            body = {"model": f"affine/{model}", "messages": history, "max_tokens": 5 + turn}
            assert gateway.post("/v1/chat/completions", body, ADMIN).status == 200
            history += [{"role": "assistant", "content": "so"}, {"role": "user", "content": f"and {turn}?"}]
        (key,) = set(keys_used(vendor, model))
        used.add(key)
        if n >= 11 and used == set(KEYS):
            break
    assert used == set(KEYS)


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_continues_a_response_begins_with_the_key_that_stores_it(gateway, vendor, stream):
    numbers = iter(range(1000))

    async def numbered(seen, reader, writer):
        response_id = f"resp_{next(numbers)}_{key_of(seen)[-4:]}".encode()
        data = dumps(whole("openai_responses", "m")).replace(b"resp_1", response_id)
        sent = [one.replace(b"resp_1", response_id) for one in events("openai_responses", "m")]
        writer.write(STREAM_HEAD + b"".join(map(chunk, sent)) + b"0\r\n\r\n" if stream else body(200, data))

    model = f"continued-{stream}"
    vendor.scripts[model] = numbered
    previous = None
    for _ in range(8):
        document = {"model": f"rotating/{model}", "input": "q", "stream": stream}
        if previous is not None:
            document["previous_response_id"] = previous
        reply = gateway.post("/v1/responses", document, ADMIN)
        assert reply.status == 200
        previous = re.search(rb"resp_\d+_\d{4}", reply.body)[0].decode()
    assert len(set(keys_used(vendor, model))) == 1


def test_every_client_gets_an_answer_while_two_of_three_credentials_fail_at_random(gateway, vendor):
    dice = random.Random(7)

    async def flaky(seen, reader, writer):
        if key_of(seen) != KEYS[2] and dice.random() < 0.3:
            await refuses(500, "at random")(seen, reader, writer)
        else:
            await faithful(seen, reader, writer)

    vendor.scripts["flaky"] = flaky
    statuses: Counter = Counter()
    lock = threading.Lock()

    def ask() -> None:
        for _ in range(100):
            status = gateway.chat("rotating/flaky").status
            with lock:
                statuses[status] += 1

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {200: 2_000}
    found = usage_rows(gateway, "flaky", 2_000, limit=10_000)
    assert sum(row["attempts"] for row in found) == len(keys_used(vendor, "flaky"))
    assert all(row["outcome"] == "complete" for row in found)


def test_the_state_of_credentials_on_disk_holds_no_secret(gateway, vendor, enable_credentials):
    vendor.scripts["leak"] = by_key({KEYS[0]: answers(401, json.dumps({"error": {"message": KEYS[0]}}).encode())})
    assert gateway.chat("pool/leak").status == 200
    written = b"".join(path.read_bytes() for path in (gateway.data / "health").iterdir())
    assert written
    assert not any(key.encode() in written for key in KEYS)


def test_the_other_machine_learns_the_health_of_a_credential_within_a_second(own_gateway, vendor, pytestconfig):
    postgres = fresh_database(pytestconfig)
    url, _ = fresh(pytestconfig)
    options = {"GPROXY_DSN": postgres, "GPROXY_REDIS_URL": url, "workers": 1, "start": False}
    machines = [own_gateway(seed(vendor), **options) for _ in range(2)]
    for machine in machines:
        machine.start(wait=False)
    for machine in machines:
        machine.wait_until_ready()

    def status_at(machine) -> str:
        return machine.post("/admin/credential-statuses/query", {"provider_name": "pool"}).json[0]["status"]

    vendor.scripts["learned"] = by_key({KEYS[0]: refuses(401, "no such key")})
    assert machines[0].chat("pool/learned").status == 200
    wait_until(lambda: status_at(machines[1]) == "unavailable", timeout_s=1.2)
    assert machines[1].chat("pool/learned").status == 200
    assert keys_used(vendor, "learned").count(KEYS[0]) == 1
    machines[1].heal()
    wait_until(lambda: status_at(machines[0]) == "healthy", timeout_s=1.2)
    assert machines[0].chat("pool/learned-again").status == 200
    assert keys_used(vendor, "learned-again") == [KEYS[0]]
