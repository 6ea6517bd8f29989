"""The types of a kind of upstream: its name, base URL, lanes by (operation, protocol) and quirks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

GENERATE, STREAM, LIST_MODELS, GET_MODEL = "generate_content", "stream_generate_content", "model_list", "model_get"
COUNT, EMBED, EMBED_BATCH = "count_tokens", "embeddings", "batch_embeddings"
ANTHROPIC_VERSION = "2023-06-01"
# Types of credentials.
API_KEY, SERVICE_ACCOUNT = "api_key", "service_account"

Auth = Callable[[str], dict[str, str]]


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def x_api_key(secret: str) -> dict[str, str]:
    return {"x-api-key": secret, "anthropic-version": ANTHROPIC_VERSION}


def x_goog_api_key(secret: str) -> dict[str, str]:
    """Puts the key into a header and not into the URL, because URLs end up in logs and error texts."""
    return {"x-goog-api-key": secret}


@dataclass(frozen=True, slots=True)
class Lane:
    """Where one operation of one protocol is sent: the path below the base URL, with `{model}`, and the auth header."""

    path: str
    auth: Auth


class LocalResponder(Protocol):
    """Answers calls inside gproxy, for a channel without an upstream."""

    def whole(self, protocol: str, model: str, body: bytes) -> bytes: ...

    def stream(self, protocol: str, model: str, body: bytes) -> list[bytes]: ...

    def models(self) -> list[dict]: ...


@dataclass(frozen=True)
class Kind:
    """One kind of upstream.

    `protocol_lanes`: the lanes of each value of the `protocol` setting; only on `custom`.
    `preferred_protocol`: the protocol into which a generating call is translated if the client's protocol has no lane;
    on `custom` the `protocol` setting decides.
    `traits` and `refused`: what a translated request must respect for every model of this kind.
    `location_base_urls`: the base URLs of locations that differ from `base_url`.
    `normalize`: returns a reply body, or the data of an event, with the protocol's standard field names.
    """

    name: str
    base_url: str | None
    lanes: Mapping[tuple[str, str], Lane] = field(default_factory=dict)
    protocol_lanes: Mapping[str, Mapping[tuple[str, str], Lane]] = field(default_factory=dict)
    responder: LocalResponder | None = None
    preferred_protocol: str | None = None
    traits: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    location_base_urls: Mapping[str, str] = field(default_factory=dict)
    credential_type: str = API_KEY
    normalize: Callable[[bytes], bytes] | None = None

    def base_url_at(self, location: str) -> str | None:
        """Returns the base URL for a location, used unless the operator sets one."""
        found = self.location_base_urls.get(location, self.base_url)
        return found.replace("{location}", location) if found and "{" in found else found

    def lane(self, operation: str, protocol: str, setting: str | None = None) -> Lane | None:
        """Returns the lane for this operation in this protocol, or None if the upstream does not support it."""
        return self._lanes(setting).get((operation, protocol))

    def native_protocol(self, operation: str, setting: str | None = None) -> str | None:
        """Returns the first protocol in which this upstream supports the operation, or None."""
        return next((protocol for found, protocol in self._lanes(setting) if found == operation), None)

    def destination(self, operation: str, setting: str | None = None) -> str | None:
        """Returns the protocol into which a call without a lane of its own is translated, or None."""
        if operation not in (GENERATE, STREAM):
            return self.native_protocol(EMBED if operation == EMBED_BATCH else operation, setting)
        if setting in self.protocol_lanes:
            return next(
                (found for found in ("openai_chat", setting) if (operation, found) in self._lanes(setting)), None
            )
        return self.preferred_protocol

    def _lanes(self, setting: str | None) -> Mapping[tuple[str, str], Lane]:
        return self.protocol_lanes.get(setting, self.lanes) if setting else self.lanes
