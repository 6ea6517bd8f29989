"""Logs on their way into the database: nothing waits for them, nothing is moved twice, nothing grows without end."""

import fcntl
import os
import shutil
from pathlib import Path

import gevent
import pytest

from gproxy.errors import Unavailable
from gproxy.request_log import spool as spools
from gproxy.request_log.spool import Mover, Spool, files, read


class Here:
    def run(self, function, *args):
        return function(*args)


class Store:
    def __init__(self):
        self.batches, self.fault = [], None

    def __call__(self, records):
        if self.fault is not None:
            raise self.fault
        self.batches.append([tuple(record) for record in records])

    @property
    def records(self) -> list[tuple]:
        return [record for batch in self.batches for record in batch]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def mover(spool: Spool, root: Path, store: Store) -> Mover:
    return Mover(spool, root, store, Here())


def test_records_are_moved_in_their_order_and_their_files_go(root):
    spool, store = Spool(root), Store()
    for n in range(450):
        spool.put(("downstream", n, b"\x00body", None, 1.5))
    assert mover(spool, root, store).move()
    assert [len(batch) for batch in store.batches] == [200, 200, 50]
    assert [record[1] for record in store.records] == list(range(450))
    assert store.records[0] == ("downstream", 0, b"\x00body", None, 1.5)
    assert files(spool.folder) == []


def test_a_large_batch_is_divided(root):
    spool, store = Spool(root), Store()
    for n in range(5):
        spool.put(("upstream", n, b"x" * 1_500_000))
    mover(spool, root, store).move()
    assert [len(batch) for batch in store.batches] == [3, 2]


def test_an_outage_costs_disk_and_nothing_is_lost(root, caplog):
    spool, store = Spool(root), Store()
    moving = mover(spool, root, store)
    store.fault = Unavailable("away")
    for n in range(3):
        spool.put(("downstream", n))
        assert not moving.move()
    assert len(files(spool.folder)) == 3
    assert caplog.text.count("wait on the disk") == 1
    store.fault = None
    assert moving.move()
    assert [record[1] for record in store.records] == [0, 1, 2]


def test_what_finds_no_room_is_dropped_and_counted(root, caplog):
    spool, store = Spool(root, max_bytes=1_000), Store()
    for n in range(20):
        spool.put(("downstream", n, b"x" * 100))
    assert 0 < spool.dropped < 20
    assert caplog.text.count("dropped") == 1
    before = spool.dropped
    mover(spool, root, store).move()
    spool.put(("downstream", 99, b"x" * 100))
    assert spool.dropped == before
    assert len(store.records) == 20 - before


def test_a_disk_that_is_full_stops_nobody(root, monkeypatch):
    spool = Spool(root)
    spool.put(("downstream", 1))
    monkeypatch.setattr(os, "write", lambda fd, data: 3)
    spool.put(("downstream", 2))
    monkeypatch.undo()
    spool.put(("downstream", 3))
    spool.rotate()
    assert [record[1] for path in files(spool.folder) for record in read(path)] == [1, 3]
    assert spool.dropped == 1


def test_a_record_that_was_cut_or_garbled_is_none(root):
    spool = Spool(root)
    spool.put(("downstream", 1))
    spool.put(("downstream", 2))
    spool.rotate()
    (path,) = files(spool.folder)
    path.write_bytes(path.read_bytes()[:-2])
    assert [record[1] for record in read(path)] == [1]
    path.write_bytes(b"\x02\x00\x00\x00\xc1\xc1")
    assert list(read(path)) == []


def test_what_a_dead_worker_left_is_moved_and_a_living_ones_is_not(root):
    dead, living, store = Spool(root), Spool(root), Store()
    dead.put(("downstream", 1))
    living.put(("downstream", 2))
    fcntl.flock(dead._lock, fcntl.LOCK_UN)
    own = Spool(root)
    mover(own, root, store)._inherit()
    assert [record[1] for record in store.records] == [1]
    assert not dead.folder.exists()
    assert living.folder.exists()


def test_a_stop_moves_what_is_left(root):
    spool, store = Spool(root), Store()
    moving = mover(spool, root, store)
    spool.put(("downstream", 1))
    moving.close(1.0)
    assert [record[1] for record in store.records] == [1]
    assert not spool.folder.exists()


def test_a_fault_of_the_disk_does_not_end_the_moving(root, monkeypatch):
    monkeypatch.setattr(spools, "INTERVAL_S", 0.02)
    spool, store = Spool(root), Store()
    moving, rename, is_broken = mover(spool, root, store), Path.rename, [True]

    def renamed(self, target):
        if is_broken:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    moving.start()
    spool.put(("upstream", 1))
    gevent.sleep(0.2)
    is_broken.clear()
    spool.put(("upstream", 2))
    gevent.sleep(0.5)
    assert sorted(record[1] for record in store.records) == [1, 2]
    moving.close(1.0)


def test_a_file_that_cannot_be_read_does_not_end_the_moving(root):
    spool, store = Spool(root), Store()
    (spool.folder / "00000000000000000001.log").write_bytes(b"\3\0\0\0\xa2\xff\xfe")
    spool.put(("upstream", 2))
    assert mover(spool, root, store).move()
    assert [record[1] for record in store.records] == [2]


def test_a_batch_that_can_never_be_stored_is_left_out(root, caplog):
    spool, store = Spool(root), Store()
    store.fault = ValueError("no such column")
    spool.put(("upstream", 1))
    assert mover(spool, root, store).move()
    assert "left out" in caplog.text
    assert files(spool.folder) == []


def test_nothing_raises_where_the_folder_is_gone(root):
    spool, store = Spool(root), Store()
    spool.put(("upstream", 1))
    shutil.rmtree(spool.folder)
    os.close(spool._fd)
    spool._fd = os.open("/dev/full", os.O_WRONLY)
    spool.put(("upstream", 2))
    mover(spool, root, store).close(1.0)
