"""The vendors' SDKs behind one face: what is asked, what was heard, and what a client sends back next turn."""

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
FAULTS = {
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
class Heard:
    """`stop` is one of stop, length, tools and filtered; `raw` is what the SDK gave."""

    text: str = ""
    refusal: str = ""
    thinking: str = ""
    calls: list[tuple[str, dict]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    stop: str = ""
    prompt: int = 0
    cached: int = 0
    made: int = 0
    model: str = ""
    raw: object = None


def noting(told: dict) -> dict:
    """Hooks of an HTTP client that keep an answer's headers by their lower-case names."""

    def note(response) -> None:
        told.clear()
        told.update({name.lower(): value for name, value in response.headers.items()})

    return {"response": [note]}


class Chat:
    name, base = "openai_chat", "/v1"
    stops = {"stop": "stop", "length": "length", "tool_calls": "tools", "content_filter": "filtered"}

    def __init__(self, url: str):
        self.told: dict = {}  # headers of the newest answer
        http = openai.DefaultHttpxClient(event_hooks=noting(self.told))
        self.sdk = openai.OpenAI(base_url=url + self.base, api_key=ADMIN, max_retries=0, http_client=http)

    def close(self) -> None:
        self.sdk.close()

    def fault(self, status: int) -> type[Exception]:
        return getattr(openai, FAULTS[status])

    def texts(self, model: str) -> Iterator[str]:
        """A plain stream's pieces of text."""
        chunks = self.sdk.chat.completions.create(model=model, messages=self.opening("Hello"), stream=True)
        for chunk in chunks:
            yield from (choice.delta.content for choice in chunk.choices if choice.delta.content)

    def opening(self, text: str) -> list:
        return [{"role": "user", "content": text}]

    def ask(self, model: str, history: list, tools=(), is_streamed: bool = False, **options) -> Heard:
        if tools:
            functions = [{"name": name, "description": about, "parameters": schema} for name, about, schema in tools]
            options["tools"] = [{"type": "function", "function": function} for function in functions]
        if not is_streamed:
            return self.heard(self.sdk.chat.completions.create(model=model, messages=history, **options))
        state, wanted = ChatCompletionStreamState(), {"include_usage": True}
        chunks = self.sdk.chat.completions.create(
            model=model, messages=history, stream=True, stream_options=wanted, **options
        )
        for chunk in chunks:
            state.handle_chunk(chunk)
        return self.heard(state.current_completion_snapshot)  # the final one raises where the model did not finish

    def heard(self, reply) -> Heard:
        choice, counts = reply.choices[0], reply.usage
        message = choice.message
        calls = message.tool_calls or []
        return Heard(
            text=message.content or "",
            refusal=message.refusal or "",
            thinking=getattr(message, "reasoning_content", None) or "",
            calls=[(call.function.name, json.loads(call.function.arguments)) for call in calls],
            ids=[call.id for call in calls],
            images=[image["image_url"]["url"] for image in getattr(message, "images", None) or []],
            stop=self.stops[choice.finish_reason],
            prompt=counts.prompt_tokens,
            cached=counts.prompt_tokens_details.cached_tokens,
            made=counts.completion_tokens,
            model=reply.model,
            raw=message,
        )

    def echo(self, heard: Heard, results: list[str]) -> list:
        return [heard.raw.model_dump(), *self._results(heard, results)]

    def bare(self, heard: Heard, results: list[str]) -> list:
        """Only what OpenAI's own types know."""
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": args}}
            for call in heard.raw.tool_calls or []
            for args in [call.function.arguments]
        ]
        message = {"role": "assistant", "content": heard.text or None, "tool_calls": calls}
        return [message, *self._results(heard, results)]

    def _results(self, heard: Heard, results: list[str]) -> list:
        return [
            {"role": "tool", "tool_call_id": call_id, "content": text}
            for call_id, text in zip(heard.ids, results, strict=True)
        ]


class Responses(Chat):
    name = "openai_responses"

    def texts(self, model: str) -> Iterator[str]:
        for event in self.sdk.responses.create(model=model, input="Hello", stream=True):
            if event.type == "response.output_text.delta":
                yield event.delta

    def ask(self, model: str, history: list, tools=(), is_streamed: bool = False, **options) -> Heard:
        if tools:
            functions = [{"name": name, "description": about, "parameters": schema} for name, about, schema in tools]
            options["tools"] = [{"type": "function", "strict": False, **function} for function in functions]
        if not is_streamed:
            return self.heard(self.sdk.responses.create(model=model, input=history, **options))
        with self.sdk.responses.stream(model=model, input=history, **options) as stream:
            told = list(stream)
            assert [event.sequence_number for event in told] == list(range(len(told)))
            if told[-1].type == "response.incomplete":
                return self.heard(told[-1].response)
            return self.heard(stream.get_final_response())

    def heard(self, reply) -> Heard:
        found = Heard(text=reply.output_text, model=reply.model, raw=reply)
        for item in reply.output:
            match item.type:
                case "message":
                    found.refusal += "".join(part.refusal for part in item.content if part.type == "refusal")
                case "reasoning":
                    found.thinking += "".join(part.text for part in item.summary)
                case "function_call":
                    found.calls.append((item.name, json.loads(item.arguments)))
                    found.ids.append(item.call_id)
                case "image_generation_call":
                    found.images.append(f"data:image/png;base64,{item.result}")
        why = reply.incomplete_details.reason if reply.incomplete_details else None
        found.stop = {"max_output_tokens": "length", "content_filter": "filtered"}.get(why) or (
            "tools" if found.calls else "stop"
        )
        assert (reply.status == "incomplete") is (why is not None)
        counts = reply.usage
        found.prompt, found.made = counts.input_tokens, counts.output_tokens
        found.cached = counts.input_tokens_details.cached_tokens
        return found

    def echo(self, heard: Heard, results: list[str]) -> list:
        return [*(item.model_dump() for item in heard.raw.output), *self._results(heard, results)]

    def bare(self, heard: Heard, results: list[str]) -> list:
        kept = [item for item in heard.raw.output if item.type != "reasoning"]
        return [*(item.model_dump(exclude_none=True) for item in kept), *self._results(heard, results)]

    def _results(self, heard: Heard, results: list[str]) -> list:
        return [
            {"type": "function_call_output", "call_id": call_id, "output": text}
            for call_id, text in zip(heard.ids, results, strict=True)
        ]


class Messages:
    name = "anthropic"
    stops = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tools", "refusal": "filtered"}

    def __init__(self, url: str):
        self.told: dict = {}
        http = anthropic.DefaultHttpxClient(event_hooks=noting(self.told))
        self.sdk = anthropic.Anthropic(base_url=url, api_key=ADMIN, max_retries=0, http_client=http)

    def close(self) -> None:
        self.sdk.close()

    def fault(self, status: int) -> type[Exception]:
        return OverloadedError if status == 529 else getattr(anthropic, FAULTS[status])

    def texts(self, model: str) -> Iterator[str]:
        with self.sdk.messages.stream(model=model, messages=self.opening("Hello"), max_tokens=99) as stream:
            yield from stream.text_stream

    def opening(self, text: str) -> list:
        return [{"role": "user", "content": text}]

    def ask(self, model: str, history: list, tools=(), is_streamed: bool = False, **options) -> Heard:
        options.setdefault("max_tokens", 4096)
        if tools:
            options["tools"] = [
                {"name": name, "description": about, "input_schema": schema} for name, about, schema in tools
            ]
        if not is_streamed:
            return self.heard(self.sdk.messages.create(model=model, messages=history, **options))
        with self.sdk.messages.stream(model=model, messages=history, **options) as stream:
            return self.heard(stream.get_final_message())

    def heard(self, reply) -> Heard:
        found = Heard(stop=self.stops[reply.stop_reason], model=reply.model, raw=reply)
        for block in reply.content:
            match block.type:
                case "text":
                    found.text += block.text
                case "thinking":
                    found.thinking += block.thinking
                case "tool_use":
                    found.calls.append((block.name, block.input))
                    found.ids.append(block.id)
        counts = reply.usage
        found.cached, found.made = counts.cache_read_input_tokens, counts.output_tokens
        found.prompt = counts.input_tokens + found.cached + counts.cache_creation_input_tokens
        return found

    def echo(self, heard: Heard, results: list[str]) -> list:
        return [{"role": "assistant", "content": heard.raw.content}, self._results(heard, results)]

    def bare(self, heard: Heard, results: list[str]) -> list:
        kept = [block for block in heard.raw.content if block.type in ("text", "tool_use")]
        return [{"role": "assistant", "content": kept}, self._results(heard, results)]

    def _results(self, heard: Heard, results: list[str]) -> dict:
        told = zip(heard.ids, results, strict=True)
        blocks = [{"type": "tool_result", "tool_use_id": call_id, "content": text} for call_id, text in told]
        return {"role": "user", "content": blocks}


class Gemini:
    name = "gemini"
    stops = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "filtered"}

    def __init__(self, url: str):
        self.told: dict = {}
        options = genai_types.HttpOptions(base_url=url, client_args={"event_hooks": noting(self.told)})
        self.sdk = genai.Client(api_key=ADMIN, http_options=options)

    def close(self) -> None:
        self.sdk.close()

    def fault(self, status: int) -> type[Exception]:
        return genai_errors.ClientError if status < 500 else genai_errors.ServerError

    def texts(self, model: str) -> Iterator[str]:
        for reply in self.sdk.models.generate_content_stream(model=model, contents="Hello"):
            if reply.candidates and reply.text:
                yield reply.text

    def opening(self, text: str) -> list:
        return [genai_types.Content(role="user", parts=[genai_types.Part(text=text)])]

    def ask(self, model: str, history: list, tools=(), is_streamed: bool = False, **options) -> Heard:
        if tools:
            functions = [
                genai_types.FunctionDeclaration(name=name, description=about, parameters_json_schema=schema)
                for name, about, schema in tools
            ]
            options["tools"] = [genai_types.Tool(function_declarations=functions)]
        config = genai_types.GenerateContentConfig(**options)
        if not is_streamed:
            return self.heard([self.sdk.models.generate_content(model=model, contents=history, config=config)])
        return self.heard(list(self.sdk.models.generate_content_stream(model=model, contents=history, config=config)))

    def heard(self, replies: list) -> Heard:
        found = Heard(model=replies[-1].model_version)
        contents = [c.candidates[0].content for c in replies if c.candidates and c.candidates[0].content]
        parts = [part for content in contents for part in content.parts or []]
        for part in parts:
            if part.function_call:
                found.calls.append((part.function_call.name, part.function_call.args))
                found.ids.append(part.function_call.id)
            elif part.inline_data:
                data = base64.b64encode(part.inline_data.data).decode()
                found.images.append(f"data:{part.inline_data.mime_type};base64,{data}")
            elif part.thought:
                found.thinking += part.text or ""
            else:
                found.text += part.text or ""
        reasons = [c.candidates[0].finish_reason for c in replies if c.candidates and c.candidates[0].finish_reason]
        assert len(reasons) == 1
        found.stop = self.stops[reasons[0].value]
        if found.calls and found.stop == "stop":
            found.stop = "tools"
        counts = replies[-1].usage_metadata
        found.prompt, found.cached = counts.prompt_token_count, counts.cached_content_token_count or 0
        found.made = (counts.candidates_token_count or 0) + (counts.thoughts_token_count or 0)
        found.raw = [genai_types.Content(role="model", parts=parts)]
        return found

    def echo(self, heard: Heard, results: list[str]) -> list:
        return [*heard.raw, self._results(heard, results)]

    def bare(self, heard: Heard, results: list[str]) -> list:
        parts = [
            genai_types.Part(function_call=part.function_call)
            if part.function_call
            else genai_types.Part(text=part.text)
            for part in heard.raw[0].parts
            if part.function_call or (part.text and not part.thought)
        ]
        return [genai_types.Content(role="model", parts=parts), self._results(heard, results)]

    def _results(self, heard: Heard, results: list[str]) -> genai_types.Content:
        told = zip(heard.ids, heard.calls, results, strict=True)
        parts = [
            genai_types.Part(
                function_response=genai_types.FunctionResponse(id=call_id, name=name, response={"output": text})
            )
            for call_id, (name, _), text in told
        ]
        return genai_types.Content(role="user", parts=parts)


SPEAKERS = (Chat, Responses, Messages, Gemini)
