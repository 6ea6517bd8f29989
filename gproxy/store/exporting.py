"""The whole stored configuration, as the types that a first start stores."""

from gproxy.store import models as m
from gproxy.store.entities import SWITCHES
from gproxy.store.sealing import Seal
from gproxy.store.seeding import (
    Content,
    NewAlias,
    NewCredential,
    NewKey,
    NewLimit,
    NewModel,
    NewProvider,
    NewQuota,
    NewTarget,
    NewUser,
)
from gproxy.store.snapshot_loader import read_transaction


def content(seal: Seal | None) -> Content:
    """The configuration with opened secrets. Raises ValueError if one was sealed with another key."""
    with read_transaction():
        settings = m.GlobalSettings.get()
        providers = {row.id: row.name for row in m.Provider.select()}
        users = {row.id: row.name for row in m.User.select()}
        return Content(
            enable_usage=settings.enable_usage,
            provider_defaults_json=settings.provider_defaults_json,
            switches={name: getattr(settings, name) for name in SWITCHES if name != "enable_usage"},
            providers=_providers(seal),
            models=tuple(
                NewModel(providers[row.provider_id], row.model_id, row.display_name, row.enabled, row.pricing_json)
                for row in m.Model.select().order_by(m.Model.id)
            ),
            aliases=_aliases(providers),
            users=_users(providers),
            permissions=tuple(
                (users[row.user_id], None if row.provider_id is None else providers[row.provider_id], row.model_pattern)
                for row in _permissions(of_keys=False)
            ),
            limits=tuple((users[row.user_id], _limit(row)) for row in _limits(of_keys=False)),
            quotas=tuple(
                (users[row.user_id], NewQuota(row.quota, row.cost_used, row.period))
                for row in m.Quota.select().where(m.Quota.quota.is_null(False)).order_by(m.Quota.user)
                if row.quota is not None
            ),
            file_permissions=tuple(
                (users[row.user_id], providers[row.provider_id])
                for row in m.FilePermission.select().order_by(m.FilePermission.id)
            ),
        )


def _providers(seal: Seal | None) -> tuple[NewProvider, ...]:
    credentials: dict[int, list[NewCredential]] = {}
    for row in m.Credential.select().order_by(m.Credential.id):
        secret = seal.open(row.secret_json) if seal else row.secret_json
        found = NewCredential(secret, row.name, row.enabled, row.weight, row.rpm, row.concurrency)
        credentials.setdefault(row.provider_id, []).append(found)
    return tuple(
        NewProvider(
            row.name,
            row.channel,
            row.label,
            row.enabled,
            row.settings_json,
            tuple(credentials.get(row.id, ())),
            row.routing_json,
        )
        for row in m.Provider.select().order_by(m.Provider.id)
    )


def _aliases(providers: dict[int, str]) -> tuple[NewAlias, ...]:
    targets: dict[int, list[NewTarget]] = {}
    for row in m.AliasTarget.select().order_by(m.AliasTarget.id):
        found = NewTarget(providers[row.provider_id], row.model_id, row.tier, row.weight)
        targets.setdefault(row.alias_id, []).append(found)
    return tuple(
        NewAlias(row.alias, row.enabled, tuple(targets.get(row.id, ())), row.pricing_json)
        for row in m.ModelAlias.select().order_by(m.ModelAlias.id)
    )


def _users(providers: dict[int, str]) -> tuple[NewUser, ...]:
    keys: dict[int, list[NewKey]] = {}
    permissions: dict[int | None, list[tuple]] = {}
    limits: dict[int | None, list[NewLimit]] = {}
    for row in _permissions(of_keys=True):
        found = (None if row.provider_id is None else providers[row.provider_id], row.model_pattern)
        permissions.setdefault(row.key_id, []).append(found)
    for row in _limits(of_keys=True):
        limits.setdefault(row.key_id, []).append(_limit(row))
    for row in m.UserKey.select().order_by(m.UserKey.id):
        found = NewKey(
            row.api_key_digest,
            row.fingerprint,
            row.label,
            row.enabled,
            row.expires_at,
            row.budget,
            tuple(permissions.get(row.id, ())),
            tuple(limits.get(row.id, ())),
            row.narrowed,
            row.disabler,
        )
        keys.setdefault(row.user_id, []).append(found)
    return tuple(
        NewUser(row.name, row.password, row.enabled, row.is_admin, tuple(keys.get(row.id, ())), row.may_make_keys)
        for row in m.User.select().order_by(m.User.id)
    )


def _permissions(of_keys: bool):
    return m.ModelPermission.select().where(m.ModelPermission.key.is_null(not of_keys)).order_by(m.ModelPermission.id)


def _limits(of_keys: bool):
    return m.RateLimit.select().where(m.RateLimit.key.is_null(not of_keys)).order_by(m.RateLimit.id)


def _limit(row: m.RateLimit) -> NewLimit:
    return NewLimit(row.model_pattern, row.rpm, row.rpd, row.total_tokens, row.concurrency)
