"""The change counter: one number in a shared page by which all workers of a machine notice a change of the database.

Reading it is a memory read, without a lock or a system call.
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

    def read(self) -> int:
        """Returns the number, which only grows."""
        return int.from_bytes(self._page[:SIZE], "little")

    def increment(self) -> None:
        """Reports a change; must be called after the commit and before the response to the change."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            self._page[:SIZE] = (self.read() + 1).to_bytes(SIZE, "little")
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        self._page.close()
        os.close(self._fd)
