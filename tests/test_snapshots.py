"""The snapshot in use: its secrets are redacted in logs as soon as it is loaded."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gproxy import logs, settings
from gproxy.request_log.recorder import Recorder
from gproxy.snapshots import Snapshots
from gproxy.state.change_counter import ChangeCounter
from gproxy.store.seeding import NewCredential, secret_json
from gproxy.threads import Threads
from tests.sample_db import SECRET, filled, provider
from tests.test_snapshot import DECODED, WRITTEN

SEEN = f"key {SECRET}, password {WRITTEN} which is {DECODED}, proxy http://me:{WRITTEN}@proxy:3128"
HIDDEN = "key [redacted], password [redacted] which is [redacted], proxy http://me:[redacted]@proxy:3128"


@pytest.fixture
def snapshots(tmp_path: Path) -> Iterator[Snapshots]:
    proxy = f"http://me:{WRITTEN}@proxy:3128"
    one = provider("one", NewCredential(secret_json(api_key=SECRET)), proxy=proxy)
    before, database = logs._secrets, filled(tmp_path, providers=(one,))
    counter = ChangeCounter(tmp_path / "signal")
    loaded = settings.load({"GPROXY_DATA_DIR": str(tmp_path)}, tmp_path)
    found = Snapshots(loaded, None, database, counter, Threads(1))
    found.refresh()
    yield found
    counter.close()
    logs._secrets = before
    logs._plain.cache_clear()
    logs._quoted.cache_clear()


def test_log_lines_hide_keys_and_both_forms_of_a_proxy_password(snapshots):
    assert snapshots.is_current
    assert logs.redacted(SEEN) == HIDDEN


def test_request_logs_hide_the_same_secrets(snapshots):
    recorder = Recorder(None, snapshots, lambda: snapshots.current, lambda at: at, frozenset({"own-secret"}), 100)
    assert recorder.redactor().text(f"{SEEN}, own-secret") == f"{HIDDEN}, [redacted]"
    assert recorder.redactor() is recorder.redactor()
