"""Who may call the admin, user and session routes, and how a change is named in the audit log."""

import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from flask import g, request

from gproxy.admission import sessions
from gproxy.errors import Forbidden, Unauthorized
from gproxy.snapshot import Login
from gproxy.store.audit import Actor
from gproxy.web import auth, request_input
from tests.site import KEY, Site

TOKEN, EXPIRED, ROOT_TOKEN = (f"{sessions.PREFIX}{n:032x}" for n in range(3))


@pytest.fixture
def logins(site: Site) -> Site:
    """A site with a session of a user, one of an administrator, and an expired one."""
    soon, past = time.time() + 60, time.time() - 1
    logins = {TOKEN: Login(1, "ann", False, soon), EXPIRED: Login(1, "ann", False, past)}
    logins[ROOT_TOKEN] = Login(2, "root", True, soon)
    found = {sessions.digest(token): login for token, login in logins.items()}
    site.worker.snapshot = replace(site.worker.snapshot, logins=found)
    return site


@contextmanager
def requested(site: Site, key: str | None, path: str = "/admin/users/query", **more):
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    with site.app.test_request_context(path, headers={**headers, **more.pop("headers", {})}, **more):
        yield


def administrator(site: Site) -> None:
    site.configure(caller=replace(site.worker.caller, is_admin=True))


@pytest.mark.parametrize(
    ("guard", "key", "error"),
    [
        (auth.guard_admin, None, Unauthorized),
        (auth.guard_admin, "sk-wrong", Unauthorized),
        (auth.guard_admin, KEY, Forbidden),
        (auth.guard_admin, TOKEN, Forbidden),
        (auth.guard_admin, EXPIRED, Unauthorized),
        (auth.guard_admin, ROOT_TOKEN, None),
        (auth.guard_user, None, Unauthorized),
        (auth.guard_user, KEY, Unauthorized),
        (auth.guard_user, EXPIRED, Unauthorized),
        (auth.guard_user, f"{sessions.PREFIX}unknown", Unauthorized),
        (auth.guard_user, TOKEN, None),
        (auth.guard_user, ROOT_TOKEN, None),
        (auth.guard_key, None, Unauthorized),
        (auth.guard_key, TOKEN, Unauthorized),
        (auth.guard_key, KEY, None),
    ],
)
def test_each_guard_lets_only_its_own_callers_pass(logins, guard, key, error):
    with requested(logins, key):
        if error is None:
            guard()
            assert g.caller is request.environ[request_input.CALLER]
            assert g.caller.user_name == ("root" if key == ROOT_TOKEN else "ann")
        else:
            with pytest.raises(error):
                guard()


def test_an_administrators_key_passes(site):
    administrator(site)
    with requested(site, KEY):
        auth.guard_admin()
        assert g.caller.is_admin


@pytest.mark.parametrize("guard", [auth.guard_admin, auth.guard_user, auth.guard_key])
def test_a_key_in_the_url_is_not_accepted(logins, guard):
    administrator(logins)
    for key in (KEY, TOKEN, ROOT_TOKEN):
        with requested(logins, None, f"/me?key={key}"), pytest.raises(Unauthorized):
            guard()


@pytest.mark.parametrize("name", ["x-api-key", "x-goog-api-key"])
def test_a_key_is_accepted_in_the_headers_of_every_vendor(site, name):
    with requested(site, None, headers={name: KEY}):
        auth.guard_key()
        assert g.caller.user_name == "ann"


def test_a_refused_caller_is_noted_for_the_logs_if_its_key_is_valid(site):
    with requested(site, KEY):
        with pytest.raises(Forbidden):
            auth.guard_admin()
        assert request.environ[request_input.CALLER].user_name == "ann"


def test_only_a_session_has_a_session_token(logins):
    with requested(logins, TOKEN):
        assert auth.session_token() == TOKEN
    for key in (None, KEY, EXPIRED):
        with requested(logins, key), pytest.raises(Unauthorized):
            auth.session_token()


@pytest.mark.parametrize(("key", "user", "key_id"), [(KEY, (1, "ann"), 1), (ROOT_TOKEN, (2, "root"), None)])
def test_an_actor_is_named_with_its_address_and_request(logins, key, user, key_id):
    administrator(logins)
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Request-Id": "mine"}
    with requested(logins, key, "/admin/users/upsert/", headers=headers, environ_base={"REMOTE_ADDR": "127.0.0.1"}):
        auth.guard_admin()
        assert auth.actor() == Actor(*user, key_id, "203.0.113.9", "mine", "admin/users/upsert")


@pytest.mark.parametrize(("function", "account"), [(auth.change, ()), (auth.change_account, ("u1",))])
def test_a_change_is_made_in_the_name_of_the_caller(site, function, account):
    made = []

    class Admin:
        def change(self, *args):
            made.append(args)
            return "result"

        change_account = change

    administrator(site)
    site.app.extensions["gproxy"] = replace(site.app.extensions["gproxy"], admin=Admin())
    with requested(site, KEY):
        auth.guard_admin()
        assert function(len, *account, "value") == "result"
        ((actor, *arguments),) = made
        assert (actor.user_name, arguments) == ("ann", [len, *account, "value"])
