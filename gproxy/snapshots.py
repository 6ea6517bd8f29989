"""The current snapshot of one process: looking costs a memory read; a change is loaded once, off the hub."""

import logging
from functools import partial
from urllib.parse import urlsplit

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
    """The current snapshot of one process. Looking costs a memory read; a change is loaded once, off the hub."""

    def __init__(
        self, settings: Settings, seal: Seal | None, database: Database, change_counter: ChangeCounter, threads: Threads
    ):
        self._load = partial(self._load_all, database, settings, seal)
        self._change_counter, self._threads = change_counter, threads
        self._tried = -1  # the newest signal that a reload answered, or was given up for
        self._current: Snapshot | None = None
        self._loading: gevent.Greenlet | None = None
        self.is_current = False

    def __call__(self) -> Snapshot:
        """The snapshot for a request that starts now. Raises Unavailable before the first one is loaded."""
        wanted = self._change_counter.read()
        if wanted != self._tried:
            self._wait_for(wanted)
        if self._current is None:
            raise Unavailable("the configuration is not loaded yet")
        return self._current

    def _wait_for(self, wanted: int) -> None:
        """Until what was signalled is in force: at most so long, then the old snapshot serves and readyz says so."""
        with gevent.Timeout(RELOAD_WAIT_S, False):
            while self._tried < wanted:
                self.refresh()
            return
        # Nobody waits for the same change again.
        self._tried, self.is_current = wanted, False

    def refresh(self) -> None:
        """Loads what changed: after a signal, for changes of other machines, and again after a failure.

        One reload at a time; whoever comes meanwhile waits for the same one.
        """
        if self._loading is None:
            self._loading = gevent.spawn(self._reload)
        self._loading.join()

    @property
    def current(self) -> Snapshot | None:
        """What serves now, without looking for a newer one."""
        return self._current

    def _reload(self) -> None:
        signalled = self._change_counter.read()
        try:
            self._current = self._threads.run(self._load, self._current)
            self.is_current = True
        except Exception as fault:
            if self.is_current or self._current is None:
                known = isinstance(fault, Unavailable)
                log.error("the configuration cannot be reloaded: %s", fault, exc_info=None if known else fault)
            self.is_current = False
        finally:
            self._tried = max(self._tried, signalled)
            self._loading = None

    @staticmethod
    def _load_all(database: Database, settings: Settings, seal: Seal | None, before: Snapshot | None) -> Snapshot:
        loaded = database.run(snapshot_loader.load, before, settings.environ, seal)
        if loaded is not before:
            providers = loaded.providers.values()
            passwords = {urlsplit(p.settings.proxy).password for p in providers if p.settings.proxy}
            logs.hide({c.secret for p in providers for c in p.credentials if c.secret} | passwords - {None})
        return loaded
