"""Redaction of logged requests."""

import json

import pytest

from gproxy.request_log.redaction import Redactor, document

KEY, LONGER = "sk-upstream-0123456789", "sk-upstream-0123456789-and-more"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----"


@pytest.fixture
def redactor() -> Redactor:
    return Redactor({KEY, LONGER, PEM, "short"})


def test_known_secrets_are_redacted_everywhere(redactor):
    body = json.dumps({"a": KEY, "b": [f"x{LONGER}y"], "c": PEM, "d": "short"}).encode()
    found = redactor.body(body, (b"sk-clients-own",))
    assert json.loads(found) == {"a": "[redacted]", "b": ["x[redacted]y"], "c": "[redacted]", "d": "short"}
    assert redactor.body(b"is sk-clients-own here", (b"sk-clients-own",)) == b"is [redacted] here"
    assert redactor.text(f"http://x/{KEY}") == "http://x/[redacted]"


def test_headers_are_redacted_by_name_and_by_value(redactor):
    pairs = [
        ("Authorization", "Bearer x"), ("X-Api-Key", "x"), ("Cookie", "x"), ("X-Amz-Whatever", "x"),
        ("X-Session-Token", "x"), ("My-Secret", "x"), ("Content-Type", "application/json"),
        ("anthropic-ratelimit-tokens-remaining", "7"), ("x-note", f"about {KEY}"),
    ]  # fmt: skip
    headers = dict(json.loads(redactor.headers(pairs)))
    assert [name for name, value in headers.items() if value == "[redacted]"] == [
        "Authorization", "X-Api-Key", "Cookie", "X-Amz-Whatever", "X-Session-Token", "My-Secret"
    ]  # fmt: skip
    assert headers["x-note"] == "about [redacted]"
    assert headers["anthropic-ratelimit-tokens-remaining"] == "7"


@pytest.mark.parametrize(
    ("query", "redacted"),
    [
        ("key=AIza-1&alt=sse", "key=%5Bredacted%5D&alt=sse"),
        ("ACCESS_TOKEN=x", "ACCESS_TOKEN=%5Bredacted%5D"),
        (f"q={KEY}", "q=[redacted]"),
        ("a=b&c", "a=b&c"),
        ("", ""),
    ],
)
def test_query_parameters_are_redacted(redactor, query, redacted):
    assert redactor.query(query) == redacted


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ('{"password": "hunter2", "name": "x"}', '{"password": "[redacted]", "name": "x"}'),
        (r'{"api_key":"a\"b"}', '{"api_key":"[redacted]"}'),
        (r'{"toml": "api_key = \"sk-new\"\n"}', r'{"toml": "api_key = \"[redacted]\"\n"}'),
        ('{"Session_Token" : "sess-1"}', '{"Session_Token" : "[redacted]"}'),
        ('{"credential": "sk-1"}', '{"credential": "[redacted]"}'),
        ('{"credential": {"api_key": "sk-1"}}', '{"credential": {"api_key": "[redacted]"}}'),
        ('x = "$argon2id$v=19$m=1,t=2,p=1$c2FsdA$aGFzaA"', 'x = "[redacted]"'),
        ('{"tokens": 5, "max_tokens": "7"}', '{"tokens": 5, "max_tokens": "7"}'),
        ('{"passwords": "no"}', '{"passwords": "no"}'),
    ],
)
def test_secret_fields_of_documents_are_redacted(text, redacted):
    assert document(text.encode()).decode() == redacted


def test_redaction_takes_linear_time():
    """The time of redaction grows linearly with the length of any text."""
    import time

    started = time.perf_counter()
    document(b'"password": "' + b"\\" * 200_000)
    document(b'"password" ' * 20_000)
    document(b"\\" * 200_000)
    assert time.perf_counter() - started < 2
