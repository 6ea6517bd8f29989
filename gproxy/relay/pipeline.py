"""The path of one request: plan, reserve, attempt, respond, settle.

`plan` has no effects. `run` has all of them, in this order: reservation, journal entry, attempts, response, settlement.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType

from gproxy.accounting.entries import Opened, cut
from gproxy.accounting.journal import Ids, Journal
from gproxy.admission import keys
from gproxy.admission.capacity import Capacity
from gproxy.admission.permissions import Rights
from gproxy.channels import error_classifier
from gproxy.channels.error_classifier import Fault
from gproxy.channels.kind import COUNT, EMBED, EMBED_BATCH, STREAM, Kind
from gproxy.credentials.access_tokens import AccessTokens
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
from gproxy.relay.settlement import NoSettlement, Outcome, Settlement, input_estimate
from gproxy.request_log.recorder import SentRequest
from gproxy.snapshot import Caller, Credential, Provider, Snapshot
from gproxy.state.ttl_store import TtlStore
from gproxy.translation import reasoning_state, translate
from gproxy.units import NS
from gproxy.upstream.client import Client, Exchange, Limits, Transport
from gproxy.upstream.images import ImageFetcher

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Answer:
    """The response to the client. `body` is bytes or an iterator of them; `close` must be called in every case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | Iterable[bytes]
    close: Callable[[], None] = field(default=lambda: None)


@dataclass(slots=True)
class Relay:
    """Serves the calls of one worker."""

    protocols: Mapping[str, ModuleType]
    kinds: Mapping[str, Kind]
    snapshot: Callable[[], Snapshot]
    upstream: Client
    journal: Journal
    ids: Ids
    capacity: Capacity
    images: ImageFetcher  # fetches files that a client named by URL
    ttl_store: TtlStore  # reasoning state, and the credentials of stored responses
    reserver: Reserver  # reserves in limits, quotas and budgets
    pool: Pool  # the credentials and their state
    tokens: AccessTokens  # the access tokens of service accounts
    metrics: CallMetrics
    running: set[DisconnectWatch] = field(default_factory=set)
    streaming: set[DisconnectWatch] = field(default_factory=set)
    client_disconnects: int = 0
    planner: Planner = field(init=False)

    def __post_init__(self):
        self.planner = Planner(self.protocols, self.kinds, self.ttl_store)

    def admit(self, key: str | None) -> tuple[Caller, Snapshot]:
        """Returns the caller of this key and the snapshot for its request. Raises Unauthorized."""
        snapshot = self.snapshot()
        return keys.admit(snapshot, key, time.time()), snapshot

    def admit_to_files(self, key: str | None, provider: str | None) -> None:
        """Checks that this key may use files, at the provider if one is named. Raises Unauthorized or Forbidden."""
        caller, snapshot = self.admit(key)
        found = snapshot.providers.get(provider)
        if provider and (found is None or not Rights(caller).may_use_files(found.id)):
            raise Forbidden(f"files at provider {provider!r} are not allowed for this key; ask for a file permission")

    def open_watch(self, sock) -> DisconnectWatch:
        """Returns the watch over the client of one request. The caller must end it with `close_watch`."""
        watch = DisconnectWatch(sock)
        self.running.add(watch)
        self.metrics.open(len(self.running), len(self.streaming))
        return watch

    def close_watch(self, watch: DisconnectWatch) -> None:
        """Ends the watch over a request."""
        watch.close()
        self.running.discard(watch)
        self.streaming.discard(watch)
        self.metrics.open(len(self.running), len(self.streaming))

    def send_heartbeats(self) -> None:
        """Interrupts the wait of every stream with a due heartbeat."""
        now = time.monotonic()
        for watch in tuple(self.running):
            watch.check_heartbeat(now)

    def interrupt_all(self, new_error: Callable[[], GatewayError]) -> int:
        """Interrupts every running call with an error of its own. Returns the number of calls."""
        for watch in self.running:
            watch.interrupt(new_error())
        return len(self.running)

    def plan(self, call: Call, caller: Caller, snapshot: Snapshot) -> Plan:
        """Returns the plan of the call. Raises GatewayError. No effects."""
        return self.planner.plan(call, caller, snapshot)

    def run(self, plan: Plan, call: Call, watch: DisconnectWatch) -> Answer:
        """Executes the plan and returns the response. Raises GatewayError or ClientDisconnected after settlement."""
        call.summary.set_target(plan)
        with headers.ProviderHeader(plan.provider):
            if plan.lane is None:
                return self._respond_count(plan, call)
            failover = Failover(self.pool, plan)
            try:
                settlement = self._reserve(plan, call, failover, watch)
            except BaseException:
                failover.abandon()
                failover.reservation.release()
                raise
            try:
                # With on_disconnect = "drain" the upstream's response is read to its end without the client.
                if plan.provider.settings.on_disconnect == "cancel":
                    watch.start()
                exchange = self._attempt(failover, call, settlement, watch)
                settlement.record_first_byte()
                answer = self._respond(failover.plan, call, exchange, settlement, watch)
                self._measure_start(answer, call, exchange, watch)
                return answer
            except ClientDisconnected:
                self._count_disconnect()
                failover.abandon()
                settlement.settle_disconnected(None, 0)
                raise
            except BaseException as error:
                failover.abandon()
                settlement.settle_failed(getattr(error, "status", 500), None, 0)
                if isinstance(error, GatewayError):
                    log.warning(
                        "request %s: provider %s: %s", call.request_id, failover.plan.provider.name, error.message
                    )
                raise

    def _reserve(self, plan: Plan, call: Call, failover: Failover, watch: DisconnectWatch) -> Settlement:
        """Reserves the upper bound and the credential, and writes the `opened` entry. Returns the call's settlement.

        Raises GatewayError or ClientDisconnected; nothing stays reserved then.
        """
        # Before the reservation: a request that is refused because of its files must not use up any limit.
        if failover.plan is plan:
            self._fetch_files(plan, watch)
        if plan.operation == COUNT:
            failover.reserve()
            return NoSettlement(failover.reservation.release, partial(self._settle_without_row, call))
        now = time.time_ns()
        call_id = self.ids.next(now)
        self.journal.refuse_when_full()
        reservation = self._reserve_upper_bound(call_id, now, plan.upper_bound, self.protocols[call.protocol])
        try:
            failover.reserve()
            settlement = self._new_settlement(failover.plan, call, call_id, reservation)
            settlement.attempts = failover.policy.attempts
            settlement.release_credential = failover.reservation.release
            self.journal.open(self._opened_entry(call_id, failover.plan, call, failover.credential, reservation))
        except BaseException:
            reservation.settle(0, 0)
            raise
        return settlement

    def _reserve_upper_bound(
        self, call_id: int, now: int, upper_bound: UpperBound | None, protocol: ModuleType
    ) -> Reservation | NoReservation:
        if upper_bound is None:
            return NoReservation(self.reserver, call_id, now)
        try:
            return self.reserver.take(call_id, upper_bound)
        except RateLimited as error:
            error.headers |= headers.vendor_rate_limits(error.statuses, protocol, time.time())
            raise

    def _new_settlement(
        self, plan: Plan, call: Call, call_id: int, reservation: Reservation | NoReservation
    ) -> Settlement:
        settlement = Settlement(
            self.journal, call_id, plan.price, plan.input_tokens, call.started, plan.mode, reservation
        )
        settlement.summary, settlement.count_metrics = call.summary, self.metrics.settled
        call.summary.set_target(plan)
        settlement.cover(plan)
        return settlement

    def _opened_entry(
        self,
        call_id: int,
        plan: Plan,
        call: Call,
        credential: Credential | None,
        reservation: Reservation | NoReservation,
    ) -> Opened:
        """Returns the `opened` journal entry of a call that is about to be sent."""
        return Opened(
            call_id=call_id,
            input_tokens=plan.input_tokens,
            request_id=call.request_id,
            request_log_id=call.request_log_id,
            at=reservation.at,
            user_id=plan.caller.user_id,
            key_id=plan.caller.key_id,
            provider_id=plan.provider.id,
            channel=plan.provider.channel,
            credential_id=credential.id if credential else None,
            operation=EMBED if plan.operation == EMBED_BATCH else plan.operation,
            protocol=dispatch.wire_name(self.protocols[call.protocol], plan.operation),
            model=plan.name,
            end_user=cut(plan.head.end_user),
            tag=cut(call.header("x-gproxy-tag")),
            losses=tuple(plan.losses),
            reserved=reservation.amounts,
        )

    def _attempt(self, failover: Failover, call: Call, settlement: Settlement, watch: DisconnectWatch) -> Exchange:
        """Makes attempts until one succeeds. Returns its response, or the first failed response if none succeeds.

        Raises GatewayError if the first failed attempt had no response.
        """
        while True:
            began = failover.begin()
            try:
                self._fetch_files(failover.plan, watch)
                exchange = self._send(failover.plan, call, failover.credential, watch)
                fault = self._find_fault(failover, exchange, watch)
            except GatewayError as error:
                has_next = failover.failed(error)
            else:
                if fault is None:
                    failover.succeeded(exchange.status, began)
                    settlement.set_target(failover.plan, failover.credential)
                    return exchange
                has_next = failover.answered(exchange, fault)
            if not has_next:
                return failover.first_failure()
            log.info("request %s: another attempt, at provider %s", call.request_id, failover.plan.provider.name)

    def _fetch_files(self, plan: Plan, watch: DisconnectWatch) -> None:
        """Fetches the files that the upstream cannot fetch itself. Raises BadRequest or ClientDisconnected."""
        if plan.translation is not None and plan.translation.urls:
            watch.start()
            translation = translate.fetch_files(plan.translation, self.images, watch)
            plan.set_translation(translate.write_body(translation, plan.provider.settings.strict_translation))

    def _send(self, plan: Plan, call: Call, credential: Credential | None, watch: DisconnectWatch) -> Exchange:
        """Sends the request; once more with a new access token if the upstream rejects a cached one."""
        if plan.kind.responder:
            return local_exchange.Exchange(
                plan.kind.responder, plan.operation == STREAM, plan.upstream_protocol, plan.model, plan.body
            )
        transport = transport_of(plan.provider.settings)
        secret = self.tokens.secret(credential, transport, watch)
        exchange = self._send_once(plan, call, credential, secret, watch, transport)
        if exchange.status == 401 and credential.account is not None and self.tokens.drop(credential, secret):
            exchange.close()  # the access token was revoked before it expired
            secret = self.tokens.secret(credential, transport, watch)
            exchange = self._send_once(plan, call, credential, secret, watch, transport)
        return exchange

    def _send_once(
        self, plan: Plan, call: Call, credential: Credential, secret: str, watch: DisconnectWatch, transport: Transport
    ):
        settings, provider = plan.provider.settings, plan.provider
        base_url = settings.base_url or plan.kind.base_url_at(settings.location)
        path = headers.with_project(plan.path, credential, settings.location)
        sent = headers.to_upstream(
            plan.upstream_protocol, settings.forward_headers, call.header, plan.lane.auth(secret)
        )

        def send() -> Exchange:
            on_connection = self.metrics.connections(provider.name)
            return self.upstream.send(
                "POST", base_url, path, sent, plan.body, limits_of(provider), watch, secret, transport, on_connection
            )

        if call.attempt_log is None:
            return send()
        logged = SentRequest(provider.id, credential.id, base_url + path, sent, plan.body, secret)
        return call.attempt_log.send(logged, send)

    def _find_fault(self, failover: Failover, exchange: Exchange, watch: DisconnectWatch) -> Fault | None:
        """Returns the fault that a response reports, or None. The bytes read stay in the exchange.

        Raises UpstreamError if the response breaks off.
        """
        if error_classifier.may_be_fault(exchange.status):
            return error_classifier.classify(exchange.status, exchange.headers, exchange.read_ahead(watch), time.time())
        if exchange.status != 200 or not exchange.is_stream or not failover.may_retry:
            return None
        try:
            protocol = self.protocols[failover.plan.upstream_protocol]
            return first_event_probe.find_fault(exchange, protocol, failover.plan.head, watch, time.time())
        except BaseException:
            exchange.close()
            raise

    def _respond(
        self, plan: Plan, call: Call, exchange: Exchange, settlement: Settlement, watch: DisconnectWatch
    ) -> Answer:
        returned = headers.to_client(plan.provider, exchange, is_limited=plan.upper_bound is not None)
        if plan.upper_bound is not None:
            returned += headers.rate_limits(
                settlement.reservation.statuses, self.protocols[call.protocol], settlement.reservation.at / NS
            )
        if plan.translation is not None:
            returned.append(("x-gproxy-translated", plan.translation.label))
        if plan.operation == STREAM:
            watch.set_heartbeat(plan.provider.settings.heartbeat_s)
        if 300 <= exchange.status < 400:
            exchange.close()
            raise UpstreamError(f"the upstream redirects ({exchange.status}), and redirects are not followed")
        if exchange.status >= 300:
            body = exchange.read(watch)
            settlement.settle_failed(exchange.status, None, 0)
            log.info("request %s: provider %s answered %d", call.request_id, plan.provider.name, exchange.status)
            if plan.translation is not None:
                body = translate.error_body(plan.translation, exchange.status, body, call.request_id)
                return self._respond_whole(exchange, call, settlement, returned, plan.losses, body, "application/json")
            return self._respond_whole(exchange, call, settlement, returned, plan.losses, body)
        if plan.translation is not None:
            return self._respond_translated(plan, call, exchange, settlement, watch, returned)
        if plan.operation == STREAM and exchange.is_stream:
            protocol, quoted = self.protocols[call.protocol], raw_json.quoted(plan.sent_model)
            stream = passthrough_stream.PassthroughStream(
                protocol, quoted, plan.head, exchange, settlement, watch, call, self._count_disconnect, _drain_s(plan)
            )
            stream.normalize = plan.kind.normalize
            if plan.pins_responses:
                stream.on_end = self._pin_function(plan, settlement)
            return self._respond_stream(stream, call, exchange, returned, plan.losses)
        protocol, body = self.protocols[call.protocol], exchange.read(watch)
        if plan.kind.normalize is not None:
            body = plan.kind.normalize(body)
        usage, fields = protocol.read_whole(body)
        self._settle_whole(usage, fields, body, exchange, settlement)
        if plan.pins_responses:
            self._pin_function(plan, settlement)(raw_json.text(fields, "id"))
        quoted = raw_json.quoted(plan.sent_model)
        if protocol.MODEL_FIELD in fields and bytes(fields[protocol.MODEL_FIELD]) != quoted:
            body = raw_json.join(raw_json.with_value(fields, protocol.MODEL_FIELD, quoted))
        return self._respond_whole(exchange, call, settlement, returned, plan.losses, body)

    def _respond_translated(
        self, plan: Plan, call: Call, exchange: Exchange, settlement: Settlement, watch: DisconnectWatch, returned: list
    ) -> Answer:
        """Responds with the translation of a successful response of another protocol."""
        translation = plan.translation
        context = translation.context(plan.sent_model, call.request_id, plan.head.wants_usage)
        if exchange.is_stream:
            stream = translated_stream.TranslatedStream(
                translation,
                plan.head,
                context,
                exchange,
                settlement,
                watch,
                call.as_array,
                self._count_disconnect,
                _drain_s(plan),
            )
            if plan.operation == STREAM:
                return self._respond_stream(stream, call, exchange, returned, plan.losses)
            try:
                body, lost = translate.fold_stream(translation, stream.events(), context, stream.losses)
            finally:
                exchange.close()
            return self._respond_whole(
                exchange, call, settlement, returned, (*plan.losses, *lost), body, "application/json"
            )
        body = exchange.read(watch)
        usage, fields = translation.upstream.read_whole(body)
        if fields is not None and is_error_reply(usage, fields):
            self._settle_whole(usage, fields, body, exchange, settlement)
            exchange.status = 502
            body = translate.error_body(translation, exchange.status, body, call.request_id)
            return self._respond_whole(exchange, call, settlement, returned, plan.losses, body, "application/json")
        lost: tuple[str, ...] = ()
        try:
            if fields is not None and plan.operation == STREAM:
                stream = translated_stream.WholeReplyStream(translation, body, context, call.as_array)
                lost = stream.losses
                return self._respond_stream(stream, call, exchange, returned, plan.losses)
            if fields is not None:
                body, lost = translate.translate_reply(translation, body, context)
        except translate.UpstreamFailure as error:
            settlement.settle_failed(error.status, None, 0)
            raise
        finally:  # the vendor charges for its output, also if it cannot be translated
            settlement.losses = list(lost)
            self._settle_whole(usage, fields, body, exchange, settlement)
        return self._respond_whole(
            exchange, call, settlement, returned, (*plan.losses, *lost), body, "application/json"
        )

    def _respond_stream(
        self, stream, call: Call, exchange: Exchange, returned: list, losses: tuple[str, ...]
    ) -> Answer:
        """Responds with a stream, which settles the call itself."""
        returned += headers.STREAMED_ARRAY if call.as_array else headers.STREAMED
        returned += headers.lossy(losses)
        returned.append(headers.overhead(call.started, exchange.waited_s))
        return Answer(exchange.status, returned, stream.frames(), stream.close)

    def _respond_whole(
        self, exchange, call, settlement, returned: list, losses: tuple[str, ...], body: bytes, kind: str | None = None
    ) -> Answer:
        """Responds with a whole body; the call is settled already."""
        returned.append(("Content-Type", kind or exchange.headers.get("content-type", "application/json")))
        returned += headers.lossy(losses)
        if settlement.cost is not None and exchange.status < 300:
            returned.append(headers.cost(settlement.cost))
        returned.append(headers.overhead(call.started, exchange.waited_s))
        return Answer(exchange.status, returned, body)

    def _respond_count(self, plan: Plan, call: Call) -> Answer:
        """Answers a token count locally, estimated from the bytes of the body, for an upstream without counts."""
        protocol = self.protocols[call.protocol]
        found = TokenCount(input_estimate(call.body))
        context = Context(plan.sent_model, plan.provider.name, call.request_id, 0)
        body = raw_json.dumps(protocol.CODECS[COUNT].write_reply(found, context, Losses()))
        returned = [("x-gproxy-provider", plan.provider.name), headers.ESTIMATED, ("Content-Type", "application/json")]
        self._settle_without_row(call, Outcome.COMPLETE, 200)
        return Answer(200, [*returned, headers.overhead(call.started, 0.0)], body)

    def _pin_function(self, plan: Plan, settlement: Settlement) -> Callable[[str | None], None]:
        """Returns a function that stores the credential of a response, by the response's id.

        The function has no reference to the plan, so that the request's body can be freed.
        """
        put, provider = partial(self.ttl_store.put, plan.caller.user_id), plan.provider.id

        def pin(response_id: str | None) -> None:
            if response_id and settlement.served_by is not None:
                reasoning_state.store_response_credential(put, provider, response_id, settlement.served_by[2])

        return pin

    def _measure_start(self, answer: Answer, call: Call, exchange: Exchange, watch: DisconnectWatch) -> None:
        """Updates the metrics when the headers of a response are about to be sent."""
        self.metrics.answered(call.summary, max(0.0, time.perf_counter() - call.started - exchange.waited_s))
        if not isinstance(answer.body, bytes):
            self.streaming.add(watch)
            self.metrics.open(len(self.running), len(self.streaming))

    def _settle_whole(
        self, usage: Usage | None, fields: raw_json.Fields | None, body: bytes, exchange, settlement: Settlement
    ) -> None:
        """Settles a whole reply by the upstream's own bytes. Raises UpstreamError if it is not a JSON object."""
        if fields is None:
            raise UpstreamError(f"the upstream answered {exchange.status} with a body that is not a JSON object")
        if is_error_reply(usage, fields):  # some upstreams report an error with status 200; it is not billed as output
            settlement.settle_failed(exchange.status, None, 0)
        else:
            text_size = 0 if usage is not None else passthrough_stream.text_size(body)
            settlement.settle_complete(exchange.status, usage, text_size)

    def _settle_without_row(self, call: Call, outcome: Outcome, status: int) -> None:
        """Updates the metrics for a call that has no usage row."""
        call.summary.outcome = outcome
        self.metrics.settled(call.summary, status, time.perf_counter() - call.started, has_row=False)

    def _count_disconnect(self) -> None:
        self.client_disconnects += 1
        self.metrics.client_disconnected()


def _drain_s(plan: Plan) -> float:
    settings = plan.provider.settings
    return settings.drain_s if settings.on_disconnect == "drain" else 0.0


def is_error_reply(usage: Usage | None, fields: raw_json.Fields) -> bool:
    """Returns whether a whole reply reports an error in place of output."""
    return usage is None and passthrough_stream.has_value(fields, "error")


def transport_of(settings) -> Transport:
    """Returns the proxy and the TLS files of a provider."""
    return Transport(settings.proxy, settings.ca_file, settings.client_cert_file, settings.client_key_file)


def limits_of(provider: Provider) -> Limits:
    """Returns the timeouts and the connection limit of a provider."""
    settings = provider.settings
    return Limits(
        settings.connect_timeout_s,
        settings.first_byte_timeout_s,
        settings.idle_timeout_s,
        settings.total_timeout_s,
        settings.max_connections,
        settings.connection_wait_s,
        provider.id,
    )
