"""The opening of a stream: held until it means output, so that an upstream that fails with its first event is left."""

import time
from types import ModuleType

from gproxy.channels import error_classifier
from gproxy.channels.error_classifier import Fault
from gproxy.errors import UpstreamError
from gproxy.protocols import sse
from gproxy.protocols.hub import RequestHead
from gproxy.protocols.verdict import Verdict
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.relay.passthrough_stream import NO_END

# Since the upstream's 200. A model that thinks longer has begun as far as we can tell.
MAX_HELD_S, MAX_HELD_BYTES = 2.0, 64 * 1024


def fault_of(exchange, protocol: ModuleType, asked: RequestHead, watch: DisconnectWatch, now_s: float) -> Fault | None:
    """What the first events say of the credential, None when output begins, or nothing tells. What was read is kept.

    Raises UpstreamError when the stream ends or breaks before either, and what `presence` throws in.
    """
    until, size = time.monotonic() + MAX_HELD_S, 0
    reader, splitter = protocol.Stream(None, asked), sse.Splitter()
    while size < MAX_HELD_BYTES:
        piece = exchange.peek(watch, until - time.monotonic())
        if piece is None:
            return None
        if not piece:
            raise UpstreamError(NO_END)
        size += len(piece)
        for event in splitter.feed(piece):
            if (data := sse.data_of(event)) is None:
                continue
            _, verdict = reader.observe(data)
            if reader.has_failed:
                return error_classifier.classify_event(data, exchange.headers, now_s)
            if reader.text_bytes or reader.is_terminal or verdict is not Verdict.CONTINUES:
                return None
    return None
