"""Usage rows and their sums."""

from datetime import UTC, datetime

from gproxy.config.access import UsageIds
from gproxy.config.scope import UsageFilter, UsageQuery
from gproxy.store import accounts, usages
from gproxy.units import NS, usd
from gproxy.web.admin import document, guarded
from gproxy.web.faults import runtime

blueprint = guarded("admin_usages", __name__)
QUERY, FILTER, IDS = UsageQuery(), UsageFilter(), UsageIds()
HIDDEN = ("created_at",)


@blueprint.post("/usages/query")
def query() -> list[dict]:
    return [_row(row) for row in runtime().ask(usages.query, document(QUERY))]


@blueprint.post("/usages/summary")
def summary() -> dict:
    sums = runtime().ask(usages.summary, document(FILTER))
    return {"count": sums.count, **sums.tokens, "total_cost": _money(sums.cost), "unpriced_count": sums.unpriced}


@blueprint.post("/usages/batch-delete")
def delete_many() -> dict:
    """An empty list deletes nothing. What the rows cost stays spent."""
    return {"ok": True, "deleted": runtime().change(accounts.delete_usages, document(IDS))}


def _row(row: dict) -> dict:
    """As JSON shows it: ids that JavaScript would round as text, time in RFC 3339, money in USD."""
    shown = {name: value for name, value in row.items() if name not in HIDDEN}
    for name in ("trace_id", "downstream_trace_id"):
        shown[name] = None if row[name] is None else str(row[name])
    at = datetime.fromtimestamp(row["at"] // NS, UTC)
    shown["at"] = f"{at:%Y-%m-%dT%H:%M:%S}.{row['at'] % NS // 1000:06d}Z"
    shown["cost"] = _money(row["cost"])
    return shown


def _money(nano: int):
    return usd(nano)
