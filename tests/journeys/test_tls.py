"""Upstreams over TLS, verified by one shared context."""

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
from tests.raw_http import check_events_leave_at_once, open_stream
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
    while not secure_vendor.received("gpt-tls-left")[0].closed_at:
        assert time.monotonic() - left < 3
        time.sleep(0.005)
    assert secure_vendor.received("gpt-tls-left")[0].closed_at - left < 0.1
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
    assert not secure_vendor.received("gpt-untrusted")
    assert gateway.get("/v1/models", ADMIN).status == 200


def own(url: str, settings: str) -> str:
    return f"""
[[providers]]
name = "there"
channel = "custom"
settings = {{ base_url = "{url}", protocol = "openai_chat"{settings} }}
credentials = [{{ api_key = "sk-there-0001" }}]
[[users]]
name = "admin"
is_admin = true
keys = [{{ api_key = "{ADMIN}" }}]
[[permissions]]
user_name = "admin"
model_pattern = "*"
"""


def test_a_provider_may_have_an_authority_of_its_own(own_gateway, secure_vendor, certificate):
    assert own_gateway(own(secure_vendor.url, "")).chat("there/gpt-tls").status == 502
    gateway = own_gateway(own(secure_vendor.url, f', ca_file = "{certificate}"'))
    assert gateway.chat("there/gpt-tls").status == 200
    gateway = own_gateway(own(secure_vendor.url, ', ca_file = "/nowhere/ca.pem"'))
    reply = gateway.chat("there/gpt-tls")
    assert (reply.status, "ca_file" in reply.json["error"]["message"]) == (502, True)
    assert "/nowhere" not in reply.body.decode()


def test_a_provider_may_want_a_client_certificate(own_gateway, certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate)
    context.load_cert_chain(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # a later version reports the refusal after the handshake
    strict = Vendor(context)
    trusts = f', ca_file = "{certificate}"'
    try:
        assert own_gateway(own(strict.url, trusts)).chat("there/gpt-mtls").status == 502
        shown = own_gateway(own(strict.url, f'{trusts}, client_cert_file = "{certificate}"'))
        assert shown.chat("there/gpt-mtls").status == 200
    finally:
        strict.close()


def test_a_provider_may_have_a_proxy_of_its_own_or_none(own_gateway, vendor):
    through = own("http://upstream.invalid/v1", f', proxy = "{vendor.url}"')
    assert own_gateway(through).chat("there/gpt-own-proxy").status == 200
    assert vendor.received("gpt-own-proxy")[0].path == "http://upstream.invalid/v1/chat/completions"
    direct = own_gateway(own(f"{vendor.url}/v1", ', proxy = "direct"'), GPROXY_PROXY="http://127.0.0.1:9")
    assert direct.chat("there/gpt-direct").status == 200
