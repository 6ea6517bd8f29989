"""Secrets at the end of a logged body, in URLs and parameters; and recording attempts without waiting or failing."""

import json
from types import SimpleNamespace

import pytest

from gproxy.request_log.recorder import AttemptLog, Capture, Recorder, SentRequest
from gproxy.request_log.redaction import Redactor, document

MAX, KEY = 1000, "sk-secret-" + "A" * 90


def logged(redactor, data: bytes, own_secrets: tuple = ()) -> bytes:
    capture = Capture(MAX + redactor.margin(own_secrets))
    capture.add(data)
    return redactor.beginning(capture.joined(), MAX, own_secrets, capture.is_cut)


def test_a_secret_cut_at_the_end_is_never_logged():
    body = (KEY * 9 + "x" * 150 + KEY + "tail" * 100).encode()
    for drop in range(len(body)):
        assert b"sk-secret" not in logged(Redactor([KEY]), body[: len(body) - drop]) or drop > 400


@pytest.mark.parametrize("own_secret", [b"ya29." + b"T" * 1500, b"sk-clients-own-" + b"k" * 60])
def test_a_secret_of_the_call_may_be_longer_than_all_known_ones(own_secret):
    for before in range(500, 1010, 7):
        data = b"x" * before + own_secret + b"y" * 5000
        assert own_secret[:6] not in logged(Redactor(["sk-short-1234567"]), data, (own_secret,))


def test_an_issued_key_cut_at_the_end_is_never_logged():
    issued = b"sk-api01-" + b"0123456789abcdef" * 2
    for before in range(900, 1010):
        assert b"sk-api" not in logged(Redactor([]), b"x" * before + issued + b"y" * 5000)


@pytest.mark.parametrize(
    "text",
    [
        '{"password":            "hunter2hunter2"}',
        '{"password": "hunter2hun',
        '{"password": "hunter2\\',
        '{"toml": "password = \\"hunter2',
        '{"proxy": "http://u:hunter2@h:1"}',
        '{"settings_json": "{\\"proxy\\": \\"socks5h://u:hunter2@h:1\\"}"}',
        '{"proxy": "http://u:a@hunter2@h:1"}',
        '{"proxy": "http://u@corp:hunter2@h:1"}',
    ],
)
def test_a_secret_in_a_document_is_redacted(text):
    assert b"hunter2" not in document(text.encode())


def test_a_secret_that_is_not_utf8_is_redacted():
    assert Redactor(["abcdefgh\udce4"]).body(b"x abcdefgh\xe4 y") == b"x [redacted] y"


class Snapshot:
    secrets: frozenset = frozenset()


def sent(url: str, body) -> SentRequest:
    return SentRequest(1, 1, url, {}, body, "sk-12345678")


def test_an_attempt_waits_for_no_reload():
    """Reading the snapshot may wait two seconds for the database; a running call must not."""
    snapshot_reads, rows = [], []
    spool = SimpleNamespace(put=rows.append)
    recorder = Recorder(
        spool, lambda: snapshot_reads.append(1) or Snapshot, lambda: Snapshot, lambda at: at, frozenset(), 100
    )
    attempt_log = AttemptLog(recorder, None, True, ())
    snapshot_reads.clear()

    class Exchange:
        status, headers = 200, {}

        def observe(self, received, end):
            self.received, self.end = received, end

    exchange = attempt_log.send(sent("http://u/v1?access_token=abcdef&a=b", b"{}"), Exchange)
    exchange.received(b"hello")
    exchange.end()
    assert not snapshot_reads
    assert "abcdef" not in json.dumps(rows[0], default=str)


def test_an_error_while_logging_costs_a_row_and_no_call(caplog):
    def failing_put(row):
        raise RuntimeError("a bug")

    spool = SimpleNamespace(put=failing_put)
    recorder = Recorder(spool, lambda: Snapshot, lambda: Snapshot, lambda at: at, frozenset(), 100)
    attempt_log = AttemptLog(recorder, None, True, ())
    exchange = SimpleNamespace(status=200, headers={}, observe=lambda received, end: end())
    assert attempt_log.send(sent("http://u", b"{}"), lambda: exchange) is exchange
    assert attempt_log.send(sent("http://u", 7), lambda: exchange) is exchange
    assert caplog.text.count("a request log row is lost") == 2


def test_secrets_with_the_same_prefix_are_all_redacted():
    secrets = [f"sk-{n:08d}" for n in range(500)] + ["AIzaSyXXXX", "sk-00000001-longer"]
    redactor = Redactor(secrets)
    for secret in secrets:
        assert redactor.body(f"a {secret} b".encode()) == b"a [redacted] b"
    assert redactor.body(b"sk-no") == b"sk-no"
