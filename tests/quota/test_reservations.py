"""What is reserved for a call, when it is extended, and that every reservation is settled."""

import time
from decimal import Decimal

import pytest

from gproxy.accounting.cost import Features
from gproxy.accounting.journal import Journal
from gproxy.accounting.prices import FoundPrice, Price, Tier
from gproxy.accounting.slots import take_slot
from gproxy.errors import OverQuota, RateLimited, Unavailable
from gproxy.protocols.hub import RequestHead, Usage
from gproxy.quota.reservations import (
    STEP_TOKENS,
    NoReservation,
    Reserver,
    TokenBounds,
    UpperBound,
    applying,
    upper_bound,
)
from gproxy.relay.settlement import Settlement
from gproxy.snapshot import Caller, Quota, RateLimit, glob
from gproxy.state.interface import Account, AccountAmounts, Limit
from gproxy.state.mmap.state import MmapState
from tests.journal_entries import opened

# 1 and 2 USD per million tokens: 1,000 and 2,000 nano-USD each.
PRICE = FoundPrice(Price(None, (Tier(10**8, Decimal(1), Decimal(2), cache_write_5m=Decimal(5)),)), "model")
ROW = RateLimit(3, "*", glob("*").fullmatch, rpm=9)
CAPPED = Caller(1, "user", 2, False, None, (), quota=Quota(10**9, None), limits=(ROW,))


def request_head(max_output: int | None = None, choices: int = 1) -> RequestHead:
    return RequestHead("m", False, False, None, None, max_output=max_output, choices=choices)


@pytest.mark.parametrize(
    ("requested", "max_output", "money", "tokens", "covered_output"),
    [
        (request_head(50), None, 100 * 1_000 + 50 * 2_000, 150, None),
        (request_head(50, choices=3), None, 100 * 1_000 + 150 * 2_000, 250, None),
        (request_head(), None, 100 * 1_000 + 4_096 * 2_000, 4_196, 4_096),
        (request_head(), 100_000, 100 * 1_000 + 4_096 * 2_000, 4_196, 4_096),
        (request_head(choices=2), 100_000, 100 * 1_000 + 8_192 * 2_000, 8_292, 8_192),
        (request_head(), 300, 100 * 1_000 + 300 * 2_000, 400, None),  # it cannot write more
        (request_head(50), 0, 100 * 1_000, 100, None),  # an embedding writes nothing
    ],
    ids=["declared", "n", "assumed", "known and larger", "assumed and n", "known and smaller", "no output"],
)
def test_the_upper_bound_of_a_call(requested, max_output, money, tokens, covered_output):
    found = upper_bound(
        applying(CAPPED, "m"), requested, PRICE, Features("", False, False), TokenBounds(100, max_output, 4_096)
    )
    assert found == UpperBound((Account("u1", 10**9),), (Limit("3", rpm=9),), money, tokens, covered_output)


def test_the_upper_bound_includes_the_price_of_cache_writes():
    assert (
        upper_bound(
            applying(CAPPED, "m"), request_head(1), PRICE, Features("", True, False), TokenBounds(100, None, 1)
        ).money
        == 100 * 5_000 + 2_000
    )


def test_without_a_price_no_money_is_reserved_and_tokens_are_counted():
    found = upper_bound(
        applying(CAPPED, "m"), request_head(7), None, Features("", False, False), TokenBounds(100, None, 1)
    )
    assert (found.money, found.tokens) == (0, 107)


def test_a_caller_without_limits_and_caps_counts_nowhere():
    assert applying(Caller(1, "user", 2, False, None, ()), "m") == ((), ())


class Flaky(MmapState):
    """A state whose next `failures` settlements fail."""

    failures = 0

    def settle(self, call: int, money: int, tokens: int) -> None:
        if self.failures:
            self.failures -= 1
            raise Unavailable
        super().settle(call, money, tokens)


@pytest.fixture
def state(tmp_path) -> Flaky:
    return Flaky(tmp_path / "state")


USER = Account("u1", 1_000_000)


def loader(state: MmapState, *, works: bool = True):
    loaded = []

    def load(keys: tuple[str, ...]) -> None:
        loaded.append(keys)
        for key in keys if works else ():
            if key == "u1":
                state.load(key, state.version(key), AccountAmounts(0, 0, {}, {}))
            else:
                state.load_limit(key, {}, [], {})

    return loaded, load


def money(state: MmapState) -> tuple[int, int]:
    (found,) = state.inspect((USER,), ()).statuses
    return found.used, found.reserved


def test_unknown_accounts_and_limits_are_loaded_once(state):
    loaded, load = loader(state)
    reserver = Reserver(state, "0/000/x", load)
    reservation = reserver.take(1, UpperBound((USER,), (Limit("3", rpm=2),), 400, 10))
    assert loaded == [("u1", "3")]
    assert (reservation.money, reservation.amounts, money(state)) == (400, (400, 10), (0, 400))
    reserver.take(2, UpperBound((USER,), (Limit("3", rpm=2),), 400, 10))
    assert len(loaded) == 1


def test_an_account_that_cannot_be_loaded_refuses_the_call(state):
    with pytest.raises(Unavailable):
        Reserver(state, "0/000/x", loader(state, works=False)[1]).take(1, UpperBound((USER,), (), 1, 1))


def test_a_refusal_names_its_reason_and_reserves_nothing(state):
    reserver = Reserver(state, "0/000/x", loader(state)[1])
    with pytest.raises(OverQuota, match="may cost up to"):
        reserver.take(1, UpperBound((USER,), (Limit("3", rpm=0),), 1_000_001, 1))
    with pytest.raises(RateLimited, match="blocked"):
        reserver.take(1, UpperBound((USER,), (Limit("3", rpm=0),), 5, 1))
    assert money(state) == (0, 0)


def test_a_settlement_that_fails_is_repeated_later(state):
    reserver = Reserver(state, "0/000/x", loader(state)[1])
    reservation = reserver.take(1, UpperBound((USER,), (), 400, 10))
    state.failures = 1
    reservation.settle(123, 5)
    assert money(state) == (0, 400)
    reserver.settle_pending()
    assert money(state) == (123, 0)
    reserver.settle_pending()
    assert money(state) == (123, 0)


def test_a_running_call_extends_its_reservation_up_to_the_cap(state):
    reserver = Reserver(state, "0/000/x", loader(state)[1])
    reservation = reserver.take(1, UpperBound((USER,), (), 400_000, 10, 200))
    assert reservation.covers(400_000, 9) is True
    assert reservation.money == 400_000
    assert reservation.covers(400_001, 100_000) is True
    assert reservation.money == 500_001
    assert reservation.covers(900_000, 500_000) is True  # all that remains
    assert reservation.money == 1_000_000
    assert reservation.covers(1_000_001, 1) is False
    assert "spent" in reservation.exhausted().message


def test_a_settlement_extends_the_reservation_as_its_text_grows(state, tmp_path):
    slot = take_slot(tmp_path / "journal")
    journal = Journal(slot)
    reserver = Reserver(state, "0/000/x", loader(state)[1])
    account = Account("u1", 100_000 + 4_000 * 2_000)
    reservation = reserver.take(1, UpperBound((account,), (), 100_000 + 16 * 2_000, 116, 16))
    settlement = Settlement(journal, 1, PRICE, 100, time.perf_counter(), "", reservation)
    journal.open(opened(1))
    settlement.covered_bytes = 64
    assert settlement.exceeds_quota(None, 68) is False
    assert reservation.money == 100_000 + (17 + STEP_TOKENS) * 2_000
    assert settlement.covered_bytes == 68 + STEP_TOKENS * 4
    size = 68
    while not settlement.exceeds_quota(None, size):
        size = int(settlement.covered_bytes) + 4
    assert 15_900 < size <= 16_100  # 4,000 tokens
    settlement.settle_failed(402, None, size)
    (found,) = state.inspect((account,), ()).statuses
    assert (found.reserved, found.used) == (0, settlement.cost)
    journal.close()


def test_every_end_of_a_call_settles_its_reservation_once(state, tmp_path):
    slot = take_slot(tmp_path / "journal")
    journal = Journal(slot)
    reserver = Reserver(state, "0/000/x", loader(state)[1])
    limit = Limit("3", total_tokens=10_000)
    ends = (
        lambda settlement: settlement.settle_complete(200, Usage(10, 20), 0),
        lambda settlement: settlement.settle_failed(502, None, 0),
        lambda settlement: settlement.settle_disconnected(None, 40),
    )
    for number, end in enumerate(ends):
        reservation = reserver.take(number, UpperBound((USER,), (limit,), 100_000, 1_000))
        settlement = Settlement(journal, number, PRICE, 100, time.perf_counter(), "", reservation)
        journal.open(opened(number))
        end(settlement)
        end(settlement)
        assert reservation.at > 0
    account, tokens = state.inspect((USER,), (limit,)).statuses
    assert (account.used, account.reserved) == (50_000 + 0 + 120_000, 0)
    assert 10_000 - tokens.remaining == 30 + 0 + 110
    journal.close()


def test_a_call_without_a_reservation_settles_one_that_a_load_gave_it(state):
    changes = [0]
    reserver = Reserver(state, "0/000/x", loader(state)[1], lambda: changes[0])
    early, late = NoReservation(reserver, 1, 0), NoReservation(reserver, 2, 0)
    state.load("u1", state.version("u1"), AccountAmounts(0, 0, {}, {1: ("0/000/x", 50), 2: ("0/000/x", 50)}))
    early.settle(30, 1)
    assert money(state) == (0, 100)  # nothing had changed, so no load can have given it a reservation
    changes[0] += 1
    late.settle(30, 1)
    assert money(state) == (30, 50)


def test_huge_upper_bounds_fit_into_the_state_and_are_refused(state):
    requested = request_head(10**12, choices=10**12)
    found = upper_bound(
        applying(CAPPED, "m"), requested, PRICE, Features("", True, True), TokenBounds(10**12, None, 4_096)
    )
    reserver = Reserver(state, "0/000/x", loader(state)[1])
    with pytest.raises(OverQuota):
        reserver.take(1, found)
    huge = Limit("3", total_tokens=10, concurrency=5)
    with pytest.raises(RateLimited):
        reserver.take(1, UpperBound((), (huge,), 0, found.tokens))
    for number in range(10):
        reserver.take(number, UpperBound((), (Limit("3", concurrency=100),), 0, found.tokens))
    reserver.take(99, UpperBound((), (Limit("3", concurrency=100),), 0, 1))


def test_a_cost_above_the_column_maximum_is_stored_as_the_maximum(state, tmp_path):
    slot = take_slot(tmp_path / "journal")
    journal = Journal(slot)
    expensive = FoundPrice(Price(None, (Tier(10**8, Decimal(10**6), Decimal(10**6)),)), "model")
    reservation = Reserver(state, "0/000/x", loader(state)[1]).take(1, UpperBound((USER,), (), 5, 5))
    settlement = Settlement(journal, 1, expensive, 100, time.perf_counter(), "", reservation)
    journal.open(opened(1))
    settlement.settle_complete(200, Usage(10**12, 10**12), 0)
    assert settlement.cost == 2**63 - 1
    assert state.reservations() == {}
    journal.close()
