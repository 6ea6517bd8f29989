"""The order of credentials: by round robin and by conversation."""

from collections import Counter

import pytest

from gproxy.credentials.selection import by_affinity, by_round_robin
from gproxy.snapshot import Credential


def credentials(*weights: int) -> tuple[Credential, ...]:
    return tuple(Credential(n, 1, f"secret-{n}", weight) for n, weight in enumerate(weights, 1))


def ids(found) -> list[int]:
    return [credential.id for credential in found]


@pytest.mark.parametrize("weights", [(1,), (1, 1), (1, 1, 1), (1, 3), (5, 1, 1), (10, 7, 3)])
def test_each_credential_comes_first_in_proportion_to_its_weight(weights):
    pool = credentials(*weights)
    first = Counter(by_round_robin(pool, number)[0].id for number in range(sum(weights) * 4))
    assert first == {n: weight * 4 for n, weight in enumerate(weights, 1)}


def test_each_order_has_every_credential_once():
    pool = credentials(2, 1, 1)
    for number in range(8):
        assert sorted(ids(by_round_robin(pool, number))) == [1, 2, 3]


def test_round_robin_spreads_calls():
    longest, run, last = 0, 0, None
    for number in range(100):
        now = by_round_robin(credentials(5, 5), number)[0].id
        run = run + 1 if now == last else 1
        longest, last = max(longest, run), now
    assert longest <= 3


def test_removing_a_credential_moves_only_its_own_conversations():
    pool = credentials(1, 1, 1, 1)
    keys = [str(n).encode() for n in range(400)]
    before = {key: by_affinity(pool, key)[0].id for key in keys}
    assert before == {key: by_affinity(pool[::-1], key)[0].id for key in keys}
    without = {key: by_affinity(pool[:3], key)[0].id for key in keys}
    assert all(without[key] == before[key] for key in keys if before[key] != 4)
    assert {without[key] for key in keys if before[key] == 4} == {1, 2, 3}


def test_conversations_are_distributed_by_weight():
    first = Counter(by_affinity(credentials(1, 3), str(n).encode())[0].id for n in range(4_000))
    assert first[2] / first[1] == pytest.approx(3, rel=0.15)
