"""Prepared requests straight through a tuned requests adapter: one bounded pool per upstream, one shared TLS context.

A session would merge environment proxies, netrc and cookies of other tenants into a call, at three times the cost.
"""

import http.client
import logging
import re
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

import gevent
import requests
import urllib3
from gevent.lock import BoundedSemaphore
from requests.adapters import HTTPAdapter
from urllib3.util import Timeout

from gproxy.errors import Overloaded, UpstreamError, UpstreamTimeout
from gproxy.fastpath import fairness
from gproxy.fastpath.chunked import IS_ON, Chunked
from gproxy.fastpath.connection import CONNECTIONS, SENDING, Sending
from gproxy.upstream import error_mapping

log = logging.getLogger(__name__)

# A vendor's list of models or its rate-limit headers can pass http.client's default of 100 header lines.
http.client._MAXHEADERS = 256

READ_BYTES = 65536
MAX_REPLY_BYTES = 256 * 1024 * 1024
MASK, MIN_SECRET = "********", 16
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
POOLS = 256
# Every so many reads that were ready at once, the other greenlets get their turn.
READS_IN_A_ROW = 32


class _Adapter(HTTPAdapter):
    """One upstream. What requests would look up for every call is decided once."""

    def __init__(self, base_url: str, proxy: str | None, tls: ssl.SSLContext, size: int):
        super().__init__(pool_maxsize=size)
        parts = urllib3.util.parse_url(base_url)
        manager = self.proxy_manager_for(proxy) if proxy else self.poolmanager
        kwargs = {"ssl_context": tls, "cert_reqs": ssl.CERT_REQUIRED} if parts.scheme == "https" else {}
        self._pool = manager.connection_from_host(parts.host, parts.port, parts.scheme, pool_kwargs=kwargs)
        self._pool.ConnectionCls = CONNECTIONS.get(self._pool.ConnectionCls, self._pool.ConnectionCls)
        # An HTTP proxy wants the whole URL of a plain HTTP call in the request line.
        is_absolute = proxy and proxy.startswith("http") and parts.scheme == "http"
        self._prefix = base_url if is_absolute else (parts.path or "")
        self._proxy_headers = self.proxy_headers(proxy) if is_absolute else {}

    def get_connection_with_tls_context(self, request, verify, proxies=None, cert=None):
        return self._pool

    def cert_verify(self, conn, url, verify, cert):
        """The pool's context verifies; requests would load the CA bundle again for every connection."""

    def request_url(self, request, proxies):
        return self._prefix + request.url

    def add_headers(self, request, **kwargs):
        request.headers.update(self._proxy_headers)

    def build_response(self, req, resp):
        """The library's answer itself: a requests.Response would add a cookie jar and a guess at the charset."""
        return resp


class Exchange:
    """An upstream's answer as it comes in. `headers` have lower-case names."""

    def __init__(
        self,
        raw: urllib3.HTTPResponse,
        status: int,
        limits: "Limits",
        deadline: float,
        secret: str,
        waited_s: float,
        let_go: Callable[[], None],
    ):
        """`let_go` gives back the connection's place, once."""
        self._let_go: Callable[[], None] | None = let_go
        self.status = status
        # A short one, as local servers have, is an ordinary word that answers may hold.
        secret = secret if len(secret) >= MIN_SECRET else ""
        # What could not be sent on is left out, and an upstream that echoes our key does not tell it to the client.
        self.headers = {
            name.lower(): value.replace(secret, MASK) if secret and secret in value else value
            for name, value in raw.headers.items()
            if value.isprintable() and TOKEN.fullmatch(name)
        }
        self.waited_s = waited_s  # for the upstream, so far
        self._raw, self._limits, self._deadline = raw, limits, deadline
        self._hurry_s: float | None = None
        self._quiet_s = 0.0  # how long nothing has come, over waits that were broken off
        self._kept: bytes | None = None
        self._ahead: deque[bytes] = deque()
        self._secret = secret.encode() if secret else None
        self._came: Callable[[bytes], None] | None = None  # is shown what comes
        # Private names of http.client and urllib3, both pinned; without them the library reads the body itself.
        inner = self._inner = getattr(raw, "_fp", None)
        file = getattr(inner, "fp", None)
        # The connection has let go of its socket when the upstream said `Connection: close`; the body's file has not.
        self._sock = getattr(getattr(file, "raw", None), "_sock", None)
        is_plain = raw.chunked and "content-encoding" not in self.headers
        self._chunked = Chunked(file) if is_plain and file is not None and IS_ON else None

    def watch(self, came: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        """From now on `came` is shown each piece of the body, and `ended` is called once, when it is closed."""
        let_go = self._let_go

        def end() -> None:
            if let_go is not None:
                let_go()
            ended()

        self._came, self._let_go = came, end

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def read(self, watch: AbstractContextManager) -> bytes:
        """The whole body; the connection is let go in any case. Raises UpstreamError, and what `presence` throws in."""
        if self._kept is not None:
            return self._kept
        pieces, size = [], 0
        try:
            for piece in self.chunks(watch):
                pieces.append(piece)
                size += len(piece)
                if size > MAX_REPLY_BYTES:
                    raise UpstreamError(f"the reply is larger than {MAX_REPLY_BYTES} bytes")
        finally:
            self.close()
        return self.masked(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def kept(self, watch: AbstractContextManager) -> bytes:
        """The whole body, which `read` gives once more. One that broke off is kept as nothing, and fails there."""
        try:
            self._kept = self.read(watch)
        except UpstreamError:
            return b""
        return self._kept

    def masked(self, data: bytes) -> bytes:
        """The same without our key, for a whole body or a whole event: in pieces it could hide."""
        if self._secret and self._secret in data:
            return data.replace(self._secret, MASK.encode())
        return data

    def peek(self, watch: AbstractContextManager, wait_s: float) -> bytes | None:
        """The next bytes of the body, which `chunks` gives once more; empty at its end, None when none came in time.

        Raises UpstreamError, and what `presence` throws in.
        """
        with gevent.Timeout(max(0.0, wait_s), False):
            piece = next(self._arriving(watch), b"")
            if piece:
                self._ahead.append(piece)
            return piece
        return None

    def chunks(self, watch: AbstractContextManager) -> Iterator[bytes]:
        """The body as it arrives. Raises UpstreamError, and what `presence` throws in."""
        while self._ahead:
            yield self._ahead.popleft()
        yield from self._arriving(watch)

    def _arriving(self, watch: AbstractContextManager) -> Iterator[bytes]:
        in_a_row = 0
        while True:
            self._set_timeout((self._limits.idle_s if self._hurry_s is None else self._hurry_s) - self._quiet_s)
            in_a_row += 1
            if in_a_row >= READS_IN_A_ROW:
                in_a_row = 0
                fairness.yield_to_others()
            started = time.perf_counter()
            try:
                with watch:
                    chunk = self._read()
            except error_mapping.FOREIGN as fault:
                raise error_mapping.told(fault) from None
            finally:
                waited_s = time.perf_counter() - started
                self.waited_s += waited_s
                self._quiet_s += waited_s
            self._quiet_s = 0.0
            if not chunk:
                return
            if self._came is not None:
                self._came(chunk)
            yield chunk

    def _read(self) -> bytes:
        """What has arrived of the body, at least one byte unless it is over."""
        if self._chunked is None:
            # Waited for outside of the library, which closes the connection when a wait is broken off.
            if self._inner is not None and self._inner.fp is not None and self._inner.length != 0:
                self._inner.fp.peek(1)
            return self._raw.read1(READ_BYTES, decode_content=True)
        chunk = self._chunked.read()
        if not chunk and not self._chunked.remainder:
            # As http.client does at the end of a body: then the connection can be used again.
            self._raw._fp._close_conn()
            self._raw.release_conn()
        return chunk

    def hurry(self, idle_s: float | None) -> None:
        """From now on a silence is at most so long; None takes it back."""
        self._hurry_s = idle_s

    def close(self) -> None:
        """Closes the upstream's connection unless its body was read to the end. Idempotent."""
        self._raw.close()
        if self._let_go is not None:
            let_go, self._let_go = self._let_go, None
            let_go()

    def _set_timeout(self, idle_s: float) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise UpstreamTimeout("the answer took longer than total_timeout_s")
        if idle_s <= 0:
            raise UpstreamTimeout("no answer in time")
        if self._sock is not None:
            self._sock.settimeout(min(idle_s, left))


class Limits:
    """Timeouts of one call, in seconds; how many connections its upstream may have, and how long one is waited for."""

    __slots__ = ("connect_s", "connections", "first_byte_s", "idle_s", "total_s", "wait_s")

    def __init__(
        self,
        connect_s: float = 10,
        first_byte_s: float = 300,
        idle_s: float = 120,
        total_s: float = 3600,
        connections: int = 1000,
        wait_s: float = 10,
    ):
        self.connect_s, self.first_byte_s, self.idle_s, self.total_s = connect_s, first_byte_s, idle_s, total_s
        self.connections, self.wait_s = connections, wait_s


class Transport(NamedTuple):
    """How an upstream is reached where that differs: its proxy (`direct`: none), and files in PEM."""

    proxy: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


AS_ALL = Transport()


class Client:
    """All upstreams of one worker. `proxy` and `tls` are for those that have none of their own."""

    def __init__(self, proxy: str | None, tls: ssl.SSLContext, default_ca: str, pool_size: int):
        """`default_ca`: the file of authorities that `tls` checks against."""
        self._proxy, self._tls, self._default_ca, self._pool_size = proxy, tls, default_ca, pool_size
        self._adapters: dict[tuple[str, Transport], _Adapter] = {}
        self._contexts: dict[tuple, ssl.SSLContext] = {}
        self._places: dict[str, tuple[int, BoundedSemaphore]] = {}

    def send(
        self,
        method: str,
        base_url: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        limits: Limits,
        watch: AbstractContextManager,
        secret: str,
        transport: Transport = AS_ALL,
        told: Callable[[int], None] | None = None,
    ) -> Exchange:
        """Sends one call and waits for the answer's head. `told` is called with 1 when a connection begins to serve it,
        and with -1 when that ends.

        Raises UpstreamError, Overloaded, and what `presence` throws in.
        """
        leave = self._enter(base_url, limits, watch)

        def let_go() -> None:
            leave()
            if told is not None:
                told(-1)

        if told is not None:
            told(1)
        try:
            adapter = self._adapter(base_url, transport)
            return self._send(adapter, method, path, headers, body, limits, watch, secret, let_go)
        except BaseException:
            let_go()
            raise

    def _enter(self, base_url: str, limits: Limits, watch: AbstractContextManager) -> Callable[[], None]:
        """A place among the upstream's connections; what gives it back. Raises Overloaded."""
        maximum, places = self._places.get(base_url, (0, None))
        if maximum != limits.connections:
            if len(self._places) >= POOLS:
                self._places.clear()  # those that are out go back to where they came from
            places = BoundedSemaphore(limits.connections)
            self._places[base_url] = limits.connections, places
        if not places.acquire(blocking=False):
            with watch:
                if not places.acquire(timeout=limits.wait_s):
                    raise Overloaded(f"{limits.connections} connections of this worker to the upstream are in use")
        return places.release

    def _send(
        self, adapter: _Adapter, method, path, headers, body, limits, watch, secret, let_go: Callable[[], None]
    ) -> Exchange:
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, path, body
        request.headers = {"User-Agent": "gproxy", "Accept-Encoding": "identity", **headers}
        if body is not None:
            request.headers["Content-Length"] = str(len(body))
        SENDING.set(sending := Sending())
        started, deadline = time.perf_counter(), time.monotonic() + limits.total_s
        waits = Timeout(connect=limits.connect_s, read=limits.first_byte_s)
        # The library's timeouts run per system call; this one also ends a head that comes in byte by byte.
        alarm = gevent.Timeout.start_new(min(limits.connect_s + limits.first_byte_s, limits.total_s))
        try:
            with watch:
                raw = adapter.send(request, stream=True, timeout=waits)
        except error_mapping.FOREIGN as fault:
            # `from None`: the chained text would be printed with a traceback.
            raise error_mapping.told(fault, sending) from None
        except gevent.Timeout as fault:
            if fault is not alarm:
                raise
            raise error_mapping.told(TimeoutError(), sending) from None
        finally:
            alarm.close()
        waited_s = time.perf_counter() - started
        return Exchange(raw, raw.status, limits, deadline, secret, waited_s, let_go)

    def _adapter(self, base_url: str, transport: Transport) -> _Adapter:
        adapter = self._adapters.get((base_url, transport))
        if adapter is None:
            if len(self._adapters) >= POOLS:
                self._adapters.pop(next(iter(self._adapters))).close()
            proxy = None if transport.proxy == "direct" else transport.proxy or self._proxy
            adapter = _Adapter(base_url, proxy, self._context(transport), self._pool_size)
            self._adapters[base_url, transport] = adapter
        return adapter

    def _context(self, transport: Transport) -> ssl.SSLContext:
        """One for all upstreams with the same files. Raises UpstreamError when they cannot be read."""
        files = transport[1:]
        if files == AS_ALL[1:]:
            return self._tls
        if (context := self._contexts.get(files)) is None:
            try:
                context = ssl.create_default_context(cafile=transport.ca_file or self._default_ca)
                if transport.cert_file is not None:
                    context.load_cert_chain(transport.cert_file, transport.key_file)
            except (OSError, ssl.SSLError) as fault:
                log.error("ca_file or client_cert_file of an upstream cannot be used: %s", fault)
                found = UpstreamError("its ca_file or client_cert_file cannot be used; the log says why")
                found.was_sent = False
                raise found from None
            self._contexts[files] = context
        return context

    def close(self) -> None:
        for adapter in self._adapters.values():
            adapter.close()
