"""The admin routes of the request logs: client requests (downstream) and attempts at upstreams (upstream)."""

from datetime import UTC, datetime

import orjson
from flask import Blueprint, Response

from gproxy.config import request_logs as documents
from gproxy.config.filters import FieldDocument
from gproxy.errors import BadRequest
from gproxy.store import request_logs
from gproxy.units import NS
from gproxy.web.admin import guarded, takes
from gproxy.web.auth import change
from gproxy.web.error_responses import runtime

IDS = ("trace_id", "downstream_trace_id")
CLEAR, DELETE, MANY = documents.Clear(), documents.Delete(), FieldDocument(documents.ids())


def _blueprint(kind: str) -> Blueprint:
    blueprint, query_schema = guarded(f"admin_{kind}_requests", __name__), documents.QUERIES[kind]()

    @blueprint.post(f"/requests/{kind}/query")
    @takes(query_schema)
    def query(filters: dict) -> Response:
        running = runtime()
        rows = running.admin.ask(request_logs.query, kind, filters)
        return Response(running.admin.threads.run(_page, rows, filters["as_text"]), content_type="application/json")

    query.returns = list  # for OpenAPI: the response is written as JSON here

    @blueprint.post(f"/requests/{kind}/count")
    @takes(query_schema)
    def count(filters: dict) -> dict:
        return {"count": runtime().admin.ask(request_logs.count, kind, filters)}

    @blueprint.post(f"/requests/{kind}/clear")
    @takes(CLEAR)
    def clear(document: dict) -> dict:
        """Removes the bodies and keeps the other columns of the rows."""
        if not document["all"] and document["trace_ids"] is None:
            raise BadRequest("give trace_ids, or all: true")
        ids = None if document["all"] else document["trace_ids"]
        return {"ok": True, "cleared": change(request_logs.clear_bodies, kind, ids)}

    @blueprint.post(f"/requests/{kind}/delete")
    @takes(DELETE)
    def delete(document: dict) -> dict:
        return {"ok": True, "deleted": change(request_logs.delete, kind, document["trace_ids"])}

    @blueprint.post(f"/requests/{kind}/batch-delete")
    @takes(MANY)
    def delete_many(ids: list) -> dict:
        return {"ok": True, "deleted": change(request_logs.delete, kind, ids)}

    return blueprint


def _page(rows: list[dict], as_text: bool) -> bytes:
    """Returns the rows as JSON. Runs in a native thread and dumps row by row, because dumping a long body blocks."""
    return b"[" + b",".join(orjson.dumps(_as_json(row, as_text)) for row in rows) + b"]"


def _as_json(row: dict, as_text: bool) -> dict:
    """Returns ids as text, which JavaScript would round, times in RFC 3339, and bodies as text or lists of bytes."""
    json_row = dict(row)
    for name in IDS:
        if name in row:
            json_row[name] = None if row[name] is None else str(row[name])
    for name in ("at", "created_at"):
        at = datetime.fromtimestamp(row[name] // NS, UTC)
        json_row[name] = f"{at:%Y-%m-%dT%H:%M:%S}.{row[name] % NS // 1000:06d}Z"
    for name in request_logs.BODIES:
        if (body := row[name]) is not None:
            json_row[name] = body.decode("utf-8", "replace") if as_text else list(body)
    return json_row


def blueprints() -> list[Blueprint]:
    return [_blueprint(kind) for kind in request_logs.KINDS]
