"""The upstream client: connection slots of an upstream, and TLS files that are renewed while it runs."""

import datetime
import ipaddress
import logging
import os
import ssl
from contextlib import nullcontext
from pathlib import Path

import certifi
import gevent
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gproxy.errors import Overloaded, UpstreamError
from gproxy.upstream import client as module
from gproxy.upstream.client import MAX_POOLS, Client
from gproxy.upstream.endpoint import Endpoint, Limits, Transport
from tests.vendor import Vendor, body, sends

NO_WATCH = nullcontext()
URL = "http://upstream.test/v1"


@pytest.fixture
def client() -> Client:
    return Client(None, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certifi.where(), 10)


# -- connection slots ----------------------------------------------------------------------------------------------


def limits(connections: int, provider: int = 1, wait_s: float = 0) -> Limits:
    return Limits(connections=connections, wait_s=wait_s, provider=provider)


def acquire(client: Client, *arguments, url: str = URL, watch=NO_WATCH):
    """Returns the function that frees the slot, or None if no slot is free."""
    try:
        return client._acquire_slot(url, limits(*arguments), watch)
    except Overloaded:
        return None


def test_providers_with_one_base_url_have_their_own_slots(client):
    granted = [acquire(client, provider, provider) for _ in range(25) for provider in (1, 2)]
    assert len([one for one in granted if one]) == 3
    granted[0]()
    assert acquire(client, 2, 2) is None
    assert acquire(client, 1, 1)


def test_a_changed_maximum_counts_the_calls_that_run(client):
    running = [acquire(client, 2), acquire(client, 2)]
    assert acquire(client, 1) is None
    running[0]()
    assert acquire(client, 1) is None
    running[1]()
    assert acquire(client, 1)
    assert [bool(acquire(client, 3)) for _ in range(3)] == [True, True, False]


def test_alternating_maxima_never_grant_more_than_the_larger_one(client):
    granted = [acquire(client, n % 2 + 1) for n in range(50)]
    assert len([one for one in granted if one]) == 2


def test_a_waiting_call_gets_the_slot_that_is_freed_and_a_new_call_does_not(client):
    release = acquire(client, 1)
    order = []

    def wait(name: str) -> None:
        freed = acquire(client, 1, 1, 5)
        order.append(name)
        gevent.sleep(0.02)
        freed()

    waiting = [gevent.spawn(wait, name) for name in "ab"]
    gevent.sleep(0)
    release()
    assert acquire(client, 1) is None
    gevent.joinall(waiting, timeout=2)
    assert order == ["a", "b"]
    assert acquire(client, 1)


def test_a_larger_maximum_lets_waiting_calls_go_on(client):
    acquire(client, 1)
    waiting = gevent.spawn(acquire, client, 1, 1, 5)
    gevent.sleep(0)
    assert acquire(client, 3)
    assert waiting.get(timeout=1)
    assert acquire(client, 3) is None


@pytest.mark.parametrize("is_granted", [False, True])
def test_a_waiting_call_that_is_interrupted_keeps_no_slot(client, is_granted):
    release = acquire(client, 1)
    waiting = gevent.spawn(acquire, client, 1, 1, 5)
    gevent.sleep(0)
    waiting.kill(block=False)
    if is_granted:  # before the interruption arrives
        release()
    waiting.join(timeout=1)
    if not is_granted:
        assert acquire(client, 1) is None
        release()
    assert isinstance(waiting.value, gevent.GreenletExit)
    assert acquire(client, 1)


def test_a_call_that_waited_in_vain_leaves_no_trace(client):
    release = acquire(client, 1)
    assert acquire(client, 1, 1, 0.01) is None
    release()
    assert acquire(client, 1)
    assert acquire(client, 1) is None


def test_the_number_of_upstreams_is_bounded_and_no_busy_one_is_forgotten(client):
    busy = acquire(client, 1, url="http://busy.test")
    for n in range(3 * MAX_POOLS):
        acquire(client, 1, url=f"http://{n}.test")()
    assert len(client._slots) <= MAX_POOLS
    assert acquire(client, 1, url="http://busy.test") is None
    busy()
    assert acquire(client, 1, url="http://busy.test")


# -- TLS files ------------------------------------------------------------------------------------------------------


def write_certificate(path: Path, name: str) -> None:
    """Replaces the file by a certificate for 127.0.0.1 that is its own authority, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    new = path.with_suffix(".new")
    new.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + built.public_bytes(serialization.Encoding.PEM)
    )
    new.replace(path)


@pytest.fixture
def pem(tmp_path) -> Path:
    path = tmp_path / "upstream.pem"
    write_certificate(path, "first")
    return path


@pytest.fixture(autouse=True)
def always_check(monkeypatch):
    monkeypatch.setattr(module, "FILE_CHECK_S", 0)


def call(client: Client, vendor: Vendor, transport: Transport):
    vendor.scripts["m"] = sends(body(200, b"ok"))
    headers = {"Content-Type": "application/json"}
    endpoint = Endpoint(vendor.url, "/v1/chat/completions", headers, transport=transport)
    return client.send(endpoint.request("", b'{"model": "m"}'), NO_WATCH)


def authorities(client: Client, transport: Transport) -> list[str]:
    adapter = client._adapter("https://127.0.0.1:9", transport)
    return [dict(one[0] for one in found["subject"])["commonName"] for found in adapter.tls.get_ca_certs()]


def test_a_renewed_file_is_used_for_new_connections(client, pem):
    transport = Transport(ca_file=str(pem))
    before = client._adapter("https://127.0.0.1:9", transport)
    assert authorities(client, transport) == ["first"]
    assert client._adapter("https://127.0.0.1:9", transport) is before
    write_certificate(pem, "second")
    assert authorities(client, transport) == ["second"]
    assert client._adapter("https://127.0.0.1:9", transport) is not before


def test_upstreams_with_the_same_files_share_a_context_also_after_a_renewal(client, pem):
    transport = Transport(ca_file=str(pem))
    for name in ("first", "second"):
        write_certificate(pem, name)
        contexts = {client._adapter(f"https://127.0.0.1:{port}", transport).tls for port in (8, 9)}
        assert len(contexts) == 1


@pytest.mark.parametrize("harm", ["broken", "missing", "mismatch"])
def test_a_broken_new_file_leaves_the_old_context_and_is_logged_once(client, pem, caplog, harm, tmp_path):
    other = tmp_path / "other.pem"
    write_certificate(other, "other")
    transport = Transport(ca_file=str(pem), cert_file=str(pem), key_file=str(pem))
    before = client._adapter("https://127.0.0.1:9", transport)
    content = pem.read_bytes()
    if harm == "broken":
        pem.write_bytes(b"-----BEGIN")
    elif harm == "missing":
        pem.unlink()
    else:  # the certificate was replaced, and its key not yet
        pem.write_bytes(
            content.partition(b"-----BEGIN CERT")[0]
            + b"-----BEGIN CERT"
            + other.read_bytes().partition(b"-----BEGIN CERT")[2]
        )
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert client._adapter("https://127.0.0.1:9", transport) is before
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    write_certificate(pem, "third")
    assert authorities(client, transport) == ["third"]


def test_a_broken_file_without_an_earlier_context_is_an_error_until_it_is_repaired(client, tmp_path):
    transport = Transport(ca_file=str(tmp_path / "late.pem"))
    for _ in range(2):
        with pytest.raises(UpstreamError, match="ca_file") as caught:
            client._adapter("https://127.0.0.1:9", transport)
        assert not caught.value.was_sent
    write_certificate(tmp_path / "late.pem", "late")
    assert authorities(client, transport) == ["late"]


def test_a_file_whose_permissions_were_repaired_is_read_again(client, pem, monkeypatch):
    transport = Transport(ca_file=str(pem))
    before = client._adapter("https://127.0.0.1:9", transport).tls
    create, faults = ssl.create_default_context, [PermissionError("denied")]

    def create_or_fail(**options):
        if faults:
            raise faults.pop()
        return create(**options)

    write_certificate(pem, "second")
    monkeypatch.setattr(ssl, "create_default_context", create_or_fail)
    assert client._adapter("https://127.0.0.1:9", transport).tls is before
    assert client._adapter("https://127.0.0.1:9", transport).tls is before
    os.chmod(pem, 0o600)
    assert authorities(client, transport) == ["second"]


def test_files_are_checked_at_most_once_in_an_interval(client, pem, monkeypatch):
    monkeypatch.setattr(module, "FILE_CHECK_S", 3600)
    transport, looked = Transport(ca_file=str(pem)), []
    client._adapter("https://127.0.0.1:9", transport)
    monkeypatch.setattr(module, "_version", looked.append)
    for _ in range(100):
        client._adapter("https://127.0.0.1:9", transport)
    client._adapter("https://127.0.0.1:9", Transport())
    assert looked == []


def test_the_number_of_contexts_is_bounded(client, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_POOLS", 4)
    for n in range(9):
        write_certificate(tmp_path / f"{n}.pem", str(n))
        client._adapter("https://127.0.0.1:9", Transport(ca_file=str(tmp_path / f"{n}.pem")))
    assert (len(client._contexts), len(client._adapters)) == (4, 4)


def test_a_renewed_client_certificate_is_shown_to_the_upstream(pem, tmp_path):
    renewed, client_pem = tmp_path / "renewed.pem", tmp_path / "client.pem"
    write_certificate(renewed, "renewed")
    write_certificate(client_pem, "expired")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=renewed)
    server.load_cert_chain(pem)
    server.verify_mode = ssl.CERT_REQUIRED
    server.maximum_version = ssl.TLSVersion.TLSv1_2  # a later version reports the refusal after the handshake
    vendor = Vendor(server)
    client = Client(None, ssl.create_default_context(), certifi.where(), 10)
    transport = Transport(ca_file=str(pem), cert_file=str(client_pem))
    try:
        with pytest.raises(UpstreamError, match="TLS"):
            call(client, vendor, transport)
        renewed.replace(client_pem)
        assert call(client, vendor, transport).read(NO_WATCH) == b"ok"
    finally:
        client.close()
        vendor.close()


def test_a_running_response_survives_a_renewal_and_the_next_call_uses_the_new_file(pem):
    """The server's certificate is renewed too, so only a connection that was opened before still accepts it."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pem)
    vendor = Vendor(server)
    client = Client(None, ssl.create_default_context(), certifi.where(), 10)
    transport = Transport(ca_file=str(pem))
    try:
        running = call(client, vendor, transport)
        write_certificate(pem, "second")
        server.load_cert_chain(pem)
        assert call(client, vendor, transport).read(NO_WATCH) == b"ok"
        assert running.read(NO_WATCH) == b"ok"
        assert vendor.connections == 2
    finally:
        client.close()
        vendor.close()
