"""Rewrites JSON Schemas of tools and replies into the subset that each vendor accepts. The input is not changed.

Only values at the position of a schema are read as schemas, so a property may have the name of a keyword.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import unquote

from gproxy.errors import BadRequest

MAX_DEPTH = 64  # nesting of schemas, including inlined references
MAX_NODES = 20_000  # schemas in a rewritten schema: inlining may double their number with every level of references
MAX_TEXT = 4_000_000  # characters of texts and values in a rewritten schema: a long text may be inlined often
MAX_LEVELS = 3 * MAX_DEPTH  # nesting of objects and lists: a nested schema takes two, and values may nest
MAX_NOTE = 500  # characters
MAX_REF = 1_000  # characters
EXACT = 2**53  # every JSON reader keeps whole numbers below it exact

TYPES = ("string", "number", "integer", "boolean", "array", "object", "null")
FORMATS = {
    "string": ("date-time", "date", "time", "duration", "enum"),
    "integer": ("int32", "int64"),
    "number": ("float", "double"),
}
# Keywords that contain schemas: in a map of names (dict), in a list, or as a single schema (None).
CHILDREN = {
    "properties": dict,
    "$defs": dict,
    "definitions": dict,
    "prefixItems": list,
    "anyOf": list,
    "oneOf": list,
    "allOf": list,
    "items": None,
    "additionalProperties": None,
}
SILENT = {"$schema", "$id", "$comment", "$anchor", "$defs", "definitions"}
MERGED = {"$ref", "allOf", "nullable"}
# Keywords that Gemini lacks but that mean something to a model: they become notes in the description.
FOLDED = {
    *("pattern", "minLength", "maxLength", "multipleOf", "uniqueItems", "default", "examples", "example"),
    *("not", "if", "then", "else", "patternProperties", "propertyNames", "minProperties", "maxProperties"),
    *("dependentRequired", "dependentSchemas", "dependencies", "contains", "minContains", "maxContains"),
    *("unevaluatedProperties", "unevaluatedItems", "additionalItems", "$dynamicRef", "$recursiveRef"),
}
NULL_IS_A_VALUE = {"const", "default", "example"}
UNIONS = ("anyOf", "oneOf")
OPENAI_NOT_ON_TOP = ("enum", "not")  # and no unions
# Keywords of structured output. Anthropic's are those that its SDK keeps, and `default` by its documentation.
STRICT = {"type", "title", "description", "default", "$ref", "properties", "$defs", "definitions", "anyOf", "items"}
STRICT_FORMATS = {
    *("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"),
}
OPENAI_STRICT = {
    *("type", "title", "description", "enum", "const", "properties", "required", "additionalProperties", "items"),
    *("anyOf", "$ref", "$defs", "definitions", "$schema", "pattern", "format", "minLength", "maxLength", "multipleOf"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"),
}
OPENAI_FORMATS = STRICT_FORMATS - {"uri"}
# Keywords that describe a schema without constraining it.
ANNOTATIONS = {"title", "description", "default", *SILENT}
NEVER = "(no value is valid here)"
TIGHTER = {
    **dict.fromkeys(("minItems", "minimum", "exclusiveMinimum"), max),
    **dict.fromkeys(("maxItems", "maximum", "exclusiveMaximum"), min),
}
SNAKE_CASE = {
    "any_of": "anyOf",
    "prefix_items": "prefixItems",
    "min_items": "minItems",
    "max_items": "maxItems",
    "min_length": "minLength",
    "max_length": "maxLength",
    "min_properties": "minProperties",
    "max_properties": "maxProperties",
    "property_ordering": "propertyOrdering",
    "additional_properties": "additionalProperties",
}
COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")

_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class _Position(NamedTuple):
    """Position in a schema: the path for errors, and the ids of the enclosing schema objects."""

    place: str
    enclosing: frozenset[int] = frozenset()

    def into(self, *names: object) -> "_Position":
        return _Position(".".join((self.place, *(str(name)[:40] for name in names))), self.enclosing)


class _Walk:
    """State of one rewriting: the document of the references, the lost keywords, and the size so far."""

    def __init__(self, document: dict, place: str):
        if not isinstance(document, dict):
            raise _not_an_object(document, place)
        if _is_too_deep(document):
            raise BadRequest(f"{place}: nested too deeply")
        self.document = document
        self.place = place
        self.lost: set[str] = set()
        self._nodes = 0
        self._text = 0

    def enter(self, node: dict, at: _Position) -> _Position:
        """Returns the position inside a schema. Raises BadRequest when it is no object or a limit is exceeded."""
        if not isinstance(node, dict):
            raise _not_an_object(node, at.place)
        if len(at.enclosing) >= MAX_DEPTH:
            raise BadRequest(f"{self.place}: nested deeper than {MAX_DEPTH} schemas")
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise BadRequest(f"{self.place}: more than {MAX_NODES} schemas, counting inlined references")
        self.weigh(list(node))
        return _Position(at.place, at.enclosing | {id(node)})

    def weigh(self, value: object) -> None:
        """Adds a written or copied value to the size. Raises BadRequest when it exceeds MAX_TEXT."""
        if isinstance(value, str):
            self._text += len(value)
        elif isinstance(value, list):
            self._text += sum(len(item) + 3 if isinstance(item, str) else 24 for item in value)
        if self._text > MAX_TEXT:
            raise BadRequest(f"{self.place}: more than {MAX_TEXT} characters, counting inlined references")

    def fold(self, keyword: str, value: object, lost: str | None = None) -> str:
        """Returns a constraint as a note for the description, and reports `lost`, or the keyword, as lost."""
        self.lost.add(lost or keyword)
        text = value if isinstance(value, str) else self.written(keyword, value)
        self.weigh(text)
        return f"({keyword}: {text if len(text) <= MAX_NOTE else text[:MAX_NOTE] + '…'})"

    def written(self, keyword: str, value: object) -> str:
        try:
            return _dumps(value)
        except (ValueError, RecursionError):  # Python writes no number of thousands of digits
            raise BadRequest(f"{self.place}: the value of {keyword} cannot be written") from None


_Visit = Callable[[_Walk, object, _Position], object]


def _not_an_object(value: object, place: str) -> BadRequest:
    return BadRequest(f"{place}: expected a schema object, got {_KINDS.get(type(value), 'a number')}")


def _is_too_deep(document: dict) -> bool:
    level = [document]
    for _ in range(MAX_LEVELS):
        inner = (parent.values() if isinstance(parent, dict) else parent for parent in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return False
    return True


def _children(walk: _Walk, key: str, value: object, at: _Position, visit: _Visit) -> object:
    """Returns the value of a keyword with each schema in it replaced by `visit`."""
    shape = CHILDREN[key]
    if key == "properties" and value == []:
        return {}  # PHP writes an empty object as a list
    if shape is dict:
        if not isinstance(value, dict):
            raise _not_an_object(value, at.into(key).place)
        walk.weigh(list(value))
        return {name: visit(walk, child, at.into(key, name)) for name, child in value.items()}
    if shape is list or (key == "items" and isinstance(value, list)):  # draft 7 has lists of items
        if not isinstance(value, list):
            raise BadRequest(f"{at.into(key).place}: expected a list of schemas")
        return [visit(walk, child, at.into(key, i)) for i, child in enumerate(value)]
    return visit(walk, value, at.into(key))


# -- Gemini --------------------------------------------------------------------------------------------------------


def for_gemini(schema: dict, place: str) -> tuple[dict, tuple[str, ...]]:
    """Returns a schema of the keywords that Gemini documents, and the lost keywords, sorted.

    Local references are inlined, and lost constraints become notes in the description of their node. Rewriting the
    result again does not change it. Raises BadRequest on an invalid, too deeply nested or too large schema.
    https://ai.google.dev/api/generate-content (responseJsonSchema)
    """
    walk = _Walk(schema, place)
    cleaned = _clean(walk, schema, _Position(place))
    return cleaned, tuple(sorted(walk.lost))


def _clean(walk: _Walk, node: object, at: _Position) -> dict:
    return _finish(walk, _with_references(walk, node, at))


def _with_references(walk: _Walk, node: object, at: _Position) -> dict:
    """Returns a node with its references and its allOf merged in. `_finish` handles what depends on the whole node."""
    if node is True:
        return {}
    if node is False:
        walk.lost.add("false")
        return {"description": NEVER}
    at = walk.enter(node, at)
    out = _own_keywords(walk, _modern(node), at)
    if node.get("$ref") is not None:
        _merge(walk, out, _resolve(walk, node["$ref"], at), "$ref")
    if node.get("allOf") is not None:
        for part in _children(walk, "allOf", node["allOf"], at, _with_references):
            _merge(walk, out, part, "allOf")
    if node.get("nullable") is True:
        _allow_null(out)
        if "enum" in out and "type" not in out:  # Gemini's enums cannot contain null, and there is no type to add it to
            _note(walk, out, walk.fold("nullable", True))
    return out


def _modern(node: dict) -> dict:
    """Returns a node with the tuple keywords of draft 2020-12; draft 7 has others."""
    if not isinstance(node.get("items"), list) or "prefixItems" in node:
        return node
    keywords = {"items": "prefixItems", "additionalItems": "items"}
    return {keywords.get(key, key): value for key, value in node.items()}


def _own_keywords(walk: _Walk, node: dict, at: _Position) -> dict:
    """Returns a node's own keywords, of those that Gemini has or `_finish` replaces."""
    written = _Node(walk)
    for key, value in node.items():
        if key in SILENT or key in MERGED or (value is None and key not in NULL_IS_A_VALUE):
            continue
        if key in READERS:
            written.add_leaf(key, value)
        elif key in ("enum", "const"):
            written.add_values(key, value, node.get("type"))
        elif key == "items" and value is False:
            tuple_of = node.get("prefixItems")
            _tighten(written.keywords, "maxItems", len(tuple_of) if isinstance(tuple_of, list) else 0)
        elif key == "items" and isinstance(value, list):
            written.fold(key, value)  # a list of items next to prefixItems has no meaning
        elif key in CHILDREN:
            written.add_children(key, value, at)
        elif key in FOLDED:
            written.fold(key, value)
        else:
            walk.lost.add(key)
    _note(walk, written.keywords, *written.notes)
    return written.keywords


class _Node:
    """One node as it is written: its keywords, and notes about what they cannot express."""

    def __init__(self, walk: _Walk):
        self._walk = walk
        self.keywords: dict = {}
        self.notes: list[str] = []

    def fold(self, key: str, value: object) -> None:
        self.notes.append(self._walk.fold(key, value))

    def add_leaf(self, key: str, value: object) -> None:
        normalized = READERS[key](value)
        if normalized is None:
            self.fold(key, value)
        else:
            self._walk.weigh(normalized)
            _tighten(self.keywords, key, normalized)

    def add_children(self, key: str, value: object, at: _Position) -> None:
        if key == "additionalProperties" and isinstance(value, bool):
            self.keywords[key] = value
            return
        if isinstance(value, list) and key in ("anyOf", "oneOf"):
            value = [part for part in value if part is not False] or value
        children = _children(self._walk, key, value, at, _clean)
        # Gemini reads oneOf as anyOf.
        name = "anyOf" if key == "oneOf" else key
        if name in self.keywords or children == []:
            if children or name == "anyOf":
                self.fold(key, value)
        else:
            self.keywords[name] = children

    def add_values(self, key: str, value: object, kind: object) -> None:
        """Adds an enum, or a const as an enum. Gemini's enums contain strings and numbers only."""
        if key == "const" and value is None and kind in (None, "null"):
            self.keywords["type"] = "null"
            return
        values = [value] if key == "const" else value
        kept = (
            [item for item in values if isinstance(item, str) or _is_number(item)] if isinstance(values, list) else []
        )
        self._walk.weigh(kept)
        common = _common_items(self.keywords.get("enum", kept), kept)
        if common:
            self.keywords["enum"] = common
        if not common or len(kept) < len(values):
            self.fold(key, value)


def _resolve(walk: _Walk, ref: object, at: _Position) -> dict:
    """Returns the target of a reference. One that cannot be followed becomes a note and is reported as lost."""
    target = _at_pointer(walk.document, ref)
    if target is None:
        return {"description": walk.fold("$ref", ref)}
    if id(target) not in at.enclosing:
        return _with_references(walk, target, at)
    # A schema inside itself: the inner one keeps its type and description only.
    cut = {"type": _types(target.get("type")) or "object"}
    if isinstance(target.get("description"), str):
        cut["description"] = target["description"]
        walk.weigh(cut["description"])
    _note(walk, cut, walk.fold("$ref", ref))
    return cut


def _at_pointer(document: dict, ref: object) -> dict | bool | None:
    """Returns the schema at a JSON pointer into the document, None when there is no such schema."""
    if not isinstance(ref, str) or len(ref) > MAX_REF or not (ref == "#" or ref.startswith("#/")):
        return None
    target: object = document
    for token in unquote(ref[1:]).split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(target, dict) and name in target:
            target = target[name]
        elif isinstance(target, list) and _INDEX.fullmatch(name) and int(name) < len(target):
            target = target[int(name)]
        else:
            return None
    return target if isinstance(target, dict | bool) else None


def _merge(walk: _Walk, mine: dict, theirs: dict, keyword: str) -> None:
    """Adds the constraints of `theirs` to `mine`. What one schema cannot hold is noted and reported as lost."""
    if not (_allows_properties_of(mine, theirs) and _allows_properties_of(theirs, mine)):
        walk.lost.add(keyword)
    if _have_different_tuples(mine, theirs):
        items = {key: theirs[key] for key in ("prefixItems", "items") if key in theirs}
        _note(walk, mine, *(walk.fold(key, value, keyword) for key, value in items.items()))
        theirs = {key: value for key, value in theirs.items() if key not in items}
    for key, value in theirs.items():
        if key not in mine:
            mine[key] = value
            continue
        both = _combine(walk, key, mine[key], value, keyword)
        if both is None:
            _note(walk, mine, walk.fold(key, value, keyword))
        else:
            walk.weigh(both)
            mine[key] = both


def _combine(walk: _Walk, key: str, mine, theirs, keyword: str):
    """Returns one value that combines both values of a keyword, None when there is no such value."""
    if key in TIGHTER:
        return TIGHTER[key](mine, theirs)
    match key:
        case "title":
            return mine
        case "description":
            return _joined(mine, theirs)
        case "required" | "propertyOrdering":
            return list(dict.fromkeys((*mine, *theirs)))
        case "enum":
            return _common_items(mine, theirs) or None
        case "type":
            return _common_types(mine, theirs)
        case "properties":
            return _all_properties(walk, mine, theirs, keyword)
        case "items" | "additionalProperties":
            return _both_schemas(walk, mine, theirs, keyword)
    return mine if mine == theirs else None


def _both_schemas(walk: _Walk, mine: dict | bool, theirs: dict | bool, keyword: str) -> dict | bool:
    if isinstance(mine, bool) or isinstance(theirs, bool):
        return False if mine is False or theirs is False else theirs if mine is True else mine
    _merge(walk, mine, theirs, keyword)
    return mine


def _all_properties(walk: _Walk, mine: dict, theirs: dict, keyword: str) -> dict:
    for name, schema in theirs.items():
        mine[name] = _both_schemas(walk, mine[name], schema, keyword) if name in mine else schema
    return mine


def _allows_properties_of(one: dict, other: dict) -> bool:
    """Returns whether `one` does not constrain, by additionalProperties, the properties that only `other` names."""
    more = one.get("additionalProperties", True)
    return more in (True, {}) or _named(other).keys() <= _named(one).keys()


def _named(schema: dict) -> dict:
    properties = schema.get("properties")
    return properties if isinstance(properties, dict) else {}


def _have_different_tuples(one: dict, other: dict) -> bool:
    """Returns whether `items` and `prefixItems` of two schemas constrain different elements and cannot be merged."""
    mine, theirs = [(schema.get("prefixItems"), schema.get("items")) for schema in (one, other)]
    is_tuple = mine[0] is not None or theirs[0] is not None
    return is_tuple and mine != theirs and (None, None) not in (mine, theirs)


def _common_types(mine: str | list, theirs: str | list) -> str | list | None:
    allowed = _listed(theirs)
    common = []
    for kind in _listed(mine):
        if kind in allowed or (kind == "integer" and "number" in allowed):
            common.append(kind)
        elif kind == "number" and "integer" in allowed:
            common.append("integer")
    return _types(common)


def _finish(walk: _Walk, schema: dict) -> dict:
    """Returns a gathered schema with the keywords that depend on its type and on the names of its properties."""
    out: dict = {}
    notes: list[str] = []
    kinds = _listed(schema.get("type", []))
    names = schema.get("properties")
    for key, value in schema.items():
        if key in ("exclusiveMinimum", "exclusiveMaximum"):
            if not _is_only_whole(kinds) or abs(value) >= EXACT:
                notes.append(walk.fold(key, value))
            elif key == "exclusiveMinimum":
                _tighten(out, "minimum", math.floor(value) + 1)
            else:
                _tighten(out, "maximum", math.ceil(value) - 1)
        elif key == "format" and not any(value in FORMATS.get(kind, ()) for kind in kinds):
            notes.append(walk.fold(key, value))
        elif key == "required" and value and names is None:
            notes.append(walk.fold(key, value))  # an alternative that names properties of the enclosing schema
        elif key in ("required", "propertyOrdering"):
            known = [name for name in value if name in (names or {})]
            out.update({key: known} if known else {})
        else:
            _tighten(out, key, value)
    _note(walk, out, *notes)
    return out


def _is_only_whole(kinds: list[str]) -> bool:
    return "integer" in kinds and set(kinds) <= {"integer", "null"}


def _tighten(out: dict, key: str, value: object) -> None:
    """Sets a keyword, to the tighter of two limits."""
    out[key] = TIGHTER[key](out[key], value) if key in TIGHTER and key in out else value


def _common_items(mine: list, theirs: list) -> list:
    allowed = set(theirs)
    return [item for item in mine if item in allowed]


def _note(walk: _Walk, schema: dict, *notes: str) -> None:
    if notes:
        schema["description"] = " ".join(filter(None, (_text(schema.get("description")), *notes)))
        walk.weigh(schema["description"])


def _joined(mine: str, theirs: str) -> str:
    return mine if mine == theirs else "\n".join(filter(None, (mine, theirs)))


# Each of these returns the value in its normal form, or None for a value that Gemini would reject.


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> float | None:
    return value if _is_number(value) else None


def _whole(value: object) -> int | None:
    return int(value) if _is_number(value) and 0 <= value < EXACT and value == int(value) else None


def _names(value: object) -> list[str] | None:
    return list(dict.fromkeys(filter(_text, value))) if isinstance(value, list) else None


def _types(value: object) -> str | list[str] | None:
    kinds = list(dict.fromkeys(_listed(value))) if isinstance(value, str | list) and _are_types(value) else []
    return kinds[0] if len(kinds) == 1 else kinds or None


def _are_types(value: str | list) -> bool:
    return all(isinstance(kind, str) and kind in TYPES for kind in _listed(value))


def _listed(value: str | list) -> list:
    return [value] if isinstance(value, str) else value


READERS = {
    "type": _types,
    **dict.fromkeys(("title", "description", "format"), _text),
    **dict.fromkeys(("minItems", "maxItems"), _whole),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _number),
    **dict.fromkeys(("required", "propertyOrdering"), _names),
}


# -- tools of OpenAI and Anthropic ---------------------------------------------------------------------------------


def for_openai(schema: dict, place: str) -> tuple[dict, tuple[str, ...]]:
    """Returns a schema with an object at the top and `items` in its arrays, and the lost keywords, sorted.

    A union at the top becomes one object; what is lost by that becomes a note in the description. Everything else is
    unchanged. Raises BadRequest on an invalid, too deeply nested or too large schema.
    https://platform.openai.com/docs/guides/function-calling
    """
    walk = _Walk(schema, place)
    top = _with_object_on_top(walk, schema, OPENAI_NOT_ON_TOP)
    return _with_items(walk, top, _Position(place)), tuple(sorted(walk.lost))


def _with_items(walk: _Walk, node: object, at: _Position) -> dict | bool:
    if isinstance(node, bool):
        return node
    out = _visit_children(walk, _normalized(node) if isinstance(node, dict) else node, at, _with_items)
    if "array" in _kinds(out) and "items" not in out:
        out["items"] = {}
    return out


def for_anthropic(schema: dict, place: str) -> tuple[dict, tuple[str, ...]]:
    """Returns a tool's input schema, an object with properties and no union at the top, and the lost keywords, sorted.

    Raises BadRequest on an invalid, too deeply nested or too large schema.
    https://docs.claude.com/en/docs/agents-and-tools/tool-use/implement-tool-use
    """
    walk = _Walk(schema, place)
    out = _with_object_on_top(walk, schema)
    if not out.get("required", True):
        del out["required"]
    return out, tuple(sorted(walk.lost))


def _with_object_on_top(walk: _Walk, schema: dict, refused: tuple[str, ...] = ()) -> dict:
    """Returns the schema of an object, with references, unions and `refused` keywords at the top folded into it."""
    is_plain = not schema.keys() & {"$ref", "allOf", *UNIONS}
    out = dict(schema) if is_plain else _folded(walk, schema, _Position(walk.place))
    notes = [walk.fold(key, out.pop(key)) for key in refused if out.get(key) is not None]
    if out.get("type") is not None and "object" not in _kinds(out):
        notes.append(walk.fold("type", out["type"]))
    out = {**out, "type": "object"} if "type" in out else {"type": "object", **out}
    if not out.get("properties"):
        out["properties"] = {}
    _note(walk, out, *notes)
    return out


def _folded(walk: _Walk, node: object, at: _Position) -> dict:
    """Returns a node with its reference, its allOf and its unions merged in, as the schema of an object."""
    if isinstance(node, dict) and id(node) in at.enclosing:
        walk.lost.add("$ref")
        return {}
    out = _with_conjunction(walk, node, at)
    for key in UNIONS:
        if (parts := out.pop(key, None)) is not None:
            inside = _Position(at.place, at.enclosing | {id(node)})
            _fold_union(walk, out, key, parts, _children(walk, key, parts, inside, _folded))
    return out


def _fold_union(walk: _Walk, out: dict, key: str, parts: list, branches: list[dict]) -> None:
    """Merges the objects of a union into one with all their properties. Other types are dropped with a note."""
    objects: dict[str, dict] = {}
    has_dropped = False
    for part, branch in zip(parts, branches, strict=True):
        kinds = _kinds(branch)
        if part is False or kinds == ["null"]:
            continue
        if kinds and "object" not in kinds:
            has_dropped = True
            continue
        text = walk.written(key, branch)
        walk.weigh(text)
        objects[text] = branch
    if has_dropped or len(objects) != 1:
        _note(walk, out, walk.fold(key, parts))
    if objects:
        _conjoin(walk, out, _merge_branches(walk, list(objects.values())), key)


def _merge_branches(walk: _Walk, branches: list[dict]) -> dict:
    """Returns one object schema that allows each of the branches, judged by their properties."""
    if len(branches) == 1:
        return branches[0]
    variants: dict[str, dict[str, object]] = {}
    for branch in branches:
        for name, schema in _named(branch).items():
            variants.setdefault(name, {})[walk.written(name, schema)] = schema
    schemas = [list(found.values()) for found in variants.values()]
    merged = [found[0] if len(found) == 1 else {"anyOf": found} for found in schemas]
    out: dict = {"properties": dict(zip(variants, merged, strict=True))}
    if required := _common_names([_names(branch.get("required")) or [] for branch in branches]):
        out["required"] = required
    if all(branch.get("additionalProperties") is False for branch in branches):
        out["additionalProperties"] = False
    return out


def _common_names(lists: list[list[str]]) -> list[str]:
    common = set(lists[0]).intersection(*lists[1:])
    return [name for name in lists[0] if name in common]


def _with_conjunction(walk: _Walk, node: object, at: _Position) -> dict:
    """Returns a node with its reference and its allOf merged in where possible. Other keywords stay as they came."""
    if isinstance(node, bool):
        return {} if node else {"not": {}}
    at = walk.enter(node, at)
    out = _normalized(node)
    target = _at_pointer(walk.document, out.get("$ref"))
    if isinstance(target, dict):
        del out["$ref"]
        if id(target) not in at.enclosing:  # a schema that refers to itself adds nothing to itself
            _conjoin(walk, out, _with_conjunction(walk, target, at), "$ref")
    if (parts := out.pop("allOf", None)) is not None:
        for part in _children(walk, "allOf", parts, at, _with_conjunction):
            _conjoin(walk, out, part, "allOf")
    return out


def _normalized(node: dict) -> dict:
    """Returns a node with the keywords of draft 2020-12, without those that are null."""
    return dict(_modern({key: value for key, value in node.items() if value is not None or key in NULL_IS_A_VALUE}))


def _conjoin(walk: _Walk, mine: dict, theirs: dict, keyword: str) -> None:
    """Adds the constraints of `theirs` to `mine`, both as they came. What one schema cannot hold is noted and lost."""
    if not (_allows_properties_of(mine, theirs) and _allows_properties_of(theirs, mine)):
        walk.lost.add(keyword)
    notes = []
    for key, value in theirs.items():
        if key in SILENT:
            continue
        both = value if key not in mine else _combine_raw(walk, key, mine[key], value)
        if both is None:
            notes.append(walk.fold(key, value, keyword))
        else:
            mine[key] = both
    _note(walk, mine, *notes)


def _combine_raw(walk: _Walk, key: str, mine: object, theirs: object):
    """Returns one value that combines both values of a keyword, None when there is no such value."""
    if mine is theirs or key in ("title", "default"):
        return mine
    if key in TIGHTER and _is_number(mine) and _is_number(theirs):
        return TIGHTER[key](mine, theirs)
    match key, mine, theirs:
        case "properties", dict(), dict():
            walk.weigh(list(mine))
            both = {name: _all_of(walk, mine[name], theirs[name]) for name in mine if name in theirs}
            return {**mine, **theirs, **both}
        case "required", list(), list():
            walk.weigh(mine)
            return list(dict.fromkeys((*_names(mine), *_names(theirs))))
        case "description", str(), str():
            walk.weigh(mine)
            return _joined(mine, theirs)
        case "type", str() | list(), str() | list() if _are_types(mine) and _are_types(theirs):
            return _common_types(mine, theirs)
        case "items" | "additionalProperties", _, _:
            return _all_of(walk, mine, theirs)
    return mine if mine == theirs else None


def _all_of(walk: _Walk, mine: object, theirs: object) -> object:
    if mine is theirs or theirs in (True, {}) or mine is False:
        return mine
    if mine in (True, {}) or theirs is False:
        return theirs
    if mine == theirs:
        return mine
    parts = mine["allOf"] if isinstance(mine, dict) and mine.keys() == {"allOf"} else [mine]
    walk.weigh(parts)
    return {"allOf": [*parts, theirs]} if isinstance(parts, list) else {"allOf": [mine, theirs]}


# -- structured output ---------------------------------------------------------------------------------------------


def strict(schema: dict, place: str) -> tuple[dict, tuple[str, ...]]:
    """Returns a schema of the keywords that Anthropic's structured output accepts, and the lost keywords, sorted.

    Objects have exactly the properties that they name. A lost `$ref` (into itself, or to another document) has no
    substitute: then the schema cannot be sent. Raises BadRequest on an invalid, too deeply nested or too large schema.
    https://docs.claude.com/en/docs/build-with-claude/structured-outputs
    """
    walk = _Walk(schema, place)
    if _is_recursive(schema):
        return schema, ("$ref",)
    rewritten = _strict(walk, schema, _Position(place))
    return rewritten, tuple(sorted(walk.lost))


def is_strict(schema: dict, place: str) -> bool:
    """Returns whether Anthropic accepts a tool's schema as strict, unchanged. Raises BadRequest as `strict` does."""
    rewritten, lost = strict(schema, place)
    return not lost and rewritten == {key: value for key, value in schema.items() if key != "$schema"}


def _strict(walk: _Walk, node: object, at: _Position) -> dict | bool:
    if isinstance(node, bool):
        return node
    inside = walk.enter(node, at)
    node = _normalized(node)
    if "allOf" in node or ("$ref" in node and not node.keys() <= {"$ref", *ANNOTATIONS}):
        node = _with_conjunction(walk, node, at)
    out: dict = {}
    notes: list[str] = []
    has_names = bool(_named(node))
    for key, value in node.items():
        name = "anyOf" if key == "oneOf" and "anyOf" not in node else key
        if name == "anyOf" and isinstance(value, list):
            value = [part for part in value if part is not False]
        rewritten = _children(walk, name, value, inside, _strict) if name in CHILDREN else value
        if _is_strict_keyword(node, name, value) and not (name == "anyOf" and (has_names or not value)):
            out[name] = rewritten
        elif key in FOLDED or key in CHILDREN or key in STRICT_VALUES or key in READERS:
            notes.append(walk.fold(key, value))
        elif key not in SILENT:
            walk.lost.add(key)
    if "$ref" in out and not isinstance(_at_pointer(walk.document, out["$ref"]), dict):
        walk.lost.add("$ref")
    _close(walk, out)
    _note(walk, out, *notes)
    return _with_ref_alone(out)


def _is_primitive(value: object) -> bool:
    return value is None or isinstance(value, str | bool) or _is_number(value)


STRICT_VALUES: dict[str, Callable[[dict, object], bool]] = {
    "enum": lambda node, value: isinstance(value, list) and bool(value) and all(map(_is_primitive, value)),
    "const": lambda node, value: _is_primitive(value),
    "format": lambda node, value: "string" in _kinds(node) and _text(value) in STRICT_FORMATS,
    "minItems": lambda node, value: _is_number(value) and value in (0, 1),
    "required": lambda node, value: _is_object(node),
    "additionalProperties": lambda node, value: _is_object(node),
}


def _is_strict_keyword(node: dict, key: str, value: object) -> bool:
    if key == "items" and "prefixItems" in node:
        return False  # it constrains the rest of a tuple, whose first elements have no keyword
    return key in STRICT or (key in STRICT_VALUES and STRICT_VALUES[key](node, value))


def _close(walk: _Walk, out: dict) -> None:
    """Limits an object to exactly the properties that it names."""
    if not _is_object(out):
        return
    more, names = out.get("additionalProperties"), list(_named(out))
    if more is not False and ("additionalProperties" in out or "properties" not in out):
        walk.lost.add("additionalProperties")
    required = _names(out.get("required")) or []
    if set(required) != set(names):
        walk.lost.add("required")
        required = names
    out.setdefault("type", "object")
    out["additionalProperties"] = False
    if required:
        out["required"] = required
    elif out.get("required") != []:
        out.pop("required", None)


def _with_ref_alone(schema: dict) -> dict:
    """Returns the schema with its reference inside an `anyOf`: a `$ref` may not have other keywords beside it."""
    if "$ref" not in schema or "anyOf" in schema or schema.keys() <= {"$ref", "$defs", "definitions"}:
        return schema
    return {("anyOf" if key == "$ref" else key): [{"$ref": v}] if key == "$ref" else v for key, v in schema.items()}


def _is_recursive(document: dict) -> bool:
    """Returns whether following references leads from a schema into itself."""
    enclosing: set[int] = set()
    done: set[int] = set()
    waiting: list[tuple[dict, bool]] = [(document, False)]
    while waiting:
        node, is_done = waiting.pop()
        if is_done:
            enclosing.discard(id(node))
            done.add(id(node))
        elif id(node) in enclosing:
            return True
        elif id(node) not in done:
            enclosing.add(id(node))
            waiting.append((node, True))
            inner = (*_inside(node), _at_pointer(document, node.get("$ref")))
            waiting += [(child, False) for child in inner if isinstance(child, dict)]
    return False


def _inside(node: dict) -> Iterator[object]:
    """Yields the values at the positions of schemas in a node."""
    for key, shape in CHILDREN.items():
        value = node.get(key)
        if isinstance(value, list):
            yield from value
        elif isinstance(value, dict) and shape is dict:
            yield from value.values()
        elif value is not None and shape is None:
            yield value


def is_openai_strict(schema: dict) -> bool:
    """Returns whether OpenAI accepts a schema as strict.

    It requires an object at the top, closed objects, all properties required, and few keywords.
    https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
    """
    if schema.get("type") != "object" or "anyOf" in schema:
        return False
    waiting: list[object] = [schema]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict) or not _is_openai_strict_node(schema, node):
            return False
        waiting += _inside({key: value for key, value in node.items() if key != "additionalProperties"})
    return True


def _is_openai_strict_node(document: dict, node: dict) -> bool:
    if "$ref" in node:
        return node.keys() == {"$ref"} and isinstance(_at_pointer(document, node["$ref"]), dict)
    kinds = _kinds(node)
    rules = [
        node.keys() <= OPENAI_STRICT,
        bool(kinds) or isinstance(node.get("anyOf"), list),
        node.get("anyOf") != [] and node.get("enum") != [],
        "format" not in node or _text(node["format"]) in OPENAI_FORMATS,
        "array" not in kinds or isinstance(node.get("items"), dict),
    ]
    if "object" in kinds:
        rules.append(isinstance(node.get("properties"), dict) and node.get("additionalProperties") is False)
        rules.append(set(_names(node.get("required")) or ()) == _named(node).keys())
    else:
        rules.append(not node.keys() & {"properties", "required", "additionalProperties"})
    return all(rules)


def is_object(schema: dict) -> bool:
    """Returns whether a schema allows only objects, judged by its type, its properties or its reference."""
    node: object = schema
    for _ in range(MAX_DEPTH):
        if not isinstance(node, dict):
            return False
        if node.get("type") is not None:
            return _kinds(node) == ["object"]
        if node.get("properties") is not None:
            return True
        node = _at_pointer(schema, node.get("$ref"))
    return False


def _is_object(schema: dict) -> bool:
    return "object" in _kinds(schema) if isinstance(schema.get("type"), str | list) else "properties" in schema


def _kinds(schema: dict) -> list:
    """Returns the types that a schema names."""
    kinds = schema.get("type")
    return _listed(kinds) if isinstance(kinds, str | list) else []


def _visit_children(walk: _Walk, node: object, at: _Position, visit: _Visit) -> dict:
    """Returns a node with each schema in it replaced by `visit`."""
    at = walk.enter(node, at)
    out = dict(node)
    for key, value in node.items():
        if key in CHILDREN and value is not None:
            out[key] = _children(walk, key, value, at, visit)
    return out


# -- from Gemini ---------------------------------------------------------------------------------------------------


def from_openapi(schema: dict, place: str) -> dict:
    """Returns the JSON Schema of Gemini's `parameters` or `responseSchema`, which are OpenAPI 3.0 in protobuf's JSON.

    Raises BadRequest on an invalid, too deeply nested or too large schema.
    https://ai.google.dev/api/caching#Schema
    """
    walk = _Walk(schema, place)
    return _from_openapi(walk, schema, _Position(place))


def _from_openapi(walk: _Walk, node: object, at: _Position) -> dict | bool:
    if isinstance(node, bool):
        return node
    if isinstance(node, dict):
        node = {SNAKE_CASE.get(key, key): node.get(SNAKE_CASE.get(key, key), value) for key, value in node.items()}
    out = _visit_children(walk, node, at, _from_openapi)
    _lower_type(out)
    for key in COUNTS:
        if isinstance(out.get(key), str) and _WHOLE.fullmatch(out[key]):
            out[key] = int(out[key])
    _enum_by_type(out)
    if "example" in out:
        examples = out.get("examples")
        out = {("examples" if key == "example" else key): value for key, value in out.items() if key != "examples"}
        out["examples"] = [*(examples if isinstance(examples, list) else []), out["examples"]]
    if out.pop("nullable", None) is True:
        _allow_null(out)
        if isinstance(out.get("enum"), list) and None not in out["enum"]:
            out["enum"] = [*out["enum"], None]
    _order(out, out.pop("propertyOrdering", None))
    return out


def _lower_type(schema: dict) -> None:
    kinds = schema.get("type")
    if isinstance(kinds, list):
        schema["type"] = [kind.lower() if isinstance(kind, str) else kind for kind in kinds]
    elif isinstance(kinds, str):
        schema["type"] = kinds.lower()
        if kinds.upper() == "TYPE_UNSPECIFIED":
            del schema["type"]


def _enum_by_type(schema: dict) -> None:
    """Converts an enum of whole numbers: Gemini writes all enum values as strings."""
    values = schema.get("enum")
    if schema.get("type") == "integer" and isinstance(values, list):
        schema["enum"] = [int(v) if isinstance(v, str) and _WHOLE.fullmatch(v) else v for v in values]


def _order(schema: dict, names: object) -> None:
    """Sorts the properties: JSON Schema has no keyword for their order, but models keep the order of the schema."""
    properties = schema.get("properties")
    if isinstance(names, list) and isinstance(properties, dict):
        first = [name for name in names if isinstance(name, str) and name in properties]
        schema["properties"] = {name: properties[name] for name in (*first, *properties)}


# -- both directions -----------------------------------------------------------------------------------------------


def _allow_null(schema: dict) -> None:
    """Adds null to type and anyOf, as `nullable` does. A schema without either keyword allows null already."""
    kinds, parts = schema.get("type"), schema.get("anyOf")
    if isinstance(kinds, str | list) and "null" not in _listed(kinds):
        schema["type"] = [*_listed(kinds), "null"]
    if isinstance(parts, list) and not any(_has_null(part) for part in parts):
        schema["anyOf"] = [*parts, {"type": "null"}]


def _has_null(schema: object) -> bool:
    kinds = schema.get("type") if isinstance(schema, dict) else None
    return isinstance(kinds, str | list) and "null" in _listed(kinds)
