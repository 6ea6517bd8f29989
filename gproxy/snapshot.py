"""What one request needs to know, frozen at one revision: types, and the order of patterns.

A snapshot is passed as an argument and never changes; the next one shares the tables that did not change.
`store/snapshot_loader.py` reads it from the database.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

# What stands between visible ASCII characters cannot travel in a header.
HEADER_SAFE = re.compile(r"[\x21-\x7e]+")


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
class Dispatch:
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
    routing: Mapping[tuple[str, str], Dispatch] | None = None


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
