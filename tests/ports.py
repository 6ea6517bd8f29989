"""Free ports: no two calls return the same one, in whatever test process on this machine.

A port that the system picks may be picked again, by another test process or for an outgoing connection, before the
server that it is meant for listens. These ports lie below the range that the system picks from, and each process takes
them from blocks that it has locked.
"""

import random
import socket
from collections.abc import Iterator

FIRST, LAST, BLOCK = 10_000, 32_000, 100
_locks: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    return next(port for port in _ports if _is_free(port))


def _blocks() -> Iterator[int]:
    """Locks blocks of ports, one after another, and returns their first ports.

    A lock is an abstract Unix socket, which ends with its process. Raises RuntimeError when no block is left.
    """
    starts = list(range(FIRST, LAST, BLOCK))
    random.SystemRandom().shuffle(starts)
    for start in starts:
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0gproxy-tests-ports-{start}")
        except OSError:
            lock.close()
            continue
        _locks.append(lock)
        yield start
    raise RuntimeError(f"no port from {FIRST} to {LAST} is free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_ports = (port for start in _blocks() for port in range(start, start + BLOCK))
