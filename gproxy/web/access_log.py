"""One line per request, when its answer is over: who asked what, and what became of it. No body, key or query."""

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
    """`sent` are bytes of the answer's body, `trusted` the proxies whose word for the client's address counts."""
    if not log.isEnabledFor(logging.INFO):
        return
    logs.write_fields(log.name, "request", fields(environ, status, sent, seconds, trusted))


def fields(environ: Mapping, status: int, sent: int, seconds: float, trusted: tuple[str, ...]) -> dict:
    found = {
        "method": environ["REQUEST_METHOD"],
        "path": _path(environ["PATH_INFO"]),
        "status": status,
        "ms": round(seconds * 1000, 2),
        "bytes": sent,
        "client": _client(environ.get("REMOTE_ADDR", ""), environ.get("HTTP_X_FORWARDED_FOR", ""), trusted),
    }
    if (request_id := environ.get(request_input.REQUEST_ID)) is not None:
        found["request_id"] = request_id
    if (caller := environ.get(request_input.CALLER)) is not None:
        found["user"], key = caller.user_name, caller.key_id
        if key is not None:
            found["key"] = key
    if (summary := environ.get(request_input.SUMMARY)) is not None:
        _add(found, summary)
    return found


def _add(found: dict, summary: CallSummary) -> None:
    """What is known of a request on an LLM route."""
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
            found[name] = value
    if summary.usage is not None:
        found["input_tokens"], found["output_tokens"] = summary.usage.prompt_tokens, summary.usage.output_tokens
    if summary.cost is not None:
        found["cost_usd"] = summary.cost / NANO
    if summary.first_token_s is not None:
        found["ttft_ms"] = round(summary.first_token_s * 1000, 2)


def _path(path: str) -> str:
    """As text: WSGI has each byte as a character."""
    shown = path if path.isascii() else path.encode("latin-1").decode(errors="replace")
    return shown if len(shown) <= MAX_PATH else shown[:MAX_PATH] + "…"


@lru_cache(maxsize=256)
def _client(peer: str, forwarded: str, trusted: tuple[str, ...]) -> str:
    return request_input.address({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}, trusted) or ""
