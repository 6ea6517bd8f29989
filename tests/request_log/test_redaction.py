"""Secrets out of what is kept of requests."""

import json

import pytest

from gproxy.request_log.redaction import Redactor, document

KEY, LONGER = "sk-upstream-0123456789", "sk-upstream-0123456789-and-more"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----"


@pytest.fixture
def redactor() -> Redactor:
    return Redactor({KEY, LONGER, PEM, "short"})


def test_a_live_secret_is_nowhere(redactor):
    body = json.dumps({"a": KEY, "b": [f"x{LONGER}y"], "c": PEM, "d": "short"}).encode()
    found = redactor.body(body, (b"sk-clients-own",))
    assert json.loads(found) == {"a": "[redacted]", "b": ["x[redacted]y"], "c": "[redacted]", "d": "short"}
    assert redactor.body(b"is sk-clients-own here", (b"sk-clients-own",)) == b"is [redacted] here"
    assert redactor.text(f"http://x/{KEY}") == "http://x/[redacted]"


def test_headers_by_their_names_and_by_what_they_hold(redactor):
    pairs = [
        ("Authorization", "Bearer x"), ("X-Api-Key", "x"), ("Cookie", "x"), ("X-Amz-Whatever", "x"),
        ("X-Session-Token", "x"), ("My-Secret", "x"), ("Content-Type", "application/json"),
        ("anthropic-ratelimit-tokens-remaining", "7"), ("x-note", f"about {KEY}"),
    ]  # fmt: skip
    told = dict(json.loads(redactor.headers(pairs)))
    assert [name for name, value in told.items() if value == "[redacted]"] == [
        "Authorization", "X-Api-Key", "Cookie", "X-Amz-Whatever", "X-Session-Token", "My-Secret"
    ]  # fmt: skip
    assert told["x-note"] == "about [redacted]"
    assert told["anthropic-ratelimit-tokens-remaining"] == "7"


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("key=AIza-1&alt=sse", "key=%5Bredacted%5D&alt=sse"),
        ("ACCESS_TOKEN=x", "ACCESS_TOKEN=%5Bredacted%5D"),
        (f"q={KEY}", "q=[redacted]"),
        ("a=b&c", "a=b&c"),
        ("", ""),
    ],
)
def test_query_parameters(redactor, query, kept):
    assert redactor.query(query) == kept


@pytest.mark.parametrize(
    ("text", "kept"),
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
def test_fields_of_documents(text, kept):
    assert document(text.encode()).decode() == kept


def test_nothing_is_too_long_to_look_through():
    """No text makes the search take longer than its length."""
    import time

    started = time.perf_counter()
    document(b'"password": "' + b"\\" * 200_000)
    document(b'"password" ' * 20_000)
    document(b"\\" * 200_000)
    assert time.perf_counter() - started < 2
