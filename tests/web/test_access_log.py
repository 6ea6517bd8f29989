"""The fields of an access log line, and which address counts as the client's."""

import logging
from types import SimpleNamespace

import pytest

from gproxy.metrics.call_summary import CallSummary
from gproxy.protocols.hub import Usage
from gproxy.web import access_log, request_input

TRUSTED = ("127.0.0.1", "10.0.0.0/8", "::1")
ENVIRON = {"REQUEST_METHOD": "POST", "PATH_INFO": "/v1/chat/completions", "REMOTE_ADDR": "127.0.0.1"}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.7", "203.0.113.9", "192.0.2.7"),  # only proxies are trusted with this header
        ("127.0.0.1", "198.51.100.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("127.0.0.1", "x\nforged", "127.0.0.1"),
        ("", "", ""),
    ],
)
def test_the_client_address_is_the_last_one_that_is_not_a_trusted_proxy(peer, forwarded, client):
    environ = {**ENVIRON, "REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}
    assert access_log.fields(environ, 200, 0, 0.0, TRUSTED)["client"] == client


@pytest.mark.parametrize(("key", "expected"), [(2, {"user": "dev", "key": 2}), (None, {"user": "dev"})])
def test_the_line_names_the_user_and_the_key_if_there_is_one(key, expected):
    caller = SimpleNamespace(user_name="dev", key_id=key)
    found = access_log.fields({**ENVIRON, request_input.CALLER: caller}, 200, 0, 0.0, TRUSTED)
    assert {name: found[name] for name in ("user", "key") if name in found} == expected


def test_a_request_without_caller_and_summary_has_the_basic_fields():
    assert access_log.fields({**ENVIRON, "QUERY_STRING": "key=sk-1"}, 404, 12, 0.0123456, TRUSTED) == {
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 404,
        "ms": 12.35,
        "bytes": 12,
        "client": "127.0.0.1",
    }


def test_a_call_has_every_field_of_its_summary():
    usage = Usage(30, 5, 2, 60, 7, 8, 9)
    caller = SimpleNamespace(user_name="dev", key_id=2)
    summary = CallSummary(
        "openai_chat", "generate_content", "chat", "main", "gpt", None, "complete", usage, 68_800, 0.4
    )
    environ = {
        **ENVIRON,
        request_input.SUMMARY: summary,
        request_input.REQUEST_ID: "req_1",
        request_input.CALLER: caller,
    }
    found = access_log.fields(environ, 200, 12, 1.0, TRUSTED)
    assert {
        name: value for name, value in found.items() if name not in access_log.fields(ENVIRON, 200, 12, 1.0, ())
    } == {
        **{"request_id": "req_1", "user": "dev", "key": 2, "protocol": "openai_chat", "operation": "generate_content"},
        **{"asked": "chat", "provider": "main", "model": "gpt", "outcome": "complete"},
        **{"input_tokens": 114, "output_tokens": 5, "cost_usd": 0.0000688, "ttft_ms": 400.0},
    }


def test_a_refused_call_has_its_error_code():
    environ = {**ENVIRON, request_input.SUMMARY: CallSummary("gemini", error="unauthorized")}
    found = access_log.fields(environ, 401, 12, 1.0, TRUSTED)
    assert (found["error"], found["protocol"], "user" in found, "outcome" in found) == (
        "unauthorized",
        "gemini",
        False,
        False,
    )


@pytest.mark.parametrize(
    ("path", "written"),
    [("/v1/x", "/v1/x"), ("/ü".encode().decode("latin-1"), "/ü"), ("/\xff", "/�"), ("/" + "x" * 600, f"/{'x' * 511}…")],
)
def test_a_path_is_written_as_text_and_cut(path, written):
    assert access_log.fields({**ENVIRON, "PATH_INFO": path}, 200, 0, 0.0, ())["path"] == written


@pytest.mark.parametrize(("level", "lines"), [(logging.WARNING, 0), (logging.INFO, 1)])
def test_a_line_is_written_at_level_info(level, lines, caplog, capfd):
    caplog.set_level(level, "gproxy.access")
    access_log.write(ENVIRON, 200, 0, 0.1, TRUSTED)
    written = capfd.readouterr().err.splitlines()
    assert len(written) == lines
    assert all(" gproxy.access: " in line and " status=200 " in line for line in written)
