"""The demo channel: it answers inside gproxy, so that a new gateway works without key, server or network.

Pure and deterministic: the same request gets the same bytes. It supports all four protocols and reports usage, one
token per word.
"""

import json

from gproxy.channels.kind import GENERATE, GET_MODEL, LIST_MODELS, STREAM, Kind, Lane

MODEL = "demo-1"
CREATED = 1_767_225_600  # 2026-01-01T00:00:00Z
QUOTE_CHARS = 200


def _no_key(secret: str) -> dict[str, str]:
    return {}


def _dumps(value: dict) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _text_of(value: object) -> str:
    """Returns the text of a content field: a string, a list of parts or one part."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(filter(None, map(_text_of, value)))
    if isinstance(value, dict):
        return _text_of(value.get("text") or value.get("content") or value.get("parts") or "")
    return ""


def _turns(body: dict) -> list:
    for name in ("messages", "contents", "input"):
        if (turns := body.get(name)) is not None:
            return turns if isinstance(turns, list) else [{"role": "user", "content": turns}]
    return []


def _prompt_texts(body: dict) -> tuple[str, str]:
    """Returns the text of the whole prompt, and the text of its last user turn."""
    turns = [turn for turn in _turns(body) if isinstance(turn, dict)]
    users = [turn for turn in turns if turn.get("role", "user") == "user"]
    return " ".join(map(_text_of, turns)), _text_of(users[-1]) if users else ""


def _words(body: bytes) -> tuple[list[str], int, int]:
    """Returns the reply's words, each but the first with a leading space, and the prompt and completion tokens."""
    try:
        # No number is read. As an integer, one of thousands of digits would raise ValueError.
        prompt, last = _prompt_texts(json.loads(body, parse_int=float))
    except RecursionError:
        prompt = last = "something very deep"
    quote = " ".join(last.split())[:QUOTE_CHARS]
    reply = f"Hello from gproxy! You said: {quote}" if quote else "Hello from gproxy!"
    first, *others = reply.split()
    words = [first, *(f" {word}" for word in others)]
    return words, len(prompt.split()), len(words)


def _event(data: dict, name: str | None = None) -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + _dumps(data) + b"\n\n"


def _chat(model, words, prompt_tokens, completion_tokens):
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    base = {"id": "chatcmpl-demo", "created": CREATED, "model": model}
    message = {"role": "assistant", "content": "".join(words), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    whole = {**base, "object": "chat.completion", "choices": [choice], "usage": usage}

    def chunk(delta, finish=None):
        part = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event({**base, "object": "chat.completion.chunk", "choices": [part], "usage": None})

    events = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": word}) for word in words)]
    events += [chunk({}, "stop"), _event({**base, "object": "chat.completion.chunk", "choices": [], "usage": usage})]
    return whole, [*events, b"data: [DONE]\n\n"]


def _responses(model, words, prompt_tokens, completion_tokens):
    text = "".join(words)
    usage = {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt_tokens + completion_tokens,
    }
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item = {"type": "message", "id": "msg_demo", "role": "assistant", "status": "completed", "content": [part]}
    whole = {
        "id": "resp_demo",
        "object": "response",
        "created_at": CREATED,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [item],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage,
    }
    started = {**whole, "status": "in_progress", "output": [], "usage": None}
    at = {"item_id": "msg_demo", "output_index": 0, "content_index": 0}
    steps = [
        ("response.created", {"response": started}),
        ("response.in_progress", {"response": started}),
        ("response.output_item.added", {"output_index": 0, "item": {**item, "status": "in_progress", "content": []}}),
        ("response.content_part.added", {**at, "part": {**part, "text": ""}}),
        *(("response.output_text.delta", {**at, "delta": word, "logprobs": []}) for word in words),
        ("response.output_text.done", {**at, "text": text, "logprobs": []}),
        ("response.content_part.done", {**at, "part": part}),
        ("response.output_item.done", {"output_index": 0, "item": item}),
        ("response.completed", {"response": whole}),
    ]
    return whole, [_event({"type": n, "sequence_number": i, **d}, n) for i, (n, d) in enumerate(steps)]


def _anthropic(model, words, prompt_tokens, completion_tokens):
    base = {"id": "msg_demo", "type": "message", "role": "assistant", "model": model}
    usage = {"input_tokens": prompt_tokens, "output_tokens": completion_tokens}
    content = [{"type": "text", "text": "".join(words)}]
    whole = {**base, "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}
    start = {**whole, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 0}}
    steps = [
        ("message_start", {"message": start}),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
        *(("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}}) for word in words),
        ("content_block_stop", {"index": 0}),
        ("message_delta", {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage}),
        ("message_stop", {}),
    ]
    return whole, [_event({"type": name, **data}, name) for name, data in steps]


def _gemini(model, words, prompt_tokens, completion_tokens):
    def reply(text, so_far, finish=None):
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        usage = {
            "promptTokenCount": prompt_tokens,
            "candidatesTokenCount": so_far,
            "totalTokenCount": prompt_tokens + so_far,
        }
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": model, "responseId": "demo"}

    steps = [reply(word, i, "STOP" if i == completion_tokens else None) for i, word in enumerate(words, 1)]
    return reply("".join(words), completion_tokens, "STOP"), [_event(step) for step in steps]


WRITERS = {"openai_chat": _chat, "openai_responses": _responses, "anthropic": _anthropic, "gemini": _gemini}


class _DemoResponder:
    def whole(self, protocol: str, model: str, body: bytes) -> bytes:
        """Returns the whole reply as JSON."""
        return _dumps(WRITERS[protocol](model, *_words(body))[0])

    def stream(self, protocol: str, model: str, body: bytes) -> list[bytes]:
        """Returns the reply's server-sent events, one content event per word."""
        return WRITERS[protocol](model, *_words(body))[1]

    def models(self) -> list[dict]:
        """Returns the channel's models, in OpenAI's shape."""
        return [{"id": MODEL, "object": "model", "created": CREATED, "owned_by": "gproxy"}]


LANES = {(operation, protocol): Lane("", _no_key) for protocol in WRITERS for operation in (GENERATE, STREAM)}
KIND = Kind(
    "demo",
    "",
    LANES | {(operation, "openai_chat"): Lane("", _no_key) for operation in (LIST_MODELS, GET_MODEL)},
    responder=_DemoResponder(),
)
