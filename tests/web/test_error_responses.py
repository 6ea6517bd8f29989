"""Error responses: the protocol that a path or its headers choose, the headers, and what an error may show."""

import pytest
from werkzeug.exceptions import NotFound as Unrouted

from gproxy import protocols
from gproxy.errors import GatewayError, MethodNotAllowed, OverQuota, RateLimited, Unsupported, UpstreamError
from gproxy.web.error_responses import error_response, internal_error, request_id_headers

LOADED = protocols.load()
ALL = pytest.mark.parametrize("name", sorted(LOADED))


@ALL
@pytest.mark.parametrize(
    "fault",
    [OverQuota("spent"), RateLimited("slow down", 2.5), UpstreamError("broke"), GatewayError("request req_1")],
    ids=lambda fault: fault.code,
)
def test_an_error_is_written_in_its_protocol(name, fault):
    fault.headers["x-gproxy-provider"] = "p1"
    found = error_response(LOADED[name], fault, "req_1")
    assert found.status_code == fault.status
    assert found.data == LOADED[name].write_error(
        fault.status, fault.code, fault.message, "req_1", getattr(fault, "retry_s", None)
    )
    headers = dict(found.headers)
    assert (headers["Content-Type"], headers["x-gproxy-provider"]) == ("application/json", "p1")
    assert all(headers[one] == "req_1" for one in LOADED[name].REQUEST_ID_HEADERS)
    assert headers["Access-Control-Allow-Origin"] == headers["Access-Control-Expose-Headers"] == "*"


def test_only_llm_routes_may_be_called_from_other_sites():
    found = error_response(LOADED["openai_chat"], OverQuota("spent"), "req_1", is_llm=False)
    assert "Access-Control-Allow-Origin" not in found.headers


@pytest.mark.parametrize(("fault", "expected"), [(Unsupported("no"), "false"), (UpstreamError("no"), None)])
def test_what_this_version_cannot_do_is_not_retried(fault, expected):
    assert error_response(LOADED["openai_chat"], fault, "req_1").headers.get("x-should-retry") == expected


def test_the_request_id_is_under_every_name_that_the_sdks_read():
    assert request_id_headers(LOADED["openai_chat"], "req_1") == [("x-request-id", "req_1")]
    assert ("request-id", "req_1") in request_id_headers(LOADED["anthropic"], "req_1")


def test_an_unexpected_exception_is_logged_and_shows_only_the_request_id(caplog):
    found = internal_error(LOADED["anthropic"], KeyError("sk-secret"), "req_1")
    assert (found.status_code, b"req_1" in found.data, b"sk-secret" in found.data) == (500, True, False)
    assert "request req_1 failed: KeyError" in caplog.text


# -- the handlers of the app ---------------------------------------------------------------------------------------


def code(reply) -> tuple[str, str]:
    """Returns the protocol and the code of an error."""
    found = reply.json
    if found.get("type") == "error":
        return "anthropic", found["error"]["code"]
    if "details" in found["error"]:
        return "gemini", found["error"]["details"][0]["reason"]
    return "openai", found["error"]["code"]


@pytest.mark.parametrize(
    ("path", "headers", "protocol", "is_llm"),
    [
        ("/v1/nothing", {}, "openai", True),
        ("/v1/nothing", {"anthropic-version": "2023-06-01"}, "anthropic", True),
        ("/v1beta/nothing", {}, "gemini", True),
        ("/v1beta/nothing", {"anthropic-version": "2023-06-01"}, "gemini", True),
        ("/p1/v1beta/nothing", {}, "gemini", True),
        ("/deep/below/v1/messages", {}, "anthropic", False),
        ("/nothing", {}, "openai", False),
        ("/", {}, "openai", False),
    ],
)
def test_an_unknown_path_is_answered_in_the_protocol_of_its_client(site, path, headers, protocol, is_llm):
    reply = site.client.get(path, headers={**headers, "X-Request-Id": "mine"})
    assert (reply.status_code, code(reply)) == (404, (protocol, "not_found"))
    assert repr(path) in reply.text.replace('\\"', '"')
    assert ("Access-Control-Allow-Origin" in reply.headers) is is_llm
    assert reply.headers["request-id" if protocol == "anthropic" else "x-request-id"] == "mine"


@pytest.mark.parametrize(
    ("path", "method", "protocol", "allowed"),
    [
        ("/v1/chat/completions", "GET", "openai", "OPTIONS, POST"),
        ("/v1/messages", "DELETE", "anthropic", "OPTIONS, POST"),
        ("/healthz", "POST", "openai", "GET, OPTIONS"),
    ],
)
def test_a_wrong_method_names_the_right_ones(site, path, method, protocol, allowed):
    reply = site.client.open(path, method=method)
    assert (reply.status_code, code(reply)) == (405, (protocol, MethodNotAllowed.code))
    assert reply.headers["Allow"] == allowed
    assert f"use {allowed}" in reply.text


def test_a_refusal_outside_the_llm_routes_is_written_as_openai(site):
    reply = site.client.get("/me", headers={"anthropic-version": "2023-06-01"})
    assert (reply.status_code, code(reply)) == (401, ("openai", "unauthorized"))
    assert "Access-Control-Allow-Origin" not in reply.headers


@pytest.mark.parametrize(
    "fault", [ZeroDivisionError("sk-secret"), type("Own", (Unrouted,), {"code": 500})("sk-secret")]
)
def test_an_exception_that_no_view_handled_shows_only_the_request_id(site, monkeypatch, caplog, fault):
    def view():
        raise fault

    monkeypatch.setitem(site.app.view_functions, "health.healthz", view)
    reply = site.client.get("/healthz", headers={"X-Request-Id": "mine"})
    assert (reply.status_code, reply.json["error"]["message"]) == (500, "internal: request mine")
    assert "sk-secret" not in reply.text and "request mine failed" in caplog.text


def test_a_malformed_request_is_a_bad_request(site, monkeypatch):
    def view():
        from werkzeug.exceptions import UnsupportedMediaType

        raise UnsupportedMediaType

    monkeypatch.setitem(site.app.view_functions, "health.healthz", view)
    reply = site.client.get("/healthz")
    assert (reply.status_code, code(reply)) == (400, ("openai", "invalid_request"))
