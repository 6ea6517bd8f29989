"""A scripted vendor on a real port: answers in four protocols, and misbehaves where a script says so.

It runs on a thread of its own. A script is chosen by the model name of a request; without one a request is answered
faithfully, whole or streamed.
"""

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

WORDS = ("Hello", " there", ",", " friend", "!")
PROMPT_TOKENS, COMPLETION_TOKENS = 12, 40
DROP = -1


@dataclass
class Seen:
    """One request as the vendor saw it."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    at: float
    closed_at: float | None = None  # when the gateway closed the connection on us
    error: list[BaseException] = field(default_factory=list)

    @property
    def json(self) -> dict:
        return json.loads(self.body) if self.body else {}

    @property
    def model(self) -> str:
        """The model name, by which a script is chosen; for a form the path."""
        if self.headers.get("content-type") == "application/x-www-form-urlencoded":
            return self.path
        if "/models/" in self.path:
            return self.path.partition("/models/")[2].rpartition(":")[0] or self.path.partition("/models/")[2]
        return str(self.json.get("model", "")) if self.body else ""

    @property
    def protocol(self) -> str:
        if self.path.endswith(("/messages", "/messages/count_tokens")):
            return "anthropic"
        if self.path.endswith(("/responses", "/responses/input_tokens")):
            return "openai_responses"
        return "gemini" if "/v1beta" in self.path else "openai_chat"

    @property
    def operation(self) -> str:
        if self.path.endswith(("/count_tokens", "/input_tokens", ":countTokens")):
            return "count"
        return "embed" if self.path.endswith(("/embeddings", ":embedContent", ":batchEmbedContents")) else "generate"

    @property
    def is_stream(self) -> bool:
        return ":streamGenerateContent" in self.path or (bool(self.body) and self.json.get("stream") is True)


Script = Callable[[Seen, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def dumps(value) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def usage(protocol: str) -> dict:
    sent, made = PROMPT_TOKENS, COMPLETION_TOKENS
    return {
        "openai_chat": {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made},
        "openai_responses": {
            "input_tokens": sent,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": sent + made,
        },
        "anthropic": {"input_tokens": sent, "output_tokens": made},
        "gemini": {"promptTokenCount": sent, "candidatesTokenCount": made, "totalTokenCount": sent + made},
    }[protocol]


def whole(protocol: str, model: str) -> dict:
    """A whole reply, with a field that no SDK knows."""
    text, novel = "".join(WORDS), {"x_novel": {"kept": True}}
    if protocol == "openai_chat":
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}
        return {**head, "choices": [choice], "usage": usage(protocol), **novel}
    if protocol == "openai_responses":
        part = {"type": "output_text", "text": text, "annotations": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
        return {
            **{"id": "resp_1", "object": "response", "created_at": 1, "model": model, "status": "completed"},
            **{"error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "tools": []},
            **{"parallel_tool_calls": True, "tool_choice": "auto", "temperature": 1.0, "top_p": 1.0},
            **{"output": [item], "usage": usage(protocol)},
            **novel,
        }
    if protocol == "anthropic":
        content = [{"type": "text", "text": text}]
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": content}
        return {**head, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage(protocol), **novel}
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP", "index": 0}
    return {"candidates": [candidate], "usageMetadata": usage(protocol), "modelVersion": model, **novel}


def event(data: dict, name: str | None = None) -> bytes:
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + dumps(data) + b"\n\n"


def events(protocol: str, model: str, has_usage: bool = True) -> list[bytes]:
    """A whole stream, event by event."""
    if protocol == "openai_chat":
        base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}

        def chunk(delta, finish=None):
            return event({**base, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        found = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": word}) for word in WORDS)]
        found.append(chunk({}, "stop"))
        if has_usage:
            found.append(event({**base, "choices": [], "usage": usage(protocol)}))
        return [*found, b"data: [DONE]\n\n"]
    if protocol == "openai_responses":
        done = whole(protocol, model)
        at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        item, part = done["output"][0], done["output"][0]["content"][0]
        start = {**done, "status": "in_progress", "output": [], "usage": None}
        steps = [
            ("response.created", {"response": start}),
            ("response.in_progress", {"response": start}),
            (
                "response.output_item.added",
                {"output_index": 0, "item": {**item, "status": "in_progress", "content": []}},
            ),
            ("response.content_part.added", {**at, "part": {**part, "text": ""}}),
            *(("response.output_text.delta", {**at, "delta": word, "logprobs": []}) for word in WORDS),
            ("response.output_text.done", {**at, "text": part["text"], "logprobs": []}),
            ("response.content_part.done", {**at, "part": part}),
            ("response.output_item.done", {"output_index": 0, "item": item}),
            ("response.completed", {"response": done}),
        ]
        return [event({"type": name, "sequence_number": n, **data}, name) for n, (name, data) in enumerate(steps)]
    if protocol == "anthropic":
        done = whole(protocol, model)
        start = {
            **done,
            "content": [],
            "stop_reason": None,
            "usage": {"input_tokens": PROMPT_TOKENS, "output_tokens": 1},
        }
        steps = [
            ("message_start", {"message": start}),
            ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
            ("ping", {}),
            *(("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": word}}) for word in WORDS),
            ("content_block_stop", {"index": 0}),
            (
                "message_delta",
                {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 40}},
            ),
            ("message_stop", {}),
        ]
        return [event({"type": name, **data}, name) for name, data in steps]
    found = []
    for n, word in enumerate(WORDS, 1):
        candidate = {"content": {"role": "model", "parts": [{"text": word}]}, "index": 0}
        counts = usage(protocol) if n == len(WORDS) else {"promptTokenCount": PROMPT_TOKENS, "candidatesTokenCount": n}
        if n == len(WORDS):
            candidate["finishReason"] = "STOP"
        found.append(event({"candidates": [candidate], "usageMetadata": counts, "modelVersion": model}))
    return found


def error(protocol: str, status: int, message: str) -> dict:
    """The vendor's own error body."""
    if protocol == "anthropic":
        return {"type": "error", "error": {"type": "rate_limit_error", "message": message}, "request_id": "req_up"}
    if protocol == "gemini":
        return {"error": {"code": status, "message": message, "status": "RESOURCE_EXHAUSTED"}}
    return {"error": {"message": message, "type": "rate_limit_error", "param": None, "code": "rate_limit"}}


def counted(protocol: str) -> dict:
    """Returns the reply to a token count."""
    if protocol == "gemini":
        return {"totalTokens": PROMPT_TOKENS}
    named = {"object": "response.input_tokens"} if protocol == "openai_responses" else {}
    return {**named, "input_tokens": PROMPT_TOKENS}


def vector(text: str) -> list[float]:
    """Returns floats that four bytes represent exactly."""
    return [float(len(text)), 0.5, -0.25]


def embedded(seen: "Seen") -> dict:
    if seen.path.endswith(":embedContent"):
        return {"embedding": {"values": vector(seen.json["content"]["parts"][0]["text"])}}
    if seen.path.endswith(":batchEmbedContents"):
        texts = [one["content"]["parts"][0]["text"] for one in seen.json["requests"]]
        return {"embeddings": [{"values": vector(text)} for text in texts]}
    given = seen.json["input"]
    texts = [given] if isinstance(given, str) else given
    rows = [{"object": "embedding", "index": i, "embedding": vector(text)} for i, text in enumerate(texts)]
    usage = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS}
    return {"object": "list", "data": rows, "model": seen.model, "usage": usage}


def head(status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in (headers or {}).items()), "", ""]
    return "\r\n".join(lines).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM_HEAD = head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked", "x-request-id": "req_up"})


def body(status: int, data: bytes, headers: dict[str, str] | None = None) -> bytes:
    framing = {"Content-Type": "application/json", "Content-Length": str(len(data)), "x-request-id": "req_up"}
    return head(status, {**framing, **(headers or {})}) + data


async def faithful(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if seen.method == "GET":
        writer.write(body(200, dumps(models(seen))))
    elif seen.operation != "generate":
        writer.write(body(200, dumps(counted(seen.protocol) if seen.operation == "count" else embedded(seen))))
    elif not seen.is_stream:
        writer.write(body(200, dumps(whole(seen.protocol, seen.model))))
    else:
        has_usage = bool((seen.json.get("stream_options") or {}).get("include_usage"))
        writer.write(STREAM_HEAD)
        for one in events(seen.protocol, seen.model, has_usage):
            writer.write(chunk(one))
            await writer.drain()
        writer.write(b"0\r\n\r\n")


def models(seen: Seen) -> dict:
    if seen.path.startswith("/v1beta1/publishers/"):
        return {"publisherModels": [{"name": "publishers/google/models/gemini-2.5-pro", "versionId": "default"}]}
    if "/v1beta/" in seen.path:
        return {"models": [{"name": "models/gemini-1.5-flash", "displayName": "Flash", "inputTokenLimit": 1000}]}
    if "anthropic-version" in seen.headers:
        row = {"type": "model", "id": "claude-3-5-sonnet-latest", "display_name": "Sonnet"}
        return {"data": [{**row, "created_at": "2024-10-22T00:00:00Z"}], "has_more": False}
    return {"object": "list", "data": [{"id": "gpt-4.1-mini", "object": "model", "created": 7, "owned_by": "openai"}]}


def answers(status: int, data: bytes, headers: dict[str, str] | None = None) -> Script:
    """The same answer to every request."""

    async def script(seen, reader, writer):
        writer.write(body(status, data, headers))

    return script


def refuses(status: int, message: str, headers: dict[str, str] | None = None) -> Script:
    async def script(seen, reader, writer):
        writer.write(body(status, dumps(error(seen.protocol, status, message)), headers))

    return script


def sends(*steps: bytes | float | str) -> Script:
    """Raw bytes, pauses in seconds, and how it ends: `"hang"`, `"reset"` or `"close"`."""

    async def script(seen, reader, writer):
        for step in steps:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, float | int):
                await asyncio.sleep(step)
            elif step == "hang":
                await wait_for_disconnect(seen, reader)
                return
            elif step == "reset":
                linger = socket.SO_LINGER
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, linger, b"\1\0\0\0\0\0\0\0")
                writer.transport.abort()
                return
            else:
                writer.close()
                return

    return script


def streams(count: int | None, end: str, pause_s: float = 0.0, first: bytes = b"") -> Script:
    """The first `count` events of a faithful stream, then an end of its own."""

    async def script(seen, reader, writer):
        writer.write(STREAM_HEAD + (chunk(first) if first else b""))
        for one in events(seen.protocol, seen.model)[:count]:
            writer.write(chunk(one))
            await writer.drain()
            if pause_s:
                await asyncio.sleep(pause_s)
        if end == "clean":
            writer.write(b"0\r\n\r\n")
        else:
            await sends(end)(seen, reader, writer)

    return script


async def wait_for_disconnect(seen: Seen, reader: asyncio.StreamReader) -> None:
    """Waits until the gateway closes the connection, and notes when."""
    try:
        await reader.read(1)
    except OSError as fault:
        seen.error.append(fault)
    seen.closed_at = time.monotonic()


class Vendor:
    """`seen` has every request; `scripts` maps a model name to the function that answers it."""

    def __init__(self, tls: ssl.SSLContext | None = None):
        self._tls = tls
        self.seen: list[Seen] = []
        self.scripts: dict[str, Script] = {}
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def received(self, model: str) -> list[Seen]:
        return [seen for seen in list(self.seen) if seen.model == model]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        start = asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=2048, limit=2**24, ssl=self._tls)
        server = self._loop.run_until_complete(start)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while seen := await self._read(reader):
                self.seen.append(seen)
                await self.scripts.get(seen.model, faithful)(seen, reader, writer)
                await writer.drain()
                if writer.is_closing():
                    return
        except (OSError, asyncio.IncompleteReadError) as fault:
            if self.seen:
                self.seen[-1].error.append(fault)
        except asyncio.CancelledError:
            writer.transport.abort()  # nobody is left to end a TLS connection with
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Seen | None:
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = raw.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        size = int(headers.get("content-length", 0))
        data = await reader.readexactly(size) if size else b""
        path, _, query = target.partition("?")
        return Seen(method, path, query, headers, data, time.monotonic())
