"""Wrapped signatures keep the provider that made them on their way through any client."""

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gproxy.protocols.hub import Signature
from gproxy.protocols.signatures import WRAPPED_PREFIX, is_wrapped, unwrap, wrap, wrap_empty

ORIGINS = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=40)


@given(ORIGINS, st.text(min_size=1))
def test_a_wrapped_signature_is_unwrapped_to_itself(origin, value):
    wrapped = wrap(Signature(origin, value))
    assert unwrap(wrapped) == Signature(origin, value)
    assert is_wrapped(wrapped)


@given(ORIGINS, st.text(min_size=1))
def test_a_wrapped_signature_is_base64_of_either_alphabet(origin, value):
    """Gemini's SDKs read signatures as bytes, and write them in URL-safe base64."""
    wrapped = wrap(Signature(origin, value))
    raw = base64.b64decode(wrapped, validate=True)
    assert unwrap(base64.urlsafe_b64encode(raw).decode()) == Signature(origin, value)


@pytest.mark.parametrize("value", ["a", "\0", "a\0b", "redacted:Eq==", "ü🗼", "x" * 100_000])
def test_any_value_can_be_wrapped(value):
    assert unwrap(wrap(Signature("main", value))) == Signature("main", value)


def test_an_empty_wrapping_is_recognised_and_has_no_signature():
    assert is_wrapped(wrap_empty("main"))
    assert unwrap(wrap_empty("main")) is None


@pytest.mark.parametrize("text", [None, ""])
def test_an_absent_signature_reads_as_none(text):
    assert unwrap(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "EqQBCgIYAhIM",  # a vendor's own
        "skip_thought_signature_validator",
        "gproxy-seal1main",  # the plain text of the prefix
        WRAPPED_PREFIX,  # the prefix alone
        WRAPPED_PREFIX + "!",
        WRAPPED_PREFIX + "AAA",  # cut
        WRAPPED_PREFIX + base64.b64encode(b"no separator").decode(),
        WRAPPED_PREFIX + base64.b64encode(b"main\0\xff\xfe").decode(),
        # forged: not base64, even if a lenient decoder accepts it
        WRAPPED_PREFIX + "ü",
        WRAPPED_PREFIX + "🗼AA",
        WRAPPED_PREFIX + "AAAA\nAAAA",
        WRAPPED_PREFIX + " AAAA",
        WRAPPED_PREFIX + "AA==AAAA",
        WRAPPED_PREFIX + "=",
        WRAPPED_PREFIX + "AAAAA",
        WRAPPED_PREFIX + "\0\0\0\0",
        WRAPPED_PREFIX[:-1] + "y" + base64.b64encode(b"main\0value").decode(),
    ],
)
def test_a_value_that_gproxy_did_not_wrap_is_a_foreign_signature(text):
    assert unwrap(text) == Signature(None, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wrap(Signature("main", "v")), True),
        (WRAPPED_PREFIX + "!", True),  # garbled: no vendor can read it
        ("EqQBCgIYAhIM", False),
        ("x" + WRAPPED_PREFIX, False),
        ("", False),
        (None, False),
        (7, False),
        (WRAPPED_PREFIX.encode(), False),
    ],
)
def test_a_wrapped_value_is_recognised_by_its_prefix(text, expected):
    assert is_wrapped(text) is expected


@given(st.text())
def test_unwrapping_any_text_behind_the_prefix_never_raises(text):
    signature = unwrap(WRAPPED_PREFIX + text)
    assert signature is None or isinstance(signature, Signature)


def test_the_value_is_not_in_the_repr():
    assert "sealed" not in repr(Signature("main", "sealed"))
