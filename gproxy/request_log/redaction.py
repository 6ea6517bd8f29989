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
MIN_SECRET = 8
BEGINNING = 4
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
# A value of such a field, also where the document stands as text within another one, or is cut within the value.
_FIELD = re.compile(
    rb'((?:\\{0,7}")?(?:password|api_key|apikey|session_token|access_token|private_key|credential|secret|token)(?:\\{0,7}")?'
    rb'\s*[:=]\s*)(\\{0,7}")(?:[^"\\]|\\(?s:.)|\\\Z)*?(\2|(?=")|\Z)',
    re.IGNORECASE,
)
# The password in a proxy's address.
_ADDRESS = re.compile(rb'(://[^\s"/@:]{0,256}:)[^\s"/@]{1,1024}@')
# Keys and sessions that this gateway gave: it knows them by their digests, and anybody by their look.
_MADE = re.compile(rb"(?:sk-api01-|sess-)[0-9a-f]{32}")
_MADE_BYTES = 41
_HASH = re.compile(rb"\$argon2[a-z]*\$[A-Za-z0-9$=,+/.-]+")


class Redactor:
    """`secrets` are those that are alive now."""

    def __init__(self, secrets: Iterable[str]):
        long = {secret for secret in secrets if len(secret) >= MIN_SECRET}
        written = long | {json.dumps(secret)[1:-1] for secret in long}
        # Longest first, so that a secret that begins with another is blacked out whole.
        # What of the environment is no text stands in it as surrogates.
        found = (one.encode("utf-8", "surrogateescape") for one in written)
        self._longest = 0
        # By how they begin, as vendors' keys do: of what no text holds the beginning, none needs to be looked for.
        self._secrets: dict[bytes, list[bytes]] = {}
        for secret in sorted(found, key=len, reverse=True):
            self._longest = max(self._longest, len(secret))
            self._secrets.setdefault(secret[:BEGINNING], []).append(secret)

    def room(self, own: Iterable[bytes] = ()) -> int:
        """How much of a body beyond its beginning has to be known, so that no secret is cut at its end."""
        return max(_MADE_BYTES, self._longest, *map(len, own), 0)

    def beginning(self, data: bytes, maximum: int, own: Sequence[bytes], is_cut: bool) -> bytes:
        """So much of a body at most, of which `room` more is here. `is_cut`: this was not all of it either."""
        told = self.body(data, own)
        if is_cut:  # what was blacked out before it moved the end, where a secret may be cut, to the front
            told = told[: max(0, len(told) - self.room(own))]
        return told[:maximum]

    def body(self, data: bytes, own: Iterable[bytes] = ()) -> bytes:
        """`own`: what else is a secret here, as the key that a client showed."""
        for beginning, secrets in self._secrets.items():
            if beginning in data:
                for secret in secrets:
                    data = data.replace(secret, _BLACK)
        for secret in own:
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

    def url(self, text: str, own: Iterable[bytes] = ()) -> str:
        address, mark, query = text.partition("?")
        return self.text(address, own) + mark + self.query(query, own)

    def query(self, text: str, own: Iterable[bytes] = ()) -> str:
        if not text:
            return text
        pairs = parse_qsl(text, keep_blank_values=True)
        if any(_is_secret(name) for name, _ in pairs):
            text = urlencode([(name, BLACK if _is_secret(name) else value) for name, value in pairs])
        return self.text(text, own)


def _sayable(value: str) -> str:
    """WSGI has each byte of a header as a character, and some stand for none."""
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8", "replace")


@lru_cache(maxsize=4096)
def _hides(name: str) -> bool:
    lower = name.lower()
    return lower in HEADERS or (_HEADER.search(lower) is not None and _HARMLESS.match(lower) is None)


def _is_secret(parameter: str) -> bool:
    return parameter.lower() in _PARAMETERS or _hides(parameter)


def document(data: bytes) -> bytes:
    """A document of an operator or a user, without the values of fields that hold secrets."""
    data = _FIELD.sub(rb"\1\2" + _BLACK + rb"\3", data)
    return _HASH.sub(_BLACK, _ADDRESS.sub(rb"\1" + _BLACK + b"@", data))
