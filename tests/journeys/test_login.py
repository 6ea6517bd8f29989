"""Sessions: given for a name and a password, good in every worker and after a restart, ended as they should."""

import time

import pytest

from tests.gateway import ADMIN

PASSWORD = "correct horse battery"


@pytest.fixture
def running(own_gateway):
    return own_gateway(workers=3, GPROXY_ADMIN_PASSWORD=PASSWORD, GPROXY_ADMIN_API_KEY=ADMIN)


def log_in(gateway, name: str = "admin", password: str = PASSWORD, **headers):
    return gateway.post("/login", {"username": name, "password": password}, None, **headers)


def make(gateway, name: str, **fields) -> int:
    return gateway.post("/admin/users/upsert", {"name": name, "password": PASSWORD, **fields}).json["id"]


def test_a_session_is_good_everywhere_and_after_a_restart(running):
    told = log_in(running).json
    assert (told["expires_in_secs"], told["is_admin"], len(told["session_token"])) == (86_400, True, 37)
    token = told["session_token"]
    assert {running.post("/admin/users/query", {}, token).status for _ in range(12)} == {200}
    assert running.post("/user/keys/query", {}, token).status == 200
    assert running.chat("openai-main/gpt-1", token).status == 401  # it is no API key
    assert running.post("/user/keys/query", {}, ADMIN).status == 401
    assert "session" in running.post("/user/keys/query", {}, ADMIN).json["error"]["message"]
    running.stop()
    running.start()
    assert running.post("/admin/users/query", {}, token).status == 200
    files = b"".join(path.read_bytes() for path in running.data.glob("gproxy.db*"))
    assert token.encode() not in files
    assert token not in running.log
    assert PASSWORD not in running.log
    assert running.post("/logout", {}, token).status == 200
    assert {running.post("/admin/users/query", {}, token).status for _ in range(9)} == {401}


@pytest.mark.parametrize(
    ("change", "is_over"),
    [
        ({"password": "another password"}, True),
        ({"enabled": False}, True),
        ({"is_admin": True}, True),
        ({"name": "renamed"}, False),
        ({"password": ""}, False),
    ],
)
def test_what_ends_the_sessions_of_a_user(running, change, is_over):
    user_id = make(running, "ann")
    token = log_in(running, "ann").json["session_token"]
    assert running.get("/user/quota", token).status == 200
    assert running.post("/admin/users/upsert", {"id": user_id, **change}).status == 200
    assert {running.get("/user/quota", token).status for _ in range(9)} == {401 if is_over else 200}


def test_a_deleted_user_is_logged_out(running):
    user_id = make(running, "ann")
    token = log_in(running, "ann").json["session_token"]
    running.post("/admin/users/delete", {"id": user_id})
    assert {running.get("/user/quota", token).status for _ in range(9)} == {401}


def test_who_may_not_log_in_learns_nothing_of_why(running):
    make(running, "off", enabled=False)
    told = {
        log_in(running, name, password).body.partition(b"request_id")[0]
        for name, password in (("admin", "wrong"), ("nobody", PASSWORD), ("off", PASSWORD), ("dev", ""), ("dev", "x"))
    }
    assert len(told) == 1
    assert b"invalid username or password" in told.pop()


def test_an_unknown_user_takes_as_long_as_a_known_one(running):
    def median_s(name: str) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            assert log_in(running, name, "wrong").status == 401
            times.append(time.perf_counter() - started)
        return sorted(times)[2]

    log_in(running, "warm", "up")
    known, unknown = median_s("admin"), median_s("nobody")
    assert 0.4 < known / unknown < 2.5


def test_guessing_is_slowed_down_by_address_and_name(running):
    seen = [log_in(running, "admin", f"wrong-{n}").status for n in range(12)]
    assert (seen[:10], seen[10:]) == ([401] * 10, [429] * 2)
    refused = log_in(running)
    assert refused.status == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert "rate_limited" in refused.json["error"]["message"]
    # Behind a proxy each client is somebody else, and what a client claims itself counts for nothing.
    assert log_in(running, X_Forwarded_For="203.0.113.7").status == 200
    assert log_in(running, X_Forwarded_For="198.51.100.1, 203.0.113.8").status == 200
    for n in range(10):
        log_in(running, "admin", "wrong", X_Forwarded_For=f"198.51.100.{n}, 203.0.113.9")
    assert log_in(running, X_Forwarded_For="203.0.113.9").status == 429
    assert log_in(running, "dev", "x").status == 401  # another name


def test_one_address_cannot_ask_without_end(running):
    seen = [log_in(running, f"name-{n}", "x").status for n in range(125)]
    assert (seen.count(401), seen[-1]) == (120, 429)


@pytest.mark.parametrize("body", [{}, {"username": "x"}, {"username": 1, "password": "x"}, [], b"{"])
def test_what_is_no_login_is_refused(running, body):
    assert running.post("/login", body, None).status == 400
