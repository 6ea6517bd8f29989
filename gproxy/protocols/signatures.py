"""Wraps opaque vendor values, such as thought signatures, for a client of another protocol.

The client echoes the wrapped value in a field of its own protocol. The wrapping names the provider that made the value,
so that only that provider gets it back. It is base64 throughout: Gemini's SDKs accept nothing else as a signature.
"""

import base64

from gproxy.protocols.hub import Signature

_HEAD = b"gproxy-seal1"  # twelve bytes, so that its base64 is sixteen letters, whatever follows
WRAPPED_PREFIX = base64.b64encode(_HEAD).decode()
# What Google documents for a call without its signature: https://ai.google.dev/gemini-api/docs/thought-signatures
SKIP_VALIDATOR = "skip_thought_signature_validator"


def wrap(signature: Signature) -> str:
    """Returns the wrapped value, as a client of another protocol carries it."""
    content = f"{signature.origin}\0{signature.value}".encode()
    return base64.b64encode(_HEAD + content).decode()


def wrap_empty(origin: str) -> str:
    """Returns a wrapping without a value, for thinking that has no signature: other providers must not get it back."""
    return wrap(Signature(origin, ""))


def unwrap(text: str | None) -> Signature | None:
    """Returns the signature that a client sent back, None for an empty wrapping.

    A value that gproxy did not wrap has the origin None.
    """
    if not text:
        return None
    if not text.startswith(WRAPPED_PREFIX):
        return Signature(None, text)
    try:
        content = base64.b64decode(text.translate(_STANDARD), validate=True)[len(_HEAD) :].decode()
    except ValueError:  # not base64, not ASCII or not UTF-8: forged
        return Signature(None, text)
    origin, separator, value = content.partition("\0")
    if not separator:
        return Signature(None, text)
    return Signature(origin, value) if value else None


def is_wrapped(text: object) -> bool:
    """Returns whether gproxy wrapped the value. The content is not checked."""
    return isinstance(text, str) and text.startswith(WRAPPED_PREFIX)


# Some SDKs write bytes in URL-safe base64.
_STANDARD = str.maketrans("-_", "+/")
