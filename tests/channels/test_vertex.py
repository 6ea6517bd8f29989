"""Vertex AI: what is asked of the token endpoint, what it says, and names that are its own."""

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


def test_the_assertion_is_what_google_wants():
    head, told = claims(vertex.grant(EMAIL, PEM, "k1", "https://tokens/x", 1_800_000_000.9))
    assert head == {"alg": "RS256", "typ": "JWT", "kid": "k1"}
    assert told == {
        "iss": EMAIL,
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "aud": "https://tokens/x",
        "iat": 1_800_000_000,
        "exp": 1_800_003_600,
    }


def test_a_key_whose_line_breaks_came_as_json_writes_them():
    head, _ = claims(vertex.grant(EMAIL, PEM.replace("\n", "\\n"), None, "https://tokens/x", 1.0))
    assert "kid" not in head


@pytest.mark.parametrize("pem", ["", "AIza", PEM[:200], ELLIPTIC, "-----BEGIN PRIVATE KEY-----\nü\n"])
def test_what_is_no_rsa_key_is_refused_without_being_shown(pem):
    with pytest.raises(ValueError, match=r"^not an RSA key in PEM$"):
        vertex.grant(EMAIL, pem, None, "https://tokens/x", 1.0)


@pytest.mark.parametrize(
    ("status", "told", "token", "is_refusal"),
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
def test_what_the_token_endpoint_says(status, told, token, is_refusal):
    found = vertex.read_token(status, told.encode() if isinstance(told, str) else json.dumps(told).encode())
    assert (found.token, found.is_refusal) == (token, is_refusal)
    assert token or str(status) in found.reason


def test_a_reason_is_a_code_and_nothing_else():
    found = vertex.read_token(400, json.dumps({"error": f"bad {EMAIL}"}).encode())
    assert EMAIL not in found.reason


def test_names_of_its_own_become_those_of_the_gemini_api():
    reply = {"candidates": [{"citationMetadata": {"citations": [{"uri": "u"}]}}, 7], "x": {"citations": 1}}
    assert json.loads(vertex.mend(json.dumps(reply).encode())) == {
        "candidates": [{"citationMetadata": {"citationSources": [{"uri": "u"}]}}, 7],
        "x": {"citations": 1},
    }
    blocked = b'{"promptFeedback":{"blockReason":"BLOCKED_REASON_UNSPECIFIED"}}'
    assert vertex.mend(blocked) == b'{"promptFeedback":{"blockReason":"BLOCK_REASON_UNSPECIFIED"}}'


@pytest.mark.parametrize(
    "data",
    [
        b'{"candidates": [ {"content": {"parts": [{"text": "citations"}]}} ]}',
        b'{"candidates": [{"content": {"parts": [{"functionCall": {"args": {"citations": 1}}}]}}]}',
        b'{"candidates": 7, "citations": 1}',
        b'["citations", 1]',
        b'{"citations',
    ],
)
def test_everything_else_stays_as_it_is_to_the_byte(data):
    assert vertex.mend(data) is data


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("us-central1", "https://us-central1-aiplatform.googleapis.com"),
        ("global", "https://aiplatform.googleapis.com"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com"),
    ],
)
def test_each_location_has_its_host(location, host):
    assert vertex.KINDS[0].host(location) == host
