"""Hashes and verifies passwords with Argon2id.

Run both off the event loop: one hash takes tens of milliseconds of a core.
"""

from gproxy.errors import BadRequest

MAX_CHARS = 1_024
# Verified for an unknown user, so that such a login takes as long as a known user's.
_DUMMY_HASH = "$argon2id$v=19$m=19456,t=2,p=1$QpBl5mLUpaLXcufxxI9KRg$QdI542tavPi5/LdAEgqVUdERshNgM3iFrrTze7b0cBk"


def hash_password(password: str | None) -> str | None:
    """Returns the Argon2 hash; a value that already is one is returned as it is, an empty password gives None.

    Raises BadRequest on a value that starts like a hash and is not one.
    """
    # Imported here, because most processes never handle a password.
    from argon2 import extract_parameters
    from argon2.exceptions import InvalidHashError

    if not password:
        return None
    if not password.startswith("$argon2"):
        return _hasher().hash(password)
    try:
        extract_parameters(password)
    except InvalidHashError:
        raise BadRequest("password: starts like an Argon2 hash and is not a valid one") from None
    return password


def verify(stored: str | None, password: str) -> bool:
    """Returns whether the password matches the stored hash; always False, after the same time, if `stored` is None."""
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        _hasher().verify(stored or _DUMMY_HASH, password)
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


def _hasher():
    from argon2 import PasswordHasher

    return PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
