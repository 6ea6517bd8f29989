"""The routes of model lists: the protocol that a client gets, and the errors of a list and of one model."""

import pytest

from tests.site import KEY
from tests.vendor import answers

BEARER = {"Authorization": f"Bearer {KEY}"}
CLIENTS = [
    ("v1", BEARER, "openai"),
    ("v1", {**BEARER, "anthropic-version": "2023-06-01"}, "anthropic"),
    ("v1", {"x-api-key": KEY}, "anthropic"),
    ("v1", {"x-goog-api-key": KEY}, "gemini"),
    ("v1beta", BEARER, "gemini"),
    ("v1beta", {"x-api-key": KEY}, "gemini"),
]


def protocol_of(found: dict) -> str:
    if "models" in found or "supportedGenerationMethods" in found or "details" in found.get("error", {}):
        return "gemini"
    return "anthropic" if "has_more" in found or found.get("type") in ("model", "error") else "openai"


@pytest.mark.parametrize(("version", "headers", "protocol"), CLIENTS)
def test_a_list_and_a_model_are_written_for_their_client(site, version, headers, protocol):
    site.serve("openai_chat")
    for path, name in ((f"/{version}/models", "p1/m1"), (f"/p1/{version}/models", "m1")):
        reply = site.client.get(path, headers={**headers, "X-Request-Id": "mine"})
        assert (reply.status_code, protocol_of(reply.json)) == (200, protocol)
        assert (reply.headers["x-request-id"], reply.headers["Access-Control-Allow-Origin"]) == ("mine", "*")
        assert name in reply.text
        reply = site.client.get(f"{path}/{name}", headers=headers)
        assert (reply.status_code, protocol_of(reply.json), "m1" in reply.text) == (200, protocol, True)


@pytest.mark.parametrize(("version", "headers", "protocol"), CLIENTS)
def test_errors_are_written_for_their_client(site, version, headers, protocol):
    site.serve("openai_chat")
    without_key = {name: "sk-wrong" if name != "anthropic-version" else value for name, value in headers.items()}
    reply = site.client.get(f"/{version}/models", headers=without_key)
    assert (reply.status_code, protocol_of(reply.json)) == (401, protocol)
    reply = site.client.get(f"/p9/{version}/models", headers=headers)
    assert (reply.status_code, protocol_of(reply.json)) == (404, protocol)


def test_a_query_has_no_influence_on_the_protocol_but_may_carry_the_key(site):
    site.serve("openai_chat")
    reply = site.client.get(f"/v1/models?key={KEY}&alt=json")
    assert (reply.status_code, protocol_of(reply.json)) == (200, "openai")


def test_an_upstream_that_fails_is_an_error_only_for_a_model_that_no_list_has(site, vendor):
    site.serve("openai_chat")
    vendor.scripts[""] = vendor.scripts["lost"] = answers(500, b"{}")
    try:
        listed = site.client.get("/v1/models", headers=BEARER)
        assert [one["id"] for one in listed.json["data"]] == ["a", "p1/m1"]
        reply = site.client.get("/v1/models/p1/lost", headers=BEARER)
    finally:
        del vendor.scripts["lost"]
    assert (reply.status_code, reply.headers["x-gproxy-provider"]) == (502, "p1")


@pytest.mark.parametrize("path", ["/v1/models", "/p1/v1beta/models", "/v1/models/a/b"])
def test_a_preflight_needs_no_key_and_another_method_is_refused(site, path):
    assert site.client.options(path).status_code == 204
    assert site.client.delete(path).status_code == 405
