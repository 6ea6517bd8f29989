"""How upstreams are reached, waited for and listed."""

import json
import select
import socket
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.gateway import ADMIN, Gateway, seed
from tests.raw_http import open_stream
from tests.vendor import STREAM_HEAD, body, chunk, dumps, events, sends, streams, whole


def custom(base_url: str, settings: str = "", channel: str = "custom") -> str:
    """A seed with one provider `there`."""
    return f"""
[[providers]]
name = "there"
channel = "{channel}"
settings = {{ base_url = "{base_url}"{settings} }}
credentials = [{{ api_key = "sk-there-0001" }}]
[[users]]
name = "admin"
is_admin = true
keys = [{{ api_key = "sk-admin-1" }}]
[[permissions]]
user_name = "admin"
model_pattern = "*"
"""


def test_an_http_proxy_gets_the_whole_url(own_gateway, vendor):
    gateway = own_gateway(custom("http://upstream.invalid/prefix/v1"), GPROXY_PROXY=vendor.url)
    assert gateway.chat("there/gpt-by-proxy").status == 200
    assert vendor.received("gpt-by-proxy")[0].path == "http://upstream.invalid/prefix/v1/chat/completions"


def test_a_socks_proxy_resolves_the_host(own_gateway, vendor):
    connect_requests = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", vendor.port)) as upstream:
            client.recv(2 + client.recv(2)[1])
            client.sendall(b"\5\0")
            head = client.recv(4)
            connect_requests.append((head[3], client.recv(client.recv(1)[0]), client.recv(2)))
            client.sendall(b"\5\0\0\1\0\0\0\0\0\0")
            while ready := select.select([client, upstream], [], [], 5)[0]:
                data = ready[0].recv(65536)
                (upstream if ready[0] is client else client).sendall(data)
                if ready[0] is upstream:
                    return

    thread = threading.Thread(target=serve)
    thread.start()
    port = listener.getsockname()[1]
    gateway = own_gateway(custom("http://upstream.invalid:81"), GPROXY_PROXY=f"socks5h://127.0.0.1:{port}")
    assert gateway.chat("there/gpt-by-socks").status == 200
    thread.join(10)
    listener.close()
    assert connect_requests == [(3, b"upstream.invalid", (81).to_bytes(2, "big"))]


def test_a_connect_that_hangs_is_given_up(own_gateway):
    """A listener whose queue is full takes no more connections."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = listener.getsockname()
    queued = []
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(address)
        queued.append(sock)
    time.sleep(0.2)
    gateway = own_gateway(custom(f"http://127.0.0.1:{address[1]}", ", connect_timeout_s = 0.5"), workers=1)
    started = time.monotonic()
    reply = gateway.chat("there/gpt")
    assert (reply.status, reply.json["error"]["code"]) == (504, "upstream_timeout")
    assert 0.4 < time.monotonic() - started < 3
    for sock in (*queued, listener):
        sock.close()


def test_a_stream_that_never_ends_is_ended(own_gateway, vendor):
    """The stream is never idle, but lasts longer than the operator allows."""
    word = chunk(events("openai_chat", "m")[1])
    vendor.scripts["gpt-endless"] = sends(STREAM_HEAD, *[word, 0.1] * 100)
    gateway = own_gateway(timeouts=", total_timeout_s = 1", workers=1)
    started = time.monotonic()
    reply = gateway.chat("openai-main/gpt-endless", stream=True)
    assert 0.8 < time.monotonic() - started < 3
    assert b"upstream_timeout" in reply.body
    assert gateway.wait_rows(1, model="gpt-endless")[0]["outcome"] == "partial"


def test_a_head_that_trickles_is_timed_out(own_gateway, vendor):
    """Each byte is in time; the whole head is not."""
    vendor.scripts["gpt-trickle"] = sends(b"HTTP/1.1 200 OK\r\nX: ", *[b"x", 0.2] * 60)
    gateway = own_gateway(timeouts=", connect_timeout_s = 0.5, first_byte_timeout_s = 1", workers=1)
    started = time.monotonic()
    assert gateway.chat("openai-main/gpt-trickle").status == 504
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("channel", "protocol", "path", "auth"),
    [
        ("openai", "/v1/chat/completions", "/v1/chat/completions", "authorization"),
        ("openai", "/v1/responses", "/v1/responses", "authorization"),
        ("anthropic", "/v1/messages", "/v1/messages", "x-api-key"),
        ("aistudio", "/v1beta/models/m:generateContent", "/v1beta/models/m:generateContent", "x-goog-api-key"),
        ("deepseek", "/v1/chat/completions", "/v1/chat/completions", "authorization"),
        ("deepseek", "/v1/messages", "/anthropic/v1/messages", "x-api-key"),
        ("groq", "/v1/responses", "/v1/responses", "authorization"),
        ("openrouter", "/v1/messages", "/v1/messages", "authorization"),
        ("nvidia", "/v1/chat/completions", "/v1/chat/completions", "authorization"),
        ("custom", "/v1/messages", "/v1/messages", "x-api-key"),
        ("custom", "/v1beta/models/m:generateContent", "/v1beta/models/m:generateContent", "x-goog-api-key"),
    ],
)
def test_each_channel_on_the_wire(channels_gateway, vendor, channel, protocol, path, auth):
    vendor.seen.clear()
    wanted = {"model": "m", "messages": [], "input": "x", "max_tokens": 1}
    assert channels_gateway.post(f"/{channel}{protocol}", wanted).status == 200
    (seen,) = vendor.seen
    assert seen.path == f"/base{path}"
    assert "sk-there-0001" in seen.headers[auth]
    assert sum("sk-there-0001" in value for value in seen.headers.values()) == 1
    assert ("anthropic-version" in seen.headers) is (auth == "x-api-key")


@pytest.fixture(scope="module")
def channels_gateway(vendor, tmp_path_factory):
    from tests.gateway import Gateway

    names = ("openai", "anthropic", "aistudio", "deepseek", "groq", "openrouter", "nvidia", "custom")
    seeds = [custom(f"{vendor.url}/base/", channel=name).replace('"there"', f'"{name}"') for name in names]
    providers = [seed.partition("[[users]]")[0] for seed in seeds[:-1]]
    running = Gateway(tmp_path_factory.mktemp("channels"), "".join([*providers, seeds[-1]])).start()
    yield running
    running.stop()


def test_a_custom_provider_uses_its_configured_protocol(own_gateway, vendor):
    gateway = own_gateway(custom(vendor.url, ', protocol = "anthropic"'), workers=1)
    assert gateway.post("/there/v1/messages", {"model": "m", "messages": []}).status == 200
    hello = [{"role": "user", "content": "Hi"}]
    translated = gateway.post("/there/v1/chat/completions", {"model": "m", "messages": hello})
    assert (translated.status, translated.headers["x-gproxy-translated"]) == (200, "openai_chat->anthropic")
    assert gateway.post("/there/v1/embeddings", {"model": "m", "input": "Hi"}).status == 501
    assert [m["id"] for m in gateway.get("/there/v1/models", ADMIN).json["data"]] == ["claude-3-5-sonnet-latest"]


def test_lists_are_fetched_at_once_given_up_in_time_and_kept(own_gateway, vendor):
    paths: list[str] = []

    async def listed(seen, reader, writer):
        import asyncio

        paths.append(seen.path)
        if seen.path.startswith("/hangs"):
            await asyncio.sleep(30)
        await asyncio.sleep(0.5)
        writer.write(body(200, dumps({"data": [{"id": f"of-{seen.path.split('/')[1]}"}]})))

    names = ("a", "b", "c", "d", "hangs")
    seeds = [custom(f"{vendor.url}/{name}").replace('"there"', f'"{name}"') for name in names]
    text = "".join([*(seed.partition("[[users]]")[0] for seed in seeds[:-1]), seeds[-1]])
    gateway = own_gateway(text, workers=1)
    vendor.scripts[""] = listed
    try:
        started = time.monotonic()
        first = gateway.get("/v1/models", ADMIN)
        took = time.monotonic() - started
        assert [m["id"] for m in first.json["data"]] == ["a/of-a", "b/of-b", "c/of-c", "d/of-d"]
        assert 4.5 < took < 6.5, "not at once, or not given up after five seconds"
        started = time.monotonic()
        assert gateway.get("/v1/models", ADMIN).json == first.json
        assert gateway.get("/a/v1/models/of-a", ADMIN).json["id"] == "of-a"
        assert time.monotonic() - started < 1
        assert len(paths) == 5
    finally:
        del vendor.scripts[""]


def test_a_model_that_no_list_has_is_requested(gateway, vendor):
    async def unlisted(seen, reader, writer):
        writer.write(body(200, dumps({"id": "gpt-unlisted", "object": "model", "created": 5, "owned_by": "x"})))

    vendor.scripts["gpt-unlisted"] = unlisted
    vendor.scripts["gpt-gone"] = sends(body(404, b"{}"))
    found = gateway.get("/v1/models/openai-main/gpt-unlisted", ADMIN, x_api_key=ADMIN).json
    assert (found["id"], found["type"], found["created_at"]) == (
        "openai-main/gpt-unlisted",
        "model",
        "1970-01-01T00:00:05Z",
    )
    assert gateway.get("/v1/models/openai-main/gpt-gone", ADMIN).status == 404
    assert gateway.get("/v1/models/demo/none", ADMIN).status == 404


QUIET = 1.3


@pytest.fixture(scope="module")
def beating(vendor, tmp_path_factory):
    """A gateway that sends a heartbeat after half a second of silence in a stream."""
    running = Gateway(tmp_path_factory.mktemp("beating"), seed(vendor.url, ", heartbeat_s = 0.5")).start()
    yield running
    running.stop()


def pausing(protocol: str, head: bytes = STREAM_HEAD, wrap=chunk, end: bytes = b"0\r\n\r\n"):
    """A faithful stream with a pause in its middle; gproxy delays its head until the first output."""
    pieces = [wrap(event) for event in events(protocol, "quiet")]
    half = len(pieces) // 2
    return sends(head + b"".join(pieces[:half]), QUIET, b"".join(pieces[half:]) + end, "close")


PLAIN_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
ROUTES = {
    "openai_chat": ("openai-main", "/v1/chat/completions", {"messages": [], "stream": True}),
    "openai_responses": ("openai-main", "/v1/responses", {"input": "q", "stream": True}),
    "anthropic": ("anthropic-main", "/v1/messages", {"messages": [], "max_tokens": 9, "stream": True}),
}


GZIP_HEAD = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")


def gzip_chunk():
    """Returns a function that compresses an event so that it can be read at once, and wraps it as a chunk."""
    packer = zlib.compressobj(wbits=31)
    return lambda event: chunk(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH))


def framed(framing: str) -> dict:
    """Returns the arguments of `pausing` for a stream in this framing."""
    if framing == "until the end":
        return {"head": PLAIN_HEAD, "wrap": bytes, "end": b""}
    return {} if framing == "chunked" else {"head": GZIP_HEAD, "wrap": gzip_chunk()}


def drop_beats(body: bytes) -> bytes:
    return body.replace(b": heartbeat\n\n", b"")


@pytest.mark.parametrize("framing", ["chunked", "compressed", "until the end"])
@pytest.mark.parametrize("protocol", list(ROUTES))
def test_a_silent_stream_beats_and_nothing_of_it_changes(beating, vendor, protocol, framing):
    provider, path, body = ROUTES[protocol]
    model = f"quiet-{protocol}-{framing[:3]}"
    vendor.scripts[model] = pausing(protocol, **framed(framing))
    reply = beating.post(path, {**body, "model": f"{provider}/{model}"})
    assert reply.status == 200
    assert 1 <= reply.body.count(b": heartbeat\n\n") <= 3
    vendor.scripts[model + "-calm"] = streams(None, "clean")
    calm = beating.post(path, {**body, "model": f"{provider}/{model}-calm"}).body.replace(b"-calm", b"")
    assert drop_beats(reply.body).replace(b"quiet", b"x") == calm.replace(b"quiet", b"x")


def test_gemini_gets_empty_lines_and_an_array_stays_one(beating, vendor):
    body = {"contents": [{"role": "user", "parts": [{"text": "q"}]}]}
    vendor.scripts["quiet-gemini"] = pausing("gemini")
    events_of = beating.post("/v1beta/models/vertex-main/quiet-gemini:streamGenerateContent?alt=sse", body)
    assert (events_of.status, b"heartbeat" in events_of.body, b"\n\n\n" in events_of.body) == (200, False, True)
    array = beating.post("/v1beta/models/vertex-main/quiet-gemini:streamGenerateContent", body)
    assert b"\n\n" in array.body.replace(b"\r", b"") or array.body.count(b"\n") > 2
    assert len(json.loads(array.body)) == len(events("gemini", "m"))


def test_a_translated_stream_beats_in_the_clients_way(beating, vendor):
    vendor.scripts["quiet-crossing"] = pausing("anthropic")
    body = {"model": "anthropic-main/quiet-crossing", "messages": [{"role": "user", "content": "q"}], "stream": True}
    reply = beating.post("/v1/chat/completions", body)
    assert (reply.status, reply.body.endswith(b"data: [DONE]\n\n")) == (200, True)
    assert 1 <= reply.body.count(b": heartbeat\n\n") <= 3
    assert all(part.startswith((b"data: ", b": heartbeat")) for part in reply.body.split(b"\n\n") if part)


def test_heartbeats_do_not_keep_a_dead_upstream(own_gateway, vendor):
    gateway = own_gateway(timeouts=", heartbeat_s = 0.5, idle_timeout_s = 2")
    vendor.scripts["falls-silent"] = streams(2, "hang")
    started = time.monotonic()
    reply = gateway.chat("openai-main/falls-silent", stream=True)
    assert 1.8 < time.monotonic() - started < 3
    assert reply.body.count(b": heartbeat\n\n") >= 2
    assert b"upstream_timeout" in reply.body


def test_a_drained_stream_is_read_to_its_end_and_billed_exactly(own_gateway, vendor):
    gateway = own_gateway(timeouts=', on_disconnect = "drain", heartbeat_s = 0.5')
    vendor.scripts["drained"] = streams(None, "clean", pause_s=0.15)
    with open_stream(gateway.port, "openai-main/drained") as sock:
        assert b"200" in sock.recv(4096)
    (row,) = gateway.wait_rows(1, model={"Eq": "drained"})
    assert (row["outcome"], row["status"], row["estimated"]) == ("partial", 499, False)
    assert (row["input_tokens"], row["output_tokens"]) == (12, 40)
    (seen,) = vendor.received("drained")
    assert not seen.error and seen.closed_at is None


def test_a_drained_reply_is_waited_for(own_gateway, vendor):
    gateway = own_gateway(timeouts=', on_disconnect = "drain"')
    answer = dumps(whole("openai_chat", "waited"))
    vendor.scripts["waited"] = sends(0.6, body(200, answer))
    data = json.dumps({"model": "openai-main/waited", "messages": []}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), 5) as sock:
        sock.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        time.sleep(0.1)
    (row,) = gateway.wait_rows(1, model={"Eq": "waited"})
    assert (row["estimated"], row["output_tokens"]) == (False, 40)


def test_a_drain_ends_after_its_time(own_gateway, vendor):
    gateway = own_gateway(timeouts=', on_disconnect = "drain", drain_s = 0.5, heartbeat_s = 0.5')
    vendor.scripts["endless"] = streams(4, "hang", pause_s=0.05)
    with open_stream(gateway.port, "openai-main/endless") as sock:
        sock.recv(4096)
    started = time.monotonic()
    (row,) = gateway.wait_rows(1, model={"Eq": "endless"})
    assert (row["outcome"], row["estimated"]) == ("partial", True)
    assert time.monotonic() - started < 4
    assert gateway.get("/readyz").json["in_flight"] == 0


def test_connections_of_an_upstream_are_bounded_and_waited_for(own_gateway, vendor):
    gateway = own_gateway(timeouts=", max_connections = 2, connection_wait_s = 0.5", workers=1)
    vendor.scripts["takes-a-while"] = sends(0.9, body(200, dumps(whole("openai_chat", "m"))))
    found: list[tuple[int, float]] = []

    def ask() -> None:
        started = time.monotonic()
        reply = gateway.chat("openai-main/takes-a-while")
        found.append((reply.status, time.monotonic() - started))
        if reply.status == 503:
            assert reply.json["error"]["code"] == "overloaded"

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(status for status, _ in found) == [200, 200, 503]
    assert 0.4 < next(took for status, took in found if status == 503) < 0.9
    vendor.scripts["is-quick"] = sends(0.2, body(200, dumps(whole("openai_chat", "m"))))
    with ThreadPoolExecutor(5) as together:  # some of them wait
        assert list(together.map(lambda _: gateway.chat("openai-main/is-quick").status, range(5))) == [200] * 5
