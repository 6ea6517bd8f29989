"""Error responses, written in the client's protocol, and the CORS headers of the LLM routes."""

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


def error_response(protocol: ModuleType, fault: GatewayError, request_id: str, *, is_llm: bool = True) -> Response:
    """Returns the error as a response of this protocol."""
    retry_s = getattr(fault, "retry_s", None)
    body = protocol.write_error(fault.status, fault.code, fault.message, request_id, retry_s)
    headers = [
        ("Content-Type", "application/json"),
        *request_id_headers(protocol, request_id),
        *fault.headers.items(),
    ]
    if fault.status == 501:
        headers.append(("x-should-retry", "false"))  # without it the SDKs retry twice
    return Response(body, fault.status, [*headers, *CORS] if is_llm else headers)


def request_id_headers(protocol: ModuleType, request_id: str) -> list[tuple[str, str]]:
    """Returns the request id under every header name that the protocol's SDKs read."""
    return [(name, request_id) for name in protocol.REQUEST_ID_HEADERS]


def register(app: Flask, protocols: Mapping[str, ModuleType]) -> None:
    """Registers the handlers of unknown routes and of exceptions that a view did not handle."""

    @app.errorhandler(HTTPException)
    def unrouted(fault: HTTPException) -> Response:
        if (fault.code or 500) >= 500:
            return unexpected(getattr(fault, "original_exception", None) or fault)
        protocol, request_id = _protocol(protocols), request_input.request_id(request.environ)
        return error_response(protocol, _gateway_error(fault), request_id, is_llm=_is_llm_path())

    @app.errorhandler(GatewayError)
    def refused(fault: GatewayError) -> Response:
        request_id = request_input.request_id(request.environ)
        return error_response(protocols["openai_chat"], fault, request_id, is_llm=False)

    @app.errorhandler(Exception)
    def unexpected(fault: Exception) -> Response:
        request_id = request_input.request_id(request.environ)
        return internal_error(_protocol(protocols), fault, request_id, is_llm=_is_llm_path())


def internal_error(protocol: ModuleType, fault: Exception, request_id: str, *, is_llm: bool = True) -> Response:
    """Logs an unexpected exception and returns a 500 response that contains only the request id."""
    log.error("request %s failed: %s", request_id, type(fault).__name__, exc_info=fault)
    return error_response(protocol, GatewayError(f"request {request_id}"), request_id, is_llm=is_llm)


def _gateway_error(fault: HTTPException) -> GatewayError:
    if isinstance(fault, WrongMethod):
        allowed = ", ".join(sorted(set(fault.valid_methods or ()) - {"HEAD"}))
        return MethodNotAllowed(f"use {allowed}", headers={"Allow": allowed})
    if fault.code == 404:
        return NotFound(f"there is no path {request.path!r}")
    return BadRequest(fault.name)


def _is_llm_path() -> bool:
    parts = request.path.split("/")[1:3]
    return any(part.startswith("v1") for part in parts)


def _protocol(protocols: Mapping[str, ModuleType]) -> ModuleType:
    """Returns the protocol of the request's route.

    On a path without a protocol: Gemini below /v1beta, Anthropic if its version header is sent, otherwise OpenAI.
    """
    for protocol in protocols.values():
        if any(request.path.endswith(f"/{route}") for route in protocol.ROUTES):
            return protocol
    if "v1beta" in request.path.split("/")[1:3]:
        return protocols["gemini"]
    if "anthropic-version" in request.headers:
        return protocols["anthropic"]
    return protocols["openai_chat"]


def runtime():
    """Returns the runtime of this process. It exists once the process has started."""
    return current_app.extensions["gproxy"]
