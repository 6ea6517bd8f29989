"""HTTP over plain sockets, for details that an HTTP client hides."""

import json
import socket
import time
from itertools import pairwise

from tests.gateway import ADMIN


def open_stream(port: int, model: str, key: str = ADMIN) -> socket.socket:
    """Returns a connection on which a chat stream was just requested."""
    body = json.dumps({"model": model, "stream": True, "messages": []}).encode()
    sock = socket.create_connection(("127.0.0.1", port), 10)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    sock.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return sock


def check_events_leave_at_once(port: int, model: str, words: int, min_pause_s: float) -> None:
    """Reads a paced stream to its end and checks that its words do not arrive in bunches.

    Events before the first word may arrive with it, because gproxy delays them while failover is still possible.
    """
    arrivals = []
    with open_stream(port, model) as sock:
        while True:
            piece = sock.recv(65536)
            arrivals.append((time.monotonic(), piece))
            if b"[DONE]" in piece or not piece:
                break
    word_times = [at for at, piece in arrivals if b'"content":"' in piece.replace(b'"content":""', b"")]
    assert len(word_times) >= words
    assert all(later - earlier > min_pause_s for earlier, later in pairwise(word_times))
