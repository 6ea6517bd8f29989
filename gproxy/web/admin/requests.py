"""Logs of requests: what came in, and each attempt at an upstream."""

from datetime import UTC, datetime

from flask import Blueprint

from gproxy.config import requests as documents
from gproxy.errors import BadRequest
from gproxy.store import requests
from gproxy.units import NS
from gproxy.web.admin import document, guarded
from gproxy.web.faults import runtime
from gproxy.web.visitors import change

IDS = ("trace_id", "downstream_trace_id")
CLEAR, DELETE, MANY = documents.Clear(), documents.Delete(), documents.Ids()


def _verbs(kind: str) -> Blueprint:
    blueprint, asked = guarded(f"admin_{kind}_requests", __name__), documents.QUERIES[kind]()

    @blueprint.post(f"/requests/{kind}/query")
    def query() -> list[dict]:
        wanted = document(asked)
        return [_shown(row, wanted["as_text"]) for row in runtime().ask(requests.query, kind, wanted)]

    @blueprint.post(f"/requests/{kind}/count")
    def count() -> dict:
        return {"count": runtime().ask(requests.count, kind, document(asked))}

    @blueprint.post(f"/requests/{kind}/clear")
    def clear() -> dict:
        """Bodies alone; the rest of the rows stays."""
        wanted = document(CLEAR)
        if not wanted["all"] and wanted["trace_ids"] is None:
            raise BadRequest("give trace_ids, or all: true")
        ids = None if wanted["all"] else wanted["trace_ids"]
        return {"ok": True, "cleared": change(requests.clear, kind, ids)}

    @blueprint.post(f"/requests/{kind}/delete")
    def delete() -> dict:
        return {"ok": True, "deleted": change(requests.delete, kind, document(DELETE)["trace_ids"])}

    @blueprint.post(f"/requests/{kind}/batch-delete")
    def delete_many() -> dict:
        return {"ok": True, "deleted": change(requests.delete, kind, document(MANY))}

    return blueprint


def _shown(row: dict, as_text: bool) -> dict:
    """Ids that JavaScript would round as text, moments in RFC 3339, bodies as lists of bytes unless text is wanted."""
    shown = dict(row)
    for name in IDS:
        if name in row:
            shown[name] = None if row[name] is None else str(row[name])
    for name in ("at", "created_at"):
        at = datetime.fromtimestamp(row[name] // NS, UTC)
        shown[name] = f"{at:%Y-%m-%dT%H:%M:%S}.{row[name] % NS // 1000:06d}Z"
    for name in requests.BODIES:
        if (body := row[name]) is not None:
            shown[name] = body.decode("utf-8", "replace") if as_text else list(body)
    return shown


def blueprints() -> list[Blueprint]:
    return [_verbs(kind) for kind in requests.KINDS]
