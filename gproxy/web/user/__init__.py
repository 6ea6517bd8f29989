"""The routes of logged-in users: their own keys, quota, limits and usage, never another user's."""

import time

from flask import Blueprint, g

from gproxy.admission.keys import digest, fingerprint
from gproxy.config import keys as documents
from gproxy.config.filters import UsageBreakdown, UsageFilter, UsageQuery
from gproxy.errors import NotFound
from gproxy.quota import limits
from gproxy.store import accounts, snapshot_loader, users
from gproxy.units import NS
from gproxy.web import limit_views
from gproxy.web.admin import takes, user_keys
from gproxy.web.admin.usages import usage_breakdown, usage_count, usage_rows, usage_totals
from gproxy.web.auth import change, guard_user
from gproxy.web.error_responses import runtime

blueprint = Blueprint("user", __name__, url_prefix="/user")
blueprint.before_request(guard_user)
NEW, SWITCH, ONE, MANY = documents.OwnKey(), documents.KeySwitch(), documents.KeyId(), documents.id_list()
QUERY, FILTER, BREAKDOWN, KEYS = UsageQuery(), UsageFilter(), UsageBreakdown(), documents.KeyQuery()


def _user_id() -> int:
    return g.caller.user_id


@blueprint.post("/keys/query")
@takes(KEYS)
def find_keys(filters: dict) -> list[dict]:
    return [user_keys.key_view(key) for key in runtime().admin.ask(users.keys, [_user_id()], filters)]


@blueprint.post("/keys/generate")
@takes(NEW)
def create_key(document: dict) -> dict:
    key = documents.new_key()
    key_digest = digest(key)
    key_id = change(users.add_own_key, _user_id(), (key_digest, fingerprint(key_digest)), document["label"])
    return {"ok": True, "id": key_id, "api_key": key}


@blueprint.post("/keys/update-enabled")
@takes(SWITCH)
def switch_key(values: dict) -> dict:
    change(users.switch_own_key, _user_id(), values["id"], values["enabled"])
    return {"ok": True}


@blueprint.post("/keys/delete")
@takes(ONE)
def delete_key(document: dict) -> dict:
    return _delete([document["id"]])


@blueprint.post("/keys/batch-delete")
@takes(MANY)
def delete_keys(ids: list) -> dict:
    return _delete(ids)


def _delete(ids: list[int]) -> dict:
    _check_own(ids)
    change(users.delete_keys, ids)
    return {"ok": True}


def _check_own(ids: list[int]) -> None:
    """Raises NotFound unless all keys are the user's own. Another user's key is treated as if it did not exist."""
    own = {key.id for key in runtime().admin.ask(users.keys, [_user_id()])}
    if missing := sorted(set(ids) - own):
        raise NotFound(f"you have no key {', '.join(map(str, missing))}")


@blueprint.get("/quota")
def quota() -> dict:
    user_id = _user_id()
    found = dict(runtime().admin.ask(accounts.list_accounts, {"user_id": [user_id]}, time.time_ns()))
    return limit_views.quota(user_id, found.get(user_id, accounts.Account(0)))


@blueprint.get("/limits")
def own_limits() -> list[dict]:
    """Returns the rate limits of the user and of each of its keys, with the remaining amounts."""
    of_users, of_keys = runtime().admin.ask(snapshot_loader.limits, _user_id())
    rows = [(row, "user", None) for row in of_users.get(_user_id(), ())]
    for key in runtime().admin.ask(users.keys, [_user_id()]):
        rows += [(row, "key", key.id) for row in of_keys.get(key.id, ())]
    taken = runtime().reserver.inspect((), tuple(limits.limit_of(row) for row, _, _ in rows))
    now_s = taken.at / NS
    return [{**limit_views.limit(row, scope, taken.statuses, now_s), "key_id": key_id} for row, scope, key_id in rows]


@blueprint.post("/usages/query")
@takes(QUERY)
def query(filters: dict) -> list[dict]:
    return usage_rows(_own(filters))


@blueprint.post("/usages/count")
@takes(FILTER)
def count(filters: dict) -> dict:
    return usage_count(_own(filters))


@blueprint.post("/usages/summary")
@takes(FILTER)
def summary(filters: dict) -> dict:
    return usage_totals(_own(filters))


@blueprint.post("/usages/breakdown")
@takes(BREAKDOWN)
def breakdown(filters: dict) -> list[dict]:
    return usage_breakdown(_own(filters))


def _own(filters: dict) -> dict:
    """Replaces the filter's user by the caller."""
    return {**filters, "user_id": [_user_id()]}
