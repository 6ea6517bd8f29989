"""Moves the journal into the database: one greenlet that wakes, one native thread that reads the journal and stores.

What is not in the database is on the disk, so a database outage costs disk and no memory. Every row has a unique id, so
storing a line twice adds nothing. A segment is deleted only after its rows are committed.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import gevent
from gevent.event import Event

from gproxy.accounting import slots
from gproxy.accounting.journal import Journal
from gproxy.accounting.journal_reader import JournalReader, SettledCall
from gproxy.accounting.orphan_recovery import OrphanRecovery
from gproxy.accounting.slots import Slot
from gproxy.errors import Unavailable
from gproxy.state.folder_lock import try_lock
from gproxy.state.interface import SharedState

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")
INTERVAL_S = 0.25
RECOVERY_S = 2.0
BATCH = 500
MAX_BACKOFF_S = 2.0
# Redis releases the reservations of a worker that was silent for 30 s. A journal that was last written longer ago than
# this may have settled calls whose cost is in no account of the shared state.
RELEASED_S = 25.0


class Store(Protocol):
    """The functions of the store that the writer calls. They raise Unavailable."""

    def insert(self, calls: list[SettledCall]) -> None:
        """Stores a batch in one transaction, each call exactly once."""

    def delete_positions(self, segments: list[str]) -> None:
        """Drops the positions of segments that are stored and deleted."""


class Threads(Protocol):
    """Runs blocking functions in native threads."""

    def run(self, function: Callable[..., _Result], *args) -> _Result: ...


class Writer:
    """Owned by one worker, whose reservations are kept under the name `owner`.

    `is_persisting` is False while the database takes no rows. `on_stored`, if set, is called with the number of this
    worker's own calls that were stored since its last call.
    """

    def __init__(self, journal: Journal, store: Store, threads: Threads, shared: SharedState, owner: str):
        root = journal.slot.folder.parent
        self.is_persisting = True
        self.on_stored: Callable[[int], None] | None = None
        self._orphan_recovery = OrphanRecovery(shared, owner, root)
        self._orphan_recovery.add(journal.slot.folder)
        self._journal, self._root, self._store = journal, root, store
        self._own = JournalReader()
        self._read_to: dict[Path, int] = {}  # byte offset up to which each own segment was read
        self._pending: deque[list[SettledCall]] = deque()
        self._inherited: list[Slot] = [journal.slot] if journal.slot.inherited else []
        self._wake, self._stopping = Event(), False
        self._threads = threads
        self._greenlet: gevent.Greenlet | None = None
        self._stored = 0  # own calls since `on_stored` was last called

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def close(self, timeout_s: float) -> None:
        """Stores what is settled and removes the slot; what cannot be stored stays for the next worker."""
        self._stopping = True
        self._wake.set()
        if self._greenlet is not None:
            self._greenlet.join(timeout_s)
        with gevent.Timeout(timeout_s, False):  # pyright: ignore[reportArgumentType] - gevent's types lack False: the block ends silently
            if self._attempt() and not self._journal.open_count:
                self._journal.close()
                slots.remove(self._journal.slot)

    def _run(self) -> None:
        pause, since_recovery = INTERVAL_S, 0.0
        while not self._stopping:
            self._wake.wait(pause)
            since_recovery += pause
            is_recovery_due = since_recovery >= RECOVERY_S
            since_recovery = 0.0 if is_recovery_due else since_recovery
            ok = self._attempt(is_recovery_due)
            pause = INTERVAL_S if ok else min(MAX_BACKOFF_S, pause * 2)

    def _attempt(self, is_recovery_due: bool = False) -> bool:
        """One round; returns whether all calls that have settled so far are stored."""
        try:
            if is_recovery_due:
                self._take_over_slots()
            self._journal.retry_unwritten()
            is_recovering = self._orphan_recovery.find_calls()
            segments, end = list(self._journal.segments), self._journal.end
            stored = self._threads.run(self._store_all, segments, end, is_recovering)
            for path in stored:
                self._journal.forget_segment(path)
                self._read_to.pop(path, None)
                self._own.forget(path.name)
            if stored:
                self._threads.run(self._store.delete_positions, [path.name for path in stored])
            if is_recovering:
                self._orphan_recovery.settle()
        except (Unavailable, OSError) as fault:
            return self._failed(str(fault), None)
        except Exception as fault:  # noqa: BLE001 - whatever it is, the next round must follow
            return self._failed(type(fault).__name__, fault)
        finally:
            self._report_stored()
        if not self.is_persisting:
            log.info("usage rows are stored again")
        self.is_persisting = True
        return True

    def _report_stored(self) -> None:
        stored, self._stored = self._stored, 0
        if stored and self.on_stored is not None:
            self.on_stored(stored)

    def _failed(self, reason: str, fault: Exception | None) -> bool:
        if self.is_persisting:
            log.error("usage rows cannot be stored (%s); they stay in the journal", reason, exc_info=fault)
        self.is_persisting = False
        return False

    def _take_over_slots(self) -> None:
        """Takes over slots of crashed workers that no other worker has taken."""
        known = {slot.folder for slot in self._inherited} | {self._journal.slot.folder}
        for folder in sorted(self._root.glob("[0-9]*")):
            if folder not in known and (lock := try_lock(folder)) is not None:
                self._inherited.append(Slot(int(folder.name), folder, lock, slots.segments(folder)))
                self._orphan_recovery.add(folder)

    # Below: in the native thread.

    def _store_all(self, paths: list[Path], end: int, is_recovering: bool) -> list[Path]:
        """Stores everything up to `end` of the newest segment; returns the segments that can be deleted."""
        while self._inherited and is_recovering:
            self._store_inherited(self._inherited[0])
            del self._inherited[0]
        self._store_pending()
        for path in paths:
            stop = end if path == paths[-1] else None
            calls = self._own.settled_calls(path, self._read_to.get(path, 0), stop)
            while batch := list(islice(calls, BATCH)):
                self._read_to[path] = batch[-1].end
                self._pending.append(batch)
                self._store_pending()
        return paths[:-1]

    def _store_pending(self) -> None:
        """Stores the pending batches; a batch stays in memory until it is committed."""
        while self._pending:
            self._store.insert(self._pending[0])
            self._stored += len(self._pending.popleft())

    def _store_inherited(self, slot: Slot) -> None:
        """Stores the calls of a crashed worker; after an error the next round starts from the beginning."""
        reader, count = JournalReader(), 0
        written = max((path.stat().st_mtime for path in slot.inherited if path.exists()), default=0.0)
        is_old = time.time() - written > RELEASED_S

        def all_calls() -> Iterator[SettledCall]:
            for path in slot.inherited:
                if path.exists():  # it does not after a round that failed while deleting
                    yield from reader.settled_calls(path, 0, None)
            yield from reader.orphans()

        calls = all_calls()
        while batch := list(islice(calls, BATCH)):
            self._store.insert(batch)
            self._orphan_recovery.note(batch, is_old)
            count += len(batch)
        for path in slot.inherited:
            path.unlink(missing_ok=True)
        self._store.delete_positions([path.name for path in slot.inherited])
        slot.inherited.clear()
        if slot.folder != self._journal.slot.folder:
            slots.remove(slot)
        log.info("slot %d: all %d calls of a crashed worker are in the database", slot.number, count)
