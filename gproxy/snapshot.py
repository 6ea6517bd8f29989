"""The configuration that one request sees, frozen at one revision: its types, and the precedence of patterns.

A snapshot is passed as an argument and never changes; the next one shares the tables that did not change.
`store/snapshot_loader.py` reads it from the database.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from gproxy.patterns import AliasPattern, glob  # noqa: F401 - a snapshot is built with `glob`

# Values that can be sent in an HTTP header: visible ASCII characters without blanks.
HEADER_SAFE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """The settings of a provider; [global] sets the defaults for all providers. Times are in seconds."""

    base_url: str | None = None
    protocol: str | None = None
    proxy: str | None = None  # None: the proxy of all upstreams; "direct": no proxy
    ca_file: str | None = None  # certificate authorities for the upstream's certificate
    client_cert_file: str | None = None
    client_key_file: str | None = None  # None: the key is in the certificate file
    forward_headers: tuple[str, ...] = ()
    connect_timeout_s: float = 10
    first_byte_timeout_s: float = 300
    idle_timeout_s: float = 120
    total_timeout_s: float = 3600
    write_timeout_s: float = 60
    max_connections: int = 1000  # of one worker to this upstream
    connection_wait_s: float = 10
    strict_translation: bool = False
    fetch_images: bool = False
    unpriced: str = "allow"  # or "deny": calls without a known price are refused
    assumed_output_tokens: int = 4096
    stop_at_quota: bool = True
    rotation_strategy: str = "round_robin"  # or "sticky", "cache_affinity"
    max_attempts: int = 5
    retry_within_s: float = 60  # no new attempt begins later than this after the request
    retry_timeouts: bool = False
    on_disconnect: str = "cancel"  # or "drain": the upstream's answer is read to its end after a client disconnect
    drain_s: float = 60  # maximum time to drain an answer
    location: str = "us-central1"  # of Vertex AI
    heartbeat_s: float = 15  # a heartbeat is sent after this time without output in a stream


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A service account of Google Cloud. Its private key is the secret of the credential."""

    project_id: str
    client_email: str
    token_uri: str
    private_key_id: str | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    id: int
    provider_id: int
    secret: str | None = field(repr=False)  # None: its environment variable has no usable key
    weight: int = 1
    rpm: int | None = None
    concurrency: int | None = None
    account: ServiceAccount | None = None  # authenticates with access tokens instead of a key

    @property
    def fingerprint(self) -> str:
        """A short hash of the secret and the service account, which changes when either is replaced."""
        return _fingerprint(self.secret, self.account)

    @property
    def is_limited(self) -> bool:
        """True if the credential has its own limits."""
        return self.rpm is not None or self.concurrency is not None


@dataclass(frozen=True, slots=True)
class Dispatch:
    """How a route is served: `how` is passthrough, transform, local or unsupported.

    `operation` and `protocol` are those of the destination; a routing document has them only with transform.
    """

    how: str
    operation: str | None = None
    protocol: str | None = None


@dataclass(frozen=True, slots=True)
class Provider:
    """`routing` maps (operation, protocol), by their names in documents, to a dispatch; None: the channel's default."""

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
    """A target of an alias. Targets of the lowest tier are tried first, chosen in proportion to their weights."""

    provider_id: int
    model_id: str
    tier: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Alias:
    name: str
    targets: tuple[Target, ...]
    pattern: AliasPattern | None  # None for a name without `*`
    pricing: str | None = None  # price document as JSON text

    @property
    def is_wildcard(self) -> bool:
        return self.pattern is not None


@dataclass(frozen=True, slots=True)
class Grant:
    """One permission: models that match the pattern, on one provider or (None) on any provider."""

    provider_id: int | None
    matches: Callable[[str], object]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The limits for models that match the pattern. 0 blocks all calls, None is unlimited."""

    id: int
    pattern: str
    matches: Callable[[str], object]
    rpm: int | None = None
    rpd: int | None = None
    total_tokens: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class Quota:
    """The maximum spend of a user, in nano-USD: within each `day`, `week` or `month`, or (None) in total."""

    cap: int
    period: str | None


@dataclass(frozen=True, slots=True)
class Caller:
    """The user of a key, and what the key may do. `expires_at` is in seconds since the epoch.

    `limits` are the user's, `key_limits` the key's own, both in order of precedence. `budget` is the maximum spend of
    the key in nano-USD. `key_grants` restrict the user's `grants`; None: no restriction. `files` are the providers
    whose files the user may use.
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
    """Which requests of clients and to upstreams are logged, and how long rows are kept."""

    upstream: bool = False
    upstream_body: bool = False
    downstream: bool = False
    downstream_body: bool = False
    retention_days: int = 7
    retention_mb: int = 1024
    usage_retention_days: int | None = None  # None: usage rows are kept forever


NO_LOGS = Logging()


@dataclass(frozen=True, slots=True)
class Login:
    """A session of a user who logged in. `expires_at` is in seconds since the epoch."""

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
    providers: Mapping[str, Provider] = field(default_factory=dict)  # enabled providers, by name
    provider_by_id: Mapping[int, Provider] = field(default_factory=dict)
    models: Mapping[tuple[int, str], Model] = field(default_factory=dict)
    registered: Mapping[str, tuple[Model, ...]] = field(default_factory=dict)  # by model id
    aliases: Mapping[str, Alias] = field(default_factory=dict)  # enabled aliases without `*`, by name
    wildcards: tuple[Alias, ...] = ()  # enabled aliases with `*`, most specific first
    callers: Mapping[str, Caller] = field(default_factory=dict)  # of usable keys, by key digest
    logins: Mapping[str, Login] = field(default_factory=dict)  # of enabled users, by session digest

    def is_current(self, credential: Credential) -> bool:
        """Returns True if an enabled provider has this credential with the same key."""
        provider = self.provider_by_id.get(credential.provider_id)
        return provider is not None and any(
            one.id == credential.id and one.fingerprint == credential.fingerprint for one in provider.credentials
        )

    @property
    def secrets(self) -> frozenset[str]:
        """All secrets of the configuration, which must never be logged: keys, and passwords of proxies."""
        providers = self.providers.values()
        passwords = (text for one in providers if one.settings.proxy for text in _passwords(one.settings.proxy))
        keys = (credential.secret for one in providers for credential in one.credentials if credential.secret)
        return frozenset((*keys, *passwords))


def _passwords(url: str) -> tuple[str, ...]:
    """The password of a URL as it is written and percent-decoded; nothing if it has none."""
    password = urlsplit(url).password
    return (password, unquote(password)) if password else ()


@lru_cache(maxsize=4096)
def _fingerprint(secret: str, account: ServiceAccount | None) -> str:
    text = secret if account is None else f"{secret}\n{account}"
    return blake2b(text.encode(), digest_size=4).hexdigest()


def by_precedence(pattern: str) -> tuple[int, int, str]:
    """Sort key: the most literal characters before the first wildcard, then the most literals."""
    literals = [c for c in pattern if c not in "*?"]
    return (-len(re.split(r"[*?]", pattern)[0]), -len(literals), pattern)


def by_row_precedence(limit: RateLimit) -> tuple:
    """Sort key: exact names first, then patterns by precedence."""
    return (bool(re.search(r"[*?]", limit.pattern)), by_precedence(limit.pattern))
