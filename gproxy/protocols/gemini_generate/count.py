"""countTokens to and from the hub. https://ai.google.dev/api/tokens"""

from gproxy.protocols import validate
from gproxy.protocols.gemini_generate.request import camel, read_request, write_request
from gproxy.protocols.hub import Context, Request, Target, TokenCount, as_count
from gproxy.protocols.losses import Losses


def read_count(body: dict, losses: Losses) -> Request:
    """Of `contents` alone, or of a whole `generateContentRequest`."""
    body = camel(body)
    inner = validate.optional_obj(body, "generateContentRequest")
    return read_request(inner or body, losses)


def write_count(request: Request, target: Target, losses: Losses) -> dict:
    inner = write_request(request, target, losses)
    return {"generateContentRequest": {"model": f"models/{target.model.removeprefix('models/')}", **inner}}


def read_count_reply(body: dict, context: Context, losses: Losses) -> TokenCount:
    return TokenCount(as_count(body.get("totalTokens")))


def write_count_reply(found: TokenCount, context: Context, losses: Losses) -> dict:
    return {"totalTokens": found.tokens}
