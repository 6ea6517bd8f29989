"""The calls that run in one worker: their capacity, the watches over their clients, and the number of streams."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gproxy.admission.capacity import Capacity, Permit
from gproxy.errors import GatewayError
from gproxy.metrics.call_metrics import CallMetrics
from gproxy.relay.disconnect import DisconnectWatch


@dataclass(slots=True)
class RunningCalls:
    """The running calls of one worker."""

    capacity: Capacity
    metrics: CallMetrics
    client_disconnects: int = 0
    _watches: set[DisconnectWatch] = field(default_factory=set)
    _streams: set[DisconnectWatch] = field(default_factory=set)

    def open(self, sock) -> tuple[Permit, DisconnectWatch]:
        """Returns the permit and the watch of a call whose client is at this socket. Raises Overloaded.

        The caller must end both with `close`.
        """
        permit, watch = self.capacity.acquire(), DisconnectWatch(sock)
        self._watches.add(watch)
        self._count()
        return permit, watch

    def close(self, permit: Permit, watch: DisconnectWatch) -> None:
        """Ends a call. Idempotent."""
        watch.close()
        self._watches.discard(watch)
        self._streams.discard(watch)
        self._count()
        permit.release()

    def answered(self, call, exchange, watch: DisconnectWatch, is_stream: bool) -> None:
        """Updates the metrics when the headers of a response are about to be sent."""
        self.metrics.answered(call.summary, max(0.0, time.perf_counter() - call.started - exchange.waited_s))
        if is_stream:
            self._streams.add(watch)
            self._count()

    def count_disconnect(self) -> None:
        self.client_disconnects += 1
        self.metrics.client_disconnected()

    def send_heartbeats(self) -> None:
        """Interrupts the wait of every stream with a due heartbeat."""
        now = time.monotonic()
        for watch in tuple(self._watches):
            watch.check_heartbeat(now)

    def interrupt_all(self, new_error: Callable[[], GatewayError]) -> int:
        """Interrupts every running call with an error of its own. Returns the number of calls."""
        for watch in self._watches:
            watch.interrupt(new_error())
        return len(self._watches)

    def _count(self) -> None:
        self.metrics.open(len(self._watches), len(self._streams))
