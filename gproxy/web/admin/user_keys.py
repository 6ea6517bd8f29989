"""The admin routes of users' API keys. Only the response to the creation contains a key; later its fingerprint."""

from gproxy.admission.keys import digest, fingerprint
from gproxy.config import keys as documents
from gproxy.store import users
from gproxy.units import NS, moment, usd
from gproxy.web.admin import guarded, takes
from gproxy.web.auth import change, change_account
from gproxy.web.error_responses import runtime

blueprint = guarded("admin_user_keys", __name__)
QUERY, NEW, NEW_MANY = documents.KeyQuery(), documents.NewKey(), documents.NewKeys()
SWITCH, CHANGE = documents.KeySwitch(), documents.KeyChange()
ONE, MANY = documents.KeyId(), documents.id_list()


@blueprint.post("/user-keys/query")
@takes(QUERY)
def query(filters: dict) -> list[dict]:
    return [key_view(key) for key in runtime().admin.ask(users.keys, filters["user_id"], filters)]


@blueprint.post("/user-keys/generate")
@takes(NEW)
def generate(document: dict) -> dict:
    (created,) = create(document, 1)
    return {"ok": True, **created}


@blueprint.post("/user-keys/batch-upsert")
@takes(NEW_MANY)
def generate_many(document: dict) -> dict:
    return {"ok": True, "keys": create(document, document["count"])}


@blueprint.post("/user-keys/update-enabled")
@takes(SWITCH)
def update_enabled(values: dict) -> dict:
    change(users.change_key, values.pop("id"), values)
    return {"ok": True}


@blueprint.post("/user-keys/update")
@takes(CHANGE)
def update(values: dict) -> dict:
    key_id = values.pop("id")
    change_account(users.change_key, f"k{key_id}", key_id, values)
    return {"ok": True}


@blueprint.post("/user-keys/delete")
@takes(ONE)
def delete(document: dict) -> dict:
    change(users.delete_keys, [document["id"]])
    return {"ok": True}


@blueprint.post("/user-keys/batch-delete")
@takes(MANY)
def delete_many(ids: list) -> dict:
    change(users.delete_keys, ids)
    return {"ok": True}


def create(document: dict, count: int) -> list[dict]:
    """Creates keys with the same label, budget and expiry for one user, and returns them with their ids."""
    keys = [documents.new_key() for _ in range(count)]
    digests = [digest(key) for key in keys]
    fingerprints = [(one, fingerprint(one)) for one in digests]
    settings = users.KeySettings(document["label"], document.get("budget"), document.get("expires_at"))
    ids = change(users.add_keys, document["user_id"], fingerprints, settings)
    return [{"id": key_id, "api_key": key} for key_id, key in zip(ids, keys, strict=True)]


def key_view(key: users.Key) -> dict:
    """Returns a key for JSON: time in RFC 3339, money in USD."""
    return {
        "id": key.id,
        "user_id": key.user_id,
        "user_name": key.user_name,
        "fingerprint": key.fingerprint,
        "label": key.label,
        "enabled": key.enabled,
        "disabled_by": key.disabled_by,
        "expires_at": None if key.expires_at is None else moment(key.expires_at / NS),
        "budget": None if key.budget is None else usd(key.budget),
        "cost_used": usd(key.cost_used),
    }
