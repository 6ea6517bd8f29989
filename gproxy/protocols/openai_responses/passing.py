"""OpenAI Responses. https://platform.openai.com/docs/api-reference/responses"""

import msgspec
import orjson
from msgspec import Raw

from gproxy.protocols import fields, sse
from gproxy.protocols.fields import ABSENT, NULLS, outgoing  # noqa: F401 - a verb of this protocol
from gproxy.protocols.hub import Ask, Usage, part
from gproxy.protocols.openai import (  # noqa: F401 - verbs of this protocol
    error,
    next_page,
    read_models,
    read_usage,
    write_error,
    write_model,
    write_models,
)
from gproxy.protocols.openai_chat.passing import read_whole
from gproxy.protocols.reading import Verdict
from gproxy.protocols.signatures import is_wrapped

NAME = "openai_responses"
WIRE_NAME = "openai_response"
REQUEST_ID_HEADERS = ("x-request-id",)
MODEL_FIELD = "model"
LIST_QUERY: dict[str, str] = {}

TERMINAL = frozenset(("response.completed", "response.incomplete", "response.failed"))


def ask(body: bytes) -> Ask:
    """What the body asks for. Raises BadRequest."""
    found = fields.split(body)
    return Ask(fields.model(found), fields.is_stream(found), True, fields.text(found, "user"), found)


def unsealed(body: dict) -> dict:
    """The body without envelopes of ours: what another provider sealed is nothing to this one."""
    if not isinstance(body.get("input"), list):
        return body
    return {**body, "input": [item for item in body["input"] if not is_wrapped(part(item).get("encrypted_content"))]}


def error_event(status: int, code: str, message: str, request_id: str, sequence: int = 0) -> bytes:
    """The vendor's flat error event; its SDKs raise only where a nested `error` stands beside, as the vendor sends."""
    inner = error(status, code, message, request_id)
    flat = {"type": "error", "sequence_number": sequence, "code": code, "message": message, "param": None}
    return sse.event(orjson.dumps({**flat, "error": inner}), "error")


class _Event(msgspec.Struct):
    type: str = ""
    sequence_number: int = 0
    response: Raw = ABSENT
    delta: Raw = ABSENT


_decode = msgspec.json.Decoder(_Event).decode


class Stream:
    """Reads one Responses stream as it passes.

    `name` is the model name that the client shall see, as JSON; None leaves it.
    """

    def __init__(self, name: bytes | None, asked: Ask):
        self._name = name
        self.usage: Usage | None = None
        self.text_bytes = 0
        self.is_terminal = self.has_failed = False
        self._sequence = 0
        self._response: fields.Fields | None = None  # as the last event showed it

    def see(self, data: bytes) -> tuple[bytes | None, Verdict]:
        event = fields.seen(_decode, data)
        if event is None:
            return data, Verdict.GOES_ON
        self._sequence = max(self._sequence, event.sequence_number + 1)
        if event.delta:
            self.text_bytes += max(0, len(event.delta) - 2)
        if event.type == "error":
            self.has_failed = True
        if not event.response or bytes(event.response) in NULLS:
            return data, Verdict.GOES_ON
        passed = self._read_response(data, event)
        if event.type not in TERMINAL:
            return passed, Verdict.GOES_ON
        self.is_terminal = True
        self.has_failed = event.type == "response.failed"
        return passed, Verdict.ENDS

    def _read_response(self, data: bytes, event: _Event) -> bytes:
        usage, inner = read_whole(bytes(event.response))
        self.usage = usage or self.usage
        self._response = inner or self._response
        if self._name is None or not inner or "model" not in inner or bytes(inner["model"]) == self._name:
            return data
        if (outer := fields.find(data)) is None:
            return data
        inner["model"] = Raw(self._name)
        outer["response"] = Raw(fields.join(inner))
        return fields.join(outer)

    def break_off(self, status: int, code: str, message: str, request_id: str) -> list[bytes]:
        """The events that tell a client that this stream ends without its end: a failed response, then an error.

        Agents wait for the first and know no other; the SDKs raise on the second.
        """
        told = []
        if self._response is not None:
            error = orjson.dumps({"code": code, "message": message})
            failed = self._response | {"status": Raw(b'"failed"'), "error": Raw(error)}
            event = {"type": "response.failed", "sequence_number": self._sequence}
            whole = {
                **{name: Raw(orjson.dumps(value)) for name, value in event.items()},
                "response": Raw(fields.join(failed)),
            }
            told.append(sse.event(fields.join(whole), "response.failed"))
            self._sequence += 1
        return [*told, error_event(status, code, message, request_id, self._sequence)]

    def tail(self) -> bytes:
        return b""
