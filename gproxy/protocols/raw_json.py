"""JSON objects split into their top-level fields, each value kept as the bytes that were sent.

Replacing one field leaves every other value unchanged, byte for byte.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
import orjson
from msgspec import Raw

from gproxy.errors import BadRequest, TooDeep
from gproxy.protocols.hub import RequestHead, as_count, as_object

_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.decode

Fields = dict[str, Raw]
Decoded = TypeVar("Decoded")
ABSENT = Raw()
NULLS = (b"", b"null")
# Raised by the decoder on unreadable JSON; UnicodeDecodeError is no subclass of its own errors.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
TOO_DEEP = "nested too deeply, or holds a number too large, to be translated"
_SPACE = b" \t\r\n"
_WHOLE_NUMBER = re.compile(r"\+?([0-9]{1,15})(?:\.0*)?")
# JSON can hold half a surrogate pair only as an escape.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _find_with_surrogates(body: bytes) -> Fields | None:
    """Returns the fields of an object with half a surrogate pair in it, which msgspec rejects; None for other bodies.

    JavaScript clients and some streaming hosts cut texts inside an emoji and send such halves.
    """
    document = _parse_with_surrogates(body)
    if document is None:
        return None
    return {name: Raw(json.dumps(value, separators=(",", ":")).encode()) for name, value in document.items()}


def _parse_with_surrogates(body: bytes) -> dict | None:
    if not _SURROGATE.search(body):
        return None
    try:
        document = json.loads(body, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _reject_constant(constant: str):
    raise ValueError(constant)


def try_decode(decode: Callable[[bytes], Decoded], data: bytes) -> Decoded | None:
    """Returns what the decoder reads from an upstream's data, None when it is unreadable.

    Half a surrogate pair is read as a question mark.
    """
    try:
        return decode(data)
    except UNREADABLE:
        if (document := _parse_with_surrogates(data)) is None:
            return None
    try:
        return decode(json.dumps(document, ensure_ascii=False).encode("utf-8", "replace"))
    except UNREADABLE:
        return None


def split(body: bytes) -> Fields:
    """Returns the fields of a request body. Raises BadRequest unless it is one readable JSON object."""
    try:
        return _decode_object(body)
    except msgspec.ValidationError:
        raise BadRequest("the body must be a JSON object") from None
    except msgspec.DecodeError as error:
        if (fields := _find_with_surrogates(body)) is not None:
            return fields
        raise BadRequest(f"the body is not readable JSON: {error}") from None
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None


def find(body: bytes) -> Fields | None:
    """Returns the fields of an upstream's JSON object, None when it is unreadable or of another type."""
    try:
        return _decode_object(body)
    except UNREADABLE:
        return _find_with_surrogates(body)


def find_list(body: bytes) -> list[Raw] | None:
    """Returns the items of a JSON list, None when it is unreadable or of another type."""
    try:
        return _decode_list(body)
    except UNREADABLE:
        return None


def read_object(body: bytes) -> dict:
    """Returns a request body as a dict. Raises BadRequest unless it is one readable JSON object.

    Half a surrogate pair, which no vendor accepts, becomes a question mark.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        parsed = _parse_with_surrogates(body)
        if parsed is None:
            raise BadRequest(f"the body is not readable JSON: {error}") from None
        document = orjson.loads(json.dumps(parsed, ensure_ascii=False).encode("utf-8", "replace"))
    if not isinstance(document, dict):
        raise BadRequest("the body must be a JSON object")
    return document


def inner_object(raw: Raw) -> dict:
    """Returns a field of an upstream's object as a dict, empty when it is unreadable or of another type.

    The decoder that split the object did not check texts and numbers, so the value may be broken.
    """
    if bytes(raw) in NULLS:
        return {}
    try:
        return as_object(_decode_any(raw))
    except UNREADABLE:
        return {}


def join(fields: Fields | list[Raw]) -> bytes:
    """Returns the object of the fields, or the list of the items."""
    return _encode(fields)


def dumps(document: dict | list) -> bytes:
    """Returns a document as JSON. Raises TooDeep when it is nested too deeply."""
    try:
        return orjson.dumps(document)
    except orjson.JSONEncodeError:
        raise TooDeep(f"the body is {TOO_DEEP}") from None


def first_too_deep(document: Mapping) -> str | None:
    """Returns the first field that `dumps` cannot write, None when it can write all of them."""
    for name, value in document.items():
        try:
            orjson.dumps(value)
        except orjson.JSONEncodeError:
            return name
    return None


def value(fields: Fields, name: str):
    """Returns a field's value, None when it is absent. Raises BadRequest naming the field when it is unreadable."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return _decode_any(raw)
    except UNREADABLE as error:
        raise BadRequest(f"{name}: not readable JSON: {error}") from None


def model(fields: Fields) -> str | None:
    """Returns the model of a body, None when it is absent or blank. Raises BadRequest when it is not a string."""
    if len(fields) > 1 and any(key != "model" and key.casefold() == "model" for key in fields):
        raise BadRequest("model: also given in another case, which an upstream might read instead")
    name = value(fields, "model")
    if name is None:
        return None
    if not isinstance(name, str):
        raise BadRequest(f"model: expected a string, got {type(name).__name__}")
    return name if name.strip() else None


def is_stream(fields: Fields) -> bool:
    """Returns whether the body requests a stream: only the boolean `true` does."""
    raw = fields.get("stream")
    return raw is not None and bytes(raw) == b"true"


def text(fields: Fields, name: str) -> str | None:
    """Returns a field's value if it is a string, else None. Raises BadRequest when it is unreadable."""
    content = value(fields, name)
    return content if isinstance(content, str) else None


def positive_int(fields: Fields, *names: str) -> int | None:
    """Returns the value of the first field that is a positive whole number, None without one. Raises BadRequest."""
    for name in names:
        if name in fields and (number := as_count(value(fields, name))):
            return number
    return None


def choice_count(fields: Fields, *names: str) -> int:
    """Returns the number of requested choices, 1 by default. Raises BadRequest when a field is unreadable.

    `8.0` and `"8"` count as 8: some upstreams accept them, and the upper bound of the cost must cover them.
    """
    return max((as_count(_as_whole_number(value(fields, name))) for name in names if name in fields), default=1) or 1


def _as_whole_number(content: object) -> object:
    if isinstance(content, float) and content.is_integer():
        return int(content)
    if isinstance(content, str) and (match := _WHOLE_NUMBER.fullmatch(content.strip())):
        return int(match[1])
    return content


def with_value(fields: Fields, name: str, raw: bytes) -> Fields:
    """Returns a copy with one value replaced, in its old position."""
    return {**fields, name: Raw(raw)}


def names_model_once(head: RequestHead, body: bytes) -> bool:
    """Returns whether the body has one `model` field. Of two, an upstream might read the other one."""
    if body.count(b'"model"') < 2 and b"\\u00" not in body:
        return True
    # Joined fields equal the body apart from white space, unless a repeated field was dropped. A body with half a
    # surrogate pair is rewritten and cannot be compared.
    if _SURROGATE.search(body):
        return False
    return len(body.translate(None, _SPACE)) == len(join(head.body).translate(None, _SPACE))


def outgoing(head: RequestHead, body: bytes, model: str) -> bytes:
    """Returns the request with the upstream's model name; the same bytes when nothing changes."""
    if head.model == model and names_model_once(head, body):
        return body
    return join(with_value(head.body, "model", quoted(model)))


def quoted(text: str) -> bytes:
    """Returns a string as JSON."""
    return _encode(text)


def with_model_name(body: bytes, name: str, quoted_model: bytes) -> bytes:
    """Returns the object with `quoted_model` as the field `name`.

    Returns the same bytes when the field is absent or already has that value.
    """
    fields = find(body)
    if fields is None or name not in fields or bytes(fields[name]) == quoted_model:
        return body
    return join(with_value(fields, name, quoted_model))
