"""One gateway for all tests of the admin API. Each test works on its own rows."""

from collections.abc import Iterator

import pytest

from tests.gateway import Gateway, seed


@pytest.fixture(scope="session")
def admin(tmp_path_factory) -> Iterator[Gateway]:
    running = Gateway(tmp_path_factory.mktemp("admin"), seed("http://127.0.0.1:9"))
    try:
        yield running.start()
    finally:
        running.end()
