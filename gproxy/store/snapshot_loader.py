"""Loads the snapshot from the database: only the groups of tables that changed, in one transaction."""

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, NamedTuple

import peewee as pw

from gproxy.patterns import alias_pattern
from gproxy.snapshot import (
    HEADER_SAFE,
    Alias,
    Caller,
    Credential,
    Dispatch,
    Grant,
    Logging,
    Login,
    Model,
    Provider,
    ProviderSettings,
    Quota,
    RateLimit,
    ServiceAccount,
    Snapshot,
    Target,
    by_precedence,
    by_row_precedence,
    glob,
)
from gproxy.store import models as m
from gproxy.store.sealing import Seal
from gproxy.units import NS

log = logging.getLogger(__name__)

TABLES = ("settings", "providers", "models", "aliases", "users", "sessions")


@contextmanager
def read_transaction() -> Iterator[None]:
    """A transaction that sees one state of the database from its beginning to its end."""
    database = m.proxy.obj
    with database.atomic():
        if isinstance(database, pw.PostgresqlDatabase):
            database.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def revisions() -> dict[str, int]:
    """The revision of each group of tables."""
    return {row.table: row.revision for row in m.Revision.select()}


def bump(*tables: str) -> None:
    """Increments the revisions of these groups, in the transaction that changes their tables."""
    m.Revision.update(revision=m.Revision.revision + 1).where(m.Revision.table.in_(tables)).execute()


def load(before: Snapshot | None, environ: Mapping[str, str], seal: Seal | None) -> Snapshot:
    """The current snapshot; `before` itself if nothing has changed. Reads only what has changed since `before`."""
    with read_transaction():
        now = revisions()
        if before is not None and before.revisions == now:
            return before
        old = before or Snapshot(revisions={})
        changed = {table for table in TABLES if old.revisions.get(table) != now.get(table)}
        parts: dict = {}
        if "settings" in changed:
            parts |= _settings()
        if changed & {"settings", "providers"}:
            defaults = parts.get("provider_defaults", old.provider_defaults)
            parts |= _providers(defaults, environ, seal)
        if "models" in changed:
            parts |= _models()
        if "aliases" in changed:
            parts |= _aliases()
        if "users" in changed:
            parts |= _callers()
        if changed & {"users", "sessions"}:
            parts |= _logins()
        return replace(old, revisions=now, **parts)


def _settings() -> dict:
    row = m.GlobalSettings.select().first()
    return {
        "deployment": row.deployment,
        "enable_usage": row.enable_usage,
        "logging": Logging(
            row.enable_upstream_log,
            row.enable_upstream_log_body,
            row.enable_downstream_log,
            row.enable_downstream_log_body,
            row.log_retention_days,
            row.log_retention_mb,
            row.usage_retention_days,
        ),
        "provider_defaults": json.loads(row.provider_defaults_json),
    }


def _providers(defaults: Mapping, environ: Mapping[str, str], seal: Seal | None) -> dict:
    credentials: dict[int, list[Credential]] = {}
    for row in m.Credential.select().where(m.Credential.enabled).order_by(m.Credential.id):
        secret, account = resolve_secret(row.secret_json, environ, seal)
        if secret is None:
            log.warning("credential %d: its environment variable holds no usable key, so it is not used", row.id)
        found = Credential(row.id, row.provider_id, secret, row.weight, row.rpm, row.concurrency, account)
        credentials.setdefault(row.provider_id, []).append(found)
    known = {f.name for f in fields(ProviderSettings)}
    found = []
    for row in m.Provider.select().where(m.Provider.enabled).order_by(m.Provider.name):
        given = {k: v for k, v in {**defaults, **json.loads(row.settings_json)}.items() if k in known}
        given["forward_headers"] = tuple(given.get("forward_headers") or ())
        settings = ProviderSettings(**given)
        if settings.base_url:
            settings = replace(settings, base_url=without_version(settings.base_url))
        usable = tuple(c for c in credentials.get(row.id, ()) if c.secret is not None)
        found.append(Provider(row.id, row.name, row.channel, settings, usable, _routing(row)))
    return {"providers": {p.name: p for p in found}, "provider_by_id": {p.id: p for p in found}}


def _routing(row: m.Provider) -> Mapping[tuple[str, str], Dispatch] | None:
    try:
        return read_routing(row.routing_json)
    except (ValueError, RecursionError) as error:
        # The document of one provider must not keep other providers and later changes from being loaded.
        log.error("provider %s: its routing cannot be read, so its channel's default applies: %s", row.name, error)
        return None


def read_routing(text: str) -> Mapping[tuple[str, str], Dispatch] | None:
    """A stored routing document, None without rules: then the channel decides. Raises ValueError if it is invalid."""
    match json.loads(text) if text else None:
        case None:
            return None
        case {"rules": list(rules), **others} if not others:
            return dict(map(_rule, rules)) or None
        case {**others} if not others:
            return None
    raise ValueError("it is not a table of rules")


def _rule(rule) -> tuple[tuple[str, str], Dispatch]:
    match rule:
        case {"route": {"operation": str(operation), "protocol": str(protocol)}, "implementation": implementation}:
            return (operation, protocol), _dispatch(implementation)
    raise ValueError("a rule has no route or no implementation")


def _dispatch(implementation) -> Dispatch:
    match implementation:
        case "Passthrough" | "Local" | "Unsupported":
            return Dispatch(implementation.lower())
        case {"TransformTo": {"destination": {"operation": str(operation), "protocol": str(protocol)}}}:
            return Dispatch("transform", operation, protocol)
    raise ValueError("a rule has an unknown implementation")


def without_version(base_url: str) -> str:
    """The base URL without trailing slashes and version segment; the channel's paths are appended to it."""
    return re.sub(r"(?<!/)/v1(beta)?$", "", base_url.rstrip("/")).rstrip("/")


def resolve_secret(
    secret_json: str, environ: Mapping[str, str], seal: Seal | None
) -> tuple[str | None, ServiceAccount | None]:
    """The API key, or a private key with its service account; None without a usable key.

    A stored `${NAME}` is looked up in `environ` at every start, so that a new value needs only a restart.
    """
    try:
        document = json.loads(seal.open(secret_json) if seal else secret_json)
    except ValueError as error:
        log.error("a credential cannot be opened: %s", error)
        return None, None
    found: dict[str, Any] = {name: _resolved(text, environ) for name, text in document.items()}
    if "api_key" in document:
        key = found["api_key"]
        return (key if key == document["api_key"] or HEADER_SAFE.fullmatch(key) else None), None
    account = ServiceAccount(*(found.get(f.name) for f in fields(ServiceAccount)))
    is_whole = found["private_key"] and account.project_id and account.client_email
    return (found["private_key"] if is_whole else None), account


def _resolved(text: str, environ: Mapping[str, str]) -> str:
    reference = re.fullmatch(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", text)
    return environ.get(reference[1], "").strip() if reference else text


def _models() -> dict:
    rows = [
        Model(r.provider_id, r.model_id, r.display_name, r.enabled, r.pricing_json)
        for r in m.Model.select().order_by(m.Model.id)
    ]
    registered: dict[str, list[Model]] = {}
    for row in rows:
        registered.setdefault(row.model_id, []).append(row)
    return {
        "models": {(row.provider_id, row.model_id): row for row in rows},
        "registered": {name: tuple(found) for name, found in registered.items()},
    }


def _aliases() -> dict:
    targets: dict[int, list[Target]] = {}
    for row in m.AliasTarget.select().order_by(m.AliasTarget.tier, m.AliasTarget.id):
        targets.setdefault(row.alias_id, []).append(Target(row.provider_id, row.model_id, row.tier, row.weight))
    found = []
    for row in m.ModelAlias.select().where(m.ModelAlias.enabled).order_by(m.ModelAlias.alias):
        pattern = alias_pattern(row.alias) if "*" in row.alias else None
        found.append(Alias(row.alias, tuple(targets.get(row.id, ())), pattern, row.pricing_json))
    wildcards = sorted((a for a in found if a.is_wildcard), key=lambda a: by_precedence(a.name))
    return {"aliases": {a.name: a for a in found if not a.is_wildcard}, "wildcards": tuple(wildcards)}


def find_caller(user_id: int, key_id: int | None) -> tuple[Caller, str | None] | None:
    """A user with one of the user's keys, or without a key, and the reason why the caller is refused, if it is.

    None if the user or the key does not exist.
    """
    user = m.User.get_or_none(m.User.id == user_id)
    key = None if key_id is None else m.UserKey.get_or_none((m.UserKey.id == key_id) & (m.UserKey.user == user_id))
    if user is None or (key_id is not None and key is None):
        return None
    reason = "the user is disabled" if not user.enabled else "the key is disabled" if key and not key.enabled else None
    if key is not None and key.expires_at is not None and key.expires_at <= time.time_ns():
        reason = reason or "the key is expired"
    return _caller(user, key, _rows()), reason


def user_of_key(key_id: int) -> int | None:
    """The id of the key's user, None if the key does not exist."""
    return m.UserKey.select(m.UserKey.user).where(m.UserKey.id == key_id).tuples().scalar()


def _callers() -> dict:
    rows = _rows()
    query = (
        m.UserKey.select(m.UserKey, m.User)
        .join(m.User)
        .where(m.UserKey.enabled & m.User.enabled)
        .order_by(m.UserKey.id)
    )
    return {"callers": {row.api_key_digest: _caller(row.user, row, rows) for row in query}}


class _Rows(NamedTuple):
    """Permissions, limits and quotas of all users and keys, by their ids."""

    grants: dict[int, list[Grant]]
    key_grants: dict[int, list[Grant]]
    limits: dict[int, list[RateLimit]]
    key_limits: dict[int, list[RateLimit]]
    quotas: dict[int, Quota]
    files: dict[int, set[int]]


def _rows() -> _Rows:
    grants, key_grants = _grants()
    by_user, by_key = limits()
    capped = m.Quota.select().where(m.Quota.quota.is_null(False))
    quotas = {row.user_id: Quota(row.quota, row.period) for row in capped if row.quota is not None}
    files: dict[int, set[int]] = {}
    for row in m.FilePermission.select():
        files.setdefault(row.user_id, set()).add(row.provider_id)
    return _Rows(grants, key_grants, by_user, by_key, quotas, files)


def _caller(user: m.User, key: m.UserKey | None, rows: _Rows) -> Caller:
    """A caller. Without a key it has the rights that a key without own permissions and limits gives the user."""
    key_id = 0 if key is None else key.id
    return Caller(
        user_id=user.id,
        user_name=user.name,
        key_id=key_id,
        is_admin=user.is_admin,
        expires_at=None if key is None or key.expires_at is None else key.expires_at / NS,
        grants=tuple(rows.grants.get(user.id, ())),
        limits=tuple(rows.limits.get(user.id, ())),
        key_limits=tuple(rows.key_limits.get(key_id, ())),
        quota=rows.quotas.get(user.id),
        budget=None if key is None else key.budget,
        key_grants=tuple(rows.key_grants.get(key_id, ())) if key is not None and key.narrowed else None,
        files=frozenset(rows.files.get(user.id, ())),
    )


def _logins() -> dict:
    query = m.Session.select(m.Session, m.User).join(m.User).where(m.User.enabled)
    return {
        "logins": {
            row.digest: Login(row.user_id, row.user.name, row.user.is_admin, row.expires_at / NS) for row in query
        }
    }


def _grants() -> tuple[dict[int, list[Grant]], dict[int, list[Grant]]]:
    """Permissions of users and of keys, by their ids."""
    by_user: dict[int, list[Grant]] = {}
    by_key: dict[int, list[Grant]] = {}
    for row in m.ModelPermission.select().order_by(m.ModelPermission.id):
        owners, owner = (by_user, row.user_id) if row.key_id is None else (by_key, row.key_id)
        owners.setdefault(owner, []).append(Grant(row.provider_id, glob(row.model_pattern).fullmatch))
    return by_user, by_key


def limits(user_id: int | None = None) -> tuple[dict[int, list[RateLimit]], dict[int, list[RateLimit]]]:
    """Rate limits of all users or of one, and of their keys, by their ids, each list in the order of precedence."""
    by_user: dict[int, list[RateLimit]] = {}
    by_key: dict[int, list[RateLimit]] = {}
    rows = m.RateLimit.select()
    for row in rows if user_id is None else rows.where(m.RateLimit.user == user_id):
        owners, owner = (by_user, row.user_id) if row.key_id is None else (by_key, row.key_id)
        matches = glob(row.model_pattern).fullmatch
        amounts = (row.rpm, row.rpd, row.total_tokens, row.concurrency)
        owners.setdefault(owner, []).append(RateLimit(row.id, row.model_pattern, matches, *amounts))
    for found in (*by_user.values(), *by_key.values()):
        found.sort(key=by_row_precedence)
    return by_user, by_key
