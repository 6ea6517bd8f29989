"""One process of a machine checks the ledger regularly, each time from the checkpoint of the last check."""

import logging
from types import SimpleNamespace

import pytest

from gproxy.accounting.ledger_check import LedgerChecker
from gproxy.errors import Unavailable


class Inline:
    def run(self, function, *args):
        return function(*args)


class Store:
    """Returns the given results one after the other, and records the checkpoint of each call."""

    def __init__(self, *found):
        self.found, self.checkpoints = list(found), []

    def verify(self, checkpoint):
        self.checkpoints.append(checkpoint)
        result = self.found.pop(0)
        if isinstance(result, Exception):
            raise result
        return SimpleNamespace(differences=result, checkpoint=len(self.checkpoints))


def logged_errors(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_each_check_starts_from_the_checkpoint_of_the_last_one(tmp_path):
    store = Store((), (), ())
    ledger_checker = LedgerChecker(tmp_path / "lock", store.verify, Inline())
    for _ in range(3):
        ledger_checker.check()
    assert store.checkpoints == [None, 1, 2]
    ledger_checker.close()


def test_a_difference_is_logged_once_and_again_when_it_returns(tmp_path, caplog):
    store = Store(("ann",), ("ann", "bob"), (), ("ann",))
    ledger_checker = LedgerChecker(tmp_path / "lock", store.verify, Inline())
    found = []
    for _ in range(4):
        ledger_checker.check()
        found.append(ledger_checker.differences)
    assert found == [("ann",), ("ann", "bob"), (), ("ann",)]
    assert [text.rpartition(": ")[2] for text in logged_errors(caplog)] == ["ann", "bob", "ann"]
    ledger_checker.close()


def test_a_failed_check_is_repeated_from_the_same_checkpoint(tmp_path):
    store = Store((), Unavailable("the database is away"), ())
    ledger_checker = LedgerChecker(tmp_path / "lock", store.verify, Inline())
    ledger_checker.check()
    with pytest.raises(Unavailable):
        ledger_checker.check()
    ledger_checker.check()
    assert store.checkpoints == [None, 1, 1]
    ledger_checker.close()


def test_one_process_checks_and_another_one_after_it_has_closed(tmp_path):
    first, second = Store((), ()), Store((), ())
    checking = LedgerChecker(tmp_path / "lock", first.verify, Inline())
    other = LedgerChecker(tmp_path / "lock", second.verify, Inline())
    checking.check()
    other.check()
    assert (len(first.checkpoints), len(second.checkpoints)) == (1, 0)
    checking.close()
    other.check()
    assert len(second.checkpoints) == 1
    other.close()
