"""The whole configuration out as TOML, and in."""

from flask import Response, current_app

from gproxy.config import entities as documents
from gproxy.config import export
from gproxy.errors import Forbidden
from gproxy.store import audit
from gproxy.web.admin import guarded, takes
from gproxy.web.auth import actor
from gproxy.web.error_responses import runtime

blueprint = guarded("admin_configuration", __name__)
EXPORT, IMPORT = documents.Export(), documents.Import()


@blueprint.post("/config/export-toml")
@takes(EXPORT)
def export_toml(asked: dict) -> Response:
    """With `secrets`, where they are sealed at rest; that is noted."""
    running, has_secrets = runtime(), asked["secrets"]
    if has_secrets:
        if running.seal is None:
            raise Forbidden("secrets are exported only where DATABASE_SECRET_KEY seals them, or by `config export`")
        running.change(None, audit.log_reveal, actor(), ["all"])
    text = running.threads.run(export.toml, running.export(), has_secrets)
    return Response(text, content_type="application/toml; charset=utf-8")


@blueprint.post("/config/import-toml")
@takes(IMPORT)
def import_toml(asked: dict) -> dict:
    """All of it or nothing. A dry run only tells what would change."""
    reserved = current_app.extensions["reserved"]
    changes = runtime().apply_import(actor(), asked["toml"], reserved, asked["prune"], asked["dry_run"])
    return {
        "ok": True,
        "dry_run": asked["dry_run"],
        "changes": [
            {"what": one.what, "entity": one.entity, "name": one.name, "fields": dict(one.fields)} for one in changes
        ],
    }
