"""Log lines: their two formats, and that no secret is in them."""

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
def hidden() -> Iterator[None]:
    before = logs._secrets
    logs.hide({SECRET, SECRET + "-longer", NASTY})
    yield
    logs._secrets = before


def record(message: str, *args, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("gproxy.test", logging.WARNING, __file__, 1, message, args, info)


def raised(text: str) -> BaseException:
    """An error whose traceback shows the text in its message, its cause and its notes."""
    try:
        try:
            raise KeyError(text)
        except KeyError as cause:
            fault = ValueError(f"bad key {text!r}")
            fault.add_note(f"with {text}")
            raise fault from cause
    except ValueError as fault:
        return fault


def shapes(secret: str) -> list[logging.LogRecord]:
    return [
        record(f"key {secret} failed"),
        record("key %s failed", secret),
        record("headers %r", {"authorization": f"Bearer {secret}"}),
        record("body %s", json.dumps({"key": secret})),
        record("bytes %r", secret.encode()),
        record(secret + secret),
        record("failed", error=raised(secret)),
    ]


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["text", "json"])
@pytest.mark.parametrize("secret", [SECRET, SECRET + "-longer", NASTY])
def test_a_secret_is_in_no_line_and_in_no_traceback(formatter, secret):
    tails = (secret[3:], "-longer", "quoted", "slash")
    for shape in shapes(secret):
        line = formatter.format(shape)
        assert logs.BLACK in line
        assert [tail for tail in tails if tail in line and tail in secret] == [], line


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["text", "json"])
def test_a_traceback_stays_readable(formatter):
    line = formatter.format(record("failed", error=raised(SECRET)))
    assert "ValueError: bad key '[redacted]'" in line and "KeyError" in line and "def raised" not in line


def test_short_words_stay():
    logs.hide({"a", "demo", "12345", ""})
    assert logs.redacted("a demo of 12345") == "a demo of 12345"


def test_what_was_hidden_stays_hidden():
    logs.hide({"another-secret"})
    assert logs.redacted(f"{SECRET} another-secret") == f"{logs.BLACK} {logs.BLACK}"


def test_a_text_line_tells_time_level_process_and_place():
    shape = record("hello %d", 5)
    shape.created = 1_790_000_000.0625
    assert FORMATTERS[0].format(shape) == f"2026-09-21T14:13:20.062Z warning [{shape.process}] gproxy.test: hello 5"


def test_a_json_line_is_one_object():
    shape = record("hello\n%s", 'wörld "quoted"', error=raised("x"))
    shape.created = 1_790_000_000.0625
    line = FORMATTERS[1].format(shape)
    assert "\n" not in line
    found = json.loads(line)
    assert re.search("ValueError: bad key 'x'", found.pop("exception"))
    assert found == {
        "time": "2026-09-21T14:13:20.062Z",
        "level": "warning",
        "pid": shape.process,
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


def test_fields_stand_in_a_json_line_as_they_are():
    line = logs.as_json(0.0, "gproxy.test", "request", FIELDS)
    found = json.loads(line)
    assert {name: found[name] for name in FIELDS} == FIELDS
    assert (found["message"], found["logger"], found["level"]) == ("request", "gproxy.test", "info")
    assert len(line.splitlines()) == 1 and "\x1b" not in line


def test_fields_in_a_text_line_cannot_be_mistaken():
    line = logs.as_text(0.0, "gproxy.test", "request", FIELDS)
    assert line.startswith(f"1970-01-01T00:00:00.000Z info [{os.getpid()}] gproxy.test: ")
    assert len(line.splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)
    assert line.partition("gproxy.test: ")[2] == (
        'path=/v1/chat/completions status=200 ms=1.25 empty="" blank="a b" quoted="a\\"b" pair="a=b" '
        'forged="x\\n2026-01-01T00:00:00.000Z error [1] gproxy: forged\\r\\u001b[31m\\u0000\\u2028\\u0085" '
        'ünd="m\\u00fc\\u00dfig"'
    )


@pytest.mark.parametrize("written", [logs.as_text, logs.as_json], ids=["text", "json"])
@pytest.mark.parametrize("secret", [SECRET, NASTY, "hidden-later"])
def test_a_secret_is_in_no_field(written, secret):
    fields = {"path": f"/{secret}/x", "model": secret}
    written(0.0, "gproxy.test", "request", fields)
    logs.hide({secret})  # what was written before is not remembered
    line = written(0.0, "gproxy.test", "request", fields)
    assert line.count(logs.BLACK) == 2 and secret not in line
    if written is logs.as_json:
        assert json.loads(line)["path"] == f"/{logs.BLACK}/x"


def test_a_line_that_nobody_reads_fails_no_request(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(access_line, "STANDARD_ERROR", writing)
    try:
        logs.write_fields("gproxy.test", "request", FIELDS)
    finally:
        os.close(writing)


def test_a_redacted_json_line_is_still_json():
    for shape in shapes(NASTY):
        assert logs.BLACK in "".join(str(value) for value in json.loads(FORMATTERS[1].format(shape)).values())


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_configuration_is_one_that_logging_takes(style, capsys, monkeypatch):
    monkeypatch.setattr(logs, "_line", logs._line)  # as it was, for the tests after this
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
    assert len(lines) == 2 and all(line.count(logs.BLACK) == 1 and SECRET not in line for line in lines)
    assert all(line.startswith("{") is (style == "json") for line in lines)
