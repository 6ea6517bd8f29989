"""Behind nginx, with the configuration that comes with gproxy."""

import shutil
import socket
import subprocess
import time

import pytest

from tests.conftest import missing
from tests.gateway import ROOT, free_port
from tests.raw import check_events_leave_at_once, open_stream
from tests.vendor import streams


@pytest.fixture
def nginx(own_gateway, tmp_path):
    if shutil.which("nginx") is None:
        missing("nginx")
    gateway, port = own_gateway(workers=1), free_port()
    shipped = (ROOT / "conf" / "nginx.conf").read_text()
    shipped = shipped.replace("127.0.0.1:8787", f"127.0.0.1:{gateway.port}")
    shipped = shipped.replace("listen 8080;", f"listen 127.0.0.1:{port};")
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
    while not vendor.asked("gpt-nginx-left")[0].closed_at:
        assert time.monotonic() - left < 2
        time.sleep(0.01)
    rows = gateway.wait_rows(2)
    assert [row["outcome"] for row in rows] == ["partial", "complete"]
