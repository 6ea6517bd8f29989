import socket

import gevent
from gevent import socket as patched

from gproxy.fastpath import fairness


def test_a_greenlet_that_is_always_ready_lets_a_ready_socket_come_up():
    ours, theirs = socket.socketpair()
    reader = patched.socket(fileno=ours.detach())
    seen, rounds = [], []

    def read() -> None:
        seen.append(reader.recv(1))

    waiting = gevent.spawn(read)
    gevent.sleep(0.01)  # it waits for its socket by now
    theirs.send(b"x")
    while not seen and len(rounds) < 3:
        fairness._yield_to_sockets()
        rounds.append(1)
    waiting.join(1)
    theirs.close()
    reader.close()
    assert seen == [b"x"] and len(rounds) <= 2
