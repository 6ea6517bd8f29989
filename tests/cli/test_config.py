"""The commands `config`, `users`, `keys` and `secrets`."""

import os
import tomllib
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest

from gproxy.app import create_app
from gproxy.store import exporting, importing, seeding
from gproxy.store import models as m
from gproxy.store.database import Database
from tests.gateway import ROOT

WHOLE = """
[global]
enable_usage = true
max_attempts = 3
enable_upstream_log = true
log_retention_days = 30

[[providers]]
name = "openai-main"
channel = "openai"
label = "Ours"
enabled = true
routing = "openai-like"
credentials = [
  { api_key = "sk-upstream-export-1", name = "first", weight = 3, rpm = 500 },
  { api_key = "${OTHER_KEY}", enabled = false },
]
[providers.settings]
max_attempts = 2
total_timeout_s = 99.5

[[providers]]
name = "demo"
channel = "demo"

[[models]]
provider_name = "openai-main"
model_id = "gpt-1"
display_name = "One"
price_each_call = 0.001
price_tiers = [{ input_tokens_up_to = 1000, price_input_tokens = 0.40, price_output_tokens = 1.60 }]
tool_prices = { web_search = 0.01 }

[[model_aliases]]
alias = "fast-*"
targets = [
  { provider = "openai-main", model = "gpt-*", weight = 2 },
  { provider = "demo", model = "demo-1", tier = 1 },
]

[[users]]
name = "root"
is_admin = true
password = "correct horse"
keys = [{ api_key = "sk-root-export", label = "laptop" }]

[[users]]
name = "ann"
may_make_keys = false
keys = [
  { api_key = "sk-ann-export-2", enabled = false },
  { api_key = "sk-ann-export-3", enabled = false, disabled_by = "user" },
  { api_key = "sk-ann-export", expires_at = 2031-02-03T04:05:06Z, budget = 12.5, permissions = [
    { provider_name = "openai-main", model_pattern = "gpt-*" },
  ], rate_limits = [{ model_pattern = "*", rpm = 5 }] },
]

[[permissions]]
user_name = "root"
model_pattern = "*"

[[permissions]]
user_name = "ann"
provider_name = "demo"
model_pattern = "*"

[[file_permissions]]
user_name = "ann"
provider_name = "openai-main"

[[rate_limits]]
user_name = "ann"
model_pattern = "*"
rpm = 60
concurrency = 2

[[quotas]]
user_name = "ann"
quota = 20
cost_used = 3.25
period = "month"
"""
SECRETS = ("sk-upstream-export-1", "sk-root-export", "sk-ann-export", "correct horse", "$argon2")


RUNNER = create_app().test_cli_runner()


def run(folder: Path, *command: str, **env: str) -> tuple[int, list[str], str]:
    """Returns the exit status, the lines of standard output, and standard error.

    Runs in this process, since starting a process takes half a second.
    """
    unset = {name: None for name in os.environ if name.startswith(("GPROXY_", "DATABASE_"))}
    with chdir(folder):
        done = RUNNER.invoke(args=command, env={**unset, "GPROXY_DATA_DIR": str(folder), **env}, catch_exceptions=False)
    return done.exit_code, done.stdout.splitlines(), done.stderr


def write(folder: Path, text: str, name: str = "whole.toml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A data directory with a database that an import filled."""
    status, lines, errors = run(tmp_path, "config", "import", write(tmp_path, WHOLE))
    assert (status, lines[-1]) == (0, "a new database was filled"), errors
    return tmp_path


def exported(folder: Path, *options: str, **env: str) -> str:
    status, lines, errors = run(folder, "config", "export", *options, **env)
    assert status == 0, errors
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("options", [(), ("--secrets",)])
def test_an_export_imported_elsewhere_is_exported_unchanged(filled, tmp_path_factory, options):
    text, elsewhere = exported(filled, *options), tmp_path_factory.mktemp("elsewhere")
    status, _, errors = run(elsewhere, "config", "import", write(elsewhere, text, "out.toml"))
    assert status == 0, errors
    assert exported(elsewhere, *options) == text
    found = tomllib.loads(text)
    assert found["providers"][0]["settings"] == {"max_attempts": 2, "total_timeout_s": 99.5}
    assert found["quotas"] == [{"user_name": "ann", "quota": 20, "cost_used": 3.25, "period": "month"}]
    assert found["global"]["max_attempts"] == 3
    assert found["global"]["log_retention_days"] == 30


def test_secrets_are_exported_only_on_request(filled):
    text, whole = exported(filled), exported(filled, "--secrets")
    assert not [secret for secret in SECRETS if secret in text]
    assert 'api_key = "${GPROXY_KEY_OPENAI_MAIN_1}"' in text
    assert 'api_key = "${OTHER_KEY}"' in text
    assert "sk-upstream-export-1" in whole
    assert "$argon2id$" in whole
    assert "sk-root-export" not in whole  # only the digests of users' keys are stored


def test_importing_an_export_changes_nothing(filled):
    for options in ((), ("--secrets",)):
        path = write(filled, exported(filled, *options), "again.toml")
        for more in ((), ("--prune",), ("--dry-run",)):
            status, lines, errors = run(filled, "config", "import", path, *more)
            assert (status, lines[0].split(" changes")[0]) == (0, "0"), (lines, errors)


def test_a_dry_run_lists_the_changes_of_the_import(filled):
    before = exported(filled, "--secrets")
    text = before.replace('label = "Ours"', 'label = "Theirs"').replace("rpm = 60", "rpm = 61")
    text = text.replace("quota = 20", "quota = 21").replace("sk-upstream-export-1", "sk-upstream-export-2")
    text += '\n[[users]]\nname = "bob"\n'
    path = write(filled, text, "changed.toml")
    status, planned, errors = run(filled, "config", "import", path, "--dry-run", "--prune")
    assert status == 0, errors
    assert planned[-1].endswith("dry run: nothing was changed")
    assert exported(filled, "--secrets") == before
    status, done, errors = run(filled, "config", "import", path, "--prune")
    assert status == 0, errors
    assert done[:-1] == planned[:-1]
    assert "changed providers openai-main (label: 'Ours' -> 'Theirs')" in done
    assert "added users bob" in done
    assert {"added credentials openai-main 1"} < set(done)
    assert len([line for line in done if line.startswith("deleted credentials openai-main")]) == 1
    assert not [line for line in done if "sk-upstream" in line]
    assert 'label = "Theirs"' in exported(filled)


def test_rows_that_the_file_lacks_stay_without_prune(filled):
    path = write(filled, '[[users]]\nname = "bob"\n', "one.toml")
    assert run(filled, "config", "import", path)[1] == ["added users bob", "1 changes"]
    assert run(filled, "config", "import", path, "--prune")[0] == 1  # no administrator would remain
    assert 'name = "ann"' in exported(filled)


def test_an_import_states_who_disabled_a_key_and_keeps_who_may_make_keys(filled):
    database = Database(f"sqlite:///{filled / 'gproxy.db'}", filled)

    def found() -> tuple:
        (ann,) = (one for one in database.run(exporting.content, None).users if one.name == "ann")
        return ann.may_make_keys, [key.disabler for key in ann.keys]

    text = exported(filled)
    assert 'disabled_by = "user"' in text and 'disabled_by = "administrator"' in text
    assert found() == (False, ["administrator", "user", None])
    without = "\n".join(line for line in text.splitlines() if not line.startswith(("disabled_by", "may_make_keys")))
    assert run(filled, "config", "import", write(filled, without, "without.toml"))[0] == 0
    assert found() == (False, ["administrator", "administrator", None])
    path = write(filled, text.replace("may_make_keys = false", "may_make_keys = true"), "again.toml")
    lines = run(filled, "config", "import", path)[1]
    assert "changed users ann (may_make_keys: False -> True)" in lines
    assert found() == (True, ["administrator", "user", None])


def test_an_import_does_not_reset_the_cost_used(filled):
    database = Database(f"sqlite:///{filled / 'gproxy.db'}", filled)
    database.run(m.Quota.update(cost_used=7_000_000_000).execute)
    path = write(filled, exported(filled).replace("cost_used = 7", "cost_used = 1"), "less.toml")
    assert run(filled, "config", "import", path)[1] == ["0 changes"]
    assert database.run(exporting.content, None).quotas[0][1].cost_used == 7_000_000_000


@pytest.mark.parametrize("break_at", range(1, 10))
def test_an_import_that_fails_half_way_changes_nothing(filled, monkeypatch, break_at):
    database = Database(f"sqlite:///{filled / 'gproxy.db'}", filled)
    before, calls = database.run(exporting.content, None), 0
    whole = seeding.Content(
        None, None, (seeding.NewProvider("a", "openai", None, True, "{}", ()),), (), (),
        (seeding.NewUser("carl", None, True, True, ()),), (("carl", None, "*"),), (), (("carl", seeding.NewQuota(5)),),
    )  # fmt: skip
    whole = replace(whole, models=(seeding.NewModel("a", "m", None, True, None),))
    add, change, delete = importing._Import._add, importing._Import._change, importing._Import._delete

    def counted(function):
        def run(*args):
            nonlocal calls
            calls += 1
            if calls == break_at:
                raise OSError("the disk is full")
            return function(*args)

        return run

    for name, function in (("_add", add), ("_change", change), ("_delete", delete)):
        monkeypatch.setattr(importing._Import, name, counted(function))
    with pytest.raises(Exception, match="cannot be used"):
        database.run(importing.apply_import, database, whole, None, True, False)
    assert database.run(exporting.content, None) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[providers]]\nname = "x"\nchannel = "opnai"\n', "providers[1].channel: unknown channel 'opnai'"),
        ("[[", "not readable as TOML"),
        ('[[permissions]]\nuser_name = "bod"\nmodel_pattern = "*"\n', "unknown user 'bod'"),
    ],
)
def test_a_file_with_mistakes_is_refused(filled, text, message):
    path = write(filled, text, "wrong.toml")
    for command in (("config", "check", path), ("config", "import", path)):
        status, lines, errors = run(filled, *command)
        assert (status, lines) == (2, [])
        assert message in errors


def test_check_accepts_a_good_file(tmp_path):
    status, lines, _ = run(tmp_path, "config", "check", write(tmp_path, WHOLE))
    assert (status, lines) == (0, ["whole.toml is good: 2 providers, 1 models, 1 aliases, 2 users"])
    assert run(tmp_path, "config", "check")[0] == 2
    assert run(tmp_path, "config", "check", str(ROOT / "conf" / "quickstart.toml"))[0] == 0
    assert not (tmp_path / "gproxy.db").exists()


def test_users_and_keys_by_command(filled):
    assert run(filled, "users", "list")[1] == ["1\troot\tadministrator", "2\tann"]
    assert run(filled, "users", "add", "bob") == (0, ["user 3"], "")
    assert run(filled, "users", "add", "bob")[0] == 1
    assert run(filled, "users", "add", "")[0] == 2
    status, (key,), _ = run(filled, "keys", "add", "bob", "--label", "ci")
    assert (status, key[:9]) == (0, "sk-api01-")
    (line,) = run(filled, "keys", "list", "bob")[1]
    assert (line.split("\t")[1], line.split("\t")[3], key in line) == ("bob", "ci", False)
    number = line.split("\t")[0]
    assert run(filled, "keys", "disable", number)[0] == 0
    assert run(filled, "keys", "list", "bob")[1][0].endswith("disabled")
    assert run(filled, "keys", "enable", number)[0] == 0
    assert run(filled, "keys", "delete", number)[0] == 0
    assert run(filled, "keys", "delete", number)[0] == 1
    assert run(filled, "users", "disable", "bob")[0] == 0
    assert run(filled, "users", "list")[1][2] == "3\tbob\tdisabled"
    assert run(filled, "users", "disable", "root")[0] == 1
    assert run(filled, "users", "delete", "bob")[0] == 0
    assert run(filled, "users", "enable", "bob")[0] == 1


def test_rotate_changes_the_sealing_key(filled):
    assert "DATABASE_SECRET_KEY_NEW" in run(filled, "secrets", "rotate")[2]
    assert run(filled, "secrets", "rotate", DATABASE_SECRET_KEY_NEW="one")[0] == 0
    assert "sealed" in run(filled, "config", "export")[2]
    first = exported(filled, "--secrets", DATABASE_SECRET_KEY="one")
    assert "sk-upstream-export-1" in first
    env = {"DATABASE_SECRET_KEY": "one", "DATABASE_SECRET_KEY_NEW": "two"}
    assert run(filled, "secrets", "rotate", **env) == (
        0,
        ["2 credentials are sealed with DATABASE_SECRET_KEY_NEW; start the gateways with it as DATABASE_SECRET_KEY"],
        "",
    )
    assert run(filled, "config", "export", DATABASE_SECRET_KEY="one")[0] == 2
    assert exported(filled, "--secrets", DATABASE_SECRET_KEY="two") == first
    stored = b"".join(path.read_bytes() for path in filled.glob("gproxy.db*"))
    assert b"sk-upstream-export-1" not in stored


LITELLM = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      rpm: 100
      weight: 2
      input_cost_per_token: 0.0000025
      output_cost_per_token: 1e-5
  - model_name: gpt-4o
    litellm_params: { model: openai/gpt-4o-mini, api_key: os.environ/OPENAI_API_KEY_2, tpm: 5 }
  - model_name: claude
    litellm_params: { model: claude-sonnet-4-5, api_key: os.environ/ANTHROPIC_API_KEY }
  - model_name: local
    litellm_params: { model: hosted_vllm/llama, api_base: "http://127.0.0.1:8000/v1" }
  - model_name: odd
    litellm_params: { model: sagemaker/x }
litellm_settings:
  fallbacks: [{ gpt-4o: [claude, nowhere] }]
  drop_params: true
router_settings:
  model_group_alias: { fast: gpt-4o, lost: gone }
  routing_strategy: simple-shuffle
general_settings:
  master_key: os.environ/MASTER_KEY
  database_url: postgresql://x
"""
KEYS = {"OPENAI_API_KEY": "sk-1", "OPENAI_API_KEY_2": "sk-2", "ANTHROPIC_API_KEY": "sk-3", "MASTER_KEY": "sk-master"}


def test_a_litellm_configuration_is_imported_and_skipped_settings_are_listed(tmp_path):
    path = write(tmp_path, LITELLM, "config.yaml")
    status, lines, errors = run(tmp_path, "config", "translate", path)
    assert status == 0
    found = tomllib.loads("\n".join(lines))
    assert [(one["name"], one["channel"]) for one in found["providers"]] == [
        ("openai", "openai"), ("anthropic", "anthropic"), ("127.0.0.1", "custom")
    ]  # fmt: skip
    assert found["providers"][0]["credentials"] == [
        {"api_key": "${OPENAI_API_KEY}", "rpm": 100}, {"api_key": "${OPENAI_API_KEY_2}"}
    ]  # fmt: skip
    assert found["models"] == [
        {
            "provider_name": "openai",
            "model_id": "gpt-4o",
            "price_tiers": [{"input_tokens_up_to": 2**53 - 1, "price_input_tokens": 2.5, "price_output_tokens": 10}],
        }
    ]
    aliases = {one["alias"]: one["targets"] for one in found["model_aliases"]}
    assert [(one["model"], one["tier"], one["weight"]) for one in aliases["gpt-4o"]] == [
        ("gpt-4o", 0, 2), ("gpt-4o-mini", 0, 1), ("claude-sonnet-4-5", 1, 1)
    ]  # fmt: skip
    assert [one["model"] for one in aliases["fast"]] == ["gpt-4o", "gpt-4o-mini"]
    for skipped in (
        "tpm",
        "sagemaker",
        "nowhere",
        "drop_params",
        "'lost'",
        "routing_strategy",
        "database_url",
        "its own",
    ):
        assert skipped in errors
    status, lines, errors = run(tmp_path, "config", "import", path, **KEYS)
    assert (status, lines) == (0, ["a new database was filled"]), errors
    assert 'api_key = "${OPENAI_API_KEY}"' in exported(tmp_path)


@pytest.mark.parametrize("text", ["[", "model_list: 7", "- 1", "model_list:\n  - 7\n  - {model_name: x}\n"])
def test_a_file_that_is_not_a_litellm_configuration_is_refused(tmp_path, text):
    status, _, errors = run(tmp_path, "config", "translate", write(tmp_path, text, "config.yaml"))
    assert errors
    assert status == (0 if "model_name" in text else 2)
