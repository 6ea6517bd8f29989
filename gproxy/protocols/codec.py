"""What reads and writes the bodies of one operation of one protocol, and the events of its streams."""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from gproxy.errors import BadRequest
from gproxy.protocols import hub
from gproxy.protocols.losses import Losses

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class Codec(NamedTuple, Generic[Asked, Answered]):
    """Converts between a wire body and its hub value.

    Each function adds what the other side has no field for to the losses. All raise BadRequest when the body cannot be
    read or the value cannot be written.
    """

    read_request: Callable[[dict, Losses], Asked]
    write_request: Callable[[Asked, hub.Target, Losses], dict]
    read_reply: Callable[[dict, hub.Context, Losses], Answered]
    write_reply: Callable[[Answered, hub.Context, Losses], dict]


AnyCodec = Codec[Any, Any]  # of an operation that is known only when the call comes


def bad_request_as_failed(read_stream: Callable) -> Callable:
    """Wraps a stream reader: a BadRequest becomes a Failed event, since the client did not send the unreadable data."""

    @wraps(read_stream)
    def wrapper(payloads, context: hub.Context, losses: Losses):
        try:
            yield from read_stream(payloads, context, losses)
        except BadRequest as error:
            yield hub.Failed(502, "upstream_error", f"the upstream's reply cannot be translated: {error.message}")

    return wrapper


class StreamWriter(Protocol):
    """Writes one stream, one method per event of the hub. Each returns the event's frames, b"" if it has none."""

    def start(self, event: hub.Start) -> bytes: ...
    def open(self, event: hub.Open) -> bytes: ...
    def delta(self, event: hub.Delta) -> bytes: ...
    def signed(self, event: hub.Signed) -> bytes: ...
    def cited(self, event: hub.Cited) -> bytes: ...
    def logprobs(self, event: hub.Logprobs) -> bytes: ...
    def close(self, event: hub.Close) -> bytes: ...
    def finish(self, event: hub.Finish) -> bytes: ...
    def used(self, event: hub.Used) -> bytes: ...
    def end(self, event: hub.End) -> bytes: ...
    def failed(self, event: hub.Failed) -> bytes: ...


def write_events(events: Iterable[hub.Event | None], writer: StreamWriter) -> Iterator[bytes]:
    """Yields the frames of each event that has any, and b"" for None: no data is available yet."""
    methods: dict[type, Callable[..., bytes]] = {
        hub.Start: writer.start,
        hub.Open: writer.open,
        hub.Delta: writer.delta,
        hub.Signed: writer.signed,
        hub.Cited: writer.cited,
        hub.Logprobs: writer.logprobs,
        hub.Close: writer.close,
        hub.Finish: writer.finish,
        hub.Used: writer.used,
        hub.End: writer.end,
        hub.Failed: writer.failed,
    }
    for event in events:
        if event is None:
            yield b""
        elif frames := methods[type(event)](event):
            yield frames
