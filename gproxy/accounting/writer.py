"""Moves the journal into the database: one greenlet that wakes, one native thread that reads back and books.

What is not in the database is on the disk, so an outage costs disk and no memory. Every row carries its unique id:
booking a line twice adds nothing. A segment is deleted only after its rows are committed.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import gevent
from gevent.event import Event

from gproxy.accounting import slots
from gproxy.accounting.entries import Reader, SettledCall
from gproxy.accounting.journal import Journal
from gproxy.accounting.orphan_recovery import OrphanRecovery
from gproxy.accounting.slots import Slot
from gproxy.errors import Unavailable
from gproxy.state.folder_lock import try_lock
from gproxy.state.interface import SharedState

log = logging.getLogger(__name__)

INTERVAL_S = 0.25
RECOVERY_S = 2.0
BATCH = 500
MAX_BACKOFF_S = 2.0
# Redis frees what a process holds that was silent for 30 s: whose journal is older may have calls that no account has.
FREED_S = 25.0


class Store(Protocol):
    """The store's deeds."""

    def insert(self, bookings: list[SettledCall]) -> None:
        """Books a batch in one transaction, exactly once."""

    def delete_positions(self, segments: list[str]) -> None:
        """These segments are booked and gone."""


class Threads(Protocol):
    """Where what blocks is run, one thing at a time."""

    def run(self, function: Callable, *args): ...


class Writer:
    """Owned by one worker, which holds what its calls may cost as `owner`.

    `is_persisting` is False while the database does not take rows.
    """

    def __init__(self, journal: Journal, root: Path, store: Store, threads: Threads, shared: SharedState, owner: str):
        self.is_persisting = True
        self._orphan_recovery = OrphanRecovery(shared, owner, root)
        self._orphan_recovery.add(journal.slot.folder)
        self._journal, self._root, self._store = journal, root, store
        self._own = Reader()
        self._read: dict[Path, int] = {}  # how far each own segment was read
        self._pending: deque[list[SettledCall]] = deque()
        self._inherited: list[Slot] = [journal.slot] if journal.slot.inherited else []
        self._wake, self._stopping = Event(), False
        self._threads = threads
        self._greenlet: gevent.Greenlet | None = None
        self._booked = 0  # of our own calls, since that was told last
        self.told: Callable[[int], None] | None = None  # how many of our own calls were booked

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def close(self, timeout_s: float) -> None:
        """Books what is left and gives the slot back; what cannot be booked stays for the next process."""
        self._stopping = True
        self._wake.set()
        if self._greenlet is not None:
            self._greenlet.join(timeout_s)
        with gevent.Timeout(timeout_s, False):
            if self._attempt() and not self._journal.live:
                self._journal.close()
                slots.give_back(self._journal.slot)

    def _run(self) -> None:
        pause, recovery = INTERVAL_S, 0.0
        while not self._stopping:
            self._wake.wait(pause)
            recovery += pause
            looks = recovery >= RECOVERY_S
            recovery = 0.0 if looks else recovery
            ok = self._attempt(looks)
            pause = INTERVAL_S if ok else min(MAX_BACKOFF_S, pause * 2)

    def _attempt(self, looks_for_dead: bool = False) -> bool:
        """One round; tells whether everything written so far is booked."""
        try:
            if looks_for_dead:
                self._look_for_dead()
            self._journal.retry_unwritten()
            takes_dead = self._orphan_recovery.look()
            known = (list(self._journal.segments), self._journal.end)
            done = self._threads.run(self._book_all, *known, takes_dead)
            for path in done:
                self._journal.forget_segment(path)
                self._read.pop(path, None)
                self._own.forget(path.name)
            if done:
                self._threads.run(self._store.delete_positions, [path.name for path in done])
            if takes_dead:
                self._orphan_recovery.settle()
        except (Unavailable, OSError) as fault:
            return self._failed(str(fault), None)
        except Exception as fault:  # noqa: BLE001 - whatever it is, the next round must come
            return self._failed(type(fault).__name__, fault)
        finally:
            self._tell()
        if not self.is_persisting:
            log.info("usage rows are booked again")
        self.is_persisting = True
        return True

    def _tell(self) -> None:
        booked, self._booked = self._booked, 0
        if booked and self.told is not None:
            self.told(booked)

    def _failed(self, reason: str, fault: Exception | None) -> bool:
        if self.is_persisting:
            log.error("usage rows cannot be booked (%s); they stay in the journal", reason, exc_info=fault)
        self.is_persisting = False
        return False

    def _look_for_dead(self) -> None:
        """Takes over slots of processes that are gone and have no successor yet."""
        known = {slot.folder for slot in self._inherited} | {self._journal.slot.folder}
        for folder in sorted(self._root.glob("[0-9]*")):
            if folder not in known and (lock := try_lock(folder)) is not None:
                self._inherited.append(Slot(int(folder.name), folder, lock, slots.segments(folder)))
                self._orphan_recovery.add(folder)

    # Below: in the native thread.

    def _book_all(self, paths: list[Path], end: int, takes_dead: bool) -> list[Path]:
        """Books everything up to `end` of the newest segment; returns the segments that are not needed any more."""
        while self._inherited and takes_dead:
            self._book_inherited(self._inherited[0])
            del self._inherited[0]
        self._book_pending()
        for path in paths:
            stop = end if path == paths[-1] else None
            bookings = self._own.rows(path, self._read.get(path, 0), stop)
            while batch := list(islice(bookings, BATCH)):
                self._read[path] = batch[-1].end
                self._pending.append(batch)
                self._book_pending()
        return paths[:-1]

    def _book_pending(self) -> None:
        """A batch leaves memory only once it is committed."""
        while self._pending:
            self._store.insert(self._pending[0])
            self._booked += len(self._pending.popleft())

    def _book_inherited(self, slot: Slot) -> None:
        """Everything that a dead process left; from the start again when it fails in the middle."""
        reader, count = Reader(), 0
        written = max((path.stat().st_mtime for path in slot.inherited if path.exists()), default=0.0)
        is_old = time.time() - written > FREED_S

        def all_of_it() -> Iterator[SettledCall]:
            for path in slot.inherited:
                if path.exists():  # not after a round that failed at its very end
                    yield from reader.rows(path, 0, None)
            yield from reader.orphans()

        bookings = all_of_it()
        while batch := list(islice(bookings, BATCH)):
            self._store.insert(batch)
            self._orphan_recovery.see(batch, is_old)
            count += len(batch)
        for path in slot.inherited:
            path.unlink(missing_ok=True)
        self._store.delete_positions([path.name for path in slot.inherited])
        slot.inherited.clear()
        if slot.folder != self._journal.slot.folder:
            slots.give_back(slot)
        log.info("slot %d: %d calls of a dead process are in the database, or were already", slot.number, count)
