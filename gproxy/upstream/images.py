"""Fetches an image or PDF that a client named by URL, for a vendor that takes none. The URL is hostile input.

What is checked is the address: each one that the name stands for must be public, and the connection goes to a checked
one by its number, so a name cannot mean something else a moment later. A redirect is checked like a first URL. Any port
will do, because a public address is one that the client can reach without us. Names of metadata services need no list:
they stand for addresses that are not public. No text that a caller is told holds any part of the URL.
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
AT_ONCE = 8  # per process
MAX_REDIRECTS = 3
MAX_ADDRESSES = 4  # of one name, that a connection is tried to
MAX_URL = 8192
HEAD_BYTES = 65536
READ_BYTES = 65536
REDIRECTS = {301, 302, 303, 307, 308}
DIRECT = {"http": HTTPConnection, "https": HTTPSConnection}
THROUGH_SOCKS = {"http": SOCKSConnection, "https": SOCKSHTTPSConnection}
UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
# As parse_url leaves it: IDNA, and no zone of an IPv6 address.
HOST = re.compile(r"\[[0-9a-f:.]+\]|[a-z0-9_][a-z0-9_.-]{0,252}", re.IGNORECASE)

# Written out, because what `ipaddress` calls global differs between Python's patch releases.
# https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry
CLOSED_4 = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/3"),
        # Azure's own services for a machine, at an address that looks public.
        "168.63.129.16/32",
    )
)
# Of IPv6 only what is handed out as global unicast, less special uses, documentation, Teredo and 6to4: the last two
# carry an IPv4 address to who knows where, and nobody serves images from them.
OPEN_6 = IPv6Network("2000::/3")
CLOSED_6 = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
# On a network without IPv4 this is how every host with IPv4 alone is named.
NAT64 = IPv6Network("64:ff9b::/96")

MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
# Ordered: an AVIF image may also name the brands of HEIF, which it is a kind of.
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
    """Whether the address is one of the open internet, which the client could reach without us."""
    if isinstance(address, IPv6Address):
        if address not in NAT64:
            return address in OPEN_6 and not any(address in network for network in CLOSED_6)
        address = IPv4Address(int(address) & 0xFFFFFFFF)
    return not any(address in network for network in CLOSED_4)


class ImageFetcher:
    """All fetches of one process."""

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
        self._places = BoundedSemaphore(AT_ONCE)
        # A look-up cannot be interrupted. In the hub's resolver those of a hostile name server would keep the
        # vendors' names waiting.
        self._names = ThreadPool(AT_ONCE)

    def fetch(self, url: str, watch: AbstractContextManager) -> FileContent:
        """The body that the URL leads to. Raises what `presence` throws in, and

        BadRequest for whatever is wrong with the URL or its host; Overloaded when no fetch ended in time for this one
        to begin; UpstreamError when the outbound proxy failed, which is not the caller's doing.
        """
        target, bounds = _read_url(url), _Bounds(self._timeout_s)
        with watch:
            has_place = self._places.acquire(timeout=self._timeout_s)
        if not has_place:
            raise Overloaded(f"{AT_ONCE} images are being fetched in this worker")
        try:
            return self._fetch(target, bounds, watch)
        finally:
            self._places.release()

    def _fetch(self, target: Url, bounds: "_Bounds", watch: AbstractContextManager) -> FileContent:
        # Timeouts of a socket run per system call; this one also ends a look-up, or a handshake that trickles in.
        alarm = gevent.Timeout.start_new(bounds.left_s())
        try:
            return self._follow(target, bounds, watch)
        except error_mapping.LIBRARY_ERRORS as fault:
            # `from None`: the chained text would be printed with a traceback.
            raise _told(fault, bounds) from None
        except gevent.Timeout as fault:
            if fault is not alarm:
                raise
            raise bounds.late() from None
        finally:
            alarm.close()

    def _follow(self, target: Url, bounds: "_Bounds", watch: AbstractContextManager) -> FileContent:
        for _ in range(MAX_REDIRECTS + 1):
            with self._ask(target, bounds, watch) as response:
                if response.status not in REDIRECTS:
                    return self._read(response, bounds, watch)
                location = response.headers.get("location")
            target = _redirected(target, location)
        raise _bad(f"more than {MAX_REDIRECTS} redirects")

    @contextmanager
    def _ask(self, target: Url, bounds: "_Bounds", watch: AbstractContextManager) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer's head, over a connection of its own that ends with it."""
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
        """A connection to the first address that takes one; each gets an equal share of the time."""
        addresses = self._resolve(target, watch)
        for at, address in enumerate(addresses):
            connection = self._connection(target, address)
            opened.callback(connection.close)
            connection.timeout = bounds.left_s() / (len(addresses) - at)
            connection.response_class = functools.partial(_response, bounds=bounds, opened=opened)
            try:
                with watch:
                    connection.connect()
            except ConnectTimeoutError as fault:  # which urllib3's NewConnectionError is as well
                if self._is_of_the_proxy(fault):
                    raise ProxyError("", fault) from None
            except BaseException as fault:
                # A handshake that is broken off leaves its socket open in a frame, and the fault holds all frames.
                traceback.clear_frames(fault.__traceback__)
                raise
            else:
                return connection
        raise _bad("the host takes no connection")

    def _resolve(self, target: Url, watch: AbstractContextManager) -> list[str]:
        """Addresses to connect to. One that is not public spoils all: such a name is made to get past a check."""
        with watch:
            found = self._names.apply(_look_up, (target.host.strip("[]"), _port(target)))
        if not found:
            raise _bad("the host cannot be resolved")
        if not all(self._is_public(ip_address(address)) for address in found):
            raise _bad("the address is not public")
        return found[:MAX_ADDRESSES]

    def _connection(self, target: Url, address: str) -> HTTPConnection:
        """Not yet connected: to the address, in the name of the host."""
        port, options = _port(target), {}
        if target.scheme == "https":
            # Not `assert_hostname`: for that, urllib3 would switch off the check in the context that all calls share.
            name = target.host.rstrip(".")
            options = {"ssl_context": self._tls, "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": name}
        if self._socks:
            return THROUGH_SOCKS[target.scheme](host=address, port=port, **self._socks, **options)
        if self._proxy:
            return self._tunnel(target.scheme, address, port, options)
        return DIRECT[target.scheme](address, port, **options)

    def _tunnel(self, scheme: str, address: str, port: int, options: dict) -> HTTPConnection:
        """CONNECT for plain HTTP as well: a proxy that is given a whole URL would exchange the host for the address."""
        proxy = self._proxy
        if (scheme, proxy.scheme) == ("http", "https"):
            raise _bad("an http URL cannot be fetched through the outbound proxy; use https")
        trust = ProxyConfig(self._tls, False, None, None)
        at = proxy.port or port_by_scheme[proxy.scheme]
        connection = DIRECT[scheme](proxy.host, at, proxy=proxy, proxy_config=trust, **options)
        login = make_headers(proxy_basic_auth=proxy.auth_decoded_joined) if proxy.auth else {}
        connection.set_tunnel(address, port, login, scheme=proxy.scheme)
        return connection

    def _is_of_the_proxy(self, fault: ConnectTimeoutError) -> bool:
        if self._socks:
            cause = fault.__context__
            return isinstance(cause, socks.ProxyConnectionError | socks.SOCKS5AuthError | socket.gaierror)
        return self._proxy is not None

    def _read(
        self, response: urllib3.BaseHTTPResponse, bounds: "_Bounds", watch: AbstractContextManager
    ) -> FileContent:
        if response.status != 200:
            raise _bad(f"the host answered {response.status}")
        # Not asked for, and a small body could become a huge one.
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise _bad("the body is compressed")
        if (response.length_remaining or 0) > self._max_bytes:
            raise self._too_large()
        # Twice as much for the framing of chunks, which http.client reads without a bound, and a size of -1 to the end.
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
    """What one fetch may still take: time, and bytes off the wire."""

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
    """What http.client takes for the socket that it reads an answer from.

    Each read has the time that is left, and the other greenlets get their turn before it: a socket that always has
    more, such as an endless head, would otherwise never let go of the worker.
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
    """An answer holds its socket open; the connection lets go of it when the host says `Connection: close`."""
    return opened.enter_context(http.client.HTTPResponse(_Bounded(sock, bounds), **options))


def _pieces(response: urllib3.BaseHTTPResponse, watch: AbstractContextManager) -> Iterator[bytes]:
    while True:
        with watch:
            piece = response.read(READ_BYTES, decode_content=False)
        if not piece:
            return
        yield piece


def _read_url(text: str) -> Url:
    """Raises BadRequest for what will not be fetched, whatever its address."""
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
        raise _bad("a redirect that leads nowhere")
    try:
        found = _read_url(urljoin(target.url, location))
    except ValueError:
        raise _bad("a redirect to what is no valid URL") from None
    if (target.scheme, found.scheme) == ("https", "http"):
        raise _bad("a redirect from https to http")
    return found


def _port(target: Url) -> int:
    return target.port or port_by_scheme[target.scheme]


def _headers(target: Url) -> dict[str, str]:
    """Nothing of the caller's, and nothing that tells who asks."""
    host, port = target.host.rstrip("."), _port(target)
    return {
        "Host": host if port == port_by_scheme[target.scheme] else f"{host}:{port}",
        "User-Agent": "gproxy",
        "Accept": ", ".join(sorted(MEDIA_TYPES)),
        "Accept-Encoding": "identity",
        "Connection": "close",
    }


def _look_up(host: str, port: int) -> list[str]:
    """In a native thread, so with the function that gevent replaced. A fault would be printed past the log."""
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
    # A box of brands: the major one, a version, and those that it is compatible with.
    rest = head[16 : int.from_bytes(head[:4], "big")]
    brands = {head[8:12], *(rest[at : at + 4] for at in range(0, len(rest), 4))}
    return next((media_type for known, media_type in BRANDS if known & brands), None)


def _bad(text: str) -> BadRequest:
    return BadRequest(f"{FIELD}: {text}")


def _told(fault: BaseException, bounds: _Bounds) -> GatewayError:
    """What the host did wrong is told as a fault of the URL; only the proxy is ours."""
    if isinstance(fault, ssl.SSLError | CertificateError):
        fault = urllib3.exceptions.SSLError(fault)
    ours = error_mapping.to_upstream_error(fault)
    if isinstance(fault, ProxyError):
        return ours
    return bounds.late() if isinstance(ours, UpstreamTimeout) else _bad(ours.message.removeprefix(f"{ours.label}: "))
