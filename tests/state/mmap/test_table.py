"""The table: a transaction is all or nothing even if its writer is killed, and no other entry is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gproxy.state.mmap import table as tables
from gproxy.state.mmap.table import Corrupted, Table, TableFull, Transaction
from tests.examples import examples

KIND = 7


def digest(name: object) -> bytes:
    return blake2b(str(name).encode(), digest_size=16).digest()


def put(transaction: Transaction, values: dict, expires: int = tables.NEVER) -> None:
    for name, value in values.items():
        if value is None:
            transaction.find(digest(name), KIND)
            transaction.remove(digest(name))
        else:
            transaction.put(digest(name), KIND, value, expires)


def get(transaction: Transaction, names) -> dict:
    return {name: transaction.find(digest(name), KIND) for name in names}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_one_process_reads_what_another_wrote(folder):
    one, other = Table(folder), Table(folder)
    one.run(put, {"a": b"1", "b": b"2"})
    assert other.run(get, "abc") == {"a": b"1", "b": b"2", "c": None}
    other.run(put, {"a": b"3", "b": None})
    assert one.run(get, "ab") == {"a": b"3", "b": None}


def test_a_transaction_that_raises_writes_nothing(folder):
    table = Table(folder)
    table.run(put, {"a": b"1"})

    def fails(transaction):
        transaction.put(digest("a"), KIND, b"2")
        raise ValueError

    with pytest.raises(ValueError):
        table.run(fails)
    assert table.run(get, "a") == {"a": b"1"}


def test_an_entry_of_another_kind_is_not_found(folder):
    table = Table(folder)
    table.run(put, {"a": b"1"})
    assert table.run(lambda transaction: transaction.find(digest("a"), KIND + 1)) is None


def test_a_transaction_reads_what_it_wrote(folder):
    def change(transaction):
        transaction.put(digest("a"), KIND, b"1")
        first = transaction.find(digest("a"), KIND)
        transaction.remove(digest("a"))
        return first, transaction.find(digest("a"), KIND)

    assert Table(folder).run(change) == (b"1", None)


class KillingMemory:
    """The table's memory, which kills its process at the n-th write."""

    def __init__(self, memory, writes: int):
        self._memory, self._remaining = memory, writes

    def __getitem__(self, where):
        return self._memory[where]

    def __setitem__(self, where, content):
        if self._remaining == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._remaining -= 1
        self._memory[where] = content


def killed_at(folder: Path, write: int, values: dict) -> bool:
    """Runs a transaction in a process that is killed at its n-th write. Returns True if it was killed."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    table = Table(folder)
    table.run(get, ["a"])
    table._map = KillingMemory(table._map, write)
    table.run(put, values)
    os._exit(0)


def test_a_writer_killed_at_any_write_leaves_all_or_nothing(folder):
    before = {"a": b"1", "b": b"1", "c": b"1", "d": None}
    after = {"a": b"2", "b": None, "c": b"2", "d": b"2"}
    seen = set()
    for write in range(20):
        Table(folder).run(put, before)
        was_killed = killed_at(folder, write, after)
        found = Table(folder).run(get, "abcd")
        assert found in (before, after)
        seen.add((was_killed, found == after))
        if not was_killed:
            break
    # Killed early it wrote nothing, killed late another process completed the write, not killed it wrote everything.
    assert seen == {(True, False), (True, True), (False, True)}


OPERATIONS = st.lists(st.tuples(st.integers(0, 20), st.sampled_from([None, b"x", b"longer"])), max_size=6)


@given(st.lists(OPERATIONS, max_size=40))
@hypothesis_settings(max_examples=examples(150), deadline=None)
def test_any_history_reads_like_a_dictionary(tmp_path_factory, history):
    """The digests collide on purpose: they begin with the same bytes, so that the entries share a few rows of slots."""
    table = Table(tmp_path_factory.mktemp("table"))
    known: dict[bytes, bytes] = {}

    def apply(transaction, operations):
        for number, value in operations:
            name = (number % 3).to_bytes(4, "little") + digest(number)[4:]
            if number % 2:
                assert transaction.find(name, KIND) == known.get(name)
            if value is None:
                transaction.remove(name)
                known.pop(name, None)
            else:
                transaction.put(name, KIND, value)
                known[name] = value

    for operations in history:
        table.run(apply, operations)
        assert {r.digest: r.payload for r in table.run(lambda transaction: list(transaction.entries()))} == known
        other = Table(table._folder)
        for name, value in known.items():
            assert other.run(lambda transaction, name: transaction.find(name, KIND), name) == value
        other.close()
    table.close()


def test_it_grows_without_losing_an_entry(folder):
    table, other = Table(folder), Table(folder)
    count = 3 * tables.MIN_SLOTS
    for number in range(count):
        table.run(put, {number: str(number).encode()})
    assert (folder / "table").stat().st_size > tables.TABLE_AT + count * tables.SLOT_BYTES
    for number in range(count):
        assert other.run(get, [number]) == {number: str(number).encode()}


def test_a_full_table_raises_and_keeps_its_entries(folder):
    table = Table(folder, max_slots=tables.MIN_SLOTS)
    stored = []
    with pytest.raises(TableFull):
        for number in range(10 * tables.MIN_SLOTS):
            table.run(put, {number: b"x"})
            stored.append(number)
    assert len(stored) > tables.MIN_SLOTS // 10
    assert set(table.run(get, stored).values()) == {b"x"}


def test_only_slots_of_expired_entries_are_reused(folder):
    now = 1_000.0
    table = Table(folder, max_slots=tables.MIN_SLOTS, clock=lambda: now)
    table.run(put, {"kept": b"x"})
    for number in range(20 * tables.MIN_SLOTS):
        now += 1
        table.run(put, {number: b"x"}, int(now) + 5)
    assert table.run(get, ["kept"]) == {"kept": b"x"}


def test_removed_entries_leave_no_tombstones_behind(folder):
    """As calls do, which come and go without end, each with its own digest."""
    table = Table(folder)
    for number in range(20_000):
        table.run(put, {number: b"x"})
        table.run(put, {number: None})
    raw = (folder / "table").read_bytes()[tables.TABLE_AT :]
    kinds = raw[tables.KIND_AT :: tables.SLOT_BYTES]
    assert kinds.count(tables.TOMBSTONE) == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"something else" * 1000),
        lambda path: os.truncate(path, tables.TABLE_AT + 700),
        lambda path: os.truncate(path, 10),
        lambda path: path.write_bytes(path.read_bytes()[: tables.TABLE_AT] + os.urandom(1024 * tables.SLOT_BYTES)),
    ],
    ids=["emptied", "overwritten", "cut", "cut in its header", "corrupted slots"],
)
def test_a_damaged_file_raises_once_and_is_replaced_by_an_empty_one(folder, damage):
    running = Table(folder)
    running.run(put, {"a": b"1"})
    path = folder / "table"
    kept = os.open(path, os.O_RDWR)  # damaged in place: `running` has this very file open
    content = path.read_bytes()
    damaged = folder / "damaged"
    damaged.write_bytes(content)
    damage(damaged)
    os.ftruncate(kept, 0)
    os.pwrite(kept, damaged.read_bytes(), 0)
    os.close(kept)
    with pytest.raises(Corrupted):
        running.run(get, ["a"])
    assert running.run(get, ["a"]) == {"a": None}
    running.run(put, {"a": b"2"})
    assert Table(folder).run(get, ["a"]) == {"a": b"2"}


def test_one_changed_byte_of_an_entry_is_detected(folder):
    table = Table(folder)
    table.run(put, {"a": b"12345678"})
    raw = bytearray((folder / "table").read_bytes())
    at = raw.rindex(b"12345678")  # the first occurrence is in the log
    with (folder / "table").open("r+b") as file:
        file.seek(at)
        file.write(b"9")
    with pytest.raises(Corrupted):
        table.run(get, ["a"])


@pytest.mark.parametrize("removed", ["file", "folder"])
def test_a_removed_file_or_folder_is_created_again_and_shared(folder, removed):
    one, other = Table(folder), Table(folder)
    one.run(put, {"a": b"1"})
    other.run(get, ["a"])
    (folder / "table").unlink()
    if removed == "folder":
        folder.rmdir()
    one.run(put, {"b": b"2"})
    assert other.run(get, ["a", "b"]) == {"a": None, "b": b"2"}


COUNTING = """
import sys
from pathlib import Path
from hashlib import blake2b
from gproxy.state.mmap.table import Table
table, name = Table(Path(sys.argv[1])), blake2b(b"n", digest_size=16).digest()
def add(transaction):
    count = int(transaction.find(name, 7) or b"0") + 1
    transaction.put(name, 7, str(count).encode())
    transaction.put(blake2b(str(count).encode(), digest_size=16).digest(), 7, b"seen")
for _ in range(int(sys.argv[2])):
    table.run(add)
"""


def test_processes_that_write_at_the_same_time_lose_no_update(folder):
    children = [subprocess.Popen([sys.executable, "-c", COUNTING, str(folder), "400"]) for _ in range(4)]
    assert [child.wait(60) for child in children] == [0, 0, 0, 0]
    found = Table(folder).run(lambda transaction: (transaction.find(digest("n"), 7), len(list(transaction.entries()))))
    assert found == (b"1600", 1601)


def test_processes_killed_at_random_leave_whole_transactions(folder):
    """Each count has an entry: a count without one, or one without its count, would be half a transaction."""
    for seed in range(6):
        child = subprocess.Popen([sys.executable, "-c", COUNTING, str(folder), "100000"])
        time.sleep(0.3 + random.Random(seed).random() * 0.2)
        child.kill()
        child.wait()
        count = int(Table(folder).run(get, ["n"])["n"] or 0)
        assert count > 0
        assert len(Table(folder).run(lambda transaction: list(transaction.entries()))) == count + 1


def test_a_lock_that_is_not_released_raises_after_the_maximum_wait(folder, monkeypatch):
    monkeypatch.setattr(tables, "LOCK_WAIT_S", 0.1)
    table = Table(folder)
    table.run(put, {"a": b"1"})
    locking = Table(folder)
    locking._lock()
    started = time.monotonic()
    with pytest.raises(BlockingIOError):
        table.run(get, ["a"])
    assert time.monotonic() - started < 1
