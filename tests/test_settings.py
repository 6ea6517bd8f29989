"""Process settings: the source of each, and the problems that prevent a start."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gproxy import settings
from gproxy.errors import StartupError
from gproxy.settings import MIB, Settings

Load = Callable[..., Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads settings from variables and, if given, a seed in a temporary folder."""

    def loaded(seed: str | bytes | None = None, **environ: str) -> Settings:
        if seed is not None:
            (tmp_path / "gproxy.toml").write_bytes(seed if isinstance(seed, bytes) else seed.encode())
        return settings.load(environ, tmp_path)

    return loaded


def problems(load: Load, *args, **environ: str) -> list[str]:
    with pytest.raises(StartupError) as caught:
        load(*args, **environ)
    return caught.value.problems


# variable, attribute, default, text, value
PLAIN = [
    ("GPROXY_HOST", "host", "127.0.0.1", "::1", "::1"),
    ("GPROXY_PORT", "port", 8787, "80", 80),
    ("GPROXY_WORKERS", "workers", None, "3", 3),
    ("GPROXY_DATA_DIR", "data_dir", Path("data"), "/srv/gproxy", Path("/srv/gproxy")),
    ("GPROXY_DSN", "dsn", "sqlite:///data/gproxy.db", "postgresql://u:p@h/d", "postgresql://u:p@h/d"),
    ("GPROXY_PROXY", "proxy", None, "socks5h://u:p@h:1080", "socks5h://u:p@h:1080"),
    ("GPROXY_TRUSTED_PROXIES", "trusted_proxies", ("127.0.0.1", "::1"), "10.0.0.0/8, ::2", ("10.0.0.0/8", "::2")),
    ("GPROXY_ADMIN_USER", "admin_user", "admin", "root", "root"),
    ("GPROXY_ADMIN_PASSWORD", "admin_password", None, "hunter 2", "hunter 2"),
    ("GPROXY_ADMIN_API_KEY", "admin_api_key", None, "sk-own", "sk-own"),
    ("DATABASE_SECRET_KEY", "secret_key", None, "s3cret", "s3cret"),
    ("GPROXY_MAX_BODY", "max_body", 64 * MIB, "1", 1),
    ("GPROXY_MAX_FILE", "max_file", 512 * MIB, "1024", 1024),
    ("GPROXY_GRACE", "grace_s", 60, "0", 0),
    ("GPROXY_BODY_TIMEOUT", "body_timeout_s", 60, "5", 5),
    ("GPROXY_MAX_INFLIGHT", "max_inflight", 2000, "7", 7),
    ("GPROXY_MAX_INFLIGHT_BYTES", "max_inflight_bytes", 512 * MIB, "8", 8),
    ("GPROXY_LOG_LEVEL", "log_level", "info", "DEBUG", "debug"),
    ("GPROXY_LOG_FORMAT", "log_format", "text", "json", "json"),
    ("GPROXY_ACCESS_LOG", "access_log", True, "off", False),
]  # fmt: skip


@pytest.mark.parametrize(("variable", "name", "default", "text", "value"), PLAIN)
def test_a_variable_beats_the_default(load: Load, variable, name, default, text, value):
    assert getattr(load(**{variable: text}), name) == value
    assert getattr(load(**{variable: f"  {text}\n"}), name) == value
    if default is not None:
        assert getattr(load(), name) == default


@pytest.mark.parametrize(("variable", "name"), [row[:2] for row in PLAIN])
@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_variable_is_unset(load: Load, variable, name, empty):
    assert getattr(load(**{variable: empty}), name) == getattr(load(), name)


# variable, key, attribute, text in the seed and its value, text of the variable and its value
SEEDED = [
    ("GPROXY_HOST", "host", "host", '"localhost"', "localhost", "::1", "::1"),
    ("GPROXY_PORT", "port", "port", "9000", 9000, "9001", 9001),
    ("GPROXY_DATA_DIR", "data_dir", "data_dir", '"seeded"', Path("seeded"), "own", Path("own")),
    ("GPROXY_DSN", "dsn", "dsn", '"sqlite:///a.db"', "sqlite:///a.db", "sqlite:///b.db", "sqlite:///b.db"),
    ("GPROXY_PROXY", "proxy", "proxy", '"http://a:1"', "http://a:1", "http://b:2", "http://b:2"),
]


@pytest.mark.parametrize(("variable", "key", "name", "written", "seeded", "text", "value"), SEEDED)
def test_a_variable_beats_the_seed_and_the_seed_the_default(
    load: Load, variable, key, name, written, seeded, text, value
):
    assert getattr(load(), name) not in (seeded, value)
    assert getattr(load(f"[global]\n{key} = {written}"), name) == seeded
    assert getattr(load(f"[global]\n{key} = {written}", **{variable: ""}), name) == seeded
    assert getattr(load(f"[global]\n{key} = {written}", **{variable: text}), name) == value


def test_process_settings_are_stripped(load: Load):
    assert load('[global]\nhost = " localhost\\n"').host == "localhost"


def test_the_default_database_is_in_the_data_directory_of_the_seed(load: Load):
    assert load('[global]\ndata_dir = "/srv/x"').dsn == "sqlite:////srv/x/gproxy.db"


def test_the_default_number_of_workers_is_the_number_of_usable_cores(load: Load):
    assert load().workers == len(os.sched_getaffinity(0))


def test_a_process_setting_may_refer_to_a_variable(load: Load):
    found = load(
        '[global]\ndsn = "${DB}"\nport = "${P}"\nhost = "local${H}"', DB=" postgresql://h/d\n", P="81", H="host"
    )
    assert (found.dsn, found.port, found.host) == ("postgresql://h/d", 81, "localhost")


def test_a_process_setting_that_refers_to_a_missing_variable_prevents_the_start(load: Load):
    (problem,) = problems(load, '[global]\ndsn = "${DB}"')
    assert problem == "gproxy.toml: global.dsn: environment variable DB is not set; set it or write the value"


@pytest.mark.parametrize("name", ["other.toml", "{folder}/other.toml"])
def test_the_seed_may_have_another_name(load: Load, tmp_path: Path, name):
    (tmp_path / "other.toml").write_text("[global]\nport = 1")
    found = load("[global]\nport = 2", GPROXY_CONFIG=name.format(folder=tmp_path))
    assert (found.port, found.seed_path) == (1, tmp_path / "other.toml")


def test_a_seed_may_begin_with_a_byte_order_mark(load: Load):
    assert load("\ufeff[global]\nport = 1").port == 1


def test_without_a_seed_file_the_seed_is_empty(load: Load):
    assert (load().seed, load().seed_path) == ({}, None)


# variable, text, part of the problem
INVALID = [
    ("GPROXY_PORT", "0", "from 1 to 65535"),
    ("GPROXY_PORT", "65536", "from 1 to 65535"),
    ("GPROXY_PORT", "-1", "whole number"),
    ("GPROXY_PORT", "8e3", "whole number"),
    ("GPROXY_PORT", "٨٠", "whole number"),
    ("GPROXY_PORT", "1" * 5000, "whole number"),
    ("GPROXY_WORKERS", "0", "from 1 to"),
    ("GPROXY_WORKERS", "two", "whole number"),
    ("GPROXY_CONFIG", "absent.toml", "no file 'absent.toml'"),
    ("GPROXY_CONFIG", ".", "no file '.'"),
    ("GPROXY_DSN", "mysql://u:pw@h/d", "MySQL is not supported yet"),
    ("GPROXY_DSN", "mariadb://u:pw@h/d", "MySQL is not supported yet"),
    ("GPROXY_DSN", "oracle://u:pw@h/d", "expected sqlite:///… or postgresql://…"),
    ("GPROXY_DSN", "sqlite", "expected sqlite:///… or postgresql://…"),
    ("GPROXY_DSN", "postgresql:u:pw@h/d", "expected sqlite:///… or postgresql://…"),
    ("GPROXY_REDIS_URL", "localhost:6379", "expected redis://host"),
    ("GPROXY_REDIS_URL", "memcached://h", "expected redis://host"),
    ("GPROXY_REDIS_URL", "redis://", "expected redis://host"),
    ("GPROXY_PROXY", "proxy:3128", "such as http://proxy:3128"),
    ("GPROXY_PROXY", "ftp://u:pw@proxy", "such as http://proxy:3128"),
    ("GPROXY_PROXY", "http://", "such as http://proxy:3128"),
    ("GPROXY_PROXY", "http://[u:pw", "such as http://proxy:3128"),
    ("GPROXY_PROXY", "http://u:pw@h:99999", "such as http://proxy:3128"),
    ("GPROXY_TRUSTED_PROXIES", "10.0.0.0/8,nginx", "'nginx' is neither"),
    ("GPROXY_TRUSTED_PROXIES", "10.0.0.1/8", "'10.0.0.1/8' is neither"),
    ("GPROXY_TRUSTED_PROXIES", "127.0.0.1,", "'' is neither"),
    ("GPROXY_ADMIN_API_KEY", "pw with blanks", "no header can carry"),
    ("GPROXY_ADMIN_API_KEY", "pw\r\nx-evil: 1", "no header can carry"),
    ("GPROXY_MAX_BODY", "0", "from 1 to"),
    ("GPROXY_MAX_FILE", "64MiB", "whole number"),
    ("GPROXY_GRACE", "1.5", "from 0 to"),
    ("GPROXY_BODY_TIMEOUT", "0", "from 1 to"),
    ("GPROXY_MAX_INFLIGHT", "0", "from 1 to"),
    ("GPROXY_MAX_INFLIGHT_BYTES", "none", "whole number"),
    ("GPROXY_LOG_LEVEL", "loud", "debug, info, warning, error"),
    ("GPROXY_LOG_FORMAT", "xml", "text, json"),
]


@pytest.mark.parametrize(("variable", "text", "message"), INVALID)
def test_an_invalid_variable_prevents_the_start(load: Load, variable, text, message):
    (problem,) = problems(load, **{variable: text})
    assert problem.startswith(variable) and message in problem
    assert "pw" not in problem


# content of [global], start of the problem
INVALID_SEEDED = [
    ('host = ""', "global.host: expected a non-empty string"),
    ("host = 1", "global.host: expected a non-empty string"),
    ('port = "http"', "global.port: expected a whole number"),
    ("port = true", "global.port: expected a whole number"),
    ("port = 80.0", "global.port: expected a whole number"),
    ("port = [80]", "global.port: expected a whole number"),
    ("data_dir = {}", "global.data_dir: expected a non-empty string"),
    ("dsn = 5", "global.dsn: unknown database"),
    ('dsn = "mysql://h/d"', "global.dsn: unknown database 'mysql'; MySQL is not supported yet"),
    ("dsn = []", "global.dsn: unknown database"),
    ("proxy = false", "global.proxy: expected http"),
]


@pytest.mark.parametrize(("written", "message"), INVALID_SEEDED)
def test_an_invalid_process_setting_in_the_seed_prevents_the_start(load: Load, written, message):
    (problem,) = problems(load, f"[global]\n{written}")
    assert problem.startswith(f"gproxy.toml: {message}")


def test_all_problems_are_reported_together(load: Load):
    found = problems(
        load,
        "[global]\nport = 0\n",
        GPROXY_HOST="0.0.0.0",
        GPROXY_ADMIN_API_KEY="sk-admin-1",
        GPROXY_DSN="mysql://h/d",
        GPROXY_REDIS_URL="h:6379",
        GPROXY_LOG_LEVEL="loud",
    )
    places = [re.split("[: ]", problem)[0] for problem in found]
    assert sorted(places) == ["GPROXY_DSN", "GPROXY_LOG_LEVEL", "GPROXY_REDIS_URL", "gproxy.toml", "sk-admin-1"]


@pytest.mark.parametrize("text", ["[global", b"\xff\xfe", "a = 1\na = 2", "a = " + "9" * 5000, "a = " + "[" * 5000])
def test_an_unreadable_seed_prevents_the_start_and_is_named(load: Load, text):
    (problem,) = problems(load, text)
    assert problem.startswith("gproxy.toml: not readable as TOML")


@pytest.mark.parametrize(
    "text", ["global = 5", "users = 5", "[[users]]\nkeys = 5", "users = [1]", "[users]", "[[users]]\nkeys = [1]"]
)
def test_a_seed_of_another_shape_is_not_validated_here(load: Load, text):
    assert load(text, GPROXY_HOST="0.0.0.0").seed


PUBLIC_HOSTS = ["0.0.0.0", "::", "192.168.1.5", "example.com", "fe80::1"]
PUBLISHED = [
    ('[[users]]\nname = "admin"\n[[users.keys]]\napi_key = "sk-admin-1"', {}),
    ('[[users]]\nname = "admin"\n[[users.keys]]\napi_key = "${KEY}"', {"KEY": " sk-admin-1 "}),
    ('[[users]]\nname = "a"\n[[users]]\nkeys = [{ api_key = "x" }, { api_key = "sk-admin-1" }]', {}),
    ("", {"GPROXY_ADMIN_API_KEY": "sk-admin-1"}),
]  # fmt: skip


@pytest.mark.parametrize("host", PUBLIC_HOSTS)
@pytest.mark.parametrize(("seed", "environ"), PUBLISHED)
def test_the_published_key_is_refused_on_a_public_address(load: Load, seed, environ, host):
    (problem,) = problems(load, seed, GPROXY_HOST=host, **environ)
    assert "published quick-start key" in problem and host in problem


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "[::1]", "localhost"])
@pytest.mark.parametrize(("seed", "environ"), PUBLISHED)
def test_the_published_key_is_accepted_on_a_loopback_address(load: Load, seed, environ, host):
    assert load(seed, GPROXY_HOST=host, **environ).host == host.strip("[]")


def test_the_representation_of_settings_contains_no_secret(load: Load):
    secrets = {
        "GPROXY_ADMIN_PASSWORD": "hidden-1",
        "GPROXY_ADMIN_API_KEY": "hidden-2",
        "DATABASE_SECRET_KEY": "hidden-3",
        "GPROXY_DSN": "postgresql://u:hidden-4@h/d",
        "GPROXY_PROXY": "http://u:hidden-5@h",
        "OPENAI_API_KEY": "hidden-6",
    }
    assert "hidden" not in repr(load(**secrets)) + str(load(**secrets))


@pytest.mark.parametrize(
    ("dsn", "hidden"),
    [
        ("postgresql://u:p%40ss+word@h/d", {"p%40ss+word", "p@ss+word", "p@ss word"}),
        ("postgresql://h/d?user=u&password=p%40ssword&sslpassword=other", {"p%40ssword", "p@ssword", "other"}),
        ("postgresql://u@h/d?password=", set()),
        ("sqlite:///gproxy.db", set()),
    ],
)
def test_a_password_anywhere_in_the_dsn_is_a_secret(load: Load, dsn, hidden):
    assert settings.secrets(load(GPROXY_DSN=dsn)) - settings.secrets(load()) == hidden
