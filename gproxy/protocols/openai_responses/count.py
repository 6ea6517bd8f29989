"""Translates `input_tokens` bodies to and from the hub.

https://platform.openai.com/docs/api-reference/responses/input-tokens
"""

from gproxy.protocols.hub import Context, Request, Target, TokenCount, as_count
from gproxy.protocols.losses import Losses
from gproxy.protocols.openai_responses.request import write_request

COUNTED = ("model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning")


def write_count(request: Request, target: Target, losses: Losses) -> dict:
    """Returns the fields that are part of the prompt, without those that only shape the reply."""
    body = write_request(request, target, losses)
    return {name: body[name] for name in COUNTED if name in body}


def read_count_reply(body: dict, context: Context, losses: Losses) -> TokenCount:
    return TokenCount(as_count(body.get("input_tokens")))


def write_count_reply(reply: TokenCount, context: Context, losses: Losses) -> dict:
    return {"object": "response.input_tokens", "input_tokens": reply.tokens}
