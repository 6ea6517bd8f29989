"""The admin routes of users' quotas and their use. Money is in USD."""

import time

from gproxy.config import access as documents
from gproxy.store import accounts
from gproxy.web import limit_views
from gproxy.web.admin import guarded, takes
from gproxy.web.auth import change_account
from gproxy.web.error_responses import runtime

blueprint = guarded("admin_user_quotas", __name__)
QUERY, QUOTA, USER = documents.QuotaQuery(), documents.Quota(), documents.UserId()


@blueprint.post("/user-quotas/query")
@takes(QUERY)
def query(filters: dict) -> list[dict]:
    found = runtime().admin.ask(accounts.list_accounts, filters, time.time_ns())
    return [limit_views.quota(user_id, account) for user_id, account in found]


@blueprint.post("/user-quotas/upsert")
@takes(QUOTA)
def upsert(document: dict) -> dict:
    user_id, period = document["user_id"], document.get("period", accounts.UNCHANGED)
    change_account(accounts.set_quota, f"u{user_id}", user_id, document["quota"], document["cost_used"], period)
    return {"ok": True}


@blueprint.post("/user-quotas/delete")
@takes(USER)
def delete(document: dict) -> dict:
    user_id = document["user_id"]
    change_account(accounts.remove_quota, f"u{user_id}", user_id)
    return {"ok": True}
