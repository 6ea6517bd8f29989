"""The verdict of a passthrough stream reader on one event."""

from enum import Enum, auto


class Verdict(Enum):
    CONTINUES = auto()
    # The terminal event and its usage were read: settle, then forward the event.
    ENDS = auto()
    # Possibly the terminal event: some models send its fields in every event. Hold it back until the next event, or the
    # end of the stream, shows which it was.
    MAY_END = auto()
    # Terminal event that does not end the protocol: treat the stream as broken.
    BROKEN = auto()
