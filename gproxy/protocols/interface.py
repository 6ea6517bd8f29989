"""The interface of a wire protocol: what every protocol folder has, and what its stream reader has.

The registry checks each folder against the members that are declared here.
"""

import re
from collections.abc import Iterable, Iterator
from inspect import isfunction
from typing import Protocol

from gproxy.protocols import hub, raw_json
from gproxy.protocols.codec import AnyCodec
from gproxy.protocols.losses import Losses
from gproxy.protocols.ratelimit_headers import RemainingLimit
from gproxy.protocols.verdict import Verdict


class StreamReader(Protocol):
    """Reads the events of one stream in the same-protocol lane, on their way to the client."""

    @property
    def usage(self) -> hub.Usage | None:
        """The usage so far, None before the upstream reported any."""

    @property
    def text_bytes(self) -> int:
        """The bytes of generated text so far, for an estimate where the upstream reports no usage."""
        ...

    @property
    def is_terminal(self) -> bool:
        """True after the terminal event, or after what completes the reply where the protocol has none."""
        ...

    @property
    def has_failed(self) -> bool:
        """True after an error event of the upstream."""
        ...

    @property
    def response_id(self) -> str | None:
        """The id under which the vendor stores the response, None if it stores none."""

    def observe(self, data: bytes) -> tuple[bytes | None, Verdict]:
        """Returns the data for the client, None to drop the event, and the verdict on the stream."""
        ...

    def failure_events(self, status: int, code: str, message: str, request_id: str) -> list[bytes]:
        """Returns the events that report to the client that the stream broke off."""
        ...

    def tail(self) -> bytes:
        """Returns what completes a clean end and the upstream left out."""
        ...


class WireProtocol(Protocol):
    """One wire protocol. A module with these constants and functions is one."""

    NAME: str
    """The name of the protocol in code and settings."""

    WIRE_NAME: str
    """The name of the protocol in dispatch rules and usage rows."""

    WIRE_NAMES: dict[str, str]
    """Operation -> wire name, for operations whose wire name is not WIRE_NAME."""

    ROUTES: dict[str, str]
    """Path below the version -> operation."""

    ACTIONS: dict[str, str]
    """Action in the path of a model -> operation; empty where the path has no model."""

    CODECS: dict[str, AnyCodec]
    """Operation -> what translates its bodies."""

    ECHOED: tuple[str, ...]
    """Fields of a request that its reply repeats."""

    NAMES: dict[str, str]
    """Field of the hub -> the name that clients of this protocol know, for losses and error messages."""

    URL_KINDS: frozenset[str]
    """Kinds of media that the vendor fetches from any URL."""

    OWN_URLS: re.Pattern[str] | None
    """URLs that only this vendor can open, None if there are none."""

    REQUEST_ID_HEADERS: tuple[str, ...]
    """Response headers with the id of the call."""

    MODEL_FIELD: str
    """The field of a reply that names the model."""

    LIST_QUERY: dict[str, str]
    """The query of the first page of a model list."""

    TOOL_NAME: tuple[re.Pattern[str], int]
    """The form of a tool's name and its maximum length in characters."""

    HEARTBEAT: bytes
    """What is sent in a stream while the upstream is silent; clients ignore it."""

    def read_head(self, body: bytes) -> hub.RequestHead:
        """Returns the fields of a request body that routing, limits and prices need. Raises BadRequest."""
        ...

    def outgoing(self, head: hub.RequestHead, body: bytes, model: str) -> bytes:
        """Returns the body under the upstream's model name; the same object where nothing changes."""
        ...

    def without_wrapped_signatures(self, body: dict) -> dict:
        """Returns the body without signatures that gproxy wrapped: another provider made them."""
        ...

    def read_whole(self, body: bytes) -> tuple[hub.Usage | None, raw_json.Fields | None]:
        """Returns the usage and the fields of a whole reply; the fields are None when it is not JSON."""
        ...

    def Stream(self, name: bytes | None, head: hub.RequestHead) -> StreamReader:
        """Returns a reader of one stream. `name`: the model name for the client as JSON, None keeps the upstream's."""
        ...

    def read_stream(
        self, payloads: Iterable[dict | hub.Failed | None], context: hub.Context, losses: Losses
    ) -> Iterator[hub.Event | None]:
        """Yields the hub's events of a stream. None, in and out, means that no data is available yet."""
        ...

    def write_stream(self, events: Iterable[hub.Event | None], context: hub.Context, losses: Losses) -> Iterator[bytes]:
        """Yields the stream's events as bytes, b"" where no data is available yet."""
        ...

    def read_error(self, status: int, body: dict) -> tuple[int, str, str] | None:
        """Returns status, code and message of an error body or event, None when it is not an error.

        `status` is that of the response; where it is no error, the returned status comes from the body.
        """

    def write_error(self, status: int, code: str, message: str, request_id: str, retry_s: float | None = None) -> bytes:
        """Returns an error body. `retry_s` is the delay before a retry, for protocols that report it in the body."""
        ...

    def error_event(self, status: int, code: str, message: str, request_id: str) -> bytes:
        """Returns an error as an event of a stream."""
        ...

    def limit_headers(
        self, requests: RemainingLimit | None, tokens: RemainingLimit | None, now_s: float
    ) -> list[tuple[str, str]]:
        """Returns the response headers with what remains of the caller's limits. `now_s`: seconds since the epoch."""
        ...

    def client_call_id(self, call_id: str) -> str:
        """Returns a tool call's id as clients of this protocol receive it."""
        ...

    def read_models(self, body: dict) -> list[hub.ModelCard]:
        """Returns the entries of a page of a model list; entries without an id are skipped."""
        ...

    def next_page(self, body: dict) -> dict[str, str] | None:
        """Returns the query of the next page of a model list, None after the last page."""

    def write_model(self, card: hub.ModelCard, name: str) -> dict:
        """Returns an entry of a model list under the name that clients request it by."""
        ...

    def write_models(self, cards: list[tuple[hub.ModelCard, str]]) -> dict:
        """Returns a model list of one page, of entries with the names that clients request them by."""
        ...


CONSTANTS = tuple(WireProtocol.__annotations__)
FUNCTIONS = tuple(name for name, member in vars(WireProtocol).items() if isfunction(member) and name[0] != "_")


def missing_members(module: object) -> list[str]:
    """Returns the members of WireProtocol that a module lacks."""
    missing = [name for name in CONSTANTS if not hasattr(module, name)]
    return missing + [name for name in FUNCTIONS if not callable(getattr(module, name, None))]
