"""Both ways to send a response: by werkzeug, and directly."""

import pytest
from flask import Flask
from werkzeug.datastructures import Headers
from werkzeug.test import Client

from gproxy.fastpath import direct_response, switches

HEADERS = [("Content-Type", "application/json"), ("X-Twice", "a"), ("X-Twice", "b")]


def pieces():
    yield b"one "
    yield b"two"


@pytest.fixture(params=[True, False], ids=["direct", "werkzeug"])
def sending(request, monkeypatch):
    monkeypatch.setattr(switches, "is_on", lambda name: request.param)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("body", [list, pieces], ids=["empty", "pieces"])
def test_a_response_has_exactly_its_headers_and_ends_once(sending, method, body):
    ends = []
    answer = direct_response.respond(201, HEADERS, body(), lambda: ends.append(1))
    with Client(answer).open("/", method=method, buffered=True) as sent:
        assert (sent.status.lower(), list(sent.headers)) == ("201 created", HEADERS)
        assert method == "HEAD" or sent.data == b"".join(body())  # the server sends no body to HEAD
    assert ends == [1]


def test_a_response_without_headers_gets_none(sending):
    answer = direct_response.respond(200, [], [b"x"], lambda: None)
    with Client(answer).open("/") as sent:
        assert (list(sent.headers), sent.data) == ([], b"x")


def test_a_response_that_is_not_read_to_its_end_ends_once(sending):
    ends = []
    answer = direct_response.respond(200, HEADERS, pieces(), lambda: ends.append(1))
    body = answer({"REQUEST_METHOD": "GET"}, lambda status, headers: None)
    assert next(iter(body)) == b"one "
    body.close()
    assert ends == [1]


def add_header(answer):
    answer.headers["X-Hook"] = "1"


def replace_headers(answer):
    answer.headers = Headers([("X-Hook", "1")])


def change_status(answer):
    answer.status_code = 503


def change_status_and_header(answer):
    answer.status = "503 Away"
    answer.headers.remove("X-Twice")


def set_cookie(answer):
    answer.set_cookie("a", "b")


def replace_body(answer):
    answer.response = [piece.upper() for piece in answer.response]


TWICE = [("X-Twice", "a"), ("X-Twice", "b")]
KIND = ("Content-Type", "application/json")
# what a hook does, and the status, headers and body that it must lead to
HOOKS = [
    (add_header, "201 CREATED", [KIND, *TWICE, ("X-Hook", "1")], b"one two"),
    (replace_headers, "201 CREATED", [("X-Hook", "1")], b"one two"),
    (change_status, "503 SERVICE UNAVAILABLE", [KIND, *TWICE], b"one two"),
    (change_status_and_header, "503 Away", [KIND], b"one two"),
    (set_cookie, "201 CREATED", [KIND, *TWICE, ("Set-Cookie", "a=b; Path=/")], b"one two"),
    (replace_body, "201 CREATED", [KIND, *TWICE], b"ONE TWO"),
    (repr, "201 CREATED", [KIND, *TWICE], b"one two"),
]


@pytest.mark.parametrize(("hook", "status", "headers", "body"), HOOKS, ids=[hook.__name__ for hook, *_ in HOOKS])
def test_a_hook_may_change_a_response(sending, hook, status, headers, body):
    app, ends = Flask("hooked"), []

    @app.get("/")
    def view():
        return direct_response.respond(201, HEADERS, pieces(), lambda: ends.append("response"))

    @app.after_request
    def change(answer):
        hook(answer)
        answer.call_on_close(lambda: ends.append("hook"))
        return answer

    with app.test_client().get("/") as sent:
        assert (sent.status, list(sent.headers), sent.data) == (status, headers, body)
    assert ends == ["response", "hook"]


def test_a_hook_that_only_sets_the_status_leaves_the_rest(sending):
    answer = direct_response.respond(201, HEADERS, pieces(), lambda: None)
    answer.status_code = 503
    with Client(answer).open("/") as sent:
        assert (sent.status_code, list(sent.headers), sent.data) == (503, HEADERS, b"one two")


def test_a_response_has_no_attributes_of_its_own(sending):
    answer = direct_response.respond(201, HEADERS, pieces(), lambda: None)
    assert not hasattr(answer, "unknown")
    assert (answer.status_code, answer.headers["x-twice"], answer.is_streamed) == (201, "a", True)
