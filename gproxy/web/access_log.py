"""The access log: one line per request, written when its response has ended. No body, API key or query string."""

import logging
from collections.abc import Mapping
from functools import lru_cache

from gproxy import logs
from gproxy.metrics.call_summary import CallSummary
from gproxy.units import NANO
from gproxy.web import request_input

log = logging.getLogger("gproxy.access")

MAX_PATH = 512


def write(environ: Mapping, status: int, sent: int, seconds: float, trusted: tuple[str, ...]) -> None:
    """Writes the line at level INFO. `sent` counts the response body's bytes; `trusted` lists trusted proxies."""
    if not log.isEnabledFor(logging.INFO):
        return
    logs.write_fields(log.name, "request", fields(environ, status, sent, seconds, trusted))


def fields(environ: Mapping, status: int, sent: int, seconds: float, trusted: tuple[str, ...]) -> dict:
    """Returns the named values of the line. A value that is not known is left out."""
    line = {
        "method": environ["REQUEST_METHOD"],
        "path": _path(environ["PATH_INFO"]),
        "status": status,
        "ms": round(seconds * 1000, 2),
        "bytes": sent,
        "client": _client_address(environ.get("REMOTE_ADDR", ""), environ.get("HTTP_X_FORWARDED_FOR", ""), trusted),
    }
    if (request_id := environ.get(request_input.REQUEST_ID)) is not None:
        line["request_id"] = request_id
    if (caller := environ.get(request_input.CALLER)) is not None:
        line["user"], key = caller.user_name, caller.key_id
        if key is not None:
            line["key"] = key
    if (summary := environ.get(request_input.SUMMARY)) is not None:
        _add_summary(line, summary)
    return line


def _add_summary(line: dict, summary: CallSummary) -> None:
    """Adds the fields that only requests on LLM routes have."""
    known = (
        ("protocol", summary.protocol),
        ("operation", summary.operation),
        ("asked", summary.requested_model),
        ("provider", summary.provider),
        ("model", summary.model),
        ("error", summary.error),
        ("outcome", summary.outcome),
    )
    for name, value in known:
        if value is not None:
            line[name] = value
    if summary.usage is not None:
        line["input_tokens"], line["output_tokens"] = summary.usage.prompt_tokens, summary.usage.output_tokens
    if summary.cost is not None:
        line["cost_usd"] = summary.cost / NANO
    if summary.first_token_s is not None:
        line["ttft_ms"] = round(summary.first_token_s * 1000, 2)


def _path(path: str) -> str:
    """Returns the path as text, cut to MAX_PATH characters. WSGI passes each byte as one character."""
    text = path if path.isascii() else path.encode("latin-1").decode(errors="replace")
    return text if len(text) <= MAX_PATH else text[:MAX_PATH] + "…"


@lru_cache(maxsize=256)
def _client_address(peer: str, forwarded: str, trusted: tuple[str, ...]) -> str:
    return request_input.client_address({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}, trusted) or ""
