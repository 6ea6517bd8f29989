"""What cannot be stored is kept once, in a file of bounded size, whatever has the names of our files."""

import base64
import json
import logging
import os
from pathlib import Path

import pytest

from gproxy.accounting import damage
from gproxy.accounting.damage import DamagedLines
from gproxy.accounting.segments import DamagedPart


@pytest.fixture
def segment(tmp_path) -> Path:
    path = tmp_path / "journal" / "003" / "1.log"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"5\n")
    return path


def part(start: int = 0, head: bytes = b"5\n") -> DamagedPart:
    return DamagedPart("no object", "1.log", start, start + len(head), head)


def kept(damaged: DamagedLines) -> list[dict]:
    return [json.loads(line) for line in damaged.path.read_bytes().splitlines()]


def test_a_part_is_kept_counted_and_logged_once(tmp_path, segment, caplog):
    """A second process, which reads the segment again after the first one was killed, adds nothing."""
    for _ in range(2):
        damaged = DamagedLines(tmp_path / "damaged")
        for _ in range(2):
            damaged.keep_part(segment, part())
            damaged.keep_part(segment, part(7, b"\xff\n"))
    assert damaged.count() == 2
    first, second = kept(damaged)
    assert {name: first[name] for name in ("slot", "segment", "start", "end", "reason", "content")} == {
        **{"slot": "003", "segment": "1.log", "start": 0, "end": 2, "reason": "no object", "content": "5\n"}
    }
    assert base64.b64decode(second["base64"]) == b"\xff\n"
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert messages == [
        f"journal segment 003/1.log, byte {start}: a line is damaged: no object; it is kept in {damaged.path}"
        for start in (0, 7)
    ]
    assert damaged.path.stat().st_mode & 0o777 == 0o600


def test_another_file_of_the_same_name_is_another_segment(tmp_path, segment):
    damaged = DamagedLines(tmp_path / "damaged")
    damaged.keep_part(segment, part())
    damaged.forget(segment)
    segment.unlink()
    segment.write_bytes(b"6\n")
    damaged.keep_part(segment, part())
    assert damaged.count() == 2


def test_a_refused_row_is_kept_beside_damaged_lines_of_the_same_segment(tmp_path, segment):
    damaged = DamagedLines(tmp_path / "damaged")
    damaged.keep_part(segment, part(500))
    for _ in range(2):
        damaged.keep_row(segment, 100, {"trace_id": 7}, "DataError")
    assert damaged.count() == 2
    assert (kept(damaged)[1]["kind"], json.loads(kept(damaged)[1]["content"])) == ("row", {"trace_id": 7})


def test_the_oldest_lines_are_dropped(tmp_path, segment, monkeypatch):
    monkeypatch.setattr(damage, "MAX_BYTES", 20_000)
    damaged = DamagedLines(tmp_path / "damaged")
    for number in range(300):
        damaged.keep_part(segment, part(10 * number))
        assert sum(path.stat().st_size for path in damaged.path.parent.glob("*.jsonl")) <= 20_000
    assert damaged.count() == 300
    assert kept(damaged)[-1]["start"] == 2_990
    assert kept(damaged)[0]["start"] > 1_000


def test_many_lines_of_one_segment_do_not_flood_the_log(tmp_path, segment, caplog):
    damaged = DamagedLines(tmp_path / "damaged")
    for number in range(300):
        damaged.keep_part(segment, part(10 * number))
    assert (damaged.count(), len(caplog.records)) == (300, damage.LOGGED + 1)


def _is_folder(path: Path) -> None:
    path.mkdir()


def _is_link(path: Path) -> None:
    path.symlink_to(path.parent / "missing")


def _is_file(path: Path) -> None:
    path.write_bytes(b"\0garbage \xff")


@pytest.mark.parametrize("make", [_is_folder, _is_link, os.mkfifo, _is_file])
@pytest.mark.parametrize("name", ["damaged", "damaged/journal.jsonl", "damaged/journal.1.jsonl", "damaged/count"])
def test_anything_with_the_name_of_our_file_is_no_obstacle(tmp_path, segment, name, make):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    make(path)
    damaged = DamagedLines(tmp_path / "damaged")
    assert damaged.count() == 0
    damaged.keep_part(segment, part())
    assert (damaged.count(), b'"start":0' in damaged.path.read_bytes()) == (1, True)


def test_a_full_disk_keeps_nothing_half(tmp_path, segment, monkeypatch):
    damaged = DamagedLines(tmp_path / "damaged")
    damaged.keep_part(segment, part())
    before, write = damaged.path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda fd, line: write(fd, line[:10]))
    with pytest.raises(OSError, match="No space left"):
        damaged.keep_part(segment, part(9))
    assert (damaged.path.read_bytes(), damaged.count()) == (before, 1)
    monkeypatch.undo()
    damaged.keep_part(segment, part(9))
    assert (len(kept(damaged)), damaged.count()) == (2, 2)
