"""The headers that a client gets, and that it gets no others."""

import time
from types import SimpleNamespace

import pytest

from gproxy.errors import GatewayError, UpstreamError
from gproxy.relay import headers
from gproxy.snapshot import Provider, ProviderSettings

PROVIDER = Provider(1, "main", "openai", ProviderSettings(), ())
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
    assert headers.of_call(0.0, 0.0, (), nano)[0] == ("x-gproxy-cost-usd", text)


@pytest.mark.parametrize(
    ("losses", "returned"),
    [
        ((), []),
        (("seed",), [("x-gproxy-lossy", "seed")]),
        (("tools[0].strict", "seed", "seed"), [("x-gproxy-lossy", "seed, tools[0].strict")]),
    ],
)
def test_each_loss_is_listed_once_and_sorted(losses, returned):
    assert headers.of_call(0.0, 0.0, losses, None)[:-1] == returned


def test_overhead_excludes_the_wait_for_the_upstream():
    ((name, value),) = headers.of_call(time.perf_counter() - 2.0, 1.5, (), None)
    assert name == "x-gproxy-overhead-ms"
    assert 500 <= float(value) < 1500
    assert headers.of_call(time.perf_counter(), 60.0, (), None)[0][1] == "0.00"


def test_an_error_after_the_permission_check_names_the_provider():
    error = UpstreamError("broke")
    headers.name_provider(error, PROVIDER)
    assert error.headers == {"x-gproxy-provider": "main"}
    error = GatewayError("x", headers={"x-gproxy-provider": "inner"})
    headers.name_provider(error, PROVIDER)
    assert error.headers == {"x-gproxy-provider": "inner"}
