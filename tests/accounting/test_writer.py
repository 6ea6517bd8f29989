"""The writer goes on after every fault, and books each call once."""

import os
import shutil
import time
from pathlib import Path

import gevent
import pytest

from gproxy.accounting import slots
from gproxy.accounting import writer as writer_module
from gproxy.accounting.entries import SettledCall
from gproxy.accounting.journal import Journal
from gproxy.accounting.slots import Slot, take_slot
from gproxy.accounting.writer import Writer
from gproxy.errors import Unavailable
from gproxy.state.interface import Account, Limit, Take
from gproxy.state.mmap.state import MmapState

ZERO = [1, 2, 0, 0, 0, 0, 0]


class Store:
    """Rows in a dict; the first `failures` deeds of each kind fail."""

    def __init__(self, failures: int = 0):
        self.rows: dict[int, dict] = {}
        self._left = {"insert": failures, "delete_positions": failures}

    def _fail(self, function: str) -> None:
        if self._left[function]:
            self._left[function] -= 1
            raise Unavailable("the database is away")

    def insert(self, bookings: list[SettledCall]) -> None:
        self._fail("insert")
        self.rows |= {booking.row["trace_id"]: booking.row for booking in bookings}

    def delete_positions(self, segments: list[str]) -> None:
        self._fail("delete_positions")


class Inline:
    def run(self, function, *args):
        return function(*args)


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


def writer(journal: Journal, root: Path, store: Store, state: MmapState | None = None) -> Writer:
    state = state or MmapState(root / "state")
    return Writer(journal, root, store, Inline(), state, journal.slot.sign(0))


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
    run(writer(journal, tmp_path, store), 0.5 + failures)
    assert sorted(store.rows) == [1, 2, 3, 4, 5, 10]
    assert (store.rows[5]["outcome"], store.rows[5]["cost"], store.rows[5]["estimated"]) == ("failed", 0, True)
    assert not list(tmp_path.glob("[0-9]*"))


@pytest.mark.parametrize("failures", [0, 2])
def test_how_many_of_our_own_calls_are_booked_is_told_once(tmp_path, failures):
    dead_slot(tmp_path, range(1, 4))
    journal, store, told = Journal(take_slot(tmp_path)), Store(failures), []
    for number in range(10, 17):
        call(journal, number)
    ours = writer(journal, tmp_path, store)
    ours.told = told.append
    run(ours, 0.5 + failures)
    assert sum(told) == 7


def test_a_slot_that_cannot_be_looked_at_keeps_no_other_from_being_booked(tmp_path, monkeypatch):
    """The first look finds one dead slot and then no free descriptor; the next one finds the other."""
    own = take_slot(tmp_path)
    taken = [take_slot(tmp_path) for _ in range(2)]
    for n, slot in enumerate(taken):
        journal = Journal(slot)
        call(journal, n)
        journal.close()
        os.close(slot.lock)
    real, looks = writer_module.try_lock, []

    def looked_at(folder):
        looks.append(folder)
        if len(looks) == 2:
            raise OSError(24, "Too many open files")
        return real(folder)

    monkeypatch.setattr(writer_module, "try_lock", looked_at)
    monkeypatch.setattr("gproxy.accounting.writer.RECOVERY_S", 0.25)
    store = Store()
    run(writer(Journal(own), tmp_path, store), 1.5)
    assert sorted(store.rows) == [0, 1]


def test_a_folder_that_will_not_go_stops_nothing(tmp_path, monkeypatch):
    dead_slot(tmp_path, range(1, 3))
    own = take_slot(tmp_path)
    inherited = Slot(own.number, own.folder, own.lock, own.inherited)
    journal, store = Journal(inherited), Store()
    call(journal, 10)
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors=False: None)
    run(writer(journal, tmp_path, store), 0.5)
    assert sorted(store.rows) == [1, 2, 10]


# -- what dead processes hold ---------------------------------------------------------------------------------------

USER, LIMIT = Account("u1", 1_000), Limit("3", total_tokens=10_000, concurrency=10)


def hold(state: MmapState, owner: str, number: int) -> None:
    taken = state.take(Take(number, owner, (USER,), (LIMIT,), 100, 50))
    assert not taken.unknown
    assert taken.refused is None


@pytest.fixture
def state(tmp_path) -> MmapState:
    found = MmapState(tmp_path / "state")
    found.load("u1", found.version("u1"), 0, 0, {}, {})
    found.load_limit("3", {}, [], {})
    return found


def stands(state: MmapState) -> dict:
    money, tokens, running = state.inspect((USER,), (LIMIT,)).statuses
    return {
        "used": money.used,
        "held": money.reserved,
        "tokens": 10_000 - tokens.remaining,
        "running": 10 - running.remaining,
    }


@pytest.mark.parametrize("failures", [0, 1])
def test_what_a_dead_process_held_is_settled_as_its_journal_says(tmp_path, state, failures):
    """One call was settled in the journal and not in the state, one still ran, one was held and not yet opened."""
    slot = take_slot(tmp_path / "journal")
    owner, journal = slot.sign(0), Journal(slot)
    for number in (1, 2, 3):
        hold(state, owner, number)
    hold(state, "9/000/another machine", 4)
    call(journal, 1)
    call(journal, 2, settles=False)
    journal.close()
    os.close(slot.lock)
    assert stands(state) == {"used": 0, "held": 400, "tokens": 200, "running": 4}
    mine = Journal(take_slot(tmp_path / "journal"))
    assert mine.slot.inherited
    run(writer(mine, tmp_path / "journal", Store(failures), state), 0.5 + failures)
    # Of the first its cost and its 3 tokens, of the second what its row estimates, of the third what it had counted.
    assert stands(state) == {"used": 5, "held": 100, "tokens": 3 + 1 + 50 + 50, "running": 1}
    assert state.reservations() == {"9/000/another machine": [4]}


@pytest.mark.parametrize(("age_s", "loads"), [(0, []), (60, ["u1"])], ids=["just died", "silent for a minute"])
def test_accounts_are_loaded_again_when_what_the_dead_held_may_have_been_freed(tmp_path, state, age_s, loads):
    slot = take_slot(tmp_path / "journal")
    journal = Journal(slot)
    call(journal, 1)
    journal.close()
    os.close(slot.lock)
    for path in slots.segments(slot.folder):
        os.utime(path, (time.time() - age_s, time.time() - age_s))
    run(writer(Journal(take_slot(tmp_path / "journal")), tmp_path / "journal", Store(), state), 0.5)
    assert list(state.inspect((USER,), (LIMIT,)).unknown) == loads


def test_a_living_process_keeps_what_it_holds(tmp_path, state):
    alive = take_slot(tmp_path / "journal")
    living = alive.sign(0)
    hold(state, living, 1)
    mine = Journal(take_slot(tmp_path / "journal"))
    owner = mine.slot.sign(0)
    hold(state, owner, 2)
    run(Writer(mine, tmp_path / "journal", Store(), Inline(), state, owner), 0.5)
    assert state.reservations() == {living: [1], owner: [2]}
    os.close(alive.lock)


def test_a_process_that_died_later_is_noticed_and_one_whose_slot_is_gone_too(tmp_path, state, monkeypatch):
    monkeypatch.setattr("gproxy.accounting.writer.RECOVERY_S", 0.25)
    root = tmp_path / "journal"
    mine = Journal(take_slot(root))
    started = writer(mine, root, Store(), state)
    hold(state, "0/077/whose slot is gone", 7)
    started.start()
    gevent.sleep(0.4)
    slot = take_slot(root)
    owner = slot.sign(0)
    hold(state, owner, 8)
    gevent.sleep(0.4)
    assert state.reservations()[owner] == [8]
    os.close(slot.lock)
    gevent.sleep(0.8)
    assert state.reservations() == {}
    started.close(5)
