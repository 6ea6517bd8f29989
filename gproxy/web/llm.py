"""The LLM routes, aggregated and scoped, built from the route tables of the protocols."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from urllib.parse import parse_qsl, unquote

from flask import Blueprint, Flask, Response, request
from werkzeug.exceptions import HTTPException

from gproxy.errors import ClientDisconnected, GatewayError, NotFound, RequestTimeout, ShuttingDown, Unsupported
from gproxy.fastpath.direct_response import respond
from gproxy.metrics.call_summary import CallSummary
from gproxy.relay.planner import Call
from gproxy.relay.respond import Answer
from gproxy.web import request_input
from gproxy.web.error_responses import CORS, error_response, internal_error, request_id_headers, runtime

# How much of a refused request's body is read, and for how long, so that the client receives the error response.
DISCARD_BYTES, DISCARD_S = 1024 * 1024 * 1024, 1.0
PIECE_BYTES = 256 * 1024
VERSIONS = ("v1", "v1beta")
# Routes that answer 501: (route, methods, protocol of the error). The file routes answer in the client's protocol and
# require the file permission.
NOT_IMPLEMENTED = (
    ("responses/compact", ("POST",), "openai_responses"),
    ("responses/<response_id>", ("GET", "DELETE"), "openai_responses"),
    ("completions", ("POST",), "openai_chat"),
    ("moderations", ("POST",), "openai_chat"),
    ("images/generations", ("POST",), "openai_chat"),
    ("images/edits", ("POST",), "openai_chat"),
    ("audio/speech", ("POST",), "openai_chat"),
    ("audio/transcriptions", ("POST",), "openai_chat"),
    ("files", ("GET", "POST"), None),
    ("files/<file_id>", ("GET", "DELETE"), None),
    ("files/<file_id>/content", ("GET",), None),
)


def blueprints(protocols: Mapping[str, ModuleType]) -> list[Blueprint]:
    """Returns the aggregated blueprint (below the root) and the scoped one (below a provider's name)."""
    views: list[tuple[str, str, tuple[str, ...], Callable]] = []
    for protocol in protocols.values():
        for route, operation in protocol.ROUTES.items():
            if "{model}" not in route:
                views.append((route, route, ("POST",), OperationView(protocol, operation)))
    for route, methods, protocol_name in NOT_IMPLEMENTED:
        views.append((route, route, methods, _not_implemented_view(protocols, protocol_name)))
    gemini = protocols["gemini"]
    views.append(("models/<path:target>", "gemini", ("POST",), GeminiView(gemini)))
    # Some clients leave out `models/` before a model whose name has a slash.
    bare = [(f"<path:target>:{action}", action, ("POST",), GeminiView(gemini, action)) for action in gemini.ACTIONS]
    found = []
    for name, prefix in (("aggregated", ""), ("scoped", "/<provider>")):
        blueprint = Blueprint(name, __name__)
        for version in VERSIONS:
            for route, endpoint, methods, view in (*views, *(bare if version == "v1beta" and not prefix else ())):
                blueprint.add_url_rule(
                    f"{prefix}/{version}/{route}",
                    f"{version}:{endpoint}".replace(".", "_"),
                    view,
                    methods=[*methods, "OPTIONS"],
                    provide_automatic_options=False,
                )
        found.append(blueprint)
    return found


def call_fields(app: Flask, path: str, query: str) -> dict | None:
    """Returns the fields of a `Call` that a path and its query determine, by the app's own routes.

    Returns None if it is not the path of an LLM operation.
    """
    try:
        endpoint, arguments = app.url_map.bind("").match("/" + unquote(path).strip("/"), method="POST")
    except HTTPException:
        return None
    view = app.view_functions[endpoint]
    return view.call_fields(query, **arguments) if isinstance(view, OperationView | GeminiView) else None


def guarded(protocol: ModuleType, view: Callable[[str], Response]) -> Response:
    """Returns the view's response for a new request id, or the error response of this protocol if it raises."""
    request_id = request_input.request_id(request.environ)
    request.environ[request_input.REQUEST_ID] = request_id
    summary = request.environ[request_input.SUMMARY] = CallSummary(protocol.NAME)
    try:
        return view(request_id)
    except GatewayError as fault:
        runtime().relay.running.metrics.failed(summary, fault.code)
        if not isinstance(fault, RequestTimeout | ShuttingDown):  # for these no time remains to read the body
            request_input.discard(request.environ, DISCARD_BYTES, DISCARD_S)
        return error_response(protocol, fault, request_id)
    except ClientDisconnected:
        return Response(status=499)  # for the access log alone: the client has disconnected
    except Exception as fault:  # noqa: BLE001 - last resort: the log has the traceback, the client only the request id
        runtime().relay.running.metrics.failed(summary, GatewayError.code)
        return internal_error(protocol, fault, request_id)


def admit() -> tuple:
    """Returns the caller and the snapshot of this request, and sets the access log's caller. Raises Unauthorized."""
    environ = request.environ
    caller, snapshot = runtime().relay.admit(request_input.key(environ, True))
    environ[request_input.CALLER] = caller
    return caller, snapshot


@dataclass(frozen=True, slots=True)
class OperationView:
    """The view of one operation. The body names the model."""

    protocol: ModuleType
    operation: str

    def __call__(self, **path) -> Response:
        return _serve(self, path)

    def call_fields(self, query: str, provider: str | None = None) -> dict:
        """Returns the fields of a `Call` that the path determines."""
        return {"protocol": self.protocol.NAME, "operation": self.operation, "provider": provider}


@dataclass(frozen=True, slots=True)
class GeminiView:
    """The view of `models/{model}:{action}`, or `{model}:{action}` for one action."""

    protocol: ModuleType
    action: str | None = None

    def __call__(self, **path) -> Response:
        return _serve(self, path)

    def call_fields(self, query: str, target: str, provider: str | None = None) -> dict | None:
        """Returns the fields of a `Call` that the path determines, or None if there is no such action.

        A model's name may itself contain `/` and `:`.
        """
        model, _, action = target.rpartition(":") if self.action is None else (target, ":", self.action)
        operation = self.protocol.ACTIONS.get(action)
        if operation is None or not model:
            return None
        as_array = action == "streamGenerateContent" and ("alt", "sse") not in parse_qsl(query.lower())
        return {
            "protocol": self.protocol.NAME,
            "operation": operation,
            "provider": provider,
            "model": model,
            "as_array": as_array,
        }


def _serve(view: OperationView | GeminiView, path: dict) -> Response:
    def serve(request_id: str) -> Response:
        fields = view.call_fields(request.environ.get("QUERY_STRING", ""), **path)
        if fields is None:
            raise NotFound(f"there is no path {request.path!r}")
        return relay(request_id, fields)

    return guarded(view.protocol, serve)


def _not_implemented_view(protocols: Mapping[str, ModuleType], protocol_name: str | None) -> Callable:
    """Returns a view that answers 501. `protocol_name` None: the route is about files, in the client's protocol."""

    def refuse(provider: str | None = None, **_) -> Response:
        name = protocol_name or ("anthropic" if "anthropic-version" in request.headers else "openai_chat")

        def view(request_id: str) -> Response:
            key = request_input.key(request.environ, True)
            if protocol_name is None:
                runtime().relay.admit_to_files(key, provider or request.headers.get("X-Provider"))
            else:
                runtime().relay.admit(key)
            raise Unsupported(f"{request.path} is not supported by this version")

        return guarded(protocols[name], view)

    refuse.is_not_implemented = True
    return refuse


def relay(request_id: str, fields: dict) -> Response:
    """Reads, plans and runs one call, and returns its response. Raises GatewayError or ClientDisconnected.

    `fields`: those of the `Call` that the path determines.
    """
    started = time.perf_counter()
    environ, running = request.environ, runtime()
    caller, snapshot = admit()
    sock, calls = environ.get("gunicorn.socket"), running.relay.running
    permit, watch = calls.open(sock)

    def release() -> None:
        calls.close(permit, watch)

    try:
        call = Call(
            body=request_input.body(environ, running.settings.max_body, running.settings.body_timeout_s, permit, watch),
            header=lambda name: environ.get(_environ_name(name)),
            query=request_input.query(environ),
            request_id=request_id,
            started=started,
            summary=environ[request_input.SUMMARY],
            request_log_id=environ.get(request_input.TRACE),
            attempt_log=environ.get(request_input.ATTEMPT_LOG),
            **fields,
        )
        plan = running.relay.plan(call, caller, snapshot)
        answer = running.relay.run(plan, call, watch)
    except BaseException:
        release()
        raise
    protocol = running.protocols[call.protocol]
    answer.headers += (*request_id_headers(protocol, request_id), *CORS)
    body = answer.body
    if isinstance(body, bytes):
        answer.headers.append(("Content-Length", str(len(body))))
        body = _pieces(body)
    close = _closing(sock, answer, release, plan.provider.settings.write_timeout_s)
    return respond(answer.status, answer.headers, body, close)


def _pieces(body: bytes) -> Iterable[bytes]:
    """Splits a large body: the write timeout applies to each piece."""
    if len(body) <= PIECE_BYTES:
        return (body,)
    return (body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES))


@lru_cache(maxsize=1024)
def _environ_name(header: str) -> str:
    return f"HTTP_{header.replace('-', '_').upper()}"


def _closing(sock, answer: Answer, release: Callable[[], None], write_timeout_s: float) -> Callable[[], None]:
    """Sets the socket's write timeout, and returns the function that must be called when the response has ended."""
    if sock is not None:
        sock.settimeout(write_timeout_s)

    def close() -> None:
        if sock is not None:
            sock.settimeout(None)
        try:
            answer.close()
        finally:
            release()

    return close
