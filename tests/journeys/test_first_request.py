"""Every command of the users' first-request page, verbatim but for the host."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.vendor import WORDS

HOST = "http://127.0.0.1:8787"
TEXT = "".join(WORDS)

# On the page a command's lines are joined: ` \\ ` stands where the backslash ended a line.
PAGE = (Path(__file__).parent.parent / "samples" / "page" / "first-request.txt").read_text().splitlines()
COMMANDS = [line.replace(" \\ ", " \\\n  ") for line in PAGE]
(
    CHAT_AGGREGATED,
    CHAT_SCOPED,
    MESSAGES_AGGREGATED,
    MESSAGES_SCOPED,
    GEMINI_AGGREGATED,
    GEMINI_SCOPED,
    MODELS_AGGREGATED,
    MODELS_SCOPED,
) = COMMANDS


def run(command: str, gateway) -> dict:
    """Runs the command in a shell, as a reader would paste it."""
    assert HOST in command
    done = subprocess.run(
        ["bash", "-c", command.replace(HOST, gateway.url) + " -sS --fail-with-body"], capture_output=True, timeout=20
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("command", "name"),
    [(CHAT_AGGREGATED, "openai-main/gpt-4.1-mini"), (CHAT_SCOPED, "gpt-4.1-mini")],
)
def test_chat(gateway, command, name):
    reply = run(command, gateway)
    assert (reply["choices"][0]["message"]["content"], reply["model"]) == (TEXT, name)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (MESSAGES_AGGREGATED, "anthropic-main/claude-3-5-sonnet-latest"),
        (MESSAGES_SCOPED, "claude-3-5-sonnet-latest"),
    ],
)
def test_messages(gateway, command, name):
    reply = run(command, gateway)
    assert (reply["content"][0]["text"], reply["model"]) == (TEXT, name)


@pytest.mark.parametrize(
    ("command", "name"),
    [(GEMINI_AGGREGATED, "vertex-main/gemini-1.5-flash"), (GEMINI_SCOPED, "gemini-1.5-flash")],
)
def test_gemini(gateway, command, name):
    reply = run(command, gateway)
    assert (reply["candidates"][0]["content"]["parts"][0]["text"], reply["modelVersion"]) == (TEXT, name)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/openai-main/v1/chat/completions"])
def test_an_alias_needs_no_prefix_on_either_endpoint(gateway, path):
    reply = gateway.post(path, {"model": "chat-default", "messages": [{"role": "user", "content": "Hello"}]})
    assert (reply.status, reply.json["model"]) == (200, "chat-default")


def test_model_lists(gateway):
    everywhere = [model["id"] for model in run(MODELS_AGGREGATED, gateway)["data"]]
    assert {"chat-default", "openai-main/gpt-4.1-mini", "demo/demo-1"} <= set(everywhere)
    here = [model["id"] for model in run(MODELS_SCOPED, gateway)["data"]]
    assert here == ["chat-default", "gpt-4.1-mini"]


def test_the_troubleshooting_table(gateway):
    def read_error(reply):
        return reply.status, reply.json["error"]["message"]

    status, message = read_error(gateway.chat("openai-main/gpt-4.1-mini", key=None))
    assert (status, message.partition(":")[0]) == (401, "unauthorized")
    status, message = read_error(gateway.chat("gpt-unheard-of"))
    assert (status, message.partition(":")[0]) == (400, "provider prefix")
    status, message = read_error(gateway.chat("anthropic-main/claude", key="sk-dev-0002"))
    assert status == 403
    assert message.startswith("forbidden: model")
