"""The ledger check reports exactly the accounts that differ, and a later check reads only new rows."""

import random
import threading
import time
from pathlib import Path

import pytest

from gproxy.accounting.journal_reader import SettledCall
from gproxy.store import accounts, ledger_check, usages
from gproxy.store import models as m
from gproxy.store.database import Database
from gproxy.store.ledger_check import Checkpoint, Difference
from gproxy.store.seeding import NewUser
from tests import postgres
from tests.sample_db import filled, key
from tests.store.test_accounts import ANN, ROOT, call, days, store

MANY = 30


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path: Path) -> Database:
    return filled(tmp_path, None if request.param == "sqlite" else postgres.fresh_database(request.config))


@pytest.fixture(autouse=True)
def no_visibility_delay(monkeypatch):
    """Rows are visible at once: a test waits until they are stored."""
    monkeypatch.setattr(ledger_check, "VISIBILITY_DELAY_NS", 0)


def differences(database: Database, since: Checkpoint | None = None) -> list[tuple]:
    return [(d.account, d.expected, d.found) for d in database.run(ledger_check.verify, since).differences]


def test_accounts_without_a_difference_are_counted(database: Database):
    store(database, call(1), call(2, user=ROOT))
    found = database.run(ledger_check.verify)
    assert (found.accounts, found.differences) == (4, ())


def test_an_account_that_differs_from_its_rows_is_reported(database: Database):
    store(database, call(1, cost=1_500_000_000))
    database.run(m.Quota.update(cost_used=7).execute)
    database.run(m.UserKey.update(cost_used=-1).where(m.UserKey.id == ROOT).execute)
    found = database.run(ledger_check.verify).differences
    assert found == (Difference("u2", "user 2 (ann)", 1_500_000_000, 7), Difference("k1", "key 1 of user 1", 0, -1))
    assert [str(one) for one in found] == [
        "user 2 (ann): the rows add up to 1.5 USD, the account has 0.000000007 USD",
        "key 1 of user 1: the rows add up to 0 USD, the account has -0.000000001 USD",
    ]


def test_rows_without_an_account_are_reported(database: Database):
    store(database, call(1))
    database.run(m.Quota.delete().execute)
    assert differences(database) == [("u2", 1_000, 0)]


OTHERS = {"requests": 1, "created_at": 1}
TAMPERINGS = [
    (m.Usage.update(cost=999), [("u2", 1_998, 2_000), ("k2", 1_998, 2_000)]),
    (m.Usage.delete().where(m.Usage.trace_id == 1), [("u2", 1_000, 2_000), ("k2", 1_000, 2_000)]),
    (m.Usage.update(user_id=ROOT), [("u1", 2_000, 0), ("u2", 0, 2_000), ("k2", 0, 2_000)]),
    (m.Adjustment.insert(at=1, user_id=ANN, kind="usage", cost=3, **OTHERS), [("u2", 2_003, 2_000)]),
    (m.Adjustment.insert(at=1, key_id=ANN, kind="retention", cost=3, **OTHERS), [("k2", 2_003, 2_000)]),
    (m.Quota.update(opening=5), [("u2", 2_005, 2_000)]),
]


@pytest.mark.parametrize(("tampering", "found"), TAMPERINGS, ids=range(len(TAMPERINGS)))
def test_every_tampering_is_reported(database: Database, tampering, found):
    store(database, call(1), call(2))
    database.run(tampering.execute)
    assert differences(database) == found


def test_many_accounts_are_checked_like_few(database: Database):
    assert MANY > ledger_check.MAX_SINGLE_TOTALS

    def add_users():
        stamps = {"created_at": 0, "updated_at": 0}
        for number in range(MANY):
            user = m.User.create(name=f"user-{number}", **stamps)
            m.UserKey.create(user=user, api_key_digest=f"d{number}", fingerprint="f", **stamps)
        return {row.user_id: row.id for row in m.UserKey.select()}

    keys = database.run(add_users)
    for user in list(keys)[::2]:
        database.run(accounts.set_quota, database, user, 5_000, 10, "day")
    store(database, *(call(i, days(-(i % 3)), i, user, keys[user]) for i, user in enumerate(list(keys) * 4, 1)))
    database.run(accounts.delete_usages, database, [1, 5, 9, 40])
    assert differences(database) == []
    database.run(m.Quota.update(cost_used=m.Quota.cost_used + 1).where(m.Quota.user == max(keys)).execute)
    ((account, expected, found),) = differences(database)
    assert (account, found) == (f"u{max(keys)}", expected + 1)


def test_a_later_check_reads_only_rows_stored_since(database: Database):
    store(database, call(1), call(2))
    checkpoint = database.run(ledger_check.verify).checkpoint
    # Old rows are not read again as long as the checkpoint and the new rows explain the accounts.
    database.run(m.Usage.update(cost=0).execute)
    assert differences(database, checkpoint) == []
    store(database, call(3))
    database.run(accounts.delete_usages, database, [3])
    store(database, call(4))
    assert differences(database, checkpoint) == [("u2", 2_000, 4_000), ("k2", 2_000, 4_000)]


def test_deleted_rows_do_not_make_a_later_check_longer(database: Database):
    store(database, call(1), call(2))
    checkpoint = database.run(ledger_check.verify).checkpoint
    database.run(accounts.delete_usages, database, [1])
    database.run(accounts.delete_usages_before, database, days(1), 0)
    store(database, call(3))
    database.run(m.Usage.update(cost=0).where(m.Usage.trace_id == 2).execute)
    later = database.run(ledger_check.verify, checkpoint)
    assert later.differences == (), "everything was added up, although no account was in doubt"
    store(database, call(4))
    assert differences(database, later.checkpoint) == []


def test_an_account_with_another_start_is_added_up_again(database: Database):
    store(database, call(1))
    checkpoint = database.run(ledger_check.verify).checkpoint
    database.run(m.Quota.update(opening=5).execute)
    assert differences(database, checkpoint) == [("u2", 1_005, 1_000)]


def test_a_later_check_reports_a_new_difference(database: Database):
    store(database, call(1))
    checkpoint = database.run(ledger_check.verify).checkpoint
    database.run(m.Quota.update(cost_used=m.Quota.cost_used + 1).execute)
    found = database.run(ledger_check.verify, checkpoint)
    assert [(d.account, d.expected, d.found) for d in found.differences] == [("u2", 1_000, 1_001)]
    assert differences(database, found.checkpoint) == [("u2", 1_000, 1_001)]
    database.run(accounts.set_used, database, ANN, 1_000)
    assert differences(database, found.checkpoint) == []


CHANGES = [
    lambda database: store(database, call(9, user=ROOT)),
    lambda database: store(database, call(8, days(-1))),
    lambda database: store(database, call(7, days(1))),
    lambda database: database.run(accounts.set_used, database, ANN, 5),
    lambda database: database.run(accounts.set_key_used, database, ROOT, 5),
    lambda database: database.run(accounts.set_quota, database, ANN, 5, None, "month"),
    lambda database: database.run(accounts.set_quota, database, ANN, 5, 7, None),
    lambda database: database.run(accounts.delete_usages, database, [1, 9]),
    lambda database: database.run(accounts.delete_usages_before, database, days(9), 3),
    lambda database: database.run(m.GlobalSettings.update(enable_usage=False).execute),
    lambda database: database.run(m.UserKey.delete().where(m.UserKey.id == ANN).execute),
    lambda database: database.run(m.User.create, name="new", created_at=0, updated_at=0),
]


@pytest.mark.parametrize("seed", range(8))
def test_checks_from_checkpoints_find_what_a_full_check_finds(tmp_path: Path, seed):
    database = filled(tmp_path)
    database.run(accounts.set_quota, database, ANN, 5, None, "day")
    store(database, call(1), call(2))
    checkpoint = database.run(ledger_check.verify).checkpoint
    for number, change in enumerate(random.Random(seed).sample(CHANGES, len(CHANGES))):
        change(database)
        store(database, call(100 + number, days(number % 3)))
        found = database.run(ledger_check.verify, checkpoint)
        assert found.differences == database.run(ledger_check.verify).differences == ()
        checkpoint = found.checkpoint


def test_the_accounts_of_a_deleted_user_are_not_checked(database: Database):
    store(database, call(1))
    checkpoint = database.run(ledger_check.verify).checkpoint
    database.run(m.User.delete().where(m.User.id == ANN).execute)
    found = database.run(ledger_check.verify, checkpoint)
    assert (found.accounts, found.differences) == (2, ())


def test_a_row_that_becomes_visible_late_is_no_difference(database: Database):
    """Its `created_at` is before the last check, which did not see it."""
    checkpoint = database.run(ledger_check.verify).checkpoint
    store(database, call(1))
    database.run(m.Usage.update(created_at=checkpoint.horizon - 1).execute)
    found = database.run(ledger_check.verify, checkpoint)
    assert found.differences == ()
    assert differences(database, found.checkpoint) == []


def test_recently_stored_rows_are_read_again(database: Database, monkeypatch):
    monkeypatch.setattr(ledger_check, "VISIBILITY_DELAY_NS", 60 * accounts.NS)
    store(database, call(1))
    checkpoint = database.run(ledger_check.verify).checkpoint
    assert checkpoint.horizon < time.time_ns() - 59 * accounts.NS
    assert differences(database, checkpoint) == []
    database.run(m.Usage.update(cost=0).execute)
    assert differences(database, checkpoint) == [("u2", 0, 1_000), ("k2", 0, 1_000)]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_checks_are_exact_while_other_threads_write(tmp_path: Path, pytestconfig, kind):
    users = tuple(NewUser(f"user-{i}", None, True, True, (key(f"sk-{i}"),)) for i in range(4))
    dsn = None if kind == "sqlite" else postgres.fresh_database(pytestconfig)
    database = filled(tmp_path, dsn, users=users, permissions=())
    end, errors, stored = time.monotonic() + 1.5, [], []

    def work(worker: int) -> None:
        first = number = worker * 1_000_000
        dice = random.Random(worker)
        try:
            while time.monotonic() < end:
                owners = [dice.randint(1, 4) for _ in range(40)]
                rows = [call(number + i, days(-3 * dice.random()), 1, owner) for i, owner in enumerate(owners)]
                number += len(rows)
                batch = [SettledCall(one, f"s{worker}", one["trace_id"] + 1) for one in rows]
                database.run(usages.insert, database, batch)
                stored.append(len(rows))
                if dice.random() < 0.3:
                    database.run(accounts.delete_usages, database, dice.sample(range(first, number), 5))
                if dice.random() < 0.1:
                    period = dice.choice([None, "day", "week"])
                    database.run(accounts.set_quota, database, dice.randint(1, 4), 5, None, period)
                if dice.random() < 0.1:
                    database.run(accounts.set_used, database, dice.randint(1, 4), dice.randint(0, 1_000))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(1, 5)]
    for thread in threads:
        thread.start()
    checkpoint, checks = None, 0
    while any(thread.is_alive() for thread in threads):
        found = database.run(ledger_check.verify, checkpoint if checks % 5 else None)
        assert found.differences == ()
        checkpoint, checks = found.checkpoint, checks + 1
    assert [repr(error.__cause__ or error) for error in errors] == [] and checks > 3
    assert database.run(ledger_check.verify).differences == ()
    assert database.run(lambda: sum(row.cost_used for row in m.UserKey.select())) == sum(stored)
