"""Limits the requests and the request body bytes that one worker handles at once."""

from gproxy.errors import Overloaded


class Capacity:
    """Counts the requests and body bytes in flight. Refuses more than the maximum, so that memory stays bounded."""

    def __init__(self, max_requests: int, max_body_bytes: int):
        self.requests, self.body_bytes = 0, 0
        self._max_requests, self._max_body_bytes = max_requests, max_body_bytes

    def acquire(self) -> "Permit":
        """Returns the permit of one request. Raises Overloaded."""
        if self.requests >= self._max_requests:
            raise Overloaded(f"{self._max_requests} requests are in flight in this worker")
        self.requests += 1
        return Permit(self)

    def reserve_bytes(self, size: int) -> None:
        """Counts `size` more body bytes. Raises Overloaded."""
        if self.body_bytes + size > self._max_body_bytes:
            raise Overloaded(f"{self._max_body_bytes} bytes of request bodies are in flight in this worker")
        self.body_bytes += size


class Permit:
    """One request's share of the capacity."""

    __slots__ = ("_capacity", "_reserved_bytes")

    def __init__(self, capacity: Capacity):
        self._capacity: Capacity | None = capacity
        self._reserved_bytes = 0

    def reserve_bytes(self, size: int) -> None:
        """Reserves `size` more body bytes for this request. Raises Overloaded, RuntimeError after `release`."""
        if self._capacity is None:
            raise RuntimeError("the permit was released")
        self._capacity.reserve_bytes(size)
        self._reserved_bytes += size

    def release(self) -> None:
        """Returns the request and its bytes to the capacity. Idempotent."""
        if (capacity := self._capacity) is not None:
            self._capacity = None
            capacity.requests -= 1
            capacity.body_bytes -= self._reserved_bytes
