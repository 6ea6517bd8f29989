"""The order of targets: by tier, and at random within one."""

import random
from collections import Counter
from types import SimpleNamespace

import pytest

from gproxy.routing.targets import order_by_tier


def test_lower_tiers_come_first_and_weights_decide_within_a_tier():
    targets = [SimpleNamespace(name=n, tier=t, weight=w) for n, t, w in (("a", 1, 1), ("b", 0, 1), ("c", 0, 3))]
    dice = random.Random(7).random
    orders = Counter("".join(target.name for target in order_by_tier(targets, dice)) for _ in range(4_000))
    assert set(orders) == {"bca", "cba"}
    assert orders["cba"] / orders["bca"] == pytest.approx(3, rel=0.15)
    assert order_by_tier(targets[:1], None) == targets[:1]
