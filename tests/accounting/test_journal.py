"""The journal on a real disk, slots and their locks with real processes, and the ids."""

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from gproxy.accounting import journal as journal_module
from gproxy.accounting import slots
from gproxy.accounting.entries import MAX_CALL_ID, MAX_INTEGER, Entry, Opened, to_line
from gproxy.accounting.journal import EPOCH_MS, SETTLED_ROOM, Ids, Journal
from gproxy.accounting.journal_reader import JournalReader
from gproxy.accounting.prices import FoundPrice, Price, Tier
from gproxy.accounting.segments import read_lines
from gproxy.accounting.slots import Slot, take_slot
from gproxy.accounting.slots import size as journal_size
from gproxy.errors import Unavailable
from gproxy.protocols.hub import MAX_TOKENS, Usage
from gproxy.relay.settlement import Settlement
from gproxy.state.folder_lock import try_lock
from tests.journal_entries import opened, settled

ROOT = Path(__file__).resolve().parents[2]
NOW_NS = 1_795_420_800_000_000_000  # 2026-11-23T08:00:00Z


def entries(folder: Path) -> list[Entry]:
    return [line.entry for path in slots.segments(folder) for line in read_lines(path, 0)]


def rows(folder: Path) -> list[int]:
    reader = JournalReader()
    return [call.row["trace_id"] for path in slots.segments(folder) for call in reader.settled_calls(path, 0, None)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    found = Journal(take_slot(tmp_path / "journal"))
    yield found
    found.close()
    os.close(found.slot.lock)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        if os.environ.get("CI") == "true":
            pytest.fail("a small disk cannot be mounted, and CI must be able to")
        pytest.skip("a small disk cannot be mounted")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_written_lines_are_read_back(journal):
    written = [opened(1), opened(2, model="Grüße \u2028 \n"), settled(2), settled(1)]
    for entry in written:
        (journal.open if isinstance(entry, Opened) else journal.settle)(entry)
    (path,) = journal.segments
    lines = list(read_lines(path, 0))
    assert [line.entry for line in lines] == written
    assert [line.segment for line in lines] == [path.name] * 4
    assert lines[-1].end == journal.end
    assert [line.entry for line in read_lines(path, lines[1].end)] == written[2:]
    assert [line.entry for line in read_lines(path, 0, lines[2].end)] == written[:3]
    assert journal.open_count == 0


def test_an_incomplete_last_line_is_not_read(journal):
    journal.open(opened(1))
    journal.open(opened(2))
    (path,) = journal.segments
    whole = path.read_bytes().rstrip(b"\0")
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        assert [entry.call_id for entry in entries(journal.slot.folder)] == [1]
        path.write_bytes(whole[:end] + b"\0" * 100)
        assert [entry.call_id for entry in entries(journal.slot.folder)] == [1]
    path.write_bytes(whole)
    assert [entry.call_id for entry in entries(journal.slot.folder)] == [1, 2]


def test_reserved_space_is_zeros_and_is_not_read(journal):
    journal.open(opened(1))
    (path,) = journal.segments
    content = path.read_bytes()
    assert len(content) >= journal.end + SETTLED_ROOM
    assert set(content[journal.end :]) == {0}
    assert len(entries(journal.slot.folder)) == 1


def test_the_size_of_all_slots_is_the_size_of_their_segments(tmp_path, journal):
    root = journal.slot.folder.parent
    assert journal_size(root) == 0
    journal.open(opened(1))
    first = journal_size(root)
    assert first == journal.segments[0].stat().st_size > 0
    crashed = Journal(take_slot(root))
    crashed.open(opened(2))
    crashed.close()
    os.close(crashed.slot.lock)
    assert journal_size(root) == first + crashed.segments[0].stat().st_size
    assert journal_size(tmp_path / "nowhere") == 0


def test_space_is_reserved_for_the_settled_line_of_every_open_call(journal):
    for call in range(2000):
        journal.open(opened(call))
    (path,) = journal.segments
    status = path.stat()
    assert status.st_blocks * 512 >= journal.end + 2000 * SETTLED_ROOM


def test_a_new_segment_carries_the_open_calls(journal):
    padding = "x" * 60_000
    for call in range(1, 81):
        journal.open(opened(call, tag=padding))
        if call % 2:
            journal.settle(settled(call))
    first, second = journal.segments
    assert first.name < second.name
    newest = 1 + max(line.entry.call_id for line in read_lines(first, 0))
    carried = list(range(2, newest, 2))
    start = [one.call_id for one, *_ in read_lines(second, 0) if isinstance(one, Opened)][: len(carried) + 1]
    assert start == [*carried, newest]
    for call in range(2, 81, 2):
        journal.settle(settled(call))
    assert sorted(rows(journal.slot.folder)) == list(range(1, 81))
    journal.forget_segment(first)
    assert not first.exists()
    assert set(rows(journal.slot.folder)) == {*range(2, 81, 2), *range(newest, 81)}


def test_a_journal_that_cannot_be_written_refuses_calls_until_there_is_space(tmp_path):
    missing = Journal(Slot(0, tmp_path / "missing", -1, []))
    with pytest.raises(Unavailable) as caught:
        missing.open(opened(1))
    assert caught.value.headers["Retry-After"] == "5"
    assert (missing.is_writable, missing.open_count) == (False, 0)
    missing.check_space()
    assert not missing.is_writable
    missing.slot.folder.mkdir()
    missing.check_space()
    assert missing.is_writable
    missing.open(opened(2))
    assert [entry.call_id for entry in entries(missing.slot.folder)] == [2]
    missing.close()


@pytest.mark.slow  # mounting needs root
@pytest.mark.ci
def test_a_full_disk_refuses_new_calls_and_loses_no_running_one(small_disk):
    journal = Journal(take_slot(small_disk / "journal"))
    taken = []
    with pytest.raises(Unavailable):
        for call in range(1, 100_000):
            journal.open(opened(call))
            taken.append(call)
    assert len(taken) > 100
    assert not journal.is_writable
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)
    journal.check_space()
    assert not journal.is_writable
    for call in taken:
        room = SETTLED_ROOM - len(to_line(settled(call, losses=("",))))
        journal.settle(settled(call, losses=("x" * room,)))
    assert journal.open_count == 0
    assert rows(journal.slot.folder) == taken
    with pytest.raises(Unavailable):
        journal.open(opened(0))
    filler.unlink()
    for path in list(journal.segments[:-1]):
        journal.forget_segment(path)
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    journal.check_space()
    assert journal.is_writable
    journal.open(opened(1_000_000))
    journal.settle(settled(1_000_000))
    assert rows(journal.slot.folder) == [*taken, 1_000_000]
    journal.close()
    os.close(journal.slot.lock)


@pytest.mark.slow  # mounting needs root
@pytest.mark.ci
def test_without_space_for_a_new_segment_the_current_one_is_continued(small_disk, monkeypatch):
    monkeypatch.setattr(journal_module, "SEGMENT_BYTES", 10_000)
    journal = Journal(take_slot(small_disk / "journal"))
    journal.open(opened(0))
    with pytest.raises(OSError, match="No space left"), (small_disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    for call in range(1, 120):
        journal.open(opened(call))
    assert journal.end > 10_000
    assert len(journal.segments) == 1
    assert sorted(path.suffix for path in journal.slot.folder.iterdir()) == ["", ".log"]
    for call in range(120):
        journal.settle(settled(call))
    assert rows(journal.slot.folder) == list(range(120))
    journal.close()
    os.close(journal.slot.lock)


def test_a_settled_line_that_could_not_be_written_is_kept_and_written_later(tmp_path):
    journal = Journal(take_slot(tmp_path / "journal"))
    journal.open(opened(1))
    (path,) = journal.segments
    journal.close()  # from here on every write fails
    journal.settle(settled(1))
    journal._fd = os.open(path, os.O_RDWR)
    assert rows(journal.slot.folder) == []
    journal.retry_unwritten()
    journal.retry_unwritten()
    assert rows(journal.slot.folder) == [1]
    journal.close()
    os.close(journal.slot.lock)


MAX_USAGE = Usage(*[MAX_TOKENS] * 7)
HIGHEST_PRICE = FoundPrice(Price(None, (Tier(10**8, *[1000] * 6),)), "default")


@pytest.mark.parametrize("losses", [[], ["response_format.json_schema.strict"] * 4, ["x" * 80] * 40, ["x"] * 1000])
@pytest.mark.parametrize("end", ["complete", "broke", "client_disconnected"])
def test_a_settled_line_is_never_longer_than_its_reserved_space(journal, end, losses):
    started = time.perf_counter() - MAX_INTEGER // 1000
    settlement = Settlement(journal, MAX_CALL_ID, HIGHEST_PRICE, MAX_TOKENS, started, losses=losses)
    settlement.attempts = [(MAX_INTEGER, MAX_INTEGER, "upstream_timeout", 86_400_000)] * 20
    settlement.served_by = (MAX_INTEGER, "vertexexpress", MAX_INTEGER)
    journal.open(opened(MAX_CALL_ID))
    settlement.record_first_byte()
    before = journal.end
    if end == "complete":
        settlement.settle_complete(599, MAX_USAGE, 2**42)
    elif end == "broke":
        settlement.settle_failed(599, MAX_USAGE, 2**42)
    else:
        settlement.settle_disconnected(MAX_USAGE, 2**42)
    assert 100 < journal.end - before <= SETTLED_ROOM
    assert rows(journal.slot.folder) == [MAX_CALL_ID]


def test_ids_are_unique_and_ordered_whatever_the_clock_does():
    dice, clock, ids, found = random.Random(7), NOW_NS, Ids(255, 127), []
    for _ in range(100_000):
        clock += dice.choice((0, 0, 1_000, 400_000, 3_000_000, -2_000_000, -60_000_000_000 * (dice.random() < 1e-4)))
        found.append(ids.next(int(clock)))
    assert all(before < after for before, after in pairwise(found))
    assert 0 < found[0] < found[-1] < 2**63


def test_ids_are_unique_with_a_clock_that_stops_or_is_set_back_a_year():
    ids = Ids(0, 0)
    found = [ids.next(NOW_NS) for _ in range(2000)]
    found += [ids.next(NOW_NS - 365 * 86_400 * 10**9) for _ in range(2000)]
    found += [ids.next(0) for _ in range(2000)]
    assert found == sorted(set(found))


def test_ids_of_different_slots_and_machines_are_distinct():
    nodes = [Ids(machine, slot) for machine in (0, 1, 128, 255) for slot in (0, 1, 64, 127)]
    found = [ids.next(NOW_NS) for ids in nodes for _ in range(600)]
    assert len(set(found)) == len(found)


def test_ids_are_ordered_by_time_over_all_machines():
    early, late = Ids(255, 127), Ids(0, 0)
    assert early.next(NOW_NS) < late.next(NOW_NS + 1_000_000)
    assert early.next(NOW_NS) >> 23 == NOW_NS // 1_000_000 - EPOCH_MS


def test_the_greatest_id_fits_into_63_bits():
    assert Ids(255, 127).next((EPOCH_MS + 2**40 - 1) * 1_000_000).bit_length() == 63


OWNER = """
import sys, time
from pathlib import Path
from gproxy.accounting.journal import Journal
from gproxy.accounting.slots import take_slot
from tests.journal_entries import opened, settled
journal = Journal(take_slot(Path(sys.argv[1])))
journal.open(opened(1))
journal.open(opened(2))
journal.settle(settled(1))
print(journal.slot.number, flush=True)
time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process that owns the first slot of `tmp_path / "journal"`, with one open call."""
    command = [sys.executable, "-c", OWNER, tmp_path / "journal"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "0\n"
    yield process
    process.kill()
    process.wait(10)
    process.stdout.close()


def test_the_slot_of_a_running_worker_is_not_taken_and_that_of_a_killed_one_is_inherited(tmp_path, owner):
    root = tmp_path / "journal"
    assert try_lock(root / "000") is None
    second = take_slot(root)
    assert (second.number, second.inherited) == (1, [])
    owner.send_signal(signal.SIGKILL)
    owner.wait(10)
    inherited = take_slot(root)
    assert inherited.number == 0
    assert inherited.inherited == slots.segments(root / "000") != []
    assert entries(root / "000") == [opened(1), opened(2), settled(1)]
    assert take_slot(root).number == 2
    assert sorted(path.name for path in root.iterdir()) == ["000", "001", "002"]


def test_the_lock_of_a_killed_worker_is_taken_once(tmp_path, owner):
    owner.send_signal(signal.SIGKILL)
    owner.wait(10)
    lock = try_lock(tmp_path / "journal" / "000")
    assert lock is not None
    assert try_lock(tmp_path / "journal" / "000") is None
    os.close(lock)
    lock = try_lock(tmp_path / "journal" / "000")
    assert lock is not None
    os.close(lock)


def test_a_folder_without_a_lock_file_and_a_missing_folder_cannot_be_locked(tmp_path):
    (tmp_path / "000").mkdir()
    assert try_lock(tmp_path / "000") is None
    assert try_lock(tmp_path / "nowhere") is None


def test_a_lock_on_a_removed_file_does_not_count(tmp_path):
    slot = take_slot(tmp_path)
    lock_fd = os.open(slot.folder / "lock", os.O_RDWR)
    os.close(slot.lock)
    (slot.folder / "lock").rename(tmp_path / "removed")
    (slot.folder / "lock").touch()
    fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock = try_lock(slot.folder)
    assert lock is not None
    os.close(lock)
    os.close(lock_fd)


def test_a_removed_slot_can_be_taken_again(tmp_path):
    slot = take_slot(tmp_path)
    slots.remove(slot)
    assert not slot.folder.exists()
    again = take_slot(tmp_path)
    assert (again.number, again.inherited) == (0, [])
    os.close(again.lock)


def test_with_all_slots_in_use_no_slot_can_be_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "SLOTS", 2)
    taken = [take_slot(tmp_path), take_slot(tmp_path)]
    with pytest.raises(RuntimeError, match="all 2 journal slots"):
        take_slot(tmp_path)
    for slot in taken:
        os.close(slot.lock)


def test_opening_and_settling_costs_microseconds(journal):
    started = time.perf_counter()
    for call in range(5000):
        journal.open(opened(call))
        journal.settle(settled(call))
    assert time.perf_counter() - started < 2
    assert len(rows(journal.slot.folder)) == 5000
