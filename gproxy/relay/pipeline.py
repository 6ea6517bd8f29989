"""The path of one request: plan, reserve, attempt, respond, settle.

`plan` has no effects. `run` has all of them, in this order: reservation, `opened` journal entry, attempts, answer,
settlement. Each stage has its own file: `planner`, `reserve`, `attempt` (with `failover`), `respond`, `settlement`.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from gproxy.admission import keys
from gproxy.admission.permissions import Rights
from gproxy.credentials.pool import Pool
from gproxy.errors import ClientDisconnected, Forbidden, GatewayError
from gproxy.relay import headers
from gproxy.relay.attempt import Attempts
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.relay.failover import Failover
from gproxy.relay.planner import Call, Plan, Planner
from gproxy.relay.reserve import CallOpener
from gproxy.relay.respond import Answer, AnsweredCall, Answers
from gproxy.relay.running_calls import RunningCalls
from gproxy.relay.settlement import NoSettlement, Outcome, Settlement
from gproxy.snapshot import Caller, Snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Relay:
    """Serves the calls of one worker."""

    snapshot: Callable[[], Snapshot]
    planner: Planner
    pool: Pool  # the credentials and their state
    opener: CallOpener
    attempts: Attempts
    answers: Answers
    running: RunningCalls

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

    def plan(self, call: Call, caller: Caller, snapshot: Snapshot) -> Plan:
        """Returns the plan of the call. Raises GatewayError. No effects."""
        return self.planner.plan(call, caller, snapshot)

    def run(self, plan: Plan, call: Call, watch: DisconnectWatch) -> Answer:
        """Executes the plan and returns the answer. Raises GatewayError or ClientDisconnected after settlement."""
        call.summary.set_target(plan)
        try:
            if plan.endpoint is None:
                answer = self.answers.count_locally(plan, call)
                self.opener.count_without_row(call, Outcome.COMPLETE, answer.status)
                return answer
            failover = Failover(self.pool, plan)
            settlement = self._reserve(plan, call, failover, watch)
            return self._attempt_and_respond(failover, call, settlement, watch)
        except GatewayError as error:
            headers.name_provider(error, plan.provider)
            raise

    def _reserve(self, plan: Plan, call: Call, failover: Failover, watch: DisconnectWatch) -> Settlement | NoSettlement:
        """Returns the settlement of the call once its upper bound is reserved and its `opened` entry is written.

        Raises GatewayError or ClientDisconnected; nothing stays reserved then.
        """
        try:
            # Before the reservation: a request that is refused because of its files must not use up any limit.
            if failover.plan is plan:
                self.attempts.fetch_files(failover, watch)
            return self.opener.open(failover, call)
        except BaseException:
            failover.abandon()
            failover.reservation.release()
            raise

    def _attempt_and_respond(
        self, failover: Failover, call: Call, settlement: Settlement | NoSettlement, watch: DisconnectWatch
    ) -> Answer:
        """Returns the answer of the first target that responds. If there is none, settles the call and raises."""
        try:
            # With on_disconnect = "drain" the upstream's response is read to its end without the client.
            if failover.plan.provider.settings.on_disconnect == "cancel":
                watch.start()
            exchange = self.attempts.make(failover, call, settlement, watch)
            settlement.record_first_byte()
            answer = self.answers.build(AnsweredCall(failover.plan, call, exchange, settlement, watch))
            self.running.answered(call, exchange, watch, is_stream=not isinstance(answer.body, bytes))
            return answer
        except ClientDisconnected:
            self.running.count_disconnect()
            failover.abandon()
            settlement.settle_disconnected(None, 0)
            raise
        except BaseException as error:
            failover.abandon()
            settlement.settle_failed(getattr(error, "status", 500), None, 0)
            if isinstance(error, GatewayError):
                log.warning("request %s: provider %s: %s", call.request_id, failover.plan.provider.name, error.message)
            raise
