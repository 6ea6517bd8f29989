"""Access tokens: one request for all waiting calls, renewal before expiry, and the errors of the token endpoint."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import gevent
import pytest

from gproxy.credentials.access_tokens import EXPIRY_MARGIN_S, FRESH_S, RENEW_BEFORE_S, AccessTokens
from gproxy.errors import CredentialRefused, UpstreamError, UpstreamTimeout
from gproxy.snapshot import Credential, ServiceAccount
from gproxy.upstream.endpoint import DEFAULT_TRANSPORT, Transport
from tests.accounts import EMAIL, PEM, claims

ACCOUNT = ServiceAccount("acme-1", EMAIL, "https://tokens.test/oauth", "k1")
NO_WATCH = nullcontext()
LIVES_S = 3600


class Endpoint:
    """Replaces the upstream client; `reply` is (status, body), an exception to raise, or None for a new token."""

    def __init__(self):
        self.requests, self.reply, self.wait = [], None, gevent.event.Event()
        self.replies, self.waits = {}, {}  # of single requests, by their number
        self.wait.set()

    def send(self, request, watch):
        claims(request.body)
        self.requests.append((request.method, request.url))
        number = len(self.requests)
        self.waits.get(number, self.wait).wait()
        reply = self.replies.get(number, self.reply)
        if isinstance(reply, Exception):
            raise reply
        status, content = reply or (200, b'{"access_token": "token-%d", "expires_in": %d}' % (number, LIVES_S))
        return SimpleNamespace(status=status, read=lambda watch: content)


def run(function, *args):
    return function(*args)


@pytest.fixture
def endpoint():
    return Endpoint()


@pytest.fixture
def clock():
    return SimpleNamespace(now=1_000_000.0)


@pytest.fixture
def tokens(endpoint, clock):
    return AccessTokens(endpoint, run, lambda: clock.now)


def account(secret: str = PEM) -> Credential:
    return Credential(1, 1, secret, account=ACCOUNT)


def get_secret(tokens, credential=None) -> str:
    return tokens.secret(credential or account(), DEFAULT_TRANSPORT, NO_WATCH)


def outcome(tokens, credential) -> str | type[Exception]:
    """Returns the token, or the class of the error."""
    try:
        return get_secret(tokens, credential)
    except UpstreamError as error:
        return type(error)


def test_an_api_key_is_returned_unchanged(tokens, endpoint):
    assert get_secret(tokens, Credential(1, 1, "sk-1")) == "sk-1"
    assert endpoint.requests == []


def test_all_waiting_calls_get_the_same_token(tokens, endpoint):
    endpoint.wait.clear()
    waiting = [gevent.spawn(get_secret, tokens) for _ in range(20)]
    gevent.sleep(0)
    waiting[0].kill()  # the call that made the request gives up
    endpoint.wait.set()
    assert {one.get() for one in waiting[1:]} == {"token-1"}
    assert endpoint.requests == [("POST", "https://tokens.test/oauth")]


def test_a_token_is_renewed_before_its_expiry_while_it_is_used(tokens, endpoint, clock):
    assert get_secret(tokens) == "token-1"
    clock.now += LIVES_S - RENEW_BEFORE_S - 1
    assert get_secret(tokens) == "token-1"
    gevent.sleep(0)
    assert len(endpoint.requests) == 1
    clock.now += 1
    endpoint.wait.clear()
    assert {get_secret(tokens) for _ in range(5)} == {"token-1"}
    endpoint.wait.set()
    gevent.sleep(0)
    gevent.sleep(0)
    assert get_secret(tokens) == "token-2"
    assert len(endpoint.requests) == 2


def test_a_token_is_not_used_shortly_before_its_expiry(tokens, clock):
    get_secret(tokens)
    clock.now += LIVES_S - EXPIRY_MARGIN_S
    assert get_secret(tokens) == "token-2"


def test_another_key_gets_another_token(tokens):
    get_secret(tokens)
    assert get_secret(tokens, account(PEM + "\n")) == "token-2"


@pytest.mark.parametrize("old_reply", [None, (400, b'{"error": "invalid_grant"}')])
def test_a_replaced_key_does_not_share_the_request_of_the_old_key(tokens, endpoint, old_reply):
    endpoint.wait.clear()
    old = gevent.spawn(outcome, tokens, account())
    gevent.sleep(0)
    endpoint.replies[1] = old_reply
    new = gevent.spawn(outcome, tokens, account(PEM + "\n"))
    gevent.sleep(0)
    endpoint.wait.set()
    assert new.get() == "token-2"
    assert old.get() == ("token-1" if old_reply is None else CredentialRefused)
    assert len(endpoint.requests) == 2


@pytest.mark.parametrize(
    "changed", [{"client_email": "other@acme.test"}, {"token_uri": "https://other.test/t"}, {"private_key_id": "k2"}]
)
def test_an_account_whose_other_fields_changed_gets_another_token(tokens, endpoint, changed):
    get_secret(tokens)
    endpoint.wait.clear()
    renewed = Credential(1, 1, PEM, account=replace(ACCOUNT, **changed))
    assert account().fingerprint != renewed.fingerprint
    new = gevent.spawn(outcome, tokens, renewed)
    gevent.sleep(0)
    endpoint.wait.set()
    assert new.get() == "token-2"


def test_a_request_of_the_old_key_that_ends_late_does_not_replace_the_new_keys_token(tokens, endpoint, clock):
    endpoint.waits[1] = gevent.event.Event()
    old = gevent.spawn(outcome, tokens, account())
    gevent.sleep(0)
    gevent.sleep(0)
    clock.now -= 1
    assert get_secret(tokens, account(PEM + "\n")) == "token-2"
    endpoint.waits[1].set()
    assert old.get() == "token-1"
    assert get_secret(tokens, account(PEM + "\n")) == "token-2"
    assert len(endpoint.requests) == 2


def test_a_changed_proxy_does_not_share_the_request_through_the_old_one(tokens, endpoint):
    endpoint.wait.clear()
    old = gevent.spawn(outcome, tokens, account())
    gevent.sleep(0)
    endpoint.replies[1] = UpstreamTimeout("no answer in time")
    new = gevent.spawn(tokens.secret, account(), Transport("direct"), NO_WATCH)
    gevent.sleep(0)
    endpoint.wait.set()
    assert (old.get(), new.get()) == (UpstreamTimeout, "token-2")


def test_a_refused_token_is_fetched_again_unless_it_is_fresh(tokens, clock):
    first = get_secret(tokens)
    assert not tokens.drop(account(), first)
    clock.now += FRESH_S
    assert tokens.drop(account(), first)
    assert get_secret(tokens) == "token-2"
    assert tokens.drop(account(), first)  # another call has dropped it
    assert get_secret(tokens) == "token-2"


def test_a_refused_account_and_a_failed_endpoint_raise_different_errors(tokens, endpoint):
    endpoint.reply = 400, b'{"error": "invalid_grant"}'
    with pytest.raises(CredentialRefused, match="400: invalid_grant") as caught:
        get_secret(tokens)
    assert not caught.value.was_sent
    endpoint.reply = 503, b"<html>"
    with pytest.raises(UpstreamError) as caught:
        get_secret(tokens)
    assert (type(caught.value), caught.value.was_sent) == (UpstreamError, False)
    endpoint.reply = UpstreamTimeout("no answer in time")
    with pytest.raises(UpstreamTimeout) as caught:
        get_secret(tokens)
    assert not caught.value.was_sent
    endpoint.reply = None
    assert get_secret(tokens) == "token-4"


def test_an_unreadable_key_is_refused(tokens, endpoint):
    with pytest.raises(CredentialRefused, match="not an RSA key"):
        get_secret(tokens, account("-----BEGIN"))
    assert endpoint.requests == []


def test_a_failed_renewal_keeps_the_cached_token(tokens, endpoint, clock):
    get_secret(tokens)
    clock.now += LIVES_S - RENEW_BEFORE_S
    endpoint.reply = 503, b""
    for _ in range(3):
        assert get_secret(tokens) == "token-1"
        gevent.sleep(0)
        gevent.sleep(0)


def test_an_unexpected_exception_leaves_no_call_waiting(tokens, endpoint, monkeypatch):
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *args: None)
    endpoint.reply = RuntimeError("a bug")
    with pytest.raises(UpstreamError, match="could not be called"):
        get_secret(tokens)
    endpoint.reply = None
    assert get_secret(tokens) == "token-2"
