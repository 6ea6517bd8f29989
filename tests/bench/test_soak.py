"""Many concurrent calls with upstream failures and client disconnects: afterwards only their usage rows remain.

A longer run: `SOAK_S=600 pytest tests/bench/test_soak.py -s`.
"""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from tests.gateway import ADMIN, ROOT, Gateway
from tests.load import nano
from tests.processes import half_closed, resident_mb, sockets, workers
from tests.raw_http import open_stream
from tests.vendor import STREAM_HEAD, Vendor, chunk, events, faithful, refuses, sends, streams

pytestmark = [pytest.mark.slow, pytest.mark.ci]
SOAK_S = float(os.environ.get("SOAK_S", "20"))
THREADS = 300
# The caches grow in the first seconds; memory is measured after them.
WARM_S, MAX_GROWTH_MB = 5.0, 30.0
KEYS = ("sk-soak-aaaa-0001", "sk-soak-bbbb-0002", "sk-soak-cccc-0003")

SEED = """
[[providers]]
name = "pool"
channel = "openai"
settings = {{ base_url = "{vendor}/v1", first_byte_timeout_s = 2, idle_timeout_s = 1, heartbeat_s = 0.5 }}
credentials = [{credentials}]

[[providers]]
name = "claude"
channel = "anthropic"
settings = {{ base_url = "{vendor}" }}
credentials = [{{ api_key = "sk-ant-soak-0001" }}]

[[models]]
provider_name = "pool"
model_id = "default"
price_tiers = [{{ input_tokens_up_to = 100000000, price_input_tokens = 0.40, price_output_tokens = 1.60 }}]

[[models]]
provider_name = "claude"
model_id = "default"
price_tiers = [{{ input_tokens_up_to = 100000000, price_input_tokens = 3.00, price_output_tokens = 15.00 }}]

[[model_aliases]]
alias = "any"
targets = [{{ provider = "pool", model = "mixed" }}, {{ provider = "claude", model = "spare", tier = 1 }}]

[[users]]
name = "root"
is_admin = true
keys = [{{ api_key = "sk-admin-1" }}]

[[permissions]]
user_name = "root"
model_pattern = "*"

[[rate_limits]]
user_name = "root"
model_pattern = "*"
concurrency = 1000

[[quotas]]
user_name = "root"
quota = 100000
"""


def mixed(dice: random.Random):
    """A script of the vendor that answers correctly most of the time."""
    part = b"".join(map(chunk, events("openai_chat", "m")[:3]))
    ends = (
        (0.70, faithful),
        (0.78, streams(None, "clean", pause_s=0.02)),
        (0.84, refuses(500, "at random")),
        (0.88, refuses(429, "at random", {"Retry-After": "1"})),
        (0.92, sends("reset")),
        (0.95, sends(STREAM_HEAD + part, "close")),
        (0.97, sends(STREAM_HEAD + part, "hang")),
        (0.98, sends("hang")),
        (1.00, sends(b"garbage\r\n", "close")),
    )

    async def script(seen, reader, writer):
        chance = dice.random()
        await next(end for limit, end in ends if chance < limit)(seen, reader, writer)

    return script


def call(gateway: Gateway, dice: random.Random, statuses: Counter) -> None:
    model = "any" if dice.random() < 0.5 else "pool/mixed"
    if dice.random() < 0.1:
        with open_stream(gateway.port, model) as sock:
            sock.settimeout(5)
            if dice.random() < 0.7:
                sock.recv(100)
        statuses["disconnected"] += 1
    elif dice.random() < 0.3:
        body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "q"}]}
        statuses[gateway.post("/v1/messages", {**body, "stream": dice.random() < 0.5}, ADMIN).status] += 1
    else:
        statuses[gateway.chat(model, stream=dice.random() < 0.5).status] += 1


def test_many_mixed_calls_leave_nothing_but_their_rows(own_gateway, record_property):
    vendor, statuses, dice = Vendor(), Counter(), random.Random(7)
    vendor.scripts["mixed"] = mixed(dice)
    credentials = ", ".join(f'{{ api_key = "{key}" }}' for key in KEYS)
    gateway = own_gateway(SEED.format(vendor=vendor.url, credentials=credentials))
    load_ends, faults = time.monotonic() + WARM_S + SOAK_S, []

    def soak() -> None:
        while time.monotonic() < load_ends:
            try:
                call(gateway, dice, statuses)
            except OSError as fault:
                faults.append(fault)

    threads = [threading.Thread(target=soak) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(WARM_S)
    before = {pid: resident_mb(pid) for pid in workers(gateway)}
    for thread in threads:
        thread.join(60)
    assert not faults
    deadline = time.monotonic() + 20
    while any(gateway.get("/readyz").json["in_flight"] for _ in range(6)):
        assert time.monotonic() < deadline, "requests are still running"
        time.sleep(0.3)
    assert set(workers(gateway)) == set(before), "a worker was lost"
    grown = {pid: resident_mb(pid) - mb for pid, mb in before.items()}
    while half_closed_in := [pid for pid in before if half_closed(pid)]:
        assert time.monotonic() < deadline, f"sockets closed by the other side are still open in {half_closed_in}"
        time.sleep(0.3)
    me = gateway.get("/me", ADMIN).json
    assert float(me["quota"]["held"]) == 0
    rows = gateway.post("/admin/usages/summary", {}).json
    deadline = time.monotonic() + 20
    while nano(rows["total_cost"]) != nano(me["quota"]["cost_used"]):
        assert time.monotonic() < deadline, (rows, me)
        time.sleep(0.3)
        rows = gateway.post("/admin/usages/summary", {}).json
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "ledger", "verify"]
    verified = subprocess.run(command, cwd=ROOT, env=gateway.env, capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    print(f"soak: {sum(statuses.values())} calls {dict(statuses)}, grown by {grown} MB")
    record_property("grown_mb", max(grown.values()))
    # 503: with random failures every credential is in cooldown now and then.
    assert {200, 502, 503, "disconnected"} <= statuses.keys()
    assert statuses[200] > 1_000
    assert "Traceback" not in gateway.log
    assert max(grown.values()) <= MAX_GROWTH_MB
    assert all(sockets(pid) < 2 * THREADS for pid in before)
    vendor.close()
