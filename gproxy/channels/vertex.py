"""Vertex AI: Gemini under a Google Cloud project, by a service account or by an express key. Pure.

Addresses: cloud.google.com/vertex-ai/generative-ai/docs/learn/locations and …/start/express-mode/overview;
token: developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests.
"""

import base64
import json
import re
from typing import NamedTuple
from urllib.parse import urlencode

import orjson

from gproxy.channels.kind import (
    COUNT,
    GENERATE,
    GET_MODEL,
    LIST_MODELS,
    SERVICE_ACCOUNT,
    STREAM,
    Auth,
    Kind,
    Lane,
    bearer,
    x_goog_api_key,
)

TOKENS_AT = "https://oauth2.googleapis.com/token"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTED_S = 3600
# A clock that is wrong is no fault of the account.
OF_CLOCK = "reasonable timeframe"
_CODE = re.compile(r"[a-z_]{1,64}")
MODELS = "/v1beta1/publishers/google/models"


def lanes(prefix: str, auth: Auth) -> dict[tuple[str, str], Lane]:
    model = f"{prefix}/publishers/google/models/{{model}}"
    return {
        (GENERATE, "gemini"): Lane(f"{model}:generateContent", auth),
        (STREAM, "gemini"): Lane(f"{model}:streamGenerateContent?alt=sse", auth),
        (COUNT, "gemini"): Lane(f"{model}:countTokens", auth),
    }


def read_key(pem: str):
    """The RSA key of a service account. Raises ValueError on anything else; the text is not in its message."""
    # Imported where there is such an account: it costs every worker some megabytes.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = load_pem_private_key(unescaped(pem).encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, RSAPrivateKey):
        raise ValueError("not an RSA key in PEM")
    return found


def unescaped(pem: str) -> str:
    """With line breaks, where they came as the two characters that JSON writes."""
    return pem.replace("\\n", "\n")


def grant(email: str, private_key: str, key_id: str | None, token_uri: str, now_s: float) -> bytes:
    """The form that asks for an access token. Raises ValueError when the key cannot be read."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    head = {"alg": "RS256", "typ": "JWT", **({"kid": key_id} if key_id else {})}
    issued = int(now_s)
    claims = {"iss": email, "scope": SCOPE, "aud": token_uri, "iat": issued, "exp": issued + ASSERTED_S}
    signed = b".".join(_encoded(json.dumps(part).encode()) for part in (head, claims))
    signature = read_key(private_key).sign(signed, PKCS1v15(), SHA256())
    return urlencode({"grant_type": GRANT, "assertion": signed + b"." + _encoded(signature)}).encode()


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class Token(NamedTuple):
    """What the token endpoint gave: a token and its seconds to live, or why there is none.

    `is_refusal`: it is about the account and not about the moment.
    """

    token: str | None
    lives_s: float = 0.0
    reason: str = ""
    is_refusal: bool = False


def read_token(status: int, body: bytes) -> Token:
    """RFC 6749, 5.1 and 5.2. The reason is a code of the protocol and holds nothing of the account."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        return Token(None, reason=f"the token endpoint answered {status} with no JSON object")
    token, lives_s = found.get("access_token"), found.get("expires_in")
    if status == 200 and isinstance(token, str) and token.isascii() and token.isprintable() and token:
        return Token(token, float(lives_s) if isinstance(lives_s, int | float) else ASSERTED_S)
    code = found.get("error")
    code = code if isinstance(code, str) and _CODE.fullmatch(code) else "no token"
    is_refusal = status in (400, 401, 403) and OF_CLOCK not in str(found.get("error_description"))
    return Token(None, reason=f"the token endpoint answered {status}: {code}", is_refusal=is_refusal)


def mend(data: bytes) -> bytes:
    """A reply, or an event of one, by the names of the Gemini API, where Vertex AI has names of its own."""
    if b'"citations"' not in data and b'"BLOCKED_REASON_UNSPECIFIED"' not in data:
        return data
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        return data
    if not isinstance(body, dict):
        return data
    is_mended = False
    candidates = body.get("candidates")
    for candidate in candidates if isinstance(candidates, list) else ():
        metadata = candidate.get("citationMetadata") if isinstance(candidate, dict) else None
        if isinstance(metadata, dict) and "citations" in metadata and "citationSources" not in metadata:
            metadata["citationSources"] = metadata.pop("citations")
            is_mended = True
    feedback = body.get("promptFeedback")
    if isinstance(feedback, dict) and feedback.get("blockReason") == "BLOCKED_REASON_UNSPECIFIED":
        feedback["blockReason"] = "BLOCK_REASON_UNSPECIFIED"
        is_mended = True
    return orjson.dumps(body) if is_mended else data


KINDS = (
    Kind(
        "vertex",
        "https://{location}-aiplatform.googleapis.com",
        lanes("/v1beta1/projects/{project}/locations/{location}", bearer)
        | {
            (LIST_MODELS, "gemini"): Lane(MODELS, bearer),
            (GET_MODEL, "gemini"): Lane(MODELS + "/{model}", bearer),
        },
        hosts={
            "global": "https://aiplatform.googleapis.com",
            "us": "https://aiplatform.us.rep.googleapis.com",
            "eu": "https://aiplatform.eu.rep.googleapis.com",
        },
        prefers="gemini",
        takes=SERVICE_ACCOUNT,
        mend=mend,
    ),
    # It lists no models: those that an operator registers are shown.
    Kind(
        "vertexexpress",
        "https://aiplatform.googleapis.com",
        lanes("/v1beta1", x_goog_api_key),
        prefers="gemini",
        mend=mend,
    ),
)
