"""Behind nginx, with the configuration that comes with gproxy."""

import asyncio
import http.client
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import missing
from tests.gateway import ADMIN, ROOT, seed
from tests.polling import wait_until
from tests.ports import free_port
from tests.raw_http import check_events_leave_at_once, open_stream
from tests.vendor import STREAM_HEAD, chunk, events, streams


@pytest.fixture
def nginx(own_gateway, vendor, tmp_path):
    if shutil.which("nginx") is None:
        missing("nginx")
    alone = f'\n[[providers]]\nname = "alone"\nchannel = "openai"\nsettings = {{ base_url = "{vendor.url}" }}\n'
    alone += 'credentials = [{ api_key = "sk-alone-0001" }]\n'
    gateway, port = own_gateway(seed(vendor.url) + alone, workers=1), free_port()
    shipped = (ROOT / "conf" / "nginx.conf").read_text()
    shipped = shipped.replace("127.0.0.1:8787", f"127.0.0.1:{gateway.port}")
    shipped = shipped.replace("listen 8080;", f"listen 127.0.0.1:{port};")
    shipped = shipped.replace("/var/log/nginx/gproxy.log", f"{tmp_path}/access.log")
    temp = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; user root; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {temp}\n{shipped}\n}}\n"
    )
    running = subprocess.Popen(["nginx", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)])
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield gateway, port
    running.terminate()
    running.wait(10)


def test_events_leave_at_once_and_a_client_that_leaves_is_seen(nginx, vendor):
    gateway, port = nginx
    vendor.scripts["gpt-nginx"] = streams(None, "clean", pause_s=0.15)
    check_events_leave_at_once(port, "openai-main/gpt-nginx", 5, 0.08)
    vendor.scripts["gpt-nginx-left"] = streams(3, "hang")
    sock = open_stream(port, "openai-main/gpt-nginx-left")
    sock.recv(100)
    sock.close()
    left = time.monotonic()
    while not vendor.received("gpt-nginx-left")[0].closed_at:
        assert time.monotonic() - left < 2
        time.sleep(0.01)
    assert vendor.received("gpt-nginx-left")[0].closed_at - left < 0.2
    rows = gateway.wait_rows(2)
    assert [row["outcome"] for row in rows] == ["partial", "complete"]


@pytest.mark.timing
def test_each_event_is_there_within_50_ms(nginx, vendor):
    """The provider has one key; with two, gproxy would delay all events before the first output."""
    _, port = nginx
    sent: list[float] = []

    async def paced(seen, reader, writer):
        writer.write(STREAM_HEAD)
        for event in events("openai_chat", "m", has_usage=False):
            sent.append(time.monotonic())
            writer.write(chunk(event))
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.write(b"0\r\n\r\n")

    vendor.scripts["gpt-within"] = paced
    got: list[float] = []
    with open_stream(port, "alone/gpt-within") as sock:
        data = b""
        while b"[DONE]" not in data and (piece := sock.recv(65536)):
            data += piece
            got += [time.monotonic()] * piece.count(b"data: ")
    late = [arrived - left for left, arrived in zip(sent, got, strict=True)]
    assert max(late) < 0.05


def test_the_log_has_no_query(nginx, tmp_path):
    _, port = nginx
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1beta/models?key={ADMIN}", timeout=10) as reply:
        assert reply.status == 200
    log = tmp_path / "access.log"
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"))  # nginx writes the line after the answer
    logged = log.read_text()
    assert '"GET /v1beta/models HTTP/1.1" 200' in logged
    assert ADMIN not in logged


def test_a_body_of_64_mb_passes(nginx, vendor):
    _, port = nginx
    content = "x" * (64 * 1024 * 1024 - 1000)
    data = json.dumps({"model": "alone/gpt-large", "messages": [{"role": "user", "content": content}]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/chat/completions", data, method="POST")
    request.add_header("Authorization", f"Bearer {ADMIN}")
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert reply.status == 200
    assert len(vendor.received("gpt-large")[0].body) > 63 * 1024 * 1024
    vendor.seen.clear()  # the body is not kept


def test_5000_requests_on_kept_connections_pass_without_a_502(nginx):
    _, port = nginx

    def ask(_: int) -> set[int]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        found = set()
        for _ in range(625):
            connection.request("GET", "/healthz")
            reply = connection.getresponse()
            reply.read()
            found.add(reply.status)
        connection.close()
        return found

    with ThreadPoolExecutor(8) as together:
        assert set().union(*together.map(ask, range(8))) == {200}
