"""The admin routes of permissions, file permissions and rate limits: the same five verbs for each."""

from collections.abc import Callable
from dataclasses import asdict

from flask import Blueprint
from marshmallow import Schema

from gproxy.config import access as documents
from gproxy.store import access
from gproxy.web.admin import guarded, takes
from gproxy.web.auth import change
from gproxy.web.error_responses import runtime


def _blueprint(
    path: str, kind: type, query: type[Schema], row: type[Schema], identifier: type[Schema], deletion: Callable
):
    """`identifier` is the schema of what identifies a row to delete.

    `deletion` returns the store function that deletes the rows of such identifiers, and its arguments.
    """
    blueprint = guarded(f"admin_{path}", __name__)
    query_schema, row_schema, rows_schema = query(), row(), row(many=True)
    identifier_schema, identifiers_schema = identifier(), identifier(many=True)

    @blueprint.post(f"/{path}/query")
    @takes(query_schema)
    def find(filters: dict) -> list[dict]:
        return [asdict(found) for found in runtime().admin.ask(access.rows, kind, filters)]

    @blueprint.post(f"/{path}/upsert")
    @takes(row_schema)
    def upsert(values: dict) -> dict:
        (row_id,) = change(access.put, [kind(**values)])
        return {"ok": True, "id": row_id}

    @blueprint.post(f"/{path}/batch-upsert")
    @takes(rows_schema)
    def upsert_many(rows: list) -> dict:
        return {"ok": True, "ids": change(access.put, [kind(**values) for values in rows])}

    @blueprint.post(f"/{path}/delete")
    @takes(identifier_schema)
    def delete(identifier: dict) -> dict:
        change(*deletion([identifier]))
        return {"ok": True}

    @blueprint.post(f"/{path}/batch-delete")
    @takes(identifiers_schema)
    def delete_many(identifiers: list) -> dict:
        change(*deletion(identifiers))
        return {"ok": True}

    return blueprint


def _by_id(kind: type) -> Callable[[list[dict]], tuple]:
    return lambda identifiers: (access.delete, kind, [one["id"] for one in identifiers])


def _by_limit(identifiers: list[dict]) -> tuple:
    return access.delete_limits, [(one["user_id"], one["key_id"], one["model_pattern"]) for one in identifiers]


# path, kind of row, schemas of a query, of a row and of what identifies a row, deletion
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
        _by_limit,
    ),
)


def blueprints() -> list[Blueprint]:
    return [_blueprint(*kind) for kind in KINDS]
