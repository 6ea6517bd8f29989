"""The metric families. A label is a name of ours, of a provider or of a model; no user and no key is a label."""

from typing import NamedTuple

from gproxy.units import NANO

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

LATENCY_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
FIRST_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 25.0, 50.0)
OVERHEAD_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Family(NamedTuple):
    """`bounds` are a histogram's; its values are one per bucket, one beyond them, and the sum.

    A value is written in units of one `scale`th.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    scale: int = 1

    @property
    def width(self) -> int:
        return len(self.bounds) + 2 if self.kind == HISTOGRAM else 1


REQUESTS = Family(
    "gproxy_requests_total",
    COUNTER,
    "LLM calls that were sent to an upstream or answered by a count, once each, when they are settled.",
    ("provider", "model", "operation", "protocol", "outcome", "code"),
)
REFUSALS = Family(
    "gproxy_refusals_total",
    COUNTER,
    "Requests on LLM routes that were refused before anything was sent, by error code.",
    ("protocol", "error"),
)
ERRORS = Family(
    "gproxy_errors_total",
    COUNTER,
    "Errors of gproxy's own that clients on LLM routes were told in place of an answer, refusals included.",
    ("protocol", "error"),
)
DURATION = Family(
    "gproxy_request_duration_seconds",
    HISTOGRAM,
    "From a request's arrival to its settlement, which for a stream is its end.",
    ("provider", "operation"),
    LATENCY_S,
)
FIRST_TOKEN = Family(
    "gproxy_time_to_first_token_seconds",
    HISTOGRAM,
    "From a request's arrival to the first output of its upstream's stream.",
    ("provider", "operation"),
    FIRST_S,
)
OVERHEAD = Family(
    "gproxy_overhead_seconds",
    HISTOGRAM,
    "Time in gproxy until an answer's headers are sent, waiting for the upstream excluded.",
    ("provider", "operation"),
    OVERHEAD_S,
)
TOKENS = Family(
    "gproxy_tokens_total",
    COUNTER,
    "Tokens, each in one class: input (uncached), cache_read, cache_write, output.",
    ("provider", "model", "class"),
)
REASONING = Family(
    "gproxy_reasoning_tokens_total",
    COUNTER,
    "Reasoning tokens, which are a part of the output tokens.",
    ("provider", "model"),
)
COST = Family("gproxy_cost_usd_total", COUNTER, "Cost of priced calls in USD.", ("provider", "model"), scale=NANO)
ATTEMPTS = Family(
    "gproxy_attempts_total",
    COUNTER,
    "Attempts at upstreams, by the status or error code that each ended with.",
    ("provider", "result"),
)
FAILOVERS = Family(
    "gproxy_failovers_total",
    COUNTER,
    "Attempts after which another was made, by what was wrong with them.",
    ("provider", "reason"),
)
GONE = Family("gproxy_clients_gone_total", COUNTER, "Clients that left before their answer was over.")
OPEN_REQUESTS = Family("gproxy_open_requests", GAUGE, "LLM requests that are being served.")
OPEN_STREAMS = Family("gproxy_open_streams", GAUGE, "Of them, streams that have begun.")
CONNECTIONS = Family(
    "gproxy_upstream_connections_in_use", GAUGE, "Connections to upstreams that serve a call.", ("provider",)
)
UNBOOKED = Family(
    "gproxy_journal_unbooked_calls", GAUGE, "Settled calls of running workers that are not in the database yet."
)
CREDENTIALS = Family(
    "gproxy_credential_state",
    GAUGE,
    "1 for the state that a credential is in: usable, cooling (for a model at least), disabled.",
    ("provider", "credential", "state"),
)
JOURNAL = Family("gproxy_journal_bytes", GAUGE, "Disk space that the journal takes, dead workers' included.")
BUILD = Family("gproxy_build_info", GAUGE, "1, with the version.", ("version",))
WORKERS = Family("gproxy_workers", GAUGE, "Workers of this machine that run.")
FOLDED = Family(
    "gproxy_metrics_folded_total",
    COUNTER,
    'How often a new set of labels became "other", since a worker has too many.',
)

COUNTED = (
    *(REQUESTS, REFUSALS, ERRORS, DURATION, FIRST_TOKEN, OVERHEAD, TOKENS, REASONING, COST, ATTEMPTS, FAILOVERS, GONE),
    *(OPEN_REQUESTS, OPEN_STREAMS, CONNECTIONS, UNBOOKED, FOLDED),
)
FAMILIES = (*COUNTED, CREDENTIALS, JOURNAL, BUILD, WORKERS)
GAUGES = frozenset(family.name for family in COUNTED if family.kind == GAUGE)
