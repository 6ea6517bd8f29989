"""Passwords: hashed, checked, and never known."""

import pytest

from gproxy.admission import passwords
from gproxy.errors import BadRequest


def test_a_password_is_known_by_its_hash_alone():
    stored = passwords.hashed("correct horse")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert "correct" not in stored
    assert passwords.verify(stored, "correct horse")
    assert not passwords.verify(stored, "correct horse ")
    assert passwords.hashed("correct horse") != stored


def test_a_hash_stays_what_it_is():
    stored = passwords.hashed("x")
    assert passwords.hashed(stored) == stored


@pytest.mark.parametrize("empty", [None, ""])
def test_without_a_password_nobody_logs_in(empty):
    assert passwords.hashed(empty) is None
    assert not passwords.verify(None, "")
    assert not passwords.verify(None, "anything")


@pytest.mark.parametrize("text", ["$argon2", "$argon2id$v=19$m=1", "$argon2id$nonsense$x$y"])
def test_what_only_begins_as_a_hash_is_refused_without_being_told(text):
    with pytest.raises(BadRequest) as told:
        passwords.hashed(text)
    assert text not in told.value.message
    assert not passwords.verify(text, "x")


def test_a_password_of_any_characters():
    for text in ("pä$$wörd ☃", "\0", " ", "x" * 1024, "\ud800"):
        try:
            stored = passwords.hashed(text)
        except UnicodeEncodeError:
            continue
        assert passwords.verify(stored, text)
