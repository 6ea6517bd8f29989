"""Secrets at the end of what is kept, in addresses and parameters; and who waits for whom."""

import json
from types import SimpleNamespace

import pytest

from gproxy.request_log.recorder import AttemptLog, Capture, Recorder
from gproxy.request_log.redaction import Redactor, document

MAX, KEY = 1000, "sk-secret-" + "A" * 90


def kept(redactor, data: bytes, own: tuple = ()) -> bytes:
    capture = Capture(MAX + redactor.room(own))
    capture.add(data)
    return redactor.beginning(capture.joined(), MAX, own, capture.is_cut)


def test_no_secret_that_is_cut_moves_into_what_is_kept():
    body = (KEY * 9 + "x" * 150 + KEY + "tail" * 100).encode()
    for drop in range(len(body)):
        assert b"sk-secret" not in kept(Redactor([KEY]), body[: len(body) - drop]) or drop > 400


@pytest.mark.parametrize("own", [b"ya29." + b"T" * 1500, b"sk-clients-own-" + b"k" * 60])
def test_a_secret_of_the_call_itself_may_be_the_longest(own):
    for before in range(500, 1010, 7):
        assert own[:6] not in kept(Redactor(["sk-short-1234567"]), b"x" * before + own + b"y" * 5000, (own,))


def test_a_key_that_we_made():
    made = b"sk-api01-" + b"0123456789abcdef" * 2
    for before in range(900, 1010):
        assert b"sk-api" not in kept(Redactor([]), b"x" * before + made + b"y" * 5000)


@pytest.mark.parametrize(
    "text",
    [
        '{"password":            "hunter2hunter2"}',
        '{"password": "hunter2hun',
        '{"password": "hunter2\\',
        '{"toml": "password = \\"hunter2',
        '{"proxy": "http://u:hunter2@h:1"}',
        '{"settings_json": "{\\"proxy\\": \\"socks5h://u:hunter2@h:1\\"}"}',
    ],
)
def test_documents(text):
    assert b"hunter2" not in document(text.encode())


def test_an_environment_that_is_no_text_breaks_nothing():
    assert Redactor(["abcdefgh\udce4"]).body(b"x abcdefgh\xe4 y") == b"x [redacted] y"


class Snapshot:
    providers: dict = {}


def test_an_attempt_waits_for_no_reload():
    """Whoever asks for the snapshot may wait two seconds for the database; a call that runs shall not."""
    asked, put = [], []
    spool = SimpleNamespace(put=put.append)
    recorder = Recorder(spool, lambda: asked.append(1) or Snapshot, lambda: Snapshot, lambda at: at, frozenset(), 100)
    attempt_log = AttemptLog(recorder, None, True, ())
    asked.clear()

    class Exchange:
        status, headers = 200, {}

        def watch(self, came, end):
            self.came, self.end = came, end

    exchange = attempt_log.send(1, 1, "http://u/v1?access_token=abcdef&a=b", {}, b"{}", "sk-12345678", Exchange)
    exchange.came(b"hello")
    exchange.end()
    assert not asked
    assert "abcdef" not in json.dumps(put[0], default=str)


def test_a_fault_of_ours_costs_a_row_and_no_call(caplog):
    def broken(record):
        raise RuntimeError("a bug")

    put = SimpleNamespace(put=broken)
    recorder = Recorder(put, lambda: Snapshot, lambda: Snapshot, lambda at: at, frozenset(), 100)
    attempt_log = AttemptLog(recorder, None, True, ())
    exchange = SimpleNamespace(status=200, headers={}, watch=lambda came, end: end())
    assert attempt_log.send(1, 1, "http://u", {}, b"{}", "sk-12345678", lambda: exchange) is exchange
    assert attempt_log.send(1, 1, "http://u", {}, 7, "sk-12345678", lambda: exchange) is exchange
    assert caplog.text.count("a log of a request is lost") == 2


def test_secrets_that_begin_alike_are_each_found():
    secrets = [f"sk-{n:08d}" for n in range(500)] + ["AIzaSyXXXX", "sk-00000001-longer"]
    redactor = Redactor(secrets)
    for secret in secrets:
        assert redactor.body(f"a {secret} b".encode()) == b"a [redacted] b"
    assert redactor.body(b"sk-no") == b"sk-no"
