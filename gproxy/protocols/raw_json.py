"""A JSON object as its top-level fields, each still the bytes that were sent.

Exchanging one field leaves every other value as it was, byte for byte.
"""

import json
import re
from collections.abc import Callable, Mapping

import msgspec
import orjson
from msgspec import Raw

from gproxy.errors import BadRequest, TooDeep
from gproxy.protocols.hub import RequestHead, as_count, as_object

_decode = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_encode = msgspec.json.Encoder().encode
_value = msgspec.json.decode

Fields = dict[str, Raw]
ABSENT = Raw()
NULLS = (b"", b"null")
# What the decoder raises on bytes that are no readable JSON; UnicodeDecodeError is not one of its own.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
TOO_DEEP = "nested too deeply, or holds a number too large, to be translated"
_SPACE = b" \t\r\n"
_WHOLE = re.compile(r"\+?([0-9]{1,15})(?:\.0*)?")
# Half a surrogate pair stands in JSON as an escape.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def _lenient(body: bytes) -> Fields | None:
    """The fields of a body with half a surrogate pair in it, which the fast decoder refuses.

    Whoever cuts a text inside an emoji writes such halves, JavaScript clients and some streaming hosts among them.
    """
    parsed = _parsed(body)
    if parsed is None:
        return None
    return {name: Raw(json.dumps(value, separators=(",", ":")).encode()) for name, value in parsed.items()}


def _parsed(body: bytes) -> dict | None:
    if not _HALF.search(body):
        return None
    try:
        parsed = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _refuse(constant: str):
    raise ValueError(constant)


def try_decode(decode: Callable[[bytes], object], data: bytes):
    """What a decoder sees in an upstream's frame, None when that cannot be read."""
    try:
        return decode(data)
    except UNREADABLE:
        if (parsed := _parsed(data)) is None:
            return None
    try:
        return decode(json.dumps(parsed, ensure_ascii=False).encode("utf-8", "replace"))
    except UNREADABLE:
        return None


def split(body: bytes) -> Fields:
    """The fields of a request body. Raises BadRequest when it is not one readable JSON object."""
    try:
        return _decode(body)
    except msgspec.ValidationError:
        raise BadRequest("the body must be a JSON object") from None
    except msgspec.DecodeError as fault:
        if (found := _lenient(body)) is not None:
            return found
        raise BadRequest(f"the body is not readable JSON: {fault}") from None
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None


def find(body: bytes) -> Fields | None:
    """The fields of an upstream's JSON object, or None when it is none."""
    try:
        return _decode(body)
    except UNREADABLE:
        return _lenient(body)


def find_list(body: bytes) -> list[Raw] | None:
    """The items of a JSON list, or None when it is none."""
    try:
        return _decode_list(body)
    except UNREADABLE:
        return None


def read_object(body: bytes) -> dict:
    """A request body as a dict. Raises BadRequest when it is not one readable JSON object.

    Half a surrogate pair, which no vendor's JSON could hold, becomes a question mark.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        parsed = _parsed(body)
        if parsed is None:
            raise BadRequest(f"the body is not readable JSON: {fault}") from None
        found = orjson.loads(json.dumps(parsed, ensure_ascii=False).encode("utf-8", "replace"))
    if not isinstance(found, dict):
        raise BadRequest("the body must be a JSON object")
    return found


def inner_object(raw: Raw) -> dict:
    """An object inside an upstream's object, empty when it is none or cannot be read.

    Splitting looks into neither texts nor numbers, so that a value may still turn out broken.
    """
    if bytes(raw) in NULLS:
        return {}
    try:
        return as_object(_value(raw))
    except UNREADABLE:
        return {}


def join(fields: Fields) -> bytes:
    return _encode(fields)


def dumps(found: dict) -> bytes:
    """A whole body written anew. Raises TooDeep when it is nested too deeply for that."""
    try:
        return orjson.dumps(found)
    except orjson.JSONEncodeError:
        raise TooDeep(f"the body is {TOO_DEEP}") from None


def first_too_deep(found: Mapping) -> str | None:
    """The first field that `dumps` could not write, None where it could write them all."""
    for name, value in found.items():
        try:
            orjson.dumps(value)
        except orjson.JSONEncodeError:
            return name
    return None


def value(fields: Fields, name: str):
    """A field's value, None when it is absent. Raises BadRequest naming the field."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return _value(raw)
    except UNREADABLE as fault:
        raise BadRequest(f"{name}: not readable JSON: {fault}") from None


def model(fields: Fields) -> str | None:
    """The model that a body names, None when it names none. Raises BadRequest when it is no name."""
    if len(fields) > 1 and any(key != "model" and key.casefold() == "model" for key in fields):
        raise BadRequest("model: stands there in another case too, and an upstream might take that one")
    name = value(fields, "model")
    if name is None:
        return None
    if not isinstance(name, str):
        raise BadRequest(f"model: expected a string, got {type(name).__name__}")
    return name if name.strip() else None


def is_stream(fields: Fields) -> bool:
    """Only the boolean `true` asks for a stream."""
    raw = fields.get("stream")
    return raw is not None and bytes(raw) == b"true"


def text(fields: Fields, name: str) -> str | None:
    """A field's value when it is a text, else None."""
    found = value(fields, name)
    return found if isinstance(found, str) else None


def positive_int(fields: Fields, *names: str) -> int | None:
    """The first of these fields that holds a positive whole number, None when none does."""
    for name in names:
        if name in fields and (found := as_count(value(fields, name))):
            return found
    return None


def choice_count(fields: Fields, *names: str) -> int:
    """How many answers are asked for, 1 where it is not told.

    `8.0` and `"8"` are eight: some upstreams read them so, and what a call may cost must cover that.
    """
    return max((as_count(_whole(value(fields, name))) for name in names if name in fields), default=1) or 1


def _whole(found: object) -> object:
    if isinstance(found, float) and found.is_integer():
        return int(found)
    if isinstance(found, str) and (read := _WHOLE.fullmatch(found.strip())):
        return int(read[1])
    return found


def with_value(fields: Fields, name: str, raw: bytes) -> Fields:
    """A copy with one value exchanged, in its old place."""
    return {**fields, name: Raw(raw)}


def names_model_once(asked: RequestHead, body: bytes) -> bool:
    """Whether the body names its model only once. Of two, an upstream might take the other one."""
    if body.count(b'"model"') < 2 and b"\\u00" not in body:
        return True
    # Joined again, a body is the same but for white space, unless a repeated field was dropped; one with half an emoji
    # is written anew and cannot be compared.
    return not _HALF.search(body) and len(body.translate(None, _SPACE)) == len(join(asked.body).translate(None, _SPACE))


def outgoing(asked: RequestHead, body: bytes, model: str) -> bytes:
    """The same request under the upstream's model name; the same bytes where nothing changes."""
    if asked.model == model and names_model_once(asked, body):
        return body
    return join(with_value(asked.body, "model", quoted(model)))


def quoted(text: str) -> bytes:
    return _encode(text)


def with_model_name(body: bytes, name: str, quoted_model: bytes) -> bytes:
    """The object with the model name in `name` exchanged; the same bytes when it stands there already."""
    fields = find(body)
    if fields is None or name not in fields or bytes(fields[name]) == quoted_model:
        return body
    return join(with_value(fields, name, quoted_model))
