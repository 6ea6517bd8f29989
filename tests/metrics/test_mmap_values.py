"""Metric values of many workers: added up exactly, kept after `kill -9`, limited, and never fatal for a worker."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gproxy.metrics import mmap_values as mmap_values_module
from gproxy.metrics.mmap_values import FIRST_OFFSET, FLOAT, HEADER, OTHER, RESERVED, SINK, MmapValues

ROOT = Path(__file__).resolve().parents[2]
GAUGE, COUNTER = "open", "asked_total"
COUNTING_SCRIPT = """
import sys
from pathlib import Path
from gproxy.metrics.mmap_values import MmapValues
mmap_values = MmapValues(Path(sys.argv[1]), int(sys.argv[2]), ["open"])
asked, open_now = mmap_values.offset("asked_total", ("a",)), mmap_values.offset("open", ())
for _ in range(int(sys.argv[3])):
    mmap_values.values[asked] += 1
    mmap_values.values[open_now] += 1
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
    """Starts processes that have counted `times` times."""
    started: list[subprocess.Popen] = []

    def start(number: int, times: int) -> subprocess.Popen:
        command = [sys.executable, "-c", COUNTING_SCRIPT, str(folder), str(number), str(times)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True))
        assert started[-1].stdout.readline() == "counted\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def add(mmap_values: MmapValues, family: str, *labels: str, by: float = 1.0) -> None:
    mmap_values.values[mmap_values.offset(family, labels)] += by


def test_a_count_is_visible_at_once(make):
    mmap_values = make()
    add(mmap_values, COUNTER, "a")
    add(mmap_values, COUNTER, "b", by=2.5)
    add(mmap_values, COUNTER, "a")
    assert mmap_values.totals() == ({(COUNTER, ("a",), 1): [2.0], (COUNTER, ("b",), 1): [2.5]}, 1)


def test_a_series_has_as_many_values_as_its_width(make):
    mmap_values = make()
    at = mmap_values.offset("took", ("x",), 3)
    for offset, value in enumerate((1.0, 0.0, 7.5)):
        mmap_values.values[at + offset] += value
    assert mmap_values.offset("took", ("x",), 3) == at
    assert mmap_values.totals().values == {("took", ("x",), 3): [1.0, 0.0, 7.5]}


def test_each_worker_adds_up_all_workers(make, worker):
    first, second = make(0), make(1)
    add(first, COUNTER, "a")
    add(second, COUNTER, "a", by=3)
    add(second, GAUGE, by=2)
    worker(2, 1000)
    expected = {(COUNTER, ("a",), 1): [1004.0], (GAUGE, (), 1): [1002.0]}
    assert first.totals() == second.totals() == (expected, 3)
    add(second, "later_total")
    assert first.totals().values["later_total", (), 1] == [1.0]


def test_the_counters_of_a_killed_worker_are_kept_and_its_gauges_are_not(make, worker):
    mmap_values = make(0)
    killed = worker(1, 500)
    assert mmap_values.totals() == ({(COUNTER, ("a",), 1): [500.0], (GAUGE, (), 1): [500.0]}, 2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert mmap_values.totals() == ({(COUNTER, ("a",), 1): [500.0]}, 1)
    # The next worker continues its files.
    worker(1, 7)
    assert mmap_values.totals() == ({(COUNTER, ("a",), 1): [507.0], (GAUGE, (), 1): [7.0]}, 2)


def test_a_closed_worker_does_not_count_as_running(make):
    mmap_values, other = make(0), make(1)
    add(other, GAUGE)
    add(other, COUNTER)
    other.close()
    assert mmap_values.totals() == ({(COUNTER, (), 1): [1.0]}, 1)


def test_series_that_were_taken_over_are_known(make):
    first = make()
    add(first, COUNTER, "a")
    first.close()
    second = make()
    assert [one.labels for one in second.series()] == [("a",)]
    assert second.offset(COUNTER, ("a",)) == first.offset(COUNTER, ("a",))


def test_beyond_the_maximum_a_series_is_counted_as_other(make, folder):
    maximum = FIRST_OFFSET + RESERVED + 10
    mmap_values = make(maximum=maximum)
    for number in range(5_000):
        add(mmap_values, COUNTER, "fixed", str(number))
    found = mmap_values.totals().values
    assert len(found) == 11
    assert found[COUNTER, (OTHER, OTHER), 1] == [4_990.0]
    assert mmap_values.folded == 4_990
    assert (folder / "000.values").stat().st_size == HEADER.size + maximum * FLOAT
    # Existing series are still counted as themselves, also after the next start.
    mmap_values.close()
    next_worker = make(maximum=maximum)
    add(next_worker, COUNTER, "fixed", "0")
    add(next_worker, COUNTER, "fixed", "new")
    assert next_worker.totals().values[COUNTER, ("fixed", "0"), 1] == [2.0]
    assert next_worker.totals().values[COUNTER, (OTHER, OTHER), 1] == [4_991.0]


def test_without_space_for_other_nothing_is_counted(make):
    mmap_values = make(maximum=FIRST_OFFSET + RESERVED)
    for number in range(RESERVED + 5):
        add(mmap_values, f"family{number}_total", "x")
    assert mmap_values.offset("one_more_total", ("x",)) == SINK
    assert len(mmap_values.totals().values) == RESERVED


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_an_incomplete_line_of_names_is_no_series(make, folder, cut):
    mmap_values = make(0)
    add(mmap_values, COUNTER, "a")
    end = (folder / "000.names").stat().st_size
    mmap_values.offset(COUNTER, ("b",))
    mmap_values.close()
    names = folder / "000.names"
    os.truncate(names, names.stat().st_size - cut)
    assert make(1).totals().values == {(COUNTER, ("a",), 1): [1.0]}
    next_worker = make(0)
    assert names.stat().st_size == end
    add(next_worker, COUNTER, "c")
    assert next_worker.totals().values == {(COUNTER, ("a",), 1): [1.0], (COUNTER, ("c",), 1): [1.0]}


def _overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def _replace(path: Path, content: bytes) -> None:
    path.write_bytes(content)


CORRUPTIONS = {
    "no values": lambda folder: _replace(folder / "000.values", b""),
    "short values": lambda folder: os.truncate(folder / "000.values", HEADER.size + FLOAT),
    "another head": lambda folder: _overwrite(folder / "000.values", 0, b"x"),
    "another pair id": lambda folder: _overwrite(folder / "000.values", 10, b"xyz"),
    "not a number": lambda folder: _overwrite(
        folder / "000.values", HEADER.size + FIRST_OFFSET * FLOAT, b"\xff" * FLOAT
    ),
    "below zero": lambda folder: _overwrite(folder / "000.values", HEADER.size + FIRST_OFFSET * FLOAT + 7, b"\xbf"),
    "no names": lambda folder: _replace(folder / "000.names", b""),
    "invalid names": lambda folder: _overwrite(folder / "000.names", 40, b"\0\0\0"),
    "missing names file": lambda folder: (folder / "000.names").unlink(),
}


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)
def test_corrupted_files_are_reset(make, folder, corrupt, caplog):
    mmap_values = make(0)
    add(mmap_values, COUNTER, "a")
    mmap_values.close()
    corrupt(folder)
    reader = make(1)
    assert reader.totals().values == {}
    assert "metrics of worker 0 cannot be read" in caplog.text
    next_worker = make(0)
    assert "are reset: " in caplog.text
    add(next_worker, COUNTER, "b")
    assert next_worker.totals().values == reader.totals().values == {(COUNTER, ("b",), 1): [1.0]}


def test_without_files_the_worker_counts_in_memory(folder, caplog):
    folder.write_text("no folder")
    mmap_values = MmapValues(folder, 0, [GAUGE])
    assert "metrics cannot be stored" in caplog.text
    add(mmap_values, COUNTER, "a")
    assert mmap_values.totals() == ({(COUNTER, ("a",), 1): [1.0]}, 1)
    mmap_values.close()


def test_on_a_full_disk_the_worker_counts_in_memory(folder, caplog, monkeypatch):
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mmap_values_module.os, "posix_fallocate", full)
    mmap_values = MmapValues(folder, 0, [GAUGE])
    add(mmap_values, COUNTER, "a")
    assert mmap_values.totals().values == {(COUNTER, ("a",), 1): [1.0]}
    assert "No space left" in caplog.text
    mmap_values.close()


def test_a_series_that_cannot_be_added_is_added_later(make, caplog, monkeypatch):
    mmap_values = make()
    write = mmap_values_module.syscalls.pwrite
    monkeypatch.setattr(mmap_values_module.syscalls, "pwrite", lambda *_: 3)
    add(mmap_values, COUNTER, "a")
    assert "a metric series cannot be added" in caplog.text
    monkeypatch.setattr(mmap_values_module.syscalls, "pwrite", write)
    add(mmap_values, COUNTER, "a")
    assert mmap_values.totals().values == {(COUNTER, ("a",), 1): [1.0]}
    assert make(1).totals().values == {(COUNTER, ("a",), 1): [1.0]}


def test_another_width_is_another_series(make):
    """After an upgrade with other buckets the old counts are kept apart."""
    before = make()
    before.values[before.offset("took", (), 3)] += 1
    before.close()
    next_worker = make()
    at = next_worker.offset("took", (), 4)
    next_worker.values[at + 3] += 2
    assert [one.width for one in next_worker.series()] == [4]
    assert make(1).totals().values == {("took", (), 3): [1.0, 0.0, 0.0], ("took", (), 4): [0.0, 0.0, 0.0, 2.0]}


def test_what_is_no_file_of_a_worker_is_left_out(make, folder):
    values = make(0)
    add(values, COUNTER, "a")
    os.mkfifo(folder / "001.values")
    os.mkfifo(folder / "001.names")
    (folder / "002.values").mkdir()
    (folder / "003.values").symlink_to(folder / "missing")
    (folder / "0x4.values").touch()
    assert values.totals().values[COUNTER, ("a",), 1] == [1.0]
