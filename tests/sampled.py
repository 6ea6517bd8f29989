"""The sample streams of the vendors, and how the relay reads them: event by event through the stream reader."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from gproxy.protocols import sse
from gproxy.protocols.hub import RequestHead
from gproxy.protocols.interface import StreamReader, WireProtocol
from gproxy.protocols.verdict import Verdict

SAMPLES = Path(__file__).parent / "samples"


def sample(protocol: str, name: str) -> bytes:
    return (SAMPLES / protocol / name).read_bytes()


def names(protocol: str, suffix: str) -> list[str]:
    return sorted(path.name for path in (SAMPLES / protocol).glob(f"*{suffix}"))


def split(stream: bytes) -> list[bytes]:
    """Returns the events of a whole stream; the last one may lack its blank line."""
    splitter = sse.Splitter()
    events = splitter.feed(stream)
    return [*events, remainder + b"\n\n"] if (remainder := splitter.remainder().strip()) else events


def payloads(stream: bytes) -> list[bytes]:
    return [data for event in split(stream) if (data := sse.data_of(event)) is not None]


def documents(stream: bytes) -> list[dict]:
    return [json.loads(data) for data in payloads(stream) if not data.startswith(b"[DONE]")]


def request_head(wants_usage: bool = True) -> RequestHead:
    return RequestHead("asked", True, wants_usage, None, None)


@dataclass
class StreamResult:
    """The output of a stream reader for one stream."""

    stream: StreamReader
    passed: list[bytes] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    is_unchanged: bool = True

    @property
    def documents(self) -> list[dict]:
        return [json.loads(data) for data in self.passed if not data.startswith(b"[DONE]")]


def read(protocol: WireProtocol, stream: bytes, name: str = "asked", wants_usage: bool = True) -> StreamResult:
    result = StreamResult(protocol.Stream(json.dumps(name).encode(), request_head(wants_usage)))
    for data in payloads(stream):
        passed, verdict = result.stream.observe(data)
        result.is_unchanged &= passed is data
        result.verdicts.append(verdict)
        if passed is not None:
            result.passed.append(passed)
    return result
