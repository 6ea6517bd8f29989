"""Routing documents: how a provider serves an operation in a protocol. Names, presets, schema and stored form.

An operator writes a preset's name or a table of rules, which replaces the channel's whole table: operations that it
does not name are not served. Names of the format that this version does not serve are stored unchanged.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import get_close_matches

from marshmallow import Schema, ValidationError, fields, post_load, validates_schema

from gproxy.config.loading import loaded

DEFAULT = "{}"  # stored for the channel's own table
MODEL_LISTS = ("model_list", "model_get")
COUNT, COMPACT, EMBED = "count_tokens", "compact", "embeddings"
GENERATE, STREAM = "generate_content", "stream_generate_content"
IMAGE, STREAM_IMAGE = "create_image", "stream_create_image"
EDIT, STREAM_EDIT = "create_image_edit", "stream_create_image_edit"
SOCKET, LIVE = "openai_response_websocket", "gemini_live"
FILES = ("file_upload", "file_list", "file_get", "file_content", "file_delete")
OPERATIONS = (
    *(*MODEL_LISTS, COUNT, COMPACT, GENERATE, STREAM, IMAGE, STREAM_IMAGE, EDIT, STREAM_EDIT),
    *(SOCKET, LIVE, EMBED, *FILES),
)
REMOVED_PREFIX = "realtime_"  # of operations in old configurations that no longer exist

OPENAI, CHAT, RESPONSES, CLAUDE, GEMINI = "openai", "openai_chat_completions", "openai_response", "claude", "gemini"
NDJSON = "gemini_ndjson"
PROTOCOLS = (OPENAI, CHAT, RESPONSES, CLAUDE, GEMINI, NDJSON)
# The names of these protocols in the `protocol` setting of a provider.
SETTING_NAMES = {"openai_chat": CHAT, "openai_responses": RESPONSES, "anthropic": CLAUDE}

PASS, LOCAL, UNSUPPORTED, TRANSFORM = "Passthrough", "Local", "Unsupported", "TransformTo"
TAGS = (PASS, LOCAL, UNSUPPORTED, TRANSFORM)
EXPECTED = f"expected {PASS}, {LOCAL}, {UNSUPPORTED} or {{ {TRANSFORM} = {{ destination = {{ … }} }} }}"

Routes = Mapping[tuple[str, str], str | dict]


def transform_to(operation: str, protocol: str) -> dict:
    return {TRANSFORM: {"destination": {"operation": operation, "protocol": protocol}}}


def routes_to(target: str, *others: str, operations: tuple[str, ...], protocols: tuple[str, ...]) -> Routes:
    """Returns routes that pass through `target` and the others, and translate the other protocols to `target`."""
    return {
        (operation, protocol): PASS if protocol in (target, *others) else transform_to(operation, target)
        for operation in operations
        for protocol in protocols
    }


def model_list_routes(target: str) -> Routes:
    """Returns the routes of model lists and token counts."""
    return routes_to(target, operations=(*MODEL_LISTS, COUNT), protocols=(OPENAI, CLAUDE, GEMINI))


def generation_routes(target: str, *others: str) -> Routes:
    """Returns the routes of generation, with and without a stream."""
    whole = (CHAT, RESPONSES, CLAUDE, GEMINI)
    return {
        **routes_to(target, *others, operations=(GENERATE,), protocols=whole),
        **routes_to(target, *others, operations=(STREAM,), protocols=(*whole, NDJSON)),
    }


def embedding_routes(target: str) -> Routes:
    return routes_to(target, operations=(EMBED,), protocols=(OPENAI, GEMINI))


LOCAL_MODEL_LISTS = {(operation, protocol): LOCAL for operation, protocol in model_list_routes(OPENAI)}
# Chat Completions bodies are translated for Claude and Gemini, never passed through: their endpoints cannot read them.
PRESETS: Mapping[str, Routes] = {
    "openai-like": {
        **model_list_routes(OPENAI),
        **generation_routes(RESPONSES, CHAT),
        **routes_to(OPENAI, operations=(IMAGE, STREAM_IMAGE, EDIT, STREAM_EDIT, COMPACT, SOCKET), protocols=(OPENAI,)),
        **embedding_routes(OPENAI),
        (LIVE, GEMINI): transform_to(STREAM, RESPONSES),
    },
    "anthropic-like": {
        **model_list_routes(CLAUDE),
        **generation_routes(CLAUDE),
        (COMPACT, OPENAI): transform_to(GENERATE, CLAUDE),
        (SOCKET, OPENAI): transform_to(STREAM, CLAUDE),
        (LIVE, GEMINI): transform_to(STREAM, CLAUDE),
    },
    "gemini-like": {
        **model_list_routes(GEMINI),
        **generation_routes(GEMINI, NDJSON),
        **{(operation, OPENAI): transform_to(GENERATE, GEMINI) for operation in (IMAGE, EDIT, COMPACT)},
        **{(operation, OPENAI): transform_to(STREAM, GEMINI) for operation in (STREAM_IMAGE, STREAM_EDIT)},
        **embedding_routes(GEMINI),
        (SOCKET, OPENAI): transform_to(LIVE, GEMINI),
        (LIVE, GEMINI): PASS,
    },
    "chat-completions-only": {
        **LOCAL_MODEL_LISTS,
        **generation_routes(CHAT),
        (COMPACT, OPENAI): transform_to(GENERATE, CHAT),
    },
    "response-only": {**LOCAL_MODEL_LISTS, **generation_routes(RESPONSES), (COMPACT, OPENAI): PASS},
    "claude-only": {
        **LOCAL_MODEL_LISTS,
        **generation_routes(CLAUDE),
        (COMPACT, OPENAI): transform_to(GENERATE, CLAUDE),
    },
    "gemini-only": {
        **LOCAL_MODEL_LISTS,
        **generation_routes(GEMINI, NDJSON),
        (EMBED, GEMINI): PASS,
        (COMPACT, OPENAI): transform_to(GENERATE, GEMINI),
    },
}


def one_of(what: str, names: Collection[str]) -> Callable[[str], None]:
    """Returns a validator that accepts these names. Its error suggests the closest one."""

    def check(name: str) -> None:
        if name in names:
            return
        close = [SETTING_NAMES[name]] if SETTING_NAMES.get(name) in names else get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
        raise ValidationError(f"unknown {what} {name!r}; {hint}")

    return check


class Route(Schema):
    operation = fields.String(required=True, validate=one_of("operation", OPERATIONS))
    protocol = fields.String(required=True, validate=one_of("protocol", PROTOCOLS))


class Transform(Schema):
    destination = fields.Nested(Route, required=True)


class Transforming(Schema):
    TransformTo = fields.Nested(Transform, required=True)


class Implementation(fields.Nested):
    """A tag in upper or lower case, or the table of a transform. Loads to the stored form."""

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
        one_of("implementation", TAGS)(tag)
        return tag


class Rule(Schema):
    route = fields.Nested(Route, required=True)
    implementation = Implementation()


def is_removed(rule) -> bool:
    """Returns whether a rule is from or to an operation that no longer exists."""
    match rule:
        case {"route": {"operation": str(operation)}} if operation.startswith(REMOVED_PREFIX):
            return True
        case {"implementation": {"TransformTo": {"destination": {"operation": str(operation)}}}}:
            return operation.startswith(REMOVED_PREFIX)
    return False


class RuleOrRemoved(fields.Nested):
    """Loads a rule, or None for a rule of an operation that no longer exists, even if it is wrong otherwise."""

    def _deserialize(self, value, attr, data, **kwargs):
        return None if is_removed(value) else super()._deserialize(value, attr, data, **kwargs)


def enumerate_routes(table) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yields the index and the operation and protocol of each route in a table that may be wrong otherwise."""
    rules = table.get("rules") if isinstance(table, dict) else None
    for i, rule in enumerate(rules if isinstance(rules, list) else ()):
        match rule:
            case {"route": {"operation": str(operation), "protocol": str(protocol)}} if not is_removed(rule):
                yield i, (operation, protocol)


class Table(Schema):
    """An override. Rules of operations that no longer exist (`realtime_…`) are dropped, so that old documents load."""

    rules = fields.List(RuleOrRemoved(Rule), load_default=list)

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _check(self, data, original, **kwargs):
        # The original: in the loaded data wrong rules are missing, and the indexes of the others have changed.
        first: dict[tuple[str, str], int] = {}
        duplicates = {}
        for i, route in enumerate_routes(original):
            if (place := first.setdefault(route, i)) != i:
                duplicates[i] = {"route": [f"a duplicate of rules[{place + 1}]; remove one"]}
        if duplicates:
            raise ValidationError({"rules": duplicates})

    @post_load
    def _drop_removed(self, data, **kwargs) -> dict:
        return {"rules": [rule for rule in data["rules"] if rule is not None]}


TABLE = Table()


def stored_json(value) -> str:
    """Returns what a provider's row stores for a preset's name, an override, or None, "" or {} (the channel's table).

    A preset is expanded, so that a later version's presets do not change the stored rules. The rules are sorted by
    route, and tags are capitalised. Raises ValidationError with messages by place.
    """
    if value is None or value == "":
        return DEFAULT
    if isinstance(value, str):
        one_of("preset", PRESETS)(value)
        rules = [
            {"route": {"operation": operation, "protocol": protocol}, "implementation": implementation}
            for (operation, protocol), implementation in PRESETS[value].items()
        ]
    elif isinstance(value, dict):
        rules = loaded(TABLE, value)["rules"]
    else:
        raise ValidationError(f"expected {{ rules = [ … ] }} or the name of a preset: {', '.join(PRESETS)}")
    if not rules:
        return DEFAULT
    return json.dumps({"rules": sorted(rules, key=lambda rule: tuple(rule["route"].values()))})


class Routing(fields.Field):
    """A provider's `routing`. Loads to its stored form."""

    def __init__(self):
        # A null is a value here: it means the channel's own table.
        super().__init__(load_default=DEFAULT, allow_none=True, pre_load=lambda value: "" if value is None else value)
        self.schema = TABLE

    def _deserialize(self, value, attr, data, **kwargs):
        return stored_json(value)
