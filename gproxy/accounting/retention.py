"""Deletes request logs and usage rows by age and size: in small steps, by one worker of a machine at a time."""

import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import gevent

from gproxy.errors import Unavailable
from gproxy.snapshot import Logging
from gproxy.units import NS

log = logging.getLogger(__name__)

DAY_NS = 86_400 * NS
STEP_ROWS, PAUSE_S = 200, 0.1
MIB = 1024 * 1024


class Retention:
    """`trim_log(kind, before, max_bytes, max_rows)` and `trim_usages(before, max_rows)` are functions of the store.

    Both return the number of deleted rows and raise Unavailable.
    """

    def __init__(self, lock: Path, trim_log: Callable, trim_usages: Callable, threads, kinds: tuple[str, ...]):
        self._fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        self._trim_log, self._trim_usages, self._threads, self._kinds = trim_log, trim_usages, threads, kinds

    def apply(self, limits: Logging) -> int:
        """Deletes the rows beyond these limits, unless another worker is doing so. Returns the number of rows."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        try:
            return self._delete(limits)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _delete(self, limits: Logging) -> int:
        now, deleted = time.time_ns(), 0
        before, max_bytes = now - limits.retention_days * DAY_NS, limits.retention_mb * MIB // len(self._kinds)
        for kind in self._kinds:
            deleted += self._delete_in_steps(self._trim_log, kind, before, max_bytes)
        if limits.usage_retention_days is not None:
            deleted += self._delete_in_steps(self._trim_usages, now - limits.usage_retention_days * DAY_NS)
        if deleted:
            log.info("retention: %d rows are deleted", deleted)
        return deleted

    def _delete_in_steps(self, function: Callable, *args) -> int:
        deleted = 0
        while True:
            try:
                step = self._threads.run(function, *args, STEP_ROWS)
            except Unavailable as fault:
                log.debug("retention is postponed: %s", fault.message)
                return deleted
            deleted += step
            if step < STEP_ROWS:
                return deleted
            gevent.sleep(PAUSE_S)

    def close(self) -> None:
        os.close(self._fd)
