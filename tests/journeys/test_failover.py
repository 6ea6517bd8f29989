"""Upstreams fail and clients do not notice: the next credential, the next target, and what is remembered of it."""

import json
import random
import re
import threading
import time
from collections import Counter

import pytest

from tests.gateway import ADMIN
from tests.postgres import fresh_database
from tests.raw_http import open_stream
from tests.redis import fresh
from tests.vendor import STREAM_HEAD, answers, body, chunk, dumps, events, faithful, refuses, sends, streams, whole

KEYS = ("sk-pool-aaaa-0001", "sk-pool-bbbb-0002", "sk-pool-cccc-0003")

SEED = """
[[providers]]
name = "pool"
channel = "openai"
settings = {{ base_url = "{vendor}/v1", connect_timeout_s = 2, first_byte_timeout_s = 2, idle_timeout_s = 2{settings} }}
credentials = [{credentials}]

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

[[permissions]]
user_name = "root"
model_pattern = "*"

{more}
"""


def seed(vendor, settings: str = "", keys=KEYS[:2], limits: str = "", aliases: str = "", more: str = "") -> str:
    rows = ", ".join(f'{{ api_key = "{key}"{limits} }}' for key in keys)
    settings = f", {settings}" if settings else ""
    return SEED.format(vendor=vendor.url, settings=settings, credentials=rows, aliases=aliases, more=more)


def alias(name: str, *targets: str) -> str:
    return f'[[model_aliases]]\nalias = "{name}"\ntargets = [{", ".join(targets)}]\n'


def target(provider: str, model: str, tier: int = 0, weight: int = 1) -> str:
    return f'{{ provider = "{provider}", model = "{model}", tier = {tier}, weight = {weight} }}'


def by_key(scripts: dict) -> object:
    """Another script for each upstream key; faithful for the others."""

    async def script(seen, reader, writer):
        await scripts.get(key_of(seen), faithful)(seen, reader, writer)

    return script


def key_of(seen) -> str:
    return seen.headers.get("authorization", "").removeprefix("Bearer ") or seen.headers.get("x-api-key", "")


def asked(vendor, model: str) -> list[str]:
    """The keys that a model was asked for with, in order."""
    return [key_of(seen) for seen in vendor.asked(model)]


def rows(gateway, model: str, count: int, **asked) -> list[dict]:
    return gateway.wait_rows(count, model={"Eq": model}, **asked)


@pytest.fixture
def sticky(own_gateway, vendor):
    return own_gateway(seed(vendor, 'rotation_strategy = "sticky"'))


STATUSES = (401, 402, 403, 408, 429, 500, 503, 529)


@pytest.mark.parametrize("speaks", ["chat", "stream", "translated", "translated stream"])
def test_a_fault_that_is_an_answer_goes_on_to_the_next_credential(own_gateway, vendor, speaks):
    gateway = own_gateway(seed(vendor, 'rotation_strategy = "sticky"'), workers=1)
    for status in STATUSES:
        model = f"fault-{status}-{speaks.replace(' ', '-')}"
        vendor.scripts[model] = by_key({KEYS[0]: refuses(status, "upstream says no")})
        if speaks.startswith("translated"):
            body = {"model": f"pool/{model}", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
            body["stream"] = speaks.endswith("stream")
            reply = gateway.post("/v1/messages", body, ADMIN)
        else:
            reply = gateway.chat(f"pool/{model}", stream=speaks == "stream")
        assert reply.status == 200, (status, reply.body)
        assert asked(vendor, model) == list(KEYS[:2])
        if status in (401, 402):  # of the whole credential: what follows starts with a key that works
            gateway.heal()


def test_the_row_keeps_every_attempt_and_who_served_it(sticky, vendor):
    vendor.scripts["told"] = by_key({KEYS[0]: refuses(500, "no")})
    reply = sticky.chat("pool/told")
    assert (reply.status, reply.headers["x-gproxy-provider"]) == (200, "pool")
    (row,) = rows(sticky, "told", 1)
    assert (row["attempts"], row["outcome"], row["status"], row["credential_id"]) == (2, "complete", 200, 2)
    assert [(one["credential_id"], one["end"]) for one in row["tries"]] == [(1, 500), (2, 200)]
    assert sticky.chat("pool/plain").status == 200
    (row,) = rows(sticky, "plain", 1)
    assert (row["attempts"], row["tries"]) == (1, [])


def test_a_key_that_is_none_is_left_alone_by_all_workers_until_an_operator_says_so(sticky, vendor):
    vendor.scripts["dead"] = by_key({KEYS[0]: refuses(401, "invalid api key")})
    for _ in range(10):
        assert sticky.chat("pool/dead").status == 200
    assert asked(vendor, "dead").count(KEYS[0]) == 1
    for _ in range(4):
        assert sticky.chat("pool/other").status == 200
    assert set(asked(vendor, "other")) == {KEYS[1]}
    sticky.stop()
    sticky.start()
    assert sticky.chat("pool/later").status == 200
    assert asked(vendor, "later") == [KEYS[1]]
    statuses = sticky.post("/admin/credential-statuses/query", {}, ADMIN).json
    assert {(one["provider"], one["index"], one["status"]) for one in statuses if one["provider"] == "pool"} == {
        ("pool", 0, "unavailable"),
        ("pool", 1, "healthy"),
    }
    sticky.heal()
    assert sticky.chat("pool/again").status == 200
    assert asked(vendor, "again") == [KEYS[0]]


def test_a_limited_credential_is_left_alone_as_long_as_it_said_and_then_tried_once(sticky, vendor):
    limited = True

    async def first(seen, reader, writer):
        await (refuses(429, "slow down", {"Retry-After": "2"}) if limited else faithful)(seen, reader, writer)

    vendor.scripts["limited"] = by_key({KEYS[0]: first})
    started = time.monotonic()
    while time.monotonic() - started < 1.6:
        assert sticky.chat("pool/limited").status == 200
    assert asked(vendor, "limited").count(KEYS[0]) == 1
    assert sticky.chat("pool/another").status == 200
    assert asked(vendor, "another") == [KEYS[0]]  # only this model cools
    limited = False
    time.sleep(max(0.0, 2.1 - (time.monotonic() - started)))
    vendor.seen.clear()
    for _ in range(3):
        assert sticky.chat("pool/limited").status == 200
    assert asked(vendor, "limited") == [KEYS[0]] * 3


def test_when_all_fail_the_first_cause_is_told_and_then_when_to_come_back(sticky, vendor):
    vendor.scripts["spent"] = by_key(
        {
            KEYS[0]: refuses(429, "the first says no", {"Retry-After": "7"}),
            KEYS[1]: refuses(429, "the second says no", {"Retry-After": "30"}),
        }
    )
    reply = sticky.chat("pool/spent")
    assert (reply.status, reply.json["error"]["message"]) == (429, "the first says no")
    assert reply.headers["Retry-After"] == "7"
    reply = sticky.chat("pool/spent")
    assert (reply.status, reply.json["error"]["code"]) == (503, "no_credential")
    assert 5 <= int(reply.headers["Retry-After"]) <= 7
    assert len(asked(vendor, "spent")) == 2
    (row,) = rows(sticky, "spent", 1)  # the refused call has none
    assert (row["attempts"], row["outcome"], row["status"], row["cost"]) == (2, "failed", 429, 0)
    body = {"model": "pool/spent2", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    vendor.scripts["spent2"] = vendor.scripts["spent"]
    told = sticky.post("/v1/messages", body, ADMIN)
    assert (told.status, told.json["type"], told.headers["Retry-After"]) == (429, "error", "7")
    assert (told.json["error"]["type"], told.json["error"]["message"]) == ("rate_limit_error", "the first says no")


def test_what_is_about_the_request_is_never_repeated(sticky, vendor):
    for status in (400, 404, 413, 422):
        vendor.scripts[f"bad-{status}"] = refuses(status, "your mistake")
        assert sticky.chat(f"pool/bad-{status}").status == status
        assert len(asked(vendor, f"bad-{status}")) == 1


def test_an_upstream_that_fails_for_a_moment_is_not_given_up_while_there_is_nothing_else(own_gateway, vendor):
    """One bad answer must not make a provider with one key refuse everybody."""
    gateway = own_gateway(seed(vendor, keys=KEYS[:1]))
    failing = iter([True, False, True, False])

    async def moody(seen, reader, writer):
        await (refuses(500, "oops") if next(failing) else faithful)(seen, reader, writer)

    vendor.scripts["moody"] = moody
    assert [gateway.chat("pool/moody").status for _ in range(4)] == [500, 200, 500, 200]
    vendor.scripts["down"] = refuses(500, "down")
    assert [gateway.chat("pool/down").status for _ in range(5)] == [500, 500, 500, 503, 503]


# -- without an answer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [False, True])
@pytest.mark.parametrize("end", ["reset", "close", "hang"])
def test_a_call_that_was_sent_is_repeated_only_where_that_is_set(own_gateway, vendor, end, retries):
    settings = f'rotation_strategy = "sticky", retry_timeouts = {str(retries).lower()}'
    gateway = own_gateway(seed(vendor, settings))
    model = f"sent-{end}-{retries}"
    vendor.scripts[model] = by_key({KEYS[0]: sends(0.05, end)})
    reply = gateway.chat(f"pool/{model}")
    assert reply.status == (200 if retries else 504 if end == "hang" else 502)
    assert asked(vendor, model) == list(KEYS[: 2 if retries else 1])


def test_a_connection_that_the_upstream_had_closed_is_no_fault_of_anyone(own_gateway, vendor):
    gateway = own_gateway(seed(vendor, keys=KEYS[:1]), workers=1)
    vendor.scripts["once"] = sends(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(dumps(ANSWER))
        + dumps(ANSWER),
        0.2,
        "close",
    )
    assert gateway.chat("pool/once").status == 200
    # It is sent on a connection that the other side closes in this very moment.
    stale = True

    async def dies(seen, reader, writer):
        nonlocal stale
        was, stale = stale, False
        await (sends("reset") if was else faithful)(seen, reader, writer)

    assert gateway.chat("pool/warm").status == 200
    vendor.scripts["dies"] = dies
    assert gateway.chat("pool/dies").status == 200
    assert len(asked(vendor, "dies")) == 2
    (row,) = rows(gateway, "dies", 1)
    assert (row["outcome"], row["attempts"]) == ("complete", 2)


ANSWER = whole("openai_chat", "once")


# -- a stream that fails before it means anything ------------------------------------------------------------------

OPENINGS = {
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
    """The opening of a stream, without output, and what follows."""
    return sends(STREAM_HEAD + chunk(OPENINGS[protocol]), *then)


def test_an_error_before_any_output_goes_on(sticky, vendor):
    vendor.scripts["opens"] = by_key({KEYS[0]: begins("openai_chat", chunk(ERRORS["openai_chat"]), b"0\r\n\r\n")})
    reply = sticky.chat("pool/opens", stream=True)
    assert (reply.status, b"overloaded" in reply.body, reply.body.count(b"[DONE]")) == (200, False, 1)
    assert asked(vendor, "opens") == list(KEYS[:2])
    (row,) = rows(sticky, "opens", 1)
    assert (row["outcome"], row["attempts"]) == ("complete", 2)


def test_an_error_after_output_is_told_and_nothing_is_repeated(sticky, vendor):
    vendor.scripts["speaks"] = by_key({KEYS[0]: streams(2, "clean")})
    assert b"error" in sticky.chat("pool/speaks", stream=True).body
    assert asked(vendor, "speaks") == [KEYS[0]]


def test_a_stream_that_thinks_for_long_is_taken_for_begun(sticky, vendor):
    rest = b"".join(map(chunk, events("openai_chat", "m")[1:])) + b"0\r\n\r\n"
    vendor.scripts["thinks"] = by_key({KEYS[0]: begins("openai_chat", 1.2, chunk(b": ping\n\n"), 1.2, rest)})
    started = time.monotonic()
    with open_stream(sticky.port, "pool/thinks") as sock:
        head = sock.recv(65536)
        assert 1.8 < time.monotonic() - started < 2.3
        assert head.startswith(b"HTTP/1.1 200")
        while b"[DONE]" not in head and (piece := sock.recv(65536)):
            head += piece
    assert b'"role":"assistant"' in head and b"error" not in head and b"[DONE]" in head
    assert asked(vendor, "thinks") == [KEYS[0]]


def test_a_stream_that_ends_before_any_output_is_an_error_with_a_status(sticky, vendor):
    vendor.scripts["empty"] = by_key({KEYS[0]: begins("openai_chat", b"0\r\n\r\n")})
    assert sticky.chat("pool/empty", stream=True).status == 502
    assert asked(vendor, "empty") == [KEYS[0]]


def test_an_error_before_any_output_goes_on_across_protocols(own_gateway, vendor):
    aliases = alias("first-claude", target("claude", "opens-claude"), target("pool", "after", tier=1))
    gateway = own_gateway(seed(vendor, aliases=aliases))
    vendor.scripts["opens-claude"] = begins("anthropic", chunk(ERRORS["anthropic"]), b"0\r\n\r\n")
    body = {"model": "first-claude", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    reply = gateway.post("/v1/messages", body, ADMIN)
    assert (reply.status, reply.headers["x-gproxy-translated"]) == (200, "anthropic->openai_responses")
    assert b"message_stop" in reply.body and b"busy" not in reply.body


def test_when_every_stream_fails_the_first_ones_events_are_told(sticky, vendor):
    vendor.scripts["both"] = begins("openai_chat", chunk(ERRORS["openai_chat"]), b"0\r\n\r\n")
    reply = sticky.chat("pool/both", stream=True)
    assert (reply.status, b"overloaded" in reply.body, b"[DONE]" in reply.body) == (200, True, False)
    assert asked(vendor, "both") == list(KEYS[:2])
    (row,) = rows(sticky, "both", 1)
    assert (row["outcome"], row["attempts"], row["cost"]) == ("failed", 2, 0)


# -- beyond one provider ---------------------------------------------------------------------------------------------


@pytest.fixture
def tiered(own_gateway, vendor):
    aliases = alias("best", target("pool", "down"), target("claude", "spare", tier=1))
    aliases += alias("unreachable", target("refusing", "x"), target("pool", "fine", tier=1))
    aliases += alias("shared", target("pool", "left", weight=3), target("pool", "right", weight=1))
    vendor.scripts["down"] = refuses(500, "down")
    return own_gateway(seed(vendor, aliases=aliases))


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_tier_answers_across_protocols(tiered, vendor, stream):
    before = len(asked(vendor, "spare"))
    reply = tiered.chat("best", stream=stream)
    assert (reply.status, reply.headers["x-gproxy-provider"]) == (200, "claude")
    assert reply.headers["x-gproxy-translated"] == "openai_chat->anthropic"
    assert len(asked(vendor, "down")) >= 2 and len(asked(vendor, "spare")) == before + 1
    if not stream:
        assert reply.json["model"] == "best"
        row = rows(tiered, "best", 1)[0]
        assert (row["provider_channel"], row["credential_id"], row["attempts"]) == ("anthropic", 3, 3)
        assert row["cost"] == pytest.approx(float(reply.headers["x-gproxy-cost-usd"]))


def test_the_next_target_tells_what_is_left_of_limits_too(own_gateway, vendor):
    vendor.scripts["down"] = refuses(500, "down")
    aliases = alias("told", target("pool", "down"), target("claude", "spare", tier=1))
    gateway = own_gateway(
        seed(vendor, aliases=aliases, more='[[rate_limits]]\nuser_name = "root"\nmodel_pattern = "*"\nrpm = 9')
    )
    reply = gateway.chat("told")
    assert (reply.status, reply.headers["x-gproxy-provider"]) == (200, "claude")
    assert (reply.headers["X-RateLimit-Limit"], reply.headers["x-ratelimit-remaining-requests"]) == ("9", "8")


def test_the_demo_may_be_the_last_resort(own_gateway, vendor):
    vendor.scripts["down"] = refuses(500, "down")
    aliases = '[[providers]]\nname = "demo"\nchannel = "demo"\n'
    aliases += alias("always", target("pool", "down"), target("demo", "demo-1", tier=1))
    reply = own_gateway(seed(vendor, aliases=aliases)).chat("always")
    assert (reply.status, reply.headers["x-gproxy-provider"]) == (200, "demo")


def test_a_client_that_leaves_while_it_tries_keeps_nobody_waiting(own_gateway, vendor):
    gateway = own_gateway(seed(vendor, keys=KEYS[:1]), workers=1)
    vendor.scripts["tried"] = refuses(429, "slow down", {"Retry-After": "1"})
    assert gateway.chat("pool/tried").status == 429
    vendor.scripts["tried"] = sends("hang")
    time.sleep(1.1)
    with open_stream(gateway.port, "pool/tried"):
        time.sleep(0.2)
    time.sleep(0.3)
    vendor.scripts["tried"] = faithful
    assert gateway.chat("pool/tried").status == 200


def test_a_refused_connection_goes_on(tiered, vendor):
    reply = tiered.chat("unreachable")
    assert (reply.status, reply.headers["x-gproxy-provider"]) == (200, "pool")


def test_targets_of_a_tier_share_by_weight(tiered, vendor):
    for _ in range(80):
        assert tiered.chat("shared").status == 200
    left, right = len(asked(vendor, "left")), len(asked(vendor, "right"))
    assert left + right == 80
    assert 45 <= left <= 75


def test_the_hold_covers_the_dearest_target(own_gateway, vendor):
    aliases = alias("dear", target("pool", "cheap"), target("claude", "dear", tier=1))
    # Of 9 tokens of output the cheap one costs at most 14,400 nano-USD, the dear one 135,000.
    more = '[[quotas]]\nuser_name = "root"\nquota = 0.000100\n'
    gateway = own_gateway(seed(vendor, aliases=aliases, more=more))
    assert gateway.chat("pool/cheap", max_tokens=9).status == 200
    assert gateway.chat("dear", max_tokens=9).status == 402


# -- the credential's own limits ---------------------------------------------------------------------------------------


def test_a_credential_has_limits_of_its_own_over_all_workers(own_gateway, vendor):
    gateway = own_gateway(seed(vendor, limits=", rpm = 3"))
    statuses = Counter(gateway.chat("pool/counted").status for _ in range(9))
    assert statuses == {200: 6, 503: 3}
    assert Counter(asked(vendor, "counted")) == {KEYS[0]: 3, KEYS[1]: 3}


@pytest.mark.parametrize("end", ["clean", "gone"])
def test_a_place_with_a_credential_is_free_again_however_a_call_ends(own_gateway, vendor, end):
    gateway = own_gateway(seed(vendor, limits=", concurrency = 1", keys=KEYS[:1]))
    vendor.scripts["slow"] = streams(None, "clean", pause_s=0.1)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(gateway.chat("pool/slow", stream=True).status))
    thread.start()
    time.sleep(0.3)
    refused = gateway.chat("pool/busy")
    assert (refused.status, refused.json["error"]["code"]) == (503, "no_credential")
    thread.join()
    assert found == [200]
    if end == "gone":
        open_stream(gateway.port, "pool/slow").close()
        time.sleep(0.4)
    assert gateway.chat("pool/free").status == 200


def test_a_conversation_keeps_its_credential(own_gateway, vendor):
    gateway = own_gateway(seed(vendor, 'rotation_strategy = "cache_affinity"', keys=KEYS))
    used = set()
    for n in range(12):
        history = [{"role": "system", "content": "be brief"}, {"role": "user", "content": f"question {n}"}]
        model = f"talk-{n}"
        for turn in range(3):
            body = {"model": f"pool/{model}", "messages": history, "max_tokens": 5 + turn}
            assert gateway.post("/v1/chat/completions", body, ADMIN).status == 200
            history += [{"role": "assistant", "content": "so"}, {"role": "user", "content": f"and {turn}?"}]
        (key,) = set(asked(vendor, model))
        used.add(key)
    assert used == set(KEYS)


@pytest.mark.parametrize("stream", [False, True])
def test_what_goes_on_from_a_response_begins_with_the_key_that_keeps_it(own_gateway, vendor, stream):
    gateway = own_gateway(seed(vendor, keys=KEYS))
    numbers = iter(range(1000))

    async def numbered(seen, reader, writer):
        number = f"resp_{next(numbers)}_{key_of(seen)[-4:]}".encode()
        data = dumps(whole("openai_responses", "m")).replace(b"resp_1", number)
        told = [one.replace(b"resp_1", number) for one in events("openai_responses", "m")]
        writer.write(STREAM_HEAD + b"".join(map(chunk, told)) + b"0\r\n\r\n" if stream else body(200, data))

    vendor.scripts["kept"] = numbered
    previous = None
    for _ in range(8):
        asked_for = {"model": "pool/kept", "input": "q", "stream": stream}
        if previous is not None:
            asked_for["previous_response_id"] = previous
        reply = gateway.post("/v1/responses", asked_for, ADMIN)
        assert reply.status == 200
        previous = re.search(rb"resp_\d+_\d{4}", reply.body)[0].decode()
    assert len(set(asked(vendor, "kept"))) == 1


def test_with_two_of_three_failing_at_random_everybody_is_answered(own_gateway, vendor):
    gateway = own_gateway(seed(vendor, keys=KEYS))
    dice = random.Random(7)

    async def flaky(seen, reader, writer):
        if key_of(seen) != KEYS[2] and dice.random() < 0.3:
            await refuses(500, "at random")(seen, reader, writer)
        else:
            await faithful(seen, reader, writer)

    vendor.scripts["random"] = flaky
    statuses: Counter = Counter()
    lock = threading.Lock()

    def ask() -> None:
        for _ in range(100):
            status = gateway.chat("pool/random").status
            with lock:
                statuses[status] += 1

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {200: 2_000}
    found = rows(gateway, "random", 2_000, limit=10_000)
    assert sum(row["attempts"] for row in found) == len(asked(vendor, "random"))
    assert all(row["outcome"] == "complete" for row in found)


def test_no_secret_stands_on_the_board(sticky, vendor):
    vendor.scripts["leak"] = by_key({KEYS[0]: answers(401, json.dumps({"error": {"message": KEYS[0]}}).encode())})
    assert sticky.chat("pool/leak").status == 200
    for path in (sticky.data / "health").iterdir():
        assert not any(key.encode() in path.read_bytes() for key in KEYS)


def test_what_one_machine_learns_the_other_knows_within_a_second(own_gateway, vendor, pytestconfig):
    postgres = fresh_database(pytestconfig)
    url, _ = fresh(pytestconfig)
    text = seed(vendor, 'rotation_strategy = "sticky"')
    machines = [own_gateway(text, GPROXY_DSN=postgres, GPROXY_REDIS_URL=url, workers=1) for _ in range(2)]
    vendor.scripts["learned"] = by_key({KEYS[0]: refuses(401, "no such key")})
    assert machines[0].chat("pool/learned").status == 200
    time.sleep(1.2)
    assert machines[1].chat("pool/learned").status == 200
    assert asked(vendor, "learned").count(KEYS[0]) == 1
    machines[1].heal()
    time.sleep(1.2)
    assert machines[0].chat("pool/healed").status == 200
    assert asked(vendor, "healed") == [KEYS[0]]
