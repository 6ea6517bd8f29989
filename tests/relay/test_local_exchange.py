"""The exchange of a channel that answers inside gproxy: it reads like one with an upstream."""

from contextlib import nullcontext

import gevent
import orjson
import pytest

from gproxy.channels import demo
from gproxy.errors import ClientDisconnected, ShuttingDown
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.relay.local_exchange import Exchange
from gproxy.upstream import client

BODY = b'{"messages": [{"role": "user", "content": "hi"}]}'
NO_WATCH = nullcontext()
READ_BY_RELAY = ("status", "waited_s", "is_stream", "headers", "read", "chunks", "masked", "limit_idle", "close")


@pytest.fixture
def responder():
    (kind,) = (one for one in vars(demo).values() if getattr(one, "responder", None) is not None)
    return kind.responder


def exchange(responder, is_stream: bool) -> Exchange:
    return Exchange(responder, is_stream, "openai_chat", "demo-1", BODY)


def test_a_whole_reply_is_read_at_once(responder):
    found = exchange(responder, False)
    assert (found.status, found.is_stream, found.headers) == (200, False, {"content-type": "application/json"})
    assert orjson.loads(found.read(NO_WATCH))["choices"][0]["message"]["content"].endswith("You said: hi")


def test_a_stream_is_read_piece_by_piece(responder):
    found = exchange(responder, True)
    pieces = list(found.chunks(NO_WATCH))
    assert (found.is_stream, found.headers) == (True, {"content-type": "text/event-stream"})
    assert len(pieces) > 2 and pieces[-1].endswith(b"data: [DONE]\n\n")
    assert exchange(responder, True).read(NO_WATCH) == b"".join(pieces)


@pytest.mark.parametrize("error", [ClientDisconnected, lambda: ShuttingDown("stop")])
def test_a_stream_ends_when_its_call_is_interrupted(responder, error):
    watch = DisconnectWatch(None)
    pieces = exchange(responder, True).chunks(watch)
    assert next(pieces)
    watch.interrupt(error())
    gevent.sleep(0)
    with pytest.raises((ClientDisconnected, ShuttingDown)):
        next(pieces)


def test_it_has_what_the_relay_reads_of_a_response_and_can_be_closed_twice(responder):
    found = exchange(responder, False)
    assert [name for name in READ_BY_RELAY if not hasattr(found, name)] == []
    assert [name for name in READ_BY_RELAY[4:] if not hasattr(client.Exchange, name)] == []
    found.limit_idle(1.0)
    found.close()
    found.close()
    assert found.masked(b"data") == b"data"
