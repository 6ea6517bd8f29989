"""System calls that return at once, made without letting the interpreter's lock go.

Python's own let it go around every call. The thread that books usage then takes it and keeps it for half a millisecond,
so that a call of half a microsecond on the request road costs ten times as much, and its slowest hundredth a thousand.
"""

import ctypes
import errno
import fcntl
import os

_libc = ctypes.PyDLL(None, use_errno=True)
_flock, _pwrite, _lseek = _libc.flock, _libc.pwrite, _libc.lseek
_flock.argtypes = (ctypes.c_int, ctypes.c_int)
_pwrite.argtypes, _pwrite.restype = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int64), ctypes.c_ssize_t
_lseek.argtypes, _lseek.restype = (ctypes.c_int, ctypes.c_int64, ctypes.c_int), ctypes.c_int64


def try_lock(fd: int) -> bool:
    """Takes a file's exclusive lock (flock) if nobody has it. Raises OSError."""
    if _flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB) == 0:
        return True
    fault = ctypes.get_errno()
    if fault in (errno.EWOULDBLOCK, errno.EINTR):
        return False
    raise OSError(fault, os.strerror(fault))


def unlock(fd: int) -> None:
    _flock(fd, fcntl.LOCK_UN)


def pwrite(fd: int, content: bytes, at: int) -> int:
    """How many bytes were written into a regular file. Raises OSError."""
    written = _pwrite(fd, content, len(content), at)
    if written < 0:
        fault = ctypes.get_errno()
        raise OSError(fault, os.strerror(fault))
    return written


def size(fd: int) -> int:
    """How long a regular file is; where its descriptor stands is lost."""
    return _lseek(fd, 0, os.SEEK_END)
