"""The upstream client: the connection slots of an upstream."""

import ssl
from contextlib import nullcontext

import certifi
import gevent
import pytest

from gproxy.errors import Overloaded
from gproxy.upstream.client import MAX_POOLS, Client, Limits

NO_WATCH = nullcontext()
URL = "http://upstream.test/v1"


@pytest.fixture
def client() -> Client:
    return Client(None, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certifi.where(), 10)


# -- connection slots ----------------------------------------------------------------------------------------------


def limits(connections: int, provider: int = 1, wait_s: float = 0) -> Limits:
    return Limits(connections=connections, wait_s=wait_s, provider=provider)


def acquire(client: Client, *arguments, url: str = URL, watch=NO_WATCH):
    """Returns the function that frees the slot, or None if no slot is free."""
    try:
        return client._acquire_slot(url, limits(*arguments), watch)
    except Overloaded:
        return None


def test_providers_with_one_base_url_have_their_own_slots(client):
    granted = [acquire(client, provider, provider) for _ in range(25) for provider in (1, 2)]
    assert len([one for one in granted if one]) == 3
    granted[0]()
    assert acquire(client, 2, 2) is None
    assert acquire(client, 1, 1)


def test_a_changed_maximum_counts_the_calls_that_run(client):
    running = [acquire(client, 2), acquire(client, 2)]
    assert acquire(client, 1) is None
    running[0]()
    assert acquire(client, 1) is None
    running[1]()
    assert acquire(client, 1)
    assert [bool(acquire(client, 3)) for _ in range(3)] == [True, True, False]


def test_alternating_maxima_never_grant_more_than_the_larger_one(client):
    granted = [acquire(client, n % 2 + 1) for n in range(50)]
    assert len([one for one in granted if one]) == 2


def test_a_waiting_call_gets_the_slot_that_is_freed_and_a_new_call_does_not(client):
    release = acquire(client, 1)
    order = []

    def wait(name: str) -> None:
        freed = acquire(client, 1, 1, 5)
        order.append(name)
        gevent.sleep(0.02)
        freed()

    waiting = [gevent.spawn(wait, name) for name in "ab"]
    gevent.sleep(0)
    release()
    assert acquire(client, 1) is None
    gevent.joinall(waiting, timeout=2)
    assert order == ["a", "b"]
    assert acquire(client, 1)


def test_a_larger_maximum_lets_waiting_calls_go_on(client):
    acquire(client, 1)
    waiting = gevent.spawn(acquire, client, 1, 1, 5)
    gevent.sleep(0)
    assert acquire(client, 3)
    assert waiting.get(timeout=1)
    assert acquire(client, 3) is None


@pytest.mark.parametrize("is_granted", [False, True])
def test_a_waiting_call_that_is_interrupted_keeps_no_slot(client, is_granted):
    release = acquire(client, 1)
    waiting = gevent.spawn(acquire, client, 1, 1, 5)
    gevent.sleep(0)
    waiting.kill(block=False)
    if is_granted:  # before the interruption arrives
        release()
    waiting.join(timeout=1)
    if not is_granted:
        assert acquire(client, 1) is None
        release()
    assert isinstance(waiting.value, gevent.GreenletExit)
    assert acquire(client, 1)


def test_a_call_that_waited_in_vain_leaves_no_trace(client):
    release = acquire(client, 1)
    assert acquire(client, 1, 1, 0.01) is None
    release()
    assert acquire(client, 1)
    assert acquire(client, 1) is None


def test_the_number_of_upstreams_is_bounded_and_no_busy_one_is_forgotten(client):
    busy = acquire(client, 1, url="http://busy.test")
    for n in range(3 * MAX_POOLS):
        acquire(client, 1, url=f"http://{n}.test")()
    assert len(client._slots) <= MAX_POOLS
    assert acquire(client, 1, url="http://busy.test") is None
    busy()
    assert acquire(client, 1, url="http://busy.test")
