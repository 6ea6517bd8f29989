"""Envelopes for opaque values on their way through a client of another protocol.

A client echoes them in a field of its own protocol. The envelope says which provider made the value, so that no
vendor is ever sent another one's. It is base64 throughout, since Gemini's SDKs take nothing else for a signature.
"""

import base64

from gproxy.protocols.hub import Signature

_HEAD = b"gproxy-seal1"  # twelve bytes: as base64 it begins with the same sixteen letters whatever follows
WRAPPED_PREFIX = base64.b64encode(_HEAD).decode()
# What Google documents for a call whose signature is gone: https://ai.google.dev/gemini-api/docs/thought-signatures
SKIP_VALIDATOR = "skip_thought_signature_validator"


def wrap(signature: Signature) -> str:
    """The value as a client of another protocol carries it."""
    inner = f"{signature.origin}\0{signature.value}".encode()
    return base64.b64encode(_HEAD + inner).decode()


def wrap_empty(origin: str) -> str:
    """An envelope with nothing in it, for what no vendor signed: the next one must not be sent it as its own."""
    return wrap(Signature(origin, ""))


def unwrap(text: str | None) -> Signature | None:
    """What a client brought back; without our envelope it is a foreign one."""
    if not text:
        return None
    if not text.startswith(WRAPPED_PREFIX):
        return Signature(None, text)
    try:
        inner = base64.b64decode(text.translate(_STANDARD), validate=True)[len(_HEAD) :].decode()
    except ValueError:  # not base64, not ASCII or not UTF-8: forged
        return Signature(None, text)
    origin, separator, value = inner.partition("\0")
    if not separator:
        return Signature(None, text)
    return Signature(origin, value) if value else None


def is_wrapped(text: object) -> bool:
    return isinstance(text, str) and text.startswith(WRAPPED_PREFIX)


# Some SDKs write bytes with the alphabet for URLs.
_STANDARD = str.maketrans("-_", "+/")
