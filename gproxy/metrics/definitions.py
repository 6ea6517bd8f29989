"""The metric families. Label values are our own words and names of providers and models, never users or keys."""

from typing import NamedTuple

from gproxy.units import NANO

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

LATENCY_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
FIRST_TOKEN_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 25.0, 50.0)
OVERHEAD_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Family(NamedTuple):
    """A metric family. A series has one value; that of a histogram has one per bucket, one for +Inf, and the sum.

    `bucket_bounds` are the upper bounds of a histogram's buckets. Stored values are divided by `scale` when displayed.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    bucket_bounds: tuple[float, ...] = ()
    scale: int = 1

    @property
    def width(self) -> int:
        return len(self.bucket_bounds) + 2 if self.kind == HISTOGRAM else 1


REQUESTS = Family(
    "gproxy_requests_total",
    COUNTER,
    "LLM calls that were sent to an upstream, and token counts that gproxy estimated; counted when they are settled.",
    ("provider", "model", "operation", "protocol", "outcome", "code"),
)
REFUSALS = Family(
    "gproxy_refusals_total",
    COUNTER,
    "Requests on LLM routes that were refused before anything was sent to an upstream, by error code.",
    ("protocol", "error"),
)
ERRORS = Family(
    "gproxy_errors_total",
    COUNTER,
    "Errors of gproxy itself that clients on LLM routes received instead of an answer, including refusals.",
    ("protocol", "error"),
)
DURATION = Family(
    "gproxy_request_duration_seconds",
    HISTOGRAM,
    "Time from the arrival of a request to its settlement; a stream is settled at its end.",
    ("provider", "operation"),
    LATENCY_S,
)
FIRST_TOKEN = Family(
    "gproxy_time_to_first_token_seconds",
    HISTOGRAM,
    "Time from the arrival of a request to the first output of the upstream's stream.",
    ("provider", "operation"),
    FIRST_TOKEN_S,
)
OVERHEAD = Family(
    "gproxy_overhead_seconds",
    HISTOGRAM,
    "Time in gproxy until the headers of an answer are sent, without the time spent waiting for the upstream.",
    ("provider", "operation"),
    OVERHEAD_S,
)
TOKENS = Family(
    "gproxy_tokens_total",
    COUNTER,
    "Tokens by class: input (uncached), cache_read, cache_write, output; each token is in one class.",
    ("provider", "model", "class"),
)
REASONING = Family(
    "gproxy_reasoning_tokens_total",
    COUNTER,
    "Reasoning tokens; they are included in the output tokens.",
    ("provider", "model"),
)
COST = Family("gproxy_cost_usd_total", COUNTER, "Cost of priced calls in USD.", ("provider", "model"), scale=NANO)
ATTEMPTS = Family(
    "gproxy_attempts_total",
    COUNTER,
    "Attempts at upstreams, by the status or error code with which each ended.",
    ("provider", "result"),
)
FAILOVERS = Family(
    "gproxy_failovers_total",
    COUNTER,
    "Attempts that were followed by another attempt, by the status or error code that caused it.",
    ("provider", "reason"),
)
DISCONNECTS = Family("gproxy_clients_gone_total", COUNTER, "Clients that disconnected before the end of their answer.")
OPEN_REQUESTS = Family("gproxy_open_requests", GAUGE, "LLM requests that are being served.")
OPEN_STREAMS = Family("gproxy_open_streams", GAUGE, "LLM requests that are being served and whose stream has begun.")
CONNECTIONS = Family(
    "gproxy_upstream_connections_in_use", GAUGE, "Connections to upstreams that are serving a call.", ("provider",)
)
UNSTORED = Family(
    "gproxy_journal_unbooked_calls", GAUGE, "Settled calls of running workers that are not in the database yet."
)
CREDENTIALS = Family(
    "gproxy_credential_state",
    GAUGE,
    "1 for the current state of a credential, 0 for the others: usable, cooling (for at least one model), disabled.",
    ("provider", "credential", "state"),
)
JOURNAL = Family("gproxy_journal_bytes", GAUGE, "Bytes of the journal on disk, including those of crashed workers.")
DAMAGED = Family(
    "gproxy_journal_damaged_lines_total",
    COUNTER,
    "Lines of the journal that are damaged, and usage rows that the database refuses; they are kept in a file.",
)
BUILD = Family("gproxy_build_info", GAUGE, "Always 1; the label is the version of gproxy.", ("version",))
WORKERS = Family("gproxy_workers", GAUGE, "Running workers of this machine.")
FOLDED = Family(
    "gproxy_metrics_folded_total",
    COUNTER,
    'Number of times a new label combination was recorded as "other" because the worker reached its limit of series.',
)

COUNTED = (
    *(
        REQUESTS,
        REFUSALS,
        ERRORS,
        DURATION,
        FIRST_TOKEN,
        OVERHEAD,
        TOKENS,
        REASONING,
        COST,
        ATTEMPTS,
        FAILOVERS,
        DISCONNECTS,
    ),
    *(OPEN_REQUESTS, OPEN_STREAMS, CONNECTIONS, UNSTORED, FOLDED),
)
FAMILIES = (*COUNTED, CREDENTIALS, JOURNAL, DAMAGED, BUILD, WORKERS)
GAUGES = frozenset(family.name for family in COUNTED if family.kind == GAUGE)
