"""OpenAI Chat Completions and embeddings as the registry loads them: names, tables and the functions of the modules.

https://platform.openai.com/docs/api-reference/chat
"""

from gproxy.protocols.codec import AnyCodec, Codec
from gproxy.protocols.openai_chat import embeddings, reply, request
from gproxy.protocols.openai_chat.passthrough import (  # noqa: F401 - the interface of this protocol
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
from gproxy.protocols.openai_chat.reply import read_error, read_stream, write_stream  # noqa: F401
from gproxy.protocols.openai_chat.request import NAMES, OWN_URLS, TOOL_NAME, URL_KINDS  # noqa: F401
from gproxy.protocols.ratelimit_headers import openai as limit_headers  # noqa: F401 - as above

GENERATE = Codec(request.read_request, request.write_request, reply.read_reply, reply.write_reply)
EMBED = Codec(embeddings.read_embed, embeddings.write_embed, embeddings.read_embed_reply, embeddings.write_embed_reply)
CODECS: dict[str, AnyCodec] = {"generate_content": GENERATE, "stream_generate_content": GENERATE, "embeddings": EMBED}
ROUTES = {"chat/completions": "generate_content", "embeddings": "embeddings"}
# The path of a request does not have its model.
ACTIONS: dict[str, str] = {}
# Fields of a request that its reply repeats.
ECHOED: tuple[str, ...] = ()
# A comment, which clients ignore; sent while the upstream is silent.
HEARTBEAT: bytes = b": heartbeat\n\n"
# Operations whose wire name is not WIRE_NAME.
WIRE_NAMES = {"embeddings": "openai", "model_list": "openai", "model_get": "openai"}


def client_call_id(call_id: str) -> str:
    """Returns a tool call's id as clients of this protocol receive it."""
    return call_id
