"""What one process reports about itself: readiness and metrics."""

from dataclasses import dataclass, field

from gproxy import __version__
from gproxy.accounting import slots
from gproxy.accounting.journal import Journal
from gproxy.accounting.writer import Writer
from gproxy.metrics import call_metrics, definitions, exposition
from gproxy.metrics.mmap_values import MmapValues
from gproxy.relay.pipeline import Relay
from gproxy.snapshots import Snapshots
from gproxy.state.interface import SharedState
from gproxy.threads import Threads


@dataclass(frozen=True, slots=True)
class Status:
    """Reads the parts of a running process and changes none."""

    snapshots: Snapshots
    relay: Relay
    journal: Journal
    writer: Writer
    shared: SharedState
    mmap_values: MmapValues
    threads: Threads = field(default_factory=lambda: Threads(1))  # a single thread: adds up the metrics of all workers

    def readiness(self) -> dict:
        """Returns the flags and counts of `/readyz`.

        `serving`: calls are accepted. `persisting`: usage rows reach the database. `current`: the latest configuration
        is loaded. `shared`: limits and quotas apply over all workers, and with Redis over all machines.
        `credentials_usable`: credentials of enabled providers that are not disabled by a refusal or missing funds.
        `damaged_journal_lines`: lines and rows that could not be stored, since the data directory exists.
        """
        current = self.snapshots.current
        credentials = (
            [one for provider in current.providers.values() for one in provider.credentials] if current else []
        )
        return {
            "serving": current is not None and self.journal.is_writable,
            "persisting": self.writer.is_persisting,
            "current": self.snapshots.is_current,
            "shared": self.shared.is_shared,
            "in_flight": self.relay.running.capacity.requests,
            "clients_gone": self.relay.running.client_disconnects,
            "credentials": len(credentials),
            "credentials_usable": sum(map(self.relay.pool.is_usable, credentials)),
            "damaged_journal_lines": self.writer.damaged.count(),
        }

    @property
    def damaged_journal_file(self) -> str:
        """The path of the file that keeps what could not be stored."""
        return str(self.writer.damaged.path)

    def metrics(self) -> str:
        """Returns the metrics of all workers of this machine, as text for Prometheus."""
        current = self.snapshots.current
        providers = tuple(current.providers.values()) if current is not None else ()
        statuses = self.relay.pool.statuses([one for provider in providers for one in provider.credentials])
        series = call_metrics.credentials(providers, statuses)
        return self.threads.run(self._write_metrics, series)

    def _write_metrics(self, series: dict) -> str:
        """In a native thread, because there may be many series."""
        totals = self.mmap_values.totals()
        size = slots.size(self.journal.slot.folder.parent)
        series |= call_metrics.process(__version__, totals.workers, size, self.writer.damaged.count())
        return exposition.write(definitions.FAMILIES, totals.values | series)
