"""Who calls an operator's or a user's route: by a session, or by an API key."""

import time

from flask import g, request

from gproxy.admission import sessions
from gproxy.errors import Forbidden, Unauthorized
from gproxy.snapshot import Caller, Login
from gproxy.store.audit import Actor
from gproxy.web import request_input
from gproxy.web.error_responses import runtime


def guard_admin() -> None:
    """Lets administrators through. A key in the URL is refused: URLs end up in logs."""
    g.caller = _visitor(request_input.key(request.environ, False))
    if not g.caller.is_admin:
        raise Forbidden("this needs an administrator's key or session")


def guard_user() -> None:
    """Lets users through that logged in."""
    token = request_input.key(request.environ, False)
    if token is not None and not token.startswith(sessions.PREFIX):
        raise Unauthorized("this needs a session token; POST /login gives one")
    g.caller = _visitor(token)


def session_token() -> str:
    """Of whoever logged in. Raises Unauthorized."""
    guard_user()
    return request_input.key(request.environ, False)


def _visitor(token: str | None) -> Caller | Login:
    if token is not None and token.startswith(sessions.PREFIX):
        found = sessions.admit(runtime().snapshots(), token, time.time())
    else:
        found = runtime().relay.admit(token)[0]
    request.environ[request_input.CALLER] = found
    return found


def actor() -> Actor:
    """For the books of changes."""
    caller = g.caller
    return Actor(
        caller.user_id,
        caller.user_name,
        caller.key_id,
        request_input.address(request.environ, runtime().settings.trusted_proxies),
        request_input.request_id(request.environ),
        request.path.strip("/"),
    )


def change(function, *args):
    """A store's deed on behalf of who calls, in force in every worker when it returns. Raises GatewayError."""
    return runtime().change(actor(), function, *args)


def change_account(function, account: str, *args):
    return runtime().change_account(actor(), function, account, *args)
