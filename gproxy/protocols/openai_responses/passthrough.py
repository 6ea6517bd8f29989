"""OpenAI Responses for the same-protocol lane: request heads, usage, streams, error events; no translation.

https://platform.openai.com/docs/api-reference/responses
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import msgspec
import orjson
from msgspec import Raw

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
from gproxy.protocols.raw_json import ABSENT, NULLS, outgoing  # noqa: F401 - as above
from gproxy.protocols.signatures import is_wrapped
from gproxy.protocols.verdict import Verdict

NAME: str = "openai_responses"
WIRE_NAME: str = "openai_response"
REQUEST_ID_HEADERS: tuple[str, ...] = ("x-request-id",)
MODEL_FIELD: str = "model"
LIST_QUERY: dict[str, str] = {}

TERMINAL = frozenset(("response.completed", "response.incomplete", "response.failed"))


def read_head(body: bytes) -> hub.RequestHead:
    """Returns the fields of a request body that routing and accounting need. Raises BadRequest."""
    fields = raw_json.split(body)
    return hub.RequestHead(
        raw_json.model(fields),
        raw_json.is_stream(fields),
        True,
        raw_json.text(fields, "user"),
        fields,
        mode=read_mode(fields),
        max_output=raw_json.positive_int(fields, "max_output_tokens"),
    )


def without_wrapped_signatures(body: dict) -> dict:
    """Returns the body without reasoning items that gproxy wrapped: another provider made them."""
    if not isinstance(body.get("input"), list):
        return body
    return {
        **body,
        "input": [item for item in body["input"] if not is_wrapped(hub.as_object(item).get("encrypted_content"))],
    }


class _Item(msgspec.Struct):
    type: str = ""
    status: Raw = ABSENT
    action: Raw = ABSENT


_decode_items = msgspec.json.Decoder(list[_Item]).decode
_decode_item = msgspec.json.Decoder(_Item).decode

CALL = "_call"
# In the bytes of every item that is a call: an output without it need not be parsed.
_CALL = b'_call"'
# Calls of tools that the client runs.
CLIENT_CALLS = frozenset(("function_call", "custom_tool_call", "computer_call", "local_shell_call", "apply_patch_call"))


def read_whole(body: bytes) -> tuple[hub.Usage | None, raw_json.Fields | None]:
    """Returns the usage and the fields of a whole reply; the fields are None when it is not JSON."""
    fields = raw_json.find(body)
    usage = raw_json.inner_object(fields.get("usage", ABSENT)) if fields else None
    if not usage:
        return None, fields
    tier = TIER_OF_JSON.get(bytes(fields.get("service_tier", ABSENT)), "")
    return read_usage(usage, tier, _calls(fields.get("output", ABSENT))), fields


def _calls(output: Raw) -> tuple[tuple[str, int], ...]:
    """Returns (tool, number of calls) of the vendor's own tools in an output, sorted."""
    if _CALL not in (data := bytes(output)):
        return ()
    return _counted(filter(None, map(_tool, raw_json.try_decode(_decode_items, data) or ())))


def _counted(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((name, min(number, hub.MAX_CALLS)) for name, number in Counter(names).items()))


def _tool(item: _Item) -> str | None:
    """Returns the name of the vendor's tool that this item calls; None for other items and calls without a charge."""
    if not item.type.endswith(CALL) or item.type in CLIENT_CALLS or bytes(item.status) == b'"failed"':
        return None
    # Only the search itself is charged, not the opening of a page that it found:
    # https://developers.openai.com/api/docs/guides/tools-web-search
    if item.type == "web_search_call" and raw_json.inner_object(item.action).get("type", "search") != "search":
        return None
    return item.type.removesuffix(CALL)


def error_event(status: int, code: str, message: str, request_id: str, sequence: int = 0) -> bytes:
    """Returns the vendor's flat error event, with the nested `error` that its SDKs need in order to raise."""
    nested = error(status, code, message, request_id)
    flat = {"type": "error", "sequence_number": sequence, "code": code, "message": message, "param": None}
    return sse.event(orjson.dumps({**flat, "error": nested}), "error")


class _Event(msgspec.Struct):
    type: str = ""
    sequence_number: int = 0
    response: Raw = ABSENT
    delta: Raw = ABSENT
    item: Raw = ABSENT


_decode = msgspec.json.Decoder(_Event).decode


class Stream:
    """Reads the events of one Responses stream on their way to the client and replaces the model name.

    `name` is the model name for the client, as JSON; None keeps the upstream's.
    """

    def __init__(self, name: bytes | None, head: hub.RequestHead):
        self._name = name
        self._usage: hub.Usage | None = None
        self._tools: list[str] = []  # the vendor's tools, one entry per finished call
        self.text_bytes = 0
        self.is_terminal = self.has_failed = False
        self._sequence = 0
        self._response: raw_json.Fields | None = None  # from the newest event that has one

    @property
    def usage(self) -> hub.Usage | None:
        """The usage of the newest response that has one, else None.

        Where that response lists no tool calls, they are counted from finished items: some hosts end with an empty
        output, and a broken stream has no end.
        """
        usage = self._usage
        if not self._tools or (usage.tool_calls if usage else self.is_terminal):
            return usage
        return replace(usage or hub.Usage(), tool_calls=_counted(self._tools))

    @property
    def response_id(self) -> str | None:
        return raw_json.text(self._response, "id") if self._response else None

    def observe(self, data: bytes) -> tuple[bytes | None, Verdict]:
        """Returns the data for the client, None to drop the event, and the verdict on the stream."""
        event = raw_json.try_decode(_decode, data)
        if event is None:
            return data, Verdict.CONTINUES
        self._sequence = max(self._sequence, event.sequence_number + 1)
        if event.delta:
            self.text_bytes += max(0, len(event.delta) - 2)
        if event.type == "error":
            self.has_failed = True
        elif event.type == "response.output_item.done" and _CALL in bytes(event.item):
            self._read_item(event.item)
        if not event.response or bytes(event.response) in NULLS:
            return data, Verdict.CONTINUES
        renamed = self._read_response(data, event)
        if event.type not in TERMINAL:
            return renamed, Verdict.CONTINUES
        self.is_terminal = True
        self.has_failed = event.type == "response.failed"
        return renamed, Verdict.ENDS

    def _read_item(self, raw: Raw) -> None:
        item = raw_json.try_decode(_decode_item, bytes(raw))
        if item is not None and (tool := _tool(item)):
            self._tools.append(tool)

    def _read_response(self, data: bytes, event: _Event) -> bytes:
        usage, inner = read_whole(bytes(event.response))
        self._usage = usage or self._usage
        self._response = inner or self._response
        if self._name is None or not inner or "model" not in inner or bytes(inner["model"]) == self._name:
            return data
        if (outer := raw_json.find(data)) is None:
            return data
        inner["model"] = Raw(self._name)
        outer["response"] = Raw(raw_json.join(inner))
        return raw_json.join(outer)

    def failure_events(self, status: int, code: str, message: str, request_id: str) -> list[bytes]:
        """Returns the events that report to the client that the stream broke off: a failed response, then an error.

        Agents wait for the first and know no other; the SDKs raise on the second.
        """
        events = []
        if self._response is not None:
            error = orjson.dumps({"code": code, "message": message})
            failed = self._response | {"status": Raw(b'"failed"'), "error": Raw(error)}
            event = {"type": "response.failed", "sequence_number": self._sequence}
            whole = {
                **{name: Raw(orjson.dumps(value)) for name, value in event.items()},
                "response": Raw(raw_json.join(failed)),
            }
            events.append(sse.event(raw_json.join(whole), "response.failed"))
            self._sequence += 1
        return [*events, error_event(status, code, message, request_id, self._sequence)]

    def tail(self) -> bytes:
        """Returns what completes a clean end: nothing in this protocol."""
        return b""
