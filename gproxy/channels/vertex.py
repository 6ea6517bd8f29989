"""Vertex AI: Gemini in a Google Cloud project, authenticated by a service account or by an express key. Pure.

Addresses: cloud.google.com/vertex-ai/generative-ai/docs/learn/locations and …/start/express-mode/overview;
token: developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests.
"""

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

OAUTH_URI = "https://oauth2.googleapis.com/token"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_LIFETIME_S = 3600
# In the description of an error that a wrong clock causes, and not the account.
CLOCK_ERROR = "reasonable timeframe"
_ERROR_CODE = re.compile(r"[a-z_]{1,64}")
MODELS = "/v1beta1/publishers/google/models"


def lanes(prefix: str, auth: Auth) -> dict[tuple[str, str], Lane]:
    """Returns the lanes that generate and count, below a path prefix."""
    model = f"{prefix}/publishers/google/models/{{model}}"
    return {
        (GENERATE, "gemini"): Lane(f"{model}:generateContent", auth),
        (STREAM, "gemini"): Lane(f"{model}:streamGenerateContent?alt=sse", auth),
        (COUNT, "gemini"): Lane(f"{model}:countTokens", auth),
    }


def read_key(pem: str):
    """Returns the RSA key of a service account. Raises ValueError on any other text, without repeating the text."""
    # Imported only if there is a service account, because the library takes some megabytes in every worker.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = load_pem_private_key(unescape_pem(pem).encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, RSAPrivateKey):
        raise ValueError("not an RSA key in PEM")
    return found


def unescape_pem(pem: str) -> str:
    """Returns the PEM text with line breaks in place of the two characters `\\n`, as copied from a JSON file."""
    return pem.replace("\\n", "\n")


def token_request(email: str, private_key: str, key_id: str | None, token_uri: str, now_s: float) -> bytes:
    """Returns the form body that requests an access token. `now_s` is in seconds since the epoch.

    Raises ValueError if the key cannot be read.
    """
    import jwt  # imported only here, as in `read_key`

    issued = int(now_s)
    claims = {"iss": email, "scope": SCOPE, "aud": token_uri, "iat": issued, "exp": issued + ASSERTION_LIFETIME_S}
    assertion = jwt.encode(claims, read_key(private_key), "RS256", {"kid": key_id} if key_id else None)
    return urlencode({"grant_type": GRANT_TYPE, "assertion": assertion}).encode()


class Token(NamedTuple):
    """The token endpoint's result: a token and its lifetime in seconds, or the reason why there is no token.

    `is_refusal`: the account was refused, so that a retry would fail too.
    """

    token: str | None
    lifetime_s: float = 0.0
    reason: str = ""
    is_refusal: bool = False


def read_token(status: int, body: bytes) -> Token:
    """Reads the token endpoint's response by RFC 6749, 5.1 and 5.2. The reason contains a code and no account data."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        return Token(None, reason=f"the token endpoint answered {status} with no JSON object")
    token, lifetime_s = found.get("access_token"), found.get("expires_in")
    if status == 200 and isinstance(token, str) and token.isascii() and token.isprintable() and token:
        return Token(token, float(lifetime_s) if isinstance(lifetime_s, int | float) else ASSERTION_LIFETIME_S)
    code = found.get("error")
    code = code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else "no token"
    is_refusal = status in (400, 401, 403) and CLOCK_ERROR not in str(found.get("error_description"))
    return Token(None, reason=f"the token endpoint answered {status}: {code}", is_refusal=is_refusal)


def normalize(data: bytes) -> bytes:
    """Returns a reply, or the data of an event, with the Gemini API's field names in place of Vertex AI's own."""
    if b'"citations"' not in data and b'"BLOCKED_REASON_UNSPECIFIED"' not in data:
        return data
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        return data
    if not isinstance(body, dict):
        return data
    is_changed = False
    candidates = body.get("candidates")
    for candidate in candidates if isinstance(candidates, list) else ():
        metadata = candidate.get("citationMetadata") if isinstance(candidate, dict) else None
        if isinstance(metadata, dict) and "citations" in metadata and "citationSources" not in metadata:
            metadata["citationSources"] = metadata.pop("citations")
            is_changed = True
    feedback = body.get("promptFeedback")
    if isinstance(feedback, dict) and feedback.get("blockReason") == "BLOCKED_REASON_UNSPECIFIED":
        feedback["blockReason"] = "BLOCK_REASON_UNSPECIFIED"
        is_changed = True
    return orjson.dumps(body) if is_changed else data


KINDS = (
    Kind(
        "vertex",
        "https://{location}-aiplatform.googleapis.com",
        lanes("/v1beta1/projects/{project}/locations/{location}", bearer)
        | {
            (LIST_MODELS, "gemini"): Lane(MODELS, bearer),
            (GET_MODEL, "gemini"): Lane(MODELS + "/{model}", bearer),
        },
        location_base_urls={
            "global": "https://aiplatform.googleapis.com",
            "us": "https://aiplatform.us.rep.googleapis.com",
            "eu": "https://aiplatform.eu.rep.googleapis.com",
        },
        preferred_protocol="gemini",
        credential_type=SERVICE_ACCOUNT,
        normalize=normalize,
    ),
    # It lists no models; model lists contain the models that an operator registers.
    Kind(
        "vertexexpress",
        "https://aiplatform.googleapis.com",
        lanes("/v1beta1", x_goog_api_key),
        preferred_protocol="gemini",
        normalize=normalize,
    ),
)
