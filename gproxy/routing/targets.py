"""Orders the targets of an alias. Pure: the random source is a parameter."""

from collections.abc import Callable, Sequence
from math import log

from gproxy.routing.resolve import Target


def order_by_tier(targets: Sequence[Target], dice: Callable[[], float]) -> list[Target]:
    """Returns the targets by ascending tier, and within a tier in random order, weighted by `weight`.

    `dice` returns a random number in [0, 1).
    """
    if len(targets) == 1:
        return list(targets)
    # Of exponential times with these rates, each is the smallest with a probability proportional to its rate.
    return sorted(targets, key=lambda target: (target.tier, -log(1.0 - dice()) / target.weight))
