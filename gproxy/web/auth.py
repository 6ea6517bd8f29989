"""Authentication of the admin, user and session routes, and the changes made on behalf of the caller."""

import time

from flask import g, request

from gproxy.admission import sessions
from gproxy.errors import Forbidden, Unauthorized
from gproxy.snapshot import Caller, Login
from gproxy.store.audit import Actor
from gproxy.web import request_input
from gproxy.web.error_responses import runtime


def guard_admin() -> None:
    """Sets `g.caller`. Raises Unauthorized, and Forbidden unless the caller is an administrator.

    A key in the URL is not accepted, because URLs end up in logs.
    """
    g.caller = _authenticate(request_input.key(request.environ, False))
    if not g.caller.is_admin:
        raise Forbidden("this needs an administrator's key or session")


def guard_user() -> None:
    """Sets `g.caller`. Raises Unauthorized unless the request carries a valid session token."""
    token = request_input.key(request.environ, False)
    if token is not None and not token.startswith(sessions.PREFIX):
        raise Unauthorized("this needs a session token; POST /login gives one")
    g.caller = _authenticate(token)


def guard_key() -> None:
    """Sets `g.caller`. Raises Unauthorized unless the request carries a valid API key."""
    g.caller = _noted(runtime().relay.admit(request_input.key(request.environ, False))[0])


def session_token() -> str:
    """Returns the session token of the request. Raises Unauthorized if there is none or it is not valid."""
    guard_user()
    return request_input.key(request.environ, False)


def _authenticate(token: str | None) -> Caller | Login:
    """Returns the owner of a session token or an API key. Raises Unauthorized."""
    if token is not None and token.startswith(sessions.PREFIX):
        return _noted(sessions.admit(runtime().snapshots(), token, time.time()))
    return _noted(runtime().relay.admit(token)[0])


def _noted(caller: Caller | Login) -> Caller | Login:
    """Returns the caller, and notes it for the access log and the request log."""
    request.environ[request_input.CALLER] = caller
    return caller


def actor() -> Actor:
    """Returns the caller as the audit log names it."""
    caller = g.caller
    return Actor(
        caller.user_id,
        caller.user_name,
        caller.key_id,
        request_input.client_address(request.environ, runtime().settings.trusted_proxies),
        request_input.request_id(request.environ),
        request.path.strip("/"),
    )


def change(function, *args):
    """Runs a store function for the caller and returns its result. The change is then in force in every worker.

    Raises GatewayError.
    """
    return runtime().admin.change(actor(), function, *args)


def change_account(function, account: str, *args):
    """Like `change`, for a function that changes an account's cap or use: workers reload this account."""
    return runtime().admin.change_account(actor(), function, account, *args)
