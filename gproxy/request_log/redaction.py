"""Redacts logged requests by header, parameter and field name and by known secret values."""

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from urllib.parse import parse_qsl, urlencode

import orjson

REDACTED = "[redacted]"
_REDACTED = REDACTED.encode()
# Shorter secrets could be ordinary words.
MIN_SECRET = 8
# Known secrets are grouped by their first bytes.
PREFIX_BYTES = 4
HEADERS = frozenset(
    (
        *("authorization", "proxy-authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie", "set-cookie"),
        *("x-goog-iam-authorization-token", "x-amz-security-token"),
    )
)
_HEADER = re.compile(r"^x-amz-|token|secret|password|api[-_]?key|credential", re.IGNORECASE)
# Header names that match `_HEADER` and carry no secret.
_HARMLESS = re.compile(r"^(x-ratelimit-|anthropic-ratelimit-|x-gproxy-)", re.IGNORECASE)
_PARAMETERS = frozenset(("key", "api_key", "access_token", "token", "password", "secret"))
# The value of a secret field, also in a document that is a string inside another document, or that is cut in the value.
_SECRET_FIELD = re.compile(
    rb'((?:\\{0,7}")?(?:password|api_key|apikey|session_token|access_token|private_key|credential|secret|token)(?:\\{0,7}")?'
    rb'\s*[:=]\s*)(\\{0,7}")(?:[^"\\]|\\(?s:.)|\\\Z)*?(\2|(?=")|\Z)',
    re.IGNORECASE,
)
# The password in the URL of a proxy. User and password may contain "@"; the last one precedes the host.
_PROXY_PASSWORD = re.compile(rb'(://[^\s"/:]{0,256}:)[^\s"/]{1,1024}@')
# Keys and session tokens that gproxy issued: only their digests are known, so they are recognised by their format.
_ISSUED = re.compile(rb"(?:sk-api01-|sess-)[0-9a-f]{32}")
_ISSUED_BYTES = 41
_HASH = re.compile(rb"\$argon2[a-z]*\$[A-Za-z0-9$=,+/.-]+")


class Redactor:
    """Replaces secrets by REDACTED. `secrets` are the known secrets in use.

    `own_secrets` of the methods are further secrets of one request, such as the client's key.
    """

    def __init__(self, secrets: Iterable[str]):
        long_enough = {secret for secret in secrets if len(secret) >= MIN_SECRET}
        forms = long_enough | {json.dumps(secret)[1:-1] for secret in long_enough}
        # Bytes of the environment that are not UTF-8 are surrogates in its strings.
        encoded = (secret.encode("utf-8", "surrogateescape") for secret in forms)
        self._longest = 0
        # By prefix, because the keys of a vendor begin alike: only secrets whose prefix occurs are searched for.
        self._secrets: dict[bytes, list[bytes]] = {}
        # Longest first, so that a secret that begins with another one is replaced completely.
        for secret in sorted(encoded, key=len, reverse=True):
            self._longest = max(self._longest, len(secret))
            self._secrets.setdefault(secret[:PREFIX_BYTES], []).append(secret)

    def margin(self, own_secrets: Iterable[bytes] = ()) -> int:
        """The number of bytes that `beginning` needs beyond its maximum, so that no secret is cut at the end."""
        return max(_ISSUED_BYTES, self._longest, *map(len, own_secrets), 0)

    def beginning(self, data: bytes, maximum: int, own_secrets: Sequence[bytes], is_cut: bool) -> bytes:
        """The redacted beginning of a body, at most `maximum` bytes.

        `data` is the body, or if `is_cut` its first `maximum` plus `margin` bytes.
        """
        redacted = self.body(data, own_secrets)
        if is_cut:  # redaction may shorten the text, so that a secret cut at its end would lie within `maximum`
            redacted = redacted[: max(0, len(redacted) - self.margin(own_secrets))]
        return redacted[:maximum]

    def body(self, data: bytes, own_secrets: Iterable[bytes] = ()) -> bytes:
        for prefix, secrets in self._secrets.items():
            if prefix in data:
                for secret in secrets:
                    data = data.replace(secret, _REDACTED)
        for secret in own_secrets:
            data = data.replace(secret, _REDACTED)
        if b"sk-api01-" in data or b"sess-" in data:
            data = _ISSUED.sub(_REDACTED, data)
        return data

    def text(self, text: str, own_secrets: Iterable[bytes] = ()) -> str:
        return self.body(text.encode("utf-8", "replace"), own_secrets).decode("utf-8", "replace")

    def headers(self, pairs: Iterable[tuple[str, str]], own_secrets: Sequence[bytes] = ()) -> str:
        """The headers as JSON, `[[name, value], …]`."""
        redacted = [
            (name, REDACTED if _is_secret_header(name) else _without_surrogates(value)) for name, value in pairs
        ]
        return self.body(orjson.dumps(redacted), own_secrets).decode()

    def url(self, text: str, own_secrets: Iterable[bytes] = ()) -> str:
        address, separator, query = text.partition("?")
        return self.text(address, own_secrets) + separator + self.query(query, own_secrets)

    def query(self, text: str, own_secrets: Iterable[bytes] = ()) -> str:
        if not text:
            return text
        pairs = parse_qsl(text, keep_blank_values=True)
        if any(_is_secret_parameter(name) for name, _ in pairs):
            text = urlencode([(name, REDACTED if _is_secret_parameter(name) else value) for name, value in pairs])
        return self.text(text, own_secrets)


def _without_surrogates(value: str) -> str:
    """A header value may contain surrogates, which JSON cannot represent."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8", "replace")


@lru_cache(maxsize=4096)
def _is_secret_header(name: str) -> bool:
    lower = name.lower()
    return lower in HEADERS or (_HEADER.search(lower) is not None and _HARMLESS.match(lower) is None)


def _is_secret_parameter(parameter: str) -> bool:
    return parameter.lower() in _PARAMETERS or _is_secret_header(parameter)


def document(data: bytes) -> bytes:
    """Redacts secret fields, proxy passwords and password hashes in a document of an operator or a user."""
    data = _SECRET_FIELD.sub(rb"\1\2" + _REDACTED + rb"\3", data)
    return _HASH.sub(_REDACTED, _PROXY_PASSWORD.sub(rb"\1" + _REDACTED + b"@", data))
