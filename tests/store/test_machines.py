"""Machine numbers: one for each data directory, and unique while in use."""

import time
from pathlib import Path

import pytest

from gproxy.errors import StartupError
from gproxy.store import machines
from gproxy.store import models as m
from gproxy.store.database import Database
from tests.sample_db import migrated

SECOND = 1_000_000_000


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return migrated(tmp_path)


def register(database: Database, folder: Path) -> tuple[int, int]:
    folder.mkdir(exist_ok=True)
    return database.run(machines.register, database, folder)


def add(database: Database, count: int, seen_s_ago: float) -> None:
    seen_at = time.time_ns() - int(seen_s_ago * SECOND)
    rows = [(i, f"other-{i}", seen_at) for i in range(count)]
    database.run(database.execute_all, "INSERT INTO machines (id, owner, seen_at) VALUES (?, ?, ?)", rows)


def test_a_data_directory_keeps_its_number(database: Database, tmp_path: Path):
    first, second = register(database, tmp_path / "a"), register(database, tmp_path / "b")
    assert (first[0], second[0]) == (0, 1)
    assert register(database, tmp_path / "a")[0] == 0
    assert register(database, tmp_path / "b")[0] == 1


@pytest.mark.parametrize(("seen_s_ago", "others"), [(0, 3), (100, 3), (130, 0)])
def test_machines_with_a_recent_heartbeat_are_counted(database: Database, tmp_path: Path, seen_s_ago, others):
    add(database, 3, seen_s_ago)
    assert register(database, tmp_path / "a") == (3, others)


def test_a_start_records_a_heartbeat(database: Database, tmp_path: Path):
    register(database, tmp_path / "a")
    database.run(m.Machine.update(seen_at=0).execute)
    register(database, tmp_path / "a")
    assert time.time_ns() - database.run(m.Machine.get_by_id, 0).seen_at < 10 * SECOND


def test_a_heartbeat_is_recorded_for_its_machine_only(database: Database, tmp_path: Path):
    add(database, 2, 500)
    database.run(machines.heartbeat, 1)
    seen = [row.seen_at for row in database.run(lambda: list(m.Machine.select().order_by(m.Machine.id)))]
    assert time.time_ns() - seen[0] > 400 * SECOND and time.time_ns() - seen[1] < 10 * SECOND


def test_the_number_of_an_expired_machine_is_used_again_if_no_number_is_free(database: Database, tmp_path: Path):
    add(database, machines.MAX_MACHINES, 10)
    database.run(m.Machine.update(seen_at=0).where(m.Machine.id == 77).execute)
    assert register(database, tmp_path / "a") == (77, machines.MAX_MACHINES - 1)


def test_the_start_fails_if_all_machine_numbers_are_in_use(database: Database, tmp_path: Path):
    add(database, machines.MAX_MACHINES, machines.EXPIRY_S - 60)
    with pytest.raises(StartupError, match="in use by 256 machines"):
        register(database, tmp_path / "a")


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_machine_id_file_is_written_again(database: Database, tmp_path: Path, text):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "machine-id").write_text(text)
    register(database, tmp_path / "a")
    assert len((tmp_path / "a" / "machine-id").read_text().strip()) == 32
