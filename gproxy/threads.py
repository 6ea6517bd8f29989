"""Native threads for work that would block gevent's hub: SQLite and all other calls to the database."""

from collections.abc import Callable
from typing import TypeVar

from gevent.threadpool import ThreadPool

_Result = TypeVar("_Result")


class Threads:
    """A bounded pool of native threads. Only the calling greenlet waits; the others run on."""

    def __init__(self, count: int):
        self._pool = ThreadPool(count)

    def run(self, function: Callable[..., _Result], *args) -> _Result:
        """Returns the function's result, or raises its exception.

        The thread returns the exception as a value, since the pool would print a raised one past the log and its
        redaction.
        """
        result, fault = self._pool.apply(_caught, (function, args))
        if fault is not None:
            raise fault
        return result


def _caught(function: Callable, args: tuple):
    try:
        return function(*args), None
    except Exception as fault:  # noqa: BLE001 - `run` raises it again in the calling greenlet
        return None, fault
