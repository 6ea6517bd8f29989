"""What is asked of a model in words, where its protocol has no field for it or the model refuses that field."""

from collections.abc import Iterable

from gproxy.protocols import validate
from gproxy.protocols.hub import Format, Text, Turn

JSON_ONLY = "Answer with a single JSON object and nothing else."
JSON_SCHEMA = "Answer with a single JSON value that matches this JSON Schema, and nothing else: "


def format_prompt(asked: Format) -> str:
    """Raises BadRequest when its schema is nested too deeply to be written."""
    return JSON_ONLY if asked.schema is None else JSON_SCHEMA + validate.dumps(asked.schema)


def mentions_json(turns: Iterable[Turn], system: Iterable[str] = ()) -> bool:
    """Whether the word stands in a text, as OpenAI demands of a request for any JSON."""
    texts = (block.text for turn in turns for block in turn.blocks if isinstance(block, Text))
    return any("json" in text.lower() for found in (system, texts) for text in found)
