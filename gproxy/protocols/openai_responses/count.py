"""Translates `input_tokens` bodies to and from the hub.

https://platform.openai.com/docs/api-reference/responses/input-tokens
"""

from gproxy.protocols import hub
from gproxy.protocols.losses import Losses
from gproxy.protocols.openai_responses.request import write_request

COUNTED = ("model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning")


def write_count(request: hub.Request, target: hub.Target, losses: Losses) -> dict:
    """Returns the fields that are part of the prompt, without those that only shape the reply."""
    body = write_request(request, target, losses)
    return {name: body[name] for name in COUNTED if name in body}


def read_count_reply(body: dict, context: hub.Context, losses: Losses) -> hub.TokenCount:
    return hub.TokenCount(hub.as_count(body.get("input_tokens")))


def write_count_reply(reply: hub.TokenCount, context: hub.Context, losses: Losses) -> dict:
    return {"object": "response.input_tokens", "input_tokens": reply.tokens}
