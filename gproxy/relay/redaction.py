"""Secrets out of what is kept of requests: by the names of headers, parameters and fields, and by themselves."""

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from urllib.parse import parse_qsl, urlencode

import orjson

BLACK = "[redacted]"
_BLACK = BLACK.encode()
# Shorter ones would black out ordinary words.
LEAST_SECRET = 8
HEADERS = frozenset(
    (
        *("authorization", "proxy-authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie", "set-cookie"),
        *("x-goog-iam-authorization-token", "x-amz-security-token"),
    )
)
_HEADER = re.compile(r"^x-amz-|token|secret|password|api[-_]?key|credential", re.IGNORECASE)
# These hold the word and no secret.
_HARMLESS = re.compile(r"^(x-ratelimit-|anthropic-ratelimit-|x-gproxy-)", re.IGNORECASE)
_PARAMETERS = frozenset(("key", "api_key", "access_token", "token", "password", "secret"))
# A value of such a field, also where the document stands as text within another one.
_FIELD = re.compile(
    rb'((?:\\{0,7}")?(?:password|api_key|apikey|session_token|access_token|private_key|credential|secret|token)(?:\\{0,7}")?'
    rb'\s{0,8}[:=]\s{0,8})(\\{0,7}")((?:[^"\\]|\\.)*?)\2',
    re.IGNORECASE,
)
# Keys and sessions that this gateway gave: it knows them by their digests, and anybody by their look.
_MADE = re.compile(rb"(?:sk-api01-|sess-)[0-9a-f]{32}")
_HASH = re.compile(rb"\$argon2[a-z]*\$[A-Za-z0-9$=,+/.-]+")


class Redactor:
    """`secrets` are those that are alive now."""

    def __init__(self, secrets: Iterable[str]):
        long = {secret for secret in secrets if len(secret) >= LEAST_SECRET}
        written = long | {json.dumps(secret)[1:-1] for secret in long}
        # Longest first, so that a secret that begins with another is blacked out whole.
        self._secrets = tuple(sorted((one.encode() for one in written), key=len, reverse=True))
        self.longest = max(map(len, self._secrets), default=0)

    def body(self, data: bytes, own: Iterable[bytes] = ()) -> bytes:
        """`own`: what else is a secret here, as the key that a client showed."""
        for secret in (*self._secrets, *own):
            if secret in data:
                data = data.replace(secret, _BLACK)
        if b"sk-api01-" in data or b"sess-" in data:
            data = _MADE.sub(_BLACK, data)
        return data

    def text(self, text: str, own: Iterable[bytes] = ()) -> str:
        return self.body(text.encode("utf-8", "replace"), own).decode("utf-8", "replace")

    def headers(self, pairs: Iterable[tuple[str, str]], own: Sequence[bytes] = ()) -> str:
        """As JSON, `[[name, value], …]`."""
        told = orjson.dumps([(name, BLACK if _hides(name) else _sayable(value)) for name, value in pairs])
        return self.body(told, own).decode()

    def query(self, text: str, own: Iterable[bytes] = ()) -> str:
        if not text:
            return text
        pairs = parse_qsl(text, keep_blank_values=True)
        if any(name.lower() in _PARAMETERS for name, _ in pairs):
            text = urlencode([(name, BLACK if name.lower() in _PARAMETERS else value) for name, value in pairs])
        return self.text(text, own)


def _sayable(value: str) -> str:
    """WSGI has each byte of a header as a character, and some stand for none."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8", "replace")


@lru_cache(maxsize=4096)
def _hides(name: str) -> bool:
    lower = name.lower()
    return lower in HEADERS or (_HEADER.search(lower) is not None and _HARMLESS.match(lower) is None)


def document(data: bytes) -> bytes:
    """A document of an operator or a user, without the values of fields that hold secrets."""
    return _HASH.sub(_BLACK, _FIELD.sub(rb"\1\2" + _BLACK + rb"\2", data))
