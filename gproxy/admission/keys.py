"""API keys: their digests and fingerprints, and the caller that a key authenticates."""

import hashlib

from gproxy.errors import Unauthorized
from gproxy.snapshot import Caller, Snapshot

DIGEST_PREFIX = "gproxy-api-key-v1:"
# One text for every reason: the response must not reveal whether a key exists.
REFUSAL = "send a valid API key as `Authorization: Bearer …`, `x-api-key` or `x-goog-api-key`"


def digest(key: str) -> str:
    """Returns the stored form of a key: the SHA-256 of a fixed prefix and the key, as hex digits."""
    return hashlib.sha256((DIGEST_PREFIX + key).encode("utf-8", "surrogateescape")).hexdigest()


def fingerprint(key_digest: str) -> str:
    """Returns the part of a key's digest that lists and logs may display."""
    return f"sha256:{key_digest[:12]}"


def admit(snapshot: Snapshot, key: str | None, now: float) -> Caller:
    """Returns the caller of this key. `now` is in seconds since the epoch. Raises Unauthorized."""
    caller = snapshot.callers.get(digest(key)) if key else None
    if caller is None or (caller.expires_at is not None and caller.expires_at <= now):
        raise Unauthorized(REFUSAL)
    return caller
