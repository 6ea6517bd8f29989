"""Moves the journal into the database: one greenlet that wakes, one native thread that reads the journal and stores.

What is not in the database is on the disk, so a database outage costs disk and no memory. Every row has a unique id, so
storing a line twice adds nothing. A segment is deleted only after its rows are committed. What can never be stored, a
damaged line or a row that the database refuses, is kept in `DamagedLines`, and all others are stored.
"""

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import gevent
from gevent.event import Event

from gproxy.accounting import segments, slots
from gproxy.accounting.damage import DamagedLines
from gproxy.accounting.journal import Journal
from gproxy.accounting.journal_reader import JournalReader, SettledCall
from gproxy.accounting.orphan_recovery import OrphanRecovery
from gproxy.accounting.segments import DamagedPart
from gproxy.accounting.slots import Slot
from gproxy.errors import RowRefused, Unavailable
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
UNREADABLE_S = 60.0  # a segment that cannot be read is tried again after this time


class Store(Protocol):
    """The functions of the store that the writer calls. They raise Unavailable."""

    def insert(self, calls: list[SettledCall]) -> None:
        """Stores a batch in one transaction, each call exactly once. Raises RowRefused if one of them never can be."""

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

    def __init__(
        self,
        journal: Journal,
        store: Store,
        threads: Threads,
        shared: SharedState,
        owner: str,
        damaged: DamagedLines,
    ):
        root = journal.slot.folder.parent
        self.is_persisting = True
        self.damaged = damaged
        self.on_stored: Callable[[int], None] | None = None
        self._orphan_recovery = OrphanRecovery(shared, owner, root)
        self._orphan_recovery.add(journal.slot.folder)
        self._journal, self._root, self._store = journal, root, store
        self._own = JournalReader(self._keep_part_of(journal.slot.folder))
        self._read_to: dict[Path, int] = {}  # byte offset up to which each own segment was read
        self._pending: deque[list[SettledCall]] = deque()
        is_inherited = any((journal.slot.inherited, segments.find(journal.slot.folder)[1]))
        self._inherited: list[Slot] = [journal.slot] if is_inherited else []
        self._left: dict[Path, _Left] = {}  # slots that this worker recovered and could not remove
        self._unusable: list[tuple[Path, str]] = []  # what has the name of a slot and is none, not reported yet
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
            if self._attempt(is_last=True) and not self._journal.open_count:
                self._journal.close()
                for path in list(self._journal.segments):
                    self._journal.forget_segment(path)
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

    def _attempt(self, is_recovery_due: bool = False, is_last: bool = False) -> bool:
        """One round; returns whether all calls that have settled so far are stored."""
        try:
            if is_recovery_due:
                self._take_over_slots()
            self._journal.retry_unwritten()
            is_recovering = self._orphan_recovery.find_calls()
            paths, end = list(self._journal.segments), self._journal.end
            is_ended = is_last and not self._journal.open_count
            # A line that waits in memory may belong to a call of a finished segment.
            finished = [] if self._journal.has_unwritten else paths if is_ended else paths[:-1]
            self._threads.run(self._store_all, paths, end, finished, is_recovering)
            stored = [path for path in finished if path in paths[:-1]]
            for path in stored:
                self._journal.forget_segment(path)
                self._read_to.pop(path, None)
                self._own.forget(path.name)
                self.damaged.forget(path)
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
        for folder in slots.folders(self._root):
            if folder in known or self._is_left(folder) or (lock := try_lock(folder)) is None:
                continue
            self._inherited.append(Slot(int(folder.name), folder, lock, slots.segments(folder)))
            self._orphan_recovery.add(folder)
        self._unusable = slots.unusable(self._root)

    def _is_left(self, folder: Path) -> bool:
        """Returns whether this worker has recovered the slot and has nothing more to do there now."""
        left = self._left.get(folder)
        return (
            left is not None
            and time.monotonic() < left.until
            and (left.owner, left.unreadable) == (slots.owner_of(folder, 0), slots.segments(folder))
        )

    # Below: in the native thread.

    def _store_all(self, paths: list[Path], end: int, finished: list[Path], is_recovering: bool) -> None:
        """Stores everything up to `end` of the newest segment, and the calls that never settle in finished segments."""
        fault = self._store_all_inherited() if is_recovering else None
        self._store_pending()
        for path in paths:
            stop = end if path == paths[-1] else None
            calls = self._own.settled_calls(path, self._read_to.get(path, 0), stop, is_final=stop is None)
            while batch := list(islice(calls, BATCH)):
                self._read_to[path] = batch[-1].end
                self._pending.append(batch)
                self._store_pending()
        if orphans := list(self._own.orphans({path.name for path in finished})):
            self._pending.append(orphans)
            self._store_pending()
        if fault is not None:
            raise fault

    def _store_all_inherited(self) -> Exception | None:
        """Stores the calls of crashed workers. A slot that fails delays no other one, and its error is returned."""
        fault = None
        try:
            while self._unusable:
                self.damaged.report_other(*self._unusable[-1])
                self._unusable.pop()
        except OSError as error:
            fault = error
        for slot in list(self._inherited):
            try:
                self._store_inherited(slot)
            except (Unavailable, OSError) as error:
                fault = error
            else:
                self._inherited.remove(slot)
        return fault

    def _store_pending(self) -> None:
        """Stores the pending batches; a batch stays in memory until it is committed."""
        while self._pending:
            self._insert(self._journal.slot.folder, self._pending[0])
            self._stored += len(self._pending.popleft())

    def _insert(self, folder: Path, calls: list[SettledCall]) -> None:
        """Stores calls of a slot in their order; a row that the database refuses is kept apart."""
        try:
            self._store.insert(calls)
        except RowRefused as refused:
            if len(calls) == 1:
                (call,) = calls
                self.damaged.keep_row(folder / call.segment, call.end, call.row, f"the database refuses it: {refused}")
                return
            middle = len(calls) // 2
            self._insert(folder, calls[:middle])
            self._insert(folder, calls[middle:])

    def _keep_part_of(self, folder: Path) -> Callable[[DamagedPart], None]:
        return lambda part: self.damaged.keep_part(folder / part.segment, part)

    def _store_inherited(self, slot: Slot) -> None:
        """Stores the calls of a crashed worker; after an error the next round starts from the beginning.

        What is no segment, and a segment that cannot be read, is reported and left, and the slot with it.
        """
        reader, count = JournalReader(self._keep_part_of(slot.folder)), 0
        unreadable: list[Path] = []
        for path in segments.find(slot.folder)[1]:
            self.damaged.report_other(path, "it is no regular file")

        def all_calls() -> Iterator[SettledCall]:
            for path in slot.inherited:
                try:
                    yield from reader.settled_calls(path, 0, None, is_final=True)
                except FileNotFoundError:
                    if os.path.lexists(path):
                        raise  # another file is missing
                    # deleted by a round that failed later
                except segments.Unreadable as fault:
                    self.damaged.report_other(path, f"it cannot be read: {fault.strerror}")
                    unreadable.append(path)
            if not unreadable:  # it may have the end of a call
                yield from reader.orphans()

        is_old = time.time() - _last_written(slot.inherited) > RELEASED_S
        calls = all_calls()
        while batch := list(islice(calls, BATCH)):
            self._insert(slot.folder, batch)
            self._orphan_recovery.note(batch, is_old)
            count += len(batch)
        log.info("slot %d: %d calls of a crashed worker are in the database", slot.number, count)
        if not unreadable:
            for path in slot.inherited:
                path.unlink(missing_ok=True)
                self.damaged.forget(path)
            self._store.delete_positions([segments.name_of(path) for path in slot.inherited])
        slot.inherited.clear()
        if slot.folder != self._journal.slot.folder:
            until = time.monotonic() + UNREADABLE_S if unreadable else math.inf
            self._left[slot.folder] = _Left(slots.owner_of(slot.folder, 0), slots.segments(slot.folder), until)
            slots.remove(slot)


class _Left(NamedTuple):
    """A slot that stays on the disk: its last owner, its segments, and when to try them again (monotonic clock)."""

    owner: str | None
    unreadable: list[Path]
    until: float


def _last_written(paths: list[Path]) -> float:
    """Returns when the newest of these files was written, in seconds since the epoch."""
    moments = [0.0]
    for path in paths:
        try:
            moments.append(path.lstat().st_mtime)
        except OSError:
            continue
    return max(moments)
