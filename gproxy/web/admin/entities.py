"""The admin routes of providers, credentials, models, aliases and users: the same five verbs for each."""

from collections.abc import Callable
from dataclasses import dataclass

from flask import Blueprint, current_app
from marshmallow import Schema, fields

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
class EntityRoutes:
    """The parts in which the entities differ: schemas, and conversions between documents and database rows.

    `identifier` is the schema of what identifies a row to delete, `ids` returns the ids of such identifiers.
    `to_filters` returns the store's filters of a loaded query.
    """

    path: str
    entity: Entity
    query: type[Schema]
    row: type[Schema]
    identifier: fields.Field
    to_rows: Callable[[list[dict]], list[dict]]
    to_json: Callable[[list[dict], dict], list[dict]]
    ids: Callable[[list], list[int]]
    to_filters: Callable[[dict], dict] = dict


def _blueprint(routes: EntityRoutes) -> Blueprint:
    blueprint, path, entity = guarded(f"admin_{routes.path}", __name__), routes.path, routes.entity
    query_schema, row_schema, rows_schema = routes.query(), routes.row(), documents.RowList(routes.row)
    identifier_schema = documents.FieldDocument(routes.identifier)
    identifiers_schema = documents.ListDocument(routes.identifier)

    @blueprint.post(f"/{path}/query")
    @takes(query_schema)
    def query(document: dict) -> list[dict]:
        return routes.to_json(runtime().admin.ask(entities.find, entity, routes.to_filters(document)), document)

    @blueprint.post(f"/{path}/upsert")
    @takes(row_schema)
    def upsert(document: dict) -> dict:
        (row_id,) = change(entities.put, entity, routes.to_rows([document]))
        return {"ok": True, "id": row_id}

    @blueprint.post(f"/{path}/batch-upsert")
    @takes(rows_schema)
    def upsert_many(loaded: list) -> dict:
        return {"ok": True, "ids": change(entities.put, entity, routes.to_rows(loaded))}

    @blueprint.post(f"/{path}/delete")
    @takes(identifier_schema)
    def delete(identifier: object) -> dict:
        change(entities.delete, entity, routes.ids([identifier]))
        return {"ok": True}

    @blueprint.post(f"/{path}/batch-delete")
    @takes(identifiers_schema)
    def delete_many(identifiers: list) -> dict:
        ids = routes.ids(identifiers)
        change(entities.delete, entity, ids)
        return {"ok": True, "deleted": len(ids)}

    return blueprint


# Providers


def _provider_rows(rows: list[dict]) -> list[dict]:
    """Raises BadRequest if a provider does not fit its channel."""
    known = {one["id"]: one for one in runtime().admin.ask(entities.find, entities.PROVIDER, {"id": _ids(rows)})}
    problems = []
    for n, row in enumerate(rows):
        if row.get("settings_json") is not None:
            row["settings_json"] = proxy_passwords.restore(
                row["settings_json"], known.get(row["id"], {}).get("settings_json")
            )
        merged = {**known.get(row["id"], {}), **row}
        merged["settings"] = documents.as_object(merged.get("settings_json") or "{}")
        place = f"[{n}]" if len(rows) > 1 else "body"
        problems += seed.provider_problems(merged, place, runtime().kinds, current_app.extensions["reserved"])
    if problems:
        raise BadRequest("; ".join(problem.removeprefix("body.") for problem in problems))
    return [{name: _or(value, DEFAULTS.get(name)) for name, value in row.items()} for row in rows]


DEFAULTS = {"settings_json": "{}", "routing_json": "{}"}


def _or(value, default):
    return default if value is None else value


def _ids(rows: list[dict]) -> list[int]:
    return [row["id"] for row in rows if row["id"]]


def _providers_json(rows: list[dict], query: dict) -> list[dict]:
    counts = runtime().admin.ask(entities.credential_counts, [row["id"] for row in rows])
    return [
        {
            "id": row["id"],
            "name": row["name"],
            "channel": row["channel"],
            "label": row["label"],
            "enabled": row["enabled"],
            "settings_json": proxy_passwords.hide(documents.as_object(row["settings_json"])),
            "routing_json": documents.as_object(row["routing_json"])
            or _channel_routing(row["channel"], row["settings_json"]),
            "has_own_routing": bool(documents.as_object(row["routing_json"])),
            "credential_count": counts.get(row["id"], 0),
        }
        for row in rows
    ]


def _channel_routing(channel: str, settings_json: str) -> dict:
    """Returns the routing of a provider without routing of its own."""
    running, setting = runtime(), documents.as_object(settings_json).get("protocol")
    return {"rules": dispatch.default_rules(running.kinds[channel], setting, running.protocols)}


# Credentials


def _credential_rows(loaded: list[dict]) -> list[dict]:
    """Raises BadRequest, NotFound."""
    running, rows = runtime(), []
    for document in loaded:
        row = {name: value for name, value in document.items() if name not in ("provider_name", "credential")}
        if "provider_name" in document:
            row["provider_id"] = running.admin.ask(entities.provider_id, document["provider_name"])
        if "credential" in document:
            row["secret_json"] = entities.seal_secret(document["credential"], running.admin.seal)
        if {"provider_id", "secret_json"} & row.keys():
            _check_kind(row, document.get("credential"))
        rows.append(row)
    return rows


def _check_kind(row: dict, secret: dict | None) -> None:
    """Raises BadRequest if the provider's channel takes another kind of secret.

    In a change, the part that stays as it is (provider or secret) comes from the database.
    """
    running = runtime()
    provider_id = row.get("provider_id")
    if provider_id is None or secret is None:
        stored = running.admin.ask(entities.find, entities.CREDENTIAL, {"id": [row["id"]]})
        before = next(iter(stored), None)
        if before is None:
            return  # the store raises NotFound for it
        provider_id = before["provider_id"] if provider_id is None else provider_id
        secret = entities.open_secret(before["secret_json"], running.admin.seal) if secret is None else secret
    for provider in running.admin.ask(entities.find, entities.PROVIDER, {"id": [provider_id]}):
        with_secret = {"channel": provider["channel"], "credentials": [secret], "settings": {"base_url": "-"}}
        for problem in seed.provider_problems(with_secret, "", running.kinds, frozenset()):
            raise BadRequest(f"credential: {problem.partition(': ')[2]}")


def _credentials_json(rows: list[dict], query: dict) -> list[dict]:
    running = runtime()
    if query["reveal"]:
        _audit_reveal(rows)
    provider_ids = {row["provider_id"] for row in rows}
    providers = running.admin.ask(entities.find, entities.PROVIDER, {"id": provider_ids})
    names = {one["id"]: one["name"] for one in providers}
    places = running.admin.ask(entities.credential_positions, provider_ids)
    return [
        _credential_json(row, places.get(row["id"]), names[row["provider_id"]], query["reveal"])
        for row in rows
        if row["provider_id"] in names  # unless it was deleted in the meantime
    ]


def _audit_reveal(rows: list[dict]) -> None:
    """Adds the reveal to the audit log. Raises Forbidden unless secrets are sealed in the database."""
    if runtime().admin.seal is None:
        raise Forbidden("credentials are revealed only if DATABASE_SECRET_KEY seals them; set it and restart")
    runtime().admin.change(None, audit.log_reveal, actor(), [row["id"] for row in rows])


def _credential_json(row: dict, index: int | None, provider: str, reveals: bool) -> dict:
    seal = runtime().admin.seal
    try:
        secret = entities.open_secret(row["secret_json"], seal)
    except ValueError:
        secret = {}
    visible = {"fingerprint": audit.fingerprint(row["secret_json"], seal)}
    for name, value in secret.items():
        if reveals or name not in HIDDEN or value.startswith("${"):
            visible[name] = value
    return {
        "id": row["id"],
        "provider": provider,
        "provider_id": row["provider_id"],
        "index": index,
        **{name: row[name] for name in ("name", "enabled", "weight", "rpm", "concurrency")},
        "credential": visible,
    }


HIDDEN = ("api_key", "private_key", "private_key_id")


def _credential_ids(places: list[dict]) -> list[int]:
    """Raises NotFound."""
    ask = runtime().admin.ask
    found = [
        place["id"] if "id" in place else ask(entities.credential_at, place["provider_name"], place["index"])
        for place in places
    ]
    return list(dict.fromkeys(found))


def _credential_filters(query: dict) -> dict:
    """Replaces the names of providers by their ids. Raises NotFound."""
    names = query["provider_name"]
    if names is None:
        return {name: value for name, value in query.items() if name not in ("provider_name", "reveal")}
    ids = [runtime().admin.ask(entities.provider_id, name) for name in names]
    return {"id": query["id"], "provider_id": ids, "limit": query["limit"], "offset": query["offset"]}


# Models, aliases, users


def _model_rows(rows: list[dict]) -> list[dict]:
    return [_with_prices(_with_provider_id(row)) for row in rows]


def _with_provider_id(row: dict) -> dict:
    """Replaces the provider's name by its id. Raises NotFound."""
    if "provider_name" not in row:
        return row
    others = {name: value for name, value in row.items() if name != "provider_name"}
    return {**others, "provider_id": runtime().admin.ask(entities.provider_id, row["provider_name"])}


def _with_prices(row: dict) -> dict:
    """Replaces the loaded price document by the text that is stored."""
    if "pricing_json" not in row:
        return row
    return {**row, "pricing_json": prices.document(row["pricing_json"] or {})}


def _models_json(rows: list[dict], query: dict) -> list[dict]:
    names = ("id", "provider_id", "model_id", "display_name", "enabled")
    return [
        {**{name: row[name] for name in names}, "pricing_json": documents.prices_json(row["pricing_json"])}
        for row in rows
    ]


def _aliases_json(rows: list[dict], query: dict) -> list[dict]:
    targets = runtime().admin.ask(entities.targets, [row["id"] for row in rows])
    names = ("id", "alias", "enabled")
    return [
        {
            **{name: row[name] for name in names},
            "pricing_json": documents.prices_json(row["pricing_json"]),
            "targets": targets.get(row["id"], []),
        }
        for row in rows
    ]


def _alias_rows(rows: list[dict]) -> list[dict]:
    return [_with_prices(row) for row in rows]


def _user_rows(rows: list[dict]) -> list[dict]:
    """Replaces passwords by their hashes. An unchanged password keeps its hash, and with it the user's sessions."""
    users = runtime().admin.ask(entities.find, entities.USER, {"id": _ids(rows)})
    known = {one["id"]: one["password"] for one in users}
    return [
        {
            **{name: value for name, value in row.items() if name != "password"},
            **_hash(row.get("password"), known.get(row["id"])),
        }
        for row in rows
    ]


def _hash(password: str | None, before: str | None) -> dict:
    """Hashes in a native thread, because it takes long."""
    run = runtime().admin.passwords.run
    if not password or (before is not None and run(passwords.verify, before, password)):
        return {}
    return {"password": run(passwords.hash_password, password)}


def _users_json(rows: list[dict], query: dict) -> list[dict]:
    names = ("id", "name", "enabled", "is_admin", "may_make_keys")
    return [{**{name: row[name] for name in names}, "has_password": row["password"] is not None} for row in rows]


def _by_name(entity: Entity) -> Callable[[list], list[int]]:
    """Returns a function that replaces the names among identifiers by their ids and raises NotFound."""

    def ids(identifiers: list) -> list[int]:
        names = [one for one in identifiers if isinstance(one, str)]
        known = runtime().admin.ask(entities.ids_of, entity, names) if names else {}
        return list(dict.fromkeys(known.get(one, one) for one in identifiers))

    return ids


ENTITIES = (
    EntityRoutes(
        "providers",
        entities.PROVIDER,
        *(documents.ProviderQuery, documents.Provider, documents.Named("name")),
        *(_provider_rows, _providers_json, _by_name(entities.PROVIDER)),
    ),
    EntityRoutes(
        "credentials",
        entities.CREDENTIAL,
        *(documents.CredentialQuery, documents.Credential, documents.place()),
        *(_credential_rows, _credentials_json, _credential_ids, _credential_filters),
    ),
    EntityRoutes(
        "models",
        entities.MODEL,
        *(documents.ModelQuery, documents.Model, documents.Named()),
        *(_model_rows, _models_json, _by_name(entities.MODEL)),
    ),
    EntityRoutes(
        "aliases",
        entities.ALIAS,
        *(documents.AliasQuery, documents.Alias, documents.Named("alias")),
        *(_alias_rows, _aliases_json, _by_name(entities.ALIAS)),
    ),
    EntityRoutes(
        "users",
        entities.USER,
        *(documents.UserQuery, documents.User, documents.Named("name")),
        *(_user_rows, _users_json, _by_name(entities.USER)),
    ),
)


def blueprints() -> list[Blueprint]:
    return [_blueprint(routes) for routes in ENTITIES]
