"""Log lines: their two formats, and the redaction of secrets."""

import json
import logging
import logging.config
import os
import re
from collections.abc import Iterator

import pytest

from gproxy import logs
from gproxy.fastpath import access_line

SECRET = "sk-live-4f9a8b7c6d5e"
NASTY = "sk-\"quoted\\back'slash"
FORMATTERS = [logs.TextFormatter(), logs.JsonFormatter()]


@pytest.fixture(autouse=True)
def hide_secrets() -> Iterator[None]:
    before = logs._secrets
    logs.hide({SECRET, SECRET + "-longer", NASTY})
    yield
    logs._secrets = before


def record(message: str, *args, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("gproxy.test", logging.WARNING, __file__, 1, message, args, info)


def error_with(text: str) -> BaseException:
    """An error with the text in its message, its cause and its notes."""
    try:
        try:
            raise KeyError(text)
        except KeyError as cause:
            fault = ValueError(f"bad key {text!r}")
            fault.add_note(f"with {text}")
            raise fault from cause
    except ValueError as fault:
        return fault


def records_with(secret: str) -> list[logging.LogRecord]:
    return [
        record(f"key {secret} failed"),
        record("key %s failed", secret),
        record("headers %r", {"authorization": f"Bearer {secret}"}),
        record("body %s", json.dumps({"key": secret})),
        record("bytes %r", secret.encode()),
        record(secret + secret),
        record("failed", error=error_with(secret)),
    ]


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["text", "json"])
@pytest.mark.parametrize("secret", [SECRET, SECRET + "-longer", NASTY])
def test_no_line_or_traceback_contains_a_secret(formatter, secret):
    tails = (secret[3:], "-longer", "quoted", "slash")
    for entry in records_with(secret):
        line = formatter.format(entry)
        assert logs.REDACTED in line
        assert [tail for tail in tails if tail in line and tail in secret] == [], line


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["text", "json"])
def test_the_rest_of_a_traceback_is_unchanged(formatter):
    line = formatter.format(record("failed", error=error_with(SECRET)))
    assert "ValueError: bad key '[redacted]'" in line and "KeyError" in line and "def error_with" not in line


def test_short_words_are_not_redacted():
    logs.hide({"a", "demo", "12345", ""})
    assert logs.redacted("a demo of 12345") == "a demo of 12345"


def test_secrets_stay_hidden_when_others_are_added():
    logs.hide({"another-secret"})
    assert logs.redacted(f"{SECRET} another-secret") == f"{logs.REDACTED} {logs.REDACTED}"


def test_a_text_line_contains_time_level_process_and_logger():
    entry = record("hello %d", 5)
    entry.created = 1_790_000_000.0625
    assert FORMATTERS[0].format(entry) == f"2026-09-21T14:13:20.062Z warning [{entry.process}] gproxy.test: hello 5"


def test_a_json_line_is_one_object():
    entry = record("hello\n%s", 'wörld "quoted"', error=error_with("x"))
    entry.created = 1_790_000_000.0625
    line = FORMATTERS[1].format(entry)
    assert "\n" not in line
    found = json.loads(line)
    assert re.search("ValueError: bad key 'x'", found.pop("exception"))
    assert found == {
        "time": "2026-09-21T14:13:20.062Z",
        "level": "warning",
        "pid": entry.process,
        "logger": "gproxy.test",
        "message": 'hello\nwörld "quoted"',
    }


FIELDS = {
    "path": "/v1/chat/completions",
    "status": 200,
    "ms": 1.25,
    "empty": "",
    "blank": "a b",
    "quoted": 'a"b',
    "pair": "a=b",
    "forged": "x\n2026-01-01T00:00:00.000Z error [1] gproxy: forged\r\x1b[31m\x00\u2028\x85",
    "ünd": "müßig",
}


def test_a_json_line_contains_the_fields_unchanged():
    line = logs.as_json(0.0, "gproxy.test", "request", FIELDS)
    found = json.loads(line)
    assert {name: found[name] for name in FIELDS} == FIELDS
    assert (found["message"], found["logger"], found["level"]) == ("request", "gproxy.test", "info")
    assert len(line.splitlines()) == 1 and "\x1b" not in line


def test_the_fields_of_a_text_line_are_unambiguous():
    line = logs.as_text(0.0, "gproxy.test", "request", FIELDS)
    assert line.startswith(f"1970-01-01T00:00:00.000Z info [{os.getpid()}] gproxy.test: ")
    assert len(line.splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)
    assert line.partition("gproxy.test: ")[2] == (
        'path=/v1/chat/completions status=200 ms=1.25 empty="" blank="a b" quoted="a\\"b" pair="a=b" '
        'forged="x\\n2026-01-01T00:00:00.000Z error [1] gproxy: forged\\r\\u001b[31m\\u0000\\u2028\\u0085" '
        'ünd="m\\u00fc\\u00dfig"'
    )


@pytest.mark.parametrize("write", [logs.as_text, logs.as_json], ids=["text", "json"])
@pytest.mark.parametrize("secret", [SECRET, NASTY, "hidden-later"])
def test_no_field_contains_a_secret(write, secret):
    fields = {"path": f"/{secret}/x", "model": secret}
    write(0.0, "gproxy.test", "request", fields)
    logs.hide({secret})  # values that were cached before must be redacted too
    line = write(0.0, "gproxy.test", "request", fields)
    assert line.count(logs.REDACTED) == 2 and secret not in line
    if write is logs.as_json:
        assert json.loads(line)["path"] == f"/{logs.REDACTED}/x"


def test_a_line_without_a_reader_fails_no_request(monkeypatch):
    result, writing = os.pipe()
    os.close(result)
    monkeypatch.setattr(access_line, "STANDARD_ERROR", writing)
    try:
        logs.write_fields("gproxy.test", "request", FIELDS)
    finally:
        os.close(writing)


def test_a_redacted_json_line_is_still_json():
    for entry in records_with(NASTY):
        assert logs.REDACTED in "".join(str(value) for value in json.loads(FORMATTERS[1].format(entry)).values())


@pytest.mark.parametrize("style", ["text", "json"])
def test_logging_accepts_the_configuration(style, capsys, monkeypatch):
    monkeypatch.setattr(logs, "_line", logs._line)  # restored for the following tests
    logger = logging.getLogger("gproxy.configured")
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logging.config.dictConfig(logs.config("warning", style))
        logger.info("quiet")
        logger.warning("key %s", SECRET)
        logging.getLogger("gunicorn.error").error("key %s", SECRET)
    finally:
        root.handlers[:], root.level = before, level
        for name in ("gunicorn.error", "gunicorn.access", "urllib3", "peewee"):
            logging.getLogger(name).handlers.clear()
            logging.getLogger(name).setLevel(logging.NOTSET)
            logging.getLogger(name).propagate = True
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all(line.count(logs.REDACTED) == 1 and SECRET not in line for line in lines)
    assert all(line.startswith("{") is (style == "json") for line in lines)
