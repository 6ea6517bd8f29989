"""The admin API: one thin file per entity. JSON in, JSON out, an administrator's key or session."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps

import orjson
from flask import Blueprint, request
from marshmallow import ValidationError

from gproxy.errors import BadRequest
from gproxy.web import request_input
from gproxy.web.auth import guard_admin
from gproxy.web.error_responses import runtime

MAX_BODY = 50 * 1024 * 1024


def guarded(name: str, import_name: str) -> Blueprint:
    blueprint = Blueprint(name, import_name, url_prefix="/admin")
    blueprint.before_request(guard_admin)
    return blueprint


def document(schema):
    """The request body through a marshmallow schema; none is an empty table.

    Raises GatewayError naming each field that is wrong.
    """
    running = runtime()
    permit = running.relay.capacity.acquire()
    try:
        body = request_input.body(request.environ, MAX_BODY, running.settings.body_timeout_s, permit, nullcontext())
    finally:
        permit.release()
    try:
        return loaded(schema, orjson.loads(body or b"{}"))
    except orjson.JSONDecodeError as fault:
        raise BadRequest(f"the body is not readable JSON: {fault}") from None


def takes(schema) -> Callable:
    """Hands a view the request's body through this schema, by which it is documented too."""

    def wrap(view: Callable) -> Callable:
        @wraps(view)
        def viewed(**path):
            return view(document(schema), **path)

        viewed.takes = schema
        return viewed

    return wrap


def loaded(schema, value):
    """The value through a schema. Raises BadRequest naming each field that is wrong."""
    if getattr(schema, "many", False) and not isinstance(value, list):
        raise BadRequest("body: Invalid input type.")
    try:
        return schema.load(value)
    except ValidationError as fault:
        raise BadRequest(_told(fault.messages)) from None
    except RecursionError:
        raise BadRequest("body: nested too deeply") from None


def _told(messages: dict | list, place: str = "") -> str:
    if isinstance(messages, list):
        return f"{place or 'body'}: {' '.join(str(message) for message in messages)}"
    inner = (
        _told(value, f"{place}.{key}".strip(".") if key != "_schema" else place) for key, value in messages.items()
    )
    return "; ".join(inner)
