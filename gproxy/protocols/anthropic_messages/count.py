"""`count_tokens` to and from the hub. https://docs.anthropic.com/en/api/messages-count-tokens"""

from dataclasses import replace

from gproxy.protocols.anthropic_messages.request import write_request
from gproxy.protocols.hub import Context, Request, Target, TokenCount, as_count
from gproxy.protocols.losses import Losses

KEPT = ("model", "messages", "system", "tools", "tool_choice", "output_config")


def write_count(request: Request, target: Target, losses: Losses) -> dict:
    """What is read, without how it is answered."""
    body = write_request(replace(request, max_tokens=1, reasoning=None), target, losses)
    return {name: body[name] for name in KEPT if name in body}


def read_count_reply(body: dict, context: Context, losses: Losses) -> TokenCount:
    return TokenCount(as_count(body.get("input_tokens")))


def write_count_reply(found: TokenCount, context: Context, losses: Losses) -> dict:
    return {"input_tokens": found.tokens}
