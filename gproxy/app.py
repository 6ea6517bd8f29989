"""The composition root of the web side: registers blueprints and commands. No I/O."""

import re
from decimal import Decimal

import orjson
from flask import Flask
from flask.json.provider import JSONProvider
from flask.sessions import SessionInterface
from werkzeug.routing import Rule

from gproxy import cli, protocols
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


class _App(Flask):
    json_provider_class = _Json
    session_interface = _NoSession()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._fixed: dict[tuple[str, str], Rule] = {}

    def index(self) -> None:
        """Learns the rules without a variable by method and path, once all are there."""
        rules = [rule for rule in self.url_map.iter_rules() if not rule.arguments]
        self._fixed = {(method, rule.rule): rule for rule in rules for method in rule.methods}

    def create_url_adapter(self, request):
        """A path without a variable needs no search, which takes 20 µs and leaves a cycle to the collector."""
        found = self._fixed.get((request.environ["REQUEST_METHOD"], request.environ["PATH_INFO"])) if request else None
        if found is None:
            return super().create_url_adapter(request)
        request.url_rule, request.view_args = found, {}
        return None

    def wsgi_app(self, environ, start_response):
        """Removes doubled and trailing slashes from the path, and passes the request to the request log."""
        path = environ["PATH_INFO"]
        if "//" in path or (path.endswith("/") and len(path) > 1):
            environ["PATH_INFO"] = _SLASHES.sub("/", path).rstrip("/") or "/"
        running = self.extensions.get("gproxy")
        if running is None:
            return super().wsgi_app(environ, start_response)
        return request_log.recorded(super().wsgi_app, environ, start_response, running.recorder)


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
    app.index()
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
