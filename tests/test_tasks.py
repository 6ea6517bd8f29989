"""Background loops: they repeat in spite of errors, and end when they are stopped."""

from types import SimpleNamespace

import gevent
import pytest

from gproxy import tasks
from gproxy.errors import Unavailable
from gproxy.quota.reservations import Reserver
from gproxy.snapshot import Caller, RateLimit
from gproxy.state.interface import Account, Limit
from gproxy.store import entities, machines
from tests.running_process import PROMPT_S, busy_process

INTERVAL_S = 0.01


class Task:
    """Counts its runs and ends each with the next of the errors."""

    def __init__(self, *errors: Exception):
        self.runs, self._errors = 0, list(errors)

    def __call__(self) -> None:
        self.runs += 1
        if self._errors:
            raise self._errors.pop(0)


@pytest.mark.parametrize("error", [Unavailable("away"), RuntimeError("a mistake")])
def test_a_task_is_repeated_after_an_error_until_it_is_stopped(error, caplog):
    task, loops = Task(error, error), tasks.Tasks()
    loops.repeat(INTERVAL_S, task)
    with gevent.Timeout(5):
        while task.runs < 4:
            gevent.sleep(INTERVAL_S)
    loops.stop()
    runs = task.runs
    gevent.sleep(3 * INTERVAL_S)
    assert task.runs == runs
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == (["a background task failed: RuntimeError"] * 2 if type(error) is RuntimeError else [])


@pytest.mark.parametrize(("starts_now", "runs"), [(True, 1), (False, 0)])
def test_a_task_runs_before_its_first_interval_only_if_it_starts_now(starts_now, runs):
    task, loops = Task(), tasks.Tasks()
    loops.repeat(60, task, starts_now)
    gevent.sleep(INTERVAL_S)
    assert task.runs == runs
    loops.stop()


def test_a_journal_is_checked_while_it_cannot_be_written():
    checked = []
    for is_writable in (True, False):
        tasks.check_journal(SimpleNamespace(is_writable=is_writable, check_space=lambda: checked.append(1)))
    assert checked == [1]


def test_failed_settlements_are_repeated_before_the_lease_is_renewed():
    done = []

    class Shared:
        is_away = True

        def settle(self, *call) -> None:
            if self.is_away:
                raise Unavailable("away")
            done.append(call)

        def renew(self, owner: str) -> None:
            done.append(owner)

    shared = Shared()
    reserver = Reserver(shared, "0/000/x", lambda keys: None)
    reserver.settle(7, 5, 1)
    with pytest.raises(Unavailable):
        tasks.renew_reservations(reserver)
    assert done == []
    shared.is_away = False
    tasks.renew_reservations(reserver)
    assert done == [(7, 5, 1), "0/000/x"]


def test_retention_needs_a_loaded_configuration():
    applied = []
    retention = SimpleNamespace(apply=applied.append)
    tasks.apply_retention(retention, SimpleNamespace(current=None))
    assert applied == []
    tasks.apply_retention(retention, SimpleNamespace(current=SimpleNamespace(logging="limits")))
    assert applied == ["limits"]


def caller(user: int, budget: int | None, *rows: RateLimit) -> Caller:
    return Caller(user, "ann", user + 10, False, None, (), rows, budget=budget)


def test_limits_are_preloaded_once_for_each_snapshot():
    inspected = []
    reserver = SimpleNamespace(inspect=lambda accounts, rows: inspected.append((accounts, rows)))
    snapshots = SimpleNamespace(current=None)
    preloader = tasks.LimitPreloader(snapshots, reserver)
    preloader.preload()
    limited = caller(1, None, RateLimit(3, None, "*", rpm=9))
    snapshots.current = SimpleNamespace(callers={"a": limited, "b": caller(2, None), "c": caller(3, 500)})
    preloader.preload()
    preloader.preload()
    assert [(len(accounts), len(rows)) for accounts, rows in inspected] == [(0, 1), (1, 0)]
    assert inspected[0][1] == (Limit("3", rpm=9),)
    assert inspected[1][0] == (Account("k13", 500),)
    snapshots.current = SimpleNamespace(callers={"a": limited})
    preloader.preload()
    assert len(inspected) == 3


def test_preloading_that_failed_is_repeated():
    calls = []

    def inspect(*args):
        calls.append(args)
        if len(calls) == 1:
            raise Unavailable("away")

    snapshots = SimpleNamespace(current=SimpleNamespace(callers={"c": caller(3, 500)}))
    preloader = tasks.LimitPreloader(snapshots, SimpleNamespace(inspect=inspect))
    with pytest.raises(Unavailable):
        preloader.preload()
    preloader.preload()
    preloader.preload()
    assert len(calls) == 2


def test_slow_queries_delay_no_change_of_another_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(machines, "HEARTBEAT_S", 0.1)  # a heartbeat is due all the time, and it needs a query thread
    with busy_process(tmp_path) as process:
        gevent.sleep(2 * tasks.POLL_S)
        database = process.admin.database
        database.run(entities.put, database, entities.PROVIDER, [{"name": "late", "channel": "openai"}])
        with gevent.Timeout(PROMPT_S):
            while "late" not in process.snapshots.current.providers:
                gevent.sleep(0.05)
