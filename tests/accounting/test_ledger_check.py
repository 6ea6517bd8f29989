"""One process of a machine proves the books again and again, each time from where the last proof ended."""

import logging
from types import SimpleNamespace

import pytest

from gproxy.accounting.ledger_check import LedgerChecker
from gproxy.errors import Unavailable


class Inline:
    def run(self, function, *args):
        return function(*args)


class UsageStore:
    """Proofs as they are told one after the other, and from where each was asked for."""

    def __init__(self, *found):
        self.found, self.asked = list(found), []

    def verify(self, checkpoint):
        self.asked.append(checkpoint)
        told = self.found.pop(0)
        if isinstance(told, Exception):
            raise told
        return SimpleNamespace(differences=told, checkpoint=len(self.asked))


def complaints(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_each_proof_goes_on_where_the_last_ended(tmp_path):
    books = UsageStore((), (), ())
    ledger_checker = LedgerChecker(tmp_path / "lock", books.verify, Inline())
    for _ in range(3):
        ledger_checker.check()
    assert books.asked == [None, 1, 2]
    ledger_checker.close()


def test_a_difference_is_told_once_and_again_when_it_came_back(tmp_path, caplog):
    books = UsageStore(("ann",), ("ann", "bob"), (), ("ann",))
    ledger_checker = LedgerChecker(tmp_path / "lock", books.verify, Inline())
    found = []
    for _ in range(4):
        ledger_checker.check()
        found.append(ledger_checker.differences)
    assert found == [("ann",), ("ann", "bob"), (), ("ann",)]
    assert [text.rpartition(": ")[2] for text in complaints(caplog)] == ["ann", "bob", "ann"]
    ledger_checker.close()


def test_a_proof_that_failed_is_asked_for_again_from_the_same_place(tmp_path):
    books = UsageStore((), Unavailable("the database is away"), ())
    ledger_checker = LedgerChecker(tmp_path / "lock", books.verify, Inline())
    ledger_checker.check()
    with pytest.raises(Unavailable):
        ledger_checker.check()
    ledger_checker.check()
    assert books.asked == [None, 1, 1]
    ledger_checker.close()


def test_one_process_is_elected_and_another_when_it_is_gone(tmp_path):
    first, second = UsageStore((), ()), UsageStore((), ())
    elected = LedgerChecker(tmp_path / "lock", first.verify, Inline())
    other = LedgerChecker(tmp_path / "lock", second.verify, Inline())
    elected.check()
    other.check()
    assert (len(first.asked), len(second.asked)) == (1, 0)
    elected.close()
    other.check()
    assert len(second.asked) == 1
    other.close()
