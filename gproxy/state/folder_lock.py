"""A folder that one process owns: the process keeps the folder's `lock` file locked while it lives."""

import errno
import fcntl
import os
import stat
from pathlib import Path

# What opening a lock raises that is no regular file, stands in no folder, or belongs to another user.
_UNUSABLE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.ENODEV)


def open_lock(folder: Path) -> int | None:
    """Returns a descriptor of the folder's lock file, or None if it cannot be one. Raises OSError."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as fault:
        if fault.errno in _UNUSABLE:
            return None
        raise
    if stat.S_ISREG(os.fstat(lock).st_mode):
        return lock
    os.close(lock)
    return None


def try_lock(folder: Path) -> int | None:
    """Returns a descriptor that locks the folder, or None if its owner lives or it has no usable lock.

    Raises OSError.
    """
    if (lock := open_lock(folder)) is None:
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
