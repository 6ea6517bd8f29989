"""API keys: digests, fingerprints, and the caller that a key authenticates."""

import hashlib

import pytest

from gproxy.admission.keys import REFUSAL, admit, digest, fingerprint
from gproxy.errors import Unauthorized
from gproxy.snapshot import Caller, Snapshot

KEYS = {"sk-forever": None, "sk-until-1000": 1000.0, "sk-ünïcödé": None}
CALLERS = {key: Caller(at, f"user-{at}", at, False, until, ()) for at, (key, until) in enumerate(KEYS.items())}
SNAPSHOT = Snapshot({}, callers={digest(key): caller for key, caller in CALLERS.items()})


def test_a_digest_is_the_sha256_of_the_prefixed_key():
    assert digest("sk-1") == hashlib.sha256(b"gproxy-api-key-v1:sk-1").hexdigest()
    assert fingerprint(digest("sk-1")) == f"sha256:{digest('sk-1')[:12]}"
    assert "sk-1" not in fingerprint(digest("sk-1"))


@pytest.mark.parametrize(
    ("key", "now"),
    [("sk-forever", 0.0), ("sk-forever", 1e12), ("sk-until-1000", 0.0), ("sk-until-1000", 999.999), ("sk-ünïcödé", 0)],
)
def test_a_valid_key_authenticates_its_user(key, now):
    assert admit(SNAPSHOT, key, now) is CALLERS[key]


@pytest.mark.parametrize(
    ("key", "now"),
    [
        (None, 0),
        ("", 0),
        ("sk-unknown", 0),
        ("SK-FOREVER", 0),
        ("sk-forever ", 0),
        ("sk-foreve", 0),
        (digest("sk-forever"), 0),
        ("sk-until-1000", 1000.0),
        ("sk-until-1000", 1e12),
        ("\udcff\udc80", 0),
        ("x" * 1_000_000, 0),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_every_other_key_is_refused_with_the_same_text(key, now):
    with pytest.raises(Unauthorized) as caught:
        admit(SNAPSHOT, key, now)
    assert caught.value.message == f"unauthorized: {REFUSAL}"
    assert caught.value.status == 401
