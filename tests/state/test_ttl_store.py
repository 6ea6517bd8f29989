"""The TTL store: every process finds values until they expire, never a wrong one, also after kills and full disks."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gproxy.state import ttl_store as module
from gproxy.state.ttl_store import BUCKET_BYTES, MAX_BYTES, MIN_BYTES, TABLE_AT, TtlStore

ROOT = Path(__file__).resolve().parents[2]
SMALL = MIN_BYTES
DAY = 24 * 3600
TABLE_END = TABLE_AT + BUCKET_BYTES  # of a generation with one bucket

# A value follows from its key, so that a wrong value is noticed.
SCRIPT = """
import os, resource, sys
from pathlib import Path
from gproxy.state.ttl_store import TtlStore

def value_of(user, call, size):
    return (f"{user}/{call}/".encode() * size)[:size]

store = TtlStore(Path(sys.argv[1]), max_bytes=int(sys.argv[2]))
user, more = int(sys.argv[3]), [int(text) for text in sys.argv[4:]]
print("ready", flush=True)
sys.stdin.read(1)
"""
PUT_ALL = """
for call in range(500):
    assert store.put(user, f"call_{call}", value_of(user, call, 10 + call * 7 % 1500))
    assert store.find(user, f"call_{call}") == value_of(user, call, 10 + call * 7 % 1500)
"""
PUT_AND_FIND = """
found = 0
for call in range(2000):
    assert store.put(user, f"call_{call}", value_of(user, call, 300))
    for other in range(1, 5):
        value = store.find(other, f"call_{call}")
        assert value in (None, value_of(other, call, 300))
        found += value is not None
print(found)
"""
PUT_WITHOUT_END = """
for call in range(10**9):
    assert store.put(user, f"call_{call}", value_of(user, call, 300_000 if call % 2 else 300))
    os.write(1, b"%d\\n" % call)
"""
PUT_ON_A_FULL_DISK = """
resource.setrlimit(resource.RLIMIT_FSIZE, (more[0], more[0]))
print(*[int(store.put(user, f"call_{call}", value_of(user, call, 1000))) for call in range(20)])
assert not store.put(user, "call_0", b"another" * 200)
"""


def value_of(user: int, call: int, size: int) -> bytes:
    return (f"{user}/{call}/".encode() * size)[:size]


def run(work: str, folder: Path, max_bytes: int, user: int = 1, *more: int) -> subprocess.Popen:
    """Starts a process that waits for a byte of input, or the end of it, before it works."""
    started = subprocess.Popen(
        [sys.executable, "-c", SCRIPT + work, folder, *map(str, (max_bytes, user, *more))],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert started.stdout.readline() == b"ready\n"
    return started


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "values"


@pytest.fixture
def opened(folder: Path) -> Iterator[Callable[..., TtlStore]]:
    """Returns a function that opens stores. Closes all after the test, and checks that no descriptor stays open."""
    made = []
    before = len(os.listdir("/proc/self/fd"))

    def make(max_bytes: int = SMALL, **options) -> TtlStore:
        made.append(TtlStore(folder, max_bytes, **options))
        return made[-1]

    yield make
    for ttl_store in made:
        ttl_store.close()
    assert len(os.listdir("/proc/self/fd")) == before


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def fill(ttl_store: TtlStore, puts: int, size: int = 1000, user: int = 9) -> None:
    for call in range(puts):
        assert ttl_store.put(user, f"fill_{call}", value_of(user, call, size))


def start_generations(ttl_store: TtlStore, folder: Path, times: int = 1) -> None:
    """Puts values until this many new generations have started."""
    for _ in range(times):
        before = (folder / "newest").stat().st_ino
        while (folder / "newest").stat().st_ino == before:
            assert ttl_store.put(8, "filler", bytes(1000))


@pytest.mark.parametrize("value", [b"", b"x", b"\0" * 64, bytes(range(256)) * 8, b"z" * (SMALL // 16)], ids=len)
@pytest.mark.parametrize("call_id", ["call_1", "", "ü:\n\0", "half \ud83d", "x" * 5000], ids=ascii)
def test_a_value_that_was_put_is_found(opened, value, call_id):
    ttl_store = opened()
    assert ttl_store.find(1, call_id) is None
    assert ttl_store.put(1, call_id, value) is True
    assert ttl_store.find(1, call_id) == value


@pytest.mark.parametrize("mine, other", [((1, "a"), (2, "a")), ((1, "1:a"), (11, ":a")), ((1, ":a"), (1, "a"))])
def test_keys_are_kept_apart(opened, mine, other):
    ttl_store = opened()
    assert ttl_store.put(*mine, b"mine")
    assert ttl_store.find(*other) is None
    assert ttl_store.put(*other, b"other")
    assert (ttl_store.find(*mine), ttl_store.find(*other)) == (b"mine", b"other")


def test_a_later_value_wins(opened, folder):
    ttl_store = opened()
    for value in (b"first", b"second, longer"):
        assert ttl_store.put(1, "call", value)
    assert ttl_store.find(1, "call") == b"second, longer"
    start_generations(ttl_store, folder)
    assert ttl_store.find(1, "call") == b"second, longer"
    assert ttl_store.put(1, "call", b"third")
    assert ttl_store.find(1, "call") == b"third"


def test_a_value_that_is_too_large_is_refused_and_keeps_the_former_one(opened):
    ttl_store = opened()
    assert ttl_store.max_value_bytes == SMALL // 2 // 8
    assert ttl_store.put(1, "call", b"small")
    assert ttl_store.put(1, "call", bytes(ttl_store.max_value_bytes + 1)) is False
    assert ttl_store.find(1, "call") == b"small"


@pytest.mark.parametrize("max_bytes", [0, MIN_BYTES - 1, MAX_BYTES + 1])
def test_a_size_outside_the_limits_is_refused(folder, max_bytes):
    with pytest.raises(ValueError, match="the TTL store needs"):
        TtlStore(folder, max_bytes)


def test_files_are_private_and_do_not_contain_the_keys(opened, folder):
    ttl_store = opened()
    assert ttl_store.put(1234567, "call_secret", b"value")
    start_generations(ttl_store, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()} == {
        ("newest", 0o600),
        ("older", 0o600),
    }
    assert not any(word in path.read_bytes() for path in folder.iterdir() for word in (b"1234567", b"call_secret"))


def test_processes_share_values_which_survive_a_restart(opened):
    one, other = opened(), opened()
    assert other.find(1, "a") is None
    assert one.put(1, "a", b"of one")
    assert other.put(1, "b", b"of other")
    assert (one.find(1, "b"), other.find(1, "a")) == (b"of other", b"of one")
    one.close()
    other.close()
    again = opened()
    assert (again.find(1, "a"), again.find(1, "b")) == (b"of one", b"of other")


@pytest.mark.parametrize("later, is_found", [(0, True), (DAY, True), (DAY + 1, False), (-60, True), (-DAY - 1, False)])
def test_a_value_is_found_for_a_day(opened, later, is_found):
    clock = Clock()
    ttl_store = opened(clock=clock)
    assert ttl_store.put(1, "call", b"value")
    clock.now += later
    assert ttl_store.find(1, "call") == (b"value" if is_found else None)
    assert ttl_store.put(1, "call", b"again")
    assert ttl_store.find(1, "call") == b"again"


def test_an_expired_value_leaves_the_disk(opened, folder):
    clock = Clock()
    ttl_store = opened(clock=clock, max_age_s=100)
    for word in (b"first", b"second", b"third"):
        assert ttl_store.put(1, word.decode(), word)
        clock.now += 101
    assert not any(b"first" in path.read_bytes() for path in folder.iterdir())
    assert b"second" in (folder / "older").read_bytes()


@pytest.mark.parametrize("max_bytes, size", [(SMALL, 1000), (SMALL, 4000), (SMALL, 40), (SMALL * 8, 3000)])
def test_bytes_are_bounded_and_the_latest_values_stay(opened, folder, max_bytes, size):
    ttl_store = opened(max_bytes)
    puts = 10 * max_bytes // size
    for call in range(puts):
        assert ttl_store.put(1, f"call_{call}", value_of(1, call, size))
        assert used(folder) <= max_bytes
    found = [ttl_store.find(1, f"call_{call}") for call in range(puts)]
    kept = [value for value in found if value is not None]
    assert kept == [value_of(1, call, size) for call in range(puts - len(kept), puts)]
    assert len(kept) >= min(max_bytes * 0.35 // size, 128)


def test_ordinary_values_fill_a_generation_before_its_table_is_full(opened, folder):
    ttl_store = opened(16 * 1024**2)
    for call in range(8 * 1024**2 // 1000 - 1000):
        assert ttl_store.put(1, f"call_{call}", bytes(1000))
    assert not (folder / "older").exists()


def test_a_key_that_is_put_repeatedly_is_bounded_too(opened, folder):
    ttl_store = opened()
    for _ in range(500):
        assert ttl_store.put(1, "call", bytes(1000))
    assert used(folder) <= SMALL
    assert ttl_store.find(1, "call") == bytes(1000)


@pytest.mark.parametrize("generations", [1, 2, 3, 7])
def test_a_reader_follows_to_new_generations(opened, folder, generations):
    writer, reader = opened(), opened()
    assert writer.put(1, "early", b"early")
    assert reader.find(1, "early") == b"early"
    start_generations(writer, folder, generations)
    assert writer.put(1, "late", b"late")
    assert reader.find(1, "late") == b"late"
    assert reader.find(1, "early") == (b"early" if generations == 1 else None)


def test_a_dropped_generation_frees_its_space_although_it_is_open_elsewhere(opened, folder):
    writer = opened()
    fill(writer, 5)
    reader = os.open(folder / "newest", os.O_RDONLY)
    start_generations(writer, folder, 2)
    assert os.fstat(reader).st_size == 0
    os.close(reader)


def test_a_smaller_size_applies_at_once(opened, folder):
    large = opened(SMALL * 8)
    fill(large, 300)
    large.close()
    small = opened(SMALL)
    assert small.find(9, "fill_299") is None
    assert small.put(1, "call", b"value")
    assert used(folder) <= SMALL
    assert small.find(1, "call") == b"value"


@pytest.mark.parametrize("cut", [1, 500, 1500, 3500])
def test_a_truncated_tail_loses_only_its_own_values(opened, folder, cut):
    ttl_store = opened()
    fill(ttl_store, 10)
    os.truncate(folder / "newest", (folder / "newest").stat().st_size - cut)
    for store in (ttl_store, opened()):
        found = [store.find(9, f"fill_{call}") for call in range(10)]
        assert found == [value_of(9, call, 1000) if call < 10 - -(-cut // 1000) else None for call in range(10)]
    fill(ttl_store, 10, user=7)
    for store in (ttl_store, opened()):
        assert [store.find(7, f"fill_{call}") for call in range(10)] == [value_of(7, c, 1000) for c in range(10)]
        assert store.find(9, "fill_0") == value_of(9, 0, 1000)
        assert store.find(9, "fill_9") is None


@pytest.mark.parametrize("length", [0, 10, TABLE_AT, TABLE_AT + 50, TABLE_END - 1, TABLE_END])
@pytest.mark.parametrize("opens_anew", [False, True])
def test_a_file_that_was_truncated_in_its_table_is_empty_and_usable(opened, folder, length, opens_anew):
    ttl_store = opened()
    fill(ttl_store, 10)
    os.truncate(folder / "newest", length)
    if opens_anew:
        ttl_store = opened()
    assert [ttl_store.find(9, f"fill_{call}") for call in range(10)] == [None] * 10
    fill(ttl_store, 10, user=7)
    assert ttl_store.find(7, "fill_3") == opened().find(7, "fill_3") == value_of(7, 3, 1000)


def test_new_values_are_written_behind_bytes_without_a_slot(opened, folder):
    ttl_store = opened()
    fill(ttl_store, 3)
    with (folder / "newest").open("ab") as file:
        file.write(b"bytes that a killed writer left")
    fill(ttl_store, 3, user=7)
    assert [opened().find(user, "fill_2") for user in (9, 7)] == [value_of(9, 2, 1000), value_of(7, 2, 1000)]


@pytest.mark.parametrize("where", ["key", "start", "length", "time", "check", "value"])
def test_corruption_is_logged_once_and_loses_one_value(opened, folder, caplog, where):
    ttl_store = opened()
    fill(ttl_store, 10)
    at = {"key": 0, "start": 16, "length": 20, "time": 24, "check": 28}
    with (folder / "newest").open("r+b") as file:
        file.seek(TABLE_AT + 4 * 32 + at[where] if where in at else TABLE_END + 4 * 1000 + 500)
        file.write(b"\xee\xee\xee\xee")
    for _ in range(3):
        found = [ttl_store.find(9, f"fill_{call}") for call in range(10)]
        assert found == [None if call == 4 else value_of(9, call, 1000) for call in range(10)]
    assert len(caplog.records) == (0 if where == "key" else 1)
    assert ttl_store.put(9, "fill_4", b"again")
    assert ttl_store.find(9, "fill_4") == b"again"


def test_a_corrupted_length_allocates_no_memory(opened, folder):
    ttl_store = opened()
    fill(ttl_store, 1)
    with (folder / "newest").open("r+b") as file:
        file.seek(TABLE_AT + 20)
        file.write(b"\xee\xee\xee\xee")
    tracemalloc.start()
    assert ttl_store.find(9, "fill_0") is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1024**2


def test_a_value_that_looks_corrupted_is_read_again_under_the_lock(opened, folder, caplog):
    ttl_store = opened()
    fill(ttl_store, 1)
    whole = (folder / "newest").read_bytes()
    half = os.open(folder / "newest", os.O_RDWR)
    os.pwrite(half, b"\xee" * 8, TABLE_AT + 20)
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)

    def end_writing():
        time.sleep(0.1)
        os.pwrite(half, whole, 0)
        os.close(half)
        os.close(lock)

    writing = threading.Thread(target=end_writing)
    writing.start()
    assert ttl_store.find(9, "fill_0") == value_of(9, 0, 1000)
    writing.join()
    assert not caplog.records


@pytest.mark.parametrize("name", ["newest", "older"])
@pytest.mark.parametrize(
    "garbage", [b"", b"\xee", b"\0" * 9000, os.urandom(9000)], ids=["empty", "one byte", "zeros", "random"]
)
def test_a_corrupted_file_is_dropped_and_logged(opened, folder, caplog, name, garbage):
    first = opened()
    assert first.put(1, "old", b"old")
    start_generations(first, folder)
    assert first.put(1, "new", b"new")
    (folder / name).write_bytes(garbage)
    ttl_store = opened()
    assert ttl_store.find(1, "old") == (b"old" if name == "newest" else None)
    assert ttl_store.find(1, "new") == (b"new" if name == "older" else None)
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder / name} is corrupted or larger than allowed: dropped with its values"
    ]
    assert ttl_store.put(1, "next", b"next")
    assert first.find(1, "next") == b"next"


def test_a_kill_between_two_renames_loses_nothing(opened, folder):
    ttl_store = opened()
    fill(ttl_store, 5)
    (folder / "newest").rename(folder / "older")
    (folder / "fresh").write_bytes(b"half")
    for store in (ttl_store, opened()):
        assert store.find(9, "fill_4") == value_of(9, 4, 1000)
    assert ttl_store.put(1, "call", b"value")
    for store in (ttl_store, opened()):
        assert (store.find(9, "fill_4"), store.find(1, "call")) == (value_of(9, 4, 1000), b"value")


@pytest.mark.parametrize("what", ["newest", "both", "folder"])
def test_removed_files_lose_their_values_and_the_store_stays_usable(opened, folder, what):
    one, other = opened(), opened()
    assert one.put(1, "old", b"old")
    start_generations(one, folder)
    assert one.put(1, "new", b"new")
    assert other.find(1, "new") == b"new"
    for path in [folder / "newest"] if what == "newest" else list(folder.iterdir()):
        path.unlink()
    if what == "folder":
        folder.rmdir()
    assert other.find(1, "new") is None
    assert other.find(1, "old") == (b"old" if what == "newest" else None)
    assert other.put(1, "again", b"again")
    assert (one.find(1, "again"), one.put(1, "more", b"more"), other.find(1, "more")) == (b"again", True, b"more")


def test_a_lock_that_is_not_released_fails_the_put_and_not_the_find(opened, folder, monkeypatch, caplog):
    monkeypatch.setattr(module, "LOCK_WAIT_S", 0.05)
    ttl_store = opened()
    assert ttl_store.put(1, "call", b"value")
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    before = time.monotonic()
    assert ttl_store.put(1, "call", b"other") is False
    assert 0.05 <= time.monotonic() - before < 5
    assert ttl_store.find(1, "call") == b"value"
    assert len(caplog.records) == 1
    os.close(lock)
    assert ttl_store.put(1, "call", b"other") is True


def test_a_folder_that_cannot_be_created_raises_nothing(opened, folder, monkeypatch, caplog):
    folder.parent.mkdir()
    folder.write_bytes(b"a file in place of the folder")
    ttl_store = opened()
    for _ in range(3):
        assert ttl_store.put(1, "call_secret", b"value_secret") is False
        assert ttl_store.find(1, "call_secret") is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert "cannot be used" in line
    assert "secret" not in line
    monkeypatch.setattr(module, "LOG_EVERY_S", 0)
    assert ttl_store.put(1, "call", b"value") is False
    assert len(caplog.records) == 2
    folder.unlink()
    assert ttl_store.put(1, "call", b"value") is True
    assert ttl_store.find(1, "call") == b"value"


@pytest.mark.parametrize("room", [0, 10, TABLE_AT, TABLE_END, TABLE_END + 100, TABLE_END + 8000])
def test_a_full_disk_keeps_the_values_that_were_stored(opened, folder, room):
    """The file size limit lets a write through in part, as a full disk does, and then fails."""
    ttl_store = opened()
    if room > TABLE_END:
        assert ttl_store.put(2, "before", b"x")
    filling = run(PUT_ON_A_FULL_DISK, folder, SMALL, 1, room)
    out, _ = filling.communicate(b"x", 20)
    assert filling.returncode == 0
    kept = [digit == b"1" for digit in out.split()]
    fitting = max(0, room - TABLE_END - 1) // 1000
    assert kept == [True] * fitting + [False] * (20 - fitting)
    if room > TABLE_END:
        assert (folder / "newest").stat().st_size == TABLE_END + 1 + fitting * 1000
    for call in range(20):
        value = value_of(1, call, 1000)
        assert ttl_store.find(1, f"call_{call}") == (value if kept[call] else None)
    fill(ttl_store, 5)
    assert ttl_store.find(9, "fill_4") == value_of(9, 4, 1000)
    assert ttl_store.find(2, "before") == (b"x" if room > TABLE_END else None)


def test_values_of_four_processes_are_all_found(opened, folder):
    max_bytes = 16 * 1024**2
    ttl_store = opened(max_bytes)
    writers = [run(PUT_ALL, folder, max_bytes, user) for user in range(1, 5)]
    for writer in writers:
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0] * 4
    for writer in writers:
        writer.stdout.close()
    for store in (ttl_store, opened(max_bytes)):
        for user in range(1, 5):
            for call in range(500):
                assert store.find(user, f"call_{call}") == value_of(user, call, 10 + call * 7 % 1500)


def test_generations_that_four_processes_start_return_no_wrong_value(opened, folder):
    writers = [run(PUT_AND_FIND, folder, SMALL, user) for user in range(1, 5)]
    for writer in writers:
        writer.stdin.write(b"x")
        writer.stdin.flush()
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        assert writer.returncode == 0
        assert int(out) > 0
    assert used(folder) <= SMALL


@pytest.mark.parametrize("after_s", [0, 0.02, 0.05, 0.11, 0.17])
def test_a_kill_during_a_write_loses_at_most_that_value(opened, folder, after_s):
    max_bytes = 512 * 1024**2
    ttl_store = opened(max_bytes)
    writer = run(PUT_WITHOUT_END, folder, max_bytes)
    writer.stdin.close()
    first = writer.stdout.readline()
    time.sleep(after_s)
    writer.send_signal(signal.SIGKILL)
    printed = (first + writer.stdout.read()).split()
    writer.stdout.close()
    assert writer.wait(20) == -signal.SIGKILL
    for store in (ttl_store, opened(max_bytes)):
        for call in map(int, printed):
            assert store.find(1, f"call_{call}") == value_of(1, call, 300_000 if call % 2 else 300)
        assert store.find(1, f"call_{int(printed[-1]) + 2}") is None
    assert ttl_store.put(1, "after", b"after")
    assert ttl_store.find(1, "after") == b"after"
