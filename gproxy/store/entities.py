"""Providers, credentials, models, aliases and users, all read and changed by the same functions.

A row is a dictionary of columns. A change leaves missing columns as they are.
"""

import json
import time
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import peewee as pw

from gproxy.errors import BadRequest, NotFound
from gproxy.store import models as m
from gproxy.store.audit import log_change, track_changes
from gproxy.store.database import Database
from gproxy.store.paging import page
from gproxy.store.rows import AnyTable, insert, tuples
from gproxy.store.sealing import Seal
from gproxy.store.snapshot_loader import bump


class Entity(NamedTuple):
    """A kind of rows that an operator writes.

    `required`: columns of a new row. `unique`: columns that no two rows share, all of them together.
    `revisions`: the revisions that a change increments. `parents`: column, table and label of referenced rows.
    """

    label: str
    table: AnyTable
    required: tuple[str, ...]
    unique: tuple[str, ...]
    revisions: tuple[str, ...]
    parents: tuple[tuple[str, AnyTable, str], ...] = ()


OF_PROVIDER = (("provider_id", m.Provider, "provider"),)
PROVIDER = Entity("provider", m.Provider, ("name", "channel"), ("name",), ("providers", "models", "aliases", "users"))
CREDENTIAL = Entity("credential", m.Credential, ("provider_id", "secret_json"), (), ("providers",), OF_PROVIDER)
MODEL = Entity("model", m.Model, ("provider_id", "model_id"), ("provider_id", "model_id"), ("models",), OF_PROVIDER)
ALIAS = Entity("alias", m.ModelAlias, ("alias", "targets"), ("alias",), ("aliases",))
USER = Entity("user", m.User, ("name",), ("name",), ("users", "sessions"))
# Names of columns in the API, where they differ.
API_NAMES = {"secret_json": "credential"}


def find(entity: Entity, filters: dict) -> list[dict]:
    """The rows whose columns have one of the filters' values, by id; `limit` and `offset` choose a page."""
    table = entity.table
    query = page(table.select().order_by(table.id), filters)
    for name, values in filters.items():
        if values is not None and name not in ("limit", "offset"):
            query = query.where(getattr(table, name).in_(values))
    return [_plain(row) for row in query.dicts()]


def _plain(row: dict) -> dict:
    """The row with foreign keys by the names of their columns."""
    return {f"{name}_id" if name in ("provider", "user", "alias_of") else name: value for name, value in row.items()}


def put(database: Database, entity: Entity, rows: Sequence[dict]) -> list[int]:
    """Stores these rows, all or none; returns their ids. Without an `id`, or with 0, a row is new.

    Raises BadRequest and NotFound, which name the row if there are several.
    """
    with database.admin_write(), track_changes(entity.table, [row["id"] for row in rows if row.get("id")]) as add_ids:
        ids = []
        for n, row in enumerate(rows):
            try:
                ids.append(_put(entity, dict(row)))
            except (BadRequest, NotFound) as error:
                if len(rows) > 1:
                    raise type(error)(f"[{n}]: {error.message.removeprefix(f'{error.label}: ')}") from None
                raise
        add_ids(ids)
        bump(*entity.revisions)
        return ids


def _put(entity: Entity, row: dict) -> int:
    table, row_id, now = entity.table, row.pop("id", 0) or 0, time.time_ns()
    before = table.get_or_none(table.id == row_id) if row_id else None
    if before is None and (missing := [name for name in entity.required if row.get(name) is None]):
        problems = "; ".join(f"{API_NAMES.get(name, name)}: missing; a new {entity.label} needs it" for name in missing)
        raise BadRequest(f"there is no {entity.label} {row_id}; {problems}" if row_id else problems)
    for column, parent, label in entity.parents:
        if column in row and not parent.select().where(parent.id == row[column]).exists():
            raise NotFound(f"there is no {label} {row[column]}")
    _check_unique(entity, row, row_id, before)
    if before is not None and entity is PROVIDER and row.get("channel", before.channel) != before.channel:
        raise BadRequest(f"channel: a provider keeps its channel, {before.channel!r}; make another provider")
    new_targets = row.pop("targets", None)
    if before is None:
        if entity is CREDENTIAL:
            row["kind"] = m.Provider.get_by_id(row["provider_id"]).channel
        row_id = insert(table, row_id, row | {"created_at": now, "updated_at": now})
    else:
        table.update(**row, updated_at=now).where(table.id == row_id).execute()
    if new_targets is not None:
        _replace_targets(row_id, new_targets)
    if entity is USER:
        _apply_user_rules(row_id, before)
    return row_id


def _check_unique(entity: Entity, row: dict, row_id: int, before) -> None:
    """Raises BadRequest if another row has the same values in the unique columns."""
    if not entity.unique or not any(name in row for name in entity.unique):
        return
    table = entity.table
    values = {name: row.get(name, getattr(before, name, None)) for name in entity.unique}
    other = table.select(table.id).where(*(getattr(table, name) == value for name, value in values.items())).scalar()
    if other is not None and other != row_id:
        last = entity.unique[-1]
        raise BadRequest(f"{last}: {entity.label} {other} has {values[last]!r} already; give its id to change it")


def _replace_targets(alias_id: int, new_targets: Sequence[dict]) -> None:
    """Replaces an alias's targets. Raises NotFound."""
    before = targets([alias_id]).get(alias_id)
    m.AliasTarget.delete().where(m.AliasTarget.alias == alias_id).execute()
    for target in new_targets:
        provider = m.Provider.get_or_none(m.Provider.name == target["provider_name"])
        if provider is None:
            raise NotFound(f"there is no provider {target['provider_name']!r}")
        m.AliasTarget.insert(
            alias=alias_id,
            provider=provider,
            model_id=target["model_id"],
            tier=target["tier"],
            weight=target["weight"],
        ).execute()
    after = targets([alias_id])[alias_id]
    log_change("model_alias_targets", alias_id, {"targets": before} if before else None, {"targets": after})


def _apply_user_rules(user_id: int, before: m.User | None) -> None:
    """Permits all models to an administrator. Deletes the sessions of a user with a changed password or rights.

    Raises BadRequest if no enabled administrator remains.
    """
    after = m.User.get_by_id(user_id)
    if after.is_admin and not _may_use_all(user_id):
        now = time.time_ns()
        m.ModelPermission.insert(user=user_id, key=None, provider=None, model_pattern="*", created_at=now).execute()
    if before is None:
        return
    if (before.password, before.enabled, before.is_admin) != (after.password, after.enabled, after.is_admin):
        m.Session.delete().where(m.Session.user == user_id).execute()
    require_administrator()


def _may_use_all(user_id: int) -> bool:
    found = m.ModelPermission.select().where(
        (m.ModelPermission.user == user_id)
        & m.ModelPermission.key.is_null()
        & m.ModelPermission.provider.is_null()
        & (m.ModelPermission.model_pattern == "*")
    )
    return found.exists()


def require_administrator() -> None:
    """Raises BadRequest if there is no enabled administrator."""
    if not m.User.select().where(m.User.is_admin & m.User.enabled).exists():
        raise BadRequest("this would leave no enabled administrator; make another one first")


def delete(database: Database, entity: Entity, ids: Collection[int]) -> None:
    """Deletes these rows with the rows that refer to them, all or none. Raises NotFound and BadRequest."""
    table = entity.table
    with database.admin_write(), track_changes(table, ids):
        known = {row.id for row in table.select(table.id).where(table.id.in_(list(ids)))}
        if missing := sorted(set(ids) - known):
            hint = "; nothing was deleted" if len(ids) > 1 else ""
            raise NotFound(f"there is no {entity.label} {', '.join(map(str, missing))}{hint}")
        table.delete().where(table.id.in_(list(ids))).execute()
        if entity is USER:
            require_administrator()
        bump(*entity.revisions)


def ids_of(entity: Entity, names: Sequence[str]) -> dict[str, int]:
    """The ids of the rows with these names. Raises NotFound."""
    column = getattr(entity.table, entity.unique[0])
    found = dict(tuples(entity.table.select(column, entity.table.id).where(column.in_(list(names)))))
    if missing := sorted(set(names) - found.keys()):
        raise NotFound(f"there is no {entity.label} {', '.join(map(repr, missing))}")
    return found


def targets(alias_ids: Sequence[int]) -> dict[int, list[dict]]:
    """The targets of each of these aliases, by the alias's id, ordered by tier."""
    found: dict[int, list[dict]] = {}
    query = m.AliasTarget.select(m.AliasTarget, m.Provider.name).join(m.Provider)
    for row in query.where(m.AliasTarget.alias.in_(list(alias_ids))).order_by(m.AliasTarget.tier, m.AliasTarget.id):
        target = {"provider": row.provider.name, "model": row.model_id, "tier": row.tier, "weight": row.weight}
        found.setdefault(row.alias_id, []).append(target)
    return found


def credential_counts(provider_ids: Collection[int]) -> dict[int, int]:
    """The number of credentials of each of these providers that has any, by the provider's id."""
    query = m.Credential.select(m.Credential.provider, pw.fn.COUNT(m.Credential.id)).group_by(m.Credential.provider)
    return dict(tuples(query.where(m.Credential.provider.in_(list(provider_ids)))))


def credential_at(provider_name: str, index: int) -> int:
    """The id of the credential at this position among its provider's enabled ones, by id. Raises NotFound."""
    provider = m.Provider.get_or_none(m.Provider.name == provider_name)
    if provider is None:
        raise NotFound(f"there is no provider {provider_name!r}")
    condition = (m.Credential.provider == provider) & m.Credential.enabled
    ids = [row.id for row in m.Credential.select(m.Credential.id).where(condition).order_by(m.Credential.id)]
    if index >= len(ids):
        raise NotFound(f"provider {provider_name!r} has {len(ids)} enabled credentials, counted from 0")
    return ids[index]


def credential_positions(provider_ids: Collection[int]) -> dict[int, int]:
    """By id: the position of each enabled credential of these providers among those of its provider, by id."""
    found: dict[int, int] = {}
    counts: dict[int, int] = {}
    query = m.Credential.select(m.Credential.id, m.Credential.provider).order_by(m.Credential.id)
    enabled = query.where(m.Credential.enabled & m.Credential.provider.in_(list(provider_ids)))
    for row_id, owner in tuples(enabled):
        found[row_id] = counts.get(owner, 0)
        counts[owner] = found[row_id] + 1
    return found


def provider_id(name: str) -> int:
    """The id of the provider. Raises NotFound."""
    if (found := m.Provider.select(m.Provider.id).where(m.Provider.name == name).scalar()) is None:
        raise NotFound(f"there is no provider {name!r}")
    return found


def seal_secret(secret: dict, seal: Seal | None) -> str:
    """A credential's secret as it is stored: sealed if there is a seal."""
    text = json.dumps(secret)
    return seal.close(text) if seal else text


def open_secret(secret_json: str, seal: Seal | None) -> dict:
    """A stored secret. Raises ValueError if it was sealed with another key."""
    return json.loads(seal.open(secret_json) if seal else secret_json)


def settings() -> dict:
    """The stored global settings, as plain values."""
    row: Any = m.GlobalSettings.select().dicts().get()
    return {name: row[name] for name in (*SWITCHES, "provider_defaults_json")}


SWITCHES = (
    "enable_usage",
    "enable_upstream_log",
    "enable_upstream_log_body",
    "enable_downstream_log",
    "enable_downstream_log_body",
    "log_retention_days",
    "log_retention_mb",
    "usage_retention_days",
)


def change_settings(database: Database, changes: dict) -> None:
    with database.write():
        row_id = m.GlobalSettings.select(m.GlobalSettings.id).scalar()
        with track_changes(m.GlobalSettings, [row_id]):
            m.GlobalSettings.update(**changes, updated_at=time.time_ns()).execute()
        bump("settings")


def counts() -> dict[str, int]:
    """The number of rows in each table that an operator writes."""
    tables = {
        "providers": m.Provider,
        "users": m.User,
        "keys": m.UserKey,
        "models": m.Model,
        "user_files": m.CredentialFile,
        "claude_files": m.ClaudeFile,
        "aliases": m.ModelAlias,
        "permissions": m.ModelPermission,
        "file_permissions": m.FilePermission,
        "rate_limits": m.RateLimit,
        "quotas": m.Quota,
    }
    return {name: table.select().count() for name, table in tables.items()}


def request_reload(database: Database) -> dict[str, int]:
    """Makes every process reload its whole snapshot. Returns `counts()`."""
    with database.write():
        bump("settings", "providers", "models", "aliases", "users", "sessions")
    return counts()
