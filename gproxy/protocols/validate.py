"""Values off a client's wire, each of the type that it must have, or a BadRequest that names its place."""

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
_DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*?)(;base64)?,", re.IGNORECASE)
# What files are called where only their name or only their type is told.
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


def _wrong(value, expected: str, place: str) -> BadRequest:
    found = "null" if value is None else TYPE_NAMES.get(type(value), "a number")
    return BadRequest(f"{place}: expected {expected}, got {found}")


def _typed(value, kind: type, place: str):
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong(value, TYPE_NAMES[kind], place)
    return value


def obj(value, place: str) -> dict:
    return _typed(value, dict, place)


def arr(value, place: str) -> list:
    return _typed(value, list, place)


def text(value, place: str) -> str:
    return _typed(value, str, place)


def objects(value, place: str) -> list[tuple[str, dict]]:
    """A list of objects, each with its place; nothing for null."""
    if value is None:
        return []
    return [(f"{place}[{i}]", obj(item, f"{place}[{i}]")) for i, item in enumerate(arr(value, place))]


def optional_obj(body: dict, name: str, place: str = "") -> dict:
    """An object or, in place of null, an empty one."""
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
        raise _wrong(value, "a number", join_path(place, name))
    if minimum is not None and value < minimum:
        raise BadRequest(f"{join_path(place, name)}: must be at least {minimum:g}")
    return value


def optional_count(body: dict, name: str, place: str = "", minimum: int = 0) -> int | None:
    """A whole number that is not below `least`; JavaScript and protobuf write them as 5.0 and "5" too."""
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
    """A string or a list of them."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    return tuple(text(item, f"{place}[{i}]") for i, item in enumerate(arr(value, place)))


def join_path(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def lookup(value: str | None, table: dict, place: str):
    """What a table says for a spelling; nothing for nothing."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise _wrong(value, TYPE_NAMES[str], place)
    if value not in table:
        raise BadRequest(f"{place}: {value[:64]!r} is unknown; known: {', '.join(map(str, table))}")
    return table[value]


# What stands in the place of a file that a model cannot read, and how code that a vendor ran is shown.
OMITTED_FILE = "[{} omitted: this model cannot read it]"
CODE_BLOCK = "```{}\n{}\n```"
# Under this key stand arguments that are no JSON object.
RAW_ARGUMENTS = "raw_arguments"


def arguments_object(written: str, losses: Losses) -> dict:
    """A tool call's arguments as the object that some protocols want; what is none is kept as the text it is."""
    try:
        found = orjson.loads(written) if written.strip() else {}
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, dict):
        return found
    losses.lose("arguments")
    return {RAW_ARGUMENTS: written}


def dumps(value: dict) -> str:
    """Compact JSON text. Raises BadRequest when the value is nested too deeply to be written."""
    return raw_json.dumps(value).decode()


def data_url(media_type: str | None, data: str) -> str:
    return f"data:{media_type or 'application/octet-stream'};base64,{data}"


def media_of_url(url: str, kind: str, place: str, name: str | None = None, detail: str | None = None) -> Media:
    """A Media block of a URL, which may hold its data. Raises BadRequest on data that is none."""
    if not url.startswith("data:"):
        return Media(kind, media_type_of(name), url=url, name=name, detail=detail)
    head = _DATA_URL.match(url)
    if head is None:
        raise BadRequest(f"{place}: not a readable data URL")
    data = url[head.end() :]
    if not head[3]:
        data = base64.b64encode(unquote_to_bytes(data)).decode()
    check_base64(data, place)
    found = (head[1] or media_type_of(name) or "").lower() or None
    return Media(media_kind(found, kind), found, data, name=name, detail=detail)


def media_of_bytes(media_type: str, data: bytes) -> Media:
    """A Media block of a file's bytes."""
    return Media(media_kind(media_type, "file"), media_type, base64.b64encode(data).decode())


def check_base64(data: str, place: str) -> str:
    """The same base64. Raises BadRequest on what is clearly none; only the edges are looked at, for files are large."""
    edge = (data[:64] + data[-64:]) if len(data) > 128 else data
    if not re.fullmatch(r"[A-Za-z0-9+/_\-\s]*={0,2}\s*", edge):
        raise BadRequest(f"{place}: not base64")
    return data


def text_of_base64(data: str) -> str | None:
    """The text of base64 data, None when it is none."""
    try:
        return base64.b64decode(data, validate=False).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def media_kind(media_type: str | None, otherwise: str) -> str:
    """An image may be sent as a file, and a file as an image: the type decides."""
    family = (media_type or "").partition("/")[0]
    if family in ("image", "audio", "video"):
        return family
    return "file" if media_type else otherwise


def media_type_of(name: str | None) -> str | None:
    """A media type by a file's name."""
    return MEDIA_TYPES.get((name or "").rpartition(".")[2].lower()) if name and "." in name else None


def file_extension(media_type: str | None) -> str:
    return next((ending for ending, known in MEDIA_TYPES.items() if known == media_type), "bin")
