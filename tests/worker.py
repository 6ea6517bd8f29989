"""The relay of one worker without web: real journal, shared state, credentials and upstream client."""

import json
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path

import certifi
import orjson

from gproxy import channels, protocols
from gproxy.accounting.journal import Ids, Journal
from gproxy.accounting.slots import take_slot
from gproxy.admission.capacity import Capacity
from gproxy.credentials.access_tokens import AccessTokens
from gproxy.credentials.pool import Pool, expires
from gproxy.metrics import definitions
from gproxy.metrics.call_metrics import CallMetrics
from gproxy.metrics.call_summary import CallSummary
from gproxy.metrics.mmap_values import MmapValues
from gproxy.quota.reservations import Reserver, applying
from gproxy.relay.attempt import Attempts
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.relay.failover import Failover
from gproxy.relay.pipeline import Relay
from gproxy.relay.planner import Call, Planner
from gproxy.relay.reserve import CallOpener
from gproxy.relay.respond import Answer, AnsweredCall, Answers
from gproxy.relay.running_calls import RunningCalls
from gproxy.snapshot import (
    Alias,
    Caller,
    Credential,
    Grant,
    Model,
    Provider,
    ProviderSettings,
    Quota,
    Snapshot,
    Target,
    glob,
)
from gproxy.state.interface import AccountAmounts
from gproxy.state.mmap.state import MmapState
from gproxy.state.shared_dict import SharedDict
from gproxy.state.ttl_store import TtlStore
from gproxy.upstream.client import Client
from tests.vendor import Vendor

PRICE = {"price_tiers": [{"input_tokens_up_to": 10**8, "price_input_tokens": "1", "price_output_tokens": "2"}]}
# Of a faithful reply: 12 tokens at 1,000 and 40 at 2,000 nano-USD.
COST = 12 * 1_000 + 40 * 2_000
CAP = 10**9
TLS = ssl.create_default_context()  # shared: making one takes longer than everything else in a worker
ANN = Caller(1, "ann", 1, False, None, (Grant(None, glob("*").fullmatch),), quota=Quota(CAP, None))


@dataclass
class Worker:
    """One worker. `caller` has a quota of CAP nano-USD."""

    folder: Path
    vendor: Vendor
    snapshot: Snapshot = field(default_factory=lambda: Snapshot({}))
    caller: Caller = ANN

    def __post_init__(self):
        self.state = MmapState(self.folder / "state")
        self.slot = take_slot(self.folder / "journal")
        self.journal, ids = Journal(self.slot), Ids(1, self.slot.number)
        reserver = Reserver(self.state, self.slot.new_owner(1), self._load)
        self.mmap_values = MmapValues(self.folder / "metrics", self.slot.number, definitions.GAUGES)
        metrics = CallMetrics(self.mmap_values, lambda: self.snapshot)
        wire_protocols, kinds = protocols.load(), channels.load()
        self.ttl_store = TtlStore(self.folder / "ttl")
        self.pool = Pool(SharedDict(self.folder / "health", expires, is_synced=False), reserver, ids.next)
        self.upstream = Client(None, TLS, certifi.where(), 10)
        tokens = AccessTokens(self.upstream, lambda function, *args: function(*args))
        self.running = RunningCalls(Capacity(10, 10**6), metrics)
        self.relay = Relay(
            snapshot=lambda: self.snapshot,
            planner=Planner(wire_protocols, kinds, self.ttl_store),
            pool=self.pool,
            opener=CallOpener(wire_protocols, self.journal, ids, reserver, metrics),
            attempts=Attempts(wire_protocols, self.upstream, tokens, None, metrics),
            answers=Answers(wire_protocols, self.ttl_store, self.running.count_disconnect),
            running=self.running,
        )

    def _load(self, keys: tuple[str, ...]) -> None:
        for key in keys:
            self.state.load(key, self.state.version(key), AccountAmounts(0, 0, {}, {}))

    def serve(self, *targets: str, credentials: int = 1, **settings) -> None:
        """Makes `a` an alias with one target per protocol, each at its own provider of the vendor, `p1`, `p2`, …"""
        rows = [
            Provider(
                number,
                f"p{number}",
                "custom",
                ProviderSettings(base_url=_base_url(self.vendor, wire), protocol=wire, **settings),
                tuple(Credential(10 * number + n, number, f"sk-{number}-{n}") for n in range(credentials)),
            )
            for number, wire in enumerate(targets, 1)
        ]
        self.snapshot = Snapshot(
            {},
            providers={one.name: one for one in rows},
            provider_by_id={one.id: one for one in rows},
            models={(one.id, f"m{one.id}"): Model(one.id, f"m{one.id}", None, True, json.dumps(PRICE)) for one in rows},
            aliases={"a": Alias("a", tuple(Target(one.id, f"m{one.id}", tier=one.id) for one in rows), None)},
        )

    def call(self, protocol: str = "openai_chat", *, stream: bool = False, **fields) -> Call:
        body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50, "stream": stream}
        return Call(
            **{
                "protocol": protocol,
                "body": json.dumps(body).encode(),
                "header": {"x-gproxy-tag": "blue"}.get,
                "query": (),
                "request_id": "req_1",
                "started": time.perf_counter(),
                "summary": CallSummary(protocol),
                **fields,
            }
        )

    def run(self, call: Call, sock=None) -> tuple[Answer, bytes]:
        """Runs a call to its end. Returns its answer and body. Raises what the relay raises."""
        permit, watch = self.running.open(sock)
        try:
            answer = self.relay.run(self.relay.plan(call, self.caller, self.snapshot), call, watch)
            try:
                return answer, answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
            finally:
                answer.close()
        finally:
            self.running.close(permit, watch)

    def answer(self, call: Call, exchange, watch: DisconnectWatch | None = None) -> Answer:
        """Opens a call and answers it with this response of the upstream, which need not have been sent anything."""
        plan = self.relay.plan(call, self.caller, self.snapshot)
        failover = Failover(self.pool, plan)
        settlement = self.relay.opener.open(failover, call)
        settlement.set_target(plan, failover.credential)
        return self.relay.answers.build(AnsweredCall(plan, call, exchange, settlement, watch or DisconnectWatch(None)))

    def entries(self) -> list[dict]:
        """Returns the journal's entries."""
        contents = b"".join(path.read_bytes().partition(b"\0")[0] for path in self.journal.segments)
        return [orjson.loads(line) for line in contents.splitlines()]

    def settled(self) -> list[dict]:
        return [entry for entry in self.entries() if "s" in entry]

    def account(self) -> tuple[int, int]:
        """Returns the used and the reserved nano-USD of the caller's quota."""
        (found,) = self.relay.opener.reserver.inspect(*applying(self.caller, "a")).statuses
        return found.used, found.reserved

    def close(self) -> None:
        for one in (self.upstream, self.mmap_values, self.ttl_store, self.pool, self.journal, self.state):
            one.close()


def _base_url(vendor: Vendor, wire: str) -> str:
    return vendor.url if wire in ("anthropic", "gemini") else f"{vendor.url}/v1"
