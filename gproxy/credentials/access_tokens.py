"""OAuth access tokens of service accounts: fetched once, cached, and renewed before they expire."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import NamedTuple
from urllib.parse import urlsplit

import gevent
from gevent.event import AsyncResult

from gproxy.channels import vertex
from gproxy.errors import CredentialRefused, GatewayError, UpstreamError
from gproxy.snapshot import Credential
from gproxy.upstream.client import Client
from gproxy.upstream.endpoint import Endpoint, Limits, Transport

log = logging.getLogger(__name__)

LIMITS = Limits(connect_s=10, first_byte_s=10, idle_s=10, total_s=20)
# A token is renewed in the background from RENEW_BEFORE_S before its expiry, and unused from EXPIRY_MARGIN_S before it.
RENEW_BEFORE_S, EXPIRY_MARGIN_S = 300.0, 10.0
# A token that is refused within this time was not refused for its age.
FRESH_S = 60.0
NO_WATCH = nullcontext()


class _Token(NamedTuple):
    value: str
    fingerprint: str  # of the service account and its key
    fetched_at: float
    expires_at: float
    number: int  # of its request


class AccessTokens:
    """The access tokens of one worker. `clock` returns seconds since the epoch; `run` signs in a native thread."""

    def __init__(self, client: Client, run: Callable, clock: Callable[[], float] = time.time):
        self._client, self._run, self._clock = client, run, clock
        self._tokens: dict[int, _Token] = {}
        self._numbers = count(1)
        # A request belongs to the exact key and egress: a replaced key must not get the old one's result.
        self._requests: dict[tuple[int, str, Transport], AsyncResult] = {}

    def secret(self, credential: Credential, transport: Transport, watch: AbstractContextManager) -> str:
        """Returns the API key or a cached OAuth access token.

        Raises CredentialRefused, UpstreamError, and what `watch` raises while the token is fetched.
        """
        if credential.account is None:
            return credential.secret
        now, token = self._clock(), self._tokens.get(credential.id)
        if token is None or token.fingerprint != credential.fingerprint or token.expires_at - EXPIRY_MARGIN_S <= now:
            with watch:
                result = self._request(credential, transport).get()
            if isinstance(result, GatewayError):
                raise result
            return result
        if token.expires_at - RENEW_BEFORE_S <= now and token.fetched_at + FRESH_S <= now:
            self._request(credential, transport)
        return token.value

    def drop(self, credential: Credential, value: str) -> bool:
        """Drops a token that the upstream refused. Returns True if another token may be accepted."""
        token = self._tokens.get(credential.id)
        if token is None or token.value != value:
            return True
        if token.fetched_at + FRESH_S > self._clock():
            return False
        del self._tokens[credential.id]
        return True

    def _request(self, credential: Credential, transport: Transport) -> AsyncResult:
        """Starts the request of a token, or returns the running one; a caller that gives up does not cancel it."""
        key = credential.id, credential.fingerprint, transport
        request = self._requests.get(key)
        if request is None:
            request = self._requests[key] = AsyncResult()
            gevent.spawn(self._renew, credential, transport, request)
        return request

    def _renew(self, credential: Credential, transport: Transport, request: AsyncResult) -> None:
        result: str | GatewayError = UpstreamError("the token endpoint could not be called")
        try:
            result = self._fetch(credential, transport)
        except GatewayError as fault:
            log.warning("credential %d: no access token: %s", credential.id, fault.message)
            result = fault
        finally:
            if isinstance(result, UpstreamError):
                result.was_sent = False  # the client's own request was not
            del self._requests[credential.id, credential.fingerprint, transport]
            request.set(result)

    def _fetch(self, credential: Credential, transport: Transport) -> str:
        account, now, number = credential.account, self._clock(), next(self._numbers)
        try:
            form = self._run(
                vertex.token_request,
                account.client_email,
                credential.secret,
                account.private_key_id,
                account.token_uri,
                now,
            )
        except ValueError as fault:
            raise CredentialRefused(f"the service account's private_key is {fault}") from None
        exchange = self._client.send(_token_endpoint(account.token_uri, transport).request("", form), NO_WATCH)
        result = vertex.read_token(exchange.status, exchange.read(NO_WATCH))
        if result.token is None:
            raise (CredentialRefused if result.is_refusal else UpstreamError)(result.reason)
        cached = self._tokens.get(credential.id)
        if cached is None or cached.number < number:  # else the key was replaced during this request
            expires_at = now + result.lifetime_s
            self._tokens[credential.id] = _Token(result.token, credential.fingerprint, now, expires_at, number)
        return result.token


def _token_endpoint(uri: str, transport: Transport) -> Endpoint:
    address = urlsplit(uri)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return Endpoint(
        f"{address.scheme}://{address.netloc}", address.path or "/", headers, limits=LIMITS, transport=transport
    )
