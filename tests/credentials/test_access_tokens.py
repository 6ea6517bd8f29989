"""Access tokens: one question for all who wait, renewed before their end, refused for good or for a moment."""

from contextlib import nullcontext
from types import SimpleNamespace

import gevent
import pytest

from gproxy.credentials.access_tokens import FRESH_S, RENEW_S, UNSAFE_S, Tokens
from gproxy.errors import CredentialRefused, UpstreamError, UpstreamTimeout
from gproxy.snapshot import Credential, ServiceAccount
from gproxy.upstream.client import AS_ALL
from tests.accounts import EMAIL, PEM, claims

ACCOUNT = ServiceAccount("acme-1", EMAIL, "https://tokens.test/oauth", "k1")
NOBODY = nullcontext()
LIVES_S = 3600


class Endpoint:
    """In place of the client: `answer` is what it answers, or raises."""

    def __init__(self):
        self.asked, self.answer, self.wait = [], None, gevent.event.Event()
        self.wait.set()

    def send(self, method, base_url, path, headers, body, limits, watch, secret, transport):
        claims(body)
        self.asked.append((method, base_url + path))
        number = len(self.asked)
        self.wait.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        status, told = self.answer or (200, b'{"access_token": "token-%d", "expires_in": %d}' % (number, LIVES_S))
        return SimpleNamespace(status=status, read=lambda watch: told)


def here(function, *args):
    return function(*args)


@pytest.fixture
def endpoint():
    return Endpoint()


@pytest.fixture
def clock():
    return SimpleNamespace(now=1_000_000.0)


@pytest.fixture
def tokens(endpoint, clock):
    return Tokens(endpoint, here, lambda: clock.now)


def account(secret: str = PEM) -> Credential:
    return Credential(1, 1, secret, account=ACCOUNT)


def shown(tokens, credential=None) -> str:
    return tokens.shown(credential or account(), AS_ALL, NOBODY)


def test_a_key_is_shown_itself(tokens, endpoint):
    assert shown(tokens, Credential(1, 1, "sk-1")) == "sk-1"
    assert endpoint.asked == []


def test_all_who_wait_get_the_same_token(tokens, endpoint):
    endpoint.wait.clear()
    waiting = [gevent.spawn(shown, tokens) for _ in range(20)]
    gevent.sleep(0)
    waiting[0].kill()  # whoever asked first may leave
    endpoint.wait.set()
    assert {one.get() for one in waiting[1:]} == {"token-1"}
    assert endpoint.asked == [("POST", "https://tokens.test/oauth")]


def test_a_token_is_renewed_before_its_end_while_it_is_still_used(tokens, endpoint, clock):
    assert shown(tokens) == "token-1"
    clock.now += LIVES_S - RENEW_S - 1
    assert shown(tokens) == "token-1"
    gevent.sleep(0)
    assert len(endpoint.asked) == 1
    clock.now += 1
    endpoint.wait.clear()
    assert {shown(tokens) for _ in range(5)} == {"token-1"}
    endpoint.wait.set()
    gevent.sleep(0)
    gevent.sleep(0)
    assert shown(tokens) == "token-2"
    assert len(endpoint.asked) == 2


def test_a_token_is_not_used_to_its_very_end(tokens, clock):
    shown(tokens)
    clock.now += LIVES_S - UNSAFE_S
    assert shown(tokens) == "token-2"


def test_another_key_in_its_place_has_another_token(tokens):
    shown(tokens)
    assert shown(tokens, account(PEM + "\n")) == "token-2"


def test_a_token_that_is_refused_early_is_asked_for_once_more(tokens, clock):
    first = shown(tokens)
    assert not tokens.drop(account(), first)
    clock.now += FRESH_S
    assert tokens.drop(account(), first)
    assert shown(tokens) == "token-2"
    assert tokens.drop(account(), first)  # another call did it meanwhile
    assert shown(tokens) == "token-2"


def test_a_refused_account_is_not_an_endpoint_that_fails(tokens, endpoint):
    endpoint.answer = 400, b'{"error": "invalid_grant"}'
    with pytest.raises(CredentialRefused, match="400: invalid_grant") as told:
        shown(tokens)
    assert not told.value.was_sent
    endpoint.answer = 503, b"<html>"
    with pytest.raises(UpstreamError) as told:
        shown(tokens)
    assert (type(told.value), told.value.was_sent) == (UpstreamError, False)
    endpoint.answer = UpstreamTimeout("no answer in time")
    with pytest.raises(UpstreamTimeout) as told:
        shown(tokens)
    assert not told.value.was_sent
    endpoint.answer = None
    assert shown(tokens) == "token-4"


def test_a_key_that_cannot_be_read_is_refused(tokens, endpoint):
    with pytest.raises(CredentialRefused, match="not an RSA key"):
        shown(tokens, account("-----BEGIN"))
    assert endpoint.asked == []


def test_a_renewal_that_fails_leaves_the_token_that_is_there(tokens, endpoint, clock):
    shown(tokens)
    clock.now += LIVES_S - RENEW_S
    endpoint.answer = 503, b""
    for _ in range(3):
        assert shown(tokens) == "token-1"
        gevent.sleep(0)
        gevent.sleep(0)


def test_what_nobody_foresaw_leaves_nobody_waiting(tokens, endpoint, monkeypatch):
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *told: None)
    endpoint.answer = RuntimeError("a bug")
    with pytest.raises(UpstreamError, match="could not be asked"):
        shown(tokens)
    endpoint.answer = None
    assert shown(tokens) == "token-2"
