"""One process with its native threads: slow queries of administrators delay neither a reload nor a signature."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import gevent
import pytest

from gproxy import runtime, settings
from gproxy.snapshot import Credential, ServiceAccount
from gproxy.store import entities, machines, seeding
from gproxy.upstream.endpoint import DEFAULT_TRANSPORT
from tests.accounts import EMAIL, PEM, Endpoint
from tests.sample_db import content

LATE = {"name": "late", "channel": "openai"}
PROMPT_S = 2.0  # much less than the slow queries take


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[], runtime.Runtime]]:
    """Starts the process with two slow queries, which end when the test ends."""
    loaded = settings.load({"GPROXY_DATA_DIR": str(tmp_path / "data")}, tmp_path)
    interval, end, started = sys.getswitchinterval(), threading.Event(), []

    def start() -> runtime.Runtime:
        prepared = runtime.prepare(loaded, lambda database: seeding.fill(database, content()))
        process = runtime.start(loaded, prepared)
        started.append(process)
        slow: list[int] = []
        for _ in range(2):
            gevent.spawn(process.ask, _slow, slow, end)
        with gevent.Timeout(5):
            while len(slow) < 2:
                gevent.sleep(0.01)
        return process

    yield start
    end.set()
    for one in started:
        one.close()
    sys.setswitchinterval(interval)


def _slow(begun: list[int], end: threading.Event) -> None:
    begun.append(1)
    end.wait(60)


def add_provider(process: runtime.Runtime) -> None:
    process.database.run(entities.put, process.database, entities.PROVIDER, [LATE])


def test_slow_queries_delay_no_reload(make):
    process = make()
    add_provider(process)
    process.change_counter.increment()
    started = time.monotonic()
    assert "late" in process.snapshots().providers
    assert time.monotonic() - started < PROMPT_S


def test_slow_queries_delay_no_change(make):
    process = make()
    with gevent.Timeout(PROMPT_S):
        process.change(None, entities.put, entities.PROVIDER, [LATE])
        assert "late" in process.snapshots().providers


def test_slow_queries_delay_no_change_of_another_machine(make, monkeypatch):
    monkeypatch.setattr(machines, "HEARTBEAT_S", 0.1)  # a heartbeat is due all the time, and it needs a query thread
    process = make()
    gevent.sleep(2 * runtime.POLL_S)
    add_provider(process)
    with gevent.Timeout(PROMPT_S):
        while "late" not in process.snapshots.current.providers:
            gevent.sleep(0.05)


def test_slow_queries_delay_no_signature(make, vendor):
    process = make()
    vendor.scripts["/token"] = Endpoint()
    account = ServiceAccount("acme-1", EMAIL, f"{vendor.url}/token")
    with gevent.Timeout(PROMPT_S):
        token = process.relay.attempts.tokens.secret(
            Credential(1, 1, PEM, account=account), DEFAULT_TRANSPORT, nullcontext()
        )
    assert token == "ya29.token-000001"
    del vendor.scripts["/token"]
