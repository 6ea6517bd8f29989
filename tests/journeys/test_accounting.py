"""Usage is exact: each request that the vendor received has one usage row after kills, locks, full disks and cuts."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.gateway import ADMIN
from tests.load import Load, check_usage_rows, expected_cost, nano
from tests.processes import resident_mb, workers
from tests.raw_http import check_events_leave_at_once, open_stream
from tests.vendor import STREAM_HEAD, WORDS, answers, chunk, event, events, faithful, sends, streams

ROOT = Path(__file__).resolve().parents[2]


async def slowly(seen, reader, writer):
    """A complete answer with pauses, so that a test can interrupt it."""
    await asyncio.sleep(0.15)
    await faithful(seen, reader, writer)


def test_500_parallel_mixed_requests(own_gateway, vendor):
    gateway = own_gateway()
    load = Load(gateway, "gpt-load-1").run(500, threads=100)
    assert load.statuses == {200: 500}
    assert load.ended == {"done": 248}
    rows = check_usage_rows(gateway, vendor, "gpt-load-1")
    assert len(rows) == 500
    assert {row["outcome"] for row in rows} == {"complete"}
    summary = gateway.post("/admin/usages/summary", {"model": "gpt-load-1"}).json
    assert nano(summary["total_cost"]) == expected_cost(vendor, "gpt-load-1")
    assert (summary["count"], summary["unpriced_count"]) == (500, 0)


def test_a_worker_killed_in_the_middle(own_gateway, vendor):
    gateway = own_gateway()
    vendor.scripts["gpt-kill"] = slowly

    def kill():
        time.sleep(0.6)
        gateway.kill_worker()

    load = Load(gateway, "gpt-kill").run(500, meanwhile=kill)
    assert load.statuses[None] > 0, "the kill hit nobody"
    assert load.statuses[200] + load.statuses[None] == 500
    rows = check_usage_rows(gateway, vendor, "gpt-kill")
    lost = [row for row in rows if row["status"] is None]
    assert lost
    for row in lost:
        assert (row["outcome"], row["estimated"], row["cost"]) == ("failed", True, 0)
        assert row["input_tokens"] > 0
    gateway.stop()
    gateway.start()
    assert len(gateway.usages(model="gpt-kill")) == len(rows), "a replay added rows"


def test_a_second_kill_during_recovery(own_gateway, vendor):
    """The database is locked, a worker dies, its successors die while they recover: still one row each."""
    gateway = own_gateway()
    with sqlite3.connect(gateway.data / "gproxy.db", isolation_level=None) as lock:
        lock.execute("BEGIN IMMEDIATE")
        load = Load(gateway, "gpt-twice").run(200, meanwhile=gateway.kill_worker)
        for _ in range(3):
            time.sleep(1.2)
            for pid in gateway.workers():
                os.kill(pid, signal.SIGKILL)
        lock.execute("ROLLBACK")
    lock.close()
    assert load.statuses[200] > 100
    gateway.wait_until_ready()
    check_usage_rows(gateway, vendor, "gpt-twice")


def test_a_database_locked_for_ten_seconds_stops_nothing(own_gateway, vendor):
    gateway = own_gateway()
    with sqlite3.connect(gateway.data / "gproxy.db", isolation_level=None) as lock:
        lock.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        load = Load(gateway, "gpt-locked").run(500)
        assert load.statuses == {200: 500}, "requests were not answered during the outage"
        refused = gateway.post("/admin/user-keys/generate", {"user_id": 1})
        assert (refused.status, "Retry-After" in refused.headers) == (503, True)
        seen_not_persisting = False
        while time.monotonic() - started < 10:
            ready = gateway.get("/readyz")
            assert (ready.status, ready.json["serving"]) == (200, True)
            seen_not_persisting |= ready.json["persisting"] is False
            time.sleep(0.2)
        assert seen_not_persisting
        lock.execute("ROLLBACK")
    lock.close()
    check_usage_rows(gateway, vendor, "gpt-locked")
    deadline = time.monotonic() + 10
    while not all(gateway.get("/readyz").json["persisting"] for _ in range(6)):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_term_lets_streams_finish_and_sends_an_error_to_those_it_cuts(own_gateway, vendor):
    gateway = own_gateway(GPROXY_GRACE="3")
    vendor.scripts["gpt-short"] = streams(None, "clean", pause_s=0.2)
    vendor.scripts["gpt-long"] = streams(None, "clean", pause_s=1.05)
    idle = socket.create_connection(("127.0.0.1", gateway.port))
    idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"200 OK" in idle.recv(4096)
    loads = {model: Load(gateway, model) for model in ("gpt-short", "gpt-long")}

    def both(number: int) -> None:
        loads["gpt-short"].one(number)

    threads = [threading.Thread(target=both, args=(4 + n % 4,)) for n in range(8)]
    threads += [threading.Thread(target=loads["gpt-long"].one, args=(4 + n % 4,)) for n in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.7)
    started = time.monotonic()
    assert gateway.stop() == 0
    took = time.monotonic() - started
    for thread in threads:
        thread.join()
    idle.close()
    assert 2.5 < took < 8
    assert loads["gpt-short"].ended == {"done": 8}
    assert loads["gpt-long"].ended == {"error": 8}, "a cut stream got no error event"
    gateway.start()
    short, long = check_usage_rows(gateway, vendor, "gpt-short"), check_usage_rows(gateway, vendor, "gpt-long")
    assert {row["outcome"] for row in short} == {"complete"}
    assert {row["status"] for row in long} == {503}
    # By then a Responses stream has sent its start only, which costs nothing.
    assert {(row["outcome"], row["estimated"]) for row in long} == {("partial", True), ("failed", False)}
    assert not list((gateway.data / "journal").glob("*/*.log")) or gateway.workers()


def test_term_in_the_middle_of_many_requests(own_gateway, vendor):
    gateway = own_gateway(GPROXY_GRACE="5")
    vendor.scripts["gpt-term"] = slowly

    def stop():
        time.sleep(0.5)
        gateway.stop()

    load = Load(gateway, "gpt-term").run(300, meanwhile=stop)
    assert load.statuses[200] >= 50
    gateway.start()
    rows = check_usage_rows(gateway, vendor, "gpt-term")
    assert len(rows) == load.statuses[200], "a request that was sent upstream was not answered"


def test_idle_connections_do_not_delay_a_stop(own_gateway):
    gateway = own_gateway(GPROXY_GRACE="30")
    idle = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(10)]
    for sock in idle[:5]:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.recv(4096)
    started = time.monotonic()
    assert gateway.stop() == 0
    assert time.monotonic() - started < 5
    for sock in idle:
        sock.close()


def test_hup_replaces_the_workers_without_cutting_anyone(own_gateway, vendor):
    gateway = own_gateway(GPROXY_GRACE="5")
    vendor.scripts["gpt-hup"] = slowly
    before = set(gateway.workers())

    def reload():
        time.sleep(0.5)
        gateway.process.send_signal(signal.SIGHUP)

    load = Load(gateway, "gpt-hup").run(300, threads=20, meanwhile=reload)
    assert load.statuses[200] + load.statuses[None] == 300
    assert load.statuses[None] == 0, load.ended
    deadline = time.monotonic() + 15
    while set(gateway.workers()) & before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    check_usage_rows(gateway, vendor, "gpt-hup")


@pytest.mark.slow  # mounting needs root
@pytest.mark.ci
def test_a_full_disk_refuses_new_calls_and_records_running_ones(own_gateway, vendor, tmp_path):
    data = tmp_path / "full"
    data.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(data)], check=False).returncode:
        missing("the right to mount a small file system")
    try:
        gateway = own_gateway(GPROXY_DATA_DIR=str(data), GPROXY_DSN=f"sqlite:///{tmp_path}/books.db", workers=1)
        vendor.scripts["gpt-full"] = streams(None, "clean", pause_s=0.3)
        load = Load(gateway, "gpt-full")
        running = [threading.Thread(target=load.one, args=(4 + n % 4,)) for n in range(8)]
        for thread in running:
            thread.start()
        time.sleep(0.6)
        fill = data / "fill"
        with fill.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError as fault:
                assert fault.errno == 28
        statuses = {gateway.chat("openai-main/gpt-more", padding=str(n)).status for n in range(2000)}
        assert 503 in statuses
        refused = gateway.chat("openai-main/gpt-more")
        assert (refused.status, refused.json["error"]["code"]) == (503, "unavailable")
        assert gateway.get("/readyz").status == 503
        for thread in running:
            thread.join()
        assert load.ended == {"done": 8}
        fill.unlink()
        deadline = time.monotonic() + 10
        while gateway.chat("openai-main/gpt-more").status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        check_usage_rows(gateway, vendor, "gpt-full")
        gateway.wait_rows(len(vendor.received("gpt-more")), model="gpt-more")
        gateway.stop()
    finally:
        subprocess.run(["umount", "-l", str(data)], check=False)


@pytest.mark.parametrize("phase", ["before the head", "in a silent stream", "in a whole reply", "in a chunked reply"])
def test_a_client_that_leaves_closes_the_upstream_at_once(own_gateway, vendor, phase):
    gateway = own_gateway(workers=1)
    model = f"gpt-left-{phase.replace(' ', '-')}"
    first = events("openai_chat", "m")[:3]
    vendor.scripts[model] = {
        "before the head": sends("hang"),
        "in a silent stream": sends(STREAM_HEAD, *(chunk(one) for one in first), "hang"),
        "in a chunked reply": sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", "hang"),
        "in a whole reply": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "hang"),
    }[phase]
    sock = open_stream(gateway.port, f"openai-main/{model}")
    if phase == "in a silent stream":
        got = b""
        while WORDS[1].encode() not in got:
            got += sock.recv(65536)
    else:
        time.sleep(0.3)
    left = time.monotonic()
    sock.close()
    deadline = left + 5
    while not (vendor.received(model) and vendor.received(model)[0].closed_at):
        assert time.monotonic() < deadline, "the upstream was not closed"
        time.sleep(0.005)
    assert vendor.received(model)[0].closed_at - left < 0.1
    row = gateway.wait_rows(1, model=model)[0]
    assert (row["outcome"], row["status"], row["estimated"]) == ("partial", 499, True)
    assert row["input_tokens"] > 0
    assert row["output_tokens"] == (3 if phase == "in a silent stream" else 0)  # "Hello there" is 11 bytes
    assert row["cost"] > 0
    assert "error" not in gateway.log.lower().replace("gunicorn.error", "")
    assert gateway.get("/readyz").json["in_flight"] == 0


def test_a_client_that_sent_more_than_its_request_is_seen_leaving_too(own_gateway, vendor):
    gateway = own_gateway(workers=1)
    vendor.scripts["gpt-pipelined"] = sends("hang")
    sock = open_stream(gateway.port, "openai-main/gpt-pipelined")
    sock.sendall(b"\r\n")
    time.sleep(0.3)
    left = time.monotonic()
    sock.close()
    while not vendor.received("gpt-pipelined")[0].closed_at:
        assert time.monotonic() - left < 3
        time.sleep(0.01)
    assert gateway.wait_rows(1, model="gpt-pipelined")[0]["outcome"] == "partial"


def test_a_call_that_comes_right_after_term_is_drained_as_well(own_gateway, vendor):
    gateway = own_gateway(workers=1, GPROXY_GRACE="2")
    vendor.scripts["gpt-late"] = streams(None, "clean", pause_s=1.05)
    load, started = Load(gateway, "gpt-late"), time.monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    load.one(4)
    gateway.process.wait(15)
    assert time.monotonic() - started < 8
    assert load.ended in ({"error": 1}, {}), load.ended
    assert load.ended or load.statuses[None] == 1


def test_ctrl_c_ends_as_term_does(own_gateway, vendor):
    gateway = own_gateway(GPROXY_GRACE="1")
    vendor.scripts["gpt-ctrl-c"] = streams(None, "clean", pause_s=0.6)
    load = Load(gateway, "gpt-ctrl-c")
    thread = threading.Thread(target=load.one, args=(4,))
    thread.start()
    time.sleep(0.5)
    for pid in (gateway.process.pid, *gateway.workers()):
        os.kill(pid, signal.SIGINT)
    gateway.process.wait(15)
    thread.join()
    assert load.ended == {"error": 1}
    gateway.start()
    assert check_usage_rows(gateway, vendor, "gpt-ctrl-c")[0]["outcome"] == "partial"


def test_a_client_that_does_not_read_is_let_go(own_gateway, vendor):
    gateway = own_gateway(timeouts=", write_timeout_s = 1", workers=1)
    big = events("openai_chat", "m")[1].replace(b"Hello", b"x" * 60_000)
    vendor.scripts["gpt-stalled"] = sends(STREAM_HEAD, *[chunk(big)] * 400, "hang")
    sock = open_stream(gateway.port, "openai-main/gpt-stalled")
    row = gateway.wait_rows(1, 20, model="gpt-stalled")[0]
    assert (row["outcome"], row["status"]) == ("partial", 499)
    sock.close()
    assert "Traceback" not in gateway.log


def test_an_open_stream_does_not_keep_its_requests_body(own_gateway, vendor):
    gateway = own_gateway(workers=1)
    vendor.scripts["gpt-open"] = streams(3, "hang")
    (worker,) = workers(gateway)
    body = json.dumps(
        {"model": "openai-main/gpt-open", "stream": True, "messages": [{"role": "user", "content": "x" * 4_000_000}]}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n"
    before, socks = resident_mb(worker), []
    for _ in range(20):
        sock = socket.create_connection(("127.0.0.1", gateway.port), 10)
        socks.append(sock)
        sock.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    grown = resident_mb(worker) - before
    for sock in socks:
        sock.close()
    vendor.seen.clear()
    assert grown < 40  # all bodies together have 80


def test_each_event_leaves_at_once(gateway, vendor):
    vendor.scripts["gpt-paced"] = streams(None, "clean", pause_s=0.15)
    check_events_leave_at_once(gateway.port, "openai-main/gpt-paced", len(WORDS), 0.08)


def test_a_stream_without_done_gets_one(gateway, vendor):
    vendor.scripts["gpt-no-done"] = streams(len(events("openai_chat", "m")) - 1, "clean")
    reply = gateway.chat("openai-main/gpt-no-done", stream=True)
    assert reply.body.endswith(b"data: [DONE]\n\n")
    assert gateway.wait_rows(1, model="gpt-no-done")[0]["outcome"] == "complete"


def test_a_cut_stream_is_still_billed_for_what_was_delivered(gateway, vendor):
    vendor.scripts["gpt-cut"] = streams(4, "reset")
    reply = gateway.chat("openai-main/gpt-cut", stream=True)
    assert (reply.status, b"upstream_error" in reply.body, b"[DONE]" in reply.body) == (200, True, False)
    row = gateway.wait_rows(1, model="gpt-cut")[0]
    assert (row["outcome"], row["estimated"], row["output_tokens"]) == ("partial", True, 3)
    vendor.scripts["gpt-cut-first"] = streams(1, "reset")
    gateway.chat("openai-main/gpt-cut-first", stream=True)
    row = gateway.wait_rows(1, model="gpt-cut-first")[0]
    assert (row["outcome"], row["cost"], row["output_tokens"]) == ("failed", 0, 0)


def test_an_upstreams_error_event_ends_the_stream_and_bills_what_was_delivered(gateway, vendor):
    """The event is passed on unchanged and once, although the upstream then keeps the connection open."""
    event = b'data: {"error": {"message": "overloaded", "type": "server_error", "code": null}}\n\n'
    head = [chunk(one) for one in events("openai_chat", "m")[:3]]
    vendor.scripts["gpt-error-event"] = sends(STREAM_HEAD, *head, chunk(event), "hang")
    started = time.monotonic()
    reply = gateway.chat("openai-main/gpt-error-event", stream=True)
    assert time.monotonic() - started < 1.2
    assert reply.body.count(b'"error"') == 1
    assert b"[DONE]" not in reply.body
    row = gateway.wait_rows(1, model="gpt-error-event")[0]
    assert (row["outcome"], row["output_tokens"], row["estimated"]) == ("partial", 3, True)


def test_a_gemini_that_finishes_in_every_event_is_read_to_its_end(gateway, vendor):
    """Some models send STOP in each chunk; only the last usage is complete."""

    def one(word, made):
        candidate = {"content": {"parts": [{"text": word}]}, "finishReason": "STOP", "index": 0}
        return chunk(
            event({"candidates": [candidate], "usageMetadata": {"promptTokenCount": 2, "candidatesTokenCount": made}})
        )

    vendor.scripts["gemini-stops"] = sends(STREAM_HEAD, one("a", 1), 0.4, one("b", 2), 0.4, one("c", 9), b"0\r\n\r\n")
    path = "/v1beta/models/vertex-main/gemini-stops:streamGenerateContent"
    assert [len(c["candidates"]) for c in gateway.post(path, {"contents": []}).json] == [1, 1, 1]
    row = gateway.wait_rows(1, model="gemini-stops")[0]
    assert (row["outcome"], row["output_tokens"]) == ("complete", 9)


def test_what_came_before_a_false_end_is_delivered(gateway, vendor):
    words = b"".join(events("openai_chat", "m")[:4]) + b"data: [DONE]\n\n"
    vendor.scripts["gpt-false-end"] = sends(STREAM_HEAD, chunk(words), b"0\r\n\r\n")
    reply = gateway.chat("openai-main/gpt-false-end", stream=True)
    assert b" there" in reply.body
    assert b"upstream_error" in reply.body
    assert b"[DONE]" not in reply.body


def test_an_error_with_status_200_is_not_billed(gateway, vendor):
    vendor.scripts["gpt-error-200"] = answers(200, b'{"error": {"message": "no", "content": "long long text"}}')
    assert gateway.chat("openai-main/gpt-error-200").status == 200
    row = gateway.wait_rows(1, model="gpt-error-200")[0]
    assert (row["outcome"], row["cost"], row["output_tokens"]) == ("failed", 0, 0)


def test_a_row_says_what_it_must(gateway, vendor):
    body = {"model": "openai-main/gpt-row", "messages": [], "user": "alice"}
    assert gateway.post("/v1/chat/completions", body, ADMIN, x_gproxy_tag="team-7", x_request_id="r-1").status == 200
    row = gateway.wait_rows(1, model="gpt-row")[0]
    assert row["trace_id"].isdigit()
    assert 0 < int(row["trace_id"]) < 2**63
    fields = {name: row[name] for name in ("end_user", "tag", "request_id", "operation", "protocol", "price_source")}
    assert fields == {
        "end_user": "alice",
        "tag": "team-7",
        "request_id": "r-1",
        "operation": "generate_content",
        "protocol": "openai_chat_completions",
        "price_source": "default",
    }
    assert (row["status"], row["outcome"], row["attempts"], row["losses"], row["priced"]) == (
        200,
        "complete",
        1,
        [],
        True,
    )
    assert row["latency_ms"] >= row["first_byte_ms"] >= 0
    assert row["at"].endswith("Z")


def test_usage_rows_can_be_switched_off(own_gateway, vendor):
    from tests.gateway import seed

    gateway = own_gateway("[global]\nenable_usage = false\n" + seed(vendor.url))
    Load(gateway, "gpt-off").run(40, threads=10)
    path = Path(gateway.data / "gproxy.db")
    deadline = time.monotonic() + 10
    while True:
        with sqlite3.connect(path) as db:
            cost, count = db.execute(
                "select coalesce(sum(cost), 0), coalesce(sum(requests), 0) from adjustments"
            ).fetchone()
            rows = db.execute("select count(*) from usages").fetchone()[0]
        db.close()
        if count == 40:
            break
        assert time.monotonic() < deadline, count
        time.sleep(0.2)
    assert (cost, rows) == (expected_cost(vendor, "gpt-off"), 0)


ODD_LINES = (b"5", b"[]", b"{}", b"null", b"no JSON", b'{"o":1}', b'{"s":7,"x":"complete","n":[1],"c":-1}', b"\xff")


def test_a_damaged_journal_of_a_crashed_worker_stops_nothing(own_gateway, vendor):
    """Odd lines, zeros in the middle, a folder and a dangling link: every call has its row, and the rest is kept."""
    gateway = own_gateway()
    with sqlite3.connect(gateway.data / "gproxy.db", isolation_level=None) as lock:
        lock.execute("BEGIN IMMEDIATE")  # the calls stay in the journal
        for _ in range(6):
            assert gateway.chat("openai-main/gpt-before").status == 200
        gateway.stop(signal.SIGKILL)
        lock.execute("ROLLBACK")
    lock.close()
    segments, parts = sorted((gateway.data / "journal").glob("[0-9]*/*.log")), 0
    odd = b"".join(line + b"\n" for line in ODD_LINES)
    for path in segments:
        lines = path.read_bytes().rstrip(b"\0").splitlines(keepends=True)
        path.write_bytes(odd + (b"\0" * 4096).join(lines) + odd)
        parts += 2 * len(ODD_LINES) + len(lines) - 1
        (path.parent / "x.log").mkdir()
        (path.parent / "y.log").symlink_to("missing")
    gateway.start()
    assert gateway.chat("openai-main/gpt-after").status == 200
    assert len(gateway.wait_rows(6, model="gpt-before")) == 6
    gateway.wait_rows(1, model="gpt-after")
    health = gateway.get("/admin/health", ADMIN).json
    kept = Path(health["damaged_journal_file"])
    assert kept.is_relative_to(gateway.data)
    assert kept.read_bytes().count(b'"kind":"line"') == parts == health["damaged_journal_lines"]
    assert gateway.get("/readyz").json["damaged_journal_lines"] == parts
    assert f"gproxy_journal_damaged_lines_total {parts}\n" in gateway.get("/metrics", ADMIN).body.decode()
    assert gateway.log.count(": a line is damaged: ") == parts
    for name in ("x.log", "y.log"):
        assert gateway.log.count(f"{name} is left where it is") == len(segments)
    assert all(gateway.get("/readyz").json["persisting"] for _ in range(6))
    verified = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "wsgi", "ledger", "verify"],
        **{"cwd": ROOT, "env": gateway.env, "capture_output": True, "text": True, "timeout": 60},
    )
    assert (verified.returncode, "accounts are exact" in verified.stdout) == (0, True), verified.stderr
