"""The story of one request: admit, resolve, translate, send, translate back, account.

`plan` has no effects; `run` has them all, in this order: journal, upstream, answer, settlement.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import ModuleType

from gproxy.accounting import prices
from gproxy.accounting.journal import Ids, Journal
from gproxy.admission import keys
from gproxy.admission.permissions import Rights
from gproxy.channels.kind import GENERATE, STREAM, Kind, Lane
from gproxy.errors import BadRequest, ClientGone, GatewayError, Unsupported, UpstreamError
from gproxy.protocols import fields
from gproxy.protocols.hub import Ask
from gproxy.relay import headers, local, passing
from gproxy.relay.capacity import Capacity
from gproxy.relay.presence import Presence
from gproxy.relay.tally import Tally, input_estimate
from gproxy.routing import resolve
from gproxy.routing.choose import RoundRobin
from gproxy.store.snapshot import Caller, Credential, Provider, Snapshot
from gproxy.upstream.client import Client, Exchange, Limits

log = logging.getLogger(__name__)

# A name is matched against patterns and stands in rows and journal lines, so its length is bounded.
MOST_MODEL = 512


@dataclass(frozen=True, slots=True)
class Call:
    """A request as web hands it over. `header` looks one up by its lower-case name."""

    protocol: str
    body: bytes
    header: Callable[[str], str | None]
    query: tuple[tuple[str, str], ...]
    request_id: str
    started: float  # performance counter
    provider: str | None = None  # on a scoped path
    model: str | None = None  # where the path names it
    is_stream: bool | None = None  # where the path tells
    as_array: bool = False  # a Gemini stream as one JSON array


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before anything happens."""

    caller: Caller
    asked: Ask
    sent_model: str
    name: str  # without provider prefix
    provider: Provider
    kind: Kind
    lane: Lane
    path: str  # below the upstream's base URL
    model: str  # the upstream's
    operation: str
    body: bytes
    price: prices.Found | None


@dataclass(slots=True)
class Answer:
    """`body` is bytes or an iterator of them; `close` must be called however the answer ends."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | Iterable[bytes]
    close: Callable[[], None] = field(default=lambda: None)


@dataclass(slots=True)
class Relay:
    protocols: Mapping[str, ModuleType]
    kinds: Mapping[str, Kind]
    snapshot: Callable[[], Snapshot]
    upstream: Client
    journal: Journal
    ids: Ids
    capacity: Capacity
    credentials: RoundRobin = field(default_factory=RoundRobin)
    running: set[Presence] = field(default_factory=set)
    clients_gone: int = 0

    def admit(self, key: str | None) -> tuple[Caller, Snapshot]:
        """Whose request this is, and the state of things that it will be served by. Raises Unauthorized."""
        snapshot = self.snapshot()
        return keys.admit(snapshot, key, time.time()), snapshot

    def plan(self, call: Call, caller: Caller, snapshot: Snapshot) -> Plan:
        """Where the call goes and what is sent. Raises GatewayError; no effects."""
        protocol = self.protocols[call.protocol]
        asked = protocol.ask(call.body)
        sent = call.model or asked.model
        if not sent:
            raise BadRequest("model: missing; name a model")
        if len(sent) > MOST_MODEL:
            raise BadRequest(f"model: longer than {MOST_MODEL} characters")
        is_stream = asked.is_stream if call.is_stream is None else call.is_stream
        operation = STREAM if is_stream else GENERATE
        resolved = self._resolve(snapshot, call.provider, sent, Rights(caller))
        target = resolved.targets[0]
        if not target.model:
            raise BadRequest("model: names a provider and no model")
        kind = self.kinds[target.provider.channel]
        with headers.naming(target.provider):
            lane = kind.lane(operation, call.protocol, target.provider.settings.protocol)
            if lane is None:
                raise Unsupported(
                    f"provider {target.provider.name!r} does not speak {call.protocol}, "
                    "and translation is not supported by this version"
                )
        return Plan(
            caller=caller,
            asked=asked,
            sent_model=sent,
            name=resolved.name,
            provider=target.provider,
            kind=kind,
            lane=lane,
            path=headers.path(lane.path, target.model, call.query),
            model=target.model,
            operation=operation,
            body=protocol.outgoing(asked, call.body, target.model),
            price=prices.find(snapshot, target.provider.id, target.provider.channel, target.model),
        )

    def _resolve(self, snapshot: Snapshot, provider: str | None, sent: str, rights: Rights) -> resolve.Resolved:
        if provider is None:
            return resolve.aggregated(snapshot, sent, rights)
        return resolve.scoped(snapshot, provider, sent, rights)

    def attend(self, sock) -> Presence:
        """The watch over one request, from its body on; `dismiss` ends it."""
        presence = Presence(sock)
        self.running.add(presence)
        return presence

    def dismiss(self, presence: Presence) -> None:
        presence.close()
        self.running.discard(presence)

    def run(self, plan: Plan, call: Call, presence: Presence) -> Answer:
        """Sends the planned call and answers. Raises GatewayError or ClientGone; then it is settled."""
        with headers.naming(plan.provider):
            credential = None if plan.kind.answers else self.credentials.next(plan.provider)
            tally = self._open(plan, call, credential)
            try:
                presence.begin()
                exchange = self._send(plan, call, credential, presence)
                tally.saw_first_byte()
                return self._answer(plan, call, exchange, tally, presence)
            except ClientGone:
                self._count_gone()
                tally.client_left(None, 0)
                raise
            except BaseException as fault:
                tally.broke(getattr(fault, "status", 500), None, 0)
                if isinstance(fault, GatewayError):
                    log.warning("request %s: provider %s: %s", call.request_id, plan.provider.name, fault.message)
                raise

    def _count_gone(self) -> None:
        self.clients_gone += 1

    def _open(self, plan: Plan, call: Call, credential: Credential | None) -> Tally:
        now = time.time_ns()
        tally = Tally(self.journal, self.ids.next(now), plan.price, input_estimate(call.body), call.started)
        tally.open(
            {
                "rq": call.request_id,
                "at": now,
                "u": plan.caller.user_id,
                "k": plan.caller.key_id,
                "p": plan.provider.id,
                "c": plan.provider.channel,
                "r": credential.id if credential else None,
                "op": plan.operation,
                "pr": self.protocols[call.protocol].WIRE_NAME,
                "m": plan.name,
                "eu": plan.asked.end_user,
                "t": call.header("x-gproxy-tag"),
            }
        )
        return tally

    def _send(self, plan: Plan, call: Call, credential: Credential | None, presence: Presence) -> Exchange:
        if plan.kind.answers:
            return local.Exchange(plan.kind.answers, plan.operation == STREAM, call.protocol, plan.model, plan.body)
        settings = plan.provider.settings
        return self.upstream.send(
            "POST",
            settings.base_url or plan.kind.base_url,
            plan.path,
            headers.to_upstream(
                call.protocol, settings.forward_headers, call.header, plan.lane.auth(credential.secret)
            ),
            plan.body,
            limits(settings),
            presence,
            credential.secret,
        )

    def _answer(self, plan: Plan, call: Call, exchange: Exchange, tally: Tally, presence: Presence) -> Answer:
        protocol = self.protocols[call.protocol]
        told = headers.to_client(plan.provider, exchange)
        if 300 <= exchange.status < 400:
            exchange.close()
            raise UpstreamError(f"the upstream redirects ({exchange.status}), and redirects are not followed")
        if exchange.status >= 300:
            body = exchange.read(presence)
            tally.broke(exchange.status, None, 0)
            log.info("request %s: provider %s answered %d", call.request_id, plan.provider.name, exchange.status)
            return self._whole(exchange, call, tally, told, body)
        quoted = fields.quoted(plan.sent_model)
        if plan.operation == STREAM and exchange.is_stream:
            stream = passing.Passing(protocol, quoted, plan.asked, exchange, tally, presence, call, self._count_gone)
            told += headers.STREAMED_ARRAY if call.as_array else headers.STREAMED
            told.append(headers.overhead(call.started, exchange.waited_s))
            return Answer(exchange.status, told, stream.frames(), stream.close)
        body = exchange.read(presence)
        usage, found = protocol.read_whole(body)
        if found is None:
            raise UpstreamError(f"the upstream answered {exchange.status} with a body that is not a JSON object")
        is_error = usage is None and passing.has_value(found, "error")
        text_bytes = 0 if usage is not None or is_error else passing.text_in(body)
        if protocol.MODEL_FIELD in found and bytes(found[protocol.MODEL_FIELD]) != quoted:
            body = fields.join(fields.exchange(found, protocol.MODEL_FIELD, quoted))
        if is_error:  # some upstreams tell an error with 200; it is not billed as output
            tally.broke(exchange.status, None, 0)
        else:
            tally.complete(exchange.status, usage, text_bytes)
        return self._whole(exchange, call, tally, told, body)

    def _whole(self, exchange, call, tally, told, body: bytes) -> Answer:
        """An answer that is all here, and settled."""
        told.append(("Content-Type", exchange.headers.get("content-type", "application/json")))
        if tally.cost is not None and exchange.status < 300:
            told.append(headers.cost(tally.cost))
        told.append(headers.overhead(call.started, exchange.waited_s))
        return Answer(exchange.status, told, body)

    def cut(self, fault: Callable[[], GatewayError]) -> int:
        """Ends every call that still runs, each with a fault of its own. Returns how many there were."""
        for presence in self.running:
            presence.interrupt(fault())
        return len(self.running)


def limits(settings) -> Limits:
    return Limits(
        settings.connect_timeout_s,
        settings.first_byte_timeout_s,
        settings.idle_timeout_s,
        settings.total_timeout_s,
    )
