"""What is asked of accounts and journal marks."""

import threading
from pathlib import Path

import pytest

from gproxy.store import accounts, ledger, users
from gproxy.store import models as m
from gproxy.store.accounts import Account
from gproxy.store.database import Database
from tests import postgres
from tests.sample_db import filled
from tests.store.test_accounts import ANN, NOBODY, book, call, start


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path: Path) -> Database:
    return filled(tmp_path, None if request.param == "sqlite" else postgres.fresh_database(request.config))


def test_the_account_of_a_key_has_its_budget_for_a_cap(database: Database):
    book(database, call(1))
    assert database.run(ledger.key_account, ANN) == Account(1_000, 0, None, None)
    database.run(users.change_key, database, ANN, {"budget": 50})
    assert database.run(ledger.key_account, ANN) == Account(1_000, 0, 50, None)


def test_nobody_has_no_account(database: Database):
    assert database.run(ledger.account, NOBODY) is None
    assert database.run(ledger.key_account, NOBODY) is None


def test_calls_with_a_row_are_told_from_others(database: Database):
    book(database, *(call(number) for number in range(1, 1_202)))
    assert database.run(ledger.booked, [2**62, *range(1_500)]) == frozenset(range(1, 1_202))
    assert database.run(ledger.booked, []) == frozenset()


def test_a_standing_is_one_account_with_what_it_has_heard_of(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None, "month")
    book(database, call(1), call(2))
    found = database.run(ledger.standing, ANN, None, [1, 3], ["segment-1", "segment-3"])
    account = Account(2_000, start("month"), 5_000, "month")
    assert found == ledger.LimitStatus(account, frozenset([1]), {"segment-1": 1})
    found = database.run(ledger.standing, None, ANN, [], [])
    assert found == ledger.LimitStatus(Account(2_000), frozenset(), {})
    assert database.run(ledger.standing, NOBODY, None, [], []).account == Account(0)


def test_a_standing_is_of_one_moment(database: Database):
    """What is booked between its questions is in none of the answers."""
    book(database, call(1))

    def ids():
        yield 1
        # The account is read by now.
        thread = threading.Thread(target=book, args=(database, call(2)))
        thread.start()
        thread.join()
        yield 2

    found = database.run(ledger.standing, ANN, None, ids(), ["segment-1", "segment-2"])
    assert (found.account.cost_used, found.booked, found.marks) == (1_000, frozenset([1]), {"segment-1": 1})
    assert database.run(m.Usage.select().count) == 2
