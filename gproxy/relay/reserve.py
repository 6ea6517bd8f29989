"""Opens a call before its first attempt: the reservation of its upper bound, and its `opened` journal entry."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType

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
            settlement.open(self._opened_entry(plan, call, failover.credential, reservation.at))
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

    def _opened_entry(self, plan: Plan, call: Call, credential: Credential | None, at: int) -> dict:
        """Returns the `opened` journal entry of a call that is about to be sent."""
        return {
            "rq": call.request_id,
            **({} if call.request_log_id is None else {"d": call.request_log_id}),
            "at": at,
            "u": plan.caller.user_id,
            "k": plan.caller.key_id,
            "p": plan.provider.id,
            "c": plan.provider.channel,
            "r": credential.id if credential else None,
            "op": EMBED if plan.operation == EMBED_BATCH else plan.operation,
            "pr": dispatch.wire_name(self.protocols[call.protocol], plan.operation),
            "m": plan.name,
            "eu": plan.head.end_user,
            "t": call.header("x-gproxy-tag"),
            **({"lo": plan.losses} if plan.losses else {}),
        }
