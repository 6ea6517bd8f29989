"""Log lines as text or JSON on standard error, with all known secrets redacted."""

import json
import logging
import os
import re
import time
from collections.abc import Set
from datetime import UTC, datetime
from functools import lru_cache

from gevent.monkey import get_original

from gproxy.fastpath import access_line

_native_lock = get_original("_thread", "RLock")
# Log lines contain no names of threads, processes and tasks, which logging would look up for every line.
logging.logThreads = logging.logMultiprocessing = logging.logAsyncioTasks = False
REDACTED = "[redacted]"
# Shorter secrets could be ordinary words.
MIN_SECRET = 6
# A value that needs no quotes in `name=value`.
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+")
# Longest first, so that a secret that begins with another one is replaced completely. Replaced as a whole by `hide`.
_secrets: tuple[str, ...] = ()


def hide(secrets: Set[str]) -> None:
    """Redacts these secrets in all later log lines, also where their quotes and backslashes are escaped."""
    global _secrets
    long = {secret for secret in secrets if len(secret) >= MIN_SECRET}
    forms = long | {json.dumps(secret)[1:-1] for secret in long} | {repr(secret)[1:-1] for secret in long}
    _secrets = tuple(sorted(forms.union(_secrets), key=len, reverse=True))
    _plain.cache_clear()
    _quoted.cache_clear()


def redacted(text: str) -> str:
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, REDACTED)
    return text


class StandardError(logging.StreamHandler):
    """A handler with a native lock: native threads log too, and gevent's lock could block one of them forever."""

    def createLock(self) -> None:
        self.lock = _native_lock()


def _timestamp(created: float) -> str:
    seconds, milliseconds = divmod(int(created * 1000), 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def as_text(created: float, logger: str, message: str, fields: dict) -> str:
    """A line at level info with the fields as `name=value`; the message is left out."""
    pairs = [f"{name}={_plain(v) if isinstance(v, str) else v}" for name, v in fields.items()]
    return f"{_timestamp(created)} info [{os.getpid()}] {logger}: {' '.join(pairs)}"


def as_json(created: float, logger: str, message: str, fields: dict) -> str:
    """A line at level info with the message and the fields as JSON."""
    pairs = [f'"{name}": {_quoted(v) if isinstance(v, str) else v}' for name, v in fields.items()]
    return (
        f'{{"time": "{_timestamp(created)}", "level": "info", "pid": {os.getpid()}, '
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
        line = f"{_timestamp(record.created)} {record.levelname.lower()} [{record.process}] {record.name}: "
        line += record.getMessage()
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redacted(line)


@lru_cache(maxsize=1024)
def _plain(value: str) -> str:
    """The redacted value, in quotes if needed. Cached, because most values occur in many lines."""
    text = redacted(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


@lru_cache(maxsize=1024)
def _quoted(value: str) -> str:
    return json.dumps(redacted(value))


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        if (fields := getattr(record, "fields", None)) is not None:
            return as_json(record.created, record.name, record.getMessage(), fields)
        line = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "pid": record.process,
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def config(level: str, style: str) -> dict:
    """The configuration for logging.config.dictConfig, including gunicorn's loggers."""
    global _line
    _line = as_json if style == "json" else as_text
    formatter = JsonFormatter if style == "json" else TextFormatter
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"gproxy": {"()": f"{__name__}.{formatter.__name__}"}},
        "handlers": {
            "stderr": {"()": StandardError, "formatter": "gproxy", "stream": "ext://sys.stderr"},
        },
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"level": level.upper(), "handlers": ["stderr"], "propagate": False},
            "gunicorn.access": {"level": level.upper(), "handlers": ["stderr"], "propagate": False},
            # At lower levels its lines contain hosts, paths and text of servers.
            "urllib3": {"level": "ERROR"},
            "peewee": {"level": "WARNING"},
        },
    }
