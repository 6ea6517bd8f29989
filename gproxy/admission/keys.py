"""Whose key this is."""

import hashlib

from gproxy.errors import Unauthorized
from gproxy.snapshot import Caller, Snapshot

DIGEST_PREFIX = "gproxy-api-key-v1:"
# One text for every reason: which of them it was is nobody's business without a key.
REFUSAL = "send a valid API key as `Authorization: Bearer …`, `x-api-key` or `x-goog-api-key`"


def digest(key: str) -> str:
    """What is stored of a key: hex of its SHA-256 under a fixed prefix."""
    return hashlib.sha256((DIGEST_PREFIX + key).encode("utf-8", "surrogateescape")).hexdigest()


def fingerprint(key_digest: str) -> str:
    """What may be shown of a key."""
    return f"sha256:{key_digest[:12]}"


def admit(snapshot: Snapshot, key: str | None, now: float) -> Caller:
    """The caller that this key belongs to; `now` in seconds since the epoch. Raises Unauthorized."""
    caller = snapshot.callers.get(digest(key)) if key else None
    if caller is None or (caller.expires_at is not None and caller.expires_at <= now):
        raise Unauthorized(REFUSAL)
    return caller
