"""Users' keys. A key is told once, by the call that makes it; afterwards only its fingerprint is."""

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
def query(asked: dict) -> list[dict]:
    return [shown(key) for key in runtime().ask(users.keys, asked["user_id"])]


@blueprint.post("/user-keys/generate")
@takes(NEW)
def generate(asked: dict) -> dict:
    (made,) = make(asked, 1)
    return {"ok": True, **made}


@blueprint.post("/user-keys/batch-upsert")
@takes(NEW_MANY)
def generate_many(asked: dict) -> dict:
    return {"ok": True, "keys": make(asked, asked["count"])}


@blueprint.post("/user-keys/update-enabled")
@takes(SWITCH)
def update_enabled(asked: dict) -> dict:
    change(users.change_key, asked.pop("id"), asked)
    return {"ok": True}


@blueprint.post("/user-keys/update")
@takes(CHANGE)
def update(asked: dict) -> dict:
    key_id = asked.pop("id")
    change_account(users.change_key, f"k{key_id}", key_id, asked)
    return {"ok": True}


@blueprint.post("/user-keys/delete")
@takes(ONE)
def delete(asked: dict) -> dict:
    change(users.delete_keys, [asked["id"]])
    return {"ok": True}


@blueprint.post("/user-keys/batch-delete")
@takes(MANY)
def delete_many(asked: list) -> dict:
    change(users.delete_keys, asked)
    return {"ok": True}


def make(asked: dict, count: int) -> list[dict]:
    keys = [documents.new_key() for _ in range(count)]
    digests = [digest(key) for key in keys]
    shown = [(d, fingerprint(d)) for d in digests]
    rest = (asked["label"], asked.get("budget"), asked.get("expires_at"))
    ids = change(users.add_keys, asked["user_id"], shown, *rest)
    return [{"id": key_id, "api_key": key} for key_id, key in zip(ids, keys, strict=True)]


def shown(key: users.Key) -> dict:
    return {
        "id": key.id,
        "user_id": key.user_id,
        "user_name": key.user_name,
        "fingerprint": key.fingerprint,
        "label": key.label,
        "enabled": key.enabled,
        "expires_at": None if key.expires_at is None else moment(key.expires_at / NS),
        "budget": None if key.budget is None else usd(key.budget),
        "cost_used": usd(key.cost_used),
    }
