"""What one machine writes on its board, told to the others through Redis, twice a second and never on the request road.

The newest word on a name counts, by the clocks of the machines. While Redis is away each machine has its own board.
"""

import time
from collections.abc import Callable

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gproxy.errors import Unavailable
from gproxy.state.shared_dict import SharedDict
from gproxy.units import NS

# That a note is gone is remembered for a day, by when every machine has heard it; a note nobody renews for a month.
GONE_S, OLD_S = 86_400, 30 * 86_400


class SharedDictSync:
    """One process's end; `board` must keep its changes. `clock` is in nanoseconds since the epoch."""

    def __init__(
        self,
        url: str,
        prefix: str,
        shared_dict: SharedDict,
        clock: Callable[[], int] = time.time_ns,
        timeout_s: float = 0.1,
    ):
        """Does not connect. Raises ValueError for an address that cannot be one."""
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
        )
        self._notes, self._count = f"gproxy:{{{prefix}}}:notes", f"gproxy:{{{prefix}}}:notes:count"
        self._shared_dict, self._clock = shared_dict, clock
        self._heard = 0
        self._stamps: dict[str, int] = {}  # when the word on a name was said that counts here

    def exchange(self) -> None:
        """Tells what was changed here, and takes over what others changed. Raises Unavailable: it is told later."""
        try:
            self._hear()  # first: what is newer there must not be told over
            self._tell()
        except redis.RedisError as fault:
            raise Unavailable("the board cannot be shared with other machines") from fault

    def close(self) -> None:
        self._redis.close()

    def _tell(self) -> None:
        pending = dict(self._shared_dict.pending)
        if not pending:
            return
        with self._redis.pipeline() as pipe:
            pipe.hset(self._notes, mapping={name: b"%d:%s" % (at, note or b"") for name, (at, note) in pending.items()})
            pipe.incr(self._count)
            pipe.execute()
        for name, told in pending.items():
            self._stamps[name] = told[0]
            if self._shared_dict.pending.get(name) == told:
                del self._shared_dict.pending[name]

    def _hear(self) -> None:
        count = int(self._redis.get(self._count) or 0)
        if count == self._heard:
            return
        now, outdated = self._clock(), []
        for field, value in self._redis.hgetall(self._notes).items():
            stamp, _, note = value.partition(b":")
            name, at = field.decode(), int(stamp)
            if now - at > (OLD_S if note else GONE_S) * NS:
                outdated.append(field)
            elif at > max(self._stamps.get(name, 0), self._shared_dict.pending.get(name, (0,))[0]):
                self._shared_dict.pending.pop(name, None)
                self._shared_dict.adopt(name, note or None)
                self._stamps[name] = at
        for field in outdated:
            self._stamps.pop(field.decode(), None)
        if outdated:
            self._redis.hdel(self._notes, *outdated)
        self._heard = count
