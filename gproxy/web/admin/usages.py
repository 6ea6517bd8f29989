"""Usage rows and their sums."""

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
def query(asked: dict) -> list[dict]:
    return rows(asked)


@blueprint.post("/usages/count")
@takes(FILTER)
def count(asked: dict) -> dict:
    return counted(asked)


@blueprint.post("/usages/summary")
@takes(FILTER)
def summary(asked: dict) -> dict:
    return summed(asked)


@blueprint.post("/usages/breakdown")
@takes(BREAKDOWN)
def breakdown(asked: dict) -> list[dict]:
    return broken_down(asked)


@blueprint.post("/usages/batch-delete")
@takes(IDS)
def delete_many(asked: list) -> dict:
    """An empty list deletes nothing. What the rows cost stays spent."""
    return {"ok": True, "deleted": change(accounts.delete_usages, asked)}


def rows(asked: dict) -> list[dict]:
    return [_row(row) for row in runtime().ask(usages.query, asked)]


def counted(asked: dict) -> dict:
    return {"count": runtime().ask(usage_queries.totals, asked).count}


def summed(asked: dict) -> dict:
    return _sums(runtime().ask(usage_queries.totals, asked))


def broken_down(asked: dict) -> list[dict]:
    """The sums of each value there is of what the rows are grouped `by`."""
    by = asked.pop("by")
    return [{by: value, **_sums(sums)} for value, sums in runtime().ask(usage_queries.breakdown, asked, by)]


def _sums(sums: usage_queries.UsageTotals) -> dict:
    return {"count": sums.count, **sums.tokens, "total_cost": usd(sums.cost), "unpriced_count": sums.unpriced}


def _row(row: dict) -> dict:
    """As JSON shows it: ids that JavaScript would round as text, time in RFC 3339, money in USD."""
    shown = {name: value for name, value in row.items() if name not in HIDDEN}
    for name in ("trace_id", "downstream_trace_id"):
        shown[name] = None if row[name] is None else str(row[name])
    at = datetime.fromtimestamp(row["at"] // NS, UTC)
    shown["at"] = f"{at:%Y-%m-%dT%H:%M:%S}.{row['at'] % NS // 1000:06d}Z"
    shown["cost"] = usd(row["cost"])
    return shown
