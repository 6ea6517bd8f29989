"""Builds the answer to the client from the upstream's response, and settles whole replies."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import NamedTuple

import orjson

from gproxy.channels.kind import COUNT, STREAM
from gproxy.errors import UpstreamError
from gproxy.protocols import raw_json
from gproxy.protocols.hub import Context, TokenCount, Usage, text_bytes
from gproxy.protocols.losses import Losses
from gproxy.relay import headers
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.relay.passthrough_stream import PassthroughStream
from gproxy.relay.planner import Call, Plan
from gproxy.relay.settlement import NoSettlement, Settlement, input_estimate
from gproxy.relay.stream import StreamedCall
from gproxy.relay.translated_stream import TranslatedStream, WholeReplyStream
from gproxy.state.ttl_store import TtlStore
from gproxy.translation import reasoning_state, translate
from gproxy.units import NS
from gproxy.upstream.client import Exchange

log = logging.getLogger(__name__)

JSON = "application/json"


def _do_nothing() -> None:
    """The `close` of an answer without a stream."""


@dataclass(slots=True)
class Answer:
    """The response to the client. `body` is bytes or an iterator of them; `close` must be called in every case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | Iterable[bytes]
    close: Callable[[], None] = _do_nothing


class AnsweredCall(NamedTuple):
    """A call whose upstream has responded. `plan` is that of the target which responded."""

    plan: Plan
    call: Call
    exchange: Exchange
    settlement: Settlement | NoSettlement
    watch: DisconnectWatch


@dataclass(slots=True)
class Answers:
    """Builds the answers of one worker. `on_disconnect` is called when the client of a stream disconnects."""

    protocols: Mapping[str, ModuleType]
    ttl_store: TtlStore  # the credentials of stored responses
    on_disconnect: Callable[[], None]

    def build(self, answered: AnsweredCall) -> Answer:
        """Returns the answer. A whole reply is settled then; a stream settles itself. Raises GatewayError."""
        plan, exchange = answered.plan, answered.exchange
        if plan.operation == STREAM:
            answered.watch.set_heartbeat(plan.provider.settings.heartbeat_s)
        if exchange.status >= 300:
            return self._error(answered)
        if plan.translation is not None:
            return self._translated(answered)
        if plan.operation == STREAM and exchange.is_stream:
            return self._passthrough_stream(answered)
        return self._passthrough_whole(answered)

    def count_locally(self, plan: Plan, call: Call) -> Answer:
        """Answers a token count, estimated from the bytes of the body, for an upstream without counts."""
        context = Context(plan.sent_model, plan.provider.name, call.request_id, 0)
        count = TokenCount(input_estimate(call.body))
        body = raw_json.dumps(self.protocols[call.protocol].CODECS[COUNT].write_reply(count, context, Losses()))
        returned = [("x-gproxy-provider", plan.provider.name), headers.ESTIMATED, ("Content-Type", JSON)]
        return Answer(200, returned + headers.of_call(call.started, 0.0, (), None), body)

    def _error(self, answered: AnsweredCall) -> Answer:
        """Returns the upstream's error, in the client's protocol. Raises UpstreamError on a redirect."""
        plan, call, exchange = answered.plan, answered.call, answered.exchange
        if exchange.status < 400:
            exchange.close()
            raise UpstreamError(f"the upstream redirects ({exchange.status}), and redirects are not followed")
        body = exchange.read(answered.watch)
        answered.settlement.settle_failed(exchange.status, None, 0)
        log.info("request %s: provider %s answered %d", call.request_id, plan.provider.name, exchange.status)
        if plan.translation is None:
            return self._whole(answered, body, exchange.headers.get("content-type", JSON), plan.losses)
        body = translate.error_body(plan.translation, exchange.status, body, call.request_id)
        return self._whole(answered, body, JSON, plan.losses)

    # -- the same-protocol lane ----------------------------------------------------------------------------------------

    def _passthrough_stream(self, answered: AnsweredCall) -> Answer:
        plan, protocol = answered.plan, self.protocols[answered.call.protocol]
        stream = PassthroughStream(self._streamed(answered), protocol, raw_json.quoted(plan.sent_model), plan.head)
        stream.normalize = plan.kind.normalize
        if plan.pins_responses:
            stream.on_end = self._pin_function(answered)
        return self._stream(answered, stream)

    def _passthrough_whole(self, answered: AnsweredCall) -> Answer:
        plan, exchange, protocol = answered.plan, answered.exchange, self.protocols[answered.call.protocol]
        body = exchange.read(answered.watch)
        if plan.kind.normalize is not None:
            body = plan.kind.normalize(body)
        usage, fields = protocol.read_whole(body)
        _settle_whole(answered, usage, fields, body)
        if plan.pins_responses:
            self._pin_function(answered)(raw_json.text(fields, "id"))
        quoted = raw_json.quoted(plan.sent_model)
        if protocol.MODEL_FIELD in fields and bytes(fields[protocol.MODEL_FIELD]) != quoted:
            body = raw_json.join(raw_json.with_value(fields, protocol.MODEL_FIELD, quoted))
        return self._whole(answered, body, exchange.headers.get("content-type", JSON), plan.losses)

    def _pin_function(self, answered: AnsweredCall) -> Callable[[str | None], None]:
        """Returns a function that stores the credential of a response, by the response's id.

        The function has no reference to the plan, so that the request's body can be freed.
        """
        plan, settlement = answered.plan, answered.settlement
        put, provider = partial(self.ttl_store.put, plan.caller.user_id), plan.provider.id

        def pin(response_id: str | None) -> None:
            if response_id and settlement.served_by is not None:
                reasoning_state.store_response_credential(put, provider, response_id, settlement.served_by[2])

        return pin

    # -- the translated lane -------------------------------------------------------------------------------------------

    def _translated(self, answered: AnsweredCall) -> Answer:
        """Returns the translation of a successful response of another protocol."""
        plan, call, translation = answered.plan, answered.call, answered.plan.translation
        context = translation.context(plan.sent_model, call.request_id, plan.head.wants_usage)
        if not answered.exchange.is_stream:
            return self._translated_reply(answered, context)
        stream = TranslatedStream(self._streamed(answered), translation, plan.head, context)
        if plan.operation == STREAM:
            return self._stream(answered, stream)
        try:
            body, lost = translate.fold_stream(translation, stream.events(), context, stream.losses)
        finally:
            answered.exchange.close()
        return self._whole(answered, body, JSON, (*plan.losses, *lost))

    def _translated_reply(self, answered: AnsweredCall, context: Context) -> Answer:
        """Returns the translation of a whole reply, as a stream if the client requested one."""
        plan, call, exchange, settlement, _ = answered
        translation, body = plan.translation, exchange.read(answered.watch)
        usage, fields = translation.upstream.read_whole(body)
        if fields is not None and _is_error_reply(usage, fields):
            _settle_whole(answered, usage, fields, body)
            exchange.status = 502
            body = translate.error_body(translation, exchange.status, body, call.request_id)
            return self._whole(answered, body, JSON, plan.losses)
        lost: tuple[str, ...] = ()
        try:
            if fields is not None and plan.operation == STREAM:
                stream = WholeReplyStream(translation, body, context, call.as_array)
                lost = stream.losses
                return self._stream(answered, stream)
            if fields is not None:
                body, lost = translate.translate_reply(translation, body, context)
        except translate.UpstreamFailure as error:
            settlement.settle_failed(error.status, None, 0)
            raise
        finally:  # the vendor charges for its output, also if it cannot be translated
            settlement.losses = list(lost)
            _settle_whole(answered, usage, fields, body)
        return self._whole(answered, body, JSON, (*plan.losses, *lost))

    # -- both lanes ----------------------------------------------------------------------------------------------------

    def _streamed(self, answered: AnsweredCall) -> StreamedCall:
        settings = answered.plan.provider.settings
        return StreamedCall(
            answered.exchange,
            answered.settlement,
            answered.watch,
            answered.call.request_id,
            answered.call.as_array,
            settings.drain_s if settings.on_disconnect == "drain" else 0.0,
            self.on_disconnect,
        )

    def _stream(self, answered: AnsweredCall, stream) -> Answer:
        """Answers with a stream, which settles the call itself."""
        call, exchange = answered.call, answered.exchange
        returned = self._headers(answered) + (headers.STREAMED_ARRAY if call.as_array else headers.STREAMED)
        returned += headers.of_call(call.started, exchange.waited_s, answered.plan.losses, None)
        return Answer(exchange.status, returned, stream.frames(), stream.close)

    def _whole(self, answered: AnsweredCall, body: bytes, content_type: str, losses: tuple[str, ...]) -> Answer:
        """Answers with a whole body; the call is settled already."""
        call, exchange = answered.call, answered.exchange
        returned = self._headers(answered)
        returned.append(("Content-Type", content_type))
        cost = answered.settlement.cost if exchange.status < 300 else None
        returned += headers.of_call(call.started, exchange.waited_s, losses, cost)
        return Answer(exchange.status, returned, body)

    def _headers(self, answered: AnsweredCall) -> list[tuple[str, str]]:
        """Returns the upstream's headers, the rate limits, and the protocols of a translation."""
        plan, reservation = answered.plan, answered.settlement.reservation
        returned = headers.to_client(plan.provider, answered.exchange, is_limited=plan.upper_bound is not None)
        if plan.upper_bound is not None:
            protocol = self.protocols[answered.call.protocol]
            returned += headers.rate_limits(reservation.statuses, protocol, reservation.at / NS)
        if plan.translation is not None:
            returned.append(("x-gproxy-translated", plan.translation.label))
        return returned


def _settle_whole(answered: AnsweredCall, usage: Usage | None, fields: raw_json.Fields | None, body: bytes) -> None:
    """Settles a whole reply by the upstream's own bytes. Raises UpstreamError if it is not a JSON object."""
    status, settlement = answered.exchange.status, answered.settlement
    if fields is None:
        raise UpstreamError(f"the upstream answered {status} with a body that is not a JSON object")
    if _is_error_reply(usage, fields):  # some upstreams report an error with status 200; it is not billed as output
        settlement.settle_failed(status, None, 0)
    else:
        settlement.settle_complete(status, usage, 0 if usage is not None else _text_size(body))


def _is_error_reply(usage: Usage | None, fields: raw_json.Fields) -> bool:
    """Returns whether a whole reply reports an error in place of output."""
    return usage is None and "error" in fields and bytes(fields["error"]) != b"null"


def _text_size(body: bytes) -> int:
    """Returns the bytes of text in a whole reply, for an estimate of its tokens."""
    try:
        return text_bytes(orjson.loads(body))
    except (orjson.JSONDecodeError, RecursionError):  # valid as raw fields, and not in every value
        return len(body)
