"""The story of one request: admit, resolve, translate, hold, send, translate back, account.

`plan` has no effects; `run` has them all, in this order: hold, journal, upstream, answer, settlement.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType

from gproxy.accounting.journal import Ids, Journal
from gproxy.admission import keys
from gproxy.admission.capacity import Capacity
from gproxy.admission.permissions import Rights
from gproxy.channels import error_classifier
from gproxy.channels.error_classifier import Fault
from gproxy.channels.kind import COUNT, EMBED, EMBED_BATCH, STREAM, Kind
from gproxy.credentials.access_tokens import Tokens
from gproxy.credentials.pool import Pool
from gproxy.errors import ClientDisconnected, Forbidden, GatewayError, RateLimited, UpstreamError
from gproxy.metrics.call_metrics import CallMetrics
from gproxy.protocols import raw_json
from gproxy.protocols.hub import Context, TokenCount, Usage
from gproxy.protocols.losses import Losses
from gproxy.quota.reservations import NoReservation, Reservation, Reserver, UpperBound
from gproxy.relay import dispatch, first_event_probe, headers, local_exchange, passthrough_stream, translated_stream
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.relay.failover import Failover
from gproxy.relay.planner import Call, Plan, Planner
from gproxy.relay.settlement import BYTES_PER_TOKEN, NoSettlement, Outcome, Settlement, input_estimate
from gproxy.snapshot import Caller, Credential, Snapshot
from gproxy.state.ttl_store import TtlStore
from gproxy.translation import reasoning_state, translate
from gproxy.units import NS
from gproxy.upstream.client import Client, Exchange, Limits, Transport
from gproxy.upstream.images import Images

log = logging.getLogger(__name__)


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
    images: Images  # fetches what a client names by address
    ttl_store: TtlStore  # what vendors want back and clients cannot carry
    reserver: Reserver  # takes from limits, quotas and budgets
    pool: Pool  # the credentials, in turn, and their health
    tokens: Tokens  # what service accounts show in place of a key
    metrics: CallMetrics
    running: set[DisconnectWatch] = field(default_factory=set)
    streaming: set[DisconnectWatch] = field(default_factory=set)
    client_disconnects: int = 0
    planner: Planner = field(init=False)

    def __post_init__(self):
        self.planner = Planner(self.protocols, self.kinds, self.ttl_store)

    def admit(self, key: str | None) -> tuple[Caller, Snapshot]:
        """Whose request this is, and the state of things that it will be served by. Raises Unauthorized."""
        snapshot = self.snapshot()
        return keys.admit(snapshot, key, time.time()), snapshot

    def admit_to_files(self, key: str | None, provider: str | None) -> None:
        """Whether this key may use files at the provider, if one is named. Raises Unauthorized, Forbidden."""
        caller, snapshot = self.admit(key)
        found = snapshot.providers.get(provider)
        if provider and (found is None or not Rights(caller).may_use_files(found.id)):
            raise Forbidden(f"files at provider {provider!r} are not allowed for this key; ask for a file permission")

    def plan(self, call: Call, caller: Caller, snapshot: Snapshot) -> Plan:
        """Where the call goes and what is sent. Raises GatewayError; no effects."""
        return self.planner.plan(call, caller, snapshot)

    def attend(self, sock) -> DisconnectWatch:
        """The watch over one request, from its body on; `dismiss` ends it."""
        watch = DisconnectWatch(sock)
        self.running.add(watch)
        self.metrics.open(len(self.running), len(self.streaming))
        return watch

    def dismiss(self, watch: DisconnectWatch) -> None:
        watch.close()
        self.running.discard(watch)
        self.streaming.discard(watch)
        self.metrics.open(len(self.running), len(self.streaming))

    def run(self, plan: Plan, call: Call, watch: DisconnectWatch) -> Answer:
        """Sends the planned call and answers. Raises GatewayError or ClientDisconnected; then it is settled."""
        call.summary.goes_to(plan)
        with headers.Naming(plan.provider):
            if plan.lane is None:
                return self._counted(plan, call)
            failover = Failover(self.pool, plan)
            try:
                settlement = self._open(plan, call, failover, watch)
            except BaseException:
                failover.give_up()
                failover.place.give_back()
                raise
            try:
                # An answer that is drained is read to its end, whoever is still there.
                if plan.provider.settings.on_disconnect == "cancel":
                    watch.begin()
                exchange = self._reach(failover, call, settlement, watch)
                settlement.saw_first_byte()
                answer = self._answer(failover.plan, call, exchange, settlement, watch)
                return self._begun(answer, call, exchange, watch)
            except ClientDisconnected:
                self._count_disconnect()
                failover.give_up()
                settlement.client_disconnected(None, 0)
                raise
            except BaseException as fault:
                failover.give_up()
                settlement.broke(getattr(fault, "status", 500), None, 0)
                if isinstance(fault, GatewayError):
                    log.warning(
                        "request %s: provider %s: %s", call.request_id, failover.plan.provider.name, fault.message
                    )
                raise

    def _begun(self, answer: Answer, call: Call, exchange: Exchange, watch: DisconnectWatch) -> Answer:
        """Measures an answer whose headers are about to be sent."""
        self.metrics.answered(call.summary, max(0.0, time.perf_counter() - call.started - exchange.waited_s))
        if not isinstance(answer.body, bytes):
            self.streaming.add(watch)
            self.metrics.open(len(self.running), len(self.streaming))
        return answer

    def _reach(self, failover: Failover, call: Call, settlement: Settlement, watch: DisconnectWatch) -> Exchange:
        """The first answer that is no fault of who gave it, else the first of those that are.

        Raises GatewayError when there is none at all.
        """
        while True:
            began = failover.begin()
            try:
                self._fill(failover.plan, watch)
                exchange = self._send(failover.plan, call, failover.credential, watch)
                fault = self._fault(failover, exchange, watch)
            except GatewayError as fault:
                goes_on = failover.got_none(fault)
            else:
                if fault is None:
                    failover.served(exchange.status, began)
                    settlement.serve(failover.plan, failover.credential)
                    return exchange
                goes_on = failover.got(exchange, fault)
            if not goes_on:
                return failover.first()
            log.info("request %s: another attempt, at provider %s", call.request_id, failover.plan.provider.name)

    def _fault(self, failover: Failover, exchange: Exchange, watch: DisconnectWatch) -> Fault | None:
        """What an answer says of the credential. What is read of it for that is kept.

        Raises UpstreamError when it breaks off meanwhile.
        """
        if error_classifier.may_be_fault(exchange.status):
            return error_classifier.classify(exchange.status, exchange.headers, exchange.kept(watch), time.time())
        if exchange.status != 200 or not exchange.is_stream or not failover.has_others:
            return None
        try:
            protocol = self.protocols[failover.plan.upstream_protocol]
            return first_event_probe.fault_of(exchange, protocol, failover.plan.asked, watch, time.time())
        except BaseException:
            exchange.close()
            raise

    def _counted(self, plan: Plan, call: Call) -> Answer:
        """Tokens by the bytes of the body, where the upstream has no count; told as the estimate that it is."""
        protocol = self.protocols[call.protocol]
        found = TokenCount(input_estimate(call.body))
        context = Context(plan.sent_model, plan.provider.name, call.request_id, 0)
        body = raw_json.dumps(protocol.CODECS[COUNT].write_reply(found, context, Losses()))
        told = [("x-gproxy-provider", plan.provider.name), headers.ESTIMATED, ("Content-Type", "application/json")]
        self._ended(call, Outcome.COMPLETE, 200)
        return Answer(200, [*told, headers.overhead(call.started, 0.0)], body)

    def _fill(self, plan: Plan, watch: DisconnectWatch) -> None:
        """Fills in the files that its upstream cannot fetch itself. Raises BadRequest, ClientDisconnected."""
        if plan.translation is not None and plan.translation.urls:
            watch.begin()
            made = translate.fetch(plan.translation, self.images, watch)
            plan.translate(translate.written(made, plan.provider.settings.strict_translation))

    def _count_disconnect(self) -> None:
        self.client_disconnects += 1
        self.metrics.client_disconnected()

    def _ended(self, call: Call, outcome: Outcome, status: int) -> None:
        """Measures a call that has no row."""
        call.summary.outcome = outcome
        self.metrics.settled(call.summary, status, time.perf_counter() - call.started, is_booked=False)

    def _open(self, plan: Plan, call: Call, failover: Failover, watch: DisconnectWatch) -> Settlement:
        """Reserves what the call may cost and writes its `opened` entry.

        Raises GatewayError or ClientDisconnected; then nothing stays reserved.
        """
        # Before anything is counted: a request that is refused for its files uses up nothing.
        if failover.plan is plan:
            self._fill(plan, watch)
        if plan.operation == COUNT:
            failover.secure()
            return NoSettlement(failover.place.give_back, partial(self._ended, call))
        now = time.time_ns()
        call_id = self.ids.next(now)
        self.journal.refuse_when_full()
        reservation = self._hold(call_id, now, plan.upper_bound, self.protocols[call.protocol])
        try:
            failover.secure()
            settlement = self._settlement(failover.plan, call, call_id, reservation)
            settlement.attempts, settlement.give_back = failover.attempts.made, failover.place.give_back
            settlement.open(self._entry(failover.plan, call, failover.credential, reservation.at))
        except BaseException:
            reservation.settle(0, 0)
            raise
        return settlement

    def _hold(
        self, call_id: int, now: int, upper_bound: UpperBound | None, protocol: ModuleType
    ) -> Reservation | NoReservation:
        if upper_bound is None:
            return NoReservation(self.reserver, call_id, now)
        try:
            return self.reserver.take(call_id, upper_bound)
        except RateLimited as fault:
            fault.headers |= headers.vendors_left(fault.statuses, protocol, time.time())
            raise

    def _settlement(self, plan: Plan, call: Call, call_id: int, reservation: Reservation | NoReservation) -> Settlement:
        settlement = Settlement(
            self.journal, call_id, plan.price, plan.input_tokens, call.started, plan.mode, reservation
        )
        settlement.summary, settlement.count_metrics = call.summary, self.metrics.settled
        call.summary.goes_to(plan)
        may_stop = plan.operation == STREAM and plan.price is not None and plan.provider.settings.stop_at_quota
        if may_stop and reservation.max_output is not None:
            settlement.covered_bytes = reservation.max_output * BYTES_PER_TOKEN
        return settlement

    def _entry(self, plan: Plan, call: Call, credential: Credential | None, at: int) -> dict:
        """What the journal says of a call that is about to be sent."""
        return {
            "rq": call.request_id,
            **({} if call.trace is None else {"d": call.trace}),
            "at": at,
            "u": plan.caller.user_id,
            "k": plan.caller.key_id,
            "p": plan.provider.id,
            "c": plan.provider.channel,
            "r": credential.id if credential else None,
            "op": EMBED if plan.operation == EMBED_BATCH else plan.operation,
            "pr": dispatch.wire_name(self.protocols[call.protocol], plan.operation),
            "m": plan.name,
            "eu": plan.asked.end_user,
            "t": call.header("x-gproxy-tag"),
            **({"lo": plan.losses} if plan.losses else {}),
        }

    def _send(self, plan: Plan, call: Call, credential: Credential | None, watch: DisconnectWatch) -> Exchange:
        if plan.kind.answers:
            return local_exchange.Exchange(
                plan.kind.answers, plan.operation == STREAM, plan.upstream_protocol, plan.model, plan.body
            )
        transport = transport_of(plan.provider.settings)
        shown = self.tokens.shown(credential, transport, watch)
        exchange = self._ask(plan, call, credential, shown, watch, transport)
        if exchange.status == 401 and credential.account is not None and self.tokens.drop(credential, shown):
            exchange.close()  # a token that ended before its time
            shown = self.tokens.shown(credential, transport, watch)
            exchange = self._ask(plan, call, credential, shown, watch, transport)
        return exchange

    def _ask(
        self, plan: Plan, call: Call, credential: Credential, shown: str, watch: DisconnectWatch, transport: Transport
    ):
        settings, provider = plan.provider.settings, plan.provider
        base_url = settings.base_url or plan.kind.host(settings.location)
        path = headers.placed(plan.path, credential, settings.location)
        sent = headers.to_upstream(plan.upstream_protocol, settings.forward_headers, call.header, plan.lane.auth(shown))

        def send() -> Exchange:
            told = self.metrics.connections(provider.name)
            return self.upstream.send(
                "POST", base_url, path, sent, plan.body, limits(settings), watch, shown, transport, told
            )

        if call.attempt_log is None:
            return send()
        return call.attempt_log.send(provider.id, credential.id, base_url + path, sent, plan.body, shown, send)

    def _answer(
        self, plan: Plan, call: Call, exchange: Exchange, settlement: Settlement, watch: DisconnectWatch
    ) -> Answer:
        told = headers.to_client(plan.provider, exchange, is_limited=plan.upper_bound is not None)
        if plan.upper_bound is not None:
            told += headers.left(
                settlement.reservation.statuses, self.protocols[call.protocol], settlement.reservation.at / NS
            )
        if plan.translation is not None:
            told.append(("x-gproxy-translated", plan.translation.label))
        if plan.operation == STREAM:
            watch.beat_every(plan.provider.settings.heartbeat_s)
        if 300 <= exchange.status < 400:
            exchange.close()
            raise UpstreamError(f"the upstream redirects ({exchange.status}), and redirects are not followed")
        if exchange.status >= 300:
            body = exchange.read(watch)
            settlement.broke(exchange.status, None, 0)
            log.info("request %s: provider %s answered %d", call.request_id, plan.provider.name, exchange.status)
            if plan.translation is not None:
                body = translate.error_body(plan.translation, exchange.status, body, call.request_id)
                return self._whole(exchange, call, settlement, told, plan.losses, body, "application/json")
            return self._whole(exchange, call, settlement, told, plan.losses, body)
        if plan.translation is not None:
            return self._translated(plan, call, exchange, settlement, watch, told)
        if plan.operation == STREAM and exchange.is_stream:
            protocol, quoted = self.protocols[call.protocol], raw_json.quoted(plan.sent_model)
            stream = passthrough_stream.PassthroughStream(
                protocol, quoted, plan.asked, exchange, settlement, watch, call, self._count_disconnect, _drain_s(plan)
            )
            stream.mend = plan.kind.mend
            if plan.keeps_responses:
                stream.on_end = self._keeper(plan, settlement)
            return self._streamed(stream, call, exchange, told, plan.losses)
        protocol, body = self.protocols[call.protocol], exchange.read(watch)
        if plan.kind.mend is not None:
            body = plan.kind.mend(body)
        found = self._settle(protocol.read_whole(body), body, exchange, settlement)
        if plan.keeps_responses:
            self._keeper(plan, settlement)(raw_json.text(found, "id"))
        quoted = raw_json.quoted(plan.sent_model)
        if protocol.MODEL_FIELD in found and bytes(found[protocol.MODEL_FIELD]) != quoted:
            body = raw_json.join(raw_json.with_value(found, protocol.MODEL_FIELD, quoted))
        return self._whole(exchange, call, settlement, told, plan.losses, body)

    def _keeper(self, plan: Plan, settlement: Settlement) -> Callable[[str | None], None]:
        """Keeps under which credential the vendor keeps a response. It does not keep the plan, and so no body."""
        put, provider = partial(self.ttl_store.put, plan.caller.user_id), plan.provider.id

        def keep(response_id: str | None) -> None:
            if response_id and settlement.by is not None:
                reasoning_state.keep_response(put, provider, response_id, settlement.by[2])

        return keep

    def _settle(self, read: tuple[Usage | None, raw_json.Fields | None], body: bytes, exchange, settlement: Settlement):
        """Books a whole reply by the upstream's own bytes. Raises UpstreamError on what is none."""
        usage, found = read
        if found is None:
            raise UpstreamError(f"the upstream answered {exchange.status} with a body that is not a JSON object")
        if is_error(usage, found):  # some upstreams tell an error with 200; it is not billed as output
            settlement.broke(exchange.status, None, 0)
        else:
            settlement.complete(exchange.status, usage, 0 if usage is not None else passthrough_stream.text_in(body))
        return found

    def _streamed(self, stream, call: Call, exchange: Exchange, told: list, losses: tuple[str, ...]) -> Answer:
        told += headers.STREAMED_ARRAY if call.as_array else headers.STREAMED
        told += headers.lossy(losses)
        told.append(headers.overhead(call.started, exchange.waited_s))
        return Answer(exchange.status, told, stream.frames(), stream.close)

    def _translated(
        self, plan: Plan, call: Call, exchange: Exchange, settlement: Settlement, watch: DisconnectWatch, told: list
    ) -> Answer:
        """A good reply from an upstream of another protocol."""
        made = plan.translation
        context = made.context(plan.sent_model, call.request_id, plan.asked.wants_usage)
        if exchange.is_stream:
            stream = translated_stream.TranslatedStream(
                made,
                plan.asked,
                context,
                exchange,
                settlement,
                watch,
                call.as_array,
                self._count_disconnect,
                _drain_s(plan),
            )
            if plan.operation == STREAM:
                return self._streamed(stream, call, exchange, told, plan.losses)
            try:
                body, lost = translate.folded(made, stream.events(), context, stream.losses)
            finally:
                exchange.close()
            return self._whole(exchange, call, settlement, told, (*plan.losses, *lost), body, "application/json")
        body = exchange.read(watch)
        read = made.upstream.read_whole(body)
        if read[1] is not None and is_error(*read):
            self._settle(read, body, exchange, settlement)
            exchange.status = 502
            body = translate.error_body(made, exchange.status, body, call.request_id)
            return self._whole(exchange, call, settlement, told, plan.losses, body, "application/json")
        lost: tuple[str, ...] = ()
        try:
            if read[1] is not None and plan.operation == STREAM:
                whole = translated_stream.Whole(made, body, context, call.as_array)
                lost = whole.losses
                return self._streamed(whole, call, exchange, told, plan.losses)
            if read[1] is not None:
                body, lost = translate.whole(made, body, context)
        except translate.Failure as fault:
            settlement.broke(fault.status, None, 0)
            raise
        finally:  # what the vendor made is owed for, also where it cannot be translated
            settlement.losses = list(lost)
            self._settle(read, body, exchange, settlement)
        return self._whole(exchange, call, settlement, told, (*plan.losses, *lost), body, "application/json")

    def _whole(
        self, exchange, call, settlement, told: list, losses: tuple[str, ...], body: bytes, kind: str | None = None
    ) -> Answer:
        """An answer that is all here, and settled."""
        told.append(("Content-Type", kind or exchange.headers.get("content-type", "application/json")))
        told += headers.lossy(losses)
        if settlement.cost is not None and exchange.status < 300:
            told.append(headers.cost(settlement.cost))
        told.append(headers.overhead(call.started, exchange.waited_s))
        return Answer(exchange.status, told, body)

    def beat(self) -> None:
        """Has every stream that was quiet for long say that it lives."""
        now = time.monotonic()
        for watch in tuple(self.running):
            watch.look_at(now)

    def cut(self, fault: Callable[[], GatewayError]) -> int:
        """Ends every call that still runs, each with a fault of its own. Returns how many there were."""
        for watch in self.running:
            watch.interrupt(fault())
        return len(self.running)


def _drain_s(plan: Plan) -> float:
    settings = plan.provider.settings
    return settings.drain_s if settings.on_disconnect == "drain" else 0.0


def is_error(usage: Usage | None, found: raw_json.Fields) -> bool:
    return usage is None and passthrough_stream.has_value(found, "error")


def transport_of(settings) -> Transport:
    return Transport(settings.proxy, settings.ca_file, settings.client_cert_file, settings.client_key_file)


def limits(settings) -> Limits:
    return Limits(
        settings.connect_timeout_s,
        settings.first_byte_timeout_s,
        settings.idle_timeout_s,
        settings.total_timeout_s,
        settings.max_connections,
        settings.connection_wait_s,
    )
