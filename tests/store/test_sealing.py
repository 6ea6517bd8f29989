"""Stored credentials: sealed with DATABASE_SECRET_KEY and readable with no other key."""

import json
from pathlib import Path

import pytest

from gproxy import runtime, settings
from gproxy.bootstrap import seeding
from gproxy.errors import StartupError
from gproxy.store import models as m
from gproxy.store import snapshot_loader
from gproxy.store.sealing import PREFIX, Seal, known_seal, new_seal
from gproxy.store.seeding import NewCredential, secret_json
from tests.sample_db import SECRET, content, provider

PROVIDERS = (
    provider(
        "one", NewCredential(secret_json(api_key=SECRET)), NewCredential(secret_json(api_key="${UP}"), enabled=True)
    ),
    provider("two", *(NewCredential(secret_json(api_key=f"{SECRET}-{i}")) for i in range(50))),
)


def start(folder: Path, **environ: str) -> runtime.Prepared:
    """Prepares the database of this data directory, as a start of gproxy does."""
    found = settings.load({"GPROXY_DATA_DIR": str(folder), "UP": "sk-up", **environ}, folder)
    return runtime.prepare(found, lambda database: seeding.fill(database, content(providers=PROVIDERS)))


def secrets() -> set[str]:
    with m.proxy.obj.connection_context():
        return {row.secret_json for row in m.Credential.select()}


def loaded(prepared: runtime.Prepared) -> list[str]:
    with m.proxy.obj.connection_context():
        found = snapshot_loader.load(None, {"UP": "sk-up"}, prepared.seal)
    return [credential.secret for credential in found.providers["one"].credentials]


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_without_a_key_credentials_are_stored_in_clear(tmp_path: Path):
    prepared = start(tmp_path)
    assert prepared.seal is None and SECRET.encode() in on_disk(tmp_path)
    assert loaded(prepared) == [SECRET, "sk-up"]


def test_a_sealed_database_opens_with_its_key(tmp_path: Path):
    first = start(tmp_path, DATABASE_SECRET_KEY="right")
    assert loaded(first) == [SECRET, "sk-up"]
    before = secrets()
    assert all(text.startswith(PREFIX) for text in before)
    assert loaded(start(tmp_path, DATABASE_SECRET_KEY=" right\n")) == [SECRET, "sk-up"]
    assert secrets() == before


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("wrong", "not the key with which this database was sealed"),
        ("Right", "not the key with which this database was sealed"),
        ("", "the database is sealed; set the key with which it was sealed"),
    ],
)
def test_a_wrong_or_missing_key_stops_the_start(tmp_path: Path, key, message):
    start(tmp_path, DATABASE_SECRET_KEY="right")
    before = secrets()
    with pytest.raises(StartupError) as caught:
        start(tmp_path, DATABASE_SECRET_KEY=key)
    assert caught.value.problems == [f"DATABASE_SECRET_KEY: {message}"]
    assert secrets() == before


@pytest.mark.parametrize("is_open_first", [False, True])
def test_no_secret_is_on_the_disk_of_a_sealed_database(tmp_path: Path, is_open_first):
    if is_open_first:
        start(tmp_path)
        assert SECRET.encode() in on_disk(tmp_path)
    prepared = start(tmp_path, DATABASE_SECRET_KEY="right")
    assert loaded(prepared) == [SECRET, "sk-up"]
    for hidden in (SECRET, SECRET[:12], "${UP}", "right"):
        assert hidden.encode() not in on_disk(tmp_path)


def test_a_credential_that_was_added_in_clear_is_sealed_at_the_next_start(tmp_path: Path):
    start(tmp_path, DATABASE_SECRET_KEY="right")
    with m.proxy.obj.connection_context():
        added = json.dumps({"api_key": "sk-added"})
        m.Credential.create(provider=1, kind="openai", secret_json=added, created_at=0, updated_at=0)
    prepared = start(tmp_path, DATABASE_SECRET_KEY="right")
    assert loaded(prepared) == [SECRET, "sk-up", "sk-added"]
    assert b"sk-added" not in on_disk(tmp_path)


@pytest.mark.parametrize("text", ["", "x", "ü" * 1000, '{"api_key": "k"}', PREFIX])
def test_a_sealed_text_can_be_opened(text):
    seal, document = new_seal("key")
    assert known_seal("key", document).open(seal.close(text)) == text


def test_the_same_text_is_sealed_differently_each_time():
    seal, _ = new_seal("key")
    assert len({seal.close("x") for _ in range(20)}) == 20


def test_two_databases_with_one_key_are_sealed_differently():
    (first, _), (second, _) = new_seal("key"), new_seal("key")
    with pytest.raises(ValueError, match="another key"):
        second.open(first.close("x"))


def test_an_unsealed_text_is_returned_unchanged():
    assert new_seal("key")[0].open('{"api_key": "k"}') == '{"api_key": "k"}'


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-4] + "AAAA", lambda t: t[:-8], lambda t: PREFIX, lambda t: PREFIX + "????"]
)
def test_a_damaged_text_is_not_opened(damage):
    seal, _ = new_seal("key")
    with pytest.raises(ValueError):
        seal.open(damage(seal.close("a text of some length")))


def test_the_repr_of_a_seal_does_not_contain_the_key():
    assert "hidden" not in repr(Seal("hidden", b"salt")) + str(vars(Seal("hidden", b"salt")))
