"""Gemini generateContent as the registry loads it: names, tables and the functions of the modules beside it.

https://ai.google.dev/api/generate-content
"""

from gproxy.protocols.codec import AnyCodec, Codec
from gproxy.protocols.gemini_generate import count, embeddings, reply, request
from gproxy.protocols.gemini_generate.passthrough import (  # noqa: F401 - the interface of this protocol
    LIST_QUERY,
    MODEL_FIELD,
    NAME,
    REQUEST_ID_HEADERS,
    WIRE_NAME,
    Stream,
    error_event,
    next_page,
    outgoing,
    read_head,
    read_models,
    read_whole,
    without_wrapped_signatures,
    write_error,
    write_model,
    write_models,
)  # fmt: skip
from gproxy.protocols.gemini_generate.reply import read_error, read_stream, write_stream  # noqa: F401
from gproxy.protocols.gemini_generate.request import NAMES, OWN_URLS, TOOL_NAME, URL_KINDS  # noqa: F401
from gproxy.protocols.ratelimit_headers import google as limit_headers  # noqa: F401 - as above

GENERATE = Codec(request.read_request, request.write_request, reply.read_reply, reply.write_reply)
COUNT = Codec(count.read_count, count.write_count, count.read_count_reply, count.write_count_reply)
EMBED = Codec(embeddings.read_embed, embeddings.write_embed, embeddings.read_reply, embeddings.write_embed_reply)
BATCH = Codec(embeddings.read_batch, embeddings.write_batch, embeddings.read_reply, embeddings.write_batch_reply)
CODECS: dict[str, AnyCodec] = {
    "generate_content": GENERATE,
    "stream_generate_content": GENERATE,
    "count_tokens": COUNT,
    "embeddings": EMBED,
    "batch_embeddings": BATCH,
}
# The path has model and action: web reads them from `models/{model}:{action}`.
ACTIONS = {
    "generateContent": "generate_content",
    "streamGenerateContent": "stream_generate_content",
    "countTokens": "count_tokens",
    "embedContent": "embeddings",
    "batchEmbedContents": "batch_embeddings",
}
ROUTES = {f"models/{{model}}:{action}": operation for action, operation in ACTIONS.items()}
# Fields of a request that its reply repeats.
ECHOED: tuple[str, ...] = ()
# An empty line, sent while the upstream is silent: the SDK reads a comment as data.
HEARTBEAT: bytes = b"\n"
# Operations whose wire name is not WIRE_NAME.
WIRE_NAMES: dict[str, str] = {}


def client_call_id(call_id: str) -> str:
    """Returns a tool call's id as clients of this protocol receive it."""
    return call_id
