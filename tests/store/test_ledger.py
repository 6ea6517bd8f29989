"""Accounts of users and keys, and journal positions, read at one moment."""

import threading
from pathlib import Path

import pytest

from gproxy.store import accounts, ledger, users
from gproxy.store import models as m
from gproxy.store.accounts import Account
from gproxy.store.database import Database
from tests import postgres
from tests.sample_db import filled
from tests.store.test_accounts import ANN, MISSING, call, start, store


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path: Path) -> Database:
    return filled(tmp_path, None if request.param == "sqlite" else postgres.fresh_database(request.config))


def test_the_cap_of_a_keys_account_is_its_budget(database: Database):
    store(database, call(1))
    assert database.run(ledger.key_account, ANN) == Account(1_000, 0, None, None)
    database.run(users.change_key, database, ANN, {"budget": 50})
    assert database.run(ledger.key_account, ANN) == Account(1_000, 0, 50, None)


def test_a_missing_user_or_key_has_no_account(database: Database):
    assert database.run(ledger.account, MISSING) is None
    assert database.run(ledger.key_account, MISSING) is None


def test_only_calls_with_a_row_are_stored(database: Database):
    store(database, *(call(number) for number in range(1, 1_202)))
    assert database.run(ledger.stored_calls, [2**62, *range(1_500)]) == frozenset(range(1, 1_202))
    assert database.run(ledger.stored_calls, []) == frozenset()


def test_the_state_of_an_account_includes_stored_calls_and_journal_positions(database: Database):
    database.run(accounts.set_quota, database, ANN, 5_000, None, "month")
    store(database, call(1), call(2))
    found = database.run(ledger.account_state, ANN, None, [1, 3], ["segment-1", "segment-3"])
    account = Account(2_000, start("month"), 5_000, "month")
    assert found == ledger.AccountState(account, frozenset([1]), {"segment-1": 1})
    found = database.run(ledger.account_state, None, ANN, [], [])
    assert found == ledger.AccountState(Account(2_000), frozenset(), {})
    assert database.run(ledger.account_state, MISSING, None, [], []).account == Account(0)


def test_the_state_of_an_account_is_of_one_moment(database: Database):
    """A call that is stored between its queries is in no result."""
    store(database, call(1))

    def ids():
        yield 1
        # The account has been read.
        thread = threading.Thread(target=store, args=(database, call(2)))
        thread.start()
        thread.join()
        yield 2

    found = database.run(ledger.account_state, ANN, None, ids(), ["segment-1", "segment-2"])
    assert (found.account.cost_used, found.stored, found.positions) == (1_000, frozenset([1]), {"segment-1": 1})
    assert database.run(m.Usage.select().count) == 2
