"""How many requests and body bytes a worker holds at once."""

from gproxy.errors import Overloaded


class Capacity:
    """Counts; beyond its bounds a request is refused, so that memory stays bounded."""

    def __init__(self, requests: int, body_bytes: int):
        self.requests, self.body_bytes = 0, 0
        self._max_requests, self._max_bytes = requests, body_bytes

    def enter(self) -> "Place":
        """A place for one request. Raises Overloaded."""
        if self.requests >= self._max_requests:
            raise Overloaded(f"{self._max_requests} requests are in flight in this worker")
        self.requests += 1
        return Place(self)

    def reserve(self, size: int) -> None:
        if self.body_bytes + size > self._max_bytes:
            raise Overloaded(f"{self._max_bytes} bytes of request bodies are held in this worker")
        self.body_bytes += size


class Place:
    """One request's share. `leave` is idempotent."""

    __slots__ = ("_capacity", "_reserved")

    def __init__(self, capacity: Capacity):
        self._capacity: Capacity | None = capacity
        self._reserved = 0

    def reserve(self, size: int) -> None:
        """Room for so many more body bytes. Raises Overloaded."""
        self._capacity.reserve(size)
        self._reserved += size

    def leave(self) -> None:
        if (capacity := self._capacity) is not None:
            self._capacity = None
            capacity.requests -= 1
            capacity.body_bytes -= self._reserved
