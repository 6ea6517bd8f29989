"""Types of a validated configuration, and functions that fill an empty database with one and seal its secrets."""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from gproxy.state.periods import window
from gproxy.store import models as m
from gproxy.store.database import Database
from gproxy.store.sealing import PREFIX, Seal, known_seal, new_seal
from gproxy.store.snapshot_loader import bump
from gproxy.units import NS


@dataclass(frozen=True, slots=True)
class NewCredential:
    secret_json: str
    name: str | None = None
    enabled: bool = True
    weight: int = 1
    rpm: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class NewProvider:
    name: str
    channel: str
    label: str | None
    enabled: bool
    settings_json: str
    credentials: tuple[NewCredential, ...]
    routing_json: str = "{}"


@dataclass(frozen=True, slots=True)
class NewModel:
    provider: str
    model_id: str
    display_name: str | None
    enabled: bool
    pricing_json: str | None


@dataclass(frozen=True, slots=True)
class NewTarget:
    provider: str
    model_id: str
    tier: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class NewAlias:
    alias: str
    enabled: bool
    targets: tuple[NewTarget, ...]
    pricing_json: str | None = None


@dataclass(frozen=True, slots=True)
class NewLimit:
    model_pattern: str
    rpm: int | None = None
    rpd: int | None = None
    total_tokens: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class NewQuota:
    """Money in nano-USD."""

    quota: int
    cost_used: int = 0
    period: str | None = None


@dataclass(frozen=True, slots=True)
class NewKey:
    """`permissions`, if there are any, restrict the key to a part of its user's; `narrowed` without any blocks the key.

    `budget` in nano-USD, `expires_at` in nanoseconds since the epoch. `disabled_by` of a disabled key is "user" or
    "administrator", which None is too.
    """

    digest: str
    fingerprint: str
    label: str | None = None
    enabled: bool = True
    expires_at: int | None = None
    budget: int | None = None
    permissions: tuple[tuple[str | None, str], ...] = ()  # (provider or any, pattern)
    limits: tuple[NewLimit, ...] = ()
    narrowed: bool = False
    disabled_by: str | None = None

    @property
    def disabler(self) -> str | None:
        return m.who_disabled(self.enabled, self.disabled_by)

    @property
    def is_narrowed(self) -> bool:
        return self.narrowed or bool(self.permissions)


@dataclass(frozen=True, slots=True)
class NewUser:
    """`may_make_keys` None: a new user may, a stored one is left as it is."""

    name: str
    password_hash: str | None
    enabled: bool
    is_admin: bool
    keys: tuple[NewKey, ...]
    may_make_keys: bool | None = None


@dataclass(frozen=True, slots=True)
class Content:
    """A whole configuration. An import may leave the first two fields out."""

    enable_usage: bool | None
    provider_defaults_json: str | None
    providers: tuple[NewProvider, ...]
    models: tuple[NewModel, ...]
    aliases: tuple[NewAlias, ...]
    users: tuple[NewUser, ...]
    permissions: tuple[tuple[str, str | None, str], ...]  # (user, provider or any, pattern)
    limits: tuple[tuple[str, NewLimit], ...] = ()  # each with its user
    quotas: tuple[tuple[str, NewQuota], ...] = ()
    file_permissions: tuple[tuple[str, str], ...] = ()  # (user, provider)
    switches: Mapping[str, bool | int | None] = field(default_factory=dict)  # other columns of the settings
    unset: frozenset[str] = frozenset()  # variables without a value that credentials refer to


def is_empty() -> bool:
    """True until `fill` has run."""
    return not m.GlobalSettings.select().exists()


def fill(database: Database, content: Content) -> None:
    """Stores a whole configuration in an empty database, in one transaction."""
    now = time.time_ns()
    stamps = {"created_at": now, "updated_at": now}
    with database.write():
        m.GlobalSettings.create(
            deployment=secrets.token_hex(16),
            enable_usage=content.enable_usage,
            provider_defaults_json=content.provider_defaults_json,
            updated_at=now,
            **content.switches,
        )
        providers = _providers(content.providers, stamps)
        for model in content.models:
            m.Model.create(
                provider=providers[model.provider],
                model_id=model.model_id,
                display_name=model.display_name,
                enabled=model.enabled,
                pricing_json=model.pricing_json,
                **stamps,
            )
        for alias in content.aliases:
            row = m.ModelAlias.create(
                alias=alias.alias, enabled=alias.enabled, pricing_json=alias.pricing_json, **stamps
            )
            for target in alias.targets:
                m.AliasTarget.create(
                    alias=row,
                    provider=providers[target.provider],
                    model_id=target.model_id,
                    tier=target.tier,
                    weight=target.weight,
                )
        users = _users(content.users, providers, stamps)
        for user, provider, pattern in content.permissions:
            _permit(users[user], None, providers[provider] if provider else None, pattern, now)
        for user, limit in content.limits:
            _limit(users[user], None, limit, stamps)
        for user, quota in content.quotas:
            open_account(users[user], quota, now)
        for user, provider in content.file_permissions:
            m.FilePermission.create(user=users[user], provider=providers[provider], created_at=now)
        bump("settings", "providers", "models", "aliases", "users", "sessions")


def _providers(providers: tuple[NewProvider, ...], stamps: dict) -> dict[str, int]:
    ids = {}
    for p in providers:
        row = m.Provider.create(
            name=p.name,
            channel=p.channel,
            label=p.label,
            enabled=p.enabled,
            settings_json=p.settings_json,
            routing_json=p.routing_json,
            **stamps,
        )
        ids[p.name] = row.id
        for c in p.credentials:
            m.Credential.create(provider=row, kind=p.channel, **asdict(c), **stamps)
    return ids


def _users(users: tuple[NewUser, ...], providers: Mapping[str, int], stamps: dict) -> dict[str, int]:
    ids = {}
    for user in users:
        row = m.User.create(
            name=user.name,
            password=user.password_hash,
            enabled=user.enabled,
            is_admin=user.is_admin,
            may_make_keys=user.may_make_keys is not False,
            **stamps,
        )
        ids[user.name] = row.id
        for key in user.keys:
            _add_key(row.id, key, providers, stamps)
    return ids


def _add_key(user_id: int, key: NewKey, providers: Mapping[str, int], stamps: dict) -> None:
    row = m.UserKey.create(
        user=user_id,
        api_key_digest=key.digest,
        fingerprint=key.fingerprint,
        label=key.label,
        enabled=key.enabled,
        disabled_by=key.disabler,
        expires_at=key.expires_at,
        budget=key.budget,
        narrowed=key.is_narrowed,
        **stamps,
    )
    for provider, pattern in key.permissions:
        _permit(user_id, row.id, providers[provider] if provider else None, pattern, stamps["created_at"])
    for limit in key.limits:
        _limit(user_id, row.id, limit, stamps)


def _permit(user_id: int, key_id: int | None, provider_id: int | None, pattern: str, now: int) -> None:
    m.ModelPermission.create(user=user_id, key=key_id, provider=provider_id, model_pattern=pattern, created_at=now)


def _limit(user_id: int, key_id: int | None, limit: NewLimit, stamps: dict) -> None:
    m.RateLimit.create(user=user_id, key=key_id, **asdict(limit), **stamps)


def open_account(user_id: int, quota: NewQuota, now: int) -> int:
    """Creates an account with the quota's `cost_used` in the current window. Returns its id."""
    start = window(quota.period, now // NS)[0] * NS
    row = m.Quota.create(
        user=user_id,
        quota=quota.quota,
        period=quota.period,
        cost_used=quota.cost_used,
        opening=quota.cost_used,
        opened_at=start,
        updated_at=now,
    )
    return row.id


def load_seal(secret: str | None) -> Seal | None:
    """The seal of this database, None if it is not sealed. Raises StartupError if the key is missing or wrong."""
    row = m.GlobalSettings.select().first()
    return known_seal(secret, row.seal_json) if row is not None and row.seal_json else None


def seal_all(database: Database, secret: str) -> Seal:
    """Seals an unsealed database, or those credentials of a sealed one that are stored in clear.

    Raises StartupError if the key is wrong.
    """
    with database.write():
        row = m.GlobalSettings.select().first()
        if row.seal_json:
            seal = known_seal(secret, row.seal_json)
        else:
            seal, row.seal_json = new_seal(secret)
            row.save()
        clear = [row for row in m.Credential.select() if not row.secret_json.startswith(PREFIX)]
        for row in clear:
            sealed = seal.close(row.secret_json)
            m.Credential.update(secret_json=sealed).where(m.Credential.id == row.id).execute()
    if clear:
        database.erase_overwritten()
    return seal


def is_unused() -> bool:
    """True if no gateway was ever started on this database."""
    return not m.proxy.obj.table_exists("global_settings") or is_empty()


def reseal(database: Database, before: Seal | None, secret: str) -> int:
    """Seals all credentials with another key, in one transaction. Returns the number of credentials."""
    with database.write():
        seal, document = new_seal(secret)
        rows = list(m.Credential.select(m.Credential.id, m.Credential.secret_json))
        for row in rows:
            sealed = seal.close(before.open(row.secret_json) if before else row.secret_json)
            m.Credential.update(secret_json=sealed).where(m.Credential.id == row.id).execute()
        m.GlobalSettings.update(seal_json=document).execute()
        bump("providers")
    database.erase_overwritten()
    return len(rows)


def secret_json(**secret: str) -> str:
    """The stored secret of a credential: `api_key`, or the fields of a service account."""
    return json.dumps(secret)


def deployment() -> str:
    """The random name of this database, under which its machines share a Redis with others."""
    return m.GlobalSettings.select(m.GlobalSettings.deployment).scalar()
