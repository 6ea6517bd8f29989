"""The change signal: seen by every process, in no system call's time, and never lost."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gproxy.state.change_counter import SIZE, ChangeCounter

ROOT = Path(__file__).resolve().parents[2]
RAISES = 10_000
RAISE = f"""
import sys
from pathlib import Path
from gproxy.state.change_counter import ChangeCounter
signal = ChangeCounter(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
for _ in range({RAISES}):
    signal.raise_()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signal"


@pytest.fixture
def signal(path: Path) -> Iterator[ChangeCounter]:
    opened = ChangeCounter(path)
    yield opened
    opened.close()


def test_a_fresh_signal_is_silent(signal: ChangeCounter, path: Path):
    assert signal.look() == 0
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (SIZE, 0o600)


def test_a_signal_is_seen_by_whoever_opened_it(signal: ChangeCounter, path: Path):
    other = ChangeCounter(path)
    signal.raise_()
    assert (signal.look(), other.look()) == (1, 1)
    other.raise_()
    assert (signal.look(), other.look()) == (2, 2)
    other.close()


def test_the_number_outlives_its_processes(path: Path):
    first = ChangeCounter(path)
    first.raise_()
    first.close()
    second = ChangeCounter(path)
    assert second.look() == 1
    second.close()


@pytest.mark.parametrize("before", [255, 65_535, 2**32 - 1, 2**56 - 1])
def test_the_number_grows_over_byte_borders(path: Path, before):
    path.write_bytes(before.to_bytes(SIZE, "little"))
    signal = ChangeCounter(path)
    signal.raise_()
    assert signal.look() == before + 1
    signal.close()


def test_a_short_file_is_filled_up(path: Path):
    path.write_bytes(b"\x05")
    signal = ChangeCounter(path)
    assert (signal.look(), path.stat().st_size) == (5, SIZE)
    signal.close()


def test_signals_of_many_processes_are_all_counted(signal: ChangeCounter, path: Path):
    raisers = [
        subprocess.Popen(
            [sys.executable, "-c", RAISE, path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    assert [raiser.stdout.readline() for raiser in raisers] == ["ready\n"] * 4
    seen = []

    def watch():
        while signal.look() < 4 * RAISES and any(raiser.poll() is None for raiser in raisers):
            seen.append(signal.look())

    watching = threading.Thread(target=watch)
    watching.start()
    for raiser in raisers:
        raiser.stdin.close()
    for raiser in raisers:
        assert raiser.wait(20) == 0
        raiser.stdout.close()
    watching.join(20)
    assert signal.look() == 4 * RAISES
    assert seen == sorted(seen)
