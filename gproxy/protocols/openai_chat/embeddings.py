"""Translates embeddings to and from the hub. https://platform.openai.com/docs/api-reference/embeddings"""

import base64
import struct

from gproxy.errors import BadRequest
from gproxy.protocols import hub, validate
from gproxy.protocols.losses import Losses
from gproxy.protocols.openai import read_usage

KNOWN_FIELDS = frozenset(("model", "input", "encoding_format", "dimensions", "user"))


def read_embed(body: dict, losses: Losses) -> hub.EmbeddingRequest:
    """Returns the request in the hub's types. Raises BadRequest, on token arrays too: no other vendor can read them."""
    for name in body:
        if name not in KNOWN_FIELDS and body[name] is not None:
            losses.report(name)
    value = body.get("input")
    if isinstance(value, list) and value and not isinstance(value[0], str):
        raise BadRequest("input: token arrays can be read by their own vendor only; send text")
    inputs = validate.texts(value, "input")
    if not inputs:
        raise BadRequest("input: missing; give a text or a list of texts")
    encoding = validate.optional_text(body, "encoding_format") or "float"
    is_packed = validate.lookup(encoding, {"float": False, "base64": True}, "encoding_format")
    dimensions = validate.optional_count(body, "dimensions", minimum=1)
    return hub.EmbeddingRequest(inputs, dimensions, end_user=validate.optional_text(body, "user"), is_packed=is_packed)


def write_embed(request: hub.EmbeddingRequest, target: hub.Target, losses: Losses) -> dict:
    for name in ("task", "title"):
        if getattr(request, name):
            losses.lose(name)
    body = {
        "model": target.model,
        "input": request.inputs[0] if len(request.inputs) == 1 else list(request.inputs),
        "encoding_format": "float",
        "dimensions": request.dimensions,
        "user": request.end_user,
    }
    return {name: value for name, value in body.items() if value is not None}


def read_embed_reply(body: dict, context: hub.Context, losses: Losses) -> hub.Embeddings:
    rows = sorted(map(hub.as_object, hub.as_list(body.get("data"))), key=lambda row: _index_or_0(row.get("index")))
    usage = hub.as_object(body.get("usage"))
    return hub.Embeddings(tuple(_vector(row.get("embedding")) for row in rows), read_usage(usage) if usage else None)


def _index_or_0(index: object) -> int:
    return index if isinstance(index, int) else 0


def _vector(value: object) -> tuple[float, ...]:
    if isinstance(value, str):  # some hosts send base64 although floats were requested
        packed = base64.b64decode(value)
        return struct.unpack(f"<{len(packed) // 4}f", packed[: len(packed) // 4 * 4])
    return tuple(number for number in hub.as_list(value) if isinstance(number, int | float))


def write_embed_reply(reply: hub.Embeddings, context: hub.Context, losses: Losses) -> dict:
    is_packed = isinstance(context.request, hub.EmbeddingRequest) and context.request.is_packed
    data = [
        {"object": "embedding", "index": i, "embedding": _packed(vector) if is_packed else list(vector)}
        for i, vector in enumerate(reply.vectors)
    ]
    prompt = (reply.usage or hub.Usage()).prompt_tokens
    usage = {"prompt_tokens": prompt, "total_tokens": prompt}
    return {"object": "list", "data": data, "model": context.name, "usage": usage}


def _packed(vector: tuple[float, ...]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
