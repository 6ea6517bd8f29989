"""Every exception of the libraries has a mapping, and its text reaches no client."""

import http.client
import inspect
import socket
import ssl
import traceback

import pytest
import requests
import urllib3

from gproxy.errors import UpstreamError, UpstreamTimeout
from gproxy.upstream import error_mapping

SECRET = "sk-upstream-Zm9vYmFy"
TIMEOUTS = (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)


def tree(module, *roots: type) -> set[type]:
    return {
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, roots) and not issubclass(kind, Warning)
    }


CLASSES = sorted(
    tree(requests.exceptions, requests.exceptions.RequestException)
    | tree(urllib3.exceptions, urllib3.exceptions.HTTPError)
    | tree(http.client, http.client.HTTPException)
    | {
        OSError, TimeoutError, ConnectionError, ConnectionResetError, ConnectionRefusedError, ConnectionAbortedError,
        BrokenPipeError, ssl.SSLError, ssl.SSLCertVerificationError, ssl.SSLEOFError, socket.gaierror, socket.herror,
        ValueError, UnicodeError, UnicodeEncodeError,
    },
    key=lambda kind: (kind.__module__, kind.__name__),
)  # fmt: skip


def make(kind: type) -> BaseException:
    """Returns an exception that quotes the secret wherever it can, made without its constructor."""
    fault = kind.__new__(kind, SECRET)
    fault.args = (SECRET, f"Invalid header value b'Bearer {SECRET}'")
    fault.__notes__ = [SECRET]
    fault.__cause__ = ValueError(SECRET)
    return fault


def raised(fault: BaseException) -> UpstreamError:
    """Returns the mapped exception, raised as the client raises it."""
    try:
        try:
            raise fault
        except error_mapping.LIBRARY_ERRORS as caught:
            raise error_mapping.to_upstream_error(caught) from None
    except UpstreamError as error:
        return error


def test_the_exception_trees_of_the_libraries_are_read():
    assert len(CLASSES) > 60
    assert {requests.exceptions.InvalidHeader, urllib3.exceptions.ReadTimeoutError, http.client.BadStatusLine} < set(
        CLASSES
    )


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_library_exception_becomes_an_upstream_error_without_its_text(kind):
    fault = make(kind)
    assert isinstance(fault, error_mapping.LIBRARY_ERRORS)
    error = raised(fault)
    assert type(error) is (UpstreamTimeout if issubclass(kind, TIMEOUTS) else UpstreamError)
    assert error.status == (504 if issubclass(kind, TIMEOUTS) else 502)
    printed = "".join(traceback.format_exception(error))
    for text in (error.message, str(error), repr(error), str(error.headers), repr(error.args), printed):
        assert SECRET not in text
    assert error.__cause__ is None
    assert error.message.startswith(("upstream_error: ", "upstream_timeout: "))


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (requests.exceptions.ConnectTimeout(), "no connection in time"),
        (requests.exceptions.ReadTimeout(), "no answer in time"),
        (requests.exceptions.InvalidHeader(), "the credential contains a character that no header can carry"),
        (requests.exceptions.SSLError(), "TLS failed"),
        (requests.exceptions.ProxyError(), "the outbound proxy failed"),
        (requests.exceptions.ConnectionError(), "the connection failed"),
        (requests.exceptions.ContentDecodingError(), "the request failed"),
        (urllib3.exceptions.DecodeError(), "the body cannot be decompressed"),
        (urllib3.exceptions.ProtocolError(), "the connection broke"),
        (urllib3.exceptions.IncompleteRead(1, 2), "the connection broke"),
        (http.client.BadStatusLine(""), "the answer is not HTTP"),
        (http.client.IncompleteRead(b""), "the connection broke"),
        (ConnectionResetError(), "the connection broke"),
        (TimeoutError(), "no answer in time"),
        (UnicodeEncodeError("latin-1", "x", 0, 1, "no"), "the credential or a header contains a character"),
        (KeyError("unforeseen"), "the upstream call failed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_exception_has_a_helpful_message(fault, text):
    assert text in error_mapping.to_upstream_error(fault).message


def test_every_row_of_the_table_can_match():
    classes = [row[0] for row in error_mapping.MAPPING]
    hidden = [
        (later, earlier) for at, later in enumerate(classes) for earlier in classes[:at] if issubclass(later, earlier)
    ]
    assert hidden == []


@pytest.mark.parametrize("fault", [KeyError(), TypeError(), AttributeError(), ZeroDivisionError(), KeyboardInterrupt()])
def test_a_bug_of_our_own_is_not_mapped_to_an_upstream_error(fault):
    assert not isinstance(fault, error_mapping.LIBRARY_ERRORS)


def test_the_error_for_a_rejected_header_omits_its_value():
    """With the exceptions that http.client raises for a key that no header can carry."""
    connection = http.client.HTTPConnection("127.0.0.1", 9)
    connection.putrequest("POST", "/")  # nothing is sent before the headers end
    for value in (f"Bearer {SECRET}\r\nX: y", f"Bearer {SECRET}ü€"):
        with pytest.raises(ValueError, match=r"Invalid|codec") as caught:
            connection.putheader("Authorization", value)
        error = raised(caught.value)
        assert SECRET not in "".join(traceback.format_exception(error))
