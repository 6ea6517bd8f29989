"""Envelopes: which provider made an opaque value survives any client."""

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gproxy.protocols.hub import Signature
from gproxy.protocols.signatures import WRAPPED_PREFIX, is_wrapped, unwrap, wrap, wrap_empty

NAMES = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=40)


@given(NAMES, st.text(min_size=1))
def test_an_envelope_is_opened_as_it_was_closed(origin, value):
    wrapped = wrap(Signature(origin, value))
    assert unwrap(wrapped) == Signature(origin, value)
    assert is_wrapped(wrapped)


@given(NAMES, st.text(min_size=1))
def test_an_envelope_is_base64_that_every_sdk_takes(origin, value):
    """Gemini's SDKs read signatures as bytes, and write them with the alphabet for URLs."""
    wrapped = wrap(Signature(origin, value))
    raw = base64.b64decode(wrapped, validate=True)
    assert unwrap(base64.urlsafe_b64encode(raw).decode()) == Signature(origin, value)


@pytest.mark.parametrize("value", ["a", "\0", "a\0b", "redacted:Eq==", "ü🗼", "x" * 100_000])
def test_any_value_fits(value):
    assert unwrap(wrap(Signature("main", value))) == Signature("main", value)


def test_an_empty_envelope_is_ours_and_holds_no_signature():
    assert is_wrapped(wrap_empty("main"))
    assert unwrap(wrap_empty("main")) is None


@pytest.mark.parametrize("nothing", [None, ""])
def test_nothing_is_no_signature(nothing):
    assert unwrap(nothing) is None


@pytest.mark.parametrize(
    "text",
    [
        "EqQBCgIYAhIM",  # a vendor's own
        "skip_thought_signature_validator",
        "gproxy-seal1main",  # our word, and not our envelope
        WRAPPED_PREFIX,  # an empty envelope
        WRAPPED_PREFIX + "!",
        WRAPPED_PREFIX + "AAA",  # cut
        WRAPPED_PREFIX + base64.b64encode(b"no separator").decode(),
        WRAPPED_PREFIX + base64.b64encode(b"main\0\xff\xfe").decode(),
        # forged: what is no base64, whatever a decoder may make of it
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
def test_what_is_no_envelope_of_ours_is_a_foreign_signature(text):
    assert unwrap(text) == Signature(None, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wrap(Signature("main", "v")), True),
        (WRAPPED_PREFIX + "!", True),  # garbled, and still nothing that a vendor could read
        ("EqQBCgIYAhIM", False),
        ("x" + WRAPPED_PREFIX, False),
        ("", False),
        (None, False),
        (7, False),
        (WRAPPED_PREFIX.encode(), False),
    ],
)
def test_whose_envelope_it_is_shows_at_its_beginning(text, expected):
    assert is_wrapped(text) is expected


@given(st.text())
def test_whatever_stands_behind_the_mark_raises_nothing(text):
    found = unwrap(WRAPPED_PREFIX + text)
    assert found is None or isinstance(found, Signature)


def test_the_value_is_in_no_repr():
    assert "sealed" not in repr(Signature("main", "sealed"))
