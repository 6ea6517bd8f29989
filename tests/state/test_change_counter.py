"""The change counter: every process reads each change, and no change is lost."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gproxy.state.change_counter import SIZE, ChangeCounter

ROOT = Path(__file__).resolve().parents[2]
INCREMENTS = 10_000
INCREMENT = f"""
import sys
from pathlib import Path
from gproxy.state.change_counter import ChangeCounter
counter = ChangeCounter(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
for _ in range({INCREMENTS}):
    counter.increment()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signal"


@pytest.fixture
def counter(path: Path) -> Iterator[ChangeCounter]:
    opened = ChangeCounter(path)
    yield opened
    opened.close()


def test_a_new_counter_is_zero(counter: ChangeCounter, path: Path):
    assert counter.read() == 0
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (SIZE, 0o600)


def test_an_increment_is_read_by_all_that_opened_the_file(counter: ChangeCounter, path: Path):
    other = ChangeCounter(path)
    counter.increment()
    assert (counter.read(), other.read()) == (1, 1)
    other.increment()
    assert (counter.read(), other.read()) == (2, 2)
    other.close()


def test_the_number_survives_its_processes(path: Path):
    first = ChangeCounter(path)
    first.increment()
    first.close()
    second = ChangeCounter(path)
    assert second.read() == 1
    second.close()


@pytest.mark.parametrize("before", [255, 65_535, 2**32 - 1, 2**56 - 1])
def test_the_number_carries_over_to_the_next_byte(path: Path, before):
    path.write_bytes(before.to_bytes(SIZE, "little"))
    counter = ChangeCounter(path)
    counter.increment()
    assert counter.read() == before + 1
    counter.close()


def test_a_short_file_is_extended(path: Path):
    path.write_bytes(b"\x05")
    counter = ChangeCounter(path)
    assert (counter.read(), path.stat().st_size) == (5, SIZE)
    counter.close()


def test_increments_of_many_processes_are_all_counted(counter: ChangeCounter, path: Path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", INCREMENT, path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 4
    seen = []

    def watch():
        while counter.read() < 4 * INCREMENTS and any(process.poll() is None for process in processes):
            seen.append(counter.read())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for process in processes:
        process.stdin.close()
    for process in processes:
        assert process.wait(20) == 0
        process.stdout.close()
    watcher.join(20)
    assert counter.read() == 4 * INCREMENTS
    assert seen == sorted(seen)
