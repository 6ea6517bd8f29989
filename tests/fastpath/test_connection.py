"""The faster connections: heads are parsed as by the library, and a request is sent in one packet."""

import email.parser
import io
import socket
import threading
import time
from http.client import HTTPMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gproxy.fastpath.connection import MAX_JOINED_BYTES, PlainConnection, parse_headers

HEADS = (
    b"\r\n",
    b"Content-Type: application/json\r\nContent-Length: 12\r\n\r\n",
    b"A:b\r\nA:  c \t\r\nX-Empty:\r\n\r\n",
    b"Folded: one\r\n two\r\n\r\n",
    b"No colon here\r\nA: b\r\n\r\n",
    b"Space : x\r\n\r\n",
    b"A: b\nC: d\n\n",
    b"Latin: \xe4\xf6\xfc\r\nNext-Line: a\x85b\r\n\r\n",
    b"Tab: a\tb\r\nNul: a\0b\r\nFeed: a\x0bB: c\r\n\r\n",
    b"Content-Type: multipart/mixed; boundary=x\r\nA: b\r\n\r\n",
    b"A: b\r\n",
    b": nameless\r\nA: b\r\n\r\n",
    b"From me\r\nA: b\r\n\r\n",
)


def by_the_library(head: bytes) -> list[tuple[str, str]]:
    return email.parser.Parser(_class=HTTPMessage).parsestr(head.decode("iso-8859-1")).items()


@pytest.mark.parametrize("head", HEADS)
def test_a_head_is_parsed_as_by_the_library(head):
    assert parse_headers(io.BytesIO(head)).items() == by_the_library(head)


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=12)), max_size=4))
def test_any_head_is_parsed_as_by_the_library(pairs):
    lines = [name + b": " + value for name, value in pairs]
    head = b"".join(line.replace(b"\n", b" ") + b"\r\n" for line in lines if line.strip(b"\r")) + b"\r\n"
    assert parse_headers(io.BytesIO(head)).items() == by_the_library(head)


def test_a_header_of_blanks_is_parsed_in_linear_time():
    line = b"x:" + b" " * 60_000 + b"\x0b"
    started = time.process_time()
    assert len(parse_headers(io.BytesIO(line + b"\r\n\r\n")).items()) <= 1
    assert time.process_time() - started < 0.1


class Counted:
    """A socket that records the size of each send, and accepts at most `maximum` bytes of one."""

    def __init__(self, sock: socket.socket, maximum: int):
        self._sock, self._maximum, self.sent = sock, maximum, []

    def send(self, data) -> int:
        self.sent.append(len(data))
        return self._sock.send(data[: self._maximum])

    def __getattr__(self, name: str):
        return getattr(self._sock, name)


@pytest.mark.parametrize(
    ("size", "maximum", "sends"), [(100, 1_000_000, 1), (100, 30, 1), (MAX_JOINED_BYTES + 1, 1_000_000, 2)]
)
def test_head_and_body_are_sent_together_and_arrive_complete(size, maximum, sends):
    body, received = bytes(range(256)) * (size // 256 + 1), []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            sock, _ = server.accept()
            with sock:
                while not b"".join(received).endswith(body):
                    received.append(sock.recv(65536))
                sock.sendall(b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        connection = PlainConnection("127.0.0.1", server.getsockname()[1], timeout=5)
        connection.connect()
        connection.sock = counted = Counted(connection.sock, maximum)
        connection.request("POST", "/x", body=body, headers={"Content-Length": str(len(body))})
        response = connection.getresponse()
        thread.join()
        connection.close()
    assert (response.status, response.headers["X-A"]) == (204, "b")
    assert len(counted.sent) == sends
    assert b"".join(received).startswith(b"POST /x HTTP/1.1\r\nHost: 127.0.0.1")
    assert b"".join(received).partition(b"\r\n\r\n")[2] == body


def test_an_idle_connection_is_checked_without_waiting_under_any_socket():
    """Without gevent's sockets too, where a peek would wait for the timeout of the socket."""
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    connection = PlainConnection("127.0.0.1", 1)
    connection.sock = ours
    started = time.monotonic()
    assert connection.is_connected
    assert time.monotonic() - started < 1
    theirs.close()
    assert not connection.is_connected
    ours.close()
