"""Shared by all tests: a vendor, and gateways in front of it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateway import Gateway, seed
from tests.vendor import Vendor

JOURNEYS = "tests/journeys/"
SHORT_TIMEOUTS = ", connect_timeout_s = 2, first_byte_timeout_s = 1.5, idle_timeout_s = 1.5"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Journeys come first: their files take longest, and none of them should be left for one worker at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(JOURNEYS))


@pytest.fixture(scope="session", autouse=True)
def every_log_is_searched() -> Iterator[None]:
    """At the end every gateway of this process was ended, and with that its log was searched for secrets."""
    yield
    left = list(Gateway.started)
    end_all(left)
    assert not left, f"gateways that no test ended: {[running.folder for running in left]}"


@pytest.fixture(scope="session")
def vendor() -> Iterator[Vendor]:
    found = Vendor()
    yield found
    found.close()


@pytest.fixture(scope="module", autouse=True)
def scripts_end_with_their_file(vendor: Vendor) -> Iterator[None]:
    """Each file begins with a faithful vendor: the models have the same names in all files."""
    vendor.scripts.clear()
    yield


@pytest.fixture(scope="session")
def gateway(vendor: Vendor, tmp_path_factory) -> Iterator[Gateway]:
    """One gateway for every test that leaves it as it was, or adds rows of its own (`tests.rows`)."""
    running = Gateway(tmp_path_factory.mktemp("gateway"), seed(vendor.url, SHORT_TIMEOUTS))
    try:
        yield running.start()
    finally:
        running.end()


@pytest.fixture
def own_gateway(vendor: Vendor, tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Makes gateways for one test that kills, restarts or breaks them, or needs an environment of its own."""
    yield from _gateways(vendor, tmp_path)


@pytest.fixture(scope="module")
def module_gateway(vendor: Vendor, tmp_path_factory) -> Iterator[Callable[..., Gateway]]:
    """Makes gateways for the fixtures of one file, in the same way."""
    yield from _gateways(vendor, tmp_path_factory.mktemp("module"))


def _gateways(vendor: Vendor, folder: Path) -> Iterator[Callable[..., Gateway]]:
    """`make(text)` starts a gateway with this seed; without `text` with the journeys' seed.

    `timeouts` are further settings of the seed's providers, `options` those of Gateway: workers, cold, variables.
    """
    made: list[Gateway] = []

    def make(text: str | None = None, timeouts: str = "", start: bool = True, **options) -> Gateway:
        wanted = seed(vendor.url, timeouts) if text is None else text
        made.append(Gateway(folder / f"gateway-{len(made)}", wanted, **options))
        return made[-1].start() if start else made[-1]

    try:
        yield make
    finally:
        end_all(made)


def end_all(gateways: list[Gateway]) -> None:
    """Ends all of them, and then raises what the search of the logs found."""
    faults: list[Exception] = []
    for running in gateways:
        try:
            running.end()
        except (AssertionError, OSError) as fault:
            faults.append(fault)
    if faults:
        raise ExceptionGroup("gateways did not end as they must", faults)


def missing(what: str) -> None:
    """A test whose server is missing is skipped with a reason; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing")
