"""The admin API: JSON routes for administrators, one thin file per entity. Here are the guard and body parsing."""

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
    """Returns a blueprint below /admin that only administrators can call."""
    blueprint = Blueprint(name, import_name, url_prefix="/admin")
    blueprint.before_request(guard_admin)
    return blueprint


def document(schema):
    """Returns the request body loaded by a marshmallow schema. An empty body is an empty object.

    Raises GatewayError; for an invalid document its message names each wrong field.
    """
    running = runtime()
    permit = running.relay.running.capacity.acquire()
    try:
        body = request_input.body(request.environ, MAX_BODY, running.settings.body_timeout_s, permit, nullcontext())
    finally:
        permit.release()
    try:
        return loaded(schema, orjson.loads(body or b"{}"))
    except orjson.JSONDecodeError as fault:
        raise BadRequest(f"the body is not readable JSON: {fault}") from None


def takes(schema) -> Callable:
    """Decorates a view: it receives the request body loaded by this schema, and OpenAPI documents the schema."""

    def wrap(view: Callable) -> Callable:
        @wraps(view)
        def wrapped(**path):
            return view(document(schema), **path)

        wrapped.takes = schema
        return wrapped

    return wrap


def loaded(schema, value):
    """Returns the value loaded by a schema. Raises BadRequest, whose message names each wrong field."""
    if getattr(schema, "many", False) and not isinstance(value, list):
        raise BadRequest("body: Invalid input type.")
    try:
        return schema.load(value)
    except ValidationError as fault:
        raise BadRequest(_joined(fault.messages)) from None
    except RecursionError:
        raise BadRequest("body: nested too deeply") from None


def _joined(messages: dict | list, place: str = "") -> str:
    """Returns marshmallow's messages as one line, each after the place of its field."""
    if isinstance(messages, list):
        return f"{place or 'body'}: {' '.join(str(message) for message in messages)}"
    inner = (
        _joined(value, f"{place}.{key}".strip(".") if key != "_schema" else place) for key, value in messages.items()
    )
    return "; ".join(inner)
