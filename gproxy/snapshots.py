"""The current snapshot of one process, reloaded when the configuration changes."""

import logging
from functools import partial

import gevent

from gproxy import logs
from gproxy.errors import Unavailable
from gproxy.settings import Settings
from gproxy.snapshot import Snapshot
from gproxy.state.change_counter import ChangeCounter
from gproxy.store import snapshot_loader
from gproxy.store.database import Database
from gproxy.store.sealing import Seal
from gproxy.threads import Threads

log = logging.getLogger(__name__)

RELOAD_WAIT_S = 2.0


class Snapshots:
    """The current snapshot of one process. Checking for a change costs a memory read.

    A change is loaded once, in a native thread. `is_current` is False while a change could not be loaded.
    """

    def __init__(
        self, settings: Settings, seal: Seal | None, database: Database, change_counter: ChangeCounter, threads: Threads
    ):
        self._load = partial(self._load_all, database, settings, seal)
        self._change_counter, self._threads = change_counter, threads
        self._handled = -1  # the newest value of the change counter that was loaded or given up
        self._current: Snapshot | None = None
        self._loading: gevent.Greenlet | None = None
        self.is_current = False

    def __call__(self) -> Snapshot:
        """The snapshot for a request that starts now. Raises Unavailable before the first one is loaded."""
        change = self._change_counter.read()
        if change != self._handled:
            self._wait_for(change)
        if self._current is None:
            raise Unavailable("the configuration is not loaded yet")
        return self._current

    def _wait_for(self, change: int) -> None:
        """Waits up to RELOAD_WAIT_S until the change is loaded.

        After that time the old snapshot is used, `/readyz` reports it, and no other request waits for this change.
        """
        with gevent.Timeout(RELOAD_WAIT_S, False):  # pyright: ignore[reportArgumentType] - gevent's types lack False: the block ends silently
            while self._handled < change:
                self.refresh()
            return
        self._handled, self.is_current = change, False

    def refresh(self) -> None:
        """Loads the tables that changed on this or another machine; also retries after a failure.

        There is one reload at a time; concurrent callers wait for the same one.
        """
        if self._loading is None:
            self._loading = gevent.spawn(self._reload)
        self._loading.join()

    @property
    def current(self) -> Snapshot | None:
        """The snapshot in use, without checking for a change; None before the first one is loaded."""
        return self._current

    def _reload(self) -> None:
        change = self._change_counter.read()
        try:
            self._current = self._threads.run(self._load, self._current)
            self.is_current = True
        except Exception as fault:
            if self.is_current or self._current is None:
                known = isinstance(fault, Unavailable)
                log.error("the configuration cannot be reloaded: %s", fault, exc_info=None if known else fault)
            self.is_current = False
        finally:
            self._handled = max(self._handled, change)
            self._loading = None

    @staticmethod
    def _load_all(database: Database, settings: Settings, seal: Seal | None, before: Snapshot | None) -> Snapshot:
        loaded = database.run(snapshot_loader.load, before, settings.environ, seal)
        if loaded is not before:
            logs.hide(loaded.secrets)
        return loaded
