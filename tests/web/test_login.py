"""Login and logout: whom a session belongs to, that every wrong login looks the same, and how a session ends."""

import pytest

from gproxy.admission import sessions
from gproxy.web import throttle
from gproxy.web.login import INVALID_LOGIN
from tests.site import PASSWORD


def login(client, name: str = "ann", password: str = PASSWORD, address: str = "192.0.2.20"):
    body = {"username": name, "password": password}
    return client.post("/login", json=body, environ_base={"REMOTE_ADDR": address})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(("name", "is_admin"), [("ann", False), ("root", True)])
def test_a_login_opens_a_session_of_its_user(process_client, name, is_admin):
    found = login(process_client, name).json
    assert found["session_token"].startswith(sessions.PREFIX)
    assert (found["is_admin"], found["expires_in_secs"]) == (is_admin, sessions.LIFETIME_S)
    status = process_client.post("/admin/users/query", json={}, headers=bearer(found["session_token"])).status_code
    assert status == (200 if is_admin else 403)


@pytest.mark.parametrize(
    ("name", "password"), [("ann", "wrong"), ("nobody", PASSWORD), ("off", PASSWORD), ("ann", ""), ("", PASSWORD)]
)
def test_every_wrong_login_has_the_same_answer(process_client, name, password):
    reply = login(process_client, name, password, "192.0.2.21")
    assert (reply.status_code, reply.json["error"]["message"]) == (401, f"unauthorized: {INVALID_LOGIN}")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"username": "ann"}', b'{"username": 7, "password": "x"}'])
def test_a_body_that_is_no_login_is_a_bad_request(process_client, body):
    reply = process_client.post("/login", data=body, environ_base={"REMOTE_ADDR": "192.0.2.22"})
    assert (reply.status_code, reply.json["error"]["code"]) == (400, "invalid_request")


def test_after_too_many_failures_even_the_right_password_is_refused(process_client, monkeypatch):
    monkeypatch.setattr("gproxy.admission.passwords.verify", lambda stored, password: password == PASSWORD)
    for _ in range(throttle.FAILURES.amount):
        assert login(process_client, "root", "wrong", "192.0.2.23").status_code == 401
    refused = login(process_client, "root", address="192.0.2.23")
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "rate_limited")
    assert login(process_client, "root", address="192.0.2.24").status_code == 200


def test_a_logout_ends_its_session_alone(process_client):
    first, second = (login(process_client).json["session_token"] for _ in range(2))
    assert process_client.post("/logout", headers=bearer(first)).json == {"ok": True}
    assert process_client.post("/logout", headers=bearer(first)).status_code == 401
    assert process_client.post("/logout", headers=bearer(second)).status_code == 200


@pytest.mark.parametrize("key", [None, "sk-ann", f"{sessions.PREFIX}unknown"])
def test_only_a_session_can_be_ended(process_client, key):
    headers = {} if key is None else bearer(key)
    assert process_client.post("/logout", headers=headers).status_code == 401
