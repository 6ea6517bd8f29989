"""Where and how one upstream target is reached: URL, headers, authentication, timeouts and egress."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple


class Transport(NamedTuple):
    """The egress of an upstream: its own proxy (`direct` for no proxy) and PEM files.

    None means the default of the process.
    """

    proxy: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class Limits(NamedTuple):
    """Timeouts of one call in seconds, the maximum of connections to its upstream, and the wait for a free one.

    Connections are counted for each provider (its id) and base URL.
    """

    connect_s: float = 10
    first_byte_s: float = 300
    idle_s: float = 120
    total_s: float = 3600
    connections: int = 1000
    wait_s: float = 10
    provider: int | None = None


DEFAULT_TRANSPORT, DEFAULT_LIMITS = Transport(), Limits()


def no_auth(secret: str) -> dict[str, str]:
    """Returns no header, for an upstream that does not authenticate by one."""
    return {}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The endpoint of one upstream target. It contains no credential.

    `path` is below the base URL, with the query; `headers` are those that do not depend on the credential. `auth`
    returns the headers of a secret: an API key or an access token.
    """

    base_url: str
    path: str
    headers: Mapping[str, str]
    auth: Callable[[str], dict[str, str]] = no_auth
    limits: Limits = DEFAULT_LIMITS
    transport: Transport = DEFAULT_TRANSPORT

    @property
    def url(self) -> str:
        return self.base_url + self.path

    def with_path(self, path: str) -> "Endpoint":
        """Returns the same endpoint with another path."""
        return replace(self, path=path)

    def request(self, secret: str, body: bytes | None, method: str = "POST") -> "UpstreamRequest":
        """Returns a request with this secret. No header of the endpoint replaces or repeats one of the secret."""
        auth, headers = self.auth(secret), dict(self.headers)
        for name in auth:
            headers.pop(name.lower(), None)
        return UpstreamRequest(self, method, headers | auth, body, secret)


class UpstreamRequest(NamedTuple):
    """One request to an endpoint. `secret` is the API key or access token; it must not be logged."""

    endpoint: Endpoint
    method: str
    headers: dict[str, str]
    body: bytes | None
    secret: str

    @property
    def url(self) -> str:
        return self.endpoint.base_url + self.endpoint.path

    def __repr__(self) -> str:
        return f"UpstreamRequest({self.method} {self.endpoint.base_url})"
