"""Rows for one test on a running gateway, made by the admin API: users and their bounds, providers, models, aliases.

Every name is new unless the test gives one, so that tests which share a gateway do not meet. A row is in force in every
worker when its function returns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from tests.gateway import Gateway

_numbers = count(1)


@dataclass(frozen=True)
class User:
    id: int
    name: str
    keys: tuple[str, ...]
    key_ids: tuple[int, ...]

    @property
    def key(self) -> str:
        return self.keys[0]

    @property
    def key_id(self) -> int:
        return self.key_ids[0]


@dataclass(frozen=True)
class Provider:
    id: int
    name: str
    keys: tuple[str, ...]  # of its credentials, as the vendor sees them
    credential_ids: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    id: int
    provider: str
    model_id: str

    @property
    def path(self) -> str:
        """Its name for the aggregated endpoints."""
        return f"{self.provider}/{self.model_id}"


@dataclass(frozen=True)
class Alias:
    id: int
    name: str


def unique(prefix: str) -> str:
    """A name that no other row of this test process has, such as for a model that the vendor answers by a script."""
    return f"{prefix}-{next(_numbers):04d}"


def user(
    gateway: Gateway,
    name: str | None = None,
    *,
    keys: int | Sequence[Mapping] = 1,
    permissions: Sequence[str | tuple[str, str]] = ("*",),
    limits: Sequence[Mapping] = (),
    quota: float | None = None,
    period: str | None = None,
    **fields,
) -> User:
    """A user with keys.

    `keys` is a count, or per key its `label`, `budget` and `expires_at`; `permissions` are model patterns, alone or as
    (provider, pattern); `limits` are arguments of `rate_limit`, `quota` and `period` those of `quota`; `fields` are
    further fields of a user: `password`, `is_admin`, `enabled`.
    """
    name = unique("user") if name is None else name
    row_id = put(gateway, "users", name=name, **fields)
    for one in permissions:
        provider_name, pattern = (None, one) if isinstance(one, str) else one
        permission(gateway, row_id, pattern, provider_name)
    for one in limits:
        rate_limit(gateway, row_id, **one)
    if quota is not None:
        set_quota(gateway, row_id, quota, period)
    wanted = [{}] * keys if isinstance(keys, int) else keys
    made = [key(gateway, row_id, **one) for one in wanted]
    return User(row_id, name, tuple(text for text, _ in made), tuple(key_id for _, key_id in made))


def key(gateway: Gateway, user_id: int, **fields) -> tuple[str, int]:
    """A further key of a user and its id. `fields`: `label`, `budget`, `expires_at`."""
    made = ok(gateway, "user-keys/generate", {"user_id": user_id, **fields})
    return made["api_key"], made["id"]


def permission(
    gateway: Gateway, user_id: int, pattern: str = "*", provider: str | None = None, key_id: int | None = None
) -> int:
    """Its id. Without a provider: on any. With a key: of that key alone."""
    provider_id = None if provider is None else id_of_provider(gateway, provider)
    row = {"user_id": user_id, "key_id": key_id, "provider_id": provider_id, "model_pattern": pattern}
    return put(gateway, "user-permissions", **row)


def rate_limit(
    gateway: Gateway, user_id: int, model_pattern: str = "*", key_id: int | None = None, **amounts: int
) -> int:
    """Its id. `amounts`: `rpm`, `rpd`, `total_tokens`, `concurrency`."""
    return put(gateway, "user-rate-limits", user_id=user_id, key_id=key_id, model_pattern=model_pattern, **amounts)


def set_quota(gateway: Gateway, user_id: int, usd: float | None, period: str | None = None, **fields) -> None:
    """`period` is day, week or month; without it the quota is for ever. `fields`: `cost_used`."""
    ok(gateway, "user-quotas/upsert", {"user_id": user_id, "quota": usd, "period": period, **fields})


def provider(
    gateway: Gateway,
    name: str | None = None,
    *,
    base_url: str | None = None,
    channel: str = "openai",
    credentials: int | Sequence[str | Mapping] = 1,
    routing: str | Mapping | None = None,
    enabled: bool = True,
    **settings,
) -> Provider:
    """A provider with credentials.

    `credentials` is a count of new keys, or each one's key, or its fields as in a seed (`api_key`, `weight`, `rpm`, …);
    `settings` are those of a seed, such as `idle_timeout_s`.
    """
    name = unique("provider") if name is None else name
    if base_url is not None:
        settings["base_url"] = base_url
    row = {"name": name, "channel": channel, "settings": settings, "enabled": enabled}
    row_id = put(gateway, "providers", **row, **({} if routing is None else {"routing": routing}))
    wanted = [unique("sk-upstream-row") for _ in range(credentials)] if isinstance(credentials, int) else credentials
    ids = tuple(credential(gateway, name, one) for one in wanted)
    return Provider(row_id, name, tuple(one if isinstance(one, str) else one.get("api_key", "") for one in wanted), ids)


def credential(gateway: Gateway, provider: str, secret: str | Mapping) -> int:
    """The id of a further credential of a provider."""
    return put(gateway, "credentials", provider_name=provider, credential=secret)


def model(
    gateway: Gateway,
    provider: str,
    model_id: str | None = None,
    *,
    usd: tuple[float, float] | None = None,
    pricing: Mapping | None = None,
    **fields,
) -> Model:
    """A model of a provider.

    `usd` are the prices of a million tokens of input and of output, `pricing` is the whole document instead; without
    both the model has no price of its own. `fields`: `display_name`, `enabled`.
    """
    model_id = unique("model") if model_id is None else model_id
    if usd is not None:
        pricing = priced(*usd)
    row = {"provider_name": provider, "model_id": model_id, **fields}
    row_id = put(gateway, "models", **row, **({} if pricing is None else {"pricing_json": dict(pricing)}))
    return Model(row_id, provider, model_id)


def priced(input_usd: float, output_usd: float) -> dict:
    """A price document for any count of tokens, in USD per million."""
    tier = {"input_tokens_up_to": 10**8, "price_input_tokens": input_usd, "price_output_tokens": output_usd}
    return {"price_tiers": [tier]}


def alias(
    gateway: Gateway,
    targets: Sequence[Mapping] | Model,
    name: str | None = None,
    *,
    pricing: Mapping | None = None,
    enabled: bool = True,
) -> Alias:
    """An alias of a model, or of targets: `provider`, `model`, `tier`, `weight`."""
    name = unique("alias") if name is None else name
    if isinstance(targets, Model):
        targets = [{"provider": targets.provider, "model": targets.model_id}]
    row = {"alias": name, "targets": [dict(target) for target in targets], "enabled": enabled}
    return Alias(put(gateway, "aliases", **row, **({} if pricing is None else {"pricing_json": dict(pricing)})), name)


def id_of_provider(gateway: Gateway, name: str) -> int:
    (row,) = ok(gateway, "providers/query", {"name": name})
    return row["id"]


def put(gateway: Gateway, entity: str, **row) -> int:
    """Makes a row, or with `id` changes one, and returns its id."""
    return ok(gateway, f"{entity}/upsert", row)["id"]


def ok(gateway: Gateway, path: str, body: Mapping):
    """The JSON that an admin call answers. Raises AssertionError when it is refused."""
    reply = gateway.post(f"/admin/{path}", body)
    assert reply.status == 200, reply.body
    return reply.json
