from decimal import Decimal

import pytest

from gproxy.units import usd, usd_text


@pytest.mark.parametrize(
    ("nano", "amount"),
    [
        (0, "0"),
        (1, "0.000000001"),
        (1_500_000_000, "1.5"),
        (20_000_000_000, "20"),
        (-1, "-0.000000001"),
        (-2_500_000_000, "-2.5"),
        (2**63 - 1, "9223372036.854775807"),
    ],
)
def test_money_is_converted_exactly(nano, amount):
    assert usd_text(nano) == amount
    assert usd(nano) == Decimal(amount)
