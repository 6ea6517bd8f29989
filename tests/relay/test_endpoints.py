"""Endpoints: path, forwarded headers, egress and timeouts, and that nothing else reaches the upstream."""

import pytest

from gproxy import channels, protocols
from gproxy.channels.kind import Lane, bearer, x_api_key, x_goog_api_key
from gproxy.errors import BadRequest
from gproxy.relay import endpoints
from gproxy.snapshot import Credential, Provider, ProviderSettings, ServiceAccount

LOADED = protocols.load()
KINDS = channels.load()
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
SECRET = "sk-upstream"


def sent_to(protocol: str, named: tuple[str, ...], header, auth) -> dict[str, str]:
    """Returns all headers of a request in this protocol, the credential's too."""
    forwarded = endpoints.forwarded(protocol, named, header)
    provider = Provider(1, "main", "openai", ProviderSettings(), ())
    endpoint = endpoints.build(provider, KINDS["openai"], Lane("/x", auth), "/x", forwarded)
    return endpoint.request(SECRET, b"{}").headers


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
    sent = sent_to(protocol, (), SENT.get, auth)
    assert sent == {**JSON, **ALWAYS, **own, **auth(SECRET)}
    assert CLIENT_KEY not in str(sent)


@pytest.mark.parametrize("protocol", LOADED)
def test_a_client_without_headers_adds_none(protocol):
    assert sent_to(protocol, ("x-team",), {}.get, bearer) == {**JSON, **bearer(SECRET)}


def test_headers_that_the_operator_names_are_forwarded_too():
    sent = sent_to("openai_chat", ("x-team", "openai-organization"), SENT.get, bearer)
    assert sent == {
        **JSON,
        **ALWAYS,
        "openai-beta": "beta-o",
        "x-team": "blue",
        "openai-organization": "org-client",
        **bearer(SECRET),
    }


@pytest.mark.parametrize("auth", [bearer, x_api_key, x_goog_api_key])
def test_no_forwarded_header_replaces_or_duplicates_the_credential(auth):
    sent = sent_to("openai_chat", tuple(SENT), SENT.get, auth)
    for name, value in auth(SECRET).items():
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
    assert endpoints.path(template, model, query) == path


@pytest.mark.parametrize(
    "model", ["..", "../x", "a/../../v1beta/files", ".", "a/./b", "a//b", "/a", "a/", "models/../x"]
)
def test_a_model_cannot_change_the_path(model):
    with pytest.raises(BadRequest, match="model"):
        endpoints.path("/v1beta/models/{model}:generateContent", model, ())


ACCOUNT = Credential(1, 1, "pem", account=ServiceAccount("acme:prod 1", "a@b", "https://token"))


@pytest.mark.parametrize(
    ("location", "url"),
    [
        (
            "us-central1",
            "https://us-central1-aiplatform.googleapis.com/v1/projects/acme:prod%201/locations/us-central1/x",
        ),
        ("global", "https://aiplatform.googleapis.com/v1/projects/acme:prod%201/locations/global/x"),
    ],
)
def test_a_service_accounts_project_and_the_location_are_in_the_url(location, url):
    provider = Provider(1, "v", "vertex", ProviderSettings(location=location), ())
    path = "/v1/projects/{project}/locations/{location}/x"
    endpoint = endpoints.build(provider, KINDS["vertex"], Lane(path, bearer), path, {})
    assert endpoints.with_project(endpoint, ACCOUNT).url == url
    assert endpoints.with_project(endpoint, Credential(2, 1, "key")) is endpoint


def test_a_providers_settings_are_in_its_endpoint():
    settings = ProviderSettings(
        base_url="http://u/v1",
        proxy="http://proxy",
        ca_file="ca",
        client_cert_file="cert",
        client_key_file="key",
        connect_timeout_s=1,
        first_byte_timeout_s=2,
        idle_timeout_s=3,
        total_timeout_s=4,
        max_connections=5,
        connection_wait_s=6,
    )
    found = endpoints.build(Provider(7, "p", "openai", settings, ()), KINDS["openai"], Lane("/a", bearer), "/a?b=c", {})
    assert found.url == "http://u/v1/a?b=c"
    assert found.limits == (1, 2, 3, 4, 5, 6, 7)
    assert found.transport == ("http://proxy", "ca", "cert", "key")


def test_no_secret_is_in_the_text_of_a_request():
    endpoint = endpoints.build(
        Provider(1, "main", "openai", ProviderSettings(), ()), KINDS["openai"], Lane("/x", bearer), "/x", {}
    )
    request = endpoint.request(SECRET, b"the body")
    assert request.headers == {"Authorization": f"Bearer {SECRET}"}
    for text in (repr(request), repr(endpoint)):
        assert SECRET not in text
        assert "the body" not in text
