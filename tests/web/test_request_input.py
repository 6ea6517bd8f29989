"""What is read of a request: its key, address, id, query and body; and every way in which a body does not arrive."""

import io
import time
from contextlib import nullcontext

import gevent
import pytest
from gevent.event import Event
from gunicorn.http.errors import ChunkMissingTerminator

from gproxy.admission.capacity import Capacity, Permit
from gproxy.errors import BadRequest, ClientDisconnected, Overloaded, RequestTimeout, TooLarge
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.web import request_input

TRUSTED = ("127.0.0.1", "10.0.0.0/8", "::1")


# -- the key -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HTTP_AUTHORIZATION": "Bearer sk-1"}, "sk-1"),
        ({"HTTP_AUTHORIZATION": "bearer  sk-1 "}, "sk-1"),
        ({"HTTP_X_API_KEY": "sk-2"}, "sk-2"),
        ({"HTTP_X_GOOG_API_KEY": " sk-3 "}, "sk-3"),
        ({"QUERY_STRING": "a=1&key=sk-4"}, "sk-4"),
        ({"QUERY_STRING": "key=&key=+&key=sk%2D4"}, "sk-4"),
        ({"QUERY_STRING": "monkey=sk-4"}, None),
        ({"HTTP_AUTHORIZATION": "Bearer sk-1", "HTTP_X_API_KEY": "sk-2"}, "sk-1"),
        ({"HTTP_AUTHORIZATION": "Bearer ", "HTTP_X_API_KEY": "sk-2"}, "sk-2"),
        ({"HTTP_AUTHORIZATION": "Basic sk-1", "HTTP_X_GOOG_API_KEY": "sk-3"}, "sk-3"),
        ({"HTTP_X_API_KEY": " ", "HTTP_X_GOOG_API_KEY": "sk-3", "QUERY_STRING": "key=sk-4"}, "sk-3"),
        ({"HTTP_AUTHORIZATION": "sk-1"}, None),
        ({}, None),
    ],
)
def test_the_first_key_that_is_not_blank_counts(environ, expected):
    assert request_input.key(environ, True) == expected


def test_a_key_in_the_url_counts_only_where_it_is_allowed():
    assert request_input.key({"QUERY_STRING": "key=sk-4"}, False) is None


# -- address, id and query -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.7", "203.0.113.9", "192.0.2.7"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("127.0.0.1", "10.1.2.3, 10.1.2.4", "10.1.2.3"),
        ("127.0.0.1", "203.0.113.9, forged", "127.0.0.1"),
        ("::1", "[2001:db8::7]", "2001:db8::7"),
        (None, "203.0.113.9", "203.0.113.9"),
        ("", "", None),
        ("not an address", "203.0.113.9", "not an address"),
    ],
)
def test_the_address_is_the_last_one_that_is_not_a_trusted_proxy(peer, forwarded, expected):
    environ = {"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded}
    assert request_input.client_address(environ, TRUSTED) == expected


@pytest.mark.parametrize("given", ["req_1", "a.b:c@d-e_F", "x" * 128])
def test_a_well_formed_id_of_the_client_is_kept(given):
    assert request_input.request_id({"HTTP_X_REQUEST_ID": given}) == given


@pytest.mark.parametrize("given", ["", "a b", "a\nb", "x" * 129, "ä", "<script>"])
def test_any_other_id_is_replaced_by_a_new_one(given):
    found = {request_input.request_id({"HTTP_X_REQUEST_ID": given}) for _ in range(3)}
    assert len(found) == 3
    assert all(len(one) == 28 and one.startswith("req_") for one in found)


def test_the_query_keeps_order_repetitions_and_blank_values():
    assert request_input.query({"QUERY_STRING": "b=1&a=&b=%32+3"}) == (("b", "1"), ("a", ""), ("b", "2 3"))
    assert request_input.query({}) == request_input.query({"QUERY_STRING": ""}) == ()


# -- the body ------------------------------------------------------------------------------------------------------


@pytest.fixture
def capacity() -> Capacity:
    return Capacity(10, 1000)


@pytest.fixture
def permit(capacity) -> Permit:
    return capacity.acquire()


class Broken(io.RawIOBase):
    """A body that is cut off after some bytes: its connection, or its chunks, break."""

    def __init__(self, fault: Exception, data: bytes = b""):
        self.fault, self._data = fault, io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        if data := self._data.read(size):
            return data
        raise self.fault


class Silent(io.RawIOBase):
    """A body that never arrives."""

    def read(self, size: int = -1) -> bytes:
        Event().wait(5)
        return b""


def environ(stream, length: int | None = None, **headers: str) -> dict:
    found = {"wsgi.input": io.BytesIO(stream) if isinstance(stream, bytes) else stream, **headers}
    return found if length is None else {**found, "CONTENT_LENGTH": str(length)}


def body(sent: dict, permit: Permit, maximum: int = 100, timeout_s: float = 2.0, watch=None) -> bytes:
    return request_input.body(sent, maximum, timeout_s, permit, watch or nullcontext())


CHUNKED = {"HTTP_TRANSFER_ENCODING": "gzip, Chunked"}


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (environ(b"hello and the next request", 5), b"hello"),
        (environ(b"hello", **CHUNKED), b"hello"),
        (environ(b"hello"), b""),
        (environ(b"", 0), b""),
        (environ(b"hello", 5, HTTP_CONTENT_ENCODING="identity"), b"hello"),
        (environ(b"hello", 5, HTTP_CONTENT_ENCODING=""), b"hello"),
    ],
)
def test_a_body_is_read_as_far_as_it_was_announced(permit, sent, expected):
    assert body(sent, permit) == expected


@pytest.mark.parametrize("sent", [environ(b"x" * 101, 101), environ(b"x" * 101, **CHUNKED)], ids=["length", "chunks"])
def test_a_body_beyond_the_maximum_is_refused(capacity, permit, sent):
    with pytest.raises(TooLarge, match=r"larger than 100 bytes.*GPROXY_MAX_BODY"):
        body(sent, permit)
    permit.release()
    assert capacity.body_bytes == 0


def test_an_announced_body_beyond_the_maximum_is_not_read(permit):
    sent = environ(b"x" * 101, 101)
    with pytest.raises(TooLarge):
        body(sent, permit)
    assert sent["wsgi.input"].tell() == 0


@pytest.mark.parametrize("headers", [{"length": 600}, CHUNKED], ids=["length", "chunks"])
def test_a_body_without_room_beside_the_running_ones_is_refused(capacity, permit, headers):
    body(environ(b"x" * 500, 500), permit, 1000)
    other = capacity.acquire()
    with pytest.raises(Overloaded, match="1000 bytes"):
        body(environ(b"x" * 600, **headers), other, 1000)
    other.release()
    assert capacity.body_bytes == 500
    permit.release()
    assert (capacity.body_bytes, capacity.requests) == (0, 0)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip"])
def test_a_compressed_body_is_refused(permit, encoding):
    with pytest.raises(BadRequest, match="compressed"):
        body(environ(b"hello", 5, HTTP_CONTENT_ENCODING=encoding), permit)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (environ(b"hell", 5), "4 of 5 bytes arrived"),
        (environ(b"", 5), "0 of 5 bytes arrived"),
        (environ(Broken(ConnectionResetError(), b"he"), **CHUNKED), "cut off"),
        (environ(Broken(ConnectionResetError()), 5), "cut off"),
        (environ(Broken(ChunkMissingTerminator(b"xx"), b"he"), **CHUNKED), "chunks are broken"),
    ],
    ids=["short", "nothing", "chunks reset", "reset", "broken chunks"],
)
def test_a_body_that_does_not_arrive_whole_is_an_error_of_the_client(permit, sent, message):
    with pytest.raises(BadRequest, match=message):
        body(sent, permit)


def test_a_body_that_is_too_slow_is_given_up(permit):
    started = time.monotonic()
    with pytest.raises(RequestTimeout, match=r"0\.02 s"):
        body(environ(Silent(), 5), permit, timeout_s=0.02)
    assert time.monotonic() - started < 1


def test_a_disconnect_ends_the_wait_for_the_body(permit):
    watch = DisconnectWatch(None)
    watch.interrupt(ClientDisconnected())
    with pytest.raises(ClientDisconnected):
        body(environ(Silent(), 5), permit, watch=watch)


# -- the body of a refused request ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("connection", "read"), [("close", 300), ("Close", 300), ("keep-alive", 0), (None, 0)])
def test_a_refused_body_is_read_if_the_connection_closes(connection, read):
    headers = {} if connection is None else {"HTTP_CONNECTION": connection}
    sent = environ(b"x" * 300, **headers)
    request_input.discard(sent, 1000, 1.0)
    assert sent["wsgi.input"].tell() == read


def test_no_more_of_a_refused_body_is_read_than_the_maximum(monkeypatch):
    monkeypatch.setattr(request_input, "PIECE_BYTES", 100)
    sent = environ(b"x" * 1000, HTTP_CONNECTION="close")
    request_input.discard(sent, 250, 1.0)
    assert sent["wsgi.input"].tell() == 300


@pytest.mark.parametrize("fault", [ConnectionResetError(), ChunkMissingTerminator(b"xx")])
def test_a_refused_client_may_disconnect(fault):
    request_input.discard(environ(Broken(fault, b"x"), HTTP_CONNECTION="close"), 1000, 1.0)


def test_a_refused_body_is_not_waited_for_longer_than_its_time():
    with gevent.Timeout(1):
        request_input.discard(environ(Silent(), HTTP_CONNECTION="close"), 1000, 0.02)
