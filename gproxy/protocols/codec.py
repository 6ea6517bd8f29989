"""How one operation's bodies are read and written: what relay calls, whichever protocol it is."""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

from gproxy.errors import BadRequest
from gproxy.protocols.hub import Context, Failed, Target
from gproxy.protocols.losses import Losses


class Codec(NamedTuple):
    """Between a wire body and the hub's value of it. All raise BadRequest on what cannot be said."""

    read_request: Callable[[dict, Losses], object]
    write_request: Callable[[object, Target, Losses], dict]
    read_reply: Callable[[dict, Context, Losses], object]
    write_reply: Callable[[object, Context, Losses], dict]


def bad_request_as_failed(read_stream: Callable) -> Callable:
    """The same reader of a stream: what it cannot read is no bad request of the client's, but an end of the stream."""

    @wraps(read_stream)
    def reading(payloads, context: Context, losses: Losses):
        try:
            yield from read_stream(payloads, context, losses)
        except BadRequest as fault:
            yield Failed(502, "upstream_error", f"the upstream's reply cannot be translated: {fault.message}")

    return reading
