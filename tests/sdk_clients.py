"""The vendors' SDKs behind one interface: send a request, read the reply, send it back in the next turn."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import anthropic
import openai
from anthropic._exceptions import OverloadedError
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types
from openai.lib.streaming.chat import ChatCompletionStreamState

from tests.gateway import ADMIN

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ZONE = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}
EXCEPTIONS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    429: "RateLimitError",
    500: "InternalServerError",
    529: "InternalServerError",
}
TOOLS = (("get_weather", "How the weather is.", CITY), ("get_time", "How late it is.", ZONE))


@dataclass
class SdkReply:
    """A reply as an SDK read it. `stop` is one of stop, length, tools and filtered; `raw` is the SDK's own object."""

    text: str = ""
    refusal: str = ""
    thinking: str = ""
    calls: list[tuple[str, dict]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    stop: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    model: str = ""
    raw: object = None


def header_hooks(headers: dict) -> dict:
    """Returns event hooks of an HTTP client that store the headers of each response under lower-case names."""

    def store(response) -> None:
        headers.clear()
        headers.update({name.lower(): value for name, value in response.headers.items()})

    return {"response": [store]}


class Chat:
    name, base = "openai_chat", "/v1"
    stops = {"stop": "stop", "length": "length", "tool_calls": "tools", "content_filter": "filtered"}

    def __init__(self, url: str):
        self.headers: dict = {}  # of the newest response
        http = openai.DefaultHttpxClient(event_hooks=header_hooks(self.headers))
        self.sdk = openai.OpenAI(base_url=url + self.base, api_key=ADMIN, max_retries=0, http_client=http)

    def close(self) -> None:
        self.sdk.close()

    def exception(self, status: int) -> type[Exception]:
        return getattr(openai, EXCEPTIONS[status])

    def stream_text(self, model: str) -> Iterator[str]:
        """Yields the text deltas of a stream without tools."""
        chunks = self.sdk.chat.completions.create(model=model, messages=self.first_turn("Hello"), stream=True)
        for chunk in chunks:
            yield from (choice.delta.content for choice in chunk.choices if choice.delta.content)

    def first_turn(self, text: str) -> list:
        return [{"role": "user", "content": text}]

    def send(self, model: str, history: list, tools=(), is_streamed: bool = False, **options) -> SdkReply:
        if tools:
            functions = [{"name": name, "description": about, "parameters": schema} for name, about, schema in tools]
            options["tools"] = [{"type": "function", "function": function} for function in functions]
        if not is_streamed:
            return self.read(self.sdk.chat.completions.create(model=model, messages=history, **options))
        state, stream_options = ChatCompletionStreamState(), {"include_usage": True}
        chunks = self.sdk.chat.completions.create(
            model=model, messages=history, stream=True, stream_options=stream_options, **options
        )
        for chunk in chunks:
            state.handle_chunk(chunk)
        # Not the final completion: it raises where the model did not finish.
        return self.read(state.current_completion_snapshot)

    def read(self, reply) -> SdkReply:
        choice, counts = reply.choices[0], reply.usage
        message = choice.message
        calls = message.tool_calls or []
        return SdkReply(
            text=message.content or "",
            refusal=message.refusal or "",
            thinking=getattr(message, "reasoning_content", None) or "",
            calls=[(call.function.name, json.loads(call.function.arguments)) for call in calls],
            ids=[call.id for call in calls],
            images=[image["image_url"]["url"] for image in getattr(message, "images", None) or []],
            stop=self.stops[choice.finish_reason],
            prompt_tokens=counts.prompt_tokens,
            cached_tokens=counts.prompt_tokens_details.cached_tokens,
            output_tokens=counts.completion_tokens,
            model=reply.model,
            raw=message,
        )

    def echo(self, reply: SdkReply, results: list[str]) -> list:
        """Returns the next turns: the reply with all its fields, and the results of its calls."""
        return [reply.raw.model_dump(), *self._results(reply, results)]

    def echo_without_reasoning(self, reply: SdkReply, results: list[str]) -> list:
        """Returns the next turns: the reply with the fields of OpenAI's own types, and the results of its calls."""
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": args}}
            for call in reply.raw.tool_calls or []
            for args in [call.function.arguments]
        ]
        message = {"role": "assistant", "content": reply.text or None, "tool_calls": calls}
        return [message, *self._results(reply, results)]

    def _results(self, reply: SdkReply, results: list[str]) -> list:
        return [
            {"role": "tool", "tool_call_id": call_id, "content": text}
            for call_id, text in zip(reply.ids, results, strict=True)
        ]


class Responses(Chat):
    name = "openai_responses"

    def stream_text(self, model: str) -> Iterator[str]:
        for event in self.sdk.responses.create(model=model, input="Hello", stream=True):
            if event.type == "response.output_text.delta":
                yield event.delta

    def send(self, model: str, history: list, tools=(), is_streamed: bool = False, **options) -> SdkReply:
        if tools:
            functions = [{"name": name, "description": about, "parameters": schema} for name, about, schema in tools]
            options["tools"] = [{"type": "function", "strict": False, **function} for function in functions]
        if not is_streamed:
            return self.read(self.sdk.responses.create(model=model, input=history, **options))
        with self.sdk.responses.stream(model=model, input=history, **options) as stream:
            events = list(stream)
            assert [event.sequence_number for event in events] == list(range(len(events)))
            if events[-1].type == "response.incomplete":
                return self.read(events[-1].response)
            return self.read(stream.get_final_response())

    def read(self, reply) -> SdkReply:
        result = SdkReply(text=reply.output_text, model=reply.model, raw=reply)
        for item in reply.output:
            match item.type:
                case "message":
                    result.refusal += "".join(part.refusal for part in item.content if part.type == "refusal")
                case "reasoning":
                    result.thinking += "".join(part.text for part in item.summary)
                case "function_call":
                    result.calls.append((item.name, json.loads(item.arguments)))
                    result.ids.append(item.call_id)
                case "image_generation_call":
                    result.images.append(f"data:image/png;base64,{item.result}")
        reason = reply.incomplete_details.reason if reply.incomplete_details else None
        result.stop = {"max_output_tokens": "length", "content_filter": "filtered"}.get(reason) or (
            "tools" if result.calls else "stop"
        )
        assert (reply.status == "incomplete") is (reason is not None)
        counts = reply.usage
        result.prompt_tokens, result.output_tokens = counts.input_tokens, counts.output_tokens
        result.cached_tokens = counts.input_tokens_details.cached_tokens
        return result

    def echo(self, reply: SdkReply, results: list[str]) -> list:
        return [*(item.model_dump() for item in reply.raw.output), *self._results(reply, results)]

    def echo_without_reasoning(self, reply: SdkReply, results: list[str]) -> list:
        kept = [item for item in reply.raw.output if item.type != "reasoning"]
        return [*(item.model_dump(exclude_none=True) for item in kept), *self._results(reply, results)]

    def _results(self, reply: SdkReply, results: list[str]) -> list:
        return [
            {"type": "function_call_output", "call_id": call_id, "output": text}
            for call_id, text in zip(reply.ids, results, strict=True)
        ]


class Messages:
    name = "anthropic"
    stops = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tools", "refusal": "filtered"}

    def __init__(self, url: str):
        self.headers: dict = {}
        http = anthropic.DefaultHttpxClient(event_hooks=header_hooks(self.headers))
        self.sdk = anthropic.Anthropic(base_url=url, api_key=ADMIN, max_retries=0, http_client=http)

    def close(self) -> None:
        self.sdk.close()

    def exception(self, status: int) -> type[Exception]:
        return OverloadedError if status == 529 else getattr(anthropic, EXCEPTIONS[status])

    def stream_text(self, model: str) -> Iterator[str]:
        with self.sdk.messages.stream(model=model, messages=self.first_turn("Hello"), max_tokens=99) as stream:
            yield from stream.text_stream

    def first_turn(self, text: str) -> list:
        return [{"role": "user", "content": text}]

    def send(self, model: str, history: list, tools=(), is_streamed: bool = False, **options) -> SdkReply:
        options.setdefault("max_tokens", 4096)
        if tools:
            options["tools"] = [
                {"name": name, "description": about, "input_schema": schema} for name, about, schema in tools
            ]
        if not is_streamed:
            return self.read(self.sdk.messages.create(model=model, messages=history, **options))
        with self.sdk.messages.stream(model=model, messages=history, **options) as stream:
            return self.read(stream.get_final_message())

    def read(self, reply) -> SdkReply:
        result = SdkReply(stop=self.stops[reply.stop_reason], model=reply.model, raw=reply)
        for block in reply.content:
            match block.type:
                case "text":
                    result.text += block.text
                case "thinking":
                    result.thinking += block.thinking
                case "tool_use":
                    result.calls.append((block.name, block.input))
                    result.ids.append(block.id)
        counts = reply.usage
        result.cached_tokens, result.output_tokens = counts.cache_read_input_tokens, counts.output_tokens
        result.prompt_tokens = counts.input_tokens + result.cached_tokens + counts.cache_creation_input_tokens
        return result

    def echo(self, reply: SdkReply, results: list[str]) -> list:
        return [{"role": "assistant", "content": reply.raw.content}, self._results(reply, results)]

    def echo_without_reasoning(self, reply: SdkReply, results: list[str]) -> list:
        kept = [block for block in reply.raw.content if block.type in ("text", "tool_use")]
        return [{"role": "assistant", "content": kept}, self._results(reply, results)]

    def _results(self, reply: SdkReply, results: list[str]) -> dict:
        pairs = zip(reply.ids, results, strict=True)
        blocks = [{"type": "tool_result", "tool_use_id": call_id, "content": text} for call_id, text in pairs]
        return {"role": "user", "content": blocks}


class Gemini:
    name = "gemini"
    stops = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "filtered"}

    def __init__(self, url: str):
        self.headers: dict = {}
        options = genai_types.HttpOptions(base_url=url, client_args={"event_hooks": header_hooks(self.headers)})
        self.sdk = genai.Client(api_key=ADMIN, http_options=options)

    def close(self) -> None:
        self.sdk.close()

    def exception(self, status: int) -> type[Exception]:
        return genai_errors.ClientError if status < 500 else genai_errors.ServerError

    def stream_text(self, model: str) -> Iterator[str]:
        for reply in self.sdk.models.generate_content_stream(model=model, contents="Hello"):
            if reply.candidates and reply.text:
                yield reply.text

    def first_turn(self, text: str) -> list:
        return [genai_types.Content(role="user", parts=[genai_types.Part(text=text)])]

    def send(self, model: str, history: list, tools=(), is_streamed: bool = False, **options) -> SdkReply:
        if tools:
            functions = [
                genai_types.FunctionDeclaration(name=name, description=about, parameters_json_schema=schema)
                for name, about, schema in tools
            ]
            options["tools"] = [genai_types.Tool(function_declarations=functions)]
        config = genai_types.GenerateContentConfig(**options)
        if not is_streamed:
            return self.read([self.sdk.models.generate_content(model=model, contents=history, config=config)])
        return self.read(list(self.sdk.models.generate_content_stream(model=model, contents=history, config=config)))

    def read(self, replies: list) -> SdkReply:
        result = SdkReply(model=replies[-1].model_version)
        contents = [c.candidates[0].content for c in replies if c.candidates and c.candidates[0].content]
        parts = [part for content in contents for part in content.parts or []]
        for part in parts:
            if part.function_call:
                result.calls.append((part.function_call.name, part.function_call.args))
                result.ids.append(part.function_call.id)
            elif part.inline_data:
                data = base64.b64encode(part.inline_data.data).decode()
                result.images.append(f"data:{part.inline_data.mime_type};base64,{data}")
            elif part.thought:
                result.thinking += part.text or ""
            else:
                result.text += part.text or ""
        reasons = [c.candidates[0].finish_reason for c in replies if c.candidates and c.candidates[0].finish_reason]
        assert len(reasons) == 1
        result.stop = self.stops[reasons[0].value]
        if result.calls and result.stop == "stop":
            result.stop = "tools"
        counts = replies[-1].usage_metadata
        result.prompt_tokens = counts.prompt_token_count
        result.cached_tokens = counts.cached_content_token_count or 0
        result.output_tokens = (counts.candidates_token_count or 0) + (counts.thoughts_token_count or 0)
        result.raw = [genai_types.Content(role="model", parts=parts)]
        return result

    def echo(self, reply: SdkReply, results: list[str]) -> list:
        return [*reply.raw, self._results(reply, results)]

    def echo_without_reasoning(self, reply: SdkReply, results: list[str]) -> list:
        parts = [
            genai_types.Part(function_call=part.function_call)
            if part.function_call
            else genai_types.Part(text=part.text)
            for part in reply.raw[0].parts
            if part.function_call or (part.text and not part.thought)
        ]
        return [genai_types.Content(role="model", parts=parts), self._results(reply, results)]

    def _results(self, reply: SdkReply, results: list[str]) -> genai_types.Content:
        answered = zip(reply.ids, reply.calls, results, strict=True)
        parts = [
            genai_types.Part(
                function_response=genai_types.FunctionResponse(id=call_id, name=name, response={"output": text})
            )
            for call_id, (name, _), text in answered
        ]
        return genai_types.Content(role="user", parts=parts)


SDK_CLIENTS = (Chat, Responses, Messages, Gemini)
