"""One process with its native threads, and administrators whose slow queries keep all query threads busy."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent

from gproxy import runtime, settings
from gproxy.runtime import Runtime
from gproxy.store import seeding
from tests.sample_db import content

PROMPT_S = 2.0  # much less than the slow queries take


@contextmanager
def running_process(folder: Path, **changes) -> Iterator[Runtime]:
    """Starts the process on the sample configuration with these changes, and closes it at the end."""
    loaded = settings.load({"GPROXY_DATA_DIR": str(folder / "data")}, folder)
    interval = sys.getswitchinterval()
    process = runtime.start(
        loaded, runtime.prepare(loaded, lambda database: seeding.fill(database, content(**changes)))
    )
    try:
        yield process
    finally:
        process.close()
        sys.setswitchinterval(interval)


@contextmanager
def busy_process(folder: Path) -> Iterator[Runtime]:
    """Like `running_process`, with two slow queries that end with the test."""
    end, begun = threading.Event(), []

    def slow() -> None:
        begun.append(1)
        end.wait(60)

    with running_process(folder) as process:
        try:
            for _ in range(2):
                gevent.spawn(process.admin.ask, slow)
            with gevent.Timeout(5):
                while len(begun) < 2:
                    gevent.sleep(0.01)
            yield process
        finally:
            end.set()
