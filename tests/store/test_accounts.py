"""Accounts: which calls and changes count in which window, and that accounts always agree with their rows."""

import time
from collections import defaultdict
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gproxy.accounting.journal_reader import SettledCall
from gproxy.errors import NotFound
from gproxy.state.periods import PERIODS, window
from gproxy.store import accounts, ledger, ledger_check, snapshot_loader, usage_queries, usages
from gproxy.store import models as m
from gproxy.store.accounts import DAY, UNCHANGED, Account
from gproxy.store.database import Database
from gproxy.store.seeding import NewUser
from gproxy.units import NS
from tests import postgres
from tests.examples import examples
from tests.sample_db import filled, key
from tests.store.test_usages import row

SEGMENTS = count()
ROOT, ANN, MISSING = 1, 2, 99  # ids of users and of their first keys
SECOND_KEY = 3  # of Ann
SEEDED_USERS = (
    NewUser("root", None, True, True, (key("sk-root"),)),
    NewUser("ann", None, True, False, (key("sk-ann"), key("sk-ann-2"))),
)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def location(request, tmp_path_factory) -> tuple[str, Path]:
    """DSN and data directory of a filled database of each kind, for all tests of this file."""
    folder = tmp_path_factory.mktemp("accounts")
    is_sqlite = request.param == "sqlite"
    dsn = f"sqlite:///{folder / 'gproxy.db'}" if is_sqlite else postgres.fresh_database(request.config)
    filled(folder, dsn, users=SEEDED_USERS)
    return dsn, folder


def without_usage(location: tuple[str, Path]) -> Database:
    """The database without usage rows and accounts."""
    database = Database(*location)

    def delete():
        for table in (m.UsageRollup, m.Usage, m.Adjustment, m.JournalPosition, m.Quota):
            table.delete().execute()
        m.UserKey.update(cost_used=0, budget=None).execute()
        m.GlobalSettings.update(enable_usage=True).execute()

    database.run(delete)
    return database


@pytest.fixture
def database(location: tuple[str, Path]) -> Database:
    return without_usage(location)


def call(number: int, at: int | None = None, cost: int = 1_000, user: int = ANN, key: int | None = None) -> dict:
    at = time.time_ns() if at is None else at
    return row(number, at=at, cost=cost, user_id=user, user_key_id=user if key is None else key)


def store(database: Database, *calls: dict) -> None:
    """Stores each call from a journal segment of its own, so that calls may be stored in any order."""
    database.run(usages.insert, database, [SettledCall(one, f"segment-{one['trace_id']}", 1) for one in calls])


def used(database: Database, user: int = ANN) -> int:
    """What the user has spent, after a ledger check."""
    assert database.run(ledger_check.verify).differences == ()
    return database.run(ledger.account, user).cost_used


def key_used(database: Database, key: int = ANN) -> int:
    """What the key has spent, after a ledger check."""
    assert database.run(ledger_check.verify).differences == ()
    return database.run(ledger.key_account, key).cost_used


def days(number: float) -> int:
    """The time this many days from now, in nanoseconds."""
    return time.time_ns() + int(number * DAY)


def start(period: str | None) -> int:
    """The start of the current window, in seconds since the epoch."""
    return window(period, time.time())[0]


def adjustments(database: Database, kind: str) -> list[tuple]:
    fields = (m.Adjustment.user_id, m.Adjustment.key_id, m.Adjustment.at, m.Adjustment.cost, m.Adjustment.requests)
    found = m.Adjustment.select(*fields).where(m.Adjustment.kind == kind)
    return database.run(lambda: sorted(found.tuples()))


def test_an_account_is_created_with_the_first_call(database: Database):
    assert database.run(ledger.account, ANN) == Account(0)
    assert database.run(m.Quota.select().count) == 0
    store(database, call(1), call(2, user=ROOT, cost=0))
    assert database.run(ledger.account, ANN) == Account(1_000)
    assert database.run(m.Quota.select().count) == 2


def test_an_account_without_a_period_counts_all_calls(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None)
    store(database, call(1, days(-400)), call(2), call(3, days(40)))
    assert used(database) == 3_000
    assert database.run(ledger.account, ANN) == Account(3_000, 0, 5_000, None)


@pytest.mark.parametrize("period", PERIODS)
def test_a_window_counts_the_calls_in_it(database: Database, period):
    database.run(accounts.set_quota, database, ANN, 5_000, None, period)
    begin = start(period) * NS
    store(database, call(1, begin), call(2, begin - 1), call(3))
    assert database.run(ledger.account, ANN) == Account(2_000, start(period), 5_000, period)
    assert (used(database), key_used(database)) == (2_000, 3_000)


@pytest.mark.parametrize("period", PERIODS)
def test_a_call_of_a_later_window_starts_it_and_a_call_of_an_earlier_one_changes_nothing(database: Database, period):
    database.run(accounts.set_quota, database, ANN, 5_000, None, period)
    end = window(period, time.time())[1] * NS
    store(database, call(1), call(2, end, cost=5), call(3, end - 1))
    assert database.run(ledger.account, ANN) == Account(5, end // NS, 5_000, period)
    store(database, call(4), call(5, end + 1, cost=7))
    assert used(database) == 12


def test_nothing_is_used_of_a_new_window(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None, "day")
    store(database, call(1))
    (found,) = database.run(accounts.list_accounts, {"user_id": [ANN]}, days(0))
    assert found == (ANN, Account(1_000, start("day"), 5_000, "day"))
    (found,) = database.run(accounts.list_accounts, {}, days(1))
    assert found == (ANN, Account(0, start("day") + 86_400, 5_000, "day"))


def test_accounts_are_listed_by_user_and_in_pages(database: Database):
    store(database, call(1), call(2, user=ROOT))
    for filters, found in (({}, [ROOT, ANN]), ({"limit": 1}, [ROOT]), ({"offset": 1}, [ANN]), ({"user_id": []}, [])):
        assert [user for user, _ in database.run(accounts.list_accounts, filters, 0)] == found


def test_the_used_amount_of_a_user_can_be_set(database: Database):
    store(database, call(1))
    database.run(accounts.set_used, database, ANN, 0)
    assert (used(database), key_used(database)) == (0, 1_000)
    store(database, call(2, cost=3))
    assert used(database) == 3
    database.run(accounts.set_used, database, ANN, 50)
    assert used(database) == 50
    adjusted = database.run(lambda: [(a.user_id, a.key_id, a.cost, a.note) for a in m.Adjustment.select()])
    assert adjusted == [(ANN, None, -1_000, "set from 1000 to 0"), (ANN, None, 47, "set from 3 to 50")]


def test_setting_the_used_amount_of_a_key_does_not_change_its_user(database: Database):
    store(database, call(1))
    database.run(accounts.set_key_used, database, ANN, 0)
    store(database, call(2, cost=3))
    assert (used(database), key_used(database)) == (1_003, 3)


def test_setting_the_used_amount_corrects_a_wrong_account(database: Database):
    store(database, call(1))
    database.run(m.Quota.update(cost_used=77).execute)
    database.run(m.UserKey.update(cost_used=78).where(m.UserKey.id == ANN).execute)
    assert [d.account for d in database.run(ledger_check.verify).differences] == ["u2", "k2"]
    database.run(accounts.set_used, database, ANN, 1_000)
    database.run(accounts.set_key_used, database, ANN, 5)
    assert (used(database), key_used(database)) == (1_000, 5)


def test_a_set_amount_counts_in_the_current_window_only(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None, "day")
    store(database, call(1, days(-1)))
    database.run(accounts.set_used, database, ANN, 9)
    assert database.run(ledger.account, ANN) == Account(9, start("day"), 5_000, "day")
    store(database, call(2, days(1), cost=1))
    assert used(database) == 1


def test_another_quota_does_not_move_the_window(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, 40, "month")
    store(database, call(1))
    database.run(accounts.set_quota, database, ANN, 1, None)
    assert database.run(ledger.account, ANN) == Account(1_040, start("month"), 1, "month")
    database.run(accounts.set_quota, database, ANN, 1, None, "month")
    assert used(database) == 1_040


def test_another_period_recomputes_the_account_for_its_window(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None, "day")
    store(database, call(1, days(-40), cost=1), call(2, days(-400), cost=2), call(3, cost=4))
    assert used(database) == 4
    database.run(accounts.set_quota, database, ANN, 5_000, None, None)
    assert database.run(ledger.account, ANN) == Account(7, 0, 5_000, None)
    database.run(accounts.set_quota, database, ANN, 5_000, None, "month")
    assert database.run(ledger.account, ANN) == Account(4, start("month"), 5_000, "month")


def test_an_account_is_not_negative_in_a_shorter_window(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None)
    store(database, call(1, days(-40)))
    database.run(accounts.set_used, database, ANN, 0)
    database.run(accounts.set_quota, database, ANN, 5_000, None, "day")
    assert used(database) == 0
    store(database, call(2, cost=5))
    assert used(database) == 5


def test_a_new_period_starts_with_the_newest_row_if_a_clock_was_ahead(database: Database):
    store(database, call(1, days(3)), call(2))
    database.run(accounts.set_quota, database, ANN, 5_000, None, "day")
    assert used(database) == 1_000
    store(database, call(3, days(3), cost=1), call(4, days(4), cost=2), call(5, days(3), cost=4))
    assert used(database) == 2


def test_an_account_without_a_quota_keeps_counting(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, 10, "month")
    database.run(accounts.remove_quota, database, ANN)
    store(database, call(1))
    assert database.run(ledger.account, ANN) == Account(1_010, start("month"), None, "month")
    with pytest.raises(NotFound, match=f"user {ANN} has no quota"):
        database.run(accounts.remove_quota, database, ANN)


CHANGES = [
    (accounts.set_quota, 5, None),
    (accounts.set_quota, 5, 5, "day"),
    (accounts.set_used, 5),
    (accounts.set_key_used, 5),
    (accounts.remove_quota,),
]


@pytest.mark.parametrize(("function", "args"), [(function, args) for function, *args in CHANGES])
def test_the_account_of_a_missing_user_cannot_be_changed(database: Database, function, args):
    with pytest.raises(NotFound, match=str(MISSING)):
        database.run(function, database, MISSING, *args)
    assert database.run(m.Quota.select().count) == database.run(m.Adjustment.select().count) == 0


def test_only_a_change_of_the_quota_increments_the_revision(database: Database):
    def revision() -> int:
        return database.run(snapshot_loader.revisions)["users"]

    before = revision()
    store(database, call(1))
    database.run(accounts.set_used, database, ANN, 1)
    database.run(accounts.delete_usages, database, [1])
    assert revision() == before
    database.run(accounts.set_quota, database, ANN, 5, None)
    database.run(accounts.remove_quota, database, ANN)
    assert revision() == before + 2


def test_the_cost_of_deleted_rows_stays_in_the_accounts(database: Database):
    day = int(datetime(2026, 3, 4, tzinfo=UTC).timestamp()) * NS
    store(database, call(1, day), call(2, day + DAY - 1, cost=5), call(3, day + DAY), call(4, day, user=ROOT), call(5))
    store(database, call(6, day, cost=7, key=SECOND_KEY))
    assert database.run(accounts.delete_usages, database, [1, 2, 3, 4, 6, MISSING]) == 5
    assert database.run(usage_queries.totals, {}).count == 1
    assert adjustments(database, "deletion") == [
        (ROOT, ROOT, day, 1_000, 1),
        (ANN, ANN, day, 1_005, 2),
        (ANN, ANN, day + DAY, 1_000, 1),
        (ANN, SECOND_KEY, day, 7, 1),
    ]
    assert (used(database), key_used(database), key_used(database, SECOND_KEY)) == (3_012, 3_005, 7)
    assert used(database, ROOT) == 1_000


def test_deleting_no_rows_changes_nothing(database: Database):
    store(database, call(1))
    assert database.run(accounts.delete_usages, database, []) == 0
    assert database.run(accounts.delete_usages, database, [2, 3]) == 0
    assert (used(database), database.run(m.Adjustment.select().count)) == (1_000, 0)


def test_many_rows_are_deleted_in_one_call(database: Database):
    calls = [call(number, cost=number) for number in range(1, 1_204)]
    store(database, *calls)
    assert database.run(accounts.delete_usages, database, [c["trace_id"] for c in calls]) == len(calls)
    assert used(database) == sum(range(1, 1_204))


def test_old_rows_are_deleted_in_steps_the_oldest_first(database: Database):
    day = int(datetime(2026, 3, 4, tzinfo=UTC).timestamp()) * NS
    store(database, *(call(number, day + number * 1_000_000) for number in range(1, 11)), call(11))
    steps = [database.run(accounts.delete_usages_before, database, day + 8_000_001, 3) for _ in range(4)]
    assert steps == [3, 3, 2, 0]
    assert [found["trace_id"] for found in database.run(usages.query, {})] == [11, 10, 9]
    # All steps add to one adjustment for the day.
    assert adjustments(database, "retention") == [(ANN, ANN, day, 8_000, 8)]
    assert used(database) == 11_000


def test_deleting_rows_of_an_earlier_window_does_not_change_the_account(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None, "day")
    store(database, call(1, days(-1)), call(2))
    assert database.run(accounts.delete_usages, database, [1, 2]) == 2
    assert (used(database), key_used(database)) == (1_000, 2_000)


def test_an_account_at_the_greatest_integer_stays_there_and_blocks_no_batch(database: Database):
    maximum = 2**63 - 1
    store(database, call(1, cost=maximum), call(2, cost=maximum), call(3))
    store(database, call(4, cost=2**70), call(5, cost=2**70))
    assert (used(database), key_used(database)) == (maximum, maximum)
    database.run(accounts.delete_usages, database, [1, 2, 3])
    database.run(accounts.delete_usages, database, [4, 5])
    assert (used(database), key_used(database)) == (maximum, maximum)


# Random histories, compared with a model that has no rows.


class Expected:
    """The expected account: amounts with their times, and the start of the window."""

    def __init__(self):
        self.amounts: list[tuple[int, int]] = []
        self.opening, self.opened_at, self.period = 0, 0, None

    @property
    def used(self) -> int:
        return self.opening + sum(amount for at, amount in self.amounts if at >= self.opened_at)

    def open_window(self, at: int) -> None:
        begin = window(self.period, at // NS)[0] * NS
        if begin > self.opened_at:
            self.opening, self.opened_at = 0, begin

    def set(self, now: int, nano: int) -> None:
        self.open_window(now)
        self.amounts.append((max(now, self.opened_at), nano - self.used))

    def change_period(self, now: int, period: str | None) -> None:
        self.open_window(now)
        if period == self.period:
            return
        begin = window(period, max([now, *(at for at, _ in self.amounts)]) // NS)[0] * NS
        self.opening = self.opening if begin <= self.opened_at else 0
        self.period, self.opened_at = period, begin
        self.opening -= min(self.used, 0)


NOW = time.time_ns()
USERS = st.sampled_from([ROOT, ANN])
KEYS = st.sampled_from([ROOT, ANN, SECOND_KEY])
CALLERS = st.sampled_from([(ROOT, ROOT), (ANN, ANN), (ANN, SECOND_KEY), (MISSING, MISSING)])
IDS = st.integers(1, 25)
AMOUNTS = st.integers(0, 50)
BATCHES = st.lists(IDS, min_size=1, max_size=8)
CALLS = st.fixed_dictionaries({number: st.tuples(st.integers(-40, 3), AMOUNTS, CALLERS) for number in range(1, 26)})
OPERATIONS = st.one_of(
    st.tuples(st.just("store"), BATCHES),
    st.tuples(st.just("store"), BATCHES),
    st.tuples(st.just("store"), BATCHES),
    st.tuples(st.just("rows"), st.booleans()),
    st.tuples(st.just("set"), USERS, AMOUNTS),
    st.tuples(st.just("set key"), KEYS, AMOUNTS),
    st.tuples(st.just("quota"), USERS, st.none() | AMOUNTS, st.sampled_from([UNCHANGED, None, *PERIODS])),
    st.tuples(st.just("delete"), st.lists(IDS, max_size=8)),
    st.tuples(st.just("retain"), st.integers(-41, 4), st.integers(1, 5)),
)


def test_no_history_loses_or_adds_money(location, monkeypatch):
    monkeypatch.setattr(ledger_check, "VISIBILITY_DELAY_NS", 0)  # no other process writes here

    @settings(deadline=None, max_examples=examples(40 if location[0].startswith("sqlite") else 15))
    @given(calls=CALLS, operations=st.lists(OPERATIONS, max_size=14))
    def run_history(calls, operations):
        database = without_usage(location)
        users, keys, stored = defaultdict(Expected), defaultdict(int), set()
        checkpoint = None
        for operation, *args in operations:
            now = time.time_ns()
            match operation, args:
                case "store", [numbers]:
                    chosen = {n: call(n, NOW + calls[n][0] * DAY, calls[n][1], *calls[n][2]) for n in numbers}
                    store(database, *(chosen[n] for n in numbers))
                    fresh = [one for n, one in chosen.items() if n not in stored]
                    stored |= chosen.keys()
                    for user in {one["user_id"] for one in fresh}:
                        own = [(one["at"], one["cost"]) for one in fresh if one["user_id"] == user]
                        users[user].amounts += own
                        users[user].open_window(max(at for at, _ in own))
                    for one in fresh:
                        keys[one["user_key_id"]] += one["cost"]
                case "rows", [enable_usage]:
                    database.run(m.GlobalSettings.update(enable_usage=enable_usage).execute)
                case "set", [user, nano]:
                    database.run(accounts.set_used, database, user, nano)
                    users[user].set(now, nano)
                case "set key", [owner, nano]:
                    database.run(accounts.set_key_used, database, owner, nano)
                    keys[owner] = nano
                case "quota", [user, nano, period]:
                    database.run(accounts.set_quota, database, user, 10, nano, period)
                    users[user].change_period(now, users[user].period if period is UNCHANGED else period)
                    if nano is not None:
                        users[user].set(now, nano)
                case "delete", [numbers]:
                    database.run(accounts.delete_usages, database, numbers)
                case "retain", [day, maximum]:
                    database.run(accounts.delete_usages_before, database, NOW + day * DAY, maximum)
            report = database.run(ledger_check.verify, checkpoint)
            checkpoint = report.checkpoint
            assert report.differences == ()
            for user in (ROOT, ANN):
                assert used(database, user) == users[user].used, operation
            for owner in (ROOT, ANN, SECOND_KEY):
                assert key_used(database, owner) == keys[owner], operation

    run_history()
