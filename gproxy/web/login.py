"""Login and logout: exchanges a user's name and password for a session token."""

import logging
import time

from flask import Blueprint

from gproxy.admission import passwords, sessions
from gproxy.config.entities import Login
from gproxy.errors import Unauthorized
from gproxy.store import users
from gproxy.units import NS
from gproxy.web import throttle
from gproxy.web.admin import takes
from gproxy.web.auth import session_token
from gproxy.web.error_responses import runtime

log = logging.getLogger(__name__)

blueprint = Blueprint("login", __name__)
DOCUMENT = Login()
# The same message for every reason, so that it does not reveal which names exist.
INVALID_LOGIN = "invalid username or password"


@blueprint.post("/login")
@throttle.LIMITER.limit(throttle.ATTEMPTS)
@takes(DOCUMENT)
def login(document: dict) -> dict:
    """Opens a session and returns its token."""
    running = runtime()
    name = document["username"]
    throttle.refuse_guessing(name)
    user = running.admin.ask(users.by_name, name)
    is_right = running.admin.passwords.run(passwords.verify, user and user.password, document["password"])
    throttle.refuse_guessing(name)  # again: concurrent logins have all passed the first check
    if not is_right or not user.enabled:
        throttle.count_failure(name)
        log.info("a login from %s failed", throttle.client_address())
        raise Unauthorized(INVALID_LOGIN)
    token = sessions.new_token()
    expires_at = time.time_ns() + sessions.LIFETIME_S * NS
    if not running.admin.change(None, users.open_session, user, sessions.digest(token), expires_at):
        raise Unauthorized(INVALID_LOGIN)
    return {
        "user_id": user.id,
        "session_token": token,
        "expires_in_secs": sessions.LIFETIME_S,
        "is_admin": user.is_admin,
    }


@blueprint.post("/logout")
def logout() -> dict:
    """Ends the session of the token that the request carries."""
    runtime().admin.change(None, users.close_session, sessions.digest(session_token()))
    return {"ok": True}
