"""How a start goes and how it fails: one clear error each, never a traceback."""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from gproxy.settings import PUBLISHED_KEY
from tests import secret_search
from tests.gateway import ROOT, Gateway, seed
from tests.ports import free_port

TWENTY = """
colour = "blue"
[global]
prot = 1
idle_timeout_s = -1
[[providers]]
name = "a"
channel = "opnai"
[[providers]]
name = "a"
channel = "openai"
credentials = [{ api_key = "sk-line\\nbreak-secret" }]
[[providers]]
name = "admin"
channel = "openai"
[[providers]]
name = "b"
channel = "custom"
[[providers]]
channel = "openai"
[[providers]]
name = "c"
channel = "openai"
settings = { base_url = "ftp://x", connect_timeout_s = "fast" }
[[models]]
provider_name = "nobody"
model_id = "m"
[[models]]
provider_name = "a"
model_id = "n"
price_tiers = [{ input_tokens_up_to = 0, price_input_tokens = -1 }]
[[model_aliases]]
alias = "x"
[[model_aliases]]
alias = "y"
provider_name = "nowhere"
model_id = "m"
[[users]]
name = 7
[[users]]
name = "u"
keys = [{ api_key = "k1" }, { api_key = "k1" }, { budget = 5, api_key = "k2" }]
[[permissions]]
user_name = "unknown"
model_pattern = "*"
[[permissions]]
user_name = "u"
model_patern = "*"
[[rate_limits]]
user_name = "u"
model_pattern = "*"
rpm = 1
[[quotas]]
user_name = "u"
quota = 1
"""


def fails(gateway: Gateway, timeout_s: float = 15) -> str:
    """Starts a gateway, checks that the start fails, and returns its output."""
    gateway.start(wait=False)
    try:
        code = gateway.process.wait(timeout_s)
    finally:
        if gateway.process.poll() is None:
            gateway.process.kill()
    assert code != 0
    assert "Traceback" not in gateway.log
    assert "gproxy cannot start" in gateway.log
    return gateway.log


def test_a_seed_with_twenty_mistakes_lists_them_all(own_gateway):
    gateway = own_gateway(TWENTY, start=False)
    log = fails(gateway)
    problems = [line for line in log.splitlines() if line.startswith("  seed.toml: ")]
    assert len(problems) >= 20, log
    assert "sk-line" not in log
    gateway.folder.joinpath("seed.toml").write_text(seed("http://127.0.0.1:9"))
    gateway.start()
    assert gateway.get("/readyz").status == 200, "the failed import left something behind"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[providers]\n", "seed.toml: not readable as TOML"),
        ("x = 1\nx = 2\n", "seed.toml: not readable as TOML"),
        ("providers = 7\n", "seed.toml: providers"),
        ("[global]\nport = 'x'\n", "seed.toml: global.port"),
        ("[global]\ndsn = 'mysql://u:p@h/db'\n", "MySQL is not supported"),
    ],
)
def test_an_unreadable_seed(own_gateway, text, message):
    env = {} if "port" not in text else {"GPROXY_PORT": ""}
    assert message in fails(own_gateway(text, start=False, **env))


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"GPROXY_PORT": "70000"}, "GPROXY_PORT"),
        ({"GPROXY_WORKERS": "many"}, "GPROXY_WORKERS"),
        ({"GPROXY_REDIS_URL": "localhost:6379"}, "expected redis://host"),
        ({"GPROXY_LOG_LEVEL": "loud"}, "GPROXY_LOG_LEVEL"),
        ({"GPROXY_HOST": "0.0.0.0"}, "published quick-start key"),
        ({"GPROXY_CONFIG": "nowhere.toml"}, "nowhere.toml"),
        ({"GPROXY_DSN": "oracle://x"}, "GPROXY_DSN"),
        ({"GPROXY_DSN": "postgresql://u:hunter2@127.0.0.1:9/x"}, "GPROXY_DSN"),
        ({"GPROXY_DATA_DIR": "/proc/gproxy"}, "GPROXY_DATA_DIR"),
        ({"GPROXY_PROXY": "no-proxy"}, "GPROXY_PROXY"),
    ],
)
def test_a_bad_setting(own_gateway, env, message):
    log = fails(own_gateway(start=False, **env))
    assert message in log
    assert "hunter2" not in log


def test_a_port_in_use(own_gateway):
    gateway = own_gateway(start=False)
    with socket.create_server(("127.0.0.1", gateway.port)):
        assert "choose another GPROXY_PORT" in fails(gateway)


def test_a_reload_with_a_broken_seed_keeps_what_runs(own_gateway):
    gateway = own_gateway()
    gateway.folder.joinpath("seed.toml").write_text("[[broken")
    gateway.process.send_signal(signal.SIGHUP)
    time.sleep(3)
    assert gateway.chat("openai-main/gpt-4.1-mini").status == 200
    assert "not reloaded: seed.toml" in gateway.log


def test_what_is_stored_is_for_the_owner_alone(own_gateway):
    gateway = own_gateway()
    gateway.chat("openai-main/gpt-4.1-mini")
    assert all(not path.stat().st_mode & 0o077 for path in (gateway.data, *gateway.data.rglob("*")))


def test_the_id_of_a_deleted_key_is_never_given_again(own_gateway):
    gateway = own_gateway()
    first = gateway.post("/admin/user-keys/generate", {"user_id": 1}).json["id"]
    gateway.post("/admin/user-keys/delete", {"id": first})
    assert gateway.post("/admin/user-keys/generate", {"user_id": 1}).json["id"] > first


def test_a_sealed_database_wants_its_key(own_gateway):
    gateway = own_gateway(DATABASE_SECRET_KEY="correct horse")
    assert gateway.chat("openai-main/gpt-4.1-mini").status == 200
    gateway.stop()
    files = b"".join(path.read_bytes() for path in gateway.data.glob("gproxy.db*"))
    assert b"sk-upstream-openai" not in files
    for key in ("", "wrong"):
        gateway.env["DATABASE_SECRET_KEY"] = key
        assert "DATABASE_SECRET_KEY" in fails(gateway)
    gateway.env["DATABASE_SECRET_KEY"] = "correct horse"
    gateway.start()
    assert gateway.chat("openai-main/gpt-4.1-mini").status == 200


def test_a_key_from_the_environment_is_never_stored_and_changes_with_a_restart(own_gateway, vendor):
    text = seed(vendor.url).replace('"sk-ant-upstream-cccc"', '"${CLAUDE_KEY}"')
    gateway = own_gateway(text, CLAUDE_KEY=" sk-from-env-1\n")
    body = {"model": "anthropic-main/claude-env", "max_tokens": 1, "messages": []}
    assert gateway.post("/v1/messages", body).status == 200
    assert vendor.received("claude-env")[-1].headers["x-api-key"] == "sk-from-env-1"
    gateway.stop()
    assert b"sk-from-env" not in b"".join(path.read_bytes() for path in gateway.data.glob("gproxy.db*"))
    gateway.env["CLAUDE_KEY"] = "sk-from-env-2"
    gateway.start()
    gateway.post("/v1/messages", body)
    assert vendor.received("claude-env")[-1].headers["x-api-key"] == "sk-from-env-2"
    gateway.stop()
    gateway.env["CLAUDE_KEY"] = "sk-with\nnewline"
    gateway.start()
    broken = gateway.post("/v1/messages", body)
    assert (broken.status, broken.json["error"]["code"]) == (503, "no_credential")
    assert "newline" not in broken.body.decode() + gateway.log
    assert "holds no usable key" in gateway.log
    gateway.stop()
    gateway.env["CLAUDE_KEY"] = ""
    gateway.start()
    assert gateway.post("/v1/messages", body).status == 503


def test_a_first_start_without_a_seed_shows_its_administrator_key_once(own_gateway, vendor):
    gateway = own_gateway("", GEMINI_API_KEY="AIza-env", GPROXY_ADMIN_USER="root")
    key = next(line.split()[-1] for line in gateway.log.splitlines() if line.strip().startswith("API key"))
    listed = gateway.post("/admin/user-keys/query", {}, key)
    assert (listed.status, len(listed.json)) == (200, 1)
    reply = gateway.post("/v1beta/models/aistudio-main/..:countTokens", {}, key)
    assert (reply.status, "dotted path" in reply.body.decode()) == (400, True), "GEMINI_API_KEY made no provider"
    gateway.stop()
    gateway.start()
    assert gateway.log.count(key) == 1


def test_two_gateways_started_at_once_seed_one_database_once(own_gateway, tmp_path):
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    both = [own_gateway(start=False, GPROXY_DSN=shared, workers=1) for _ in range(3)]
    for gateway in both:
        gateway.start(wait=False)
    for gateway in both:
        gateway.wait_until_ready()
    assert len(both[0].post("/admin/user-keys/query").json) == 6
    made = both[0].post("/admin/user-keys/generate", {"user_id": 1}).json
    time.sleep(1.0)  # another machine follows within a second
    assert both[1].chat("openai-main/gpt-4.1-mini", key=made["api_key"]).status == 200
    both[2].post("/admin/user-keys/delete", {"id": made["id"]})
    time.sleep(1.0)
    assert both[1].chat("openai-main/gpt-4.1-mini", key=made["api_key"]).status == 401
    for gateway in both:
        gateway.chat("openai-main/gpt-shared")
    both[0].wait_rows(3, model="gpt-shared")


def test_make_run_serves_the_quick_start(tmp_path):
    """`make run` of the README, in a checkout without a configuration of its own."""
    checkout = tmp_path / "checkout"
    shutil.copytree(
        ROOT, checkout, ignore=shutil.ignore_patterns(".venv", "data", ".git", "gproxy.toml", "__pycache__")
    )
    (checkout / ".venv").symlink_to(ROOT / ".venv")
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith("GPROXY_")}
    log = checkout / "log"
    with log.open("w") as file:
        running = subprocess.Popen(
            ["make", "run"], cwd=checkout, env={**env, "GPROXY_PORT": str(port)}, stdout=file, stderr=file
        )
    try:
        started = time.monotonic()
        while "curl " not in log.read_text():
            assert running.poll() is None, log.read_text()
            assert time.monotonic() - started < 60
            time.sleep(0.1)
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).read()
                break
            except OSError:
                time.sleep(0.1)
        command = next(line for line in log.read_text().splitlines() if line.strip().startswith("curl "))
        done = subprocess.run(["bash", "-c", command + " -sS --fail"], capture_output=True, text=True, timeout=20)
        assert "Hello from gproxy!" in done.stdout, done
        assert (checkout / "data" / "gproxy.db").exists()
    finally:
        running.terminate()
        running.wait(20)
    assert secret_search.found_in_log({PUBLISHED_KEY}, log.read_text()) == []


def test_a_python_that_is_too_old_is_reported_in_one_line(tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    done = subprocess.run(["make", "run", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "needs Python 3.11" in done.stderr
    assert not Path(tmp_path / ".venv").exists()


def test_a_worker_is_up_within_two_seconds_and_stays_small(own_gateway):
    gateway = own_gateway(start=False, cold=True)
    started = time.monotonic()
    gateway.start(wait=False)
    while True:
        try:
            assert gateway.get("/healthz").status == 200
            break
        except OSError:
            assert time.monotonic() - started < 10
            time.sleep(0.02)
    print(f"healthz after {time.monotonic() - started:.2f} s")
    for _ in range(20):
        gateway.chat("openai-main/gpt-4.1-mini")
    assert all(gateway.rss_kib(pid) < 120 * 1024 for pid in gateway.workers())
