"""Native threads beside the hub, for what blocks in C: SQLite, and everything else that talks to the database."""

from collections.abc import Callable

from gevent.threadpool import ThreadPool


class Threads:
    """A bounded pool. The calling greenlet waits; the hub goes on."""

    def __init__(self, count: int):
        self._pool = ThreadPool(count)

    def run(self, function: Callable, *args):
        """The deed's result, or its fault.

        A fault is carried over as a value: left to the pool it would be printed past the log and its redaction.
        """
        result, fault = self._pool.apply(_caught, (function, args))
        if fault is not None:
            raise fault
        return result


def _caught(function: Callable, args: tuple):
    try:
        return function(*args), None
    except Exception as fault:  # noqa: BLE001 - raised again where it was asked for
        return None, fault
