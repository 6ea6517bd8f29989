"""What a console shows first: sums over a time, and how it went on in it."""

from gproxy.config.filters import DashboardQuery
from gproxy.store import entities, usage_queries
from gproxy.store.usage_queries import UsageTotals
from gproxy.units import usd
from gproxy.web.admin import guarded, takes
from gproxy.web.error_responses import runtime

blueprint = guarded("admin_dashboard", __name__)
QUERY = DashboardQuery()
MAX_ROWS = 50


@blueprint.post("/dashboard/overview")
@takes(QUERY)
def overview(asked: dict) -> dict:
    """`bucket`: when a piece of the time began, in seconds since the epoch."""
    seconds, pieces = runtime().ask(usage_queries.buckets, asked, asked.pop("bucket_seconds"))
    whole = runtime().ask(usage_queries.totals, asked)
    return {
        "kpi": {
            "total_requests": whole.count,
            "success_count": whole.succeeded,
            "error_4xx_count": whole.refused,
            "error_5xx_count": whole.failed,
            "total_cost": usd(whole.cost),
            "total_input_tokens": _prompt(whole),
            "total_output_tokens": whole.tokens["output_tokens"],
            "avg_latency_ms": round(whole.latency_ms / whole.count, 1) if whole.count else 0,
            "max_latency_ms": whole.max_latency_ms,
        },
        "bucket_seconds": seconds,
        "traffic": [{"bucket": at, "request_count": sums.count, "cost": usd(sums.cost)} for at, sums in pieces],
        "status_codes": [
            {"bucket": at, "ok": sums.succeeded, "err_4xx": sums.refused, "err_5xx": sums.failed} for at, sums in pieces
        ],
    }


@blueprint.post("/dashboard/top-providers")
@takes(QUERY)
def top_providers(asked: dict) -> dict:
    channels = {row["id"]: row["channel"] for row in runtime().ask(entities.find, entities.PROVIDER, {})}
    rows = runtime().ask(usage_queries.breakdown, asked, "provider_id")
    return {
        "rows": [
            {"provider_id": value, "channel": channels.get(value), **_row(sums)} for value, sums in rows[:MAX_ROWS]
        ]
    }


@blueprint.post("/dashboard/top-models")
@takes(QUERY)
def top_models(asked: dict) -> dict:
    rows = runtime().ask(usage_queries.breakdown, asked, "model")
    return {"rows": [{"model": value, **_row(sums)} for value, sums in rows[:MAX_ROWS]]}


def _row(sums: UsageTotals) -> dict:
    return {
        "request_count": sums.count,
        "total_cost": usd(sums.cost),
        "total_input_tokens": _prompt(sums),
        "total_output_tokens": sums.tokens["output_tokens"],
    }


def _prompt(sums: UsageTotals) -> int:
    """Of every class: cached and written ones too."""
    tokens = sums.tokens
    return tokens["input_tokens"] + tokens["cache_read_input_tokens"] + tokens["cache_creation_input_tokens"]
