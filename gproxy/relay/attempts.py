"""How far a call goes on after faults: so many attempts, so long, and none that could make output twice. Pure."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from gproxy.errors import UpstreamError


class Next(Enum):
    OTHER = "another credential"
    SAME = "the same once more"
    NONE = "an end"


@dataclass(slots=True)
class Attempts:
    """Those of one call. `within_s` bounds when the last one may begin; `clock` in seconds.

    Of each the row keeps provider, credential, what became of it (a status or a code), and milliseconds.
    """

    most: int
    within_s: float
    clock: Callable[[], float] = time.perf_counter
    made: list[tuple[int, int | None, int | str, int]] = field(default_factory=list)
    _until: float = 0.0
    _began: float = 0.0
    _has_repeated: bool = False

    def begin(self) -> None:
        self._began = self.clock()
        self._until = self._until or self._began + self.within_s

    def end(self, provider: int, credential: int | None, what: int | str) -> None:
        self.made.append((provider, credential, what, int((self.clock() - self._began) * 1000)))

    def is_over(self) -> bool:
        return len(self.made) >= self.most or self.clock() >= self._until

    def after(self, fault: UpstreamError, retry_timeouts: bool) -> Next:
        """What follows on a call that got no answer.

        Once its body was sent the upstream may be at work on it, except where it had closed a connection that was used
        again: that is seen by a connection that dies without a byte, and happens once.
        """
        if not fault.was_sent:
            return Next.OTHER
        if fault.is_stale and not self._has_repeated:
            self._has_repeated = True
            return Next.SAME
        return Next.OTHER if retry_timeouts else Next.NONE
