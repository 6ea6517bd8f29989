"""Checks the types of values in a client's body. Raises BadRequest that names the field by its path, `place`."""

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

import orjson

from gproxy.errors import BadRequest
from gproxy.protocols import raw_json
from gproxy.protocols.hub import Media
from gproxy.protocols.losses import Losses

TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "a whole number"}
# Media types by file extension, for files sent without a media type or without a name.
MEDIA_TYPES = {
    "pdf": "application/pdf",
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "wav": "audio/wav",
    "mp3": "audio/mp3",
}


def _wrong_type(value, expected: str, place: str) -> BadRequest:
    actual = "null" if value is None else TYPE_NAMES.get(type(value), "a number")
    return BadRequest(f"{place}: expected {expected}, got {actual}")


def _typed(value, kind: type, place: str):
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong_type(value, TYPE_NAMES[kind], place)
    return value


def obj(value, place: str) -> dict:
    return _typed(value, dict, place)


def arr(value, place: str) -> list:
    return _typed(value, list, place)


def text(value, place: str) -> str:
    return _typed(value, str, place)


def objects(value, place: str) -> list[tuple[str, dict]]:
    """Returns the objects of a list, each with its path; an empty list for null."""
    if value is None:
        return []
    return [(f"{place}[{i}]", obj(item, f"{place}[{i}]")) for i, item in enumerate(arr(value, place))]


def optional_obj(body: dict, name: str, place: str = "") -> dict:
    """Returns an object field, an empty object when it is null or absent."""
    value = body.get(name)
    return {} if value is None else obj(value, join_path(place, name))


def optional_text(body: dict, name: str, place: str = "") -> str | None:
    value = body.get(name)
    return None if value is None else text(value, join_path(place, name))


def optional_flag(body: dict, name: str, place: str = "") -> bool | None:
    value = body.get(name)
    return None if value is None else _typed(value, bool, join_path(place, name))


def optional_number(body: dict, name: str, place: str = "", minimum: float | None = None) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(value, "a number", join_path(place, name))
    if minimum is not None and value < minimum:
        raise BadRequest(f"{join_path(place, name)}: must be at least {minimum:g}")
    return value


def optional_count(body: dict, name: str, place: str = "", minimum: int = 0) -> int | None:
    """Returns a whole number of at least `minimum`; JavaScript and protobuf also write 5 as 5.0 and "5"."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        value = int(value)
    if _typed(value, int, join_path(place, name)) < minimum:
        raise BadRequest(f"{join_path(place, name)}: must be at least {minimum}")
    return value


def texts(value, place: str) -> tuple[str, ...]:
    """Returns the strings of a string or a list of strings, nothing for null."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(text(item, f"{place}[{i}]") for i, item in enumerate(arr(value, place)))


def join_path(place: str, name: str) -> str:
    """Returns the path of a field of the object at `place`."""
    return f"{place}.{name}" if place else name


def lookup(value: str | None, table: dict, place: str):
    """Returns the table's entry for a value, None for null. Raises BadRequest when the table has no such key."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise _wrong_type(value, TYPE_NAMES[str], place)
    if value not in table:
        raise BadRequest(f"{place}: {value[:64]!r} is unknown; known: {', '.join(map(str, table))}")
    return table[value]


# Text sent in place of a file that a model cannot read, and the form of code that a vendor ran.
OMITTED_FILE = "[{} omitted: this model cannot read it]"
CODE_BLOCK = "```{}\n{}\n```"
# The key for arguments that are not a JSON object.
RAW_ARGUMENTS = "raw_arguments"


def arguments_object(written: str, losses: Losses) -> dict:
    """Returns a tool call's arguments as an object, which some protocols require.

    Text that is not a JSON object is kept as it is, under RAW_ARGUMENTS, and reported as a loss.
    """
    try:
        document = orjson.loads(written) if written.strip() else {}
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict):
        return document
    losses.lose("arguments")
    return {RAW_ARGUMENTS: written}


def dumps(value: dict) -> str:
    """Returns compact JSON text. Raises TooDeep, a BadRequest, when the value is nested too deeply."""
    return raw_json.dumps(value).decode()


def data_url(media_type: str | None, data: str) -> str:
    return f"data:{media_type or 'application/octet-stream'};base64,{data}"


def media_of_url(url: str, kind: str, place: str, name: str | None = None, detail: str | None = None) -> Media:
    """Returns the Media block of a URL or data URL. Raises BadRequest on an invalid data URL."""
    if not url.startswith("data:"):
        return Media(kind, media_type_of(name), url=url, name=name, detail=detail)
    head, comma, data = url.partition(",")
    if not comma:
        raise BadRequest(f"{place}: not a readable data URL")
    if head[-7:].lower() != ";base64":
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    check_base64(data, place)
    media_type = (head[5:].partition(";")[0] or media_type_of(name) or "").lower() or None
    return Media(media_kind(media_type, kind), media_type, data, name=name, detail=detail)


def media_of_bytes(media_type: str, data: bytes) -> Media:
    """Returns the Media block of a file's bytes."""
    return Media(media_kind(media_type, "file"), media_type, base64.b64encode(data).decode())


def check_base64(data: str, place: str) -> str:
    """Returns the data. Raises BadRequest when it is not base64; of large data only both ends are checked."""
    edge = (data[:64] + data[-64:]) if len(data) > 128 else data
    if not re.fullmatch(r"[A-Za-z0-9+/_\-\s]*={0,2}\s*", edge):
        raise BadRequest(f"{place}: not base64")
    return data


def text_of_base64(data: str) -> str | None:
    """Returns the text in base64 data, None when the data is not base64 or not UTF-8."""
    try:
        return base64.b64decode(data, validate=False).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def media_kind(media_type: str | None, default: str) -> str:
    """Returns the kind of a Media block: the media type decides, since clients send images as files and vice versa."""
    family = (media_type or "").partition("/")[0]
    if family in ("image", "audio", "video"):
        return family
    return "file" if media_type else default


def media_type_of(name: str | None) -> str | None:
    """Returns the media type for a file name's extension, None when it is unknown."""
    return MEDIA_TYPES.get((name or "").rpartition(".")[2].lower()) if name and "." in name else None


def file_extension(media_type: str | None) -> str:
    """Returns a file extension for a media type, `bin` when it is unknown."""
    return next((extension for extension, known in MEDIA_TYPES.items() if known == media_type), "bin")
