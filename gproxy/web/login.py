"""A user's name and password for a session."""

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
# One text for every reason.
REFUSAL = "invalid username or password"


@blueprint.post("/login")
@throttle.LIMITER.limit(throttle.ATTEMPTS)
@takes(DOCUMENT)
def login(asked: dict) -> dict:
    running = runtime()
    name = asked["username"]
    throttle.refuse_guessing(name)
    user = running.ask(users.by_name, name)
    is_right = running.passwords.run(passwords.verify, user and user.password, asked["password"])
    throttle.refuse_guessing(name)  # again: many that came at once were all let in
    if not is_right or not user.enabled:
        throttle.note_failure(name)
        log.info("a login from %s failed", throttle.address())
        raise Unauthorized(REFUSAL)
    token = sessions.new_token()
    until = time.time_ns() + sessions.LIFETIME_S * NS
    if not running.change(None, users.open_session, user, sessions.digest(token), until):
        raise Unauthorized(REFUSAL)
    return {
        "user_id": user.id,
        "session_token": token,
        "expires_in_secs": sessions.LIFETIME_S,
        "is_admin": user.is_admin,
    }


@blueprint.post("/logout")
def logout() -> dict:
    """Ends the session whose token is shown."""
    runtime().change(None, users.close_session, sessions.digest(session_token()))
    return {"ok": True}
