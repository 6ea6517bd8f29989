"""Accounts: what changes them, in which window, and that they always say what their rows add up to."""

import time
from collections import defaultdict
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gproxy.accounting.entries import SettledCall
from gproxy.errors import NotFound
from gproxy.state.periods import PERIODS, window
from gproxy.store import accounts, ledger, ledger_check, snapshot_loader, usage_queries, usages
from gproxy.store import models as m
from gproxy.store.accounts import AS_IT_IS, DAY, Account
from gproxy.store.database import Database
from gproxy.store.seeding import NewUser
from gproxy.units import NS
from tests import postgres
from tests.sample_db import filled, key
from tests.store.test_usages import row

SEGMENTS = count()
ROOT, ANN, NOBODY = 1, 2, 99  # users, and their first keys
SECOND_KEY = 3  # of Ann
PEOPLE = (
    NewUser("root", None, True, True, (key("sk-root"),)),
    NewUser("ann", None, True, False, (key("sk-ann"), key("sk-ann-2"))),
)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def made(request, tmp_path_factory) -> tuple[str, Path]:
    """One filled database of either kind, for all tests here."""
    folder = tmp_path_factory.mktemp("accounts")
    is_sqlite = request.param == "sqlite"
    dsn = f"sqlite:///{folder / 'gproxy.db'}" if is_sqlite else postgres.fresh_database(request.config)
    filled(folder, dsn, users=PEOPLE)
    return dsn, folder


def emptied(made: tuple[str, Path]) -> Database:
    database = Database(*made)

    def empty():
        for table in (m.UsageRollup, m.Usage, m.Adjustment, m.JournalPosition, m.Quota):
            table.delete().execute()
        m.UserKey.update(cost_used=0, budget=None).execute()
        m.GlobalSettings.update(enable_usage=True).execute()

    database.run(empty)
    return database


@pytest.fixture
def database(made: tuple[str, Path]) -> Database:
    return emptied(made)


def call(number: int, at: int | None = None, cost: int = 1_000, user: int = ANN, key: int | None = None) -> dict:
    moment = time.time_ns() if at is None else at
    return row(number, at=moment, cost=cost, user_id=user, user_key_id=user if key is None else key)


def book(database: Database, *calls: dict) -> None:
    """Each call from a journal of its own, so that they may come in any order."""
    database.run(usages.book, database, [SettledCall(one, f"segment-{one['trace_id']}", 1) for one in calls])


def used(database: Database, user: int = ANN) -> int:
    """What the user has spent, proved."""
    assert database.run(ledger_check.verify).differences == ()
    return database.run(ledger.account, user).cost_used


def key_used(database: Database, key: int = ANN) -> int:
    assert database.run(ledger_check.verify).differences == ()
    return database.run(ledger.key_account, key).cost_used


def days(number: float) -> int:
    """So many days from now, in nanoseconds."""
    return time.time_ns() + int(number * DAY)


def start(period: str | None) -> int:
    return window(period, time.time())[0]


def adjustments(database: Database, kind: str) -> list[tuple]:
    fields = (m.Adjustment.user_id, m.Adjustment.key_id, m.Adjustment.at, m.Adjustment.cost, m.Adjustment.requests)
    found = m.Adjustment.select(*fields).where(m.Adjustment.kind == kind)
    return database.run(lambda: sorted(found.tuples()))


def test_an_account_is_opened_by_the_first_call(database: Database):
    assert database.run(ledger.account, ANN) == Account(0)
    assert database.run(m.Quota.select().count) == 0
    book(database, call(1), call(2, user=ROOT, cost=0))
    assert database.run(ledger.account, ANN) == Account(1_000)
    assert database.run(m.Quota.select().count) == 2


def test_an_account_without_a_period_counts_for_ever(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None)
    book(database, call(1, days(-400)), call(2), call(3, days(40)))
    assert used(database) == 3_000
    assert database.run(ledger.account, ANN) == Account(3_000, 0, 5_000, None)


@pytest.mark.parametrize("period", PERIODS)
def test_a_window_counts_what_was_called_in_it(database: Database, period):
    database.run(accounts.set_quota, database, ANN, 5_000, None, period)
    begin = start(period) * NS
    book(database, call(1, begin), call(2, begin - 1), call(3))
    assert database.run(ledger.account, ANN) == Account(2_000, start(period), 5_000, period)
    assert (used(database), key_used(database)) == (2_000, 3_000)


@pytest.mark.parametrize("period", PERIODS)
def test_a_call_of_a_later_window_begins_it_and_one_of_an_earlier_changes_nothing(database: Database, period):
    database.run(accounts.set_quota, database, ANN, 5_000, None, period)
    end = window(period, time.time())[1] * NS
    book(database, call(1), call(2, end, cost=5), call(3, end - 1))
    assert database.run(ledger.account, ANN) == Account(5, end // NS, 5_000, period)
    book(database, call(4), call(5, end + 1, cost=7))
    assert used(database) == 12


def test_a_window_that_is_over_shows_nothing_used(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None, "day")
    book(database, call(1))
    (shown,) = database.run(accounts.of_users, {"user_id": [ANN]}, days(0))
    assert shown == (ANN, Account(1_000, start("day"), 5_000, "day"))
    (shown,) = database.run(accounts.of_users, {}, days(1))
    assert shown == (ANN, Account(0, start("day") + 86_400, 5_000, "day"))


def test_accounts_are_told_in_the_order_of_users_and_up_to_a_number(database: Database):
    book(database, call(1), call(2, user=ROOT))
    for asked, found in (({}, [ROOT, ANN]), ({"limit": 1}, [ROOT]), ({"offset": 1}, [ANN]), ({"user_id": []}, [])):
        assert [user for user, _ in database.run(accounts.of_users, asked, 0)] == found


def test_what_was_used_may_be_set(database: Database):
    book(database, call(1))
    database.run(accounts.set_used, database, ANN, 0)
    assert (used(database), key_used(database)) == (0, 1_000)
    book(database, call(2, cost=3))
    assert used(database) == 3
    database.run(accounts.set_used, database, ANN, 50)
    assert used(database) == 50
    told = database.run(lambda: [(a.user_id, a.key_id, a.cost, a.note) for a in m.Adjustment.select()])
    assert told == [(ANN, None, -1_000, "set from 1000 to 0"), (ANN, None, 47, "set from 3 to 50")]


def test_what_a_key_used_may_be_set_and_its_user_used_as_much_as_before(database: Database):
    book(database, call(1))
    database.run(accounts.set_key_used, database, ANN, 0)
    book(database, call(2, cost=3))
    assert (used(database), key_used(database)) == (1_003, 3)


def test_setting_makes_a_wrong_account_right(database: Database):
    book(database, call(1))
    database.run(m.Quota.update(cost_used=77).execute)
    database.run(m.UserKey.update(cost_used=78).where(m.UserKey.id == ANN).execute)
    assert [d.account for d in database.run(ledger_check.verify).differences] == ["u2", "k2"]
    database.run(accounts.set_used, database, ANN, 1_000)
    database.run(accounts.set_key_used, database, ANN, 5)
    assert (used(database), key_used(database)) == (1_000, 5)


def test_what_is_set_holds_in_the_window_that_runs(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None, "day")
    book(database, call(1, days(-1)))
    database.run(accounts.set_used, database, ANN, 9)
    assert database.run(ledger.account, ANN) == Account(9, start("day"), 5_000, "day")
    book(database, call(2, days(1), cost=1))
    assert used(database) == 1


def test_a_quota_that_changes_moves_no_window(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, 40, "month")
    book(database, call(1))
    database.run(accounts.set_quota, database, ANN, 1, None)
    assert database.run(ledger.account, ANN) == Account(1_040, start("month"), 1, "month")
    database.run(accounts.set_quota, database, ANN, 1, None, "month")
    assert used(database) == 1_040


def test_another_period_adds_up_what_its_window_holds(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None, "day")
    book(database, call(1, days(-40), cost=1), call(2, days(-400), cost=2), call(3, cost=4))
    assert used(database) == 4
    database.run(accounts.set_quota, database, ANN, 5_000, None, None)
    assert database.run(ledger.account, ANN) == Account(7, 0, 5_000, None)
    database.run(accounts.set_quota, database, ANN, 5_000, None, "month")
    assert database.run(ledger.account, ANN) == Account(4, start("month"), 5_000, "month")


def test_a_shorter_window_never_holds_less_than_nothing(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None)
    book(database, call(1, days(-40)))
    database.run(accounts.set_used, database, ANN, 0)
    database.run(accounts.set_quota, database, ANN, 5_000, None, "day")
    assert used(database) == 0
    book(database, call(2, cost=5))
    assert used(database) == 5


def test_a_clock_that_was_ahead_does_not_confuse_a_new_period(database: Database):
    book(database, call(1, days(3)), call(2))
    database.run(accounts.set_quota, database, ANN, 5_000, None, "day")
    assert used(database) == 1_000
    book(database, call(3, days(3), cost=1), call(4, days(4), cost=2), call(5, days(3), cost=4))
    assert used(database) == 2


def test_without_a_quota_an_account_goes_on_counting(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, 10, "month")
    database.run(accounts.remove_quota, database, ANN)
    book(database, call(1))
    assert database.run(ledger.account, ANN) == Account(1_010, start("month"), None, "month")
    with pytest.raises(NotFound, match=f"user {ANN} has no quota"):
        database.run(accounts.remove_quota, database, ANN)


NOBODYS = [
    (accounts.set_quota, 5, None),
    (accounts.set_quota, 5, 5, "day"),
    (accounts.set_used, 5),
    (accounts.set_key_used, 5),
    (accounts.remove_quota,),
]


@pytest.mark.parametrize(("function", "rest"), [(function, rest) for function, *rest in NOBODYS])
def test_nobody_has_no_account(database: Database, function, rest):
    with pytest.raises(NotFound, match=str(NOBODY)):
        database.run(function, database, NOBODY, *rest)
    assert database.run(m.Quota.select().count) == database.run(m.Adjustment.select().count) == 0


def test_only_a_quota_is_told_to_the_workers(database: Database):
    def revision() -> int:
        return database.run(snapshot_loader.revisions)["users"]

    before = revision()
    book(database, call(1))
    database.run(accounts.set_used, database, ANN, 1)
    database.run(accounts.delete_usages, database, [1])
    assert revision() == before
    database.run(accounts.set_quota, database, ANN, 5, None)
    database.run(accounts.remove_quota, database, ANN)
    assert revision() == before + 2


def test_rows_that_are_deleted_stay_spent(database: Database):
    day = int(datetime(2026, 3, 4, tzinfo=UTC).timestamp()) * NS
    book(database, call(1, day), call(2, day + DAY - 1, cost=5), call(3, day + DAY), call(4, day, user=ROOT), call(5))
    book(database, call(6, day, cost=7, key=SECOND_KEY))
    assert database.run(accounts.delete_usages, database, [1, 2, 3, 4, 6, NOBODY]) == 5
    assert database.run(usage_queries.summary, {}).count == 1
    assert adjustments(database, "deletion") == [
        (ROOT, ROOT, day, 1_000, 1),
        (ANN, ANN, day, 1_005, 2),
        (ANN, ANN, day + DAY, 1_000, 1),
        (ANN, SECOND_KEY, day, 7, 1),
    ]
    assert (used(database), key_used(database), key_used(database, SECOND_KEY)) == (3_012, 3_005, 7)
    assert used(database, ROOT) == 1_000


def test_deleting_nothing_changes_nothing(database: Database):
    book(database, call(1))
    assert database.run(accounts.delete_usages, database, []) == 0
    assert database.run(accounts.delete_usages, database, [2, 3]) == 0
    assert (used(database), database.run(m.Adjustment.select().count)) == (1_000, 0)


def test_many_rows_are_deleted_at_once(database: Database):
    calls = [call(number, cost=number) for number in range(1, 1_204)]
    book(database, *calls)
    assert database.run(accounts.delete_usages, database, [c["trace_id"] for c in calls]) == len(calls)
    assert used(database) == sum(range(1, 1_204))


def test_old_rows_are_removed_step_by_step_oldest_first(database: Database):
    day = int(datetime(2026, 3, 4, tzinfo=UTC).timestamp()) * NS
    book(database, *(call(number, day + number * 1_000_000) for number in range(1, 11)), call(11))
    steps = [database.run(accounts.delete_usages_before, database, day + 8_000_001, 3) for _ in range(4)]
    assert steps == [3, 3, 2, 0]
    assert [found["trace_id"] for found in database.run(usages.query, {})] == [11, 10, 9]
    # All steps of a day make one adjustment.
    assert adjustments(database, "retention") == [(ANN, ANN, day, 8_000, 8)]
    assert used(database) == 11_000


def test_rows_of_a_window_that_is_over_are_removed_without_a_trace_in_the_account(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None, "day")
    book(database, call(1, days(-1)), call(2))
    assert database.run(accounts.delete_usages, database, [1, 2]) == 2
    assert (used(database), key_used(database)) == (1_000, 2_000)


def test_an_account_that_is_full_stays_full_and_keeps_nobody_out(database: Database):
    maximum = 2**63 - 1
    book(database, call(1, cost=maximum), call(2, cost=maximum), call(3))
    book(database, call(4, cost=2**70), call(5, cost=2**70))
    assert (used(database), key_used(database)) == (maximum, maximum)
    database.run(accounts.delete_usages, database, [1, 2, 3])
    database.run(accounts.delete_usages, database, [4, 5])
    assert (used(database), key_used(database)) == (maximum, maximum)


# A history, and what it must lead to, told without any row.


class Expected:
    """An account as it should be: amounts with their moments, and where the window began."""

    def __init__(self):
        self.amounts: list[tuple[int, int]] = []
        self.opening, self.opened_at, self.period = 0, 0, None

    @property
    def used(self) -> int:
        return self.opening + sum(amount for at, amount in self.amounts if at >= self.opened_at)

    def enter(self, at: int) -> None:
        begin = window(self.period, at // NS)[0] * NS
        if begin > self.opened_at:
            self.opening, self.opened_at = 0, begin

    def set(self, now: int, nano: int) -> None:
        self.enter(now)
        self.amounts.append((max(now, self.opened_at), nano - self.used))

    def change_period(self, now: int, period: str | None) -> None:
        self.enter(now)
        if period == self.period:
            return
        begin = window(period, max([now, *(at for at, _ in self.amounts)]) // NS)[0] * NS
        self.opening = self.opening if begin <= self.opened_at else 0
        self.period, self.opened_at = period, begin
        self.opening -= min(self.used, 0)


NOW = time.time_ns()
USERS = st.sampled_from([ROOT, ANN])
KEYS = st.sampled_from([ROOT, ANN, SECOND_KEY])
CALLERS = st.sampled_from([(ROOT, ROOT), (ANN, ANN), (ANN, SECOND_KEY), (NOBODY, NOBODY)])
IDS = st.integers(1, 25)
AMOUNTS = st.integers(0, 50)
BATCHES = st.lists(IDS, min_size=1, max_size=8)
CALLS = st.fixed_dictionaries({number: st.tuples(st.integers(-40, 3), AMOUNTS, CALLERS) for number in range(1, 26)})
DEEDS = st.one_of(
    st.tuples(st.just("book"), BATCHES),
    st.tuples(st.just("book"), BATCHES),
    st.tuples(st.just("book"), BATCHES),
    st.tuples(st.just("rows"), st.booleans()),
    st.tuples(st.just("set"), USERS, AMOUNTS),
    st.tuples(st.just("set key"), KEYS, AMOUNTS),
    st.tuples(st.just("quota"), USERS, st.none() | AMOUNTS, st.sampled_from([AS_IT_IS, None, *PERIODS])),
    st.tuples(st.just("delete"), st.lists(IDS, max_size=8)),
    st.tuples(st.just("retain"), st.integers(-41, 4), st.integers(1, 5)),
)


def test_whatever_happens_no_money_is_lost_or_made(made, monkeypatch):
    monkeypatch.setattr(ledger_check, "SETTLED_NS", 0)  # nobody else is booking here

    @settings(deadline=None, max_examples=40 if made[0].startswith("sqlite") else 15)
    @given(calls=CALLS, functions=st.lists(DEEDS, max_size=14))
    def history(calls, functions):
        database = emptied(made)
        users, keys, seen = defaultdict(Expected), defaultdict(int), set()
        checkpoint = None
        for what, *details in functions:
            now = time.time_ns()
            match what, details:
                case "book", [numbers]:
                    chosen = {n: call(n, NOW + calls[n][0] * DAY, calls[n][1], *calls[n][2]) for n in numbers}
                    book(database, *(chosen[n] for n in numbers))
                    fresh = [one for n, one in chosen.items() if n not in seen]
                    seen |= chosen.keys()
                    for user in {one["user_id"] for one in fresh}:
                        own = [(one["at"], one["cost"]) for one in fresh if one["user_id"] == user]
                        users[user].amounts += own
                        users[user].enter(max(at for at, _ in own))
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
                    users[user].change_period(now, users[user].period if period is AS_IT_IS else period)
                    if nano is not None:
                        users[user].set(now, nano)
                case "delete", [numbers]:
                    database.run(accounts.delete_usages, database, numbers)
                case "retain", [day, maximum]:
                    database.run(accounts.delete_usages_before, database, NOW + day * DAY, maximum)
            shortly = database.run(ledger_check.verify, checkpoint)
            checkpoint = shortly.checkpoint
            assert shortly.differences == ()
            for user in (ROOT, ANN):
                assert used(database, user) == users[user].used, what
            for owner in (ROOT, ANN, SECOND_KEY):
                assert key_used(database, owner) == keys[owner], what

    history()
