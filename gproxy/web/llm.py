"""The aggregated and the scoped blueprint, built from the protocols' own routes."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import ModuleType
from urllib.parse import parse_qsl

from flask import Blueprint, Response, request
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wsgi import ClosingIterator

from gproxy.errors import ClientDisconnected, GatewayError, NotFound, RequestTimeout, ShuttingDown, Unsupported
from gproxy.metrics.call_summary import CallSummary
from gproxy.relay.pipeline import Answer
from gproxy.relay.planner import Call
from gproxy.web import request_input
from gproxy.web.error_responses import CORS, PREFLIGHT, answer, ids, internal, runtime

# What is read of a refused body, so that the refusal arrives.
DISCARD_BYTES, DISCARD_S = 1024 * 1024 * 1024, 1.0
PIECE_BYTES = 256 * 1024
VERSIONS = ("v1", "v1beta")
# Routes of the contract whose operations come later: (route, methods, in whose shape they refuse). Those of files have
# the shape of whoever asks, and need a permission of their own.
UNBUILT = (
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
    """Every generating route, below the root and below a provider's name."""
    views: list[tuple[str, str, tuple[str, ...], Callable]] = []
    for protocol in protocols.values():
        for route, operation in protocol.ROUTES.items():
            if "{model}" not in route:
                views.append((route, route, ("POST",), _speaks(protocol, operation)))
    for route, methods, shape in UNBUILT:
        views.append((route, route, methods, _unbuilt(protocols, shape)))
    act = _gemini(protocols["gemini"])
    views.append(("models/<path:target>", "gemini", ("POST",), act))
    # Some clients leave out `models/` before a model whose name has a slash.
    actions = protocols["gemini"].ACTIONS
    bare = [(f"<path:target>:{action}", action, ("POST",), _named(act, action)) for action in actions]
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


def called(path: str, query: str, protocols: Mapping[str, ModuleType]) -> dict | None:
    """What a path of ours calls, as `relay` wants it; None where it calls nothing that generates, counts or embeds."""
    parts = path.strip("/").split("/")
    provider = parts.pop(0) if parts[0] not in VERSIONS else None
    if not parts or parts.pop(0) not in VERSIONS:
        return None
    route = "/".join(parts)
    for protocol in protocols.values():
        if route in protocol.ROUTES:
            return {"protocol": protocol.NAME, "operation": protocol.ROUTES[route], "provider": provider}
    model, _, action = route.removeprefix("models/").rpartition(":")
    operation = protocols["gemini"].ACTIONS.get(action)
    if operation is None or not model:
        return None
    as_array = action == "streamGenerateContent" and ("alt", "sse") not in parse_qsl(query.lower())
    told = {"protocol": "gemini", "operation": operation, "provider": provider}
    return {**told, "model": model, "as_array": as_array}


def preflight() -> Response:
    return Response(status=204, headers=PREFLIGHT)


def guarded(protocol: ModuleType, view: Callable[[str], Response]) -> Response:
    """The view's answer for a request id, or its fault in this protocol's shape."""
    request_id = request_input.request_id(request.environ)
    request.environ[request_input.REQUEST_ID] = request_id
    summary = request.environ[request_input.SUMMARY] = CallSummary(protocol.NAME)
    try:
        return view(request_id)
    except GatewayError as fault:
        runtime().relay.metrics.failed(summary, fault.code)
        if not isinstance(fault, RequestTimeout | ShuttingDown):  # there is no time left for these
            request_input.discard(request.environ, DISCARD_BYTES, DISCARD_S)
        return answer(protocol, fault, request_id)
    except ClientDisconnected:
        return Response(status=499)  # nobody reads it
    except Exception as fault:  # noqa: BLE001 - the last net: logged whole, told as an id
        runtime().relay.metrics.failed(summary, GatewayError.code)
        return internal(protocol, fault, request_id)


def admit() -> tuple:
    """Caller and snapshot of this request, which the access log knows from now on. Raises Unauthorized."""
    environ = request.environ
    caller, snapshot = runtime().relay.admit(request_input.key(environ, True))
    environ[request_input.CALLER] = caller
    return caller, snapshot


def _speaks(protocol: ModuleType, operation: str) -> Callable:
    def speak(provider: str | None = None) -> Response:
        if request.method == "OPTIONS":
            return preflight()

        def view(request_id: str) -> Response:
            return relay(protocol.NAME, request_id, provider=provider, operation=operation)

        return guarded(protocol, view)

    return speak


def _gemini(protocol: ModuleType) -> Callable:
    def act(target: str, provider: str | None = None) -> Response:
        """`models/{model}:{action}`; a model's name may itself hold `/` and `:`."""
        if request.method == "OPTIONS":
            return preflight()
        model, _, action = target.rpartition(":")

        def view(request_id: str) -> Response:
            if action not in protocol.ACTIONS or not model:
                raise NotFound(f"there is no path {request.path!r}")
            as_array = action == "streamGenerateContent" and request.args.get("alt", "").lower() != "sse"
            operation = protocol.ACTIONS[action]
            return relay(
                protocol.NAME, request_id, provider=provider, model=model, operation=operation, as_array=as_array
            )

        return guarded(protocol, view)

    return act


def _named(act: Callable, action: str) -> Callable:
    return lambda target: act(f"{target}:{action}")


def _unbuilt(protocols: Mapping[str, ModuleType], shape: str | None) -> Callable:
    def refuse(provider: str | None = None, **_) -> Response:
        if request.method == "OPTIONS":
            return preflight()
        spoken = shape or ("anthropic" if "anthropic-version" in request.headers else "openai_chat")

        def view(request_id: str) -> Response:
            key = request_input.key(request.environ, True)
            if shape is None:
                runtime().relay.admit_to_files(key, provider or request.headers.get("X-Provider"))
            else:
                runtime().relay.admit(key)
            raise Unsupported(f"{request.path} is not supported by this version")

        return guarded(protocols[spoken], view)

    refuse.is_unbuilt = True
    return refuse


def relay(protocol: str, request_id: str, provider: str | None = None, **path) -> Response:
    """One call through the relay, from its key to its answer."""
    started = time.perf_counter()
    environ, running = request.environ, runtime()
    caller, snapshot = admit()
    sock = environ.get("gunicorn.socket")
    permit, watch = running.relay.capacity.acquire(), running.relay.open_watch(sock)

    def let_go() -> None:
        running.relay.close_watch(watch)
        permit.release()

    try:
        call = Call(
            protocol=protocol,
            body=request_input.body(environ, running.settings.max_body, running.settings.body_timeout_s, permit, watch),
            header=lambda name: environ.get(_environ_name(name)),
            query=request_input.query(environ),
            request_id=request_id,
            started=started,
            provider=provider,
            summary=environ[request_input.SUMMARY],
            request_log_id=environ.get(request_input.TRACE),
            attempt_log=environ.get(request_input.ATTEMPT_LOG),
            **path,
        )
        plan = running.relay.plan(call, caller, snapshot)
        told = running.relay.run(plan, call, watch)
    except BaseException:
        let_go()
        raise
    told.headers += (*ids(running.relay.protocols[protocol], request_id), *CORS)
    return _Reply(told, _end(sock, told, let_go, plan.provider.settings.write_timeout_s))


class _Reply(Response):
    """An answer as it is sent. Werkzeug's own would copy and check its headers, which the server does again."""

    def __init__(self, told: Answer, end: Callable[[], None]):
        self._told, self._end = told, end

    def __call__(self, environ, start_response) -> ClosingIterator:
        told, body = self._told, self._told.body
        if isinstance(body, bytes):
            told.headers.append(("Content-Length", str(len(body))))
            body = _pieces(body)
        start_response(f"{told.status} {HTTP_STATUS_CODES.get(told.status, 'Unknown')}", told.headers)
        return ClosingIterator(body, self._end)


def _pieces(body: bytes) -> Iterable[bytes]:
    """A large reply in pieces: the time that a client may take to read is counted for each."""
    if len(body) <= PIECE_BYTES:
        return (body,)
    return (body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES))


@lru_cache(maxsize=1024)
def _environ_name(header: str) -> str:
    return f"HTTP_{header.replace('-', '_').upper()}"


def _end(sock, told: Answer, let_go: Callable[[], None], write_timeout_s: float) -> Callable[[], None]:
    """What ends an answer, however it ends. Until then a client that does not read is given up after a while."""
    if sock is not None:
        sock.settimeout(write_timeout_s)

    def end() -> None:
        if sock is not None:
            sock.settimeout(None)
        try:
            told.close()
        finally:
            let_go()

    return end
