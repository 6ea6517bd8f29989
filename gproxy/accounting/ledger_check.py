"""The standing proof of the books: every account held against its rows, again and again, by one worker of a machine."""

import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gproxy.accounting.writer import Threads

log = logging.getLogger(__name__)


class LedgerReport(Protocol):
    """What the store found: accounts that differ, and what makes the next proof short."""

    differences: tuple
    checkpoint: object


class LedgerChecker:
    """`differences` are those of the last proof. Whoever is elected stays so until its process ends."""

    def __init__(self, path: Path, verify: Callable[[object], LedgerReport], threads: Threads):
        self._path, self._verify, self._threads = path, verify, threads
        self._lock: int | None = None
        self._checkpoint: object = None
        self.differences: tuple = ()

    def check(self) -> None:
        """Only what was stored since the last time. Raises Unavailable."""
        if not self._is_elected():
            return
        proof = self._threads.run(self._verify, self._checkpoint)
        self._checkpoint = proof.checkpoint
        for one in proof.differences:
            if one not in self.differences:
                log.error("the books do not agree, run `flask --app wsgi ledger verify`: %s", one)
        self.differences = proof.differences

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def _is_elected(self) -> bool:
        if self._lock is None:
            lock = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock = lock
            except BlockingIOError:
                os.close(lock)
        return self._lock is not None
