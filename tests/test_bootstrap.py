"""The first start: the content that a seed and the environment give an empty database, and what is printed."""

import json
from pathlib import Path

import pytest

from gproxy import bootstrap, channels, runtime, server, settings
from gproxy.admission.keys import digest, fingerprint
from gproxy.app import create_app
from gproxy.bootstrap import GeneratedAdmin
from gproxy.errors import StartupError
from gproxy.settings import Settings
from gproxy.store import models as m
from gproxy.store.seeding import Content, NewLimit, NewQuota, NewTarget

KINDS = channels.load()
RESERVED = frozenset({"v1"})
ADMIN = '[[users]]\nname = "root"\nis_admin = true\nkeys = [{ api_key = "sk-root" }]\n'


def load(folder: Path, seed: str | None, **environ: str) -> Settings:
    if seed is not None:
        (folder / "gproxy.toml").write_text(seed, encoding="utf-8")
    return settings.load({"GPROXY_DATA_DIR": str(folder / "data"), **environ}, folder)


@pytest.fixture
def content(tmp_path: Path):
    """Builds the content and the generated administrator of a first start from a seed and variables."""

    def build(seed: str | None = None, **environ: str) -> tuple[Content, GeneratedAdmin | None]:
        return bootstrap.content(load(tmp_path, seed, **environ), KINDS, RESERVED)

    return build


def user(found: Content, name: str):
    (one,) = (u for u in found.users if u.name == name)
    return one


def verifies(hashed: str, password: str) -> bool:
    from argon2 import PasswordHasher
    from argon2.exceptions import VerifyMismatchError

    try:
        return PasswordHasher().verify(hashed, password)
    except VerifyMismatchError:
        return False


WHOLE = """
[[providers]]
name = "one"
channel = "openai"

[[models]]
provider_name = "one"
model_id = "m"

[[model_aliases]]
alias = "chat"
provider_name = "one"
model_id = "m"
price_each_call = 0.25

[[users]]
name = "ann"

[[users.keys]]
api_key = "sk-ann"
budget = 2.5
permissions = [{ provider_name = "one", model_pattern = "m*" }, { model_pattern = "n" }]
rate_limits = [{ model_pattern = "*", concurrency = 2 }]

[[rate_limits]]
user_name = "ann"
model_pattern = "m*"
rpm = 0
total_tokens = 7

[[quotas]]
user_name = "ann"
quota = 25
cost_used = 1.5
period = "week"

[[file_permissions]]
user_name = "ann"
provider_name = "one"
"""


def test_limits_quotas_and_permissions_of_keys_are_stored(content):
    found, _ = content(WHOLE)
    (own,) = user(found, "ann").keys
    assert (own.budget, own.permissions) == (2_500_000_000, (("one", "m*"), (None, "n")))
    assert own.limits == (NewLimit("*", concurrency=2),)
    assert found.limits == (("ann", NewLimit("m*", rpm=0, total_tokens=7)),)
    assert found.quotas == (("ann", NewQuota(25_000_000_000, 1_500_000_000, "week")),)
    assert found.file_permissions == (("ann", "one"),)
    assert json.loads(found.aliases[0].pricing_json) == {"price_each_call": "0.25"}


def test_a_user_without_limits_has_none(content):
    found, _ = content(ADMIN)
    (own,) = user(found, "root").keys
    assert (own.budget, own.permissions, own.limits) == (None, (), ())
    assert (found.limits, found.quotas, found.file_permissions) == ((), (), ())


@pytest.mark.parametrize("seed", [None, "", '[[users]]\nname = "ann"\nkeys = [{ api_key = "sk-ann" }]'])
def test_without_an_administrator_one_is_generated_and_returned(content, seed):
    found, generated = content(seed)
    admin = user(found, "admin")
    assert (generated.user, admin.is_admin, admin.enabled) == ("admin", True, True)
    assert [key.digest for key in admin.keys] == [digest(generated.api_key)]
    assert verifies(admin.password_hash, generated.password)
    assert ("admin", None, "*") in found.permissions


def test_generated_values_differ_at_every_start(content):
    (_, first), (_, second) = content(), content()
    assert first.password != second.password and first.api_key != second.api_key
    assert len(first.password) >= 20 and len(first.api_key) >= 40


# seeds without a usable administrator
UNUSABLE = [
    '[[users]]\nname = "root"\nis_admin = true',
    '[[users]]\nname = "root"\nis_admin = true\nkeys = []',
    '[[users]]\nname = "root"\nis_admin = true\nkeys = [{ api_key = "sk-root", enabled = false }]',
    '[[users]]\nname = "root"\nis_admin = true\nenabled = false\nkeys = [{ api_key = "sk-root" }]',
    '[[users]]\nname = "root"\nkeys = [{ api_key = "sk-root" }]',
]


@pytest.mark.parametrize("seed", UNUSABLE)
def test_an_administrator_without_a_usable_key_does_not_count(content, seed):
    found, generated = content(seed)
    assert generated.user == "admin" and {u.name for u in found.users} == {"root", "admin"}


def test_an_administrator_of_the_seed_is_not_changed(content):
    found, generated = content(ADMIN)
    assert generated is None
    assert [u.name for u in found.users] == ["root"] and found.permissions == ()


def test_the_environment_adds_its_administrator(content):
    found, generated = content(
        ADMIN, GPROXY_ADMIN_USER="boss", GPROXY_ADMIN_PASSWORD="pw", GPROXY_ADMIN_API_KEY="sk-own"
    )
    boss = user(found, "boss")
    assert [key.digest for key in boss.keys] == [digest("sk-own")] and verifies(boss.password_hash, "pw")
    assert ("boss", None, "*") in found.permissions and user(found, "root").is_admin
    assert generated == GeneratedAdmin("boss", None, None)


@pytest.mark.parametrize(
    ("variable", "given_field", "generated_field"),
    [("GPROXY_ADMIN_PASSWORD", "password", "api_key"), ("GPROXY_ADMIN_API_KEY", "api_key", "password")],
)
def test_only_generated_values_are_returned(content, variable, given_field, generated_field):
    _, generated = content(**{variable: "given-value"})
    assert getattr(generated, given_field) is None and getattr(generated, generated_field) not in (None, "given-value")


def test_a_user_of_the_seed_can_become_the_administrator(content):
    seed = '[[users]]\nname = "ann"\nenabled = false\npassword = "old"\nkeys = [{ api_key = "sk-ann" }]'
    found, generated = content(seed, GPROXY_ADMIN_USER="ann")
    (ann,) = found.users
    assert (ann.is_admin, ann.enabled) == (True, True)
    assert [key.digest for key in ann.keys] == [digest("sk-ann"), digest(generated.api_key)]
    assert verifies(ann.password_hash, "old") and generated.password is None


def test_a_new_password_replaces_the_one_in_the_seed(content):
    seed = ADMIN.replace("is_admin", 'password = "old"\nis_admin')
    found, generated = content(seed, GPROXY_ADMIN_USER="root", GPROXY_ADMIN_PASSWORD="new")
    assert verifies(user(found, "root").password_hash, "new") and generated.password is None


def test_the_key_of_the_environment_is_enabled_even_if_the_seed_disabled_it(content):
    seed = '[[users]]\nname = "admin"\nkeys = [{ api_key = "sk-own", enabled = false, label = "l" }]'
    found, generated = content(seed, GPROXY_ADMIN_API_KEY="sk-own")
    assert [(k.digest, k.enabled, k.label) for k in user(found, "admin").keys] == [(digest("sk-own"), True, "l")]
    assert generated.api_key is None


def test_the_key_of_another_user_cannot_be_the_administrators(content):
    seed = '[[users]]\nname = "ann"\nkeys = [{ api_key = "sk-ann" }]'
    with pytest.raises(StartupError, match=r"GPROXY_ADMIN_API_KEY: .*'ann'.*choose another for 'admin'") as caught:
        content(seed, GPROXY_ADMIN_API_KEY="sk-ann")
    assert "sk-ann" not in str(caught.value)


def test_the_administrators_permission_is_not_added_twice(content):
    seed = ADMIN + '[[permissions]]\nuser_name = "root"\nmodel_pattern = "*"'
    found, _ = content(seed, GPROXY_ADMIN_USER="root", GPROXY_ADMIN_PASSWORD="pw")
    assert found.permissions == (("root", None, "*"),)


@pytest.mark.parametrize("password", ['password = ""\n', ""])
def test_an_empty_password_is_no_password(content, password):
    found, _ = content(ADMIN.replace("is_admin", f"{password}is_admin"))
    assert user(found, "root").password_hash is None


def test_a_hashed_password_is_kept_and_a_plain_one_is_hashed(content):
    hashed = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA"
    seed = ADMIN + f'[[users]]\nname = "a"\npassword = "{hashed}"\n[[users]]\nname = "b"\npassword = "clear"'
    found, _ = content(seed)
    assert user(found, "a").password_hash == hashed
    assert user(found, "b").password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert verifies(user(found, "b").password_hash, "clear")


def test_a_key_and_its_digest_are_the_same_key(content):
    (by_key, _), (by_digest, _) = (
        content(ADMIN),
        content(ADMIN.replace('api_key = "sk-root"', f'api_key_digest = "{digest("sk-root")}"')),
    )
    assert user(by_key, "root").keys == user(by_digest, "root").keys
    assert user(by_key, "root").keys[0].fingerprint == fingerprint(digest("sk-root"))


def test_a_key_and_its_digest_at_two_users_prevent_the_start(content):
    seed = ADMIN + f'[[users]]\nname = "ann"\nkeys = [{{ api_key_digest = "{digest("sk-root")}" }}]'
    with pytest.raises(StartupError) as caught:
        content(seed)
    assert caught.value.problems == [
        "gproxy.toml: users[2].keys[1]: the same key as users[1].keys[1]; a key belongs to one user"
    ]


def test_a_vendors_key_in_the_environment_makes_a_provider(content):
    found, _ = content(OPENAI_API_KEY="sk-o", ANTHROPIC_API_KEY="sk-a", GEMINI_API_KEY=" ")
    assert [(p.name, p.channel, p.enabled) for p in found.providers] == [
        ("openai-main", "openai", True),
        ("anthropic-main", "anthropic", True),
    ]
    assert [p.routing_json for p in found.providers] == ["{}", "{}"]
    stored = [json.loads(c.secret_json) for p in found.providers for c in p.credentials]
    assert stored == [{"api_key": "${OPENAI_API_KEY}"}, {"api_key": "${ANTHROPIC_API_KEY}"}]


def test_a_provider_of_the_seed_keeps_its_name(content):
    seed = ADMIN + '[[providers]]\nname = "aistudio-main"\nchannel = "custom"\nsettings = { base_url = "http://h" }'
    found, _ = content(seed, GEMINI_API_KEY="sk-g", OPENAI_API_KEY="sk-o")
    assert [(p.name, p.channel) for p in found.providers] == [("aistudio-main", "custom"), ("openai-main", "openai")]


def test_a_seed_becomes_rows(content):
    found, _ = content(
        ADMIN
        + """
        [global]
        idle_timeout_s = 5
        enable_usage = false

        [[providers]]
        name = "one"
        channel = "openai"
        label = "First"
        settings = { connect_timeout_s = 2, fetch_images = false }
        routing = { rules = [{ route = { operation = "compact", protocol = "openai" }, implementation = "local" }] }
        credentials = [{ api_key = "${UP}", name = "n" }, { api_key = "k", enabled = false }]

        [[models]]
        provider_name = "one"
        model_id = "m"
        price_each_call = 0.10

        [[model_aliases]]
        alias = "chat-*"
        targets = [{ provider = "one", model = "m" }]

        [[permissions]]
        user_name = "root"
        provider_name = "one"
        model_pattern = "m*"
        """
    )
    (one,), (model,), (alias,) = found.providers, found.models, found.aliases
    assert (found.enable_usage, found.provider_defaults_json) == (False, '{"idle_timeout_s": 5.0}')
    assert (one.label, one.enabled) == ("First", True)
    assert one.settings_json == '{"connect_timeout_s": 2.0, "fetch_images": false}'
    assert json.loads(one.routing_json) == {
        "rules": [{"route": {"operation": "compact", "protocol": "openai"}, "implementation": "Local"}]
    }
    assert [(c.secret_json, c.name, c.enabled) for c in one.credentials] == [
        ('{"api_key": "${UP}"}', "n", True),
        ('{"api_key": "k"}', None, False),
    ]
    assert (model.provider, model.model_id, model.enabled, model.pricing_json) == (
        "one",
        "m",
        True,
        '{"price_each_call": "0.10"}',
    )
    assert (alias.alias, alias.enabled, alias.targets) == ("chat-*", True, (NewTarget("one", "m"),))
    assert found.permissions == (("root", "one", "m*"),)


def start(folder: Path, seed: str | None = None, **environ: str) -> None:
    """Prepares the database as gunicorn's master does."""
    server._settings = load(folder, seed, **environ)
    runtime.prepare(server._settings, lambda database: server._fill(create_app(), database))


def test_a_generated_administrator_is_displayed_once(tmp_path: Path, capsys):
    start(tmp_path)
    first = capsys.readouterr().out
    key = next(line.split()[-1] for line in first.splitlines() if "API key" in line)
    with m.proxy.obj.connection_context():
        assert [row.api_key_digest for row in m.UserKey.select()] == [digest(key)]
    start(tmp_path)
    assert capsys.readouterr().out == ""
    assert key.encode() not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_given_values_are_never_printed(tmp_path: Path, capsys, caplog):
    caplog.set_level("DEBUG")
    given = {
        "GPROXY_ADMIN_PASSWORD": "hidden-pw",
        "GPROXY_ADMIN_API_KEY": "hidden-key",
        "DATABASE_SECRET_KEY": "hidden-s",
    }
    start(tmp_path, OPENAI_API_KEY="hidden-up", **given)
    printed = capsys.readouterr()
    assert "as given in GPROXY_ADMIN_PASSWORD" in printed.out
    assert "hidden" not in printed.out + printed.err + caplog.text


def test_an_invalid_seed_leaves_the_database_empty(tmp_path: Path, capsys):
    with pytest.raises(StartupError, match="did you mean 'openai'"):
        start(tmp_path, ADMIN + '[[providers]]\nname = "one"\nchannel = "opnai"')
    with m.proxy.obj.connection_context():
        assert (m.User.select().count(), m.GlobalSettings.select().count()) == (0, 0)
    start(tmp_path, ADMIN + '[[providers]]\nname = "one"\nchannel = "openai"')
    with m.proxy.obj.connection_context():
        assert [row.name for row in m.Provider.select()] == ["one"]
    assert capsys.readouterr().out == ""


def test_the_seed_is_ignored_if_the_database_is_filled(tmp_path: Path):
    start(tmp_path, ADMIN)
    start(tmp_path, ADMIN.replace("root", "other") + "[[nonsense]]", OPENAI_API_KEY="sk-late")
    with m.proxy.obj.connection_context():
        assert [row.name for row in m.User.select()] == ["root"]
        assert m.Provider.select().count() == 0


def test_a_published_key_in_the_database_is_refused_on_a_public_address(tmp_path: Path):
    seed = ADMIN.replace("sk-root", "sk-admin-1")
    start(tmp_path, seed)
    with pytest.raises(StartupError, match=r"GPROXY_HOST: the database knows the published quick-start key"):
        start(tmp_path, "", GPROXY_HOST="0.0.0.0")
    start(tmp_path, "", GPROXY_HOST="127.0.0.1")


@pytest.mark.parametrize(
    "dsn", ["postgresql://gproxy:hidden@127.0.0.1:1/gproxy", "postgresql://gproxy:hidden@127.0.0.1:port/gproxy"]
)
def test_an_unreachable_database_prevents_the_start_and_its_password_is_not_reported(tmp_path: Path, dsn, caplog):
    caplog.set_level("INFO")
    with pytest.raises(StartupError, match=r"^GPROXY_DSN: ") as caught:
        start(tmp_path, ADMIN, GPROXY_DSN=dsn)
    assert "hidden" not in str(caught.value) + caplog.text
