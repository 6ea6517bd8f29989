"""The first-event probe: reads the head of a stream until real output, so that failover is possible before it."""

import time
from types import ModuleType

from gproxy.channels import error_classifier
from gproxy.channels.error_classifier import Fault
from gproxy.errors import UpstreamError
from gproxy.protocols import sse
from gproxy.protocols.hub import RequestHead
from gproxy.protocols.verdict import Verdict
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.relay.stream import NO_END

# Since the upstream's status 200. A model that thinks longer counts as one that produces output.
MAX_PROBE_S, MAX_PROBE_BYTES = 2.0, 64 * 1024


def find_fault(exchange, protocol: ModuleType, head: RequestHead, watch: DisconnectWatch, now_s: float) -> Fault | None:
    """Returns the fault that the first events report, or None if output begins or the probe's maximum is reached.

    The bytes read stay in the exchange. Raises UpstreamError if the stream ends or breaks before, and what the watch
    throws.
    """
    deadline, size = time.monotonic() + MAX_PROBE_S, 0
    reader, splitter = protocol.Stream(None, head), sse.Splitter()
    while size < MAX_PROBE_BYTES:
        piece = exchange.peek(watch, deadline - time.monotonic())
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
