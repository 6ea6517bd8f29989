"""What the shared state is told of accounts and limits: the books as they are, each call once."""

import os
from functools import partial
from pathlib import Path

import gevent
import pytest

from gproxy.accounting.entries import Reader, SettledCall
from gproxy.accounting.journal import Journal
from gproxy.accounting.slots import take_slot
from gproxy.accounting.state_loader import StateLoader
from gproxy.errors import Unavailable
from gproxy.state.interface import Account, Limit, Take
from gproxy.state.mmap.state import MmapState
from gproxy.state.periods import DAY_S
from gproxy.store import ledger, usages
from gproxy.store import models as m
from gproxy.store.database import Database
from gproxy.store.limit_replay import replay_limit
from tests.sample_db import filled

NS = 1_000_000_000
DAY = 20_000 * DAY_S
NOW = (DAY + 12 * 3_600) * NS
USER, KEY, LIMIT = Account("u1", 10**12), Account("k1", 10**12), "1"


class Inline:
    def run(self, function, *args):
        return function(*args)


class Asked:
    """The store's questions on a real database."""

    def __init__(self, database: Database):
        self.account_state = partial(database.run, ledger.account_state)
        self.limit_history = partial(database.run, replay_limit)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    found = filled(tmp_path, f"sqlite:///{tmp_path / 'gproxy.db'}")
    stamps = {"created_at": 0, "updated_at": 0}

    def prepare():
        for table in (m.RateLimit, m.Quota):
            table.delete().execute()
        m.RateLimit.create(id=1, user=1, model_pattern="gpt-*", rpm=9, **stamps)

    found.run(prepare)
    return found


@pytest.fixture
def state(tmp_path: Path) -> MmapState:
    return MmapState(tmp_path / "state", clock=lambda: NOW)


@pytest.fixture
def journal(tmp_path: Path):
    made = Journal(take_slot(tmp_path / "journal"))
    yield made
    made.close()
    os.close(made.slot.lock)


def call(journal: Journal, number: int, cost: int | None, at: int = NOW - NS, model: str = "gpt-4", **changes) -> None:
    """A call that ended with this cost and 30 tokens, or (None) still runs."""
    opened = {name: 1 for name in ("rq", "u", "k", "p", "c", "r", "op", "pr")}
    journal.open({"o": number, "e": 5, "at": at, "m": model, **opened, **changes})
    if cost is not None:
        counts = [10, 20, 0, 0, 0, 0, 0]
        journal.settle({"s": number, "x": "complete", "st": 200, "n": counts, "c": cost, "ps": "model"})


def book(database: Database, journal: Journal) -> list[SettledCall]:
    """All that ended so far into the database; the journal keeps its lines."""
    reader = Reader()
    rows = [booking for path in journal.segments for booking in reader.rows(path, 0, None)]
    database.run(usages.insert, database, rows)
    return rows


def state_loader(state: MmapState, database: Database, tmp_path: Path) -> StateLoader:
    return StateLoader(state, tmp_path / "journal", 0, Asked(database), Inline(), lambda: NOW)


def stands(state: MmapState, account: Account = USER) -> tuple[int, int]:
    (found,) = state.inspect((account,), ()).statuses
    return found.used, found.reserved


def test_an_account_is_the_database_and_what_it_lacks(state, database, journal, tmp_path):
    call(journal, 1, 100)
    book(database, journal)
    call(journal, 2, 30)
    call(journal, 3, None, h=[7, 99])
    call(journal, 4, 1_000, u=2, k=2)
    state_loader(state, database, tmp_path).load(("u1", "k1"))
    assert stands(state) == stands(state, KEY) == (130, 7)
    state.settle(3, 5, 1)
    assert stands(state) == (135, 0)


def test_a_call_whose_settlement_is_to_come_is_not_counted_twice(state, database, journal, tmp_path):
    """Its line is written, and its hold still there: the process is between the two."""
    loading = state_loader(state, database, tmp_path)
    loading.load(("u1",))
    state.take(Take(1, journal.slot.sign(0), (USER,), (), 50, 0))
    call(journal, 1, 40, h=[50, 0])
    state.forget("u1")
    loading.load(("u1",))
    assert stands(state) == (0, 50)
    state.settle(1, 40, 0)
    assert stands(state) == (40, 0)


@pytest.mark.parametrize("unbooked_today", [True, False])
def test_only_the_window_counts_in_which_a_call_was_admitted(state, database, journal, tmp_path, unbooked_today):
    database.run(ledger_quota, database)
    call(journal, 1, 100, at=(DAY - 10) * NS)
    call(journal, 2, 7, at=(DAY + 10) * NS)
    book(database, journal)
    call(journal, 3, 1_000, at=(DAY - 5) * NS)
    if unbooked_today:
        call(journal, 4, 20, at=(DAY + 20) * NS)
    call(journal, 5, None, at=(DAY - 5) * NS, h=[3, 0])
    state_loader(state, database, tmp_path).load(("u1",))
    daily = Account("u1", 10**12, "day")
    assert stands(state, daily) == (27 if unbooked_today else 7, 0)


def ledger_quota(database: Database) -> None:
    m.Quota.create(user=1, quota=10**12, period="day", updated_at=0)


def test_an_unbooked_call_of_a_newer_window_opens_it(state, database, journal, tmp_path):
    database.run(ledger_quota, database)
    call(journal, 1, 100, at=(DAY - 10) * NS)
    book(database, journal)
    call(journal, 2, 7, at=(DAY + 10) * NS)
    state_loader(state, database, tmp_path).load(("u1",))
    assert stands(state, Account("u1", 10**12, "day")) == (7, 0)


def test_with_rows_switched_off_the_marks_tell_what_is_booked(state, database, journal, tmp_path):
    database.run(lambda: m.GlobalSettings.update(enable_usage=False).execute())
    call(journal, 1, 100)
    book(database, journal)
    call(journal, 2, 30)
    state_loader(state, database, tmp_path).load(("u1",))
    assert stands(state) == (130, 0)


def test_a_limit_counts_its_rows_its_journal_and_what_runs(state, database, journal, tmp_path):
    call(journal, 1, 1, at=NOW - 2 * 3_600 * NS)
    call(journal, 2, 1)
    call(journal, 3, 1, model="claude")
    book(database, journal)
    call(journal, 4, 1)
    call(journal, 5, None, h=[0, 500])
    call(journal, 6, 1, u=2)
    state_loader(state, database, tmp_path).load((LIMIT,))
    limit = Limit(LIMIT, rpm=10, rpd=100, total_tokens=10_000, concurrency=5)
    left = {one.counter: one.remaining for one in state.inspect((), (limit,)).statuses}
    assert left == {"rpm": 10 - 3, "rpd": 100 - 4, "total_tokens": 10_000 - 3 * 30 - 500, "concurrency": 4}
    state.settle(5, 0, 20)
    left = {one.counter: one.remaining for one in state.inspect((), (limit,)).statuses}
    assert (left["total_tokens"], left["concurrency"]) == (10_000 - 3 * 30 - 20, 5)


def test_a_call_that_is_booked_between_the_two_readings_is_counted_once(state, database, journal, tmp_path):
    call(journal, 1, None, h=[7, 9])

    class Between(Asked):
        def __init__(self, database):
            super().__init__(database)
            found = self.account_state

            def account_state(*asked):
                journal.settle(
                    {"s": 1, "x": "complete", "st": 200, "n": [10, 20, 0, 0, 0, 0, 0], "c": 70, "ps": "model"}
                )
                book(database, journal)
                return found(*asked)

            self.account_state = account_state

    StateLoader(state, tmp_path / "journal", 0, Between(database), Inline(), lambda: NOW).load(("u1",))
    assert stands(state) == (70, 0)
    assert state.reservations() == {}


def test_the_hold_of_a_running_call_knows_its_tokens_whatever_is_asked_first(state, database, journal, tmp_path):
    call(journal, 1, None, h=[7, 500])
    state_loader(state, database, tmp_path).load(("u1", LIMIT))
    limit = Limit(LIMIT, total_tokens=1_000)
    assert state.inspect((), (limit,)).statuses[0].remaining == 500
    state.settle(1, 5, 20)
    assert state.inspect((), (limit,)).statuses[0].remaining == 980


def test_a_limit_that_is_gone_counts_nothing(state, database, journal, tmp_path):
    state_loader(state, database, tmp_path).load(("77",))
    assert state.inspect((), (Limit("77", rpm=3),)).statuses[0].remaining == 3


def test_whoever_asks_meanwhile_waits_for_the_same_load(state, database, journal, tmp_path):
    read = []

    class Slow(Inline):
        def run(self, function, *args):
            read.append(args)
            gevent.sleep(0.05)
            return function(*args)

    loading = StateLoader(state, tmp_path / "journal", 0, Asked(database), Slow(), lambda: NOW)
    gevent.joinall([gevent.spawn(loading.load, ("u1",)) for _ in range(10)], raise_error=True)
    assert len(read) == 1


def test_all_who_wait_are_told_that_it_failed_and_the_next_one_tries_again(state, database, journal, tmp_path):
    class Away(Inline):
        is_away = True

        def run(self, function, *args):
            gevent.sleep(0.02)
            if self.is_away:
                raise Unavailable
            return function(*args)

    threads = Away()
    loading = StateLoader(state, tmp_path / "journal", 0, Asked(database), threads, lambda: NOW)
    failing = [gevent.spawn(loading.load, ("u1",)) for _ in range(3)]
    gevent.joinall(failing)
    assert all(isinstance(greenlet.exception, Unavailable) for greenlet in failing)
    threads.is_away = False
    loading.load(("u1",))
    assert stands(state) == (0, 0)


def test_an_account_in_which_calls_end_all_the_time_is_loaded_in_the_end(state, database, journal, tmp_path):
    loading = state_loader(state, database, tmp_path)
    loading.load(("u1",))
    for number in range(1, 6):
        state.take(Take(number, "0/000/x", (USER,), (), 50, 0))
    state.forget("u1")
    left = [1, 2, 3]

    class Busy(Inline):
        def run(self, function, *args):
            result = function(*args)
            if left:
                state.settle(left.pop(), 10, 0)
            return result

    StateLoader(state, tmp_path / "journal", 0, Asked(database), Busy(), lambda: NOW).load(("u1",))
    assert stands(state)[1] == 100


def test_a_call_that_ends_while_a_load_has_to_be_made_again_leaves_no_hold(state, database, journal, tmp_path):
    """The first load gave it a hold and was then overtaken; by the second reading it has ended."""
    state.load("u1", state.version("u1"), 0, 0, {}, {})
    assert state.take(Take(2, "0/000/other", (Account("u1", 10**9),), (), 5, 0)).refused is None
    state.forget("u1")
    for number in (1, 2):
        call(journal, number, None, h=[7, 9])

    class Late(Inline):
        is_first = True

        def run(self, function, *args):
            result = function(*args)
            if self.is_first:
                self.is_first = False
                for number in (1, 2):
                    counts = [10, 20, 0, 0, 0, 0, 0]
                    journal.settle({"s": number, "x": "complete", "st": 200, "n": counts, "c": 40, "ps": "model"})
                    state.settle(number, 40, 30)
            return result

    StateLoader(state, tmp_path / "journal", 0, Asked(database), Late(), lambda: NOW).load(("u1",))
    assert state.reservations() == {}
    assert stands(state) == (80, 0)


@pytest.mark.parametrize("key", ["u1", LIMIT])
def test_a_call_that_ends_while_its_account_is_loaded_leaves_no_hold(state, database, journal, tmp_path, key):
    """It was admitted before there was a hold to take, so its own settlement found none."""
    call(journal, 1, None, h=[7, 9])

    class Late(Inline):
        is_first = True

        def run(self, function, *args):
            result = function(*args)
            if self.is_first:
                self.is_first = False
                counts = [10, 20, 0, 0, 0, 0, 0]
                journal.settle({"s": 1, "x": "complete", "st": 200, "n": counts, "c": 40, "ps": "model"})
                state.settle(1, 40, 30)
            return result

    StateLoader(state, tmp_path / "journal", 0, Asked(database), Late(), lambda: NOW).load((key,))
    assert state.reservations() == {}
    if key == "u1":
        assert stands(state) == (40, 0)
    else:
        limit = Limit(LIMIT, total_tokens=1_000, concurrency=2)
        assert [one.remaining for one in state.inspect((), (limit,)).statuses] == [1_000 - 30, 2]
