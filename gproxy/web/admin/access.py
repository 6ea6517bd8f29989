"""Permissions, file permissions and rate limits: the same five verbs for each."""

from collections.abc import Callable
from dataclasses import asdict

from flask import Blueprint
from marshmallow import Schema

from gproxy.config import access as documents
from gproxy.store import access
from gproxy.web.admin import guarded, takes
from gproxy.web.auth import change
from gproxy.web.error_responses import runtime


def _verbs(path: str, kind: type, query: type[Schema], row: type[Schema], place: type[Schema], remove: Callable):
    """`place` is what tells a row that is to be deleted, and `remove` the store's deed with its arguments for many."""
    blueprint = guarded(f"admin_{path}", __name__)
    of_query, of_row, of_rows, of_place, of_places = query(), row(), row(many=True), place(), place(many=True)

    @blueprint.post(f"/{path}/query")
    @takes(of_query)
    def find(asked: dict) -> list[dict]:
        return [asdict(found) for found in runtime().ask(access.rows, kind, asked)]

    @blueprint.post(f"/{path}/upsert")
    @takes(of_row)
    def upsert(asked: dict) -> dict:
        (row_id,) = change(access.put, [kind(**asked)])
        return {"ok": True, "id": row_id}

    @blueprint.post(f"/{path}/batch-upsert")
    @takes(of_rows)
    def upsert_many(asked: list) -> dict:
        return {"ok": True, "ids": change(access.put, [kind(**values) for values in asked])}

    @blueprint.post(f"/{path}/delete")
    @takes(of_place)
    def delete(asked: dict) -> dict:
        change(*remove([asked]))
        return {"ok": True}

    @blueprint.post(f"/{path}/batch-delete")
    @takes(of_places)
    def delete_many(asked: list) -> dict:
        change(*remove(asked))
        return {"ok": True}

    return blueprint


def _by_id(kind: type) -> Callable[[list[dict]], tuple]:
    return lambda places: (access.delete, kind, [place["id"] for place in places])


def _by_place(places: list[dict]) -> tuple:
    return access.delete_limits, [(place["user_id"], place["key_id"], place["model_pattern"]) for place in places]


# path, kind of row, documents of a query, of a row and of what tells a row to delete, the deed that deletes
KINDS = (
    (
        "user-permissions",
        access.Permission,
        *(documents.PermissionQuery, documents.Permission, documents.RowId),
        _by_id(access.Permission),
    ),
    (
        "user-file-permissions",
        access.FilePermission,
        *(documents.FilePermissionQuery, documents.FilePermission, documents.RowId),
        _by_id(access.FilePermission),
    ),
    (
        "user-rate-limits",
        access.RateLimit,
        *(documents.LimitQuery, documents.Limit, documents.LimitPlace),
        _by_place,
    ),
)


def blueprints() -> list[Blueprint]:
    return [_verbs(*kind) for kind in KINDS]
