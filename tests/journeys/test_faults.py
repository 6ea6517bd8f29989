"""For every upstream fault the client gets the matching error in time, and nothing is left behind."""

import asyncio
import gzip
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.gateway import ADMIN, Gateway
from tests.processes import half_closed, workers
from tests.vendor import STREAM_HEAD, answers, body, chunk, dumps, events, refuses, sends, whole

SEED = """
[[providers]]
name = "up"
channel = "custom"
settings = {{ base_url = "{vendor}/v1", protocol = "openai_chat", connect_timeout_s = 1, first_byte_timeout_s = 1, \
idle_timeout_s = 1, total_timeout_s = 2.5, max_connections = 4, connection_wait_s = 0.5 }}
credentials = [{{ api_key = "sk-up-0001" }}]

[[providers]]
name = "refusing"
channel = "custom"
settings = {{ base_url = "http://127.0.0.1:9", protocol = "openai_chat" }}
credentials = [{{ api_key = "sk-up-0002" }}]

[[models]]
provider_name = "up"
model_id = "default"
price_tiers = [{{ input_tokens_up_to = 100000000, price_input_tokens = 0.40, price_output_tokens = 1.60 }}]

[[users]]
name = "root"
is_admin = true
keys = [{{ api_key = "sk-admin-1" }}]

[[permissions]]
user_name = "root"
model_pattern = "*"

[[quotas]]
user_name = "root"
quota = 1000

[[rate_limits]]
user_name = "root"
model_pattern = "*"
concurrency = 100
"""

EVENTS = events("openai_chat", "m")
REPLY = dumps(whole("openai_chat", "m"))
JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
PART = b"".join(map(chunk, EVENTS[:3]))
GZIP = {"Content-Encoding": "gzip"}


async def trickles(seen, reader, writer):
    writer.write(STREAM_HEAD if seen.is_stream else JSON_HEAD % 1000)
    for _ in range(20):
        writer.write(chunk(b":\n") if seen.is_stream else b"{")
        await writer.drain()
        await asyncio.sleep(0.7)


def either(of_whole, of_stream):
    async def script(seen, reader, writer):
        await (of_stream if seen.is_stream else of_whole)(seen, reader, writer)

    return script


def zipped_stream():
    data = gzip.compress(b"".join(EVENTS))
    head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    return sends(head + chunk(data[:50]), 0.1, chunk(data[50:]) + b"0\r\n\r\n")


# The fault; then for a whole reply and for a stream the status, and whether the answer is complete.
GOOD, TIMEOUT, BROKEN, CUT = (200, True), (504, False), (502, False), (200, False)
FAULTS = {
    "resets before the head": (sends("reset"), BROKEN, BROKEN),
    "closes before the head": (sends("close"), BROKEN, BROKEN),
    "hangs before the head": (sends("hang"), TIMEOUT, TIMEOUT),
    "resets within the head": (sends(b"HTTP/1.1 200 OK\r\nContent-Ty", 0.05, "reset"), BROKEN, BROKEN),
    "hangs within the head": (sends(b"HTTP/1.1 200 OK\r\nContent-Ty", "hang"), TIMEOUT, TIMEOUT),
    "is no HTTP": (sends(b"SSH-2.0-OpenSSH_9.2\r\n", "close"), BROKEN, BROKEN),
    "resets within the body": (
        either(sends(JSON_HEAD % len(REPLY) + REPLY[:50], 0.05, "reset"), sends(STREAM_HEAD + PART, 0.05, "reset")),
        BROKEN,
        CUT,
    ),
    "closes within the body": (
        either(sends(JSON_HEAD % len(REPLY) + REPLY[:50], "close"), sends(STREAM_HEAD + PART, "close")),
        BROKEN,
        CUT,
    ),
    "hangs within the body": (
        either(sends(JSON_HEAD % len(REPLY) + REPLY[:50], "hang"), sends(STREAM_HEAD + PART, "hang")),
        TIMEOUT,
        CUT,
    ),
    "trickles for ever": (trickles, TIMEOUT, CUT),
    "ends cleanly in the middle": (
        either(answers(200, REPLY[:50]), sends(STREAM_HEAD + PART + b"0\r\n\r\n")),
        BROKEN,
        CUT,
    ),
    "ends within an event": (
        either(answers(200, REPLY[:-1]), sends(STREAM_HEAD + PART + chunk(EVENTS[3][:30]) + b"0\r\n\r\n")),
        BROKEN,
        CUT,
    ),
    "is shorter than it says": (
        either(
            sends(JSON_HEAD % (len(REPLY) + 9) + REPLY, "close"),
            sends(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n" + EVENTS[0],
                "close",
            ),
        ),
        BROKEN,
        CUT,
    ),
    "sends garbage": (
        either(answers(200, b"\x00\xff garbage"), sends(STREAM_HEAD + chunk(b"\x00\xff garbage\n\n") + b"0\r\n\r\n")),
        BROKEN,
        CUT,
    ),
    "breaks its chunks": (
        either(
            sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}", "close"),
            sends(STREAM_HEAD + PART + b"zz\r\n", "close"),
        ),
        BROKEN,
        CUT,
    ),
    "redirects": (answers(302, b"{}", {"Location": "http://127.0.0.1:9/"}), BROKEN, BROKEN),
    "fails in HTML": (
        answers(500, b"<html><h1>Bad gateway</h1></html>", {"Content-Type": "text/html"}),
        (500, False),
        (500, False),
    ),
    "limits": (refuses(429, "slow down", {"Retry-After": "1"}), (429, False), (429, False)),
    "compresses": (either(answers(200, gzip.compress(REPLY), GZIP), zipped_stream()), GOOD, GOOD),
    "lies that it compresses": (either(answers(200, REPLY, GZIP), sends(
        STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + PART, "close")), BROKEN, CUT),
    "answers": (either(sends(body(200, REPLY)), sends(STREAM_HEAD + b"".join(map(chunk, EVENTS)) + b"0\r\n\r\n")), GOOD,
                GOOD),
}  # fmt: skip
END = {"chat": b"[DONE]", "messages": b"message_stop"}


@pytest.fixture(scope="module")
def faulty(vendor, tmp_path_factory):
    running = Gateway(tmp_path_factory.mktemp("faulty"), SEED.format(vendor=vendor.url), workers=1).start()
    yield running
    running.stop()


def ask(gateway: Gateway, model: str, protocol: str, is_streamed: bool):
    if protocol == "chat":
        return gateway.chat(model, stream=is_streamed)
    body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "q"}], "stream": is_streamed}
    return gateway.post("/v1/messages", body, ADMIN)


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("protocol", list(END), ids=["same protocol", "translated"])
@pytest.mark.parametrize("does", list(FAULTS))
def test_the_client_gets_the_matching_error(faulty, vendor, does, protocol, is_streamed):
    script, of_whole, of_stream = FAULTS[does]
    model = f"{does.replace(' ', '-')}-{protocol}-{is_streamed}"
    vendor.scripts[model] = script
    started = time.monotonic()
    reply = ask(faulty, f"up/{model}", protocol, is_streamed)
    took_s = time.monotonic() - started
    status, is_complete = of_stream if is_streamed else of_whole
    assert reply.status == status, reply.body
    assert took_s < 5
    if not is_complete:
        # A page passes as it is where nothing is translated.
        assert b"error" in reply.body or (protocol, does) == ("chat", "fails in HTML")
        assert END[protocol] not in reply.body
    elif is_streamed:
        assert END[protocol] in reply.body and b"error" not in reply.body
    else:
        assert "error" not in reply.json
    (row,) = faulty.wait_rows(1, model={"Eq": model})
    delivered = status == 200
    assert row["outcome"] == (
        "complete" if is_complete else "partial" if delivered and row["output_tokens"] else "failed"
    )
    assert (row["cost"] > 0) is (row["outcome"] != "failed")


def test_a_refused_connection_is_a_502(faulty):
    for is_streamed in (False, True):
        for protocol in END:
            assert ask(faulty, "refusing/x", protocol, is_streamed).status in (502, 503)


def test_nothing_stays_behind(faulty, vendor):
    """After the tests above no request, reservation, connection slot or half-closed socket is left."""
    with ThreadPoolExecutor(4) as together:
        assert set(together.map(lambda n: faulty.chat(f"up/after-{n}").status, range(4))) == {200}
    (worker,) = workers(faulty)
    assert faulty.get("/readyz").json["in_flight"] == 0
    me = faulty.get("/me", ADMIN).json
    assert float(me["quota"]["held"]) == 0
    (running,) = (one for limit in me["limits"] for one in limit["counters"] if one["counter"] == "concurrency")
    assert running["remaining"] == 100
    deadline = time.monotonic() + 5
    while (left := half_closed(worker)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []
