"""Headers, query parameters and paths: what is forwarded in each direction, and that nothing else is."""

import time
from types import SimpleNamespace

import pytest

from gproxy import protocols
from gproxy.channels.kind import bearer, x_api_key, x_goog_api_key
from gproxy.errors import BadRequest, GatewayError, UpstreamError
from gproxy.relay import headers
from gproxy.snapshot import Provider, ProviderSettings

LOADED = protocols.load()
PROVIDER = Provider(1, "main", "openai", ProviderSettings(), ())
CLIENT_KEY = "sk-client-0001"
# Everything a client may send, by lower-case name.
SENT = {
    "authorization": f"Bearer {CLIENT_KEY}",
    "x-api-key": CLIENT_KEY,
    "x-goog-api-key": CLIENT_KEY,
    "cookie": f"session={CLIENT_KEY}",
    "host": "gateway.internal",
    "content-type": "text/plain",
    "content-length": "7",
    "content-encoding": "gzip",
    "accept": "*/*",
    "accept-encoding": "br",
    "accept-language": "de",
    "connection": "keep-alive",
    "transfer-encoding": "chunked",
    "te": "trailers",
    "upgrade": "h2c",
    "expect": "100-continue",
    "forwarded": "for=10.0.0.1",
    "x-forwarded-for": "10.0.0.1",
    "x-real-ip": "10.0.0.1",
    "proxy-authorization": f"Basic {CLIENT_KEY}",
    "user-agent": "client/1",
    "referer": "http://intranet/",
    "origin": "http://intranet",
    "anthropic-version": "1999-01-01",
    "anthropic-beta": "beta-a",
    "anthropic-dangerous-direct-browser-access": "true",
    "openai-beta": "beta-o",
    "openai-organization": "org-client",
    "openai-project": "proj-client",
    "idempotency-key": "once",
    "traceparent": "00-1-2-01",
    "tracestate": "a=b",
    "x-request-id": "req_client",
    "x-gproxy-tag": "tag",
    "x-stainless-lang": "python",
    "x-team": "blue",
}
ALWAYS = {"idempotency-key": "once", "accept-language": "de", "traceparent": "00-1-2-01", "tracestate": "a=b"}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("protocol", "auth", "own"),
    [
        ("openai_chat", bearer, {"openai-beta": "beta-o"}),
        ("openai_responses", bearer, {"openai-beta": "beta-o"}),
        ("anthropic", x_api_key, {"anthropic-beta": "beta-a"}),
        ("anthropic", bearer, {"anthropic-beta": "beta-a"}),
        ("gemini", x_goog_api_key, {}),
    ],
)
def test_exactly_these_headers_are_sent_to_the_upstream(protocol, auth, own):
    sent = headers.to_upstream(protocol, (), SENT.get, auth("sk-upstream"))
    assert sent == {**JSON, **ALWAYS, **own, **auth("sk-upstream")}
    assert CLIENT_KEY not in str(sent)


@pytest.mark.parametrize("protocol", LOADED)
def test_a_client_without_headers_adds_none(protocol):
    assert headers.to_upstream(protocol, ("x-team",), {}.get, bearer("k")) == {**JSON, **bearer("k")}


def test_headers_that_the_operator_names_are_forwarded_too():
    sent = headers.to_upstream("openai_chat", ("x-team", "openai-organization"), SENT.get, bearer("k"))
    assert sent == {
        **JSON,
        **ALWAYS,
        "openai-beta": "beta-o",
        "x-team": "blue",
        "openai-organization": "org-client",
        **bearer("k"),
    }


@pytest.mark.parametrize("auth", [bearer, x_api_key, x_goog_api_key])
def test_no_forwarded_header_replaces_or_duplicates_the_credential(auth):
    sent = headers.to_upstream("openai_chat", tuple(SENT), SENT.get, auth("sk-upstream"))
    for name, value in auth("sk-upstream").items():
        assert [found for key, found in sent.items() if key.lower() == name.lower()] == [value]


@pytest.mark.parametrize(
    ("template", "model", "query", "path"),
    [
        ("/v1/chat/completions", "any", (), "/v1/chat/completions"),
        ("/v1/chat/completions", "any", (("a", "1"), ("b", "")), "/v1/chat/completions?a=1&b="),
        ("/v1/chat/completions", "any", (("key", "sk-client"), ("alt", "sse")), "/v1/chat/completions"),
        ("/v1/messages", "any", (("beta", "true"), ("key", "k"), ("beta", "x")), "/v1/messages?beta=true&beta=x"),
        ("/v1/messages", "any", (("q", "a b&c=d/ü"),), "/v1/messages?q=a+b%26c%3Dd%2F%C3%BC"),
        ("/m/{model}:stream?alt=sse", "x", (("alt", "json"), ("$fields", "a")), "/m/x:stream?alt=sse&%24fields=a"),
        ("/m/{model}:generateContent", "gemini-2.5-flash", (), "/m/gemini-2.5-flash:generateContent"),
        ("/m/{model}:generateContent", "models/gemini-2.5-flash", (), "/m/gemini-2.5-flash:generateContent"),
        ("/m/{model}", "vendor/model:free", (), "/m/vendor/model:free"),
        ("/m/{model}", "publishers/google/models/x@001", (), "/m/publishers/google/models/x@001"),
        ("/m/{model}", "a b?c=d#e%2F", (), "/m/a%20b%3Fc%3Dd%23e%252F"),
        ("/m/{model}", "größe\r\nX: y", (), "/m/gr%C3%B6%C3%9Fe%0D%0AX%3A%20y".replace("%3A", ":")),
        ("/m/{model}", "{model}", (), "/m/%7Bmodel%7D"),
    ],
)
def test_the_path_of_a_call(template, model, query, path):
    assert headers.path(template, model, query) == path


# Headers that an upstream may send.
ANSWERED = {
    "content-type": "application/json",
    "content-length": "7",
    "content-encoding": "gzip",
    "transfer-encoding": "chunked",
    "connection": "keep-alive",
    "keep-alive": "timeout=5",
    "set-cookie": "__cf_bm=1",
    "server": "cloudflare",
    "date": "Mon, 23 Nov 2026 08:00:00 GMT",
    "cf-ray": "1",
    "strict-transport-security": "max-age=1",
    "location": "http://elsewhere/",
    "www-authenticate": "Bearer",
    "openai-organization": "org-upstream",
    "anthropic-organization-id": "org-upstream",
    "x-goog-api-key": "AIza",
    "retry-after": "7",
    "retry-after-ms": "7000",
    "x-should-retry": "false",
    "openai-processing-ms": "12",
    "server-timing": "gfet4t7; dur=12",
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-remaining-tokens": "9",
    "anthropic-ratelimit-requests-reset": "2026-11-23T08:00:00Z",
    "x-request-id": "req_upstream",
    "access-control-allow-origin": "https://vendor",
}


def test_exactly_these_headers_are_returned_to_the_client():
    returned = headers.to_client(PROVIDER, SimpleNamespace(headers=ANSWERED))
    assert dict(returned) == {
        "x-gproxy-provider": "main",
        "retry-after": "7",
        "retry-after-ms": "7000",
        "x-should-retry": "false",
        "openai-processing-ms": "12",
        "server-timing": "gfet4t7; dur=12",
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-tokens": "9",
        "anthropic-ratelimit-requests-reset": "2026-11-23T08:00:00Z",
        "x-upstream-request-id": "req_upstream",
    }
    assert len(returned) == len(dict(returned))


@pytest.mark.parametrize("name", ["x-request-id", "request-id"])
def test_an_upstreams_request_id_is_returned_under_another_name(name):
    returned = headers.to_client(PROVIDER, SimpleNamespace(headers={name: "req_9"}))
    assert returned == [("x-gproxy-provider", "main"), ("x-upstream-request-id", "req_9")]


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0.000000000"), (1, "0.000000001"), (1_234_567_890, "1.234567890"), (10**18, "1000000000.000000000")],
)
def test_a_cost_has_nine_decimals(nano, text):
    assert headers.cost(nano) == ("x-gproxy-cost-usd", text)


@pytest.mark.parametrize(
    ("losses", "returned"),
    [
        ((), []),
        (("seed",), [("x-gproxy-lossy", "seed")]),
        (("tools[0].strict", "seed", "seed"), [("x-gproxy-lossy", "seed, tools[0].strict")]),
    ],
)
def test_each_loss_is_listed_once_and_sorted(losses, returned):
    assert headers.lossy(losses) == returned


def test_overhead_excludes_the_wait_for_the_upstream():
    name, value = headers.overhead(time.perf_counter() - 2.0, 1.5)
    assert name == "x-gproxy-overhead-ms"
    assert 500 <= float(value) < 1500
    assert headers.overhead(time.perf_counter(), 60.0)[1] == "0.00"


def test_an_error_after_the_permission_check_names_the_provider():
    with pytest.raises(UpstreamError) as caught, headers.ProviderHeader(PROVIDER):
        raise UpstreamError("broke")
    assert caught.value.headers == {"x-gproxy-provider": "main"}
    with pytest.raises(GatewayError) as caught, headers.ProviderHeader(PROVIDER):
        raise GatewayError("x", headers={"x-gproxy-provider": "inner"})
    assert caught.value.headers == {"x-gproxy-provider": "inner"}


@pytest.mark.parametrize(
    "model", ["..", "../x", "a/../../v1beta/files", ".", "a/./b", "a//b", "/a", "a/", "models/../x"]
)
def test_a_model_cannot_change_the_path(model):
    with pytest.raises(BadRequest, match="model"):
        headers.path("/v1beta/models/{model}:generateContent", model, ())
