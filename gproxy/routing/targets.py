"""The order in which targets are tried. Pure: the random source is passed in."""

from collections.abc import Callable, Sequence
from math import log

from gproxy.routing.resolve import Target


def by_tier(targets: Sequence[Target], dice: Callable[[], float]) -> list[Target]:
    """One tier after the other; within one by chance, as their weights say."""
    if len(targets) == 1:
        return list(targets)
    # Of exponential times with these rates the shortest comes first as often as its weight says.
    return sorted(targets, key=lambda target: (target.tier, -log(1.0 - dice()) / target.weight))
