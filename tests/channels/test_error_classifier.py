"""Classification of error responses by status and code, and the wait that the upstream requests."""

import json
import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from gproxy.channels.error_classifier import (
    MAX_ERROR_BYTES,
    Fault,
    Verdict,
    classify,
    classify_event,
    may_be_fault,
)

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC).timestamp()
INVALID_KEY, NO_CREDIT, FORBIDDEN, RATE_LIMITED, UPSTREAM_FAILED = (
    Verdict.INVALID_KEY,
    Verdict.NO_CREDIT,
    Verdict.FORBIDDEN,
    Verdict.RATE_LIMITED,
    Verdict.UPSTREAM_FAILED,
)


def error(**fields) -> bytes:
    return json.dumps({"error": {"message": "no", **fields}}).encode()


def google(status: str, **detail) -> bytes:
    return error(code=400, status=status, details=[{"@type": "x", **detail}])


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (401, error(code="invalid_api_key"), INVALID_KEY),
        (401, b"<html>", INVALID_KEY),
        (400, google("INVALID_ARGUMENT", reason="API_KEY_INVALID"), INVALID_KEY),
        (400, b"[" + google("INVALID_ARGUMENT", reason="API_KEY_INVALID") + b"]", INVALID_KEY),
        (403, google("PERMISSION_DENIED", reason="CONSUMER_SUSPENDED"), INVALID_KEY),
        (402, b"", NO_CREDIT),
        (429, error(code="insufficient_quota"), NO_CREDIT),
        (429, error(type="insufficient_quota"), NO_CREDIT),
        (400, error(type="billing_error"), NO_CREDIT),
        (403, error(), FORBIDDEN),
        (403, google("PERMISSION_DENIED"), FORBIDDEN),
        (429, error(type="rate_limit_error"), RATE_LIMITED),
        (408, b"", UPSTREAM_FAILED),
        (500, b"", UPSTREAM_FAILED),
        (503, b"busy", UPSTREAM_FAILED),
        (529, error(type="overloaded_error"), UPSTREAM_FAILED),
    ],
)
def test_a_fault_of_the_credential_or_the_upstream(status, body, verdict):
    assert may_be_fault(status)
    assert classify(status, {}, body, NOW) == Fault(verdict)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error(code="context_length_exceeded")),
        (400, error(message="my text says API_KEY_INVALID and insufficient_quota")),
        (400, b'{"error": "API_KEY_INVALID"}'),
        (400, b'{"error": {"details": "API_KEY_INVALID", "code": ["insufficient_quota"]}}'),
        (400, b"[]"),
        (400, b"\xff"),
        (400, b"[" * 100_000),
        (404, error()),
        (413, b""),
        (422, error()),
    ],
)
def test_an_error_about_the_request_is_not_a_fault_of_the_credential(status, body):
    assert classify(status, {}, body, NOW) is None


@pytest.mark.parametrize(
    ("headers", "body", "wait_s"),
    [
        ({"retry-after": "7"}, b"", 7),
        ({"retry-after": "1.5"}, b"", 1.5),
        ({"retry-after": "0"}, b"", 1),
        ({"retry-after": "999999"}, b"", 3600),
        ({"retry-after": "nan"}, b"", None),
        ({"retry-after": "soon"}, b"", None),
        ({"retry-after": f"Wed, 25 Nov {'9' * 20} 12:00:00 GMT"}, b"", None),
        ({"retry-after": f"Wed, 25 Nov 2026 12:00:00 -{'9' * 20}"}, b"", None),
        ({"retry-after": "Wed, 25 Nov 2026 12:00:42 -0000"}, b"", 42),
        ({"retry-after": format_datetime(datetime(2026, 11, 25, 12, 0, 42, tzinfo=UTC), usegmt=True)}, b"", 42),
        ({"retry-after": format_datetime(datetime(2026, 11, 25, 11, 0, tzinfo=UTC), usegmt=True)}, b"", 1),
        ({"retry-after-ms": "2500", "retry-after": "9"}, b"", 2.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m30s"}, b"", 90),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "1m30s"}, b"", None),
        (
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "20ms",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            b"",
            360,
        ),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2h"}, b"", 3600),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "12.5"}, b"", 12.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7 bananas"}, b"", None),
        (
            {
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2026-11-25T12:00:17Z",
            },
            b"",
            17,
        ),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "tomorrow",
            },
            b"",
            None,
        ),
        (
            {"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": "2026-11-25T12:00:17"},
            b"",
            17,
        ),
        ({}, google("RESOURCE_EXHAUSTED", retryDelay="38.5s"), 38.5),
        ({}, google("RESOURCE_EXHAUSTED", retryDelay=5), None),
        ({}, b"", None),
    ],
)
def test_the_wait_of_a_rate_limited_credential(headers, body, wait_s):
    assert classify(429, headers, body, NOW) == Fault(RATE_LIMITED, wait_s)


def test_an_overloaded_upstream_may_request_a_wait():
    assert classify(503, {"retry-after": "12"}, b"", NOW) == Fault(UPSTREAM_FAILED, 12)


def test_the_body_of_a_large_error_is_not_read():
    def padded(length: int) -> bytes:
        return error(code="insufficient_quota").ljust(length)

    assert classify(429, {}, padded(MAX_ERROR_BYTES), NOW) == Fault(NO_CREDIT)
    assert classify(429, {}, padded(MAX_ERROR_BYTES + 1), NOW) == Fault(RATE_LIMITED)


def failed_response(code: str) -> bytes:
    return json.dumps({"type": "response.failed", "response": {"error": {"code": code, "message": "no"}}}).encode()


@pytest.mark.parametrize(
    ("event", "verdict"),
    [
        (error(type="insufficient_quota"), NO_CREDIT),
        (error(code=429, status="RESOURCE_EXHAUSTED"), RATE_LIMITED),
        (error(code=403, status="PERMISSION_DENIED"), FORBIDDEN),
        (error(code=401), INVALID_KEY),
        (error(code=402, message="no credit"), NO_CREDIT),
        (error(code=408), UPSTREAM_FAILED),
        (error(code=500, status="INTERNAL"), UPSTREAM_FAILED),
        (error(type="overloaded_error"), UPSTREAM_FAILED),
        (error(code="server_error"), UPSTREAM_FAILED),
        (b'{"type": "error", "code": "rate_limit_exceeded", "message": "no"}', RATE_LIMITED),
        (b'{"type": "error", "error": {"type": "authentication_error"}}', INVALID_KEY),
        (failed_response("rate_limit_exceeded"), RATE_LIMITED),
        (b'{"response": {}, "error": {"code": "insufficient_quota"}}', UPSTREAM_FAILED),
        (b'{"type": "ping"}', UPSTREAM_FAILED),
        (b"{", UPSTREAM_FAILED),
    ],
)
def test_a_fault_within_a_stream(event, verdict):
    assert classify_event(event, {}, NOW) == Fault(verdict)


@pytest.mark.parametrize(
    "event",
    [
        error(type="invalid_request_error"),
        error(code="context_length_exceeded", type="server_error"),
        error(code=400, status="INVALID_ARGUMENT"),
        error(code=422),
        error(code=404, status="OTHER"),
        failed_response("content_filter"),
    ],
)
def test_an_error_event_about_the_request_is_not_a_fault_of_the_credential(event):
    assert classify_event(event, {}, NOW) is None


@pytest.mark.parametrize(
    ("event", "headers", "wait_s"),
    [
        (google("RESOURCE_EXHAUSTED", retryDelay="38.5s"), {}, 38.5),
        (google("RESOURCE_EXHAUSTED", retryDelay="0.2s"), {}, 1),
        (google("RESOURCE_EXHAUSTED", retryDelay="9h"), {}, 3600),
        (error(type="rate_limit_error"), {"retry-after": "7"}, 7),
        (error(type="rate_limit_error"), {}, None),
    ],
)
def test_the_wait_that_an_error_event_requests(event, headers, wait_s):
    assert classify_event(event, headers, NOW) == Fault(RATE_LIMITED, wait_s)


def test_the_headers_of_a_stream_that_fails_request_no_wait():
    assert classify_event(error(type="overloaded_error"), {"retry-after": "7"}, NOW) == Fault(UPSTREAM_FAILED)


def test_a_long_duration_is_read_in_linear_time():
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "x" + "1" * 60_000}
    started = time.process_time()
    classify(429, headers, b"", 0.0)
    assert time.process_time() - started < 0.05
