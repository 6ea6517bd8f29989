"""The attempts of one call: each sends the request to the current target with the current credential."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from gproxy.channels import error_classifier
from gproxy.channels.error_classifier import Fault
from gproxy.channels.kind import STREAM
from gproxy.credentials.access_tokens import AccessTokens
from gproxy.errors import GatewayError
from gproxy.metrics.call_metrics import CallMetrics
from gproxy.relay import endpoints, first_event_probe, local_exchange
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.relay.failover import Failover
from gproxy.relay.planner import Call, Plan
from gproxy.relay.settlement import Settlement
from gproxy.snapshot import Credential
from gproxy.translation import translate
from gproxy.translation.translate import Fetcher
from gproxy.upstream.client import Client, Exchange
from gproxy.upstream.endpoint import Endpoint

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Attempts:
    """Makes the attempts of one worker."""

    protocols: Mapping[str, ModuleType]
    upstream: Client
    tokens: AccessTokens  # the access tokens of service accounts
    images: Fetcher  # fetches files that a client named by URL
    metrics: CallMetrics

    def make(self, failover: Failover, call: Call, settlement: Settlement, watch: DisconnectWatch) -> Exchange:
        """Makes attempts until one succeeds. Returns its response, or the first failed response if none succeeds.

        Raises GatewayError if the first failed attempt had no response, and ClientDisconnected.
        """
        while True:
            began = failover.begin()
            try:
                self.fetch_files(failover, watch)
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

    def fetch_files(self, failover: Failover, watch: DisconnectWatch) -> None:
        """Fetches the files that the upstream cannot fetch itself. Raises BadRequest or ClientDisconnected."""
        plan = failover.plan
        if plan.translation is not None and plan.translation.urls:
            watch.start()
            translation = translate.fetch_files(plan.translation, self.images, watch)
            translation = translate.write_body(translation, plan.provider.settings.strict_translation)
            failover.replace_plan(plan.with_translation(translation))

    def _send(self, plan: Plan, call: Call, credential: Credential | None, watch: DisconnectWatch) -> Exchange:
        """Sends the request; once more with a new access token if the upstream rejects a cached one."""
        if plan.kind.responder is not None:
            return local_exchange.Exchange(
                plan.kind.responder, plan.operation == STREAM, plan.upstream_protocol, plan.model, plan.body
            )
        endpoint = endpoints.with_project(plan.endpoint, credential)
        secret = self.tokens.secret(credential, endpoint.transport, watch)
        exchange = self._send_once(plan, call, credential, endpoint, secret, watch)
        if exchange.status == 401 and credential.account is not None and self.tokens.drop(credential, secret):
            exchange.close()  # the access token was revoked before it expired
            secret = self.tokens.secret(credential, endpoint.transport, watch)
            exchange = self._send_once(plan, call, credential, endpoint, secret, watch)
        return exchange

    def _send_once(self, plan: Plan, call: Call, credential: Credential, endpoint: Endpoint, secret: str, watch):
        request = endpoint.request(secret, plan.body)
        on_connection = self.metrics.connections(plan.provider.name)
        if call.attempt_log is None:
            return self.upstream.send(request, watch, on_connection)
        return call.attempt_log.send(
            plan.provider.id, credential.id, request, lambda: self.upstream.send(request, watch, on_connection)
        )

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
