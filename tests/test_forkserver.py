"""A gateway that is forked runs as one that was started by `python -m gunicorn`, and nothing outlives the tests."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import forkserver
from tests.gateway import ROOT, Gateway

# What the program has done after its imports, and which variables they read.
AFTER_IMPORTS = """
import json, os, sys, threading
read = set()
class Watched(type(os.environ)):
    def __getitem__(self, name):
        read.add(name)
        return super().__getitem__(name)
    def __contains__(self, name):
        read.add(name)
        return super().__contains__(name)
os.environ.__class__ = Watched
from tests import forkserver
read.clear()
def files():
    links = {name: f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")}
    return {name: os.readlink(link) for name, link in links.items() if os.path.islink(link)}
before = files()
forkserver._import_all()
from gevent import _hub_local
print(json.dumps({
    "read": sorted(read),
    "files": [link for name, link in files().items() if name not in before],
    "threads": len(os.listdir("/proc/self/task")),
    "has_hub": _hub_local.get_hub_if_exists() is not None,
    "modules": sorted(sys.modules),
}))
"""
# Starts a gateway and waits to be killed.
TESTS = """
import sys, time
from pathlib import Path
from tests import forkserver
from tests.gateway import Gateway
running = Gateway(Path(sys.argv[1]), "", cold=sys.argv[2] == "cold").start()
print(forkserver.shared().pid, running.process.pid, *running.workers(), flush=True)
time.sleep(60)
"""


def command_line(gateway: Gateway) -> list[str]:
    return Path(f"/proc/{gateway.process.pid}/cmdline").read_text().split("\0")[1:-1]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while left := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_a_cold_start_is_python_minus_m_gunicorn_and_serves(own_gateway):
    gateway = own_gateway(cold=True)
    assert command_line(gateway) == ["-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
    assert gateway.chat("openai-main/gpt-4.1-mini").status == 200
    assert gateway.stop() == 0


def test_a_forked_gateway_serves_and_stops_on_term(own_gateway):
    gateway = own_gateway()
    assert command_line(gateway) == ["-m", "tests.forkserver"]
    assert Path(f"/proc/{gateway.process.pid}/cwd").readlink() == ROOT
    assert gateway.chat("openai-main/gpt-4.1-mini").status == 200
    workers = gateway.workers()
    assert len(workers) == 2
    assert gateway.stop() == 0
    wait_until_gone(workers)


def test_a_forked_gateway_has_the_environment_of_its_start_alone(own_gateway, monkeypatch):
    text = '[[users]]\nname = "${NAMED}"\nis_admin = true\nkeys = [{ api_key = "sk-admin-1" }]\n'
    named = own_gateway(text, NAMED="alice")
    assert [row["name"] for row in named.post("/admin/users/query").json] == ["alice"]
    monkeypatch.setenv("NAMED", "bob")
    assert [row["name"] for row in own_gateway(text).post("/admin/users/query").json] == ["bob"]
    monkeypatch.delenv("NAMED")
    unnamed = own_gateway(text, start=False).start(wait=False)
    assert unnamed.process.wait(10) == 3
    assert "variable NAMED is not set" in unnamed.log


def test_a_variable_that_an_import_reads_makes_a_start_cold(own_gateway):
    assert command_line(own_gateway(PYTHONDEVMODE="1"))[:2] == ["-m", "gunicorn"]


def test_forked_gateways_make_different_request_ids(own_gateway):
    replies = [own_gateway(workers=1).get("/v1/models") for _ in range(2)]
    first, second = (reply.headers["x-request-id"] for reply in replies)
    assert first != second


def test_a_process_reports_as_one_of_subprocess_does(own_gateway):
    gateway = own_gateway()
    process = gateway.process
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.kill()
    assert process.wait(10) == process.poll() == process.returncode == -signal.SIGKILL
    process.send_signal(signal.SIGTERM)  # to nobody


def test_an_end_leaves_no_process_and_no_port_behind(own_gateway):
    gateway = own_gateway()
    pids = [gateway.process.pid, *gateway.workers()]
    gateway.end()
    assert not [pid for pid in pids if is_alive(pid)]
    gateway.start()
    assert gateway.get("/readyz").status == 200
    workers = gateway.workers()
    os.kill(gateway.process.pid, signal.SIGKILL)
    gateway.process.wait(10)
    gateway.end()  # its workers too, whose master is gone
    assert not [pid for pid in workers if is_alive(pid)]


@pytest.mark.parametrize("kind", ["forked", "cold"])
@pytest.mark.parametrize("killed", ["tests", "fork server"])
def test_nothing_outlives_tests_that_are_killed(tmp_path, kind, killed):
    with subprocess.Popen(
        [sys.executable, "-c", TESTS, tmp_path / "gateway", kind], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as tests:
        pids = [int(pid) for pid in tests.stdout.readline().split()]
        assert len(pids) == 4
        assert all(map(is_alive, pids))
        if killed == "tests":
            tests.kill()
        else:
            os.kill(pids[0], signal.SIGKILL)
        wait_until_gone(pids)
        tests.kill()


def test_the_server_has_imported_what_a_start_needs_and_done_nothing_else():
    done = subprocess.run([sys.executable, "-c", AFTER_IMPORTS], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["threads"], found["has_hub"]) == (1, False)
    assert found["files"] == ["anon_inode:[eventfd]"]  # of gproxy.turns, which neither reads nor writes it
    assert {"gproxy.server", "gproxy.runtime", "gunicorn.arbiter"} <= set(found["modules"])
    on_demand = {"argon2", "redis", "cryptography", "jwt", "apispec", "tomli_w", "yaml", "wsgi", "pytest"}
    assert not on_demand & set(found["modules"])
    assert "LANG" in found["read"]
    assert [name for name in found["read"] if not name.startswith(forkserver.READ_AT_IMPORT)] == []
