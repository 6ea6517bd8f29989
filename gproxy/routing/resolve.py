"""Resolves a model name to its targets. Pure; permissions are decided by the caller's rights.

Aggregated paths, in this order: an exact alias; `provider/model`; a name that exactly one usable provider registered;
a wildcard alias. Scoped paths: an alias to this provider; a model registered at it; any other alias; the raw id.
"""

from dataclasses import dataclass
from typing import Protocol

from gproxy.errors import Forbidden, NoProviderPrefix, NotFound
from gproxy.patterns import fill
from gproxy.snapshot import Alias, Model, Provider, Snapshot


class Rights(Protocol):
    """The permissions of a caller; implemented by admission."""

    def may_use(self, provider_id: int | None, name: str) -> bool: ...

    def may_use_somewhere(self, name: str) -> bool: ...

    def may_access_provider(self, provider_id: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Target:
    """A provider and a model to try. `tier` and `weight` are those of the alias's target."""

    provider: Provider
    model: str
    tier: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Resolution:
    """The targets of a name. `name`, without provider prefix, decides permissions, limits and prices."""

    name: str
    targets: tuple[Target, ...]
    alias: Alias | None = None


def aggregated(snapshot: Snapshot, sent: str, rights: Rights) -> Resolution:
    """Resolves a name of an aggregated path. Raises NoProviderPrefix, Forbidden or NotFound."""
    if alias := snapshot.aliases.get(sent):
        return _through_alias(snapshot, alias, sent, rights)
    prefix, slash, tail = sent.partition("/")
    if slash and (provider := snapshot.providers.get(prefix)):
        return _at_provider(snapshot, provider, tail, rights)
    if provider := _registering_provider(snapshot, sent, rights):
        return _at_provider(snapshot, provider, sent, rights)
    if alias := _find_wildcard(snapshot, sent):
        return _through_alias(snapshot, alias, sent, rights)
    if rows := _disabled_rows(snapshot, sent):
        raise _disabled_error(sent) if any(rights.may_use(row.provider_id, sent) for row in rows) else forbidden(sent)
    if slash:
        raise _unknown_provider(prefix, tail, rights)
    raise NoProviderPrefix(
        f"model {sent!r} is not an alias; send it as `provider/{sent}`, define an alias of that name, "
        f"or use the provider's own path `/{{provider}}/v1`"
    )


def scoped(snapshot: Snapshot, provider_name: str, sent: str, rights: Rights) -> Resolution:
    """Resolves a name of a path below a provider. Raises Forbidden or NotFound."""
    name = sent.removeprefix(f"{provider_name}/")
    provider = find_provider(snapshot, provider_name, name, rights)
    alias = snapshot.aliases.get(name)
    if alias and _has_target_at(alias, provider):
        return _through_alias(snapshot, alias, name, rights)
    if (provider.id, name) in snapshot.models:
        return _at_provider(snapshot, provider, name, rights)
    alias = alias or _find_wildcard(snapshot, name, provider) or _find_wildcard(snapshot, name)
    return _through_alias(snapshot, alias, name, rights) if alias else _at_provider(snapshot, provider, name, rights)


def find_provider(snapshot: Snapshot, provider_name: str, name: str, rights: Rights) -> Provider:
    """Returns the provider of a scoped path. Raises NotFound or Forbidden."""
    provider = snapshot.providers.get(provider_name)
    if provider is None:
        raise _unknown_provider(provider_name, name, rights)
    return provider


def _unknown_provider(provider_name: str, name: str, rights: Rights) -> NotFound | Forbidden:
    """Returns NotFound only for a caller that may use any provider: others must not learn which providers exist."""
    if rights.may_use(None, name):
        return NotFound(f"there is no provider {provider_name!r}")
    return forbidden(name)


def forbidden(name: str) -> Forbidden:
    """Returns the error for a model name that no permission allows."""
    return Forbidden(f"model {name!r} is not allowed for this key; ask for a permission that matches it")


def _at_provider(snapshot: Snapshot, provider: Provider, name: str, rights: Rights) -> Resolution:
    if not rights.may_use(provider.id, name):
        raise forbidden(name)
    row = snapshot.models.get((provider.id, name))
    if row is not None and not row.enabled:
        raise _disabled_error(name)
    return Resolution(name, (Target(provider, name),))


def _registering_provider(snapshot: Snapshot, name: str, rights: Rights) -> Provider | None:
    """Returns the provider that registered this name, if the caller has access to exactly one such provider."""
    rows = [r for r in snapshot.registered.get(name, ()) if r.enabled and rights.may_access_provider(r.provider_id)]
    providers = [p for r in rows if (p := snapshot.provider_by_id.get(r.provider_id))]
    return providers[0] if len(providers) == 1 else None


def _disabled_rows(snapshot: Snapshot, name: str) -> list[Model]:
    """Returns the name's rows at enabled providers if all are disabled; [] if one is enabled."""
    rows = [row for row in snapshot.registered.get(name, ()) if row.provider_id in snapshot.provider_by_id]
    return [] if any(row.enabled for row in rows) else rows


def _disabled_error(name: str) -> NotFound:
    return NotFound(f"model {name!r} is disabled")


def _find_wildcard(snapshot: Snapshot, name: str, provider: Provider | None = None) -> Alias | None:
    for alias in snapshot.wildcards:
        if (provider is None or _has_target_at(alias, provider)) and alias.pattern and alias.pattern.fullmatch(name):
            return alias
    return None


def _has_target_at(alias: Alias, provider: Provider) -> bool:
    return any(target.provider_id == provider.id for target in alias.targets)


def _through_alias(snapshot: Snapshot, alias: Alias, name: str, rights: Rights) -> Resolution:
    """Returns the enabled targets of the alias that the caller may use.

    An alias does not inherit its target's permission: a row must allow the alias's name at the target's provider.
    Raises Forbidden or NotFound.
    """
    enabled = []
    for target in alias.targets:
        model = _fill_wildcard(alias, target.model_id, name)
        row = snapshot.models.get((target.provider_id, model))
        if (provider := snapshot.provider_by_id.get(target.provider_id)) and (row is None or row.enabled):
            enabled.append(Target(provider, model, target.tier, target.weight))
    allowed = tuple(target for target in enabled if rights.may_use(target.provider.id, name))
    if allowed:
        return Resolution(name, allowed, alias)
    if enabled or not rights.may_use_somewhere(name):
        raise forbidden(name)
    raise NotFound(f"alias {alias.name!r} has no enabled target left")


def _fill_wildcard(alias: Alias, model: str, name: str) -> str:
    """Returns the target's model, each `*` replaced by the text that the alias's `*` matched."""
    if alias.pattern is None or "*" not in model:
        return model
    return fill(model, alias.pattern.captures(name) or ())
