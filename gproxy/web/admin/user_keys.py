"""Users' keys. A key is told once, by the call that makes it; afterwards only its fingerprint is."""

from datetime import UTC, datetime

from gproxy.admission.keys import digest, fingerprint
from gproxy.config import keys as documents
from gproxy.store import users
from gproxy.web.admin import document, guarded
from gproxy.web.faults import runtime

blueprint = guarded("admin_user_keys", __name__)
QUERY, NEW, NEW_MANY = documents.KeyQuery(), documents.NewKey(), documents.NewKeys()
SWITCH, ONE, MANY = documents.KeySwitch(), documents.KeyId(), documents.IdList()


@blueprint.post("/user-keys/query")
def query() -> list[dict]:
    return [_shown(key) for key in runtime().ask(users.keys, document(QUERY)["user_id"])]


@blueprint.post("/user-keys/generate")
def generate() -> dict:
    asked = document(NEW)
    (made,) = _make(asked["user_id"], 1, asked["label"])
    return {"ok": True, **made}


@blueprint.post("/user-keys/batch-upsert")
def generate_many() -> dict:
    asked = document(NEW_MANY)
    return {"ok": True, "keys": _make(asked["user_id"], asked["count"], asked["label"])}


@blueprint.post("/user-keys/update-enabled")
def update_enabled() -> dict:
    asked = document(SWITCH)
    runtime().change(users.enable_key, asked["id"], asked["enabled"])
    return {"ok": True}


@blueprint.post("/user-keys/delete")
def delete() -> dict:
    runtime().change(users.delete_keys, [document(ONE)["id"]])
    return {"ok": True}


@blueprint.post("/user-keys/batch-delete")
def delete_many() -> dict:
    runtime().change(users.delete_keys, document(MANY))
    return {"ok": True}


def _make(user_id: int, count: int, label: str | None) -> list[dict]:
    keys = [documents.new_key() for _ in range(count)]
    digests = [digest(key) for key in keys]
    ids = runtime().change(users.add_keys, user_id, [(d, fingerprint(d)) for d in digests], label)
    return [{"id": key_id, "api_key": key} for key_id, key in zip(ids, keys, strict=True)]


def _shown(key: users.Key) -> dict:
    expires = None
    if key.expires_at is not None:
        expires = datetime.fromtimestamp(key.expires_at / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "id": key.id,
        "user_id": key.user_id,
        "user_name": key.user_name,
        "fingerprint": key.fingerprint,
        "label": key.label,
        "enabled": key.enabled,
        "expires_at": expires,
    }
