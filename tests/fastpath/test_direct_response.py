"""Both ways to send a response: by werkzeug, and directly."""

import pytest
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
