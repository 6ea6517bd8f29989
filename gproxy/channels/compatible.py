"""Upstreams that keep to a vendor's published protocol: one row each.

Base URLs and paths: platform.openai.com/docs/api-reference, docs.anthropic.com/en/api, ai.google.dev/api,
api-docs.deepseek.com, console.groq.com/docs/api-reference, openrouter.ai/docs/api-reference,
docs.api.nvidia.com/nim/reference.
"""

from gproxy.channels.kind import (
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

CUSTOM = {
    "openai": CHAT | RESPONSES | OPENAI_MODELS,
    "openai_chat": CHAT | OPENAI_MODELS,
    "openai_responses": RESPONSES | OPENAI_MODELS,
    "anthropic": MESSAGES | ANTHROPIC_MODELS,
    "gemini": GEMINI | GEMINI_MODELS,
}

KINDS = (
    Kind("openai", "https://api.openai.com", CHAT | RESPONSES | OPENAI_MODELS),
    Kind("anthropic", "https://api.anthropic.com", MESSAGES | ANTHROPIC_MODELS),
    Kind("aistudio", "https://generativelanguage.googleapis.com", GEMINI | GEMINI_MODELS),
    Kind(
        "deepseek",
        "https://api.deepseek.com",
        CHAT | generate("anthropic", "/anthropic/v1/messages", x_api_key) | OPENAI_MODELS,
    ),
    Kind("groq", "https://api.groq.com/openai", CHAT | RESPONSES | OPENAI_MODELS),
    Kind(
        "openrouter",
        "https://openrouter.ai/api",
        CHAT | RESPONSES | generate("anthropic", "/v1/messages", bearer) | OPENAI_MODELS,
    ),
    Kind("nvidia", "https://integrate.api.nvidia.com", CHAT | OPENAI_MODELS),
    # Without a `protocol` setting every protocol is passed through, each with its own vendor's way to show a key.
    Kind("custom", None, CHAT | RESPONSES | MESSAGES | GEMINI | OPENAI_MODELS, CUSTOM),
)
