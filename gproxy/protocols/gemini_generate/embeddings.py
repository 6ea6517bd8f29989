"""embedContent and batchEmbedContents to and from the hub. https://ai.google.dev/api/embeddings"""

from gproxy.errors import BadRequest
from gproxy.protocols import validate
from gproxy.protocols.gemini_generate.passthrough import read_usage
from gproxy.protocols.gemini_generate.request import camel
from gproxy.protocols.hub import Context, EmbeddingRequest, Embeddings, Target, Usage, as_list, as_object
from gproxy.protocols.losses import Losses

READ = frozenset(("model", "content", "taskType", "title", "outputDimensionality", "embedContentConfig"))
WAYS = ("outputDimensionality", "taskType", "title")


def read_embed(body: dict, losses: Losses) -> EmbeddingRequest:
    return _read([camel(body)], losses)


def read_batch(body: dict, losses: Losses) -> EmbeddingRequest:
    requests = [camel(item) for _, item in validate.objects(camel(body).get("requests"), "requests")]
    if not requests:
        raise BadRequest("requests: missing; give at least one")
    return _read(requests, losses)


def _read(requests: list[dict], losses: Losses) -> EmbeddingRequest:
    """Every one of a batch is embedded in the way of the first: the others have no way of saying otherwise."""
    ways = []
    texts = []
    for request in requests:
        for name, value in request.items():
            if name not in READ and value is not None:
                losses.report(name)
        config = camel(validate.optional_obj(request, "embedContentConfig"))
        for name, value in config.items():
            if name not in WAYS and value is not None:
                losses.report(f"embedContentConfig.{name}")
        found = {**config, **request}
        texts.append(_text(request))
        dimensions = validate.optional_count(found, "outputDimensionality", minimum=1)
        ways.append((dimensions, validate.optional_text(found, "taskType"), validate.optional_text(found, "title")))
    if len(set(ways)) > 1:
        raise BadRequest("requests: outputDimensionality, taskType and title must be the same in all of them")
    return EmbeddingRequest(tuple(texts), *ways[0])


def _text(request: dict) -> str:
    content = request.get("content")
    if isinstance(content, str):
        return content
    found = []
    for place, item in validate.objects(validate.obj(content, "content").get("parts"), "content.parts"):
        found.append(validate.text(item.get("text"), f"{place}.text"))
    return "\n".join(found)


def write_embed(request: EmbeddingRequest, target: Target, losses: Losses) -> dict:
    if len(request.inputs) != 1:
        raise BadRequest("one text at a time can be embedded here")
    return write_batch(request, target, losses)["requests"][0]


def write_batch(request: EmbeddingRequest, target: Target, losses: Losses) -> dict:
    if request.end_user:
        losses.lose("end_user")
    common = {"model": f"models/{target.model.removeprefix('models/')}"}
    way = {"taskType": request.task, "title": request.title, "outputDimensionality": request.dimensions}
    common |= {name: value for name, value in way.items() if value is not None}
    return {"requests": [{**common, "content": {"parts": [{"text": text}]}} for text in request.inputs]}


def read_reply(body: dict, context: Context, losses: Losses) -> Embeddings:
    """Of one or of many."""
    rows = as_list(body.get("embeddings")) or [body.get("embedding")]
    usage = as_object(body.get("usageMetadata"))
    vectors = tuple(
        tuple(number for number in as_list(as_object(row).get("values")) if isinstance(number, int | float))
        for row in rows
    )
    return Embeddings(vectors, read_usage(usage) if usage else None)


def _counted(usage: Usage | None) -> dict:
    return {"usageMetadata": {"promptTokenCount": usage.prompt_tokens}} if usage else {}


def write_embed_reply(found: Embeddings, context: Context, losses: Losses) -> dict:
    vector = found.vectors[0] if found.vectors else ()
    return {"embedding": {"values": list(vector)}, **_counted(found.usage)}


def write_batch_reply(found: Embeddings, context: Context, losses: Losses) -> dict:
    return {"embeddings": [{"values": list(vector)} for vector in found.vectors], **_counted(found.usage)}
