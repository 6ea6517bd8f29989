"""Sessions: told once, known by a digest, over in their time."""

import pytest

from gproxy.admission import sessions
from gproxy.errors import Unauthorized
from gproxy.snapshot import Login, Snapshot


def test_tokens_are_long_and_differ():
    found = {sessions.new_token() for _ in range(100)}
    assert len(found) == 100
    assert {(token[:5], len(token)) for token in found} == {("sess-", 37)}


def test_a_session_is_good_until_its_end():
    token = sessions.new_token()
    login = Login(1, "ann", False, expires_at=1_000.0)
    snapshot = Snapshot({}, logins={sessions.digest(token): login})
    assert sessions.admit(snapshot, token, 999.9) is login
    for other, now in ((token, 1_000.0), (token[:-1], 1.0), ("sess-\udc80", 1.0), (sessions.new_token(), 1.0)):
        with pytest.raises(Unauthorized) as told:
            sessions.admit(snapshot, other, now)
        assert token not in told.value.message
