"""Numbers of many workers: added up exactly, kept over `kill -9`, bounded, and never the end of a worker."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gproxy.metrics import mmap_values as meters_module
from gproxy.metrics.mmap_values import FIRST, FLOAT, HEAD, NOWHERE, OTHER, RESERVED, MmapValues

ROOT = Path(__file__).resolve().parents[2]
GAUGE, COUNTER = "open", "asked_total"
COUNTS = """
import sys
from pathlib import Path
from gproxy.metrics.mmap_values import MmapValues
meters = MmapValues(Path(sys.argv[1]), int(sys.argv[2]), ["open"])
asked, open_now = meters.place("asked_total", ("a",)), meters.place("open", ())
for _ in range(int(sys.argv[3])):
    meters.values[asked] += 1
    meters.values[open_now] += 1
print("counted", flush=True)
sys.stdin.read()
"""

Make = Callable[..., MmapValues]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "metrics"


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    made: list[MmapValues] = []

    def opened(number: int = 0, **more) -> MmapValues:
        made.append(MmapValues(folder, number, [GAUGE], **more))
        return made[-1]

    yield opened
    for one in made:
        one.close()


@pytest.fixture
def worker(folder: Path) -> Iterator[Callable[[int, int], subprocess.Popen]]:
    """Starts processes that have counted so often."""
    started: list[subprocess.Popen] = []

    def start(number: int, times: int) -> subprocess.Popen:
        command = [sys.executable, "-c", COUNTS, str(folder), str(number), str(times)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True))
        assert started[-1].stdout.readline() == "counted\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def add(mmap_values: MmapValues, family: str, *labels: str, by: float = 1.0) -> None:
    mmap_values.values[mmap_values.place(family, labels)] += by


def test_what_is_counted_is_there_at_once(make):
    mmap_values = make()
    add(mmap_values, COUNTER, "a")
    add(mmap_values, COUNTER, "b", by=2.5)
    add(mmap_values, COUNTER, "a")
    assert mmap_values.sums() == ({(COUNTER, ("a",), 1): [2.0], (COUNTER, ("b",), 1): [2.5]}, 1)


def test_a_series_has_as_many_values_as_it_asks_for(make):
    mmap_values = make()
    at = mmap_values.place("took", ("x",), 3)
    for offset, value in enumerate((1.0, 0.0, 7.5)):
        mmap_values.values[at + offset] += value
    assert mmap_values.place("took", ("x",), 3) == at
    assert mmap_values.sums().values == {("took", ("x",), 3): [1.0, 0.0, 7.5]}


def test_all_workers_are_added_up_whoever_is_asked(make, worker):
    first, second = make(0), make(1)
    add(first, COUNTER, "a")
    add(second, COUNTER, "a", by=3)
    add(second, GAUGE, by=2)
    worker(2, 1000)
    expected = {(COUNTER, ("a",), 1): [1004.0], (GAUGE, (), 1): [1002.0]}
    assert first.sums() == second.sums() == (expected, 3)
    add(second, "later_total")
    assert first.sums().values["later_total", (), 1] == [1.0]


def test_a_killed_worker_keeps_what_it_counted_and_nothing_that_was_open(make, worker):
    mmap_values = make(0)
    victim = worker(1, 500)
    assert mmap_values.sums() == ({(COUNTER, ("a",), 1): [500.0], (GAUGE, (), 1): [500.0]}, 2)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert mmap_values.sums() == ({(COUNTER, ("a",), 1): [500.0]}, 1)
    # The next one counts on in its files.
    worker(1, 7)
    assert mmap_values.sums() == ({(COUNTER, ("a",), 1): [507.0], (GAUGE, (), 1): [7.0]}, 2)


def test_a_worker_that_ended_counts_as_dead(make):
    mmap_values, other = make(0), make(1)
    add(other, GAUGE)
    add(other, COUNTER)
    other.close()
    assert mmap_values.sums() == ({(COUNTER, (), 1): [1.0]}, 1)


def test_what_was_taken_over_is_known(make):
    first = make()
    add(first, COUNTER, "a")
    first.close()
    second = make()
    assert [one.labels for one in second.series()] == [("a",)]
    assert second.place(COUNTER, ("a",)) == first.place(COUNTER, ("a",))


def test_beyond_the_bound_a_series_is_other(make, folder):
    maximum = FIRST + RESERVED + 10
    mmap_values = make(maximum=maximum)
    for number in range(5_000):
        add(mmap_values, COUNTER, "fixed", str(number))
    found = mmap_values.sums().values
    assert len(found) == 11
    assert found[COUNTER, (OTHER, OTHER), 1] == [4_990.0]
    assert mmap_values.folded == 4_990
    assert (folder / "000.values").stat().st_size == HEAD.size + maximum * FLOAT
    # What was there before goes on as itself, and so it does after the next start.
    mmap_values.close()
    after = make(maximum=maximum)
    add(after, COUNTER, "fixed", "0")
    add(after, COUNTER, "fixed", "new")
    assert after.sums().values[COUNTER, ("fixed", "0"), 1] == [2.0]
    assert after.sums().values[COUNTER, (OTHER, OTHER), 1] == [4_991.0]


def test_with_no_room_even_for_other_nothing_is_counted(make):
    mmap_values = make(maximum=FIRST + RESERVED)
    for number in range(RESERVED + 5):
        add(mmap_values, f"family{number}_total", "x")
    assert mmap_values.place("one_more_total", ("x",)) == NOWHERE
    assert len(mmap_values.sums().values) == RESERVED


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_name_that_was_cut_is_no_series(make, folder, cut):
    mmap_values = make(0)
    add(mmap_values, COUNTER, "a")
    end = (folder / "000.names").stat().st_size
    mmap_values.place(COUNTER, ("b",))
    mmap_values.close()
    names = folder / "000.names"
    os.truncate(names, names.stat().st_size - cut)
    assert make(1).sums().values == {(COUNTER, ("a",), 1): [1.0]}
    after = make(0)
    assert names.stat().st_size == end
    add(after, COUNTER, "c")
    assert after.sums().values == {(COUNTER, ("a",), 1): [1.0], (COUNTER, ("c",), 1): [1.0]}


def _garble(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def _replace(path: Path, content: bytes) -> None:
    path.write_bytes(content)


GARBLED = {
    "no values": lambda folder: _replace(folder / "000.values", b""),
    "short values": lambda folder: os.truncate(folder / "000.values", HEAD.size + FLOAT),
    "another head": lambda folder: _garble(folder / "000.values", 0, b"x"),
    "another mark": lambda folder: _garble(folder / "000.values", 10, b"xyz"),
    "not a number": lambda folder: _garble(folder / "000.values", HEAD.size + FIRST * FLOAT, b"\xff" * FLOAT),
    "below zero": lambda folder: _garble(folder / "000.values", HEAD.size + FIRST * FLOAT + 7, b"\xbf"),
    "no names": lambda folder: _replace(folder / "000.names", b""),
    "names that are none": lambda folder: _garble(folder / "000.names", 40, b"\0\0\0"),
    "names that are gone": lambda folder: (folder / "000.names").unlink(),
}


@pytest.mark.parametrize("garble", GARBLED.values(), ids=GARBLED)
def test_what_is_garbled_is_begun_anew(make, folder, garble, caplog):
    mmap_values = make(0)
    add(mmap_values, COUNTER, "a")
    mmap_values.close()
    garble(folder)
    reader = make(1)
    assert reader.sums().values == {}
    assert "metrics of worker 0 cannot be read" in caplog.text
    after = make(0)
    assert "begin anew" in caplog.text
    add(after, COUNTER, "b")
    assert after.sums().values == reader.sums().values == {(COUNTER, ("b",), 1): [1.0]}


def test_without_files_the_worker_counts_in_memory(folder, caplog):
    folder.write_text("no folder")
    mmap_values = MmapValues(folder, 0, [GAUGE])
    assert "metrics cannot be kept" in caplog.text
    add(mmap_values, COUNTER, "a")
    assert mmap_values.sums() == ({(COUNTER, ("a",), 1): [1.0]}, 1)
    mmap_values.close()


def test_a_full_disk_at_the_start_ends_nothing(folder, caplog, monkeypatch):
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(meters_module.os, "posix_fallocate", full)
    mmap_values = MmapValues(folder, 0, [GAUGE])
    add(mmap_values, COUNTER, "a")
    assert mmap_values.sums().values == {(COUNTER, ("a",), 1): [1.0]}
    assert "No space left" in caplog.text
    mmap_values.close()


def test_a_series_that_cannot_be_named_comes_when_it_can(make, caplog, monkeypatch):
    mmap_values = make()
    write = meters_module.syscalls.pwrite
    monkeypatch.setattr(meters_module.syscalls, "pwrite", lambda *_: 3)
    add(mmap_values, COUNTER, "a")
    assert "cannot be named" in caplog.text
    monkeypatch.setattr(meters_module.syscalls, "pwrite", write)
    add(mmap_values, COUNTER, "a")
    assert mmap_values.sums().values == {(COUNTER, ("a",), 1): [1.0]}
    assert make(1).sums().values == {(COUNTER, ("a",), 1): [1.0]}


def test_another_width_is_another_series(make):
    """After an upgrade: what was counted in other buckets stays what it was."""
    before = make()
    before.values[before.place("took", (), 3)] += 1
    before.close()
    after = make()
    at = after.place("took", (), 4)
    after.values[at + 3] += 2
    assert [one.width for one in after.series()] == [4]
    assert make(1).sums().values == {("took", (), 3): [1.0, 0.0, 0.0], ("took", (), 4): [0.0, 0.0, 0.0, 2.0]}
