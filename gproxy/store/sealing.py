"""Sealing of credentials at rest with DATABASE_SECRET_KEY: AES-256-GCM under a key derived by scrypt.

A sealed text starts with `sealed:v1:`; anything else is read as it is, so that sealing can be switched on later.
"""

import base64
import hashlib
import json
import os

from gproxy.errors import StartupError

MARK = "sealed:v1:"
CHECK = "gproxy"
NONCE_BYTES = 12


class Seal:
    """Opens and closes texts. The key is in no repr."""

    def __init__(self, secret: str, salt: bytes):
        # Imported where sealing is switched on: it costs every worker some megabytes.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(hashlib.scrypt(secret.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32))

    def close(self, text: str) -> str:
        nonce = os.urandom(NONCE_BYTES)
        return MARK + base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, text.encode(), None)).decode()

    def open(self, text: str) -> str:
        """Raises ValueError when the text was sealed with another key or was changed."""
        from cryptography.exceptions import InvalidTag

        if not text.startswith(MARK):
            return text
        raw = base64.urlsafe_b64decode(text.removeprefix(MARK))
        try:
            return self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], None).decode()
        except InvalidTag as fault:
            raise ValueError("sealed with another key") from fault


def new_seal(secret: str) -> tuple[Seal, str]:
    """A seal for a database that had none, and the document by which a later start knows its key again."""
    salt = os.urandom(16)
    seal = Seal(secret, salt)
    return seal, json.dumps({"salt": salt.hex(), "check": seal.close(CHECK)})


def known_seal(secret: str | None, document: str) -> Seal:
    """The seal of a sealed database. Raises StartupError when the key is missing or another one."""
    if not secret:
        raise StartupError(["DATABASE_SECRET_KEY: the database is sealed; set the key with which it was sealed"])
    stored = json.loads(document)
    seal = Seal(secret, bytes.fromhex(stored["salt"]))
    try:
        seal.open(stored["check"])
    except ValueError:
        raise StartupError(["DATABASE_SECRET_KEY: not the key with which this database was sealed"]) from None
    return seal
