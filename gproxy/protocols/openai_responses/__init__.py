"""OpenAI Responses as the registry loads it: names, tables and the functions of the modules beside it.

https://platform.openai.com/docs/api-reference/responses
"""

from gproxy.protocols.codec import AnyCodec, Codec
from gproxy.protocols.openai_responses import count, reply, request
from gproxy.protocols.openai_responses.passthrough import (  # noqa: F401 - the interface of this protocol
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
from gproxy.protocols.openai_responses.reply import read_error, read_stream, write_stream  # noqa: F401
from gproxy.protocols.openai_responses.request import NAMES, OWN_URLS, TOOL_NAME, URL_KINDS  # noqa: F401
from gproxy.protocols.ratelimit_headers import openai as limit_headers  # noqa: F401 - as above

GENERATE = Codec(request.read_request, request.write_request, reply.read_reply, reply.write_reply)
COUNT = Codec(request.read_request, count.write_count, count.read_count_reply, count.write_count_reply)
CODECS: dict[str, AnyCodec] = {"generate_content": GENERATE, "stream_generate_content": GENERATE, "count_tokens": COUNT}
ROUTES = {
    "responses": "generate_content",
    "responses/input_tokens": "count_tokens",
    "responses/input_tokens/count": "count_tokens",
}
# The path of a request does not have its model.
ACTIONS: dict[str, str] = {}
# Fields of a request that its reply repeats.
ECHOED: tuple[str, ...] = tuple(reply.ECHOES)
# A comment, which clients ignore; sent while the upstream is silent.
HEARTBEAT: bytes = b": heartbeat\n\n"
# Operations whose wire name is not WIRE_NAME.
WIRE_NAMES = {"count_tokens": "openai"}


def client_call_id(call_id: str) -> str:
    """Returns a tool call's id as clients of this protocol receive it."""
    return call_id
