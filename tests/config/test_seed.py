"""Seed documents: the values read from them, and the mistakes that stop a start."""

import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gproxy import channels
from gproxy.accounting import prices
from gproxy.app import create_app, reserved_names
from gproxy.config import seed as documents
from gproxy.errors import StartupError
from gproxy.state import periods
from tests.examples import examples

KINDS = channels.load()
RESERVED = frozenset({"v1", "admin"})

PROVIDER = '[[providers]]\nname = "one"\nchannel = "openai"\n'
MODEL = f'{PROVIDER}[[models]]\nprovider_name = "one"\nmodel_id = "m"\n'
ALIAS = f'{PROVIDER}[[model_aliases]]\nalias = "a"\n'
USER = '[[users]]\nname = "ann"\n'
KEY = f'{USER}[[users.keys]]\napi_key = "sk-ann"\n'
LIMIT = f'{USER}[[rate_limits]]\nuser_name = "ann"\nmodel_pattern = "*"\n'
QUOTA = f'{USER}[[quotas]]\nuser_name = "ann"\n'
FILES = '[[file_permissions]]\nuser_name = "ann"\nprovider_name = "one"\n'


def read(text: str, **environ: str) -> dict:
    document = tomllib.loads(text, parse_float=Decimal)
    return documents.read(document, "gproxy.toml", environ, KINDS, RESERVED)


def problems(text: str, **environ: str) -> list[str]:
    with pytest.raises(StartupError) as caught:
        read(text, **environ)
    return caught.value.problems


MISTAKES = """
[global]
idle_timeout_s = "long"                             # 1
enable_usage = 1                                    # 2

[[providers]]
name = "main"
channel = "opnai"                                   # 3
lable = "first"                                     # 4

[[providers]]
name = "main"                                       # 5
channel = "custom"                                  # 6
settings = { protocol = "openai", connect_timeout_s = 0 } # 7
credentials = [{ api_key = "sk-hidden\\nX: 1" }, 5] # 8, 9

[[providers]]
name = "admin"                                      # 10
channel = "openai"
settings = { base_url = "api.example.com" }         # 11

[[models]]
provider_name = "mian"                              # 12
model_id = "m"
price_each_call = "0.01"                            # 13

[[model_aliases]]
alias = "chat"                                      # 14

[[users]]
name = 7                                            # 15

[[users]]
name = "ann"
password = "${ABSENT}"                              # 16

[[users.keys]]
api_key = "sk-ann"
expires_at = "soon"                                 # 17

[[users.keys]]
api_key = "sk-ann"                                  # 18
budget = 0                                          # 19

[[permissions]]
user_name = "anne"                                  # 20
model_pattern = "*"

[[rate_limit]]                                      # 21
"""

# place, remedy
REMEDIES = {
    "global.idle_timeout_s": "expected seconds",
    "global.enable_usage": "expected true or false",
    "providers[1].channel": "did you mean 'openai'?",
    "providers[1].lable": "did you mean 'label'?",
    "providers[2].name": "a duplicate of providers[1]; remove one",
    "providers[2].settings.base_url": "needs the address of its host",
    "providers[2].settings.connect_timeout_s": "more than 0",
    "providers[2].credentials[1].api_key": "mend the key",
    "providers[2].credentials[2]": "expected a table",
    "providers[3].name": "choose another",
    "providers[3].settings.base_url": "expected http://host or https://host",
    "models[1].provider_name": "did you mean 'main'?",
    "models[1].price_each_call": "expected an amount in USD",
    "model_aliases[1]": "give provider_name and model_id",
    "users[1].name": "expected a text in quotes",
    "users[2].password": "environment variable ABSENT is not set; set it or write the value",
    "users[2].keys[1].expires_at": "such as 2027-01-31T00:00:00Z",
    "users[2].keys[2]": "the same key as users[2].keys[1]",
    "users[2].keys[2].budget": "without one there is no cap; to block disable the key",
    "permissions[1].user_name": "did you mean 'ann'?",
    "rate_limit": "did you mean 'rate_limits'?",
}


def test_all_mistakes_are_reported_at_once_with_file_place_and_remedy(tmp_path: Path):
    path = tmp_path / "mistaken.toml"
    path.write_text(MISTAKES, encoding="utf-8")
    document = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    with pytest.raises(StartupError) as caught:
        documents.read(document, path.name, {}, KINDS, RESERVED)
    found = dict(problem.removeprefix("mistaken.toml: ").split(": ", 1) for problem in caught.value.problems)
    assert found.keys() == REMEDIES.keys() and len(caught.value.problems) == len(REMEDIES)
    assert {place for place, remedy in REMEDIES.items() if remedy not in found[place]} == set()
    assert all(problem.startswith("mistaken.toml: ") for problem in caught.value.problems)
    assert "hidden" not in str(caught.value)


# text, the place of the problem
UNSUPPORTED = [
    *(
        (f"{PROVIDER}settings = {{ {written} }}", f"providers[1].settings.{written.split(' ')[0]}")
        for written in (
            "rewrite_rules = [{}]",
            "sanitize_rules = [{}]",
            "cache_breakpoints = [{}]",
            "enable_magic_cache = true",
            "flatten_system_before_cache = true",
            'extra_beta_headers = ["x"]',
            "max_retries_on_429 = 2",
            'user_agent = "x"',
            "early_heartbeat_s = 5",
        )
    ),
]


@pytest.mark.parametrize(("text", "place"), UNSUPPORTED, ids=[place for _, place in UNSUPPORTED])
def test_a_setting_of_a_missing_feature_is_not_yet_supported(text, place):
    (problem,) = problems(text)
    assert problem.startswith(f"gproxy.toml: {place}: ") and "not yet supported" in problem


@pytest.mark.parametrize("name", ["spoof_emulation", "update_channel"])
def test_a_setting_that_gproxy_will_never_have_is_refused(name):
    assert problems(f'[global]\n{name} = "x"') == [f"gproxy.toml: global.{name}: not part of gproxy; remove it"]


NEUTRAL = [
    "rate_limits = []\nquotas = []\nfile_permissions = []",
    "[global]\nenable_upstream_log = false\nenable_downstream_log_body = false",
    PROVIDER + "routing = {}\nsettings = { rewrite_rules = [], retry_timeouts = false }",
    PROVIDER + 'settings = { rotation_strategy = "round_robin", enable_magic_cache = false }',
    KEY + "permissions = []\nrate_limits = []",
]


@pytest.mark.parametrize("text", NEUTRAL)
def test_a_neutral_value_of_an_unsupported_setting_is_accepted(text):
    assert read(text)


# text, the only problem
UNKNOWN = [
    ("[[provider]]", "provider: unknown table; did you mean 'providers'?"),
    ("[globals]", "globals: unknown table; did you mean 'global'?"),
    ("[zzz]", "zzz: unknown table; remove it"),
    ("[global]\nidle_timeout = 5", "global.idle_timeout: unknown key; did you mean 'idle_timeout_s'?"),
    ("[global]\nqqq = 5", "global.qqq: unknown key; remove it"),
    (PROVIDER + "setings = {}", "providers[1].setings: unknown key; did you mean 'settings'?"),
    (
        PROVIDER + 'settings = { base_ulr = "" }',
        "providers[1].settings.base_ulr: unknown key; did you mean 'base_url'?",
    ),
    (
        PROVIDER + 'credentials = [{ api_key = "k" }, { api_key = "l", apikey = "k" }]',
        "providers[1].credentials[2].apikey: unknown key; did you mean 'api_key'?",
    ),
    (MODEL + 'price_tier = "x"', "models[1].price_tier: unknown key; did you mean 'price_tiers'?"),
    (
        MODEL + "price_tiers = [{ input_tokens_up_to = 1, price_input = 1 }]",
        "models[1].price_tiers[1].price_input: unknown key; did you mean 'price_input_tokens'?",
    ),
    (
        ALIAS + 'targets = [{ provider = "one", model = "m", modle = "m" }]',
        "model_aliases[1].targets[1].modle: unknown key; did you mean 'model'?",
    ),
    (PROVIDER + "routing = { rule = [] }", "providers[1].routing.rule: unknown key; did you mean 'rules'?"),
    (KEY + "lable = 'x'", "users[1].keys[1].lable: unknown key; did you mean 'label'?"),
    (USER + "admin = true", "users[1].admin: unknown key; did you mean 'is_admin'?"),
    (
        '[[users]]\nname = "u"\n[[permissions]]\nuser_name = "u"\nmodel_pattern = "*"\nprovider = "x"',
        "permissions[1].provider: unknown key; did you mean 'provider_name'?",
    ),
]


@pytest.mark.parametrize(("text", "problem"), UNKNOWN)
def test_an_unknown_table_or_key_is_reported_with_a_suggestion(text, problem):
    assert problems(text) == [f"gproxy.toml: {problem}"]


# text, how the problem begins
WRONG = [
    ("providers = 5", "providers: expected a list"),
    ("[providers]", "providers: expected a list"),
    ("providers = [1]", "providers[1]: expected a table"),
    ("global = 5", "global: expected a table"),
    ("[[global]]", "global: expected a table"),
    (PROVIDER + "settings = 5", "providers[1].settings: expected a table"),
    (PROVIDER + "credentials = {}", "providers[1].credentials: expected a list"),
    (PROVIDER + 'credentials = ["k"]', "providers[1].credentials[1]: expected a table"),
    (PROVIDER + "credentials = [{}]", "providers[1].credentials[1].api_key: missing; add it"),
    (PROVIDER + 'credentials = [{ api_key = "" }]', "providers[1].credentials[1].api_key: expected 1 to 1024"),
    (PROVIDER + "settings = { fetch_images = 1 }", "providers[1].settings.fetch_images: expected true or false"),
    (PROVIDER + "routing = 5", "providers[1].routing: expected { rules = [ … ] } or the name of a preset: openai-like"),
    (PROVIDER + "label = 5", "providers[1].label: expected a text"),
    (PROVIDER + 'enabled = "yes"', "providers[1].enabled: expected true or false"),
    (PROVIDER + "enabled = 1", "providers[1].enabled: expected true or false"),
    ('[[providers]]\nchannel = "openai"', "providers[1].name: missing; add it"),
    ('[[providers]]\nname = "one"', "providers[1].channel: missing; add it"),
    ('[[providers]]\nname = ""\nchannel = "openai"', "providers[1].name: "),
    ('[[providers]]\nname = "a/b"\nchannel = "openai"', "providers[1].name: may hold letters"),
    ('[[providers]]\nname = "one\\n"\nchannel = "openai"', "providers[1].name: may hold letters"),
    ('[[providers]]\nname = ".."\nchannel = "openai"', "providers[1].name: may hold letters"),
    ('[[providers]]\nname = "one"\nchannel = "zzz"', "providers[1].channel: unknown channel 'zzz'; known: "),
    (MODEL + "price_each_call = -1", "models[1].price_each_call: expected an amount"),
    (MODEL + "price_each_call = nan", "models[1].price_each_call: expected an amount"),
    (MODEL + "price_each_call = inf", "models[1].price_each_call: expected an amount"),
    (MODEL + "price_each_call = true", "models[1].price_each_call: expected an amount"),
    (MODEL + "price_tiers = [{}]", "models[1].price_tiers[1].input_tokens_up_to: missing"),
    (MODEL + "price_tiers = [{ input_tokens_up_to = 0 }]", "models[1].price_tiers[1].input_tokens_up_to: "),
    (MODEL + 'price_tiers = [{ input_tokens_up_to = "5" }]', "models[1].price_tiers[1].input_tokens_up_to: expected"),
    (MODEL + "price_tiers = [{ input_tokens_up_to = true }]", "models[1].price_tiers[1].input_tokens_up_to: expected"),
    (
        MODEL + "price_tiers = [{ input_tokens_up_to = 9 }, { input_tokens_up_to = 9 }]",
        "models[1].price_tiers: two tiers have the same input_tokens_up_to and are overlapping; remove one",
    ),
    (MODEL + 'price_each_call = "3 USD"', "models[1].price_each_call: expected an amount in USD, a number"),
    (MODEL + "batch_price_each_call = -1", "models[1].batch_price_each_call: expected an amount"),
    (
        MODEL + "price_tiers = [{ input_tokens_up_to = 9, price_input_tokens = 1 }, { input_tokens_up_to = 7 }]",
        "models[1].price_tiers: the tier up to 7 has no rate; add one",
    ),
    (
        MODEL + "batch_price_tiers = [{ price_output_image_tokens = 9 }]",
        "models[1].batch_price_tiers[1].input_tokens_up_to: missing; add it",
    ),
    (
        MODEL + "price_tiers = [{ input_tokens_up_to = 9, price_input_audio_tokens = nan }]",
        "models[1].price_tiers[1].price_input_audio_tokens: expected an amount",
    ),
    (MODEL + "tool_prices = 0.01", "models[1].tool_prices: expected a table, such as { web_search = 0.01 }"),
    (MODEL + "tool_prices = { web_search = -1 }", "models[1].tool_prices.web_search: expected an amount"),
    (MODEL + "tool_prices = { web_search = inf }", "models[1].tool_prices.web_search: expected an amount"),
    (MODEL + 'tool_prices = { "Web Search" = 1 }', "models[1].tool_prices.Web Search: expected a tool's name in lower"),
    (
        ALIAS + 'provider_name = "one"\nmodel_id = "m"\nflex_price_each_call = -1',
        "model_aliases[1].flex_price_each_call: expected an amount",
    ),
    (ALIAS + 'provider_name = "one"', "model_aliases[1]: give provider_name and model_id, or targets"),
    (ALIAS + "targets = []", "model_aliases[1]: give provider_name and model_id, or targets"),
    (ALIAS + "targets = [5]", "model_aliases[1].targets[1]: expected a table"),
    (
        ALIAS + 'provider_name = "one"\ntargets = [{ provider = "one", model = "m" }]',
        "model_aliases[1]: give either provider_name and model_id, or targets",
    ),
    (USER + "keys = 5", "users[1].keys: expected a list"),
    (USER + "keys = [5]", "users[1].keys[1]: expected a table"),
    (USER + "keys = [{}]", "users[1].keys[1]: give either api_key or api_key_digest"),
    (USER + "keys = [{ api_key = 5 }]", "users[1].keys[1].api_key: expected a text"),
    (USER + 'keys = [{ api_key = "a b" }]', "users[1].keys[1].api_key: holds a line break, blank"),
    (KEY + 'api_key_digest = "x"', "users[1].keys[1].api_key_digest: expected 64 lower-case hex digits"),
    (KEY + 'disabled_by = "user"', "users[1].keys[1].disabled_by: the key is not disabled; remove it, or write"),
    (KEY + 'enabled = false\ndisabled_by = "me"', "users[1].keys[1].disabled_by: expected one of user, administrator"),
    (KEY + f'api_key_digest = "{"a" * 64}"', "users[1].keys[1]: give either api_key or api_key_digest"),
    (USER + "password = 5", "users[1].password: expected a text"),
    (USER + 'is_admin = "true"', "users[1].is_admin: expected true or false"),
    (USER + '[[permissions]]\nuser_name = "ann"\nmodel_pattern = ""', "permissions[1].model_pattern: expected 1 to"),
    (USER + '[[permissions]]\nuser_name = "ann"', "permissions[1].model_pattern: missing; add it"),
    (PROVIDER + 'settings = { unpriced = "refuse" }', 'providers[1].settings.unpriced: expected "allow" or "deny"'),
    (PROVIDER + "settings = { unpriced = true }", "providers[1].settings.unpriced: expected"),
    (PROVIDER + "settings = { assumed_output_tokens = 0 }", "providers[1].settings.assumed_output_tokens: expect"),
    (PROVIDER + "settings = { assumed_output_tokens = 10_000_001 }", "providers[1].settings.assumed_output_tokens: ex"),
    (PROVIDER + "settings = { assumed_output_tokens = 5.0 }", "providers[1].settings.assumed_output_tokens: expected"),
    (PROVIDER + "settings = { stop_at_quota = 1 }", "providers[1].settings.stop_at_quota: expected true or false"),
    ("[global]\nunpriced = 0", "global.unpriced: expected"),
    (LIMIT, "rate_limits[1]: give at least one of rpm, rpd, total_tokens and concurrency"),
    (LIMIT + "rpm = -1", "rate_limits[1].rpm: expected a whole number from 0, which blocks"),
    (LIMIT + "rpd = 1.5", "rate_limits[1].rpd: expected a whole number"),
    (LIMIT + "rpd = 1.0", "rate_limits[1].rpd: expected a whole number"),
    (LIMIT + 'rpd = "1"', "rate_limits[1].rpd: expected a whole number"),
    (LIMIT + "concurrency = true", "rate_limits[1].concurrency: expected a whole number"),
    (LIMIT + f"total_tokens = {2**53 + 1}", "rate_limits[1].total_tokens: expected a whole number"),
    (LIMIT + "rpm = 1\nprovider_name = 'one'", "rate_limits[1].provider_name: unknown key"),
    (LIMIT.replace('"*"', '"a\\u0000"') + "rpm = 1", "rate_limits[1].model_pattern: holds a NUL"),
    (USER + '[[rate_limits]]\nuser_name = "ann"\nrpm = 1', "rate_limits[1].model_pattern: missing; add it"),
    ('[[rate_limits]]\nmodel_pattern = "*"\nrpm = 1', "rate_limits[1].user_name: missing; add it"),
    (KEY + 'rate_limits = [{ model_pattern = "*" }]', "users[1].keys[1].rate_limits[1]: give at least one of rpm"),
    (KEY + "rate_limits = [{ rpm = 1 }]", "users[1].keys[1].rate_limits[1].model_pattern: missing; add it"),
    (KEY + "permissions = [{}]", "users[1].keys[1].permissions[1].model_pattern: missing; add it"),
    (KEY + "permissions = 5", "users[1].keys[1].permissions: expected a list"),
    (KEY + "budget = 0", "users[1].keys[1].budget: expected an amount in USD of more than 0; leave it out"),
    (KEY + "budget = -1", "users[1].keys[1].budget: expected an amount in USD of more than 0"),
    (KEY + 'budget = "5 USD"', "users[1].keys[1].budget: expected an amount in USD as a number"),
    (QUOTA, "quotas[1].quota: missing; add it"),
    (QUOTA + "quota = 0", "quotas[1].quota: expected an amount in USD of more than 0; remove the row: without"),
    (QUOTA + "quota = 0.0000000004", "quotas[1].quota: expected an amount in USD of more than 0"),
    (QUOTA + "quota = -0.5", "quotas[1].quota: expected an amount in USD of more than 0"),
    (QUOTA + 'quota = "5 USD"', "quotas[1].quota: expected an amount in USD as a number"),
    (QUOTA + 'quota = "5"', "quotas[1].quota: expected an amount in USD as a number"),
    (QUOTA + "quota = nan", "quotas[1].quota: expected an amount in USD as a number"),
    (QUOTA + "quota = inf", "quotas[1].quota: expected an amount in USD as a number"),
    (QUOTA + "quota = true", "quotas[1].quota: expected an amount in USD as a number"),
    (QUOTA + "quota = 1e10", "quotas[1].quota: expected an amount in USD of at most 1000000000"),
    (QUOTA + "quota = 1e9999", "quotas[1].quota: expected an amount in USD of at most 1000000000"),
    (QUOTA + "quota = 1\ncost_used = -1", "quotas[1].cost_used: expected an amount in USD that is not negative"),
    (QUOTA + 'quota = 1\nperiod = "year"', "quotas[1].period: expected day, week or month"),
    (QUOTA + "quota = 1\nperiod = 7", "quotas[1].period: expected a text"),
    (USER + FILES.replace('provider_name = "one"', ""), "file_permissions[1].provider_name: missing; add it"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), WRONG)
def test_a_wrong_value_is_reported_with_its_place(text, problem):
    found = problems(text)
    assert any(line.startswith(f"gproxy.toml: {problem}") for line in found)
    # Other problems only follow from this one: they are in the same table.
    table = problem.split(": ")[0].rpartition(".")[0] or problem.split(": ")[0]
    assert all(line.startswith(f"gproxy.toml: {table}") for line in found)


def test_a_mistake_in_one_key_does_not_hide_one_of_the_whole_table():
    text = ALIAS + 'modle = "m"\n' + USER + 'keys = [{ lable = "x" }]'
    assert {problem.split(": ")[1] for problem in problems(text)} == {
        "model_aliases[1]",
        "model_aliases[1].modle",
        "users[1].keys[1]",
        "users[1].keys[1].lable",
    }


# text, how the only problem begins
UNKNOWN_NAMES = [
    (
        '[[models]]\nprovider_name = "uno"\nmodel_id = "m"',
        "models[1].provider_name: unknown provider 'uno'; add a provider",
    ),
    (
        PROVIDER + '[[models]]\nprovider_name = "on"\nmodel_id = "m"',
        "models[1].provider_name: unknown provider 'on'; did you mean 'one'?",
    ),
    (
        ALIAS + 'provider_name = "oen"\nmodel_id = "m"',
        "model_aliases[1].provider_name: unknown provider 'oen'",
    ),
    (
        ALIAS + 'targets = [{ provider = "oen", model = "m" }]',
        "model_aliases[1].targets[1].provider: unknown provider 'oen'",
    ),
    (
        '[[permissions]]\nuser_name = "ann"\nmodel_pattern = "*"',
        "permissions[1].user_name: unknown user 'ann'; add a user",
    ),
    (
        USER + '[[permissions]]\nuser_name = "ann"\nprovider_name = "one"\nmodel_pattern = "*"',
        "permissions[1].provider_name: unknown provider 'one'",
    ),
    (LIMIT.replace(USER, "") + "rpm = 1", "rate_limits[1].user_name: unknown user 'ann'; add a user"),
    (QUOTA.replace(USER, "") + "quota = 1", "quotas[1].user_name: unknown user 'ann'; add a user"),
    (PROVIDER + FILES, "file_permissions[1].user_name: unknown user 'ann'; add a user"),
    (USER + FILES, "file_permissions[1].provider_name: unknown provider 'one'; add a provider"),
    (
        KEY + 'permissions = [{ provider_name = "one", model_pattern = "*" }]',
        "users[1].keys[1].permissions[1].provider_name: unknown provider 'one'; add a provider",
    ),
]


@pytest.mark.parametrize(("text", "problem"), UNKNOWN_NAMES)
def test_an_unknown_name_is_reported(text, problem):
    (line,) = problems(text)
    assert line.startswith(f"gproxy.toml: {problem}")


def test_an_invalid_name_is_reported_at_its_own_place_only():
    text = '[[providers]]\nname = "a b"\nchannel = "openai"\n[[models]]\nprovider_name = "a b"\nmodel_id = "m"'
    (problem,) = problems(text)
    assert problem.startswith("gproxy.toml: providers[1].name: ")


def test_a_row_that_is_not_a_table_does_not_move_the_places_of_others():
    found = problems('providers = [5, { name = "one", channel = "opnai" }]')
    assert [problem.split(": ")[1] for problem in found] == ["providers[1]", "providers[2].channel"]


DUPLICATES = [
    (PROVIDER + PROVIDER, "providers[2].name: a duplicate of providers[1]"),
    (USER + USER, "users[2].name: a duplicate of users[1]"),
    (MODEL + '[[models]]\nprovider_name = "one"\nmodel_id = "m"', "models[2].model_id: a duplicate of models[1]"),
    (
        PROVIDER + '[[model_aliases]]\nalias = "a"\nprovider_name = "one"\nmodel_id = "m"\n'
        '[[model_aliases]]\nalias = "a"\nprovider_name = "one"\nmodel_id = "n"',
        "model_aliases[2].alias: a duplicate of model_aliases[1]",
    ),
    (
        USER + 2 * '[[permissions]]\nuser_name = "ann"\nmodel_pattern = "*"\n',
        "permissions[2].model_pattern: a duplicate of permissions[1]",
    ),
    (KEY + '[[users.keys]]\napi_key = "sk-ann"', "users[1].keys[2]: the same key as users[1].keys[1]"),
    (
        KEY + '[[users]]\nname = "bob"\n[[users.keys]]\napi_key = "sk-ann"',
        "users[2].keys[1]: the same key as users[1].keys[1]; a key belongs to one user",
    ),
    (
        LIMIT + "rpm = 1\n" + LIMIT.replace(USER, "") + "rpd = 2",
        "rate_limits[2].model_pattern: a duplicate of rate_limits[1]; remove one",
    ),
    (QUOTA + "quota = 1\n" + QUOTA.replace(USER, "") + "quota = 2", "quotas[2].user_name: a duplicate of quotas[1]"),
    (PROVIDER + USER + FILES + FILES, "file_permissions[2].provider_name: a duplicate of file_permissions[1]"),
    (
        KEY + 'permissions = [{ model_pattern = "*" }, { model_pattern = "*" }]',
        "users[1].keys[1].permissions[2].model_pattern: a duplicate of users[1].keys[1].permissions[1]",
    ),
    (
        KEY + 'rate_limits = [{ model_pattern = "*", rpm = 1 }, { model_pattern = "*", rpd = 1 }]',
        "users[1].keys[1].rate_limits[2].model_pattern: a duplicate of users[1].keys[1].rate_limits[1]",
    ),
]


@pytest.mark.parametrize(("text", "problem"), DUPLICATES)
def test_a_duplicate_is_reported(text, problem):
    (line,) = problems(text)
    assert line.startswith(f"gproxy.toml: {problem}")
    assert "sk-ann" not in line


def test_rows_that_differ_in_one_field_are_no_duplicates():
    text = MODEL + '[[models]]\nprovider_name = "one"\nmodel_id = "n"\n' + USER
    text += '[[permissions]]\nuser_name = "ann"\nmodel_pattern = "*"\n'
    text += '[[permissions]]\nuser_name = "ann"\nprovider_name = "one"\nmodel_pattern = "*"'
    assert len(read(text)["permissions"]) == len(read(text)["models"]) == 2


def test_a_provider_cannot_have_the_name_of_a_path_of_gproxy():
    reserved = reserved_names(create_app())
    expected = {
        "v1",
        "v1beta",
        "admin",
        "user",
        "login",
        "me",
        "console",
        "healthz",
        "readyz",
        "metrics",
        "openapi.json",
    }
    assert expected <= reserved
    for name in sorted(reserved & expected):
        document = {"providers": [{"name": name, "channel": "openai"}]}
        with pytest.raises(StartupError, match=rf"providers\[1\]\.name: '{name}' is a path of gproxy's own"):
            documents.read(document, "gproxy.toml", {}, KINDS, reserved)


def test_a_variable_is_filled_in_and_stripped():
    text = '[[users]]\nname = "${NAME}"\npassword = "a${B}c"\n[[users.keys]]\napi_key = "${KEY}"'
    (user,) = read(text, NAME=" ann\n", B="\tb ", KEY="sk-1\r\n")["users"]
    assert (user["name"], user["password"], user["keys"][0]["api_key"]) == ("ann", "abc", "sk-1")


@pytest.mark.parametrize("written", ["$NAME", "${}", "${1A}", "${A-B}", "$${", "{NAME}", "${NAME"])
def test_text_that_is_not_a_reference_is_unchanged(written):
    (user,) = read(f'[[users]]\nname = "{written}"', NAME="filled")["users"]
    assert user["name"] == written


def test_a_missing_variable_is_reported():
    text = PROVIDER + 'label = "${A}"\n' + USER + 'keys = [{ api_key = "${B}-${C}" }]'
    assert problems(text, C="c")[:2] == [
        "gproxy.toml: providers[1].label: environment variable A is not set; set it or write the value",
        "gproxy.toml: users[1].keys[1].api_key: environment variable B is not set; set it or write the value",
    ]


@pytest.mark.parametrize("environ", [{"UP": "sk-up"}, {"UP": ""}, {}])
def test_a_credential_keeps_its_reference(environ):
    (provider,) = read(PROVIDER + 'credentials = [{ api_key = "${UP}" }]', **environ)["providers"]
    assert provider["credentials"][0]["api_key"] == "${UP}"


def test_a_reference_inside_a_credential_is_filled_in():
    (provider,) = read(PROVIDER + 'credentials = [{ api_key = "sk-${UP}" }]', UP=" up ")["providers"]
    assert provider["credentials"][0]["api_key"] == "sk-up"


@pytest.mark.parametrize(
    "bad", ["sk-hidden\\n", "sk-hidden\\r\\nX-Evil: 1", "sk hidden", "sk-hiddenß", "\\u0000sk-hidden", "\\tsk-hidden"]
)
def test_an_upstream_key_that_no_header_can_carry_is_refused_without_quoting_it(bad):
    (problem,) = problems(PROVIDER + f'credentials = [{{ api_key = "{bad}" }}]')
    assert problem.startswith("gproxy.toml: providers[1].credentials[1].api_key: holds a line break, blank")
    assert "hidden" not in problem


def test_a_referenced_upstream_key_that_no_header_can_carry_is_refused_without_quoting_it():
    (problem,) = problems(PROVIDER + 'credentials = [{ api_key = "${UP}" }]', UP="sk-hidden\nX-Evil: 1")
    assert problem.startswith("gproxy.toml: providers[1].credentials[1].api_key: environment variable UP holds")
    assert "hidden" not in problem


BASE_URLS = [
    "https://api.example.com",
    "https://api.example.com/",
    "https://api.example.com/v1",
    "https://api.example.com:8443/openai/v1/",
    "http://127.0.0.1:11434",
    "http://[::1]:8000/v1beta",
    "HTTPS://API.EXAMPLE.COM",
]
INVALID_BASE_URLS = [
    "",
    "api.example.com",
    "//api.example.com",
    "ftp://api.example.com",
    "https://",
    "https:///v1",
    "https://[::1",
    "https://api.example.com:port",
    "https://api.example.com:99999",
    "https://api.example.com/v1?key=1",
    "https://api.example.com/v1?",
    "https://api.example.com/#x",
    "https://api.example.com/v1 ",
    " https://api.example.com",
    "https://api.exa\\nmple.com",
]


@pytest.mark.parametrize("url", BASE_URLS)
def test_a_base_url_is_stored_unchanged(url):
    (provider,) = read(PROVIDER + f'settings = {{ base_url = "{url}" }}')["providers"]
    assert provider["settings"]["base_url"] == url


@pytest.mark.parametrize("url", INVALID_BASE_URLS)
def test_an_invalid_base_url_is_refused(url):
    (problem,) = problems(PROVIDER + f'settings = {{ base_url = "{url}" }}')
    assert problem.startswith("gproxy.toml: providers[1].settings.base_url: expected http://host or https://host")


def test_a_key_in_a_base_url_is_refused_without_quoting_it():
    (problem,) = problems(PROVIDER + 'settings = { base_url = "https://user:hidden@h" }')
    assert "put the key into credentials" in problem and "hidden" not in problem


def test_a_custom_provider_needs_an_address_and_a_known_protocol():
    text = '[[providers]]\nname = "one"\nchannel = "custom"\n'
    assert problems(text)[0].startswith("gproxy.toml: providers[1].settings.base_url: missing")
    (problem,) = problems(text + 'settings = { base_url = "http://h", protocol = "soap" }')
    assert "unknown protocol 'soap'; known: " in problem and "anthropic" in problem
    assert read(text + 'settings = { base_url = "http://h", protocol = "anthropic" }')


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "X-API-Key",
        "x-goog-api-key",
        "cookie",
        "Host",
        "content-length",
        "transfer-encoding",
        "a b",
        "",
        "x:y",
        "x\\ny",
    ],
)
def test_a_header_that_must_not_be_forwarded_is_refused(name):
    (problem,) = problems(PROVIDER + f'settings = {{ forward_headers = ["x-fine", "{name}"] }}')
    assert problem.startswith("gproxy.toml: providers[1].settings.forward_headers[2]: ")
    assert "is never forwarded" in problem


@pytest.mark.parametrize("written", ["0", "-1", "86401", "nan", "inf", "-inf", "true", '"5"', "[]", "{}", "9" * 400])
def test_a_time_is_more_than_0_seconds_and_at_most_a_day(written):
    (problem,) = problems(f"[global]\nidle_timeout_s = {written}")
    assert problem.startswith("gproxy.toml: global.idle_timeout_s: expected seconds, more than 0 and at most 86400")


def test_provider_settings_are_stored_as_json():
    text = PROVIDER + 'settings = { connect_timeout_s = 2.5, forward_headers = ["x-team"] }'
    (provider,) = read(text)["providers"]
    assert documents.settings_json(provider["settings"]) == '{"connect_timeout_s": 2.5, "forward_headers": ["x-team"]}'


@pytest.mark.parametrize("name", ["strict_translation", "fetch_images"])
@pytest.mark.parametrize("value", ["true", "false"])
def test_a_switch_is_stored_only_where_it_is_set(name, value):
    text = f"[global]\n{name} = {value}\n{PROVIDER}settings = {{ {name} = {value} }}\n{PROVIDER.replace('one', 'two')}"
    found = read(text)
    parts = [found["settings"], *(provider["settings"] for provider in found["providers"])]
    stored = f'{{"{name}": {value}}}'
    assert [documents.settings_json(part) for part in parts] == [stored, stored, "{}"]


def test_of_the_global_table_only_provider_settings_are_stored_as_defaults():
    found = read('[global]\nhost = "h"\nport = 1\nidle_timeout_s = 5\nenable_usage = false')["settings"]
    assert documents.settings_json(found) == '{"idle_timeout_s": 5.0}'
    assert found["enable_usage"] is False


# written, nano-USD
AMOUNTS = [
    ("25", 25_000_000_000),
    ("25.50", 25_500_000_000),
    ("0.000000001", 1),
    ("0.0000000005", 1),
    ("0.1234567894", 123_456_789),
    ("0.1234567895", 123_456_790),
    ("1e3", 1_000_000_000_000),
    ("1_000_000_000", 10**18),
    ("999999999.999999999", 10**18 - 1),
]


@pytest.mark.parametrize(("written", "nano"), AMOUNTS)
def test_an_amount_is_exact_to_the_ninth_decimal(written, nano):
    (quota,) = read(QUOTA + f"quota = {written}\ncost_used = {written}")["quotas"]
    assert (quota["quota"], quota["cost_used"], type(quota["quota"])) == (nano, nano, int)
    (user,) = read(KEY + f"budget = {written}")["users"]
    assert user["keys"][0]["budget"] == nano


def test_a_quota_has_no_period_and_no_cost_used_by_default():
    (quota,) = read(QUOTA + "quota = 1")["quotas"]
    assert (quota["cost_used"], quota["period"]) == (0, None)
    for period in periods.PERIODS:
        assert read(QUOTA + f'quota = 1\nperiod = "{period}"')["quotas"][0]["period"] == period


def test_a_limit_may_be_0_and_missing_amounts_are_not_limited():
    (limit,) = read(LIMIT + f"rpm = 0\ntotal_tokens = {2**53}")["rate_limits"]
    assert (limit["rpm"], limit["rpd"], limit["total_tokens"], limit["concurrency"]) == (0, None, 2**53, None)


def test_a_key_has_limits_permissions_and_a_budget_of_its_own():
    text = PROVIDER + KEY + "budget = 2.5\n"
    text += 'permissions = [{ provider_name = "one", model_pattern = "gpt-*" }, { model_pattern = "gpt-*" }]\n'
    text += 'rate_limits = [{ model_pattern = "gpt-*", concurrency = 2 }]'
    (key,) = read(text)["users"][0]["keys"]
    assert key["budget"] == 2_500_000_000
    assert [(p["provider_name"], p["model_pattern"]) for p in key["permissions"]] == [("one", "gpt-*"), (None, "gpt-*")]
    assert [(row["model_pattern"], row["concurrency"]) for row in key["rate_limits"]] == [("gpt-*", 2)]


def test_limits_of_different_users_or_patterns_are_no_duplicates():
    text = LIMIT + 'rpm = 1\n[[rate_limits]]\nuser_name = "ann"\nmodel_pattern = "a*"\nrpm = 1\n'
    text += '[[users]]\nname = "bob"\n[[rate_limits]]\nuser_name = "bob"\nmodel_pattern = "*"\nrpm = 1'
    assert len(read(text)["rate_limits"]) == 3


def test_the_handling_of_unpriced_calls_and_quotas_is_set_globally_and_per_provider():
    text = '[global]\nunpriced = "deny"\nassumed_output_tokens = 10_000_000\nstop_at_quota = false\n' + PROVIDER
    found = read(text + 'settings = { unpriced = "allow", assumed_output_tokens = 1, stop_at_quota = true }')
    written = [documents.settings_json(row) for row in (found["settings"], found["providers"][0]["settings"])]
    assert written == [
        '{"assumed_output_tokens": 10000000, "stop_at_quota": false, "unpriced": "deny"}',
        '{"assumed_output_tokens": 1, "stop_at_quota": true, "unpriced": "allow"}',
    ]
    assert documents.settings_json(read(PROVIDER + "settings = {}")["providers"][0]["settings"]) == "{}"


PRICES = ["0.1", "0.000000001", "3", "1e-7", "0.30", "123456.123456789", "2.675"]


@pytest.mark.parametrize("written", PRICES)
def test_a_price_is_stored_exactly(written):
    text = MODEL + f"price_each_call = {written}\n"
    text += f"price_tiers = [{{ input_tokens_up_to = 200_000, price_input_tokens = {written} }}]\n"
    text += f"flex_price_each_call = {written}"
    (model,) = read(text)["models"]
    stored = prices.document(model)
    assert str(Decimal(written)) in stored
    found = prices.parse(stored)
    assert (found.each_call, found.tiers[0].input, found.tiers[0].up_to) == (
        Decimal(written),
        Decimal(written),
        200_000,
    )


def test_a_model_without_prices_has_no_price_document():
    for text in (MODEL, MODEL + "price_tiers = []"):
        assert prices.document(read(text)["models"][0]) is None


def test_an_alias_can_have_the_same_prices_as_a_model():
    prices_of_both = "price_each_call = 0.1\ntool_prices = { web_search = 0.01 }\n"
    prices_of_both += "scale_price_tiers = [{ input_tokens_up_to = 9, price_input_audio_tokens = 2.5 }]"
    (alias,) = read(f'{ALIAS}provider_name = "one"\nmodel_id = "m"\n{prices_of_both}')["model_aliases"]
    (model,) = read(f"{MODEL}{prices_of_both}")["models"]
    assert prices.document(alias) == prices.document(model)
    found = prices.parse(prices.document(alias))
    assert found.rates("scale").tiers[0].audio_input == Decimal("2.5")
    assert found.tools == {"web_search": Decimal("0.01")}


@pytest.mark.parametrize("nothing", ["", "price_tiers = []", "tool_prices = {}"])
def test_an_alias_without_prices_has_no_price_document(nothing):
    (alias,) = read(f'{ALIAS}provider_name = "one"\nmodel_id = "m"\n{nothing}')["model_aliases"]
    assert prices.document(alias) is None


def test_a_price_of_0_is_a_price():
    assert prices.parse(prices.document(read(MODEL + "price_each_call = 0")["models"][0])).each_call == 0


# written, seconds since the epoch
INSTANTS = [
    ("2027-01-31T00:00:00Z", datetime(2027, 1, 31, tzinfo=UTC)),
    ('"2027-01-31T00:00:00Z"', datetime(2027, 1, 31, tzinfo=UTC)),
    ("2027-01-31T01:30:00+01:30", datetime(2027, 1, 31, tzinfo=UTC)),
    ("2027-01-30 19:00:00-05:00", datetime(2027, 1, 31, tzinfo=UTC)),
    ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
    ("2261-12-31T23:59:59Z", datetime(2261, 12, 31, 23, 59, 59, tzinfo=UTC)),
]
INVALID_INSTANTS = [
    "2027-01-31T00:00:00",
    "2027-01-31",
    "00:00:00",
    '"2027-01-31"',
    '"tomorrow"',
    "1801440000",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-14:00",
    "1969-12-31T23:59:59Z",
    "true",
]


@pytest.mark.parametrize(("written", "when"), INSTANTS)
def test_an_expiry_is_stored_in_nanoseconds(written, when):
    (user,) = read(KEY + f"expires_at = {written}")["users"]
    assert user["keys"][0]["expires_at"] == int(when.timestamp()) * 1_000_000_000


@pytest.mark.parametrize("written", INVALID_INSTANTS)
def test_an_invalid_instant_is_refused(written):
    (problem,) = problems(KEY + f"expires_at = {written}")
    assert problem.startswith("gproxy.toml: users[1].keys[1].expires_at: expected a ")


def test_a_key_may_be_given_as_its_digest():
    digest = "0123456789abcdef" * 4
    (user,) = read(USER + f'keys = [{{ api_key_digest = "{digest}" }}]')["users"]
    assert user["keys"][0]["api_key_digest"] == digest and "api_key" not in user["keys"][0]


@pytest.mark.parametrize("digest", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\\n"])
def test_an_invalid_digest_is_refused(digest):
    (problem,) = problems(USER + f'keys = [{{ api_key_digest = "{digest}" }}]')
    assert "expected 64 lower-case hex digits" in problem


def test_an_alias_may_be_written_in_two_forms():
    forms = ('provider_name = "one"\nmodel_id = "m"', 'targets = [{ provider = "one", model = "m" }]')
    found = [documents.targets(read(f"{ALIAS}{form}")["model_aliases"][0]) for form in forms]
    assert [(t["provider_name"], t["model_id"]) for rows in found for t in rows] == [("one", "m"), ("one", "m")]


def test_an_empty_seed_has_no_rows_and_no_settings():
    found = read("")
    assert (found["providers"], found["users"], found["settings"]) == ([], [], {})


WORDS = ["", "one", "openai", "custom", "${HOME}", "${NONE}", "http://[", "*", "a\nb", "\0", "2027-01-01T00:00:00Z"]
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([Decimal("0.1"), Decimal("NaN"), Decimal("-Infinity"), Decimal("1E+9999"), 10**400, 0.5])
    | st.sampled_from(WORDS)
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.dates()
    | st.times()
)


def fields(schema) -> dict:
    return {field.data_key or name: field for name, field in schema.fields.items()}


def values(field) -> st.SearchStrategy:
    """Mostly plausible values of a field, sometimes arbitrary ones."""
    inner = getattr(field, "inner", None)
    if inner is not None:
        return st.lists(st.deferred(lambda: values(inner)), max_size=3) | values_of(inner) | PLAIN
    return values_of(field) | PLAIN


def values_of(field) -> st.SearchStrategy:
    if (schema := getattr(field, "schema", None)) is None:
        return PLAIN | st.lists(PLAIN, max_size=2) | st.dictionaries(st.sampled_from(WORDS), PLAIN, max_size=2)
    return tables(schema)


def tables(schema) -> st.SearchStrategy:
    known = {name: values(field) for name, field in fields(schema).items()}
    return st.fixed_dictionaries({}, optional={**known, "unheard_of": PLAIN})


@settings(deadline=None, max_examples=examples(300))
@given(tables(documents.schemas.Seed()))
@example({"providers": [{"name": "one", "channel": "openai", "settings": {"base_url": "http://["}}]})
@example({"global": {"idle_timeout_s": Decimal("NaN")}})
@example({"users": [{"name": "a", "keys": [{"api_key": "k", "expires_at": datetime.max.replace(tzinfo=UTC)}]}]})
def test_any_seed_is_read_or_refused(document):
    try:
        assert isinstance(documents.read(document, "gproxy.toml", {"HOME": "x"}, KINDS, RESERVED), dict)
    except StartupError as fault:
        assert fault.problems and all(problem.startswith("gproxy.toml: ") for problem in fault.problems)


# -- credential pools and alias targets

POOL = """
[[providers]]
name = "one"
channel = "openai"
settings = { rotation_strategy = "cache_affinity", max_attempts = 3, retry_within_s = 20, retry_timeouts = true, \
on_disconnect = "drain", drain_s = 5, heartbeat_s = 10 }
credentials = [{ api_key = "k", weight = 3, rpm = 60, concurrency = 4 }, { api_key = "l" }]

[[model_aliases]]
alias = "best"
targets = [{ provider = "one", model = "m", weight = 3 }, { provider = "one", model = "n", tier = 1 }]
"""


def test_a_pool_and_the_targets_of_an_alias_are_read():
    found = read(POOL)
    (provider,), (alias,) = found["providers"], found["model_aliases"]
    assert {name: value for name, value in provider["settings"].items() if value is not None} == {
        "rotation_strategy": "cache_affinity",
        "max_attempts": 3,
        "retry_within_s": 20.0,
        "retry_timeouts": True,
        "on_disconnect": "drain",
        "drain_s": 5.0,
        "heartbeat_s": 10.0,
    }
    first, second = provider["credentials"]
    assert (first["weight"], first["rpm"], first["concurrency"]) == (3, 60, 4)
    assert (second["weight"], second["rpm"], second["concurrency"]) == (1, None, None)
    assert [(one["model_id"], one["tier"], one["weight"]) for one in alias["targets"]] == [("m", 0, 3), ("n", 1, 1)]


@pytest.mark.parametrize(
    ("written", "instead", "place", "remedy"),
    [
        ('"cache_affinity"', '"random"', "providers[1].settings.rotation_strategy", "expected one of round_robin"),
        ("max_attempts = 3", "max_attempts = 0", "providers[1].settings.max_attempts", "from 1 to 20"),
        ("max_attempts = 3", "max_attempts = 2.5", "providers[1].settings.max_attempts", "expected a whole number"),
        ("retry_within_s = 20", "retry_within_s = -1", "providers[1].settings.retry_within_s", "expected seconds"),
        ("retry_timeouts = true", 'retry_timeouts = "yes"', "providers[1].settings.retry_timeouts", "true or false"),
        ('"drain"', '"wait"', "providers[1].settings.on_disconnect", 'expected "cancel" or "drain"'),
        ("heartbeat_s = 10", "heartbeat_s = 0", "providers[1].settings.heartbeat_s", "expected seconds"),
        ("heartbeat_s = 10", 'proxy = "ftp://x"', "providers[1].settings.proxy", "URL such as http://proxy:3128"),
        ("heartbeat_s = 10", 'client_key_file = "k"', "providers[1].settings", "give both, or neither"),
        ('"k", weight = 3', '"k", weight = 0', "providers[1].credentials[1].weight", "to leave it out disable it"),
        ("rpm = 60", "rpm = -1", "providers[1].credentials[1].rpm", "expected a whole number from 0"),
        ("tier = 1", "tier = -1", "model_aliases[1].targets[2].tier", "from 0, which is tried first"),
        ('"m", weight = 3', '"m", weight = true', "model_aliases[1].targets[1].weight", "expected a whole number"),
        ('model = "n"', 'model = "m"', "model_aliases[1].targets[2].model", "a duplicate of"),
        ('"one", model = "n"', '"two", model = "n"', "model_aliases[1].targets[2].provider", "unknown provider 'two'"),
    ],
)
def test_a_mistake_in_a_pool_is_reported_with_its_place_and_remedy(written, instead, place, remedy):
    assert written in POOL
    (problem,) = problems(POOL.replace(written, instead, 1))
    assert problem.startswith(f"gproxy.toml: {place}: ")
    assert remedy in problem


@pytest.mark.parametrize(("pattern", "bound"), [("*-" * 17, "at most 16 stars"), ("*" * 16 + "a" * 241, "at most 256")])
@pytest.mark.parametrize(
    ("table", "place"),
    [
        (f'{USER}[[permissions]]\nuser_name = "ann"\nmodel_pattern', "permissions[1].model_pattern"),
        (f'{USER}[[rate_limits]]\nuser_name = "ann"\nrpm = 1\nmodel_pattern', "rate_limits[1].model_pattern"),
        (f"{KEY}[[users.keys.permissions]]\nmodel_pattern", "users[1].keys[1].permissions[1].model_pattern"),
        (f"{KEY}[[users.keys.rate_limits]]\nrpm = 1\nmodel_pattern", "users[1].keys[1].rate_limits[1].model_pattern"),
        (
            f'{PROVIDER}[[model_aliases]]\nprovider_name = "one"\nmodel_id = "m"\nalias',
            "model_aliases[1].alias",
        ),
    ],
)
def test_a_pattern_beyond_the_bounds_stops_the_start(table, place, pattern, bound):
    (problem,) = problems(f"{table} = {pattern!r}\n")
    assert problem.startswith(f"gproxy.toml: {place}: a pattern has {bound}")


def test_an_alias_without_a_star_is_a_name_and_may_be_longer():
    text = f'{PROVIDER}[[model_aliases]]\nprovider_name = "one"\nmodel_id = "m"\nalias = "{"a" * 300}"\n'
    assert read(text)["model_aliases"][0]["alias"] == "a" * 300
