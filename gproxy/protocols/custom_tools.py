"""Custom tools take free text. To vendors without such tools they are functions with one text field."""

import orjson

from gproxy.protocols.hub import Context

FREE_INPUT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def is_custom(name: str, context: Context) -> bool:
    """Whether the client declared the tool as a custom one."""
    return any(tool.is_custom and tool.name == name for tool in context.request.functions)


def free_text(arguments: str) -> str:
    """The input of a custom tool out of the arguments that a vendor without such tools gave."""
    try:
        found = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    return found["input"] if isinstance(found, dict) and isinstance(found.get("input"), str) else arguments


def as_arguments(text: str) -> str:
    """The other way round."""
    return orjson.dumps({"input": text}).decode()
