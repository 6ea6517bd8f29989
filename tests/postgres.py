"""A PostgreSQL server for the tests: started at its first use, stopped when the tests end."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest

from tests.ports import free_port

INSTALLED = Path("/usr/lib/postgresql")
READY_S = 20
STACK, DSN = pytest.StashKey[ExitStack](), pytest.StashKey[str]()
_numbers = count(1)


def fresh_database(config: pytest.Config) -> str:
    """The DSN of a new, empty database. Without PostgreSQL the test is skipped, in CI it fails."""
    if STACK not in config.stash:
        config.stash[STACK] = ExitStack()
        config.add_cleanup(config.stash[STACK].close)
        config.stash[DSN] = config.stash[STACK].enter_context(server())
    name = f"fresh_{next(_numbers)}"
    with psycopg.connect(config.stash[DSN] + "/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{config.stash[DSN]}/{name}"


@contextmanager
def server() -> Iterator[str]:
    """Starts a server and yields its DSN, to which `/` and the name of a database are appended."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="gproxy-postgres-"))
    port = free_port()
    # The server refuses to run as root.
    as_postgres = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_postgres:
        shutil.chown(folder, "postgres")
    process = None
    try:
        data = folder / "data"
        subprocess.run(
            [*as_postgres, programs / "initdb", "-D", data, "-U", "gproxy", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        options = [
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"unix_socket_directories={folder}",
            "-c",
            "fsync=off",
            "-c",
            "full_page_writes=off",
            "-c",
            "synchronous_commit=off",
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*as_postgres, programs / "postgres", "-D", data, "-p", str(port), *options],
                stdout=log,
                stderr=log,
                cwd=folder,
            )
        dsn = f"postgresql://gproxy@127.0.0.1:{port}"
        _wait_for(dsn, process, folder / "log")
        yield dsn
    finally:
        if process is not None:
            stop_command = [*as_postgres, programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"]
            subprocess.run(stop_command, cwd=folder, capture_output=True)
            process.wait(READY_S)
        shutil.rmtree(folder)


def _programs() -> Path:
    found = sorted(INSTALLED.glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    if os.environ.get("CI") == "true":
        pytest.fail("PostgreSQL's programs are missing, and CI must have them")
    pytest.skip("PostgreSQL's programs are missing")


def _wait_for(dsn: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            psycopg.connect(dsn + "/postgres", connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}") from None
            time.sleep(0.05)
