"""Usage times price, to the nano-USD. The expected amounts are computed by hand."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gproxy.accounting.cost import cost, usd
from gproxy.accounting.prices import Price, Tier
from gproxy.protocols.hub import MOST_TOKENS, Usage

D = Decimal
FULL = Tier(
    10**8,
    input=D("3"),
    output=D("15"),
    cache_read=D("0.30"),
    cache_write=D("3.50"),
    cache_write_5m=D("3.75"),
    cache_write_1h=D("6"),
)
TIERS = (
    Tier(1000, input=D("1"), output=D("2")),
    Tier(2000, input=D("10"), output=D("20")),
    Tier(3000, input=D("100"), output=D("200")),
)
COUNTS = st.integers(0, MOST_TOKENS)
USAGES = st.builds(Usage, COUNTS, COUNTS, st.just(0), COUNTS, COUNTS, COUNTS, COUNTS)
RATES = st.none() | st.decimals(0, 1000, places=4)
ANY_TIERS = st.builds(Tier, st.integers(1, 10**9), RATES, RATES, RATES, RATES, RATES, RATES)


def one(**rates: str) -> Price:
    return Price(None, (Tier(10**8, **{name: D(rate) for name, rate in rates.items()}),))


@pytest.mark.parametrize(
    ("usage", "price", "nano"),
    [
        # every class at its own rate: 100·3 + 20·15 + 50·0.3 + 8·3.5 + 7·3.75 + 6·6 = 705.25 millionths
        (Usage(100, 20, 5, 50, 8, 7, 6), Price(None, (FULL,)), 705_250),
        (Usage(1_000_000), Price(None, (FULL,)), 3_000_000_000),
        (Usage(output_tokens=1_000_000), Price(None, (FULL,)), 15_000_000_000),
        (Usage(cache_read_tokens=1_000_000), Price(None, (FULL,)), 300_000_000),
        (Usage(cache_write_tokens=1_000_000), Price(None, (FULL,)), 3_500_000_000),
        (Usage(cache_write_5m_tokens=1_000_000), Price(None, (FULL,)), 3_750_000_000),
        (Usage(cache_write_1h_tokens=1_000_000), Price(None, (FULL,)), 6_000_000_000),
        # reasoning is a part of the output and is not priced again
        (Usage(output_tokens=10, reasoning_tokens=10), Price(None, (FULL,)), 150_000),
        # per call, alone and on top
        (Usage(), Price(D("0.25"), ()), 250_000_000),
        (Usage(1000, 1000), Price(D("0.25"), ()), 250_000_000),
        (Usage(100), Price(D("0.01"), (FULL,)), 10_300_000),
        (Usage(), Price(None, ()), 0),
        (Usage(1000, 1000), Price(None, ()), 0),
        (Usage(), Price(None, (FULL,)), 0),
        # half up, once: 0.5 nano rounds up, 0.4 down, and three times 0.4 is 1.2
        (Usage(1), one(input="0.0005"), 1),
        (Usage(1), one(input="0.0004"), 0),
        (Usage(1), one(input="0.0015"), 2),
        (Usage(1), one(input="0.0025"), 3),
        (Usage(1, 1, 0, 1), one(input="0.0004", output="0.0004", cache_read="0.0004"), 1),
        (Usage(3), one(input="0.0001666"), 0),
        (Usage(), Price(D("0.0000000005"), ()), 1),
        # huge counts
        (Usage(10**12), one(input="600"), 600_000_000_000_000_000),
        (Usage(10**12, 10**12), one(input="0.075", output="0.3"), 375_000_000_000_000),
    ],
)
def test_the_cost_of_a_call(usage, price, nano):
    assert cost(usage, price) == nano


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        (Usage(999), 999_000),
        (Usage(1000), 1_000_000),
        (Usage(1001), 10_010_000),
        (Usage(2000), 20_000_000),
        (Usage(2001), 200_100_000),
        (Usage(3000), 300_000_000),
        # past the last border the last tier goes on
        (Usage(9000), 900_000_000),
        # the whole prompt chooses the tier, the output does not: 500·10 + 600·10, and 1·2
        (Usage(500, 0, 0, 600), 11_000_000),
        (Usage(400, 0, 0, 300, 200, 100, 1), 10_010_000),
        (Usage(output_tokens=9000), 18_000_000),
    ],
)
def test_the_tier_is_the_first_that_reaches_as_far_as_the_prompt(usage, nano):
    assert cost(usage, Price(None, TIERS)) == nano


WRITES = (Usage(cache_read_tokens=1), Usage(cache_write_tokens=1), Usage(0, 0, 0, 0, 0, 1), Usage(0, 0, 0, 0, 0, 0, 1))


@pytest.mark.parametrize(
    ("rates", "nano"),
    [
        # read, write, 5m, 1h
        ({"input": "1"}, [1000, 1000, 1000, 1000]),
        ({"input": "1", "cache_read": "0.1"}, [100, 1000, 1000, 1000]),
        ({"input": "1", "cache_write": "2"}, [1000, 2000, 2000, 2000]),
        ({"input": "1", "cache_write_5m": "3"}, [1000, 3000, 3000, 3000]),
        ({"input": "1", "cache_write_1h": "4"}, [1000, 1000, 1000, 4000]),
        ({"input": "1", "cache_write": "2", "cache_write_5m": "3", "cache_write_1h": "4"}, [1000, 2000, 3000, 4000]),
        # a rate of 0 is a rate
        ({"input": "1", "cache_read": "0"}, [0, 1000, 1000, 1000]),
        ({"input": "1", "cache_write": "0"}, [1000, 0, 0, 0]),
        ({"input": "1", "cache_write_5m": "0"}, [1000, 0, 0, 0]),
        ({"input": "0"}, [0, 0, 0, 0]),
        ({"output": "1"}, [0, 0, 0, 0]),
        ({}, [0, 0, 0, 0]),
    ],
)
def test_a_missing_rate_falls_back_to_the_class_that_it_came_from(rates, nano):
    assert [cost(usage, one(**rates)) for usage in WRITES] == nano


@given(USAGES, st.lists(ANY_TIERS, max_size=3), st.none() | st.decimals(0, 100, places=9))
def test_no_cost_is_negative_or_longer_than_63_bits(usage, tiers, each):
    total = cost(usage, Price(each, tuple(sorted(tiers, key=lambda tier: tier.up_to))))
    assert isinstance(total, int)
    assert 0 <= total < 2**63


@given(USAGES, ANY_TIERS)
def test_the_cost_is_within_half_a_nano_of_the_sum_of_its_parts(usage, tier):
    parts = [
        Usage(**{name: getattr(usage, name)})
        for name in Usage.__slots__
        if name != "reasoning_tokens" and getattr(usage, name)
    ]
    price = Price(None, (tier,))
    assert abs(cost(usage, price) - sum(cost(part, price) for part in parts)) <= len(parts)


@pytest.mark.parametrize(
    ("nano", "amount"),
    [(0, "0"), (1, "0.000000001"), (1_500_000_000, "1.5"), (600_000_000_000_000_001, "600000000.000000001")],
)
def test_money_in_usd_is_exact(nano, amount):
    assert usd(nano) == Decimal(amount)
