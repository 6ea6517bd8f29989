"""The shared dictionary: processes read notes from memory, lose no update, and find the notes after a restart."""

import os
import threading

import pytest

from gproxy.state.shared_dict import SharedDict


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "notes"


def never_expires(note: bytes) -> float:
    return 2.0**40


def put(shared_dict: SharedDict, name: str, note: bytes | None) -> None:
    shared_dict.change(name, lambda before: note)


def test_another_process_sees_a_note_and_its_removal_at_once(folder):
    one, other = SharedDict(folder, never_expires), SharedDict(folder, never_expires)
    assert other.notes(("a", "b")) == [None, None]
    put(one, "a", b"1")
    assert other.notes(("a", "b")) == [b"1", None]
    put(one, "a", None)
    assert other.notes(("a",)) == [None]
    assert other.all() == {}


def test_the_table_is_not_read_without_a_change(folder, monkeypatch):
    shared_dict = SharedDict(folder, never_expires)
    put(shared_dict, "a", b"1")
    assert shared_dict.notes(("a", "b")) == [b"1", None]
    monkeypatch.setattr(shared_dict, "_run", None)
    assert shared_dict.notes(("a", "b")) == [b"1", None]


def test_notes_survive_the_processes(folder):
    first = SharedDict(folder, never_expires)
    put(first, "a", b"1")
    put(first, "b\xc3\xb6".encode().decode(), b"2")
    first.close()
    assert SharedDict(folder, never_expires).all() == {"a": b"1", "bÃ¶": b"2"}


def test_concurrent_changes_lose_no_update(folder):
    def add() -> None:
        shared_dict = SharedDict(folder, never_expires)
        for _ in range(100):
            shared_dict.change("n", lambda note: b"%d" % (int(note or 0) + 1))
        shared_dict.close()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert SharedDict(folder, never_expires).notes(("n",)) == [b"400"]


def test_a_corrupted_table_is_logged_and_replaced_by_an_empty_one(folder, caplog):
    shared_dict = SharedDict(folder, never_expires)
    put(shared_dict, "a", b"1")
    path = folder / "table"
    with path.open("r+b") as file:
        file.seek(300_000)
        file.write(os.urandom(path.stat().st_size - 300_000))
    other = SharedDict(folder, never_expires)
    assert other.notes(("a",)) == [None]
    assert "corrupted" in caplog.text
    put(other, "a", b"2")
    assert shared_dict.notes(("a",)) == [b"2"]


def test_a_table_that_cannot_be_used_counts_as_empty(folder, caplog):
    shared_dict = SharedDict(folder, never_expires)
    (folder / "table").mkdir()
    assert shared_dict.notes(("a",)) == [None]
    put(shared_dict, "a", b"1")
    assert shared_dict.notes(("a",)) == [None]
    assert shared_dict.all() == {}
    assert "cannot be used" in caplog.text


def test_a_change_that_failed_is_not_sent_to_other_machines(folder):
    shared_dict = SharedDict(folder, never_expires, is_synced=True)
    (folder / "table").mkdir()
    put(shared_dict, "a", b"1")
    assert shared_dict.pending == {}
