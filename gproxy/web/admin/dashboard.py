"""The admin routes for a dashboard: totals over a time range, and their course within it."""

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
def overview(filters: dict) -> dict:
    """Returns totals and a time series. `bucket` is the start of a bucket, in seconds since the epoch."""
    seconds, buckets = runtime().admin.ask(usage_queries.buckets, filters, filters.pop("bucket_seconds"))
    totals = runtime().admin.ask(usage_queries.totals, filters)
    return {
        "kpi": {
            "total_requests": totals.count,
            "success_count": totals.succeeded,
            "error_4xx_count": totals.refused,
            "error_5xx_count": totals.failed,
            "total_cost": usd(totals.cost),
            "total_input_tokens": _input_tokens(totals),
            "total_output_tokens": totals.tokens["output_tokens"],
            "avg_latency_ms": round(totals.latency_ms / totals.count, 1) if totals.count else 0,
            "max_latency_ms": totals.max_latency_ms,
        },
        "bucket_seconds": seconds,
        "traffic": [{"bucket": at, "request_count": part.count, "cost": usd(part.cost)} for at, part in buckets],
        "status_codes": [
            {"bucket": at, "ok": part.succeeded, "err_4xx": part.refused, "err_5xx": part.failed}
            for at, part in buckets
        ],
    }


@blueprint.post("/dashboard/top-providers")
@takes(QUERY)
def top_providers(filters: dict) -> dict:
    rows = runtime().admin.ask(usage_queries.breakdown, filters, "provider_id")[:MAX_ROWS]
    providers = runtime().admin.ask(entities.find, entities.PROVIDER, {"id": [value for value, _ in rows]})
    channels = {one["id"]: one["channel"] for one in providers}
    return {"rows": [{"provider_id": value, "channel": channels.get(value), **_row(totals)} for value, totals in rows]}


@blueprint.post("/dashboard/top-models")
@takes(QUERY)
def top_models(filters: dict) -> dict:
    rows = runtime().admin.ask(usage_queries.breakdown, filters, "model")
    return {"rows": [{"model": value, **_row(totals)} for value, totals in rows[:MAX_ROWS]]}


def _row(totals: UsageTotals) -> dict:
    return {
        "request_count": totals.count,
        "total_cost": usd(totals.cost),
        "total_input_tokens": _input_tokens(totals),
        "total_output_tokens": totals.tokens["output_tokens"],
    }


def _input_tokens(totals: UsageTotals) -> int:
    """Returns fresh input, cache read and cache write tokens together."""
    tokens = totals.tokens
    return tokens["input_tokens"] + tokens["cache_read_input_tokens"] + tokens["cache_creation_input_tokens"]
