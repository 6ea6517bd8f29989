"""Passwords: hashed, verified, and never stored in clear text."""

import pytest

from gproxy.admission import passwords
from gproxy.errors import BadRequest


def test_a_password_is_stored_as_a_hash():
    stored = passwords.hash_password("correct horse")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert "correct" not in stored
    assert passwords.verify(stored, "correct horse")
    assert not passwords.verify(stored, "correct horse ")
    assert passwords.hash_password("correct horse") != stored


def test_a_hash_is_not_hashed_again():
    stored = passwords.hash_password("x")
    assert passwords.hash_password(stored) == stored


@pytest.mark.parametrize("empty", [None, ""])
def test_a_user_without_a_password_cannot_log_in(empty):
    assert passwords.hash_password(empty) is None
    assert not passwords.verify(None, "")
    assert not passwords.verify(None, "anything")


@pytest.mark.parametrize("text", ["$argon2", "$argon2id$v=19$m=1", "$argon2id$nonsense$x$y"])
def test_an_invalid_hash_is_refused_and_not_repeated_in_the_error(text):
    with pytest.raises(BadRequest) as caught:
        passwords.hash_password(text)
    assert text not in caught.value.message
    assert not passwords.verify(text, "x")


def test_a_password_may_contain_any_characters():
    for text in ("pä$$wörd ☃", "\0", " ", "x" * 1024, "\ud800"):
        try:
            stored = passwords.hash_password(text)
        except UnicodeEncodeError:
            continue
        assert passwords.verify(stored, text)
