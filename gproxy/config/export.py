"""Writes the configuration as a seed document in TOML. A first start with this document stores the same again."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from gproxy.config.schemas import SECRETS
from gproxy.store import proxy_passwords
from gproxy.store.importing import key_variable
from gproxy.store.seeding import Content, NewAlias, NewCredential, NewKey, NewModel, NewProvider, NewUser
from gproxy.units import NANO, NS

# The fields of a service account that are not secret and are always exported.
PUBLIC_FIELDS = ("project_id", "client_email", "token_uri")


def toml(content: Content, has_secrets: bool) -> str:
    """Returns TOML. Without secrets it has references to variables instead of keys, and no passwords."""
    # Imported on demand: workers rarely write TOML.
    import tomli_w

    return tomli_w.dumps(document(content, has_secrets))


def document(content: Content, has_secrets: bool) -> dict:
    """Returns the seed document as a dict of tables. Empty tables are left out."""
    found = {
        "global": _without_none(
            enable_usage=content.enable_usage, **content.switches, **json.loads(content.provider_defaults_json or "{}")
        ),
        "providers": [_provider(one, has_secrets) for one in content.providers],
        "models": list(map(_model, content.models)),
        # An alias that lost its last target with its provider cannot be written in a seed.
        "model_aliases": [_alias(one) for one in content.aliases if one.targets],
        "users": [_user(one, has_secrets) for one in content.users],
        "permissions": [
            _without_none(user_name=user, provider_name=provider, model_pattern=pattern)
            for user, provider, pattern in content.permissions
        ],
        "file_permissions": [
            {"user_name": user, "provider_name": provider} for user, provider in content.file_permissions
        ],
        "rate_limits": [{"user_name": user, **_without_none(**asdict(limit))} for user, limit in content.limits],
        "quotas": [
            _without_none(user_name=user, quota=_usd(quota.quota), cost_used=_usd(quota.cost_used), period=quota.period)
            for user, quota in content.quotas
        ],
    }
    return {name: rows for name, rows in found.items() if rows}


def _without_none(**values) -> dict:
    """Returns the values that are not None, since TOML has no null."""
    return {name: value for name, value in values.items() if value is not None}


def _provider(provider: NewProvider, has_secrets: bool) -> dict:
    credentials = [
        _credential(one, None if has_secrets else key_variable(provider.name, number))
        for number, one in enumerate(provider.credentials, 1)
    ]
    settings = json.loads(provider.settings_json)
    routing = json.loads(provider.routing_json) if provider.routing_json else {}
    return _without_none(
        name=provider.name,
        channel=provider.channel,
        label=provider.label,
        enabled=provider.enabled,
        settings=_whole_numbers(settings if has_secrets else proxy_passwords.hide(settings)) or None,
        routing=routing or None,
        credentials=credentials or None,
    )


def _credential(credential: NewCredential, variable: str | None) -> dict:
    secret: dict[str, str] = json.loads(credential.secret_json)
    for name, value in secret.items():
        if variable is not None and name not in PUBLIC_FIELDS and not value.startswith("${"):
            secret[name] = f"${{{variable}}}" if name in ("api_key", "private_key") else value
    options = {name: value for name, value in asdict(credential).items() if name != "secret_json"}
    return {**{name: secret[name] for name in SECRETS if name in secret}, **_without_none(**options)}


def _model(model: NewModel) -> dict:
    return _without_none(
        provider_name=model.provider,
        model_id=model.model_id,
        display_name=model.display_name,
        enabled=model.enabled,
        **_prices(model.pricing_json),
    )


def _alias(alias: NewAlias) -> dict:
    targets = [
        {"provider": one.provider, "model": one.model_id, "tier": one.tier, "weight": one.weight}
        for one in alias.targets
    ]
    return {"alias": alias.alias, "enabled": alias.enabled, "targets": targets, **_prices(alias.pricing_json)}


def _user(user: NewUser, has_secrets: bool) -> dict:
    return _without_none(
        name=user.name,
        password=user.password_hash if has_secrets else None,
        enabled=user.enabled,
        is_admin=user.is_admin,
        may_make_keys=user.may_make_keys,
        keys=list(map(_key, user.keys)) or None,
    )


def _key(key: NewKey) -> dict:
    permissions = [_without_none(provider_name=name, model_pattern=pattern) for name, pattern in key.permissions]
    expires = None if key.expires_at is None else datetime.fromtimestamp(key.expires_at // NS, UTC)
    return _without_none(
        api_key_digest=key.digest,
        label=key.label,
        enabled=key.enabled,
        disabled_by=key.disabler,
        expires_at=expires,
        budget=_usd(key.budget),
        permissions=permissions if key.is_narrowed else None,
        rate_limits=[_without_none(**asdict(limit)) for limit in key.limits] or None,
    )


def _prices(stored: str | None) -> Mapping:
    """Amounts are stored as text."""
    return {} if stored is None else _amounts(json.loads(stored, parse_float=Decimal))


def _amounts(value) -> Any:
    if isinstance(value, dict):
        return {name: _amounts(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_amounts(inner) for inner in value]
    return Decimal(value) if isinstance(value, str) else value


def _whole_numbers(settings: dict) -> dict:
    """Writes whole seconds without a decimal point."""
    return {n: int(v) if isinstance(v, float) and v.is_integer() else v for n, v in settings.items()}


def _usd(nano: int | None) -> Decimal | None:
    return None if nano is None else Decimal(nano) / NANO
