"""Upstreams that keep to a vendor's published protocol: one row each.

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
    """One path for whole replies and streams: the body tells which."""
    return {(operation, protocol): Lane(path, auth) for operation in (GENERATE, STREAM)}


def catalogue(protocol: str, path: str, auth: Auth) -> dict[tuple[str, str], Lane]:
    return {
        (LIST_MODELS, protocol): Lane(path, auth),
        (GET_MODEL, protocol): Lane(path + "/{model}", auth),
    }


CHAT = generate("openai_chat", "/v1/chat/completions", bearer)
RESPONSES = generate("openai_responses", "/v1/responses", bearer)
MESSAGES = generate("anthropic", "/v1/messages", x_api_key)
OPENAI_MODELS = catalogue("openai_chat", "/v1/models", bearer)
ANTHROPIC_MODELS = catalogue("anthropic", "/v1/models", x_api_key)
GEMINI_MODELS = catalogue("gemini", "/v1beta/models", x_goog_api_key)
GEMINI = {
    (GENERATE, "gemini"): Lane("/v1beta/models/{model}:generateContent", x_goog_api_key),
    # Always asked for events: whether the client gets events or an array is decided where they are written.
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
# What OpenAI's imitators do not know of its newest chat protocol.
IMITATES = frozenset(("max_tokens",))

KINDS = (
    Kind(
        "openai",
        "https://api.openai.com",
        CHAT | RESPONSES | OPENAI_COUNT | OPENAI_EMBED | OPENAI_MODELS,
        prefers="openai_responses",
        traits=frozenset(("custom_tools",)),
    ),
    Kind("anthropic", "https://api.anthropic.com", ANTHROPIC, prefers="anthropic"),
    Kind("aistudio", "https://generativelanguage.googleapis.com", AISTUDIO, prefers="gemini"),
    Kind(
        "deepseek",
        "https://api.deepseek.com",
        CHAT | generate("anthropic", "/anthropic/v1/messages", x_api_key) | OPENAI_MODELS,
        prefers="openai_chat",
        # https://api-docs.deepseek.com/api/create-chat-completion, …/guides/thinking_mode
        traits=IMITATES | {"json_object_only", "reasoning_content", "thinking_switch"},
        refused=frozenset(
            ("n", "seed", "parallel", "verbosity", "tier", "end_user", "store", "cache_key", "web_search")
        ),
    ),
    Kind(
        "groq",
        "https://api.groq.com/openai",
        CHAT | RESPONSES | OPENAI_MODELS,
        prefers="openai_chat",
        # https://console.groq.com/docs/openai#currently-unsupported-openai-features
        refused=frozenset(("logprobs", "n", "store", "verbosity", "cache_key", "web_search")),
    ),
    Kind(
        "openrouter",
        "https://openrouter.ai/api",
        CHAT | RESPONSES | generate("anthropic", "/v1/messages", bearer) | OPENAI_EMBED | OPENAI_MODELS,
        prefers="openai_responses",
        traits=IMITATES | {"top_k"},
    ),
    Kind(
        "nvidia",
        "https://integrate.api.nvidia.com",
        CHAT | OPENAI_EMBED | OPENAI_MODELS,
        prefers="openai_chat",
        traits=IMITATES,
        refused=frozenset(("store", "verbosity", "cache_key", "tier", "web_search")),
    ),
    # Without a `protocol` setting every protocol is passed through, each with its own vendor's way to show a key.
    Kind(
        "custom",
        None,
        CHAT | RESPONSES | OPENAI_COUNT | OPENAI_EMBED | MESSAGES | ANTHROPIC_COUNT | GEMINI | GEMINI_COUNT
        | GEMINI_EMBED | OPENAI_MODELS,
        CUSTOM,
        traits=IMITATES,
    ),
)  # fmt: skip
