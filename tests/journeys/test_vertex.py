"""Vertex AI by service accounts, through a running gateway."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.accounts import EMAIL, PEM, Endpoint
from tests.gateway import ADMIN
from tests.vendor import answers, dumps, event, sends, streams, whole

SEED = """
[[providers]]
name = "google"
channel = "vertex"
settings = {{ base_url = "{vendor}", location = "europe-west4" }}
credentials = [{credentials}]

[[users]]
name = "admin"
is_admin = true
keys = [{{ api_key = "sk-admin-1" }}]

[[permissions]]
user_name = "admin"
model_pattern = "*"
"""
MODEL = "google/gemini-2.5-pro"
PREFIX = "/v1beta1/projects/acme-1/locations/europe-west4/publishers/google/models/gemini-2.5-pro"
HELLO = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}


def credential(vendor, path: str = "/token", key: str = "${VERTEX_KEY}") -> str:
    return f"""{{ project_id = "acme-1", client_email = "{EMAIL}", private_key = "{key}",
        token_uri = "{vendor.url}{path}", type = "service_account", client_id = "117" }}""".replace("\n", " ")


@pytest.fixture
def google(own_gateway, vendor):
    """Starts a gateway with service accounts and the endpoint that issues their tokens."""
    endpoint = vendor.scripts["/token"] = Endpoint()

    def make(*credentials: str, workers: int = 1):
        text = SEED.format(vendor=vendor.url, credentials=", ".join(credentials or [credential(vendor)]))
        return own_gateway(text, workers=workers, VERTEX_KEY=PEM.replace("\n", "\\n"))

    make.endpoint = endpoint
    yield make
    vendor.scripts.clear()


def test_one_token_for_all_calls_of_a_worker(google, vendor):
    gateway, before = google(), len(vendor.seen)
    with ThreadPoolExecutor(20) as pool:
        assert {reply.status for reply in pool.map(gateway.chat, [MODEL] * 40)} == {200}
    streamed = gateway.post(f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse", HELLO)
    assert streamed.body.count(b"data: ") == 5
    assert gateway.post(f"/v1beta/models/{MODEL}:countTokens", HELLO).json["totalTokens"] == 12
    assert gateway.get("/google/v1/models", ADMIN).json["data"][0]["id"] == "gemini-2.5-pro"
    assert gateway.get(f"/v1/models/{MODEL}", ADMIN).json["id"] == MODEL
    seen = vendor.seen[before:]
    assert google.endpoint.issued == 1
    assert {one.headers["authorization"] for one in seen if one.model != "/token"} == {"Bearer ya29.token-000001"}
    assert {one.path for one in seen if one.method == "POST" and one.model != "/token"} == {
        f"{PREFIX}:generateContent",
        f"{PREFIX}:streamGenerateContent",
        f"{PREFIX}:countTokens",
    }
    rows = gateway.wait_rows(41)
    assert {(row["outcome"], row["provider_channel"]) for row in rows} == {("complete", "vertex")}
    assert "ya29" not in gateway.everything_printed()
    assert PEM.split("\n")[3] not in gateway.everything_printed()


def test_an_account_that_is_refused_gives_way_to_the_next(google, vendor):
    vendor.scripts["/gone"] = answers(400, b'{"error": "invalid_grant", "error_description": "account not found"}')
    gateway = google(credential(vendor, "/gone"), credential(vendor))
    for _ in range(4):
        assert gateway.chat(MODEL).status == 200
    statuses = gateway.post("/admin/credential-statuses/query").json
    assert [one["status"] for one in statuses] == ["unavailable", "healthy"]
    assert len(vendor.received("/gone")) == 1
    (tries,) = {row["tries"] and json.dumps(row["tries"]) for row in gateway.wait_rows(4) if len(row["tries"]) > 1}
    assert "upstream_error" in tries


def test_the_error_of_a_sole_credential_gives_the_reason(google, vendor):
    vendor.scripts["/gone"] = answers(401, b'{"error": "invalid_client"}')
    gateway = google(credential(vendor, "/gone"))
    reply = gateway.chat(MODEL)
    assert reply.status == 502
    assert "the token endpoint answered 401: invalid_client" in reply.json["error"]["message"]
    assert gateway.chat(MODEL).status == 503


def test_a_token_endpoint_that_breaks_down_is_a_fault_of_the_moment(google, vendor):
    vendor.scripts["/token"] = sends("reset")
    gateway = google()
    assert gateway.chat(MODEL).status == 502
    vendor.scripts["/token"] = google.endpoint
    assert gateway.chat(MODEL).status == 200


def test_citations_have_the_names_that_the_sdk_reads(google, vendor):
    said = whole("gemini", "gemini-2.5-pro")
    said["candidates"][0]["citationMetadata"] = {"citations": [{"uri": "https://source.test", "endIndex": 3}]}
    gateway = google()
    vendor.scripts["gemini-2.5-pro"] = answers(200, dumps(said))
    whole_reply = gateway.post(f"/v1beta/models/{MODEL}:generateContent", HELLO).json
    vendor.scripts["gemini-2.5-pro"] = streams(0, "clean", first=event(said))
    streamed = gateway.post(f"/v1beta/models/{MODEL}:streamGenerateContent", HELLO).json[0]
    for reply in (whole_reply, streamed):
        assert reply["candidates"][0]["citationMetadata"]["citationSources"][0]["uri"] == "https://source.test"
        assert reply["x_novel"] == {"kept": True}


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ('{ api_key = "AIza-1" }', "providers[1].credentials[1]: a vertex provider takes a service account"),
        ('{ project_id = "p", client_email = "e" }', "providers[1].credentials[1].private_key: missing; add it"),
        ('{ project_id = "p", client_email = "e", private_key = "-----BEGIN x" }', "not an RSA key in PEM"),
        ('{ project_id = "p", client_email = "e", private_key = "${K}", api_key = "k" }', "give one of them"),
    ],
)
def test_what_is_no_service_account_stops_the_start(own_gateway, vendor, written, problem):
    gateway = own_gateway(SEED.format(vendor=vendor.url, credentials=written), start=False)
    gateway.start(wait=False)
    assert gateway.process.wait(20) != 0
    assert problem in gateway.log
    assert "-----BEGIN x" not in gateway.log
