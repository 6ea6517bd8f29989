"""Sync of the machines' shared dictionaries through Redis, twice a second and never on the request path.

The newest change of a name wins, by the clocks of the machines. During a Redis outage each machine uses its own notes.
"""

import time
from collections.abc import Callable
from typing import cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gproxy.errors import Unavailable
from gproxy.state.shared_dict import SharedDict
from gproxy.units import NS

# Redis keeps a removal for a day, in which every machine reads it, and a note that does not change for a month.
REMOVED_S, UNCHANGED_S = 86_400, 30 * 86_400


class SharedDictSync:
    """One process's sync; `shared_dict` must have `is_synced`. `clock` returns nanoseconds since the epoch."""

    def __init__(
        self,
        url: str,
        prefix: str,
        shared_dict: SharedDict,
        clock: Callable[[], int] = time.time_ns,
        timeout_s: float = 0.1,
    ):
        """Does not connect. Raises ValueError for an invalid URL."""
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            driver_info=None,
        )
        self._notes_key, self._count_key = f"gproxy:{{{prefix}}}:notes", f"gproxy:{{{prefix}}}:notes:count"
        self._shared_dict, self._clock = shared_dict, clock
        self._read_count = 0
        self._changed_at: dict[str, int] = {}  # moment of the change by which this machine knows each name

    def exchange(self) -> None:
        """Takes over changes of other machines and sends ours. Raises Unavailable; then ours are sent later."""
        try:
            self._pull()  # first, so that `_push` does not overwrite newer changes
            self._push()
        except redis.RedisError as fault:
            raise Unavailable("the shared dictionary cannot be synced with other machines") from fault

    def close(self) -> None:
        self._redis.close()

    def _push(self) -> None:
        pending = dict(self._shared_dict.pending)
        if not pending:
            return
        with self._redis.pipeline() as pipe:
            pipe.hset(
                self._notes_key, mapping={name: b"%d:%s" % (at, note or b"") for name, (at, note) in pending.items()}
            )
            pipe.incr(self._count_key)
            pipe.execute()
        for name, change in pending.items():
            self._changed_at[name] = change[0]
            if self._shared_dict.pending.get(name) == change:
                del self._shared_dict.pending[name]

    def _pull(self) -> None:
        count = int(cast("bytes | None", self._redis.get(self._count_key)) or 0)
        if count == self._read_count:
            return
        now, outdated = self._clock(), []
        notes = cast("dict[bytes, bytes]", self._redis.hgetall(self._notes_key))
        for field, value in notes.items():
            stamp, _, note = value.partition(b":")
            name, at = field.decode(), int(stamp)
            if now - at > (UNCHANGED_S if note else REMOVED_S) * NS:
                outdated.append(field)
            elif at > max(self._changed_at.get(name, 0), self._shared_dict.pending.get(name, (0,))[0]):
                self._shared_dict.pending.pop(name, None)
                self._shared_dict.adopt(name, note or None)
                self._changed_at[name] = at
        for field in outdated:
            self._changed_at.pop(field.decode(), None)
        if outdated:
            self._redis.hdel(self._notes_key, *outdated)
        self._read_count = count
