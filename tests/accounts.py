"""A service account of Google Cloud, and an endpoint that issues access tokens for it."""

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
    """Header and claims of the assertion in a form. Raises InvalidSignature if KEY did not sign it."""
    fields = parse_qs(form.decode())
    assert fields["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    signed, _, signature = fields["assertion"][0].rpartition(".")
    KEY.public_key().verify(_decoded(signature), signed.encode(), PKCS1v15(), SHA256())
    header, payload = map(_decoded, signed.split("."))
    return json.loads(header), json.loads(payload)


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Endpoint:
    """A script of the vendor that issues a new token for each request."""

    def __init__(self, lifetime_s: int = 3600):
        self.lifetime_s, self.issued = lifetime_s, 0

    async def __call__(self, seen: Seen, reader, writer) -> None:
        claims(seen.body)
        self.issued += 1
        token = f"ya29.token-{self.issued:06d}"
        writer.write(body(200, dumps({"access_token": token, "expires_in": self.lifetime_s, "token_type": "Bearer"})))
