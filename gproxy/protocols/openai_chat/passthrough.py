"""OpenAI Chat Completions. https://platform.openai.com/docs/api-reference/chat"""

import msgspec
import orjson
from msgspec import Raw

from gproxy.errors import BadRequest
from gproxy.protocols import raw_json, sse
from gproxy.protocols.hub import RequestHead, Usage, as_list, as_object
from gproxy.protocols.openai import (  # noqa: F401 - verbs of this protocol
    TIER_OF_JSON,
    error,
    next_page,
    read_mode,
    read_models,
    read_usage,
    write_error,
    write_model,
    write_models,
)
from gproxy.protocols.raw_json import ABSENT, NULLS
from gproxy.protocols.signatures import is_wrapped
from gproxy.protocols.verdict import Verdict

NAME = "openai_chat"
WIRE_NAME = "openai_chat_completions"
REQUEST_ID_HEADERS = ("x-request-id",)
MODEL_FIELD = "model"
LIST_QUERY: dict[str, str] = {}

UNFINISHED = (b"", b"null", b'""')


def read_head(body: bytes) -> RequestHead:
    """What the body asks for. Raises BadRequest."""
    found = raw_json.split(body)
    options = raw_json.value(found, "stream_options") if "stream_options" in found else None
    if options is not None and not isinstance(options, dict):
        raise BadRequest("stream_options: expected an object")
    return RequestHead(
        raw_json.model(found),
        raw_json.is_stream(found),
        as_object(options).get("include_usage") is True,
        raw_json.text(found, "user"),
        found,
        mode=read_mode(found),
        max_output=raw_json.positive_int(found, "max_completion_tokens", "max_tokens"),
        choices=raw_json.choice_count(found, "n"),
    )


def outgoing(asked: RequestHead, body: bytes, model: str) -> bytes:
    """The same request for the upstream: its model name, and usage asked for where a stream would leave it out."""
    found = asked.body
    if asked.model != model or not raw_json.names_model_once(asked, body):
        found = raw_json.with_value(found, "model", raw_json.quoted(model))
    if asked.is_stream and not asked.wants_usage:
        options = raw_json.find(bytes(found.get("stream_options", ABSENT))) or {}
        options = raw_json.with_value(options, "include_usage", b"true")
        found = raw_json.with_value(found, "stream_options", raw_json.join(options))
    return body if found is asked.body else raw_json.join(found)


def without_wrapped_signatures(body: dict) -> dict:
    """The body without envelopes of ours: what another provider sealed is nothing to this one."""
    if not isinstance(body.get("messages"), list):
        return body
    messages = []
    for message in body["messages"]:
        if isinstance(message, dict):
            given, calls = as_list(message.get("reasoning_details")), as_list(message.get("tool_calls"))
            details = [detail for detail in given if not _is_sealed(detail)]
            if details != given:
                message = {**message, "reasoning_details": details}
                message = {name: value for name, value in message.items() if value or name != "reasoning_details"}
            if (kept := [_unsealed_call(call) for call in calls]) != calls:
                message = {**message, "tool_calls": kept}
        messages.append(message)
    return {**body, "messages": messages}


def _is_sealed(detail: object) -> bool:
    return is_wrapped(as_object(detail).get("data")) or is_wrapped(as_object(detail).get("signature"))


def _unsealed_call(call: object) -> object:
    google = as_object(as_object(as_object(call).get("extra_content")).get("google"))
    if not is_wrapped(google.get("thought_signature")):
        return call
    return {name: value for name, value in call.items() if name != "extra_content"}


def read_whole(body: bytes) -> tuple[Usage | None, raw_json.Fields | None]:
    """The usage of a whole reply, and its fields; no fields when it is not JSON."""
    found = raw_json.find(body)
    usage = raw_json.inner_object(found.get("usage", ABSENT)) if found else None
    return (read_usage(usage, TIER_OF_JSON.get(bytes(found.get("service_tier", ABSENT)), "")) if usage else None), found


def error_event(status: int, code: str, message: str, request_id: str) -> bytes:
    return sse.event(orjson.dumps({"error": error(status, code, message, request_id)}))


class _Delta(msgspec.Struct):
    content: Raw = ABSENT
    reasoning_content: Raw = ABSENT
    reasoning: Raw = ABSENT
    refusal: Raw = ABSENT
    tool_calls: Raw = ABSENT


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: Raw = ABSENT


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    model: Raw = ABSENT
    usage: Raw = ABSENT
    service_tier: Raw = ABSENT
    error: Raw = ABSENT


_decode = msgspec.json.Decoder(_Chunk).decode


class Stream:
    """Reads one chat stream as it passes.

    `name` is the model name that the client shall see, as JSON; None leaves it.
    """

    def __init__(self, name: bytes | None, asked: RequestHead):
        self._name, self._wants_usage = name, asked.wants_usage
        self.usage: Usage | None = None
        self.text_bytes = 0
        self.has_failed = False
        self._open: dict[int, bool] = {}  # choice -> still without a finish_reason
        self._is_done = False
        self._tier = ""

    @property
    def is_terminal(self) -> bool:
        """Every choice that was seen has its finish_reason; with no choice at all only `[DONE]` is an end."""
        return not any(self._open.values()) if self._open else self._is_done

    def observe(self, data: bytes) -> tuple[bytes | None, Verdict]:
        if data.startswith(b"[DONE]"):
            self._is_done = True
            if self.has_failed:
                return None, Verdict.ENDS  # the error was passed, and nothing like a clean end follows it
            return (data, Verdict.ENDS) if self.is_terminal else (None, Verdict.BROKEN)
        chunk = raw_json.try_decode(_decode, data)
        if chunk is None:
            return data, Verdict.CONTINUES  # not ours to judge: unknown frames pass
        if chunk.error and bytes(chunk.error) not in NULLS:
            self.has_failed = True
            return self._for_client(data, chunk, has_usage=False), Verdict.CONTINUES
        for choice in chunk.choices or ():
            self._look(choice)
        self._tier = TIER_OF_JSON.get(bytes(chunk.service_tier), self._tier)
        usage = raw_json.inner_object(chunk.usage)
        if usage:
            self.usage = read_usage(usage, self._tier)
        passed = self._for_client(data, chunk, bool(usage))
        ends = usage and not chunk.choices and bool(self._open) and self.is_terminal
        return passed, Verdict.ENDS if ends else Verdict.CONTINUES

    def _look(self, choice: _Choice) -> None:
        if bytes(choice.finish_reason) not in UNFINISHED:
            self._open[choice.index] = False
        elif choice.index not in self._open:
            self._open[choice.index] = True
        if (delta := choice.delta) is not None:
            for text in (delta.content, delta.reasoning_content, delta.reasoning, delta.refusal, delta.tool_calls):
                if len(text) > 2 and bytes(text) != b"null":  # not absent, "" or []
                    self.text_bytes += len(text) - 2

    def _for_client(self, data: bytes, chunk: _Chunk, has_usage: bool) -> bytes | None:
        """The chunk under the client's model name, without usage that it did not ask for."""
        hides_usage = chunk.usage and not self._wants_usage
        if hides_usage and has_usage and not chunk.choices:
            return None
        is_named = self._name is None or not chunk.model or bytes(chunk.model) == self._name
        if is_named and not hides_usage:
            return data
        if (found := raw_json.find(data)) is None:
            return data
        if not is_named:
            found["model"] = Raw(self._name)
        if hides_usage:
            del found["usage"]
        return raw_json.join(found)

    def failure_events(self, status: int, code: str, message: str, request_id: str) -> list[bytes]:
        """The events that tell a client that this stream ends without its end."""
        return [error_event(status, code, message, request_id)]

    def tail(self) -> bytes:
        """What an upstream left out at a clean end."""
        return b"" if self._is_done else b"data: [DONE]\n\n"
