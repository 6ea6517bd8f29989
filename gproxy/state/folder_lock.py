"""A folder that one process owns: the process keeps the folder's `lock` file locked while it lives."""

import fcntl
import os
from pathlib import Path


def try_lock(folder: Path) -> int | None:
    """Returns a descriptor that locks the folder, or None if its owner lives or the folder does not exist."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The folder may have been removed between the two calls; a lock on a removed file protects nothing.
        if (folder / "lock").stat().st_ino == os.fstat(lock).st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None
