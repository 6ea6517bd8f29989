"""Translates embedContent and batchEmbedContents to and from the hub. https://ai.google.dev/api/embeddings"""

from gproxy.errors import BadRequest
from gproxy.protocols import hub, validate
from gproxy.protocols.gemini_generate.passthrough import read_usage
from gproxy.protocols.gemini_generate.request import camel_case_keys
from gproxy.protocols.losses import Losses

KNOWN_FIELDS = frozenset(("model", "content", "taskType", "title", "outputDimensionality", "embedContentConfig"))
OPTIONS = ("outputDimensionality", "taskType", "title")


def read_embed(body: dict, losses: Losses) -> hub.EmbeddingRequest:
    return _read([camel_case_keys(body)], losses)


def read_batch(body: dict, losses: Losses) -> hub.EmbeddingRequest:
    requests = [
        camel_case_keys(item) for _, item in validate.objects(camel_case_keys(body).get("requests"), "requests")
    ]
    if not requests:
        raise BadRequest("requests: missing; give at least one")
    return _read(requests, losses)


def _read(requests: list[dict], losses: Losses) -> hub.EmbeddingRequest:
    """Returns one request for a batch. Raises BadRequest where its options differ: the hub has one set of options."""
    options = []
    texts = []
    for request in requests:
        for name, value in request.items():
            if name not in KNOWN_FIELDS and value is not None:
                losses.report(name)
        config = camel_case_keys(validate.optional_obj(request, "embedContentConfig"))
        for name, value in config.items():
            if name not in OPTIONS and value is not None:
                losses.report(f"embedContentConfig.{name}")
        fields = {**config, **request}
        texts.append(_text(request))
        dimensions = validate.optional_count(fields, "outputDimensionality", minimum=1)
        options.append(
            (dimensions, validate.optional_text(fields, "taskType"), validate.optional_text(fields, "title"))
        )
    if len(set(options)) > 1:
        raise BadRequest("requests: outputDimensionality, taskType and title must be the same in all of them")
    return hub.EmbeddingRequest(tuple(texts), *options[0])


def _text(request: dict) -> str:
    content = request.get("content")
    if isinstance(content, str):
        return content
    texts = []
    for place, item in validate.objects(validate.obj(content, "content").get("parts"), "content.parts"):
        texts.append(validate.text(item.get("text"), f"{place}.text"))
    return "\n".join(texts)


def write_embed(request: hub.EmbeddingRequest, target: hub.Target, losses: Losses) -> dict:
    if len(request.inputs) != 1:
        raise BadRequest("one text at a time can be embedded here")
    return write_batch(request, target, losses)["requests"][0]


def write_batch(request: hub.EmbeddingRequest, target: hub.Target, losses: Losses) -> dict:
    if request.end_user:
        losses.lose("end_user")
    common = {"model": f"models/{target.model.removeprefix('models/')}"}
    options = {"taskType": request.task, "title": request.title, "outputDimensionality": request.dimensions}
    common |= {name: value for name, value in options.items() if value is not None}
    return {"requests": [{**common, "content": {"parts": [{"text": text}]}} for text in request.inputs]}


def read_reply(body: dict, context: hub.Context, losses: Losses) -> hub.Embeddings:
    """Returns the vectors of `embedding` or `embeddings`."""
    rows = hub.as_list(body.get("embeddings")) or [body.get("embedding")]
    usage = hub.as_object(body.get("usageMetadata"))
    vectors = tuple(
        tuple(number for number in hub.as_list(hub.as_object(row).get("values")) if isinstance(number, int | float))
        for row in rows
    )
    return hub.Embeddings(vectors, read_usage(usage) if usage else None)


def _usage(usage: hub.Usage | None) -> dict:
    return {"usageMetadata": {"promptTokenCount": usage.prompt_tokens}} if usage else {}


def write_embed_reply(reply: hub.Embeddings, context: hub.Context, losses: Losses) -> dict:
    vector = reply.vectors[0] if reply.vectors else ()
    return {"embedding": {"values": list(vector)}, **_usage(reply.usage)}


def write_batch_reply(reply: hub.Embeddings, context: hub.Context, losses: Losses) -> dict:
    return {"embeddings": [{"values": list(vector)} for vector in reply.vectors], **_usage(reply.usage)}
