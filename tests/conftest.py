"""Shared by all journeys: a vendor, and a gateway with two workers in front of it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateway import Gateway, seed
from tests.vendor import Vendor


@pytest.fixture(scope="session")
def vendor() -> Iterator[Vendor]:
    found = Vendor()
    yield found
    found.close()


@pytest.fixture(scope="session")
def gateway(vendor: Vendor, tmp_path_factory) -> Iterator[Gateway]:
    """One gateway for every journey that leaves it as it was."""
    folder = tmp_path_factory.mktemp("gateway")
    short = ", connect_timeout_s = 2, first_byte_timeout_s = 1.5, idle_timeout_s = 1.5"
    running = Gateway(folder, seed(vendor.url, short)).start()
    yield running
    running.stop()


@pytest.fixture
def own_gateway(vendor: Vendor, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Makes gateways that a journey may break; all are stopped afterwards."""
    made: list[Gateway] = []

    def make(text: str | None = None, timeouts: str = "", start: bool = True, **options) -> Gateway:
        folder = tmp_path / f"gateway-{len(made)}"
        made.append(Gateway(folder, seed(vendor.url, timeouts) if text is None else text, **options))
        return made[-1].start() if start else made[-1]

    yield make
    for running in made:
        if running.process is not None and running.process.poll() is None:
            subprocess.run(["pkill", "-9", "-P", str(running.process.pid)], check=False)
            running.process.kill()
            running.process.wait(10)


def missing(what: str) -> None:
    """A test whose server is missing is skipped with a reason; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing")
