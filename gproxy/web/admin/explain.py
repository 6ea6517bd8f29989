"""The admin route that explains a request: how it would be handled, without sending it."""

import orjson
from flask import current_app

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
def view(document: dict) -> dict:
    running = runtime()
    caller, why_not = _caller(document.get("user_id"), document.get("key_id"))
    call = _call(document)
    explanation = explain(running.relay, call, caller, running.snapshots())
    return {
        "who": {
            "user_id": caller.user_id,
            "user_name": caller.user_name,
            "user_key_id": caller.key_id or None,
            "is_admin": caller.is_admin,
            "may_call": why_not is None,
            "why_not": why_not,
        },
        "name": explanation.name,
        "permissions": _permissions(caller, explanation.name),
        "limits": _limits(caller, explanation),
        "accounts": _accounts(explanation),
        "outcome": _outcome(why_not, explanation),
        "targets": [_target(target) for target in explanation.targets],
    }


def _caller(user_id: int | None, key_id: int | None) -> tuple[Caller, str | None]:
    """Returns the caller, and the reason why it cannot call now. Raises NotFound."""
    running = runtime()
    if user_id is None:
        user_id = running.admin.ask(snapshot_loader.user_of_key, key_id)
    resolved = None if user_id is None else running.admin.ask(snapshot_loader.find_caller, user_id, key_id)
    if resolved is None:
        raise NotFound(f"there is no key {key_id}" if key_id is not None else f"there is no user {user_id}")
    return resolved


def _call(document: dict) -> Call:
    """Raises BadRequest."""
    path, _, query = document["path"].partition("?")
    fields = llm.call_fields(current_app, path, query)
    if fields is None:
        raise BadRequest(f"path: {path!r} is not the path of an LLM operation")
    headers = {name.lower(): value for name, value in document["headers"].items()}
    body = document["body"]
    data = body.encode() if isinstance(body, str) else orjson.dumps(body)
    return Call(body=data, header=headers.get, query=(), request_id="explain", started=0.0, **fields)


def _permissions(caller: Caller, name: str | None) -> list[dict]:
    """Returns every permission of the user and of the key, and whether its pattern matches the model name."""
    rows = runtime().admin.ask(access.rows, access.Permission, {"user_id": [caller.user_id]})
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


def _limits(caller: Caller, explanation: Explanation) -> list[dict]:
    """Returns every rate limit of the user and of the key. Those that apply to this call have their counters."""
    if explanation.name is None:
        return []
    applying = {one.key for one in limits.applying(caller, explanation.name)}
    taken, views = explanation.limits, []
    for row in (*caller.limits, *caller.key_limits):
        statuses = taken.statuses if taken is not None else ()
        fields = limit_views.limit(row, "key" if row in caller.key_limits else "user", statuses, _now_s(explanation))
        views.append({"id": row.id, "applies": str(row.id) in applying, **fields})
    return views


def _accounts(explanation: Explanation) -> list[dict]:
    of_accounts = [one for one in (explanation.limits.statuses if explanation.limits else ()) if one.counter is None]
    return [
        {"account": "quota" if one.key[0] == "u" else "budget", **limit_views.account(one, _now_s(explanation))}
        for one in of_accounts
    ]


def _now_s(explanation: Explanation) -> float:
    return explanation.limits.at / NS if explanation.limits else 0.0


def _outcome(why_not: str | None, explanation: Explanation) -> dict:
    if why_not is not None:
        return {"status": 401, "code": "unauthorized", "message": why_not}
    if explanation.error is not None:
        return _error(explanation.error)
    if any(
        target.plan is not None and (target.plan.kind.responder or target.plan.endpoint is None)
        for target in explanation.targets
    ):
        return {"status": 200, "code": None, "message": "it would be answered"}
    if any(one.position is not None for target in explanation.targets for one in target.candidates):
        return {"status": 200, "code": None, "message": "it would be sent"}
    return {"status": 503, "code": "no_credential", "message": "no credential can be used"}


def _error(error: GatewayError) -> dict:
    return {"status": error.status, "code": error.code, "message": error.message}


def _target(target: PlannedTarget) -> dict:
    view = {"provider": target.provider, "model": target.model, "tier": target.tier}
    if target.plan is None:
        return {**view, "is_possible": False, "why_not": _error(target.error)}
    plan = target.plan
    return {
        **view,
        "is_possible": True,
        "channel": plan.kind.name,
        "operation": plan.operation,
        "translated": plan.translation.label if plan.translation is not None else None,
        "losses": list(plan.losses),
        "price": None if plan.price is None else plan.price.source,
        "bound": _upper_bound(plan),
        "credentials": [_candidate(one, plan.model) for one in target.candidates],
        "upstream": _upstream(target),
    }


def _upper_bound(plan: Plan) -> dict | None:
    """Returns what would be reserved, which covers the most expensive target. Money is in USD."""
    if plan.upper_bound is None:
        return None
    return {"cost": usd(plan.upper_bound.money), "tokens": plan.upper_bound.tokens}


def _candidate(one: Candidate, model: str) -> dict:
    """Returns a credential with its cooldowns for this model and for all models ("")."""
    cooldowns = {name: cooldown for name, cooldown in one.state.cooldowns.items() if name in ("", model)}
    return {
        "id": one.credential.id,
        "turn": one.position,
        "why": one.reason,
        "weight": one.credential.weight,
        "status": one.state.status,
        "cooling": {name: cooldown.verdict for name, cooldown in cooldowns.items()},
    }


def _upstream(target: PlannedTarget) -> dict | None:
    """Returns the request as it would be sent, without the credential; None if the gateway answers by itself."""
    if target.url is None:
        return None
    body = target.plan.body
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    return {
        "method": "POST",
        "url": target.url,
        "headers": target.request_headers,
        "body": parsed,
        "body_text": body.decode("utf-8", "replace"),
    }
