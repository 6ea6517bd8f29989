"""Sessions: opened by name and password, valid in every worker and after a restart, ended by changes of the user."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import rows
from tests.gateway import ADMIN

PASSWORD = "correct horse battery"


def log_in(gateway, name: str = "admin", password: str = PASSWORD, **headers):
    return gateway.post("/login", {"username": name, "password": password}, None, **headers)


def session_token(gateway, name: str) -> str:
    reply = log_in(gateway, name)
    assert reply.status == 200, reply.body
    return reply.json["session_token"]


def test_a_session_is_valid_in_every_worker_and_after_a_restart(own_gateway):
    running = own_gateway(workers=3, GPROXY_ADMIN_PASSWORD=PASSWORD, GPROXY_ADMIN_API_KEY=ADMIN)
    opened = log_in(running).json
    assert (opened["expires_in_secs"], opened["is_admin"], len(opened["session_token"])) == (86_400, True, 37)
    token = opened["session_token"]
    assert {running.post("/admin/users/query", {}, token).status for _ in range(12)} == {200}
    assert running.post("/user/keys/query", {}, token).status == 200
    assert running.chat("openai-main/gpt-1", token).status == 401  # a session token is no API key
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
    ("change", "ends_sessions"),
    [
        ({"password": "another password"}, True),
        ({"enabled": False}, True),
        ({"is_admin": True}, True),
        ({"name": "renamed"}, False),
        ({"password": ""}, False),
    ],
)
def test_which_changes_of_a_user_end_its_sessions(gateway, change, ends_sessions):
    user = rows.user(gateway, password=PASSWORD, keys=0)
    token = session_token(gateway, user.name)
    assert gateway.get("/user/quota", token).status == 200
    rows.put(gateway, "users", id=user.id, **change)
    assert {gateway.get("/user/quota", token).status for _ in range(9)} == {401 if ends_sessions else 200}


def test_deleting_a_user_ends_its_sessions(gateway):
    user = rows.user(gateway, password=PASSWORD, keys=0)
    token = session_token(gateway, user.name)
    assert gateway.get("/user/quota", token).status == 200
    assert gateway.post("/admin/users/delete", {"id": user.id}).status == 200
    assert {gateway.get("/user/quota", token).status for _ in range(9)} == {401}


def test_every_refused_login_gets_the_same_reply(gateway):
    user = rows.user(gateway, password=PASSWORD, keys=0)
    disabled = rows.user(gateway, password=PASSWORD, keys=0, enabled=False)
    refused = (
        (user.name, "wrong"), (rows.unique("nobody"), PASSWORD), (disabled.name, PASSWORD), ("dev", ""), ("dev", "x")
    )  # fmt: skip
    bodies = {log_in(gateway, name, password).body.partition(b"request_id")[0] for name, password in refused}
    assert len(bodies) == 1
    assert b"invalid username or password" in bodies.pop()


@pytest.mark.timing
def test_an_unknown_user_takes_as_long_as_a_known_one(gateway):
    def median_s(name: str) -> float:
        times = []
        for _ in range(5):
            started = time.perf_counter()
            assert log_in(gateway, name, "wrong").status == 401
            times.append(time.perf_counter() - started)
        return sorted(times)[2]

    user = rows.user(gateway, password=PASSWORD, keys=0)
    log_in(gateway, rows.unique("warm"), "up")
    known, unknown = median_s(user.name), median_s(rows.unique("nobody"))
    assert 0.4 < known / unknown < 2.5


def test_guesses_are_limited_by_address_and_name(gateway):
    user = rows.user(gateway, password=PASSWORD, keys=0)
    seen = [log_in(gateway, user.name, f"wrong-{n}").status for n in range(12)]
    assert (seen[:10], seen[10:]) == ([401] * 10, [429] * 2)
    refused = log_in(gateway, user.name)
    assert refused.status == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert "rate_limited" in refused.json["error"]["message"]
    # Behind a proxy each client has its own address; entries that the client itself put in the header do not count.
    assert log_in(gateway, user.name, X_Forwarded_For="203.0.113.7").status == 200
    assert log_in(gateway, user.name, X_Forwarded_For="198.51.100.1, 203.0.113.8").status == 200
    for n in range(10):
        log_in(gateway, user.name, "wrong", X_Forwarded_For=f"198.51.100.{n}, 203.0.113.9")
    assert log_in(gateway, user.name, X_Forwarded_For="203.0.113.9").status == 429
    assert log_in(gateway, "dev", "x").status == 401  # another name


def test_logins_from_one_address_are_limited_whatever_the_names(gateway):
    address = {"X_Forwarded_For": "192.0.2.120"}  # of this case alone
    with ThreadPoolExecutor(4) as together:
        seen = list(together.map(lambda n: log_in(gateway, f"name-{n}", "x", **address).status, range(125)))
    assert (seen.count(401), seen.count(429)) == (120, 5)
    assert log_in(gateway, "name-125", "x", **address).status == 429


@pytest.mark.parametrize("body", [{}, {"username": "x"}, {"username": 1, "password": "x"}, [], b"{"])
def test_a_malformed_login_is_a_bad_request(gateway, body):
    assert gateway.post("/login", body, None).status == 400
