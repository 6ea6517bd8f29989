"""The watch over a client: a disconnect, a heartbeat or a stop interrupts a wait for the upstream, and nothing else."""

import socket
import struct
import time
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event

from gproxy.errors import ClientDisconnected, ShuttingDown
from gproxy.relay import disconnect
from gproxy.relay.disconnect import DisconnectWatch, HeartbeatDue, read_chunks
from tests.arriving import Arriving

LONG_S, SHORT_S = 5.0, 0.01


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's socket, and the gateway's socket of the same connection."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            yield client, accepted


@pytest.fixture
def client(pair) -> socket.socket:
    return pair[0]


@pytest.fixture
def watch(pair) -> Iterator[DisconnectWatch]:
    found = DisconnectWatch(pair[1])
    found.start()
    yield found
    found.close()


def wait(watch: DisconnectWatch, seconds: float) -> None:
    """Waits as a call does for its upstream."""
    with watch:
        Event().wait(seconds)


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


ENDS = {
    "closed": lambda client: client.close(),
    "half-closed": lambda client: client.shutdown(socket.SHUT_WR),
    "reset": reset,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_disconnect_interrupts_the_wait(watch, client, end):
    gevent.spawn_later(SHORT_S, end, client)
    started = time.monotonic()
    with pytest.raises(ClientDisconnected):
        wait(watch, LONG_S)
    assert time.monotonic() - started < LONG_S / 2


def test_a_client_that_stays_interrupts_nothing(watch):
    wait(watch, SHORT_S)


def test_a_disconnect_between_two_waits_is_thrown_into_the_next_one(watch, client):
    client.close()
    gevent.sleep(SHORT_S)  # not a wait for the upstream: nothing may be thrown here
    for _ in range(2):
        with pytest.raises(ClientDisconnected):
            wait(watch, LONG_S)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_client_that_sent_more_than_its_request_is_watched_too(watch, client, end, monkeypatch):
    monkeypatch.setattr(disconnect, "HANGUP_POLL_S", 0.005)
    client.sendall(b"GET /next HTTP/1.1\r\n")
    wait(watch, 0.03)
    end(client)
    with pytest.raises(ClientDisconnected):
        wait(watch, LONG_S)


def test_a_watch_that_was_not_started_notices_no_disconnect(pair):
    client, accepted = pair
    watch = DisconnectWatch(accepted)
    client.close()
    wait(watch, SHORT_S)


def test_a_watch_without_socket_can_be_started_interrupted_and_closed():
    watch = DisconnectWatch(None)
    watch.start()
    watch.interrupt(ShuttingDown("stop"))
    with pytest.raises(ShuttingDown):
        wait(watch, LONG_S)
    watch.close()


def test_a_closed_watch_notices_nothing_and_can_be_closed_again(watch, client):
    watch.start()
    watch.close()
    watch.close()
    client.close()
    wait(watch, SHORT_S)


def test_the_first_interruption_is_thrown_into_every_wait(watch, client):
    first = ShuttingDown("stop")
    watch.interrupt(first)
    watch.interrupt(ShuttingDown("stop again"))
    client.close()
    gevent.sleep(SHORT_S)
    for _ in range(2):
        with pytest.raises(ShuttingDown) as caught:
            wait(watch, LONG_S)
        assert caught.value is first


def test_an_interruption_reaches_the_greenlet_that_made_the_watch():
    ended = []

    def call() -> None:
        watch = DisconnectWatch(None)
        watches.append(watch)
        try:
            wait(watch, LONG_S)
        except ShuttingDown:
            ended.append(gevent.getcurrent())

    watches: list[DisconnectWatch] = []
    calls = [gevent.spawn(call) for _ in range(2)]
    gevent.sleep(0)
    watches[1].interrupt(ShuttingDown("stop"))
    gevent.sleep(SHORT_S)
    assert ended == calls[1:]
    gevent.killall(calls)


# -- heartbeats ----------------------------------------------------------------------------------------------------


def check_heartbeat(watch: DisconnectWatch, after_s: float) -> None:
    """Checks during the next wait, as if it had lasted for `after_s` seconds."""
    gevent.spawn(lambda: watch.check_heartbeat(time.monotonic() + after_s))


@pytest.mark.parametrize(("after_s", "is_due"), [(9.0, False), (10.1, True)])
def test_a_heartbeat_interrupts_a_wait_that_has_lasted_for_its_time(watch, after_s, is_due):
    watch.set_heartbeat(10.0)
    check_heartbeat(watch, after_s)
    try:
        wait(watch, SHORT_S)
    except HeartbeatDue:
        assert is_due
    else:
        assert not is_due


def test_without_a_heartbeat_no_wait_is_interrupted(watch):
    check_heartbeat(watch, 10**6)
    wait(watch, SHORT_S)


def test_between_two_waits_no_heartbeat_is_due(watch):
    watch.set_heartbeat(10.0)
    wait(watch, 0.001)
    watch.check_heartbeat(time.monotonic() + 11)
    gevent.sleep(SHORT_S)
    wait(watch, SHORT_S)


def test_a_heartbeat_that_comes_after_its_wait_does_not_interrupt_the_next_one(watch):
    watch.set_heartbeat(10.0)
    with watch:
        watch.check_heartbeat(time.monotonic() + 11)  # it is thrown when the hub runs next
    wait(watch, SHORT_S)


def test_a_disconnect_wins_over_a_heartbeat(watch, client):
    watch.set_heartbeat(10.0)
    client.close()
    gevent.sleep(SHORT_S)
    check_heartbeat(watch, 11)
    with pytest.raises(ClientDisconnected):
        wait(watch, LONG_S)


def test_no_handler_of_errors_catches_a_heartbeat():
    assert not issubclass(HeartbeatDue, Exception)


def test_a_heartbeat_is_read_as_none_and_the_body_goes_on():
    watch, go_on = DisconnectWatch(None), Event()
    watch.set_heartbeat(10.0)
    pieces = read_chunks(Arriving(b"one", go_on, b"two"), watch)
    assert next(pieces) == b"one"
    for _ in range(2):
        check_heartbeat(watch, 11)
        assert next(pieces) is None
    gevent.spawn(go_on.set)
    assert list(pieces) == [b"two"]


def test_a_disconnect_ends_the_reading_of_a_body():
    watch = DisconnectWatch(None)
    pieces = read_chunks(Arriving(b"one", Event(), b"two"), watch)
    assert next(pieces) == b"one"
    watch.interrupt(ClientDisconnected())
    with pytest.raises(ClientDisconnected):
        next(pieces)
