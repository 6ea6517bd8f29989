"""The only schema of the journal: what an `opened` and a `settled` line contain, and under which short names.

An entry is a JSON object on one line. Its first member is the call id, as `o` in an `opened` and as `s` in a `settled`
line. The order of the fields is the order on disk. A field that has its default is not written, unless the default is
`written`. A missing field gets its default, and unknown members are ignored.

`from_line` is the only function that makes an entry of bytes. What is no entry, it returns as Damaged with the reason;
it raises nothing. The bounds of the fields are those of the database's columns and of the counters, so that every entry
can be stored and counted.
"""

import json
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct, field

# The texts of the client are cut to this length, because an entry has a maximum size.
MAX_TEXT_CHARS = 128

MAX_BIGINT, MAX_INTEGER = 2**63 - 1, 2**31 - 1  # of the columns of PostgreSQL
# New ids and windows of quotas continue after the greatest stored one, so a line must not take all that remain.
MAX_CALL_ID = 2**62 - 1  # of a call in 2043
MAX_AT = 2_400_000_000_000_000_000  # in 2046
MAX_TOKENS = 10**15  # of one class: a call's total stays below MAX_BIGINT
MAX_MODEL_CHARS = 512  # an entry of an index of PostgreSQL has at most 2,704 bytes
MAX_WORD_CHARS = 64
MAX_STRING_CHARS = 65_536

Bigint = Annotated[int, Meta(ge=0, le=MAX_BIGINT)]
Integer = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
CallId = Annotated[int, Meta(ge=0, le=MAX_CALL_ID)]
Moment = Annotated[int, Meta(ge=0, le=MAX_AT)]
TokenCount = Annotated[int, Meta(ge=0, le=MAX_TOKENS)]
Word = Annotated[str, Meta(max_length=MAX_WORD_CHARS)]
ModelName = Annotated[str, Meta(max_length=MAX_MODEL_CHARS)]
Text = Annotated[str, Meta(max_length=MAX_STRING_CHARS)]

# One attempt: provider id, credential id, result (a status or an error code), milliseconds.
Attempt = tuple[Integer, Integer | None, Integer | Text, Bigint]
# What answered a call: provider id, channel, credential id.
ServedBy = tuple[Integer, Word, Integer | None]


class Damaged(NamedTuple):
    """The result for bytes that are no entry. `reason` contains nothing of the bytes."""

    reason: str


class Reserved(NamedTuple):
    """The reservation of a call: money in nano-USD, and tokens."""

    money: Bigint
    tokens: Bigint


class Tokens(Struct, frozen=True, array_like=True):
    """The tokens of a call, each class counted once; `reasoning` is a part of `output`."""

    input: TokenCount
    output: TokenCount = 0
    reasoning: TokenCount = 0
    cache_read: TokenCount = 0
    cache_write: TokenCount = 0
    cache_write_5m: TokenCount = 0
    cache_write_1h: TokenCount = 0


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

    call_id: CallId
    input_tokens: TokenCount
    request_id: Text
    request_log_id: Bigint | None = None
    at: Moment
    user_id: Integer
    key_id: Integer
    provider_id: Integer
    channel: Word
    credential_id: Integer | None
    operation: Word
    protocol: Word
    model: ModelName
    end_user: Text | None = written(None)
    tag: Text | None = written(None)
    losses: tuple[Text, ...] = ()
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

    call_id: CallId
    outcome: Word
    status: Integer | None = None
    tokens: Tokens
    cost: Bigint = written(0)
    latency_ms: Integer | None = None
    attempts: Integer = written(1)
    tries: tuple[Attempt, ...] = ()
    served_by: ServedBy | None = None
    price_source: Word | None = None
    is_estimated: bool = False
    first_byte_ms: Integer | None = None
    losses: tuple[Text, ...] | None = None


Entry = Opened | Settled

_OPENED_START = b'{"o":'
_encode = msgspec.json.Encoder().encode
_decode_opened = msgspec.json.Decoder(Opened).decode
_decode_settled = msgspec.json.Decoder(Settled).decode


def to_line(entry: Entry) -> bytes:
    """Returns the entry's line, with its end."""
    return _encode(entry) + b"\n"


def from_line(line: bytes) -> Entry | Damaged:
    """Returns the entry of a line, with or without its end, or the reason why it is none."""
    try:
        entry = _decode_opened(line) if line.startswith(_OPENED_START) else _decode_settled(line)
        # Only a line of another version has other bytes than this version writes. Of a member that stands twice the
        # decoder takes one, and it does not look into unknown members.
        if _encode(entry) != line.removesuffix(b"\n"):
            json.loads(line, object_pairs_hook=_refuse_repeated)
    except msgspec.MsgspecError as fault:
        return Damaged(str(fault))
    except UnicodeDecodeError:
        return Damaged("it is no UTF-8")
    except RecursionError:
        return Damaged("it is nested too deeply")
    except ValueError as fault:
        return Damaged(str(fault) if isinstance(fault, _Repeated) else "it is no JSON")
    return entry


class _Repeated(ValueError):
    """A member stands twice in an object."""


def _refuse_repeated(members: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in members}) < len(members):
        raise _Repeated("a member stands twice")


def cut(text: str | None) -> str | None:
    """Returns a text of the client, cut to the length that an entry may contain."""
    return text[:MAX_TEXT_CHARS] if text else text
