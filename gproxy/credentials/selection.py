"""The order in which credentials are tried. Pure: call numbers and keys are passed in."""

from collections.abc import Sequence
from hashlib import blake2b
from math import gcd, log

from gproxy.snapshot import Credential

ROUND_ROBIN, STICKY, CACHE_AFFINITY = "round_robin", "sticky", "cache_affinity"
_SCALE = 2.0**64


def by_round_robin(credentials: Sequence[Credential], number: int) -> Sequence[Credential]:
    """Returns the order for the call of this number; each credential comes first in proportion to its weight."""
    if len(credentials) == 1:
        return credentials
    total = sum(credential.weight for credential in credentials)
    position = number * _stride(total) % total
    for n, credential in enumerate(credentials):
        position -= credential.weight
        if position < 0:
            return (*credentials[n:], *credentials[:n])
    raise AssertionError("weights are positive")


def _stride(total: int) -> int:
    """Returns a number coprime to `total`; with it as step, consecutive calls alternate between the credentials."""
    stride = max(1, round(total * 0.618))
    while gcd(stride, total) != 1:
        stride += 1
    return stride


def by_affinity(credentials: Sequence[Credential], key: bytes) -> Sequence[Credential]:
    """Returns the credentials in an order that follows from `key` alone, in every process and on every machine.

    Rendezvous hashing: adding or removing a credential moves only its own share of the keys.
    """
    if len(credentials) == 1:
        return credentials
    return sorted(credentials, key=lambda credential: _score(credential, key))


def _score(credential: Credential, key: bytes) -> float:
    """Returns a score, the lowest of which comes first; it is divided by the weight."""
    digest = blake2b(key, digest_size=8, person=str(credential.id).encode()[-16:]).digest()
    return -log((int.from_bytes(digest, "big") + 1) / (_SCALE + 1)) / credential.weight
