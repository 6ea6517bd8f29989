"""The commands of the README work as written, except for the host."""

import re
import subprocess
import sys
import tomllib

import pytest

from gproxy import settings
from tests.gateway import ROOT, Gateway

README = (ROOT / "README.md").read_text()
ADMIN = (ROOT / "docs" / "admin.md").read_text()
HOST = "http://127.0.0.1:8787"


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    running = Gateway(tmp_path_factory.mktemp("readme"), (ROOT / "conf" / "quickstart.toml").read_text()).start()
    yield running
    running.stop()


@pytest.mark.parametrize("command", [*blocks("bash"), *blocks("bash", ADMIN)])
def test_each_command_answers(quickstart, command):
    assert HOST in command
    script = 'set -e\ncurl() { command curl -sS --fail-with-body "$@"; }\n' + command.replace(HOST, quickstart.url)
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done
    answers = (
        "Hello from gproxy!",
        "demo-1",
        "gproxy_workers",
        '"ok":true',
        "total_cost",
        "response.completed",
        "sk-api01-",
        "input_tokens",
    )
    # A usage query before the first row is stored returns nothing.
    assert any(answer in done.stdout for answer in answers) or done.stdout == "[]"


@pytest.mark.parametrize("program", blocks("python"))
def test_each_program_prints_the_answer(quickstart, program):
    done = subprocess.run(
        [sys.executable, "-c", program.replace(HOST, quickstart.url)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "Hello from gproxy! You said: Hello", done


def test_the_configuration_shown_starts(own_gateway):
    (shown,) = blocks("toml")
    gateway = own_gateway(shown, OPENAI_API_KEY="sk-x", ALICE_KEY="sk-alice-1")
    assert gateway.chat("gpt-4.1", key="sk-alice-1").status == 400
    assert gateway.get("/v1/models/chat-default", "sk-alice-1").status == 403


def test_the_example_configuration_starts(own_gateway):
    text = (ROOT / "conf" / "gproxy.example.toml").read_text()
    names = set(re.findall(r"\$\{(\w+)\}", text)) - {"OPENAI_API_KEY_2"}
    env = {name: f"value-of-{name.lower()}" for name in names} | {"OPENAI_API_KEY_2": "sk-2"}
    assert tomllib.loads(text)
    text = text.replace("port = 8787\n", "").replace('data_dir = "./data"\n', "")
    gateway = own_gateway(text, **env)
    assert gateway.get("/v1/models/local/llama-4", "value-of-root_key").json["id"] == "local/llama-4"


def test_every_variable_is_documented():
    source = (ROOT / "gproxy" / "settings.py").read_text()
    names = set(re.findall(r'"((?:GPROXY|DATABASE)_[A-Z_]+)"', source)) - {"GPROXY_REDIS_URL"}
    assert names
    assert {name for name in names if f"`{name}`" not in README} == set()
    assert settings.PUBLISHED_KEY in README


def test_every_channel_is_documented():
    from gproxy import channels

    (shown,) = blocks("toml")
    assert all(name in shown for name in channels.load())
