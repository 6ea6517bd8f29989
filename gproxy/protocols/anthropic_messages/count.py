"""Translates `count_tokens` bodies to and from the hub.

https://docs.anthropic.com/en/api/messages-count-tokens
"""

from dataclasses import replace

from gproxy.protocols import hub
from gproxy.protocols.anthropic_messages.request import write_request
from gproxy.protocols.losses import Losses

COUNTED = ("model", "messages", "system", "tools", "tool_choice", "output_config")


def write_count(request: hub.Request, target: hub.Target, losses: Losses) -> dict:
    """Returns the fields that are part of the prompt, without those that only shape the reply."""
    body = write_request(replace(request, max_tokens=1, reasoning=None), target, losses)
    return {name: body[name] for name in COUNTED if name in body}


def read_count_reply(body: dict, context: hub.Context, losses: Losses) -> hub.TokenCount:
    return hub.TokenCount(hub.as_count(body.get("input_tokens")))


def write_count_reply(reply: hub.TokenCount, context: hub.Context, losses: Losses) -> dict:
    return {"input_tokens": reply.tokens}
