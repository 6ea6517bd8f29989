"""Limits, quotas and budgets over real workers: exact in parallel calls, freed by every end, and SDKs wait."""

import asyncio
import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import anthropic
import google.genai
import openai
import pytest

from tests.gateway import ADMIN, ROOT, Gateway, seed
from tests.load import nano
from tests.postgres import fresh_database
from tests.raw_http import open_stream
from tests.redis import fresh, server
from tests.vendor import STREAM_HEAD, body, chunk, events, faithful, sends

# At the seed's price of gpt-*, an exact upper bound of what `ask` may cost: see test_quotas.
REQUEST = {"model": "gpt-limits", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 40}
PARALLEL = 300


def users(*tables: str, count: int = 1, name: str = "user") -> str:
    """Users `user-0` and so on, each with a key `sk-user-0`, and these tables for each."""
    found = []
    for n in range(count):
        own = f"{name}-{n}"
        found.append(f'[[users]]\nname = "{own}"\nkeys = [{{ api_key = "sk-{own}" }}]')
        found.append(f'[[permissions]]\nuser_name = "{own}"\nmodel_pattern = "*"')
        found += [table.replace("{user}", own) for table in tables]
    return "\n\n".join(found)


def limit(**amounts) -> str:
    rows = "\n".join(f"{name} = {amount}" for name, amount in amounts.items())
    return f'[[rate_limits]]\nuser_name = "{{user}}"\nmodel_pattern = "*"\n{rows}'


def quota(usd: float, period: str | None = None) -> str:
    rows = f"quota = {usd:.9f}" + (f'\nperiod = "{period}"' if period else "")
    return f'[[quotas]]\nuser_name = "{{user}}"\n{rows}'


def ask(gateway: Gateway, key: str, **fields):
    return gateway.post("/openai-main/v1/chat/completions", {**REQUEST, **fields}, key, timeout_s=60)


def at_once(gateways: list[Gateway], key: str, count: int, **fields) -> list:
    """Sends `count` requests at once, to these gateways in turn, and returns the replies."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda n: ask(gateways[n % len(gateways)], key, **fields), range(count)))


# A worker that waits longer than 0.1 s for Redis counts by itself, so exact counts over Redis need a quiet machine.
@pytest.fixture(params=["file", pytest.param("redis", marks=pytest.mark.timing)])
def shared(request, pytestconfig) -> dict[str, str]:
    """Returns variables of a gateway that shares its state by a file or by Redis."""
    return {} if request.param == "file" else {"GPROXY_REDIS_URL": fresh(pytestconfig)[0]}


# -- counting -------------------------------------------------------------------------------------------------------


def test_exactly_rpm_pass_in_each_of_five_runs(own_gateway, vendor, shared):
    text = seed(vendor.url) + users(limit(rpm=100), count=5)
    gateway = own_gateway(text, workers=4, **shared)
    for run in range(5):
        found = Counter(reply.status for reply in at_once([gateway], f"sk-user-{run}", PARALLEL))
        assert found == {200: 100, 429: PARALLEL - 100}
    assert len(vendor.received("gpt-limits")) == 500
    vendor.seen.clear()


def test_a_quota_worth_ten_requests_holds_against_a_hundred_at_once(own_gateway, vendor, shared):
    """The settled and the reserved money are read all the time; a worker is killed in the middle of a second run."""
    price, bound = 0.0000688, _bound_usd()
    text = seed(vendor.url) + users(quota(10 * bound), count=2)
    gateway = own_gateway(text, workers=4, **shared)
    vendor.scripts["gpt-slow-quota"] = _slowly
    seen, done = [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.append(gateway.get("/me", "sk-user-0").json["quota"])

    watching = threading.Thread(target=watch)
    watching.start()
    replies = at_once([gateway], "sk-user-0", 100, model="gpt-slow-quota")
    done.set()
    watching.join()
    found = Counter(reply.status for reply in replies)
    assert found == {200: 10, 402: 90}
    assert all(nano(one["cost_used"]) + nano(one["held"]) <= nano(one["quota"]) for one in seen)
    assert max(nano(one["held"]) for one in seen) > 0, "nothing was ever seen held"
    refused = next(reply for reply in replies if reply.status == 402)
    assert refused.json["error"]["code"] == "quota_exceeded"
    assert "USD are left" in refused.json["error"]["message"]
    after = gateway.get("/me", "sk-user-0").json["quota"]
    assert (after["held"], nano(after["cost_used"])) == (0, 10 * nano(price))
    # After the kill no reservation is left, and the used money is the sum of the usage rows.
    killer = threading.Timer(0.15, gateway.kill_worker)
    killer.start()
    lost = _at_once_lossy(gateway, "sk-user-1", 100, model="gpt-slow-quota")
    assert lost[None] > 0, "the kill hit nobody"
    deadline = time.monotonic() + 15
    while gateway.get("/me", "sk-user-1").json["quota"]["held"]:
        assert time.monotonic() < deadline, "a hold was left"
        time.sleep(0.1)
    _wait_until_stored(gateway)
    used = nano(gateway.get("/me", "sk-user-1").json["quota"]["cost_used"])
    stored = gateway.post("/admin/usages/summary", {"user_id": _user_id(gateway, "user-1")}).json["total_cost"]
    assert used == nano(stored)
    assert _verify(gateway).returncode == 0


@pytest.mark.timing
def test_two_machines_keep_one_limit_and_one_quota(own_gateway, vendor, pytestconfig):
    """Two data directories on one PostgreSQL and one Redis."""
    env = {"GPROXY_DSN": fresh_database(pytestconfig), "GPROXY_REDIS_URL": fresh(pytestconfig)[0]}
    text = seed(vendor.url) + users(limit(rpm=100), count=1, name="counted")
    text += "\n\n" + users(quota(10 * _bound_usd()), count=1, name="capped")
    machines = [own_gateway(text, start=False, **env) for _ in range(2)]
    for machine in machines:
        machine.start(wait=False)
    for machine in machines:
        machine.wait_until_ready()
    assert "limits and quotas hold per machine" not in machines[0].log + machines[1].log
    assert Counter(one.status for one in at_once(machines, "sk-counted-0", PARALLEL)) == {200: 100, 429: 200}
    vendor.scripts["gpt-slow-quota"] = _slowly
    replies = at_once(machines, "sk-capped-0", 100, model="gpt-slow-quota")
    assert Counter(one.status for one in replies) == {200: 10, 402: 90}
    for machine in machines:
        found = machine.get("/me", "sk-capped-0").json["quota"]
        assert (found["held"], nano(found["cost_used"])) == (0, 10 * 68_800)
    # A key that is taken away on one is refused by the other within a second.
    made = machines[0].post("/admin/user-keys/generate", {"user_id": 1}).json
    time.sleep(1.0)
    assert ask(machines[1], made["api_key"]).status == 200
    machines[0].post("/admin/user-keys/delete", {"id": made["id"]})
    time.sleep(1.0)
    assert ask(machines[1], made["api_key"]).status == 401


def test_concurrency_is_freed_by_any_end(own_gateway, vendor):
    text = seed(vendor.url) + users(limit(concurrency=2))
    gateway = own_gateway(text, workers=2)
    vendor.scripts["gpt-hangs"] = sends("hang")
    vendor.scripts["gpt-cut"] = sends(STREAM_HEAD, chunk(events("openai_chat", "gpt-cut")[1]), "reset")
    key = "sk-user-0"

    def stands() -> int:
        (row,) = gateway.get("/me", key).json["limits"]
        return row["counters"][0]["remaining"]

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 10
        while stands() != count:
            assert time.monotonic() < deadline, f"{stands()} instead of {count} are free"
            time.sleep(0.05)

    hanging = [open_stream(gateway.port, "openai-main/gpt-hangs", key) for _ in range(2)]
    wait_for(0)
    refused = ask(gateway, key)
    assert (refused.status, refused.headers["X-RateLimit-Counter"]) == (429, "concurrency")
    assert refused.headers["Retry-After"] == "1"
    hanging[0].close()  # a client that leaves
    wait_for(1)
    assert ask(gateway, key).status == 200  # a whole reply
    assert ask(gateway, key, model="gpt-limits", stream=True).status == 200  # a whole stream
    assert b'"error"' in ask(gateway, key, model="gpt-cut", stream=True).body  # one that is cut
    assert gateway.post("/unreachable/v1/chat/completions", REQUEST, key).status == 502
    assert stands() == 1
    for pid in gateway.workers():  # kill -9, in the middle of the other
        os.kill(pid, signal.SIGKILL)
    gateway.wait_until_ready()
    wait_for(2)
    hanging[1].close()


def test_tokens_are_bounded_at_admission_and_corrected_by_what_was_used(own_gateway, vendor):
    text = seed(vendor.url) + users(limit(total_tokens=1000))
    gateway = own_gateway(text)

    def left() -> int:
        (row,) = gateway.get("/me", "sk-user-0").json["limits"]
        return row["counters"][0]["remaining"]

    reply = ask(gateway, "sk-user-0", max_tokens=500)
    assert reply.status == 200
    assert int(reply.headers["x-ratelimit-remaining-tokens"]) < 500
    assert left() == 1000 - 52
    refused = ask(gateway, "sk-user-0", max_tokens=1000)
    assert (refused.status, refused.headers["X-RateLimit-Counter"]) == (429, "total_tokens")
    assert refused.headers["x-should-retry"] == "false"
    assert left() == 1000 - 52
    assert ask(gateway, "sk-user-0", max_tokens=500, stream=True).status == 200
    assert left() == 1000 - 2 * 52


# -- telling --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(vendor, tmp_path_factory):
    """One gateway for tests of replies: one user has spent a limit, another has too small a quota."""
    text = seed(vendor.url, "") + users(limit(rpm=2, total_tokens=100_000))
    text += "\n\n" + users(limit(rpm=100_000, rpd=100_000, total_tokens=10**9), name="free")
    text += "\n\n" + users(quota(0.000000001, "month"), name="poor")
    running = Gateway(tmp_path_factory.mktemp("limited"), text).start()
    for _ in range(2):
        assert ask(running, "sk-user-0").status == 200
    yield running
    running.stop()


def test_remaining_limits_are_shown_under_each_vendors_header_names(limited):
    chat = ask(limited, "sk-free-0").headers
    assert chat["X-RateLimit-Limit"] == chat["x-ratelimit-limit-requests"] == "100000"
    assert int(chat["x-ratelimit-remaining-requests"]) < 100_000
    assert chat["x-ratelimit-reset-requests"].endswith("s")
    assert chat["x-ratelimit-limit-tokens"] == str(10**9)
    assert abs(int(chat["X-RateLimit-Reset"]) - time.time() - 60) < 3
    claude = limited.post(
        "/anthropic-main/v1/messages", {**REQUEST, "model": "claude-x"}, "sk-free-0", anthropic_version="2023-06-01"
    ).headers
    assert claude["anthropic-ratelimit-requests-limit"] == "100000"
    assert claude["anthropic-ratelimit-tokens-reset"].endswith("Z")
    assert "x-ratelimit-limit-requests" not in claude


def test_the_upstreams_own_limits_are_shown_only_to_users_without_limits(limited, vendor):
    """The upstream's limits are the operator's, and would mislead a caller with smaller limits."""
    headers = {"x-ratelimit-limit-requests": "77", "x-ratelimit-remaining-project-tokens": "5"}

    async def generous(seen, reader, writer):
        from tests.vendor import body, dumps, whole

        writer.write(body(200, dumps(whole(seen.protocol, seen.model)), headers))

    vendor.scripts["gpt-generous"] = generous
    unlimited = ask(limited, ADMIN, model="gpt-generous").headers
    assert unlimited["x-ratelimit-limit-requests"] == "77"
    headers = ask(limited, "sk-free-0", model="gpt-generous").headers
    assert headers["x-ratelimit-limit-requests"] == "100000"
    assert "x-ratelimit-remaining-project-tokens" not in headers


def test_the_sdks_raise_their_own_classes(limited):
    chat = openai.OpenAI(base_url=f"{limited.url}/openai-main/v1", api_key="sk-user-0", max_retries=0)
    with pytest.raises(openai.RateLimitError) as limit_hit:
        chat.chat.completions.create(**REQUEST)
    assert limit_hit.value.code == "rate_limited"
    assert 1 <= int(limit_hit.value.response.headers["retry-after"]) <= 60
    assert limit_hit.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    poor = openai.OpenAI(base_url=f"{limited.url}/openai-main/v1", api_key="sk-poor-0")
    with pytest.raises(openai.APIStatusError) as spent:
        poor.responses.create(model="gpt-limits", input="x")
    assert (spent.value.status_code, spent.value.code) == (402, "quota_exceeded")
    assert "resets at" in spent.value.message
    claude = anthropic.Anthropic(base_url=f"{limited.url}/anthropic-main", api_key="sk-user-0", max_retries=0)
    with pytest.raises(anthropic.RateLimitError) as limit_hit:
        claude.messages.create(**{**REQUEST, "model": "claude-x"})
    assert limit_hit.value.response.headers["anthropic-ratelimit-requests-remaining"] == "0"
    options = {"base_url": f"{limited.url}/vertex-main", "retry_options": {"attempts": 1}}
    gemini = google.genai.Client(api_key="sk-user-0", http_options=options)
    with pytest.raises(google.genai.errors.ClientError) as limit_hit:
        gemini.models.generate_content(model="gemini-x", contents="x")
    assert (limit_hit.value.code, limit_hit.value.status) == (429, "RESOURCE_EXHAUSTED")
    details = limit_hit.value.details["error"]["details"]
    (delay,) = (one["retryDelay"] for one in details if one["@type"].endswith("RetryInfo"))
    assert 0 < float(delay.removesuffix("s")) <= 60


def test_permission_is_checked_before_quota_and_quota_before_limits(own_gateway, vendor):
    text = seed(vendor.url) + users(limit(rpm=0), quota(0.000000001))
    text = text.replace(
        'user_name = "user-0"\nmodel_pattern = "*"\n\n[[rate', 'user_name = "user-0"\nmodel_pattern = "gpt-*"\n\n[[rate'
    )
    gateway = own_gateway(text)
    assert ask(gateway, "sk-user-0").status == 402
    assert ask(gateway, "sk-user-0", model="o-other").status == 403
    (row,) = gateway.get("/me", "sk-user-0").json["limits"]
    assert row["counters"][0]["limit"] == 0


def test_a_refused_call_consumes_nothing(own_gateway, vendor):
    text = seed(vendor.url) + users(limit(rpm=2, rpd=100), quota(1.0))
    gateway = own_gateway(text)
    for _ in range(2):
        assert ask(gateway, "sk-user-0").status == 200
    for _ in range(20):
        assert ask(gateway, "sk-user-0").status == 429
    me = gateway.get("/me", "sk-user-0").json
    assert me["limits"][0]["counters"][1]["remaining"] == 98
    assert (me["quota"]["held"], nano(me["quota"]["cost_used"])) == (0, 2 * 68_800)
    gateway.wait_rows(2)


# -- streams --------------------------------------------------------------------------------------------------------


def _long(protocol: str, model: str, count: int = 400) -> list[bytes]:
    """Returns a stream that repeats its second text event and then ends completely."""
    found = events(protocol, model)
    at = {"openai_chat": 2, "anthropic": 4, "gemini": 0, "openai_responses": 5}[protocol]
    return [*found[:at], *found[at : at + 1] * count, *found[at + 1 :]]


async def _long_stream(seen, reader, writer):
    writer.write(STREAM_HEAD)
    for one in _long(seen.protocol, seen.model):
        writer.write(chunk(one))
        await writer.drain()
        await asyncio.sleep(0.001)
    writer.write(b"0\r\n\r\n")


STREAMED = {
    "openai_chat": ("/openai-main/v1/chat/completions", {"messages": REQUEST["messages"], "stream": True}),
    "openai_responses": ("/openai-main/v1/responses", {"input": "x", "stream": True}),
    "anthropic": ("/anthropic-main/v1/messages", {"messages": REQUEST["messages"], "stream": True}),
    "gemini": ("/vertex-main/v1beta/models/gpt-long:streamGenerateContent?alt=sse", {"contents": []}),
    # a chat client of a Claude model
    "translated": ("/v1/chat/completions", {"messages": REQUEST["messages"], "stream": True}),
}


@pytest.mark.parametrize("protocol", STREAMED)
def test_a_stream_ends_when_its_caller_has_no_more_to_spend(own_gateway, vendor, protocol):
    """Without max_tokens the reservation is small, and is extended while the stream runs, until nothing is left."""
    vendor.scripts["gpt-long"] = _long_stream
    cap = 0.0001 if protocol == "gemini" else 0.0006  # the one costs less by the token
    gateway = own_gateway(seed(vendor.url, ", assumed_output_tokens = 16") + users(quota(cap)))
    path, body = STREAMED[protocol]
    model = "anthropic-main/gpt-long" if protocol == "translated" else "gpt-long"
    reply = gateway.post(path, {"model": model, **body}, "sk-user-0")
    assert reply.status == 200
    assert b"quota_exceeded" in reply.body
    assert b"[DONE]" not in reply.body
    me = gateway.get("/me", "sk-user-0").json["quota"]
    assert me["held"] == 0
    # It stopped at the cap: within a chunk of events of it, and never far beyond.
    assert 0.9 * cap < me["cost_used"] < 1.2 * cap
    (row,) = gateway.wait_rows(1)
    assert (row["outcome"], row["status"]) == ("partial", 402)
    assert nano(row["cost"]) == nano(me["cost_used"])
    assert gateway.post(path, {"model": model, **body}, "sk-user-0").status == 402


def test_a_provider_may_let_streams_run_on(own_gateway, vendor):
    vendor.scripts["gpt-long"] = _long_stream
    text = seed(vendor.url, ", assumed_output_tokens = 16, stop_at_quota = false") + users(quota(0.00005))
    gateway = own_gateway(text)
    path, body = STREAMED["openai_chat"]
    reply = gateway.post(path, {"model": "gpt-long", **body}, "sk-user-0")
    assert b"[DONE]" in reply.body
    assert gateway.get("/me", "sk-user-0").json["quota"]["remaining"] == 0


def test_a_stream_with_a_bound_of_its_own_is_never_cut(own_gateway, vendor):
    """The text is long, but the vendor counts few tokens, all of them reserved from the start."""
    vendor.scripts["gpt-long"] = _long_stream
    gateway = own_gateway(seed(vendor.url) + users(quota(0.00008)))
    path, body = STREAMED["openai_chat"]
    reply = gateway.post(path, {"model": "gpt-long", "max_tokens": 40, **body}, "sk-user-0")
    assert b"[DONE]" in reply.body
    assert nano(gateway.get("/me", "sk-user-0").json["quota"]["cost_used"]) == 68_800


FAILOVER = """
[[providers]]
name = "free"
channel = "custom"
settings = { base_url = "VENDOR/v1", protocol = "openai_chat", assumed_output_tokens = 16 }
credentials = [{ api_key = "sk-free-0001" }]

[[providers]]
name = "free-claude"
channel = "custom"
settings = { base_url = "VENDOR", protocol = "anthropic", assumed_output_tokens = 16 }
credentials = [{ api_key = "sk-free-0002" }]
"""


# The targets of an alias: the first fails, and the second serves the call.
FAILING_OVER = {
    "to-free": ("openai-main", "free"),
    "to-free-claude": ("openai-main", "free-claude"),
    "to-priced": ("free", "openai-main"),
    "to-priced-claude": ("free", "anthropic-main"),
    "to-dearer-claude": ("openai-main", "anthropic-main"),
}


def failing_alias(name: str, use: str) -> str:
    """An alias of its own for each use, because a target that failed is skipped for a second."""
    first, second = FAILING_OVER[name]
    targets = (
        f'{{ provider = "{first}", model = "gpt-down-{name}-{use}" }}',
        f'{{ provider = "{second}", model = "gpt-served-{use}", tier = 1 }}',
    )
    return f'[[model_aliases]]\nalias = "{name}-{use}"\ntargets = [{", ".join(targets)}]'


@pytest.fixture(scope="module")
def failing_over(module_gateway, vendor):
    aliases = [failing_alias(name, use) for name in FAILING_OVER for use in ("whole", "stream", "uncapped")]
    callers = [users(quota(0.0006), name=f"{name}-{use}") for name in FAILING_OVER for use in ("whole", "stream")]
    text = seed(vendor.url, ", assumed_output_tokens = 16") + FAILOVER.replace("VENDOR", vendor.url)
    for use in ("whole", "stream", "uncapped"):
        vendor.scripts[f"gpt-served-{use}"] = faithful if use == "whole" else _long_stream
        for name in FAILING_OVER:
            vendor.scripts[f"gpt-down-{name}-{use}"] = sends(body(500, b"{}"))
    return module_gateway(text + "\n\n".join([*aliases, *callers, users(name="uncapped")]))


def ask_alias(gateway: Gateway, name: str, use: str):
    """Returns the reply and the caller's quota."""
    key = "sk-uncapped-0" if use == "uncapped" else f"sk-{name}-{use}-0"
    document = {"model": f"{name}-{use}", "messages": REQUEST["messages"], "stream": use != "whole"}
    reply = gateway.post("/v1/chat/completions", document, key)
    assert (reply.status, reply.headers["x-gproxy-provider"]) == (200, FAILING_OVER[name][1])
    return reply, gateway.get("/me", key).json["quota"]


@pytest.mark.parametrize("use", ["whole", "stream", "uncapped"])
@pytest.mark.parametrize("name", ["to-free", "to-free-claude"])
def test_a_target_without_a_price_serves_a_call_that_began_at_a_priced_one(failing_over, name, use):
    reply, me = ask_alias(failing_over, name, use)
    assert b"error" not in reply.body
    assert (b"[DONE]" in reply.body) is (use != "whole")
    if use != "uncapped":
        assert (me["held"], me["cost_used"]) == (0, 0)


@pytest.mark.parametrize("name", ["to-priced", "to-priced-claude", "to-dearer-claude"])
def test_a_stream_ends_at_the_quota_also_if_a_later_target_serves_it(failing_over, name):
    reply, me = ask_alias(failing_over, name, "stream")
    assert (b"quota_exceeded" in reply.body, b"[DONE]" in reply.body) == (True, False)
    assert me["held"] == 0
    assert 0.9 * 0.0006 < me["cost_used"] < 1.2 * 0.0006


@pytest.mark.parametrize("name", ["to-priced", "to-priced-claude", "to-dearer-claude"])
def test_a_whole_reply_has_the_price_of_the_later_target_that_serves_it(failing_over, name):
    reply, me = ask_alias(failing_over, name, "whole")
    assert me["held"] == 0
    assert nano(me["cost_used"]) == nano(float(reply.headers["x-gproxy-cost-usd"])) > 0


@pytest.mark.parametrize("name", ["to-priced", "to-priced-claude"])
def test_a_caller_without_a_quota_gets_the_whole_stream_of_a_later_target(failing_over, name):
    assert b"[DONE]" in ask_alias(failing_over, name, "uncapped")[0].body


# -- keys -----------------------------------------------------------------------------------------------------------

NARROW = """
[[users]]
name = "narrow"

[[users.keys]]
api_key = "sk-wide"

[[users.keys]]
api_key = "sk-narrow"
budget = 0.0002
permissions = [{ model_pattern = "gpt-limits" }]
rate_limits = [{ model_pattern = "gpt-*", rpm = 3 }]

[[permissions]]
user_name = "narrow"
provider_name = "openai-main"
model_pattern = "gpt-*"

[[file_permissions]]
user_name = "narrow"
provider_name = "openai-main"

[[quotas]]
user_name = "narrow"
quota = 1.0
period = "month"
"""


def test_a_key_narrows_its_user(own_gateway, vendor):
    gateway = own_gateway(seed(vendor.url) + NARROW)
    assert ask(gateway, "sk-wide", model="gpt-other").status == 200
    refused = ask(gateway, "sk-narrow", model="gpt-other")
    assert (refused.status, refused.json["error"]["message"][:16]) == (403, "forbidden: model")
    assert [ask(gateway, "sk-narrow").status for _ in range(3)] == [200, 200, 402]  # the budget
    assert ask(gateway, "sk-wide").status == 200
    me = gateway.get("/me", "sk-narrow").json
    assert (me["budget"]["quota"], nano(me["budget"]["cost_used"])) == (0.0002, 2 * 68_800)
    assert nano(me["quota"]["cost_used"]) == 4 * 68_800
    assert me["quota"]["period"] == "month"
    (row,) = me["limits"]
    assert (row["scope"], row["model_pattern"], row["counters"][0]["remaining"]) == ("key", "gpt-*", 1)
    listed = {model["id"] for model in gateway.get("/openai-main/v1/models", "sk-narrow").json["data"]}
    assert "gpt-4.1-mini" not in listed


def test_files_need_a_permission_of_their_own(own_gateway, vendor):
    gateway = own_gateway(seed(vendor.url) + NARROW)
    for path, headers, status in (
        ("/openai-main/v1/files", {}, 501),
        ("/anthropic-main/v1/files", {}, 403),
        ("/nowhere/v1/files", {}, 403),
        ("/v1/files", {}, 501),
        ("/v1/files", {"X_Provider": "openai-main"}, 501),
        ("/v1/files/file-1/content", {"X_Provider": "anthropic-main"}, 403),
    ):
        assert gateway.get(path, "sk-wide", **headers).status == status, path
    assert gateway.get("/openai-main/v1/files", ADMIN).status == 403
    assert gateway.get("/openai-main/v1/files", "sk-nobody").status == 401


# -- prices ---------------------------------------------------------------------------------------------------------


def test_an_alias_has_a_price_of_its_own_and_what_has_none_may_be_denied(own_gateway, vendor):
    alias = '[[model_aliases]]\nalias = "cheap"\nprovider_name = "openai-main"\nmodel_id = "gpt-4.1-mini"\n'
    text = seed(vendor.url, "").replace('channel = "groq"\n', 'channel = "groq"\nsettings = { unpriced = "deny" }\n')
    gateway = own_gateway(text + "\n" + alias + "price_each_call = 0.001\n")
    reply = gateway.chat("cheap")
    assert reply.headers["x-gproxy-cost-usd"] == "0.001000000"
    assert gateway.chat("openai-main/gpt-4.1-mini").headers["x-gproxy-cost-usd"] == "0.000068800"
    by_name = {row["model"]: row for row in gateway.wait_rows(2)}
    assert (by_name["cheap"]["price_source"], by_name["cheap"]["cost"]) == ("alias", 0.001)
    denied = gateway.chat("keyless/no-such-price")
    assert denied.status == 403
    assert "has no price" in denied.json["error"]["message"]


# -- what may get lost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["restarted", "lost", "garbled", "lost while stopped"])
def test_what_was_counted_outlives_the_shared_file(own_gateway, vendor, harm):
    text = seed(vendor.url) + users(limit(rpm=100, rpd=10, total_tokens=100_000), quota(1.0, "day"))
    gateway = own_gateway(text, workers=2)
    for _ in range(4):
        assert ask(gateway, "sk-user-0").status == 200
    table = gateway.data / "state" / "table"
    if harm == "garbled":
        with table.open("r+b") as file:
            file.seek(0)
            file.write(os.urandom(table.stat().st_size))
    elif harm == "lost":
        table.unlink()
    else:
        gateway.stop()
        if harm == "lost while stopped":
            table.unlink()
        gateway.start()
    me = gateway.get("/me", "sk-user-0").json
    assert nano(me["quota"]["cost_used"]) == 4 * 68_800
    left = {one["counter"]: one["remaining"] for one in me["limits"][0]["counters"]}
    assert left == {"rpm": 96, "rpd": 6, "total_tokens": 100_000 - 4 * 52}
    if harm == "garbled":
        assert "were corrupted: they are rebuilt from journal and database" in gateway.log
    assert Counter(one.status for one in at_once([gateway], "sk-user-0", 30)) == {200: 6, 429: 24}


def test_a_stream_that_runs_while_the_file_is_lost_is_still_counted_once(own_gateway, vendor):
    vendor.scripts["gpt-paced"] = _paced
    text = seed(vendor.url) + users(limit(concurrency=5), quota(1.0))
    gateway = own_gateway(text, workers=2)
    assert ask(gateway, "sk-user-0").status == 200
    sock = open_stream(gateway.port, "openai-main/gpt-paced", "sk-user-0")
    time.sleep(0.5)
    (gateway.data / "state" / "table").unlink()
    me = gateway.get("/me", "sk-user-0").json
    assert me["quota"]["held"] > 0, "the running call's hold was rebuilt from its journal"
    assert me["limits"][0]["counters"][0]["remaining"] == 4
    while b"[DONE]" not in sock.recv(65536):
        pass
    sock.close()
    me = gateway.get("/me", "sk-user-0").json
    assert (me["quota"]["held"], nano(me["quota"]["cost_used"])) == (0, 2 * 68_800)
    assert me["limits"][0]["counters"][0]["remaining"] == 5


def test_a_quota_and_a_limit_that_come_while_a_stream_runs_count_it_once(own_gateway, vendor):
    """The user had neither at admission; loading them adds a reservation, which ends with the stream."""
    vendor.scripts["gpt-paced"] = _paced
    gateway = own_gateway(seed(vendor.url) + users())
    user = _user_id(gateway, "user-0")
    sock = open_stream(gateway.port, "openai-main/gpt-paced", "sk-user-0")
    time.sleep(0.6)
    assert gateway.post("/admin/user-quotas/upsert", {"user_id": user, "quota": 1.0}).status == 200
    row = {"id": 0, "user_id": user, "model_pattern": "*", "concurrency": 3}
    assert gateway.post("/admin/user-rate-limits/upsert", row).status == 200
    gateway.get("/me", "sk-user-0")
    while b"[DONE]" not in sock.recv(65536):
        pass
    sock.close()
    me = gateway.get("/me", "sk-user-0").json
    assert (me["quota"]["held"], nano(me["quota"]["cost_used"])) == (0, 68_800)
    assert me["limits"][0]["counters"][0]["remaining"] == 3


def test_a_quota_may_change_its_period_and_what_was_used_while_calls_run(own_gateway, vendor):
    vendor.scripts["gpt-paced"] = _paced
    gateway = own_gateway(seed(vendor.url) + users(quota(1.0)))
    user = _user_id(gateway, "user-0")
    sock = open_stream(gateway.port, "openai-main/gpt-paced", "sk-user-0")
    time.sleep(0.6)
    changed = {"user_id": user, "quota": 2.0, "period": "month", "cost_used": 0.5}
    assert gateway.post("/admin/user-quotas/upsert", changed).status == 200
    me = gateway.get("/me", "sk-user-0").json["quota"]
    assert (me["quota"], me["cost_used"], me["period"]) == (2.0, 0.5, "month")
    assert me["held"] > 0
    while b"[DONE]" not in sock.recv(65536):
        pass
    sock.close()
    me = gateway.get("/me", "sk-user-0").json["quota"]
    assert (me["held"], nano(me["cost_used"])) == (0, 500_000_000 + 68_800)
    _wait_until_stored(gateway)
    assert _verify(gateway).returncode == 0
    (account,) = gateway.post("/admin/user-quotas/query", {"user_id": user}).json
    assert nano(account["cost_used"]) == 500_000_000 + 68_800


def test_limited_traffic_goes_on_while_the_database_is_away(own_gateway, vendor):
    text = seed(vendor.url) + users(limit(rpm=100, rpd=100), quota(1.0))
    gateway = own_gateway(text)
    time.sleep(1.5)  # every worker knows its limits by then, though nobody called
    lock = sqlite3.connect(gateway.data / "gproxy.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    try:
        assert Counter(one.status for one in at_once([gateway], "sk-user-0", 20)) == {200: 20}
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    gateway.wait_rows(20)


def test_redis_that_is_gone_leaves_each_machine_its_own_counters(own_gateway, vendor, pytestconfig):
    """The outage is reported once in the log and in readyz; afterwards Redis gets what was spent meanwhile."""
    text = seed(vendor.url) + users(limit(rpm=1000), quota(1.0))
    with server() as redis:
        gateway = own_gateway(text, GPROXY_REDIS_URL=redis.url)
        assert ask(gateway, "sk-user-0").status == 200
        assert gateway.get("/readyz").json["shared"] is True
        redis.kill()
        started = time.monotonic()
        assert Counter(one.status for one in at_once([gateway], "sk-user-0", 20)) == {200: 20}
        assert time.monotonic() - started < 5
        _wait_for(lambda: not gateway.get("/readyz").json["shared"])  # a worker notices by its next call
        assert nano(gateway.get("/me", "sk-user-0").json["quota"]["cost_used"]) == 21 * 68_800
        redis.start()
        time.sleep(6)  # each breaker is open for five seconds
        assert Counter(one.status for one in at_once([gateway], "sk-user-0", 20)) == {200: 20}
        _wait_for(lambda: all(gateway.get("/readyz").json["shared"] for _ in range(10)))
        _wait_until_stored(gateway)
        used = nano(gateway.get("/me", "sk-user-0").json["quota"]["cost_used"])
        stored = gateway.post("/admin/usages/summary", {"user_id": _user_id(gateway, "user-0")}).json["total_cost"]
        assert used == nano(stored)
    warnings = [line for line in gateway.log.splitlines() if "shared state" in line and "warning" in line]
    assert 1 <= len(warnings) <= 2  # one for each worker


# -- proof ----------------------------------------------------------------------------------------------------------


def test_the_ledger_is_verified_and_tampering_is_found(own_gateway, vendor):
    gateway = own_gateway(seed(vendor.url) + users(quota(1.0)))
    for _ in range(3):
        assert ask(gateway, "sk-user-0").status == 200
    gateway.wait_rows(3)
    found = _verify(gateway)
    assert (found.returncode, found.stderr) == (0, "")
    with sqlite3.connect(gateway.data / "gproxy.db") as database:
        database.execute("UPDATE usages SET cost = cost + 1 WHERE trace_id = (SELECT MIN(trace_id) FROM usages)")
    database.close()
    found = _verify(gateway)
    assert found.returncode == 1
    assert "user-0" in found.stdout + found.stderr


def _verify(gateway: Gateway) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "ledger", "verify"]
    return subprocess.run(command, cwd=ROOT, env=gateway.env, capture_output=True, text=True, timeout=60)


def _bound_usd() -> float:
    """Returns the upper bound of one `REQUEST`: its body by bytes, and its 40 tokens of output."""
    sent = -(-len(json.dumps({**REQUEST, "model": "gpt-slow-quota"}).encode()) // 4)
    return (sent * 0.40 + 40 * 1.60) / 1_000_000


async def _slowly(seen, reader, writer):
    await asyncio.sleep(0.4)
    await faithful(seen, reader, writer)


async def _paced(seen, reader, writer):
    writer.write(STREAM_HEAD)
    for one in events(seen.protocol, seen.model):
        writer.write(chunk(one))
        await writer.drain()
        await asyncio.sleep(0.3)
    writer.write(b"0\r\n\r\n")


def _at_once_lossy(gateway: Gateway, key: str, count: int, **fields) -> Counter:
    """Does the same as `at_once` while a worker is killed; returns the statuses, None for a broken connection."""

    def one(_: int) -> int | None:
        try:
            return ask(gateway, key, **fields).status
        except (OSError, http.client.HTTPException):
            return None

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(one, range(count)))


def _wait_for(is_so, timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _user_id(gateway: Gateway, name: str) -> int:
    keys = gateway.post("/admin/user-keys/query").json
    return next(key["user_id"] for key in keys if key["user_name"] == name)


def _wait_until_stored(gateway: Gateway) -> None:
    """Waits until the number of usage rows stays the same."""
    before, deadline = -1, time.monotonic() + 20
    while (now := gateway.post("/admin/usages/summary").json["count"]) != before:
        assert time.monotonic() < deadline
        before = now
        time.sleep(1.5)
