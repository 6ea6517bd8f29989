"""Custom tools, whose input is free text. A vendor without them gets a function with one text field instead."""

import orjson

from gproxy.protocols.hub import Context, Request

FREE_INPUT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}


def is_custom(name: str, context: Context) -> bool:
    """Returns whether the client declared the tool as a custom tool."""
    request = context.request
    return isinstance(request, Request) and any(tool.is_custom and tool.name == name for tool in request.functions)


def free_text(arguments: str) -> str:
    """Returns the free text of a custom tool's input, read from the JSON arguments of its function call.

    Arguments of another form are returned unchanged.
    """
    try:
        document = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    is_ours = isinstance(document, dict) and isinstance(document.get("input"), str)
    return document["input"] if is_ours else arguments


def as_arguments(text: str) -> str:
    """Returns the JSON arguments that carry the free text."""
    return orjson.dumps({"input": text}).decode()
