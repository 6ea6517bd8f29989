"""One row for each upstream that follows a vendor's published protocol without quirks.

Base URLs and paths: platform.openai.com/docs/api-reference, docs.anthropic.com/en/api, ai.google.dev/api,
api-docs.deepseek.com, console.groq.com/docs/api-reference, openrouter.ai/docs/api-reference,
docs.api.nvidia.com/nim/reference.
"""

from gproxy.channels.kind import (
    COUNT,
    EMBED,
    EMBED_BATCH,
    GENERATE,
    GET_MODEL,
    LIST_MODELS,
    STREAM,
    Auth,
    Kind,
    Lane,
    bearer,
    x_api_key,
    x_goog_api_key,
)


def generate(protocol: str, path: str, auth: Auth) -> dict[tuple[str, str], Lane]:
    """Returns lanes with one path for whole replies and streams: a field of the body selects which."""
    return {(operation, protocol): Lane(path, auth) for operation in (GENERATE, STREAM)}


def model_list(protocol: str, path: str, auth: Auth) -> dict[tuple[str, str], Lane]:
    """Returns the lanes that list models and get one model."""
    return {
        (LIST_MODELS, protocol): Lane(path, auth),
        (GET_MODEL, protocol): Lane(path + "/{model}", auth),
    }


CHAT = generate("openai_chat", "/v1/chat/completions", bearer)
RESPONSES = generate("openai_responses", "/v1/responses", bearer)
MESSAGES = generate("anthropic", "/v1/messages", x_api_key)
OPENAI_MODELS = model_list("openai_chat", "/v1/models", bearer)
ANTHROPIC_MODELS = model_list("anthropic", "/v1/models", x_api_key)
GEMINI_MODELS = model_list("gemini", "/v1beta/models", x_goog_api_key)
GEMINI = {
    (GENERATE, "gemini"): Lane("/v1beta/models/{model}:generateContent", x_goog_api_key),
    # Always requests events: whether the client gets events or an array is decided when the stream is written.
    (STREAM, "gemini"): Lane("/v1beta/models/{model}:streamGenerateContent?alt=sse", x_goog_api_key),
}

OPENAI_COUNT = {(COUNT, "openai_responses"): Lane("/v1/responses/input_tokens", bearer)}
ANTHROPIC_COUNT = {(COUNT, "anthropic"): Lane("/v1/messages/count_tokens", x_api_key)}
GEMINI_COUNT = {(COUNT, "gemini"): Lane("/v1beta/models/{model}:countTokens", x_goog_api_key)}
OPENAI_EMBED = {(EMBED, "openai_chat"): Lane("/v1/embeddings", bearer)}
GEMINI_EMBED = {
    (EMBED, "gemini"): Lane("/v1beta/models/{model}:embedContent", x_goog_api_key),
    (EMBED_BATCH, "gemini"): Lane("/v1beta/models/{model}:batchEmbedContents", x_goog_api_key),
}
ANTHROPIC = MESSAGES | ANTHROPIC_COUNT | ANTHROPIC_MODELS
AISTUDIO = GEMINI | GEMINI_COUNT | GEMINI_EMBED | GEMINI_MODELS

CUSTOM = {
    "openai": CHAT | RESPONSES | OPENAI_COUNT | OPENAI_EMBED | OPENAI_MODELS,
    "openai_chat": CHAT | OPENAI_EMBED | OPENAI_MODELS,
    "openai_responses": RESPONSES | OPENAI_COUNT | OPENAI_EMBED | OPENAI_MODELS,
    "anthropic": ANTHROPIC,
    "gemini": AISTUDIO,
}
# Compatible hosts know `max_tokens`, and not the newer `max_completion_tokens` of OpenAI's chat protocol.
COMPATIBLE = frozenset(("max_tokens",))

KINDS = (
    Kind(
        "openai",
        "https://api.openai.com",
        CHAT | RESPONSES | OPENAI_COUNT | OPENAI_EMBED | OPENAI_MODELS,
        preferred_protocol="openai_responses",
        traits=frozenset(("custom_tools",)),
    ),
    Kind("anthropic", "https://api.anthropic.com", ANTHROPIC, preferred_protocol="anthropic"),
    Kind("aistudio", "https://generativelanguage.googleapis.com", AISTUDIO, preferred_protocol="gemini"),
    Kind(
        "deepseek",
        "https://api.deepseek.com",
        CHAT | generate("anthropic", "/anthropic/v1/messages", x_api_key) | OPENAI_MODELS,
        preferred_protocol="openai_chat",
        # https://api-docs.deepseek.com/api/create-chat-completion, …/guides/thinking_mode
        traits=COMPATIBLE | {"json_object_only", "reasoning_content", "thinking_switch"},
        refused=frozenset(
            ("n", "seed", "parallel", "verbosity", "tier", "end_user", "store", "cache_key", "web_search")
        ),
    ),
    Kind(
        "groq",
        "https://api.groq.com/openai",
        CHAT | RESPONSES | OPENAI_MODELS,
        preferred_protocol="openai_chat",
        # https://console.groq.com/docs/openai#currently-unsupported-openai-features
        refused=frozenset(("logprobs", "n", "store", "verbosity", "cache_key", "web_search")),
    ),
    Kind(
        "openrouter",
        "https://openrouter.ai/api",
        CHAT | RESPONSES | generate("anthropic", "/v1/messages", bearer) | OPENAI_EMBED | OPENAI_MODELS,
        preferred_protocol="openai_responses",
        traits=COMPATIBLE | {"top_k"},
    ),
    Kind(
        "nvidia",
        "https://integrate.api.nvidia.com",
        CHAT | OPENAI_EMBED | OPENAI_MODELS,
        preferred_protocol="openai_chat",
        traits=COMPATIBLE,
        refused=frozenset(("store", "verbosity", "cache_key", "tier", "web_search")),
    ),
    # Without a `protocol` setting every protocol is passed through, each with its vendor's own key header.
    Kind(
        "custom",
        None,
        CHAT | RESPONSES | OPENAI_COUNT | OPENAI_EMBED | MESSAGES | ANTHROPIC_COUNT | GEMINI | GEMINI_COUNT
        | GEMINI_EMBED | OPENAI_MODELS,
        CUSTOM,
        traits=COMPATIBLE,
    ),
)  # fmt: skip
