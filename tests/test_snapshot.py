"""The types of the snapshot: whether a call's credential still has the same key."""

from dataclasses import replace

from gproxy.snapshot import Credential, Provider, ProviderSettings, ServiceAccount, Snapshot

KEY = Credential(1, 7, "sk-1")
ACCOUNT = Credential(2, 7, "PEM", account=ServiceAccount("acme-1", "a@acme.test", "https://tokens.test/t", "k1"))


def snapshot(*credentials: Credential) -> Snapshot:
    return Snapshot({}, provider_by_id={7: Provider(7, "p", "vertex", ProviderSettings(), credentials)})


def test_a_credential_is_current_while_its_key_and_account_are_the_same():
    found = snapshot(KEY, replace(ACCOUNT, weight=3, rpm=5))
    assert found.is_current(KEY) and found.is_current(ACCOUNT)
    assert not found.is_current(replace(KEY, secret="sk-2"))
    for name in ("project_id", "client_email", "token_uri", "private_key_id"):
        changed = replace(ACCOUNT, account=replace(ACCOUNT.account, **{name: "other"}))
        assert not found.is_current(changed)
        assert changed.fingerprint != ACCOUNT.fingerprint


def test_a_deleted_credential_and_one_of_a_disabled_provider_are_not_current():
    assert not snapshot(KEY).is_current(ACCOUNT)
    assert not Snapshot({}).is_current(KEY)
