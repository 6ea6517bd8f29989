"""Providers, credentials, models, aliases and users: the same five verbs for each."""

from collections.abc import Callable
from dataclasses import dataclass

from flask import Blueprint, current_app

from gproxy.accounting import prices
from gproxy.admission import passwords
from gproxy.config import entities as documents
from gproxy.config import seed
from gproxy.errors import BadRequest, Forbidden
from gproxy.relay import dispatch
from gproxy.store import audit, entities, proxy_passwords
from gproxy.store.entities import Entity
from gproxy.web.admin import guarded, takes
from gproxy.web.auth import actor, change
from gproxy.web.error_responses import runtime


@dataclass(frozen=True, slots=True)
class Verbs:
    """What differs: documents, what of a document is stored, and how a row is shown.

    `ids` finds the rows that are to be deleted by what was told of them.
    """

    path: str
    entity: Entity
    query: object
    row: object
    gone: object
    stored: Callable[[list[dict]], list[dict]]
    shown: Callable[[list[dict], dict], list[dict]]
    ids: Callable[[list], list[int]]
    asked: Callable[[dict], dict] = dict


def _blueprint(verbs: Verbs) -> Blueprint:
    blueprint, path, entity = guarded(f"admin_{verbs.path}", __name__), verbs.path, verbs.entity
    of_query, of_row = verbs.query(), verbs.row()
    of_rows = documents.Rows(verbs.row)
    of_one, of_many = documents.One(verbs.gone), documents.Many(verbs.gone)

    @blueprint.post(f"/{path}/query")
    @takes(of_query)
    def query(asked: dict) -> list[dict]:
        return verbs.shown(runtime().ask(entities.find, entity, verbs.asked(asked)), asked)

    @blueprint.post(f"/{path}/upsert")
    @takes(of_row)
    def upsert(asked: dict) -> dict:
        (row_id,) = change(entities.put, entity, verbs.stored([asked]))
        return {"ok": True, "id": row_id}

    @blueprint.post(f"/{path}/batch-upsert")
    @takes(of_rows)
    def upsert_many(asked: list) -> dict:
        return {"ok": True, "ids": change(entities.put, entity, verbs.stored(asked))}

    @blueprint.post(f"/{path}/delete")
    @takes(of_one)
    def delete(asked: dict) -> dict:
        change(entities.delete, entity, verbs.ids([asked]))
        return {"ok": True}

    @blueprint.post(f"/{path}/batch-delete")
    @takes(of_many)
    def delete_many(asked: list) -> dict:
        ids = verbs.ids(asked)
        change(entities.delete, entity, ids)
        return {"ok": True, "deleted": len(ids)}

    return blueprint


# Providers


def _stored_providers(rows: list[dict]) -> list[dict]:
    """Raises BadRequest when a provider would not fit its channel."""
    known = {one["id"]: one for one in runtime().ask(entities.find, entities.PROVIDER, {"id": _ids(rows)})}
    problems = []
    for n, row in enumerate(rows):
        if row.get("settings_json") is not None:
            row["settings_json"] = proxy_passwords.restored(
                row["settings_json"], known.get(row["id"], {}).get("settings_json")
            )
        told = {**known.get(row["id"], {}), **row}
        told["settings"] = documents.as_object(told.get("settings_json") or "{}")
        place = f"[{n}]" if len(rows) > 1 else "body"
        problems += seed.provider_problems(told, place, runtime().relay.kinds, current_app.extensions["reserved"])
    if problems:
        raise BadRequest("; ".join(problem.removeprefix("body.") for problem in problems))
    return [{name: _or(value, DEFAULTS.get(name)) for name, value in row.items()} for row in rows]


DEFAULTS = {"settings_json": "{}", "routing_json": "{}"}


def _or(value, default):
    return default if value is None else value


def _ids(rows: list[dict]) -> list[int]:
    return [row["id"] for row in rows if row["id"]]


def _shown_providers(rows: list[dict], asked: dict) -> list[dict]:
    running = runtime()
    credentials = running.ask(entities.find, entities.CREDENTIAL, {"provider_id": [row["id"] for row in rows]})
    counts = [one["provider_id"] for one in credentials]
    return [
        {
            "id": row["id"],
            "name": row["name"],
            "channel": row["channel"],
            "label": row["label"],
            "enabled": row["enabled"],
            "settings_json": proxy_passwords.hidden(documents.as_object(row["settings_json"])),
            "routing_json": documents.as_object(row["routing_json"]) or _rules(row["channel"], row["settings_json"]),
            "has_own_routing": bool(documents.as_object(row["routing_json"])),
            "credential_count": counts.count(row["id"]),
        }
        for row in rows
    ]


def _rules(channel: str, settings_json: str) -> dict:
    """What a provider does that has no routing of its own."""
    relay, setting = runtime().relay, documents.as_object(settings_json).get("protocol")
    return {"rules": dispatch.default_rules(relay.kinds[channel], setting, relay.protocols)}


# Credentials


def _stored_credentials(rows: list[dict]) -> list[dict]:
    running, found = runtime(), []
    for row in rows:
        kept = {name: value for name, value in row.items() if name not in ("provider_name", "credential")}
        if "provider_name" in row:
            kept["provider_id"] = running.ask(entities.provider_id, row["provider_name"])
        if "credential" in row:
            kept["secret_json"] = entities.sealed(row["credential"], running.seal)
        if {"provider_id", "secret_json"} & kept.keys():
            _refuse_other_kind(kept, row.get("credential"))
        found.append(kept)
    return found


def _refuse_other_kind(row: dict, secret: dict | None) -> None:
    """Raises BadRequest when the channel of the provider that it has, or comes to, takes something else."""
    running = runtime()
    provider_id = row.get("provider_id")
    if provider_id is None or secret is None:
        same = running.ask(entities.find, entities.CREDENTIAL, {"id": [row["id"]]})
        before = next(iter(same), None)
        if before is None:
            return  # which is told where it is stored
        provider_id = before["provider_id"] if provider_id is None else provider_id
        secret = entities.opened(before["secret_json"], running.seal) if secret is None else secret
    for provider in running.ask(entities.find, entities.PROVIDER, {"id": [provider_id]}):
        told = {"channel": provider["channel"], "credentials": [secret], "settings": {"base_url": "-"}}
        for problem in seed.provider_problems(told, "", running.relay.kinds, frozenset()):
            raise BadRequest(f"credential: {problem.partition(': ')[2]}")


def _shown_credentials(rows: list[dict], asked: dict) -> list[dict]:
    running = runtime()
    if asked["reveal"]:
        _allow_to_reveal(rows)
    names = {one["id"]: one["name"] for one in running.ask(entities.find, entities.PROVIDER, {})}
    places = running.ask(entities.places, {row["provider_id"] for row in rows})
    return [
        _shown_credential(row, places.get(row["id"]), names[row["provider_id"]], asked["reveal"])
        for row in rows
        if row["provider_id"] in names  # and was not deleted meanwhile
    ]


def _allow_to_reveal(rows: list[dict]) -> None:
    """Where they are sealed they may be shown, and it is noted. Raises Forbidden."""
    if runtime().seal is None:
        raise Forbidden("credentials are shown only where DATABASE_SECRET_KEY seals them; set it and start again")
    runtime().change(None, audit.revealed, actor(), [row["id"] for row in rows])


def _shown_credential(row: dict, index: int | None, provider: str, reveals: bool) -> dict:
    seal = runtime().seal
    try:
        secret = entities.opened(row["secret_json"], seal)
    except ValueError:
        secret = {}
    kept = {"fingerprint": audit.fingerprint(row["secret_json"], seal)}
    for name, value in secret.items():
        if reveals or name not in HIDDEN or value.startswith("${"):
            kept[name] = value
    told = {name: row[name] for name in ("name", "enabled", "weight", "rpm", "concurrency")}
    return {
        "id": row["id"],
        "provider": provider,
        "provider_id": row["provider_id"],
        "index": index,
        **told,
        "credential": kept,
    }


HIDDEN = ("api_key", "private_key", "private_key_id")


def _credential_ids(places: list[dict]) -> list[int]:
    ask = runtime().ask
    found = [
        place["id"] if "id" in place else ask(entities.credential_at, place["provider_name"], place["index"])
        for place in places
    ]
    return list(dict.fromkeys(found))


def _asked_credentials(asked: dict) -> dict:
    """By the ids of the providers that were named. Raises NotFound."""
    names = asked["provider_name"]
    if names is None:
        return {name: value for name, value in asked.items() if name not in ("provider_name", "reveal")}
    ids = [runtime().ask(entities.provider_id, name) for name in names]
    return {"id": asked["id"], "provider_id": ids, "limit": asked["limit"], "offset": asked["offset"]}


# Models, aliases, users


def _stored_models(rows: list[dict]) -> list[dict]:
    return [_priced(_with_provider(row)) for row in rows]


def _with_provider(row: dict) -> dict:
    if "provider_name" not in row:
        return row
    rest = {name: value for name, value in row.items() if name != "provider_name"}
    return {**rest, "provider_id": runtime().ask(entities.provider_id, row["provider_name"])}


def _priced(row: dict) -> dict:
    if "pricing_json" not in row:
        return row
    return {**row, "pricing_json": prices.document(row["pricing_json"] or {})}


def _shown_models(rows: list[dict], asked: dict) -> list[dict]:
    names = ("id", "provider_id", "model_id", "display_name", "enabled")
    return [
        {**{name: row[name] for name in names}, "pricing_json": documents.shown_prices(row["pricing_json"])}
        for row in rows
    ]


def _shown_aliases(rows: list[dict], asked: dict) -> list[dict]:
    targets = runtime().ask(entities.targets, [row["id"] for row in rows])
    names = ("id", "alias", "enabled")
    return [
        {
            **{name: row[name] for name in names},
            "pricing_json": documents.shown_prices(row["pricing_json"]),
            "targets": targets.get(row["id"], []),
        }
        for row in rows
    ]


def _stored_aliases(rows: list[dict]) -> list[dict]:
    return [_priced(row) for row in rows]


def _stored_users(rows: list[dict]) -> list[dict]:
    """A password becomes its hash, beside the hub. One that is the same already keeps it, and with it the sessions."""
    users = runtime().ask(entities.find, entities.USER, {"id": _ids(rows)})
    known = {one["id"]: one["password"] for one in users}
    return [
        {
            **{name: value for name, value in row.items() if name != "password"},
            **_hash(row.get("password"), known.get(row["id"])),
        }
        for row in rows
    ]


def _hash(password: str | None, before: str | None) -> dict:
    run = runtime().passwords.run
    if not password or (before is not None and run(passwords.verify, before, password)):
        return {}
    return {"password": run(passwords.hash_password, password)}


def _shown_users(rows: list[dict], asked: dict) -> list[dict]:
    names = ("id", "name", "enabled", "is_admin")
    return [{**{name: row[name] for name in names}, "has_password": row["password"] is not None} for row in rows]


def _by_name(entity: Entity) -> Callable[[list], list[int]]:
    """Ids, where names may stand among them. Raises NotFound."""

    def ids(told: list) -> list[int]:
        names = [one for one in told if isinstance(one, str)]
        known = runtime().ask(entities.ids_of, entity, names) if names else {}
        return list(dict.fromkeys(known.get(one, one) for one in told))

    return ids


ALL = (
    Verbs(
        "providers",
        entities.PROVIDER,
        *(documents.ProviderQuery, documents.Provider, documents.Named("name")),
        *(_stored_providers, _shown_providers, _by_name(entities.PROVIDER)),
    ),
    Verbs(
        "credentials",
        entities.CREDENTIAL,
        *(documents.CredentialQuery, documents.Credential, documents.place()),
        *(_stored_credentials, _shown_credentials, _credential_ids, _asked_credentials),
    ),
    Verbs(
        "models",
        entities.MODEL,
        *(documents.ModelQuery, documents.Model, documents.Named()),
        *(_stored_models, _shown_models, _by_name(entities.MODEL)),
    ),
    Verbs(
        "aliases",
        entities.ALIAS,
        *(documents.AliasQuery, documents.Alias, documents.Named("alias")),
        *(_stored_aliases, _shown_aliases, _by_name(entities.ALIAS)),
    ),
    Verbs(
        "users",
        entities.USER,
        *(documents.UserQuery, documents.User, documents.Named("name")),
        *(_stored_users, _shown_users, _by_name(entities.USER)),
    ),
)


def blueprints() -> list[Blueprint]:
    return [_blueprint(verbs) for verbs in ALL]
