"""The vendors' own SDKs read a stream in this process and return it as one comparable reply."""

import json
from dataclasses import dataclass, field

import anthropic
import httpx2
import openai
from google import genai

KEY, BASE = "none", "http://127.0.0.1:9"
MESSAGES = [{"role": "user", "content": "q"}]


@dataclass
class SdkReply:
    """The reply that a program receives from the SDK."""

    text: str = ""
    thinking: str = ""
    refusal: str = ""
    calls: list[tuple[str, str, object]] = field(default_factory=list)
    stop: str | None = None
    used: tuple[int, int, int] = (0, 0, 0)  # tokens: prompt, cached part of it, output


def _http(stream: bytes, size: int = 7) -> httpx2.Client:
    """Returns an HTTP client that answers with the stream in parts of `size` bytes."""
    parts = [stream[at : at + size] for at in range(0, len(stream), size)] if len(stream) < 50_000 else [stream]

    def handle(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=iter(parts))

    return httpx2.Client(transport=httpx2.MockTransport(handle))


def _object(arguments: str):
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def read_chat(stream: bytes) -> SdkReply:
    client = openai.OpenAI(api_key=KEY, base_url=BASE, max_retries=0, http_client=_http(stream))
    with client.chat.completions.stream(model="m", messages=MESSAGES, stream_options={"include_usage": True}) as events:
        for _ in events:
            pass
        completion = events.current_completion_snapshot
    choice = completion.choices[0]
    message = choice.message
    calls = [
        (call.id, call.function.name, _object(call.function.arguments))
        if call.type == "function"
        else (call.id, call.custom["name"], call.custom["input"])
        for call in message.tool_calls or ()
    ]
    thinking = getattr(message, "reasoning_content", None) or ""
    usage = completion.usage
    used = (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens, usage.completion_tokens)
    return SdkReply(message.content or "", thinking, message.refusal or "", calls, choice.finish_reason, used)


def read_responses(stream: bytes) -> SdkReply:
    client = openai.OpenAI(api_key=KEY, base_url=BASE, max_retries=0, http_client=_http(stream))
    with client.responses.stream(model="m", input="q") as events:
        *_, last = events
    response, reply = last.response, SdkReply()
    for item in response.output:
        match item.type:
            case "message":
                reply.text += "".join(part.text for part in item.content if part.type == "output_text")
                reply.refusal += "".join(part.refusal for part in item.content if part.type == "refusal")
            case "reasoning":
                reply.thinking += "".join(part.text for part in item.summary)
            case "function_call":
                reply.calls.append((item.call_id, item.name, _object(item.arguments)))
            case "custom_tool_call":
                reply.calls.append((item.call_id, item.name, item.input))
    reason = response.incomplete_details.reason if response.incomplete_details else None
    reply.stop = reason or last.type.removeprefix("response.")
    usage = response.usage
    reply.used = (usage.input_tokens, usage.input_tokens_details.cached_tokens, usage.output_tokens)
    return reply


def read_messages(stream: bytes) -> SdkReply:
    client = anthropic.Anthropic(api_key=KEY, base_url=BASE, max_retries=0, http_client=_http(stream))
    with client.messages.stream(model="m", max_tokens=9, messages=MESSAGES) as events:
        message = events.get_final_message()
    reply = SdkReply(stop=message.stop_reason)
    for block in message.content:
        match block.type:
            case "text":
                reply.text += block.text
            case "thinking":
                reply.thinking += block.thinking
            case "tool_use":
                reply.calls.append((block.id, block.name, block.input))
    usage = message.usage
    prompt = usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
    reply.used = (prompt, usage.cache_read_input_tokens, usage.output_tokens)
    return reply


def read_gemini(stream: bytes) -> SdkReply:
    options = genai.types.HttpOptions(base_url=BASE, httpx_client=_http(stream))
    client = genai.Client(api_key=KEY, http_options=options)
    reply, usage = SdkReply(), None
    for chunk in client.models.generate_content_stream(model="m", contents="q"):
        candidate = chunk.candidates[0] if chunk.candidates else None
        for part in (candidate.content.parts if candidate and candidate.content else None) or ():
            if part.function_call:
                call = part.function_call
                reply.calls.append((call.id, call.name, call.args))
            elif part.thought:
                reply.thinking += part.text or ""
            else:
                reply.text += part.text or ""
        if candidate and candidate.finish_reason:
            reply.stop = candidate.finish_reason.value
        if chunk.prompt_feedback:
            reply.stop = chunk.prompt_feedback.block_reason.value
        usage = chunk.usage_metadata or usage
    output = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
    reply.used = (usage.prompt_token_count or 0, usage.cached_content_token_count or 0, output)
    return reply


READERS = {
    "openai_chat": read_chat,
    "openai_responses": read_responses,
    "anthropic": read_messages,
    "gemini": read_gemini,
}
ERRORS = {
    "openai_chat": openai.APIError,
    "openai_responses": openai.APIError,
    "anthropic": anthropic.APIError,
    "gemini": genai.errors.APIError,
}
STOPS = {
    "openai_chat": {"stop": "stop", "length": "length", "tools": "tool_calls", "filtered": "content_filter"},
    "openai_responses": {
        "stop": "completed", "tools": "completed", "length": "max_output_tokens", "filtered": "content_filter",
    },
    "anthropic": {"stop": "end_turn", "length": "max_tokens", "tools": "tool_use", "filtered": "refusal"},
    "gemini": {"stop": "STOP", "length": "MAX_TOKENS", "tools": "STOP", "filtered": "SAFETY"},
}  # fmt: skip
