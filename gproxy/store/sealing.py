"""Encrypts stored credentials with DATABASE_SECRET_KEY: AES-256-GCM with a key derived by scrypt.

A sealed text starts with `sealed:v1:`; any other text is read as it is, so that sealing can be switched on later.
"""

import base64
import hashlib
import json
import os

from gproxy.errors import StartupError

PREFIX = "sealed:v1:"
CHECK_TEXT = "gproxy"
NONCE_BYTES = 12


class Seal:
    """Encrypts and decrypts texts. Its repr does not contain the key."""

    def __init__(self, secret: str, salt: bytes):
        # Imported only where sealing is used: it costs each worker some megabytes of memory.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(hashlib.scrypt(secret.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32))

    def close(self, text: str) -> str:
        """The encrypted text, with the prefix."""
        nonce = os.urandom(NONCE_BYTES)
        return PREFIX + base64.urlsafe_b64encode(nonce + self._cipher.encrypt(nonce, text.encode(), None)).decode()

    def open(self, text: str) -> str:
        """The decrypted text, or a text without the prefix as it is.

        Raises ValueError if the text was sealed with another key or was changed.
        """
        from cryptography.exceptions import InvalidTag

        if not text.startswith(PREFIX):
            return text
        raw = base64.urlsafe_b64decode(text.removeprefix(PREFIX))
        try:
            return self._cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], None).decode()
        except InvalidTag as error:
            raise ValueError("sealed with another key") from error


def new_seal(secret: str) -> tuple[Seal, str]:
    """A seal for an unsealed database, and the JSON document by which a later start verifies the key."""
    salt = os.urandom(16)
    seal = Seal(secret, salt)
    return seal, json.dumps({"salt": salt.hex(), "check": seal.close(CHECK_TEXT)})


def known_seal(secret: str | None, document: str) -> Seal:
    """The seal of a sealed database. Raises StartupError if the key is missing or wrong."""
    if not secret:
        raise StartupError(["DATABASE_SECRET_KEY: the database is sealed; set the key with which it was sealed"])
    stored = json.loads(document)
    seal = Seal(secret, bytes.fromhex(stored["salt"]))
    try:
        seal.open(stored["check"])
    except ValueError:
        raise StartupError(["DATABASE_SECRET_KEY: not the key with which this database was sealed"]) from None
    return seal
