"""Opens a call before its first attempt: the reservation of its upper bound, and its `opened` journal entry."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType

from gproxy.accounting.entries import Opened, cut
from gproxy.accounting.journal import Ids, Journal
from gproxy.channels.kind import COUNT, EMBED, EMBED_BATCH
from gproxy.errors import RateLimited
from gproxy.metrics.call_metrics import CallMetrics
from gproxy.quota.reservations import NoReservation, Reservation, Reserver
from gproxy.relay import dispatch, headers
from gproxy.relay.failover import Failover
from gproxy.relay.planner import Call, Plan
from gproxy.relay.settlement import NoSettlement, Outcome, Settlement
from gproxy.snapshot import Credential


@dataclass(slots=True)
class CallOpener:
    """Opens the calls of one worker."""

    protocols: Mapping[str, ModuleType]
    journal: Journal
    ids: Ids
    reserver: Reserver  # reserves in limits, quotas and budgets
    metrics: CallMetrics

    def open(self, failover: Failover, call: Call) -> Settlement | NoSettlement:
        """Reserves the upper bound and the credential, and writes the `opened` entry. Returns the call's settlement.

        Raises GatewayError; nothing stays reserved then.
        """
        if failover.plan.operation == COUNT:
            failover.reserve()
            return NoSettlement(failover.reservation.release, partial(self.count_without_row, call))
        now = time.time_ns()
        call_id = self.ids.next(now)
        self.journal.refuse_when_full()
        reservation = self._reserve(failover.plan, call, call_id, now)
        try:
            failover.reserve()
            plan = failover.plan
            settlement = Settlement(
                self.journal, call_id, plan.price, plan.input_tokens, call.started, plan.mode, reservation
            )
            settlement.summary, settlement.count_metrics = call.summary, self.metrics.settled
            settlement.attempts = failover.policy.attempts
            settlement.release_credential = failover.reservation.release
            call.summary.set_target(plan)
            settlement.cover(plan)
            self.journal.open(self._opened_entry(call_id, plan, call, failover.credential, reservation))
        except BaseException:
            reservation.settle(0, 0)
            raise
        return settlement

    def count_without_row(self, call: Call, outcome: Outcome, status: int) -> None:
        """Updates the metrics for a call that has no usage row."""
        call.summary.outcome = outcome
        self.metrics.settled(call.summary, status, time.perf_counter() - call.started, has_row=False)

    def _reserve(self, plan: Plan, call: Call, call_id: int, now: int) -> Reservation | NoReservation:
        if plan.upper_bound is None:
            return NoReservation(self.reserver, call_id, now)
        try:
            return self.reserver.take(call_id, plan.upper_bound)
        except RateLimited as error:
            error.headers |= headers.vendor_rate_limits(error.statuses, self.protocols[call.protocol], time.time())
            raise

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
