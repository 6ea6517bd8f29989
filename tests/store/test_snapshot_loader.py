"""The snapshot: its contents, the parts that a reload reads again, patterns and their precedence."""

import json
import random
import time
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gproxy.admission.keys import digest
from gproxy.snapshot import Dispatch, Quota, Snapshot, by_precedence, glob
from gproxy.store import accounts, snapshot_loader
from gproxy.store import models as m
from gproxy.store.database import Database
from gproxy.store.seeding import NewAlias, NewCredential, NewLimit, NewModel, NewQuota, NewTarget, NewUser, secret_json
from gproxy.store.snapshot_loader import without_version
from tests import postgres
from tests.sample_db import SECRET, filled, key, provider


def load(database: Database, before: Snapshot | None = None, **environ: str) -> Snapshot:
    return database.run(snapshot_loader.load, before, environ, None)


def change(database: Database, *tables: str, update=None) -> None:
    """A change by an administrator: the rows and their revisions in one transaction."""

    def write():
        with database.write():
            if update is not None:
                update.execute()
            snapshot_loader.bump(*tables)

    database.run(write)


def test_a_snapshot_contains_what_was_stored(tmp_path: Path):
    found = load(filled(tmp_path))
    one = found.providers["one"]
    assert found.provider_by_id[one.id] is one
    assert (one.channel, [c.secret for c in one.credentials]) == ("openai", [SECRET])
    model = found.models[one.id, "m"]
    assert (model.display_name, model.pricing) == ("Model M", '{"price_each_call": "0.1"}')
    assert found.registered == {"m": (model,)}
    assert [(t.provider_id, t.model_id) for t in found.aliases["chat"].targets] == [(one.id, "m")]
    root, ann = found.callers[digest("sk-root")], found.callers[digest("sk-ann")]
    assert (root.user_name, root.is_admin, ann.is_admin) == ("root", True, False)
    assert [(g.provider_id, bool(g.matches("m1")), bool(g.matches("n"))) for g in ann.grants] == [(one.id, True, False)]
    assert root.grants[0].provider_id is None


def test_the_repr_of_a_snapshot_has_no_secret_and_a_snapshot_is_frozen(tmp_path: Path):
    found = load(filled(tmp_path))
    assert SECRET not in repr(found)
    with pytest.raises(FrozenInstanceError):
        found.providers = {}


def test_without_a_new_revision_the_same_snapshot_is_returned(tmp_path: Path, pytestconfig):
    for dsn in (None, postgres.fresh_database(pytestconfig)):
        database = filled(tmp_path, dsn)
        first = load(database)
        assert load(database, first) is first


PARTS = {
    "settings": {"providers", "provider_by_id", "provider_defaults", "deployment"},
    "providers": {"providers", "provider_by_id"},
    "models": {"models", "registered"},
    "aliases": {"aliases", "wildcards"},
    "users": {"callers"},
}
SHARED = {name for parts in PARTS.values() for name in parts}


@pytest.mark.parametrize("table", PARTS)
def test_a_reload_reads_only_changed_groups(tmp_path: Path, table):
    database = filled(
        tmp_path,
        aliases=(NewAlias("a*", True, (NewTarget("one", "m"),)), NewAlias("b", True, (NewTarget("one", "m"),))),
    )
    first = load(database)
    change(database, table)
    second = load(database, first)
    replaced = {name for name in SHARED if getattr(first, name) is not getattr(second, name)}
    assert replaced == PARTS[table]
    assert second.revisions[table] == first.revisions[table] + 1
    assert load(database, second) is second


def test_a_change_without_a_new_revision_is_not_loaded(tmp_path: Path):
    database = filled(tmp_path)
    first = load(database)
    change(database, update=m.Provider.update(enabled=False))
    assert load(database, first) is first
    change(database, "models")
    assert load(database, first).providers is first.providers


def test_a_change_is_loaded(tmp_path: Path):
    database = filled(tmp_path)
    first = load(database)
    change(database, "providers", update=m.Provider.update(enabled=False).where(m.Provider.name == "one"))
    assert (list(first.providers), list(load(database, first).providers)) == (["one", "two"], ["two"])


def test_disabled_rows_are_absent_except_models(tmp_path: Path):
    users = (
        NewUser("off", None, False, True, (key("sk-off"),)),
        NewUser("on", None, True, True, (key("sk-on"), key("sk-disabled", enabled=False))),
    )
    credentials = (NewCredential(secret_json(api_key="k1"), enabled=False), NewCredential(secret_json(api_key="k2")))
    found = load(
        filled(
            tmp_path,
            providers=(provider("one", *credentials), provider("two", enabled=False)),
            models=(NewModel("one", "m", None, False, None),),
            aliases=(NewAlias("a", False, (NewTarget("one", "m"),)), NewAlias("b*", False, (NewTarget("one", "m"),))),
            users=users,
            permissions=(),
        )
    )
    assert [c.secret for c in found.providers["one"].credentials] == ["k2"]
    assert list(found.providers) == ["one"] and len(found.provider_by_id) == 1
    assert not found.registered["m"][0].enabled
    assert (found.aliases, found.wildcards) == ({}, ())
    assert list(found.callers) == [digest("sk-on")]


def test_a_caller_has_the_limits_quota_and_permissions_of_user_and_key(tmp_path: Path):
    restricted = key("sk-2", budget=5, permissions=(("two", "m"),), limits=(NewLimit("m", concurrency=2),))
    found = load(
        filled(
            tmp_path,
            users=(
                NewUser("u", None, True, True, (key("sk-1"), restricted)),
                NewUser("v", None, True, True, (key("sk-3"),)),
            ),
            permissions=(("u", None, "*"),),
            limits=(("u", NewLimit("*", 1, 2, 3, 4)), ("u", NewLimit("m", rpm=0))),
            quotas=(("u", NewQuota(10, 4, "month")),),
            file_permissions=(("u", "two"), ("u", "one")),
        )
    )
    first, second, other = (found.callers[digest(text)] for text in ("sk-1", "sk-2", "sk-3"))
    limits = [(row.id, row.pattern, row.rpm, row.rpd, row.total_tokens, row.concurrency) for row in first.limits]
    assert limits == [(3, "m", 0, None, None, None), (2, "*", 1, 2, 3, 4)]
    assert bool(first.limits[0].matches("m")) and not first.limits[0].matches("mm") and first.limits[1].matches("mm")
    assert (first.key_limits, first.budget, first.key_grants) == ((), None, None)
    assert (first.quota, first.files) == (Quota(10, "month"), frozenset({1, 2}))
    assert (second.limits, second.quota, second.files) == (first.limits, first.quota, first.files)
    assert [(row.pattern, row.concurrency) for row in second.key_limits] == [("m", 2)]
    assert second.budget == 5
    assert [(grant.provider_id, bool(grant.matches("m"))) for grant in second.key_grants] == [(2, True)]
    assert len(second.grants) == 1, "a permission of the key was loaded as one of the user"
    assert (other.limits, other.quota, other.files, other.key_grants) == ((), None, frozenset(), None)


def test_an_account_without_a_cap_is_not_a_quota(tmp_path: Path):
    database = filled(tmp_path, quotas=(("ann", NewQuota(10)),))
    first = load(database)
    assert first.callers[digest("sk-ann")].quota == Quota(10, None)
    database.run(accounts.remove_quota, database, 2)
    assert load(database, first).callers[digest("sk-ann")].quota is None


def test_a_key_for_a_deleted_provider_may_do_nothing_rather_than_everything(tmp_path: Path):
    users = (NewUser("u", None, True, True, (key("sk-1", permissions=(("two", "*"),)),)),)
    database = filled(tmp_path, users=users, permissions=(("u", None, "*"),))
    database.run(m.Provider.delete().where(m.Provider.name == "two").execute)
    assert load(database).callers[digest("sk-1")].key_grants == ()


# patterns in the order of precedence
LIMIT_ORDERS = [
    ["gpt-4o", "gpt-4o*", "gpt-*", "*"],
    ["a", "aaaa*"],
    ["gpt-4?", "gpt-*", "g*t-4o", "*-4o", "*o", "*"],
]


@pytest.mark.parametrize("patterns", LIMIT_ORDERS)
def test_limits_are_ordered_by_precedence(tmp_path: Path, patterns):
    shuffled = random.Random(1).sample(patterns, len(patterns))
    found = load(filled(tmp_path, limits=tuple(("ann", NewLimit(pattern, rpm=1)) for pattern in shuffled)))
    assert [row.pattern for row in found.callers[digest("sk-ann")].limits] == patterns


def test_a_provider_inherits_missing_price_and_quota_settings(tmp_path: Path):
    providers = (provider("one", unpriced="allow", stop_at_quota=False), provider("two"))
    found = load(filled(tmp_path / "a", providers=providers, provider_defaults_json='{"unpriced": "deny"}'))
    both = (found.providers["one"].settings, found.providers["two"].settings)
    settings = [(one.unpriced, one.assumed_output_tokens, one.stop_at_quota) for one in both]
    assert settings == [("allow", 4096, False), ("deny", 4096, True)]
    found = load(filled(tmp_path / "b", provider_defaults_json='{"assumed_output_tokens": 7}'))
    assert found.providers["one"].settings.assumed_output_tokens == 7


def test_an_alias_may_have_its_own_price(tmp_path: Path):
    aliases = (
        NewAlias("a", True, (NewTarget("one", "m"),), '{"price_each_call": "0.2"}'),
        NewAlias("b", True, (NewTarget("one", "m"),)),
    )
    found = load(filled(tmp_path, aliases=aliases)).aliases
    assert (found["a"].pricing, found["b"].pricing) == ('{"price_each_call": "0.2"}', None)


def test_an_expiry_is_in_seconds(tmp_path: Path):
    users = (NewUser("u", None, True, True, (key("sk-1", expires_at=1_500_000_000), key("sk-2"))),)
    found = load(filled(tmp_path, users=users, permissions=()))
    assert (found.callers[digest("sk-1")].expires_at, found.callers[digest("sk-2")].expires_at) == (1.5, None)


# environment variables, keys of the usable credentials
REFERENCES = [
    ({"UP": "sk-1"}, ["sk-1"]),
    ({"UP": " sk-1\n"}, ["sk-1"]),
    ({"UP": ""}, []),
    ({"UP": "  "}, []),
    ({}, []),
    ({"UP": "sk-1\nX-Evil: 1"}, []),
    ({"UP": "sk 1"}, []),
]


@pytest.mark.parametrize(("environ", "used"), REFERENCES)
def test_a_reference_is_looked_up_at_every_start(tmp_path: Path, caplog, environ, used):
    database = filled(tmp_path, providers=(provider("one", NewCredential(secret_json(api_key="${UP}"))),))
    assert [c.secret for c in load(database, **environ).providers["one"].credentials] == used
    assert [message.startswith("credential 1: its environment variable") for message in caplog.messages] == (
        [] if used else [True]
    )
    assert "Evil" not in caplog.text


def test_a_text_that_only_resembles_a_reference_is_the_key(tmp_path: Path):
    keys = ["$UP", "${UP}x", "{UP}", "${1}"]
    database = filled(tmp_path, providers=(provider("one", *(NewCredential(secret_json(api_key=k)) for k in keys)),))
    assert [c.secret for c in load(database, UP="sk").providers["one"].credentials] == keys


def test_a_setting_of_a_provider_overrides_the_global_default(tmp_path: Path):
    database = filled(
        tmp_path,
        provider_defaults_json='{"idle_timeout_s": 7, "connect_timeout_s": 3, "forward_headers": ["x-a"]}',
        providers=(provider("one", idle_timeout_s=9, forward_headers=[]), provider("two")),
    )
    found = {name: p.settings for name, p in load(database).providers.items()}
    assert (found["one"].idle_timeout_s, found["one"].connect_timeout_s, found["one"].forward_headers) == (9, 3, ())
    assert (found["two"].idle_timeout_s, found["two"].total_timeout_s, found["two"].forward_headers) == (
        7,
        3600,
        ("x-a",),
    )


# value in [global], value of the provider, effective value
SWITCHES = [(None, None, False), (True, None, True), (True, False, False), (False, True, True)]


@pytest.mark.parametrize(("defaults", "own", "effective"), SWITCHES)
@pytest.mark.parametrize("name", ["strict_translation", "fetch_images"])
def test_a_switch_of_a_provider_overrides_the_global_default(tmp_path: Path, name, defaults, own, effective):
    defaults, own = ({} if value is None else {name: value} for value in (defaults, own))
    database = filled(tmp_path, provider_defaults_json=json.dumps(defaults), providers=(provider("one", **own),))
    assert getattr(load(database).providers["one"].settings, name) is effective


def rule(operation: str, protocol: str, implementation) -> dict:
    return {"route": {"operation": operation, "protocol": protocol}, "implementation": implementation}


TO_CLAUDE = {"TransformTo": {"destination": {"operation": "generate_content", "protocol": "claude"}}}
CHAT = ("generate_content", "openai_chat_completions")

# routing_json, dispatch by operation and protocol
ROUTINGS = [
    ("", None),
    ("{}", None),
    ("null", None),
    ('{"rules": []}', None),
    (json.dumps({"rules": [rule(*CHAT, "Passthrough")]}), {CHAT: Dispatch("passthrough")}),
    (
        json.dumps({"rules": [rule(*CHAT, TO_CLAUDE), rule("model_list", "openai", "Local")]}),
        {CHAT: Dispatch("transform", "generate_content", "claude"), ("model_list", "openai"): Dispatch("local")},
    ),
    # Unknown operations and protocols are kept: they may be of another version, and no call has them.
    (
        json.dumps({"rules": [rule("telepathy", "wave", "Unsupported")]}),
        {("telepathy", "wave"): Dispatch("unsupported")},
    ),
]


@pytest.mark.parametrize(("stored", "rules"), ROUTINGS)
def test_a_routing_document_becomes_dispatches(tmp_path: Path, caplog, stored, rules):
    database = filled(tmp_path, providers=(replace(provider("one"), routing_json=stored), provider("two")))
    found = load(database).providers
    assert (found["one"].routing, found["two"].routing, caplog.messages) == (rules, None, [])


UNREADABLE = [
    "{",
    "5",
    "[]",
    '"openai-like"',
    '{"rules": {}}',
    '{"rules": null}',
    '{"rules": [], "more": 1}',
    '{"ruls": []}',
    '{"rules": [5]}',
    '{"rules": [{"implementation": "Local"}]}',
    '{"rules": [{"route": {"operation": "compact", "protocol": "openai"}}]}',
    json.dumps({"rules": [rule("compact", None, "Local")]}),
    json.dumps({"rules": [rule("compact", "openai", "Teleport")]}),
    json.dumps({"rules": [rule("compact", "openai", {"TransformTo": {}})]}),
    json.dumps({"rules": [rule(*CHAT, "Local"), rule("compact", "openai", None)]}),
    "[" * 100_000,
]


@pytest.mark.parametrize("stored", UNREADABLE, ids=range(len(UNREADABLE)))
def test_an_invalid_routing_document_is_logged_and_the_channels_default_applies(tmp_path: Path, caplog, stored):
    database = filled(tmp_path, providers=(replace(provider("one"), routing_json=stored), provider("two")))
    found = load(database)
    assert (list(found.providers), found.providers["one"].routing) == (["one", "two"], None)
    (message,) = caplog.messages
    assert message.startswith("provider one: its routing cannot be read, so its channel's default applies: ")


def test_a_changed_routing_changes_only_its_provider(tmp_path: Path):
    database = filled(tmp_path)
    first = load(database)
    stored = json.dumps({"rules": [rule(*CHAT, "Local")]})
    change(database, "providers", update=m.Provider.update(routing_json=stored).where(m.Provider.name == "one"))
    second = load(database, first)
    change(database, "providers")
    third = load(database, second)
    assert first.providers["one"] != second.providers["one"] == third.providers["one"]
    assert first.providers["two"] == second.providers["two"]


def test_a_changed_default_applies_to_every_provider(tmp_path: Path):
    database = filled(tmp_path)
    first = load(database)
    update = m.GlobalSettings.update(provider_defaults_json='{"idle_timeout_s": 7}', enable_usage=False)
    change(database, "settings", update=update)
    second = load(database, first)
    assert [p.settings.idle_timeout_s for p in second.providers.values()] == [7, 7]
    assert (first.enable_usage, second.enable_usage) == (True, False)


def test_a_changed_provider_keeps_the_defaults(tmp_path: Path):
    database = filled(tmp_path, provider_defaults_json='{"idle_timeout_s": 7}')
    first = load(database)
    change(database, "providers", update=m.Provider.update(label="new"))
    assert load(database, first).providers["two"].settings.idle_timeout_s == 7


def test_a_setting_of_a_newer_version_is_ignored(tmp_path: Path):
    found = load(
        filled(
            tmp_path,
            providers=(provider("one", idle_timeout_s=5, from_the_future=1),),
            models=(),
            aliases=(),
            permissions=(),
        )
    )
    assert found.providers["one"].settings.idle_timeout_s == 5


# stored base_url, URL to which the channel's paths are appended
BASES = [
    ("https://h", "https://h"),
    ("https://h/", "https://h"),
    ("https://h/v1", "https://h"),
    ("https://h/v1/", "https://h"),
    ("https://h/v1beta", "https://h"),
    ("https://h/v1beta//", "https://h"),
    ("https://h/openai/v1", "https://h/openai"),
    ("https://h/v1/openai", "https://h/v1/openai"),
    ("https://h/v12", "https://h/v12"),
    ("https://h/xv1", "https://h/xv1"),
    ("http://v1", "http://v1"),
]


@pytest.mark.parametrize(("written", "base"), BASES)
def test_a_base_url_loses_slash_and_version(tmp_path: Path, written, base):
    assert without_version(written) == base
    found = load(
        filled(tmp_path, providers=(provider("one", base_url=written),), models=(), aliases=(), permissions=())
    )
    assert found.providers["one"].settings.base_url == base


# pattern, matching names, other names
GLOBS = [
    ("*", ["", "m", "a/b", "a\nb", "ü"], []),
    ("gpt-5", ["gpt-5"], ["gpt-5x", "xgpt-5", "GPT-5", "gpt-5\n", ""]),
    ("gpt-*", ["gpt-", "gpt-5", "gpt-5/mini"], ["gpt", "GPT-5", "xgpt-5"]),
    ("*mini", ["mini", "gpt-mini", "a/mini"], ["minis", "MINI"]),
    ("a*b*c", ["abc", "axxbyyc", "abcbc"], ["ab", "acb", "abcd"]),
    ("**", ["", "abc"], []),
    ("gpt-?", ["gpt-5", "gpt-/", "gpt-*"], ["gpt-", "gpt-55"]),
    ("?", ["a", "ü", "\n"], ["", "ab"]),
    ("?*", ["a", "ab"], [""]),
    ("a.b", ["a.b"], ["axb"]),
    ("a+(b)[c]{1}^$|\\d", ["a+(b)[c]{1}^$|\\d"], ["aab", "a", ""]),
    ("[a-z]*", ["[a-z]x"], ["a", "ax"]),
    ("one/*", ["one/", "one/m", "one/a/b"], ["one", "two/m"]),
    ("", [""], ["a"]),
]


@pytest.mark.parametrize(("pattern", "matching", "other"), GLOBS)
def test_a_glob_has_two_wildcards_and_every_other_character_matches_itself(pattern, matching, other):
    assert [name for name in matching if not glob(pattern).fullmatch(name)] == []
    assert [name for name in other if glob(pattern).fullmatch(name)] == []


def test_a_glob_of_many_stars_is_not_slow():
    assert not glob("*" * 60 + "x").fullmatch("a" * 5000)


# most specific first
PRECEDENCE = [
    ["gpt-5-mini*", "gpt-5-*", "gpt-*", "g*", "*"],
    ["gpt-*-mini", "gpt-*", "*-mini", "*"],
    ["ab*c", "a*bcdef", "*abcdefgh"],
    ["a*x", "b*x"],
    ["gpt-?x", "gpt-?", "gpt?"],
]


@pytest.mark.parametrize("patterns", PRECEDENCE)
def test_the_most_specific_pattern_comes_first(patterns):
    shuffled = patterns[:]
    random.Random(5).shuffle(shuffled)
    assert sorted(shuffled, key=by_precedence) == patterns


# alias, matching names, other names
WILDCARDS = [
    ("gpt-*", ["gpt-", "gpt-5", "gpt-5/x"], ["gpt", "xgpt-5", "GPT-5"]),
    ("a.*", ["a.", "a.b"], ["ab"]),
    ("*", ["", "anything\n"], []),
    ("a*?", ["a?", "ab?"], ["ab"]),
]


@pytest.mark.parametrize(("alias", "matching", "other"), WILDCARDS)
def test_an_alias_has_one_wildcard(tmp_path: Path, alias, matching, other):
    found = load(filled(tmp_path, aliases=(NewAlias(alias, True, (NewTarget("one", "m"),)),)))
    (wildcard,) = found.wildcards
    assert wildcard.is_wildcard and not found.aliases
    assert [name for name in matching if not wildcard.pattern.fullmatch(name)] == []
    assert [name for name in other if wildcard.pattern.fullmatch(name)] == []


def test_an_alias_with_a_question_mark_is_exact(tmp_path: Path):
    found = load(filled(tmp_path, aliases=(NewAlias("a?", True, (NewTarget("one", "m"),)),)))
    assert list(found.aliases) == ["a?"] and not found.aliases["a?"].is_wildcard


def test_wildcard_aliases_are_ordered_by_precedence(tmp_path: Path):
    aliases = tuple(NewAlias(name, True, (NewTarget("one", "m"),)) for name in ("*", "gpt-*", "gpt-5-*", "*-mini"))
    assert [alias.name for alias in load(filled(tmp_path, aliases=aliases)).wildcards] == [
        "gpt-5-*",
        "gpt-*",
        "*-mini",
        "*",
    ]


def test_a_pattern_of_many_stars_is_decided_quickly():
    pattern = glob("*a" * 30 + "*b")
    started = time.perf_counter()
    assert not pattern.fullmatch("a" * 512)
    assert pattern.fullmatch("a" * 511 + "b")
    assert time.perf_counter() - started < 0.1


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_a_pattern_matches_like_a_simple_recursive_matcher(pattern, name):
    def matches(p, n):
        if not p:
            return not n
        if p[0] == "*":
            return matches(p[1:], n) or (bool(n) and matches(p, n[1:]))
        return bool(n) and p[0] in ("?", n[0]) and matches(p[1:], n[1:])

    assert bool(glob(pattern).fullmatch(name)) is matches(pattern, name)
