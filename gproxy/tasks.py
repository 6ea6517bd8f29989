"""The background loops of one process: each repeats one task at its interval, whatever errors the task has."""

import logging
from collections.abc import Callable

import gevent

from gproxy.accounting.journal import Journal
from gproxy.accounting.retention import Retention
from gproxy.errors import GatewayError
from gproxy.quota import budgets, limits
from gproxy.quota.reservations import Reserver
from gproxy.snapshot import Snapshot
from gproxy.snapshots import Snapshots

log = logging.getLogger(__name__)

POLL_S = 0.5
LEDGER_CHECK_S, RETENTION_S = 60.0, 60.0
RENEW_S = 5.0  # much shorter than the lease of this process's reservations in Redis


class Tasks:
    """The running loops of one process."""

    def __init__(self):
        self._greenlets: list[gevent.Greenlet] = []

    def repeat(self, interval_s: float, task: Callable[[], object], starts_now: bool = False) -> None:
        """Starts a loop that runs the task at this interval; with `starts_now` also before the first one has passed."""
        self._greenlets.append(gevent.spawn(_repeat, interval_s, task, starts_now))

    def stop(self) -> None:
        gevent.killall(self._greenlets)


def _repeat(interval_s: float, task: Callable[[], object], starts_now: bool) -> None:
    if starts_now:
        run_quietly(task)
    while True:
        gevent.sleep(interval_s)
        run_quietly(task)


def run_quietly(task: Callable[[], object]) -> None:
    """Runs the task. An error is logged; the task is expected to be repeated."""
    try:
        task()
    except GatewayError as fault:
        log.debug("a background task is postponed: %s", fault.message)
    except Exception as fault:
        log.error("a background task failed: %s", type(fault).__name__, exc_info=fault)


def check_journal(journal: Journal) -> None:
    """Makes the process accept calls again once the journal can be written."""
    if not journal.is_writable:
        journal.check_space()


def renew_reservations(reserver: Reserver) -> None:
    """Repeats settlements that failed, and renews the lease of the process's reservations. Raises Unavailable."""
    reserver.settle_pending()
    reserver.shared.renew(reserver.owner)


def apply_retention(retention: Retention, snapshots: Snapshots) -> None:
    """Deletes request logs and usage rows beyond the age or size in the configuration."""
    if snapshots.current is not None:
        retention.apply(snapshots.current.logging)


class LimitPreloader:
    """Loads missing accounts and limits into the shared state, so that no request waits for the database."""

    def __init__(self, snapshots: Snapshots, reserver: Reserver):
        self._snapshots, self._reserver = snapshots, reserver
        self._preloaded: Snapshot | None = None

    def preload(self) -> None:
        """Loads the limits and quotas of all callers, once for each snapshot. Raises Unavailable."""
        current = self._snapshots.current
        if current is None or current is self._preloaded:
            return
        for caller in current.callers.values():
            rows = (*caller.limits, *caller.key_limits)
            accounts = budgets.accounts(caller)
            if accounts or rows:
                self._reserver.inspect(accounts, tuple(map(limits.limit_of, rows)))
                gevent.sleep(0)
        self._preloaded = current
