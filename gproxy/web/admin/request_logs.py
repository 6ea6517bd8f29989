"""Logs of requests: what came in, and each attempt at an upstream."""

from datetime import UTC, datetime

import orjson
from flask import Blueprint, Response

from gproxy.config import request_logs as documents
from gproxy.config.filters import One
from gproxy.errors import BadRequest
from gproxy.store import request_logs
from gproxy.units import NS
from gproxy.web.admin import guarded, takes
from gproxy.web.auth import change
from gproxy.web.error_responses import runtime

IDS = ("trace_id", "downstream_trace_id")
CLEAR, DELETE, MANY = documents.Clear(), documents.Delete(), One(documents.ids())


def _verbs(kind: str) -> Blueprint:
    blueprint, of_query = guarded(f"admin_{kind}_requests", __name__), documents.QUERIES[kind]()

    @blueprint.post(f"/requests/{kind}/query")
    @takes(of_query)
    def query(asked: dict) -> Response:
        running = runtime()
        rows = running.ask(request_logs.query, kind, asked)
        return Response(running.threads.run(_page, rows, asked["as_text"]), content_type="application/json")

    query.gives = list  # as the other queries, whoever writes it

    @blueprint.post(f"/requests/{kind}/count")
    @takes(of_query)
    def count(asked: dict) -> dict:
        return {"count": runtime().ask(request_logs.count, kind, asked)}

    @blueprint.post(f"/requests/{kind}/clear")
    @takes(CLEAR)
    def clear(asked: dict) -> dict:
        """Bodies alone; the rest of the rows stays."""
        if not asked["all"] and asked["trace_ids"] is None:
            raise BadRequest("give trace_ids, or all: true")
        ids = None if asked["all"] else asked["trace_ids"]
        return {"ok": True, "cleared": change(request_logs.clear_bodies, kind, ids)}

    @blueprint.post(f"/requests/{kind}/delete")
    @takes(DELETE)
    def delete(asked: dict) -> dict:
        return {"ok": True, "deleted": change(request_logs.delete, kind, asked["trace_ids"])}

    @blueprint.post(f"/requests/{kind}/batch-delete")
    @takes(MANY)
    def delete_many(asked: list) -> dict:
        return {"ok": True, "deleted": change(request_logs.delete, kind, asked)}

    return blueprint


def _page(rows: list[dict], as_text: bool) -> bytes:
    """In a native thread and row by row: bodies are long, and nothing else runs while one is written as JSON."""
    return b"[" + b",".join(orjson.dumps(_shown(row, as_text)) for row in rows) + b"]"


def _shown(row: dict, as_text: bool) -> dict:
    """Ids that JavaScript would round as text, moments in RFC 3339, bodies as lists of bytes unless text is asked."""
    shown = dict(row)
    for name in IDS:
        if name in row:
            shown[name] = None if row[name] is None else str(row[name])
    for name in ("at", "created_at"):
        at = datetime.fromtimestamp(row[name] // NS, UTC)
        shown[name] = f"{at:%Y-%m-%dT%H:%M:%S}.{row[name] % NS // 1000:06d}Z"
    for name in request_logs.BODIES:
        if (body := row[name]) is not None:
            shown[name] = body.decode("utf-8", "replace") if as_text else list(body)
    return shown


def blueprints() -> list[Blueprint]:
    return [_verbs(kind) for kind in request_logs.KINDS]
