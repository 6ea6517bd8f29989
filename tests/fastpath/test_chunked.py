"""Chunked bodies, read from a socket."""

import http.client
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gproxy.fastpath.chunked import MAX_LINE_BYTES, Chunked


class Arriving(io.RawIOBase):
    """A socket that returns its pieces one by one, and then the end."""

    def __init__(self, *pieces: bytes):
        self.pieces = list(pieces)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while self.pieces and not self.pieces[0]:
            del self.pieces[0]
        if not self.pieces:
            return 0
        piece = self.pieces[0][: len(buffer)]
        self.pieces[0] = self.pieces[0][len(buffer) :]
        buffer[: len(piece)] = piece
        return len(piece)


def over(*pieces: bytes) -> Chunked:
    return Chunked(io.BufferedReader(Arriving(*pieces)))


def read_all(body: Chunked) -> list[bytes]:
    found = []
    while piece := body.read():
        found.append(piece)
    return found


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailers + b"\r\n"


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        (chunked(), b""),
        (chunked(b"a"), b"a"),
        (chunked(b"Hello", b" ", b"World"), b"Hello World"),
        (chunked(b"x" * 300_000), b"x" * 300_000),
        (chunked(b"line\r\n\r\n0\r\n\r\n", b"end"), b"line\r\n\r\n0\r\n\r\nend"),
        (chunked(b"a", trailers=b"Expires: 0\r\nX-Sum: 1\r\n"), b"a"),
        (b"A\r\n0123456789\r\n000\r\n\r\n", b"0123456789"),
        (b"a ;name=value;x\r\n0123456789\r\n0;last\r\n\r\n", b"0123456789"),
        (b"5\nHello\r\n0\n\n", b"Hello"),
    ],
    ids=lambda value: value[:20],
)
def test_a_body_is_read_in_pieces_of_any_size(wire, body):
    for size in (1, 2, 3, 7, 4096, len(wire)):
        if len(wire) // size < 10_000:
            reader = over(*(wire[at : at + size] for at in range(0, len(wire), size)))
            assert b"".join(read_all(reader)) == body
            assert reader.is_done
            assert reader.read() == b""


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.data())
def test_any_split_gives_the_same_body(pieces, data):
    wire = chunked(*pieces)
    at = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    cuts = [wire[a:b] for a, b in zip([0, *at], [*at, len(wire)], strict=True)]
    assert b"".join(read_all(over(*cuts))) == b"".join(pieces)


def test_chunks_that_arrived_together_are_returned_together():
    assert over(chunked(b"a", b"b", b"c")).read() == b"abc"


def test_arrived_bytes_are_returned_at_once():
    reader = over(b"5\r\nHe", b"llo\r", b"\n3\r\nabc\r\n0\r\n", b"\r\n")
    assert [reader.read(), reader.read()] == [b"He", b"llo"]
    assert [reader.read(), reader.read()] == [b"abc", b""]


@pytest.mark.parametrize("end", range(1, len(chunked(b"Hello", trailers=b"A: b\r\n"))))
def test_a_truncated_body_never_counts_as_complete(end):
    wire = chunked(b"Hello", trailers=b"A: b\r\n")
    with pytest.raises(http.client.IncompleteRead) as caught:
        read_all(over(wire[:end]))
    assert caught.value.partial == b""


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"xyz\r\n",
        b"-5\r\nHello",
        b"+5\r\nHello",
        b"0x5\r\nHello",
        b"1_0\r\n",
        b"5 5\r\nHello",
        b";ext\r\n",
        "٥\r\nHello".encode(),
        b"11111111111111111\r\n",
        b"<html>\r\n",
        b"5" * (MAX_LINE_BYTES + 1),
        b"5;" + b"x" * (MAX_LINE_BYTES + 1),
        b"0\r\n" + b"X: " + b"y" * (MAX_LINE_BYTES + 1),
        b"0\r\n" + b"X: y\r\n" * MAX_LINE_BYTES,
    ],
    ids=lambda value: value[:20],
)
def test_broken_framing_raises(wire):
    with pytest.raises(http.client.HTTPException) as caught:
        read_all(over(wire))
    assert not isinstance(caught.value, http.client.IncompleteRead)


def test_bytes_after_the_end_are_not_part_of_the_body():
    reader = over(chunked(b"Hello") + b"HTTP/1.1 200 OK\r\n")
    assert read_all(reader) == [b"Hello"]
    assert reader.is_done


def test_an_error_of_the_socket_is_raised():
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            raise TimeoutError("timed out")

    with pytest.raises(TimeoutError):
        Chunked(io.BufferedReader(Broken())).read()
