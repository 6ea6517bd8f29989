"""The report of a running process: readiness and metrics."""

import pytest

from gproxy import __version__
from tests.running_process import running_process


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    with running_process(tmp_path_factory.mktemp("process")) as found:
        yield found


def test_a_started_process_is_ready(process):
    assert process.status.readiness() == {
        "serving": True,
        "persisting": True,
        "current": True,
        "shared": True,
        "in_flight": 0,
        "clients_gone": 0,
        "credentials": 1,
        "credentials_usable": 1,
        "damaged_journal_lines": 0,
    }


def test_a_process_whose_journal_cannot_be_written_does_not_serve(process):
    process.relay.opener.journal.is_writable = False
    assert process.status.readiness()["serving"] is False
    process.relay.opener.journal.is_writable = True


def test_metrics_include_the_process_and_its_credentials(process):
    lines = process.status.metrics().splitlines()
    assert f'gproxy_build_info{{version="{__version__}"}} 1' in lines
    assert "gproxy_workers 1" in lines
    assert 'gproxy_credential_state{provider="one",credential="1",state="usable"} 1' in lines
