"""The log of client requests: which row is written when, what it hides, and that it delays and breaks nothing."""

from contextlib import closing
from dataclasses import replace

import orjson
import pytest

from gproxy.errors import Unavailable
from gproxy.request_log.recorder import DOWNSTREAM, UPSTREAM
from gproxy.snapshot import Logging
from gproxy.web import request_log
from tests.site import KEY, Site
from tests.vendor import dumps, events, refuses, streams, whole

CHAT = "/v1/chat/completions"
HELLO = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
AUTH = {"Authorization": f"Bearer {KEY}"}
ALL = Logging(upstream=True, upstream_body=True, downstream=True, downstream_body=True)
FIELDS = ("log_id", "at", "user", "key", "method", "headers", "path", "query", "body", "status", "answered", "reply")


def post(site: Site, body=HELLO, path: str = CHAT, **headers: str):
    return site.client.post(path, data=dumps(body), headers={**AUTH, **headers})


def downstream(site: Site) -> list[dict]:
    """Returns the rows of client requests by the names of their values."""
    return [dict(zip(FIELDS, row[1:], strict=True)) for row in site.rows if row[0] == DOWNSTREAM]


def upstream(site: Site) -> list[tuple]:
    return [row for row in site.rows if row[0] == UPSTREAM]


@pytest.mark.parametrize(
    ("logging", "rows", "has_bodies"),
    [
        (Logging(), (0, 0), False),
        (Logging(downstream=True), (1, 0), False),
        (Logging(downstream=True, downstream_body=True), (1, 0), True),
        (Logging(upstream=True), (0, 1), False),
        (Logging(downstream_body=True, upstream_body=True), (0, 0), False),
        (ALL, (1, 1), True),
    ],
)
def test_only_what_an_operator_switched_on_is_logged(site, logging, rows, has_bodies):
    site.serve("openai_chat")
    site.configure(logging)
    post(site).close()
    assert (len(downstream(site)), len(upstream(site))) == rows
    for row in downstream(site):
        assert ((row["body"], row["reply"]) != (None, None)) is has_bodies


def test_a_row_names_the_caller_the_request_and_the_response(site):
    site.serve("openai_chat")
    site.configure(ALL)
    post(site, path=f"{CHAT}?a=1", **{"X-Request-Id": "mine"}).close()
    (row,) = downstream(site)
    assert (row["user"], row["key"], row["method"], row["path"], row["query"]) == (1, 1, "POST", CHAT, "a=1")
    assert (row["status"], orjson.loads(row["body"])) == (200, HELLO)
    assert orjson.loads(row["reply"]) == whole("openai_chat", "a")
    assert ["x-request-id", "mine"] in orjson.loads(row["headers"])
    assert ["x-gproxy-provider", "p1"] in orjson.loads(row["answered"])
    (attempt,) = upstream(site)
    assert attempt[2] == row["log_id"]
    (opened,) = [entry for entry in site.worker.entries() if "o" in entry]
    assert row["log_id"] in opened.values()


def test_the_clients_key_is_hidden_wherever_it_is_sent(site):
    site.serve("openai_chat")
    site.configure(ALL)
    body = {**HELLO, "user": f"my key is {KEY}"}
    site.client.post(f"{CHAT}?key={KEY}", data=dumps(body), headers={"x-api-key": KEY}).close()
    (row,) = downstream(site)
    assert KEY not in str(site.rows) and "redacted" in row["query"] and b"[redacted]" in row["body"]


def test_the_credential_of_the_upstream_is_hidden(site):
    site.serve("openai_chat")
    site.configure(ALL)
    post(site).close()
    assert "sk-1-0" not in str(site.rows)


@pytest.mark.parametrize(("key", "is_hidden"), [("12345", False), ("123456", True)])
def test_a_short_wrong_key_hides_no_ordinary_word(site, key, is_hidden):
    site.configure(ALL)
    site.client.post(f"/v1/{key}", headers={"x-api-key": key}).close()
    (row,) = downstream(site)
    assert (row["status"], row["user"], row["key"]) == (404, None, None)
    assert (key not in row["path"]) is is_hidden
    assert key not in row["headers"]


def test_a_body_is_logged_only_up_to_its_maximum(site):
    site.serve("openai_chat")
    site.configure(ALL)
    post(site, {**HELLO, "user": "x" * 5000}).close()
    (row,) = downstream(site)
    assert len(row["body"]) <= 1000 and row["body"].startswith(b'{"model":"a"')


def test_a_stream_is_not_delayed_and_logged_when_it_has_ended(site):
    site.serve("openai_chat")
    site.configure(ALL)
    with closing(post(site, {**HELLO, "stream": True, "stream_options": {"include_usage": True}})) as reply:
        pieces = []
        for piece in reply.response:
            assert downstream(site) == []
            pieces.append(piece)
    assert b"".join(pieces) == b"".join(events("openai_chat", "a"))
    (row,) = downstream(site)
    assert row["reply"] == b"".join(pieces)[:1000]


def test_a_stream_that_its_client_leaves_is_logged_once(site, vendor):
    site.serve("openai_chat")
    site.configure(ALL)
    vendor.scripts["m1"] = streams(3, "hang")
    reply = post(site, {**HELLO, "stream": True})
    first = next(iter(reply.response))
    reply.close()
    reply.close()
    (row,) = downstream(site)
    assert (row["status"], row["reply"][: len(first)]) == (200, first)
    assert [entry["st"] for entry in site.worker.settled()] == [499]


def test_every_attempt_is_logged(site, vendor):
    site.serve("openai_chat", "openai_chat")
    site.configure(ALL)
    vendor.scripts["m1"] = refuses(500, "no")
    post(site).close()
    assert [(row[4], row[10]) for row in upstream(site)] == [(1, 500), (2, 200)]


@pytest.mark.parametrize("path", ["/login", "/admin/config/import-toml"])
def test_a_body_that_consists_of_secrets_is_not_logged(site, path):
    site.configure(ALL, replace(site.worker.caller, is_admin=True))
    site.client.post(path, data=b'not JSON: "hunter2hunter2"', headers=AUTH).close()
    (row,) = downstream(site)
    assert row["status"] == 400 and row["body"] == b"[redacted]"
    assert "hunter2" not in str(row)


def test_secrets_in_the_document_of_an_administrator_are_hidden(site):
    site.configure(ALL, replace(site.worker.caller, is_admin=True))
    data = b'{"unknown": 1, "password": "hunter2hunter2"}'
    site.client.post("/admin/users/upsert", data=data, headers=AUTH).close()
    (row,) = downstream(site)
    assert (row["status"], b"unknown" in row["body"], b"hunter2" in row["body"]) == (400, True, False)


@pytest.mark.parametrize("path", ["/%ff", "/%C3%BC"])
def test_a_path_is_logged_as_text(site, path):
    site.configure(ALL)
    site.client.get(path).close()
    (row,) = downstream(site)
    assert row["path"] in ("/�", "/ü")


# -- a log that cannot be written ----------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["put", "next_id", "redactor"])
def test_a_row_that_cannot_be_written_costs_no_request(site, broken, monkeypatch, caplog):
    site.serve("openai_chat")
    site.configure(ALL)
    monkeypatch.setattr(type(site.app.extensions["gproxy"].recorder), broken, _broken)
    with closing(post(site)) as reply:
        assert (reply.status_code, orjson.loads(reply.data)) == (200, whole("openai_chat", "a"))
    assert "a request log row is lost" in caplog.text
    assert site.worker.running.capacity.requests == 0


def _broken(*_):
    raise OSError("no space")


def test_without_a_configuration_nothing_is_logged_and_nothing_fails(site, monkeypatch):
    site.configure(ALL)
    monkeypatch.setattr(type(site.app.extensions["gproxy"].recorder), "log_settings", _unavailable)
    assert site.client.get("/nothing").status_code == 404
    assert site.rows == []


def _unavailable(*_):
    raise Unavailable("the configuration is not loaded yet")


@pytest.mark.parametrize("path", request_log.HEALTH_PATHS)
def test_a_health_check_waits_for_no_reload(site, monkeypatch, path):
    site.configure(Logging(downstream=True))
    monkeypatch.setattr(type(site.app.extensions["gproxy"].recorder), "log_settings", _unavailable)
    site.client.get(path).close()
    assert [row["path"] for row in downstream(site)] == [path]
