"""Every method on every route: no route answers 500, and OPTIONS says which methods a path has."""

import re

import pytest

from gproxy.app import create_app
from tests.gateway import ADMIN

APP = create_app()
METHODS = (
    *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT"),
    *("PROPFIND", "MKCOL", "LOCK", "REPORT", "PURGE", "BREW", "M-SEARCH"),
)
# A value of each variable of a path.
VALUES = {"target": "m:generateContent", "provider": "openai-main", "tail": "some/thing"}
RULES = sorted({(rule.rule, frozenset(rule.methods)) for rule in APP.url_map.iter_rules()}, key=str)
PATHS = sorted({rule for rule, _ in RULES})
LLM = re.compile(r"(/<provider>)?/v1(beta)?/")


def filled(rule: str) -> str:
    return re.sub(r"<(?:path:)?(\w+)>", lambda name: VALUES.get(name[1], "x"), rule)


def client():
    return APP.test_client()


@pytest.mark.parametrize("rule", PATHS)
def test_options_names_the_methods_of_a_known_path(rule):
    reply = client().open(filled(rule), method="OPTIONS")
    assert (reply.status_code, reply.data) == (204, b"")
    own = set().union(*(methods for path, methods in RULES if path == rule))
    assert own <= set(reply.headers["Allow"].split(", "))
    cors = [name for name, _ in reply.headers if name.startswith("Access-Control-")]
    assert bool(cors) is bool(LLM.match(rule)), cors


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/v1", "/v1/nothing", "/v1beta/x", "/me/x", "/x/v1/nothing", "*", "/é"]
)
def test_options_of_an_unknown_path_is_404(path):
    reply = client().open(path, method="OPTIONS")
    assert (reply.status_code, reply.json["error"]["message"].partition(":")[0]) == (404, "not_found")


@pytest.mark.parametrize("end", ["/", "//", "?key=x&a=b"])
def test_options_reads_a_path_as_other_methods_do(end):
    assert client().open(f"/v1/chat/completions{end}", method="OPTIONS").status_code == 204
    assert client().open("/healthz" + end, method="OPTIONS").headers["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("rule", PATHS)
def test_a_method_that_a_path_does_not_have_is_405(rule):
    path = filled(rule)
    allowed = set(client().open(path, method="OPTIONS").headers["Allow"].split(", "))
    for method in sorted(set(METHODS) - allowed):
        reply = client().open(path, method=method)
        assert reply.status_code == 405, (method, reply.data)
        assert set(reply.headers["Allow"].split(", ")) <= allowed


def test_no_method_of_a_route_is_a_fault_of_the_gateway(own_gateway):
    """Neither without a key nor with one, and with any body."""
    running = own_gateway(workers=1)
    odd = (None, b"", b"[]", b"{}", b"5", b'{"a": ')
    for rule, methods in RULES:
        for method in methods:
            for key, body in [(None, None), *((ADMIN, one) for one in (odd if method == "POST" else (None,)))]:
                reply = running.request(method, filled(rule), body, key)
                assert reply.status != 500, (method, rule, body, reply.body)
