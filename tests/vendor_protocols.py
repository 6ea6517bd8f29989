"""The scripted vendor in each protocol: writes one neutral reply, whole or streamed, and reads requests back.

Journeys compare what a client of any protocol receives with the neutral reply, and what the vendor received with the
types of its own SDK.
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
# Providers with one protocol only.
PROVIDERS = {
    "openai_chat": "chat-main",
    "openai_responses": "responses-main",
    "anthropic": "anthropic-main",
    "gemini": "vertex-main",
}
SHORT_TIMEOUTS = ", connect_timeout_s = 2, first_byte_timeout_s = 1.5, idle_timeout_s = 1.5"
CHAT_AND_RESPONSES = """
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


def all_pairs(vendor_url: str, timeouts: str = SHORT_TIMEOUTS) -> str:
    """Returns the journeys' seed with one provider for each protocol."""
    return seed(vendor_url, timeouts) + CHAT_AND_RESPONSES.format(vendor=vendor_url, timeouts=timeouts)


# Tokens of every reply: 16 of input, 4 of them cached; 40 of output, 15 of them for reasoning if there is any.
UNCACHED, CACHED, OUTPUT, REASONING = 12, 4, 40, 15
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
# Gemini's SDK accepts only base64 as a signature.
SIGNATURE = "U0VBTC1vbmUtdHdvLXRocmVl"


@dataclass(frozen=True)
class Call:
    name: str
    arguments: dict
    id: str = "call_up_1"


@dataclass(frozen=True)
class VendorReply:
    """A reply in neutral form.

    `signature` is the value that the vendor requires back in the next turn; `stop` is one of stop, length, tools and
    filtered.
    """

    text: str = ""
    thinking: str = ""
    signature: str = ""
    calls: tuple[Call, ...] = ()
    refusal: str = ""
    image: str = ""
    stop: str = "stop"

    @property
    def stop_reason(self) -> str:
        return "tools" if self.calls and self.stop == "stop" else self.stop

    @property
    def text_parts(self) -> list[str]:
        """The parts in which the text is streamed."""
        half = len(self.text) // 2
        return [part for part in (self.text[:half], self.text[half:]) if part]


def halves(arguments: dict) -> list[str]:
    written = json.dumps(arguments, ensure_ascii=False)
    return [written[: len(written) // 2], written[len(written) // 2 :]]


STOPS = {
    "openai_chat": {"stop": "stop", "length": "length", "tools": "tool_calls", "filtered": "content_filter"},
    "anthropic": {"stop": "end_turn", "length": "max_tokens", "tools": "tool_use", "filtered": "refusal"},
    "gemini": {"stop": "STOP", "length": "MAX_TOKENS", "tools": "STOP", "filtered": "SAFETY"},
}


def usage_block(protocol: str, reply: VendorReply) -> dict:
    reasoning = REASONING if reply.thinking else 0
    prompt = UNCACHED + CACHED
    return {
        "openai_chat": {
            **{"prompt_tokens": prompt, "completion_tokens": OUTPUT, "total_tokens": prompt + OUTPUT},
            "prompt_tokens_details": {"cached_tokens": CACHED},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        },
        "openai_responses": {
            **{"input_tokens": prompt, "output_tokens": OUTPUT, "total_tokens": prompt + OUTPUT},
            "input_tokens_details": {"cached_tokens": CACHED, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": reasoning},
        },
        "anthropic": {
            **{"input_tokens": UNCACHED, "cache_creation_input_tokens": 0, "cache_read_input_tokens": CACHED},
            **{"output_tokens": OUTPUT, "service_tier": "standard"},
        },
        "gemini": {
            **{"promptTokenCount": prompt, "cachedContentTokenCount": CACHED, "totalTokenCount": prompt + OUTPUT},
            **{"candidatesTokenCount": OUTPUT - reasoning, "thoughtsTokenCount": reasoning},
        },
    }[protocol]


# -- whole ---------------------------------------------------------------------------------------------------------


def whole_reply(protocol: str, model: str, reply: VendorReply) -> dict:
    return {"openai_chat": _chat, "openai_responses": _response, "anthropic": _message, "gemini": _gemini}[protocol](
        model, reply
    )


def _chat(model: str, reply: VendorReply) -> dict:
    message: dict = {"role": "assistant", "content": reply.text or None, "refusal": reply.refusal or None}
    if reply.calls:
        message["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": json.dumps(c.arguments)}}
            for c in reply.calls
        ]
    if reply.thinking:
        message["reasoning_content"] = reply.thinking
    if reply.signature:  # as OpenRouter does
        message["reasoning_details"] = [_detail(reply)]
    if reply.image:
        message["images"] = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{reply.image}"}}]
    stop_reason = STOPS["openai_chat"][reply.stop_reason]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": stop_reason}
    head = {"id": "chatcmpl-up", "object": "chat.completion", "created": 1, "model": model}
    return {**head, "choices": [choice], "usage": usage_block("openai_chat", reply)}


def _detail(reply: VendorReply) -> dict:
    form = {"id": "rd_1", "format": "anthropic-claude-v1", "index": 0}
    return {"type": "reasoning.text", "text": reply.thinking, "signature": reply.signature, **form}


def _items(reply: VendorReply) -> list[dict]:
    items: list[dict] = []
    if reply.thinking or reply.signature:
        summary = [{"type": "summary_text", "text": reply.thinking}] if reply.thinking else []
        items.append(
            {"type": "reasoning", "id": "rs_up", "summary": summary, "encrypted_content": reply.signature or None}
        )
    if reply.image:
        items.append({"type": "image_generation_call", "id": "ig_up", "status": "completed", "result": reply.image})
    if reply.text:
        items.append(_item({"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}))
    if reply.refusal:
        items.append(_item({"type": "refusal", "refusal": reply.refusal}))
    for number, call in enumerate(reply.calls):
        function_call = {"type": "function_call", "id": f"fc_up_{number}", "call_id": call.id, "name": call.name}
        items.append({**function_call, "arguments": json.dumps(call.arguments), "status": "completed"})
    return items


def _item(part: dict) -> dict:
    return {"type": "message", "id": "msg_up", "role": "assistant", "status": "completed", "content": [part]}


def _response(model: str, reply: VendorReply) -> dict:
    reason = {"length": "max_output_tokens", "filtered": "content_filter"}.get(reply.stop)
    return {
        **{"id": "resp_up", "object": "response", "created_at": 1, "model": model},
        **{"status": "incomplete" if reason else "completed", "error": None, "instructions": None, "metadata": {}},
        **{"incomplete_details": {"reason": reason} if reason else None, "tools": [], "tool_choice": "auto"},
        **{"parallel_tool_calls": True, "temperature": 1.0, "top_p": 1.0},
        **{"output": _items(reply), "usage": usage_block("openai_responses", reply)},
    }


def _blocks(reply: VendorReply) -> list[dict]:
    blocks: list[dict] = []
    if reply.thinking:
        blocks.append({"type": "thinking", "thinking": reply.thinking, "signature": reply.signature})
    elif reply.signature:
        blocks.append({"type": "redacted_thinking", "data": reply.signature})
    if reply.text or reply.refusal:
        blocks.append({"type": "text", "text": reply.text or reply.refusal})
    blocks += [{"type": "tool_use", "id": c.id, "name": c.name, "input": c.arguments} for c in reply.calls]
    return blocks


def _message(model: str, reply: VendorReply) -> dict:
    head = {"id": "msg_up", "type": "message", "role": "assistant", "model": model, "content": _blocks(reply)}
    stop = {"stop_reason": STOPS["anthropic"][reply.stop_reason], "stop_sequence": None}
    return {**head, **stop, "usage": usage_block("anthropic", reply)}


def _parts(reply: VendorReply) -> list[dict]:
    """The signature is on the first call, or else on the last text. Calls have no ids."""
    parts: list[dict] = []
    if reply.thinking:
        parts.append({"text": reply.thinking, "thought": True})
    parts += [{"text": text} for text in (reply.text_parts or ([reply.refusal] if reply.refusal else []))]
    if reply.image:
        parts.append({"inlineData": {"mimeType": "image/png", "data": reply.image}})
    calls = [{"functionCall": {"name": c.name, "args": c.arguments}} for c in reply.calls]
    if reply.signature and calls:
        calls[0]["thoughtSignature"] = reply.signature
    elif reply.signature and parts:
        parts[-1]["thoughtSignature"] = reply.signature
    return parts + calls


def _gemini(model: str, reply: VendorReply, parts: list[dict] | None = None, is_last: bool = True) -> dict:
    parts = _parts(reply) if parts is None else parts
    candidate: dict = {"content": {"role": "model", "parts": parts}, "index": 0}
    if is_last:
        candidate["finishReason"] = STOPS["gemini"][reply.stop_reason]
    counts = usage_block("gemini", reply) if is_last else {"promptTokenCount": UNCACHED + CACHED}
    return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": model, "responseId": "resp-up-1"}


# -- streamed ------------------------------------------------------------------------------------------------------


def reply_events(protocol: str, model: str, reply: VendorReply) -> list[bytes]:
    return {
        "openai_chat": _chat_events,
        "openai_responses": _response_events,
        "anthropic": _message_events,
        "gemini": _gemini_events,
    }[protocol](model, reply)


def _chat_events(model: str, reply: VendorReply) -> list[bytes]:
    base = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 1, "model": model}

    def frame(delta: dict, finish: str | None = None) -> bytes:
        return event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    events = [frame({"role": "assistant", "content": ""})]
    if reply.thinking:
        events.append(frame({"reasoning_content": reply.thinking}))
    if reply.signature:
        events.append(frame({"reasoning_details": [_detail(reply)]}))
    events += [frame({"content": part}) for part in reply.text_parts]
    if reply.refusal:
        events.append(frame({"refusal": reply.refusal}))
    if reply.image:
        events.append(frame({"images": _chat(model, reply)["choices"][0]["message"]["images"]}))
    for index, call in enumerate(reply.calls):
        start = {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        events.append(frame({"tool_calls": [start]}))
        events += [
            frame({"tool_calls": [{"index": index, "function": {"arguments": half}}]})
            for half in halves(call.arguments)
        ]
    events.append(frame({}, STOPS["openai_chat"][reply.stop_reason]))
    events.append(event({**base, "choices": [], "usage": usage_block("openai_chat", reply)}))
    return [*events, b"data: [DONE]\n\n"]


def _response_events(model: str, reply: VendorReply) -> list[bytes]:
    response = _response(model, reply)
    start = {**response, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    steps: list[tuple[str, dict]] = [("created", {"response": start}), ("in_progress", {"response": start})]
    for number, item in enumerate(response["output"]):
        at = {"output_index": number, "item_id": item["id"]}
        blank = {"content": [], "summary": [], "arguments": "", "result": None}
        start_item = {**item, "status": "in_progress"} | {k: v for k, v in blank.items() if k in item}
        steps.append(("output_item.added", {"output_index": number, "item": start_item}))
        steps += _item_events(item, at)
        steps.append(("output_item.done", {"output_index": number, "item": item}))
    steps.append((response["status"], {"response": response}))
    return [
        event({"type": f"response.{name}", "sequence_number": n, **data}, f"response.{name}")
        for n, (name, data) in enumerate(steps)
    ]


def _item_events(item: dict, at: dict) -> list[tuple[str, dict]]:
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
                ("function_call_arguments.delta", {**at, "delta": half})
                for half in halves(json.loads(item["arguments"]))
            ),
            ("function_call_arguments.done", {**at, "arguments": item["arguments"], "name": item["name"]}),
        ]
    if item["type"] != "message":
        return []
    at, part = {**at, "content_index": 0}, item["content"][0]
    if part["type"] == "refusal":
        events = [
            ("refusal.delta", {**at, "delta": part["refusal"]}),
            ("refusal.done", {**at, "refusal": part["refusal"]}),
        ]
    else:
        deltas = [
            ("output_text.delta", {**at, "delta": text, "logprobs": []})
            for text in VendorReply(part["text"]).text_parts
        ]
        events = [*deltas, ("output_text.done", {**at, "text": part["text"], "logprobs": []})]
    blank = {**part, "text": ""} if "text" in part else {**part, "refusal": ""}
    return [("content_part.added", {**at, "part": blank}), *events, ("content_part.done", {**at, "part": part})]


def _message_events(model: str, reply: VendorReply) -> list[bytes]:
    message = _message(model, reply)
    counts = message["usage"]
    start = {**message, "content": [], "stop_reason": None, "usage": {**counts, "output_tokens": 1}}
    steps: list[tuple[str, dict]] = [("message_start", {"message": start})]
    for number, block in enumerate(message["content"]):
        blank = {"text": "", "thinking": "", "signature": "", "input": {}}
        start_block = {k: blank.get(k, v) if k != "type" else v for k, v in block.items()}
        steps.append(("content_block_start", {"index": number, "content_block": start_block}))
        deltas = {
            "text": [{"type": "text_delta", "text": text} for text in VendorReply(block.get("text", "")).text_parts],
            "thinking": [
                {"type": "thinking_delta", "thinking": block.get("thinking")},
                {"type": "signature_delta", "signature": block.get("signature")},
            ],
            "tool_use": [{"type": "input_json_delta", "partial_json": p} for p in halves(block.get("input", {}))],
        }.get(block["type"], [])
        steps += [("content_block_delta", {"index": number, "delta": delta}) for delta in deltas]
        steps += [("ping", {}), ("content_block_stop", {"index": number})]
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    steps += [("message_delta", {"delta": delta, "usage": {"output_tokens": OUTPUT}}), ("message_stop", {})]
    return [event({"type": name, **data}, name) for name, data in steps]


def _gemini_events(model: str, reply: VendorReply) -> list[bytes]:
    parts = _parts(reply) or [{"text": ""}]
    return [event(_gemini(model, reply, [part], part is parts[-1])) for part in parts]


# -- errors --------------------------------------------------------------------------------------------------------

ERROR_TYPES = {
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


def error_body(protocol: str, status: int, message: str) -> dict:
    """Returns the vendor's own error body."""
    if protocol == "anthropic":
        inner = {"type": ERROR_TYPES["anthropic"][status], "message": message}
        return {"type": "error", "error": inner, "request_id": "req_up"}
    if protocol == "gemini":
        return {"error": {"code": status, "message": message, "status": ERROR_TYPES["gemini"][status]}}
    return {"error": {"message": message, "type": ERROR_TYPES["openai"][status], "param": None, "code": None}}


def error_event(protocol: str, message: str) -> bytes:
    """Returns the event by which the vendor reports an error in a stream."""
    if protocol == "anthropic":
        return event(error_body(protocol, 529, message), "error")
    if protocol == "openai_responses":
        return event({"type": "error", "sequence_number": 9, "code": "server_error", "message": message}, "error")
    return event(error_body(protocol, 500, message))


# -- scripts -------------------------------------------------------------------------------------------------------


def replies_with(
    reply: VendorReply, *later: tuple[bytes, VendorReply], headers: dict[str, str] | None = None
) -> Script:
    """Sends the reply, whole or streamed, or the last of `later` whose bytes are in the request body."""

    async def script(seen, reader, writer):
        chosen = reply
        for content, other in later:
            chosen = other if content in seen.body else chosen
        if not seen.is_stream:
            writer.write(body(200, dumps(whole_reply(seen.protocol, seen.model, chosen)), headers))
            return
        writer.write(STREAM_HEAD)
        for frame in reply_events(seen.protocol, seen.model, chosen):
            writer.write(chunk(frame))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    return script


def answers_error(status: int, message: str, headers: dict[str, str] | None = None) -> Script:
    async def script(seen, reader, writer):
        writer.write(body(status, dumps(error_body(seen.protocol, status, message)), headers))

    return script


def breaks_after(reply: VendorReply, count: int, end: str, pause_s: float = 0.0) -> Script:
    """Sends the first `count` events of the reply's stream, then the end: `"error"`, `"clean"` or one of `sends`."""

    async def script(seen, reader, writer):
        steps: list[bytes | float] = [STREAM_HEAD]
        for frame in reply_events(seen.protocol, seen.model, reply)[:count]:
            steps += [chunk(frame), pause_s]
        last = [chunk(error_event(seen.protocol, "vendor fell over")), b"0\r\n\r\n"] if end == "error" else [end]
        if end == "clean":
            last = [b"0\r\n\r\n"]
        await sends(*steps, *last)(seen, reader, writer)

    return script


# -- received requests ---------------------------------------------------------------------------------------------


@dataclass
class ReceivedRequest:
    """A request in neutral form. `calls` and `results` are in the order of the body."""

    system: str = ""
    users: list[str] = field(default_factory=list)
    assistants: list[str] = field(default_factory=list)
    calls: list[tuple[str, str, dict]] = field(default_factory=list)  # id, name, arguments
    results: list[tuple[str, str]] = field(default_factory=list)  # id, text
    signatures: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    tools: dict[str, dict] = field(default_factory=dict)  # name -> schema
    maximum: int | None = None
    schema: dict | None = None


def parse_request(seen: Seen) -> ReceivedRequest:
    return {
        "openai_chat": _parse_chat,
        "openai_responses": _parse_response,
        "anthropic": _parse_message,
        "gemini": _parse_gemini,
    }[seen.protocol](seen.json)


def _texts(content: str | list | None) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or [])


def _parse_chat(body: dict) -> ReceivedRequest:
    request = ReceivedRequest(maximum=body.get("max_completion_tokens", body.get("max_tokens")))
    for message in body["messages"]:
        content = message.get("content")
        match message["role"]:
            case "system" | "developer":
                request.system += _texts(content)
            case "user":
                request.users.append(_texts(content))
                parts = content if isinstance(content, list) else []
                request.images += [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
            case "tool":
                request.results.append((message["tool_call_id"], content))
            case "assistant":
                request.assistants += [content] if content else []
                for detail in message.get("reasoning_details", []):
                    request.signatures.append(detail.get("signature") or detail.get("data"))
                request.thinking += [message["reasoning_content"]] if message.get("reasoning_content") else []
                for call in message.get("tool_calls", []):
                    function = call["function"]
                    request.calls.append((call["id"], function["name"], json.loads(function["arguments"])))
    request.tools = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in body.get("tools", [])}
    request.schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    return request


def _parse_response(body: dict) -> ReceivedRequest:
    request = ReceivedRequest(system=body.get("instructions", ""), maximum=body.get("max_output_tokens"))
    for item in body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]:
        match item:
            case {"role": "assistant"}:
                request.assistants.append(_texts(item["content"]))
            case {"role": "system" | "developer"}:
                request.system += _texts(item["content"])
            case {"role": "user"}:
                request.users.append(_texts(item["content"]))
                parts = item["content"] if isinstance(item["content"], list) else []
                request.images += [part["image_url"] for part in parts if part["type"] == "input_image"]
            case {"type": "function_call"}:
                request.calls.append((item["call_id"], item["name"], json.loads(item["arguments"])))
            case {"type": "function_call_output"}:
                request.results.append((item["call_id"], _texts(item["output"])))
            case {"type": "reasoning"}:
                request.thinking += [part["text"] for part in item["summary"]]
                request.signatures += [item["encrypted_content"]] if item.get("encrypted_content") else []
    request.tools = {tool["name"]: tool["parameters"] for tool in body.get("tools", []) if tool["type"] == "function"}
    request.schema = body.get("text", {}).get("format", {}).get("schema")
    return request


def _parse_message(body: dict) -> ReceivedRequest:
    request = ReceivedRequest(system=_texts(body.get("system")), maximum=body.get("max_tokens"))
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        texts = "".join(block["text"] for block in blocks if block["type"] == "text")
        if texts:
            (request.users if message["role"] == "user" else request.assistants).append(texts)
        for block in blocks:
            match block["type"]:
                case "tool_use":
                    request.calls.append((block["id"], block["name"], block["input"]))
                case "tool_result":
                    request.results.append((block["tool_use_id"], _texts(block.get("content"))))
                case "thinking":
                    request.signatures.append(block["signature"])
                    request.thinking.append(block["thinking"])
                case "redacted_thinking":
                    request.signatures.append(block["data"])
                case "image":
                    source = block["source"]
                    request.images.append(source.get("url") or f"data:{source['media_type']};base64,{source['data']}")
    request.tools = {tool["name"]: tool["input_schema"] for tool in body.get("tools", []) if "input_schema" in tool}
    request.schema = body.get("output_config", {}).get("format", {}).get("schema")
    return request


def _parse_gemini(body: dict) -> ReceivedRequest:
    config = body.get("generationConfig", {})
    request = ReceivedRequest(maximum=config.get("maxOutputTokens"), schema=config.get("responseJsonSchema"))
    request.system = _texts(body.get("systemInstruction", {}).get("parts"))
    for content in body["contents"]:
        texts = "".join(p["text"] for p in content["parts"] if "text" in p and not p.get("thought"))
        if texts:
            (request.assistants if content.get("role") == "model" else request.users).append(texts)
        for part in content["parts"]:
            if "thoughtSignature" in part:
                request.signatures.append(part["thoughtSignature"])
            match part:
                case {"functionCall": call}:
                    request.calls.append((call.get("id"), call["name"], call["args"]))
                case {"functionResponse": result}:
                    response = result["response"]
                    text = response["output"] if set(response) == {"output"} else json.dumps(response)
                    request.results.append((result.get("id"), text))
                case {"text": text, "thought": True}:
                    request.thinking.append(text)
                case {"inlineData": blob}:
                    request.images.append(f"data:{blob['mimeType']};base64,{blob['data']}")
                case {"fileData": file}:
                    request.images.append(file["fileUri"])
    for tool in body.get("tools", []):
        for function in tool.get("functionDeclarations", []):
            request.tools[function["name"]] = function.get("parametersJsonSchema", {})
    return request


# -- whether the vendor would accept a request ---------------------------------------------------------------------

# Fields that hosts of the chat protocol accept beyond OpenAI's own types.
COMPATIBLE_FIELDS = {"stream", "max_tokens", "reasoning_details", "reasoning_content", "extra_content", "top_k"}
# Required fields of the vendor's own messages that it does not require in a request.
OMITTED_BY_CLIENTS = {ResponseOutputMessageParam: {"id", "status"}}
PARAMS = {
    ("openai_chat", "generate"): completion_create_params.CompletionCreateParamsBase,
    ("openai_responses", "generate"): response_create_params.ResponseCreateParamsBase,
    ("anthropic", "generate"): message_create_params.MessageCreateParamsBase,
    ("openai_responses", "count"): InputTokenCountParams,
    ("anthropic", "count"): MessageCountTokensParams,
    ("openai_chat", "embed"): EmbeddingCreateParams,
}


def schema_errors(seen: Seen) -> list[str]:
    """Returns the differences between the body and the types of the vendor's SDK."""
    if seen.protocol == "gemini":
        return _gemini_schema_errors(seen)
    return _type_errors(seen.json, PARAMS[seen.protocol, seen.operation], "body")


def _type_errors(value: object, kind: object, place: str) -> list[str]:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, TypeAliasType):
        return _type_errors(value, kind.__value__, place)
    if kind in (object, typing.Any):
        return []
    if origin in (typing.Annotated, typing.Required, typing.NotRequired):
        return _type_errors(value, inner[0], place)
    if origin in (typing.Union, pytypes.UnionType):
        tried = [_type_errors(value, option, place) for option in inner]
        if [] in tried:
            return []
        same = [
            errors
            for errors, option in zip(tried, inner, strict=True)
            if isinstance(value, dict) and is_typeddict(option) and _has_tag(value, option)
        ]
        lists = [errors for errors in tried if isinstance(value, list) and not errors[0].endswith(("object", "'str'>"))]
        return min(same or lists or tried, key=len)
    if origin is typing.Literal:
        return [] if value in inner else [f"{place}: {value!r} is not one of {inner}"]
    if is_typeddict(kind):
        return _object_errors(value, kind, place)
    if isinstance(origin, type) and issubclass(origin, dict):
        return [] if isinstance(value, dict) else [f"{place}: no object"]
    if origin is not None and isinstance(origin, type) and issubclass(origin, Iterable | Sequence):
        if not isinstance(value, list):
            return [f"{place}: no list"]
        return [error for i, item in enumerate(value) for error in _type_errors(item, inner[0], f"{place}[{i}]")]
    if kind is float:
        return [] if isinstance(value, int | float) and not isinstance(value, bool) else [f"{place}: no number"]
    if isinstance(kind, type):
        is_odd = kind is int and isinstance(value, bool)
        return [] if isinstance(value, kind) and not is_odd else [f"{place}: {type(value).__name__}, not {kind}"]
    return []


def _has_tag(value: dict, kind) -> bool:
    hints = typing.get_type_hints(kind)
    tags = [tag for tag in ("type", "role") if tag in hints and tag in value]
    return bool(tags) and all(_type_errors(value[tag], hints[tag], "") == [] for tag in tags)


def _object_errors(value: object, kind, place: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{place}: no object"]
    hints = typing.get_type_hints(kind, include_extras=True)
    required = {name for name, hint in hints.items() if typing.get_origin(hint) is typing.Required}
    required -= OMITTED_BY_CLIENTS.get(kind, set())
    errors = [f"{place}: {name} is missing" for name in required - set(value)]
    for name, field_value in value.items():
        if name in hints:
            errors += _type_errors(field_value, hints[name], f"{place}.{name}")
        elif name not in COMPATIBLE_FIELDS:
            errors.append(f"{place}: {name} is unknown to {kind.__name__}")
    return errors


GEMINI_FIELDS = {
    "contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "serviceTier", "safetySettings",
    "cachedContent",
}  # fmt: skip


def _gemini_schema_errors(seen: Seen) -> list[str]:
    """Checks the body by the SDK's own models, which reject unknown fields."""
    body = seen.json
    if seen.operation == "embed":
        return []
    if seen.operation == "count":
        body = body["generateContentRequest"]
    errors = [
        f"{name} is unknown" for name in set(body) - GEMINI_FIELDS - ({"model"} if seen.operation == "count" else set())
    ]
    checks = [(genai_types.Content, one) for one in body["contents"]]
    checks += [(genai_types.Tool, one) for one in body.get("tools", [])]
    checks += [(genai_types.Content, body["systemInstruction"])] if "systemInstruction" in body else []
    checks += [(genai_types.ToolConfig, body["toolConfig"])] if "toolConfig" in body else []
    checks += [(genai_types.GenerationConfig, body["generationConfig"])] if "generationConfig" in body else []
    for kind, value in checks:
        try:
            kind.model_validate(value)
        except ValueError as error:
            errors.append(str(error))
    return [*errors, *(f"{one['role']}: a role" for one in body["contents"] if one["role"] not in ("user", "model"))]
