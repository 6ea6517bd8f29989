"""Redis servers for tests: a shared one that starts at its first use, and ones that a test may kill."""

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from threading import Timer

import pytest
import redis

from tests.conftest import missing
from tests.ports import free_port

READY_S = 20
LONGEST_HANG_S = 10
STACK, URL = pytest.StashKey[ExitStack](), pytest.StashKey[str]()
_numbers = count(1)


class Server:
    """A Redis server without persistence: it is empty after each start."""

    def __init__(self, program: str, folder: Path):
        self._program, self._folder, self._port = program, folder, free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen | None = None
        self._resume_timer: Timer | None = None

    def start(self) -> None:
        options = ["--bind", "127.0.0.1", "--port", str(self._port), "--save", "", "--appendonly", "no"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([self._program, *options], stdout=log, stderr=log, cwd=self._folder)
        self._wait()

    def kill(self) -> None:
        if self._resume_timer is not None:
            self._resume_timer.cancel()
        if self._process is not None:
            self._process.kill()
            self._process.wait(READY_S)
            self._process = None

    def hang(self) -> None:
        """Stops the process: it accepts connections but does not reply. It resumes by itself after LONGEST_HANG_S."""
        self._process.send_signal(signal.SIGSTOP)
        self._resume_timer = Timer(LONGEST_HANG_S, self._process.send_signal, (signal.SIGCONT,))
        self._resume_timer.daemon = True
        self._resume_timer.start()

    def resume(self) -> None:
        self._resume_timer.cancel()
        self._process.send_signal(signal.SIGCONT)

    def _wait(self) -> None:
        end = time.monotonic() + READY_S
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if self._process.poll() is not None or time.monotonic() > end:
                        raise RuntimeError(f"Redis did not start:\n{(self._folder / 'log').read_text()}") from None
                    time.sleep(0.02)


def fresh(config: pytest.Config) -> tuple[str, str]:
    """Returns the URL of the server that all tests share, and an unused prefix. Skips the test without Redis."""
    if STACK not in config.stash:
        config.stash[STACK] = ExitStack()
        config.add_cleanup(config.stash[STACK].close)
        config.stash[URL] = config.stash[STACK].enter_context(server()).url
    return config.stash[URL], f"fresh_{next(_numbers)}"


@contextmanager
def server() -> Iterator[Server]:
    """Yields a running server that a test may kill."""
    program = shutil.which("redis-server")
    if program is None:
        missing("redis-server")
    folder = Path(tempfile.mkdtemp(prefix="gproxy-redis-"))
    running = Server(program, folder)
    try:
        running.start()
        yield running
    finally:
        running.kill()
        shutil.rmtree(folder)
