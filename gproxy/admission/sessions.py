"""Login sessions. The token is returned once, at login; only its digest is stored and looked up."""

import hashlib
import secrets

from gproxy.errors import Unauthorized
from gproxy.snapshot import Login, Snapshot

PREFIX = "sess-"
LIFETIME_S = 86_400
DIGEST_PREFIX = "gproxy-session-v1:"


def new_token() -> str:
    """Returns a new session token with 128 random bits."""
    return f"{PREFIX}{secrets.token_hex(16)}"


def digest(token: str) -> str:
    """Returns the stored form of a token: the SHA-256 of a fixed prefix and the token, as hex digits."""
    return hashlib.sha256((DIGEST_PREFIX + token).encode("utf-8", "surrogateescape")).hexdigest()


def admit(snapshot: Snapshot, token: str, now: float) -> Login:
    """Returns the login of this token. `now` is in seconds since the epoch. Raises Unauthorized."""
    login = snapshot.logins.get(digest(token))
    if login is None or login.expires_at <= now:
        raise Unauthorized("the session is expired or unknown; log in again")
    return login
