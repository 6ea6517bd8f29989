"""Routing documents: what a provider does with an operation in a protocol. Words, presets, schema, stored form.

An operator writes a preset's name or a table of rules, which replaces the channel's whole table: what it does not
name is not served. Words of the format that this version does not serve are stored as they are.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import get_close_matches

from marshmallow import Schema, ValidationError, fields, post_load, validates_schema

DEFAULT = "{}"  # stored for the channel's own table
CATALOGUE = ("model_list", "model_get")
COUNT, COMPACT, EMBED = "count_tokens", "compact", "embeddings"
GENERATE, STREAM = "generate_content", "stream_generate_content"
IMAGE, STREAM_IMAGE = "create_image", "stream_create_image"
EDIT, STREAM_EDIT = "create_image_edit", "stream_create_image_edit"
SOCKET, LIVE = "openai_response_websocket", "gemini_live"
FILES = ("file_upload", "file_list", "file_get", "file_content", "file_delete")
OPERATIONS = (
    *(*CATALOGUE, COUNT, COMPACT, GENERATE, STREAM, IMAGE, STREAM_IMAGE, EDIT, STREAM_EDIT),
    *(SOCKET, LIVE, EMBED, *FILES),
)
GONE = "realtime_"  # how operations of old configurations begin that no longer exist

OPENAI, CHAT, RESPONSES, CLAUDE, GEMINI = "openai", "openai_chat_completions", "openai_response", "claude", "gemini"
NDJSON = "gemini_ndjson"
PROTOCOLS = (OPENAI, CHAT, RESPONSES, CLAUDE, GEMINI, NDJSON)
# Names that the same protocols have in the `protocol` setting.
MEANT = {"openai_chat": CHAT, "openai_responses": RESPONSES, "anthropic": CLAUDE}

PASS, LOCAL, UNSUPPORTED, TRANSFORM = "Passthrough", "Local", "Unsupported", "TransformTo"
TAGS = (PASS, LOCAL, UNSUPPORTED, TRANSFORM)
EXPECTED = f"expected {PASS}, {LOCAL}, {UNSUPPORTED} or {{ {TRANSFORM} = {{ destination = {{ … }} }} }}"

Routes = Mapping[tuple[str, str], str | dict]


def to(operation: str, protocol: str) -> dict:
    return {TRANSFORM: {"destination": {"operation": operation, "protocol": protocol}}}


def towards(home: str, *others: str, operations: tuple[str, ...], protocols: tuple[str, ...]) -> Routes:
    """The upstream speaks `home` and the others; what comes in another protocol is translated to `home`."""
    return {
        (operation, protocol): PASS if protocol in (home, *others) else to(operation, home)
        for operation in operations
        for protocol in protocols
    }


def listed(home: str) -> Routes:
    """Model lists and token counts."""
    return towards(home, operations=(*CATALOGUE, COUNT), protocols=(OPENAI, CLAUDE, GEMINI))


def generated(home: str, *others: str) -> Routes:
    whole = (CHAT, RESPONSES, CLAUDE, GEMINI)
    return {
        **towards(home, *others, operations=(GENERATE,), protocols=whole),
        **towards(home, *others, operations=(STREAM,), protocols=(*whole, NDJSON)),
    }


def embedded(home: str) -> Routes:
    return towards(home, operations=(EMBED,), protocols=(OPENAI, GEMINI))


ANSWERED_HERE = {(operation, protocol): LOCAL for operation, protocol in listed(OPENAI)}
# Chat is translated for Claude and Gemini, never passed: their paths below are their own, and cannot read it.
PRESETS: Mapping[str, Routes] = {
    "openai-like": {
        **listed(OPENAI),
        **generated(RESPONSES, CHAT),
        **towards(OPENAI, operations=(IMAGE, STREAM_IMAGE, EDIT, STREAM_EDIT, COMPACT, SOCKET), protocols=(OPENAI,)),
        **embedded(OPENAI),
        (LIVE, GEMINI): to(STREAM, RESPONSES),
    },
    "anthropic-like": {
        **listed(CLAUDE),
        **generated(CLAUDE),
        (COMPACT, OPENAI): to(GENERATE, CLAUDE),
        (SOCKET, OPENAI): to(STREAM, CLAUDE),
        (LIVE, GEMINI): to(STREAM, CLAUDE),
    },
    "gemini-like": {
        **listed(GEMINI),
        **generated(GEMINI, NDJSON),
        **{(operation, OPENAI): to(GENERATE, GEMINI) for operation in (IMAGE, EDIT, COMPACT)},
        **{(operation, OPENAI): to(STREAM, GEMINI) for operation in (STREAM_IMAGE, STREAM_EDIT)},
        **embedded(GEMINI),
        (SOCKET, OPENAI): to(LIVE, GEMINI),
        (LIVE, GEMINI): PASS,
    },
    "chat-completions-only": {**ANSWERED_HERE, **generated(CHAT), (COMPACT, OPENAI): to(GENERATE, CHAT)},
    "response-only": {**ANSWERED_HERE, **generated(RESPONSES), (COMPACT, OPENAI): PASS},
    "claude-only": {**ANSWERED_HERE, **generated(CLAUDE), (COMPACT, OPENAI): to(GENERATE, CLAUDE)},
    "gemini-only": {
        **ANSWERED_HERE,
        **generated(GEMINI, NDJSON),
        (EMBED, GEMINI): PASS,
        (COMPACT, OPENAI): to(GENERATE, GEMINI),
    },
}


def known(what: str, names: Collection[str]) -> Callable[[str], None]:
    """A check that a name is one of these; the refusal tells which one may be meant."""

    def check(name: str) -> None:
        if name in names:
            return
        close = [MEANT[name]] if MEANT.get(name) in names else get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
        raise ValidationError(f"unknown {what} {name!r}; {hint}")

    return check


class Route(Schema):
    operation = fields.String(required=True, validate=known("operation", OPERATIONS))
    protocol = fields.String(required=True, validate=known("protocol", PROTOCOLS))


class Transform(Schema):
    destination = fields.Nested(Route, required=True)


class Transforming(Schema):
    TransformTo = fields.Nested(Transform, required=True)


class Implementation(fields.Nested):
    """A tag in any case, or the table of a transform. Loads to what is stored."""

    def __init__(self):
        super().__init__(Transforming, required=True)

    def _deserialize(self, value, attr, data, **kwargs):
        if isinstance(value, dict):
            if [str(key).lower() for key in value] == [TRANSFORM.lower()]:
                value = dict(zip([TRANSFORM], value.values(), strict=True))
            return super()._deserialize(value, attr, data, **kwargs)
        tag = next((tag for tag in TAGS if isinstance(value, str) and tag.lower() == value.lower()), value)
        if not isinstance(tag, str) or tag == TRANSFORM:
            raise ValidationError(EXPECTED)
        known("implementation", TAGS)(tag)
        return tag


class Rule(Schema):
    route = fields.Nested(Route, required=True)
    implementation = Implementation()


def is_gone(rule) -> bool:
    """Whether a rule is from or to an operation that no longer exists."""
    match rule:
        case {"route": {"operation": str(operation)}} if operation.startswith(GONE):
            return True
        case {"implementation": {"TransformTo": {"destination": {"operation": str(operation)}}}}:
            return operation.startswith(GONE)
    return False


class MaybeGone(fields.Nested):
    """A rule, or None for one of an operation that no longer exists, whatever else it says."""

    def _deserialize(self, value, attr, data, **kwargs):
        return None if is_gone(value) else super()._deserialize(value, attr, data, **kwargs)


def routes(table) -> Iterator[tuple[int, tuple[str, str]]]:
    """Where each route stands in a table that may hold anything."""
    rules = table.get("rules") if isinstance(table, dict) else None
    for i, rule in enumerate(rules if isinstance(rules, list) else ()):
        match rule:
            case {"route": {"operation": str(operation), "protocol": str(protocol)}} if not is_gone(rule):
                yield i, (operation, protocol)


class Table(Schema):
    """An override. Rules of operations that no longer exist (`realtime_…`) are dropped, so that old documents load."""

    rules = fields.List(MaybeGone(Rule), load_default=list)

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _check(self, data, original, **kwargs):
        # Of what was written: in what was loaded, wrong rules are missing and the places of others have moved.
        first: dict[tuple[str, str], int] = {}
        again = {}
        for i, route in routes(original):
            if (place := first.setdefault(route, i)) != i:
                again[i] = {"route": [f"a duplicate of rules[{place + 1}]; remove one"]}
        if again:
            raise ValidationError({"rules": again})

    @post_load
    def _left(self, data, **kwargs) -> dict:
        return {"rules": [rule for rule in data["rules"] if rule is not None]}


TABLE = Table()


def document(value) -> str:
    """What a provider's row stores of a preset's name, an override, or None, "" or {} for the channel's own table.

    A preset is expanded, so that what is stored does not change with a later version's presets. Rules come out in the
    order of their routes, tags capitalised. Raises marshmallow's ValidationError, with messages by place.
    """
    if value is None or value == "":
        return DEFAULT
    if isinstance(value, str):
        known("preset", PRESETS)(value)
        rules = [
            {"route": {"operation": operation, "protocol": protocol}, "implementation": way}
            for (operation, protocol), way in PRESETS[value].items()
        ]
    elif isinstance(value, dict):
        rules = TABLE.load(value)["rules"]
    else:
        raise ValidationError(f"expected {{ rules = [ … ] }} or the name of a preset: {', '.join(PRESETS)}")
    if not rules:
        return DEFAULT
    return json.dumps({"rules": sorted(rules, key=lambda rule: tuple(rule["route"].values()))})


class Routing(fields.Field):
    """A provider's `routing`. Loads to its stored form."""

    def __init__(self):
        # A null is not "no value" but one more way to write the channel's own table.
        super().__init__(load_default=DEFAULT, allow_none=True, pre_load=lambda value: "" if value is None else value)
        self.schema = TABLE

    def _deserialize(self, value, attr, data, **kwargs):
        return document(value)
