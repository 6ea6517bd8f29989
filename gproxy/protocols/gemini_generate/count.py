"""Translates countTokens bodies to and from the hub. https://ai.google.dev/api/tokens"""

from gproxy.protocols import hub, validate
from gproxy.protocols.gemini_generate.request import camel_case_keys, read_request, write_request
from gproxy.protocols.losses import Losses


def read_count(body: dict, losses: Losses) -> hub.Request:
    """Returns the request of a body with `contents` alone or with a whole `generateContentRequest`."""
    body = camel_case_keys(body)
    inner = validate.optional_obj(body, "generateContentRequest")
    return read_request(inner or body, losses)


def write_count(request: hub.Request, target: hub.Target, losses: Losses) -> dict:
    inner = write_request(request, target, losses)
    return {"generateContentRequest": {"model": f"models/{target.model.removeprefix('models/')}", **inner}}


def read_count_reply(body: dict, context: hub.Context, losses: Losses) -> hub.TokenCount:
    return hub.TokenCount(hub.as_count(body.get("totalTokens")))


def write_count_reply(reply: hub.TokenCount, context: hub.Context, losses: Losses) -> dict:
    return {"totalTokens": reply.tokens}
