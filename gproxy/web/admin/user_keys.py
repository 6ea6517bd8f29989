"""Users' keys. A key is told once, by the call that makes it; afterwards only its fingerprint is."""

from datetime import UTC, datetime

from gproxy.admission.keys import digest, fingerprint
from gproxy.config import keys as documents
from gproxy.store import users
from gproxy.units import NS, usd
from gproxy.web.admin import document, guarded
from gproxy.web.faults import runtime

blueprint = guarded("admin_user_keys", __name__)
QUERY, NEW, NEW_MANY = documents.KeyQuery(), documents.NewKey(), documents.NewKeys()
SWITCH, CHANGE = documents.KeySwitch(), documents.KeyChange()
ONE, MANY = documents.KeyId(), documents.IdList()


@blueprint.post("/user-keys/query")
def query() -> list[dict]:
    return [_shown(key) for key in runtime().ask(users.keys, document(QUERY)["user_id"])]


@blueprint.post("/user-keys/generate")
def generate() -> dict:
    asked = document(NEW)
    (made,) = _make(asked, 1)
    return {"ok": True, **made}


@blueprint.post("/user-keys/batch-upsert")
def generate_many() -> dict:
    asked = document(NEW_MANY)
    return {"ok": True, "keys": _make(asked, asked["count"])}


@blueprint.post("/user-keys/update-enabled")
def update_enabled() -> dict:
    asked = document(SWITCH)
    runtime().change(users.change_key, asked.pop("id"), asked)
    return {"ok": True}


@blueprint.post("/user-keys/update")
def update() -> dict:
    asked = document(CHANGE)
    key_id = asked.pop("id")
    runtime().change_account(users.change_key, f"k{key_id}", key_id, asked)
    return {"ok": True}


@blueprint.post("/user-keys/delete")
def delete() -> dict:
    runtime().change(users.delete_keys, [document(ONE)["id"]])
    return {"ok": True}


@blueprint.post("/user-keys/batch-delete")
def delete_many() -> dict:
    runtime().change(users.delete_keys, document(MANY))
    return {"ok": True}


def _make(asked: dict, count: int) -> list[dict]:
    keys = [documents.new_key() for _ in range(count)]
    digests = [digest(key) for key in keys]
    shown = [(d, fingerprint(d)) for d in digests]
    rest = (asked["label"], asked.get("budget"), asked.get("expires_at"))
    ids = runtime().change(users.add_keys, asked["user_id"], shown, *rest)
    return [{"id": key_id, "api_key": key} for key_id, key in zip(ids, keys, strict=True)]


def _shown(key: users.Key) -> dict:
    expires = None
    if key.expires_at is not None:
        expires = datetime.fromtimestamp(key.expires_at / NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "id": key.id,
        "user_id": key.user_id,
        "user_name": key.user_name,
        "fingerprint": key.fingerprint,
        "label": key.label,
        "enabled": key.enabled,
        "expires_at": expires,
        "budget": None if key.budget is None else usd(key.budget),
        "cost_used": usd(key.cost_used),
    }
