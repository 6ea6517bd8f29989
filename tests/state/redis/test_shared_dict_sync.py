"""The sync of several machines' shared dictionaries, through a real Redis."""

import pytest
import redis

from gproxy.errors import Unavailable
from gproxy.state.redis.shared_dict_sync import REMOVED_S, SharedDictSync
from gproxy.state.shared_dict import SharedDict
from gproxy.units import NS
from tests.redis import fresh, server


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def ns(self) -> int:
        return int(self.now * NS)


class Machine:
    def __init__(self, folder, where: tuple[str, str], clock: Clock):
        self.where = where
        self.shared_dict = SharedDict(folder, lambda note: 2.0**40, clock, is_synced=True)
        self.sync = SharedDictSync(*where, self.shared_dict, clock.ns)

    def put(self, name: str, note: bytes | None) -> None:
        self.shared_dict.change(name, lambda before: note)

    def close(self) -> None:
        self.sync.close()
        self.shared_dict.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def machines(tmp_path, pytestconfig, clock):
    where = fresh(pytestconfig)
    made = [Machine(tmp_path / str(n), where, clock) for n in range(2)]
    yield made
    for machine in made:
        machine.close()


def exchange(*machines: Machine) -> None:
    for _ in range(2):
        for machine in machines:
            machine.sync.exchange()


def test_a_note_and_its_removal_reach_the_other_machine(machines, clock):
    one, other = machines
    one.put("a", b"1")
    exchange(one, other)
    assert other.shared_dict.notes(("a",)) == [b"1"]
    clock.now += 1
    other.put("a", None)
    exchange(one, other)
    assert one.shared_dict.notes(("a",)) == [None]
    assert (one.shared_dict.pending, other.shared_dict.pending) == ({}, {})


def test_the_newest_change_wins_whichever_machine_sends_first(machines, clock):
    one, other = machines
    one.put("a", b"old")
    clock.now += 1
    other.put("a", b"new")
    exchange(other, one)
    assert [machine.shared_dict.notes(("a",)) for machine in machines] == [[b"new"], [b"new"]]


def test_a_new_machine_gets_every_note(machines, tmp_path, clock):
    one, _ = machines
    for name in ("a", "b"):
        one.put(name, name.encode())
    one.sync.exchange()
    late = Machine(tmp_path / "late", one.where, clock)
    late.sync.exchange()
    assert late.shared_dict.all() == {"a": b"a", "b": b"b"}
    late.close()


def test_old_removals_are_deleted_from_redis(machines, clock):
    one, other = machines
    one.put("a", b"1")
    one.put("a", None)
    exchange(one, other)
    clock.now += REMOVED_S + 1
    one.put("b", b"1")
    exchange(one, other)
    client = redis.Redis.from_url(one.where[0])
    assert list(client.hgetall(f"gproxy:{{{one.where[1]}}}:notes")) == [b"b"]
    client.close()


def test_changes_during_an_outage_are_sent_after_it(tmp_path, clock):
    with server() as running:
        machine = Machine(tmp_path / "a", (running.url, "p"), clock)
        other = Machine(tmp_path / "b", (running.url, "p"), clock)
        running.kill()
        machine.put("a", b"1")
        with pytest.raises(Unavailable):
            machine.sync.exchange()
        assert machine.shared_dict.notes(("a",)) == [b"1"]
        running.start()
        exchange(machine, other)
        assert other.shared_dict.notes(("a",)) == [b"1"]
        machine.close()
        other.close()
