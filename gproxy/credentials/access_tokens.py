"""Access tokens of service accounts: asked for once, kept, and renewed before they end."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple
from urllib.parse import urlsplit

import gevent
from gevent.event import AsyncResult

from gproxy.channels import vertex
from gproxy.errors import CredentialRefused, GatewayError, UpstreamError
from gproxy.snapshot import Credential
from gproxy.upstream.client import Client, Limits, Transport

log = logging.getLogger(__name__)

LIMITS = Limits(connect_s=10, first_byte_s=10, idle_s=10, total_s=20)
# So long before its end a token is renewed, while it is still used; and so long it is not used any more.
RENEW_S, UNSAFE_S = 300.0, 10.0
# A token that is refused at this age was not refused for its age.
FRESH_S = 60.0
NOBODY = nullcontext()


class _Kept(NamedTuple):
    token: str
    fingerprint: str  # of the key that it was had by
    since: float
    until: float


class Tokens:
    """Of one worker. `clock` is in seconds since the epoch; `run` calls what signs, beside the hub."""

    def __init__(self, client: Client, run: Callable, clock: Callable[[], float] = time.time):
        self._client, self._run, self._clock = client, run, clock
        self._kept: dict[int, _Kept] = {}
        self._asking: dict[int, AsyncResult] = {}

    def shown(self, credential: Credential, transport: Transport, watch: AbstractContextManager) -> str:
        """What the upstream is shown: the key itself, or a token that the service account has.

        Raises CredentialRefused, UpstreamError, and what `presence` throws in.
        """
        if credential.account is None:
            return credential.secret
        now, kept = self._clock(), self._kept.get(credential.id)
        if kept is None or kept.fingerprint != credential.fingerprint or kept.until - UNSAFE_S <= now:
            with watch:
                found = self._ask(credential, transport).get()
            if isinstance(found, GatewayError):
                raise found
            return found
        if kept.until - RENEW_S <= now and kept.since + FRESH_S <= now:
            self._ask(credential, transport)
        return kept.token

    def drop(self, credential: Credential, token: str) -> bool:
        """After the upstream refused the token. Whether another one may be accepted."""
        kept = self._kept.get(credential.id)
        if kept is None or kept.token != token:
            return True
        if kept.since + FRESH_S > self._clock():
            return False
        del self._kept[credential.id]
        return True

    def _ask(self, credential: Credential, transport: Transport) -> AsyncResult:
        """Whoever needs the token meanwhile waits for the same answer, which none of them can break off."""
        asking = self._asking.get(credential.id)
        if asking is None:
            asking = self._asking[credential.id] = AsyncResult()
            gevent.spawn(self._renew, credential, transport, asking)
        return asking

    def _renew(self, credential: Credential, transport: Transport, asking: AsyncResult) -> None:
        found: str | GatewayError = UpstreamError("the token endpoint could not be asked")
        try:
            found = self._fetch(credential, transport)
        except GatewayError as fault:
            log.warning("credential %d: no access token: %s", credential.id, fault.message)
            found = fault
        finally:
            if isinstance(found, UpstreamError):
                found.was_sent = False  # the client's request was not
            del self._asking[credential.id]
            asking.set(found)

    def _fetch(self, credential: Credential, transport: Transport) -> str:
        account, now = credential.account, self._clock()
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
        address = urlsplit(account.token_uri)
        exchange = self._client.send(
            "POST",
            f"{address.scheme}://{address.netloc}",
            address.path or "/",
            {"Content-Type": "application/x-www-form-urlencoded"},
            form,
            LIMITS,
            NOBODY,
            "",
            transport,
        )
        found = vertex.read_token(exchange.status, exchange.read(NOBODY))
        if found.token is None:
            raise (CredentialRefused if found.is_refusal else UpstreamError)(found.reason)
        self._kept[credential.id] = _Kept(found.token, credential.fingerprint, now, now + found.lifetime_s)
        return found.token
