"""Vertex AI: the token request, the token endpoint's responses, and the field names that differ from Gemini's."""

import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gproxy.channels import vertex
from tests.accounts import EMAIL, PEM, claims

ELLIPTIC = (
    ec.generate_private_key(ec.SECP256R1())
    .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    .decode()
)


def test_the_claims_of_the_assertion():
    head, payload = claims(vertex.token_request(EMAIL, PEM, "k1", "https://tokens/x", 1_800_000_000.9))
    assert head == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    assert payload == {
        "iss": EMAIL,
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "aud": "https://tokens/x",
        "iat": 1_800_000_000,
        "exp": 1_800_003_600,
    }


def test_a_key_with_escaped_line_breaks_is_accepted():
    head, _ = claims(vertex.token_request(EMAIL, PEM.replace("\n", "\\n"), None, "https://tokens/x", 1.0))
    assert "kid" not in head


@pytest.mark.parametrize("pem", ["", "AIza", PEM[:200], ELLIPTIC, "-----BEGIN PRIVATE KEY-----\nü\n"])
def test_a_text_that_is_not_an_rsa_key_is_refused_and_not_repeated(pem):
    with pytest.raises(ValueError, match=r"^not an RSA key in PEM$"):
        vertex.token_request(EMAIL, pem, None, "https://tokens/x", 1.0)


@pytest.mark.parametrize(
    ("status", "body", "token", "is_refusal"),
    [
        (200, {"access_token": "ya29.x", "expires_in": 3599}, "ya29.x", False),
        (200, {"access_token": ""}, None, False),
        (200, {"access_token": "a\nb"}, None, False),
        (200, {"access_token": 7}, None, False),
        (400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, None, True),
        (401, {"error": "invalid_client"}, None, True),
        (400, {"error": "invalid_grant", "error_description": "… in a reasonable timeframe."}, None, False),
        (500, {"error": "internal_failure"}, None, False),
        (429, {"error": "rate_limit_exceeded"}, None, False),
        (503, "<html>", None, False),
        (200, [], None, False),
    ],
)
def test_reading_the_token_endpoints_response(status, body, token, is_refusal):
    found = vertex.read_token(status, body.encode() if isinstance(body, str) else json.dumps(body).encode())
    assert (found.token, found.is_refusal) == (token, is_refusal)
    assert token or str(status) in found.reason


def test_a_reason_contains_a_code_and_no_account_data():
    found = vertex.read_token(400, json.dumps({"error": f"bad {EMAIL}"}).encode())
    assert EMAIL not in found.reason


def test_field_names_of_vertex_become_those_of_the_gemini_api():
    reply = {"candidates": [{"citationMetadata": {"citations": [{"uri": "u"}]}}, 7], "x": {"citations": 1}}
    assert json.loads(vertex.normalize(json.dumps(reply).encode())) == {
        "candidates": [{"citationMetadata": {"citationSources": [{"uri": "u"}]}}, 7],
        "x": {"citations": 1},
    }
    blocked = b'{"promptFeedback":{"blockReason":"BLOCKED_REASON_UNSPECIFIED"}}'
    assert vertex.normalize(blocked) == b'{"promptFeedback":{"blockReason":"BLOCK_REASON_UNSPECIFIED"}}'


@pytest.mark.parametrize(
    "data",
    [
        b'{"candidates": [ {"content": {"parts": [{"text": "citations"}]}} ]}',
        b'{"candidates": [{"content": {"parts": [{"functionCall": {"args": {"citations": 1}}}]}}]}',
        b'{"candidates": 7, "citations": 1}',
        b'["citations", 1]',
        b'["citations"]',
        b'{"citations',
        b'{"citations": ',
        b'{"candidates": [{"citationMetadata": {"citations": [], "citationSources": []}}]}',
    ],
)
def test_all_other_data_stays_unchanged_to_the_byte(data):
    assert vertex.normalize(data) is data


@pytest.mark.parametrize(
    ("location", "base_url"),
    [
        ("us-central1", "https://us-central1-aiplatform.googleapis.com"),
        ("global", "https://aiplatform.googleapis.com"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_each_location_has_its_base_url(location, base_url):
    assert vertex.KINDS[0].base_url_at(location) == base_url
