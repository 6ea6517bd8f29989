"""Images that a client names by URL: what is fetched, and above all what is not."""

import base64
import datetime
import gc
import ipaddress
import logging
import os
import re
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path

import certifi
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from urllib3.connection import HTTPConnection, HTTPSConnection

from gproxy.errors import BadRequest, ClientDisconnected, GatewayError, Overloaded, UpstreamError
from gproxy.upstream.images import MAX_FETCHES, MAX_URL, FileContent, ImageFetcher, is_public

ROOT = Path(__file__).resolve().parents[2]
LITERAL = re.compile(r"[0-9a-fx.:]+")
SECRET = "sig-Zm9vYmFy"

PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 20
JPEG = b"\xff\xd8\xff\xe0" + b"picture" * 20
GIF = b"GIF89a" + b"picture" * 20
WEBP = b"RIFF\x10\0\0\0WEBPVP8 " + b"picture" * 20
PDF = b"%PDF-1.7\n" + b"paper" * 20
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"picture" * 20
HEIC_BY_COMPATIBILITY = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + b"picture" * 20
HEIF = b"\0\0\0\x14ftypmif1\0\0\0\0miafavif" + b"picture" * 20  # the last brand is behind the box
AVIF = b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1miaf" + b"picture" * 20


def answer(data: bytes = PNG, status: int = 200, **headers: str) -> bytes:
    lines = {"Content-Type": "image/png", "Content-Length": str(len(data))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status} Fine\r\n{text}\r\n".encode() + data


def moved(where: str, status: int = 302) -> bytes:
    return answer(b"elsewhere", status, Location=where)


class Listener:
    """Threads over one listening socket, closed with all its connections."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0):
        self._server = socket.create_server((host, port))
        self.port = self._server.getsockname()[1]
        self.connections = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(sock)
            self._threads.append(threading.Thread(target=self._serve, args=(sock,), daemon=True))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            self.serve(sock)
        except (OSError, ssl.SSLError):
            pass
        finally:
            sock.close()

    def close(self) -> None:
        """Each thread closes its own socket: one that is closed under it could be another's by then."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(5)
        self._server.close()
        for sock in self._open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(5)


def read_head(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionResetError
        data += piece
    return data


class Site(Listener):
    """A web server. `pages` has what a path answers: bytes, or what is to be done with the socket."""

    def __init__(self, *place, tls: ssl.SSLContext | None = None):
        self.pages: dict[str, bytes | Callable[[socket.socket], None]] = {"/a.png": answer()}
        self.heads: list[str] = []
        self.left = threading.Event()  # a client that hung up before all was sent
        self._tls = tls
        super().__init__(*place)

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def serve(self, sock: socket.socket) -> None:
        if self._tls:
            with self._tls.wrap_socket(sock, server_side=True) as secure:
                self._answer(secure)
        else:
            self._answer(sock)

    def _answer(self, sock: socket.socket) -> None:
        head = read_head(sock).decode("latin-1")
        self.heads.append(head)
        page = self.pages[head.split(" ")[1].partition("?")[0]]
        try:
            if callable(page):
                page(sock)
            else:
                sock.sendall(page)
        except OSError:
            self.left.set()

    def said(self, name: str) -> str | None:
        """A header of the last request."""
        lines = dict(line.split(": ", 1) for line in self.heads[-1].split("\r\n")[1:] if line)
        return lines.get(name)


def pause(sock: socket.socket, seconds: float) -> None:
    """Ends early when the client hangs up: it sends no second request."""
    if select.select([sock], [], [], seconds)[0]:
        raise ConnectionResetError


def sends(*steps: bytes | float) -> Callable[[socket.socket], None]:
    def page(sock):
        for step in steps:
            sock.sendall(step) if isinstance(step, bytes) else pause(sock, step)

    return page


def repeats(first: bytes, piece: bytes, pause_s: float = 0.0) -> Callable[[socket.socket], None]:
    """For ever, until the client hangs up."""

    def page(sock):
        sock.sendall(first)
        while True:
            sock.sendall(piece)
            pause(sock, pause_s)

    return page


def hangs(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass
    raise ConnectionResetError


class Relay(Listener):
    """An outbound proxy that records each requested target and connects to it."""

    def __init__(self, refuses: bytes = b""):
        self.targets: list[str] = []
        self.logins: list[str | None] = []
        self._refuses = refuses
        super().__init__()

    def serve(self, sock: socket.socket) -> None:
        target = self.negotiate(sock)
        if target is None:
            return
        with socket.create_connection(target) as far:
            while True:
                for ready in select.select([sock, far], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    (far if ready is sock else sock).sendall(data)


class Tunnel(Relay):
    """By CONNECT."""

    def negotiate(self, sock):
        lines = read_head(sock).decode().split("\r\n")
        method, target, _ = lines[0].split(" ")
        self.targets.append(f"{method} {target}")
        login = [line.partition(" ")[2] for line in lines if line.lower().startswith("proxy-authorization:")]
        self.logins.append(login[0] if login else None)
        sock.sendall(self._refuses or b"HTTP/1.1 200 Connected\r\nVia: us\r\n\r\n")
        host, _, port = target.rpartition(":")
        return None if self._refuses else (host, int(port))


class Socks(Relay):
    """By SOCKS 5, to IPv4 addresses; a name is noted as such."""

    def negotiate(self, sock):
        sock.recv(64)
        sock.sendall(b"\5\0")
        connect_request = sock.recv(512)
        if connect_request[3] != 1:
            self.targets.append(f"kind {connect_request[3]}")
            return None
        host, port = socket.inet_ntoa(connect_request[4:8]), int.from_bytes(connect_request[8:10], "big")
        self.targets.append(f"{host}:{port}")
        sock.sendall(self._refuses or b"\5\0\0\1\0\0\0\0\0\0")
        return None if self._refuses else (host, port)


class Waits:
    """A watch that counts the waits, and throws something in at one of them."""

    def __init__(self, at: int = 0, fault: BaseException | None = None):
        self.count, self.is_inside = 0, False
        self._at, self._fault = at, fault

    def __enter__(self):
        assert not self.is_inside
        self.count += 1
        if self.count == self._at:
            raise self._fault
        self.is_inside = True

    def __exit__(self, *_):
        self.is_inside = False


def certificate(folder: Path, name: str) -> Path:
    """A certificate for one host name that is its own authority, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    plain = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return path


TLS = ssl.create_default_context(cafile=certifi.where())


def is_here(address) -> bool:
    """For tests the one public address is this one: neighbours such as 127.0.0.2 are private."""
    return str(address) == "127.0.0.1"


def make(tls: ssl.SSLContext = TLS, **options) -> ImageFetcher:
    return ImageFetcher(tls, **{"is_public": is_here, "timeout_s": 5.0, "max_bytes": 100_000, **options})


def fetch(url: str, watch=None, **options) -> FileContent:
    return make(**options).fetch(url, watch or nullcontext())


def refused(url: str, watch=None, **options) -> str:
    """Why, without our own label."""
    with pytest.raises(BadRequest) as caught:
        fetch(url, watch, **options)
    assert caught.value.status == 400
    assert caught.value.message.startswith("invalid_request: image_url: ")
    assert caught.value.__cause__ is None
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return caught.value.message.removeprefix("invalid_request: image_url: ")


@pytest.fixture(autouse=True)
def _nothing_is_left_open():
    gc.freeze()  # what all the other tests made needs no look: it takes most of a second
    yield
    gc.collect()  # a socket that nobody closed warns here, and a warning is an error
    gc.unfreeze()


@pytest.fixture
def opened():
    """What is opened here is closed afterwards."""
    found: list[Listener] = []

    def note(listener):
        found.append(listener)
        return listener

    yield note
    for listener in found:
        listener.close()


@pytest.fixture
def site(opened) -> Site:
    return opened(Site())


@pytest.fixture
def names(monkeypatch) -> dict[str, list[str]]:
    """What names stand for; a list of lists is one answer after the other. Numbers stand for themselves."""
    table: dict = {}
    real = socket.getaddrinfo

    def look_up(host, port, *args, **kwargs):
        if LITERAL.fullmatch(host):
            return real(host, port, *args, **kwargs)
        if host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        found = table[host]
        if isinstance(found[0], list):
            found = table[host].pop(0)
        return [one for address in found for one in real(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return table


@pytest.fixture
def unreachable(monkeypatch):
    """Fails a test that would connect to anything."""

    def connect(self):
        raise AssertionError(f"connects to {self.host}")

    monkeypatch.setattr(HTTPConnection, "connect", connect)
    monkeypatch.setattr(HTTPSConnection, "connect", connect)


# Addresses

PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255"),
    *("127.0.0.1", "127.255.255.254", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255"),
    *("192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "192.168.255.255", "198.18.0.1"),
    *("198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
    *("255.255.255.255", "168.63.129.16"),
    *("::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::8.8.8.8"),
    *("100::1", "2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1"),
    *("2002:7f00:1::1", "2002:a00:1::1", "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254"),
    *("fd20:ce::254", "fe80::1", "fe80::a9fe:a9fe", "fe80::5efe:7f00:1", "fec0::1", "ff02::1", "4000::1"),
]
PUBLIC = [
    *("1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "126.255.255.255", "128.0.0.1", "169.253.255.255"),
    *("172.15.255.255", "172.32.0.1", "192.0.1.1", "192.167.1.1", "198.17.1.1", "223.255.255.255"),
    *("2001:4860:4860::8888", "2606:4700:4700::1111", "2a00:1450:4001::1", "64:ff9b::8.8.8.8"),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_refused(address, unreachable):
    assert not is_public(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    for scheme in ("http", "https"):
        for port in ("", ":8080"):
            url = f"{scheme}://{host}{port}/a.png"
            assert refused(url, is_public=is_public) == "the address is not public"


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_open_internet_is_public(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "host",
    [
        *("2130706433", "0x7f000001", "0x7F.1", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.1", "127.0.1"),
        *("0", "0x0", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "3232235521", "[::ffff:7f00:1]"),
        *("[0:0:0:0:0:ffff:127.0.0.1]", "[0000::1]", "[::]", "localhost", "LOCALHOST"),
    ],
)
def test_no_spelling_of_a_private_address_gets_past(host, unreachable):
    assert refused(f"http://{host}/", is_public=is_public) == "the address is not public"


def test_one_private_address_spoils_a_name(names, unreachable):
    for found in (["8.8.8.8", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"], ["8.8.8.8", "2606:4700::1", "::1"]):
        names["mixed.test"] = found
        assert refused("http://mixed.test/a.png", is_public=is_public) == "the address is not public"
    names["many.test"] = [f"8.8.8.{n}" for n in range(20)] + ["127.0.0.1"]
    assert refused("https://many.test/a.png", is_public=is_public) == "the address is not public"


def test_a_name_of_a_metadata_service_stands_for_what_is_not_public(names, unreachable):
    names["metadata.google.internal"] = ["169.254.169.254"]
    url = "http://metadata.google.internal/computeMetadata/v1/"
    assert refused(url, is_public=is_public) == "the address is not public"


def test_the_address_that_was_checked_is_the_one_that_is_used(names, opened, site):
    neighbour = opened(Site("127.0.0.2", site.port))
    names["rebound.test"] = [["127.0.0.1"], ["127.0.0.2"]]
    assert fetch(f"http://rebound.test:{site.port}/a.png").data == PNG
    assert site.said("Host") == f"rebound.test:{site.port}"
    assert (site.connections, neighbour.connections) == (1, 0)
    assert names["rebound.test"] == [["127.0.0.2"]]
    assert refused(f"http://rebound.test:{site.port}/a.png") == "the address is not public"
    assert neighbour.connections == 0


def test_the_next_address_is_tried_when_one_takes_no_connection(names, opened):
    site = opened(Site("127.0.0.2"))
    names["two.test"] = ["127.0.0.1", "127.0.0.2"]
    url = f"http://two.test:{site.port}/a.png"
    assert fetch(url, is_public=lambda address: True).data == PNG


def test_an_address_that_is_silent_leaves_time_for_the_next(names, opened):
    site = opened(Site("127.0.0.2"))
    names["two.test"] = ["127.0.0.1", "127.0.0.2"]
    with socket.create_server(("127.0.0.1", site.port), backlog=0) as full, ExitStack() as waiting:
        for _ in range(4):  # what the queue cannot hold is dropped, as by a firewall
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        found = fetch(f"http://two.test:{site.port}/a.png", is_public=lambda address: True, timeout_s=2.0)
    assert found.data == PNG


def test_a_host_that_takes_no_connection(site):
    site.close()
    assert refused(f"{site.url}/a.png") == "the host accepts no connection"


# URLs


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("file:///etc/passwd", "the scheme is neither http nor https"),
        ("ftp://127.0.0.1/a.png", "the scheme is neither http nor https"),
        ("gopher://127.0.0.1/_GET", "the scheme is neither http nor https"),
        ("data:image/png;base64,AAAA", "the scheme is neither http nor https"),
        ("unix:///run/docker.sock", "the scheme is neither http nor https"),
        ("//127.0.0.1/a.png", "the scheme is neither http nor https"),
        ("127.0.0.1/a.png", "the scheme is neither http nor https"),
        ("", "the scheme is neither http nor https"),
        (f"http://user:{SECRET}@127.0.0.1/", "the URL holds credentials"),
        (f"https://{SECRET}@127.0.0.1/", "the URL holds credentials"),
        ("http://8.8.8.8@127.0.0.1/", "the URL holds credentials"),
        ("http://", "the host is missing, or no valid name"),
        ("http:///a.png", "the host is missing, or no valid name"),
        ("http:127.0.0.1", "the host is missing, or no valid name"),
        (f"http://?{SECRET}", "the host is missing, or no valid name"),
        ("http://./", "the host is missing, or no valid name"),
        ("http://[fe80::1%25lo]/", "the host is missing, or no valid name"),
        ("http://127.0.0.1%2f.test/", "the host is missing, or no valid name"),
        ("http://[127.0.0.1]/", "not a valid URL"),
        ("http://[::1/", "not a valid URL"),
        ("http://127.0.0.1:99999/", "not a valid URL"),
        ("http://127.0.0.1:-80/", "not a valid URL"),
        ("http://127.0.0.1:0/", "the port is not valid"),
        ("http://①②⑦.0.0.1/", "not a valid URL"),
        ("http://\ud800/", "not a valid URL"),
        ("http://127.0.0.1 .test/", "not a valid URL"),
        (
            f"http://127.0.0.1/{SECRET} HTTP/1.1",
            "not a valid URL: it holds a space, a control character or a backslash",
        ),
        ("http://127.0.0.1/\r\nX: y", "not a valid URL: it holds a space, a control character or a backslash"),
        ("http://8.8.8.8\\@127.0.0.1/", "not a valid URL: it holds a space, a control character or a backslash"),
        ("http://127.0.0.1/" + "a" * MAX_URL, f"the URL is longer than {MAX_URL} characters"),
        ("http://nowhere.test/", "the host cannot be resolved"),
        ("http://a..test/", "the host cannot be resolved"),
        (f"http://{'a' * 70}.test/", "the host cannot be resolved"),
    ],
)
def test_a_url_that_is_not_fetched(url, text, names, unreachable):
    assert refused(url) == text


def test_a_url_is_sent_as_it_is_meant(site, names):
    names["bilder.test."] = names["xn--bcher-kva.test"] = ["127.0.0.1"]
    site.pages["/a%20%C3%BC.png"] = answer()
    assert fetch(f"http://127.0.0.1:{site.port}/a%20ü.png?q={SECRET}&r=ü#part").data == PNG
    assert site.heads[-1].startswith(f"GET /a%20%C3%BC.png?q={SECRET}&r=%C3%BC HTTP/1.1\r\n")
    assert fetch(f"HTTP://Bilder.Test.:{site.port}/a.png").data == PNG
    assert site.said("Host") == f"bilder.test:{site.port}"
    assert fetch(f"http://bücher.test:{site.port}/a.png").data == PNG
    assert site.said("Host") == f"xn--bcher-kva.test:{site.port}"


def test_nothing_of_the_caller_or_of_us_is_sent_along(site):
    site.pages["/first"] = answer(b"", 302, Location="/a.png", Set_Cookie="a=b; Path=/")
    fetch(f"{site.url}/first")
    for head in site.heads:
        lines = [line.partition(":")[0] for line in head.split("\r\n")[1:] if line]
        assert sorted(lines) == ["Accept", "Accept-Encoding", "Connection", "Host", "User-Agent"]
    assert site.said("User-Agent") == "gproxy"
    assert site.said("Accept-Encoding") == "identity"
    assert site.connections == 2


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(site, opened, status):
    other = opened(Site())
    site.pages["/far"] = moved(f"{other.url}/a.png?x=1", status)
    site.pages["/near"] = moved("a.png", status)
    assert fetch(f"{site.url}/far").data == PNG
    assert other.heads[-1].startswith("GET /a.png?x=1 ")
    assert fetch(f"{site.url}/near").data == PNG


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("http://127.0.0.2/a.png", "the address is not public"),
        ("//127.0.0.2/a.png", "the address is not public"),
        ("http://169.254.169.254/latest/meta-data/", "the address is not public"),
        ("http://[::1]/", "the address is not public"),
        ("http://2130706434/", "the address is not public"),
        ("https://private.test/", "the address is not public"),
        ("http://nowhere.test/", "the host cannot be resolved"),
        ("file:///etc/passwd", "the scheme is neither http nor https"),
        ("javascript:alert(1)", "the scheme is neither http nor https"),
        (f"http://user:{SECRET}@127.0.0.1/", "the URL holds credentials"),
        ("http://[", "a redirect to an invalid URL"),
        ("http://127.0.0.1:99999/", "not a valid URL"),
        ("", "a redirect without a location"),
        ("/" + "a" * MAX_URL, f"the URL is longer than {MAX_URL} characters"),
    ],
)
def test_a_redirect_is_checked_like_a_first_url(site, names, where, text):
    names["private.test"] = ["127.0.0.1", "10.0.0.1"]
    site.pages["/first"] = moved(where)
    assert refused(f"{site.url}/first") == text
    assert site.connections == 1


def test_the_number_of_redirects_is_limited(site):
    site.pages |= {"/loop": moved("/loop")}
    assert refused(f"{site.url}/loop") == "more than 3 redirects"
    assert site.connections == 4
    for n in range(4):
        site.pages[f"/{n}"] = moved(f"/{n - 1}" if n else "/a.png")
    assert fetch(f"{site.url}/2").data == PNG
    assert refused(f"{site.url}/3") == "more than 3 redirects"


def test_what_a_redirect_says_besides_is_not_read(site):
    site.pages["/first"] = repeats(answer(b"", 302, Location="/a.png", Content_Length=""), b"x" * 65536)
    assert fetch(f"{site.url}/first").data == PNG
    assert site.left.wait(5)


# Size


def test_a_body_of_the_most_bytes_is_fetched_and_not_one_more(site):
    for size, is_fine in ((100_000, True), (100_001, False)):
        data = PNG.ljust(size, b"x")
        chunks = b"".join(
            b"%x\r\n%b\r\n" % (len(data[at : at + 9000]), data[at : at + 9000]) for at in range(0, size, 9000)
        )
        site.pages |= {
            "/length": answer(data),
            "/close": answer(data, Content_Length=""),
            "/chunked": answer(b"", Content_Length="", Transfer_Encoding="chunked") + chunks + b"0\r\n\r\n",
        }
        for page in ("/length", "/close", "/chunked"):
            if is_fine:
                assert fetch(site.url + page) == FileContent("image/png", data)
            else:
                assert refused(site.url + page) == "larger than 100000 bytes"


def test_a_length_is_believed_before_anything_is_read(site):
    site.pages["/huge"] = sends(answer(b"", Content_Length=str(10**15)), 30.0)
    started = time.monotonic()
    assert refused(f"{site.url}/huge") == "larger than 100000 bytes"
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    ("first", "piece", "text"),
    [
        (answer(PNG, Content_Length=""), b"x" * 65536, "larger than 100000 bytes"),
        # The library takes a size of -1 for all there is.
        (
            answer(b"", Content_Length="", Transfer_Encoding="chunked") + b"-1\r\n",
            b"x" * 65536,
            "the answer is larger than it may be",
        ),
        (
            answer(b"", Content_Length="", Transfer_Encoding="chunked"),
            b"1;" + b"e" * 30000 + b"\r\nx\r\n",
            "the answer is larger than it may be",
        ),
        (
            answer(b"", Content_Length="", Transfer_Encoding="chunked") + b"1\r\nx\r\n0\r\n",
            b"Trailer: x\r\n" * 1000,
            "the answer is larger than it may be",
        ),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, "the answer is larger than it may be"),
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 20000 + b"\r\n", "the answer is larger than it may be"),
    ],
    ids=["body", "chunk", "chunk extensions", "trailers", "interim answers", "head"],
)
def test_what_never_ends_is_given_up(site, first, piece, text):
    site.pages["/endless"] = repeats(first, piece)
    started = time.monotonic()
    assert refused(f"{site.url}/endless", timeout_s=20) == text
    assert time.monotonic() - started < 5
    assert site.left.wait(5)


# Time


@pytest.mark.parametrize(
    "page",
    [
        hangs,
        sends(b"HTTP/1.1 200 O", 30.0),
        sends(answer(b"", Content_Length="500") + PNG, 30.0),
        repeats(b"", b"H", 0.02),
        repeats(b"HTTP/1.1 200 OK\r\nX: ", b"y", 0.02),
        repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
        repeats(answer(b"", Content_Length="50000") + PNG, b"x", 0.02),
        repeats(answer(PNG, Content_Length=""), b"x", 0.02),
        repeats(answer(b"", Content_Length="", Transfer_Encoding="chunked"), b"1\r\nx\r\n", 0.02),
    ],
    ids=[
        *("silence", "half a head", "half a body", "head", "header", "interim answers", "body", "open body", "chunks"),
    ],
)
def test_the_time_is_for_all_of_it(site, page):
    site.pages["/slow"] = page
    started = time.monotonic()
    assert refused(f"{site.url}/slow", timeout_s=0.5) == "not fetched within 0.5 s"
    assert 0.4 < time.monotonic() - started < 1.5
    assert page.__name__ != "repeats" or site.left.wait(5)


def test_redirects_share_the_time(site):
    for n in range(3):
        site.pages[f"/{n}"] = sends(0.3, moved(f"/{n + 1}"))
    started = time.monotonic()
    assert refused(f"{site.url}/0", timeout_s=0.5) == "not fetched within 0.5 s"
    assert 0.4 < time.monotonic() - started < 1.5


def test_time_that_was_spent_is_not_given_again(site):
    site.pages["/slow"] = sends(0.8, answer(b"", Content_Length="500") + PNG, 30.0)
    started = time.monotonic()
    assert refused(f"{site.url}/slow", timeout_s=1.0) == "not fetched within 1 s"
    assert 0.9 < time.monotonic() - started < 1.5


def test_a_look_up_counts(monkeypatch, unreachable):
    done = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: done.wait(20) and [])
    started = time.monotonic()
    try:
        assert refused("http://slow.test/a.png", timeout_s=0.5) == "not fetched within 0.5 s"
    finally:
        done.set()
    assert 0.4 < time.monotonic() - started < 1.5


def test_a_handshake_counts(opened):
    class Silent(Listener):
        serve = staticmethod(hangs)

    silent = opened(Silent())
    started = time.monotonic()
    assert refused(f"https://127.0.0.1:{silent.port}/a.png", timeout_s=0.5) == "not fetched within 0.5 s"
    assert 0.4 < time.monotonic() - started < 1.5


# Content


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (PNG, "image/png"),
        (JPEG, "image/jpeg"),
        (GIF, "image/gif"),
        (GIF.replace(b"89a", b"87a"), "image/gif"),
        (WEBP, "image/webp"),
        (HEIC, "image/heic"),
        (HEIC_BY_COMPATIBILITY, "image/heic"),
        (HEIF, "image/heif"),
        (PDF, "application/pdf"),
    ],
)
@pytest.mark.parametrize("declared", ["", "image/jpeg", "text/html", "application/octet-stream"])
def test_a_body_is_what_its_first_bytes_say(site, data, media_type, declared):
    site.pages["/it"] = answer(data, Content_Type=declared)
    assert fetch(f"{site.url}/it") == FileContent(media_type, data)


@pytest.mark.parametrize("declared", ["image/png", "IMAGE/PNG ; charset=binary"])
def test_a_body_that_says_nothing_is_what_its_header_says(site, declared):
    site.pages["/it"] = answer(b"a dialect of its own", Content_Type=declared)
    assert fetch(f"{site.url}/it") == FileContent("image/png", b"a dialect of its own")


@pytest.mark.parametrize(
    ("data", "declared"),
    [
        (b"<!doctype html><title>Log in</title>", "text/html; charset=utf-8"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
        (b'{"secret": 1}', "application/json"),
        (b"bytes", "application/octet-stream"),
        (b"bytes", ""),
        (b"RIFF\x10\0\0\0WAVEfmt ", "audio/wav"),
        (AVIF, "image/heif"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "video/mp4"),
        (b"\0\0\0\0ftyp", ""),
    ],
)
def test_what_is_no_image_is_refused(site, data, declared):
    site.pages["/it"] = answer(data, Content_Type=declared)
    assert refused(f"{site.url}/it") == "neither a JPEG, PNG, GIF, WebP, HEIC or HEIF image nor a PDF"


def test_what_is_no_image_is_not_read_to_its_end(site):
    site.pages["/film"] = repeats(answer(b"", Content_Type="video/mp4", Content_Length="90000"), b"x" * 70000, 20)
    started = time.monotonic()
    assert "neither" in refused(f"{site.url}/film")
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZIP", "identity, gzip", "x-unknown"])
def test_a_compressed_body_is_refused(site, coding):
    site.pages["/it"] = answer(PNG, Content_Encoding=coding)
    assert refused(f"{site.url}/it") == "the body is compressed"


def test_identity_is_no_compression(site):
    site.pages["/it"] = answer(PNG, Content_Encoding="Identity")
    assert fetch(f"{site.url}/it").data == PNG


@pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 401, 403, 404, 429, 500, 503])
def test_only_200_is_an_image(site, status):
    site.pages["/it"] = answer(PNG, status)
    assert refused(f"{site.url}/it") == f"the host answered {status}"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (answer(b""), "the body is empty"),
        (answer(PNG, Content_Length="5000"), "the connection broke"),
        (answer(b"", Content_Length="", Transfer_Encoding="chunked") + b"5\r\nab", "the connection broke"),
        (answer(b"", Content_Length="", Transfer_Encoding="chunked") + b"what\r\n", "the connection broke"),
        (answer(PNG, Content_Length="5, 6"), "the connection broke"),
        (b"", "the answer is not HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n", "the answer is not HTTP"),
    ],
)
def test_a_broken_answer_is_the_callers_to_know(site, page, text):
    site.pages["/it"] = page
    assert refused(f"{site.url}/it") == text


def test_no_url_is_shown_or_logged(site, caplog):
    caplog.set_level(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # as gproxy.logs has it
    site.pages["/it"] = b"HTTP/1.1 200 OK\r\nno header\r\nContent-Type: text/html\r\n\r\nnothing"
    for query in ("/it", "/a.png"):
        try:
            fetch(f"{site.url}{query}?{SECRET}")
        except BadRequest as fault:
            assert SECRET not in "".join(traceback.format_exception(fault))
    assert SECRET not in caplog.text


# TLS


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A site that proves to be pictures.test, and the context of one that believes it."""
    path = certificate(tmp_path_factory.mktemp("tls"), "pictures.test")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(path)
    server_names = []
    server.sni_callback = lambda sock, name, context: server_names.append(name)
    site = Site(tls=server)
    site.server_names = server_names
    yield site, ssl.create_default_context(cafile=path)
    site.close()


def test_a_host_proves_its_name(secured, names):
    site, tls = secured
    names["pictures.test"] = names["pictures.test."] = ["127.0.0.1"]
    for host in ("pictures.test", "Pictures.Test."):
        assert fetch(f"https://{host}:{site.port}/a.png", tls=tls) == FileContent("image/png", PNG)
        assert site.server_names[-1] == "pictures.test"
        assert site.said("Host") == f"pictures.test:{site.port}"


@pytest.mark.parametrize("host", ["other.test", "127.0.0.1", "2130706433", "sub.pictures.test"])
def test_a_host_of_another_name_is_refused(secured, names, host):
    site, tls = secured
    names[host] = ["127.0.0.1"]
    before = len(site.heads)
    assert refused(f"https://{host}:{site.port}/a.png", tls=tls) == "TLS failed"
    assert len(site.heads) == before
    assert tls.check_hostname  # of a context that all calls share
    assert tls.verify_mode == ssl.CERT_REQUIRED


def test_a_certificate_that_nobody_signed_is_refused(secured, names):
    site, _ = secured
    names["pictures.test"] = ["127.0.0.1"]
    assert refused(f"https://pictures.test:{site.port}/a.png") == "TLS failed"


def test_plain_http_is_no_tls(opened):
    class Plain(Listener):
        def serve(self, sock):
            sock.recv(65536)
            sock.sendall(answer(b"speak plainly", 400))

    assert refused(f"https://127.0.0.1:{opened(Plain()).port}/a.png") == "TLS failed"


def test_a_redirect_may_secure_and_not_lay_open(secured, names, site):
    secure, tls = secured
    names["pictures.test"] = ["127.0.0.1"]
    site.pages["/up"] = moved(f"https://pictures.test:{secure.port}/a.png")
    assert fetch(f"{site.url}/up", tls=tls).data == PNG
    secure.pages["/down"] = moved(f"{site.url}/a.png")
    before = site.connections
    assert refused(f"https://pictures.test:{secure.port}/down", tls=tls) == "a redirect from https to http"
    assert site.connections == before


@pytest.mark.parametrize("page", [hangs, repeats(b"", b"H", 0.02), repeats(answer(PNG, Content_Length=""), b"x", 0.02)])
def test_the_time_holds_over_tls(secured, names, page):
    site, tls = secured
    names["pictures.test"] = ["127.0.0.1"]
    site.pages["/slow"] = page
    started = time.monotonic()
    url = f"https://pictures.test:{site.port}/slow"
    assert refused(url, tls=tls, timeout_s=0.5) == "not fetched within 0.5 s"
    assert 0.4 < time.monotonic() - started < 1.5


# Proxies


@pytest.mark.parametrize("kind", ["http", "socks5", "socks5h"])
def test_a_proxy_is_given_the_checked_address(opened, site, secured, names, kind):
    secure, tls = secured
    proxy = opened(Tunnel() if kind == "http" else Socks())
    names["pictures.test"] = [["127.0.0.1"], ["127.0.0.1"], ["127.0.0.2"]]
    images = make(tls, proxy=f"{kind}://127.0.0.1:{proxy.port}")
    for there in (site, secure):
        scheme = there.url.partition(":")[0]
        assert images.fetch(f"{scheme}://pictures.test:{there.port}/a.png", nullcontext()).data == PNG
        assert there.said("Host") == f"pictures.test:{there.port}"
        assert proxy.targets[-1] == f"{'CONNECT ' if kind == 'http' else ''}127.0.0.1:{there.port}"
    with pytest.raises(BadRequest, match="the address is not public"):
        images.fetch(f"https://pictures.test:{secure.port}/a.png", nullcontext())
    assert len(proxy.targets) == 2


def test_a_proxy_gets_our_credentials_and_the_host_does_not(opened, site):
    proxy = opened(Tunnel())
    assert fetch(f"{site.url}/a.png", proxy=f"http://me:a%40b@127.0.0.1:{proxy.port}").data == PNG
    assert proxy.logins == ["Basic " + base64.b64encode(b"me:a@b").decode()]
    assert site.said("Proxy-Authorization") is None


@pytest.mark.parametrize("kind", ["http", "https", "socks5", "socks5h", "socks4"])
def test_a_proxy_that_is_not_there_is_not_the_callers_fault(opened, kind):
    gone = opened(Listener())
    gone.close()
    with pytest.raises(UpstreamError) as caught:
        fetch("https://127.0.0.1/a.png", proxy=f"{kind}://me:{SECRET}@127.0.0.1:{gone.port}")
    assert caught.value.message == "upstream_error: the outbound proxy failed"
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_host_that_a_proxy_does_not_reach_is(opened):
    # A caller who could make the proxy look broken could make every channel behind it look so.
    tunnel = opened(Tunnel(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"))
    assert refused("http://127.0.0.1/a.png", proxy=f"http://127.0.0.1:{tunnel.port}") == "the connection broke"
    relay = opened(Socks(b"\5\5\0\1\0\0\0\0\0\0"))
    assert (
        refused("http://127.0.0.1/a.png", proxy=f"socks5://127.0.0.1:{relay.port}") == "the host accepts no connection"
    )


def test_plain_http_does_not_pass_a_proxy_over_tls(unreachable):
    text = refused("http://127.0.0.1/a.png", proxy="https://127.0.0.1:9")
    assert text == "an http URL cannot be fetched through the outbound proxy; use https"


# The client, and the others


def test_every_wait_is_one_that_a_leaving_client_ends(site):
    site.pages["/first"] = moved("/a.png")
    waits = Waits()
    fetch(f"{site.url}/first", waits)
    # A place; twice a look-up, a connection and a head; the body and its end.
    assert waits.count == 1 + 2 * 3 + 2
    for at in range(1, waits.count + 1):
        images, gone = make(), ClientDisconnected()
        with pytest.raises(ClientDisconnected) as caught:
            images.fetch(f"{site.url}/first", Waits(at, gone))
        assert caught.value is gone
        gc.collect()
        assert images.fetch(f"{site.url}/a.png", nullcontext()).data == PNG


def test_what_a_watch_throws_is_never_taken_for_a_fault_of_the_host(site):
    fault = Overloaded("the worker stops")
    for at in range(1, 6):
        with pytest.raises(GatewayError) as caught:
            fetch(f"{site.url}/a.png", Waits(at, fault))
        assert caught.value is fault


def test_a_place_is_given_back_whatever_happens(site):
    images = make(max_bytes=10)
    for _ in range(3 * MAX_FETCHES):
        with pytest.raises(BadRequest, match="larger than 10 bytes"):
            images.fetch(f"{site.url}/a.png", nullcontext())


# The rest holds only where gevent has patched, as in a worker; pytest's own process is not.

WORKER = """
from gevent import monkey; monkey.patch_all()
import contextlib, gc, os, ssl, sys, time
import gevent, certifi
from gproxy.errors import ClientDisconnected, GatewayError
from gproxy.relay.disconnect import DisconnectWatch
from gproxy.upstream.images import ImageFetcher

url, action = sys.argv[1:]
images = ImageFetcher(ssl.create_default_context(cafile=certifi.where()), timeout_s=1.0, is_public=lambda address: True)
longest, last = 0, time.monotonic()

def sockets():
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink("/proc/self/fd/" + name).startswith("socket:")
    return found

def tick():
    global longest, last
    while True:
        gevent.sleep(0.005)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()

def fetch():
    started = time.monotonic()
    watch = DisconnectWatch(None)
    if action == "leave":
        gevent.spawn_later(0.2, watch.interrupt, ClientDisconnected())
    try:
        text = images.fetch(url, watch).media_type
    except ClientDisconnected:
        text = "gone"
    except GatewayError as fault:
        text = fault.message
        faults.append(fault)
    return f"{time.monotonic() - started:.2f} {text}"

gc.disable()
faults, before = [], sockets()
gevent.spawn(tick)
for one in gevent.joinall([gevent.spawn(fetch) for _ in range(20 if action == "crowd" else 1)]):
    print(one.value)
gevent.sleep(0.02)
print(f"{longest:.2f} longest")
sys.exit(sockets() - before)
"""


def in_a_worker(url: str, function: str = "fetch") -> list[tuple[float, str]]:
    """How long each fetch took and what came of it; last, the longest that another greenlet had to wait.

    No socket may be left open, even before garbage is collected.
    """
    finished = subprocess.run(
        [sys.executable, "-c", WORKER, url, function], cwd=ROOT, capture_output=True, text=True, timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert (finished.returncode, finished.stderr) == (0, "")
    lines = (line.split(" ", 1) for line in finished.stdout.splitlines())
    return [(float(took), text) for took, text in lines]


LATE = "invalid_request: image_url: not fetched within 1 s"


@pytest.mark.parametrize(
    "page",
    [
        hangs,
        repeats(b"", b"H", 0.02),
        repeats(answer(PNG, Content_Length=""), b"x", 0.02),
        repeats(b"HTTP/1.1 200 OK\r\nX: ", b"y", 0.0002),
    ],
    ids=["silence", "head", "body", "fast head"],
)
def test_the_time_holds_in_a_worker(site, page):
    site.pages["/slow"] = page
    [(took, text), (blocked, _)] = in_a_worker(f"{site.url}/slow")
    assert text == LATE
    assert 0.9 < took < 2
    assert blocked < 0.3


def test_a_handshake_that_trickles_in_is_ended_in_a_worker(opened):
    class Trickling(Listener):
        def serve(self, sock):
            sock.recv(65536)
            repeats(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03", b"x", 0.02)(sock)

    url = f"https://127.0.0.1:{opened(Trickling()).port}/a.png"
    [(took, text), _] = in_a_worker(url)
    assert text == LATE
    assert 0.9 < took < 2
    [(took, text), _] = in_a_worker(url, "leave")
    assert text == "gone"
    assert took < 0.6


def test_a_flood_leaves_the_worker_to_the_others(site):
    site.pages["/flood"] = repeats(
        answer(b"", Content_Length="", Transfer_Encoding="chunked"), b"1\r\n\xff\r\n" * 10000
    )
    site.pages["/image"] = repeats(
        answer(b"", Content_Length="", Transfer_Encoding="chunked") + b"3\r\n\xff\xd8\xff\r\n", b"1\r\nx\r\n" * 10000
    )
    for page in ("/flood", "/image"):
        [(took, _), (blocked, _)] = in_a_worker(site.url + page)
        assert took < 2
        assert blocked < 0.3


def test_a_client_that_leaves_ends_the_fetch_at_once(site):
    for page in (hangs, repeats(answer(PNG, Content_Length=""), b"x", 0.02)):
        site.left.clear()
        site.pages["/slow"] = page
        [(took, text), _] = in_a_worker(f"{site.url}/slow", "leave")
        assert text == "gone"
        assert took < 0.6
        assert site.left.wait(5)


def test_the_number_of_fetches_at_once_is_limited_and_waiting_counts(site):
    now, maximum, lock = 0, 0, threading.Lock()

    def page(sock):
        nonlocal now, maximum
        with lock:
            now += 1
            maximum = max(maximum, now)
        time.sleep(0.4)
        with lock:
            now -= 1
        sock.sendall(answer())

    site.pages["/busy"] = page
    *fetches, _ = in_a_worker(f"{site.url}/busy", "crowd")
    assert maximum == MAX_FETCHES
    assert [text for _, text in fetches].count("image/png") in range(MAX_FETCHES, 2 * MAX_FETCHES + 1)
    assert {text for _, text in fetches} - {"image/png"} == {LATE}
    assert max(took for took, _ in fetches) < 2
