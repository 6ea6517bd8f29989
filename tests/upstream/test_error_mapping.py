"""Everything the libraries below can raise, and that none of it is told."""

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
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, roots) and not issubclass(found, Warning)
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
    key=lambda found: (found.__module__, found.__name__),
)  # fmt: skip


def make(found: type) -> BaseException:
    """One of it that quotes the secret wherever it can, without knowing what its constructor wants."""
    fault = found.__new__(found, SECRET)
    fault.args = (SECRET, f"Invalid header value b'Bearer {SECRET}'")
    fault.__notes__ = [SECRET]
    fault.__cause__ = ValueError(SECRET)
    return fault


def raised(fault: BaseException) -> UpstreamError:
    """As the client does it."""
    try:
        try:
            raise fault
        except error_mapping.FOREIGN as caught:
            raise error_mapping.told(caught) from None
    except UpstreamError as ours:
        return ours


def test_the_libraries_trees_are_walked():
    assert len(CLASSES) > 60
    assert {requests.exceptions.InvalidHeader, urllib3.exceptions.ReadTimeoutError, http.client.BadStatusLine} < set(
        CLASSES
    )


@pytest.mark.parametrize("found", CLASSES, ids=lambda found: f"{found.__module__}.{found.__name__}")
def test_every_fault_is_ours_and_keeps_its_text_to_itself(found):
    fault = make(found)
    assert isinstance(fault, error_mapping.FOREIGN)
    ours = raised(fault)
    assert type(ours) is (UpstreamTimeout if issubclass(found, TIMEOUTS) else UpstreamError)
    assert ours.status == (504 if issubclass(found, TIMEOUTS) else 502)
    shown = "".join(traceback.format_exception(ours))
    for text in (ours.message, str(ours), repr(ours), str(ours.headers), repr(ours.args), shown):
        assert SECRET not in text
    assert ours.__cause__ is None
    assert ours.message.startswith(("upstream_error: ", "upstream_timeout: "))


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (requests.exceptions.ConnectTimeout(), "no connection in time"),
        (requests.exceptions.ReadTimeout(), "no answer in time"),
        (requests.exceptions.InvalidHeader(), "the credential holds a character that no header can carry"),
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
        (UnicodeEncodeError("latin-1", "x", 0, 1, "no"), "the credential or a header holds a character"),
        (KeyError("unforeseen"), "the upstream call failed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_fault_is_told_in_words_that_help(fault, text):
    assert text in error_mapping.told(fault).message


def test_no_row_of_the_table_is_hidden_by_an_earlier_one():
    classes = [row[0] for row in error_mapping.FAULTS]
    hidden = [
        (later, earlier) for at, later in enumerate(classes) for earlier in classes[:at] if issubclass(later, earlier)
    ]
    assert hidden == []


@pytest.mark.parametrize("fault", [KeyError(), TypeError(), AttributeError(), ZeroDivisionError(), KeyboardInterrupt()])
def test_a_fault_of_our_own_is_not_blamed_on_the_upstream(fault):
    assert not isinstance(fault, error_mapping.FOREIGN)


def test_a_refused_header_does_not_tell_its_value():
    """What the libraries really raise for a key that no header can carry."""
    connection = http.client.HTTPConnection("127.0.0.1", 9)
    connection.putrequest("POST", "/")  # nothing is sent before the headers end
    for value in (f"Bearer {SECRET}\r\nX: y", f"Bearer {SECRET}ü€"):
        with pytest.raises(ValueError, match=r"Invalid|codec") as caught:
            connection.putheader("Authorization", value)
        ours = raised(caught.value)
        assert SECRET not in "".join(traceback.format_exception(ours))
