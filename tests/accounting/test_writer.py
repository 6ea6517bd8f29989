"""The writer continues after every failure and stores each call once; reservations of crashed workers are settled."""

import os
import shutil
import time
from pathlib import Path

import gevent
import pytest

from gproxy.accounting import segments, slots
from gproxy.accounting import writer as writer_module
from gproxy.accounting.damage import DamagedLines
from gproxy.accounting.entries import Tokens, to_line
from gproxy.accounting.journal import Journal
from gproxy.accounting.journal_reader import SettledCall
from gproxy.accounting.slots import Slot, take_slot
from gproxy.accounting.writer import Writer
from gproxy.errors import RowRefused, Unavailable
from gproxy.state.interface import Account, AccountAmounts, Limit, Take
from gproxy.state.mmap.state import MmapState
from tests.journal_entries import opened, settled

TOKENS = Tokens(1, 2)


class Store:
    """Rows in a dict; the first `failures` calls of each function fail."""

    def __init__(self, failures: int = 0):
        self.rows: dict[int, dict] = {}
        self._failures_remaining = {"insert": failures, "delete_positions": failures}

    def _fail(self, function: str) -> None:
        if self._failures_remaining[function]:
            self._failures_remaining[function] -= 1
            raise Unavailable("the database is away")

    def insert(self, calls: list[SettledCall]) -> None:
        self._fail("insert")
        self.rows |= {call.row["trace_id"]: call.row for call in calls}

    def delete_positions(self, segments: list[str]) -> None:
        self._fail("delete_positions")


class Inline:
    def run(self, function, *args):
        return function(*args)


def write_call(journal: Journal, number: int, settles: bool = True) -> None:
    journal.open(opened(number))
    if settles:
        journal.settle(settled(number, tokens=TOKENS, cost=5))


def make_crashed_slot(root: Path, numbers: range) -> None:
    """Makes the slot of a worker that was killed with its last call open."""
    slot = take_slot(root)
    journal = Journal(slot)
    for number in numbers:
        write_call(journal, number, settles=number != numbers[-1])
    journal.close()
    os.close(slot.lock)


def writer(journal: Journal, root: Path, store: Store, state: MmapState | None = None) -> Writer:
    state = state or MmapState(root / "state")
    return Writer(journal, store, Inline(), state, journal.slot.new_owner(0), DamagedLines(root / "damaged"))


def run_for(writer: Writer, seconds: float) -> None:
    writer.start()
    gevent.sleep(seconds)
    writer.close(5)


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_the_calls_of_a_crashed_worker_are_stored_in_spite_of_failures(tmp_path, failures):
    make_crashed_slot(tmp_path, range(1, 6))
    slot = take_slot(tmp_path)
    assert slot.inherited
    journal, store = Journal(slot), Store(failures)
    write_call(journal, 10)
    run_for(writer(journal, tmp_path, store), 0.5 + failures)
    assert sorted(store.rows) == [1, 2, 3, 4, 5, 10]
    assert (store.rows[5]["outcome"], store.rows[5]["cost"], store.rows[5]["estimated"]) == ("failed", 0, True)
    assert not list(tmp_path.glob("[0-9]*"))


@pytest.mark.parametrize("failures", [0, 2])
def test_each_stored_call_of_its_own_is_reported_once(tmp_path, failures):
    make_crashed_slot(tmp_path, range(1, 4))
    journal, store, stored_counts = Journal(take_slot(tmp_path)), Store(failures), []
    for number in range(10, 17):
        write_call(journal, number)
    ours = writer(journal, tmp_path, store)
    ours.on_stored = stored_counts.append
    run_for(ours, 0.5 + failures)
    assert sum(stored_counts) == 7


def test_a_slot_that_cannot_be_locked_does_not_prevent_storing_the_others(tmp_path, monkeypatch):
    """The first round finds one crashed slot and then no free descriptor; the next round finds the other slot."""
    own = take_slot(tmp_path)
    taken = [take_slot(tmp_path) for _ in range(2)]
    for n, slot in enumerate(taken):
        journal = Journal(slot)
        write_call(journal, n)
        journal.close()
        os.close(slot.lock)
    real, tried = writer_module.try_lock, []

    def counting_try_lock(folder):
        tried.append(folder)
        if len(tried) == 2:
            raise OSError(24, "Too many open files")
        return real(folder)

    monkeypatch.setattr(writer_module, "try_lock", counting_try_lock)
    monkeypatch.setattr("gproxy.accounting.writer.RECOVERY_S", 0.25)
    store = Store()
    run_for(writer(Journal(own), tmp_path, store), 1.5)
    assert sorted(store.rows) == [0, 1]


def test_a_folder_that_cannot_be_deleted_prevents_nothing(tmp_path, monkeypatch):
    make_crashed_slot(tmp_path, range(1, 3))
    own = take_slot(tmp_path)
    inherited = Slot(own.number, own.folder, own.lock, own.inherited)
    journal, store = Journal(inherited), Store()
    write_call(journal, 10)
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors=False: None)
    run_for(writer(journal, tmp_path, store), 0.5)
    assert sorted(store.rows) == [1, 2, 10]


# -- reservations of crashed workers --------------------------------------------------------------------------------

USER, LIMIT = Account("u1", 1_000), Limit("3", total_tokens=10_000, concurrency=10)


def reserve(state: MmapState, owner: str, number: int) -> None:
    taken = state.take(Take(number, owner, (USER,), (LIMIT,), 100, 50))
    assert not taken.unknown
    assert taken.refused is None


@pytest.fixture
def state(tmp_path) -> MmapState:
    found = MmapState(tmp_path / "state")
    found.load("u1", found.version("u1"), AccountAmounts(0, 0, {}, {}))
    found.load_limit("3", {}, [], {})
    return found


def amounts(state: MmapState) -> dict:
    money, tokens, running = state.inspect((USER,), (LIMIT,)).statuses
    return {
        "used": money.used,
        "reserved": money.reserved,
        "tokens": 10_000 - tokens.remaining,
        "running": 10 - running.remaining,
    }


@pytest.mark.parametrize("failures", [0, 1])
def test_the_reservations_of_a_crashed_worker_are_settled_by_its_journal(tmp_path, state, failures):
    """One call is settled in the journal and not in the state, one is open, one is reserved and not opened."""
    slot = take_slot(tmp_path / "journal")
    owner, journal = slot.new_owner(0), Journal(slot)
    for number in (1, 2, 3):
        reserve(state, owner, number)
    reserve(state, "9/000/another machine", 4)
    write_call(journal, 1)
    write_call(journal, 2, settles=False)
    journal.close()
    os.close(slot.lock)
    assert amounts(state) == {"used": 0, "reserved": 400, "tokens": 200, "running": 4}
    own_journal = Journal(take_slot(tmp_path / "journal"))
    assert own_journal.slot.inherited
    run_for(writer(own_journal, tmp_path / "journal", Store(failures), state), 0.5 + failures)
    # The cost and 3 tokens of the first call, the estimate of the second one's row, the reserved tokens of the third.
    assert amounts(state) == {"used": 5, "reserved": 100, "tokens": 3 + 1 + 50 + 50, "running": 1}
    assert state.reservations() == {"9/000/another machine": [4]}


@pytest.mark.parametrize(("age_s", "loads"), [(0, []), (60, ["u1"])], ids=["just crashed", "silent for a minute"])
def test_accounts_are_loaded_again_if_reservations_of_a_crashed_worker_may_have_expired(tmp_path, state, age_s, loads):
    slot = take_slot(tmp_path / "journal")
    journal = Journal(slot)
    write_call(journal, 1)
    journal.close()
    os.close(slot.lock)
    for path in slots.segments(slot.folder):
        os.utime(path, (time.time() - age_s, time.time() - age_s))
    run_for(writer(Journal(take_slot(tmp_path / "journal")), tmp_path / "journal", Store(), state), 0.5)
    assert list(state.inspect((USER,), (LIMIT,)).unknown) == loads


def test_the_reservations_of_a_running_worker_are_kept(tmp_path, state):
    running_slot = take_slot(tmp_path / "journal")
    running_owner = running_slot.new_owner(0)
    reserve(state, running_owner, 1)
    own_journal = Journal(take_slot(tmp_path / "journal"))
    owner = own_journal.slot.new_owner(0)
    reserve(state, owner, 2)
    damaged = DamagedLines(tmp_path / "damaged")
    run_for(Writer(own_journal, Store(), Inline(), state, owner, damaged), 0.5)
    assert state.reservations() == {running_owner: [1], owner: [2]}
    os.close(running_slot.lock)


def test_a_worker_that_crashes_later_and_a_worker_without_a_slot_are_recovered(tmp_path, state, monkeypatch):
    monkeypatch.setattr("gproxy.accounting.writer.RECOVERY_S", 0.25)
    root = tmp_path / "journal"
    own_journal = Journal(take_slot(root))
    started = writer(own_journal, root, Store(), state)
    reserve(state, "0/077/without a slot", 7)
    started.start()
    gevent.sleep(0.4)
    slot = take_slot(root)
    owner = slot.new_owner(0)
    reserve(state, owner, 8)
    gevent.sleep(0.4)
    assert state.reservations()[owner] == [8]
    os.close(slot.lock)
    gevent.sleep(0.8)
    assert state.reservations() == {}
    started.close(5)


# -- damaged journals -----------------------------------------------------------------------------------------------

ODD_LINES = [
    *(b"5", b"[]", b"{}", b"null", b"no JSON", b"\xff\xfe", b"", b'{"o":1}', b'{"s":1}', b'{"o":[],"e":{}}'),
    to_line(settled(60, cost=-1)).rstrip(),
    to_line(opened(61, user_id="1")).rstrip(),
    to_line(opened(62, model="m" * 2_000_000)).rstrip(),
]


def make_damaged_slot(root: Path) -> Path:
    """Makes the slot of a crashed worker with odd lines between its calls 1 to 5, of which the last one is open."""
    make_crashed_slot(root, range(1, 6))
    (path,) = slots.segments(root / "000")
    lines = path.read_bytes().rstrip(b"\0").splitlines(keepends=True)
    odd = [line + b"\n" for line in ODD_LINES]
    path.write_bytes(b"".join([*odd, *lines[:3], b"\0" * 5_000, *lines[3:], *odd, b"\0" * 9_000]))
    (path.parent / "x.log").mkdir()
    (path.parent / "x.log" / "kept").touch()
    (path.parent / "y.log").symlink_to(root / "missing")
    os.mkfifo(path.parent / "z.log")
    return path


@pytest.mark.parametrize("is_own", [True, False], ids=["own slot", "another slot"])
def test_every_good_line_of_a_damaged_slot_is_stored_and_the_rest_is_kept(tmp_path, caplog, monkeypatch, is_own):
    monkeypatch.setattr("gproxy.accounting.writer.RECOVERY_S", 0.25)
    running = None if is_own else take_slot(tmp_path)
    path = make_damaged_slot(tmp_path) if is_own else make_damaged_slot_at(tmp_path, "001")
    journal, store = Journal(running or take_slot(tmp_path)), Store()
    write_call(journal, 10)
    ours = writer(journal, tmp_path, store)
    ours.start()
    gevent.sleep(1.2)
    write_call(journal, 11)
    gevent.sleep(0.5)
    assert ours.is_persisting
    ours.close(5)
    assert {number: row["outcome"] for number, row in store.rows.items()} == {
        **{number: "complete" for number in (1, 2, 3, 4, 10, 11)},
        5: "failed",
    }
    assert ours.damaged.count() == 2 * len(ODD_LINES) + 1
    assert not path.exists()
    assert {one.name for one in path.parent.iterdir()} == {"lock", "x.log", "y.log", "z.log"}
    left = [record.getMessage() for record in caplog.records if "is left where it is" in record.getMessage()]
    assert len(left) == 3


def make_damaged_slot_at(root: Path, name: str) -> Path:
    path = make_damaged_slot(root / "other")
    path.parent.rename(root / name)
    shutil.rmtree(root / "other")
    return root / name / path.name


def test_what_has_the_name_of_a_slot_is_left(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("gproxy.accounting.writer.RECOVERY_S", 0.25)
    (tmp_path / "000").write_bytes(b"a file")
    (tmp_path / "001").symlink_to(tmp_path / "missing")
    (tmp_path / "002").mkdir()
    (tmp_path / "003" / "lock").mkdir(parents=True)
    (tmp_path / "004").mkdir()
    os.mkfifo(tmp_path / "004" / "lock")
    (tmp_path / "0005").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    journal, store = Journal(take_slot(tmp_path)), Store()
    assert journal.slot.number == 5
    write_call(journal, 10)
    run_for(writer(journal, tmp_path, store), 0.8)
    assert list(store.rows) == [10]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("state", "damaged")) == before
    assert len([record for record in caplog.records if "is left where it is" in record.getMessage()]) == 5


class RefusingStore(Store):
    """Refuses the rows of these calls, with every batch that has one of them."""

    refused = frozenset({2, 5, 10})

    def insert(self, calls: list[SettledCall]) -> None:
        if self.refused & {call.row["trace_id"] for call in calls}:
            raise RowRefused("DataError")
        super().insert(calls)


def test_a_row_that_the_database_refuses_is_kept_and_the_others_are_stored(tmp_path):
    make_crashed_slot(tmp_path, range(1, 6))
    journal, store = Journal(take_slot(tmp_path)), RefusingStore(failures=1)
    for number in range(8, 13):
        write_call(journal, number)
    ours = writer(journal, tmp_path, store)
    run_for(ours, 1.2)
    assert sorted(store.rows) == [1, 3, 4, 8, 9, 11, 12]
    assert ours.damaged.count() == 3
    assert not list(tmp_path.glob("[0-9]*"))


def test_a_settled_line_without_its_opened_line_is_kept(tmp_path):
    make_crashed_slot(tmp_path, range(1, 4))
    (path,) = slots.segments(tmp_path / "000")
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"#" + first + b"".join(others))
    ours, store = writer(Journal(take_slot(tmp_path)), tmp_path, store := Store()), store
    run_for(ours, 0.5)
    assert sorted(store.rows) == [2, 3]
    assert ours.damaged.count() == 2
    assert b"call 1 has no opened entry" in ours.damaged.path.read_bytes()


def test_an_own_call_whose_settled_line_is_damaged_is_a_failed_row(tmp_path):
    journal, store = Journal(take_slot(tmp_path)), Store()
    write_call(journal, 1)
    start = journal.end
    journal.open(opened(2))
    middle = journal.end
    journal.settle(settled(2, cost=5))
    write_call(journal, 3)
    os.pwrite(journal._fd, b"#", middle)
    assert start < middle
    ours = writer(journal, tmp_path, store)
    run_for(ours, 0.5)
    assert {number: (row["outcome"], row["cost"]) for number, row in store.rows.items()} == {
        **{number: ("complete", 5) for number in (1, 3)},
        2: ("failed", 0),
    }
    assert ours.damaged.count() == 1


def test_a_segment_that_cannot_be_read_delays_nothing_and_is_stored_later(tmp_path, monkeypatch):
    monkeypatch.setattr("gproxy.accounting.writer.RECOVERY_S", 0.25)
    monkeypatch.setattr("gproxy.accounting.writer.UNREADABLE_S", 0.5)
    own = take_slot(tmp_path)
    slot = take_slot(tmp_path)
    journal = Journal(slot)
    write_call(journal, 1)
    journal.close()
    os.close(slot.lock)
    broken, open_file = journal.segments[0], segments.open_file

    def failing(path: Path):
        if path == broken and not is_mended:
            raise OSError(5, "Input/output error")
        return open_file(path)

    is_mended = False
    monkeypatch.setattr(segments, "open_file", failing)
    journal, store = Journal(own), Store()
    write_call(journal, 10)
    ours = writer(journal, tmp_path, store)
    ours.start()
    gevent.sleep(1.0)
    assert (list(store.rows), ours.is_persisting, broken.exists()) == ([10], True, True)
    is_mended = True
    gevent.sleep(1.5)
    ours.close(5)
    assert sorted(store.rows) == [1, 10]
    assert not broken.parent.exists()
