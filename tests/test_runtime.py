"""One process with its native threads: slow queries of administrators delay neither a reload nor a signature."""

import time
from contextlib import nullcontext

import gevent
import pytest

from gproxy import runtime, settings
from gproxy.errors import Unavailable
from gproxy.snapshot import Credential, ServiceAccount
from gproxy.store import entities, seeding
from gproxy.upstream.endpoint import DEFAULT_TRANSPORT
from tests.accounts import EMAIL, PEM, Endpoint
from tests.running_process import PROMPT_S, busy_process, running_process
from tests.sample_db import content


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


def test_stored_patterns_beyond_the_bounds_are_named_at_the_start(tmp_path, caplog):
    loaded = settings.load({"GPROXY_DATA_DIR": str(tmp_path / "data")}, tmp_path)
    rows = content(permissions=(("ann", None, "*"), ("ann", None, "*-" * 120)))
    for _ in range(2):
        caplog.clear()
        runtime.prepare(loaded, lambda database: seeding.fill(database, rows))
        (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert line.startswith("user 'ann': permissions[2].model_pattern '*-*-")
        assert line.endswith(
            "has at most 16 stars (`*`), this one has 120; use fewer; it keeps working, but cannot be saved again"
        )
