"""Limits on login attempts: by which address they are counted, when they refuse, and what a refusal says."""

from contextlib import contextmanager
from uuid import uuid4

import pytest

from gproxy.errors import RateLimited
from gproxy.web import throttle
from tests.site import Site


@pytest.fixture
def limited(site: Site) -> Site:
    """A site whose limiter counts in a folder of its own."""
    throttle.start(site.app, site.worker.folder / "throttle")
    return site


@contextmanager
def requested(site: Site, address: str, forwarded: str | None = None):
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    with site.app.test_request_context("/login", headers=headers, environ_base={"REMOTE_ADDR": address}):
        yield


@pytest.mark.parametrize(
    ("address", "forwarded", "counted"),
    [
        ("192.0.2.7", None, "192.0.2.7"),
        ("192.0.2.7", "203.0.113.9", "192.0.2.7"),
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", None, "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::1", None, "2001:db8:1:2::"),
        ("2001:db8:1:3::1", None, "2001:db8:1:3::"),
        ("::ffff:192.0.2.7", None, "192.0.2.7"),
        ("", None, "unknown"),
    ],
)
def test_attempts_are_counted_by_the_address_that_one_client_cannot_change(site, address, forwarded, counted):
    with requested(site, address, forwarded):
        assert throttle.counted_address() == counted


def test_failures_are_refused_by_address_and_name(limited):
    name, other = uuid4().hex, uuid4().hex
    with requested(limited, "192.0.2.7"):
        for _ in range(throttle.FAILURES.amount):
            throttle.refuse_guessing(name)
            throttle.count_failure(name)
        with pytest.raises(RateLimited, match="too many logins; try again in") as caught:
            throttle.refuse_guessing(name)
        throttle.refuse_guessing(other)
    assert 1 <= int(caught.value.headers["Retry-After"]) <= 61
    assert caught.value.retry_s == int(caught.value.headers["Retry-After"])
    with requested(limited, "192.0.2.8"):
        throttle.refuse_guessing(name)


def test_workers_of_one_machine_share_the_counters(limited):
    name = uuid4().hex
    with requested(limited, "2001:db8:1:2::1"):
        for _ in range(throttle.FAILURES.amount):
            throttle.count_failure(name)
    throttle.start(limited.app, limited.worker.folder / "throttle")  # as another worker does
    with requested(limited, "2001:db8:1:2:ffff::9"), pytest.raises(RateLimited):
        throttle.refuse_guessing(name)
    throttle.start(limited.app, limited.worker.folder / "another machine")
    with requested(limited, "2001:db8:1:2::1"):
        throttle.refuse_guessing(name)


def test_attempts_from_one_address_are_limited_whatever_they_contain(limited):
    maximum = int(throttle.ATTEMPTS.split()[0])
    client = limited.client
    statuses = [client.post("/login", data=b"{", environ_base={"REMOTE_ADDR": "192.0.2.9"}).status_code]
    for _ in range(maximum - 1):
        statuses.append(client.post("/login", data=b"{", environ_base={"REMOTE_ADDR": "192.0.2.9"}).status_code)
    assert set(statuses) == {400}
    refused = client.post("/login", data=b"{", environ_base={"REMOTE_ADDR": "192.0.2.9"})
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert client.post("/login", data=b"{", environ_base={"REMOTE_ADDR": "192.0.2.10"}).status_code == 400
