"""A service account of Google Cloud, and an endpoint that gives it access tokens."""

import base64
import json
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from tests.vendor import Seen, body, dumps

KEY = rsa.generate_private_key(65537, 2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
EMAIL = "gproxy@acme-1.iam.gserviceaccount.com"


def claims(form: bytes) -> tuple[dict, dict]:
    """Head and claims of the assertion in a form. Raises InvalidSignature when KEY did not sign it."""
    asked = parse_qs(form.decode())
    assert asked["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    signed, _, signature = asked["assertion"][0].rpartition(".")
    KEY.public_key().verify(_decoded(signature), signed.encode(), PKCS1v15(), SHA256())
    head, told = map(_decoded, signed.split("."))
    return json.loads(head), json.loads(told)


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Endpoint:
    """A script of the vendor: each token is another one."""

    def __init__(self, lives_s: int = 3600):
        self.lives_s, self.given = lives_s, 0

    async def __call__(self, seen: Seen, reader, writer) -> None:
        claims(seen.body)
        self.given += 1
        told = {"access_token": f"ya29.token-{self.given:06d}", "expires_in": self.lives_s, "token_type": "Bearer"}
        writer.write(body(200, dumps(told)))
