"""One process with its native threads: slow queries of administrators delay neither a reload nor a signature."""

import time
from contextlib import nullcontext

import gevent
import pytest

from gproxy.errors import Unavailable
from gproxy.snapshot import Credential, ServiceAccount
from gproxy.store import entities
from gproxy.upstream.endpoint import DEFAULT_TRANSPORT
from tests.accounts import EMAIL, PEM, Endpoint
from tests.running_process import PROMPT_S, busy_process, running_process


def test_slow_queries_delay_no_reload(tmp_path):
    with busy_process(tmp_path) as process:
        database = process.admin.database
        database.run(entities.put, database, entities.PROVIDER, [{"name": "late", "channel": "openai"}])
        process.admin.change_counter.increment()
        started = time.monotonic()
        assert "late" in process.snapshots().providers
        assert time.monotonic() - started < PROMPT_S


def test_slow_queries_delay_no_signature(tmp_path, vendor):
    vendor.scripts["/token"] = Endpoint()
    account = ServiceAccount("acme-1", EMAIL, f"{vendor.url}/token")
    with busy_process(tmp_path) as process, gevent.Timeout(PROMPT_S):
        credential = Credential(1, 1, PEM, account=account)
        token = process.relay.attempts.tokens.secret(credential, DEFAULT_TRANSPORT, nullcontext())
    assert token == "ya29.token-000001"
    del vendor.scripts["/token"]


def test_a_closed_process_leaves_no_slot_and_releases_everything(tmp_path):
    released = []
    with running_process(tmp_path) as process:
        assert [path.name for path in (tmp_path / "data/journal").iterdir()] == ["000"]
        process.resources.callback(released.append, "first")
    assert released == ["first"]
    assert list((tmp_path / "data/journal").iterdir()) == []
    with pytest.raises((OSError, ValueError, Unavailable)):
        process.admin.change_counter.increment()
