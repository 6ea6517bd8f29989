"""The reader of segments: whatever bytes a segment has, every good line is read once and the rest is damaged."""

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gproxy.accounting import segments
from gproxy.accounting.entries import to_line
from gproxy.accounting.journal_reader import JournalReader
from gproxy.accounting.segments import MAX_LINE_BYTES, DamagedPart, Line, Unreadable, read_lines
from tests.examples import examples
from tests.journal_entries import opened, settled

ONE, TWO = to_line(opened(1)), to_line(opened(2))


def read(path: Path, content: bytes, **options) -> tuple[list[int], list[DamagedPart]]:
    """Returns the call ids of the entries, and the damaged parts."""
    path.write_bytes(content)
    found = list(read_lines(path, 0, **options))
    for part in found:
        start = part.start
        kept = to_line(part.entry) if isinstance(part, Line) else part.head
        assert content[start : part.end] == kept
    return [one.entry.call_id for one in found if isinstance(one, Line)], [
        one for one in found if isinstance(one, DamagedPart)
    ]


@pytest.mark.parametrize("zeros", [1, 100, 70_000, 3_000_000])
def test_zeros_before_the_end_are_damage_and_the_line_behind_them_is_read(tmp_path, zeros):
    path = tmp_path / "a.log"
    path.write_bytes(ONE + b"\0" * zeros + TWO + b"\0" * 5_000)
    first, part, second = read_lines(path, 0)
    assert [first.entry.call_id, second.entry.call_id] == [1, 2]
    assert (part.reason, part.start, part.end) == ("zeros before the end", len(ONE), len(ONE) + zeros)
    assert (second.start, second.end) == (part.end, part.end + len(TWO))


def test_zeros_over_the_end_of_a_line_damage_this_line_only(tmp_path):
    ids, parts = read(tmp_path / "a.log", ONE[:-9] + b"\0" * 40 + TWO + ONE)
    assert ids == [2, 1]
    assert [(part.start, part.end) for part in parts] == [(0, len(ONE) - 9 + 40)]


def test_zeros_over_the_start_of_a_line_are_one_part_with_it(tmp_path):
    ids, parts = read(tmp_path / "a.log", ONE + b"\0" * 9 + TWO[9:] + ONE)
    assert ids == [1, 1]
    assert [(part.start, part.end) for part in parts] == [(len(ONE), len(ONE) + len(TWO))]


def test_zeros_at_the_end_are_no_damage(tmp_path):
    assert read(tmp_path / "a.log", ONE + b"\0" * 100_000, is_final=True) == ([1], [])


def test_empty_lines_in_a_row_are_one_part(tmp_path):
    ids, parts = read(tmp_path / "a.log", ONE + b"\n" * 1_000 + TWO)
    assert (ids, [(part.reason, part.end - part.start) for part in parts]) == ([1, 2], [("empty", 1_000)])


@pytest.mark.parametrize("is_final", [False, True])
def test_an_incomplete_last_line_is_damaged_if_nothing_is_written_any_more(tmp_path, is_final):
    ids, parts = read(tmp_path / "a.log", ONE + TWO[:-1] + b"\0" * 50, is_final=is_final)
    assert ids == [1]
    assert [(part.start, part.end) for part in parts] == ([(len(ONE), len(ONE) + len(TWO) - 1)] if is_final else [])


def test_a_line_of_megabytes_is_damaged_and_only_its_beginning_is_kept(tmp_path):
    path = tmp_path / "a.log"
    path.write_bytes(ONE + b'{"o":3,"m":"' + b"x" * 5_000_000 + b'"}\n' + TWO)
    first, part, second = read_lines(path, 0)
    assert [first.entry.call_id, second.entry.call_id] == [1, 2]
    assert part.reason == f"longer than {MAX_LINE_BYTES} bytes"
    assert (part.end - part.start, len(part.head)) == (5_000_015, segments.KEPT_BYTES)


def test_a_hole_of_a_terabyte_is_not_read(tmp_path):
    path = tmp_path / "a.log"
    with path.open("wb") as file:
        file.write(ONE)
        file.seek(10**12)
        file.write(b"\n" + TWO)
        file.truncate(2 * 10**12)
    first, part, second = read_lines(path, 0, is_final=True)
    assert [first.entry.call_id, second.entry.call_id] == [1, 2]
    assert (part.start, part.end) == (len(ONE), 10**12 + 1)


def test_a_line_that_is_written_while_the_segment_is_read_is_not_damaged(tmp_path):
    """The buffer has zeros where the second line is by now."""
    path = tmp_path / "a.log"
    path.write_bytes(ONE + b"\0" * 1_000)
    found = read_lines(path, 0)
    assert next(found).entry.call_id == 1
    path.write_bytes(ONE + TWO + ONE + b"\0" * 1_000)
    assert [one.entry.call_id for one in found] == [2, 1]


def test_only_regular_files_are_segments(tmp_path):
    (tmp_path / "a.log").write_bytes(ONE)
    (tmp_path / "b.log").mkdir()
    (tmp_path / "c.log").symlink_to(tmp_path / "missing")
    (tmp_path / "d.log").symlink_to(tmp_path / "a.log")
    os.mkfifo(tmp_path / "e.log")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "f.log"))
        found, others = segments.find(tmp_path)
        assert [path.name for path in found] == ["a.log"]
        assert [path.name for path in others] == ["b.log", "c.log", "d.log", "e.log", "f.log"]
        for path in others:
            with pytest.raises(Unreadable):
                list(read_lines(path, 0))
    assert segments.find(tmp_path / "missing") == segments.find(tmp_path / "a.log") == ([], [])


def test_a_segment_whose_name_is_no_text_has_a_name_for_the_database(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.log"))
    path.write_bytes(ONE)
    (line,) = read_lines(path, 0)
    assert line.segment == "\\xff.log"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("osxnceatuk") | st.text(), inner, max_size=6)
    ),
    max_leaves=12,
)


def _json_line(value) -> bytes:
    return json.dumps(value).encode() + b"\n"


BAD_LINES = st.one_of(
    st.binary(max_size=200).map(lambda data: b"\1" + data.replace(b"\n", b"") + b"\n"),
    JSON.map(_json_line).filter(lambda line: not line.startswith(b'{"o":')),
    st.integers(1, 3_000).map(lambda count: b"\0" * count),
    st.integers(1, 30).map(lambda count: b"\n" * count),
    st.sampled_from([ONE[:-1], to_line(settled(1))[:-1]]).flatmap(
        lambda line: st.integers(0, len(line) - 2).map(lambda at: line[: at + 1] + b"\n")
    ),
)


@settings(max_examples=examples(600), deadline=None)
@given(data=st.data())
def test_every_good_line_is_read_once_among_any_others(tmp_path_factory, data):
    """Good calls among bad lines, in two files, cut off anywhere."""
    folder = tmp_path_factory.getbasetemp() / "property"
    folder.mkdir(exist_ok=True)
    content, ends = b"", {}
    number = 0
    for is_good in data.draw(st.lists(st.booleans(), max_size=8)):
        if is_good:
            number += 1
            content += to_line(opened(number)) + to_line(settled(number))
            ends[number] = len(content)
        else:
            content += data.draw(BAD_LINES)
    cut = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    path = folder / "a.log"
    path.write_bytes(content[:cut])
    kept: list[DamagedPart] = []
    reader = JournalReader(kept.append)
    ids = [call.row["trace_id"] for call in reader.settled_calls(path, 0, None, is_final=True)]
    assert ids == [call for call, end in ends.items() if end <= cut]
    positions = [(part.start, part.end) for part in kept]
    assert positions == sorted(set(positions))
    covered = sum(part.end - part.start for part in kept)
    orphans = [call.row["trace_id"] for call in reader.orphans()]
    read_bytes = sum(len(to_line(opened(call)) + to_line(settled(call))) for call in ids)
    read_bytes += sum(len(to_line(opened(call))) for call in orphans)
    assert covered + read_bytes == len(content[:cut].rstrip(b"\0"))


@settings(max_examples=examples(600), deadline=None)
@given(content=st.binary(max_size=2_000), stop=st.none() | st.integers(0, 2_000))
def test_any_bytes_are_read_without_an_error(tmp_path_factory, content, stop):
    path = tmp_path_factory.getbasetemp() / "any.log"
    path.write_bytes(content)
    at = 0
    for part in read_lines(path, 0, stop, is_final=stop is None):
        assert at == part.start < part.end <= (len(content) if stop is None else stop)
        at = part.end
    if stop is None:
        assert not content[at:].strip(b"\0")
