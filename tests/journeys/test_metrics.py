"""Metrics are exact over all workers, whichever worker answers, also after one was killed."""

import http.client
import json
import os
import re
import secrets
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gproxy.metrics import call_metrics, definitions
from tests.gateway import ADMIN, DEV, OTHER, ROOT, UPSTREAM_KEYS, Gateway, seed
from tests.processes import sockets
from tests.scraping import Scraped, scrape
from tests.vendor import COMPLETION_TOKENS, PROMPT_TOKENS, refuses, sends, streams

CHAT = "openai-main/gpt-4.1-mini"
NANO = 1e9
# USD for one answer of the vendor, at the seed's price.
COST = (PROMPT_TOKENS * 0.4 + COMPLETION_TOKENS * 1.6) / 1e6
RANDOM_NAMES = 5_000
LIMITS = """
[[rate_limits]]
user_name = "dev"
model_pattern = "*"
rpm = 1

[[quotas]]
user_name = "other"
quota = 0.000001

[[permissions]]
user_name = "other"
model_pattern = "*"
"""


def until(gateway: Gateway, is_so, timeout_s: float = 10) -> Scraped:
    """Returns the first scrape that meets the condition."""
    deadline = time.monotonic() + timeout_s
    while not is_so(found := scrape(gateway)):
        assert time.monotonic() < deadline, found.text
        time.sleep(0.05)
    return found


def at_once(work, count: int, threads: int = 16) -> list:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(count)))


def counters(found: Scraped) -> dict:
    return {key: value for key, value in found.items() if re.search(r"_(total|bucket|count|sum)$", key[0])}


def test_it_needs_an_administrators_key(gateway):
    assert gateway.get("/metrics").status == 401
    assert gateway.get("/metrics", "sk-nobody").status == 401
    assert gateway.get(f"/metrics?key={ADMIN}").status == 401
    assert gateway.get("/metrics", DEV).status == 403
    reply = gateway.get("/metrics", ADMIN)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    head = gateway.request("HEAD", "/metrics", key=ADMIN)
    assert (head.status, head.body) == (200, b"")
    assert gateway.post("/metrics", {}, ADMIN).status == 405


def test_the_sums_of_two_workers_are_exact_whichever_answers(own_gateway):
    gateway = own_gateway()
    count, streamed = 60, 30
    replies = at_once(lambda n: gateway.chat(CHAT, stream=n < streamed), count)
    assert {reply.status for reply in replies} == {200}
    # At once, and several times: either worker answers.
    for found in [scrape(gateway) for _ in range(8)]:
        assert found.sum("gproxy_requests_total") == count
        labels = {"provider": "openai-main", "model": "gpt-4.1-mini", "protocol": "openai_chat", "outcome": "complete"}
        stream, whole = "stream_generate_content", "generate_content"
        assert found.sum("gproxy_requests_total", **labels, operation=stream, code="200") == streamed
        assert found.sum("gproxy_requests_total", **labels, operation=whole, code="200") == count - streamed
        assert found.sum("gproxy_request_duration_seconds_count", provider="openai-main") == count
        assert found.sum("gproxy_overhead_seconds_count", provider="openai-main") == count
        assert found.sum("gproxy_time_to_first_token_seconds_count", operation=stream) == streamed
        assert found.sum("gproxy_time_to_first_token_seconds_count", operation=whole) == 0
        named = {"provider": "openai-main", "model": "gpt-4.1-mini"}
        assert found.sum("gproxy_tokens_total", **named, **{"class": "input"}) == count * PROMPT_TOKENS
        assert found.sum("gproxy_tokens_total", **named, **{"class": "output"}) == count * COMPLETION_TOKENS
        assert found.sum("gproxy_cost_usd_total", **named) == round(count * COST * NANO) / NANO
        assert found.sum("gproxy_attempts_total", provider="openai-main", result="200") == count
        assert found.sum("gproxy_workers") == 2
    files = sorted((gateway.data / "metrics").glob("*.values"))
    assert len(files) == 2
    gateway.wait_rows(count)
    found = until(gateway, lambda found: found.sum("gproxy_journal_unbooked_calls") == 0)
    assert found.sum("gproxy_open_requests") == found.sum("gproxy_open_streams") == 0
    assert found.sum("gproxy_upstream_connections_in_use") == 0


def test_a_killed_worker_takes_nothing_with_it(own_gateway, vendor):
    gateway = own_gateway(GPROXY_GRACE="0")
    vendor.scripts["metered-slow"] = streams(3, "hang")
    at_once(lambda n: gateway.chat(CHAT), 40)
    readers = [threading.Thread(target=_ignoring, args=(gateway, "openai-main/metered-slow")) for _ in range(12)]
    for reader in readers:
        reader.start()
    before = until(gateway, lambda found: found.sum("gproxy_open_streams") == 12)
    assert before.sum("gproxy_open_requests") == 12
    assert before.sum("gproxy_upstream_connections_in_use", provider="openai-main") == 12
    victim = max(gateway.workers(), key=sockets)  # one that has streams
    os.kill(victim, signal.SIGKILL)
    # Its gauges are gone with it, what it counted is not; and so it is when another has taken its files over.
    after = until(gateway, lambda found: found.sum("gproxy_open_streams") < 12)
    left = after.sum("gproxy_open_streams")
    assert after.sum("gproxy_upstream_connections_in_use", provider="openai-main") == left
    taken = until(gateway, lambda found: found.sum("gproxy_workers") == 2)
    assert victim not in gateway.workers()
    for found in (after, taken):
        assert {key: found[key] for key in counters(before)} == pytest.approx(counters(before), rel=1e-12)
        assert found.sum("gproxy_open_streams") == left
    at_once(lambda n: gateway.chat(CHAT), 40)
    named = {"provider": "openai-main", "model": "gpt-4.1-mini"}
    assert scrape(gateway).sum("gproxy_requests_total", **named) == 80
    del vendor.scripts["metered-slow"]
    gateway.stop()
    for reader in readers:
        reader.join(10)
    gateway.start()
    found = scrape(gateway)
    assert found.sum("gproxy_requests_total", **named) == 80
    assert found.sum("gproxy_open_streams") == 0


def _ignoring(gateway: Gateway, model: str) -> None:
    """Reads a stream and ignores how it ends."""
    try:
        gateway.chat(model, stream=True)
    except (OSError, http.client.HTTPException):
        return


def test_names_that_clients_make_up_make_no_series(own_gateway):
    gateway = own_gateway()
    names = [secrets.token_hex(8) for _ in range(RANDOM_NAMES)]
    threads = 4

    def ask(part: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
        for number, name in enumerate(names[part::threads]):
            # A model that its upstream serves under any name, one that no provider has, one that fails.
            model = (f"openai-main/{name}", f"{name}/x", f"unreachable/{name}")[number % 3]
            body = json.dumps({"model": model, "messages": []})
            headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", body, headers)
            connection.getresponse().read()
        connection.close()

    at_once(ask, threads, threads)
    found = scrape(gateway)
    models = found.values("gproxy_requests_total", "model")
    assert call_metrics.MAX_SERVED <= len(models - {"other"}) <= 2 * call_metrics.MAX_SERVED
    assert found.values("gproxy_requests_total", "provider") == {"openai-main", "unreachable"}
    assert found.values("gproxy_tokens_total", "model") == models
    # Each was counted all the same.
    assert found.sum("gproxy_requests_total") + found.sum("gproxy_refusals_total") == RANDOM_NAMES
    assert found.sum("gproxy_metrics_folded_total") == 0
    assert found.sum("gproxy_requests_total", provider="unreachable", model="other") == found.sum(
        "gproxy_requests_total", provider="unreachable"
    )


def test_every_refusal_is_counted_by_its_code(own_gateway, vendor):
    gateway = own_gateway()
    vendor.scripts["gpt-metered"] = refuses(500, "no")
    refused = [
        (gateway.chat(CHAT, None), 401, "unauthorized"),
        (gateway.chat(CHAT, OTHER), 403, "forbidden"),
        (gateway.chat("nobody/x"), 404, "not_found"),
        (gateway.chat("x"), 400, "provider_prefix"),
        (gateway.chat("keyless/x"), 503, "no_credential"),
        (gateway.post("/v1/chat/completions", b"{"), 400, "invalid_request"),
        (gateway.post("/v1/images/generations", {}), 501, "unsupported"),
    ]
    assert [reply.status for reply, _, _ in refused] == [status for _, status, _ in refused]
    assert gateway.chat("openai-main/gpt-metered").status == 500
    assert gateway.chat("unreachable/x").status == 502
    found = scrape(gateway)
    for _, _, code in refused:
        assert found.sum("gproxy_refusals_total", error=code, protocol="openai_chat") == 1
    assert found.sum("gproxy_refusals_total") == len(refused)
    assert found.sum("gproxy_errors_total") == len(refused) + 1
    assert found.sum("gproxy_errors_total", error="upstream_error") == 1
    assert found.sum("gproxy_requests_total", outcome="failed", code="500", model="other") == 1
    assert found.sum("gproxy_requests_total", outcome="failed", code="502", provider="unreachable") == 1
    # Both keys of the provider were tried, so that one attempt was followed by another.
    assert found.sum("gproxy_attempts_total", provider="openai-main", result="500") == 2
    assert found.sum("gproxy_failovers_total", provider="openai-main", reason="500") == 1
    del vendor.scripts["gpt-metered"]


def test_limits_and_quotas_are_refusals_too(own_gateway, vendor):
    gateway = own_gateway(seed(vendor.url) + LIMITS)
    assert [gateway.chat(CHAT, DEV).status for _ in range(2)] == [200, 429]
    assert gateway.chat(CHAT, OTHER).status == 402
    found = scrape(gateway)
    assert found.sum("gproxy_refusals_total", error="rate_limited") == 1
    assert found.sum("gproxy_refusals_total", error="quota_exceeded") == 1
    assert found.sum("gproxy_requests_total") == 1


def test_the_state_of_credentials_is_shown_without_secrets(own_gateway, vendor):
    gateway = own_gateway()
    vendor.scripts["gpt-dead"] = refuses(401, "no such key")
    gateway.chat("openai-main/gpt-dead")
    gateway.chat("vertex-main/gemini-1.5-flash")
    assert gateway.post("/v1/messages/count_tokens", {"model": "anthropic-main/claude", "messages": []}).status == 200
    found = scrape(gateway)
    states = {
        state: found.sum("gproxy_credential_state", provider="openai-main", state=state)
        for state in ("usable", "cooling", "disabled")
    }
    assert states == {"usable": 0, "cooling": 0, "disabled": 2}
    assert found.sum("gproxy_credential_state", provider="vertex-main", state="usable") == 1
    assert found.sum("gproxy_credential_state") == 5
    assert found.sum("gproxy_build_info") == 1
    assert found.sum("gproxy_requests_total", operation="count_tokens", outcome="complete") == 1
    hidden = (
        *UPSTREAM_KEYS,
        ADMIN,
        DEV,
        OTHER,
        '"dev"',
        '"admin"',
        "127.0.0.1",
        "http://",
        f":{vendor.port}",
        "laptop",
    )
    assert [text for text in hidden if text in found.text] == []
    del vendor.scripts["gpt-dead"]


def test_a_client_that_left_is_counted(own_gateway, vendor):
    gateway = own_gateway()
    vendor.scripts["gpt-quiet"] = sends(10.0, "close")
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
    body = json.dumps({"model": "openai-main/gpt-quiet", "messages": []})
    connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {ADMIN}"})
    until(gateway, lambda found: found.sum("gproxy_upstream_connections_in_use") == 1)
    connection.close()
    found = until(gateway, lambda found: found.sum("gproxy_clients_gone_total") == 1)
    assert found.sum("gproxy_requests_total", code="499", outcome="partial", model="other") == 1
    assert found.sum("gproxy_open_requests") == found.sum("gproxy_upstream_connections_in_use") == 0
    del vendor.scripts["gpt-quiet"]


def test_every_family_is_documented():
    document = (ROOT / "docs" / "operating.md").read_text()
    for family in definitions.FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        assert f"| `{family.name}` | {family.kind} | {labels} | {family.help.rstrip('.')} |" in document
    assert f"{call_metrics.MAX_SERVED} per worker" in document


def test_every_family_is_there_with_its_help(gateway):
    text = scrape(gateway).text
    for family in definitions.FAMILIES:
        assert f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n" in text
