"""Streams of server-sent events: splitting, reading data, replacing data."""

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gproxy.protocols import sse
from tests.sampled import names, payloads, sample

STREAMS = [
    (protocol, name)
    for protocol in ("anthropic", "gemini", "openai_chat", "openai_responses")
    for name in ("text.sse", "crlf.sse", "keepalive.sse", "cut.sse")
]
# Forms that vendors or compatible hosts have sent.
ODD = {
    "carriage returns": b"data: a\r\rdata: b\r\r",
    "mixed ends": b"data: a\n\r\ndata: b\r\n\ndata: c\n\n",
    "no blank": b"data:a\n\ndata: b\n\n",
    "many blank lines": b"\n\n\n\ndata: a\n\n\n\n\ndata: b\r\n\r\n\r\n\r\n",
    "no last blank line": b"data: a\n\ndata: b",
    "only comments": b": a\n\n: b\r\n\r\n",
    "umlauts": "data: Grüße 東京 🗼\r\n\r\ndata: 🙂\n\n".encode(),
}

EVERY = pytest.mark.parametrize(
    "stream",
    [sample(*stream) for stream in STREAMS] + list(ODD.values()),
    ids=[f"{protocol}-{name}" for protocol, name in STREAMS] + list(ODD),
)


def split(pieces: list[bytes]) -> tuple[list[bytes], bytes, bytes]:
    """Returns the data of every event, the remainder, and all bytes that the splitter returned."""
    splitter = sse.Splitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    data = [content for event in events if (content := sse.data_of(event)) is not None]
    return data, splitter.remainder().strip(), b"".join(events) + splitter.remainder()


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(at), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@settings(max_examples=60, deadline=None)
@given(st.data())
@EVERY
def test_any_split_of_a_stream_gives_the_same_events(stream, data):
    at = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    assert split(cut(stream, at)) == split([stream])


@EVERY
def test_a_stream_that_comes_byte_by_byte_gives_the_same_events(stream):
    assert split([bytes([byte]) for byte in stream]) == split([stream])


@pytest.mark.parametrize("stream", ODD.values(), ids=ODD)
def test_every_split_in_two_gives_the_same_events_and_loses_no_byte(stream):
    for at in range(len(stream) + 1):
        data, remainder, everything = split([stream[:at], stream[at:]])
        assert (data, remainder) == split([stream])[:2]
        assert everything == stream


def test_odd_streams_are_split_as_the_standard_defines():
    assert {name: split([stream])[:2] for name, stream in ODD.items()} == {
        "carriage returns": ([b"a", b"b"], b""),
        "mixed ends": ([b"a", b"b", b"c"], b""),
        "no blank": ([b"a", b"b"], b""),
        "many blank lines": ([b"a", b"b"], b""),
        "no last blank line": ([b"a"], b"data: b"),
        "only comments": ([], b""),
        "umlauts": (["Grüße 東京 🗼".encode(), "🙂".encode()], b""),
    }


def test_an_event_is_returned_as_soon_as_its_blank_line_arrived():
    splitter = sse.Splitter()
    assert splitter.feed(b"data: a\r\n") == []
    assert splitter.feed(b"\r\n") == [b"data: a\r\n\r\n"]
    assert splitter.feed(b"data: b\n\n") == [b"data: b\n\n"]
    assert splitter.remainder() == b""


def test_a_long_event_in_many_pieces_is_split_in_linear_time():
    event = b"data: " + b"x" * (8 * 1024 * 1024) + b"\n\n"
    pieces = [event[at : at + 65536] for at in range(0, len(event), 65536)]
    best, events = 1.0, []
    for _ in range(3):
        splitter, started = sse.Splitter(), time.process_time()
        events = [complete for piece in pieces for complete in splitter.feed(piece)]
        best = min(best, time.process_time() - started)
    assert events == [event]
    assert best < 0.2


def test_an_event_beyond_the_maximum_size_raises():
    splitter = sse.Splitter(maximum=1000)
    assert splitter.feed(b"data: " + b"x" * 900) == []
    with pytest.raises(sse.TooLong):
        splitter.feed(b"x" * 200)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: {}\n\n", b"{}"),
        (b"data:{}\n\n", b"{}"),
        (b"data: [DONE] \r\n\r\n", b"[DONE]"),
        (b"event: ping\ndata: {}\n\n", b"{}"),
        (b": a comment\ndata: {}\nid: 3\n\n", b"{}"),
        (b"data: {\ndata:  1\ndata: }\n\n", b"{\n 1\n}"),
        (b"event: x\r\ndata: {\r\ndata: }\r\n\r\n", b"{\n}"),
        (b"\n\ndata: {}\n\n", b"{}"),
        (b"data:\n\n", b""),
        (b": only a comment\n\n", None),
        (b"event: keepalive\n\n", None),
        (b"database: no\n\n", None),
        (b": data: in a comment\n\n", None),
        (b"\n\n", None),
    ],
)
def test_the_data_of_an_event_is_read(event, data):
    assert sse.data_of(event) == data


@pytest.mark.parametrize(
    ("event", "replaced"),
    [
        (b"data: {}\n\n", b"data: [1]\n\n"),
        (b"event: a\ndata: {}\n\n", b"event: a\ndata: [1]\n\n"),
        (b": c\nid: 7\nretry: 3\ndata: {\ndata: }\n\n", b": c\nid: 7\nretry: 3\ndata: [1]\n\n"),
        (b"event: a\r\ndata: {}\r\n\r\n", b"event: a\ndata: [1]\n\n"),
    ],
)
def test_only_the_data_of_an_event_is_replaced(event, replaced):
    assert sse.with_data(event, b"[1]") == replaced


@pytest.mark.parametrize("event", [b"data: {}\n\n", b"event: a\r\ndata: {\r\ndata: }\r\n\r\n"])
def test_data_of_several_lines_is_read_back_as_it_was_written(event):
    assert sse.data_of(sse.with_data(event, b'{\n "a": 1\n}')) == b'{\n "a": 1\n}'


def test_an_event_is_written_with_and_without_a_name():
    assert sse.event(b"{}") == b"data: {}\n\n"
    assert sse.event(b"{}", "error") == b"event: error\ndata: {}\n\n"


def test_every_sample_has_an_event():
    for protocol in ("anthropic", "gemini", "openai_chat", "openai_responses"):
        for name in names(protocol, ".sse"):
            assert len(payloads(sample(protocol, name))) >= 1, name
