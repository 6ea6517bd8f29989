"""Notes that processes share: read from memory, changed one after the other, kept over restarts."""

import os
import threading

import pytest

from gproxy.state.shared_dict import SharedDict


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "board"


def forever(note: bytes) -> float:
    return 2.0**40


def put(shared_dict: SharedDict, name: str, note: bytes | None) -> None:
    shared_dict.change(name, lambda before: note)


def test_another_process_sees_a_note_at_once_and_its_end(folder):
    mine, theirs = SharedDict(folder, forever), SharedDict(folder, forever)
    assert theirs.notes(("a", "b")) == [None, None]
    put(mine, "a", b"1")
    assert theirs.notes(("a", "b")) == [b"1", None]
    put(mine, "a", None)
    assert theirs.notes(("a",)) == [None]
    assert theirs.all() == {}


def test_nothing_is_read_while_nobody_writes(folder, monkeypatch):
    shared_dict = SharedDict(folder, forever)
    put(shared_dict, "a", b"1")
    assert shared_dict.notes(("a", "b")) == [b"1", None]
    monkeypatch.setattr(shared_dict, "_run", None)
    assert shared_dict.notes(("a", "b")) == [b"1", None]


def test_notes_outlive_the_processes(folder):
    first = SharedDict(folder, forever)
    put(first, "a", b"1")
    put(first, "b\xc3\xb6".encode().decode(), b"2")
    first.close()
    assert SharedDict(folder, forever).all() == {"a": b"1", "bÃ¶": b"2"}


def test_changes_from_many_sides_are_all_there(folder):
    def add() -> None:
        shared_dict = SharedDict(folder, forever)
        for _ in range(100):
            shared_dict.change("n", lambda note: b"%d" % (int(note or 0) + 1))
        shared_dict.close()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert SharedDict(folder, forever).notes(("n",)) == [b"400"]


def test_a_garbled_board_is_begun_anew_and_told(folder, caplog):
    shared_dict = SharedDict(folder, forever)
    put(shared_dict, "a", b"1")
    path = folder / "table"
    with path.open("r+b") as file:
        file.seek(300_000)
        file.write(os.urandom(path.stat().st_size - 300_000))
    other = SharedDict(folder, forever)
    assert other.notes(("a",)) == [None]
    assert "garbled" in caplog.text
    put(other, "a", b"2")
    assert shared_dict.notes(("a",)) == [b"2"]


def test_a_board_that_cannot_be_used_counts_as_empty(folder, caplog):
    shared_dict = SharedDict(folder, forever)
    (folder / "table").mkdir()
    assert shared_dict.notes(("a",)) == [None]
    put(shared_dict, "a", b"1")
    assert shared_dict.notes(("a",)) == [None]
    assert shared_dict.all() == {}
    assert "cannot be used" in caplog.text


def test_a_change_that_could_not_be_is_told_to_nobody(folder):
    shared_dict = SharedDict(folder, forever, shares=True)
    (folder / "table").mkdir()
    put(shared_dict, "a", b"1")
    assert shared_dict.pending == {}
