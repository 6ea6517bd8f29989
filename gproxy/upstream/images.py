"""Fetches an image or PDF that a client named by URL, for a vendor that takes none. The URL is hostile input.

All addresses of the host must be public, and the connection is made to a checked address, so a second look-up of the
name cannot return another. A redirect is checked like the first URL. Any port is allowed, because the client can reach
a public address without gproxy. Metadata services need no list of names: their addresses are not public. No error
message has any part of the URL.
"""

import functools
import http.client
import io
import re
import socket
import ssl
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urljoin

import gevent
import socks
import urllib3
from gevent import monkey
from gevent.lock import BoundedSemaphore
from gevent.threadpool import ThreadPool
from urllib3.connection import CertificateError, HTTPConnection, HTTPSConnection, ProxyConfig, port_by_scheme
from urllib3.contrib.socks import SOCKSConnection, SOCKSHTTPSConnection, SOCKSProxyManager
from urllib3.exceptions import ConnectTimeoutError, ProxyError
from urllib3.util import Url, make_headers, parse_url

from gproxy.errors import BadRequest, GatewayError, Overloaded, UpstreamTimeout
from gproxy.upstream import error_mapping

Address = IPv4Address | IPv6Address

FIELD = "image_url"
MAX_FETCHES = 8  # per process
MAX_REDIRECTS = 3
MAX_ADDRESSES = 4  # connection attempts per host
MAX_URL = 8192
HEAD_BYTES = 65536
READ_BYTES = 65536
REDIRECTS = {301, 302, 303, 307, 308}
DIRECT = {"http": HTTPConnection, "https": HTTPSConnection}
THROUGH_SOCKS = {"http": SOCKSConnection, "https": SOCKSHTTPSConnection}
UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
# A host as parse_url returns it: IDNA, and IPv6 addresses without a zone.
HOST = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9_][a-z0-9_.-]{0,252}", re.IGNORECASE)

# A list of our own, because `is_global` of `ipaddress` differs between Python's patch releases.
# https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry
CLOSED_4 = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/3"),
        # Azure's platform services for a machine, at an address outside the private ranges.
        "168.63.129.16/32",
    )
)
# IPv6: global unicast without special uses, documentation, Teredo and 6to4. Teredo and 6to4 addresses contain an IPv4
# address, which may be private.
OPEN_6 = IPv6Network("2000::/3")
CLOSED_6 = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
# On a network without IPv4, hosts that have IPv4 only are reached through these addresses.
NAT64 = IPv6Network("64:ff9b::/96")

MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
# AVIF first, because an AVIF image may also list the brands of HEIF.
BRANDS = (
    ({b"avif", b"avis"}, "image/avif"),
    ({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}, "image/heic"),
    ({b"mif1", b"mif2", b"msf1"}, "image/heif"),
)
MEDIA_TYPES = {
    *("image/jpeg", "image/png", "image/gif", "image/webp", "image/heic", "image/heif", "application/pdf"),
}


@dataclass(frozen=True, slots=True)
class FileContent:
    media_type: str
    data: bytes


def is_public(address: Address) -> bool:
    """Returns whether the address is on the public internet, so that the client could reach it without gproxy."""
    if isinstance(address, IPv6Address):
        if address not in NAT64:
            return address in OPEN_6 and not any(address in network for network in CLOSED_6)
        address = IPv4Address(int(address) & 0xFFFFFFFF)
    return not any(address in network for network in CLOSED_4)


class ImageFetcher:
    """Fetches files for one process, a limited number at a time."""

    def __init__(
        self,
        tls: ssl.SSLContext,
        proxy: str | None = None,
        max_bytes: int = 20 * 1024 * 1024,
        timeout_s: float = 10.0,
        is_public: Callable[[Address], bool] = is_public,
    ):
        self._tls, self._max_bytes, self._timeout_s, self._is_public = tls, max_bytes, timeout_s, is_public
        self._proxy = parse_url(proxy) if proxy else None
        self._socks = SOCKSProxyManager(proxy).connection_pool_kw if proxy and proxy.startswith("socks") else None
        self._places = BoundedSemaphore(MAX_FETCHES)
        # A look-up cannot be interrupted. These have a pool of their own, so that a slow, hostile name server does not
        # delay look-ups of the vendors' names.
        self._names = ThreadPool(MAX_FETCHES)

    def fetch(self, url: str, watch: AbstractContextManager) -> FileContent:
        """Returns the content of the URL, after redirects.

        Raises BadRequest on a fault of the URL or its host, Overloaded if all places stayed taken for `timeout_s`,
        UpstreamError on a failed outbound proxy, and ClientDisconnected if `watch` notices that the client left.
        """
        target, bounds = _read_url(url), _Bounds(self._timeout_s)
        with watch:
            has_place = self._places.acquire(timeout=self._timeout_s)
        if not has_place:
            raise Overloaded(f"{MAX_FETCHES} images are being fetched in this worker")
        try:
            return self._fetch(target, bounds, watch)
        finally:
            self._places.release()

    def _fetch(self, target: Url, bounds: "_Bounds", watch: AbstractContextManager) -> FileContent:
        # A socket's timeout applies to one system call; this one also ends a look-up or a slow handshake.
        alarm = gevent.Timeout.start_new(bounds.left_s())
        try:
            return self._follow(target, bounds, watch)
        except error_mapping.LIBRARY_ERRORS as fault:
            # `from None`, because a traceback would print the text of the chained exception, which has the URL.
            raise _as_gateway_error(fault, bounds) from None
        except gevent.Timeout as fault:
            if fault is not alarm:
                raise
            raise bounds.late() from None
        finally:
            alarm.close()

    def _follow(self, target: Url, bounds: "_Bounds", watch: AbstractContextManager) -> FileContent:
        for _ in range(MAX_REDIRECTS + 1):
            with self._request(target, bounds, watch) as response:
                if response.status not in REDIRECTS:
                    return self._read(response, bounds, watch)
                location = response.headers.get("location")
            target = _redirected(target, location)
        raise _bad(f"more than {MAX_REDIRECTS} redirects")

    @contextmanager
    def _request(
        self, target: Url, bounds: "_Bounds", watch: AbstractContextManager
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Yields the response with its body unread, then closes its connection."""
        bounds.wire_bytes = HEAD_BYTES
        with ExitStack() as opened:
            connection = self._connect(target, bounds, watch, opened)
            connection.timeout = bounds.left_s()
            with watch:
                connection.request(
                    "GET", target.request_uri, headers=_headers(target), preload_content=False, decode_content=False
                )
                response = connection.getresponse()
            yield response

    def _connect(
        self, target: Url, bounds: "_Bounds", watch: AbstractContextManager, opened: ExitStack
    ) -> HTTPConnection:
        """Returns a connection to the first address that accepts one. Each gets an equal share of the time left."""
        addresses = self._resolve(target, watch)
        for at, address in enumerate(addresses):
            connection = self._connection(target, address)
            opened.callback(connection.close)
            connection.timeout = bounds.left_s() / (len(addresses) - at)
            connection.response_class = functools.partial(_response, bounds=bounds, opened=opened)
            try:
                with watch:
                    connection.connect()
            except ConnectTimeoutError as fault:  # also NewConnectionError, which is a subclass
                if self._is_proxy_fault(fault):
                    raise ProxyError("", fault) from None
            except BaseException as fault:
                # After an interrupted handshake a frame refers to the open socket, and the exception to the frame.
                traceback.clear_frames(fault.__traceback__)
                raise
            else:
                return connection
        raise _bad("the host accepts no connection")

    def _resolve(self, target: Url, watch: AbstractContextManager) -> list[str]:
        """Returns the addresses to connect to. Raises BadRequest if any is not public, which suggests an attack."""
        with watch:
            found = self._names.apply(_look_up, (target.host.strip("[]"), _port(target)))
        if not found:
            raise _bad("the host cannot be resolved")
        if not all(self._is_public(ip_address(address)) for address in found):
            raise _bad("the address is not public")
        return found[:MAX_ADDRESSES]

    def _connection(self, target: Url, address: str) -> HTTPConnection:
        """Returns an unconnected connection to the address, which checks the certificate for the host."""
        port, options = _port(target), {}
        if target.scheme == "https":
            # `assert_hostname` would make urllib3 switch off the check in the TLS context that all calls share.
            name = target.host.rstrip(".")
            options = {"ssl_context": self._tls, "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": name}
        if self._socks:
            return THROUGH_SOCKS[target.scheme](host=address, port=port, **self._socks, **options)
        if self._proxy:
            return self._tunnel(target.scheme, address, port, options)
        return DIRECT[target.scheme](address, port, **options)

    def _tunnel(self, scheme: str, address: str, port: int, options: dict) -> HTTPConnection:
        """Returns a connection by CONNECT, also for HTTP: a proxy may replace the Host of a full URL by the address."""
        proxy = self._proxy
        if (scheme, proxy.scheme) == ("http", "https"):
            raise _bad("an http URL cannot be fetched through the outbound proxy; use https")
        trust = ProxyConfig(self._tls, False, None, None)
        at = proxy.port or port_by_scheme[proxy.scheme]
        connection = DIRECT[scheme](proxy.host, at, proxy=proxy, proxy_config=trust, **options)
        login = make_headers(proxy_basic_auth=proxy.auth_decoded_joined) if proxy.auth else {}
        connection.set_tunnel(address, port, login, scheme=proxy.scheme)
        return connection

    def _is_proxy_fault(self, fault: ConnectTimeoutError) -> bool:
        if self._socks:
            cause = fault.__context__
            return isinstance(cause, socks.ProxyConnectionError | socks.SOCKS5AuthError | socket.gaierror)
        return self._proxy is not None

    def _read(
        self, response: urllib3.BaseHTTPResponse, bounds: "_Bounds", watch: AbstractContextManager
    ) -> FileContent:
        if response.status != 200:
            raise _bad(f"the host answered {response.status}")
        # We request no compression; and a small compressed body could become a huge one.
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise _bad("the body is compressed")
        if (response.length_remaining or 0) > self._max_bytes:
            raise self._too_large()
        # Twice the size, since chunk framing counts too: http.client reads it without a limit of its own.
        bounds.wire_bytes = 2 * self._max_bytes + HEAD_BYTES
        pieces, size, media_type = [], 0, ""
        for piece in _pieces(response, watch):
            media_type = media_type or _media_type(piece, response.headers.get("content-type", ""))
            size += len(piece)
            if size > self._max_bytes:
                raise self._too_large()
            pieces.append(piece)
        if not pieces:
            raise _bad("the body is empty")
        return FileContent(media_type, b"".join(pieces))

    def _too_large(self) -> BadRequest:
        return _bad(f"larger than {self._max_bytes} bytes")


class _Bounds:
    """The remaining time and the remaining bytes of one fetch, counted on the connection."""

    def __init__(self, timeout_s: float):
        self._timeout_s, self._until = timeout_s, time.monotonic() + timeout_s
        self.wire_bytes = HEAD_BYTES

    def left_s(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise self.late()
        return left

    def take(self, size: int) -> None:
        self.wire_bytes -= size
        if self.wire_bytes < 0:
            raise _bad("the answer is larger than it may be")

    def late(self) -> BadRequest:
        return _bad(f"not fetched within {self._timeout_s:g} s")


class _Bounded(io.RawIOBase):
    """Stands in for the socket from which http.client reads a response.

    Each read has the remaining time as its timeout, and first yields to other greenlets: a socket that always has data,
    such as one with an endless head, would otherwise block the worker.
    """

    def __init__(self, sock: socket.socket, bounds: _Bounds):
        self._sock, self._file, self._bounds = sock, sock.makefile("rb", 0), bounds

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        gevent.sleep(0)
        self._sock.settimeout(self._bounds.left_s())
        size = self._file.readinto(buffer)
        self._bounds.take(size)
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _response(sock: socket.socket, bounds: _Bounds, opened: ExitStack, **options) -> http.client.HTTPResponse:
    """Returns a response that `opened` closes: after `Connection: close` the connection no longer owns the socket."""
    return opened.enter_context(http.client.HTTPResponse(_Bounded(sock, bounds), **options))


def _pieces(response: urllib3.BaseHTTPResponse, watch: AbstractContextManager) -> Iterator[bytes]:
    while True:
        with watch:
            piece = response.read(READ_BYTES, decode_content=False)
        if not piece:
            return
        yield piece


def _read_url(text: str) -> Url:
    """Returns the parsed URL. Raises BadRequest on a URL that is never fetched, independent of its addresses."""
    if len(text) > MAX_URL:
        raise _bad(f"the URL is longer than {MAX_URL} characters")
    try:
        url = parse_url(text)
    except ValueError:
        raise _bad("not a valid URL") from None
    if url.scheme not in DIRECT:
        raise _bad("the scheme is neither http nor https")
    if UNSAFE.search(text):
        raise _bad("not a valid URL: it holds a space, a control character or a backslash")
    if url.auth is not None:
        raise _bad("the URL holds credentials")
    if not HOST.fullmatch(url.host or ""):
        raise _bad("the host is missing, or no valid name")
    if url.port == 0:
        raise _bad("the port is not valid")
    return url


def _redirected(target: Url, location: str | None) -> Url:
    if not location:
        raise _bad("a redirect without a location")
    try:
        found = _read_url(urljoin(target.url, location))
    except ValueError:
        raise _bad("a redirect to an invalid URL") from None
    if (target.scheme, found.scheme) == ("https", "http"):
        raise _bad("a redirect from https to http")
    return found


def _port(target: Url) -> int:
    return target.port or port_by_scheme[target.scheme]


def _headers(target: Url) -> dict[str, str]:
    """Returns request headers without data of the caller."""
    host, port = target.host.rstrip("."), _port(target)
    return {
        "Host": host if port == port_by_scheme[target.scheme] else f"{host}:{port}",
        "User-Agent": "gproxy",
        "Accept": ", ".join(sorted(MEDIA_TYPES)),
        "Accept-Encoding": "identity",
        "Connection": "close",
    }


def _look_up(host: str, port: int) -> list[str]:
    """Returns the addresses of a host, none on a fault, which the thread pool would print to stderr.

    Runs in a native thread and so uses the original function, which gevent replaced.
    """
    try:
        found = monkey.get_original("socket", "getaddrinfo")(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(where[0] for _, _, _, _, where in found))


def _media_type(head: bytes, declared: str) -> str:
    found = _sniffed(head) or declared.partition(";")[0].strip().lower()
    if found not in MEDIA_TYPES:
        raise _bad("neither a JPEG, PNG, GIF, WebP, HEIC or HEIF image nor a PDF")
    return found


def _sniffed(head: bytes) -> str | None:
    for magic, media_type in MAGIC:
        if head.startswith(magic):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] != b"ftyp":
        return None
    # The box has the major brand, a version and the compatible brands.
    rest = head[16 : int.from_bytes(head[:4], "big")]
    brands = {head[8:12], *(rest[at : at + 4] for at in range(0, len(rest), 4))}
    return next((media_type for known, media_type in BRANDS if known & brands), None)


def _bad(text: str) -> BadRequest:
    return BadRequest(f"{FIELD}: {text}")


def _as_gateway_error(fault: BaseException, bounds: _Bounds) -> GatewayError:
    """Returns a fault of the host as BadRequest, and one of our outbound proxy as UpstreamError."""
    if isinstance(fault, ssl.SSLError | CertificateError):
        fault = urllib3.exceptions.SSLError(fault)
    error = error_mapping.to_upstream_error(fault)
    if isinstance(fault, ProxyError):
        return error
    return bounds.late() if isinstance(error, UpstreamTimeout) else _bad(error.message.removeprefix(f"{error.label}: "))
