"""What a vendor says and hears, in each protocol: one saying, rendered whole and streamed; one request, read back.

The scripted vendor speaks by these sayings, so that a journey can tell what must come out of a client of any protocol.
"""

import json
import types as pytypes
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from anthropic.types import MessageCountTokensParams, message_create_params
from google.genai import types as genai_types
from openai.types import EmbeddingCreateParams
from openai.types.chat import completion_create_params
from openai.types.responses import InputTokenCountParams, ResponseOutputMessageParam, response_create_params
from typing_extensions import TypeAliasType, is_typeddict

from tests.gateway import seed
from tests.vendor import STREAM_HEAD, Script, Seen, body, chunk, dumps, event, sends

PROTOCOLS = ("openai_chat", "openai_responses", "anthropic", "gemini")
PAIRS = [(client, upstream) for client in PROTOCOLS for upstream in PROTOCOLS if client != upstream]
# Who speaks one protocol only.
PROVIDERS = {
    "openai_chat": "chat-main",
    "openai_responses": "responses-main",
    "anthropic": "anthropic-main",
    "gemini": "vertex-main",
}
SHORT = ", connect_timeout_s = 2, first_byte_timeout_s = 1.5, idle_timeout_s = 1.5"
ONE_EACH = """
[[providers]]
name = "chat-main"
channel = "custom"
settings = {{ base_url = "{vendor}/v1", protocol = "openai_chat"{timeouts} }}
credentials = [{{ api_key = "sk-upstream-openai-aaaa" }}]

[[providers]]
name = "responses-main"
channel = "custom"
settings = {{ base_url = "{vendor}/v1", protocol = "openai_responses"{timeouts} }}
credentials = [{{ api_key = "sk-upstream-openai-aaaa" }}]
"""


def all_pairs(vendor_url: str, timeouts: str = SHORT) -> str:
    """The journeys' seed, with one provider for each protocol."""
    return seed(vendor_url, timeouts) + ONE_EACH.format(vendor=vendor_url, timeouts=timeouts)


# Of 16 tokens sent 4 were cached; of 40 made 15 were thought where something was thought.
FRESH, CACHED, MADE, THOUGHT = 12, 4, 40, 15
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
# Gemini's SDK takes nothing but base64 for a signature.
SEAL = "U0VBTC1vbmUtdHdvLXRocmVl"


@dataclass(frozen=True)
class Call:
    name: str
    arguments: dict
    id: str = "call_up_1"


@dataclass(frozen=True)
class Said:
    """`seal` is what the vendor wants back next turn; `stop` is one of stop, length, tools and filtered."""

    text: str = ""
    thinking: str = ""
    seal: str = ""
    calls: tuple[Call, ...] = ()
    refusal: str = ""
    image: str = ""
    stop: str = "stop"

    @property
    def reason(self) -> str:
        return "tools" if self.calls and self.stop == "stop" else self.stop

    @property
    def pieces(self) -> list[str]:
        """The text as it is streamed."""
        half = len(self.text) // 2
        return [piece for piece in (self.text[:half], self.text[half:]) if piece]


def halves(arguments: dict) -> list[str]:
    written = json.dumps(arguments, ensure_ascii=False)
    return [written[: len(written) // 2], written[len(written) // 2 :]]


STOPS = {
    "openai_chat": {"stop": "stop", "length": "length", "tools": "tool_calls", "filtered": "content_filter"},
    "anthropic": {"stop": "end_turn", "length": "max_tokens", "tools": "tool_use", "filtered": "refusal"},
    "gemini": {"stop": "STOP", "length": "MAX_TOKENS", "tools": "STOP", "filtered": "SAFETY"},
}


def usage(protocol: str, said: Said) -> dict:
    thought = THOUGHT if said.thinking else 0
    sent = FRESH + CACHED
    return {
        "openai_chat": {
            **{"prompt_tokens": sent, "completion_tokens": MADE, "total_tokens": sent + MADE},
            "prompt_tokens_details": {"cached_tokens": CACHED},
            "completion_tokens_details": {"reasoning_tokens": thought},
        },
        "openai_responses": {
            **{"input_tokens": sent, "output_tokens": MADE, "total_tokens": sent + MADE},
            "input_tokens_details": {"cached_tokens": CACHED, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": thought},
        },
        "anthropic": {
            **{"input_tokens": FRESH, "cache_creation_input_tokens": 0, "cache_read_input_tokens": CACHED},
            **{"output_tokens": MADE, "service_tier": "standard"},
        },
        "gemini": {
            **{"promptTokenCount": sent, "cachedContentTokenCount": CACHED, "totalTokenCount": sent + MADE},
            **{"candidatesTokenCount": MADE - thought, "thoughtsTokenCount": thought},
        },
    }[protocol]


# -- whole ---------------------------------------------------------------------------------------------------------


def whole(protocol: str, model: str, said: Said) -> dict:
    return {"openai_chat": _chat, "openai_responses": _response, "anthropic": _message, "gemini": _gemini}[protocol](
        model, said
    )


def _chat(model: str, said: Said) -> dict:
    message: dict = {"role": "assistant", "content": said.text or None, "refusal": said.refusal or None}
    if said.calls:
        message["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": json.dumps(c.arguments)}}
            for c in said.calls
        ]
    if said.thinking:
        message["reasoning_content"] = said.thinking
    if said.seal:  # as OpenRouter does
        message["reasoning_details"] = [_detail(said)]
    if said.image:
        message["images"] = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{said.image}"}}]
    reason = STOPS["openai_chat"][said.reason]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    head = {"id": "chatcmpl-up", "object": "chat.completion", "created": 1, "model": model}
    return {**head, "choices": [choice], "usage": usage("openai_chat", said)}


def _detail(said: Said) -> dict:
    form = {"id": "rd_1", "format": "anthropic-claude-v1", "index": 0}
    return {"type": "reasoning.text", "text": said.thinking, "signature": said.seal, **form}


def _items(said: Said) -> list[dict]:
    found: list[dict] = []
    if said.thinking or said.seal:
        summary = [{"type": "summary_text", "text": said.thinking}] if said.thinking else []
        found.append({"type": "reasoning", "id": "rs_up", "summary": summary, "encrypted_content": said.seal or None})
    if said.image:
        found.append({"type": "image_generation_call", "id": "ig_up", "status": "completed", "result": said.image})
    if said.text:
        found.append(_item({"type": "output_text", "text": said.text, "annotations": [], "logprobs": []}))
    if said.refusal:
        found.append(_item({"type": "refusal", "refusal": said.refusal}))
    for number, call in enumerate(said.calls):
        named = {"type": "function_call", "id": f"fc_up_{number}", "call_id": call.id, "name": call.name}
        found.append({**named, "arguments": json.dumps(call.arguments), "status": "completed"})
    return found


def _item(part: dict) -> dict:
    return {"type": "message", "id": "msg_up", "role": "assistant", "status": "completed", "content": [part]}


def _response(model: str, said: Said) -> dict:
    why = {"length": "max_output_tokens", "filtered": "content_filter"}.get(said.stop)
    return {
        **{"id": "resp_up", "object": "response", "created_at": 1, "model": model},
        **{"status": "incomplete" if why else "completed", "error": None, "instructions": None, "metadata": {}},
        **{"incomplete_details": {"reason": why} if why else None, "tools": [], "tool_choice": "auto"},
        **{"parallel_tool_calls": True, "temperature": 1.0, "top_p": 1.0},
        **{"output": _items(said), "usage": usage("openai_responses", said)},
    }


def _blocks(said: Said) -> list[dict]:
    found: list[dict] = []
    if said.thinking:
        found.append({"type": "thinking", "thinking": said.thinking, "signature": said.seal})
    elif said.seal:
        found.append({"type": "redacted_thinking", "data": said.seal})
    if said.text or said.refusal:
        found.append({"type": "text", "text": said.text or said.refusal})
    found += [{"type": "tool_use", "id": c.id, "name": c.name, "input": c.arguments} for c in said.calls]
    return found


def _message(model: str, said: Said) -> dict:
    head = {"id": "msg_up", "type": "message", "role": "assistant", "model": model, "content": _blocks(said)}
    stop = {"stop_reason": STOPS["anthropic"][said.reason], "stop_sequence": None}
    return {**head, **stop, "usage": usage("anthropic", said)}


def _parts(said: Said) -> list[dict]:
    """The seal stands on the first call, or else on the last text. Calls have no ids."""
    found: list[dict] = []
    if said.thinking:
        found.append({"text": said.thinking, "thought": True})
    found += [{"text": piece} for piece in (said.pieces or ([said.refusal] if said.refusal else []))]
    if said.image:
        found.append({"inlineData": {"mimeType": "image/png", "data": said.image}})
    calls = [{"functionCall": {"name": c.name, "args": c.arguments}} for c in said.calls]
    if said.seal and calls:
        calls[0]["thoughtSignature"] = said.seal
    elif said.seal and found:
        found[-1]["thoughtSignature"] = said.seal
    return found + calls


def _gemini(model: str, said: Said, parts: list[dict] | None = None, is_last: bool = True) -> dict:
    parts = _parts(said) if parts is None else parts
    candidate: dict = {"content": {"role": "model", "parts": parts}, "index": 0}
    if is_last:
        candidate["finishReason"] = STOPS["gemini"][said.reason]
    counts = usage("gemini", said) if is_last else {"promptTokenCount": FRESH + CACHED}
    return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": model, "responseId": "resp-up-1"}


# -- streamed ------------------------------------------------------------------------------------------------------


def streamed(protocol: str, model: str, said: Said) -> list[bytes]:
    return {
        "openai_chat": _chat_events,
        "openai_responses": _response_events,
        "anthropic": _message_events,
        "gemini": _gemini_events,
    }[protocol](model, said)


def _chat_events(model: str, said: Said) -> list[bytes]:
    base = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 1, "model": model}

    def told(delta: dict, finish: str | None = None) -> bytes:
        return event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    found = [told({"role": "assistant", "content": ""})]
    if said.thinking:
        found.append(told({"reasoning_content": said.thinking}))
    if said.seal:
        found.append(told({"reasoning_details": [_detail(said)]}))
    found += [told({"content": piece}) for piece in said.pieces]
    if said.refusal:
        found.append(told({"refusal": said.refusal}))
    if said.image:
        found.append(told({"images": _chat(model, said)["choices"][0]["message"]["images"]}))
    for number, call in enumerate(said.calls):
        begun = {"index": number, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        found.append(told({"tool_calls": [begun]}))
        found += [
            told({"tool_calls": [{"index": number, "function": {"arguments": piece}}]})
            for piece in halves(call.arguments)
        ]
    found.append(told({}, STOPS["openai_chat"][said.reason]))
    found.append(event({**base, "choices": [], "usage": usage("openai_chat", said)}))
    return [*found, b"data: [DONE]\n\n"]


def _response_events(model: str, said: Said) -> list[bytes]:
    done = _response(model, said)
    start = {**done, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    steps: list[tuple[str, dict]] = [("created", {"response": start}), ("in_progress", {"response": start})]
    for number, item in enumerate(done["output"]):
        at = {"output_index": number, "item_id": item["id"]}
        blank = {"content": [], "summary": [], "arguments": "", "result": None}
        begun = {**item, "status": "in_progress"} | {k: v for k, v in blank.items() if k in item}
        steps.append(("output_item.added", {"output_index": number, "item": begun}))
        steps += _inside(item, at)
        steps.append(("output_item.done", {"output_index": number, "item": item}))
    steps.append((done["status"], {"response": done}))
    return [
        event({"type": f"response.{name}", "sequence_number": n, **data}, f"response.{name}")
        for n, (name, data) in enumerate(steps)
    ]


def _inside(item: dict, at: dict) -> list[tuple[str, dict]]:
    if item["type"] == "reasoning" and item["summary"]:
        at, part = {**at, "summary_index": 0}, item["summary"][0]
        return [
            ("reasoning_summary_part.added", {**at, "part": {**part, "text": ""}}),
            ("reasoning_summary_text.delta", {**at, "delta": part["text"]}),
            ("reasoning_summary_text.done", {**at, "text": part["text"]}),
            ("reasoning_summary_part.done", {**at, "part": part}),
        ]
    if item["type"] == "function_call":
        return [
            *(
                ("function_call_arguments.delta", {**at, "delta": piece})
                for piece in halves(json.loads(item["arguments"]))
            ),
            ("function_call_arguments.done", {**at, "arguments": item["arguments"], "name": item["name"]}),
        ]
    if item["type"] != "message":
        return []
    at, part = {**at, "content_index": 0}, item["content"][0]
    if part["type"] == "refusal":
        told = [
            ("refusal.delta", {**at, "delta": part["refusal"]}),
            ("refusal.done", {**at, "refusal": part["refusal"]}),
        ]
    else:
        pieces = [("output_text.delta", {**at, "delta": piece, "logprobs": []}) for piece in Said(part["text"]).pieces]
        told = [*pieces, ("output_text.done", {**at, "text": part["text"], "logprobs": []})]
    blank = {**part, "text": ""} if "text" in part else {**part, "refusal": ""}
    return [("content_part.added", {**at, "part": blank}), *told, ("content_part.done", {**at, "part": part})]


def _message_events(model: str, said: Said) -> list[bytes]:
    done = _message(model, said)
    counts = done["usage"]
    start = {**done, "content": [], "stop_reason": None, "usage": {**counts, "output_tokens": 1}}
    steps: list[tuple[str, dict]] = [("message_start", {"message": start})]
    for number, block in enumerate(done["content"]):
        blank = {"text": "", "thinking": "", "signature": "", "input": {}}
        begun = {k: blank.get(k, v) if k != "type" else v for k, v in block.items()}
        steps.append(("content_block_start", {"index": number, "content_block": begun}))
        deltas = {
            "text": [{"type": "text_delta", "text": piece} for piece in Said(block.get("text", "")).pieces],
            "thinking": [
                {"type": "thinking_delta", "thinking": block.get("thinking")},
                {"type": "signature_delta", "signature": block.get("signature")},
            ],
            "tool_use": [{"type": "input_json_delta", "partial_json": p} for p in halves(block.get("input", {}))],
        }.get(block["type"], [])
        steps += [("content_block_delta", {"index": number, "delta": delta}) for delta in deltas]
        steps += [("ping", {}), ("content_block_stop", {"index": number})]
    delta = {"stop_reason": done["stop_reason"], "stop_sequence": None}
    steps += [("message_delta", {"delta": delta, "usage": {"output_tokens": MADE}}), ("message_stop", {})]
    return [event({"type": name, **data}, name) for name, data in steps]


def _gemini_events(model: str, said: Said) -> list[bytes]:
    parts = _parts(said) or [{"text": ""}]
    return [event(_gemini(model, said, [part], part is parts[-1])) for part in parts]


# -- errors --------------------------------------------------------------------------------------------------------

KINDS = {
    "anthropic": {
        **{400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"},
        **{429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"},
    },
    "gemini": {
        **{400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"},
        **{429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 529: "UNAVAILABLE"},
    },
    "openai": {
        **{400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"},
        **{429: "rate_limit_error", 500: "server_error", 529: "server_error"},
    },
}


def error(protocol: str, status: int, message: str) -> dict:
    """The vendor's own error body."""
    if protocol == "anthropic":
        inner = {"type": KINDS["anthropic"][status], "message": message}
        return {"type": "error", "error": inner, "request_id": "req_up"}
    if protocol == "gemini":
        return {"error": {"code": status, "message": message, "status": KINDS["gemini"][status]}}
    return {"error": {"message": message, "type": KINDS["openai"][status], "param": None, "code": None}}


def error_event(protocol: str, message: str) -> bytes:
    """How the vendor ends a stream that it cannot go on with."""
    if protocol == "anthropic":
        return event(error(protocol, 529, message), "error")
    if protocol == "openai_responses":
        return event({"type": "error", "sequence_number": 9, "code": "server_error", "message": message}, "error")
    return event(error(protocol, 500, message))


# -- scripts -------------------------------------------------------------------------------------------------------


def says(said: Said, *then: tuple[bytes, Said], headers: dict[str, str] | None = None) -> Script:
    """The saying, whole or streamed; of `then` the last whose mark stands in the request."""

    async def script(seen, reader, writer):
        found = said
        for mark, other in then:
            found = other if mark in seen.body else found
        if not seen.is_stream:
            writer.write(body(200, dumps(whole(seen.protocol, seen.model, found)), headers))
            return
        writer.write(STREAM_HEAD)
        for one in streamed(seen.protocol, seen.model, found):
            writer.write(chunk(one))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    return script


def says_no(status: int, message: str, headers: dict[str, str] | None = None) -> Script:
    async def script(seen, reader, writer):
        writer.write(body(status, dumps(error(seen.protocol, status, message)), headers))

    return script


def breaks_off(said: Said, count: int, end: str, pause_s: float = 0.0) -> Script:
    """The first events of the saying's stream, then `"error"`, or an end of `sends`."""

    async def script(seen, reader, writer):
        steps: list[bytes | float] = [STREAM_HEAD]
        for one in streamed(seen.protocol, seen.model, said)[:count]:
            steps += [chunk(one), pause_s]
        last = [chunk(error_event(seen.protocol, "vendor fell over")), b"0\r\n\r\n"] if end == "error" else [end]
        if end == "clean":
            last = [b"0\r\n\r\n"]
        await sends(*steps, *last)(seen, reader, writer)

    return script


# -- what the vendor heard -----------------------------------------------------------------------------------------


@dataclass
class Asked:
    """A request in words that do not depend on its protocol. `calls` and `results` in the order of the wire."""

    system: str = ""
    users: list[str] = field(default_factory=list)
    assistants: list[str] = field(default_factory=list)
    calls: list[tuple[str, str, dict]] = field(default_factory=list)  # id, name, arguments
    results: list[tuple[str, str]] = field(default_factory=list)  # id, text
    seals: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    tools: dict[str, dict] = field(default_factory=dict)  # name -> schema
    maximum: int | None = None
    schema: dict | None = None


def asked(seen: Seen) -> Asked:
    return {
        "openai_chat": _chat_asked,
        "openai_responses": _response_asked,
        "anthropic": _message_asked,
        "gemini": _gemini_asked,
    }[seen.protocol](seen.json)


def _texts(content: str | list | None) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [])


def _chat_asked(sent: dict) -> Asked:
    found = Asked(maximum=sent.get("max_completion_tokens", sent.get("max_tokens")))
    for message in sent["messages"]:
        content = message.get("content")
        match message["role"]:
            case "system" | "developer":
                found.system += _texts(content)
            case "user":
                found.users.append(_texts(content))
                parts = content if isinstance(content, list) else []
                found.images += [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
            case "tool":
                found.results.append((message["tool_call_id"], content))
            case "assistant":
                found.assistants += [content] if content else []
                for detail in message.get("reasoning_details", []):
                    found.seals.append(detail.get("signature") or detail.get("data"))
                found.thoughts += [message["reasoning_content"]] if message.get("reasoning_content") else []
                for call in message.get("tool_calls", []):
                    function = call["function"]
                    found.calls.append((call["id"], function["name"], json.loads(function["arguments"])))
    found.tools = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in sent.get("tools", [])}
    found.schema = sent.get("response_format", {}).get("json_schema", {}).get("schema")
    return found


def _response_asked(sent: dict) -> Asked:
    found = Asked(system=sent.get("instructions", ""), maximum=sent.get("max_output_tokens"))
    for item in sent["input"] if isinstance(sent["input"], list) else [{"role": "user", "content": sent["input"]}]:
        match item:
            case {"role": "assistant"}:
                found.assistants.append(_texts(item["content"]))
            case {"role": "system" | "developer"}:
                found.system += _texts(item["content"])
            case {"role": "user"}:
                found.users.append(_texts(item["content"]))
                parts = item["content"] if isinstance(item["content"], list) else []
                found.images += [part["image_url"] for part in parts if part["type"] == "input_image"]
            case {"type": "function_call"}:
                found.calls.append((item["call_id"], item["name"], json.loads(item["arguments"])))
            case {"type": "function_call_output"}:
                found.results.append((item["call_id"], _texts(item["output"])))
            case {"type": "reasoning"}:
                found.thoughts += [part["text"] for part in item["summary"]]
                found.seals += [item["encrypted_content"]] if item.get("encrypted_content") else []
    found.tools = {tool["name"]: tool["parameters"] for tool in sent.get("tools", []) if tool["type"] == "function"}
    found.schema = sent.get("text", {}).get("format", {}).get("schema")
    return found


def _message_asked(sent: dict) -> Asked:
    found = Asked(system=_texts(sent.get("system")), maximum=sent.get("max_tokens"))
    for message in sent["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts = "".join(block["text"] for block in blocks if block["type"] == "text")
        if texts:
            (found.users if message["role"] == "user" else found.assistants).append(texts)
        for block in blocks:
            match block["type"]:
                case "tool_use":
                    found.calls.append((block["id"], block["name"], block["input"]))
                case "tool_result":
                    found.results.append((block["tool_use_id"], _texts(block.get("content"))))
                case "thinking":
                    found.seals.append(block["signature"])
                    found.thoughts.append(block["thinking"])
                case "redacted_thinking":
                    found.seals.append(block["data"])
                case "image":
                    source = block["source"]
                    found.images.append(source.get("url") or f"data:{source['media_type']};base64,{source['data']}")
    found.tools = {tool["name"]: tool["input_schema"] for tool in sent.get("tools", []) if "input_schema" in tool}
    found.schema = sent.get("output_config", {}).get("format", {}).get("schema")
    return found


def _gemini_asked(sent: dict) -> Asked:
    config = sent.get("generationConfig", {})
    found = Asked(maximum=config.get("maxOutputTokens"), schema=config.get("responseJsonSchema"))
    found.system = _texts(sent.get("systemInstruction", {}).get("parts"))
    for content in sent["contents"]:
        texts = "".join(p["text"] for p in content["parts"] if "text" in p and not p.get("thought"))
        if texts:
            (found.assistants if content.get("role") == "model" else found.users).append(texts)
        for part in content["parts"]:
            if "thoughtSignature" in part:
                found.seals.append(part["thoughtSignature"])
            match part:
                case {"functionCall": call}:
                    found.calls.append((call.get("id"), call["name"], call["args"]))
                case {"functionResponse": result}:
                    response = result["response"]
                    text = response["output"] if set(response) == {"output"} else json.dumps(response)
                    found.results.append((result.get("id"), text))
                case {"text": text, "thought": True}:
                    found.thoughts.append(text)
                case {"inlineData": blob}:
                    found.images.append(f"data:{blob['mimeType']};base64,{blob['data']}")
                case {"fileData": file}:
                    found.images.append(file["fileUri"])
    for tool in sent.get("tools", []):
        for function in tool.get("functionDeclarations", []):
            found.tools[function["name"]] = function.get("parametersJsonSchema", {})
    return found


# -- whether the vendor would take it ------------------------------------------------------------------------------

# What hosts of the chat protocol take beyond OpenAI's own types.
BEYOND = {"stream", "max_tokens", "reasoning_details", "reasoning_content", "extra_content", "top_k"}
# What the vendor gives its own messages, and does not ask back.
LEFT_OUT = {ResponseOutputMessageParam: {"id", "status"}}
PARAMS = {
    ("openai_chat", "generate"): completion_create_params.CompletionCreateParamsBase,
    ("openai_responses", "generate"): response_create_params.ResponseCreateParamsBase,
    ("anthropic", "generate"): message_create_params.MessageCreateParamsBase,
    ("openai_responses", "count"): InputTokenCountParams,
    ("anthropic", "count"): MessageCountTokensParams,
    ("openai_chat", "embed"): EmbeddingCreateParams,
}


def problems(seen: Seen) -> list[str]:
    """Where the body is not what the vendor's SDK could have sent."""
    if seen.protocol == "gemini":
        return _gemini_problems(seen)
    return _unfit(seen.json, PARAMS[seen.protocol, seen.operation], "body")


def _unfit(value: object, kind: object, place: str) -> list[str]:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, TypeAliasType):
        return _unfit(value, kind.__value__, place)
    if kind in (object, typing.Any):
        return []
    if origin in (typing.Annotated, typing.Required, typing.NotRequired):
        return _unfit(value, inner[0], place)
    if origin in (typing.Union, pytypes.UnionType):
        tried = [_unfit(value, one, place) for one in inner]
        if [] in tried:
            return []
        same = [
            found
            for found, one in zip(tried, inner, strict=True)
            if isinstance(value, dict) and is_typeddict(one) and _is_named(value, one)
        ]
        lists = [found for found in tried if isinstance(value, list) and not found[0].endswith(("object", "'str'>"))]
        return min(same or lists or tried, key=len)
    if origin is typing.Literal:
        return [] if value in inner else [f"{place}: {value!r} is none of {inner}"]
    if is_typeddict(kind):
        return _unfit_object(value, kind, place)
    if isinstance(origin, type) and issubclass(origin, dict):
        return [] if isinstance(value, dict) else [f"{place}: no object"]
    if origin is not None and isinstance(origin, type) and issubclass(origin, Iterable | Sequence):
        if not isinstance(value, list):
            return [f"{place}: no list"]
        return [told for i, one in enumerate(value) for told in _unfit(one, inner[0], f"{place}[{i}]")]
    if kind is float:
        return [] if isinstance(value, int | float) and not isinstance(value, bool) else [f"{place}: no number"]
    if isinstance(kind, type):
        is_odd = kind is int and isinstance(value, bool)
        return [] if isinstance(value, kind) and not is_odd else [f"{place}: {type(value).__name__}, not {kind}"]
    return []


def _is_named(value: dict, kind) -> bool:
    hints = typing.get_type_hints(kind)
    tags = [tag for tag in ("type", "role") if tag in hints and tag in value]
    return bool(tags) and all(_unfit(value[tag], hints[tag], "") == [] for tag in tags)


def _unfit_object(value: object, kind, place: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place}: no object"]
    hints = typing.get_type_hints(kind, include_extras=True)
    needed = {name for name, hint in hints.items() if typing.get_origin(hint) is typing.Required}
    needed -= LEFT_OUT.get(kind, set())
    told = [f"{place}: {name} is missing" for name in needed - set(value)]
    for name, one in value.items():
        if name in hints:
            told += _unfit(one, hints[name], f"{place}.{name}")
        elif name not in BEYOND:
            told.append(f"{place}: {name} is unknown to {kind.__name__}")
    return told


TOP = {
    "contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "serviceTier", "safetySettings",
    "cachedContent",
}  # fmt: skip


def _gemini_problems(seen: Seen) -> list[str]:
    """By the SDK's own models, which take no field that they do not know."""
    sent = seen.json
    if seen.operation == "embed":
        return []
    if seen.operation == "count":
        sent = sent["generateContentRequest"]
    told = [f"{name} is unknown" for name in set(sent) - TOP - ({"model"} if seen.operation == "count" else set())]
    checks = [(genai_types.Content, one) for one in sent["contents"]]
    checks += [(genai_types.Tool, one) for one in sent.get("tools", [])]
    checks += [(genai_types.Content, sent["systemInstruction"])] if "systemInstruction" in sent else []
    checks += [(genai_types.ToolConfig, sent["toolConfig"])] if "toolConfig" in sent else []
    checks += [(genai_types.GenerationConfig, sent["generationConfig"])] if "generationConfig" in sent else []
    for kind, value in checks:
        try:
            kind.model_validate(value)
        except ValueError as fault:
            told.append(str(fault))
    return [*told, *(f"{one['role']}: a role" for one in sent["contents"] if one["role"] not in ("user", "model"))]
