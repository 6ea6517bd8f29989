"""Log lines as text or JSON, on standard error, with every known secret blacked out."""

import json
import logging
from datetime import UTC, datetime

from gevent.monkey import get_original

_native_lock = get_original("_thread", "RLock")
BLACK = "[redacted]"
# Shorter ones would black out ordinary words.
LEAST_SECRET = 6
# Longest first, so that a secret that begins with another is blacked out whole. Exchanged, never changed.
_secrets: tuple[str, ...] = ()


def hide(secrets: set[str]) -> None:
    """These texts never appear in a log line from now on, nor do they with quotes and backslashes escaped."""
    global _secrets
    long = {secret for secret in secrets if len(secret) >= LEAST_SECRET}
    written = long | {json.dumps(secret)[1:-1] for secret in long} | {repr(secret)[1:-1] for secret in long}
    _secrets = tuple(sorted(written.union(_secrets), key=len, reverse=True))


def redacted(text: str) -> str:
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, BLACK)
    return text


class StandardError(logging.StreamHandler):
    """Native threads write lines too, and gevent's own lock may leave one of them waiting for ever."""

    def createLock(self) -> None:
        self.lock = _native_lock()


class _Formatter(logging.Formatter):
    def when(self, record: logging.LogRecord) -> str:
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = f"{self.when(record)} {record.levelname.lower()} [{record.process}] {record.name}: {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redacted(line)


class JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.when(record),
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
