"""In which order credentials and targets are tried. Pure: turns, keys and dice are passed in."""

from collections.abc import Sequence
from hashlib import blake2b
from math import gcd, log

from gproxy.snapshot import Credential

ROUND_ROBIN, STICKY, CACHE_AFFINITY = "round_robin", "sticky", "cache_affinity"
_SCALE = 2.0**64


def by_turn(credentials: Sequence[Credential], turn: int) -> Sequence[Credential]:
    """Each in its turn, as often as its weight says; after the first the others as they follow it."""
    if len(credentials) == 1:
        return credentials
    total = sum(credential.weight for credential in credentials)
    at = turn * _stride(total) % total
    for n, credential in enumerate(credentials):
        at -= credential.weight
        if at < 0:
            return (*credentials[n:], *credentials[:n])
    raise AssertionError("weights are positive")


def _stride(total: int) -> int:
    """So that turns are spread: with equal weights one after another, else no weight is used up in one go."""
    stride = max(1, round(total * 0.618))
    while gcd(stride, total) != 1:
        stride += 1
    return stride


def by_affinity(credentials: Sequence[Credential], key: bytes) -> Sequence[Credential]:
    """The same key finds the same credential, in every process and on every machine, as long as it can be used.

    Rendezvous hashing: a credential that goes or comes moves only its own share of the keys.
    """
    if len(credentials) == 1:
        return credentials
    return sorted(credentials, key=lambda credential: _score(credential, key))


def _score(credential: Credential, key: bytes) -> float:
    """The least is first; smaller by as much as the weight is larger."""
    digest = blake2b(key, digest_size=8, person=str(credential.id).encode()[-16:]).digest()
    return -log((int.from_bytes(digest, "big") + 1) / (_SCALE + 1)) / credential.weight
