"""The capacity of one worker: what is refused, and what each permit returns."""

import pytest

from gproxy.admission.capacity import Capacity
from gproxy.errors import Overloaded


def test_a_request_above_the_maximum_is_refused_until_another_one_ends():
    capacity = Capacity(2, 100)
    first, _ = capacity.acquire(), capacity.acquire()
    with pytest.raises(Overloaded, match=r"\b2 requests are in flight"):
        capacity.acquire()
    assert capacity.requests == 2, "a refused request is not counted"
    first.release()
    capacity.acquire()
    assert capacity.requests == 2


def test_body_bytes_above_the_maximum_are_refused_and_not_counted():
    capacity = Capacity(9, 100)
    first, second = capacity.acquire(), capacity.acquire()
    first.reserve_bytes(60)
    second.reserve_bytes(40)
    with pytest.raises(Overloaded, match=r"\b100 bytes of request bodies are in flight"):
        second.reserve_bytes(1)
    assert capacity.body_bytes == 100
    second.release()
    assert capacity.body_bytes == 60, "a permit returns what it reserved, and not what was refused"


def test_a_permit_that_is_released_twice_returns_its_share_once():
    capacity = Capacity(9, 100)
    first, second = capacity.acquire(), capacity.acquire()
    for permit in (first, second):
        permit.reserve_bytes(10)
        permit.reserve_bytes(20)
    first.release()
    first.release()
    assert (capacity.requests, capacity.body_bytes) == (1, 30)
    second.release()
    assert (capacity.requests, capacity.body_bytes) == (0, 0)
