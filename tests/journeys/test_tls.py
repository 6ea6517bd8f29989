"""Upstreams over TLS: verified by one shared context, and otherwise no different."""

import datetime
import ipaddress
import ssl
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.gateway import ADMIN, seed
from tests.raw import check_events_leave_at_once, open_stream
from tests.vendor import STREAM_HEAD, Vendor, chunk, events, sends, streams


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that is its own authority, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vendor")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "vendor.pem"
    plain = serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(scope="module")
def secure_vendor(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    found = Vendor(context)
    yield found
    found.close()


def test_calls_pass_and_connections_are_used_again(own_gateway, secure_vendor, certificate):
    gateway = own_gateway(seed(secure_vendor.url), workers=1, SSL_CERT_FILE=str(certificate))
    before = secure_vendor.connections
    for n in range(12):
        assert gateway.chat("openai-main/gpt-tls", stream=n % 2 == 1).status == 200
    assert secure_vendor.connections - before == 1
    secure_vendor.scripts["gpt-tls-paced"] = streams(None, "clean", pause_s=0.15)
    check_events_leave_at_once(gateway.port, "openai-main/gpt-tls-paced", 5, 0.08)
    assert {row["outcome"] for row in gateway.wait_rows(13)} == {"complete"}


def test_a_client_that_leaves_closes_the_upstream_at_once(own_gateway, secure_vendor, certificate):
    gateway = own_gateway(seed(secure_vendor.url), workers=1, SSL_CERT_FILE=str(certificate))
    head = [chunk(one) for one in events("openai_chat", "m")[:3]]
    secure_vendor.scripts["gpt-tls-left"] = sends(STREAM_HEAD, *head, "hang")
    sock = open_stream(gateway.port, "openai-main/gpt-tls-left")
    got = b""
    while b" there" not in got:
        got += sock.recv(65536)
    left = time.monotonic()
    sock.close()
    while not secure_vendor.asked("gpt-tls-left")[0].closed_at:
        assert time.monotonic() - left < 3
        time.sleep(0.005)
    assert secure_vendor.asked("gpt-tls-left")[0].closed_at - left < 0.1
    assert gateway.wait_rows(1)[0]["outcome"] == "partial"


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
def test_timeouts_hold(own_gateway, secure_vendor, certificate, close):
    text = seed(secure_vendor.url, ", idle_timeout_s = 1, first_byte_timeout_s = 5")
    gateway = own_gateway(text, workers=1, SSL_CERT_FILE=str(certificate))
    secure_vendor.scripts["gpt-tls-idle"] = sends(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n" + close + b"\r\n{", "hang"
    )
    started = time.monotonic()
    assert gateway.chat("openai-main/gpt-tls-idle").status == 504
    assert 0.8 < time.monotonic() - started < 3


def test_a_certificate_that_nobody_signed_is_refused(own_gateway, secure_vendor):
    gateway = own_gateway(seed(secure_vendor.url), workers=1)
    reply = gateway.chat("openai-main/gpt-untrusted")
    assert (reply.status, reply.json["error"]["code"]) == (502, "upstream_error")
    assert "TLS" in reply.json["error"]["message"]
    assert not secure_vendor.asked("gpt-untrusted")
    assert gateway.get("/v1/models", ADMIN).status == 200
