"""The admin routes of usage rows and their totals. `/me` and `/user` use the same functions."""

from datetime import UTC, datetime

from gproxy.config.access import usage_ids
from gproxy.config.filters import UsageBreakdown, UsageFilter, UsageQuery
from gproxy.store import accounts, usage_queries, usages
from gproxy.units import NS, usd
from gproxy.web.admin import guarded, takes
from gproxy.web.auth import change
from gproxy.web.error_responses import runtime

blueprint = guarded("admin_usages", __name__)
QUERY, FILTER, BREAKDOWN, IDS = UsageQuery(), UsageFilter(), UsageBreakdown(), usage_ids()
HIDDEN = ("created_at",)


@blueprint.post("/usages/query")
@takes(QUERY)
def query(filters: dict) -> list[dict]:
    return usage_rows(filters)


@blueprint.post("/usages/count")
@takes(FILTER)
def count(filters: dict) -> dict:
    return usage_count(filters)


@blueprint.post("/usages/summary")
@takes(FILTER)
def summary(filters: dict) -> dict:
    return usage_totals(filters)


@blueprint.post("/usages/breakdown")
@takes(BREAKDOWN)
def breakdown(filters: dict) -> list[dict]:
    return usage_breakdown(filters)


@blueprint.post("/usages/batch-delete")
@takes(IDS)
def delete_many(ids: list) -> dict:
    """Deletes usage rows; an empty list deletes nothing. What the rows cost stays spent."""
    return {"ok": True, "deleted": change(accounts.delete_usages, ids)}


def usage_rows(filters: dict) -> list[dict]:
    return [_row(row) for row in runtime().admin.ask(usages.query, filters)]


def usage_count(filters: dict) -> dict:
    return {"count": runtime().admin.ask(usage_queries.totals, filters).count}


def usage_totals(filters: dict) -> dict:
    return _totals(runtime().admin.ask(usage_queries.totals, filters))


def usage_breakdown(filters: dict) -> list[dict]:
    """Returns the totals of each value of the field that the filters name in `by`."""
    by = filters.pop("by")
    return [
        {by: value, **_totals(totals)} for value, totals in runtime().admin.ask(usage_queries.breakdown, filters, by)
    ]


def _totals(totals: usage_queries.UsageTotals) -> dict:
    return {"count": totals.count, **totals.tokens, "total_cost": usd(totals.cost), "unpriced_count": totals.unpriced}


def _row(row: dict) -> dict:
    """Returns a row for JSON: ids as text, which JavaScript would round, time in RFC 3339, cost in USD."""
    json_row = {name: value for name, value in row.items() if name not in HIDDEN}
    for name in ("trace_id", "downstream_trace_id"):
        json_row[name] = None if row[name] is None else str(row[name])
    at = datetime.fromtimestamp(row["at"] // NS, UTC)
    json_row["at"] = f"{at:%Y-%m-%dT%H:%M:%S}.{row['at'] % NS // 1000:06d}Z"
    json_row["cost"] = usd(row["cost"])
    return json_row
