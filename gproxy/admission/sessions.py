"""Sessions of users that logged in. A token is told once; its digest is what is stored and looked for."""

import hashlib
import secrets

from gproxy.errors import Unauthorized
from gproxy.snapshot import Login, Snapshot

PREFIX = "sess-"
LIVES_S = 86_400
DIGEST_PREFIX = "gproxy-session-v1:"


def new_token() -> str:
    """128 random bits."""
    return f"{PREFIX}{secrets.token_hex(16)}"


def digest(token: str) -> str:
    return hashlib.sha256((DIGEST_PREFIX + token).encode("utf-8", "surrogateescape")).hexdigest()


def admit(snapshot: Snapshot, token: str, now: float) -> Login:
    """Who logged in; `now` in seconds since the epoch. Raises Unauthorized."""
    login = snapshot.logins.get(digest(token))
    if login is None or login.expires_at <= now:
        raise Unauthorized("the session is expired or unknown; log in again")
    return login
