"""The spool of request logs: no request waits for it, no row is moved twice, and its size is limited."""

import fcntl
import os
import shutil
from pathlib import Path

import gevent
import pytest

from gproxy.errors import Unavailable
from gproxy.request_log import spool as spool_module
from gproxy.request_log.spool import Mover, Spool, files, read


class Inline:
    def run(self, function, *args):
        return function(*args)


class Store:
    def __init__(self):
        self.batches, self.fault = [], None

    def __call__(self, rows):
        if self.fault is not None:
            raise self.fault
        self.batches.append([tuple(row) for row in rows])

    @property
    def rows(self) -> list[tuple]:
        return [row for batch in self.batches for row in batch]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def mover(spool: Spool, root: Path, store: Store) -> Mover:
    return Mover(spool, root, store, Inline())


def test_rows_are_moved_in_order_and_their_files_are_deleted(root):
    spool, store = Spool(root), Store()
    for n in range(450):
        spool.put(("downstream", n, b"\x00body", None, 1.5))
    assert mover(spool, root, store).move()
    assert [len(batch) for batch in store.batches] == [200, 200, 50]
    assert [row[1] for row in store.rows] == list(range(450))
    assert store.rows[0] == ("downstream", 0, b"\x00body", None, 1.5)
    assert files(spool.folder) == []


def test_a_large_batch_is_divided(root):
    spool, store = Spool(root), Store()
    for n in range(5):
        spool.put(("upstream", n, b"x" * 1_500_000))
    mover(spool, root, store).move()
    assert [len(batch) for batch in store.batches] == [3, 2]


def test_during_an_outage_rows_stay_on_the_disk_and_none_is_lost(root, caplog):
    spool, store = Spool(root), Store()
    own_mover = mover(spool, root, store)
    store.fault = Unavailable("away")
    for n in range(3):
        spool.put(("downstream", n))
        assert not own_mover.move()
    assert len(files(spool.folder)) == 3
    assert caplog.text.count("stay on the disk") == 1
    store.fault = None
    assert own_mover.move()
    assert [row[1] for row in store.rows] == [0, 1, 2]


def test_rows_beyond_the_maximum_size_are_dropped_and_counted(root, caplog):
    spool, store = Spool(root, max_bytes=1_000), Store()
    for n in range(20):
        spool.put(("downstream", n, b"x" * 100))
    assert 0 < spool.dropped < 20
    assert caplog.text.count("dropped") == 1
    before = spool.dropped
    mover(spool, root, store).move()
    spool.put(("downstream", 99, b"x" * 100))
    assert spool.dropped == before
    assert len(store.rows) == 20 - before


def test_on_a_full_disk_a_row_is_dropped_and_the_next_one_written(root, monkeypatch):
    spool = Spool(root)
    spool.put(("downstream", 1))
    monkeypatch.setattr(os, "write", lambda fd, data: 3)
    spool.put(("downstream", 2))
    monkeypatch.undo()
    spool.put(("downstream", 3))
    spool.rotate()
    assert [row[1] for path in files(spool.folder) for row in read(path)] == [1, 3]
    assert spool.dropped == 1


def test_an_incomplete_or_corrupted_row_is_not_read(root):
    spool = Spool(root)
    spool.put(("downstream", 1))
    spool.put(("downstream", 2))
    spool.rotate()
    (path,) = files(spool.folder)
    path.write_bytes(path.read_bytes()[:-2])
    assert [row[1] for row in read(path)] == [1]
    path.write_bytes(b"\x02\x00\x00\x00\xc1\xc1")
    assert list(read(path)) == []


def test_the_rows_of_a_crashed_worker_are_moved_and_those_of_a_running_one_are_not(root):
    crashed, running, store = Spool(root), Spool(root), Store()
    crashed.put(("downstream", 1))
    running.put(("downstream", 2))
    fcntl.flock(crashed._lock, fcntl.LOCK_UN)
    own = Spool(root)
    mover(own, root, store)._move_orphans()
    assert [row[1] for row in store.rows] == [1]
    assert not crashed.folder.exists()
    assert running.folder.exists()


def test_close_moves_the_remaining_rows(root):
    spool, store = Spool(root), Store()
    own_mover = mover(spool, root, store)
    spool.put(("downstream", 1))
    own_mover.close(1.0)
    assert [row[1] for row in store.rows] == [1]
    assert not spool.folder.exists()


def test_a_disk_error_does_not_end_the_mover(root, monkeypatch):
    monkeypatch.setattr(spool_module, "INTERVAL_S", 0.02)
    spool, store = Spool(root), Store()
    own_mover, rename, is_broken = mover(spool, root, store), Path.rename, [True]

    def renamed(self, target):
        if is_broken:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    own_mover.start()
    spool.put(("upstream", 1))
    gevent.sleep(0.2)
    is_broken.clear()
    spool.put(("upstream", 2))
    gevent.sleep(0.5)
    assert sorted(row[1] for row in store.rows) == [1, 2]
    own_mover.close(1.0)


def test_an_unreadable_file_does_not_end_the_mover(root):
    spool, store = Spool(root), Store()
    (spool.folder / "00000000000000000001.log").write_bytes(b"\3\0\0\0\xa2\xff\xfe")
    spool.put(("upstream", 2))
    assert mover(spool, root, store).move()
    assert [row[1] for row in store.rows] == [2]


def test_a_file_that_can_never_be_stored_is_skipped(root, caplog):
    spool, store = Spool(root), Store()
    store.fault = ValueError("no such column")
    spool.put(("upstream", 1))
    assert mover(spool, root, store).move()
    assert "cannot be stored and is skipped" in caplog.text
    assert files(spool.folder) == []


def test_nothing_raises_if_the_folder_was_deleted(root):
    spool, store = Spool(root), Store()
    spool.put(("upstream", 1))
    shutil.rmtree(spool.folder)
    os.close(spool._fd)
    spool._fd = os.open("/dev/full", os.O_WRONLY)
    spool.put(("upstream", 2))
    mover(spool, root, store).close(1.0)


def test_what_is_no_file_of_a_spool_does_not_end_the_mover(root, caplog):
    crashed = Spool(root)
    crashed.put(("upstream", 1))
    crashed.rotate()
    os.close(crashed._lock)
    for folder in (crashed.folder, root):
        (folder / "0.log").mkdir()
        (folder / "1.log").symlink_to(root / "missing")
        os.mkfifo(folder / "2.log")
    (crashed.folder / "00000000000000000003.log").write_bytes(b"\xff\xff\xff\xff")
    spool, store = Spool(root), Store()
    own_mover = mover(spool, root, store)
    for _ in range(2):
        assert own_mover._quietly(own_mover._move_orphans)
    assert [row[1] for row in store.rows] == [1]
    assert sorted(path.name for path in crashed.folder.iterdir()) == ["0.log", "1.log", "2.log", "lock"]
    assert caplog.text.count("is no file of a spool") == 1
