"""The four functions that read and write the bodies of one operation of one protocol."""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

from gproxy.errors import BadRequest
from gproxy.protocols.hub import Context, Failed, Target
from gproxy.protocols.losses import Losses


class Codec(NamedTuple):
    """Converts between a wire body and its hub value.

    Each function adds what the other side has no field for to the losses. All raise BadRequest when the body cannot be
    read or the value cannot be written.
    """

    read_request: Callable[[dict, Losses], object]
    write_request: Callable[[object, Target, Losses], dict]
    read_reply: Callable[[dict, Context, Losses], object]
    write_reply: Callable[[object, Context, Losses], dict]


def bad_request_as_failed(read_stream: Callable) -> Callable:
    """Wraps a stream reader: a BadRequest becomes a Failed event, since the client did not send the unreadable data."""

    @wraps(read_stream)
    def wrapper(payloads, context: Context, losses: Losses):
        try:
            yield from read_stream(payloads, context, losses)
        except BadRequest as error:
            yield Failed(502, "upstream_error", f"the upstream's reply cannot be translated: {error.message}")

    return wrapper
