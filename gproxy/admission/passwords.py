"""Passwords: Argon2id. Off the hub, please: one check takes tens of milliseconds of a core."""

from gproxy.errors import BadRequest

ARGON2 = {"time_cost": 2, "memory_cost": 19_456, "parallelism": 1}
MAX_CHARS = 1_024
# Of nobody: an unknown user's login takes as long as a known one's.
_NOBODYS = "$argon2id$v=19$m=19456,t=2,p=1$QpBl5mLUpaLXcufxxI9KRg$QdI542tavPi5/LdAEgqVUdERshNgM3iFrrTze7b0cBk"


def hashed(password: str | None) -> str | None:
    """A value that is such a hash already stays. An empty password is none: no login with it. Raises BadRequest."""
    # Imported where it is needed: most processes never see a password.
    from argon2 import PasswordHasher, extract_parameters
    from argon2.exceptions import InvalidHashError

    if not password:
        return None
    if not password.startswith("$argon2"):
        return PasswordHasher(**ARGON2).hash(password)
    try:
        extract_parameters(password)
    except InvalidHashError:
        raise BadRequest("password: begins as an Argon2 hash and is none") from None
    return password


def verify(stored: str | None, password: str) -> bool:
    """Whether this is the password. Without a stored one it never is, and that takes as long."""
    from argon2 import PasswordHasher
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        PasswordHasher(**ARGON2).verify(stored or _NOBODYS, password)
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None
