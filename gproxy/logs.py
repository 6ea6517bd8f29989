"""Log lines as text or JSON, on standard error, with every known secret blacked out."""

import json
import logging
import os
import re
import time
from datetime import UTC, datetime
from functools import lru_cache

from gevent.monkey import get_original

from gproxy.fastpath import access_line

_native_lock = get_original("_thread", "RLock")
# No line of ours tells them, and each would be looked up for every record.
logging.logThreads = logging.logMultiprocessing = logging.logAsyncioTasks = False
BLACK = "[redacted]"
# Shorter ones would black out ordinary words.
MIN_SECRET = 6
# A text that stands for itself in a line of `name=value`.
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")
# Longest first, so that a secret that begins with another is blacked out whole. Exchanged, never changed.
_secrets: tuple[str, ...] = ()


def hide(secrets: set[str]) -> None:
    """These texts never appear in a log line from now on, nor do they with quotes and backslashes escaped."""
    global _secrets
    long = {secret for secret in secrets if len(secret) >= MIN_SECRET}
    written = long | {json.dumps(secret)[1:-1] for secret in long} | {repr(secret)[1:-1] for secret in long}
    _secrets = tuple(sorted(written.union(_secrets), key=len, reverse=True))
    _plain.cache_clear()
    _quoted.cache_clear()


def redacted(text: str) -> str:
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, BLACK)
    return text


class StandardError(logging.StreamHandler):
    """Native threads write lines too, and gevent's own lock may leave one of them waiting for ever."""

    def createLock(self) -> None:
        self.lock = _native_lock()


def _when(created: float) -> str:
    seconds, milliseconds = divmod(int(created * 1000), 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def as_text(created: float, logger: str, message: str, fields: dict) -> str:
    """A line of fields, numbers and texts, at level info; the message is in none."""
    pairs = [f"{name}={_plain(v) if isinstance(v, str) else v}" for name, v in fields.items()]
    return f"{_when(created)} info [{os.getpid()}] {logger}: {' '.join(pairs)}"


def as_json(created: float, logger: str, message: str, fields: dict) -> str:
    """The same as JSON, beside the message."""
    pairs = [f'"{name}": {_quoted(v) if isinstance(v, str) else v}' for name, v in fields.items()]
    return (
        f'{{"time": "{_when(created)}", "level": "info", "pid": {os.getpid()}, '
        f'"logger": "{logger}", "message": {_quoted(message)}, {", ".join(pairs)}}}'
    )


_line = as_text


def write_fields(logger: str, message: str, fields: dict) -> None:
    """Writes a line of fields at level info; every request has one."""
    access_line.write(logger, message, fields, lambda: _line(time.time(), logger, message, fields))


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        if (fields := getattr(record, "fields", None)) is not None:
            return as_text(record.created, record.name, record.getMessage(), fields)
        line = f"{_when(record.created)} {record.levelname.lower()} [{record.process}] {record.name}: "
        line += record.getMessage()
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redacted(line)


@lru_cache(maxsize=1024)
def _plain(value: str) -> str:
    """As it is where it cannot be misread, else in quotes. Most values of a line stood in one before."""
    shown = redacted(value)
    return shown if _PLAIN.fullmatch(shown) else json.dumps(shown)


@lru_cache(maxsize=1024)
def _quoted(value: str) -> str:
    return json.dumps(redacted(value))


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        if (fields := getattr(record, "fields", None)) is not None:
            return as_json(record.created, record.name, record.getMessage(), fields)
        line = {
            "time": _when(record.created),
            "level": record.levelname.lower(),
            "pid": record.process,
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def config(level: str, style: str) -> dict:
    """For logging.config.dictConfig; gunicorn's own loggers included."""
    global _line
    _line = as_json if style == "json" else as_text
    formatter = JsonFormatter if style == "json" else TextFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"ours": {"()": f"{__name__}.{formatter.__name__}"}},
        "handlers": {
            "stderr": {"()": StandardError, "formatter": "ours", "stream": "ext://sys.stderr"},
        },
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"level": level.upper(), "handlers": ["stderr"], "propagate": False},
            "gunicorn.access": {"level": level.upper(), "handlers": ["stderr"], "propagate": False},
            # Its lines name hosts and paths at debug level, and quote what a server sent.
            "urllib3": {"level": "ERROR"},
            "peewee": {"level": "WARNING"},
        },
    }
