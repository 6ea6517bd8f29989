"""What a request needs to know, frozen at one revision. Types first, then the loading.

A snapshot is passed as an argument and never changes; the next one shares the tables that did not.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import peewee as pw

from gproxy.store import models as m
from gproxy.store.sealing import Seal
from gproxy.units import NS

log = logging.getLogger(__name__)

# What stands between visible ASCII characters cannot travel in a header.
HEADER_SAFE = re.compile(r"[\x21-\x7e]+")
TABLES = ("settings", "providers", "models", "aliases", "users", "sessions")


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """What an operator may set on a provider, or in [global] for all. Times in seconds."""

    base_url: str | None = None
    protocol: str | None = None
    proxy: str | None = None  # None: as all upstreams; "direct": none
    ca_file: str | None = None  # of the authorities that its certificate is checked against
    client_cert_file: str | None = None
    client_key_file: str | None = None  # None: in the file of the certificate
    forward_headers: tuple[str, ...] = ()
    connect_timeout_s: float = 10
    first_byte_timeout_s: float = 300
    idle_timeout_s: float = 120
    total_timeout_s: float = 3600
    write_timeout_s: float = 60
    max_connections: int = 1000  # of a worker to this upstream
    connection_wait_s: float = 10
    strict_translation: bool = False
    fetch_images: bool = False
    unpriced: str = "allow"  # or "deny": what becomes of calls whose price nobody knows
    assumed_output_tokens: int = 4096
    stop_at_quota: bool = True
    rotation_strategy: str = "round_robin"  # or "sticky", "cache_affinity"
    max_attempts: int = 5
    retry_within_s: float = 60  # after so long no further attempt begins
    retry_timeouts: bool = False
    on_disconnect: str = "cancel"  # or "drain": what becomes of an upstream's answer whose client left
    drain_s: float = 60  # at most so long
    location: str = "us-central1"  # of Vertex AI
    heartbeat_s: float = 15  # of silence in a stream, after which the client is told that it lives


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """Of Google Cloud; its private key is the credential's secret."""

    project_id: str
    client_email: str
    token_uri: str
    private_key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    id: int
    provider_id: int
    secret: str | None = field(repr=False)  # None: its environment variable holds no usable key
    weight: int = 1
    rpm: int | None = None
    concurrency: int | None = None
    account: ServiceAccount | None = None  # which has access tokens in place of a key

    @property
    def fingerprint(self) -> str:
        """Tells one key from the next in its place."""
        return _fingerprint(self.secret)

    @property
    def is_limited(self) -> bool:
        """Whether it has limits of its own."""
        return self.rpm is not None or self.concurrency is not None


@dataclass(frozen=True, slots=True)
class Way:
    """What becomes of a route: `how` is passthrough, transform, local or unsupported.

    The destination is there only with transform.
    """

    how: str
    operation: str | None = None
    protocol: str | None = None


@dataclass(frozen=True, slots=True)
class Provider:
    """`routing`: ways by (operation, protocol) in the document's own words, or None for the channel's default."""

    id: int
    name: str
    channel: str
    settings: ProviderSettings
    credentials: tuple[Credential, ...]
    routing: Mapping[tuple[str, str], Way] | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model that an operator registered. `pricing` is its price document as JSON text, or None."""

    provider_id: int
    model_id: str
    display_name: str | None
    enabled: bool
    pricing: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """Of an alias. Those of the lowest tier are tried first, each as often as its weight says."""

    provider_id: int
    model_id: str
    tier: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Alias:
    name: str
    targets: tuple[Target, ...]
    pattern: re.Pattern | None  # only on an alias with a `*`
    pricing: str | None = None  # as of a model

    @property
    def is_wildcard(self) -> bool:
        return self.pattern is not None


@dataclass(frozen=True, slots=True)
class Grant:
    """One permission row: models that match the pattern, on one provider or (None) on any."""

    provider_id: int | None
    matches: Callable[[str], object]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One row of limits for models that match the pattern: each at most so many, 0 none at all, None any number."""

    id: int
    pattern: str
    matches: Callable[[str], object]
    rpm: int | None = None
    rpd: int | None = None
    total_tokens: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """What a user may spend, in nano-USD: within each `day`, `week` or `month`, or (None) altogether."""

    cap: int
    period: str | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a key belongs to, and what may be done with it. `expires_at` in seconds since the epoch.

    Limits are the user's and the key's own, those first that go before others. `budget` is what may be spent by the
    key in nano-USD. `key_grants` narrow the user's `grants`; None: to nothing less. `files` are the providers whose
    files the user may use.
    """

    user_id: int
    user_name: str
    key_id: int
    is_admin: bool
    expires_at: float | None
    grants: tuple[Grant, ...]
    limits: tuple[RateLimit, ...] = ()
    key_limits: tuple[RateLimit, ...] = ()
    quota: Quota | None = None
    budget: int | None = None
    key_grants: tuple[Grant, ...] | None = None
    files: frozenset[int] = frozenset()


class Logging(NamedTuple):
    """What is kept of requests: of those of clients, of those to upstreams, and for how long."""

    upstream: bool = False
    upstream_body: bool = False
    downstream: bool = False
    downstream_body: bool = False
    retention_days: int = 7
    retention_mb: int = 1024
    usage_retention_days: int | None = None  # None: usage rows stay


NO_LOGS = Logging()


@dataclass(frozen=True, slots=True)
class Login:
    """A user who logged in. `expires_at` in seconds since the epoch."""

    user_id: int
    user_name: str
    is_admin: bool
    expires_at: float
    key_id: None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    revisions: Mapping[str, int]
    deployment: str = ""
    enable_usage: bool = True
    logging: Logging = NO_LOGS
    provider_defaults: Mapping = field(default_factory=dict)
    providers: Mapping[str, Provider] = field(default_factory=dict)  # enabled ones, by name
    provider_by_id: Mapping[int, Provider] = field(default_factory=dict)
    models: Mapping[tuple[int, str], Model] = field(default_factory=dict)
    registered: Mapping[str, tuple[Model, ...]] = field(default_factory=dict)  # by model id
    aliases: Mapping[str, Alias] = field(default_factory=dict)  # enabled ones, exact
    wildcards: tuple[Alias, ...] = ()  # enabled ones, most specific first
    callers: Mapping[str, Caller] = field(default_factory=dict)  # usable ones, by key digest
    logins: Mapping[str, Login] = field(default_factory=dict)  # of enabled users, by session digest


@lru_cache(maxsize=4096)
def _fingerprint(secret: str) -> str:
    return blake2b(secret.encode(), digest_size=4).hexdigest()


def glob(pattern: str) -> re.Pattern:
    """`*` is any run of characters (also of `/`), `?` is any one; all else is itself. Matches whole strings."""
    first, *rest = ("".join("." if c == "?" else re.escape(c) for c in part) for part in pattern.split("*"))
    if not rest:
        return re.compile(first, re.DOTALL)
    *middle, last = rest
    # Each part takes its first place and keeps it: without going back, many stars cost no more than one.
    return re.compile(first + "".join(f"(?>.*?{part})" for part in middle if part) + ".*" + last, re.DOTALL)


def by_precedence(pattern: str) -> tuple[int, int, str]:
    """Sort key: the most literal characters before the first wildcard, then the most literals."""
    literals = [c for c in pattern if c not in "*?"]
    return (-len(re.split(r"[*?]", pattern)[0]), -len(literals), pattern)


def by_row_precedence(limit: RateLimit) -> tuple:
    """Sort key: an exact name, then as patterns go."""
    return (bool(re.search(r"[*?]", limit.pattern)), by_precedence(limit.pattern))


@contextmanager
def read() -> Iterator[None]:
    """A transaction that sees one state of the database from its beginning to its end."""
    database = m.proxy.obj
    with database.atomic():
        if isinstance(database, pw.PostgresqlDatabase):
            database.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def revisions() -> dict[str, int]:
    """The revision of each table group, from the database."""
    return {row.table: row.revision for row in m.Revision.select()}


def bump(*tables: str) -> None:
    """Marks tables as changed; belongs into the transaction that changes them."""
    m.Revision.update(revision=m.Revision.revision + 1).where(m.Revision.table.in_(tables)).execute()


def load(before: Snapshot | None, environ: Mapping[str, str], seal: Seal | None) -> Snapshot:
    """The database as it is now. Only what changed since `before` is read; all of it in one transaction."""
    with read():
        now = revisions()
        if before is not None and before.revisions == now:
            return before
        old = before or Snapshot(revisions={})
        changed = {table for table in TABLES if old.revisions.get(table) != now.get(table)}
        parts: dict = {}
        if "settings" in changed:
            parts |= _settings()
        if changed & {"settings", "providers"}:
            defaults = parts.get("provider_defaults", old.provider_defaults)
            parts |= _providers(defaults, environ, seal)
        if "models" in changed:
            parts |= _models()
        if "aliases" in changed:
            parts |= _aliases()
        if "users" in changed:
            parts |= _callers()
        if changed & {"users", "sessions"}:
            parts |= _logins()
        return replace(old, revisions=now, **parts)


def _settings() -> dict:
    row = m.GlobalSettings.select().first()
    return {
        "deployment": row.deployment,
        "enable_usage": row.enable_usage,
        "logging": Logging(
            row.enable_upstream_log,
            row.enable_upstream_log_body,
            row.enable_downstream_log,
            row.enable_downstream_log_body,
            row.log_retention_days,
            row.log_retention_mb,
            row.usage_retention_days,
        ),
        "provider_defaults": json.loads(row.provider_defaults_json),
    }


def _providers(defaults: Mapping, environ: Mapping[str, str], seal: Seal | None) -> dict:
    credentials: dict[int, list[Credential]] = {}
    for row in m.Credential.select().where(m.Credential.enabled).order_by(m.Credential.id):
        secret, account = resolve_secret(row.secret_json, environ, seal)
        if secret is None:
            log.warning("credential %d: its environment variable holds no usable key, so it is not used", row.id)
        found = Credential(row.id, row.provider_id, secret, row.weight, row.rpm, row.concurrency, account)
        credentials.setdefault(row.provider_id, []).append(found)
    known = {f.name for f in fields(ProviderSettings)}
    found = []
    for row in m.Provider.select().where(m.Provider.enabled).order_by(m.Provider.name):
        given = {k: v for k, v in {**defaults, **json.loads(row.settings_json)}.items() if k in known}
        given["forward_headers"] = tuple(given.get("forward_headers") or ())
        settings = ProviderSettings(**given)
        if settings.base_url:
            settings = replace(settings, base_url=without_version(settings.base_url))
        usable = tuple(c for c in credentials.get(row.id, ()) if c.secret is not None)
        found.append(Provider(row.id, row.name, row.channel, settings, usable, _routing(row)))
    return {"providers": {p.name: p for p in found}, "provider_by_id": {p.id: p for p in found}}


def _routing(row: m.Provider) -> Mapping[tuple[str, str], Way] | None:
    try:
        return read_routing(row.routing_json)
    except (ValueError, RecursionError) as fault:
        # One provider's document must not keep the others, or later changes, from being loaded.
        log.error("provider %s: its routing cannot be read, so its channel's default applies: %s", row.name, fault)
        return None


def read_routing(text: str) -> Mapping[tuple[str, str], Way] | None:
    """A stored routing document; None when it leaves all to the channel. Raises ValueError when it is none."""
    match json.loads(text) if text else None:
        case None:
            return None
        case {"rules": list(rules), **others} if not others:
            return dict(map(_rule, rules)) or None
        case {**others} if not others:
            return None
    raise ValueError("it is no table of rules")


def _rule(rule) -> tuple[tuple[str, str], Way]:
    match rule:
        case {"route": {"operation": str(operation), "protocol": str(protocol)}, "implementation": implementation}:
            return (operation, protocol), _way(implementation)
    raise ValueError("a rule has no route or no implementation")


def _way(implementation) -> Way:
    match implementation:
        case "Passthrough" | "Local" | "Unsupported":
            return Way(implementation.lower())
        case {"TransformTo": {"destination": {"operation": str(operation), "protocol": str(protocol)}}}:
            return Way("transform", operation, protocol)
    raise ValueError("an implementation is none of those known")


def without_version(base_url: str) -> str:
    """The base without a trailing slash and version segment, to which our paths are appended."""
    return re.sub(r"(?<!/)/v1(beta)?$", "", base_url.rstrip("/")).rstrip("/")


def resolve_secret(
    secret_json: str, environ: Mapping[str, str], seal: Seal | None
) -> tuple[str | None, ServiceAccount | None]:
    """The key itself, with the account that it is of. A stored `${NAME}` is looked up at every start, so that a new
    value needs only a restart."""
    try:
        document = json.loads(seal.open(secret_json) if seal else secret_json)
    except ValueError as fault:
        log.error("a credential cannot be opened: %s", fault)
        return None, None
    found = {name: _resolved(text, environ) for name, text in document.items()}
    if "api_key" in document:
        key = found["api_key"]
        return (key if key == document["api_key"] or HEADER_SAFE.fullmatch(key) else None), None
    account = ServiceAccount(*(found.get(f.name) for f in fields(ServiceAccount)))
    is_whole = found["private_key"] and account.project_id and account.client_email
    return (found["private_key"] if is_whole else None), account


def _resolved(text: str, environ: Mapping[str, str]) -> str:
    reference = re.fullmatch(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", text)
    return environ.get(reference[1], "").strip() if reference else text


def _models() -> dict:
    rows = [
        Model(r.provider_id, r.model_id, r.display_name, r.enabled, r.pricing_json)
        for r in m.Model.select().order_by(m.Model.id)
    ]
    registered: dict[str, list[Model]] = {}
    for row in rows:
        registered.setdefault(row.model_id, []).append(row)
    return {
        "models": {(row.provider_id, row.model_id): row for row in rows},
        "registered": {name: tuple(found) for name, found in registered.items()},
    }


def _aliases() -> dict:
    targets: dict[int, list[Target]] = {}
    for row in m.AliasTarget.select().order_by(m.AliasTarget.tier, m.AliasTarget.id):
        targets.setdefault(row.alias_id, []).append(Target(row.provider_id, row.model_id, row.tier, row.weight))
    found = []
    for row in m.ModelAlias.select().where(m.ModelAlias.enabled).order_by(m.ModelAlias.alias):
        pattern = None
        if "*" in row.alias:
            pattern = re.compile("(.*)".join(re.escape(part) for part in row.alias.split("*")), re.DOTALL)
        found.append(Alias(row.alias, tuple(targets.get(row.id, ())), pattern, row.pricing_json))
    wildcards = sorted((a for a in found if a.is_wildcard), key=lambda a: by_precedence(a.name))
    return {"aliases": {a.name: a for a in found if not a.is_wildcard}, "wildcards": tuple(wildcards)}


def caller(user_id: int, key_id: int | None) -> tuple[Caller, str | None] | None:
    """A user with one of its keys, or without any, and why it may not call if so; None where there is none."""
    user = m.User.get_or_none(m.User.id == user_id)
    key = None if key_id is None else m.UserKey.get_or_none((m.UserKey.id == key_id) & (m.UserKey.user == user_id))
    if user is None or (key_id is not None and key is None):
        return None
    why = "the user is disabled" if not user.enabled else "the key is disabled" if key and not key.enabled else None
    if key is not None and key.expires_at is not None and key.expires_at <= time.time_ns():
        why = why or "the key is expired"
    return _caller(user, key, _rows()), why


def user_of_key(key_id: int) -> int | None:
    return m.UserKey.select(m.UserKey.user).where(m.UserKey.id == key_id).tuples().scalar()


def _callers() -> dict:
    rows = _rows()
    query = (
        m.UserKey.select(m.UserKey, m.User)
        .join(m.User)
        .where(m.UserKey.enabled & m.User.enabled)
        .order_by(m.UserKey.id)
    )
    return {"callers": {row.api_key_digest: _caller(row.user, row, rows) for row in query}}


class _Rows(NamedTuple):
    """What users and keys may do and how much of it, by their ids."""

    grants: dict[int, list[Grant]]
    key_grants: dict[int, list[Grant]]
    limits: dict[int, list[RateLimit]]
    key_limits: dict[int, list[RateLimit]]
    quotas: dict[int, Quota]
    files: dict[int, set[int]]


def _rows() -> _Rows:
    grants, key_grants = _grants()
    of_users, of_keys = limits()
    quotas = {row.user_id: Quota(row.quota, row.period) for row in m.Quota.select().where(m.Quota.quota.is_null(False))}
    files: dict[int, set[int]] = {}
    for row in m.FilePermission.select():
        files.setdefault(row.user_id, set()).add(row.provider_id)
    return _Rows(grants, key_grants, of_users, of_keys, quotas, files)


def _caller(user: m.User, key: m.UserKey | None, rows: _Rows) -> Caller:
    """Without a key: what the user may do by any key that has nothing of its own."""
    key_id = 0 if key is None else key.id
    return Caller(
        user_id=user.id,
        user_name=user.name,
        key_id=key_id,
        is_admin=user.is_admin,
        expires_at=None if key is None or key.expires_at is None else key.expires_at / NS,
        grants=tuple(rows.grants.get(user.id, ())),
        limits=tuple(rows.limits.get(user.id, ())),
        key_limits=tuple(rows.key_limits.get(key_id, ())),
        quota=rows.quotas.get(user.id),
        budget=None if key is None else key.budget,
        key_grants=tuple(rows.key_grants.get(key_id, ())) if key is not None and key.narrowed else None,
        files=frozenset(rows.files.get(user.id, ())),
    )


def _logins() -> dict:
    query = m.Session.select(m.Session, m.User).join(m.User).where(m.User.enabled)
    return {
        "logins": {
            row.digest: Login(row.user_id, row.user.name, row.user.is_admin, row.expires_at / NS) for row in query
        }
    }


def _grants() -> tuple[dict[int, list[Grant]], dict[int, list[Grant]]]:
    """Permission rows, of users and of keys."""
    of_users: dict[int, list[Grant]] = {}
    of_keys: dict[int, list[Grant]] = {}
    for row in m.ModelPermission.select().order_by(m.ModelPermission.id):
        owners, owner = (of_users, row.user_id) if row.key_id is None else (of_keys, row.key_id)
        owners.setdefault(owner, []).append(Grant(row.provider_id, glob(row.model_pattern).fullmatch))
    return of_users, of_keys


def limits(user_id: int | None = None) -> tuple[dict[int, list[RateLimit]], dict[int, list[RateLimit]]]:
    """Rate limit rows of all or of one user, and of keys, each list in the order in which they are looked through."""
    of_users: dict[int, list[RateLimit]] = {}
    of_keys: dict[int, list[RateLimit]] = {}
    rows = m.RateLimit.select()
    for row in rows if user_id is None else rows.where(m.RateLimit.user == user_id):
        owners, owner = (of_users, row.user_id) if row.key_id is None else (of_keys, row.key_id)
        matches = glob(row.model_pattern).fullmatch
        amounts = (row.rpm, row.rpd, row.total_tokens, row.concurrency)
        owners.setdefault(owner, []).append(RateLimit(row.id, row.model_pattern, matches, *amounts))
    for found in (*of_users.values(), *of_keys.values()):
        found.sort(key=by_row_precedence)
    return of_users, of_keys
