"""What holds for the whole gateway: its settings, its health, its tables, and who changed what."""

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
    counts = running.ask(entities.counts)
    return {
        "status": "ok",
        "provider_count": counts["providers"],
        "user_count": counts["users"],
        "timestamp_epoch": int(time.time()),
        **running.readiness(),
    }


@blueprint.post("/reload")
def reload() -> dict:
    """Has every worker read everything anew, also what somebody wrote into the database by hand."""
    return {"ok": True, **change(entities.renew)}


@blueprint.get("/global-settings")
def settings() -> dict:
    return _settings()


def _settings() -> dict:
    stored = runtime().ask(entities.settings)
    defaults = documents.as_object(stored.pop("provider_defaults_json"))
    return {**_process(), **stored, "provider_defaults": defaults}


def _process() -> dict:
    """As they were read at the start, without passwords."""
    found = runtime().settings
    return {
        "host": found.host,
        "port": found.port,
        "proxy": found.proxy and _bare(found.proxy),
        "spoof_emulation": None,
        "dsn": _bare(found.dsn),
        "data_dir": str(found.data_dir),
        "update_channel": None,
    }


def _bare(url: str) -> str:
    """Without its passwords, before the host or in the query."""
    password = urlsplit(url).password
    shown = url.replace(f":{password}@", ":***@") if password else url
    return re.sub(r"(?<=password=)[^&#]+", "***", shown)


@blueprint.post("/global-settings/upsert")
@takes(SETTINGS)
def change_settings(asked: dict) -> dict:
    now = _process()
    for name in PROCESS:
        if asked.pop(name, now[name]) not in (now[name], "", None):
            raise BadRequest(f"{name}: read at the start; change its environment variable and start again")
    if (defaults := asked.pop("provider_defaults", None)) is not None:
        asked["provider_defaults_json"] = settings_json(defaults)
    if asked:
        change(entities.change_settings, asked)
    return {"ok": True}


@blueprint.post("/providers/default-routing")
@takes(CHANNEL)
def default_routing(asked: dict) -> dict:
    channel, relay = asked["channel"], runtime().relay
    if channel not in relay.kinds:
        raise BadRequest(f"channel: unknown channel {channel!r}; known: {', '.join(sorted(relay.kinds))}")
    return {"rules": dispatch.default_rules(relay.kinds[channel], None, relay.protocols)}


@blueprint.post("/models/pull")
@takes(PULL)
def pull(asked: dict) -> dict:
    """What the upstream says it offers. Nothing is stored."""
    provider_id = asked["provider_id"]
    provider = runtime().snapshots().provider_by_id.get(provider_id)
    if provider is None:
        raise NotFound(f"there is no enabled provider {provider_id}")
    return {"models": sorted({card.id for card in runtime().catalogue.fetch_offers(provider)})}


@blueprint.post("/audit/query")
@takes(AUDIT)
def changes(asked: dict) -> list[dict]:
    """The newest first."""
    rows = runtime().ask(audit.query, asked)
    return [{**row, "at": moment(row["at"] / NS)} for row in rows]


@blueprint.post("/update")
@blueprint.post("/update/check")
def update() -> None:
    raise Unsupported(f"{request.path}: gproxy is updated by whoever installed it")
