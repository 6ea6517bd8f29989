"""What a kind of upstream is: a name, a base URL and lanes per (operation, protocol)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

GENERATE, STREAM, LIST_MODELS, GET_MODEL = "generate_content", "stream_generate_content", "model_list", "model_get"
COUNT, EMBED, EMBED_BATCH = "count_tokens", "embeddings", "batch_embeddings"
ANTHROPIC_VERSION = "2023-06-01"
# What a credential is.
API_KEY, SERVICE_ACCOUNT = "api_key", "service_account"

Auth = Callable[[str], dict[str, str]]


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def x_api_key(secret: str) -> dict[str, str]:
    return {"x-api-key": secret, "anthropic-version": ANTHROPIC_VERSION}


def x_goog_api_key(secret: str) -> dict[str, str]:
    """In the header, never in the URL: URLs end up in logs and error texts."""
    return {"x-goog-api-key": secret}


@dataclass(frozen=True, slots=True)
class Lane:
    """One way to an upstream: the path below the base URL (`{model}` is filled in) and the key's place."""

    path: str
    auth: Auth


class Answers(Protocol):
    """A channel that needs no upstream."""

    def whole(self, protocol: str, model: str, body: bytes) -> bytes: ...

    def stream(self, protocol: str, model: str, body: bytes) -> list[bytes]: ...

    def models(self) -> list[dict]: ...


@dataclass(frozen=True)
class Kind:
    """`protocol_lanes`: lanes that a `protocol` setting selects, by its value; only on `custom`.

    `prefers`: the protocol into which a generating call is translated when the client's own has no lane; on `custom`
    the setting says it. `traits` and `refused` are what all of its models need in a translated request. `hosts`: base
    URLs of locations that have one of their own. `mend` gives a reply, or an event of one, the protocol's own names.
    """

    name: str
    base_url: str | None
    lanes: Mapping[tuple[str, str], Lane] = field(default_factory=dict)
    protocol_lanes: Mapping[str, Mapping[tuple[str, str], Lane]] = field(default_factory=dict)
    answers: Answers | None = None
    prefers: str | None = None
    traits: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    hosts: Mapping[str, str] = field(default_factory=dict)
    takes: str = API_KEY
    mend: Callable[[bytes], bytes] | None = None

    def host(self, location: str) -> str | None:
        """The base URL, where the operator names none."""
        found = self.hosts.get(location, self.base_url)
        return found.replace("{location}", location) if found and "{" in found else found

    def lane(self, operation: str, protocol: str, setting: str | None = None) -> Lane | None:
        """The lane for this operation in this protocol, or None when the upstream does not speak it."""
        return self._lanes(setting).get((operation, protocol))

    def native(self, operation: str, setting: str | None = None) -> str | None:
        """The protocol in which this upstream is asked for an operation that any client may want."""
        return next((protocol for found, protocol in self._lanes(setting) if found == operation), None)

    def destination(self, operation: str, setting: str | None = None) -> str | None:
        """The protocol into which a call is translated that has no lane of its own."""
        if operation not in (GENERATE, STREAM):
            return self.native(EMBED if operation == EMBED_BATCH else operation, setting)
        if setting in self.protocol_lanes:
            return next(
                (found for found in ("openai_chat", setting) if (operation, found) in self._lanes(setting)), None
            )
        return self.prefers

    def _lanes(self, setting: str | None) -> Mapping[tuple[str, str], Lane]:
        return self.protocol_lanes.get(setting, self.lanes) if setting else self.lanes
