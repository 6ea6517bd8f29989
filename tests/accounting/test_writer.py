"""The writer goes on after every fault, and books each call once."""

import os
import shutil
from pathlib import Path

import gevent
import pytest

from gproxy.accounting import journal as books
from gproxy.accounting.journal import Journal, Slot, take_slot
from gproxy.accounting.writer import Booking, Writer
from gproxy.errors import Unavailable

ZERO = [1, 2, 0, 0, 0, 0, 0]


class Store:
    """Rows in a dict; the first `failures` deeds of each kind fail."""

    def __init__(self, failures: int = 0):
        self.rows: dict[int, dict] = {}
        self._left = {"book": failures, "forget": failures}

    def _fail(self, deed: str) -> None:
        if self._left[deed]:
            self._left[deed] -= 1
            raise Unavailable("the database is away")

    def book(self, bookings: list[Booking]) -> None:
        self._fail("book")
        self.rows |= {booking.row["trace_id"]: booking.row for booking in bookings}

    def forget(self, segments: list[str]) -> None:
        self._fail("forget")


class Inline:
    def run(self, deed, *args):
        return deed(*args)


def call(journal: Journal, number: int, settles: bool = True) -> None:
    names = ("rq", "at", "u", "k", "p", "c", "r", "op", "pr", "m", "e")
    journal.open({"o": number, **{name: 1 for name in names}})
    if settles:
        journal.settle({"s": number, "x": "complete", "st": 200, "n": ZERO, "c": 5})


def dead_slot(root: Path, numbers: range) -> None:
    """What a process leaves behind that was killed with its last call running."""
    slot = take_slot(root)
    journal = Journal(slot)
    for number in numbers:
        call(journal, number, settles=number != numbers[-1])
    journal.close()
    os.close(slot.lock)


def run(writer: Writer, seconds: float) -> None:
    writer.start()
    gevent.sleep(seconds)
    writer.close(5)


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_what_a_dead_process_left_is_booked_in_spite_of_faults(tmp_path, failures):
    dead_slot(tmp_path, range(1, 6))
    slot = take_slot(tmp_path)
    assert slot.inherited
    journal, store = Journal(slot), Store(failures)
    call(journal, 10)
    run(Writer(journal, tmp_path, store, Inline()), 0.5 + failures)
    assert sorted(store.rows) == [1, 2, 3, 4, 5, 10]
    assert (store.rows[5]["outcome"], store.rows[5]["cost"], store.rows[5]["estimated"]) == ("failed", 0, True)
    assert not list(tmp_path.glob("[0-9]*"))


def test_a_slot_that_cannot_be_looked_at_keeps_no_other_from_being_booked(tmp_path, monkeypatch):
    """The first look finds one dead slot and then no free descriptor; the next one finds the other."""
    own = take_slot(tmp_path)
    taken = [take_slot(tmp_path) for _ in range(2)]
    for n, slot in enumerate(taken):
        journal = Journal(slot)
        call(journal, n)
        journal.close()
        os.close(slot.lock)
    real, looks = books.try_lock, []

    def try_lock(folder):
        looks.append(folder)
        if len(looks) == 2:
            raise OSError(24, "Too many open files")
        return real(folder)

    monkeypatch.setattr(books, "try_lock", try_lock)
    monkeypatch.setattr("gproxy.accounting.writer.RECOVERY_S", 0.25)
    store = Store()
    run(Writer(Journal(own), tmp_path, store, Inline()), 1.5)
    assert sorted(store.rows) == [0, 1]


def test_a_folder_that_will_not_go_stops_nothing(tmp_path, monkeypatch):
    dead_slot(tmp_path, range(1, 3))
    own = take_slot(tmp_path)
    inherited = Slot(own.number, own.folder, own.lock, own.inherited)
    journal, store = Journal(inherited), Store()
    call(journal, 10)
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors=False: None)
    run(Writer(journal, tmp_path, store, Inline()), 0.5)
    assert sorted(store.rows) == [1, 2, 10]
