"""The change signal: one number in a shared page that tells every worker of a machine that the database changed.

Looking costs a memory read; no lock, no system call.
"""

import fcntl
import mmap
import os
from pathlib import Path

SIZE = 8


class ChangeCounter:
    """Opened in each process, after the fork."""

    def __init__(self, path: Path):
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if os.fstat(self._fd).st_size < SIZE:
            os.ftruncate(self._fd, SIZE)
        self._page = mmap.mmap(self._fd, SIZE)

    def look(self) -> int:
        """The number now. It only grows."""
        return int.from_bytes(self._page[:SIZE], "little")

    def raise_(self) -> None:
        """Says that something changed; to be called after the commit and before the change is answered."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            self._page[:SIZE] = (self.look() + 1).to_bytes(SIZE, "little")
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        self._page.close()
        os.close(self._fd)
