"""A real gateway: gunicorn with real workers on a free port, as an operator starts it."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

from tests import forkserver, secret_search
from tests.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
ADMIN, DEV, OTHER = "sk-admin-1", "sk-dev-0002", "sk-other-0003"
UPSTREAM_KEYS = ("sk-upstream-openai-aaaa", "sk-upstream-openai-bbbb", "sk-ant-upstream-cccc", "AIza-upstream-dddd")

# A variable of the tests' own environment reaches a gateway, unless it is one that a gateway reads.
READ_BY_GATEWAYS = ("GPROXY_", "DATABASE_")
VENDOR_VARIABLES = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "http_proxy", "HTTP_PROXY")
# Set by the person who runs the tests: the whole suite passes with it too.
FOR_ALL_GATEWAYS = ("GPROXY_FASTPATH",)

SEED = """
[[providers]]
name = "openai-main"
channel = "openai"
settings = {{ base_url = "{vendor}/v1", forward_headers = ["x-team"]{timeouts} }}
credentials = [{{ api_key = "sk-upstream-openai-aaaa" }}, {{ api_key = "sk-upstream-openai-bbbb" }}]

[[providers]]
name = "anthropic-main"
channel = "anthropic"
settings = {{ base_url = "{vendor}"{timeouts} }}
credentials = [{{ api_key = "sk-ant-upstream-cccc" }}]

[[providers]]
name = "vertex-main"
channel = "aistudio"
settings = {{ base_url = "{vendor}/v1beta/"{timeouts} }}
credentials = [{{ api_key = "AIza-upstream-dddd" }}]

[[providers]]
name = "off"
channel = "openai"
enabled = false
settings = {{ base_url = "{vendor}" }}
credentials = [{{ api_key = "sk-upstream-openai-aaaa" }}]

[[providers]]
name = "keyless"
channel = "groq"

[[providers]]
name = "unreachable"
channel = "custom"
settings = {{ base_url = "http://127.0.0.1:9" }}
credentials = [{{ api_key = "sk-upstream-openai-aaaa" }}]

[[providers]]
name = "demo"
channel = "demo"

[[models]]
provider_name = "openai-main"
model_id = "gpt-4.1-mini"
price_tiers = [{{ input_tokens_up_to = 100000000, price_input_tokens = 0.40, price_output_tokens = 1.60 }}]

[[models]]
provider_name = "openai-main"
model_id = "default"
price_tiers = [{{ input_tokens_up_to = 100000000, price_input_tokens = 0.40, price_output_tokens = 1.60 }}]

[[models]]
provider_name = "openai-main"
model_id = "retired"
enabled = false

[[models]]
provider_name = "anthropic-main"
model_id = "default"
price_tiers = [{{ input_tokens_up_to = 100000000, price_input_tokens = 3.00, price_output_tokens = 15.00 }}]

[[models]]
provider_name = "vertex-main"
model_id = "default"
price_tiers = [{{ input_tokens_up_to = 100000000, price_input_tokens = 0.10, price_output_tokens = 0.40 }}]

[[model_aliases]]
alias = "chat-default"
provider_name = "openai-main"
model_id = "gpt-4.1-mini"

[[model_aliases]]
alias = "fast-*"
targets = [{{ provider = "openai-main", model = "gpt-*" }}]

[[users]]
name = "admin"
is_admin = true
keys = [{{ api_key = "sk-admin-1" }}]

[[users]]
name = "dev"
keys = [
  {{ api_key = "sk-dev-0002", label = "laptop" }},
  {{ api_key = "sk-dev-disabled", enabled = false }},
  {{ api_key = "sk-dev-expired", expires_at = 2020-01-01T00:00:00Z }},
]

[[users]]
name = "gone"
enabled = false
keys = [{{ api_key = "sk-gone-0001" }}]

[[users]]
name = "other"
keys = [{{ api_key = "sk-other-0003" }}]

[[permissions]]
user_name = "admin"
model_pattern = "*"

[[permissions]]
user_name = "dev"
provider_name = "openai-main"
model_pattern = "gpt-*"

[[permissions]]
user_name = "dev"
provider_name = "openai-main"
model_pattern = "chat-*"

[[permissions]]
user_name = "other"
model_pattern = "claude-*"
"""


class Reply:
    def __init__(self, status: int, headers, body: bytes):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


class Gateway:
    """A gateway in a folder of its own, with its log. The code that makes a gateway must end it by `end()` or `stop()`.

    A start forks from a process that has imported everything (`tests.forkserver`); `cold` starts `python -m gunicorn`.
    No log and no reply may hold its keys and passwords: those of its seed, of its environment and of calls made here.
    """

    started: ClassVar[list["Gateway"]] = []  # those whose log has not been searched since their last start

    def __init__(self, folder: Path, seed: str, workers: int = 2, cold: bool = False, **env: str):
        self.folder, self.data, self.is_cold = folder, folder / "data", cold
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "seed.toml").write_text(seed)
        self.env = {
            **{name: value for name, value in os.environ.items() if _is_inherited(name)},
            "GPROXY_CONFIG": str(folder / "seed.toml"),
            "GPROXY_DATA_DIR": str(self.data),
            "GPROXY_PORT": str(self.port),
            "GPROXY_WORKERS": str(workers),
            **env,
        }
        self._log_path = folder / "log"
        self._secrets: set[str] = set()
        self.process: forkserver.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log_path.read_text()

    def start(self, wait: bool = True) -> "Gateway":
        self._learn_secrets()
        if self.process is not None:
            self.process.end()
        self.process = forkserver.shared().start(self.env, self._log_path, self.is_cold)
        self.started.append(self)
        if wait:
            self.wait_until_ready()
        return self

    def wait_until_ready(self, timeout_s: float = 20) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the gateway ended with {self.process.returncode}:\n{self.log}")
            try:
                if self.get("/readyz").status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.01)
        raise AssertionError(f"not ready in {timeout_s} s:\n{self.log}")

    def workers(self) -> list[int]:
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in found.stdout.split()]

    def kill_worker(self) -> int:
        """`kill -9` of the oldest worker."""
        victim = min(self.workers())
        os.kill(victim, signal.SIGKILL)
        return victim

    def stop(self, how: int = signal.SIGTERM, timeout_s: float = 30) -> int | None:
        """Ends it as an operator does, and searches its log. Returns the exit status; None if it was never started."""
        if self.process is None:
            return None
        self.process.send_signal(how)
        try:
            return self.process.wait(timeout_s)
        finally:
            self.end()

    def end(self) -> None:
        """Kills master and workers, then searches the log. Raises AssertionError when the log holds a secret."""
        if self.process is not None:
            self.process.end()
        while self in self.started:
            self.started.remove(self)
        self._learn_secrets()
        if self._log_path.exists():
            shown = secret_search.found_in_log(self._secrets, self.log)
            assert not shown, f"the log of {self.folder} holds secrets: {shown}"

    def request(
        self, method: str, path: str, body=None, key: str | None = None, timeout_s: float = 30, **headers
    ) -> Reply:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.url + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                reply = Reply(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as fault:
            with fault:
                reply = Reply(fault.code, fault.headers, fault.read())
        self._search(reply, path.encode(), data or b"")
        return reply

    def _learn_secrets(self) -> None:
        """From seed and environment, which a test may change before a start or a reload."""
        text = (self.folder / "seed.toml").read_text()
        self._secrets |= secret_search.of_seed(text, self.env) | secret_search.of_environment(self.env)

    def _search(self, reply: Reply, path: bytes, body: bytes) -> None:
        """No reply holds a secret, except one that the same call named or requested."""
        if not any(word in body for word in secret_search.ASKS_FOR_SECRETS):
            said = (path + body).decode("utf-8", "surrogateescape")
            hidden = {secret for secret in self._secrets if secret not in said}
            shown = secret_search.found(hidden, str(reply.headers) + reply.body.decode("utf-8", "replace"))
            assert not shown, f"a reply holds secrets: {shown}"
        # A key that this call has made is shown by this call alone.
        self._secrets |= secret_search.of_json(body) | secret_search.of_json(reply.body)

    def get(self, path: str, key: str | None = None, **headers) -> Reply:
        return self.request("GET", path, None, key, **headers)

    def post(self, path: str, body=None, key: str | None = ADMIN, **headers) -> Reply:
        return self.request("POST", path, {} if body is None else body, key, **headers)

    def chat(self, model: str, key: str | None = ADMIN, **fields) -> Reply:
        messages = [{"role": "user", "content": "Say hello."}]
        return self.post("/v1/chat/completions", {"model": model, "messages": messages, **fields}, key)

    def heal(self) -> None:
        """Makes every credential healthy again."""
        for one in self.post("/admin/credential-statuses/query").json:
            if one["status"] != "healthy":
                body = {"provider_name": one["provider"], "index": one["index"], "status": "healthy"}
                assert self.post("/admin/credential-statuses/update", body).status == 200

    def usages(self, **filters) -> list[dict]:
        reply = self.post("/admin/usages/query", filters)
        assert reply.status == 200, reply.body
        return reply.json

    def wait_rows(self, count: int, timeout_s: float = 15, **filters) -> list[dict]:
        """The usage rows, once there are `count` of them. They must not become more."""
        deadline = time.monotonic() + timeout_s
        rows: list[dict] = []
        while time.monotonic() < deadline:
            try:
                rows = self.usages(**filters)
            except (OSError, AssertionError):
                rows = []
            if len(rows) >= count:
                break
            time.sleep(0.1)
        assert len(rows) == count, f"{len(rows)} rows instead of {count}"
        return rows

    def rss_kib(self, pid: int) -> int:
        """Proportional set size of a process."""
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1])

    def everything_printed(self) -> str:
        return self.log


def _is_inherited(name: str) -> bool:
    """Whether a gateway gets this variable of the tests' own environment."""
    return name in FOR_ALL_GATEWAYS or not (name.startswith(READ_BY_GATEWAYS) or name in VENDOR_VARIABLES)


def seed(vendor_url: str, timeouts: str = "") -> str:
    """The journeys' seed. `timeouts` are further provider settings, each after a comma."""
    return SEED.format(vendor=vendor_url, timeouts=timeouts)
