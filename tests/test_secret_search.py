"""A log or a reply that holds a key of its gateway fails the test that made the gateway."""

import os

import pytest

from tests import rows, secret_search
from tests.conftest import end_all
from tests.gateway import ADMIN, Gateway
from tests.vendor import body

PEM = "-----BEGIN PRIVATE KEY-----\n" + "\n".join(letter * 64 for letter in "AB") + "\nC==\n-----END PRIVATE KEY-----\n"
SEED = f"""
[global]
dsn = "postgresql://u:database-pass@127.0.0.1/x"
proxy = "http://u:global%20proxy@127.0.0.1:9"
[[providers]]
name = "openai-main"
channel = "openai"
settings = {{ proxy = "socks5://u:provider-proxy@127.0.0.1:9" }}
credentials = [{{ api_key = "sk-upstream-one" }}, {{ api_key = "${{REFERRED}}" }}, {{ api_key = "${{NOWHERE}}" }}]
[[providers]]
name = "vertex"
channel = "vertex"
credentials = [{{ project_id = "project-one", client_email = "a@b.c", private_key = '''{PEM}''' }}]
[[users]]
name = "alice-the-user"
password = "alice-password"
keys = [{{ api_key = "sk-alice-key", label = "laptop-of-alice" }}, {{ api_key = "short" }}]
"""


def test_the_secrets_of_a_seed_are_its_keys_and_passwords():
    assert secret_search.of_seed(SEED, {"REFERRED": " sk-referred \n"}) == {
        *("database-pass", "global proxy", "provider-proxy", "sk-upstream-one", "sk-referred"),
        *("alice-password", "sk-alice-key", "A" * 64, "B" * 64),
    }
    assert secret_search.of_seed("[[broken", {}) == set()


def test_the_secrets_of_an_environment():
    environ = {
        "DATABASE_SECRET_KEY": "seal-of-it",
        "GPROXY_ADMIN_PASSWORD": "hunter2222",
        "GPROXY_ADMIN_API_KEY": "sk-root-key",
        "OPENAI_API_KEY": "sk-vendor-key",
        "GPROXY_DSN": "postgresql://u:in-dsn@h/d",
        "GPROXY_REDIS_URL": "redis://:in-redis@h:1/0",
        "GPROXY_PROXY": "http://h:1",
        "PATH": "/usr/bin",
    }
    expected = {"seal-of-it", "hunter2222", "sk-root-key", "sk-vendor-key", "in-dsn", "in-redis"}
    assert secret_search.of_environment(environ) == expected


def test_the_secrets_of_a_calls_json():
    body = b"""[{"api_key": "sk-made-one", "id": 1}, {"credential": "sk-plain-one", "name": "plain"},
        {"credential": {"api_key": "${REFERENCE}"}}, {"keys": [{"api_key": "sk-made-two", "fingerprint": "f1f2f3f4"}]},
        {"credential": "{\\"api_key\\": \\"sk-in-text\\"}"}, {"settings": {"proxy": "http://u:***@h:1"}},
        {"settings_json": "{\\"proxy\\": \\"http://u:pw-in-text@h:1\\"}"}, {"session_token": "sess-token"}]"""
    expected = {"sk-made-one", "sk-plain-one", "sk-made-two", "sk-in-text", "pw-in-text", "sess-token"}
    assert secret_search.of_json(body) == expected
    assert secret_search.of_json(b"no JSON") == secret_search.of_json(b"[" * 100_000) == set()


def test_a_secret_is_found_as_a_word_of_its_own():
    assert secret_search.found({"sk-one"}, "key=sk-one, and") == ["sk-one"]
    assert secret_search.found({"sk-one"}, "Bearer sk-one") == ["sk-one"]
    assert secret_search.found({"sk-one"}, "sk-one-more xsk-one") == []


def test_only_the_lines_that_show_the_published_key_on_purpose_may_hold_it():
    allowed = f"  curl http://127.0.0.1:1/v1/chat/completions -H 'Authorization: Bearer {ADMIN}' -H 'C: D' -d '{{}}'\n"
    refused = f"  {ADMIN} is the published quick-start key and would be open to the network on 0.0.0.0; give\n"
    assert secret_search.found_in_log({ADMIN}, allowed + refused) == []
    assert secret_search.found_in_log({ADMIN}, allowed + f"info: Bearer {ADMIN}\n") == [ADMIN]
    assert secret_search.found_in_log({"sk-other-one"}, allowed + "  key sk-other-one\n") == ["sk-other-one"]


@pytest.fixture
def gateway(tmp_path):
    """One whose end is part of the test: no fixture of its own would search it."""
    running = Gateway(tmp_path / "gateway", SEED, REFERRED="sk-referred-one")
    yield running
    if running in Gateway.started:
        Gateway.started.remove(running)


def prints(gateway: Gateway, line: str) -> None:
    with (gateway.folder / "log").open("a") as log:
        log.write(line + os.linesep)


@pytest.mark.parametrize(
    "secret",
    ["sk-upstream-one", "sk-alice-key", "sk-referred-one", "alice-password", "provider-proxy", "B" * 64],
)
def test_a_log_that_holds_a_key_of_the_seed_fails(gateway, secret):
    prints(gateway, "info: nothing to see")
    gateway.end()
    prints(gateway, f"error: upstream refused {secret}")
    with pytest.raises(AssertionError, match="holds secrets"):
        gateway.end()
    with pytest.raises(ExceptionGroup, match="did not end"):
        end_all([gateway])


@pytest.mark.parametrize("end", [Gateway.end, Gateway.stop], ids=["end", "stop"])
def test_a_running_gateway_is_searched_whichever_way_it_ends(own_gateway, end):
    gateway = own_gateway()
    prints(gateway, "warning: sk-gone-0001")
    with pytest.raises(AssertionError, match="sk-gone-0001"):
        end(gateway)
    assert gateway.process.poll() is not None
    (gateway.folder / "log").write_text("")


def test_a_key_that_a_call_made_or_sent_is_searched_for(own_gateway):
    gateway = own_gateway()
    made = rows.user(gateway, password="correct horse battery")
    rows.credential(gateway, "keyless", "gsk-sent-by-a-call")
    for secret in (made.key, "correct horse battery", "gsk-sent-by-a-call"):
        (gateway.folder / "log").write_text(f"info: {secret}\n")
        with pytest.raises(AssertionError, match="holds secrets"):
            gateway.end()
    (gateway.folder / "log").write_text("")


def test_a_key_of_an_earlier_seed_or_environment_is_searched_for_too(own_gateway):
    gateway = own_gateway(DATABASE_SECRET_KEY="the-first-seal")
    gateway.env["DATABASE_SECRET_KEY"] = "the-second-seal"
    (gateway.folder / "seed.toml").write_text("")
    prints(gateway, "info: sk-dev-0002 the-first-seal the-second-seal")
    with pytest.raises(AssertionError, match=r"\['sk-dev-0002', 'the-first-seal', 'the-second-seal'\]"):
        gateway.end()
    (gateway.folder / "log").write_text("")


def test_a_reply_that_holds_a_key_fails_unless_the_call_requested_it(own_gateway, vendor):
    async def echoes(seen, reader, writer):
        writer.write(body(200, b'{"id": "x", "choices": [], "note": "sk-other-0003"}'))

    vendor.scripts["echoes"] = echoes
    gateway = own_gateway(DATABASE_SECRET_KEY="a-sealing-secret")
    with pytest.raises(AssertionError, match="a reply holds secrets"):
        gateway.chat("openai-main/echoes")
    shown = gateway.post("/admin/credentials/query", {"reveal": True}).json
    assert "sk-ant-upstream-cccc" in [row["credential"].get("api_key") for row in shown]


def test_a_gateway_that_no_test_ended_is_noticed(own_gateway):
    gateway = own_gateway()
    assert gateway in Gateway.started
    gateway.end()
    assert gateway not in Gateway.started
