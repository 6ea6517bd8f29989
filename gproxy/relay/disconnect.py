"""Watches whether the client is still connected while a call waits for the upstream.

The event loop watches the client's socket. When the client closes it, ClientDisconnected is thrown into the waiting
greenlet, which closes the upstream's connection. A stopping worker interrupts a call the same way. A half-closed client
counts as disconnected.
"""

import select
import socket
import time
from collections.abc import Iterator
from typing import Self

import gevent
from gevent import get_hub, monkey

from gproxy.errors import ClientDisconnected

HANGUP_POLL_S = 0.05
# gevent's poll would switch to the hub, and this poll is called in the hub.
_poll = monkey.get_original("select", "poll")


class HeartbeatDue(BaseException):
    """A heartbeat is due. Not an Exception, so that no handler of errors catches it."""


class DisconnectWatch:
    """Watches the client of one request. A context manager around each wait: exceptions are thrown only inside it."""

    __slots__ = (
        "_armed",
        "_greenlet",
        "_heartbeat_s",
        "_interruption",
        "_sock",
        "_timer",
        "_waiting_since",
        "_watcher",
    )

    def __init__(self, sock: socket.socket | None):
        self._greenlet = gevent.getcurrent()
        self._sock = getattr(sock, "_sock", sock)
        self._armed, self._interruption, self._watcher, self._timer = False, None, None, None
        self._heartbeat_s: float | None = None
        self._waiting_since = 0.0

    def start(self) -> None:
        """Starts to watch the client, after its request was read. Idempotent."""
        if self._sock is not None and self._watcher is None:
            self._watcher = get_hub().loop.io(self._sock.fileno(), 1)
            self._watcher.start(self._on_readable)

    def _on_readable(self) -> None:
        """Runs in the hub: must not block."""
        try:
            data = self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        # Stopped in both cases: the watcher would fire again and again on bytes that are not read.
        self._watcher.stop()
        if not data:
            self._interrupt(ClientDisconnected())
        else:
            self._timer = get_hub().loop.timer(HANGUP_POLL_S, HANGUP_POLL_S)
            self._timer.start(self._poll_hangup)

    def _poll_hangup(self) -> None:
        """Detects the hang-up of a client that sent more bytes than its request, which hide the end of its stream."""
        poll = _poll()
        poll.register(self._sock.fileno(), select.POLLRDHUP)
        if poll.poll(0):
            self._timer.stop()
            self._interrupt(ClientDisconnected())

    def set_heartbeat(self, seconds: float) -> None:
        """From now on, a wait that has lasted for this time is interrupted by HeartbeatDue."""
        self._heartbeat_s = seconds

    def check_heartbeat(self, now: float) -> None:
        """Interrupts the wait if a heartbeat is due. `now` is on the monotonic clock. Callable from any greenlet."""
        if self._heartbeat_s is not None and self._armed and now - self._waiting_since >= self._heartbeat_s:
            get_hub().loop.run_callback(self._throw_heartbeat, self._waiting_since)

    def _throw_heartbeat(self, since: float) -> None:
        """Runs in the hub. Does nothing if that wait has ended meanwhile."""
        if self._armed and self._waiting_since == since:
            self._armed = False
            self._greenlet.throw(HeartbeatDue())

    def interrupt(self, error: BaseException) -> None:
        """Throws the error into the current wait, or into the next one. Callable from any greenlet."""
        get_hub().loop.run_callback(self._interrupt, error)

    def _interrupt(self, error: BaseException) -> None:
        """Runs in the hub, so the call's greenlet does not run; if armed, it waits for the upstream."""
        if self._interruption is not None:
            return
        self._interruption = error
        if self._armed:
            self._armed = False
            self._greenlet.throw(error)

    def __enter__(self) -> Self:
        if self._interruption is not None:
            raise self._interruption
        self._armed = True
        if self._heartbeat_s is not None:
            self._waiting_since = time.monotonic()
        return self

    def __exit__(self, *_) -> None:
        self._armed = False

    def close(self) -> None:
        """Ends the watch. Idempotent."""
        for watcher in (self._watcher, self._timer):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._watcher = self._timer = None


def read_chunks(exchange, watch: DisconnectWatch) -> Iterator[bytes | None]:
    """Yields the body of an upstream's response as it arrives, and None whenever a heartbeat is due.

    Raises UpstreamError, and what the watch throws.
    """
    while True:
        try:
            yield from exchange.chunks(watch)
            return
        except HeartbeatDue:
            yield None
