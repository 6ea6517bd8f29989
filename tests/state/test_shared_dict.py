"""Notes that processes share: read from memory, changed one after the other, kept over restarts."""

import os
import threading

import pytest

from gproxy.state.shared_dict import Board


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "board"


def forever(note: bytes) -> float:
    return 2.0**40


def put(board: Board, name: str, note: bytes | None) -> None:
    board.change(name, lambda before: note)


def test_another_process_sees_a_note_at_once_and_its_end(folder):
    mine, theirs = Board(folder, forever), Board(folder, forever)
    assert theirs.notes(("a", "b")) == [None, None]
    put(mine, "a", b"1")
    assert theirs.notes(("a", "b")) == [b"1", None]
    put(mine, "a", None)
    assert theirs.notes(("a",)) == [None]
    assert theirs.all() == {}


def test_nothing_is_read_while_nobody_writes(folder, monkeypatch):
    board = Board(folder, forever)
    put(board, "a", b"1")
    assert board.notes(("a", "b")) == [b"1", None]
    monkeypatch.setattr(board, "_run", None)
    assert board.notes(("a", "b")) == [b"1", None]


def test_notes_outlive_the_processes(folder):
    first = Board(folder, forever)
    put(first, "a", b"1")
    put(first, "b\xc3\xb6".encode().decode(), b"2")
    first.close()
    assert Board(folder, forever).all() == {"a": b"1", "bÃ¶": b"2"}


def test_changes_from_many_sides_are_all_there(folder):
    def add() -> None:
        board = Board(folder, forever)
        for _ in range(100):
            board.change("n", lambda note: b"%d" % (int(note or 0) + 1))
        board.close()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Board(folder, forever).notes(("n",)) == [b"400"]


def test_a_garbled_board_is_begun_anew_and_told(folder, caplog):
    board = Board(folder, forever)
    put(board, "a", b"1")
    path = folder / "table"
    with path.open("r+b") as file:
        file.seek(300_000)
        file.write(os.urandom(path.stat().st_size - 300_000))
    other = Board(folder, forever)
    assert other.notes(("a",)) == [None]
    assert "garbled" in caplog.text
    put(other, "a", b"2")
    assert board.notes(("a",)) == [b"2"]


def test_a_board_that_cannot_be_used_counts_as_empty(folder, caplog):
    board = Board(folder, forever)
    (folder / "table").mkdir()
    assert board.notes(("a",)) == [None]
    put(board, "a", b"1")
    assert board.notes(("a",)) == [None]
    assert board.all() == {}
    assert "cannot be used" in caplog.text


def test_a_change_that_could_not_be_is_told_to_nobody(folder):
    board = Board(folder, forever, shares=True)
    (folder / "table").mkdir()
    put(board, "a", b"1")
    assert board.pending == {}
