"""OpenAI Chat Completions for the same-protocol lane: request heads, usage, streams, error events; no translation.

https://platform.openai.com/docs/api-reference/chat
"""

import msgspec
import orjson
from msgspec import Raw

from gproxy.errors import BadRequest
from gproxy.protocols import hub, raw_json, sse
from gproxy.protocols.openai import (  # noqa: F401 - the interface of this protocol
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

NAME: str = "openai_chat"
WIRE_NAME: str = "openai_chat_completions"
REQUEST_ID_HEADERS: tuple[str, ...] = ("x-request-id",)
MODEL_FIELD: str = "model"
LIST_QUERY: dict[str, str] = {}

UNFINISHED = (b"", b"null", b'""')


def read_head(body: bytes) -> hub.RequestHead:
    """Returns the fields of a request body that routing and accounting need. Raises BadRequest."""
    fields = raw_json.split(body)
    options = raw_json.value(fields, "stream_options") if "stream_options" in fields else None
    if options is not None and not isinstance(options, dict):
        raise BadRequest("stream_options: expected an object")
    return hub.RequestHead(
        raw_json.model(fields),
        raw_json.is_stream(fields),
        hub.as_object(options).get("include_usage") is True,
        raw_json.text(fields, "user"),
        fields,
        mode=read_mode(fields),
        max_output=raw_json.positive_int(fields, "max_completion_tokens", "max_tokens"),
        choices=raw_json.choice_count(fields, "n"),
    )


def outgoing(head: hub.RequestHead, body: bytes, model: str) -> bytes:
    """Returns the body under the upstream's model name, with usage requested of a stream; unchanged where possible."""
    fields = head.body
    if head.model != model or not raw_json.names_model_once(head, body):
        fields = raw_json.with_value(fields, "model", raw_json.quoted(model))
    if head.is_stream and not head.wants_usage:
        options = raw_json.find(bytes(fields.get("stream_options", ABSENT))) or {}
        options = raw_json.with_value(options, "include_usage", b"true")
        fields = raw_json.with_value(fields, "stream_options", raw_json.join(options))
    return body if fields is head.body else raw_json.join(fields)


def without_wrapped_signatures(body: dict) -> dict:
    """Returns the body without signatures that gproxy wrapped: another provider made them."""
    if not isinstance(body.get("messages"), list):
        return body
    messages = []
    for message in body["messages"]:
        if isinstance(message, dict):
            details, calls = hub.as_list(message.get("reasoning_details")), hub.as_list(message.get("tool_calls"))
            kept_details = [detail for detail in details if not _is_wrapped_detail(detail)]
            if kept_details != details:
                message = {**message, "reasoning_details": kept_details}
                message = {name: value for name, value in message.items() if value or name != "reasoning_details"}
            if (kept_calls := [_without_wrapped_signature(call) for call in calls]) != calls:
                message = {**message, "tool_calls": kept_calls}
        messages.append(message)
    return {**body, "messages": messages}


def _is_wrapped_detail(detail: object) -> bool:
    return is_wrapped(hub.as_object(detail).get("data")) or is_wrapped(hub.as_object(detail).get("signature"))


def _without_wrapped_signature(call: object) -> object:
    google = hub.as_object(hub.as_object(hub.as_object(call).get("extra_content")).get("google"))
    if not is_wrapped(google.get("thought_signature")):
        return call
    return {name: value for name, value in call.items() if name != "extra_content"}


def read_whole(body: bytes) -> tuple[hub.Usage | None, raw_json.Fields | None]:
    """Returns the usage and the fields of a whole reply; the fields are None when it is not JSON."""
    fields = raw_json.find(body)
    usage = raw_json.inner_object(fields.get("usage", ABSENT)) if fields else None
    if not usage:
        return None, fields
    return read_usage(usage, TIER_OF_JSON.get(bytes(fields.get("service_tier", ABSENT)), "")), fields


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
    """Reads the events of one chat stream on their way to the client; replaces the model name and hides extra usage.

    `name` is the model name for the client, as JSON; None keeps the upstream's.
    """

    response_id: str | None = None  # the vendor stores no responses

    def __init__(self, name: bytes | None, head: hub.RequestHead):
        self._name, self._wants_usage = name, head.wants_usage
        self.usage: hub.Usage | None = None
        self.text_bytes = 0
        self.has_failed = False
        self._open: dict[int, bool] = {}  # choice -> True until its finish_reason came
        self._is_done = False
        self._tier = ""

    @property
    def is_terminal(self) -> bool:
        """True when every choice has its finish_reason, or after `[DONE]` in a stream without choices."""
        return not any(self._open.values()) if self._open else self._is_done

    def observe(self, data: bytes) -> tuple[bytes | None, Verdict]:
        """Returns the data for the client, None to drop the event, and the verdict on the stream."""
        if data.startswith(b"[DONE]"):
            self._is_done = True
            if self.has_failed:
                return None, Verdict.ENDS  # no clean end may follow the error that was forwarded
            return (data, Verdict.ENDS) if self.is_terminal else (None, Verdict.BROKEN)
        chunk = raw_json.try_decode(_decode, data)
        if chunk is None:
            return data, Verdict.CONTINUES  # unknown frames are forwarded
        if chunk.error and bytes(chunk.error) not in NULLS:
            self.has_failed = True
            return self._for_client(data, chunk, has_usage=False), Verdict.CONTINUES
        for choice in chunk.choices or ():
            self._read_choice(choice)
        self._tier = TIER_OF_JSON.get(bytes(chunk.service_tier), self._tier)
        usage = raw_json.inner_object(chunk.usage)
        if usage:
            self.usage = read_usage(usage, self._tier)
        is_last = usage and not chunk.choices and bool(self._open) and self.is_terminal
        return self._for_client(data, chunk, bool(usage)), Verdict.ENDS if is_last else Verdict.CONTINUES

    def _read_choice(self, choice: _Choice) -> None:
        if bytes(choice.finish_reason) not in UNFINISHED:
            self._open[choice.index] = False
        elif choice.index not in self._open:
            self._open[choice.index] = True
        if (delta := choice.delta) is not None:
            for text in (delta.content, delta.reasoning_content, delta.reasoning, delta.refusal, delta.tool_calls):
                if len(text) > 2 and bytes(text) != b"null":  # not absent, "" or []
                    self.text_bytes += len(text) - 2

    def _for_client(self, data: bytes, chunk: _Chunk, has_usage: bool) -> bytes | None:
        """Returns the chunk under the client's model name, without usage that it did not request; None to drop it."""
        hides_usage = chunk.usage and not self._wants_usage
        if hides_usage and has_usage and not chunk.choices:
            return None
        keeps_name = self._name is None or not chunk.model or bytes(chunk.model) == self._name
        if keeps_name and not hides_usage:
            return data
        if (fields := raw_json.find(data)) is None:
            return data
        if not keeps_name:
            fields["model"] = Raw(self._name)
        if hides_usage:
            del fields["usage"]
        return raw_json.join(fields)

    def failure_events(self, status: int, code: str, message: str, request_id: str) -> list[bytes]:
        """Returns the events that report to the client that the stream broke off."""
        return [error_event(status, code, message, request_id)]

    def tail(self) -> bytes:
        """Returns what completes a clean end: `[DONE]` where the upstream left it out."""
        return b"" if self._is_done else b"data: [DONE]\n\n"
