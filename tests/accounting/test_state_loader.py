"""Accounts and limits are loaded into the shared state from the database and the journal, each call counted once."""

import os
from functools import partial
from pathlib import Path

import gevent
import pytest

from gproxy.accounting.entries import Reserved, Tokens
from gproxy.accounting.journal import Journal
from gproxy.accounting.journal_reader import JournalReader, SettledCall
from gproxy.accounting.slots import MachineSlots, take_slot
from gproxy.accounting.state_loader import StateLoader
from gproxy.errors import Unavailable
from gproxy.state.interface import Account, AccountAmounts, Limit, Take
from gproxy.state.mmap.state import MmapState
from gproxy.state.periods import DAY_S
from gproxy.store import ledger, usages
from gproxy.store import models as m
from gproxy.store.database import Database
from gproxy.store.limit_replay import replay_limit
from tests.journal_entries import opened, settled
from tests.sample_db import filled

NS = 1_000_000_000
DAY = 20_000 * DAY_S
NOW = (DAY + 12 * 3_600) * NS
USER, KEY, LIMIT = Account("u1", 10**12), Account("k1", 10**12), "1"


class Inline:
    def run(self, function, *args):
        return function(*args)


class StoreQueries:
    """The queries of the store on a real database."""

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


def write_call(
    journal: Journal, number: int, cost: int | None, at: int = NOW - NS, model: str = "gpt-4", **changes
) -> None:
    """Writes a call that settled with this cost and 30 tokens, or (None) that is still open."""
    journal.open(opened(number, input_tokens=5, at=at, model=model, **changes))
    if cost is not None:
        settle(journal, number, cost)


def settle(journal: Journal, number: int, cost: int) -> None:
    journal.settle(settled(number, tokens=Tokens(10, 20), cost=cost, price_source="model"))


def store_calls(database: Database, journal: Journal) -> list[SettledCall]:
    """Stores all settled calls in the database; the journal keeps its lines."""
    reader = JournalReader()
    calls = [call for path in journal.segments for call in reader.settled_calls(path, 0, None)]
    database.run(usages.insert, database, calls)
    return calls


def state_loader(state: MmapState, database: Database, tmp_path: Path) -> StateLoader:
    return StateLoader(state, MachineSlots(tmp_path / "journal", 0), StoreQueries(database), Inline(), lambda: NOW)


def used_and_reserved(state: MmapState, account: Account = USER) -> tuple[int, int]:
    (found,) = state.inspect((account,), ()).statuses
    return found.used, found.reserved


def test_an_account_is_the_sum_of_the_database_and_the_unstored_calls(state, database, journal, tmp_path):
    write_call(journal, 1, 100)
    store_calls(database, journal)
    write_call(journal, 2, 30)
    write_call(journal, 3, None, reserved=Reserved(7, 99))
    write_call(journal, 4, 1_000, user_id=2, key_id=2)
    state_loader(state, database, tmp_path).load(("u1", "k1"))
    assert used_and_reserved(state) == used_and_reserved(state, KEY) == (130, 7)
    state.settle(3, 5, 1)
    assert used_and_reserved(state) == (135, 0)


def test_a_call_that_is_settled_in_the_journal_only_is_not_counted_twice(state, database, journal, tmp_path):
    """The worker has written the `settled` line and not yet settled the reservation."""
    loading = state_loader(state, database, tmp_path)
    loading.load(("u1",))
    state.take(Take(1, journal.slot.new_owner(0), (USER,), (), 50, 0))
    write_call(journal, 1, 40, reserved=Reserved(50, 0))
    state.forget("u1")
    loading.load(("u1",))
    assert used_and_reserved(state) == (0, 50)
    state.settle(1, 40, 0)
    assert used_and_reserved(state) == (40, 0)


@pytest.mark.parametrize("has_unstored_call_today", [True, False])
def test_a_call_counts_only_in_the_window_in_which_it_was_sent(
    state, database, journal, tmp_path, has_unstored_call_today
):
    database.run(add_daily_quota, database)
    write_call(journal, 1, 100, at=(DAY - 10) * NS)
    write_call(journal, 2, 7, at=(DAY + 10) * NS)
    store_calls(database, journal)
    write_call(journal, 3, 1_000, at=(DAY - 5) * NS)
    if has_unstored_call_today:
        write_call(journal, 4, 20, at=(DAY + 20) * NS)
    write_call(journal, 5, None, at=(DAY - 5) * NS, reserved=Reserved(3, 0))
    state_loader(state, database, tmp_path).load(("u1",))
    daily = Account("u1", 10**12, "day")
    assert used_and_reserved(state, daily) == (27 if has_unstored_call_today else 7, 0)


def add_daily_quota(database: Database) -> None:
    m.Quota.create(user=1, quota=10**12, period="day", updated_at=0)


def test_an_unstored_call_of_a_newer_window_opens_that_window(state, database, journal, tmp_path):
    database.run(add_daily_quota, database)
    write_call(journal, 1, 100, at=(DAY - 10) * NS)
    store_calls(database, journal)
    write_call(journal, 2, 7, at=(DAY + 10) * NS)
    state_loader(state, database, tmp_path).load(("u1",))
    assert used_and_reserved(state, Account("u1", 10**12, "day")) == (7, 0)


def test_without_usage_rows_the_journal_positions_show_what_is_stored(state, database, journal, tmp_path):
    database.run(lambda: m.GlobalSettings.update(enable_usage=False).execute())
    write_call(journal, 1, 100)
    store_calls(database, journal)
    write_call(journal, 2, 30)
    state_loader(state, database, tmp_path).load(("u1",))
    assert used_and_reserved(state) == (130, 0)


def test_a_limit_counts_its_rows_its_unstored_calls_and_its_open_calls(state, database, journal, tmp_path):
    write_call(journal, 1, 1, at=NOW - 2 * 3_600 * NS)
    write_call(journal, 2, 1)
    write_call(journal, 3, 1, model="claude")
    store_calls(database, journal)
    write_call(journal, 4, 1)
    write_call(journal, 5, None, reserved=Reserved(0, 500))
    write_call(journal, 6, 1, user_id=2)
    state_loader(state, database, tmp_path).load((LIMIT,))
    limit = Limit(LIMIT, rpm=10, rpd=100, total_tokens=10_000, concurrency=5)
    remaining = {one.counter: one.remaining for one in state.inspect((), (limit,)).statuses}
    assert remaining == {"rpm": 10 - 3, "rpd": 100 - 4, "total_tokens": 10_000 - 3 * 30 - 500, "concurrency": 4}
    state.settle(5, 0, 20)
    remaining = {one.counter: one.remaining for one in state.inspect((), (limit,)).statuses}
    assert (remaining["total_tokens"], remaining["concurrency"]) == (10_000 - 3 * 30 - 20, 5)


def test_a_call_that_is_stored_between_the_two_readings_is_counted_once(state, database, journal, tmp_path):
    write_call(journal, 1, None, reserved=Reserved(7, 9))

    class Between(StoreQueries):
        def __init__(self, database):
            super().__init__(database)
            query = self.account_state

            def account_state(*args):
                settle(journal, 1, 70)
                store_calls(database, journal)
                return query(*args)

            self.account_state = account_state

    StateLoader(state, MachineSlots(tmp_path / "journal", 0), Between(database), Inline(), lambda: NOW).load(("u1",))
    assert used_and_reserved(state) == (70, 0)
    assert state.reservations() == {}


def test_the_reservation_of_an_open_call_includes_its_tokens_in_any_order_of_loading(
    state, database, journal, tmp_path
):
    write_call(journal, 1, None, reserved=Reserved(7, 500))
    state_loader(state, database, tmp_path).load(("u1", LIMIT))
    limit = Limit(LIMIT, total_tokens=1_000)
    assert state.inspect((), (limit,)).statuses[0].remaining == 500
    state.settle(1, 5, 20)
    assert state.inspect((), (limit,)).statuses[0].remaining == 980


def test_a_deleted_limit_counts_nothing(state, database, journal, tmp_path):
    state_loader(state, database, tmp_path).load(("77",))
    assert state.inspect((), (Limit("77", rpm=3),)).statuses[0].remaining == 3


def test_concurrent_loads_of_a_key_read_once(state, database, journal, tmp_path):
    read = []

    class Slow(Inline):
        def run(self, function, *args):
            read.append(args)
            gevent.sleep(0.05)
            return function(*args)

    loading = StateLoader(state, MachineSlots(tmp_path / "journal", 0), StoreQueries(database), Slow(), lambda: NOW)
    gevent.joinall([gevent.spawn(loading.load, ("u1",)) for _ in range(10)], raise_error=True)
    assert len(read) == 1


def test_a_failed_load_fails_for_all_who_wait_and_is_repeated_by_the_next_one(state, database, journal, tmp_path):
    class Away(Inline):
        is_away = True

        def run(self, function, *args):
            gevent.sleep(0.02)
            if self.is_away:
                raise Unavailable
            return function(*args)

    threads = Away()
    loading = StateLoader(state, MachineSlots(tmp_path / "journal", 0), StoreQueries(database), threads, lambda: NOW)
    waiting = [gevent.spawn(loading.load, ("u1",)) for _ in range(3)]
    gevent.joinall(waiting)
    assert all(isinstance(greenlet.exception, Unavailable) for greenlet in waiting)
    threads.is_away = False
    loading.load(("u1",))
    assert used_and_reserved(state) == (0, 0)


def test_an_account_in_which_calls_keep_settling_is_loaded_in_the_end(state, database, journal, tmp_path):
    loading = state_loader(state, database, tmp_path)
    loading.load(("u1",))
    for number in range(1, 6):
        state.take(Take(number, "0/000/x", (USER,), (), 50, 0))
    state.forget("u1")
    remaining = [1, 2, 3]

    class Busy(Inline):
        def run(self, function, *args):
            result = function(*args)
            if remaining:
                state.settle(remaining.pop(), 10, 0)
            return result

    StateLoader(state, MachineSlots(tmp_path / "journal", 0), StoreQueries(database), Busy(), lambda: NOW).load(("u1",))
    assert used_and_reserved(state)[1] == 100


def test_a_call_that_ends_while_a_load_is_repeated_leaves_no_reservation(state, database, journal, tmp_path):
    """The first load made a reservation for it and had to be repeated; at the second reading it has ended."""
    state.load("u1", state.version("u1"), AccountAmounts(0, 0, {}, {}))
    assert state.take(Take(2, "0/000/other", (Account("u1", 10**9),), (), 5, 0)).refused is None
    state.forget("u1")
    for number in (1, 2):
        write_call(journal, number, None, reserved=Reserved(7, 9))

    class Late(Inline):
        is_first = True

        def run(self, function, *args):
            result = function(*args)
            if self.is_first:
                self.is_first = False
                for number in (1, 2):
                    settle(journal, number, 40)
                    state.settle(number, 40, 30)
            return result

    StateLoader(state, MachineSlots(tmp_path / "journal", 0), StoreQueries(database), Late(), lambda: NOW).load(("u1",))
    assert state.reservations() == {}
    assert used_and_reserved(state) == (80, 0)


@pytest.mark.parametrize("key", ["u1", LIMIT])
def test_a_call_that_ends_while_its_account_is_loaded_leaves_no_reservation(state, database, journal, tmp_path, key):
    """It was sent before the account or the limit existed, so its own settlement found no reservation."""
    write_call(journal, 1, None, reserved=Reserved(7, 9))

    class Late(Inline):
        is_first = True

        def run(self, function, *args):
            result = function(*args)
            if self.is_first:
                self.is_first = False
                settle(journal, 1, 40)
                state.settle(1, 40, 30)
            return result

    StateLoader(state, MachineSlots(tmp_path / "journal", 0), StoreQueries(database), Late(), lambda: NOW).load((key,))
    assert state.reservations() == {}
    if key == "u1":
        assert used_and_reserved(state) == (40, 0)
    else:
        limit = Limit(LIMIT, total_tokens=1_000, concurrency=2)
        assert [one.remaining for one in state.inspect((), (limit,)).statuses] == [1_000 - 30, 2]
