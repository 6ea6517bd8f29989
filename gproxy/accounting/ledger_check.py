"""The regular ledger check: compares every account with its usage rows, in one worker of a machine."""

import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gproxy.accounting.writer import Threads

log = logging.getLogger(__name__)


class LedgerReport(Protocol):
    """The store's result: accounts that differ from their rows, and the checkpoint from which the next check starts."""

    @property
    def differences(self) -> tuple: ...
    @property
    def checkpoint(self) -> object: ...


class LedgerChecker:
    """`differences` are those of the last check. The worker that gets the lock keeps it until its process ends."""

    def __init__(self, path: Path, verify: Callable[..., LedgerReport], threads: Threads):
        self._path, self._verify, self._threads = path, verify, threads
        self._lock: int | None = None
        self._checkpoint: object = None
        self.differences: tuple = ()

    def check(self) -> None:
        """Checks what was stored since the last check, if this worker has the lock. Raises Unavailable."""
        if not self._has_lock():
            return
        report = self._threads.run(self._verify, self._checkpoint)
        self._checkpoint = report.checkpoint
        for difference in report.differences:
            if difference not in self.differences:
                log.error(
                    "an account differs from its usage rows, run `flask --app wsgi ledger verify`: %s", difference
                )
        self.differences = report.differences

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def _has_lock(self) -> bool:
        if self._lock is None:
            lock = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock = lock
            except BlockingIOError:
                os.close(lock)
        return self._lock is not None
