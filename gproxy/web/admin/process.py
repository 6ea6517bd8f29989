"""The admin routes of the gateway as a whole: settings, health, reload, default routing and the audit log."""

import re
import time
from urllib.parse import urlsplit

from flask import request

from gproxy.config import entities as documents
from gproxy.config.seed import settings_json
from gproxy.errors import BadRequest, NotFound, Unsupported
from gproxy.relay import dispatch
from gproxy.store import audit, entities
from gproxy.units import NS, moment
from gproxy.web.admin import guarded, takes
from gproxy.web.auth import change
from gproxy.web.error_responses import runtime

blueprint = guarded("admin_process", __name__)
SETTINGS, AUDIT, CHANNEL, PULL = (
    documents.GlobalSettings(),
    documents.AuditQuery(),
    documents.Channel(),
    documents.Pull(),
)
PROCESS = ("host", "port", "dsn", "data_dir", "proxy", "spoof_emulation", "update_channel")


@blueprint.get("/health")
def health() -> dict:
    running = runtime()
    counts = running.admin.ask(entities.counts)
    return {
        "status": "ok",
        "provider_count": counts["providers"],
        "user_count": counts["users"],
        "timestamp_epoch": int(time.time()),
        **running.status.readiness(),
        "damaged_journal_file": running.status.damaged_journal_file,
    }


@blueprint.post("/reload")
def reload() -> dict:
    """Makes every worker reload the configuration, including changes made directly in the database."""
    return {"ok": True, **change(entities.request_reload)}


@blueprint.get("/global-settings")
def settings() -> dict:
    return _settings()


def _settings() -> dict:
    stored = runtime().admin.ask(entities.settings)
    defaults = documents.as_object(stored.pop("provider_defaults_json"))
    return {**_process(), **stored, "provider_defaults": defaults}


def _process() -> dict:
    """Returns the process settings, which are read at the start, without passwords."""
    loaded = runtime().settings
    return {
        "host": loaded.host,
        "port": loaded.port,
        "proxy": loaded.proxy and _without_passwords(loaded.proxy),
        "spoof_emulation": None,
        "dsn": _without_passwords(loaded.dsn),
        "data_dir": str(loaded.data_dir),
        "update_channel": None,
    }


def _without_passwords(url: str) -> str:
    """Returns the URL with `***` for the passwords before the host and in the query."""
    password = urlsplit(url).password
    hidden = url.replace(f":{password}@", ":***@") if password else url
    return re.sub(r"(?<=password=)[^&#]+", "***", hidden)


@blueprint.post("/global-settings/upsert")
@takes(SETTINGS)
def change_settings(values: dict) -> dict:
    current = _process()
    for name in PROCESS:
        if values.pop(name, current[name]) not in (current[name], "", None):
            raise BadRequest(f"{name}: read at the start; change its environment variable and restart")
    if (defaults := values.pop("provider_defaults", None)) is not None:
        values["provider_defaults_json"] = settings_json(defaults)
    if values:
        change(entities.change_settings, values)
    return {"ok": True}


@blueprint.post("/providers/default-routing")
@takes(CHANNEL)
def default_routing(document: dict) -> dict:
    channel, running = document["channel"], runtime()
    if channel not in running.kinds:
        raise BadRequest(f"channel: unknown channel {channel!r}; known: {', '.join(sorted(running.kinds))}")
    return {"rules": dispatch.default_rules(running.kinds[channel], None, running.protocols)}


@blueprint.post("/models/pull")
@takes(PULL)
def pull(document: dict) -> dict:
    """Returns the models that the upstream lists. Nothing is stored."""
    provider_id = document["provider_id"]
    provider = runtime().snapshots().provider_by_id.get(provider_id)
    if provider is None:
        raise NotFound(f"there is no enabled provider {provider_id}")
    return {"models": sorted({card.id for card in runtime().model_list.fetch_offers(provider)})}


@blueprint.post("/audit/query")
@takes(AUDIT)
def changes(filters: dict) -> list[dict]:
    """Returns the audit log, newest entry first."""
    rows = runtime().admin.ask(audit.query, filters)
    return [{**row, "at": moment(row["at"] / NS)} for row in rows]


@blueprint.post("/update")
@blueprint.post("/update/check")
def update() -> None:
    raise Unsupported(
        f"{request.path}: gproxy does not update itself; install the new version as you installed this one"
    )
