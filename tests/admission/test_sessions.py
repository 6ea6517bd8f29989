"""Login sessions: random tokens, looked up by their digest, valid until they expire."""

import pytest

from gproxy.admission import sessions
from gproxy.errors import Unauthorized
from gproxy.snapshot import Login, Snapshot


def test_tokens_have_128_random_bits_and_differ():
    found = {sessions.new_token() for _ in range(100)}
    assert len(found) == 100
    assert {(token[:5], len(token)) for token in found} == {("sess-", 37)}


def test_a_session_is_valid_until_it_expires():
    token = sessions.new_token()
    login = Login(1, "ann", False, expires_at=1_000.0)
    snapshot = Snapshot({}, logins={sessions.digest(token): login})
    assert sessions.admit(snapshot, token, 999.9) is login
    for other, now in ((token, 1_000.0), (token[:-1], 1.0), ("sess-\udc80", 1.0), (sessions.new_token(), 1.0)):
        with pytest.raises(Unauthorized) as caught:
            sessions.admit(snapshot, other, now)
        assert token not in caught.value.message
