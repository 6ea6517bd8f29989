"""The worker that the tests of the request path run calls in."""

from collections.abc import Iterator

import pytest

from tests.worker import Worker


@pytest.fixture
def worker(tmp_path, vendor) -> Iterator[Worker]:
    """A worker whose vendor answers the models `m1`, `m2`, … faithfully unless a test scripts them."""
    names, found = ("m1", "m2", "m3"), Worker(tmp_path, vendor)
    seen = len(vendor.seen)
    yield found
    del vendor.seen[seen:]
    for name in names:
        vendor.scripts.pop(name, None)
    found.close()
