"""The `/query` routes of administrators and users: all of them have the same pages."""

import json
import sqlite3
from contextlib import closing

import pytest

from gproxy.app import create_app
from gproxy.config.filters import MAX_LOG_ROWS, MAX_ROWS
from gproxy.store import request_logs
from gproxy.store.database import Database
from tests import rows
from tests.gateway import ADMIN, Gateway
from tests.journeys.test_login import PASSWORD, session_token
from tests.store.test_request_logs import downstream, upstream
from tests.store.test_usages import row

PATHS = sorted(rule.rule for rule in create_app().url_map.iter_rules() if rule.rule.endswith("/query"))
OF_LOGS = ("/admin/audit/query", "/admin/requests/downstream/query", "/admin/requests/upstream/query")


@pytest.fixture(scope="module")
def user(admin: Gateway) -> rows.User:
    """A user with three rows of each kind that belongs to users, and three rows in each log."""
    found = rows.user(admin, password=PASSWORD, keys=3, permissions=("a", "b", "c"))
    for number, pattern in enumerate("abc", 1):
        rows.rate_limit(admin, found.id, pattern, rpm=1)
        rows.put(admin, "user-file-permissions", user_id=found.id, provider_id=number)
        rows.set_quota(admin, rows.user(admin).id, 1)
    target = rows.model(admin, "demo")
    for _ in range(3):
        rows.alias(admin, target)
    path = admin.data / "gproxy.db"
    database = Database(f"sqlite:///{path}", admin.data)
    entries = [one for number in range(1, 4) for one in (downstream(number, number), upstream(number, number))]
    database.run(request_logs.insert, database, entries)
    usage_rows = [row(2**61 + number, user_id=found.id) for number in range(3)]
    names = list(usage_rows[0])
    with closing(sqlite3.connect(path, timeout=10)) as connection, connection:
        places = ", ".join("?" * (len(names) + 1))
        sql = f"INSERT INTO usages ({', '.join(names)}, created_at) VALUES ({places})"
        connection.executemany(sql, [(*(one[name] for name in names), 1) for one in usage_rows])
    return found


@pytest.fixture(scope="module")
def token(admin: Gateway, user: rows.User) -> str:
    return session_token(admin, user.name)


def listed(admin: Gateway, path: str, token: str, **page) -> list[str]:
    """The rows of a page, each as text."""
    reply = admin.post(path, page, token if path.startswith("/user/") else ADMIN)
    assert reply.status == 200, reply.body
    return [json.dumps(one) for one in reply.json]


def test_there_are_lists_of_administrators_and_of_users():
    assert len(PATHS) > 15
    assert {"/user/keys/query", "/user/usages/query", "/admin/credential-statuses/query", *OF_LOGS} <= set(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_a_list_has_pages(admin: Gateway, token, path):
    every = listed(admin, path, token)
    assert len(every) >= 3
    assert listed(admin, path, token, limit=1) == every[:1]
    assert listed(admin, path, token, limit=2, offset=1) == every[1:3]
    assert listed(admin, path, token, offset=2) == every[2:]
    for nothing in (0, "0", None):
        assert listed(admin, path, token, limit=nothing, offset=1) == every[1:]
    assert listed(admin, path, token, limit=2**63 - 1, offset="2") == every[2:]
    assert listed(admin, path, token, limit=1, offset=2**63 - 1) == []


@pytest.mark.parametrize("path", PATHS)
def test_the_description_names_the_maximum(admin: Gateway, path):
    document = admin.get("/openapi.json").json
    body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    page = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]["properties"]
    maximum = MAX_LOG_ROWS if path in OF_LOGS else MAX_ROWS
    assert f"0: {maximum}" in page["limit"]["description"]
    assert (page["limit"]["default"], page["offset"]["default"]) == (maximum, 0)


def test_the_credentials_of_a_provider_are_counted_beyond_a_page(admin: Gateway):
    empty, some = rows.provider(admin, credentials=0), rows.provider(admin, credentials=0)
    count = MAX_ROWS + 5
    with closing(sqlite3.connect(admin.data / "gproxy.db", timeout=10)) as database:
        columns = "provider_id, kind, secret_json, enabled, weight, created_at, updated_at"
        database.executemany(
            f"INSERT INTO credentials ({columns}) VALUES (?, 'openai', '{{}}', 0, 1, 1, 1)", [(some.id,)] * count
        )
        database.commit()
        try:
            found = rows.ok(admin, "providers/query", {"name": {"in": [empty.name, some.name]}})
            assert [one["credential_count"] for one in found] == [0, count]
        finally:
            database.execute("DELETE FROM credentials WHERE provider_id = ?", (some.id,))
            database.commit()
