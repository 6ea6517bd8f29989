"""What users do for themselves who logged in. Everything here is about the user's own rows alone."""

import time

from flask import Blueprint, g

from gproxy.config import keys as documents
from gproxy.config.filters import UsageBreakdown, UsageFilter, UsageQuery
from gproxy.errors import NotFound
from gproxy.quota import limits
from gproxy.store import accounts, snapshot_loader, users
from gproxy.units import NS
from gproxy.web import limit_views
from gproxy.web.admin import takes
from gproxy.web.admin import usages as told
from gproxy.web.admin import user_keys as keys
from gproxy.web.auth import change, guard_user
from gproxy.web.error_responses import runtime

blueprint = Blueprint("user", __name__, url_prefix="/user")
blueprint.before_request(guard_user)
NEW, SWITCH, ONE, MANY = documents.OwnKey(), documents.KeySwitch(), documents.KeyId(), documents.id_list()
QUERY, FILTER, BREAKDOWN = UsageQuery(), UsageFilter(), UsageBreakdown()


def _me() -> int:
    return g.caller.user_id


@blueprint.post("/keys/query")
def find_keys() -> list[dict]:
    return [keys.shown(key) for key in runtime().ask(users.keys, [_me()])]


@blueprint.post("/keys/generate")
@takes(NEW)
def make_key(asked: dict) -> dict:
    (made,) = keys.make({**asked, "user_id": _me()}, 1)
    return {"ok": True, **made}


@blueprint.post("/keys/update-enabled")
@takes(SWITCH)
def switch_key(asked: dict) -> dict:
    _must_be_own([asked["id"]])
    change(users.change_key, asked.pop("id"), asked)
    return {"ok": True}


@blueprint.post("/keys/delete")
@takes(ONE)
def delete_key(asked: dict) -> dict:
    return _delete([asked["id"]])


@blueprint.post("/keys/batch-delete")
@takes(MANY)
def delete_keys(asked: list) -> dict:
    return _delete(asked)


def _delete(ids: list[int]) -> dict:
    _must_be_own(ids)
    change(users.delete_keys, ids)
    return {"ok": True}


def _must_be_own(ids: list[int]) -> None:
    """Another's key is as unknown as one that does not exist. Raises NotFound."""
    own = {key.id for key in runtime().ask(users.keys, [_me()])}
    if missing := sorted(set(ids) - own):
        raise NotFound(f"you have no key {', '.join(map(str, missing))}")


@blueprint.get("/quota")
def quota() -> dict:
    asked = {"user_id": [_me()]}
    found = dict(runtime().ask(accounts.of_users, asked, time.time_ns()))
    return limit_views.quota(_me(), found.get(_me(), accounts.Account(0)))


@blueprint.get("/limits")
def own_limits() -> list[dict]:
    """The user's own and those of each key, with what is left of them."""
    of_users, of_keys = runtime().ask(snapshot_loader.limits, _me())
    rows = [(row, "user", None) for row in of_users.get(_me(), ())]
    for key in runtime().ask(users.keys, [_me()]):
        rows += [(row, "key", key.id) for row in of_keys.get(key.id, ())]
    taken = runtime().relay.reserver.inspect((), tuple(limits.limit_of(row) for row, _, _ in rows))
    now_s = taken.at / NS
    return [{**limit_views.limit(row, scope, taken.statuses, now_s), "key_id": key_id} for row, scope, key_id in rows]


@blueprint.post("/usages/query")
@takes(QUERY)
def query(asked: dict) -> list[dict]:
    return told.rows(_own(asked))


@blueprint.post("/usages/count")
@takes(FILTER)
def count(asked: dict) -> dict:
    return told.counted(_own(asked))


@blueprint.post("/usages/summary")
@takes(FILTER)
def summary(asked: dict) -> dict:
    return told.summed(_own(asked))


@blueprint.post("/usages/breakdown")
@takes(BREAKDOWN)
def breakdown(asked: dict) -> list[dict]:
    return told.broken_down(_own(asked))


def _own(asked: dict) -> dict:
    """Whatever user was asked for."""
    return {**asked, "user_id": [_me()]}
