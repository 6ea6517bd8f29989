"""What goes by its age and by the room it takes: in small steps, by one worker of a machine, beside the traffic."""

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
    """`trim_log(kind, before, max_bytes, most_rows)` and `trim_usages(before, most_rows)` are the store's deeds."""

    def __init__(self, lock: Path, trim_log: Callable, trim_usages: Callable, threads, kinds: tuple[str, ...]):
        self._fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        self._trim_log, self._trim_usages, self._threads, self._kinds = trim_log, trim_usages, threads, kinds

    def keep(self, wanted: Logging) -> int:
        """Deletes what has to go, unless another worker does. Returns how many rows went."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        try:
            return self._keep(wanted)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _keep(self, wanted: Logging) -> int:
        now, gone = time.time_ns(), 0
        before, maximum = now - wanted.retention_days * DAY_NS, wanted.retention_mb * MIB // len(self._kinds)
        for kind in self._kinds:
            gone += self._steps(self._trim_log, kind, before, maximum)
        if wanted.usage_retention_days is not None:
            gone += self._steps(self._trim_usages, now - wanted.usage_retention_days * DAY_NS)
        if gone:
            log.info("retention: %d rows are gone", gone)
        return gone

    def _steps(self, function: Callable, *args) -> int:
        gone = 0
        while True:
            try:
                step = self._threads.run(function, *args, STEP_ROWS)
            except Unavailable as fault:
                log.debug("retention waits: %s", fault.message)
                return gone
            gone += step
            if step < STEP_ROWS:
                return gone
            gevent.sleep(PAUSE_S)

    def close(self) -> None:
        os.close(self._fd)
