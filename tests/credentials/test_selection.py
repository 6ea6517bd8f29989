"""Orders of credentials and targets, by turn, by conversation, by chance."""

import random
from collections import Counter
from types import SimpleNamespace

import pytest

from gproxy.credentials.selection import by_affinity, by_turn
from gproxy.routing.targets import order_by_tier
from gproxy.snapshot import Credential


def credentials(*weights: int) -> tuple[Credential, ...]:
    return tuple(Credential(n, 1, f"secret-{n}", weight) for n, weight in enumerate(weights, 1))


def ids(found) -> list[int]:
    return [credential.id for credential in found]


@pytest.mark.parametrize("weights", [(1,), (1, 1), (1, 1, 1), (1, 3), (5, 1, 1), (10, 7, 3)])
def test_each_takes_its_turn_as_often_as_its_weight_says(weights):
    pool = credentials(*weights)
    first = Counter(by_turn(pool, turn)[0].id for turn in range(sum(weights) * 4))
    assert first == {n: weight * 4 for n, weight in enumerate(weights, 1)}


def test_after_the_first_come_all_the_others_once():
    pool = credentials(2, 1, 1)
    for turn in range(8):
        assert sorted(ids(by_turn(pool, turn))) == [1, 2, 3]


def test_turns_are_spread():
    longest, run, last = 0, 0, None
    for turn in range(100):
        now = by_turn(credentials(5, 5), turn)[0].id
        run = run + 1 if now == last else 1
        longest, last = max(longest, run), now
    assert longest <= 3


def test_a_conversation_keeps_its_credential_and_only_a_lost_ones_share_moves():
    pool = credentials(1, 1, 1, 1)
    keys = [str(n).encode() for n in range(400)]
    before = {key: by_affinity(pool, key)[0].id for key in keys}
    assert before == {key: by_affinity(pool[::-1], key)[0].id for key in keys}
    without = {key: by_affinity(pool[:3], key)[0].id for key in keys}
    assert all(without[key] == before[key] for key in keys if before[key] != 4)
    assert {without[key] for key in keys if before[key] == 4} == {1, 2, 3}


def test_conversations_are_shared_out_by_weight():
    first = Counter(by_affinity(credentials(1, 3), str(n).encode())[0].id for n in range(4_000))
    assert first[2] / first[1] == pytest.approx(3, rel=0.15)


def test_a_tier_comes_before_the_next_and_within_one_the_weight_decides():
    targets = [SimpleNamespace(name=n, tier=t, weight=w) for n, t, w in (("a", 1, 1), ("b", 0, 1), ("c", 0, 3))]
    dice = random.Random(7).random
    orders = Counter("".join(target.name for target in order_by_tier(targets, dice)) for _ in range(4_000))
    assert set(orders) == {"bca", "cba"}
    assert orders["cba"] / orders["bca"] == pytest.approx(3, rel=0.15)
    assert order_by_tier(targets[:1], None) == targets[:1]
