"""Every command, program and configuration of the pages works as written, except for the host."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import chdir
from pathlib import Path

import pytest
import tomli_w

from gproxy.app import create_app
from tests import documents
from tests.documents import Block
from tests.gateway import ROOT, Gateway
from tests.journeys.test_first_request import COMMANDS
from tests.vendor import answers, dumps, whole

README = ROOT / "README.md"
HOST = "http://127.0.0.1:8787"
FLASK = "flask --app wsgi "
CURL = 'set -e\ncurl() { command curl -sS --fail-with-body --max-time 20 "$@"; }\n'
# Lines that no test runs, with the reason. The list may only shrink.
NOT_RUN = {
    "make run": "test_start.py runs it in a checkout of its own",
    "make test": "it is running now",
    "make test OPTIONS=--durations=25": "it is running now",
    "make .venv/.tests": "it made the environment of this test",
    "GPROXY_CONFIG=conf/quickstart.toml gunicorn -c gunicorn.conf.py wsgi:app": "make run runs this command",
    "apt-get install nginx postgresql redis-server procps": "needs root; .ci/run installs the same packages",
    ".venv/bin/pytest tests/test_settings.py -k port": "a test does not run tests",
    ".venv/bin/pytest tests/routing": "a test does not run tests",
    '.venv/bin/pytest tests --ignore=tests/journeys -n 2 --dist loadfile -m "not slow and not timing"': "the same",
    ".venv/bin/pytest tests/bench -s": "make slow runs the benches",
    ".venv/bin/ruff format .": "make test runs it",
    ".venv/bin/ruff check .": "make test runs it",
    "useradd --system --home-dir /var/lib/gproxy gproxy": "needs root",
    "git clone . /opt/gproxy": "needs root",
    "python3 -m venv /opt/gproxy/.venv": "needs root; make does the same in a checkout",
    "/opt/gproxy/.venv/bin/pip install -r /opt/gproxy/requirements.txt": "needs root; make does the same in a checkout",
    "install -m 600 /dev/null /etc/gproxy.env": "needs root",
    "cp /opt/gproxy/conf/gproxy.service /etc/systemd/system/gproxy.service": "needs root",
    "systemctl daemon-reload": "needs systemd",
    "systemctl enable --now gproxy": "needs systemd",
    "cp /opt/gproxy/conf/nginx.conf /etc/nginx/conf.d/gproxy.conf": "needs root; test_nginx.py runs this file",
    "nginx -t": "needs root; test_nginx.py runs nginx with that file",
    "systemctl reload nginx": "needs systemd",
}
# What the output of a block has to contain, by a part of its text.
EXPECTED = {
    "/chat/completions \\": "Hello",
    "/v1/messages \\": "Hello",
    "/v1/responses": "response.completed",
    "generateContent": "Hello",
    "count_tokens": "input_tokens",
    "/v1/models": "gpt-4.1-mini",
    "/metrics": "gproxy_workers",
    "/usages/summary": "total_cost",
    "/generate": "sk-api01-",
    "/upsert": '"ok":true',
    "/explain": '"targets"',
    "/login": "session_token",
    "/healthz": '"status":"ok"',
    "/readyz": '"serving":true',
    "/export-toml": "[[providers]]",
    "/openapi.json": '"openapi":"3.1',
    "ledger verify": "accounts are exact",
    "config check conf": "quickstart.toml is good",
    "config import": "dry run: nothing was changed",
    "keys list": "laptop",
}


def lines(block: Block) -> list[str]:
    """Returns the commands of a block; a command that continues on the next line is one."""
    joined = block.text.replace("\\\n", "\\\0").splitlines()
    return [line.replace("\\\0", "\\\n") for line in joined if line.strip() and not line.startswith("#")]


def runnable(block: Block) -> str:
    return "\n".join(line for line in lines(block) if line not in NOT_RUN)


COMMAND_BLOCKS = [block for block in documents.blocks("sh") if runnable(block)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder that looks like a checkout, in which commands may write files."""
    made = tmp_path_factory.mktemp("checkout")
    for name in ("wsgi.py", "gproxy", "gunicorn.conf.py", "conf"):
        (made / name).symlink_to(ROOT / name)
    return made


@pytest.fixture(scope="module")
def documented(module_gateway, vendor) -> Gateway:
    """The README's seed for real providers, at a scripted vendor, and the providers of the quick start."""
    shown = documents.section(README, "Real providers")
    seed = tomllib.loads(documents.FENCED.search(shown)[2])
    for provider in seed["providers"]:
        provider["settings"] = {"base_url": vendor.url}
    quickstart = tomllib.loads((ROOT / "conf" / "quickstart.toml").read_text())
    seed["providers"] += quickstart["providers"]
    seed["models"] += quickstart["models"]
    vendor.scripts["gemini-1.5-flash"] = answers(200, dumps(whole("gemini", "gemini-1.5-flash")))
    keys = {name: f"sk-documented-{name.lower()}" for name in re.findall(r"\$\{(\w+)\}", shown)}
    return module_gateway(tomli_w.dumps(seed), workers=1, **keys)


def in_shell(command: str, gateway: Gateway, folder: Path) -> str:
    script = CURL + command.replace(HOST, gateway.url)
    done = subprocess.run(["bash", "-c", script], cwd=folder, env=gateway.env, capture_output=True, timeout=20)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout.decode()


def in_process(command: str, gateway: Gateway, folder: Path, monkeypatch) -> str:
    """Runs `flask --app wsgi …` without the second that a new interpreter takes."""
    monkeypatch.setattr(os, "environ", gateway.env)
    arguments, _, file = command.removeprefix(FLASK).partition(" > ")
    with chdir(folder):
        done = create_app().test_cli_runner().invoke(args=shlex.split(arguments))
        if file:
            Path(file).write_text(done.output)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("block", COMMAND_BLOCKS, ids=lambda block: block.name)
def test_a_command_works(documented, folder, monkeypatch, block):
    command = runnable(block)
    if command.startswith(FLASK):
        output = "".join(in_process(line, documented, folder, monkeypatch) for line in command.splitlines())
    else:
        assert HOST in command
        output = in_shell(command, documented, folder)
    assert output
    for part, expected in EXPECTED.items():
        assert part not in command or expected in output


def test_every_expectation_is_about_a_command():
    everything = "\n".join(map(runnable, COMMAND_BLOCKS))
    assert [part for part in EXPECTED if part not in everything] == []


def test_the_list_of_commands_that_are_not_run_has_no_stale_entry():
    shown = {line for block in documents.blocks("sh") for line in lines(block)}
    assert sorted(set(NOT_RUN) - shown) == []


@pytest.mark.parametrize("command", NOT_RUN)
def test_a_command_that_is_not_run_names_files_of_the_project(command):
    for word in shlex.split(command):
        name = word.removeprefix("/opt/gproxy/")
        if name.startswith(("conf/", "tests/", "requirements", "gunicorn.conf")):
            assert (ROOT / name).exists(), name


def test_what_is_run_elsewhere_is_the_same_command():
    makefile, ci = (ROOT / "Makefile").read_text(), (ROOT / ".ci" / "run").read_text()
    for command in ("gunicorn -c gunicorn.conf.py wsgi:app", "ruff check .", "pip install", "-r requirements.txt"):
        assert command in makefile
    for package in ("nginx", "postgresql", "redis-server", "procps"):
        assert package in ci


def test_the_readme_has_every_command_of_the_first_request_page():
    text = documents.read(README)
    assert [command for command in COMMANDS if f"{command}\n" not in text] == []


@pytest.mark.parametrize("block", documents.blocks("python"), ids=lambda block: block.name)
def test_each_program_prints_the_answer(documented, block):
    program = block.text.replace(HOST, documented.url)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "Hello from gproxy! You said: Hello", done


def test_the_configuration_shown_starts(own_gateway):
    shown = documents.FENCED.findall(documents.section(README, "Configuration"))
    (text,) = [text for language, text in shown if language == "toml"]
    gateway = own_gateway(text, OPENAI_API_KEY="sk-x", ALICE_KEY="sk-alice-1")
    assert gateway.chat("gpt-4.1", key="sk-alice-1").status == 400
    assert gateway.get("/v1/models/chat-default", "sk-alice-1").status == 403


def test_the_example_configuration_starts(own_gateway):
    text = (ROOT / "conf" / "gproxy.example.toml").read_text()
    names = set(re.findall(r"\$\{(\w+)\}", text)) - {"OPENAI_API_KEY_2"}
    env = {name: f"value-of-{name.lower()}" for name in names} | {"OPENAI_API_KEY_2": "sk-2"}
    text = text.replace("port = 8787\n", "").replace('data_dir = "./data"\n', "")
    gateway = own_gateway(text, **env)
    assert gateway.get("/v1/models/local/llama-4", "value-of-root_key").json["id"] == "local/llama-4"
