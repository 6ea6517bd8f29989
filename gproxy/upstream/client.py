"""Sends prepared requests through a requests adapter: one bounded pool per upstream, one shared TLS context.

No requests.Session: it would merge environment proxies, netrc and cookies of other tenants into a call, and costs three
times as much.
"""

import http.client
import logging
import re
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import gevent
import requests
import urllib3
from gevent.event import Event
from requests.adapters import HTTPAdapter
from urllib3.util import Timeout

from gproxy.errors import Overloaded, UpstreamError, UpstreamTimeout
from gproxy.fastpath import fairness
from gproxy.fastpath.chunked import IS_ON, Chunked
from gproxy.fastpath.connection import CONNECTIONS, SENDING, Sending
from gproxy.upstream import error_mapping
from gproxy.upstream.endpoint import DEFAULT_TRANSPORT, Limits, Transport, UpstreamRequest

log = logging.getLogger(__name__)

# A vendor's rate-limit headers can exceed http.client's default of 100 header lines.
http.client._MAXHEADERS = 256

READ_BYTES = 65536
MAX_REPLY_BYTES = 256 * 1024 * 1024
MASK, MIN_SECRET = "********", 16
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
MAX_POOLS = 256
# The TLS files of an upstream are checked for a change at most this often, in seconds, and only when a call needs them.
FILE_CHECK_S = 1.0
# After this number of reads without a wait, the call yields to other greenlets.
MAX_READS_IN_A_ROW = 32


class _Adapter(HTTPAdapter):
    """The adapter of one upstream: decides once what requests would look up for every call."""

    def __init__(self, base_url: str, proxy: str | None, tls: ssl.SSLContext, size: int):
        super().__init__(pool_maxsize=size)
        parts = urllib3.util.parse_url(base_url)
        manager = self.proxy_manager_for(proxy) if proxy else self.poolmanager
        kwargs = {"ssl_context": tls, "cert_reqs": ssl.CERT_REQUIRED} if parts.scheme == "https" else {}
        self._pool = manager.connection_from_host(parts.host, parts.port, parts.scheme, pool_kwargs=kwargs)
        self.tls = tls
        self._pool.ConnectionCls = CONNECTIONS.get(self._pool.ConnectionCls, self._pool.ConnectionCls)
        # For plain HTTP, an HTTP proxy needs the whole URL in the request line.
        is_absolute = proxy and proxy.startswith("http") and parts.scheme == "http"
        self._prefix = base_url if is_absolute else (parts.path or "")
        self._proxy_headers = self.proxy_headers(proxy) if is_absolute else {}

    def get_connection_with_tls_context(self, request, verify, proxies=None, cert=None):
        return self._pool

    def cert_verify(self, conn, url, verify, cert):
        """Does nothing: the pool's context verifies, and requests would load the CA bundle for each connection."""

    def request_url(self, request, proxies):
        return self._prefix + request.url

    def add_headers(self, request, **kwargs):
        request.headers.update(self._proxy_headers)

    def build_response(self, req, resp):
        """Returns urllib3's response: a requests.Response would add a cookie jar and a guess at the charset."""
        return resp


class Exchange:
    """An upstream's response, with its body still to be read. `headers` have lower-case names."""

    def __init__(
        self,
        raw: urllib3.HTTPResponse,
        request: UpstreamRequest,
        deadline: float,
        waited_s: float,
        release: Callable[[], None],
    ):
        """`release` frees the connection's slot; it is called once. `deadline` is on the monotonic clock."""
        self._release: Callable[[], None] | None = release
        self.status: int = raw.status
        # A short secret, as local servers have, may be an ordinary word of a response.
        secret = request.secret if len(request.secret) >= MIN_SECRET else ""
        # Headers that cannot be forwarded are omitted, and our key is masked where an upstream echoes it.
        self.headers = {
            name.lower(): value.replace(secret, MASK) if secret and secret in value else value
            for name, value in raw.headers.items()
            if value.isprintable() and TOKEN.fullmatch(name)
        }
        self.waited_s = waited_s  # for the upstream until now
        self._raw, self._limits, self._deadline = raw, request.endpoint.limits, deadline
        self._idle_limit_s: float | None = None
        self._silent_s = 0.0  # since the last piece, across interrupted waits
        self._body: bytes | None = None
        self._peeked: deque[bytes] = deque()
        self._secret = secret.encode() if secret else None
        self._on_piece: Callable[[bytes], None] | None = None
        # Private names of http.client and urllib3, both pinned. Without them the library reads the body itself.
        inner = self._inner = getattr(raw, "_fp", None)
        file = getattr(inner, "fp", None)
        # After `Connection: close` the connection no longer has its socket, but the body's file has.
        self._sock = getattr(getattr(file, "raw", None), "_sock", None)
        is_plain = raw.chunked and "content-encoding" not in self.headers
        self._chunked = Chunked(file) if is_plain and file is not None and IS_ON else None

    def observe(self, on_piece: Callable[[bytes], None], on_close: Callable[[], None]) -> None:
        """Calls `on_piece` with each further piece of the body, and `on_close` once, when the exchange is closed."""
        release = self._release

        def end() -> None:
            if release is not None:
                release()
            on_close()

        self._on_piece, self._release = on_piece, end

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def read(self, watch: AbstractContextManager) -> bytes:
        """Returns the whole body and closes the exchange. Raises UpstreamError, and what the watch throws."""
        if self._body is not None:
            return self._body
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

    def read_ahead(self, watch: AbstractContextManager) -> bytes:
        """Returns the whole body, which `read` returns again. A broken body gives b"" here, and `read` raises."""
        try:
            self._body = self.read(watch)
        except UpstreamError:
            return b""
        return self._body

    def masked(self, data: bytes) -> bytes:
        """Masks our key. `data` is a whole body or event: a key that is split between two pieces would not be found."""
        if self._secret and self._secret in data:
            return data.replace(self._secret, MASK.encode())
        return data

    def peek(self, watch: AbstractContextManager, wait_s: float) -> bytes | None:
        """Returns the next bytes of the body, which `chunks` yields again; b"" at its end, None after `wait_s` seconds.

        Raises UpstreamError, and what the watch throws.
        """
        with gevent.Timeout(max(0.0, wait_s), False):
            piece = next(self._receive(watch), b"")
            if piece:
                self._peeked.append(piece)
            return piece
        return None

    def chunks(self, watch: AbstractContextManager) -> Iterator[bytes]:
        """Yields the body as it arrives. Raises UpstreamError, and what the watch throws."""
        while self._peeked:
            yield self._peeked.popleft()
        yield from self._receive(watch)

    def _receive(self, watch: AbstractContextManager) -> Iterator[bytes]:
        in_a_row = 0
        while True:
            idle_s = self._limits.idle_s if self._idle_limit_s is None else self._idle_limit_s
            self._set_timeout(idle_s - self._silent_s)
            in_a_row += 1
            if in_a_row >= MAX_READS_IN_A_ROW:
                in_a_row = 0
                fairness.yield_to_others()
            started = time.perf_counter()
            try:
                with watch:
                    chunk = self._read()
            except error_mapping.LIBRARY_ERRORS as fault:
                raise error_mapping.to_upstream_error(fault) from None
            finally:
                waited_s = time.perf_counter() - started
                self.waited_s += waited_s
                self._silent_s += waited_s
            self._silent_s = 0.0
            if not chunk:
                return
            if self._on_piece is not None:
                self._on_piece(chunk)
            yield chunk

    def _read(self) -> bytes:
        """Returns the bytes that have arrived, after a wait for the first one; b"" at the end of the body."""
        if self._chunked is None:
            if self._inner is not None and self._inner.fp is not None and self._inner.length != 0:
                self._wait_for_data(self._inner)
            return self._raw.read1(READ_BYTES, decode_content=True)
        chunk = self._chunked.read()
        if not chunk and not self._chunked.remainder:
            # As http.client does at the end of a body, so that the connection can be used again.
            self._raw._fp._close_conn()
            self._raw.release_conn()
        return chunk

    @staticmethod
    def _wait_for_data(response: http.client.HTTPResponse) -> None:
        """Waits for the next byte. If urllib3 waited, an interruption of its wait would close the connection."""
        if response.chunked and response.chunk_left == 0:
            # http.client would read the line end of this chunk only together with the size of the next one.
            response.fp.read(2)
            response.chunk_left = None
        response.fp.peek(1)

    def limit_idle(self, idle_s: float | None) -> None:
        """Sets the longest silence for the remainder of the body; None restores the configured one."""
        self._idle_limit_s = idle_s

    def close(self) -> None:
        """Closes the upstream's connection unless its body was read to the end. Idempotent."""
        self._raw.close()
        if self._release is not None:
            release, self._release = self._release, None
            release()

    def _set_timeout(self, idle_s: float) -> None:
        remaining_s = self._deadline - time.monotonic()
        if remaining_s <= 0:
            raise UpstreamTimeout("the answer took longer than total_timeout_s")
        if idle_s <= 0:
            raise UpstreamTimeout("no answer in time")
        if self._sock is not None:
            self._sock.settimeout(min(idle_s, remaining_s))


class _Slots:
    """The connection slots of one upstream. A slot that is freed belongs to the call that waits longest.

    Each call names the maximum; the last one applies to all. What runs when it becomes smaller runs on.
    """

    __slots__ = ("_maximum", "_used", "_waiting")

    def __init__(self):
        self._maximum = self._used = 0
        self._waiting: deque[Event] = deque()

    @property
    def is_idle(self) -> bool:
        return not self._used and not self._waiting

    def acquire(self, limits: Limits, watch: AbstractContextManager) -> None:
        """Takes a slot. Raises Overloaded, and what the watch throws."""
        self._maximum = limits.connections
        self._grant()
        if self._used < self._maximum:
            self._used += 1
            return
        granted = Event()
        self._waiting.append(granted)
        try:
            with watch:
                granted.wait(limits.wait_s)
        except BaseException:
            self._give_up(granted)
            raise
        if not granted.is_set():
            self._give_up(granted)
            raise Overloaded(f"{limits.connections} connections of this worker to the upstream are in use")

    def release(self) -> None:
        self._used -= 1
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._used < self._maximum:
            self._used += 1
            self._waiting.popleft().set()

    def _give_up(self, granted: Event) -> None:
        if granted.is_set():
            self.release()
        else:
            self._waiting.remove(granted)


# CA file, certificate file and key file of a transport.
_Files = tuple[str | None, ...]


class _Context(NamedTuple):
    """The TLS context of some files, the versions of the files last read, and when to check them again."""

    tls: ssl.SSLContext
    versions: tuple[tuple[int, ...] | None, ...]
    check_at: float  # on the monotonic clock


def _version(path: str) -> tuple[int, ...] | None:
    """Returns numbers that change with the file's content or permissions, or None if there is no readable file."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Client:
    """Sends the calls of one worker. `proxy` and `tls` are for upstreams without settings of their own."""

    def __init__(self, proxy: str | None, tls: ssl.SSLContext, default_ca: str, pool_size: int):
        """`default_ca` is the CA file that `tls` uses."""
        self._proxy, self._tls, self._default_ca, self._pool_size = proxy, tls, default_ca, pool_size
        self._adapters: dict[tuple[str, Transport], _Adapter] = {}
        self._contexts: dict[_Files, _Context] = {}
        self._slots: dict[tuple[int | None, str], _Slots] = {}

    def send(
        self,
        request: UpstreamRequest,
        watch: AbstractContextManager,
        on_connection: Callable[[int], None] | None = None,
    ) -> Exchange:
        """Sends one request and returns the exchange once the response's head has arrived.

        `on_connection` is called with 1 when the call begins to use a connection, and with -1 when that ends.
        Raises UpstreamError, Overloaded, and what the watch throws.
        """
        endpoint = request.endpoint
        release_slot = self._acquire_slot(endpoint.base_url, endpoint.limits, watch)

        def release() -> None:
            release_slot()
            if on_connection is not None:
                on_connection(-1)

        if on_connection is not None:
            on_connection(1)
        try:
            return self._send(self._adapter(endpoint.base_url, endpoint.transport), request, watch, release)
        except BaseException:
            release()
            raise

    def _acquire_slot(self, base_url: str, limits: Limits, watch: AbstractContextManager) -> Callable[[], None]:
        """Takes one of the upstream's connection slots and returns the function that frees it. Raises Overloaded."""
        key = limits.provider, base_url
        slots = self._slots.get(key)
        if slots is None:
            if len(self._slots) >= MAX_POOLS:
                # Those in use are kept: they are no more than the calls that run.
                self._slots = {one: found for one, found in self._slots.items() if not found.is_idle}
            slots = self._slots[key] = _Slots()
        slots.acquire(limits, watch)
        return slots.release

    def _send(
        self, adapter: _Adapter, request: UpstreamRequest, watch: AbstractContextManager, release: Callable[[], None]
    ) -> Exchange:
        prepared, limits = requests.PreparedRequest(), request.endpoint.limits
        prepared.method, prepared.url, prepared.body = request.method, request.endpoint.path, request.body
        prepared.headers = {"User-Agent": "gproxy", "Accept-Encoding": "identity", **request.headers}
        if request.body is not None:
            prepared.headers["Content-Length"] = str(len(request.body))
        SENDING.set(sending := Sending())
        started, deadline = time.perf_counter(), time.monotonic() + limits.total_s
        timeout = Timeout(connect=limits.connect_s, read=limits.first_byte_s)
        # The library's timeouts run per system call; this one also ends a head that arrives byte by byte.
        alarm = gevent.Timeout.start_new(min(limits.connect_s + limits.first_byte_s, limits.total_s))
        try:
            with watch:
                raw = adapter.send(prepared, stream=True, timeout=timeout)
        except error_mapping.LIBRARY_ERRORS as fault:
            # `from None`: the chained text would be printed with a traceback.
            raise error_mapping.to_upstream_error(fault, sending) from None
        except gevent.Timeout as fault:
            if fault is not alarm:
                raise
            raise error_mapping.to_upstream_error(TimeoutError(), sending) from None
        finally:
            alarm.close()
        waited_s = time.perf_counter() - started
        return Exchange(raw, request, deadline, waited_s, release)

    def _adapter(self, base_url: str, transport: Transport) -> _Adapter:
        """Returns the adapter of this upstream, a new one if its TLS files have changed. Raises UpstreamError."""
        adapter = self._adapters.get((base_url, transport))
        if adapter is not None and adapter.tls is self._tls:
            return adapter
        if adapter is None and len(self._adapters) >= MAX_POOLS:
            self._adapters.pop(next(iter(self._adapters))).close()
        tls = self._context(transport)
        if adapter is not None:
            if adapter.tls is tls:
                return adapter
            # Closes its idle connections. A connection in use is closed at the end of its response.
            self._adapters.pop((base_url, transport)).close()
        proxy = None if transport.proxy == "direct" else transport.proxy or self._proxy
        adapter = self._adapters[base_url, transport] = _Adapter(base_url, proxy, tls, self._pool_size)
        return adapter

    def _context(self, transport: Transport) -> ssl.SSLContext:
        """Returns the TLS context for these files, a new one if a file has changed.

        If the changed files cannot be used, the earlier context stays in use, and a warning is logged once. Raises
        UpstreamError if there is no earlier one.
        """
        files = transport[1:]
        if files == DEFAULT_TRANSPORT[1:]:
            return self._tls
        context, now = self._contexts.get(files), time.monotonic()
        if context is not None and now < context.check_at:
            return context.tls
        ca_file = transport.ca_file or self._default_ca
        versions = tuple(_version(path) for path in (ca_file, *files[1:]) if path is not None)
        if context is not None and context.versions == versions:
            self._contexts[files] = context._replace(check_at=now + FILE_CHECK_S)
            return context.tls
        try:
            tls = ssl.create_default_context(cafile=ca_file)
            if transport.cert_file is not None:
                tls.load_cert_chain(transport.cert_file, transport.key_file)
        except (OSError, ssl.SSLError) as fault:
            if context is None:
                log.error("ca_file or client_cert_file of an upstream cannot be used: %s", fault)
                error = UpstreamError("its ca_file or client_cert_file cannot be used; the log has the reason")
                error.was_sent = False
                raise error from None
            log.warning("a changed ca_file or client_cert_file of an upstream cannot be used: %s", fault)
            tls = context.tls
        if context is None and len(self._contexts) >= MAX_POOLS:
            in_use = {adapter.tls for adapter in self._adapters.values()}
            self._contexts = {one: found for one, found in self._contexts.items() if found.tls in in_use}
        self._contexts[files] = _Context(tls, versions, now + FILE_CHECK_S)
        return tls

    def close(self) -> None:
        for adapter in self._adapters.values():
            adapter.close()
