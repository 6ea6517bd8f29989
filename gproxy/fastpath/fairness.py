"""Fairness among the greenlets of a worker: whose sockets are always ready must let the others have their turn.

gevent's `sleep(0)` does not look at sockets: it comes back before the loop asks which of them are ready, up to fifty
times in a row. Waiting for a descriptor that is always readable comes back behind all whose turn has come meanwhile.
"""

import os

from gevent import get_hub

_READABLE = 1
_always = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def give() -> None:
    """Goes on once every greenlet whose socket is ready has run."""
    hub = get_hub()
    watcher = hub.loop.io(_always, _READABLE)
    try:
        hub.wait(watcher)
    finally:
        watcher.close()
