"""Finds the keys and passwords of a gateway in what it printed and answered.

The secrets of a gateway are the values of its seed, its environment and its calls whose names are listed here. What is
shown on purpose is listed here too, and nothing else is left out.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit

from gproxy.logs import MIN_SECRET
from gproxy.settings import PUBLISHED_KEY, REFERENCE, VENDOR_KEYS

# Names of values that are secrets, in a seed and in the JSON of a call.
NAMES = {"api_key", "private_key", "password", "session_token"}
# Names of URLs whose password is a secret.
URL_NAMES = {"dsn", "proxy"}
VARIABLES = {
    *("DATABASE_SECRET_KEY", "DATABASE_SECRET_KEY_NEW", "GPROXY_ADMIN_PASSWORD", "GPROXY_ADMIN_API_KEY"),
    *VENDOR_KEYS,
}
URL_VARIABLES = {"GPROXY_DSN", "GPROXY_REDIS_URL", "GPROXY_PROXY"}

# Shown on purpose, each in this line of the log alone. The first administrator's generated password and key, which a
# start without a seed prints, are in no seed.
SHOWN = (
    re.compile(rf"^  curl http://\S+ -H 'Authorization: Bearer {PUBLISHED_KEY}' .*$", re.MULTILINE),  # quick start
    re.compile(rf"^  {PUBLISHED_KEY} is the published quick-start key and would be open .*$", re.MULTILINE),
)
# A call with one of these asks for secrets: `reveal` shows credentials, `secrets` exports them.
ASKS_FOR_SECRETS = (b'"reveal": true', b'"secrets": true')
PEM_LINE = 40  # characters; shorter lines of a private key are its frame and its rest


def of_seed(text: str, environ: Mapping[str, str]) -> set[str]:
    """The secrets of a seed. A `${NAME}` is none; the value of that variable is. Empty for what is not TOML."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return set()
    return {secret for value in _named(document) for secret in _parts(_filled(value, environ))}


def of_environment(environ: Mapping[str, str]) -> set[str]:
    values = [environ[name].strip() for name in VARIABLES & environ.keys()]
    values += [_password(environ[name]) for name in URL_VARIABLES & environ.keys()]
    return {secret for value in values for secret in _parts(value)}


def of_json(body: bytes) -> set[str]:
    """The secrets in the JSON of a request or a reply. Empty for what is not JSON."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return set()
    return {secret for value in _named(document) for secret in _parts(_filled(value, {}))}


def found(secrets: set[str], output: str) -> list[str]:
    """Those of the secrets that the output holds, each as a word of its own."""
    shown = [secret for secret in secrets if secret in output]
    return sorted(secret for secret in shown if re.search(rf"(?<![\w-]){re.escape(secret)}(?![\w-])", output))


def found_in_log(secrets: set[str], log: str) -> list[str]:
    for line in SHOWN:
        log = line.sub("", log)
    return found(secrets, log)


def _named(document) -> Iterator[str]:
    """The texts in a document whose name says that they are secrets, at any depth."""
    if isinstance(document, list):
        for one in document:
            yield from _named(one)
    elif isinstance(document, dict):
        for name, value in document.items():
            if not isinstance(value, str):
                yield from _named(value)
            elif name in NAMES or (name == "credential" and not value.lstrip().startswith("{")):
                yield value
            elif name in URL_NAMES:
                yield _password(value)
            elif name in ("credential", "settings_json", "settings") and value.lstrip().startswith("{"):
                yield from of_json(value.encode())


def _filled(value: str, environ: Mapping[str, str]) -> str:
    """With the values of its references; empty when one is not set."""
    if any(name not in environ for name in REFERENCE.findall(value)):
        return ""
    return REFERENCE.sub(lambda match: environ[match[1]].strip(), value)


def _password(url: str) -> str:
    try:
        return unquote(urlsplit(url).password or "")
    except ValueError:
        return ""


def _parts(value: str) -> set[str]:
    """The value, or the long lines of a private key: a log may show them joined by line ends or by their escapes.

    Shorter values than gproxy itself blacks out are words that a log may hold.
    """
    if "PRIVATE KEY" in value:
        return {line for line in re.split(r"\\n|\n", value) if len(line) >= PEM_LINE}
    return {value} if len(value) >= MIN_SECRET and value != "***" else set()
