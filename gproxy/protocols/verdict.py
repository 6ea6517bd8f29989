"""What every reader of a passing stream says about an event that it saw."""

from enum import Enum, auto


class Verdict(Enum):
    CONTINUES = auto()
    # The terminal event and its usage were read: settle, then pass it on.
    ENDS = auto()
    # The same, but some models say it in every event: hold this one until the next, or the end, shows which it was.
    MAY_END = auto()
    # The upstream claims an end that is none.
    BROKEN = auto()
