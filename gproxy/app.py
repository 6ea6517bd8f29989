"""The composition root of the web side: registers blueprints and commands. No I/O."""

import re
from decimal import Decimal

import orjson
from flask import Flask
from flask.json.provider import JSONProvider
from flask.sessions import SessionInterface

from gproxy import cli, protocols
from gproxy.fastpath.fixed_routes import FixedRoutes
from gproxy.runtime import Runtime
from gproxy.web import (
    error_responses,
    health,
    llm,
    login,
    me,
    metrics,
    models,
    not_implemented,
    openapi,
    options,
    request_log,
    throttle,
    user,
)
from gproxy.web.admin import (
    access,
    configuration,
    credential_statuses,
    dashboard,
    entities,
    explain,
    process,
    request_logs,
    usages,
    user_keys,
    user_quotas,
)

_SLASHES = re.compile("/{2,}")


class _Json(JSONProvider):
    def dumps(self, obj, **kwargs) -> str:
        return orjson.dumps(obj, _plain).decode()

    def loads(self, text, **kwargs):
        return orjson.loads(text)


def _plain(value):
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(type(value).__name__)


class _NoSession(SessionInterface):
    """Switches off Flask's cookie sessions."""

    def open_session(self, app, request):
        return None


class _App(FixedRoutes):
    json_provider_class = _Json
    session_interface = _NoSession()

    def wsgi_app(self, environ, start_response):
        """Removes doubled and trailing slashes from the path, and passes the request to the request log."""
        path = environ["PATH_INFO"]
        if "//" in path or (path.endswith("/") and len(path) > 1):
            environ["PATH_INFO"] = _SLASHES.sub("/", path).rstrip("/") or "/"
        serve = super().wsgi_app
        if environ["REQUEST_METHOD"] == "OPTIONS":
            serve = options.answer(self, environ["PATH_INFO"]) or serve
        running = self.extensions.get("gproxy")
        if running is None:
            return serve(environ, start_response)
        return request_log.serve_logged(serve, environ, start_response, running.recorder)


def create_app() -> Flask:
    """Returns the app with all routes. It needs an attached runtime to serve requests."""
    app = _App("gproxy", static_folder=None)
    app.url_map.merge_slashes = False
    wire_protocols = protocols.load()
    for blueprint in (*llm.blueprints(wire_protocols), *models.blueprints(wire_protocols)):
        app.register_blueprint(blueprint)
    admin = (
        *(usages.blueprint, user_keys.blueprint, user_quotas.blueprint, credential_statuses.blueprint),
        process.blueprint,
        configuration.blueprint,
        explain.blueprint,
        dashboard.blueprint,
        *request_logs.blueprints(),
        *access.blueprints(),
        *entities.blueprints(),
    )
    own = (health.blueprint, metrics.blueprint, login.blueprint, me.blueprint, user.blueprint, openapi.blueprint)
    for blueprint in (*own, *admin, not_implemented.blueprint):
        app.register_blueprint(blueprint)
    for command in cli.COMMANDS:
        app.cli.add_command(command)
    error_responses.register(app, wire_protocols)
    app.index_routes()
    app.extensions["reserved"] = reserved_names(app)
    app.extensions["protocols"] = wire_protocols
    return app


def attach(app: Flask, running: Runtime) -> None:
    """Makes the app serve requests with this runtime."""
    app.extensions["gproxy"] = running
    throttle.start(app, running.settings.data_dir / "state")


def reserved_names(app: Flask) -> frozenset[str]:
    """The first path segments of gproxy's own routes, which no provider may have as its name."""
    segments = (rule.rule.split("/")[1] for rule in app.url_map.iter_rules())
    return frozenset(name for name in segments if name and not name.startswith("<"))
