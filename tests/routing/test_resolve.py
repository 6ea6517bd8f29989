"""Resolving a model name: every rule, and which rule wins where two apply."""

import time
from dataclasses import replace

import pytest

from gproxy.admission.permissions import Rights
from gproxy.errors import Forbidden, GatewayError, NoProviderPrefix, NotFound
from gproxy.patterns import alias_pattern
from gproxy.routing import resolve
from gproxy.snapshot import (
    Alias,
    Caller,
    Grant,
    Model,
    Provider,
    ProviderSettings,
    Snapshot,
    Target,
    by_precedence,
    glob,
)

IDS = {"openai": 1, "anthropic": 2, "router": 3, "off": 4}
ENABLED = ("openai", "anthropic", "router")
# provider, model, whether it is enabled
MODELS = (
    ("openai", "gpt-4.1", True),
    ("openai", "shared", True),
    ("anthropic", "shared", True),
    ("anthropic", "claude", True),
    ("openai", "half-off", False),
    ("anthropic", "half-off", True),
    ("openai", "retired", False),
    ("off", "only-at-off", True),
    ("off", "retired-at-off", False),
    ("router", "meta/llama", True),
    ("router", "meta/retired", False),
    ("router", "openai/gpt-oss", True),
    ("openai", "own-and-alias", True),
    ("anthropic", "own-and-alias", True),
    ("openai", "wild-model", True),
    ("openai", "behind", False),
)
# alias, its targets in order
ALIASES = {
    "fast": (("openai", "gpt-4.1"),),
    "gpt-4.1": (("anthropic", "claude"),),
    "openai/aliased": (("anthropic", "claude"),),
    "own-and-alias": (("anthropic", "claude"),),
    "both": (("openai", "gpt-4.1"), ("anthropic", "claude")),
    "to-off": (("off", "only-at-off"),),
    "to-deleted": ((99, "gone"),),
    "to-behind": (("openai", "behind"),),
    "first-is-off": (("off", "only-at-off"), ("anthropic", "claude")),
    "to-nothing": (),
    "wild-*": (("anthropic", "claude-*"),),
    "wild-x-*": (("openai", "x-*"),),
    "*-end": (("openai", "fixed"),),
    "a*-b*-c": (("openai", "*/*"),),
    "more*": (("openai", "*-*"),),
    "blocked-*": (("openai", "behind"),),
}


def alias(name: str, targets: tuple) -> Alias:
    pattern = alias_pattern(name) if "*" in name else None
    return Alias(name, tuple(Target(IDS.get(provider, provider), model) for provider, model in targets), pattern)


def snapshot() -> Snapshot:
    providers = [Provider(IDS[name], name, "custom", ProviderSettings(), ()) for name in ENABLED]
    rows = [Model(IDS[provider], model, None, enabled, None) for provider, model, enabled in MODELS]
    registered: dict[str, tuple[Model, ...]] = {}
    for row in rows:
        registered[row.model_id] = (*registered.get(row.model_id, ()), row)
    found = [alias(name, targets) for name, targets in ALIASES.items()]
    return Snapshot(
        {},
        providers={provider.name: provider for provider in providers},
        provider_by_id={provider.id: provider for provider in providers},
        models={(row.provider_id, row.model_id): row for row in rows},
        registered=registered,
        aliases={one.name: one for one in found if not one.is_wildcard},
        wildcards=tuple(sorted((a for a in found if a.is_wildcard), key=lambda a: by_precedence(a.name))),
    )


SNAPSHOT = snapshot()


def rights(*grants: tuple[str | None, str]) -> Rights:
    """Grants as (provider or any, pattern)."""
    found = tuple(Grant(IDS[provider] if provider else None, glob(pattern).fullmatch) for provider, pattern in grants)
    return Rights(Caller(1, "user", 1, False, None, found))


ALL = rights((None, "*"))


def resolved(resolve_name, *arguments) -> object:
    """Returns the name, `provider model` of each target and the alias, or the class of the error."""
    try:
        found = resolve_name(SNAPSHOT, *arguments)
    except GatewayError as error:
        return type(error)
    return (
        found.name,
        [f"{target.provider.name} {target.model}" for target in found.targets],
        found.alias and found.alias.name,
    )


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        # an exact alias comes first: before a prefix, a registered name and a wildcard
        ("fast", ("fast", ["openai gpt-4.1"], "fast")),
        ("gpt-4.1", ("gpt-4.1", ["anthropic claude"], "gpt-4.1")),
        ("openai/aliased", ("openai/aliased", ["anthropic claude"], "openai/aliased")),
        ("both", ("both", ["openai gpt-4.1", "anthropic claude"], "both")),
        # a provider's prefix, split at the first slash
        ("openai/gpt-4.1", ("gpt-4.1", ["openai gpt-4.1"], None)),
        ("openai/anything", ("anything", ["openai anything"], None)),
        ("router/meta/llama", ("meta/llama", ["router meta/llama"], None)),
        ("router/openai/gpt-oss", ("openai/gpt-oss", ["router openai/gpt-oss"], None)),
        # ... even where the whole name is registered elsewhere, and never through an alias
        ("openai/gpt-oss", ("gpt-oss", ["openai gpt-oss"], None)),
        ("openai/fast", ("fast", ["openai fast"], None)),
        # a name that exactly one provider registered
        ("claude", ("claude", ["anthropic claude"], None)),
        ("meta/llama", ("meta/llama", ["router meta/llama"], None)),
        ("half-off", ("half-off", ["anthropic half-off"], None)),
        ("wild-model", ("wild-model", ["openai wild-model"], None)),
        # a wildcard, the most specific first, filled in
        ("wild-7", ("wild-7", ["anthropic claude-7"], "wild-*")),
        ("wild-x-7", ("wild-x-7", ["openai x-7"], "wild-x-*")),
        ("wild-", ("wild-", ["anthropic claude-"], "wild-*")),
        ("wild-a/b:c\n", ("wild-a/b:c\n", ["anthropic claude-a/b:c\n"], "wild-*")),
        ("wild-7-end", ("wild-7-end", ["anthropic claude-7-end"], "wild-*")),
        ("the-end", ("the-end", ["openai fixed"], "*-end")),
        ("a1-b2-c", ("a1-b2-c", ["openai 1/2"], "a*-b*-c")),
        ("a*-b2-c", ("a*-b2-c", ["openai */2"], "a*-b*-c")),
        ("more1", ("more1", ["openai 1-*"], "more*")),
        # neither
        ("shared", NoProviderPrefix),
        ("unheard-of", NoProviderPrefix),
        ("only-at-off", NoProviderPrefix),
        ("retired-at-off", NoProviderPrefix),
        ("Fast", NoProviderPrefix),
        ("unknown/model", NotFound),
        ("off/only-at-off", NotFound),
        # disabled
        ("retired", NotFound),
        ("openai/retired", NotFound),
        ("meta/retired", NotFound),
        ("openai/half-off", NotFound),
        ("to-off", NotFound),
        ("to-deleted", NotFound),
        ("to-behind", NotFound),
        ("to-nothing", NotFound),
        ("blocked-7", NotFound),
        ("first-is-off", ("first-is-off", ["anthropic claude"], "first-is-off")),
    ],
)
def test_resolving_an_aggregated_name(sent, expected):
    assert resolved(resolve.aggregated, sent, ALL) == expected


@pytest.mark.parametrize(
    ("provider", "sent", "expected"),
    [
        # a leading provider is removed, once, and only this one
        ("openai", "gpt-4.1-mini", ("gpt-4.1-mini", ["openai gpt-4.1-mini"], None)),
        ("openai", "openai/gpt-4.1-mini", ("gpt-4.1-mini", ["openai gpt-4.1-mini"], None)),
        ("openai", "openai/openai/x", ("openai/x", ["openai openai/x"], None)),
        ("openai", "anthropic/claude", ("anthropic/claude", ["openai anthropic/claude"], None)),
        ("router", "router/meta/llama", ("meta/llama", ["router meta/llama"], None)),
        # an alias to this provider beats a model registered here
        ("anthropic", "own-and-alias", ("own-and-alias", ["anthropic claude"], "own-and-alias")),
        ("openai", "fast", ("fast", ["openai gpt-4.1"], "fast")),
        ("openai", "openai/fast", ("fast", ["openai gpt-4.1"], "fast")),
        # a model registered here beats any other alias, exact or not
        ("openai", "own-and-alias", ("own-and-alias", ["openai own-and-alias"], None)),
        ("openai", "gpt-4.1", ("gpt-4.1", ["openai gpt-4.1"], None)),
        ("openai", "wild-model", ("wild-model", ["openai wild-model"], None)),
        # any other alias beats the raw id
        ("router", "fast", ("fast", ["openai gpt-4.1"], "fast")),
        ("router", "wild-7", ("wild-7", ["anthropic claude-7"], "wild-*")),
        # among wildcards one to this provider comes first
        ("anthropic", "wild-x-7", ("wild-x-7", ["anthropic claude-x-7"], "wild-*")),
        ("openai", "wild-x-7", ("wild-x-7", ["openai x-7"], "wild-x-*")),
        # a scoped path needs no prefix
        ("openai", "unheard-of", ("unheard-of", ["openai unheard-of"], None)),
        ("openai", "shared", ("shared", ["openai shared"], None)),
        # disabled and unknown
        ("openai", "retired", NotFound),
        ("anthropic", "half-off", ("half-off", ["anthropic half-off"], None)),
        ("openai", "half-off", NotFound),
        ("openai", "to-behind", NotFound),
        ("router", "to-off", NotFound),
        ("off", "only-at-off", NotFound),
        ("unknown", "gpt-4.1", NotFound),
    ],
)
def test_resolving_a_scoped_name(provider, sent, expected):
    assert resolved(resolve.scoped, provider, sent, ALL) == expected


@pytest.mark.parametrize(
    ("sent", "grants", "expected"),
    [
        # permissions apply to the name that was sent, without the provider's prefix
        ("openai/gpt-4.1", [("openai", "gpt-*")], ["openai gpt-4.1"]),
        ("openai/gpt-4.1", [(None, "gpt-4.1")], ["openai gpt-4.1"]),
        ("openai/gpt-4.1", [(None, "openai/gpt-4.1")], Forbidden),
        ("openai/gpt-4.1", [("anthropic", "*")], Forbidden),
        ("openai/gpt-4.1", [("openai", "claude")], Forbidden),
        ("openai/gpt-4.1", [], Forbidden),
        # an alias does not inherit its target's permission and does not need it
        ("fast", [("openai", "gpt-4.1")], Forbidden),
        ("fast", [("openai", "fast")], ["openai gpt-4.1"]),
        ("fast", [(None, "fast")], ["openai gpt-4.1"]),
        ("fast", [("anthropic", "fast")], Forbidden),
        ("openai/aliased", [(None, "openai/*")], ["anthropic claude"]),
        # targets that provider-bound rows exclude are left out
        ("both", [(None, "both")], ["openai gpt-4.1", "anthropic claude"]),
        ("both", [("anthropic", "*")], ["anthropic claude"]),
        ("both", [("router", "*")], Forbidden),
        # an alias with no enabled target is 404 only for callers that may use it, else 403
        ("to-off", [(None, "to-off")], NotFound),
        ("to-off", [("off", "to-off")], NotFound),
        ("to-off", [(None, "other")], Forbidden),
        ("to-deleted", [(None, "*")], NotFound),
        ("to-deleted", [], Forbidden),
        ("first-is-off", [("off", "*")], Forbidden),
        # a disabled model is 404 only for callers that may use it, else 403
        ("retired", [("openai", "*")], NotFound),
        ("retired", [(None, "retired")], NotFound),
        ("retired", [("anthropic", "*")], Forbidden),
        ("retired", [], Forbidden),
        ("openai/retired", [("openai", "gpt-*")], Forbidden),
        ("meta/retired", [("router", "meta/*")], NotFound),
        ("meta/retired", [("openai", "*")], Forbidden),
        # an unknown provider is 404 for callers that may use any provider, else 403
        ("unknown/model", [(None, "model")], NotFound),
        ("unknown/model", [(None, "mod*")], NotFound),
        ("unknown/model", [(None, "other")], Forbidden),
        ("unknown/model", [("openai", "*")], Forbidden),
        ("off/only-at-off", [("off", "*")], Forbidden),
        # without prefix 400 comes before 403
        ("unheard-of", [], NoProviderPrefix),
        ("unheard-of", [("openai", "x")], NoProviderPrefix),
        # a registered name resolves among the providers that the user may use
        ("shared", [("openai", "*")], ["openai shared"]),
        ("shared", [("anthropic", "shared")], ["anthropic shared"]),
        ("shared", [("openai", "*"), ("anthropic", "x")], NoProviderPrefix),
        ("claude", [("openai", "*")], NoProviderPrefix),
        ("claude", [("anthropic", "other")], Forbidden),
        ("claude", [], NoProviderPrefix),
        # wildcards
        ("wild-7", [(None, "wild-*")], ["anthropic claude-7"]),
        ("wild-7", [(None, "claude-*")], Forbidden),
        ("wild-x-7", [("anthropic", "*")], Forbidden),
    ],
)
def test_permissions_of_an_aggregated_name(sent, grants, expected):
    found = resolved(resolve.aggregated, sent, rights(*grants))
    assert (found[1] if isinstance(found, tuple) else found) == expected


@pytest.mark.parametrize(
    ("provider", "sent", "grants", "expected"),
    [
        ("openai", "gpt-4.1-mini", [("openai", "gpt-*")], ["openai gpt-4.1-mini"]),
        ("openai", "openai/gpt-4.1-mini", [("openai", "gpt-*")], ["openai gpt-4.1-mini"]),
        ("openai", "gpt-4.1-mini", [("anthropic", "*")], Forbidden),
        ("openai", "gpt-4.1-mini", [], Forbidden),
        ("openai", "retired", [("openai", "gpt-*")], Forbidden),
        ("openai", "retired", [("openai", "*")], NotFound),
        ("unknown", "x", [(None, "x")], NotFound),
        ("unknown", "unknown/x", [(None, "x")], NotFound),
        ("unknown", "x", [("openai", "*")], Forbidden),
        ("off", "x", [("off", "*")], Forbidden),
        ("router", "fast", [("router", "*")], Forbidden),
        ("router", "fast", [("openai", "fast")], ["openai gpt-4.1"]),
    ],
)
def test_permissions_of_a_scoped_name(provider, sent, grants, expected):
    found = resolved(resolve.scoped, provider, sent, rights(*grants))
    assert (found[1] if isinstance(found, tuple) else found) == expected


@pytest.mark.parametrize(
    ("sent", "grants", "words"),
    [
        ("unheard-of", [], ["provider prefix", "'unheard-of'", "provider/unheard-of"]),
        ("openai/gpt-4.1", [], ["forbidden: model", "'gpt-4.1'"]),
        ("unknown/model", [(None, "*")], ["not_found", "'unknown'"]),
        ("retired", [(None, "*")], ["not_found", "'retired'", "disabled"]),
        ("to-off", [(None, "*")], ["not_found", "'to-off'"]),
        ("blocked-7", [(None, "*")], ["not_found", "'blocked-*'"]),
    ],
)
def test_an_error_has_its_label_and_names_the_requested_model(sent, grants, words):
    with pytest.raises(GatewayError) as caught:
        resolve.aggregated(SNAPSHOT, sent, rights(*grants))
    assert [word for word in words if word not in caught.value.message] == []


def test_resolving_changes_nothing():
    before = snapshot()
    assert [one.name for one in before.wildcards] == [one.name for one in SNAPSHOT.wildcards]
    assert (before.aliases, before.models, before.registered) == (
        SNAPSHOT.aliases,
        SNAPSHOT.models,
        SNAPSHOT.registered,
    )


def test_a_name_of_many_dashes_is_resolved_in_linear_time():
    names = ("*-*-*-*-latest", "*-" * 120 + "x", "*-*-*-*")
    found = replace(SNAPSHOT, wildcards=tuple(alias(name, (("openai", "*/*"),)) for name in names))
    started = time.process_time()
    assert resolve.aggregated(found, "-" * 50_000, ALL).targets[0].model == f"{'-' * 49_997}/"
    assert time.process_time() - started < 0.05
    for one in ("-" * 500, "-" * 50_000):
        with pytest.raises(NoProviderPrefix):
            resolve.aggregated(replace(found, wildcards=found.wildcards[:2]), one, ALL)
    assert time.process_time() - started < 0.1
