"""A model name to its targets. Pure: snapshot and name in, targets out; permission is asked of the caller's rights.

Aggregated: an exact alias; `provider/model`; a name that exactly one usable provider registered; a wildcard alias.
Scoped: an alias to this provider; a model registered here; any other alias; the raw id.
"""

import re
from dataclasses import dataclass
from typing import Protocol

from gproxy.errors import Forbidden, NoProviderPrefix, NotFound
from gproxy.snapshot import Alias, Model, Provider, Snapshot


class Rights(Protocol):
    """What admission tells of a caller."""

    def may_use(self, provider_id: int | None, name: str) -> bool: ...

    def may_use_somewhere(self, name: str) -> bool: ...

    def may_access_provider(self, provider_id: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Target:
    """`tier` and `weight` as an alias's target has them."""

    provider: Provider
    model: str
    tier: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Resolved:
    """`name` is what the client sent without a provider prefix: permission, rows and prices go by it."""

    name: str
    targets: tuple[Target, ...]
    alias: Alias | None = None


def aggregated(snapshot: Snapshot, sent: str, rights: Rights) -> Resolved:
    """Raises NoProviderPrefix, Forbidden or NotFound."""
    if alias := snapshot.aliases.get(sent):
        return _through(snapshot, alias, sent, rights)
    prefix, slash, rest = sent.partition("/")
    if slash and (provider := snapshot.providers.get(prefix)):
        return _at(snapshot, provider, rest, rights)
    if provider := _registrar(snapshot, sent, rights):
        return _at(snapshot, provider, sent, rights)
    if alias := _wildcard(snapshot, sent):
        return _through(snapshot, alias, sent, rights)
    if rows := _disabled(snapshot, sent):
        raise _disabled_model(sent) if any(rights.may_use(row.provider_id, sent) for row in rows) else forbidden(sent)
    if slash:
        raise _unknown_provider(prefix, rest, rights)
    raise NoProviderPrefix(
        f"model {sent!r} is no alias; send it as `provider/{sent}`, define an alias of that name, "
        f"or use the provider's own path `/{{provider}}/v1`"
    )


def scoped(snapshot: Snapshot, provider_name: str, sent: str, rights: Rights) -> Resolved:
    """Raises Forbidden or NotFound."""
    name = sent.removeprefix(f"{provider_name}/")
    provider = find_provider(snapshot, provider_name, name, rights)
    alias = snapshot.aliases.get(name)
    if alias and _leads_to(alias, provider):
        return _through(snapshot, alias, name, rights)
    if (provider.id, name) in snapshot.models:
        return _at(snapshot, provider, name, rights)
    alias = alias or _wildcard(snapshot, name, provider) or _wildcard(snapshot, name)
    return _through(snapshot, alias, name, rights) if alias else _at(snapshot, provider, name, rights)


def find_provider(snapshot: Snapshot, provider_name: str, name: str, rights: Rights) -> Provider:
    """The provider of a scoped path. Raises NotFound or Forbidden."""
    provider = snapshot.providers.get(provider_name)
    if provider is None:
        raise _unknown_provider(provider_name, name, rights)
    return provider


def _unknown_provider(provider_name: str, name: str, rights: Rights) -> NotFound | Forbidden:
    """Only who may use any provider is told that this one does not exist."""
    if rights.may_use(None, name):
        return NotFound(f"there is no provider {provider_name!r}")
    return forbidden(name)


def forbidden(name: str) -> Forbidden:
    return Forbidden(f"model {name!r} is not allowed for this key; ask for a permission that matches it")


def _at(snapshot: Snapshot, provider: Provider, name: str, rights: Rights) -> Resolved:
    if not rights.may_use(provider.id, name):
        raise forbidden(name)
    row = snapshot.models.get((provider.id, name))
    if row is not None and not row.enabled:
        raise _disabled_model(name)
    return Resolved(name, (Target(provider, name),))


def _registrar(snapshot: Snapshot, name: str, rights: Rights) -> Provider | None:
    """The one provider open to the caller that registered this name."""
    rows = [r for r in snapshot.registered.get(name, ()) if r.enabled and rights.may_access_provider(r.provider_id)]
    providers = [p for r in rows if (p := snapshot.provider_by_id.get(r.provider_id))]
    return providers[0] if len(providers) == 1 else None


def _disabled(snapshot: Snapshot, name: str) -> list[Model]:
    """The rows of a name that is registered, and nowhere enabled; a disabled provider's rows are absent."""
    rows = [row for row in snapshot.registered.get(name, ()) if row.provider_id in snapshot.provider_by_id]
    return [] if any(row.enabled for row in rows) else rows


def _disabled_model(name: str) -> NotFound:
    return NotFound(f"model {name!r} is disabled")


def _wildcard(snapshot: Snapshot, name: str, provider: Provider | None = None) -> Alias | None:
    for alias in snapshot.wildcards:
        if (provider is None or _leads_to(alias, provider)) and alias.pattern.fullmatch(name):
            return alias
    return None


def _leads_to(alias: Alias, provider: Provider) -> bool:
    return any(target.provider_id == provider.id for target in alias.targets)


def _through(snapshot: Snapshot, alias: Alias, name: str, rights: Rights) -> Resolved:
    """An alias does not inherit its target's permission: the row must allow the alias, at the target's provider."""
    enabled = []
    for target in alias.targets:
        model = _filled(alias, target.model_id, name)
        row = snapshot.models.get((target.provider_id, model))
        if (provider := snapshot.provider_by_id.get(target.provider_id)) and (row is None or row.enabled):
            enabled.append(Target(provider, model, target.tier, target.weight))
    allowed = tuple(target for target in enabled if rights.may_use(target.provider.id, name))
    if allowed:
        return Resolved(name, allowed, alias)
    if enabled or not rights.may_use_somewhere(name):
        raise forbidden(name)
    raise NotFound(f"alias {alias.name!r} has no enabled target left")


def _filled(alias: Alias, model: str, name: str) -> str:
    """The target's `*` stands for what the alias's `*` matched."""
    if not alias.is_wildcard or "*" not in model:
        return model
    matched = iter(alias.pattern.fullmatch(name).groups())
    return re.sub(r"\*", lambda star: next(matched, "*"), model)
