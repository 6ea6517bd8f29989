"""Errors as HTTP answers, each in the shape of the protocol that the client speaks."""

import logging
from collections.abc import Mapping
from types import ModuleType

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WrongMethod

from gproxy.errors import BadRequest, GatewayError, MethodNotAllowed, NotFound
from gproxy.web import request_input

log = logging.getLogger(__name__)

CORS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Expose-Headers", "*"),
)
PREFLIGHT = (
    *CORS,
    ("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE, OPTIONS"),
    ("Access-Control-Allow-Headers", "*, Authorization"),
    ("Access-Control-Max-Age", "86400"),
)


def answer(protocol: ModuleType, fault: GatewayError, request_id: str, *, is_llm: bool = True) -> Response:
    """The fault as this protocol's error body."""
    retry_s = getattr(fault, "retry_s", None)
    body = protocol.write_error(fault.status, fault.code, fault.message, request_id, retry_s)
    told = [("Content-Type", "application/json"), *ids(protocol, request_id), *fault.headers.items()]
    if fault.status == 501:
        told.append(("x-should-retry", "false"))  # the SDKs would send it twice more
    return Response(body, fault.status, [*told, *CORS] if is_llm else told)


def ids(protocol: ModuleType, request_id: str) -> list[tuple[str, str]]:
    """The request id under every name that the protocol's SDK looks for."""
    return [(name, request_id) for name in protocol.REQUEST_ID_HEADERS]


def register(app: Flask, protocols: Mapping[str, ModuleType]) -> None:
    """Handlers for what no route answers."""

    @app.errorhandler(HTTPException)
    def unrouted(fault: HTTPException) -> Response:
        if (fault.code or 500) >= 500:
            return unexpected(getattr(fault, "original_exception", None) or fault)
        return answer(_spoken(protocols), _ours(fault), request_input.request_id(request.environ), is_llm=_is_llm())

    @app.errorhandler(GatewayError)
    def refused(fault: GatewayError) -> Response:
        return answer(protocols["openai_chat"], fault, request_input.request_id(request.environ), is_llm=False)

    @app.errorhandler(Exception)
    def unexpected(fault: Exception) -> Response:
        return internal(_spoken(protocols), fault, request_input.request_id(request.environ), is_llm=_is_llm())


def internal(protocol: ModuleType, fault: Exception, request_id: str, *, is_llm: bool = True) -> Response:
    """A fault of ours: the log has it, the caller has the id."""
    log.error("request %s failed: %s", request_id, type(fault).__name__, exc_info=fault)
    return answer(protocol, GatewayError(f"request {request_id}"), request_id, is_llm=is_llm)


def _ours(fault: HTTPException) -> GatewayError:
    if isinstance(fault, WrongMethod):
        allowed = ", ".join(sorted(set(fault.valid_methods or ()) - {"HEAD"}))
        return MethodNotAllowed(f"use {allowed}", headers={"Allow": allowed})
    if fault.code == 404:
        return NotFound(f"there is no path {request.path!r}")
    return BadRequest(fault.name)


def _is_llm() -> bool:
    parts = request.path.split("/")[1:3]
    return any(part.startswith("v1") for part in parts)


def _spoken(protocols: Mapping[str, ModuleType]) -> ModuleType:
    """A route's own protocol; on paths that none claims Gemini's under /v1beta, Anthropic's with its version header,
    else OpenAI's."""
    for protocol in protocols.values():
        if any(request.path.endswith(f"/{route}") for route in protocol.ROUTES):
            return protocol
    if "v1beta" in request.path.split("/")[1:3]:
        return protocols["gemini"]
    if "anthropic-version" in request.headers:
        return protocols["anthropic"]
    return protocols["openai_chat"]


def runtime():
    """The process's runtime, once it is started."""
    return current_app.extensions["gproxy"]
