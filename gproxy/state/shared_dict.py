"""A small dictionary that the processes of a machine share: short notes by name, which survive restarts.

Each process caches the notes that it read until the shared change counter grows, so that reading costs a memory read
while no process writes. Each change is one transaction of a crash-safe table.
"""

import logging
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

from gproxy.state.change_counter import ChangeCounter
from gproxy.state.mmap.table import Corrupted, Table, TableFull, Transaction
from gproxy.units import NS

log = logging.getLogger(__name__)

NOTE = 5  # kind of an entry
NAME_END = b"\0"
MAX_CACHED = 16_384  # names that a process caches, with or without a note


class SharedDict:
    """One process's access to the notes. `clock` returns seconds since the epoch.

    `pending` has this process's changes that were not sent to other machines yet, each with its moment in nanoseconds;
    it stays empty without `is_synced`.
    """

    def __init__(
        self,
        folder: Path,
        expires: Callable[[bytes], float],
        clock: Callable[[], float] = time.time,
        is_synced: bool = False,
    ):
        """`expires` returns when a note expires and its slot may be reused, in seconds since the epoch."""
        self._expires, self._is_synced = expires, is_synced
        self.pending: dict[str, tuple[int, bytes | None]] = {}
        self._clock = clock
        self._table = Table(folder, clock=clock)
        folder.mkdir(0o700, parents=True, exist_ok=True)
        self._change_counter = ChangeCounter(folder / "signal")
        self._cached_at = -1
        self._cache: dict[str, bytes | None] = {}

    def notes(self, names: Sequence[str]) -> list[bytes | None]:
        """Returns the notes of these names, None for those that do not exist or cannot be read."""
        counter = self._change_counter.read()
        if counter != self._cached_at or len(self._cache) > MAX_CACHED:
            self._cached_at, self._cache = counter, {}
        cache = self._cache
        try:
            return [cache[name] for name in names]
        except KeyError:
            pass
        missing = [name for name in names if name not in cache]
        cache |= self._run(_read_notes, missing) or dict.fromkeys(missing)
        return [cache[name] for name in names]

    def change(self, name: str, function: Callable[[bytes | None], bytes | None]) -> None:
        """Replaces the note by `function(note)`; None stands for no note."""
        result = self._run(lambda transaction: (_change_note(transaction, name, function, self._expires),))
        if result is None:
            return  # the table cannot be used: other machines must not take that for a removal
        (note,) = result
        self._change_counter.increment()
        if self._is_synced and (name in self.pending or len(self.pending) < MAX_CACHED):
            self.pending[name] = int(self._clock() * NS), note

    def adopt(self, name: str, note: bytes | None) -> None:
        """Takes over a note, or its removal, from another machine."""
        if self.notes((name,)) != [note]:
            self._run(_change_note, name, lambda _: note, self._expires)
            self._change_counter.increment()

    def all(self) -> dict[str, bytes]:
        """Returns every note by its name, nothing if the table cannot be used."""
        return self._run(_all_notes) or {}

    def close(self) -> None:
        self._table.close()
        self._change_counter.close()

    def _run(self, function: Callable, *args):
        """Runs the function as one transaction; returns None if the table cannot be used.

        A corrupted table is replaced by an empty one, and the function runs once more.
        """
        for _ in range(2):
            try:
                return self._table.run(function, *args)
            except Corrupted:
                log.error("the shared dictionary was corrupted: its notes are lost")
            except (OSError, TableFull) as fault:
                log.error("the shared dictionary cannot be used: %s", type(fault).__name__)
                break
        return None


def _digest(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=16).digest()


def _read_notes(transaction: Transaction, names: Sequence[str]) -> dict[str, bytes | None]:
    found = {}
    for name in names:
        content = transaction.find(_digest(name), NOTE)
        found[name] = None if content is None else content.partition(NAME_END)[2]
    return found


def _change_note(transaction: Transaction, name: str, function: Callable, expires: Callable) -> bytes | None:
    digest = _digest(name)
    content = transaction.find(digest, NOTE)
    previous = None if content is None else content.partition(NAME_END)[2]
    note = function(previous)
    if note is None:
        if content is not None:
            transaction.remove(digest)
    elif note != previous:
        transaction.put(digest, NOTE, name.encode() + NAME_END + note, int(expires(note)))
    return note


def _all_notes(transaction: Transaction) -> dict[str, bytes]:
    parts = (entry.payload.partition(NAME_END) for entry in transaction.entries() if entry.kind == NOTE)
    return {name.decode(): note for name, _, note in parts}
