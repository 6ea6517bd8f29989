"""A small board that the processes of a machine share: short notes by name, kept over restarts.

Reading costs a memory read while nobody writes: what was read is kept until a number in a shared page says that
something changed. Each change is one transaction of a crash-safe table.
"""

import logging
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

from gproxy.state.change_counter import ChangeCounter
from gproxy.state.mmap.table import Full, Garbled, Table, Transaction
from gproxy.units import NS

log = logging.getLogger(__name__)

NOTE = 5  # a kind of record
NAME_END = b"\0"
MAX_KEPT = 16_384  # notes, or that there is none, which a process remembers


class SharedDict:
    """One process's end. `clock` is in seconds since the epoch.

    `pending` are this process's changes that other machines were not told yet, each with its moment in nanoseconds;
    none are kept where nobody `shares` them.
    """

    def __init__(
        self,
        folder: Path,
        expires: Callable[[bytes], float],
        clock: Callable[[], float] = time.time,
        shares: bool = False,
    ):
        """`expires` tells, in seconds since the epoch, from when on a note's place may be used for another."""
        self._expires, self._shares = expires, shares
        self.pending: dict[str, tuple[int, bytes | None]] = {}
        self._clock = clock
        self._table = Table(folder, clock=clock)
        folder.mkdir(0o700, parents=True, exist_ok=True)
        self._change_counter = ChangeCounter(folder / "signal")
        self._seen = -1
        self._kept: dict[str, bytes | None] = {}

    def notes(self, names: Sequence[str]) -> list[bytes | None]:
        """The notes of these names. What cannot be read counts as none."""
        now = self._change_counter.look()
        if now != self._seen or len(self._kept) > MAX_KEPT:
            self._seen, self._kept = now, {}
        kept = self._kept
        try:
            return [kept[name] for name in names]
        except KeyError:
            pass
        lacking = [name for name in names if name not in kept]
        kept |= self._run(_read, lacking) or dict.fromkeys(lacking)
        return [kept[name] for name in names]

    def change(self, name: str, function: Callable[[bytes | None], bytes | None]) -> None:
        """`deed` turns the note into the next one, None being none."""
        if (changed := self._run(lambda records: (_change(records, name, function, self._expires),))) is None:
            return  # it could not be: others must not take that for its end
        (note,) = changed
        self._change_counter.raise_()
        if self._shares and (name in self.pending or len(self.pending) < MAX_KEPT):
            self.pending[name] = int(self._clock() * NS), note

    def adopt(self, name: str, note: bytes | None) -> None:
        """A note as another machine has it."""
        if self.notes((name,)) != [note]:
            self._run(_change, name, lambda _: note, self._expires)
            self._change_counter.raise_()

    def all(self) -> dict[str, bytes]:
        """Every note."""
        return self._run(_all) or {}

    def close(self) -> None:
        self._table.close()
        self._change_counter.close()

    def _run(self, function: Callable, *args):
        """None when the table cannot be used; what was garbled is begun anew."""
        for _ in range(2):
            try:
                return self._table.run(function, *args)
            except Garbled:
                log.error("the board was garbled: what stood on it is forgotten")
            except (OSError, Full) as fault:
                log.error("the board cannot be used: %s", type(fault).__name__)
                break
        return None


def _digest(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=16).digest()


def _read(records: Transaction, names: Sequence[str]) -> dict[str, bytes | None]:
    found = {}
    for name in names:
        content = records.find(_digest(name), NOTE)
        found[name] = None if content is None else content.partition(NAME_END)[2]
    return found


def _change(records: Transaction, name: str, function: Callable, expires: Callable) -> bytes | None:
    digest = _digest(name)
    content = records.find(digest, NOTE)
    before = None if content is None else content.partition(NAME_END)[2]
    note = function(before)
    if note is None:
        if content is not None:
            records.remove(digest)
    elif note != before:
        records.put(digest, NOTE, name.encode() + NAME_END + note, int(expires(note)))
    return note


def _all(records: Transaction) -> dict[str, bytes]:
    parts = (record.payload.partition(NAME_END) for record in records.records() if record.kind == NOTE)
    return {name.decode(): note for name, _, note in parts}
