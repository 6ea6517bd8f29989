"""What would become of a request, told without making it."""

import orjson

from gproxy.config import entities as documents
from gproxy.errors import BadRequest, GatewayError, NotFound
from gproxy.quota import limits
from gproxy.relay.explain import Candidate, Explanation, PlannedTarget, explain
from gproxy.relay.planner import Call, Plan
from gproxy.snapshot import Caller, glob
from gproxy.store import access, snapshot_loader
from gproxy.units import NS, usd
from gproxy.web import limit_views, llm
from gproxy.web.admin import guarded, takes
from gproxy.web.error_responses import runtime

blueprint = guarded("admin_explain", __name__)
DOCUMENT = documents.Explain()


@blueprint.post("/explain")
@takes(DOCUMENT)
def view(asked: dict) -> dict:
    running = runtime()
    caller, why_not = _who(asked.get("user_id"), asked.get("key_id"))
    call = _call(asked)
    found = explain(running.relay, call, caller, running.snapshots())
    return {
        "who": {
            "user_id": caller.user_id,
            "user_name": caller.user_name,
            "user_key_id": caller.key_id or None,
            "is_admin": caller.is_admin,
            "may_call": why_not is None,
            "why_not": why_not,
        },
        "name": found.name,
        "permissions": _permissions(caller, found.name),
        "limits": _limits(caller, found),
        "accounts": _accounts(found),
        "outcome": _outcome(why_not, found),
        "targets": [_target(target, call) for target in found.targets],
    }


def _who(user_id: int | None, key_id: int | None) -> tuple[Caller, str | None]:
    running = runtime()
    if user_id is None:
        user_id = running.ask(snapshot_loader.user_of_key, key_id)
    found = None if user_id is None else running.ask(snapshot_loader.caller, user_id, key_id)
    if found is None:
        raise NotFound(f"there is no key {key_id}" if key_id is not None else f"there is no user {user_id}")
    return found


def _call(asked: dict) -> Call:
    path, _, query = asked["path"].partition("?")
    told = llm.called(path, query, runtime().relay.protocols)
    if told is None:
        raise BadRequest(f"path: {path!r} is no path that a client could send a request to")
    given = {name.lower(): value for name, value in asked["headers"].items()}
    body = asked["body"]
    data = body.encode() if isinstance(body, str) else orjson.dumps(body)
    return Call(body=data, header=given.get, query=(), request_id="explain", started=0.0, **told)


def _permissions(caller: Caller, name: str | None) -> list[dict]:
    """Every row of the user and of the key, and whether its pattern fits the name."""
    rows = runtime().ask(access.rows, access.Permission, {"user_id": [caller.user_id]})
    return [
        {
            "id": row.id,
            "scope": "user" if row.key_id is None else "key",
            "provider_id": row.provider_id,
            "model_pattern": row.model_pattern,
            "matches": name is not None and bool(glob(row.model_pattern).fullmatch(name)),
        }
        for row in rows
        if row.key_id in (None, caller.key_id)
    ]


def _limits(caller: Caller, found: Explanation) -> list[dict]:
    """Every row; counters stand with those that apply."""
    if found.name is None:
        return []
    applying = {one.key for one in limits.applying(caller, found.name)}
    taken, rows = found.limits, []
    for row in (*caller.limits, *caller.key_limits):
        counted = taken.statuses if taken is not None else ()
        told = limit_views.limit(row, "key" if row in caller.key_limits else "user", counted, _now_s(found))
        rows.append({"id": row.id, "applies": str(row.id) in applying, **told})
    return rows


def _accounts(found: Explanation) -> list[dict]:
    of_accounts = [one for one in (found.limits.statuses if found.limits else ()) if one.counter is None]
    return [
        {"account": "quota" if one.key[0] == "u" else "budget", **limit_views.account(one, _now_s(found))}
        for one in of_accounts
    ]


def _now_s(found: Explanation) -> float:
    return found.limits.at / NS if found.limits else 0.0


def _outcome(why_not: str | None, found: Explanation) -> dict:
    if why_not is not None:
        return {"status": 401, "code": "unauthorized", "message": why_not}
    if found.error is not None:
        return _fault(found.error)
    if any(
        target.plan is not None and (target.plan.kind.responder or target.plan.lane is None) for target in found.targets
    ):
        return {"status": 200, "code": None, "message": "it would be answered"}
    if any(one.position is not None for target in found.targets for one in target.candidates):
        return {"status": 200, "code": None, "message": "it would be sent"}
    return {"status": 503, "code": "no_credential", "message": "no credential can be used"}


def _fault(fault: GatewayError) -> dict:
    return {"status": fault.status, "code": fault.code, "message": fault.message}


def _target(target: PlannedTarget, call: Call) -> dict:
    told = {"provider": target.provider, "model": target.model, "tier": target.tier}
    if target.plan is None:
        return {**told, "is_possible": False, "why_not": _fault(target.error)}
    plan = target.plan
    return {
        **told,
        "is_possible": True,
        "channel": plan.kind.name,
        "operation": plan.operation,
        "translated": plan.translation.label if plan.translation is not None else None,
        "losses": list(plan.losses),
        "price": None if plan.price is None else plan.price.source,
        "bound": _upper_bound(plan),
        "credentials": [_candidate(one, plan.model) for one in target.candidates],
        "upstream": _upstream(target, call),
    }


def _upper_bound(plan: Plan) -> dict | None:
    """What would be held: it covers the dearest of the targets."""
    if plan.upper_bound is None:
        return None
    return {"cost": usd(plan.upper_bound.money), "tokens": plan.upper_bound.tokens}


def _candidate(one: Candidate, model: str) -> dict:
    """How it stands with what is known of it for all models and for this one."""
    marks = {name: mark for name, mark in one.state.cooling.items() if name in ("", model)}
    return {
        "id": one.credential.id,
        "turn": one.position,
        "why": one.reason,
        "weight": one.credential.weight,
        "status": one.state.status,
        "cooling": {name: mark.verdict for name, mark in marks.items()},
    }


def _upstream(target: PlannedTarget, call: Call) -> dict | None:
    """Exactly what would be sent, the credential aside; None where the gateway answers by itself."""
    if target.url is None:
        return None
    body = target.plan.body
    try:
        shown = orjson.loads(body)
    except orjson.JSONDecodeError:
        shown = None
    return {
        "method": "POST",
        "url": target.url,
        "headers": target.request_headers(call),
        "body": shown,
        "body_text": body.decode("utf-8", "replace"),
    }
