"""The only schema of the journal: what an `opened` and a `settled` line contain, and under which short names.

An entry is a JSON object on one line. Its first member is the call id, as `o` in an `opened` and as `s` in a `settled`
line. The order of the fields is the order on disk. A field that has its default is not written, unless the default is
`written`. A missing field gets its default, and unknown members are ignored.
"""

from typing import Any, NamedTuple

import msgspec
from msgspec import Struct, field

# The texts of the client are cut to this length, because an entry has a maximum size.
MAX_TEXT_CHARS = 128

# One attempt: provider id, credential id, result (a status or an error code), milliseconds.
Attempt = tuple[int, int | None, int | str, int]
# What answered a call: provider id, channel, credential id.
ServedBy = tuple[int, str, int | None]


class Reserved(NamedTuple):
    """The reservation of a call: money in nano-USD, and tokens."""

    money: int
    tokens: int


class Tokens(Struct, frozen=True, array_like=True):
    """The tokens of a call, each class counted once; `reasoning` is a part of `output`."""

    input: int = 0
    output: int = 0
    reasoning: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0


def written(default: Any) -> Any:
    """Returns the field specification of a default that is written like any other value."""
    return field(default_factory=lambda: default)


class Opened(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "call_id": "o",
        "input_tokens": "e",
        "request_id": "rq",
        "request_log_id": "d",
        "at": "at",
        "user_id": "u",
        "key_id": "k",
        "provider_id": "p",
        "channel": "c",
        "credential_id": "r",
        "operation": "op",
        "protocol": "pr",
        "model": "m",
        "end_user": "eu",
        "tag": "t",
        "losses": "lo",
        "reserved": "h",
    },
):
    """A call that is about to be sent.

    `input_tokens` are estimated. `at` is the moment of the reservation, in nanoseconds since the epoch. `model` is the
    name in the request. `losses` are the names that the request lost in translation.
    """

    call_id: int
    input_tokens: int
    request_id: str
    request_log_id: int | None = None
    at: int
    user_id: int
    key_id: int
    provider_id: int
    channel: str
    credential_id: int | None
    operation: str
    protocol: str
    model: str
    end_user: str | None = written(None)
    tag: str | None = written(None)
    losses: tuple[str, ...] = ()
    reserved: Reserved | None = None


class Settled(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={
        "call_id": "s",
        "outcome": "x",
        "status": "st",
        "tokens": "n",
        "cost": "c",
        "latency_ms": "l",
        "attempts": "a",
        "tries": "tr",
        "served_by": "by",
        "price_source": "ps",
        "is_estimated": "est",
        "first_byte_ms": "f",
        "losses": "lo",
    },
):
    """A call that has ended.

    `status` is None only for a call whose worker crashed. `cost` is in nano-USD, and `price_source` None without a
    price. `attempts` is their number; if there are several, `tries` are the last of them, and `served_by` names what
    answered. Milliseconds are counted from the start of the call. `is_estimated`: the tokens are. `losses` are the
    names that the reply lost in translation.
    """

    call_id: int
    outcome: str
    status: int | None = None
    tokens: Tokens
    cost: int = written(0)
    latency_ms: int | None = None
    attempts: int = written(1)
    tries: tuple[Attempt, ...] = ()
    served_by: ServedBy | None = None
    price_source: str | None = None
    is_estimated: bool = False
    first_byte_ms: int | None = None
    losses: tuple[str, ...] | None = None


Entry = Opened | Settled

_OPENED_START = b'{"o":'
_encode = msgspec.json.Encoder().encode
_decode_opened = msgspec.json.Decoder(Opened).decode
_decode_settled = msgspec.json.Decoder(Settled).decode


def to_line(entry: Entry) -> bytes:
    """Returns the entry's line, with its end."""
    return _encode(entry) + b"\n"


def from_line(line: bytes) -> Entry:
    """Returns the entry of a line. Raises ValueError if it is corrupted."""
    return _decode_opened(line) if line.startswith(_OPENED_START) else _decode_settled(line)


def cut(text: str | None) -> str | None:
    """Returns a text of the client, cut to the length that an entry may contain."""
    return text[:MAX_TEXT_CHARS] if text else text
