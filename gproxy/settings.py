"""Process settings, read once: an environment variable beats the seed's [global], which beats the default.

This is the only file that reads the environment. All problems are reported together.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import unquote, unquote_plus, urlsplit

from gproxy.errors import StartupError

MIB = 1024 * 1024
# Printed in the documentation, so it is accepted on the loopback address only.
PUBLISHED_KEY = "sk-admin-1"
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
VENDOR_KEYS = {"OPENAI_API_KEY": "openai", "ANTHROPIC_API_KEY": "anthropic", "GEMINI_API_KEY": "aistudio"}
# The replacements in `fastpath/`, by the names of their files.
FAST_PATHS = frozenset(
    (
        *("access_line", "chunked", "collector", "connection", "direct_response"),
        *("fairness", "fixed_routes", "http_date", "syscalls"),
    )
)
PROXY_SCHEMES = ("http", "https", "socks4", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Settings:
    host: str
    port: int
    workers: int
    seed_path: Path | None
    seed: dict  # the parsed seed document; empty without a seed file
    data_dir: Path
    dsn: str
    redis_url: str | None
    proxy: str | None
    trusted_proxies: tuple[str, ...]
    admin_user: str
    admin_password: str | None
    admin_api_key: str | None
    secret_key: str | None
    max_body: int
    max_file: int
    grace_s: float
    body_timeout_s: float
    max_inflight: int
    max_inflight_bytes: int
    log_body: int  # maximum bytes of a logged body
    log_level: str
    log_format: str
    access_log: bool
    fast_paths: frozenset[str]  # the replacements in `fastpath/` that are on
    environ: Mapping[str, str]  # for "${NAME}" references and vendors' keys; never displayed

    def __repr__(self) -> str:
        return f"Settings(host={self.host!r}, port={self.port}, data_dir={str(self.data_dir)!r})"


def load(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
    """Returns the settings of this process. Raises StartupError with all problems found."""
    environ = dict(os.environ if environ is None else environ)
    reader = _Reader(environ)
    seed_path = _seed_path(environ, cwd or Path.cwd(), reader.problems)
    seed = _seed(seed_path, reader.problems)
    reader.seed = seed.get("global") if isinstance(seed.get("global"), dict) else {}
    reader.seed_name = seed_path.name if seed_path else ""
    data_dir = Path(reader.text("GPROXY_DATA_DIR", "data_dir", "./data"))
    settings = Settings(
        host=reader.text("GPROXY_HOST", "host", "127.0.0.1").strip("[]"),
        port=reader.number("GPROXY_PORT", "port", 8787, minimum=1, maximum=65535),
        workers=reader.number("GPROXY_WORKERS", None, len(os.sched_getaffinity(0)), minimum=1, maximum=64),
        seed_path=seed_path,
        seed=seed,
        data_dir=data_dir,
        dsn=reader.dsn(data_dir),
        redis_url=reader.redis_url(),
        proxy=reader.proxy(),
        trusted_proxies=reader.networks(),
        admin_user=reader.text("GPROXY_ADMIN_USER", None, "admin"),
        admin_password=reader.optional("GPROXY_ADMIN_PASSWORD"),
        admin_api_key=reader.api_key("GPROXY_ADMIN_API_KEY"),
        secret_key=reader.optional("DATABASE_SECRET_KEY"),
        max_body=reader.number("GPROXY_MAX_BODY", None, 64 * MIB),
        max_file=reader.number("GPROXY_MAX_FILE", None, 512 * MIB),
        grace_s=reader.number("GPROXY_GRACE", None, 60, minimum=0, maximum=86_400),
        body_timeout_s=reader.number("GPROXY_BODY_TIMEOUT", None, 60, maximum=86_400),
        max_inflight=reader.number("GPROXY_MAX_INFLIGHT", None, 2_000),
        max_inflight_bytes=reader.number("GPROXY_MAX_INFLIGHT_BYTES", None, 512 * MIB),
        log_body=reader.number("GPROXY_LOG_BODY", None, 64 * 1024, maximum=16 * MIB),
        log_level=reader.one_of("GPROXY_LOG_LEVEL", ("debug", "info", "warning", "error"), "info"),
        log_format=reader.one_of("GPROXY_LOG_FORMAT", ("text", "json"), "text"),
        access_log=reader.one_of("GPROXY_ACCESS_LOG", ("on", "off"), "on") == "on",
        fast_paths=reader.fast_paths(),
        environ=environ,
    )
    _refuse_published_key(settings, reader.problems)
    if reader.problems:
        raise StartupError(reader.problems)
    return settings


def fast_paths(environ: Mapping[str, str] | None = None) -> frozenset[str]:
    """Returns the names of GPROXY_FASTPATH that are on. Unknown names are left out here and reported by `load`."""
    return _fast_path_names(os.environ if environ is None else environ) & FAST_PATHS


def _fast_path_names(environ: Mapping[str, str]) -> frozenset[str]:
    written = environ.get("GPROXY_FASTPATH", "").strip().lower() or "all"
    if written in ("all", "off"):
        return FAST_PATHS if written == "all" else frozenset()
    return frozenset(name.strip() for name in written.split(","))


class _Reader:
    """Reads settings one by one and collects their problems."""

    def __init__(self, environ: Mapping[str, str]):
        self.environ, self.problems = environ, []
        self.seed: dict = {}
        self.seed_name = ""

    def optional(self, name: str) -> str | None:
        """The stripped value of a variable; None if it is unset or blank."""
        return self.environ.get(name, "").strip() or None

    def _find(self, name: str, key: str | None):
        """The value of a variable or of a key in [global], or None, and its place for error messages."""
        if (value := self.optional(name)) is not None:
            return value, name
        if key and self.seed.get(key) is not None:
            place = f"{self.seed_name}: global.{key}"
            return self._expand_references(self.seed[key], place), place
        return None, name

    def _expand_references(self, value, place: str):
        """Replaces each `${NAME}` in a string of the seed by the value of the environment variable."""
        if not isinstance(value, str):
            return value
        if missing := [name for name in REFERENCE.findall(value) if name not in self.environ]:
            self.problems.append(f"{place}: environment variable {missing[0]} is not set; set it or write the value")
            return None
        return REFERENCE.sub(lambda match: self.environ[match[1]].strip(), value)

    def api_key(self, name: str) -> str | None:
        value = self.optional(name)
        if value is not None and not re.fullmatch(r"[\x21-\x7e]+", value):
            self.problems.append(f"{name}: contains a blank or a character that no header can carry; correct the key")
        return value

    def text(self, name: str, key: str | None, default: str) -> str:
        value, place = self._find(name, key)
        if value is None:
            return default
        if not isinstance(value, str) or not value.strip():
            self.problems.append(f"{place}: expected a non-empty string, got {value!r}")
            return default
        return value.strip()

    def number(self, name: str, key: str | None, default: int, minimum: int = 1, maximum: int = 2**53) -> int:
        value, place = self._find(name, key)
        if value is None:
            return default
        if (
            isinstance(value, bool)
            or not re.fullmatch(r"[0-9]{1,16}", str(value))
            or not minimum <= int(value) <= maximum
        ):
            self.problems.append(f"{place}: expected a whole number from {minimum} to {maximum}, got {value!r}")
            return default
        return int(value)

    def one_of(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = (self.optional(name) or default).lower()
        if value not in choices:
            self.problems.append(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
        return value

    def fast_paths(self) -> frozenset[str]:
        if unknown := sorted(_fast_path_names(self.environ) - FAST_PATHS):
            known = ", ".join(sorted(FAST_PATHS))
            self.problems.append(f"GPROXY_FASTPATH: {unknown[0]!r} is unknown; write all, off, or some of {known}")
        return fast_paths(self.environ)

    def dsn(self, data_dir: Path) -> str:
        value, place = self._find("GPROXY_DSN", "dsn")
        if value is None:
            return f"sqlite:///{data_dir / 'gproxy.db'}"
        scheme = str(value).partition(":")[0]
        if scheme in ("sqlite", "postgresql", "postgres") and str(value).startswith(f"{scheme}://"):
            return str(value)
        if scheme in ("mysql", "mysql+pool", "mariadb"):
            remedy = "MySQL is not supported yet; use sqlite:///… or postgresql://…"
        else:
            remedy = "expected sqlite:///… or postgresql://…"
        self.problems.append(f"{place}: unknown database {scheme!r}; {remedy}")
        return ""

    def proxy(self) -> str | None:
        value, place = self._find("GPROXY_PROXY", "proxy")
        if value is None:
            return None
        try:
            parts = urlsplit(str(value))
            is_proxy = parts.scheme in PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_proxy = False
        if not is_proxy:
            self.problems.append(f"{place}: expected {', '.join(PROXY_SCHEMES)} URL such as http://proxy:3128")
        return str(value)

    def redis_url(self) -> str | None:
        value = self.optional("GPROXY_REDIS_URL")
        if value is not None and not re.match(r"(rediss?://[^/]|unix:///)", value):
            # The message must not quote the value, which may contain a password.
            self.problems.append("GPROXY_REDIS_URL: expected redis://host:6379/0, rediss://… or unix:///path")
        return value

    def networks(self) -> tuple[str, ...]:
        names = (self.optional("GPROXY_TRUSTED_PROXIES") or "127.0.0.1,::1").split(",")
        for name in names:
            try:
                ip_network(name.strip())
            except ValueError:
                self.problems.append(f"GPROXY_TRUSTED_PROXIES: {name.strip()!r} is neither an address nor a network")
        return tuple(name.strip() for name in names)


def _seed_path(environ: Mapping[str, str], cwd: Path, problems: list[str]) -> Path | None:
    if name := environ.get("GPROXY_CONFIG", "").strip():
        if (path := cwd / name).is_file():
            return path
        problems.append(f"GPROXY_CONFIG: no file {name!r}; give the path of a seed TOML or unset it")
        return None
    path = cwd / "gproxy.toml"
    return path if path.is_file() else None


def _seed(path: Path | None, problems: list[str]) -> dict:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"), parse_float=Decimal)
    except (ValueError, RecursionError) as fault:
        problems.append(f"{path.name}: not readable as TOML: {fault}")
    except OSError as fault:
        problems.append(f"{path.name}: cannot be read: {fault.strerror}")
    return {}


def secrets(settings: Settings) -> set[str]:
    """All secrets of these settings, which must never be logged."""
    urls = (settings.dsn, settings.proxy or "", settings.redis_url or "")
    passwords = (password for url in urls for password in _passwords(url))
    vendors = (settings.environ.get(name, "").strip() for name in VENDOR_KEYS)
    own = (settings.admin_password, settings.admin_api_key, settings.secret_key)
    return {secret for secret in (*own, *passwords, *vendors) if secret} - {PUBLISHED_KEY}


def _passwords(url: str) -> set[str]:
    """The passwords of a URL, before the host or in the query, both percent-encoded and decoded."""
    parts = urlsplit(url)
    pairs = (pair.partition("=") for pair in parts.query.split("&"))
    values = {value for name, _, value in pairs if name.endswith("password")} | {parts.password}
    return {shape for value in values if value for shape in (value, unquote(value), unquote_plus(value))}


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _refuse_published_key(settings: Settings, problems: list[str]) -> None:
    if is_loopback(settings.host):
        return
    values = [str(key.get("api_key")) for user in _tables(settings.seed, "users") for key in _tables(user, "keys")]
    keys = [REFERENCE.sub(lambda match: settings.environ.get(match[1], "").strip(), key) for key in values]
    if PUBLISHED_KEY in (*keys, settings.admin_api_key):
        problems.append(
            f"{PUBLISHED_KEY} is the published quick-start key and would be open to the network on "
            f"{settings.host}; give the admin a key of your own or listen on 127.0.0.1"
        )


def _tables(parent: dict, name: str) -> list[dict]:
    """The tables of a list in a document that is not validated yet."""
    rows = parent.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
