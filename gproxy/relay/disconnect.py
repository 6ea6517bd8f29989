"""Watches whether the client is still connected while a call waits for the upstream.

A watcher looks at the client's socket. When the socket closes, ClientDisconnected is thrown into the waiting greenlet,
which closes the upstream's connection. A stopping worker interrupts a call the same way. A half-closed client counts as
disconnected.
"""

import select
import socket
import time
from collections.abc import Iterator
from typing import Self

import gevent
from gevent import get_hub, monkey

from gproxy.errors import ClientDisconnected

HANGUP_S = 0.05
# gevent's own poll would switch to the hub, and this runs in it.
_poll = monkey.get_original("select", "poll")


class Beat(BaseException):
    """Nothing has come for a while. Not an Exception, so that nothing in between mistakes it for a fault."""


class DisconnectWatch:
    """One request's watch, as a context manager around each wait; outside of them nothing is ever thrown."""

    __slots__ = ("_armed", "_beat_s", "_fault", "_greenlet", "_since", "_sock", "_timer", "_watcher")

    def __init__(self, sock: socket.socket | None):
        self._greenlet = gevent.getcurrent()
        self._sock = getattr(sock, "_sock", sock)
        self._armed, self._fault, self._watcher, self._timer = False, None, None, None
        self._beat_s: float | None = None
        self._since = 0.0

    def begin(self) -> None:
        """Starts to watch the client, once its request is read. Idempotent."""
        if self._sock is not None and self._watcher is None:
            self._watcher = get_hub().loop.io(self._sock.fileno(), 1)
            self._watcher.start(self._look)

    def _look(self) -> None:
        """Runs in the hub: must not block."""
        try:
            seen = self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            seen = b""
        # Stopped in both cases: the watcher would fire for ever on bytes that nobody reads.
        self._watcher.stop()
        if not seen:
            self._interrupt(ClientDisconnected())
        else:
            self._timer = get_hub().loop.timer(HANGUP_S, HANGUP_S)
            self._timer.start(self._look_behind)

    def _look_behind(self) -> None:
        """A client that sent more than its request hides its hang-up behind those bytes; poll still tells it."""
        poll = _poll()
        poll.register(self._sock.fileno(), select.POLLRDHUP)
        if poll.poll(0):
            self._timer.stop()
            self._interrupt(ClientDisconnected())

    def beat_every(self, seconds: float) -> None:
        """From now on a wait is interrupted by a Beat when it has lasted so long."""
        self._beat_s = seconds

    def look_at(self, now: float) -> None:
        """Whether a beat is due, on the monotonic clock. From any greenlet."""
        if self._beat_s is not None and self._armed and now - self._since >= self._beat_s:
            get_hub().loop.run_callback(self._beat, self._since)

    def _beat(self, since: float) -> None:
        """Runs in the hub, where what was waited for may have come meanwhile."""
        if self._armed and self._since == since:
            self._armed = False
            self._greenlet.throw(Beat())

    def interrupt(self, fault: BaseException) -> None:
        """Throws the fault into the waiting call, or into its next wait. From any greenlet."""
        get_hub().loop.run_callback(self._interrupt, fault)

    def _interrupt(self, fault: BaseException) -> None:
        """Runs in the hub, so the greenlet is not running: armed means that it waits for the upstream."""
        if self._fault is not None:
            return
        self._fault = fault
        if self._armed:
            self._armed = False
            self._greenlet.throw(fault)

    def __enter__(self) -> Self:
        if self._fault is not None:
            raise self._fault
        self._armed = True
        if self._beat_s is not None:
            self._since = time.monotonic()
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


def arriving(exchange, watch: DisconnectWatch) -> Iterator[bytes | None]:
    """The body of an answer as it arrives; None where nothing has come for as long as `presence` beats.

    Raises UpstreamError, and what `presence` throws in.
    """
    while True:
        try:
            yield from exchange.chunks(watch)
            return
        except Beat:
            yield None
