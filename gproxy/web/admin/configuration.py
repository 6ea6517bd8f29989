"""Export and import of the whole configuration as TOML."""

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
def export_toml(document: dict) -> Response:
    """Exports the configuration. `secrets` requires sealed secrets, and the audit log records it."""
    running, has_secrets = runtime(), document["secrets"]
    if has_secrets:
        if running.admin.seal is None:
            raise Forbidden("secrets are exported only if DATABASE_SECRET_KEY seals them, or by `config export`")
        running.admin.change(None, audit.log_reveal, actor(), ["all"])
    text = running.admin.threads.run(export.toml, running.admin.export(), has_secrets)
    return Response(text, content_type="application/toml; charset=utf-8")


@blueprint.post("/config/import-toml")
@takes(IMPORT)
def import_toml(document: dict) -> dict:
    """Imports a configuration, all of it or nothing. A dry run only reports what would change."""
    reserved = current_app.extensions["reserved"]
    changes = runtime().admin.apply_import(actor(), document["toml"], reserved, document["prune"], document["dry_run"])
    return {
        "ok": True,
        "dry_run": document["dry_run"],
        "changes": [
            {"what": one.what, "entity": one.entity, "name": one.name, "fields": dict(one.fields)} for one in changes
        ],
    }
