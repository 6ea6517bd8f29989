"""Instructions in plain words, for models whose protocol has no field for them or which refuse that field."""

from collections.abc import Iterable

from gproxy.protocols import validate
from gproxy.protocols.hub import Format, Text, Turn

JSON_ONLY = "Answer with a single JSON object and nothing else."
JSON_SCHEMA = "Answer with a single JSON value that matches this JSON Schema, and nothing else: "


def format_prompt(output_format: Format) -> str:
    """Returns the instruction for an output format. Raises BadRequest when its schema is nested too deeply."""
    return JSON_ONLY if output_format.schema is None else JSON_SCHEMA + validate.dumps(output_format.schema)


def mentions_json(turns: Iterable[Turn], system: Iterable[str] = ()) -> bool:
    """Returns whether a text contains the word JSON, which OpenAI requires in a request for `json_object`."""
    prompts = (block.text for turn in turns for block in turn.blocks if isinstance(block, Text))
    return any("json" in text.lower() for texts in (system, prompts) for text in texts)
